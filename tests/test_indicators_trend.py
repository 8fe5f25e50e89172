"""Trend indicators: TA-Lib and `ta` on real and simulated bars, and why `ta` differs where it does."""

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
from ta import trend as ta_trend

Parameters = Mapping[str, float]


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> Market:
    """Real daily and 5-minute bars, and simulated ones."""
    return market_of(market_rows(request, request.param))


@pytest.fixture(params=["RELIANCE 1d", "simulated 5m"])
def short(request: pytest.FixtureRequest) -> Market:
    """The first 2000 bars of two markets: `ta` takes milliseconds a bar for some indicators."""
    return market_of(market_rows(request, request.param)[:2000])


def whole(p: Parameters) -> list[int]:
    return [int(value) for value in p.values()]


def average(name: str, function: Callable[..., Floats]) -> Oracle:
    """An average of the close that TA-Lib knows by one window."""

    def pairs(m: Market, p: Parameters) -> list[Pair]:
        return [Pair(name, m.price(fold(m.rows, name, **p)[:, 0]), function(m.close, *whole(p)))]

    return pairs


def talib_adx(m: Market, p: Parameters) -> list[Pair]:
    columns = 100 * fold(m.rows, "adx", **p)
    bars = (m.high, m.low, m.close)
    theirs = [function(*bars, *whole(p)) for function in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)]
    return [Pair(*pair) for pair in zip(("adx", "adx_pos", "adx_neg"), columns.T, theirs, strict=True)]


def talib_aroon(m: Market, p: Parameters) -> list[Pair]:
    columns = 100 * fold(m.rows, "aroon", **p)
    down, up = talib.AROON(m.high, m.low, *whole(p))
    return [Pair("aroon_up", columns[:, 0], up), Pair("aroon_down", columns[:, 1], down)]


def talib_cci(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("cci", 100 * fold(m.rows, "cci", **p)[:, 0], talib.CCI(m.high, m.low, m.close, *whole(p)), 1.0)]


def talib_dpo(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("dpo", fold(m.rows, "dpo", **p)[:, 0] * m.close, talib.DPO(m.close, *whole(p)), m.close)]


def talib_ichimoku(m: Market, p: Parameters) -> list[Pair]:
    columns = m.price(fold(m.rows, "ichimoku", **p).T)
    conversion, base, span = (talib.MIDPRICE(m.high, m.low, window) for window in whole(p))
    theirs = (conversion, base, 0.5 * (conversion + base), span)
    return [Pair(*pair) for pair in zip(("conv", "base", "a", "b"), columns, theirs, strict=True)]


def talib_macd(m: Market, p: Parameters) -> list[Pair]:
    columns = fold(m.rows, "macd", **p).T * m.close
    theirs = talib.MACD(m.close, *whole(p))
    names = ("macd", "macd_signal", "macd_diff")
    return [Pair(*pair, m.close) for pair in zip(names, columns, theirs, strict=True)]


def talib_mass_index(m: Market, p: Parameters) -> list[Pair]:
    fast, slow = whole(p)
    return [Pair("mass", slow * (1 + fold(m.rows, "mass_index", **p)[:, 0]), talib.MASSI(m.high, m.low, fast, slow))]


def talib_psar(m: Market, p: Parameters) -> list[Pair]:
    columns = fold(m.rows, "psar", **p)
    stop = talib.SAR(m.high, m.low, p["step"], p["max_step"])
    # TA-Lib gives no direction; a stop above the high is that of a fall, below the low of a rise, else it has just
    # been touched or turned and lies inside the bar.
    side = np.where(stop > m.high, -1.0, np.where(stop < m.low, 1.0, columns[:, 1]))
    side[:1] = np.nan
    return [Pair("psar", m.price(columns[:, 0]), stop), Pair("psar_direction", columns[:, 1], side)]


def talib_trend(m: Market, p: Parameters) -> list[Pair]:
    columns = fold(m.rows, "trend", **p)
    (window,) = whole(p)
    logs = np.log(m.close)
    slope = talib.LINEARREG_SLOPE(logs, window) * (window - 1)
    efficiency = talib.ER(logs, window - 1)
    return [Pair("slope", columns[:, 0], slope, 0.01), Pair("efficiency", np.abs(columns[:, 1]), efficiency, 0.01)]


def talib_trix(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("trix", 100 * fold(m.rows, "trix", **p)[:, 0], talib.TRIX(m.close, *whole(p)), 1.0)]


def talib_vortex(m: Market, p: Parameters) -> list[Pair]:
    columns = 1 + fold(m.rows, "vortex", **p)
    positive, negative = talib.VORTEX(m.high, m.low, m.close, *whole(p))
    return [Pair("pos", columns[:, 0], positive), Pair("neg", columns[:, 1], negative)]


