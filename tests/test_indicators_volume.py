"""Volume and money flow: TA-Lib and `ta` on real and simulated bars, and why `ta` differs where it does."""

from collections.abc import Callable, Mapping

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
from ta import volume as ta_volume

from finsense.market.timeline import CLOSE, HIGH, LOW, SESSION_LEFT, SESSION_OPENS, VOLUME

Parameters = Mapping[str, float]


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> Market:
    """Real daily and 5-minute bars, and simulated ones."""
    return market_of(market_rows(request, request.param))


def change_over(line: Floats, window: int) -> Floats:
    """A line without end as a rate: its change over the window, (n,) float64, NaN until there is one."""
    changes: Floats = np.append(np.full(window, np.nan), line[window:] - line[:-window])
    return changes


def talib_obv(m: Market, p: Parameters) -> list[Pair]:
    window = int(p["window"])
    total = talib.SUM(m.volume, window)
    mine = fold(m.rows, "obv", **p)[:, 0] * total
    return [Pair("obv", mine, change_over(talib.OBV(m.close, m.volume), window), total)]


def talib_vpt(m: Market, p: Parameters) -> list[Pair]:
    window = int(p["window"])
    total = talib.SUM(m.volume, window)
    mine = fold(m.rows, "vpt", **p)[:, 0] * total
    return [Pair("vpt", mine, change_over(talib.PVT(m.close, m.volume), window), total * 1e-3)]


def talib_nvi(m: Market, p: Parameters) -> list[Pair]:
    window = int(p["window"])
    line = np.log(talib.NVI(m.close, m.volume))
    return [Pair("nvi", fold(m.rows, "nvi", **p)[:, 0], change_over(line, window), 1e-3)]


def talib_fi(m: Market, p: Parameters) -> list[Pair]:
    window = int(p["window"])
    average = pd.Series(m.volume[1:]).ewm(span=window, adjust=False).mean().to_numpy()
    scale = np.append(np.nan, average) * m.close
    return [Pair("fi", fold(m.rows, "fi", **p)[:, 0] * scale, talib.EFI(m.close, m.volume, window), scale * 1e-3)]


def talib_cmf(m: Market, p: Parameters) -> list[Pair]:
    window = int(p["window"])
    bars = (m.high, m.low, m.close, m.volume)
    total = talib.SUM(m.volume, window)
    found = fold(m.rows, "cmf", **p)[:, 0]
    return [
        Pair("cmf", found, talib.CMF(*bars, window), 1.0),
        Pair("change of the line", found * total, change_over(talib.AD(*bars), window), total),
    ]


def talib_mfi(m: Market, p: Parameters) -> list[Pair]:
    theirs = talib.MFI(m.high, m.low, m.close, m.volume, int(p["window"]))
    return [Pair("mfi", 50 + 50 * fold(m.rows, "mfi", **p)[:, 0], theirs, 1.0)]


def talib_vwap(m: Market, p: Parameters) -> list[Pair]:
    window = int(p["window"])
    paid = talib.TYPPRICE(m.high, m.low, m.close) * m.volume
    theirs = talib.SUM(paid, window) / talib.SUM(m.volume, window)
    return [Pair("vwap", m.price(fold(m.rows, "vwap", **p)[:, 0]), theirs)]


def talib_volume_ratio(m: Market, p: Parameters) -> list[Pair]:
    found = np.exp(fold(m.rows, "volume_ratio", **p)[:, 0])
    return [Pair("volume_ratio", found, (1 + m.volume) / (1 + talib.SMA(m.volume, int(p["window"]))))]


# Name -> the oracle, and after how many windows the starts of averages have faded below 1e-10.
TALIB: dict[str, tuple[Oracle, int]] = {
    "volume_ratio": (talib_volume_ratio, 0),
    "obv": (talib_obv, 0),
    "vpt": (talib_vpt, 0),
    "nvi": (talib_nvi, 0),
    "fi": (talib_fi, 14),
    "cmf": (talib_cmf, 0),
    "mfi": (talib_mfi, 0),
    "vwap": (talib_vwap, 0),
}


