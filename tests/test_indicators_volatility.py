"""Volatility, bands and regime: TA-Lib and `ta` on real and simulated bars, why `ta` differs, and the textbook."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib
from indicator_oracles import (
    MARKETS,
    Floats,
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
)
from numpy.lib.stride_tricks import sliding_window_view
from ta import volatility as ta_volatility

from finsense.market.timeline import OPEN

Parameters = Mapping[str, float]

# TA-Lib starts an average at the mean of its first window, we at the first value. The starts have faded below 1e-10
# after 12 windows of an exponential and 24 of a Wilder average.
EXPONENTIAL, WILDER = 12, 24


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> Market:
    """Real daily and 5-minute bars, and simulated ones."""
    return market_of(market_rows(request, request.param))


def whole(p: Parameters) -> list[int]:
    return [int(value) for value in p.values()]


def returns_of(close: Floats) -> Floats:
    """(n,) float64: log returns, 0 at the first bar."""
    return np.append(0.0, np.diff(np.log(close)))


def talib_natr(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("natr", 100 * fold(m.rows, "atr", **p)[:, 0], talib.NATR(m.high, m.low, m.close, *whole(p)))]


def levels(m: Market, columns: Floats, bands: tuple[Floats, Floats, Floats]) -> list[Pair]:
    """The pairs of three levels, high, low and mid; TA-Lib gives them as upper, middle and lower."""
    upper, middle, lower = bands
    return [
        Pair(*pair) for pair in zip(("high", "low", "mid"), m.price(columns.T), (upper, lower, middle), strict=False)
    ]


def talib_bb(m: Market, p: Parameters) -> list[Pair]:
    return levels(m, fold(m.rows, "bb", **p), talib.BBANDS(m.close, int(p["window"]), p["deviations"], p["deviations"]))


def talib_bollinger(m: Market, p: Parameters) -> list[Pair]:
    columns = fold(m.rows, "bollinger", **p)
    upper, middle, lower = talib.BBANDS(m.close, int(p["window"]), p["deviations"], p["deviations"])
    position = 2 * (m.close - lower) / (upper - lower) - 1
    return [Pair("position", columns[:, 0], position, 1.0), Pair("width", columns[:, 1], (upper - lower) / middle)]


def channel(m: Market, columns: Floats, bands: tuple[Floats, Floats, Floats]) -> list[Pair]:
    upper, middle, lower = bands
    return [
        *levels(m, columns[:, :3], bands),
        Pair("width", columns[:, 3], (upper - lower) / middle),
        Pair("position", columns[:, 4], 2 * (m.close - lower) / (upper - lower) - 1, 1.0),
    ]


def talib_kc(m: Market, p: Parameters) -> list[Pair]:
    windows = int(p["window"]), int(p["atr_window"])
    return channel(m, fold(m.rows, "kc", **p), talib.KC(m.high, m.low, m.close, *windows, p["multiplier"]))


def talib_dc(m: Market, p: Parameters) -> list[Pair]:
    return channel(m, fold(m.rows, "dc", **p), talib.DONCHIAN(m.high, m.low, *whole(p)))


def mean_square(returns: Floats, window: float) -> Floats:
    """TA-Lib's mean of the squared returns of the window; the first return is that of the second bar."""
    squares = np.append(np.nan, returns[1:] ** 2)
    means: Floats = talib.SUM(squares, int(window)) / int(window)
    return means


def talib_realised_volatility(m: Market, p: Parameters) -> list[Pair]:
    variance = mean_square(returns_of(m.close), p["window"])
    return [Pair("realised_volatility", fold(m.rows, "realised_volatility", **p)[:, 0], np.sqrt(variance))]


def talib_volatility_regime(m: Market, p: Parameters) -> list[Pair]:
    value = fold(m.rows, "volatility_regime", **p)[:, 0]
    near, far = (mean_square(returns_of(m.close), p[key]) for key in ("short_window", "long_window"))
    return [Pair("short over long", (1 + value) / (1 - value), np.sqrt(near / far))]


def talib_drawdown_state(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("peak", m.close / (1 + fold(m.rows, "drawdown_state", **p)[:, 0]), talib.MAX(m.close, *whole(p)))]


