"""What a search for look-ahead looks at, one symbol at a time, and what it finds."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.trace import Trace
from finsense.evaluation.backtest import Setting, backtest
from finsense.evaluation.baselines import RandomLegal
from finsense.market.bars import PRICE_LIMIT, PRICE_MIN, Bars
from finsense.market.instruments import instrument
from finsense.market.timeline import Timeline, timeline
from finsense.model.bundle import Bundle
from finsense.model.policy import Policy
from finsense.state.builder import StateMatrix, build_states
from finsense.state.spec import StateSpec

# One driver: a policy over the bars of a span of dates, as `backtest` takes them.
Drive = Callable[[Policy, Bars, Setting, date | None, date | None], Trace]

# A run begins a session or so before its cut and goes on as long after it. A daily bar folds a warm-up of its own, so
# fewer of them do.
_BARS_AROUND = 80
_DAYS_AROUND = 20
# The replaced future keeps to prices that Bars accepts.
_FUTURE_FACTOR = 0.9
_LEAST_CUTS = 2


@dataclass(frozen=True)
class Leak:
    """One place where something knows what it should not.

    Attributes:
        check: which check found it.
        symbol: whose bars; empty where it is a matter of none.
        feature: the indicator, or the part of the account or of the data.
        column: its column; empty where it has none.
        bar: the bar's place in the symbol's bars; -1 where it is not a matter of a bar.
        time_ns: its start, ns UTC; 0 where it is not a matter of a bar.
        detail: what was expected, what was found, what to do.
    """

    check: str
    symbol: str
    feature: str
    column: str
    bar: int
    time_ns: int
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What one check came to.

    Attributes:
        count: how much was looked at.
        unit: of what: "bars", "fills".
        leaks: what was found.
        unchecked: why it could not look; empty where it did.
    """

    count: int
    unit: str
    leaks: tuple[Leak, ...] = ()
    unchecked: str = ""


@dataclass(frozen=True)
class Run:
    """A driver's trace over the bars around a cut, with random legal actions that a seed fixes.

    Attributes:
        driver: its name.
        drive: the driver.
        bars: the bars that it was given: the warm-up, and those of the trace.
        first: place of the trace's first bar among the symbol's bars.
        cut: place of the last bar that is kept when the future is taken away, among the symbol's bars.
        seed: of the actions.
        trace: what came of it.
    """

    driver: str
    drive: Drive
    bars: Bars
    first: int
    cut: int
    seed: int
    trace: Trace


@dataclass(frozen=True)
class Market:
    """One symbol's bars under the terms of an experiment.

    Attributes:
        bars: all of them.
        setting: what is seen, what may be done, what it costs.
        drivers: name -> driver.
        cuts: how many bars are drawn at which the future is taken away.
        seed: of what is drawn.
    """

    bars: Bars
    setting: Setting
    drivers: Mapping[str, Drive]
    cuts: int
    seed: int

    @cached_property
    def line(self) -> Timeline:
        """The bars with their sessions."""
        return timeline(self.bars, instrument(self.bars.symbol, derivatives=self.bars.derivatives), None)

    @cached_property
    def states(self) -> StateMatrix:
        """The states of all bars in one pass."""
        return build_states(self.line, self.setting.state)

    @cached_property
    def rows(self) -> NDArray[np.float32]:
        """(n - first bar, columns) float32, the market row of each bar that has a state."""
        return self.states.rows[self.states.row_of_bar[self.states.first_bar :]]

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every driver around every cut."""
        return tuple(
            run_around(name, drive, self, cut, self.seed + place)
            for place, cut in enumerate(self._drawn_cuts())
            for name, drive in self.drivers.items()
        )

    def leak(self, check: str, feature: str, column: str, bar: int, detail: str) -> Leak:
        """A finding at one of the symbol's bars (-1: none)."""
        time_ns = int(self.bars.time_ns[bar]) if bar >= 0 else 0
        return Leak(check, self.bars.symbol, feature, column, bar, time_ns, detail)

    def _drawn_cuts(self) -> list[int]:
        """Bars with a state and a bar on either side: the last of a session, one that opens one, and any others."""
        first, last = self.states.first_bar + 1, len(self.bars) - 2
        if last < first:
            return []
        random = np.random.default_rng(self.seed)
        openings = self.bars.session_offsets[1:-1]
        openings = openings[(openings > first) & (openings <= last)]
        drawn = [int(bar) for opening in random.permutation(openings)[:1] for bar in (opening - 1, opening)]
        wanted = min(self.cuts, last - first + 1)
        # Evenly over the history, for what leaks may have begun to leak late; and by chance within each part.
        edges = np.linspace(first, last + 1, wanted + 1).astype(int)
        drawn += [int(random.integers(low, high)) for low, high in pairwise(edges.tolist())]
        return sorted(set(drawn))


