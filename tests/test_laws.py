"""The laws as library code: they pass what is sound and name what is planted, with its feature and bar."""

import datetime as dt
import math
from typing import Any

import numpy as np
import pytest
from markets import MUHURAT, SPLIT, bars_of, rough_bars, session_times, spec_of

from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.timeline import (
    BAR_FIELDS,
    CLOSE,
    INDEX_CLOSE,
    PREVIOUS_CLOSE,
    SESSION_OPENS,
    VOLUME,
    Timeline,
    timeline,
)
from finsense.state import laws
from finsense.state.builder import HistoryError, StateMatrix, build_states
from finsense.state.kernel_laws import KERNEL_LAWS, Trial, first_finding, trial_finding
from finsense.state.kernel_runs import GuardedKernel, folded, interpreted, stepped
from finsense.state.laws import LAWS, Case, check_laws
from finsense.state.registry import INDICATORS, Indicator, registering_into
from finsense.state.registry import indicator as register
from finsense.state.spec import StateSpec
from finsense.state.trial_market import still_market, wild_market

FIVE_DAYS = rough_bars(3, dt.date(2024, 2, 26), SPLIT[1])


def line_of(bars: Bars) -> Timeline:
    return timeline(bars, instrument(bars.symbol), None)


def planted(kernel: Any, *columns: str, memory: int = 2, lookback: int = 1, needs: tuple[str, ...] = ()) -> Indicator:
    """An indicator that no check has seen."""
    with registering_into({}):
        return register(
            defaults={"window": 3},
            columns=lambda p: columns or ("planted",),
            memory=lambda p: memory,
            lookback=lambda p: lookback,
            needs=needs,
        )(kernel)


