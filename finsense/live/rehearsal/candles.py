"""Candles as the vendor gives them: any interval that the day's minutes or the bars of the past can be added up to."""

import datetime as dt
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from finsense.live.rehearsal.booked import Refused
from finsense.live.rehearsal.street import Street
from finsense.live.rehearsal.tape import Tape
from finsense.market.bars import INTERVAL_NS, Bars
from finsense.market.calendar import DAY_NS, IST, TradingSession

_IST_NS = 19_800_000_000_000
_INTERVALS = {
    "minute": "1m",
    "3minute": "3m",
    "5minute": "5m",
    "10minute": "10m",
    "15minute": "15m",
    "30minute": "30m",
    "60minute": "60m",
    "day": "1d",
}
# Longest span of one request, days (vendor's forum, 3105).
_MOST_DAYS = {
    "minute": 60,
    "3minute": 100,
    "5minute": 100,
    "10minute": 100,
    "15minute": 200,
    "30minute": 200,
    "60minute": 400,
    "day": 2000,
}


class Candle(NamedTuple):
    """One candle.

    Attributes:
        time_ns: its start, ns UTC; of a day the midnight before it.
        open: rupees.
        high: rupees.
        low: rupees.
        close: rupees.
        volume: shares.
    """

    time_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: int


class Candles:
    """Answers for one share: the past from bars, today from what was played.

    Args:
        past: bars of the days before; None where there are none.
        session: today's.
        street: of the share; its last price after the day is the official close.
        tape: what was played of today.
    """

    def __init__(self, past: Bars | None, session: TradingSession, street: Street, tape: Tape) -> None:
        self._past, self._session, self._street, self._tape = past, session, street, tape
        self._added_up: dict[str, list[Candle]] = {}

    def between(self, interval: str, first_ns: int, last_ns: int, now_ns: int, over_ns: int) -> list[Candle]:
        """The candles whose start lies between two instants, both inclusive, and that have ended.

        Args:
            interval: a key of `INTERVAL_NS`.
            first_ns: ns UTC.
            last_ns: ns UTC.
            now_ns: the clock, ns UTC.
            over_ns: when today's daily candle is finished, ns UTC.

        Raises:
            Refused: the bars of the past are too coarse for the interval.
        """
        if interval not in self._added_up:
            self._added_up[interval] = self._of_the_past(interval)
        found = self._added_up[interval] + self._of_today(interval, now_ns, over_ns)
        return [one for one in found if first_ns <= one.time_ns <= last_ns]

    def _of_the_past(self, interval: str) -> list[Candle]:
        past = self._past
        if past is None:
            return []
        if INTERVAL_NS[interval] % INTERVAL_NS[past.interval]:
            raise Refused("InputException", f"The rehearsal has bars of {past.interval}, so none of {interval}.")
        candles: list[Candle] = []
        for session in past.sessions:
            begin, end = np.searchsorted(past.time_ns, (session.open_ns, session.close_ns)).tolist()
            rows = [Candle(*bar[:6]) for bar in past.take(begin, end)]
            candles += _added_up(rows, session, interval)
        return candles

    def _of_today(self, interval: str, now_ns: int, over_ns: int) -> list[Candle]:
        rows = [
            Candle(one.time_ns, one.open / 100, one.high / 100, one.low / 100, one.close / 100, one.shares)
            for one in self._tape.minutes
        ]
        candles = _added_up(rows, self._session, interval)
        if interval == "1d":
            # The official close is the auction's, where there was one.
            closed = [one._replace(close=self._street.last_paise / 100, volume=self._street.volume) for one in candles]
            return closed if now_ns >= over_ns else []
        step_ns = INTERVAL_NS[interval]
        return [one for one in candles if _end_ns(one.time_ns, step_ns, self._session) <= now_ns]


def _added_up(rows: list[Candle], session: TradingSession, interval: str) -> list[Candle]:
    """Candles of an interval, counted from the start of the trading window that they lie in."""
    step_ns = INTERVAL_NS[interval]
    candles: list[Candle] = []
    for row in rows:
        start_ns = _start_ns(row.time_ns, step_ns, session)
        if candles and candles[-1].time_ns == start_ns:
            last = candles[-1]
            high, low, volume = max(last.high, row.high), min(last.low, row.low), last.volume + row.volume
            candles[-1] = Candle(start_ns, last.open, high, low, row.close, volume)
        else:
            candles.append(row._replace(time_ns=start_ns))
    return candles


def _start_ns(time_ns: int, step_ns: int, session: TradingSession) -> int:
    if step_ns == DAY_NS:
        return time_ns - (time_ns + _IST_NS) % DAY_NS
    begin_ns = next(begin for begin, end in session.windows if begin <= time_ns < end)
    return time_ns - (time_ns - begin_ns) % step_ns


def _end_ns(start_ns: int, step_ns: int, session: TradingSession) -> int:
    return min(start_ns + step_ns, next(end for begin, end in session.windows if begin <= start_ns < end))


def answer(
    candles: Mapping[int, Candles], over_ns: int, now_ns: int, token: str, interval: str, first: str, last: str
) -> list[list[Any]]:
    """GET /instruments/historical/{token}/{interval}: the vendor's rows.

    Raises:
        Refused: no such instrument or interval, a span that ends before it begins, or one that is too long.
    """
    if not token.isdigit() or int(token) not in candles:
        raise Refused("InputException", "invalid token")
    if interval not in _INTERVALS:
        raise Refused("InputException", "invalid interval")
    first_ns, last_ns = _instant(first), _instant(last)
    if first_ns > last_ns:
        raise Refused("InputException", "invalid from date: it is after the to date")
    if last_ns - first_ns > _MOST_DAYS[interval] * DAY_NS:
        raise Refused("InputException", f"interval exceeds max limit: {_MOST_DAYS[interval]} days")
    if interval == "day":
        # The candle of a day starts at its midnight, whatever hour is asked from.
        first_ns -= (first_ns + _IST_NS) % DAY_NS
    found = candles[int(token)].between(_INTERVALS[interval], first_ns, last_ns, now_ns, over_ns)
    return [[_stamp(one.time_ns), *one[1:]] for one in found]


def _instant(text: str) -> int:
    """India's time as the vendor's client writes it, with or without the hour, in ns UTC."""
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        raise Refused("InputException", f"invalid date {text!r}") from None
    naive = when.replace(tzinfo=None)
    return round((naive - dt.datetime(1970, 1, 1)).total_seconds()) * 1_000_000_000 - _IST_NS


def _stamp(time_ns: int) -> str:
    text = dt.datetime.fromtimestamp(time_ns // 1_000_000_000, IST).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}+0530"