@dataclass(frozen=True)
class Span:
    """The first and the last date of a span, IST, both inclusive."""

    first: date
    last: date


@dataclass(frozen=True)
class Subject:
    """An experiment that is searched for look-ahead.

    Attributes:
        markets: symbol -> all its bars.
        setting: what is seen, what may be done, what it costs.
        spans: train, validation and test.
        drivers: name -> driver.
        bundle: the policy that was trained on it; None for the experiment alone.
        learner_rows: the training rows of a span as a learner's environment holds them; None where none is installed.
        cuts: how many bars are drawn at which the future is taken away, over all symbols.
        seed: of what is drawn.
    """

    markets: Mapping[str, Bars]
    setting: Setting
    spans: Mapping[str, Span]
    drivers: Mapping[str, Drive]
    bundle: Bundle | None = None
    learner_rows: Callable[[Span], NDArray[np.float32]] | None = None
    cuts: int = 24
    seed: int = 0

    def each(self) -> Iterator[Market]:
        """One symbol after the other, for the states of all at once may not fit into memory."""
        cuts = max(_LEAST_CUTS, self.cuts // len(self.markets))
        for bars in self.markets.values():
            yield Market(bars, self.setting, self.drivers, cuts, self.seed)


def drive_session(policy: Policy, bars: Bars, setting: Setting, first: date | None, last: date | None) -> Trace:
    """The policy through the session and the simulated exchange: what backtest, paper and live loop run."""
    return backtest("lookahead", policy, bars, setting, first, last).trace


def run_around(name: str, drive: Drive, market: Market, cut: int, seed: int) -> Run:
    """Drive the bars around a cut, from an opening before it."""
    bars, warmup = market.bars, market.setting.state.warmup
    around = _DAYS_AROUND if bars.interval == "1d" else _BARS_AROUND
    offsets = bars.session_offsets
    earliest = max(cut - around, market.states.first_bar)
    # At least one bar before the cut, so that there is something to trade.
    opening = int(offsets[np.searchsorted(offsets, min(earliest, cut - 1), side="right") - 1])
    window = bars.take(opening - warmup, min(cut + 1 + around, len(bars)))
    trace = drive(RandomLegal(np.random.default_rng(seed)), window, market.setting, None, None)
    return Run(name, drive, window, opening, cut, seed, trace)


def other_future(bars: Bars, kept: int, seed: int) -> Bars:
    """The same bars up to row `kept` (exclusive), and other valid ones after: in another order, a tenth lower, busier.

    What stands beside the prices is moved along with them, so that no feature finds its own future again.
    """
    random = np.random.default_rng(seed)
    order = np.concatenate([np.arange(kept), kept + random.permutation(len(bars) - kept)])
    factor = np.where(np.arange(len(bars)) < kept, 1.0, _FUTURE_FACTOR)
    prices = {
        name: np.clip(np.round(getattr(bars, name)[order] * factor, 2), PRICE_MIN, PRICE_LIMIT - PRICE_MIN)
        for name in ("open", "high", "low", "close")
    }
    # As they are before the cut, to the bit.
    for name, values in prices.items():
        values[:kept] = getattr(bars, name)[:kept]
    volume = np.where(factor < 1, bars.volume[order] * 2 + 1, bars.volume)
    extra = {name: values[order] * factor for name, values in bars.extra.items()}
    return replace(bars, **prices, volume=volume, extra=extra)


def column_of(cell: int, spec: StateSpec) -> tuple[str, str]:
    """Feature and column that a cell of a whole state holds; the account's features stand behind the market's."""
    if cell >= spec.width:
        return "account", ACCOUNT_FEATURES[cell - spec.width]
    columns = [(feature.name, column) for feature in spec.features for column in feature.columns]
    return columns[cell % len(columns)]


def first_differences(expected: NDArray[Any], found: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """(row, column) of the first row in which each column of two 2-D arrays differs by a bit."""
    same = expected == found
    if expected.dtype.kind == "f":
        same |= np.isnan(expected) & np.isnan(found)
    for column in np.flatnonzero(~same.all(axis=0)).tolist():
        yield int(np.flatnonzero(~same[:, column])[0]), column