# Name -> the oracle, and for averages that fade the factor and the windows.
TALIB: dict[str, tuple[Oracle, dict[str, int]]] = {
    "atr": (talib_natr, {"window": WILDER}),
    "bb": (talib_bb, {}),
    "bollinger": (talib_bollinger, {}),
    "kc": (talib_kc, {"window": EXPONENTIAL, "atr_window": WILDER}),
    "dc": (talib_dc, {}),
    "realised_volatility": (talib_realised_volatility, {}),
    "volatility_regime": (talib_volatility_regime, {}),
    "drawdown_state": (talib_drawdown_state, {}),
}
OTHER_PARAMETERS: dict[str, dict[str, float]] = {
    "bb": {"window": 7, "deviations": 1.5},
    "bollinger": {"window": 7, "deviations": 2.5},
    "kc": {"window": 7, "atr_window": 12, "multiplier": 1.5},
    "volatility_regime": {"short_window": 5, "long_window": 31},
}


def compared(name: str, m: Market, p: Parameters) -> tuple[list[Pair], int]:
    """An indicator's pairs, and the first bar at which the starts of TA-Lib's averages have faded."""
    oracle, fading = TALIB[name]
    return oracle(m, p), max((factor * int(p[key]) for key, factor in fading.items()), default=0)


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", TALIB)
def test_agrees_with_talib(name: str, other: bool, market: Market) -> None:
    parameters = feature_of(name, **(OTHER_PARAMETERS.get(name, {"window": 7}) if other else {})).parameters
    assert_agree(*compared(name, market, parameters))


def test_the_age_of_a_drawdown_is_that_of_the_latest_peak(market: Market) -> None:
    """TA-Lib's MAXINDEX finds the same price, but of equal closes now the first and now the last."""
    bars = np.arange(len(market.close))
    peaks = bars - np.rint(59 * fold(market.rows, "drawdown_state")[:, 1]).astype(int)
    theirs = talib.MAXINDEX(market.close, 60)
    assert (market.close[peaks[59:]] == market.close[theirs[59:]]).all()
    assert (peaks[59:] >= theirs[59:]).all()
    windows = sliding_window_view(market.close, 60)
    assert (bars[59:] - windows[:, ::-1].argmax(axis=1) == peaks[59:]).all()


def ta_bands(m: Market) -> list[Pair]:
    theirs = ta_volatility.BollingerBands(frame_of(m.rows).close)
    bands = (theirs.bollinger_hband(), theirs.bollinger_mavg(), theirs.bollinger_lband())
    return levels(m, fold(m.rows, "bb"), bands)


def ta_dc(m: Market) -> list[Pair]:
    frame = frame_of(m.rows)
    theirs = ta_volatility.DonchianChannel(frame.high, frame.low, frame.close)
    columns = fold(m.rows, "dc")
    upper, middle, lower = (getattr(theirs, f"donchian_channel_{band}band")() for band in "hml")
    return [
        *levels(m, columns, (upper, middle, lower)),
        Pair("position", (columns[:, 4] + 1) / 2, theirs.donchian_channel_pband(), 1.0),
    ]


def ta_ui(m: Market) -> list[Pair]:
    return [Pair("ui", 100 * fold(m.rows, "ui")[:, 0], ta_volatility.UlcerIndex(frame_of(m.rows).close).ulcer_index())]


@pytest.mark.parametrize("oracle", [ta_bands, ta_dc, ta_ui])
def test_agrees_with_ta(oracle: Callable[[Market], list[Pair]], market: Market) -> None:
    pairs = oracle(market)
    # The ulcer index of `ta` begins where its window of squares is full, but not yet that of the peaks.
    assert_agree(pairs, 0)


def test_ta_centres_the_keltner_channel_on_the_close_and_we_and_talib_on_the_typical_price(market: Market) -> None:
    """Keltner (1960) averages (high + low + close) / 3, and so does TA-Lib; `ta` does in its other version only."""
    frame = frame_of(market.rows)
    theirs = ta_volatility.KeltnerChannel(frame.high, frame.low, frame.close, 20, 10, original_version=False)
    columns = fold(market.rows, "kc")
    upper, middle, lower = (getattr(theirs, f"keltner_channel_{band}band")().to_numpy() for band in "hml")
    band = (columns[:, 0] - columns[:, 1]) * market.close
    assert largest_difference(band, upper - lower, WILDER * 10, scale=market.close) <= 1e-9
    assert largest_difference(middle, talib.EMA(market.close, 20), EXPONENTIAL * 20) <= 1e-9
    assert largest_difference(market.price(columns[:, 2]), middle, EXPONENTIAL * 20) > 1e-4


