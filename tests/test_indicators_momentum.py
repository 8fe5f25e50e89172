"""Momentum indicators against TA-Lib and `ta`; and what every trend and momentum indicator owes: a value, a scale."""

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
from ta import momentum as ta_momentum
from talib import abstract

from finsense.market.timeline import CLOSE, VOLUME
from finsense.state.registry import INDICATORS

Parameters = Mapping[str, float]
# TA-Lib's codes for a kind of average: its stubs promise an enumeration, at run time they are these numbers.
SIMPLE: Any = 0
EXPONENTIAL: Any = 1


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> Market:
    """Real daily and 5-minute bars, and simulated ones."""
    return market_of(market_rows(request, request.param))


@pytest.fixture(params=["RELIANCE 1d", "simulated 5m"])
def short(request: pytest.FixtureRequest) -> Market:
    """The first 2000 bars of two markets: `ta` is slow."""
    return market_of(market_rows(request, request.param)[:2000])


def whole(p: Parameters) -> list[int]:
    return [int(value) for value in p.values()]


def centred(name: str, m: Market, p: Parameters) -> Floats:
    """Our columns from [-1, 1] to the usual 0 .. 100, (columns, n)."""
    return 50 + 50 * fold(m.rows, name, **p).T


def talib_ao(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("ao", fold(m.rows, "ao", **p)[:, 0] * m.close, talib.AO(m.high, m.low, *whole(p)), m.close)]


def talib_kama(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("kama", m.price(fold(m.rows, "kama", **p)[:, 0]), talib.KAMA(m.close, int(p["window"])))]


def talib_ppo(m: Market, p: Parameters) -> list[Pair]:
    fast, slow, _ = whole(p)
    return [Pair("ppo", 100 * fold(m.rows, "ppo", **p)[:, 0], talib.PPO(m.close, fast, slow, EXPONENTIAL), 1.0)]


def talib_pvo(m: Market, p: Parameters) -> list[Pair]:
    fast, slow, _ = whole(p)
    return [Pair("pvo", 100 * fold(m.rows, "pvo", **p)[:, 0], talib.PVO(m.volume, fast, slow, EXPONENTIAL), 1.0)]


def talib_roc(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("roc", 100 * fold(m.rows, "roc", **p)[:, 0], talib.ROC(m.close, *whole(p)), 1.0)]


def talib_rsi(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("rsi", centred("rsi", m, p)[0], talib.RSI(m.close, *whole(p)), 1.0)]


def talib_stoch(m: Market, p: Parameters) -> list[Pair]:
    window, signal_window = whole(p)
    theirs = talib.STOCHF(m.high, m.low, m.close, window, signal_window, SIMPLE)
    return [Pair(*pair, 1.0) for pair in zip(("k", "d"), centred("stoch", m, p), theirs, strict=True)]


def talib_stoch_rsi(m: Market, p: Parameters) -> list[Pair]:
    place, smooth, smoother = centred("stoch_rsi", m, p)
    window, k_window, d_window = whole(p)
    raw, k = talib.STOCHRSI(m.close, window, window, k_window, SIMPLE)
    d = np.append(np.full(np.isnan(k).sum(), np.nan), talib.SMA(k[np.isfinite(k)], d_window))
    return [Pair("stoch_rsi", place, raw, 1.0), Pair("k", smooth, k, 1.0), Pair("d", smoother, d, 1.0)]


def talib_tsi(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("tsi", 100 * fold(m.rows, "tsi", **p)[:, 0], talib.TSI(m.close, *whole(p)), 1.0)]


def talib_uo(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("uo", centred("uo", m, p)[0], talib.ULTOSC(m.high, m.low, m.close, *whole(p)), 1.0)]


def talib_wr(m: Market, p: Parameters) -> list[Pair]:
    return [Pair("wr", centred("wr", m, p)[0] - 100, talib.WILLR(m.high, m.low, m.close, *whole(p)), 1.0)]