def compared(name: str, m: Market, p: Parameters) -> tuple[list[Pair], int]:
    """An indicator's pairs, and the first bar at which the starts of TA-Lib's averages have faded."""
    oracle, windows = TALIB[name]
    return oracle(m, p), windows * int(p["window"])


@pytest.mark.parametrize("other", [False, True], ids=["default", "other"])
@pytest.mark.parametrize("name", TALIB)
def test_agrees_with_talib(name: str, other: bool, market: Market) -> None:
    parameters = feature_of(name, **({"window": 7} if other else {})).parameters
    assert_agree(*compared(name, market, parameters))


def sessions_of(m: Market) -> list[Market]:
    """The bars of each session apart, by the bar that ends one: nothing is left of it."""
    ends = np.flatnonzero(m.rows[:, SESSION_LEFT] == 0) + 1
    return [market_of(rows) for rows in np.split(m.rows, ends) if len(rows)]


def session_adi(m: Market, p: Parameters) -> list[Pair]:
    lines = [talib.AD(s.high, s.low, s.close, s.volume) / np.cumsum(s.volume) for s in sessions_of(m)]
    return [Pair("adi", fold(m.rows, "adi", **p)[:, 0], np.concatenate(lines), 1.0)]


def session_vwap(m: Market, p: Parameters) -> list[Pair]:
    averages = [talib.VWAP(s.high, s.low, s.close, s.volume) for s in sessions_of(m)]
    return [Pair("session_vwap", m.price(fold(m.rows, "session_vwap", **p)[:, 0]), np.concatenate(averages))]


SESSION_TALIB: dict[str, Oracle] = {"adi": session_adi, "session_vwap": session_vwap}


@pytest.mark.parametrize("name", SESSION_TALIB)
def test_session_lines_agree_with_talib_started_at_every_session(name: str, market: Market) -> None:
    """TA-Lib's VWAP and A/D have no end; begun anew at each session they are ours."""
    assert len(sessions_of(market)) > 50
    assert_agree(SESSION_TALIB[name](market, {}), 0)


# Name -> what `ta` gives; our column in its scale, from the bars, the window and the window's volume; the size of one.
TA: dict[str, tuple[Callable[[pd.DataFrame], "pd.Series[float]"], Callable[[Market, Floats], Floats], float]] = {
    "cmf": (lambda f: ta_volume.chaikin_money_flow(f.high, f.low, f.close, f.volume), lambda m, x: x, 1.0),
    "vpt": (
        lambda f: ta_volume.VolumePriceTrendIndicator(f.close, f.volume).volume_price_trend().diff(20),
        lambda m, x: x * talib.SUM(m.volume, 20),
        100.0,
    ),
    "nvi": (
        lambda f: np.log(ta_volume.NegativeVolumeIndexIndicator(f.close, f.volume).negative_volume_index()).diff(20),
        lambda m, x: x,
        1e-3,
    ),
    "fi": (
        lambda f: ta_volume.force_index(f.close, f.volume),
        lambda m, x: x * m.close * np.append(0, pd.Series(m.volume[1:]).ewm(span=13, adjust=False).mean()),
        100.0,
    ),
    "em": (
        lambda f: ta_volume.sma_ease_of_movement(f.high, f.low, f.volume),
        lambda m, x: x * 1e8 * m.close**2 / talib.SMA(m.volume, 14),
        100.0,
    ),
    "vwap": (
        lambda f: ta_volume.volume_weighted_average_price(f.high, f.low, f.close, f.volume),
        lambda m, x: m.price(x),
        0.0,
    ),
}


@pytest.mark.parametrize("name", TA)
def test_agrees_with_ta(name: str, market: Market) -> None:
    theirs, rescale, scale = TA[name]
    expected = np.asarray(theirs(frame_of(market.rows)), np.float64)
    assert_agree([Pair(name, rescale(market, fold(market.rows, name)[:, 0]), expected, scale)], 0)


