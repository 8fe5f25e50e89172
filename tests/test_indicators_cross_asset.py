"""Indicators beside the market: values of pandas on real and made-up series, and what holds on every market."""

import datetime as dt
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indicator_oracles import Floats, feature_of, fold, largest_difference, rows_from, rows_of
from markets import SPLIT, rough_bars

from finsense.market.bars import Bars
from finsense.market.references import with_references
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import load_bars
from finsense.market.sources.frames import bars_from_frame
from finsense.market.timeline import CLOSE, INDEX_CLOSE, SECTOR_CLOSE, VIX_CLOSE
from finsense.state.indicators import cross_asset
from finsense.state.registry import INDICATORS

NAMES = sorted(name for name, one in INDICATORS.items() if one.kernel.__module__ == cross_asset.__name__)


def test_each_names_what_it_reads() -> None:
    needs = {name: INDICATORS[name].needs for name in NAMES}
    assert needs == {
        "index_beta": ("index_close",),
        "index_relative_strength": ("index_close",),
        "index_return": ("index_close",),
        "index_volatility": ("index_close",),
        "sector_relative_strength": ("sector_close",),
        "vix_change": ("vix_close",),
        "vix_level": ("vix_close",),
    }


# --- values ----------------------------------------------------------------------------------------------------------


def changes(rows: Floats, field: int) -> Any:
    """Log returns of one bar, the first unknown."""
    return pd.Series(np.log(rows[:, field])).diff()


def expected_beta(rows: Floats, window: int) -> list[Any]:
    own, market = changes(rows, CLOSE), changes(rows, INDEX_CLOSE)
    beta = own.rolling(window).cov(market) / market.rolling(window).var()
    return [beta, own.rolling(window).corr(market)]


def expected_strength(field: int) -> Callable[[Floats, int], list[Any]]:
    def strength(rows: Floats, window: int) -> list[Any]:
        lead = changes(rows, CLOSE) - changes(rows, field)
        return [lead.rolling(window).sum() / np.sqrt((lead**2).rolling(window).sum())]

    return strength


def expected_return(rows: Floats, window: int) -> list[Any]:
    index = pd.Series(rows[:, INDEX_CLOSE])
    return [np.log(index / index.shift(window))]


def expected_volatility(rows: Floats, window: int) -> list[Any]:
    return [np.sqrt((changes(rows, INDEX_CLOSE) ** 2).rolling(window).mean())]


def expected_vix_change(rows: Floats, window: int) -> list[Any]:
    vix = pd.Series(rows[:, VIX_CLOSE])
    return [np.log(vix / vix.rolling(window).mean())]


EXPECTED: dict[str, Callable[[Floats, int], list[Any]]] = {
    "index_beta": expected_beta,
    "index_relative_strength": expected_strength(INDEX_CLOSE),
    "sector_relative_strength": expected_strength(SECTOR_CLOSE),
    "index_return": expected_return,
    "index_volatility": expected_volatility,
    "vix_change": expected_vix_change,
}


def assert_as_pandas(rows: Floats, name: str, window: int) -> None:
    found = fold(rows, name, window=window)
    for column, expected in enumerate(EXPECTED[name](rows, window)):
        values = np.asarray(expected, np.float64)
        assert np.isfinite(values[window:]).all()
        # pandas' running sums lose digits, so a value near zero is measured against the size of the column.
        scale = float(np.std(values[window:]))
        assert scale > 0
        assert largest_difference(found[:, column], values, window, scale=scale) < 1e-7


@pytest.mark.parametrize("window", [2, 20, 60, 250])
@pytest.mark.parametrize("name", EXPECTED)
def test_values_are_those_of_pandas_on_a_made_up_market(name: str, window: int) -> None:
    bars = rough_bars(3, dt.date(2024, 1, 1), dt.date(2024, 2, 29), "15m")
    rows = rows_of(bars)
    if window == 2:
        # Two equal returns in a row have no variance, which pandas divides by.
        rng = np.random.default_rng(1)
        for field in (CLOSE, INDEX_CLOSE, SECTOR_CLOSE):
            rows[:, field] *= np.exp(np.cumsum(rng.normal(0, 1e-3, len(rows))))
    assert_as_pandas(rows, name, window)


