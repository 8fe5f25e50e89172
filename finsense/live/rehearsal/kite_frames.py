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


def full_packet(street: Street) -> bytes:
    """All that the stream tells of a share in full mode, 184 bytes."""
    listing = street.listing
    second = street.traded_ns // _SECOND_NS
    head = _HEAD.pack(
        listing.token,
        street.last_paise,
        street.last_shares,
        street.value_paise // street.volume if street.volume else 0,
        street.volume,
        sum(level.shares for level in street.bids),
        sum(level.shares for level in street.asks),
        street.open_paise,
        street.high_paise,
        street.low_paise,
        listing.previous_close_paise,
        second,
        0,
        0,
        0,
        second,
    )
    return head + _levels(street.bids) + _levels(street.asks)


def quote_packet(street: Street) -> bytes:
    """What it tells in quote mode, 44 bytes."""
    return full_packet(street)[:44]


def ltp_packet(street: Street) -> bytes:
    """What it tells in ltp mode, 8 bytes."""
    return full_packet(street)[:8]


PACKETS = {"ltp": ltp_packet, "quote": quote_packet, "full": full_packet}


def frame(packets: Iterable[bytes]) -> bytes:
    """Packets as one message."""
    parts = list(packets)
    return struct.pack(">H", len(parts)) + b"".join(struct.pack(">H", len(part)) + part for part in parts)


def _levels(levels: list[Level]) -> bytes:
    shown = [(one.shares, one.price_paise, 1) for one in levels[:DEPTH_LEVELS]]
    return b"".join(_LEVEL.pack(*level) for level in shown + [(0, 0, 0)] * (DEPTH_LEVELS - len(shown)))
