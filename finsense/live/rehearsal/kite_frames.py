"""Writes the binary frames of Kite's tick stream: the counterpart of our decoder, and of the vendor's."""

import struct
from collections.abc import Iterable

from finsense.live.rehearsal.street import Level, Street
from finsense.market.order_book import DEPTH_LEVELS

HEARTBEAT = b"\x00"
# A length that no mode has; clients must step over it.
ODD_PACKET = bytes(52)
_SECOND_NS = 1_000_000_000
_HEAD, _LEVEL = struct.Struct(">16I"), struct.Struct(">IIHxx")


def full_packet(street: Street, now_ns: int, skew_ns: int) -> bytes:
    """All that the stream tells of a share in full mode, 184 bytes.

    Args:
        street: of the share.
        now_ns: of the exchange; it stamps what is told before the day's first trade.
        skew_ns: how far the clock is off that stamps.
    """
    listing = street.listing
    traded = (street.traded_ns + skew_ns) // _SECOND_NS if street.traded_ns else 0
    stamp = traded or (now_ns + skew_ns) // _SECOND_NS
    head = _HEAD.pack(
        listing.token,
        street.known_paise,
        street.last_shares,
        street.value_paise // street.volume if street.volume else 0,
        street.volume,
        sum(level.shares for level in street.bids),
        sum(level.shares for level in street.asks),
        street.open_paise,
        street.high_paise,
        street.low_paise,
        listing.previous_close_paise,
        traded,
        0,
        0,
        0,
        stamp,
    )
    return head + _levels(street.bids) + _levels(street.asks)


# How much of it the other modes tell; quote mode has no stamp and no order book.
MODES = {"ltp": 8, "quote": 44, "full": 184}


def frame(packets: Iterable[bytes]) -> bytes:
    """Packets as one message."""
    parts = list(packets)
    return struct.pack(">H", len(parts)) + b"".join(struct.pack(">H", len(part)) + part for part in parts)


def _levels(levels: list[Level]) -> bytes:
    shown = [(one.shares, one.price_paise, 1) for one in levels[:DEPTH_LEVELS]]
    return b"".join(_LEVEL.pack(*level) for level in shown + [(0, 0, 0)] * (DEPTH_LEVELS - len(shown)))
