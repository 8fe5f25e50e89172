"""The laws that a state keeps on any bars, for tests and for `finsense features verify`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import PRICE_LIMIT, PRICE_MIN, Bars
from finsense.market.timeline import Clock, Timeline, timeline
from finsense.state.builder import StateBuilder, StateMatrix, build_states
from finsense.state.kernel_laws import KERNEL_LAWS as KERNEL_LAWS
from finsense.state.kernel_laws import Finding as Finding
from finsense.state.kernel_laws import first_finding
from finsense.state.spec import StateSpec

# A kernel is slow as plain Python, so its own laws are checked on the last so many bars.
_KERNEL_BARS = 400
# Sessions whose states are built again in other ways, drawn at random besides the first and the last.
_SESSIONS_DRAWN = 3
# The largest change that a column may show when the warm-up is doubled, in its standard deviations.
WARM_UP_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Case:
    """A state on some bars, and the sessions on which it is built again.

    Attributes:
        timeline: the bars.
        spec: the state.
        seed: of what is drawn at random.
    """

    timeline: Timeline
    spec: StateSpec
    seed: int = 0

    @cached_property
    def states(self) -> StateMatrix:
        """The states of all bars in one pass: what everything is held against."""
        return build_states(self.timeline, self.spec)

    @cached_property
    def sessions(self) -> list[tuple[int, int]]:
        """First bar and end (exclusive) of the first, the last and some other sessions that have a state."""
        offsets = self.timeline.session_offsets
        places = np.flatnonzero(offsets[:-1] >= self.states.first_bar)
        drawn = self.random().choice(places, min(_SESSIONS_DRAWN, len(places)), replace=False)
        chosen = sorted({int(places[0]), int(places[-1]), *drawn.tolist()})
        return [(int(offsets[place]), int(offsets[place + 1])) for place in chosen]

    def random(self) -> np.random.Generator:
        """The same stream of numbers at every call."""
        return np.random.default_rng(self.seed)

    def bars_from_warmup(self, opening: int, stop: int) -> Bars:
        """The bars of a session and the warm-up before it, and no others."""
        return self.timeline.bars.take(opening - self.spec.warmup, stop)

    def finding(self, law: str, bar: int, cell: int, detail: str) -> Finding:
        """A finding at a cell of a stacked state."""
        columns = [(feature.name, column) for feature in self.spec.features for column in feature.columns]
        feature, column = columns[cell % len(columns)]
        return Finding(law, feature, column, bar, int(self.timeline.bars.time_ns[bar]), detail)

    def differences(
        self, law: str, first: int, found: Iterable[NDArray[np.float32] | None], detail: str
    ) -> Iterator[Finding]:
        """The first cell in which the states of the bars from `first` on are not those of the one pass, to the bit."""
        for bar, state in enumerate(found, first):
            expected = self.states.window(bar)
            if state is None:
                yield self.finding(law, bar, 0, f"there is no state; {detail}")
                return
            if state.tobytes() != expected.tobytes():
                cell = int(np.flatnonzero(state.view(np.uint32) != expected.view(np.uint32))[0])
                values = f"{float(state[cell])!r} instead of {float(expected[cell])!r}"
                yield self.finding(law, bar, cell, f"{values}; {detail}")
                return


def definedness(case: Case) -> Iterator[Finding]:
    """No NaN and no infinity leaves the builder; the first bar of each column that does."""
    states = case.states
    for place in np.flatnonzero(~np.isfinite(states.rows).all(axis=0)).tolist():
        row = int(np.flatnonzero(~np.isfinite(states.rows[:, place]))[0])
        # A row of the stacked history before a session belongs to the state of the session's first bar.
        bar = states.first_bar + int(np.searchsorted(states.row_of_bar[states.first_bar :], row))
        yield case.finding("definedness", bar, place, f"its value is {states.rows[row, place]:g}")


def later_bars(case: Case) -> Iterator[Finding]:
    """A state does not know what comes: neither other bars after it nor none at all change it."""
    rng = case.random()
    for opening, stop in case.sessions:
        bars = case.bars_from_warmup(opening, stop)
        cut = int(rng.integers(1, stop - opening + 1))
        kept = case.spec.warmup + cut
        detail = f"it changes when the bars from bar {opening + cut} on change, so it has seen them"
        for other in (_altered(bars, kept, rng), bars.take(0, kept)):
            yield from case.differences("later_bars", opening, _built(case, other, cut), detail)


def earlier_bars(case: Case) -> Iterator[Finding]:
    """A state needs its session and the warm-up before it, and no bar before them."""
    for opening, stop in case.sessions:
        detail = f"it changes when the bars before bar {opening - case.spec.warmup} are dropped"
        found = _built(case, case.bars_from_warmup(opening, stop), stop - opening)
        yield from case.differences("earlier_bars", opening, found, detail)


def streaming(case: Case) -> Iterator[Finding]:
    """One bar at a time == all at once, for a process that has run since the session before."""
    offsets = case.timeline.session_offsets
    for opening, stop in case.sessions:
        place = int(np.searchsorted(offsets, opening - case.spec.warmup, side="right")) - 1
        start = int(offsets[max(place - 1, 0)])
        bars = case.timeline.bars.take(start, stop)
        found = _streamed(case, bars)[opening - start :]
        yield from case.differences("streaming", opening, found, "one bar at a time is not all at once")


def restart(case: Case) -> Iterator[Finding]:
    """A process that dies in a session and comes back, with the warm-up and the session so far, goes on alike."""
    rng = case.random()
    for opening, stop in case.sessions:
        died = int(rng.integers(opening, stop))
        found = _streamed(case, case.bars_from_warmup(opening, stop))[case.spec.warmup + died - opening :]
        yield from case.differences("restart", died, found, f"restarted before bar {died}, it goes on otherwise")


def interleaved(case: Case) -> Iterator[Finding]:
    """Another symbol beside it, bar by bar in turn, changes nothing."""
    rng = case.random()
    opening, stop = case.sessions[-1]
    bars = case.bars_from_warmup(opening, stop)
    beside = _altered(bars, 0, rng)
    clocks = [Clock(case.timeline.instrument, bars.interval, None) for _ in range(2)]
    builders = [StateBuilder(case.spec) for _ in range(2)]
    found: list[NDArray[np.float32] | None] = []
    for bar, other in zip(bars, beside, strict=True):
        opens = clocks[0].advance(bar)
        ready = builders[0].update(clocks[0].row, opens)
        opens = clocks[1].advance(other)
        builders[1].update(clocks[1].row, opens)
        found.append(builders[0].market_state.copy() if ready else None)
    detail = "another symbol's bars in between change it: something is kept outside the memory"
    yield from case.differences("interleaved", opening, found[case.spec.warmup :], detail)


def warm_up(case: Case) -> Iterator[Finding]:
    """Twice the warm-up changes no column by more than a thousandth of its standard deviation.

    Where there is no session with twice the warm-up before it, there is nothing to compare.
    """
    longer = case.spec.model_copy(update={"warmup": 2 * case.spec.warmup})
    if case.timeline.session_offsets[-2] < longer.warmup:
        return
    twice = build_states(case.timeline, longer)
    once = case.states.rows[case.states.row_of_bar[twice.first_bar :]].astype(np.float64)
    # What is not finite is a finding of `definedness`, and of no other law.
    with np.errstate(invalid="ignore"):
        change = np.abs(twice.rows[twice.row_of_bar[twice.first_bar :]] - once)
        allowed = WARM_UP_TOLERANCE * once.std(axis=0)
    for place in np.flatnonzero((change > allowed).any(axis=0)).tolist():
        row = int(change[:, place].argmax())
        share = change[row, place] / max(allowed[place], 1e-300) * WARM_UP_TOLERANCE
        detail = (
            f"a warm-up of {longer.warmup} bars instead of {case.spec.warmup} changes it by {share:.2g} of its "
            f"standard deviation; raise state.warmup until that is below {WARM_UP_TOLERANCE:g}"
        )
        yield case.finding("warm_up", twice.first_bar + row, place, detail)


# Name -> law; each yields its findings. The laws of the single kernels are KERNEL_LAWS.
LAWS: dict[str, Callable[[Case], Iterator[Finding]]] = {
    "definedness": definedness,
    "later_bars": later_bars,
    "earlier_bars": earlier_bars,
    "streaming": streaming,
    "restart": restart,
    "interleaved": interleaved,
    "warm_up": warm_up,
}


def check_laws(timeline: Timeline, spec: StateSpec, seed: int = 0) -> list[Finding]:
    """Everything that is broken on these bars: each feature's kernel alone, then the state as a whole.

    Args:
        timeline: bars with at least one session that has its warm-up.
        spec: the state.
        seed: of the sessions and bars that are drawn.

    Raises:
        HistoryError: no session has its warm-up.
        MissingFieldsError: a feature reads what the bars do not know.
    """
    case = Case(timeline, spec, seed)
    findings = [*definedness(case), *_kernel_findings(case)]
    for name, law in LAWS.items():
        findings += [] if name == "definedness" else law(case)
    return findings


def _kernel_findings(case: Case) -> Iterator[Finding]:
    """The first law that each feature's kernel breaks on the last bars."""
    bars = case.timeline.bars
    first = max(0, len(bars) - _KERNEL_BARS)
    last_bars = timeline(bars.take(first, len(bars)), case.timeline.instrument, None)
    for feature in case.spec.features:
        found = first_finding(feature.indicator, feature.parameters, [last_bars])
        if found:
            place = found.bar + first if found.bar >= 0 else -1
            yield Finding(found.law, found.feature, found.column, place, found.time_ns, found.detail)