class TestRealMarkets:
    @pytest.mark.parametrize("name", [name for name in EXPECTED if "vix" not in name])
    def test_bank_nifty_beside_nifty_within_the_day(self, name: str, shared_nse: Path) -> None:
        """Minutes of a month in which the index has holes (S26)."""
        path = shared_nse / "intraday/index_1min_2021.parquet"
        span = dt.date(2021, 7, 12), dt.date(2021, 7, 30)
        index, bank = (load_bars(path, symbol, "1m").between(*span) for symbol in ("NIFTY 50", "NIFTY BANK"))
        rows = rows_of(with_references(bank, index=index, sector=index))
        assert_as_pandas(rows, name, 60)

    @pytest.fixture
    def daily(self, shared_nse: Path) -> Bars:
        """RELIANCE beside NIFTY 50 and India VIX, 2009-03 to 2018; 2012-04-28 is missing from the index (S14)."""
        path = shared_nse / "daily/index_daily.parquet"
        table = pd.read_parquet(path)
        nifty = bars_from_frame(
            table[pd.to_datetime(table["ts"]).dt.year >= 2009], symbol="NIFTY 50", interval="1d", volume_missing=0
        )
        vix = load_bars(path, "INDIA VIX", "1d")
        stock = load_bars(shared_nse / "daily/nse_daily_unadjusted.parquet", "RELIANCE", "1d").between(vix.first_date)
        return with_references(stock, index=nifty, sector=nifty, vix=vix, missing_sessions=1)

    @pytest.mark.parametrize("window", [20, 60])
    @pytest.mark.parametrize("name", EXPECTED)
    def test_reliance_beside_nifty_and_vix_by_the_day(self, name: str, window: int, daily: Bars) -> None:
        assert_as_pandas(rows_of(daily), name, window)

    def test_the_figures_are_those_that_a_trader_knows(self, daily: Bars) -> None:
        rows = rows_of(daily)[500:]
        beta, correlation = np.median(fold(rows, "index_beta"), axis=0)
        assert 0.8 < beta < 1.4
        assert 0.4 < correlation < 0.8
        level = fold(rows, "vix_level")[:, 0]
        assert math.log(8 / 20) < level.min() < np.median(level) < level.max() < math.log(90 / 20)
        assert 0.8 < float(np.std(fold(rows, "index_relative_strength"))) < 1.3


def test_a_simulated_market_shows_its_beta_and_correlation() -> None:
    drawn = SimulatedMarket.model_validate(
        {
            "model": "random_walk",
            "first": dt.date(2023, 1, 2),
            "last": dt.date(2023, 3, 31),
            "seed": 5,
            "index": {"beta": 1.5, "correlation": 0.6},
        }
    )
    rows = rows_of(drawn.load()["SIM"])
    beta, correlation = fold(rows, "index_beta", window=4000)[-1]
    error = 1.5 * math.sqrt((1 - 0.6**2) / 4000)
    assert abs(beta / 1.5 - 1) < 5 * error / 0.6
    assert abs(correlation - 0.6) < 5 * error
    # The index says nothing of the direction in which the stock leaves it.
    strength = fold(rows, "index_relative_strength")[100:, 0]
    assert abs(strength.mean()) < 5 * math.sqrt(20 / len(strength))
    assert 0.8 < strength.std() < 1.2


# --- what holds on every market --------------------------------------------------------------------------------------


def beside(closes: Any, index: Any = 20_000.0, sector: Any = 40_000.0, vix: Any = 20.0) -> Floats:
    """One-price bars and the series beside them, (n, BAR_FIELDS) float64."""
    rows = rows_from(closes)
    rows[:, INDEX_CLOSE], rows[:, SECTOR_CLOSE], rows[:, VIX_CLOSE] = index, sector, vix
    return rows


WALK = 300 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, 200)))
OTHER = 20_000 * np.exp(np.cumsum(np.random.default_rng(2).normal(0, 0.01, 200)))


@pytest.mark.parametrize("name", NAMES)
def test_where_nothing_moves_all_is_zero(name: str) -> None:
    assert (fold(beside(np.full(150, 123.45), 17_777.77, 33_333.33), name) == 0).all()


@pytest.mark.parametrize("name", ["index_beta", "index_return", "index_volatility"])
def test_an_index_that_stands_still_reads_zero(name: str) -> None:
    assert (fold(beside(WALK, 17_777.77), name) == 0).all()