# Where TA-Lib starts its averages otherwise: the parameter whose windows fade the starts, and how many of them (a
# Wilder average fades half as fast). All else is compared from TA-Lib's first value on.
TALIB: dict[str, tuple[Oracle, tuple[str, int] | None]] = {
    "ao": (talib_ao, None),
    "kama": (talib_kama, None),
    "ppo": (talib_ppo, ("slow_window", 15)),
    "pvo": (talib_pvo, ("slow_window", 15)),
    "roc": (talib_roc, None),
    "rsi": (talib_rsi, ("window", 30)),
    "stoch": (talib_stoch, None),
    "stoch_rsi": (talib_stoch_rsi, ("window", 30)),
    "tsi": (talib_tsi, ("slow_window", 15)),
    "uo": (talib_uo, None),
    "wr": (talib_wr, None),
}
OTHER_PARAMETERS: dict[str, dict[str, float]] = {
    "ao": {"fast_window": 3, "slow_window": 21},
    "kama": {"window": 21},
    "ppo": {"fast_window": 5, "slow_window": 35},
    "pvo": {"fast_window": 5, "slow_window": 35},
    "stoch": {"window": 5, "signal_window": 5},
    "stoch_rsi": {"window": 9, "k_window": 4, "d_window": 2},
    "tsi": {"slow_window": 13, "fast_window": 7},
    "uo": {"short_window": 5, "middle_window": 10, "long_window": 40},
}


def compared(name: str, m: Market, p: Parameters) -> tuple[list[Pair], int]:
    """An indicator's pairs, and the first bar at which the starts of TA-Lib's averages have faded."""
    oracle, fading = TALIB[name]
    return oracle(m, p), int(p[fading[0]]) * fading[1] if fading else 0


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", TALIB)
def test_agrees_with_talib(name: str, other: bool, market: Market) -> None:
    parameters = feature_of(name, **(OTHER_PARAMETERS.get(name, {"window": 7}) if other else {})).parameters
    assert_agree(*compared(name, market, parameters))


def each(cls: Any, names: str) -> Callable[..., list[Any]]:
    """The methods `names` of a class of `ta`."""
    return lambda *series: [getattr(cls(*series), name)() for name in names.split()]


TA: dict[str, tuple[int, Callable[[pd.DataFrame], list[Any]], Callable[[Market, Floats], Floats]]] = {
    # name -> the first bar compared, what `ta` gives, our columns in its scale
    "ao": (33, lambda f: [ta_momentum.awesome_oscillator(f.high, f.low)], lambda m, x: x * m.close),
    "kama": (10, lambda f: [ta_momentum.kama(f.close)], Market.price),
    "ppo": (
        150,
        lambda f: each(ta_momentum.PercentagePriceOscillator, "ppo ppo_signal ppo_hist")(f.close),
        lambda m, x: 100 * x,
    ),
    "pvo": (
        150,
        lambda f: each(ta_momentum.PercentageVolumeOscillator, "pvo pvo_signal pvo_hist")(f.volume),
        lambda m, x: 100 * x,
    ),
    "roc": (12, lambda f: [ta_momentum.roc(f.close)], lambda m, x: 100 * x),
    "rsi": (14, lambda f: [ta_momentum.rsi(f.close)], lambda m, x: 50 + 50 * x),
    "stoch": (
        15,
        lambda f: each(ta_momentum.StochasticOscillator, "stoch stoch_signal")(f.high, f.low, f.close),
        lambda m, x: 50 + 50 * x,
    ),
    "stoch_rsi": (
        30,
        lambda f: each(ta_momentum.StochRSIIndicator, "stochrsi stochrsi_k stochrsi_d")(f.close),
        lambda m, x: 0.5 + 0.5 * x,
    ),
    "tsi": (200, lambda f: [ta_momentum.tsi(f.close)], lambda m, x: 100 * x),
    "uo": (
        28,
        lambda f: each(ta_momentum.UltimateOscillator, "ultimate_oscillator")(f.high, f.low, f.close),
        lambda m, x: 50 + 50 * x,
    ),
    "wr": (13, lambda f: [ta_momentum.williams_r(f.high, f.low, f.close)], lambda m, x: 50 * x - 50),
}


@pytest.mark.parametrize("name", TA)
def test_agrees_with_ta(name: str, short: Market) -> None:
    since, theirs, rescale = TA[name]
    scale = short.close * 1e-3 if name == "ao" else 1.0
    for mine, expected in zip(fold(short.rows, name).T, theirs(frame_of(short.rows)), strict=True):
        assert largest_difference(rescale(short, mine), expected, since, scale=scale) <= 1e-9


def test_the_filled_kama_of_ta_starts_with_the_end_of_the_data(short: Market) -> None:
    """`ta` rolls the last closes around to the start: filled, its second value knows the end. Ours knows nothing."""
    rows = short.rows[:200].copy()
    before = ta_momentum.kama(frame_of(rows).close, fillna=True).to_numpy()
    ours = fold(rows, "kama")
    rows[-1, :4] *= 3
    after = ta_momentum.kama(frame_of(rows).close, fillna=True).to_numpy()
    assert (before[1:-1] != after[1:-1]).any()
    assert fold(rows, "kama")[:-1].tobytes() == ours[:-1].tobytes()