@pytest.fixture
def state_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A state of a planted indicator beside a sound one."""

    def make(planted: Indicator, warmup: int = 30, history: int = 1) -> StateSpec:
        monkeypatch.setitem(INDICATORS, planted.name, planted)
        return spec_of({"log_return": {"window": 5}}, planted.name, warmup=warmup, history=history)

    return make


# What somebody writes who does not know the rules. One line each where that is enough.


def reads_ahead(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = bar[BAR_FIELDS + CLOSE]


def needs_one_more_cell(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    slot = int(memory[0])
    memory[1 + slot] = bar[CLOSE]
    memory[0] = (slot + 1) % int(parameters[0])
    out[0] = memory[1]


def writes_the_bar(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    bar[CLOSE] = 1.0
    out[0] = 1.0


def writes_its_parameters(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    parameters[0] += 1.0
    out[0] = parameters[0]


def writes_beside_out(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = out[1] = 1.0


def leaves_a_column(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    if bar[VOLUME] > 0:
        out[0] = 1.0


def reads_the_index(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = bar[INDEX_CLOSE]


def divides_by_volume(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = 1.0 / bar[VOLUME]


def logs_volume(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = np.log(bar[VOLUME])


def overflows_float32(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = bar[CLOSE] ** 12


def overflows_int64(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    doubled = 1
    for _ in range(70):
        doubled *= 2
    out[0] = float(doubled)


def draws(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = np.random.random()  # noqa: NPY002


def allocates(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    window = np.zeros(3)
    window[0] = bar[CLOSE]
    out[0] = window.sum()


def makes_a_list(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    out[0] = max([bar[CLOSE], memory[0]])


COUNTS = np.zeros(1)


def counts_in_a_global(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    COUNTS[0] += 1.0
    out[0] = COUNTS[0]


def remembers_the_close_before(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    memory[0] += bar[PREVIOUS_CLOSE]
    out[0] = memory[0] / bar[CLOSE]


def counts_openings(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    memory[0] += bar[SESSION_OPENS]
    out[0] = memory[0]


def takes_three(bar, memory, out):  # type: ignore[no-untyped-def]
    out[0] = 1.0


def prints(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    print(bar[CLOSE])  # noqa: T201
    out[0] = 1.0


def sound(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    memory[0] += (math.log(bar[CLOSE]) - memory[0]) / parameters[0]
    out[0] = math.log(bar[CLOSE]) - memory[0]


PLANTED: list[tuple[Indicator, str, str]] = [
    (planted(reads_ahead), "cells", "it reads `bar[31]`, but `bar` has 28 cells"),
    (planted(needs_one_more_cell, memory=3), "cells", "it writes `memory[3]`, but `memory` has 3 cells; declare more"),
    (planted(writes_the_bar), "cells", "it writes into its input `bar`"),
    (planted(writes_its_parameters), "cells", "it writes into its input `parameters`"),
    (planted(writes_beside_out), "cells", "it writes `out[1]`, but `out` has 1 cells"),
    (planted(leaves_a_column), "cells", "it leaves out[0], column `planted`, unwritten"),
    (planted(sound, "one", "two"), "cells", "it leaves out[1], column `two`, unwritten"),
    (planted(reads_the_index), "cells", 'add needs=("index_close",) to its decorator'),
    (planted(prints), "cells", "it prints, which compiled code here cannot"),
    (planted(divides_by_volume), "defined", "it raises ZeroDivisionError: float division by zero (test_laws.py, line "),
    (planted(logs_volume), "defined", "its value is -inf; the bar has open 300"),
    (planted(overflows_float32), "defined", "too large for float32"),
    (planted(overflows_int64), "translated", "a whole number overflowed"),
    (planted(draws), "pure", "draws at random"),
    (planted(allocates), "compiles", "it allocates memory (line "),
    (planted(makes_a_list), "compiles", "it allocates memory (line "),
    (planted(counts_in_a_global), "compiles", "Cannot modify readonly array"),
    (planted(remembers_the_close_before), "anchored", "depends on where the history begins"),
    (planted(counts_openings), "anchored", "depends on where the history begins"),
    (
        planted(takes_three),
        "declared",
        "it takes the arguments (bar, parameters, memory, out), found (bar, memory, out)",
    ),
    (planted(sound, "a", "a"), "declared", "names a column twice: a, a"),
    (planted(sound, memory=-1), "declared", "memory= must give a whole number of at least 0, found -1"),
    (planted(sound, memory=2.0), "declared", "found 2.0; write int(...)"),  # type: ignore[arg-type]
    (planted(sound, lookback=0), "declared", "lookback= must give a whole number of at least 1, found 0"),
    (planted(sound, needs=("index_clse",)), "declared", "known are index_close, "),
]


@pytest.mark.parametrize(("one", "law", "detail"), PLANTED, ids=lambda value: getattr(value, "name", None))
def test_a_planted_fault_is_named(one: Indicator, law: str, detail: str) -> None:
    found = trial_finding(one, {"window": 3.0})
    assert found is not None
    assert (found.law, found.feature) == (law, one.name)
    assert detail in found.detail
    assert f"`{one.name}` breaks the law `{law}`" in str(found)
    if law in ("cells", "defined", "pure", "anchored", "translated"):
        assert found.bar >= 0
        assert "IST)" in str(found)


def test_every_kernel_law_catches_something() -> None:
    # `guarded` and `causal` stand behind `cells`, which sees the same from the Python text; they have a test below.
    assert {law for _, law, _ in PLANTED} == set(KERNEL_LAWS) - {"guarded", "causal"}


@pytest.mark.parametrize(
    ("kernel", "law", "detail"),
    [
        (reads_ahead, "causal", "it reads beyond its own bar"),
        (writes_the_bar, "guarded", "it writes into `bar`"),
        (writes_its_parameters, "guarded", "it writes into `parameters`"),
        (writes_beside_out, "guarded", "it writes outside `out`"),
        (needs_one_more_cell, "guarded", "it writes outside `memory`"),
    ],
)
def test_the_compiled_kernel_is_watched_too(kernel: Any, law: str, detail: str) -> None:
    """What reaches machine code by a way that the Python text does not show."""
    one = planted(kernel, memory=3 if kernel is needs_one_more_cell else 2)
    found = KERNEL_LAWS[law](Trial(one, {"window": 3.0}, wild_market(60)))
    assert found is not None
    assert found.law == law
    assert detail in found.detail


def test_a_sound_indicator_keeps_every_law() -> None:
    assert trial_finding(planted(sound), {"window": 3.0}) is None
    assert first_finding(planted(sound), {"window": 3.0}, [line_of(FIVE_DAYS)]) is None


@pytest.mark.parametrize("name", INDICATORS)
def test_every_registered_indicator_keeps_the_laws_of_kernels(name: str) -> None:
    one = INDICATORS[name]
    assert trial_finding(one, {key: float(value) for key, value in one.defaults.items()}) is None


@pytest.mark.parametrize("preset", ["classic29", "core"])
def test_presets_keep_every_law(preset: str) -> None:
    bars = rough_bars(4, dt.date(2024, 2, 1), SPLIT[1])
    assert check_laws(line_of(bars), spec_of(preset, warmup=130), seed=5) == _warm_up_only(preset, bars)


def _warm_up_only(preset: str, bars: Bars) -> list[Any]:
    """With so short a warm-up the averages have not settled; nothing else may be found."""
    return list(LAWS["warm_up"](Case(line_of(bars), spec_of(preset, warmup=130))))


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(("first", "last", "interval"), [(*MUHURAT, "15m"), (dt.date(2024, 1, 1), SPLIT[1], "1d")])
def test_a_small_state_keeps_every_law(first: dt.date, last: dt.date, interval: str, history: int) -> None:
    bars = rough_bars(6, first, last, interval)
    spec = spec_of({"log_return": {"window": 4}}, "session_left", {"dc": {"window": 5}}, warmup=12, history=history)
    assert check_laws(line_of(bars), spec) == []


def test_a_value_that_is_none_is_found_at_its_bar_and_column(state_of: Any) -> None:
    def lame(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        out[0] = bar[CLOSE]
        out[1] = math.inf if bar[CLOSE] > 250.0 else 0.0

    time_ns = session_times(dt.date(2024, 2, 26), SPLIT[1])
    close = np.full(len(time_ns), 100.0)
    close[[60, 90]] = 300.0
    line = line_of(bars_of(time_ns, close))
    findings = check_laws(line, state_of(planted(lame, "fine", "lame"), history=2))
    of_builder = [found for found in findings if found.law == "definedness"]
    assert [(found.feature, found.column, found.bar) for found in of_builder] == [("lame", "lame", 60)]
    assert of_builder[0].time_ns == time_ns[60]
    assert [found.bar for found in findings if found.law == "defined"] == [60]


def test_randomness_breaks_restart_and_streaming(state_of: Any) -> None:
    findings = check_laws(line_of(FIVE_DAYS), state_of(planted(draws)))
    assert {"pure", "earlier_bars", "streaming", "restart", "interleaved"} <= {found.law for found in findings}
    assert {found.feature for found in findings} == {"draws"}


def test_a_memory_of_where_the_history_begins_is_found(state_of: Any) -> None:
    findings = check_laws(line_of(FIVE_DAYS), state_of(planted(remembers_the_close_before)))
    assert {"anchored", "earlier_bars", "restart"} <= {found.law for found in findings}


def test_a_warm_up_that_is_too_short_is_found(state_of: Any) -> None:
    def slow(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        memory[0] += (bar[CLOSE] - memory[0]) / 200.0
        out[0] = memory[0] / bar[CLOSE]

    (found,) = check_laws(line_of(FIVE_DAYS), state_of(planted(slow)))
    assert (found.law, found.column) == ("warm_up", "planted")
    assert "a warm-up of 60 bars instead of 30 changes it by" in found.detail


def test_a_scaling_over_all_bars_is_a_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classic leak: columns divided by their deviation over the whole file, in the batch alone."""

    def leaky(line: Timeline, spec: StateSpec) -> StateMatrix:
        states = build_states(line, spec)
        scaled = states.rows / np.maximum(states.rows.std(axis=0), 1e-9)
        return StateMatrix(spec, scaled, states.row_of_bar, states.first_bar)

    monkeypatch.setattr(laws, "build_states", leaky)
    case = Case(line_of(FIVE_DAYS), spec_of({"rsi": {"window": 5}}, warmup=30))
    for name in ("later_bars", "earlier_bars", "streaming", "restart", "interleaved"):
        found = list(LAWS[name](case))
        assert found, name
        assert {one.column for one in found} == {"rsi_5"}
        assert all(0 <= one.bar < len(FIVE_DAYS) for one in found)


