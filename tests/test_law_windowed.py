"""Law: a windowed indicator knows its last `lookback` bars alone, so a longer warm-up changes not a bit of it."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indicator_oracles import Floats, feature_of, fold
from markets import rough_bars, spec_of

from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.state.builder import build_states
from finsense.state.registry import INDICATORS
from finsense.state.windows import Windowed

WINDOWED = sorted(name for name, known in INDICATORS.items() if isinstance(known.lookback, Windowed))
SIM = instrument("SIM")


def drawn_parameters(data: st.DataObject, name: str) -> dict[str, float]:
    """Windows of 2 to 12 bars, other parameters as they are by default."""
    defaults = INDICATORS[name].defaults
    return {key: data.draw(st.integers(2, 12)) for key in defaults if key.endswith("window")}


def last_states(name: str, parameters: dict[str, float], warmup: int, history: int, seed: int) -> Floats:
    """The states of the last session of a rough market, (bars, history x columns)."""
    spec = spec_of({name: parameters}, warmup=warmup, history=history)
    matrix = build_states(timeline(rough_bars(seed, last=dt.date(2024, 3, 12)), SIM, None), spec)
    return np.stack([matrix.window(bar) for bar in range(len(matrix.row_of_bar) - 25, len(matrix.row_of_bar))])


def test_most_indicators_are_windowed() -> None:
    assert len(WINDOWED) >= 39
    assert not {"ema", "rsi", "atr", "macd", "adx", "stc", "psar", "session_vwap"} & set(WINDOWED)


@pytest.mark.parametrize("name", WINDOWED)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_longer_warm_up_changes_no_bit(name: str, data: st.DataObject) -> None:
    parameters, history = drawn_parameters(data, name), data.draw(st.integers(1, 3))
    least = feature_of(name, **parameters).lookback + history - 1
    seed = data.draw(st.integers(0, 2**32 - 1))
    found = last_states(name, parameters, least, history, seed)
    assert found.tobytes() == last_states(name, parameters, 2 * least + 7, history, seed).tobytes()


def test_an_average_that_fades_takes_the_whole_warm_up() -> None:
    found = last_states("ema", {"window": 12}, 20, 1, 3)
    assert found.tobytes() != last_states("ema", {"window": 12}, 40, 1, 3).tobytes()


@pytest.mark.parametrize("name", WINDOWED)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_what_lies_before_the_lookback_does_not_count(name: str, data: st.DataObject) -> None:
    parameters = drawn_parameters(data, name)
    lookback = feature_of(name, **parameters).lookback
    rows = timeline(rough_bars(data.draw(st.integers(0, 2**32 - 1)), last=dt.date(2024, 3, 7)), SIM, None).rows
    whole = fold(rows, name, **parameters)
    for end in range(lookback, len(rows), 11):
        short = fold(rows[end - lookback : end], name, **parameters)[-1]
        np.testing.assert_allclose(short, whole[end - 1], rtol=1e-9, atol=1e-10)