def test_on_flat_bars_ta_has_no_value_and_talib_an_extreme_one() -> None:
    rows = rows_from(np.full(120, 250.0), volume=0.0)
    frame = frame_of(rows)
    bars = (frame.high, frame.low, frame.close)
    assert ta_momentum.stoch(*bars).isna().all()
    assert ta_momentum.williams_r(*bars).isna().all()
    assert ta_momentum.tsi(frame.close).isna().all()
    assert ta_momentum.pvo(frame.volume).isna().all()
    assert ta_momentum.UltimateOscillator(*bars).ultimate_oscillator().isna().all()
    # TA-Lib says "closed at the low" of a window that has no low and no high; so said, %R says the opposite.
    high, low, close = rows[:, 1].copy(), rows[:, 2].copy(), rows[:, 3].copy()
    assert (talib.STOCHF(high, low, close)[0][10:] == 0).all()
    assert (talib.WILLR(high, low, close)[20:] == 0).all()
    assert (talib.ULTOSC(high, low, close)[30:] == 0).all()
    # An RSI of 100 (`ta`) or 0 (TA-Lib) where nothing rose and nothing fell.
    assert (ta_momentum.rsi(frame.close)[20:] == 100).all()
    assert (talib.RSI(close)[20:] == 0).all()


def test_williams_is_the_stochastic() -> None:
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
    rows = rows_from(close, close * 1.01, close * 0.98)
    np.testing.assert_allclose(fold(rows, "wr"), fold(rows, "stoch")[:, :1], rtol=0, atol=1e-12)


# What follows holds for every indicator of the two families, also for one that is added tomorrow.
FAMILY = sorted(
    name
    for name, indicator in INDICATORS.items()
    if indicator.kernel.__module__.rsplit(".", 1)[-1].startswith(("trend", "momentum"))
)
# Column's beginning -> the bounds that its docstring states; the longest beginning counts.
BOUNDS = {
    "adx": (0.0, 1.0),
    "aroon": (0.0, 1.0),
    "rsi": (-1.0, 1.0),
    "stc": (-1.0, 1.0),
    "stoch": (-1.0, 1.0),
    "trend_efficiency": (-1.0, 1.0),
    "tsi": (-1.0, 1.0),
    "uo": (-1.0, 1.0),
    "wr": (-1.0, 1.0),
    "psar_direction": (-1.0, 1.0),
}


def hard_markets() -> dict[str, Floats]:
    """Bars on which formulas divide by nothing, cancel or run away; (n, BAR_FIELDS) each."""
    rng = np.random.default_rng(4)
    moves = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, 150)))
    jumps = np.repeat(rng.choice([0.01, 0.02, 1.0, 99.95, 9_999_999.99], 60), rng.integers(1, 40, 60))
    still = np.full(12_000, moves[-1])
    alternating = np.where(np.arange(300) % 2, 101.0, 100.0)
    return {
        "one bar": rows_from([100.0]),
        "flat": rows_from(np.full(300, 123.45)),
        "no volume": rows_from(moves, moves * 1.01, moves * 0.99, 0.0),
        "volume comes and goes": rows_from(moves, volume=np.where(np.arange(150) % 40 < 20, 0.0, 1e12)),
        "jumps": rows_from(jumps),
        "jumps, the range stands still": rows_from(np.full(len(jumps), 0.01), jumps, 0.01),
        "rising": rows_from(np.linspace(1, 1000, 300)),
        "falling": rows_from(np.linspace(1000, 1, 300)),
        "rising fast": rows_from(0.01 * 1.05 ** np.arange(400)),
        "alternating": rows_from(alternating),
        "alternating wide": rows_from(alternating, alternating * 1.5, alternating * 0.5),
        # Long enough for every average to sink below the smallest number there is.
        "moves, then silence": rows_from(
            np.append(moves, still), volume=np.append(np.full(150, 1e6), np.zeros(len(still)))
        ),
    }


HARD_MARKETS = hard_markets()


def parameter_sets(name: str) -> list[dict[str, float]]:
    """The defaults, all windows 1, all 2, all 50."""
    chosen = INDICATORS[name].defaults
    windows = [key for key in chosen if key.endswith("window")]
    return [dict(chosen)] + [{**chosen, **dict.fromkeys(windows, float(length))} for length in (1, 2, 50)]


