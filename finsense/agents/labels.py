"""The label of every bar: what came after it, and the last bar that one must see to know."""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.rules import AccountRules
from finsense.agents.round_trip import round_trips
from finsense.agents.triple_barrier import first_touches, trailing_volatility
from finsense.config.labels import Direction, Label, TripleBarrier
from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules

DOWN, FLAT, UP = 0, 1, 2
CLASSES = ("down", "flat", "up")

_ROWS_SHOWN = 3


class LabelError(ValueError):
    """Bars that cannot be labelled, or labels that nothing can be learned from."""


@dataclass(frozen=True)
class Labels:
    """The labels of one symbol's bars, in time order; a bar without a label is not among them.

    The label of bar t reads the bars t + 1 .. `last_bar`, both included: its look-ahead span. A triple barrier's also
    reads the volatility, which is known at bar t.

    Attributes:
        bar: (n,) int64, ascending, rows of the bars.
        target: (n,) int64, DOWN, FLAT or UP.
        forward: (n,) float64, log of the exit price over the open of bar t + 1.
        last_bar: (n,) int64, the last bar whose price the label reads.
        start_ns: (n,) int64, start of bar t, ns UTC.
        end_ns: (n,) int64, start of the last bar, ns UTC.
        round_trip: (n,) float64, what buying and selling the account's usual order costs, fraction of its value.

    Raises:
        LabelError: the arrays differ in length, a value is not finite, a target is no class, the rows do not ascend or
            a label ends before it begins.
    """

    bar: NDArray[np.int64]
    target: NDArray[np.int64]
    forward: NDArray[np.float64]
    last_bar: NDArray[np.int64]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    round_trip: NDArray[np.float64]

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in vars(self).items()}
        if len(set(lengths.values())) > 1:
            raise LabelError(f"expected one value per label, found lengths {lengths}")
        self._refuse(~np.isfinite(self.forward), "a forward return that is not a finite number", self.forward)
        self._refuse(~np.isfinite(self.round_trip), "a round trip that is not a finite number", self.round_trip)
        self._refuse((self.target < DOWN) | (self.target > UP), f"a target that is no class of {CLASSES}", self.target)
        self._refuse(np.diff(self.bar, prepend=-1) <= 0, "a bar that does not follow the one before", self.bar)
        self._refuse(self.last_bar <= self.bar, "a last bar that does not lie after their bar", self.last_bar)

    def __len__(self) -> int:
        return len(self.bar)

    def _refuse(self, at_fault: NDArray[np.bool_], what: str, values: NDArray[np.int64] | NDArray[np.float64]) -> None:
        rows = np.flatnonzero(at_fault)
        if len(rows):
            shown = ", ".join(f"bar {self.bar[row]}: {values[row]}" for row in rows[:_ROWS_SHOWN])
            raise LabelError(f"{len(rows)} of {len(self)} labels have {what}: {shown}")


def label_bars(bars: Bars, label: Label, rules: AccountRules, costs: ChargeRules) -> Labels:
    """Label every bar that can be labelled.

    A decision at the close of bar t is filled at the open of bar t + 1, the entry. The exit is the open of bar
    t + 1 + horizon. An intraday account cannot hold over night: where that bar lies beyond its session, the exit is
    the close of the session's last bar. A triple barrier may be touched before (`first_touches`).

    No label have: a bar whose exit lies beyond the data, even where a barrier is touched before (or only the quickest
    of the last labels would be known); with an intraday account the last bar of a session; with a triple barrier the
    first `volatility_window` bars, and a bar whose volatility is 0.

    The class of a forward return is that of a direction with a dead zone of one round trip.

    Args:
        bars: of one symbol.
        label: what to find.
        rules: of the account that would trade: its product, order size, balance and slippage.
        costs: its charges.

    Raises:
        LabelError: no bar has a label.
        CostError: no charge schedule is known for a date.
        ValueError: an intraday account on daily bars.
    """
    intraday = bool(rules.record(bars.interval)["intraday"][0])
    bar, exit_bar, at_close = _horizons(bars, label.horizon, intraday=intraday)
    if isinstance(label, TripleBarrier):
        volatility = trailing_volatility(bars, label.volatility_window, own_open=intraday)
        known = volatility[bar] > 0
        bar, exit_bar, at_close = bar[known], exit_bar[known], at_close[known]
    if not len(bar):
        raise LabelError(_none_found(bars, label, intraday=intraday))
    round_trip = round_trips(bars, bar + 1, rules, costs)
    if isinstance(label, TripleBarrier):
        barriers = (label.profit * volatility[bar], label.stop * volatility[bar])
        side, last_bar, exit_price = first_touches(bars, bar, exit_bar, at_close, barriers)
        target = FLAT + side
    else:
        last_bar, exit_price = exit_bar, np.where(at_close, bars.close[exit_bar], bars.open[exit_bar])
    forward = np.log(exit_price / bars.open[bar + 1])
    if not isinstance(label, TripleBarrier):
        dead_zone = (label.dead_zone if isinstance(label, Direction) else 1.0) * round_trip
        target = FLAT + (forward > dead_zone).astype(np.int64) - (forward < -dead_zone)
    return Labels(bar, target, forward, last_bar, bars.time_ns[bar], bars.time_ns[last_bar], round_trip)


