"""Prepared markets laid end to end, so that a compiled step can jump between symbols and dates."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import Bars, BarsError
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument
from finsense.market.timeline import timeline
from finsense.state.cache import cached_states
from finsense.state.span import tradable_range
from finsense.state.spec import StateSpec


@dataclass(frozen=True)
class Tape:
    """The states and markets of one or more symbols, and the bars of each on which an account may trade.

    Attributes:
        spec: what the state's columns are.
        interval: of every symbol's bars.
        symbols: one name per span.
        states: (m, columns) float32, the market rows of all symbols.
        state_of_bar: (n,) int64, the row of each bar in `states`; -1 where it has none.
        markets: (n,) of dtype MARKET; `first_cell` is where the bar's stacked state begins in the flattened `states`.
        times: (n,) int64, start of each bar, ns UTC.
        spans: (symbols, 2) int64, first and last tradable bar of each symbol.
        schedules: the charge schedules that `markets` refers to.
    """

    spec: StateSpec
    interval: str
    symbols: tuple[str, ...]
    states: NDArray[np.float32]
    state_of_bar: NDArray[np.int64]
    markets: NDArray[Any]
    times: NDArray[np.int64]
    spans: NDArray[np.int64]
    schedules: NDArray[Any]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tape":
        """Itself: nothing writes to a tape, and `gym.make` copies its arguments, which here would double the data."""
        return self

    def training_rows(self) -> NDArray[np.float32]:
        """The market rows of the tradable bars alone, (rows, columns) float32: what a scaler may see."""
        rows = [self.states[self.state_of_bar[first : last + 1]] for first, last in self.spans]
        return np.concatenate(rows)


def build_tape(
    markets: Sequence[tuple[Bars, Instrument]],
    spec: StateSpec,
    charges: ChargeRules,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> Tape:
    """Prepare symbols for trading between two IST dates (both inclusive; None is as far as the bars reach).

    Bars before `first` serve as warm-up and are not traded.

    Raises:
        HistoryError: a symbol has too few bars before `first` for the warm-up.
        BarsError: a symbol has no bars in the span, or fewer than two.
        CostError: no charge schedule is known for a date.
    """
    intervals = sorted({bars.interval for bars, _ in markets})
    if len(intervals) != 1:
        raise BarsError(f"expected bars of one interval, found {', '.join(intervals) or 'no bars'}")
    states, rows, records, times, spans = [], [], [], [], []
    bar_count = row_count = 0
    for bars, instrument in markets:
        described = timeline(bars, instrument, charges)
        matrix = cached_states(described, spec)
        begin, end = tradable_range(bars, spec, first, last)
        states.append(matrix.rows)
        rows.append(np.where(matrix.row_of_bar >= 0, matrix.row_of_bar + row_count, -1))
        records.append(described.market)
        times.append(bars.time_ns)
        spans.append((bar_count + begin, bar_count + end))
        bar_count += len(bars)
        row_count += len(matrix.rows)
    state_of_bar = np.concatenate(rows)
    tape_markets = np.concatenate(records)
    tape_markets["first_cell"] = (state_of_bar - (spec.history - 1)) * len(spec.columns)
    return Tape(
        spec=spec,
        interval=intervals[0],
        symbols=tuple(bars.symbol for bars, _ in markets),
        states=np.concatenate(states),
        state_of_bar=state_of_bar,
        markets=tape_markets,
        times=np.concatenate(times),
        spans=np.array(spans, np.int64),
        schedules=charges.schedules(),
    )
