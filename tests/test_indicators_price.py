"""Price and session: TA-Lib, `ta` and the formulas of pandas on real, simulated and rough bars."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import talib
from indicator_oracles import (
    MARKETS,
    Market,
    Oracle,
    Pair,
    assert_agree,
    feature_of,
    fold,
    frame_of,
    largest_difference,
    market_of,
    market_rows,
    rows_from,
    rows_of,
)
from markets import MUHURAT, SPLIT, rough_bars
from ta import others as ta_others

from finsense.market.bars import Bars
from finsense.market.sources.files import load_bars
from finsense.market.timeline import OPEN, SESSION_LEFT, SESSION_OPENS

Parameters = Mapping[str, float]


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> Market:
    """Real daily and 5-minute bars, and simulated ones."""
    return market_of(market_rows(request, request.param))


def talib_log_return(m: Market, p: Parameters) -> list[Pair]:
    rate = talib.ROC(m.close, int(p["window"]))
    return [Pair("log_return", 100 * np.expm1(fold(m.rows, "log_return", **p)[:, 0]), rate, 0.1)]


def talib_lagged_difference(m: Market, p: Parameters) -> list[Pair]:
    lag = int(p["lag_window"])
    ratio = np.append(np.full(lag, np.nan), talib.ROCR(m.close, int(p["window"]))[:-lag])
    return [Pair("lagged_difference", np.exp(fold(m.rows, "lagged_difference", **p)[:, 0]), ratio)]


def talib_price_change(m: Market, p: Parameters) -> list[Pair]:
    columns = fold(m.rows, "price_change", **p)
    newest = talib.ROCR(m.close, 1)
    return [
        Pair(f"lag {lag}", np.exp(columns[:, lag]), np.append(np.full(lag, np.nan), newest[: len(newest) - lag]))
        for lag in range(columns.shape[1])
    ]


TALIB: dict[str, Oracle] = {
    "log_return": talib_log_return,
    "lagged_difference": talib_lagged_difference,
    "price_change": talib_price_change,
}


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", TALIB)
def test_agrees_with_talib(name: str, other: bool, market: Market) -> None:
    parameters = feature_of(name, **({"window": 12} if other else {})).parameters
    assert_agree(TALIB[name](market, parameters), 0)


def test_the_log_return_of_one_bar_agrees_with_ta(market: Market) -> None:
    theirs = ta_others.daily_log_return(frame_of(market.rows).close)
    mine = 100 * fold(market.rows, "log_return", window=1)[:, 0]
    assert_agree([Pair("log_return", mine, theirs.to_numpy(), 0.1)], 0)


def test_the_lags_of_price_change_are_lagged_differences_of_one_bar(market: Market) -> None:
    lags = fold(market.rows, "price_change", window=8)
    for lag in range(1, 7):
        found = fold(market.rows, "lagged_difference", lag_window=lag, window=1)[:, 0]
        np.testing.assert_allclose(found, lags[:, lag], rtol=0, atol=1e-14)


SESSION_MARKETS = ("SBIN 5m", "split 15m", "muhurat 5m", "muhurat 60m", "muhurat 1d")


@pytest.fixture(params=SESSION_MARKETS)
def session_bars(request: pytest.FixtureRequest) -> Bars:
    """Real bars, and rough ones with gaps, locks and silent bars around the odd sessions of the calendar."""
    kind, interval = request.param.split()
    if kind == "SBIN":
        folder: Path = request.getfixturevalue("shared_nse")
        return load_bars(folder / "intraday/nse_5min.parquet", "SBIN", "5m")
    if kind == "split":
        return rough_bars(3, *SPLIT, interval)
    first = dt.date(2023, 9, 1) if interval == "1d" else MUHURAT[0]
    return rough_bars(3, first, MUHURAT[1], interval)


def expected_session(bars: Bars) -> pd.DataFrame:
    """The session's columns from the dates of the bars, which no kernel sees."""
    frame = frame_of(rows_of(bars))
    by_day = frame.groupby(bars.session_days)
    opens = by_day.open.transform("first")
    before = by_day.close.last().shift()
    previous = pd.Series(bars.session_days).map(before)
    high, low = by_day.high.cummax(), by_day.low.cummin()
    width = high - low
    columns = {
        "session_open": opens / frame.close - 1,
        "session_gap": (opens / previous - 1).fillna(0),
        "session_previous_close": (previous / frame.close - 1).fillna(0),
        "session_high": high / frame.close - 1,
        "session_low": low / frame.close - 1,
        "session_position": (2 * (frame.close - low) / width.where(width > 0) - 1).fillna(0),
    }
    return pd.DataFrame(columns)