@pytest.mark.parametrize("hard", HARD_MARKETS)
@pytest.mark.parametrize("name", FAMILY)
def test_every_value_is_defined_and_within_its_bounds(name: str, hard: str) -> None:
    for parameters in parameter_sets(name):
        found = fold(HARD_MARKETS[hard], name, **parameters)
        assert np.isfinite(found.astype(np.float32)).all()
        for column, values in zip(feature_of(name, **parameters).columns, found.T, strict=True):
            beginnings = [beginning for beginning in BOUNDS if column.startswith(beginning)]
            if beginnings:
                low, high = BOUNDS[max(beginnings, key=len)]
                assert ((values >= low - 1e-9) & (values <= high + 1e-9)).all(), column


@pytest.mark.parametrize("name", FAMILY)
def test_a_market_that_never_moves_reads_zero_exactly(name: str) -> None:
    """So a scaler meets no column of rounding dust. Aroon alone has every bar tie for the extreme, which is 1."""
    for price in (123.45, 0.07, 9_999_999.99):
        found = fold(rows_from(np.full(200, price), volume=777.0), name)
        assert (found == (1.0 if name == "aroon" else 0.0)).all()


@pytest.mark.parametrize("name", FAMILY)
def test_every_column_is_free_of_scale(name: str, short: Market) -> None:
    """Prices times 8 and volumes times 4 change no column: exactly, but where a logarithm is taken."""
    rows = short.rows.copy()
    rows[:, : CLOSE + 1] *= 8
    rows[:, VOLUME] *= 4
    np.testing.assert_allclose(fold(rows, name), fold(short.rows, name), rtol=0, atol=1e-9 if name == "trend" else 0)


# Indicators whose value hangs on a finite number of bars.
FINITE = ["sma", "wma", "dpo", "kst", "aroon", "cci", "ichimoku", "vortex", "roc", "ao", "stoch", "wr", "uo"]


@pytest.mark.parametrize("name", FINITE)
def test_the_lookback_is_as_many_bars_as_a_value_needs(name: str, short: Market) -> None:
    lookback = feature_of(name).lookback
    whole_history = fold(short.rows, name)
    differs = 0
    for last in range(400, 440):
        exact = fold(short.rows[last + 1 - lookback : last + 1], name)[-1]
        np.testing.assert_allclose(exact, whole_history[last], rtol=1e-9, atol=1e-12)
        fewer = fold(short.rows[last + 2 - lookback : last + 1], name)[-1]
        differs += not np.allclose(fewer, whole_history[last], rtol=1e-9, atol=1e-12)
    assert differs > 0


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("ema", "EMA"),
        ("adx", "ADX"),
        ("kama", "KAMA"),
        ("macd", "MACD"),
        ("mass_index", "MASSI"),
        ("psar", "SAR"),
        ("rsi", "RSI"),
        ("trix", "TRIX"),
        ("tsi", "TSI"),
    ],
)
def test_the_lookback_of_a_running_average_is_that_of_talib(name: str, theirs: str) -> None:
    """TA-Lib counts the bars before its first value, we count that bar too."""
    function: Any = getattr(abstract, theirs)
    parameters = feature_of(name).parameters
    function.parameters = dict(
        zip(function.parameters, (int(v) if float(v).is_integer() else v for v in parameters.values()), strict=False)
    )
    assert feature_of(name).lookback == function.lookback + 1


@pytest.mark.parametrize("name", ["sma", "cci", "ichimoku", "stoch", "wr", "ao"])
def test_before_a_window_is_full_the_value_is_that_of_a_shorter_window(name: str, short: Market) -> None:
    rows = short.rows[:60]
    values = fold(rows, name)
    for seen in (1, 2, 5):
        shorter = {key: min(window, seen) for key, window in feature_of(name).parameters.items()}
        np.testing.assert_allclose(values[seen - 1], fold(rows, name, **shorter)[seen - 1], rtol=0, atol=1e-12)


def test_what_has_left_a_window_leaves_no_trace() -> None:
    """After a jump by nine orders of magnitude a window of small prices reads as if there had been none."""
    quiet = 0.01 + 0.01 * (np.arange(200) % 3)
    jumped = rows_from(np.append(np.full(7, 9_999_999.99), quiet), volume=1.0)
    plain = rows_from(quiet, volume=1.0)
    for name in ("sma", "dpo", "cci", "ao", "vortex", "uo", "stoch"):
        np.testing.assert_array_equal(fold(jumped, name)[-100:], fold(plain, name)[-100:])