# TA-Lib starts an exponential average at the mean of its first window, we at the first value: after 15 windows the
# starts have faded below 1e-9. All else is compared from TA-Lib's first value on.
FADED_WINDOWS = 15
TALIB: dict[str, tuple[Oracle, tuple[str, ...]]] = {
    "sma": (average("sma", talib.SMA), ()),
    "ema": (average("ema", talib.EMA), ("window",)),
    "wma": (average("wma", talib.WMA), ()),
    "adx": (talib_adx, ()),
    "aroon": (talib_aroon, ()),
    "cci": (talib_cci, ()),
    "dpo": (talib_dpo, ()),
    "ichimoku": (talib_ichimoku, ()),
    "macd": (talib_macd, ("slow_window",)),
    "mass_index": (talib_mass_index, ("fast_window", "fast_window")),
    "psar": (talib_psar, ()),
    "trend": (talib_trend, ()),
    "trix": (talib_trix, ("window",)),
    "vortex": (talib_vortex, ()),
}
OTHER_PARAMETERS: dict[str, dict[str, float]] = {
    "ichimoku": {"conversion_window": 5, "base_window": 31, "span_window": 12},
    "macd": {"fast_window": 5, "slow_window": 35, "signal_window": 5},
    "mass_index": {"fast_window": 5, "slow_window": 12},
    "psar": {"step": 0.05, "max_step": 0.12},
}


def compared(name: str, m: Market, p: Parameters) -> tuple[list[Pair], int]:
    """An indicator's pairs, and the first bar at which the starts of TA-Lib's averages have faded."""
    oracle, fading = TALIB[name]
    return oracle(m, p), FADED_WINDOWS * int(sum(p[key] for key in fading))


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", TALIB)
def test_agrees_with_talib(name: str, other: bool, market: Market) -> None:
    parameters = feature_of(name, **(OTHER_PARAMETERS.get(name, {"window": 7}) if other else {})).parameters
    assert_agree(*compared(name, market, parameters))


TA: dict[str, tuple[int, Callable[[pd.DataFrame], list[Any]], Callable[[Market, Floats], Floats]]] = {
    # name -> the first bar compared, what `ta` gives, our columns in its scale
    "sma": (19, lambda f: [ta_trend.sma_indicator(f.close, 20)], Market.price),
    "ema": (13, lambda f: [ta_trend.ema_indicator(f.close, 14)], Market.price),
    "wma": (8, lambda f: [ta_trend.WMAIndicator(f.close, 9).wma()], Market.price),
    "cci": (19, lambda f: [ta_trend.cci(f.high, f.low, f.close)], lambda m, x: 100 * x),
    "dpo": (19, lambda f: [ta_trend.dpo(f.close)], lambda m, x: x * m.close),
    "kst": (
        52,
        lambda f: [getattr(ta_trend.KSTIndicator(f.close), name)() for name in ("kst", "kst_sig", "kst_diff")],
        lambda m, x: 100 * x,
    ),
    "mass_index": (160, lambda f: [ta_trend.mass_index(f.high, f.low)], lambda m, x: 25 * (1 + x)),
    "trix": (225, lambda f: [ta_trend.trix(f.close)], lambda m, x: 100 * x),
    "vortex": (
        14,
        lambda f: [
            ta_trend.vortex_indicator_pos(f.high, f.low, f.close),
            ta_trend.vortex_indicator_neg(f.high, f.low, f.close),
        ],
        lambda m, x: 1 + x,
    ),
    "ichimoku": (
        25,
        lambda f: [
            ta_trend.ichimoku_conversion_line(f.high, f.low),
            ta_trend.ichimoku_base_line(f.high, f.low),
            ta_trend.ichimoku_a(f.high, f.low),
            ta_trend.ichimoku_b(f.high, f.low),
        ],
        Market.price,
    ),
    "adx": (
        420,
        lambda f: [
            getattr(ta_trend.ADXIndicator(f.high, f.low, f.close), name)() for name in ("adx", "adx_pos", "adx_neg")
        ],
        lambda m, x: 100 * x,
    ),
    "macd": (
        FADED_WINDOWS * 9,
        lambda f: [getattr(ta_trend.MACD(f.close), name)() for name in ("macd", "macd_signal", "macd_diff")],
        lambda m, x: x * m.close,
    ),
}


@pytest.mark.parametrize("name", TA)
def test_agrees_with_ta(name: str, short: Market) -> None:
    since, theirs, rescale = TA[name]
    scale = short.close * 1e-3 if name in ("dpo", "macd") else 1.0
    columns = fold(short.rows, name).T
    for mine, expected in zip(columns, theirs(frame_of(short.rows)), strict=True):
        assert largest_difference(rescale(short, mine), expected, since, scale=scale) <= 1e-9


