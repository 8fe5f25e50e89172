"""Law: one bar at a time == the whole batch == after a restart == with more history, by `==`, for every indicator."""

import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import MUHURAT, SPLIT, bars_of, changed_after, rough_bars, session_times, spec_of
from numpy.typing import NDArray

from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.timeline import BAR_FIELDS, CLOSE, HIGH, LOW, VOLUME, Clock, timeline
from finsense.state.builder import HistoryError, StateBuilder, build_states
from finsense.state.kernel_runs import GuardedKernel, folded, interpreted
from finsense.state.presets import PRESETS
from finsense.state.registry import INDICATORS, Indicator, indicator
from finsense.state.spec import StateSpec

Floats = NDArray[np.float64]
OWN = "swing_of_test"
NAMES = [*INDICATORS, OWN]
SIM = instrument("SIM")


@pytest.fixture(scope="module", autouse=True)
def _own_indicator() -> Iterator[None]:
    """An indicator that a user would write, registered while these tests run."""

    @indicator(
        defaults={"window": 3},
        columns=lambda p: (f"swing_{int(p['window'])}", f"swing_count_{int(p['window'])}"),
        memory=lambda p: 2,
        lookback=lambda p: int(p["window"]),
    )
    def swing_of_test(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        """Decaying sum of the ranges, and the bars seen, of a user who knows only HIGH and LOW."""
        memory[0] += (bar[HIGH] - bar[LOW] - memory[0]) / parameters[0]
        memory[1] += 1.0
        out[0] = memory[0] / bar[LOW]
        out[1] = memory[1]

    yield
    del INDICATORS[OWN]


@st.composite
def features(draw: st.DrawFn, name: str) -> dict[str, dict[str, float]]:
    """A feature with parameters of its own."""
    parameters: dict[str, float] = {}
    for key in INDICATORS[name].defaults:
        whole = key.endswith("window")
        parameters[key] = draw(st.integers(2, 12)) if whole else draw(st.floats(0.25, 4))
    return {name: parameters}


def streamed(bars: Bars, spec: StateSpec) -> list[bytes | None]:
    """The state of every bar, one bar at a time; None where there is none yet."""
    clock, builder = Clock(SIM, bars.interval, ChargeRules()), StateBuilder(spec)
    seen: list[bytes | None] = []
    for bar in bars:
        opens = clock.advance(bar)
        seen.append((builder.update(clock.row, opens) and builder.market_state.tobytes()) or None)
    return seen


def batched(bars: Bars, spec: StateSpec) -> list[bytes | None]:
    """The same from the one compiled pass."""
    matrix = build_states(timeline(bars, SIM, ChargeRules()), spec)
    return [matrix.window(row).tobytes() if matrix.row_of_bar[row] >= 0 else None for row in range(len(bars))]


def assert_one_state(bars: Bars, spec: StateSpec, cut: int, earlier: float) -> None:
    """Streamed, batched, restarted at bar `cut`, begun earlier, with other bars after `cut`: the same bytes.

    Args:
        bars: of `rough_bars`.
        spec: the state.
        cut: a bar.
        earlier: how far before the warm-up of the cut's session a history begins, as a share of what lies there.
    """
    whole = batched(bars, spec)
    assert whole[-1] is not None
    assert streamed(bars, spec) == whole
    offsets = bars.session_offsets[:-1]
    warm = offsets[offsets >= spec.warmup]
    opening = int(warm[warm <= cut][-1]) if (warm <= cut).any() else int(warm[0])
    least = opening - spec.warmup
    short = bars.take(least, len(bars))
    # A process that dies inside a session and comes back knows the warm-up and the session so far, and nothing else.
    assert streamed(short, spec)[spec.warmup :] == whole[opening:]
    assert batched(short, spec)[spec.warmup :] == whole[opening:]
    begin = round((1.0 - earlier) * least)
    assert batched(bars.take(begin, len(bars)), spec)[opening - begin :] == whole[opening:]
    assert batched(changed_after(bars, cut, cut), spec)[: cut + 1] == whole[: cut + 1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_indicator_is_one_function_however_it_is_driven(name: str, data: st.DataObject) -> None:
    history, chosen = data.draw(st.integers(1, 4)), data.draw(features(name))
    least = spec_of(chosen, warmup=1000).features[0].lookback + history - 1
    spec = spec_of(chosen, warmup=least + data.draw(st.integers(0, 15)), history=history)
    span = data.draw(st.sampled_from([SPLIT, MUHURAT]))
    bars = rough_bars(data.draw(st.integers(0, 2**32 - 1)), *span)
    assert_one_state(bars, spec, data.draw(st.integers(0, len(bars) - 1)), data.draw(st.floats(0, 1)))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("interval", ["5m", "1d"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_every_preset_is_one_function_however_it_is_driven(preset: str, interval: str, data: st.DataObject) -> None:
    history = data.draw(st.integers(1, 6))
    least = max(feature.lookback for feature in spec_of(preset, warmup=1000).features) + history - 1
    spec = spec_of(preset, warmup=least + data.draw(st.integers(0, 40)), history=history)
    first = dt.date(2023, 4, 3) if interval == "1d" else dt.date(2023, 11, 7)
    bars = rough_bars(data.draw(st.integers(0, 2**32 - 1)), first, MUHURAT[1], interval)
    assert_one_state(bars, spec, data.draw(st.integers(0, len(bars) - 1)), data.draw(st.floats(0, 1)))


SYMBOLS = 50


@pytest.mark.parametrize("name", ["every indicator", *PRESETS])
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), history=st.integers(1, 3))
def test_fifty_symbols_bar_by_bar_in_any_order_are_fifty_symbols_alone(name: str, seed: int, history: int) -> None:
    """Their bars come interleaved, those of one moment in another order each time."""
    rng = np.random.default_rng(seed)
    names = INDICATORS if name == "every indicator" else [name]
    spec = spec_of(*names, warmup=80, history=history)
    span = dt.date(2024, 2, 26), SPLIT[1]
    markets = [rough_bars(seed + place, *span, price=float(rng.uniform(5, 5000))) for place in range(SYMBOLS)]
    clocks = [Clock(SIM, "15m", ChargeRules()) for _ in markets]
    builders = [StateBuilder(spec) for _ in markets]
    # Symbols that are listed late begin later, in the middle of a session too.
    begins = rng.integers(0, len(markets[0]) - 25 - spec.warmup, SYMBOLS)
    expected = [batched(bars.take(int(begin), len(bars)), spec) for bars, begin in zip(markets, begins, strict=True)]
    for moment, bars_now in enumerate(zip(*markets, strict=True)):
        for place in rng.permutation(np.flatnonzero(begins <= moment)).tolist():
            opens = clocks[place].advance(bars_now[place])
            ready = builders[place].update(clocks[place].row, opens)
            found = builders[place].market_state.tobytes() if ready else None
            assert found == expected[place][moment - begins[place]]
    assert all(states[-1] is not None for states in expected)


def test_all_indicators_side_by_side_do_not_disturb_each_other() -> None:
    bars = rough_bars(5, dt.date(2024, 2, 22))
    together = spec_of(*INDICATORS, warmup=110)
    matrix = build_states(timeline(bars, SIM, ChargeRules()), together)
    for name in INDICATORS:
        alone = spec_of(name, warmup=110)
        columns = [together.columns.index(column) for column in alone.columns]
        expected = build_states(timeline(bars, SIM, ChargeRules()), alone).rows
        assert matrix.rows[:, columns].tobytes() == np.ascontiguousarray(expected).tobytes()
    assert_one_state(bars, together, len(bars) - 30, 0.5)


def test_classic29_has_29_columns() -> None:
    spec = spec_of("classic29")
    assert len(spec.columns) == len(set(spec.columns)) == 29
    assert [column for column in spec.columns if column.startswith("price_change")] == [
        f"price_change_{lag}" for lag in range(19)
    ]


def test_a_session_without_its_warm_up_has_no_state() -> None:
    bars = rough_bars(1)
    spec = spec_of("rsi", warmup=30)
    matrix = build_states(timeline(bars, SIM, ChargeRules()), spec)
    starts = bars.session_offsets[:-1]
    assert matrix.first_bar == starts[starts >= 30][0]
    assert (matrix.row_of_bar[: matrix.first_bar] == -1).all()
    assert (matrix.row_of_bar[matrix.first_bar :] >= 0).all()
    with pytest.raises(HistoryError, match="the warm-up needs 30 bars"):
        matrix.window(0)
    with pytest.raises(HistoryError, match="needs 30 bars before a session, found 25 before the last one"):
        build_states(timeline(bars.between(SPLIT[0], dt.date(2024, 3, 1)), SIM, ChargeRules()), spec)


def compiled(chosen: Indicator, parameters: Mapping[str, float], rows: Floats) -> Floats:
    """The compiled kernel over all rows from a clean slate: (n, columns)."""
    return folded(GuardedKernel(chosen, parameters), rows)


def bar_rows(bars: Bars) -> Floats:
    """(n, BAR_FIELDS) float64."""
    return timeline(bars, SIM, ChargeRules()).rows


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_kernel_keeps_to_its_cells_and_fills_its_columns(name: str, data: st.DataObject) -> None:
    (feature,) = spec_of(data.draw(features(name)), warmup=60).features
    rows = bar_rows(rough_bars(data.draw(st.integers(0, 2**32 - 1)), SPLIT[0], dt.date(2024, 3, 1)))
    plain = interpreted(feature.indicator, feature.parameters, rows)
    assert np.isfinite(plain).all()
    kernel = GuardedKernel(feature.indicator, feature.parameters)
    np.testing.assert_allclose(folded(kernel, rows), plain, rtol=1e-12, atol=1e-12, equal_nan=False)
    assert kernel.damage() == ""


PRICES = st.sampled_from([0.01, 0.02, 1.0, 99.95, 100.0, 100.05, 2500.0, 9_999_999.99])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_no_market_makes_an_indicator_infinite_or_not_a_number(name: str, data: st.DataObject) -> None:
    chosen = data.draw(features(name))
    spec = spec_of(chosen, warmup=spec_of(chosen, warmup=1000).features[0].lookback)
    time_ns = session_times(SPLIT[0], dt.date(2024, 3, 6))
    runs = data.draw(st.lists(st.tuples(PRICES, st.integers(1, 30)), min_size=1, max_size=12))
    closes = np.resize(np.repeat([price for price, _ in runs], [length for _, length in runs]), len(time_ns))
    volumes = data.draw(st.lists(st.sampled_from([0, 1, 10**12]), min_size=1, max_size=9))
    bars = bars_of(time_ns, closes, volume=np.resize(volumes, len(time_ns)))
    assert np.isfinite(build_states(timeline(bars, SIM, ChargeRules()), spec).rows).all()


def test_a_market_that_does_not_move_reads_zero() -> None:
    time_ns = session_times(SPLIT[0], SPLIT[1])
    bars = bars_of(time_ns, np.full(len(time_ns), 123.45), volume=0)
    rows = build_states(timeline(bars, SIM, ChargeRules()), spec_of("classic29", warmup=40)).rows
    assert (rows == 0).all()


def ewm(values: "pd.Series[float]", factor: float) -> "pd.Series[float]":
    return values.ewm(alpha=factor, adjust=False).mean()


def expected_price_change(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    change = np.log(frame["close"]).diff().fillna(0.0)
    return [change.shift(lag, fill_value=0.0) for lag in range(int(p["window"]) - 1)]


def expected_volume_ratio(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    mean = frame["volume"].rolling(int(p["window"]), min_periods=1).mean()
    return [((1 + frame["volume"]) / (1 + mean)).map(math.log)]


def expected_rsi(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    change = frame["close"].diff().fillna(0.0)
    gain, loss = ewm(change.clip(lower=0), 1 / p["window"]), ewm(-change.clip(upper=0), 1 / p["window"])
    rsi = 100 - 100 / (1 + gain / loss)
    return [(rsi - 50) / 50]


def expected_macd(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    def average(values: "pd.Series[float]", window: float) -> "pd.Series[float]":
        return values.ewm(span=window, adjust=False).mean()

    line = average(frame["close"], p["fast_window"]) - average(frame["close"], p["slow_window"])
    signal = average(line, p["signal_window"])
    return [column / frame["close"] for column in (line, signal, line - signal)]


def expected_bollinger(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    rolling = frame["close"].rolling(int(p["window"]))
    middle, band = rolling.mean(), p["deviations"] * rolling.std(ddof=0)
    upper, lower = middle + band, middle - band
    percent_b = (frame["close"] - lower) / (upper - lower)
    return [2 * percent_b - 1, (upper - lower) / middle]


def expected_atr(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    before = frame["close"].shift()
    ranges = [frame["high"] - frame["low"], (frame["high"] - before).abs(), (frame["low"] - before).abs()]
    return [ewm(pd.concat(ranges, axis=1).max(axis=1), 1 / p["window"]) / frame["close"]]


def expected_trend(frame: pd.DataFrame, p: Mapping[str, float]) -> list["pd.Series[float]"]:
    window = int(p["window"])
    rolling = np.log(frame["close"]).rolling(window)
    slope = rolling.apply(lambda values: np.polyfit(np.arange(window), values, 1)[0] * (window - 1), raw=True)
    efficiency = rolling.apply(lambda values: (values[-1] - values[0]) / np.abs(np.diff(values)).sum(), raw=True)
    return [slope, efficiency]


FORMULAS: dict[str, Callable[[pd.DataFrame, Mapping[str, float]], list[Any]]] = {
    "price_change": expected_price_change,
    "volume_ratio": expected_volume_ratio,
    "rsi": expected_rsi,
    "macd": expected_macd,
    "bollinger": expected_bollinger,
    "atr": expected_atr,
    "trend": expected_trend,
}


def test_every_indicator_of_classic29_has_a_formula_here() -> None:
    assert set(FORMULAS) == {name for name, _ in PRESETS["classic29"]}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scale", [1, 2])
def test_values_are_those_of_the_textbook(name: str, scale: int) -> None:
    chosen = INDICATORS[name]
    parameters = {key: value * scale for key, value in chosen.defaults.items()}
    time_ns = session_times(dt.date(2024, 1, 1), dt.date(2024, 1, 15))
    rng = np.random.default_rng(8)
    closes = 500 * np.exp(np.cumsum(rng.normal(0, 0.01, len(time_ns))))
    opens = closes * np.exp(rng.normal(0, 0.01, len(time_ns)))
    rows = bar_rows(bars_of(time_ns, closes, open_=opens, volume=rng.integers(0, 10**7, len(time_ns))))
    frame = pd.DataFrame(
        {"high": rows[:, HIGH], "low": rows[:, LOW], "close": rows[:, CLOSE], "volume": rows[:, VOLUME]}
    )
    expected = np.stack([np.asarray(column) for column in FORMULAS[name](frame, parameters)], axis=1)
    found = compiled(chosen, parameters, rows)
    full = chosen.lookback(parameters) - 1
    assert found.shape == expected.shape
    assert np.abs(expected[full:]).min() > 0
    np.testing.assert_allclose(found[full:], expected[full:], rtol=1e-8, atol=1e-11)


def test_the_trend_before_its_window_is_full_takes_the_first_close_for_the_missing() -> None:
    closes = np.array([100.0, 101.0, 99.0, 103.0, 104.5])
    rows = np.ones((5, BAR_FIELDS))
    rows[:, CLOSE] = closes
    found = compiled(INDICATORS["trend"], {"window": 4.0}, rows)
    padded = compiled(INDICATORS["trend"], {"window": 4.0}, np.concatenate([rows[[0, 0, 0]], rows]))
    np.testing.assert_allclose(found, padded[3:], rtol=0, atol=0)
