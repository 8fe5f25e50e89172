"""Bars of the past from Kite: chunked within the vendor's spans, still-forming candles left out, holes refused."""

import datetime as dt
import random
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import structlog

from finsense.live.brokers.errors import RateLimited, TransientRead
from finsense.live.brokers.kite_rows import Candle
from finsense.live.clock import WallClock
from finsense.market.bars import IST_OFFSET_NS, Bars, BarsError, day_date, session_day
from finsense.market.calendar import DAY_NS, MINUTE_NS, TradingSession, nse_calendar
from finsense.market.instruments import instrument
from finsense.market.windows import place_in_windows, trading_windows

# Interval of `bars.INTERVAL_NS` -> the vendor's word.
KITE_INTERVALS = {
    "1m": "minute",
    "3m": "3minute",
    "5m": "5minute",
    "10m": "10minute",
    "15m": "15minute",
    "30m": "30minute",
    "60m": "60minute",
    "1d": "day",
}
# Most days of one request (Kite forum, thread 3105).
SPAN_DAYS = {"1m": 60, "3m": 100, "5m": 100, "10m": 100, "15m": 200, "30m": 200, "60m": 400, "1d": 2000}
# The vendor groups minutes that it stores after they ended (forum, threads 37886 and 1833): a candle is final this long
# after its end. A day's one follows the closing auction, which matches 15 minutes after continuous trading.
_SETTLE_NS, _DAY_SETTLES_NS = 5_000_000_000, 30 * MINUTE_NS
_TRIES, _FIRST_PAUSE_S = 6, 1.0
_SHOWN = 3

log = structlog.get_logger()


class HistoryMissing(BarsError):
    """The vendor gave no candles where there must be some: no answer is not `no trades`."""


class CandleSource(Protocol):
    """What of `KiteRest` tells of the past."""

    def historical(self, token: int, interval: str, first_ns: int, last_ns: int) -> list[Candle]:
        """The candles that start from `first_ns` to `last_ns`, both included; the last may be forming."""
        ...


def history(
    rest: CandleSource,
    symbol: str,
    token: int,
    interval: str,
    first: dt.date,
    last: dt.date,
    *,
    clock: WallClock,
    derivatives: bool | None = None,
    missing_sessions: int = 0,
) -> Bars:
    """The bars of a share from one day to another, both included, as far as they have ended.

    Prices are those of the vendor: adjusted for splits and bonuses, not for dividends. Candles outside the exchange's
    continuous sessions (its closing auction, test sessions) are left out.

    Args:
        rest: asks, within the account's limits.
        symbol: trading symbol.
        token: of it in today's list.
        interval: a key of `KITE_INTERVALS`.
        first: first day, in India.
        last: last day.
        clock: tells which candles have ended, and waits between two tries.
        derivatives: whether the share has derivatives; None takes what is known of the symbol.
        missing_sessions: how many sessions may be without any candle: days of a suspension.

    Raises:
        HistoryMissing: more sessions than that have no candle.
        BarsError: the candles cannot be trusted, or the interval is unknown.
        CalendarError: the span leaves the known calendar, or its hours depend on unknown derivatives.
        BrokerError: the vendor refuses, or cannot be reached in six tries.
    """
    if interval not in KITE_INTERVALS:
        raise BarsError(f"{symbol}: unknown interval {interval!r}; Kite has {', '.join(KITE_INTERVALS)}")
    known = instrument(symbol).derivatives if derivatives is None else derivatives
    # A day opens at the same time with and without derivatives.
    sessions = nse_calendar().sessions(first, last, derivatives=False if interval == "1d" else known)
    now_ns = clock.now_ns()
    ended = [session for session in sessions if session.close_ns + settle_ns(interval) <= now_ns]
    found: list[Candle] = []
    for begin, end in _spans(first, last, interval, sessions):
        found += _asked(rest, symbol, token, interval, begin, end, clock)
    kept = ended_candles(found, sessions, interval, now_ns)
    _refuse_holes(kept, ended, f"{symbol} {interval}", token, missing_sessions)
    if not kept:
        raise HistoryMissing(
            f"{symbol} {interval}: no candle between {first} and {last} has ended yet; ask for an earlier day"
        )
    time_ns, opens, high, low, close, volume = map(np.array, zip(*kept, strict=True))
    return Bars(symbol, interval, time_ns, opens, high, low, close, volume, derivatives)


