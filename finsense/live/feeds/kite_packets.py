"""Decodes the binary frames of Zerodha Kite's tick stream, and turns their packets into ticks.

A frame is a big-endian count and that many packets, each with its length before it; the length tells the mode. The
layout is that of the vendor's documentation of the stream ("Message structure") and of `KiteTicker` 5.2.2, which the
tests hold it against.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.market.order_book import DEPTH_LEVELS, Depth, Level
from finsense.market.ticks import Tick

# How much a packet tells: the last price alone; the day's figures too; the order book and the stamp too. An index has
# neither volume nor book.
LTP, QUOTE, FULL, INDEX_QUOTE, INDEX_FULL = 0, 1, 2, 3, 4

# The longest frame: a stream has 3,000 instruments at most.
MAX_PACKETS = 3000

_SECOND_NS = 1_000_000_000
_SIDE = (DEPTH_LEVELS,)
# Prices are integers in units of 1 / divisor rupee, as they came: paise for all that NSE's cash market trades.
PACKET = np.dtype(
    [
        ("token", np.int64),
        ("mode", np.int64),
        ("divisor", np.int64),
        ("last_price", np.int64),
        ("last_quantity", np.int64),
        ("average_price", np.int64),
        ("volume", np.int64),
        ("buy_quantity", np.int64),
        ("sell_quantity", np.int64),
        ("open", np.int64),
        ("high", np.int64),
        ("low", np.int64),
        ("close", np.int64),
        ("last_trade_s", np.int64),
        ("open_interest", np.int64),
        ("open_interest_high", np.int64),
        ("open_interest_low", np.int64),
        ("exchange_s", np.int64),
        ("bid_quantity", np.int64, _SIDE),
        ("bid_price", np.int64, _SIDE),
        ("bid_orders", np.int64, _SIDE),
        ("ask_quantity", np.int64, _SIDE),
        ("ask_price", np.int64, _SIDE),
        ("ask_orders", np.int64, _SIDE),
    ]
)
_CURRENCY, _BSE_CURRENCY, _COMMODITY = 3, 6, 12


class PacketError(ValueError):
    """A frame that is cut, or that has bytes no packet accounts for."""


class FrameDecoder:
    """Decodes frames into one buffer of its own, so that nothing is allocated per frame.

    Attributes:
        unknown: packets so far whose length belongs to no mode; they were left out.
    """

    def __init__(self) -> None:
        self._packets = np.zeros(MAX_PACKETS, PACKET)
        self.unknown = 0

    def decode(self, frame: bytes) -> NDArray[Any]:
        """The packets of a frame, (n,) of dtype PACKET; valid until the next call. A heartbeat (one byte) has none.

        Fields that a mode does not tell are 0.

        Raises:
            PacketError: the frame does not hold the packets that it says, or more bytes than they take.
        """
        if len(frame) < 2:
            return self._packets[:0]
        count, unknown = _decode(np.frombuffer(frame, np.uint8), self._packets)
        if count < 0:
            said = int.from_bytes(frame[:2], "big")
            raise PacketError(
                f"expected {said} packets (at most {MAX_PACKETS}) that fill the frame, found {len(frame)} bytes that "
                "end elsewhere; the connection is to be dropped and opened anew"
            )
        self.unknown += unknown
        return self._packets[:count]


def ticks_of(packets: NDArray[Any]) -> list[tuple[int, Tick]]:
    """The instrument token of each packet, and what it tells the aggregator.

    Only full packets are stamped; the others have the stamp 0 and would be counted as unstamped.

    Args:
        packets: (n,) of dtype PACKET.
    """
    columns = [packets[name].tolist() for name in ("token", "mode", "divisor", "exchange_s", "last_price", "volume")]
    book = [packets[name].tolist() for name in ("bid_price", "bid_quantity", "ask_price", "ask_quantity")]
    ticks = []
    for values, sides in zip(zip(*columns, strict=True), zip(*book, strict=True), strict=True):
        token, mode, divisor, exchange_s, price, volume = values
        bid_price, bid_quantity, ask_price, ask_quantity = sides
        depth = None
        if mode == FULL:
            depth = Depth(_levels(bid_price, bid_quantity, divisor), _levels(ask_price, ask_quantity, divisor))
        shares = volume if mode in (QUOTE, FULL) else None
        ticks.append((token, Tick(exchange_s * _SECOND_NS, price / divisor, shares, depth)))
    return ticks


def _levels(prices: list[int], quantities: list[int], divisor: int) -> tuple[Level, ...]:
    return tuple([Level(price / divisor, quantity) for price, quantity in zip(prices, quantities, strict=True)])


@njit(cache=True)
def _word(frame: NDArray[np.uint8], place: int) -> Any:
    """The big-endian unsigned 32-bit number that begins at a place."""
    return (
        np.int64(frame[place]) << 24
        | np.int64(frame[place + 1]) << 16
        | np.int64(frame[place + 2]) << 8
        | np.int64(frame[place + 3])
    )


@njit(cache=True)
def _short(frame: NDArray[np.uint8], place: int) -> Any:
    return np.int64(frame[place]) << 8 | np.int64(frame[place + 1])


@njit(cache=True)
def _decode(frame: NDArray[np.uint8], packets: NDArray[Any]) -> tuple[int, int]:
    """Fill `packets`; how many there are (-1: the frame is broken), and how many were of no known length."""
    said = _short(frame, 0)
    if said > len(packets):
        return -1, 0
    place, count = 2, 0
    for _ in range(said):
        if place + 2 > len(frame):
            return -1, 0
        size = _short(frame, place)
        place += 2
        if place + size > len(frame):
            return -1, 0
        if size in (8, 28, 32, 44, 184):
            _read(frame, place, size, packets[count])
            count += 1
        place += size
    if place != len(frame):
        return -1, 0
    return count, said - count


@njit(cache=True)
def _read(frame: NDArray[np.uint8], at: int, size: int, packet: Any) -> None:
    _clear(packet)
    token = _word(frame, at)
    segment = token & 0xFF
    packet.token = token
    packet.divisor = 100
    if segment == _CURRENCY:
        packet.divisor = 10_000_000
    elif segment in (_BSE_CURRENCY, _COMMODITY):
        packet.divisor = 10_000
    packet.last_price = _word(frame, at + 4)
    if size == 8:
        packet.mode = LTP
    elif size in (28, 32):
        # An index has its day's prices in another order than a stock.
        packet.mode = INDEX_QUOTE if size == 28 else INDEX_FULL
        packet.high = _word(frame, at + 8)
        packet.low = _word(frame, at + 12)
        packet.open = _word(frame, at + 16)
        packet.close = _word(frame, at + 20)
        if size == 32:
            packet.exchange_s = _word(frame, at + 28)
    else:
        packet.mode = QUOTE if size == 44 else FULL
        _read_day(frame, at, packet)
        if size == 184:
            _read_book(frame, at, packet)


@njit(cache=True)
def _read_day(frame: NDArray[np.uint8], at: int, packet: Any) -> None:
    packet.last_quantity = _word(frame, at + 8)
    packet.average_price = _word(frame, at + 12)
    packet.volume = _word(frame, at + 16)
    packet.buy_quantity = _word(frame, at + 20)
    packet.sell_quantity = _word(frame, at + 24)
    packet.open = _word(frame, at + 28)
    packet.high = _word(frame, at + 32)
    packet.low = _word(frame, at + 36)
    packet.close = _word(frame, at + 40)


@njit(cache=True)
def _read_book(frame: NDArray[np.uint8], at: int, packet: Any) -> None:
    packet.last_trade_s = _word(frame, at + 44)
    packet.open_interest = _word(frame, at + 48)
    packet.open_interest_high = _word(frame, at + 52)
    packet.open_interest_low = _word(frame, at + 56)
    packet.exchange_s = _word(frame, at + 60)
    for level in range(DEPTH_LEVELS):
        bid = at + 64 + 12 * level
        ask = bid + 12 * DEPTH_LEVELS
        packet.bid_quantity[level] = _word(frame, bid)
        packet.bid_price[level] = _word(frame, bid + 4)
        packet.bid_orders[level] = _short(frame, bid + 8)
        packet.ask_quantity[level] = _word(frame, ask)
        packet.ask_price[level] = _word(frame, ask + 4)
        packet.ask_orders[level] = _short(frame, ask + 8)


@njit(cache=True)
def _clear(packet: Any) -> None:
    packet.last_quantity = packet.average_price = packet.volume = packet.buy_quantity = packet.sell_quantity = 0
    packet.open = packet.high = packet.low = packet.close = 0
    packet.last_trade_s = packet.open_interest = packet.open_interest_high = packet.open_interest_low = 0
    packet.exchange_s = 0
    for level in range(DEPTH_LEVELS):
        packet.bid_quantity[level] = packet.bid_price[level] = packet.bid_orders[level] = 0
        packet.ask_quantity[level] = packet.ask_price[level] = packet.ask_orders[level] = 0
