"""The state's spec as a user writes it, its hash, and the scaler that is fitted on it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from markets import MUHURAT, SPLIT, rough_bars, small_spec, spec_of, tape_of
from numpy.typing import NDArray
from pydantic import ValidationError

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.state.kernel_laws import declaration_problem
from finsense.state.presets import PRESETS
from finsense.state.registry import INDICATORS, indicator
from finsense.state.scaler import CLIP, ScalerError, fit_scaler
from finsense.state.spec import StateSpec

Matrix = NDArray[np.float32]


def test_the_spec_spells_everything_out() -> None:
    spec = spec_of("rsi", {"trend": {"window": 7}}, warmup=33, history=2)
    assert spec.model_dump() == {
        "features": (
            {"name": "rsi", "parameters": {"window": 14.0}},
            {"name": "trend", "parameters": {"window": 7.0}},
        ),
        "warmup": 33,
        "history": 2,
    }
    assert spec.columns == ("rsi_14", "trend_slope_7", "trend_efficiency_7")
    assert spec.width == 6


@pytest.mark.parametrize(
    "spec",
    [
        spec_of("classic29", "session_left"),
        spec_of({"bollinger": {"deviations": 2.5}}, history=3),
        small_spec(),
    ],
)
def test_a_spec_survives_its_own_text(spec: StateSpec) -> None:
    again = StateSpec.model_validate_json(spec.canonical())
    assert again == spec
    assert again.hash() == spec.hash()
    assert StateSpec.model_validate(spec.model_dump()) == spec


def test_equal_specs_have_equal_hashes_however_they_are_written() -> None:
    parts: list[Any] = [{name: parameters} for name, parameters in PRESETS["classic29"]]
    assert spec_of("classic29").hash() == spec_of(*parts).hash()
    assert spec_of("rsi").hash() == spec_of({"rsi": {"window": 14}}).hash() == spec_of({"rsi": None}).hash()


def test_whatever_changes_the_state_changes_the_hash() -> None:
    specs = [
        spec_of("classic29"),
        spec_of("classic29", warmup=151),
        spec_of("classic29", history=2),
        spec_of("classic29", "session_left"),
        spec_of("session_left", "classic29"),
        spec_of({"rsi": {"window": 13}}),
        spec_of("rsi"),
        spec_of("bollinger"),
        spec_of({"bollinger": {"deviations": 2.01}}),
    ]
    assert len({spec.hash() for spec in specs}) == len(specs)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (["rsy"], "unknown indicator or preset `rsy`; did you mean `rsi`?"),
        (["clasic29"], "did you mean `classic29`?"),
        (["RSI"], "unknown indicator or preset `RSI`; did you mean `rsi` or `tsi`?"),
        (["zebra"], "unknown indicator or preset `zebra`; `finsense features list` has them all"),
        (["mine.py"], "`mine.py` names a file; name the indicator in it too: `mine.py:function`"),
        ([{"rsi": {"windw": 3}}], "unknown parameter `windw` of `rsi`; did you mean `window`? known: window"),
        ([{"session_left": {"window": 3}}], "unknown parameter `window` of `session_left` known: none"),
        ([{"rsi": {"window": 2.5}}], "`window` of `rsi` counts bars and must be whole, found 2.5"),
        ([{"rsi": {"window": 0}}], "must be above 0 and at most 10000, found 0"),
        ([{"rsi": {"window": -3}}], "found -3"),
        ([{"rsi": {"window": float("nan")}}], "found nan"),
        ([{"rsi": {"window": float("inf")}}], "found inf"),
        ([{"rsi": {"window": True}}], "found True"),
        ([{"rsi": {"window": "3"}}], "found '3'"),
        ([{"rsi": [3]}], "a feature is a name or"),
        ([3], "a feature is a name or"),
        (
            [{"rsi": None, "window": 7}],
            "found {'rsi': None, 'window': 7}; its parameters stand indented below its name",
        ),
        ("rsi", "features is a list of presets and indicators, found 'rsi'"),
        ([], "features must name at least one preset or indicator, found an empty list"),
        (["classic29", "rsi"], "the same column stands twice: rsi_14; among the features `rsi` stands more than once"),
        (["core", "full"], "the same column stands twice: price_change_0, price_change_1, price_change_2 and "),
        (["rsi", "rsi"], "the same column stands twice: rsi_14"),
        # A window of one close has no difference: without this, the kernel would write into its neighbour's memory.
        ([{"price_change": {"window": 1}}], "`price_change` has no column with parameters {'window': 1.0}"),
    ],
)
def test_an_impossible_spec_is_refused(features: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StateSpec.model_validate({"features": features})
    assert message in str(caught.value)


def test_the_warm_up_must_cover_every_window() -> None:
    assert spec_of("macd", warmup=34).warmup == 34
    with pytest.raises(ValidationError, match="warmup must be at least 34 bars: `macd` looks back 34 bars"):
        spec_of("macd", warmup=33)
    with pytest.raises(ValidationError, match=r"warmup must be at least 37 bars: .*history is 4; found warmup 34"):
        spec_of("macd", warmup=34, history=4)


@pytest.mark.parametrize("name", INDICATORS)
def test_every_indicator_tells_what_it_is(name: str) -> None:
    known = INDICATORS[name]
    parameters = {key: float(value) for key, value in known.defaults.items()}
    columns = known.columns(parameters)
    assert len(set(columns)) == len(columns) > 0
    assert known.memory(parameters) >= 0
    assert known.lookback(parameters) >= 1
    assert known.name == name
    assert declaration_problem(known) == ""
    assert "unit" in (known.kernel.__doc__ or "").lower()


def test_an_indicator_is_registered_once() -> None:
    with pytest.raises(ValueError, match="an indicator named `rsi` is registered already"):

        @indicator(defaults={}, columns=lambda p: ("rsi",), memory=lambda p: 0, lookback=lambda p: 1)
        def rsi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
            """Another one of that name."""

    assert INDICATORS["rsi"].defaults == {"window": 14}


ROWS = arrays(np.float32, st.tuples(st.integers(2, 20), st.just(3)), elements=st.floats(-1e6, 1e6, width=32))


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, history=st.integers(1, 3))
def test_scaled_rows_are_bounded_and_the_account_passes_unchanged(rows: Matrix, history: int) -> None:
    scaler = fit_scaler(rows, history, 2)
    account = np.full((len(rows), 2), 0.375, np.float32)
    states = np.concatenate([np.tile(rows, history), account], axis=1)
    scaled = scaler.apply(states)
    assert scaled.dtype == np.float32
    assert scaled.shape == states.shape
    assert np.isfinite(scaled).all()
    assert (np.abs(scaled) <= CLIP).all()
    assert (scaled[:, -2:] == account).all()
    for place in range(1, history):
        assert (scaled[:, 3 * place : 3 * place + 3] == scaled[:, :3]).all()


def test_the_scaler_centres_its_training_rows() -> None:
    rows = np.random.default_rng(0).normal([5, -300, 0.001], [2, 50, 0.0002], (4000, 3)).astype(np.float32)
    scaled = fit_scaler(rows, 1, 0).apply(rows)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-4)


def test_a_column_that_does_not_vary_is_only_centred() -> None:
    rows = np.array([[3.0, 1.0], [3.0, 2.0]], np.float32)
    scaler = fit_scaler(rows, 1, 0)
    assert scaler.factor[0] == 1
    assert scaler.apply(rows).tolist() == [[0, -1], [0, 1]]


def test_a_freak_value_is_cut() -> None:
    scaler = fit_scaler(np.array([[0.0], [1.0]], np.float32), 1, 0)
    assert scaler.apply(np.array([[1e30], [-1e30]], np.float32)).tolist() == [[CLIP], [-CLIP]]


def test_the_scaler_refuses_what_it_cannot_fit() -> None:
    with pytest.raises(ScalerError, match="at least two training rows to fit a scaler, found 1"):
        fit_scaler(np.zeros((1, 3), np.float32), 1, 0)
    rows = np.zeros((4, 3), np.float32)
    rows[2, 1] = np.nan
    with pytest.raises(ScalerError, match="training row 2 has a value that is not finite in column 1"):
        fit_scaler(rows, 1, 0)


def test_the_training_rows_are_those_of_the_tradable_bars_alone() -> None:
    spec = small_spec(history=3)
    one, two = rough_bars(1), rough_bars(2, *MUHURAT, symbol="SIMTWO")
    tape = tape_of(one, two, spec=spec)
    expected = []
    for bars, span in ((one, SPLIT), (two, MUHURAT)):
        alone = tape_of(bars.between(*span), spec=spec)
        first, last = alone.spans[0]
        expected += [alone.states[alone.state_of_bar[bar]] for bar in range(first, last + 1)]
    assert tape.training_rows().tobytes() == np.stack(expected).tobytes()
    assert tape.training_rows().shape == (int(np.diff(tape.spans).sum()) + 2, len(spec.columns))
    assert len(ACCOUNT_FEATURES) == 5
