"""Where `ta` 0.11 is wrong: each fault by hand, which of its columns know the future, and where more of it is shown."""

import datetime as dt
import importlib
import inspect
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ta
import talib
from indicator_oracles import Floats, fold, frame_of, rows_from
from markets import rough_bars, spec_of, steady_bars
from numpy.typing import NDArray
from ta import momentum as ta_momentum
from ta import trend as ta_trend
from ta import volatility as ta_volatility
from ta import volume as ta_volume

from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.timeline import VOLUME, timeline
from finsense.state.builder import build_states

IN_TREND, IN_VOLUME = "test_indicators_trend", "test_indicators_volume"
IN_VOLATILITY, IN_MOMENTUM = "test_indicators_volatility", "test_indicators_momentum"

# Fault -> the test that shows it on real and simulated bars, beside TA-Lib.
SHOWN: dict[str, tuple[str, str]] = {
    "OBV on an unchanged close": (IN_VOLUME, "test_ta_buys_the_volume_of_an_unchanged_close"),
    "MFI ties": (IN_VOLUME, "test_the_money_flow_of_ta_has_a_side_where_only_rounding_moved_the_price"),
    "Aroon ties": (IN_TREND, "test_where_nothing_ties_aroon_agrees_with_ta_which_takes_the_oldest_of_ties"),
    "PSAR clamp": (IN_TREND, "test_the_stop_never_enters_the_last_two_bars_as_that_of_ta_does"),
    "PSAR under pandas 3": (IN_TREND, "test_under_pandas_3_the_psar_of_ta_grows_rows"),
    "ATR of 0 in the warm-up": (IN_VOLATILITY, "test_in_the_warm_up_ta_gives_a_true_range_of_zero_for_none"),
    "ADX of 0 in the warm-up": (IN_TREND, "test_in_the_warm_up_ta_gives_an_adx_of_zero_for_none"),
    "Ichimoku partial windows": (IN_TREND, "test_ta_gives_span_b_of_a_window_that_is_not_there"),
    "look-ahead of KST, DPO, vortex, TRIX": (IN_TREND, "test_ta_looks_ahead_and_we_do_not"),
    "look-ahead of KAMA": (IN_MOMENTUM, "test_the_filled_kama_of_ta_starts_with_the_end_of_the_data"),
    "flat bars, trend": (IN_TREND, "test_on_flat_bars_ta_has_no_value_or_an_invented_one"),
    "flat bars, volatility": (
        IN_VOLATILITY,
        "test_on_flat_bars_ta_has_no_position_or_puts_the_close_on_the_lower_band",
    ),
    "flat bars, momentum": (IN_MOMENTUM, "test_on_flat_bars_ta_has_no_value_and_talib_an_extreme_one"),
    "flat bars, volume": (IN_VOLUME, "test_where_no_money_flows_talib_reads_a_sold_out_market_and_ours_is_neutral"),
    "Keltner centre": (
        IN_VOLATILITY,
        "test_ta_centres_the_keltner_channel_on_the_close_and_we_and_talib_on_the_typical_price",
    ),
    "Donchian width": (IN_VOLATILITY, "test_ta_divides_the_donchian_width_by_another_middle"),
    "STC of rounding dust": (IN_TREND, "test_stc_agrees_with_ta_but_where_ta_divides_rounding_dust"),
    "VWAP of the day": (IN_VOLUME, "test_the_vwap_of_ta_does_not_know_the_day_it_promises"),
    "ease of movement after a silent bar": (
        IN_VOLUME,
        "test_one_silent_bar_does_not_spoil_the_ease_of_movement_as_in_ta",
    ),
}


@pytest.mark.parametrize("fault", SHOWN)
def test_every_fault_has_its_test(fault: str) -> None:
    module, name = SHOWN[fault]
    assert inspect.isfunction(getattr(importlib.import_module(module), name))


def test_obv_on_an_unchanged_close() -> None:
    """Granville: the volume counts where the close changed, and nowhere else."""
    rows = rows_from([100.0, 100.0, 101.0, 101.0, 100.0], volume=[10.0, 20.0, 30.0, 40.0, 50.0])
    frame = frame_of(rows)
    assert ta_volume.on_balance_volume(frame.close, frame.volume).tolist() == [10, 30, 60, 100, 50]
    assert talib.OBV(frame.close.to_numpy(), frame.volume.to_numpy()).tolist() == [10, 10, 40, 40, -10]
    np.testing.assert_allclose(fold(rows, "obv", window=5)[-1, 0], (30 - 50) / 150, rtol=1e-15)


def test_the_psar_clamp() -> None:
    """Wilder: the stop of a rise stands above no low of the two bars before; `ta` looks at one of them."""
    highs = np.array([101.0, 104.0, 106.0, 104.0, 112.0])
    lows = np.array([95.0, 99.0, 101.0, 100.0, 104.0])
    rows = rows_from(lows, highs, lows)
    stop = (1 + fold(rows, "psar", step=0.2, max_step=0.8)[:, 0]) * lows
    np.testing.assert_allclose(stop[1:], talib.SAR(highs, lows, 0.2, 0.8)[1:], rtol=1e-12)
    assert stop[-1] == pytest.approx(min(lows[2:4]), rel=1e-12)
    frame = frame_of(rows)
    theirs = ta_trend.PSARIndicator(frame.high, frame.low, frame.close, 0.2, 0.8)
    assert theirs.psar_up().iloc[-1] == 101 > lows[3]


def test_zero_for_none_in_the_warm_up_of_atr_and_adx() -> None:
    closes = 100 + np.arange(40.0)
    frame = frame_of(rows_from(closes, closes + 1, closes - 1))
    bars = (frame.high, frame.low, frame.close)
    assert (ta_volatility.average_true_range(*bars)[:13] == 0).all()
    assert (ta_trend.adx(*bars)[:27] == 0).all()