def test_ta_buys_the_volume_of_an_unchanged_close(market: Market) -> None:
    """Granville counts the volume of an unchanged close nowhere (TA-Lib too); `ta` adds it to the buyers'."""
    frame = frame_of(market.rows)
    theirs = ta_volume.on_balance_volume(frame.close, frame.volume)
    unchanged = frame.volume.where(frame.close.diff() == 0, 0.0)
    assert unchanged.sum() > 0
    total = talib.SUM(market.volume, 20)
    mine = fold(market.rows, "obv")[:, 0] * total
    assert_agree([Pair("obv", mine, (theirs - unchanged.cumsum()).diff(20).to_numpy(), total)], 0)
    assert largest_difference(mine, theirs.diff(20), 20, scale=total) > 0.01


def test_the_money_flow_of_ta_has_a_side_where_only_rounding_moved_the_price(market: Market) -> None:
    """(591.85 + 591.60 + 591.65) / 3 and (591.80 + 591.60 + 591.70) / 3 are one price, but two float64.

    `ta` compares the float64 and counts a rise; TA-Lib and we count none. Elsewhere all three agree.
    """
    frame = frame_of(market.rows)
    theirs = ta_volume.money_flow_index(frame.high, frame.low, frame.close, frame.volume).to_numpy()
    typical = (frame.high + frame.low + frame.close) / 3
    misjudged = (typical.diff() != 0) & (typical.diff().abs() < 1e-9)
    clean = (misjudged.rolling(14, min_periods=1).max() == 0).to_numpy(copy=True)
    clean[:14] = False
    mine = 50 + 50 * fold(market.rows, "mfi")[:, 0]
    assert clean.mean() > 0.5
    assert largest_difference(mine[clean], theirs[clean], 0, scale=1.0) <= 1e-9

    rows = rows_from([591.65, 591.70], [591.85, 591.80], [591.60, 591.60])
    tie = frame_of(rows)
    assert ta_volume.money_flow_index(tie.high, tie.low, tie.close, tie.volume, 2).iloc[-1] == 100
    assert fold(rows, "mfi")[:, 0].tolist() == [0, 0]


def test_where_no_money_flows_talib_reads_a_sold_out_market_and_ours_is_neutral() -> None:
    """0 of 0 is no side; TA-Lib gives 0 there, which is as oversold as can be, `ta` no value, and ours the middle."""
    rows = rows_from(np.full(30, 250.0))
    columns = (rows[:, HIGH], rows[:, LOW], rows[:, CLOSE], rows[:, VOLUME])
    assert (talib.MFI(*columns, 14)[14:] == 0).all()
    frame = frame_of(rows)
    assert ta_volume.money_flow_index(frame.high, frame.low, frame.close, frame.volume).isna().all()
    assert (fold(rows, "mfi") == 0).all()


def test_the_vwap_of_ta_does_not_know_the_day_it_promises(market: Market) -> None:
    """`ta` says "good for the current trading day only" and rolls on; the session's own is `session_vwap`."""
    frame = frame_of(market.rows)
    theirs = ta_volume.volume_weighted_average_price(frame.high, frame.low, frame.close, frame.volume)
    first_bars = np.flatnonzero(market.rows[:-1, SESSION_LEFT] == 0)[20:] + 1
    typical = ((frame.high + frame.low + frame.close) / 3).to_numpy()
    opening = market.price(fold(market.rows, "session_vwap")[:, 0])
    np.testing.assert_allclose(opening[first_bars], typical[first_bars], rtol=1e-12)
    assert np.abs(theirs.to_numpy()[first_bars] / typical[first_bars] - 1).max() > 1e-3