def test_ta_divides_the_donchian_width_by_another_middle(market: Market) -> None:
    """`ta` measures the width against the mean of the closes; ours against the channel's own middle, as its levels."""
    frame = frame_of(market.rows)
    theirs = ta_volatility.DonchianChannel(frame.high, frame.low, frame.close).donchian_channel_wband()
    columns = fold(market.rows, "dc")
    mine = 100 * columns[:, 3] * market.price(columns[:, 2]) / talib.SMA(market.close, 20)
    assert largest_difference(mine, theirs, 19) <= 1e-9


def test_in_the_warm_up_ta_gives_a_true_range_of_zero_for_none(market: Market) -> None:
    """Zero reads as "no risk", and its Keltner bands collapse onto the average; TA-Lib has no value there."""
    frame = frame_of(market.rows)[:40]
    bars = (frame.high, frame.low, frame.close)
    theirs = talib.NATR(market.high[:40], market.low[:40], market.close[:40], 14)
    assert (ta_volatility.AverageTrueRange(*bars, 14).average_true_range()[:13] == 0).all()
    assert np.isnan(theirs[:14]).all()
    assert (fold(market.rows, "atr")[:13] > 0).all()
    channel_of_ta = ta_volatility.KeltnerChannel(*bars, 10, 14, original_version=False)
    width = channel_of_ta.keltner_channel_wband()
    assert (width[9:13] == 0).all()
    assert (fold(market.rows, "kc")[:13, 3] > 0).all()


def test_on_flat_bars_ta_has_no_position_or_puts_the_close_on_the_lower_band() -> None:
    """0 of 0 is no place: `ta` gives NaN, or with `fillna` 0, which is the lower band; ours is the middle."""
    rows = rows_from(np.full(60, 250.0))
    frame = frame_of(rows)
    bars = (frame.high, frame.low, frame.close)
    places: dict[str, Callable[[bool], pd.Series]] = {
        "bollinger": lambda fill: ta_volatility.bollinger_pband(frame.close, fillna=fill),
        "dc": lambda fill: ta_volatility.donchian_channel_pband(*bars, fillna=fill),
        "kc": lambda fill: ta_volatility.keltner_channel_pband(*bars, fillna=fill, original_version=False),
    }
    for name, place in places.items():
        assert place(False).isna().all()
        assert (place(True)[20:] == 0).all()
        assert (fold(rows, name) == 0).all()


def over_returns(m: Market, window: int) -> tuple[Floats, int]:
    """The windows of log returns, (n - window, window), and the bar of the first."""
    return sliding_window_view(returns_of(m.close)[1:], window), window


def expected_parkinson(m: Market, p: Parameters) -> tuple[Floats, int]:
    windows = sliding_window_view(np.log(m.high / m.low), int(p["window"]))
    return np.sqrt((windows**2).mean(axis=1) / (4 * math.log(2))), int(p["window"]) - 1


def expected_garman_klass(m: Market, p: Parameters) -> tuple[Floats, int]:
    body = np.log(m.close / m.rows[:, OPEN])
    variance = np.log(m.high / m.low) ** 2 / 2 - (2 * math.log(2) - 1) * body**2
    return np.sqrt(sliding_window_view(variance, int(p["window"])).mean(axis=1)), int(p["window"]) - 1


def expected_autocorrelation(m: Market, p: Parameters) -> tuple[Floats, int]:
    returns, first = over_returns(m, int(p["window"]))
    deviations = returns - returns.mean(axis=1, keepdims=True)
    return (deviations[:, 1:] * deviations[:, :-1]).sum(axis=1) / (deviations**2).sum(axis=1), first


def expected_variance_ratio(m: Market, p: Parameters) -> tuple[Floats, int]:
    returns, first = over_returns(m, int(p["window"]))
    n, q = whole(p)
    mean = returns.mean(axis=1, keepdims=True)
    several = sliding_window_view(returns, q, axis=1).sum(axis=2) - q * mean
    long = (several**2).sum(axis=1) / (q * (n - q + 1) * (1 - q / n))
    return long / returns.var(axis=1, ddof=1) - 1, first