def ended_candles(
    candles: Iterable[Candle], sessions: Iterable[TradingSession], interval: str, now_ns: int
) -> list[Candle]:
    """Those that lie in continuous trading and will not change any more; daily ones start with their session.

    Args:
        candles: in the order of the vendor.
        sessions: of the days asked for.
        interval: a key of `KITE_INTERVALS`.
        now_ns: the instant now, ns UTC.
    """
    listed = list(sessions)
    if interval == "1d":
        opens = {session_day(session.date): session for session in listed}
        days = [(opens.get((one.time_ns + IST_OFFSET_NS) // DAY_NS), one) for one in candles]
        return [
            one._replace(time_ns=session.open_ns)
            for session, one in days
            if session is not None and session.close_ns + settle_ns(interval) <= now_ns
        ]
    rows = list(candles)
    if not rows:
        return []
    windows = trading_windows(listed)
    time_ns = np.array([one.time_ns for one in rows], np.int64)
    start_ns, outside = place_in_windows(time_ns, windows)
    # After the pause of a split session the vendor's candles go on from the morning, and ours begin anew.
    first_ns = np.array([window[0] for session in listed for window in session.windows[1:]], np.int64)
    outside |= np.isin(start_ns, first_ns) & ((time_ns - start_ns) % (_minutes(interval) * MINUTE_NS) != 0)
    if outside.any():
        log.info("candles outside continuous trading are left out", count=int(outside.sum()), of=len(rows))
    step_ns = _minutes(interval) * MINUTE_NS
    # The last candle of a window may be cut short by its end.
    close_ns = windows[np.clip(np.searchsorted(windows[:, 0], time_ns, side="right") - 1, 0, None), 1]
    final_ns = np.minimum(time_ns + step_ns, close_ns) + _SETTLE_NS
    kept = ~outside & (final_ns <= now_ns)
    return [rows[row] for row in np.flatnonzero(kept)]


def _minutes(interval: str) -> int:
    return int(interval.removesuffix("m"))


def settle_ns(interval: str) -> int:
    """How long after its end a candle does not change any more."""
    return _DAY_SETTLES_NS if interval == "1d" else _SETTLE_NS


def _spans(first: dt.date, last: dt.date, interval: str, sessions: list[TradingSession]) -> Iterator[tuple[int, int]]:
    """First and last instant of each request, ns UTC; a span without a session is not asked for."""
    days = [session_day(session.date) for session in sessions]
    step = SPAN_DAYS[interval]
    for begin in range(session_day(first), session_day(last) + 1, step):
        end = min(begin + step, session_day(last) + 1)
        if any(begin <= day < end for day in days):
            yield begin * DAY_NS - IST_OFFSET_NS, end * DAY_NS - IST_OFFSET_NS - 1_000_000_000


def _asked(
    rest: CandleSource, symbol: str, token: int, interval: str, begin_ns: int, end_ns: int, clock: WallClock
) -> list[Candle]:
    """One request, repeated where nothing but patience is wrong."""
    pause_s = _FIRST_PAUSE_S
    for failures in range(1, _TRIES + 1):
        try:
            return rest.historical(token, KITE_INTERVALS[interval], begin_ns, end_ns)
        except (TransientRead, RateLimited) as error:
            if failures == _TRIES:
                raise
            log.warning("no candles yet", symbol=symbol, failures=failures, reason=str(error))
        clock.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s *= 2.0
    raise AssertionError("a last try either answers or raises")


def _refuse_holes(
    kept: list[Candle], ended: list[TradingSession], name: str, token: int, missing_sessions: int
) -> None:
    present = {(one.time_ns + IST_OFFSET_NS) // DAY_NS for one in kept}
    absent = [day for day in (session_day(session.date) for session in ended) if day not in present]
    if len(absent) <= missing_sessions:
        return
    shown = ", ".join(str(day_date(day)) for day in absent[:_SHOWN])
    raise HistoryMissing(
        f"{name}: Kite gave no candle for {len(absent)} of {len(ended)} sessions, first {shown}. No answer is not `no "
        f"trades`: the token {token} may be another day's, the share may not have been listed or was suspended, or the "
        "archive is late; take a later first day, or allow the missing sessions"
    )