def test_stc_agrees_with_ta_but_where_ta_divides_rounding_dust(market: Market) -> None:
    """Where the smoothed place rests at 0 or 100, `ta` stretches its last bits over the whole scale; we keep the place.

    Such a window's range is nothing but rounding; what it does to the smoothed result fades over the next 40 bars.
    """
    found = 50 + 50 * fold(market.rows, "stc")[:, 0]
    close = frame_of(market.rows).close
    theirs = ta_trend.stc(close).to_numpy()

    def ema(values: "pd.Series[float]", window: int) -> "pd.Series[float]":
        return values.ewm(span=window, min_periods=window, adjust=False).mean()

    line = ema(close, 23) - ema(close, 50)
    place = 100 * (line - line.rolling(10).min()) / (line.rolling(10).max() - line.rolling(10).min())
    smooth = ema(place, 3)
    dusty = (smooth.rolling(10).max() - smooth.rolling(10).min()) < 1e-6
    clean = (dusty.rolling(40, min_periods=1).max() == 0).to_numpy(copy=True)
    clean[:150] = False
    assert clean.mean() > 0.5
    assert np.abs(found - theirs)[clean].max() < 1e-7
    assert ((found >= -1e-9) & (found <= 100 + 1e-9)).all()


def test_where_nothing_ties_aroon_agrees_with_ta_which_takes_the_oldest_of_ties(short: Market) -> None:
    """Aroon counts the bars since the last extreme (TA-Lib, and Chande's text); `ta` counts since the first of ties."""
    frame = frame_of(short.rows)
    columns = 100 * fold(short.rows, "aroon")
    up = ta_trend.AroonIndicator(frame.high, frame.low, 25).aroon_up().to_numpy()
    windows = np.lib.stride_tricks.sliding_window_view(short.high, 26)
    tied = np.append(np.ones(25, bool), (windows == windows.max(axis=1, keepdims=True)).sum(axis=1) > 1)
    assert np.abs(columns[~tied, 0] - up[~tied]).max() < 1e-9
    assert (columns[25:, 0] >= up[25:] - 1e-9).all()

    highs = np.array([10.0, 12, 11, 12, 11])
    tie = rows_from(highs, highs, highs - 1)
    assert fold(tie, "aroon", window=4)[-1, 0] == 0.75 == talib.AROON(highs, highs - 1, 4)[1][-1] / 100
    assert ta_trend.aroon_up(pd.Series(highs), pd.Series(highs - 1), 4).iloc[-1] == 25


def entered(stop: Floats, rises: Any, market: Market) -> int:
    """How often, after the start, the stop of a rise that goes on stands above a low of the two bars before."""
    lows = np.minimum(market.low[2:-1], market.low[1:-2])
    going_on = rises[3:] & rises[2:-1]
    return int((going_on & (stop[3:] > lows * (1 + 1e-12))).sum())


def test_the_stop_never_enters_the_last_two_bars_as_that_of_ta_does(short: Market) -> None:
    """`ta` clamps to the low before last *or else* to the last one; Wilder, TA-Lib and we hold the stop out of both."""
    frame = frame_of(short.rows)
    theirs = ta_trend.PSARIndicator(frame.high, frame.low, frame.close)
    columns = fold(short.rows, "psar")
    assert entered(short.price(columns[:, 0]), columns[:, 1] > 0, short) == 0
    stop = talib.SAR(short.high, short.low, 0.02, 0.2)
    assert entered(stop, columns[:, 1] > 0, short) == 0
    assert entered(theirs.psar().to_numpy(), theirs.psar_up().notna().to_numpy(), short) > 0


@pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="pandas 2 still takes an integer key for a place")
def test_under_pandas_3_the_psar_of_ta_grows_rows(market: Market) -> None:
    """`ta` writes `psar[i]` for `psar.iloc[i]` once: with dates as index, pandas 3 appends rows named 2, 3, ..."""
    frame = frame_of(market.rows)[:400]
    frame.index = pd.date_range("2020-01-01", periods=len(frame))
    assert len(ta_trend.PSARIndicator(frame.high, frame.low, frame.close).psar()) > len(frame)