def test_a_stock_that_stands_still_has_no_beta_and_falls_behind_a_rising_index() -> None:
    rising = 20_000 * 1.001 ** np.arange(200)
    assert (fold(beside(np.full(200, 50.0), OTHER), "index_beta") == 0).all()
    found = fold(beside(np.full(200, 50.0), rising), "index_relative_strength", window=25)[:, 0]
    np.testing.assert_allclose(found[25:], -5.0, rtol=1e-9)


@pytest.mark.parametrize("leverage", [0.25, 1.0, -2.0])
def test_a_stock_that_is_the_index_has_its_leverage_as_beta(leverage: float) -> None:
    rows = beside(100 * (OTHER / 20_000) ** leverage, OTHER)
    beta, correlation = fold(rows, "index_beta")[2:].T
    np.testing.assert_allclose(beta, leverage, rtol=1e-9)
    np.testing.assert_allclose(correlation, math.copysign(1, leverage), rtol=1e-9)
    if leverage == 1.0:
        assert (fold(rows, "index_relative_strength") == 0).all()


def test_constant_growth_has_no_variance() -> None:
    growth = 1.01 ** np.arange(200)
    assert (fold(beside(100 * growth, 20_000 * growth**2), "index_beta") == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_first_bars(name: str) -> None:
    found = fold(beside(WALK, OTHER, OTHER, 20 * OTHER / OTHER[0]), name)
    assert (found[0] == 0).all()
    if name == "index_beta":
        assert (found[1] == 0).all()
        slope = np.log(WALK[2] * WALK[0] / WALK[1] ** 2) / np.log(OTHER[2] * OTHER[0] / OTHER[1] ** 2)
        np.testing.assert_allclose(found[2], [slope, math.copysign(1, slope)], rtol=1e-9)
    elif "strength" in name:
        assert abs(found[1, 0]) == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_market_gives_finite_values_in_their_bounds(name: str, data: st.DataObject) -> None:
    levels = st.sampled_from([0.01, 0.05, 1.0, 20.0, 99.95, 100.0, 24_999.95, 9_999_999.99])
    runs = st.lists(st.tuples(levels, st.integers(1, 25)), min_size=1, max_size=10)

    def drawn() -> Floats:
        found = data.draw(runs)
        return np.resize(np.repeat([level for level, _ in found], [length for _, length in found]), 120)

    window = data.draw(st.integers(1, 40))
    given_window = {"window": float(window)} if INDICATORS[name].defaults else {}
    found = fold(beside(drawn(), drawn(), drawn(), drawn()), name, **given_window)
    with np.errstate(over="raise"):
        assert np.isfinite(found.astype(np.float32)).all()
    if name == "index_beta":
        assert (np.abs(found[:, 1]) <= 1).all()
    if "strength" in name:
        assert (np.abs(found) <= math.sqrt(window) * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_price_nor_the_level_of_an_index_is_in_a_value(name: str) -> None:
    rows = rows_of(rough_bars(2, *SPLIT))
    scaled = rows.copy()
    scaled[:, CLOSE] *= 8
    scaled[:, INDEX_CLOSE] *= 4
    scaled[:, SECTOR_CLOSE] /= 16
    np.testing.assert_allclose(fold(scaled, name), fold(rows, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_value_depends_on_its_window_alone(name: str) -> None:
    rows = beside(WALK, OTHER, OTHER[::-1], 20 * np.sqrt(WALK / WALK[0]))
    whole, lookback = fold(rows, name), feature_of(name).lookback
    for end in range(110, 200, 7):
        np.testing.assert_allclose(fold(rows[end - lookback : end], name)[-1], whole[end - 1], rtol=1e-9, atol=1e-13)


def test_what_leaves_the_window_leaves_no_trace() -> None:
    """A jump by a factor of a billion, then quiet: the same values as without it, but for what a mean rounds."""
    jump = np.append(np.repeat([0.01, 9_999_999.0], 5), WALK)
    index = np.append(np.repeat([0.05, 99_999.0], 5), OTHER)
    for name in NAMES:
        found = fold(beside(jump, index, index, np.append(np.full(10, 1e6), OTHER / 1000)), name)
        calm = fold(beside(WALK, OTHER, OTHER, OTHER / 1000), name)
        np.testing.assert_allclose(found[-100:], calm[-100:], rtol=1e-12, atol=1e-15, err_msg=name)
