"""Tells which part of NSE's day an instant lies in, and what orders may do in it."""

from enum import StrEnum
from typing import NamedTuple

from finsense.market.calendar import MINUTE_NS, TradingSession

# The closing auction after continuous trading (NSE/CMTR/73362 of 18 Mar 2026), minutes after its end: no entry until 5;
# then limit and market orders until 10; then limit orders alone until 15, when all match at one price.
_ENTRY_FROM, _MARKET_UNTIL, _MATCH_AT = 5 * MINUTE_NS, 10 * MINUTE_NS, 15 * MINUTE_NS
# Zerodha closes MIS positions from 15:20 on, ten minutes before continuous trading ended. The hour since the closing
# auction came is not published; ten minutes before the end of continuous trading is ours.
SQUARE_OFF_BEFORE_NS = 10 * MINUTE_NS

Span = tuple[int, int]


class Phase(StrEnum):
    """A part of the day.

    CLOSED: before the opening, in a pause, after the end. CONTINUOUS: orders match as they come. HALTED: the whole
    market stands still, at an instant that no calendar knows. OUTAGE: the exchange cannot be reached. AUCTION_WAIT: no
    order is taken. AUCTION: orders gather. AUCTION_LIMIT: limit orders alone gather.
    """

    CLOSED = "closed"
    CONTINUOUS = "continuous"
    HALTED = "halted"
    OUTAGE = "outage"
    AUCTION_WAIT = "auction wait"
    AUCTION = "auction"
    AUCTION_LIMIT = "auction, limit orders alone"

    @property
    def takes_orders(self) -> bool:
        """Whether an order may be entered, changed or cancelled."""
        return self in (Phase.CONTINUOUS, Phase.AUCTION, Phase.AUCTION_LIMIT)


class Troubles(NamedTuple):
    """What no calendar knows of a day; half-open spans, ns UTC.

    Attributes:
        halts: the whole market stands still.
        outages: the exchange cannot be reached: no ticks, and requests about orders fail.
    """

    halts: tuple[Span, ...] = ()
    outages: tuple[Span, ...] = ()


_NO_TROUBLES = Troubles()


def phase_at(session: TradingSession | None, time_ns: int, troubles: Troubles = _NO_TROUBLES) -> Phase:
    """The phase of an instant (ns UTC)."""
    if session is None:
        return Phase.CLOSED
    if any(begin <= time_ns < end for begin, end in troubles.outages):
        return Phase.OUTAGE
    if any(begin <= time_ns < end for begin, end in troubles.halts):
        return Phase.HALTED
    if any(begin <= time_ns < end for begin, end in session.windows):
        return Phase.CONTINUOUS
    since_ns = time_ns - session.close_ns
    if not session.closing_auction or not 0 <= since_ns < _MATCH_AT:
        return Phase.CLOSED
    if since_ns < _ENTRY_FROM:
        return Phase.AUCTION_WAIT
    return Phase.AUCTION if since_ns < _MARKET_UNTIL else Phase.AUCTION_LIMIT


def auction_match_ns(session: TradingSession) -> int | None:
    """When the closing auction matches, ns UTC; None where the session has none."""
    return session.close_ns + _MATCH_AT if session.closing_auction else None


def end_ns(session: TradingSession) -> int:
    """When the day of a share is over and its orders expire, ns UTC."""
    return auction_match_ns(session) or session.close_ns