def uniqueness(labels: Labels) -> NDArray[np.float64]:
    """How much of its own each label of one symbol tells: weights for samples that overlap.

    The label's bars are those of its look-ahead span. A bar that c labels look at tells each of them 1 / c; a label's
    uniqueness is the mean of that over its bars (Lopez de Prado 2018, snippets 4.1 and 4.2). Divided by the mean of
    all labels, so that a weighted loss keeps its scale.

    Returns:
        Array (n,) float64, positive, of mean 1.
    """
    if not len(labels):
        return np.ones(0)
    first_bar = labels.bar + 1
    readers = np.zeros(labels.last_bar.max() + 2, np.int64)
    np.add.at(readers, first_bar, 1)
    np.add.at(readers, labels.last_bar + 1, -1)
    found = _mean_share(np.cumsum(readers), first_bar, labels.last_bar)
    weights: NDArray[np.float64] = found / found.mean()
    return weights


@njit(cache=True)
def _mean_share(
    readers: NDArray[np.int64], first_bar: NDArray[np.int64], last_bar: NDArray[np.int64]
) -> NDArray[np.float64]:
    found = np.empty(len(first_bar))
    for place in range(len(found)):
        total = 0.0
        for bar in range(first_bar[place], last_bar[place] + 1):
            total += 1.0 / readers[bar]
        found[place] = total / (last_bar[place] - first_bar[place] + 1)
    return found


_Horizons = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]


def _horizons(bars: Bars, horizon: int, *, intraday: bool) -> _Horizons:
    """The bars whose exit is known, the bar of the exit, and whether that is its close instead of its open."""
    bar = np.arange(len(bars))
    exit_bar = bar + 1 + horizon
    if not intraday:
        bar, exit_bar = bar[: -1 - horizon], exit_bar[: -1 - horizon]
        return bar, exit_bar, np.zeros(len(bar), np.bool_)
    offsets = bars.session_offsets
    last_of_session = np.repeat(offsets[1:] - 1, np.diff(offsets))
    at_close = exit_bar > last_of_session
    known = bar < last_of_session
    if bars.time_ns[-1] + bars.interval_ns < bars.sessions[-1].close_ns:
        # The data end within a session: its close is not known.
        known &= ~at_close | (last_of_session < len(bars) - 1)
    return bar[known], np.minimum(exit_bar, last_of_session)[known], at_close[known]


def _none_found(bars: Bars, label: Label, *, intraday: bool) -> str:
    window = label.volatility_window if isinstance(label, TripleBarrier) else 0
    needs = f"the horizon of {label.horizon} bars, the bar before the entry and the exit"
    if window:
        needs += f", after {window} bars for the volatility, which must not be 0"
    if intraday:
        needs += "; an intraday position ends with its session, which must be in the data to its last bar"
    return (
        f"{bars.symbol} {bars.interval}: no bar has a label ({label.kind}), found {len(bars)} bars in "
        f"{len(bars.session_offsets) - 1} sessions; a label needs {needs}. Give more bars or lower label.horizon"
    )