def test_findings_are_the_same_for_one_seed(state_of: Any) -> None:
    spec = state_of(planted(remembers_the_close_before))
    assert check_laws(line_of(FIVE_DAYS), spec, seed=3) == check_laws(line_of(FIVE_DAYS), spec, seed=3)


def test_bars_without_a_warm_session_are_refused() -> None:
    with pytest.raises(HistoryError, match="the warm-up needs 150 bars"):
        check_laws(line_of(rough_bars(1)), spec_of("rsi"))


def test_the_python_of_a_kernel_is_what_it_runs() -> None:
    bars = line_of(FIVE_DAYS)
    for name in ("kama", "session_range", "price_change"):
        one = INDICATORS[name]
        parameters = {key: float(value) for key, value in one.defaults.items()}
        found = folded(GuardedKernel(one, parameters), bars.rows)
        np.testing.assert_allclose(interpreted(one, parameters, bars.rows), found, rtol=1e-12, atol=1e-12)
        alone, kept = stepped(GuardedKernel(one, parameters), bars.rows[0])
        assert kept
        assert alone.tobytes() == found[0].tobytes()


@pytest.mark.parametrize("least", [1, 120, 3000])
def test_the_trial_markets_have_what_disturbs(least: int) -> None:
    wild, still = wild_market(least, ("index_close", "ticks", "spread")), still_market(least, ("vix_close", "ticks"))
    for line in (wild, still):
        assert least <= len(line.bars) < least + 26

    assert (still.rows[:, CLOSE] == still.rows[0, CLOSE]).all()
    assert (still.rows[:, VOLUME] == 0).all()
    if least > 100:
        assert wild.bars.low.min() == 0.01
        assert wild.bars.high.max() > 9_000_000
        assert (wild.bars.volume == 0).any()
        assert (wild.bars.volume == 10**12).any()
    assert wild_market(least).rows.tobytes() == wild_market(least).rows.tobytes()
