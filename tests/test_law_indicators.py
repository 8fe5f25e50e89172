"""Law: every registered indicator is defined on every market, free of scale, and looks back as far as it says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from indicator_oracles import Floats, feature_of, fold, rows_from
from markets import MUHURAT, SPLIT, rough_bars, with_extra

from finsense.market.instruments import instrument
from finsense.market.timeline import (
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    PREVIOUS_CLOSE,
    SESSION_LEFT,
    SESSION_OPENS,
    SIGNED_VOLUME,
    TICK_VWAP,
    VOLUME,
    timeline,
)
from finsense.state.registry import INDICATORS

BARS = 240
RNG = np.random.default_rng(20)
_START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Each test draws the same numbers, whichever ran before it on its worker."""
    RNG.bit_generator.state = _START


def with_ranges(closes: Any, volume: Any = 1000.0) -> Floats:
    """Bars that open at the close before; (n, BAR_FIELDS) float64, sessions of 20 bars."""
    closes = np.asarray(closes, np.float64)
    opens = np.append(closes[:1], closes[:-1])
    rows = rows_from(closes, np.maximum(opens, closes), np.minimum(opens, closes), volume)
    rows[:, OPEN] = opens
    place = np.arange(len(closes)) % 20
    rows[:, SESSION_LEFT] = (19 - place) / 20
    rows[:, SESSION_OPENS] = place == 0
    return with_extra(rows)


def walk(volatility: float = 0.01) -> Floats:
    return 300 * np.exp(np.cumsum(RNG.normal(0, volatility, BARS)))