def test_the_session_is_that_of_the_calendar(session_bars: Bars) -> None:
    """Across weekend, split and Muhurat sessions, also one of a single bar, of which nothing is left when it ends."""
    expected = expected_session(session_bars)
    rows = rows_of(session_bars)
    for name in ("session_open", "session_gap", "session_previous_close", "session_range"):
        found = fold(rows, name)
        columns = feature_of(name).columns
        np.testing.assert_allclose(found, expected[list(columns)].to_numpy(), rtol=1e-9, atol=1e-12)
    frame = frame_of(rows)
    typical = (frame.high + frame.low + frame.close) / 3
    paid = (typical * frame.volume).groupby(session_bars.session_days).cumsum()
    volume = frame.volume.groupby(session_bars.session_days).cumsum()
    average = (paid / volume.where(volume > 0) / frame.close - 1).fillna(0)
    np.testing.assert_allclose(fold(rows, "session_vwap")[:, 0], average, rtol=1e-9, atol=1e-12)


def test_a_session_whose_start_is_not_given_begins_with_the_first_bar() -> None:
    bars = rough_bars(6, *SPLIT, "15m")
    rows = rows_of(bars)[5:]
    found = fold(rows, "session_open")[:, 0]
    next_day = int(bars.session_offsets[1]) - 5
    np.testing.assert_allclose(found[:next_day], rows[0, OPEN] / rows[:next_day, 3] - 1, atol=1e-12)
    np.testing.assert_array_equal(found[next_day:], fold(rows_of(bars), "session_open")[next_day + 5 :, 0])


def test_a_gap_between_bars_is_that_of_the_open_to_the_last_close(market: Market) -> None:
    expected = market.rows[:, OPEN] / np.append(np.nan, market.close[:-1]) - 1
    found = fold(market.rows, "gap")[:, 0]
    assert found[0] == 0
    assert largest_difference(found, expected, 1, scale=1e-3) <= 1e-9
    # With daily bars a session is one bar, and its gap the gap.
    if (market.rows[:, SESSION_LEFT] == 0).all():
        np.testing.assert_array_equal(found, fold(market.rows, "session_gap")[:, 0])


@pytest.mark.parametrize(
    ("close", "divisions", "level"),
    [
        (2437.0, 10, 2400.0),
        (2450.0, 10, 2500.0),
        (2400.0, 10, 2400.0),
        (2437.0, 2, 2500.0),
        (2437.0, 100, 2440.0),
        (9_999_999.0, 10, 1e7),
        (1000.0, 10, 1000.0),
        (999.0, 10, 1000.0),
        (99.95, 10, 100.0),
        (1.0, 10, 1.0),
        (0.37, 10, 0.37),
        (0.01, 10, 0.01),
        (0.018, 1, 0.02),
        (60.0, 1, 60.0),
    ],
)
def test_round_numbers_by_hand(close: float, divisions: int, level: float) -> None:
    found = fold(rows_from([close]), "round_number", divisions=divisions)[0, 0]
    assert (1 + found) * close == pytest.approx(level, rel=1e-12)


def test_a_round_number_is_never_further_than_half_a_step(market: Market) -> None:
    found = fold(market.rows, "round_number")[:, 0]
    power = 10 ** np.floor(np.log10(market.close))
    levels = (1 + found) * market.close / (power / 10)
    np.testing.assert_allclose(levels, np.rint(levels), rtol=1e-9)
    assert (np.abs(found) * market.close <= power / 20 + 1e-9).all()


def test_a_locked_day_has_no_range_and_its_levels_are_the_close() -> None:
    rows = rows_from([100.0, 120.0, 120.0, 120.0])
    rows[:, SESSION_OPENS] = [1, 1, 0, 0]
    assert (fold(rows, "session_range") == 0).all()
    assert (fold(rows, "session_open") == 0).all()
    np.testing.assert_allclose(fold(rows, "session_gap")[:, 0], [0, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(fold(rows, "session_previous_close")[:, 0], [0, *[100 / 120 - 1] * 3])
    np.testing.assert_allclose(fold(rows, "gap")[:, 0], [0, 0.2, 0, 0])


def test_the_first_close_stands_in_for_those_before_it() -> None:
    closes = np.array([100.0, 101.0, 99.0, 103.0, 104.5, 104.0])
    logs = np.log(closes)
    np.testing.assert_allclose(fold(rows_from(closes), "log_return", window=3)[:, 0], logs - logs[[0, 0, 0, 0, 1, 2]])
    found = fold(rows_from(closes), "lagged_difference", lag_window=1, window=2)[:, 0]
    np.testing.assert_allclose(found, logs[[0, 0, 1, 2, 3, 4]] - logs[[0, 0, 0, 0, 1, 2]], atol=1e-15)