FORMULAS: dict[str, Callable[[Market, Parameters], tuple[Floats, int]]] = {
    "parkinson": expected_parkinson,
    "garman_klass": expected_garman_klass,
    "autocorrelation": expected_autocorrelation,
    "variance_ratio": expected_variance_ratio,
}


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", FORMULAS)
def test_values_are_those_of_the_textbook(name: str, other: bool, market: Market) -> None:
    changed: dict[str, float] = {"window": 12}
    parameters = feature_of(name, **(changed if other else {})).parameters
    expected, first = FORMULAS[name](market, parameters)
    found = fold(market.rows, name, **parameters)[first:, 0]
    # A flat stretch has no variance to compare, and by definition reads 0.
    defined = np.isfinite(expected)
    assert defined.mean() > 0.99
    assert (found[~defined] == 0).all()
    assert largest_difference(found[defined], expected[defined], 0, scale=0.01) <= 1e-9


def geometric(signs: Any) -> Floats:
    """Bars of one price whose log return is 1 % up or down."""
    return rows_from(100 * np.exp(0.01 * np.cumsum(signs)))


def test_a_market_that_alternates_reverts_and_one_that_runs_trends() -> None:
    alternating = geometric(np.tile([1, -1], 60))
    assert fold(alternating, "autocorrelation")[-1, 0] == pytest.approx(-29 / 30, abs=1e-12)
    assert fold(alternating, "variance_ratio", step_window=4)[-1, 0] == pytest.approx(-1, abs=1e-12)
    assert fold(alternating, "volatility_regime")[-1, 0] == pytest.approx(0, abs=1e-12)
    waves = geometric(np.tile(np.repeat([1, -1], 15), 4))
    assert fold(waves, "autocorrelation")[-1, 0] > 0.8
    assert fold(waves, "variance_ratio")[-1, 0] > 2
    # One rate without end has no variance, whatever rounding makes of it.
    steady = geometric(np.ones(120))
    for name in ("autocorrelation", "variance_ratio"):
        assert (fold(steady, name)[70:] == 0).all()


def test_a_gap_is_in_the_true_range_and_not_in_the_ranges_of_bars() -> None:
    closes = np.append(np.full(30, 100.0), np.full(30, 150.0))
    rows = rows_from(closes)
    assert fold(rows, "atr", window=10)[30, 0] == pytest.approx(5 / 150)
    assert fold(rows, "realised_volatility", window=10)[30, 0] == pytest.approx(math.log(1.5) / math.sqrt(10))
    for name in ("parkinson", "garman_klass"):
        assert (fold(rows, name) == 0).all()
    dc = fold(rows, "dc", window=5)
    np.testing.assert_allclose(dc[30], [0, 100 / 150 - 1, 125 / 150 - 1, 50 / 125, 1], atol=1e-12)
    assert (dc[34] == 0).all()
    assert fold(rows[::-1].copy(), "drawdown_state", window=5)[[29, 30, 34, 35], 0] == pytest.approx([0, -1 / 3, 0, 0])


def test_a_halt_fades_the_keltner_channel_and_never_blows_up_the_position() -> None:
    """Range and distance fade at rates of their own; the ratio of two dusts is no place."""
    closes = np.append(100 * 1.01 ** np.arange(40), np.full(400, 200.0))
    columns = fold(rows_from(closes), "kc", window=20, atr_window=3, multiplier=2)
    assert (np.abs(columns[:, 4]) <= 10).all()
    assert columns[60, 4] == 10
    assert (columns[-1, 3:] == 0).all()
    assert np.abs(columns[-1]).max() < 1e-9


def test_the_window_counts_the_bars_seen_until_it_is_full() -> None:
    rows = rows_from([100.0, 110.0, 99.0], [100.0, 110.0, 110.0], [100.0, 100.0, 99.0])
    first, second = math.log(1.1), math.log(0.9)
    found = fold(rows, "realised_volatility")[:, 0]
    np.testing.assert_allclose(found, [0, first, math.sqrt((first**2 + second**2) / 2)], rtol=1e-12)
    np.testing.assert_allclose(fold(rows, "ui")[:, 0], [0, 0, math.sqrt(0.01 / 3)], rtol=1e-12)
    mean = np.array([100, 105, 103])
    np.testing.assert_allclose((1 + fold(rows, "bb")[:, 2]) * rows[:, 3], mean, rtol=1e-12)
    park = np.array([0, first**2, first**2 + math.log(110 / 99) ** 2]) / [1, 2, 3] / (4 * math.log(2))
    np.testing.assert_allclose(fold(rows, "parkinson")[:, 0], np.sqrt(park), rtol=1e-12)
    # While both windows hold the same returns, neither is the calmer.
    assert (fold(rows, "volatility_regime") == 0).all()