MADE: dict[str, Callable[[], Floats]] = {
    "flat": lambda: with_ranges(np.full(BARS, 123.45)),
    "flat without volume": lambda: with_ranges(np.full(BARS, 123.45), 0.0),
    "walk without volume": lambda: with_ranges(walk(), 0.0),
    "rare volume": lambda: with_ranges(walk(), np.where(np.arange(BARS) % 37 == 0, 1.0, 0.0)),
    "huge volume": lambda: with_ranges(walk(), np.where(np.arange(BARS) % 5 == 0, 1e12, 1.0)),
    "rising": lambda: with_ranges(100 * 1.01 ** np.arange(BARS), np.arange(BARS) + 1.0),
    "falling": lambda: with_ranges(100 * 0.99 ** np.arange(BARS), BARS - np.arange(BARS)),
    "alternating": lambda: with_ranges(np.tile([100.0, 101.0], BARS // 2), np.tile([1.0, 1e6], BARS // 2)),
    "jumps": lambda: with_ranges(np.repeat([0.01, 9_999_999.0, 0.01, 100.0, 100.05, 0.02], BARS // 6)),
    "a gap, then nothing": lambda: with_ranges(np.append(np.full(30, 100.0), np.full(BARS - 30, 150.0))),
    "a walk that is halted": lambda: with_ranges(np.append(walk()[:60], np.full(BARS - 60, 250.0)), 0.0),
    "one-price bars": lambda: with_extra(rows_from(walk())),
    "one paisa": lambda: with_ranges(np.resize([0.01, 0.02, 0.01], BARS)),
    "gaps, locks and silence, 15m": lambda: timeline(rough_bars(9, *SPLIT), instrument("SIM"), None).rows,
    "gaps, locks and silence, 1d": lambda: (
        timeline(rough_bars(9, SPLIT[0].replace(month=1), SPLIT[1], "1d"), instrument("SIM"), None).rows
    ),
    "Muhurat, 60m": lambda: timeline(rough_bars(9, *MUHURAT, "60m"), instrument("SIM"), None).rows,
}
# What a market that stands still without volume reads, where that is not 0 in every column.
AT_REST: dict[str, tuple[float, ...] | None] = {
    **dict.fromkeys(("session_left", "session_minute", "bars_to_close"), None),  # the clock, not the market
    **dict.fromkeys(("weekday", "holiday", "month_end", "expiry"), None),  # the calendar
    "price_band": (1.0, 1.0),  # both limits are a whole band away
    **dict.fromkeys(("round_number", "level_distance"), None),  # a place on the scale of prices
    "aroon": (1.0, 1.0),  # every bar ties with the newest
}


@pytest.mark.parametrize("market", MADE)
@pytest.mark.parametrize("name", INDICATORS)
def test_no_market_leaves_an_indicator_without_a_value(name: str, market: str) -> None:
    with np.errstate(over="ignore"):
        assert np.isfinite(fold(MADE[market](), name).astype(np.float32)).all()


@pytest.mark.parametrize("name", INDICATORS)
def test_a_market_at_rest_reads_zero(name: str) -> None:
    found = fold(MADE["flat without volume"](), name)
    resting = AT_REST.get(name, (0.0,) * found.shape[1])
    if resting is not None:
        assert (found == resting).all()


@pytest.mark.parametrize("name", sorted(set(INDICATORS) - {"round_number", "level_distance"}))
def test_neither_the_price_nor_the_lot_is_in_an_indicator(name: str) -> None:
    """A split changes no state: all prices and volumes eightfold, the same values. (Levels are prices.)"""
    rows = timeline(rough_bars(2, *SPLIT), instrument("SIM"), None).rows
    if name == "volume_ratio":
        # It counts one share more than there are, so that silence has a logarithm.
        rows[:, VOLUME] += 1e12
    scaled = rows.copy()
    scaled[:, [OPEN, HIGH, LOW, CLOSE, PREVIOUS_CLOSE, TICK_VWAP]] *= 8
    scaled[:, [VOLUME, SIGNED_VOLUME]] *= 8
    np.testing.assert_allclose(fold(scaled, name), fold(rows, name), rtol=1e-9, atol=1e-9)


# Their value depends on the last bars alone; the others fade, or begin with the session.
WINDOWED = [
    "bb", "dc", "ui", "realised_volatility", "parkinson", "garman_klass", "volume_ratio", "obv", "vpt", "nvi", "em",
    "cmf", "mfi", "vwap", "price_change", "log_return", "lagged_difference", "gap", "volatility_regime",
    "autocorrelation", "variance_ratio", "drawdown_state", "bollinger",
]  # fmt: skip


@pytest.mark.parametrize("name", WINDOWED)
def test_an_indicator_looks_back_as_far_as_it_says_and_no_further(name: str) -> None:
    rows = with_ranges(walk(), RNG.integers(1, 1000, BARS))
    rows[:, OPEN] = 0.5 * (rows[:, OPEN] + rows[:, CLOSE])
    whole = fold(rows, name)
    lookback = feature_of(name).lookback
    ends = range(130, BARS, 3)
    exact = [fold(rows[end - lookback : end], name)[-1] for end in ends]
    np.testing.assert_allclose(exact, whole[[end - 1 for end in ends]], rtol=1e-9, atol=1e-13)
    short = [fold(rows[end - lookback + 1 : end], name)[-1] for end in ends]
    assert not np.allclose(short, exact, rtol=1e-6, atol=1e-12)


# (lowest, highest) of every column that has bounds.
BOUNDS: dict[str, dict[int, tuple[float, float]]] = {
    "dc": {4: (-1, 1)},
    "kc": {4: (-10, 10)},
    "obv": {0: (-1, 1)},
    "adi": {0: (-1, 1)},
    "cmf": {0: (-1, 1)},
    "mfi": {0: (-1, 1)},
    "session_range": {0: (0, np.inf), 1: (-1, 0), 2: (-1, 1)},
    "volatility_regime": {0: (-1, 1)},
    "autocorrelation": {0: (-1, 1)},
    "variance_ratio": {0: (-1, np.inf)},
    "drawdown_state": {0: (-1, 0), 1: (0, 1)},
    "ui": {0: (0, 1)},
    "realised_volatility": {0: (0, np.inf)},
    "parkinson": {0: (0, np.inf)},
    "garman_klass": {0: (0, np.inf)},
}


@pytest.mark.parametrize("market", MADE)
@pytest.mark.parametrize("name", BOUNDS)
def test_bounded_columns_keep_their_bounds(name: str, market: str) -> None:
    found = fold(MADE[market](), name)
    for column, (lowest, highest) in BOUNDS[name].items():
        assert found[:, column].min() >= lowest - 1e-12
        assert found[:, column].max() <= highest + 1e-12
