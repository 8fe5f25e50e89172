"""Which bars an account may trade: those of a span of dates whose sessions have their warm-up."""

import datetime as dt

import numpy as np

from finsense.market.bars import Bars, BarsError, ist_text, session_day
from finsense.state.builder import HistoryError
from finsense.state.spec import StateSpec


def tradable_range(bars: Bars, spec: StateSpec, first: dt.date | None, last: dt.date | None) -> tuple[int, int]:
    """First and last tradable bar of a span of IST dates, both inclusive.

    Args:
        bars: the bars, with those before `first` that serve as warm-up.
        spec: how long the warm-up is.
        first: first date; None is the first session that has its warm-up.
        last: last date; None is the end of the bars.

    Raises:
        BarsError: the span has fewer than two bars, or reaches outside the data.
        HistoryError: there are too few bars before the first session of the span.
    """
    bars.between(first, last)
    days, starts = bars.session_days, bars.session_offsets[:-1]
    ready = starts[starts >= spec.warmup]
    begin = int(np.searchsorted(days, session_day(first), side="left")) if first else None
    if len(ready) == 0 or (begin is not None and begin < ready[0]):
        found = int(starts[-1]) if begin is None else begin
        since = "its last session" if begin is None else f"{first}"
        hint = f" or start at {ist_text(int(bars.time_ns[ready[0]]))} or later" if len(ready) else ""
        raise HistoryError(
            f"{bars.symbol} {bars.interval}: the warm-up needs {spec.warmup} bars before {since}, found {found}; "
            f"give more history, lower state.warmup{hint}"
        )
    begin = int(ready[0]) if begin is None else begin
    end = int(np.searchsorted(days, session_day(last), side="right")) - 1 if last else len(bars) - 1
    if end <= begin:
        raise BarsError(
            f"{bars.symbol} {bars.interval}: expected at least two bars to trade, found {max(end - begin + 1, 0)} "
            f"from {first or bars.first_date} to {last or bars.last_date}"
        )
    return begin, end


def split_history(
    bars: Bars, spec: StateSpec, first: dt.date | None = None, last: dt.date | None = None
) -> tuple[Bars, Bars]:
    """The warm-up bars before a span, and the bars of the span; arguments and errors as in `tradable_range`."""
    begin, end = tradable_range(bars, spec, first, last)
    return bars.take(begin - spec.warmup, begin), bars.take(begin, end + 1)
