"""What every feed must hold, whatever brings its bars: replay, Kite's ticks, Yahoo's rows."""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np

from finsense.market.bars import INTERVAL_NS, Bar, Bars
from finsense.market.calendar import DAY_NS, IST, nse_calendar
from finsense.market.moments import Moment, moments

# More empty turns than the days of any case at one second each.
_MOST_WAITS = 1_000_000
# Moments of the second iteration of a feed that goes on.
_LEFT = 3
_COLUMNS = ("time_ns", "open", "high", "low", "close", "volume")


@dataclass(frozen=True)
class FeedCase:
    """A feed and what it was made of.

    Attributes:
        feed: under test.
        source: what was traded in the span that the feed is to give, one symbol each, in any order; with holes.
        now_ns: the time by the feed's clock; None for a replay, which has none.
        restart: "anew" where a second iteration gives the same again; "goes on" where it begins after the last moment
            that was given; "refuses" where it raises RuntimeError.
        extra: whether the bars carry what only ticks know; it has no counterpart in the source.
    """

    feed: Iterable[Moment | None]
    source: Sequence[Bars]
    now_ns: Callable[[], int] | None = None
    restart: str = "anew"
    extra: bool = False


def check_feed(case: FeedCase) -> None:
    """Run the feed over its source and hold it against every law."""
    expected = list(moments(case.source))
    left = _LEFT if case.restart == "goes on" else 0
    given, waits = _take(case, len(expected) - left)
    if left:
        given += _take(case, left)[0]
    _starts_rise(given)
    _symbols_are_in_order(given)
    _bars_are_on_the_grid(case, given)
    _nothing_is_lost_or_invented(case, given, expected)
    _prices_are_valid(case, given)
    if case.now_ns is not None:
        assert waits > 0, "a live feed says None while it waits"
    if not left:
        _begins_anew_or_refuses(case, given)


def _take(case: FeedCase, count: int) -> tuple[list[Moment], int]:
    """The first moments of the feed, each checked against the clock as it comes; and how often it said None."""
    derivatives = {bars.symbol: bars.derivatives for bars in case.source}
    interval = case.source[0].interval
    given: list[Moment] = []
    waits = 0
    iteration = iter(case.feed)
    for moment in islice(iteration, count + _MOST_WAITS):
        if moment is None:
            waits += 1
            continue
        if case.now_ns is not None:
            for symbol in moment.bars:
                end_ns = _grid(moment.time_ns, interval, derivatives[symbol])[moment.time_ns]
                assert end_ns <= case.now_ns(), f"{symbol} was given before it was over"
        given.append(moment)
        if len(given) == count:
            break
    _close(iteration)
    return given, waits


def _close(iteration: Iterator[Moment | None]) -> None:
    close = getattr(iteration, "close", None)
    if close is not None:
        close()


def _grid(time_ns: int, interval: str, derivatives: bool | None) -> dict[int, int]:
    """Start -> end of the bars of the session around an instant, from the calendar alone."""
    day = dt.datetime.fromtimestamp(time_ns // 10**9, IST).date()
    session = nse_calendar().session(day, derivatives=derivatives)
    assert session is not None, f"there is no session on {day}"
    step = INTERVAL_NS[interval]
    if step == DAY_NS:
        return {session.open_ns: session.close_ns}
    return {start: min(start + step, end) for begin, end in session.windows for start in range(begin, end, step)}


def _starts_rise(given: Sequence[Moment]) -> None:
    for before, after in pairwise(given):
        assert before.time_ns < after.time_ns


def _symbols_are_in_order(given: Sequence[Moment]) -> None:
    for moment in given:
        assert moment.bars, "a moment without a bar says nothing"
        assert list(moment.bars) == sorted(moment.bars)


def _bars_are_on_the_grid(case: FeedCase, given: Sequence[Moment]) -> None:
    derivatives = {bars.symbol: bars.derivatives for bars in case.source}
    for moment in given:
        for symbol, bar in moment.bars.items():
            assert bar.time_ns == moment.time_ns
            assert bar.time_ns in _grid(bar.time_ns, case.source[0].interval, derivatives[symbol])


def _nothing_is_lost_or_invented(case: FeedCase, given: Sequence[Moment], expected: Sequence[Moment]) -> None:
    """The source's bars to the bit, and none where nothing was traded."""
    bare = [_without_extra(moment) for moment in given] if case.extra else list(given)
    for mine, its in zip(bare, expected, strict=False):
        assert mine == its
    assert len(bare) == len(expected)


def _without_extra(moment: Moment) -> Moment:
    return Moment(moment.time_ns, {symbol: bar._replace(extra=()) for symbol, bar in moment.bars.items()})


def _prices_are_valid(case: FeedCase, given: Sequence[Moment]) -> None:
    for bars in case.source:
        mine = [moment.bars[bars.symbol] for moment in given if bars.symbol in moment.bars]
        # The door itself is the judge: it raises on anything it would not let in.
        assert len(_bars_of(bars, mine)) == len(mine)


def _bars_of(like: Bars, rows: Sequence[Bar]) -> Bars:
    columns: dict[str, Any] = {name: np.array([getattr(row, name) for row in rows]) for name in _COLUMNS}
    return Bars(like.symbol, like.interval, **columns, derivatives=like.derivatives)


def _begins_anew_or_refuses(case: FeedCase, given: Sequence[Moment]) -> None:
    again: list[Moment] = []
    try:
        iteration = iter(case.feed)
        while len(again) < 3:
            moment = next(iteration)
            again += [moment] if moment is not None else []
        _close(iteration)
    except RuntimeError:
        assert case.restart == "refuses"
        return
    assert case.restart == "anew"
    assert again == list(given[:3])
