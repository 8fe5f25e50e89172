"""Sets up a rehearsal of one day from bars: listings, streets, what others trade, and candles of the past."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np

from finsense.live.rehearsal.faults import Faults
from finsense.live.rehearsal.server import Rehearsal, RehearsalClock, StreetTrade, trades_of_bar
from finsense.live.rehearsal.street import Listing, Street
from finsense.market.bars import INTERVAL_NS, Bars, ist_text, session_day
from finsense.market.calendar import CalendarError, TradingSession, nse_calendar
from finsense.market.instruments import instrument, tick_paise

# Tokens of NSE end with the segment's 1; the names before it are ours.
_FIRST_TOKEN, _SEGMENT = 1000, 1
# The clock begins so long before the opening, so that a client can connect first.
_EARLY_NS = 60_000_000_000
_IST_NS = 19_800_000_000_000
_CANDLES = {
    "minute": "1m",
    "3minute": "3m",
    "5minute": "5m",
    "10minute": "10m",
    "15minute": "15m",
    "30minute": "30m",
    "60minute": "60m",
    "day": "1d",
}


class StageError(ValueError):
    """Bars that no day can be rehearsed with."""


def stage(
    markets: Sequence[Bars],
    date: dt.date,
    *,
    speed: float,
    seed: int = 0,
    balance_paise: int,
    faults: Faults | None = None,
    port: int = 0,
) -> Rehearsal:
    """A rehearsal of a day, not started yet; the bars of that day make the street's trades, those before it candles.

    Args:
        markets: bars of one symbol each, all of one interval within the day.
        date: which day.
        speed: so many times faster than real time; 0: it is played by hand.
        seed: of the streets' books.
        balance_paise: cash of the account.
        faults: what goes wrong.
        port: of loopback; 0 takes a free one.

    Raises:
        StageError: a symbol has no bars on the day, or none before it, or its bars are daily.
        CalendarError: the date has no session, or lies outside the calendar.
    """
    streets: dict[str, Street] = {}
    sessions: dict[str, TradingSession] = {}
    trades: list[StreetTrade] = []
    for place, bars in enumerate(markets):
        today, listing = _listed(bars, date, place)
        stock = instrument(bars.symbol, derivatives=bars.derivatives)
        session = nse_calendar().session(date, derivatives=stock.derivatives)
        if session is None:
            raise CalendarError(f"{date} has no session ({nse_calendar().closed_reason(date)}); rehearse another day")
        streets[bars.symbol] = Street(listing, np.random.default_rng([seed, place]))
        sessions[bars.symbol] = session
        for bar in today:
            trades += trades_of_bar(bars.symbol, bar, INTERVAL_NS[bars.interval], listing.tick_paise)
    clock = RehearsalClock(min(one.open_ns for one in sessions.values()) - _EARLY_NS, speed)
    known = {street.listing.token: bars for street, bars in zip(streets.values(), markets, strict=True)}

    def candles(token: int, interval: str, first: str, last: str) -> list[list[Any]]:
        return _candles(known.get(token), interval, first, last, clock.now_ns())

    return Rehearsal(
        streets,
        sessions,
        sorted(trades),
        clock,
        balance_paise=balance_paise,
        faults=faults,
        candles=candles,
        port=port,
    )


def _listed(bars: Bars, date: dt.date, place: int) -> tuple[Bars, Listing]:
    """The bars of the day, and how the share is listed on it."""
    if bars.interval == "1d":
        raise StageError(f"{bars.symbol}: expected bars within the day, found daily ones")
    days = bars.session_days
    begin, end = np.searchsorted(days, [session_day(date), session_day(date) + 1]).tolist()
    if not 0 < begin < end:
        found = f"{ist_text(int(bars.time_ns[0]))} to {ist_text(int(bars.time_ns[-1]))}"
        raise StageError(
            f"{bars.symbol}: expected bars on {date} and before it, for the close of the day before; found {found}"
        )
    close_paise = round(float(bars.close[begin - 1]) * 100)
    tick = tick_paise(date, close_paise)
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    token = (_FIRST_TOKEN + place) << 8 | _SEGMENT
    listing = Listing(token, bars.symbol, bars.symbol, tick, close_paise, stock.price_band)
    return bars.take(begin, end), listing


def _candles(bars: Bars | None, interval: str, first: str, last: str, now_ns: int) -> list[list[Any]]:
    """GET /instruments/historical: the bars whose start lies between two of India's times and that have ended."""
    if bars is None or _CANDLES.get(interval) != bars.interval:
        return []
    begin, end = (np.datetime64(text.replace(" ", "T"), "ns").astype(np.int64) - _IST_NS for text in (first, last))
    chosen = (bars.time_ns >= begin) & (bars.time_ns <= end) & (bars.time_ns + INTERVAL_NS[bars.interval] <= now_ns)
    rows = np.flatnonzero(chosen)
    prices = (bars.open, bars.high, bars.low, bars.close)
    return [
        [_stamp(int(bars.time_ns[row])), *(float(one[row]) for one in prices), int(bars.volume[row])] for row in rows
    ]


def _stamp(time_ns: int) -> str:
    return f"{np.datetime64(time_ns + _IST_NS, 'ns').astype('datetime64[s]')}+0530"