def _built(case: Case, bars: Bars, count: int) -> Iterator[NDArray[np.float32]]:
    """The states of the `count` bars behind the warm-up, in one pass over these bars alone."""
    states = build_states(timeline(bars, case.timeline.instrument, None), case.spec)
    return (states.window(case.spec.warmup + place) for place in range(count))


def _streamed(case: Case, bars: Bars) -> list[NDArray[np.float32] | None]:
    """The state of every bar, one bar at a time; None where there is none yet."""
    clock, builder = Clock(case.timeline.instrument, bars.interval, None), StateBuilder(case.spec)
    found: list[NDArray[np.float32] | None] = []
    for bar in bars:
        opens = clock.advance(bar)
        found.append(builder.market_state.copy() if builder.update(clock.row, opens) else None)
    return found


def _altered(bars: Bars, cut: int, rng: np.random.Generator) -> Bars:
    """The bars with other prices, volumes and extras from the row `cut` on."""
    order = np.concatenate([np.arange(cut), cut + rng.permutation(len(bars) - cut)])
    factor = np.where(np.arange(len(bars)) < cut, 1.0, rng.uniform(0.5, 1.5, len(bars)))
    open_, high, low, close = (
        np.clip(prices * factor, PRICE_MIN, np.nextafter(PRICE_LIMIT, 0))
        for prices in (bars.open, bars.high, bars.low, bars.close)
    )
    extra = {name: values[order] for name, values in bars.extra.items()}
    volume = bars.volume[order]
    return Bars(bars.symbol, bars.interval, bars.time_ns, open_, high, low, close, volume, bars.derivatives, extra)