def test_without_volume_ta_has_no_value_or_an_infinite_one_and_ours_is_defined() -> None:
    rows = rows_from(100 + np.arange(40.0), 101 + np.arange(40.0), 99 + np.arange(40.0), 0.0)
    frame = frame_of(rows)
    bars = (frame.high, frame.low, frame.close, frame.volume)
    assert ta_volume.chaikin_money_flow(*bars).isna().all()
    assert ta_volume.volume_weighted_average_price(*bars).isna().all()
    assert ta_volume.money_flow_index(*bars).isna().all()
    assert np.isinf(ta_volume.ease_of_movement(frame.high, frame.low, frame.volume)[1:]).all()
    for name in ("volume_ratio", "obv", "vpt", "nvi", "fi", "em", "adi", "cmf", "mfi", "vwap", "session_vwap"):
        assert (fold(rows, name) == 0).all()


def test_one_silent_bar_does_not_spoil_the_ease_of_movement_as_in_ta(market: Market) -> None:
    """A bar without volume moved without effort, which is no number: `ta` is not finite for a window."""
    rows = market.rows[:60].copy()
    rows[30, VOLUME] = 0
    frame = frame_of(rows)
    theirs = ta_volume.sma_ease_of_movement(frame.high, frame.low, frame.volume)
    assert not np.isfinite(theirs[30:44]).any()
    found = fold(rows, "em")[:, 0]
    ease = 0.5 * (frame.high + frame.low).diff() * (frame.high - frame.low) / frame.volume.where(frame.volume > 0)
    expected = ease.fillna(0).rolling(14).mean() * frame.volume.rolling(14).mean() / frame.close**2
    np.testing.assert_allclose(found[14:], expected[14:], rtol=1e-8, atol=1e-18)


def test_bars_of_one_price_count_in_the_volume_and_nowhere_else() -> None:
    """A locked bar has no place in its range: its volume dilutes the flow of the others."""
    rows = rows_from([100.0, 105.0, 105.0], [100.0, 105.0, 105.0], [90.0, 105.0, 105.0], [300.0, 100.0, 200.0])
    rows[:, SESSION_OPENS] = [1, 0, 0]
    for name in ("adi", "cmf"):
        np.testing.assert_allclose(fold(rows, name)[:, 0], [1, 0.75, 0.5])
    np.testing.assert_allclose(fold(rows, "obv")[:, 0], [0, 0.25, 1 / 6])
    np.testing.assert_allclose(fold(rows, "vpt")[:, 0], [0, 0.05 / 4, 0.05 / 6])
    np.testing.assert_allclose(fold(rows, "nvi")[:, 0], [0, np.log(1.05), np.log(1.05)])
    np.testing.assert_allclose(fold(rows, "mfi", window=2)[:, 0], [0, 1, 1])
    np.testing.assert_allclose(fold(rows, "fi", window=1)[:, 0], [0, 5 / 105, 0])


def test_each_daily_bar_is_a_session_of_its_own() -> None:
    rows = rows_from([100.0, 95.0], [110.0, 105.0], [90.0, 95.0], [300.0, 100.0])
    np.testing.assert_allclose(fold(rows, "adi")[:, 0], [0, -1])
    np.testing.assert_allclose(fold(rows, "session_vwap")[:, 0], [0, (105 + 95 + 95) / 3 / 95 - 1])


def test_after_an_enormous_volume_the_small_ones_count_again() -> None:
    """What has left a window leaves no trace in it."""
    rng = np.random.default_rng(4)
    closes = 100 + np.cumsum(rng.normal(0, 0.3, 80))
    rows = rows_from(closes, closes + 0.5, closes - 0.7, rng.integers(1, 9, 80))
    shaken = rows.copy()
    shaken[:20, VOLUME] = 10**12
    shaken[:20, :4] *= 10_000
    for name in ("obv", "vpt", "nvi", "em", "cmf", "mfi", "vwap", "volume_ratio"):
        np.testing.assert_allclose(fold(shaken, name)[45:], fold(rows, name)[45:], rtol=1e-9, atol=1e-15)