def test_in_the_warm_up_ta_gives_an_adx_of_zero_for_none() -> None:
    """Zero reads as "no trend"; TA-Lib has no value there, and our builder no state before its warm-up."""
    rows = rows_from(100 * 1.01 ** np.arange(40.0))
    frame = frame_of(rows)
    theirs = ta_trend.ADXIndicator(frame.high, frame.low, frame.close)
    bars = (rows[:, 1], rows[:, 2], rows[:, 3])
    assert (theirs.adx()[:27] == 0).all()
    assert (theirs.adx_pos()[:14] == 0).all()
    assert np.isnan(talib.ADX(*bars, 14)[:27]).all()
    assert feature_of("adx").lookback == 28
    # In a market that only rises there is nothing but +DI, from the second bar on.
    assert (fold(rows, "adx")[1:, 1] == 1).all()
    assert (fold(rows, "adx")[14:, 0] == 1).all()


def test_ta_gives_span_b_of_a_window_that_is_not_there() -> None:
    """`ta` asks a full window of the other lines, but of span B none: its first 51 values are those of fewer bars."""
    rows = rows_from(100 + np.arange(60.0))
    frame = frame_of(rows)
    assert ta_trend.ichimoku_b(frame.high, frame.low)[:51].notna().all()
    assert ta_trend.ichimoku_base_line(frame.high, frame.low)[:25].isna().all()
    assert np.isnan(talib.MIDPRICE(rows[:, 1], rows[:, 2], 52)[:51]).all()
    assert feature_of("ichimoku").lookback == 52


# `ta` fills what lies before the data with the mean of *all* data, or rolls the end around to the start.
LOOKS_AHEAD: dict[str, tuple[str, Callable[[pd.DataFrame], Any]]] = {
    "kst": ("kst", lambda f: ta_trend.kst(f.close)),
    "kst, filled": ("kst", lambda f: ta_trend.kst(f.close, fillna=True)),
    "dpo, filled": ("dpo", lambda f: ta_trend.dpo(f.close, fillna=True)),
    "trix, filled": ("trix", lambda f: ta_trend.trix(f.close, fillna=True)),
    "vortex, filled": ("vortex", lambda f: ta_trend.vortex_indicator_pos(f.high, f.low, f.close, fillna=True)),
    "ichimoku, shifted": ("ichimoku", lambda f: ta_trend.ichimoku_a(f.high, f.low, visual=True)),
}


@pytest.mark.parametrize("case", LOOKS_AHEAD)
def test_ta_looks_ahead_and_we_do_not(case: str, short: Market) -> None:
    name, theirs = LOOKS_AHEAD[case]
    rows = short.rows[:200].copy()
    before, ours = np.asarray(theirs(frame_of(rows)))[:-1], fold(rows, name)[:-1]
    rows[-1, :4] *= 3
    after = np.asarray(theirs(frame_of(rows)))[:-1]
    assert (np.abs(after - before) > 1e-9).any()
    assert fold(rows, name)[:-1].tobytes() == ours.tobytes()


def test_on_flat_bars_ta_has_no_value_or_an_invented_one() -> None:
    rows = rows_from(np.full(120, 250.0))
    frame = frame_of(rows)
    bars = (frame.high, frame.low, frame.close)
    assert ta_trend.cci(*bars).isna().all()
    assert ta_trend.mass_index(*bars[:2]).isna().all()
    assert ta_trend.vortex_indicator_pos(*bars).isna().all()
    assert ta_trend.stc(frame.close).isna().all()
    # With `fillna` the ADX of a market that never moved is 0 where it counts, and was never 20.
    assert (ta_trend.adx(*bars, fillna=True) == 0).all()


def test_on_flat_bars_the_stop_of_talib_turns_every_bar_and_ours_waits() -> None:
    flat = np.full(30, 250.0)
    rows = rows_from(np.append(flat, [251.0, 252.0, 253.0, 253.0, 253.0]))
    columns = fold(rows, "psar")
    assert (columns[:30] == 0).all()
    assert (columns[30:, 1] == 1).all()
    assert (talib.SAR(flat, flat)[1:] == 250.0).all()


def test_the_adaptive_stop_follows_wilders_rules_by_hand() -> None:
    highs, lows = np.array([10.0, 11, 12, 13, 12, 9]), np.array([9.0, 10, 11, 12, 11, 8])
    columns = fold(rows_from(lows, highs, lows), "psar", step=0.1, max_step=0.2)
    stop = (1 + columns[:, 0]) * lows
    # Rise from the first low; extreme 11, then 12 and 13; the step grows 0.1, 0.2, 0.2; turned by the last bar.
    second = 9 + 0.1 * (11 - 9)
    third = second + 0.2 * (12 - second)
    fourth = third + 0.2 * (13 - third)
    np.testing.assert_allclose(stop, [9, 9, second, third, fourth, 13], rtol=1e-12)
    assert columns[:, 1].tolist() == [0, 1, 1, 1, 1, -1]