def test_ichimoku_spans_of_partial_windows() -> None:
    """The first "52 bars" of span B are one bar."""
    closes = 100 + np.arange(60.0)
    frame = frame_of(rows_from(closes))
    assert ta_trend.ichimoku_b(frame.high, frame.low)[0] == 100


def of_ta(rows: Floats, *, fillna: bool) -> pd.DataFrame:
    """Every column of `ta` but the bars themselves."""
    with warnings.catch_warnings():
        # Its PSAR writes by a way that pandas 3 has announced to end; what it divides by zero is asked for here.
        warnings.simplefilter("ignore")
        found = ta.add_all_ta_features(frame_of(rows), "open", "high", "low", "close", "volume", fillna=fillna)
    columns: pd.DataFrame = found.drop(columns=["open", "high", "low", "close", "volume"])
    return columns


def unlike(columns: pd.DataFrame, alike: NDArray[np.bool_]) -> set[str]:
    """The names of the columns, (n, columns), in which not every value is alike."""
    return {name for name, values in zip(columns.columns, alike.T, strict=True) if not values.all()}


def full_states(bars: Bars) -> Floats:
    """The states of preset `full`, (n, columns)."""
    spec = spec_of("full", warmup=100)
    return build_states(timeline(bars, instrument("SIM"), None), spec).rows.astype(np.float64)


def changed_columns(before: pd.DataFrame, after: pd.DataFrame) -> set[str]:
    """The columns in which a value before the last bar is another one."""
    return unlike(before, np.isclose(before[:-1], after[:-1], rtol=1e-9, atol=1e-12, equal_nan=True))


# Without being asked to fill, `ta` rolls the last closes around to the start (KST) and shifts a line back (Ichimoku).
ALWAYS_AHEAD = {"trend_kst", "trend_kst_diff", "trend_kst_sig", "trend_visual_ichimoku_a", "trend_visual_ichimoku_b"}
FILLED_AHEAD = {
    "momentum_kama",
    "trend_dpo",
    "trend_trix",
    *(f"trend_vortex_ind_{side}" for side in ("pos", "neg", "diff")),
}


@pytest.mark.parametrize(("fillna", "expected"), [(False, ALWAYS_AHEAD), (True, ALWAYS_AHEAD | FILLED_AHEAD)])
def test_these_columns_of_ta_know_the_last_bar_before_it_is_there(fillna: bool, expected: set[str]) -> None:
    """All of `add_all_ta_features`, with the last bar half as high again; none of ours changes by a bit."""
    bars = rough_bars(5, dt.date(2024, 2, 1), dt.date(2024, 2, 15))
    open_, high, low, close = (
        np.append(prices[:-1], 1.5 * prices[-1]) for prices in (bars.open, bars.high, bars.low, bars.close)
    )
    changed = replace(bars, open=open_, high=high, low=low, close=close)
    before, after = (timeline(one, instrument("SIM"), None).rows for one in (bars, changed))
    assert changed_columns(of_ta(before, fillna=fillna), of_ta(after, fillna=fillna)) == expected
    assert full_states(bars)[:-1].tobytes() == full_states(changed)[:-1].tobytes()


# What has no value once everything is warm, in a market that trades and does not move.
NONE_ON_FLAT_BARS = {
    *(f"momentum_{name}" for name in ("stoch", "stoch_signal", "stoch_rsi", "stoch_rsi_k", "stoch_rsi_d")),
    *(f"momentum_{name}" for name in ("tsi", "uo", "wr")),
    *(f"trend_{name}" for name in ("cci", "mass_index", "psar_down", "stc")),
    *(f"trend_vortex_ind_{side}" for side in ("pos", "neg", "diff")),
    *(f"volatility_{band}p" for band in ("bb", "dc", "kc")),
    "volume_mfi",
}


def test_flat_bars_have_a_value_in_every_column_of_ours() -> None:
    bars = steady_bars(dt.date(2024, 2, 1), dt.date(2024, 2, 15))
    rows = timeline(bars, instrument("SIM"), None).rows
    theirs = of_ta(rows, fillna=False)[100:]
    assert unlike(theirs, np.isfinite(theirs.to_numpy())) == NONE_ON_FLAT_BARS
    filled = of_ta(rows, fillna=True).iloc[-1]
    # Filled, it is as overbought as can be, at the lower of two bands that are one, and all of its volume was bought.
    assert filled[["momentum_rsi", "volatility_bbp", "volume_obv"]].tolist() == [100, 0, rows[:, VOLUME].sum()]
    assert np.isnan(filled["trend_psar_down"])
    assert np.isfinite(full_states(bars)).all()
    assert (fold(rows, "rsi") == 0).all()
    assert (fold(rows, "obv") == 0).all()


def test_mfi_and_aroon_ties() -> None:
    """Two prices that only rounding tells apart; two highs that nothing does."""
    tie = frame_of(rows_from([591.65, 591.70], [591.85, 591.80], [591.60, 591.60]))
    assert ta_volume.money_flow_index(tie.high, tie.low, tie.close, tie.volume, 2).iloc[-1] == 100
    highs = pd.Series([10.0, 12, 11, 12, 11])
    assert ta_trend.aroon_up(highs, highs - 1, 4).iloc[-1] == 25
    assert fold(rows_from(highs, highs, highs - 1), "aroon", window=4)[-1, 0] == 0.75


def test_kama_filled_starts_with_the_end_of_the_data() -> None:
    closes = pd.Series(100 + np.arange(30.0))
    later = closes.where(closes.index < 29, 500.0)
    assert ta_momentum.kama(closes, fillna=True)[1] != ta_momentum.kama(later, fillna=True)[1]
