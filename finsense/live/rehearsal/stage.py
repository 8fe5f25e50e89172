"""Sets up a rehearsal of one day from bars or recorded ticks: listings, streets, what others trade, and the past."""

import datetime as dt
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Unpack

import numpy as np

from finsense.live.rehearsal.clock import RehearsalClock
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.rehearsal.street import Listing, Street
from finsense.live.rehearsal.tape import FEWEST_TRADES, StreetTrade, trades_of_bar
from finsense.live.rehearsal.terms import Terms
from finsense.market.bars import INTERVAL_NS, Bar, Bars, ist_text, session_day
from finsense.market.calendar import CalendarError, TradingSession, nse_calendar
from finsense.market.instruments import instrument, tick_paise
from finsense.market.ticks import Tick

# Tokens of NSE end with the segment's 1; the names before it are ours.
_FIRST_TOKEN, _SEGMENT = 1000, 1
# The clock begins so long before the opening, so that a client can connect first.
_EARLY_NS = 60_000_000_000
# A band widens in steps of this fraction during the day (NSE/FAOP/62241); a recorded day shows how far it went.
_BAND_STEP = 0.05


class StageError(ValueError):
    """Bars that no day can be rehearsed with."""


def stage(
    markets: Sequence[Bars],
    date: dt.date,
    *,
    speed: float,
    seed: int = 0,
    ticks_per_bar: int = FEWEST_TRADES,
    ticks: Mapping[str, Iterable[Tick]] | None = None,
    **terms: Unpack[Terms],
) -> Rehearsal:
    """A rehearsal of a day, not started yet; the bars of that day make the street's trades, those before it candles.

    Args:
        markets: bars of one symbol each, of any interval within the day; their order changes nothing.
        date: which day.
        speed: so many times faster than real time; 0: it is played by hand.
        seed: of the streets' books and of the paths inside the bars.
        ticks_per_bar: trades that make one bar, at least 4.
        ticks: symbol -> recorded ticks, sorted by stamp, which are played instead of that symbol's bars of the day.
        **terms: see there.

    Raises:
        StageError: a symbol has no bars on the day, or none before it, or its bars are daily; too few ticks per bar.
        CalendarError: the date has no session, or lies outside the calendar.
    """
    if ticks_per_bar < FEWEST_TRADES:
        raise StageError(f"expected at least {FEWEST_TRADES} ticks per bar, found {ticks_per_bar}")
    streets: dict[str, Street] = {}
    sessions: dict[str, TradingSession] = {}
    past: dict[str, Bars] = {}
    tapes: list[Iterator[StreetTrade]] = []
    for place, bars in enumerate(sorted(markets, key=lambda one: one.symbol)):
        symbol = bars.symbol
        stock = instrument(symbol, derivatives=bars.derivatives)
        session = nse_calendar().session(date, derivatives=stock.derivatives)
        if session is None:
            raise CalendarError(f"{date} has no session ({nse_calendar().closed_reason(date)}); rehearse another day")
        past[symbol], today, listing = _listed(bars, date, place, recorded=symbol in (ticks or {}))
        streets[symbol] = Street(listing, np.random.default_rng([seed, place]))
        sessions[symbol] = session
        if ticks is not None and symbol in ticks:
            tapes.append(_recorded(ticks[symbol], listing, session))
        elif today is not None:
            generator = np.random.default_rng([seed, place, 1])
            tapes.append(_played(today, listing, session, ticks_per_bar, generator))
    clock = RehearsalClock(min(one.open_ns for one in sessions.values()) - _EARLY_NS, speed)
    return Rehearsal(streets, sessions, heapq.merge(*tapes), clock, past, **terms)


def _listed(bars: Bars, date: dt.date, place: int, *, recorded: bool) -> tuple[Bars, Bars | None, Listing]:
    """The bars before the day, those of the day, and how the share is listed on it."""
    if bars.interval == "1d":
        raise StageError(f"{bars.symbol}: expected bars within the day, found daily ones")
    days = bars.session_days
    begin, end = np.searchsorted(days, [session_day(date), session_day(date) + 1]).tolist()
    if begin == 0 or (begin == end and not recorded):
        found = f"{ist_text(int(bars.time_ns[0]))} to {ist_text(int(bars.time_ns[-1]))}"
        raise StageError(
            f"{bars.symbol}: expected bars on {date} and before it, for the close of the day before; found {found}"
        )
    today = None if begin == end else bars.take(begin, end)
    close_paise = round(float(bars.close[begin - 1]) * 100)
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    listing = Listing(
        (_FIRST_TOKEN + place) << 8 | _SEGMENT,
        bars.symbol,
        bars.symbol,
        tick_paise(date, close_paise),
        close_paise,
        _band(stock.price_band, close_paise, today),
    )
    return bars.take(0, begin), today, listing


def _band(band: float | None, close_paise: int, today: Bars | None) -> float | None:
    """The day's band, as far as it was widened: what was traded cannot have lain outside."""
    if band is None or today is None:
        return band
    close = close_paise / 100
    farthest = max(float(today.high.max()) / close - 1.0, 1.0 - float(today.low.min()) / close)
    while farthest >= band:
        band = round(band + _BAND_STEP, 2)
    return band


def _played(
    today: Bars, listing: Listing, session: TradingSession, count: int, generator: np.random.Generator
) -> Iterator[StreetTrade]:
    for bar in today:
        span_ns = min(INTERVAL_NS[today.interval], _window_end(bar, session) - bar.time_ns)
        yield from trades_of_bar(listing.symbol, bar, span_ns, listing.tick_paise, count, generator)


def _window_end(bar: Bar, session: TradingSession) -> int:
    return next(end for begin, end in session.windows if begin <= bar.time_ns < end)


def _recorded(ticks: Iterable[Tick], listing: Listing, session: TradingSession) -> Iterator[StreetTrade]:
    """What recorded ticks say was traded: the growth of their cumulative volume, at their last price."""
    tick, before, latest_ns = listing.tick_paise, None, 0
    for one in ticks:
        inside = any(begin <= one.time_ns < end for begin, end in session.windows)
        if not inside or one.time_ns < latest_ns or one.volume is None or one.last_price <= 0:
            continue
        shares = 0 if before is None else max(one.volume - before, 0)
        before, latest_ns = max(one.volume, before or 0), one.time_ns
        yield StreetTrade(one.time_ns, listing.symbol, round(one.last_price * 100 / tick) * tick, shares)
