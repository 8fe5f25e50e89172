"""The indicators of order flow against their formulas, on random bars and on the bars of real and made ticks."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indicator_oracles import Floats, feature_of, fold, rows_from, rows_of

from finsense.market.extra_fields import FLOW_FIELDS
from finsense.market.order_book import Depth, Level
from finsense.market.ticks import Tick, bars_from_ticks
from finsense.market.timeline import (
    BOOK_IMBALANCE,
    CLOSE,
    MICROPRICE_OFFSET,
    OPEN,
    REALISED_VARIANCE,
    SIGNED_VOLUME,
    SPREAD,
    TICK_VWAP,
    TICKS,
    TRADES,
    VOLUME,
)
from finsense.state.indicators import order_flow
from finsense.state.registry import INDICATORS

NAMES = tuple(name for name, one in INDICATORS.items() if one.kernel.__module__ == order_flow.__name__)
WINDOWED = tuple(name for name in NAMES if "window" in INDICATORS[name].defaults)
BARS = 200


def flow_rows(seed: int = 3, count: int = BARS) -> Floats:
    """Bars with flow of every kind: thin bars, bars without trades, and some without a two-sided book."""
    rng = np.random.default_rng(seed)
    closes = 500 * np.exp(np.cumsum(rng.normal(0, 0.003, count)))
    opens = closes * np.exp(rng.normal(0, 0.003, count))
    rows = rows_from(closes, np.maximum(opens, closes), np.minimum(opens, closes))
    rows[:, OPEN] = opens
    rows[:, VOLUME] = np.where(rng.random(count) < 0.2, 0, rng.integers(1, 10_000, count))
    rows[:, SIGNED_VOLUME] = np.round(rows[:, VOLUME] * rng.uniform(-1, 1, count))
    rows[:, TICKS] = rng.integers(1, 60, count)
    rows[:, TRADES] = np.where(rows[:, VOLUME] > 0, rng.integers(1, 60, count), 0)
    rows[:, REALISED_VARIANCE] = np.where(rng.random(count) < 0.2, 0, rng.gamma(2, 4e-6, count))
    rows[:, TICK_VWAP] = closes * np.exp(rng.normal(0, 0.001, count))
    rows[:, BOOK_IMBALANCE] = rng.uniform(-1, 1, count)
    rows[:, SPREAD] = np.where(rng.random(count) < 0.2, 0, rng.gamma(2, 1e-4, count))
    rows[:, MICROPRICE_OFFSET] = rows[:, SPREAD] * rng.uniform(-0.6, 0.6, count)
    return rows


def rolling(values: Floats, window: int) -> Any:
    return pd.Series(values).rolling(window, min_periods=1)


def balance(first: Any, second: Any) -> Floats:
    """(first - second) / (first + second), 0 where both are 0."""
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    total = first + second
    found: Floats = np.divide(first - second, total, out=np.zeros_like(total), where=total > 0)
    return found


def moves(rows: Floats, window: int) -> Floats:
    found: Floats = np.sqrt(rolling(np.log(rows[:, CLOSE] / rows[:, OPEN]) ** 2, window).mean().to_numpy())
    return found


def expected_signed_volume(rows: Floats, window: int) -> list[Any]:
    net, total = rolling(rows[:, SIGNED_VOLUME], window).sum(), rolling(rows[:, VOLUME], window).sum()
    return [np.where(total > 0, net / np.where(total > 0, total, 1), 0)]


def expected_trade_count(rows: Floats, window: int) -> list[Any]:
    return [np.log((1 + rows[:, TRADES]) / (1 + rolling(rows[:, TRADES], window).mean()))]


def expected_intrabar_volatility(rows: Floats, window: int) -> list[Any]:
    long = np.sqrt(rolling(rows[:, REALISED_VARIANCE], window).mean())
    return [long, balance(np.sqrt(rows[:, REALISED_VARIANCE]), long)]


def expected_intrabar_noise(rows: Floats, window: int) -> list[Any]:
    return [balance(np.sqrt(rolling(rows[:, REALISED_VARIANCE], window).mean()), moves(rows, window))]


def expected_tick_vwap(rows: Floats, window: int) -> list[Any]:
    return [rows[:, CLOSE] / rows[:, TICK_VWAP] - 1]


def expected_book_imbalance(rows: Floats, window: int) -> list[Any]:
    now = rows[:, BOOK_IMBALANCE]
    return [now, now - rolling(now, window).mean()]


def expected_spread(rows: Floats, window: int) -> list[Any]:
    now = rows[:, SPREAD]
    mean = rolling(np.where(now > 0, now, np.nan), window).mean()
    known = now > 0
    cost = np.divide(now, now + moves(rows, window), out=np.zeros_like(now), where=known)
    return [np.where(known, balance(now, mean), 0), cost]


def expected_microprice(rows: Floats, window: int) -> list[Any]:
    half = rows[:, SPREAD] / 2
    return [np.divide(rows[:, MICROPRICE_OFFSET], half, out=np.zeros_like(half), where=half > 0).clip(-1, 1)]


FORMULAS: dict[str, Callable[[Floats, int], list[Any]]] = {
    "signed_volume": expected_signed_volume,
    "trade_count": expected_trade_count,
    "intrabar_volatility": expected_intrabar_volatility,
    "intrabar_noise": expected_intrabar_noise,
    "tick_vwap": expected_tick_vwap,
    "book_imbalance": expected_book_imbalance,
    "spread": expected_spread,
    "microprice": expected_microprice,
}
BOUNDS: dict[str, list[tuple[float, float]]] = {
    "signed_volume": [(-1, 1)],
    "intrabar_volatility": [(0, math.inf), (-1, 1)],
    "intrabar_noise": [(-1, 1)],
    "book_imbalance": [(-1, 1), (-2, 2)],
    "spread": [(-1, 1), (0, 1)],
    "microprice": [(-1, 1)],
}


def test_every_indicator_of_the_family_has_a_formula_here_and_needs_the_flow() -> None:
    assert set(FORMULAS) == set(NAMES)
    assert all(INDICATORS[name].needs and set(INDICATORS[name].needs) <= set(FLOW_FIELDS) for name in NAMES)


@pytest.mark.parametrize("window", [2, 20])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_formula(name: str, window: int) -> None:
    rows = flow_rows()
    parameters = {"window": window} if name in WINDOWED else {}
    expected = np.stack(FORMULAS[name](rows, window), axis=1)
    np.testing.assert_allclose(fold(rows, name, **parameters), expected, rtol=1e-9, atol=1e-12)
    assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_reads_no_flow_field_but_those_it_needs(name: str) -> None:
    """What `needs` leaves out may change at will; what it names may not."""
    rows = flow_rows()
    before = fold(rows, name)
    fields = dict(zip(FLOW_FIELDS, range(TICKS, TICKS + len(FLOW_FIELDS)), strict=True))
    other = rows.copy()
    other[:, [place for field, place in fields.items() if field not in INDICATORS[name].needs]] = 0.25
    assert fold(other, name).tobytes() == before.tobytes()
    for field in INDICATORS[name].needs:
        changed = rows.copy()
        changed[:, fields[field]] *= 0.5
        changed[0, fields[field]] += 1.0
        assert fold(changed, name).tobytes() != before.tobytes()


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_looks_back_as_far_as_it_says_and_no_further(name: str) -> None:
    rows = flow_rows(5)
    whole, lookback = fold(rows, name), feature_of(name).lookback
    ends = range(60, BARS)
    exact = [fold(rows[end - lookback : end], name)[-1] for end in ends]
    np.testing.assert_allclose(exact, whole[[end - 1 for end in ends]], rtol=1e-9, atol=1e-13)
    short = [fold(rows[end - lookback + 1 : end], name)[-1] for end in ends]
    assert not np.allclose(short, exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_market_without_trades_and_book_reads_zero(name: str) -> None:
    """Nothing known (all 0), and nothing traded (one tick, its price as VWAP)."""
    rows = rows_from(np.full(50, 123.45), volume=0.0)
    assert (fold(rows, name) == 0).all()
    rows[:, TICKS], rows[:, TICK_VWAP] = 1.0, 123.45
    assert (fold(rows, name) == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_price_nor_the_lot_is_in_an_indicator(name: str) -> None:
    """A split changes no state: prices and shares eightfold, the same values."""
    rows = flow_rows(7)
    scaled = rows.copy()
    scaled[:, [*range(4), TICK_VWAP, VOLUME, SIGNED_VOLUME]] *= 8
    np.testing.assert_allclose(fold(scaled, name), fold(rows, name), rtol=1e-12, atol=1e-15)


FLOWS = st.fixed_dictionaries(
    {
        VOLUME: st.sampled_from([0.0, 1.0, 1e12]),
        TRADES: st.sampled_from([0.0, 1.0, 1e6]),
        SIGNED_VOLUME: st.sampled_from([0.0, -1e12, 1e12, 3.0]),
        REALISED_VARIANCE: st.sampled_from([0.0, 1e-18, 400.0]),
        TICK_VWAP: st.sampled_from([0.0, 0.01, 100.0, 9_999_999.99]),
        BOOK_IMBALANCE: st.sampled_from([0.0, -1.0, 1.0, 1 / 3]),
        SPREAD: st.sampled_from([0.0, 1e-9, 1.99]),
        MICROPRICE_OFFSET: st.sampled_from([0.0, -0.99, 0.99, 1e-12]),
    }
)
PRICES = st.sampled_from([0.01, 0.02, 100.0, 9_999_999.99])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PRICES, PRICES, FLOWS, st.integers(1, 12)), min_size=1, max_size=12), st.integers(2, 9))
def test_no_flow_leaves_an_indicator_without_a_value_or_out_of_its_bounds(
    runs: list[tuple[float, float, dict[int, float], int]], window: int
) -> None:
    lengths = [length for *_, length in runs]
    opens, closes = (np.repeat([run[place] for run in runs], lengths) for place in (0, 1))
    rows = rows_from(closes, np.maximum(opens, closes), np.minimum(opens, closes))
    rows[:, OPEN] = opens
    for field in runs[0][2]:
        rows[:, field] = np.repeat([run[2][field] for run in runs], lengths)
    for name in NAMES:
        found = fold(rows, name, **({"window": window} if name in WINDOWED else {}))
        with np.errstate(over="ignore"):
            assert np.isfinite(found.astype(np.float32)).all()
        for column, (lowest, highest) in enumerate(BOUNDS.get(name, [])):
            assert found[:, column].min() >= lowest - 1e-12
            assert found[:, column].max() <= highest + 1e-12


def test_what_leaves_a_window_leaves_no_trace() -> None:
    rows = flow_rows(9)
    shaken = rows.copy()
    shaken[:20, [VOLUME, SIGNED_VOLUME, TRADES]] = 1e12
    shaken[:20, [REALISED_VARIANCE, SPREAD]] = [100.0, 1.9]
    shaken[:20, CLOSE] *= 10_000
    for name in NAMES:
        np.testing.assert_allclose(fold(shaken, name)[45:], fold(rows, name)[45:], rtol=1e-9, atol=1e-13)


def test_from_ticks_to_columns() -> None:
    """Three minutes of a stock that buyers lift, with a book, then a locked circuit: by hand."""
    opening_ns = int(pd.Timestamp("2024-01-15 09:15", tz="Asia/Kolkata").value)
    book = Depth((Level(99.0, 300),), (Level(101.0, 100),))
    locked = Depth((Level(110.0, 500),), ())

    def tick(second: int, price: float, volume: int, depth: Depth) -> Tick:
        return Tick(opening_ns + second * 10**9, price, volume, depth)

    ticks = [
        tick(0, 100.0, 1000, book),
        tick(1, 101.0, 1300, book),
        tick(2, 99.0, 1400, book),
        tick(60, 101.0, 1600, book),
        tick(120, 110.0, 1600, locked),
    ]
    bars, _ = bars_from_ticks(ticks, "SIM", "1m")
    rows = rows_of(bars)

    def found(name: str) -> Floats:
        return fold(rows, name)

    np.testing.assert_allclose(found("signed_volume")[:, 0], [200 / 400, 400 / 600, 400 / 600])
    np.testing.assert_allclose(found("trade_count")[:, 0], np.log([3 / 3, 2 / 2.5, 1 / 2]))
    np.testing.assert_allclose(found("tick_vwap")[:, 0], [99 / 100.5 - 1, 0, 0])
    np.testing.assert_allclose(found("book_imbalance")[:, 0], [0.5, 0.5, 1])
    np.testing.assert_allclose(found("spread")[:, 0], [0, 0, 0], atol=1e-15)
    np.testing.assert_allclose(found("spread")[:, 1], [0.02 / (0.02 + math.log(100 / 99)), 0.02 / rest(rows), 0])
    np.testing.assert_allclose(found("microprice")[:, 0], [0.5, 0.5, 0])
    variance = math.log(1.01) ** 2 + math.log(101 / 99) ** 2
    np.testing.assert_allclose(found("intrabar_volatility")[0], [math.sqrt(variance), 0], atol=1e-12)
    noise, move = math.sqrt(variance), math.log(100 / 99)
    np.testing.assert_allclose(found("intrabar_noise")[0, 0], (noise - move) / (noise + move))


def rest(rows: Floats) -> float:
    """Spread and move of the second bar: it did not move, the first one did."""
    return 0.02 + math.sqrt(np.log(rows[0, CLOSE] / rows[0, OPEN]) ** 2 / 2)
