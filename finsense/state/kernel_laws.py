"""The laws that the kernel of every indicator keeps on every market, and the first place where one breaks them."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from finsense.market.bars import ist_text
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.timeline import CLOSE, HIGH, LOW, OPEN, VOLUME, Timeline, timeline
from finsense.state.kernel_runs import Floats, GuardedKernel, KernelFault, folded, interpreted, stepped
from finsense.state.registry import Indicator
from finsense.state.trial_market import still_market, wild_market

# The trial markets are longer than the lookback by so many bars, so that every window has slid; but never longer than
# this, for the kernel also runs on them as plain Python.
_BARS_BEYOND = 120
_MOST_BARS = 3000
_TOLERANCE = 1e-9
_SIGNATURE = ("bar", "parameters", "memory", "out")


@dataclass(frozen=True)
class Finding:
    """A law that is broken, and where.

    Attributes:
        law: its name.
        feature: the indicator that breaks it.
        column: the column that shows it; empty where none does.
        bar: the bar's place among those given; -1 where it is not a matter of a bar.
        time_ns: its start, ns UTC; 0 where it is not a matter of a bar.
        detail: what was found and what to do.
    """

    law: str
    feature: str
    column: str
    bar: int
    time_ns: int
    detail: str

    def __str__(self) -> str:
        """The finding as one sentence."""
        place = f" at bar {self.bar} ({ist_text(self.time_ns)})" if self.bar >= 0 else ""
        column = f", column `{self.column}`" if self.column else ""
        return f"`{self.feature}` breaks the law `{self.law}`{place}{column}: {self.detail}"


@dataclass(frozen=True)
class Trial:
    """An indicator with its parameters on some bars."""

    indicator: Indicator
    parameters: Mapping[str, float]
    timeline: Timeline

    @property
    def rows(self) -> Floats:
        """(n, BAR_FIELDS) float64."""
        return self.timeline.rows

    def fresh(self) -> GuardedKernel:
        """Its compiled kernel, from a clean slate."""
        return GuardedKernel(self.indicator, self.parameters)

    def finding(self, law: str, bar: int, place: int | None, detail: str) -> Finding:
        """A finding at a bar (-1: none) and at the column `place`."""
        column = "" if place is None else self.indicator.columns(self.parameters)[place]
        time_ns = int(self.timeline.bars.time_ns[bar]) if bar >= 0 else 0
        return Finding(law, self.indicator.name, column, bar, time_ns, detail)

    def difference(self, law: str, found: Floats, expected: Floats, first: int, detail: str) -> Finding | None:
        """The first cell that is not the same to the bit; `first` is the bar of row 0."""
        if found.tobytes() == expected.tobytes():
            return None
        bar, place = np.argwhere(found.view(np.int64) != expected.view(np.int64))[0].tolist()
        text = f"{float(found[bar, place])!r} instead of {float(expected[bar, place])!r}; {detail}"
        return self.finding(law, first + bar, place, text)


def declared(trial: Trial) -> Finding | None:
    """It says what it is: four arguments, numbers as parameters, names of columns, whole numbers of cells and bars."""
    problem = declaration_problem(trial.indicator) or _layout_problem(trial.indicator, trial.parameters)
    return Finding("declared", trial.indicator.name, "", -1, 0, problem) if problem else None


def cells(trial: Trial) -> Finding | None:
    """As plain Python it keeps to its cells, changes no input, writes every column, and (`defined`) raises nothing."""
    try:
        interpreted(trial.indicator, trial.parameters, trial.rows)
    except KernelFault as fault:
        if fault.raised:
            return trial.finding("defined", fault.bar, None, f"{fault.detail}; {_bar_text(trial.rows[fault.bar])}")
        return trial.finding("cells", fault.bar, None, fault.detail)
    return None


def compiles(trial: Trial) -> Finding | None:
    """It compiles to a C function that allocates nothing."""
    try:
        trial.indicator.address  # noqa: B018  (compiled on first use)
    # numba raises what it likes on code that it cannot compile; all of it is the finding.
    except Exception as error:
        return trial.finding("compiles", -1, None, compiler_message(error))
    return None


def guarded(trial: Trial) -> Finding | None:
    """Compiled, it writes neither beside its memory and columns nor into the bar or its parameters."""
    kernel = trial.fresh()
    for bar, row in enumerate(trial.rows):
        _, kept = stepped(kernel, row)
        problem = kernel.damage() or ("" if kept else "it writes into `bar`")
        if problem:
            return trial.finding("guarded", bar, None, problem)
    return None


def defined(trial: Trial) -> Finding | None:
    """Every value is a number that float32 holds."""
    found = folded(trial.fresh(), trial.rows)
    with np.errstate(over="ignore"):
        broken = np.argwhere(~np.isfinite(found.astype(np.float32)))
    if not len(broken):
        return None
    bar, place = broken[0].tolist()
    value = found[bar, place]
    what = f"its value is {value:g}" + ("" if not math.isfinite(value) else ", too large for float32")
    return trial.finding("defined", bar, place, f"{what}; {_bar_text(trial.rows[bar])}; give it a defined value")


def pure(trial: Trial) -> Finding | None:
    """It remembers in its memory alone: run again, and beside another market, it gives the same."""
    detail = "it keeps something outside `memory`, or draws at random"
    expected = folded(trial.fresh(), trial.rows)
    again = trial.difference("pure", folded(trial.fresh(), trial.rows), expected, 0, detail)
    if again:
        return again
    here, there = trial.fresh(), trial.fresh()
    beside = []
    for row, other in zip(trial.rows, trial.rows[::-1], strict=True):
        beside.append(stepped(here, row)[0])
        stepped(there, other)
    return trial.difference("pure", np.array(beside), expected, 0, detail)


def causal(trial: Trial) -> Finding | None:
    """It reads its own bar alone: one bar at a time == all bars behind each other, whatever comes later."""
    live = trial.fresh()
    expected = np.array([stepped(live, row)[0] for row in trial.rows])
    detail = "it reads beyond its own bar, or memory that it has not declared"
    whole = trial.difference("causal", folded(trial.fresh(), trial.rows), expected, 0, detail)
    if whole:
        return whole
    cut = len(trial.rows) // 2
    altered = trial.rows.copy()
    altered[cut:] = altered[cut:][::-1] * 1.5
    return trial.difference("causal", folded(trial.fresh(), altered)[:cut], expected[:cut], 0, detail)


def anchored(trial: Trial) -> Finding | None:
    """What lies before its history does not count: dropped bars change no later session, once the window is full."""
    lookback = trial.indicator.lookback(trial.parameters)
    openings = trial.timeline.session_offsets[1:-1]
    # One bar more, so that the history begins inside a session as a rule: its first bar then only seems to open one.
    later = openings[openings > openings[:1].sum() + lookback + 1]
    if not len(later):
        return None
    opening = int(later[0])
    start = opening - lookback - 1
    whole = trial.timeline
    short = timeline(whole.bars.take(start, len(whole.bars)), whole.instrument, None)
    expected = folded(trial.fresh(), trial.rows[start:])[opening - start :]
    found = folded(trial.fresh(), short.rows)[opening - start :]
    detail = (
        f"without the bars before bar {start} its value changes, though its lookback of {lookback} bars is full: it "
        "remembers what depends on where the history begins (PREVIOUS_CLOSE and SESSION_OPENS of its first session)"
    )
    return trial.difference("anchored", found, expected, opening, detail)


def translated(trial: Trial) -> Finding | None:
    """Compiled, it computes what its Python text says."""
    plain = interpreted(trial.indicator, trial.parameters, trial.rows)
    found = folded(trial.fresh(), trial.rows)
    broken = np.argwhere(~np.isclose(found, plain, rtol=_TOLERANCE, atol=_TOLERANCE))
    if not len(broken):
        return None
    bar, place = broken[0].tolist()
    values = f"compiled {float(found[bar, place])!r}, as Python {float(plain[bar, place])!r}"
    text = f"{values}: a whole number overflowed, or it works on more than numbers"
    return trial.finding("translated", bar, place, text)


# In the order in which they rest on each other: nothing is compiled that leaves its cells.
KERNEL_LAWS: dict[str, Callable[[Trial], Finding | None]] = {
    "declared": declared,
    "cells": cells,
    "compiles": compiles,
    "guarded": guarded,
    "defined": defined,
    "pure": pure,
    "causal": causal,
    "anchored": anchored,
    "translated": translated,
}


def first_finding(
    indicator: Indicator, parameters: Mapping[str, float], timelines: Sequence[Timeline]
) -> Finding | None:
    """The first law that an indicator breaks on any of these bars; None where it keeps them all."""
    return next(_findings(indicator, parameters, timelines), None)


def trial_finding(indicator: Indicator, parameters: Mapping[str, float], seed: int = 0) -> Finding | None:
    """The first law that an indicator breaks on short random markets, of which one stands still."""
    problem = declaration_problem(indicator) or _layout_problem(indicator, parameters)
    if problem:
        return Finding("declared", indicator.name, "", -1, 0, problem)
    bars = min(indicator.lookback(parameters) + _BARS_BEYOND, _MOST_BARS)
    markets = (wild_market(bars, indicator.needs, seed), still_market(bars, indicator.needs))
    return first_finding(indicator, parameters, markets)


def _findings(
    indicator: Indicator, parameters: Mapping[str, float], timelines: Sequence[Timeline]
) -> Iterator[Finding]:
    for law in KERNEL_LAWS.values():
        for bars in timelines:
            found = law(Trial(indicator, parameters, bars))
            if found:
                yield found


def declaration_problem(indicator: Indicator) -> str:
    """What is wrong with what an indicator says of itself, whatever its parameters; empty where nothing is."""
    kernel: Any = indicator.kernel
    if isinstance(kernel, Dispatcher) or not inspect.isfunction(kernel):
        return "it must be a plain Python function; leave @njit away, @indicator compiles it"
    if not kernel.__name__.isidentifier():
        return f"it needs a name; write `def name({', '.join(_SIGNATURE)})`, found {kernel.__name__}"
    arguments = tuple(inspect.signature(kernel).parameters)
    if len(arguments) != len(_SIGNATURE):
        return f"it takes the arguments ({', '.join(_SIGNATURE)}), found ({', '.join(arguments)})"
    # A user's file is not type-checked: anything may stand where the decorator asks for numbers and names.
    given: dict[str, Any] = dict(indicator.defaults)
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 10_000:
            return f"the default of `{key}` must be a number above 0 and at most 10000, found {value!r}"
    needs: Any = indicator.needs
    if not isinstance(needs, tuple) or any(name not in EXTRA_FIELDS for name in needs):
        return f"needs= is a tuple of fields, known are {', '.join(EXTRA_FIELDS)}; found {needs!r}"
    return ""


def _layout_problem(indicator: Indicator, parameters: Mapping[str, float]) -> str:
    """What is wrong with its columns, memory or lookback under these parameters."""
    answers: dict[str, Any] = {}
    for name in ("columns", "memory", "lookback"):
        try:
            answers[name] = getattr(indicator, name)(parameters)
        # A function of the user's: whatever it raises is the finding.
        except Exception as error:
            known = ", ".join(parameters) or "none"
            return f"{name}= raises {type(error).__name__}: {error}; its parameters are: {known}"
    columns = answers["columns"]
    if not isinstance(columns, tuple) or not columns or not all(isinstance(name, str) and name for name in columns):
        return f'columns= must give a tuple of names, such as ("{indicator.name}",) with the comma; found {columns!r}'
    if len(set(columns)) < len(columns):
        return f"columns= names a column twice: {', '.join(columns)}"
    for name, least in (("memory", 0), ("lookback", 1)):
        value = answers[name]
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= 10_000_000:
            return f"{name}= must give a whole number of at least {least}, found {value!r}; write int(...)"
    return ""


def compiler_message(error: Exception) -> str:
    """Numba's reason in one line, with the line of the kernel."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    where = re.findall(r'^File "([^"]+)", line (\d+):', text, re.MULTILINE)
    place = f" (line {where[-1][1]})" if where else ""
    # What numba says of code that needs its runtime, which kernels are compiled without.
    if "NRT required" in text or "Only accept returning of array" in text:
        return f"it allocates memory{place}: no array, list, text or other object; keep numbers in `memory`"
    named = re.findall(r"(?:NumbaTypeError|NumbaValueError|UnsupportedError|NameError): (.+)", text)
    plain = [line for line in lines if not line.startswith(("Failed in", "During:", "File "))]
    reason = (named or plain or [type(error).__name__])[-1 if named else 0]
    if not named and reason.startswith("No implementation"):
        asked = [line.removeprefix(">>> ") for line in lines if line.startswith(">>> ")]
        reason = f"numba has no {asked[0]} here" if asked else reason
    return f"numba cannot compile it{place}: {reason}"


def _bar_text(row: Floats) -> str:
    prices = " ".join(f"{name} {row[field]:.10g}" for name, field in _SHOWN.items())
    return f"the bar has {prices}"


_SHOWN = {"open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE, "volume": VOLUME}
