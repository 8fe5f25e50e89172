"""Takes the future away, or puts another one in its place, and looks whether the past changes."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.trace import Trace
from finsense.evaluation.baselines import RandomLegal
from finsense.evaluation.lookahead_market import (
    Leak,
    Market,
    Outcome,
    Run,
    column_of,
    first_differences,
    other_future,
)
from finsense.market.timeline import timeline
from finsense.state.kernel_laws import Trial
from finsense.state.laws import KERNEL_LAWS, LAWS, Case

KERNELS, STATES, TRUNCATED, REPLACED = "kernels", "states", "truncated", "replaced future"
# The laws of a kernel and of a state that forbid it to know what comes.
_KERNEL_LAWS = ("causal",)
_STATE_LAWS = ("later_bars", "streaming")
# A kernel is stepped from Python here, so on the last so many bars.
_KERNEL_BARS = 400
_FILL_PARTS = ("quantity", "price_paise", "charges_paise")


def check_kernels(market: Market) -> Outcome:
    """Each feature's kernel, alone between guard cells, against the batch: it reads its own bar and no other."""
    bars = market.bars
    start = max(0, len(bars) - _KERNEL_BARS)
    last_bars = timeline(bars.take(start, len(bars)), market.line.instrument, None)
    leaks = []
    for feature in market.setting.state.features:
        for law in _KERNEL_LAWS:
            found = KERNEL_LAWS[law](Trial(feature.indicator, feature.parameters, last_bars))
            if found:
                leaks.append(market.leak(KERNELS, feature.name, found.column, found.bar + start, found.detail))
    return Outcome(len(bars) - start, "bars", tuple(leaks))


def check_states(market: Market) -> Outcome:
    """The states of whole sessions, built from bars that end there, from bars that go on otherwise, and one by one."""
    case = Case(market.line, market.setting.state, market.seed)
    found = [finding for law in _STATE_LAWS for finding in LAWS[law](case)]
    leaks = [market.leak(STATES, one.feature, one.column, one.bar, one.detail) for one in found]
    return Outcome(sum(stop - opening for opening, stop in case.sessions), "bars", _one_per_column(leaks))


def check_truncated(market: Market) -> Outcome:
    """Every driver over bars that end at the cut: what it saw, was allowed, filled, paid and owned stays the same."""
    return _compared(market, TRUNCATED)


def check_replaced(market: Market) -> Outcome:
    """Every driver over bars that go on otherwise after the cut: nothing at or before the cut changes."""
    return _compared(market, REPLACED)


def _compared(market: Market, check: str) -> Outcome:
    leaks = [leak for run in market.runs for leak in _changes(market, run, check)]
    rows = sum(run.cut - run.first + 1 for run in market.runs)
    reason = "" if market.runs else "no bar has a state and a bar on either side"
    return Outcome(rows, "bars", _one_per_column(leaks), reason)


def _changes(market: Market, run: Run, check: str) -> Iterator[Leak]:
    """What differs at or before the cut when the run is repeated without its future."""
    kept = market.setting.state.warmup + run.cut - run.first + 1
    truncated = check == TRUNCATED
    bars = run.bars.take(0, kept) if truncated else other_future(run.bars, kept, run.seed)
    again = run.drive(RandomLegal(np.random.default_rng(run.seed)), bars, market.setting, None, None)
    rows = run.cut - run.first + 1
    # Where the bars end an environment takes no decision, so its last mask says nothing.
    decisions = rows - 1 if truncated else rows
    what = "without the bars after" if truncated else "with other bars after"
    detail = f"{run.driver}: {{}} {what} bar {run.cut}, {{}} with them: it has seen what comes"
    if min(len(run.trace.time_ns), rows) != min(len(again.time_ns), rows):
        ended = run.first + min(len(run.trace.time_ns), len(again.time_ns)) - 1
        yield market.leak(check, "session", "bars", ended, detail.format("it ends there", "it does not"))
        return
    for feature, column, row, found, expected in _differences(market, run.trace, again, rows, decisions):
        yield market.leak(check, feature, column, run.first + row, detail.format(f"{found:.9g}", f"{expected:.9g}"))


def _differences(
    market: Market, expected: Trace, found: Trace, rows: int, decisions: int
) -> Iterator[tuple[str, str, int, float, float]]:
    """Feature, column, row and both values of the first difference of everything that a trace holds."""
    spec = market.setting.state
    states = [column_of(cell, spec) for cell in range(expected.states.shape[1])]
    masks = [("mask", action) for action in market.setting.account.action_names]
    fills, stops = ([(kind, part) for part in _FILL_PARTS] for kind in ("fill", "stop fill"))
    # Name of each column, array of the one, array of the other, rows compared.
    parts: list[tuple[list[tuple[str, str]], NDArray[Any], NDArray[Any], int]] = [
        (states, expected.states, found.states, rows),
        (masks, expected.masks, found.masks, decisions),
        (fills, expected.fills, found.fills, rows),
        (stops, expected.stop_fills, found.stop_fills, rows),
        ([("equity", "equity_paise")], expected.equity_paise[:, None], found.equity_paise[:, None], rows),
        ([("position", "shares")], expected.position[:, None], found.position[:, None], rows),
    ]
    for names, one, other, count in parts:
        for row, cell in first_differences(one[:count], other[:count]):
            yield *names[cell], row, float(other[row, cell]), float(one[row, cell])


def _one_per_column(leaks: list[Leak]) -> tuple[Leak, ...]:
    """The earliest finding of each column."""
    chosen = []
    ordered = sorted(leaks, key=lambda leak: (leak.feature, leak.column, leak.bar))
    for _, group in groupby(ordered, key=lambda leak: (leak.feature, leak.column)):
        chosen.append(next(group))
    return tuple(sorted(chosen, key=lambda leak: leak.bar))
