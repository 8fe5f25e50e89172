"""Sizes stay below their cap, grow with what speaks for them, and are zero without an edge."""

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.account.sizing import (
    FEWEST_TRIPS,
    RoundTrip,
    SizingError,
    drawdown_scaled,
    fixed_fractional,
    fractional_kelly,
    shares_for,
    three_month_performance,
    volatility_target,
)

DAY = dt.date(2026, 11, 20)
fractions = st.floats(0, 2, allow_nan=False)
caps = st.floats(0, 1, allow_nan=False)
prices = st.integers(1, 10**9)
returns = st.lists(st.floats(-0.9, 0.9, allow_nan=False), min_size=FEWEST_TRIPS, max_size=60)


def trips(values: list[float], *, out_of_sample: bool = True, day: dt.date = DAY) -> list[RoundTrip]:
    return [RoundTrip(day - dt.timedelta(days=1), one, out_of_sample) for one in values]


@given(risk=fractions, more=fractions, entry=prices, stop=prices, cap=caps)
def test_fixed_fractional(risk: float, more: float, entry: int, stop: int, cap: float) -> None:
    if entry == stop:
        with pytest.raises(SizingError):
            fixed_fractional(risk, entry, stop, cap)
        return
    size = fixed_fractional(risk, entry, stop, cap)
    assert 0 <= size <= cap
    assert fixed_fractional(risk + more, entry, stop, cap) >= size
    assert fixed_fractional(0.0, entry, stop, cap) == 0
    # Below the cap, a move to the stop costs what was to be risked.
    if 0 < size < cap:
        assert size * abs(entry - stop) / entry == pytest.approx(risk, rel=1e-12)


@given(target=fractions, more=fractions, volatility=fractions, cap=caps)
def test_volatility_target(target: float, more: float, volatility: float, cap: float) -> None:
    size = volatility_target(target, volatility, cap)
    assert 0 <= size <= cap
    assert volatility_target(target + more, volatility, cap) >= size
    assert volatility_target(0.0, volatility, cap) == 0
    if target > 0:
        assert volatility_target(target, volatility + more, cap) <= size
    if 0 < size < cap:
        assert size * volatility == pytest.approx(target, rel=1e-12)


@given(values=returns, place=st.integers(0, FEWEST_TRIPS - 1), better=st.floats(0, 0.5), cap=caps)
def test_kelly_stays_below_its_cap_and_grows_with_every_trip(
    values: list[float], place: int, better: float, cap: float
) -> None:
    size = fractional_kelly(trips(values), 0.25, cap)
    assert 0 <= size <= cap
    improved = [*values[:place], values[place] + better, *values[place + 1 :]]
    assert fractional_kelly(trips(improved), 0.25, cap) >= size - 1e-9


@given(values=returns)
def test_kelly_without_an_edge_is_zero(values: list[float]) -> None:
    mirrored = [*values, *(-one for one in values)]
    assert fractional_kelly(trips(mirrored), 0.5, 1.0) == 0
    assert fractional_kelly(trips([-abs(one) for one in values]), 0.5, 1.0) == 0


@given(values=returns)
def test_kelly_is_where_growth_is_largest(values: list[float]) -> None:
    full = fractional_kelly(trips(values), 1.0, 0.9)

    def growth(share: float) -> float:
        return math.fsum(math.log1p(share * one) for one in values)

    for other in (0.0, 0.25, 0.5, 0.75, 0.9):
        assert growth(full) >= growth(other) - 1e-9 * len(values)


def test_kelly_of_a_coin_is_the_known_one() -> None:
    # p = 0.6 at even odds: f = p - q = 0.2 (Kelly 1956).
    coin = trips([0.5] * 60 + [-0.5] * 40)
    assert fractional_kelly(coin, 1.0, 1.0) == pytest.approx(0.4, abs=1e-12)
    # 1 / loss - q / gain in general: p/a - q/b.
    uneven = trips([0.2] * 50 + [-0.1] * 50)
    assert fractional_kelly(uneven, 0.5, 3.0) == pytest.approx(0.5 * (0.5 / 0.1 - 0.5 / 0.2), abs=1e-9)


def test_kelly_refuses_what_says_nothing() -> None:
    seen = trips([0.1] * 29) + trips([0.1], out_of_sample=False)
    with pytest.raises(SizingError, match="1 of 30 round trips lie in days that the policy was trained on"):
        fractional_kelly(seen, 0.25, 0.3)
    with pytest.raises(SizingError, match="at least 30 round trips"):
        fractional_kelly(trips([0.1] * 29), 0.25, 0.3)
    with pytest.raises(SizingError, match="above -1"):
        fractional_kelly(trips([0.1] * 29 + [-1.0]), 0.25, 0.3)


@given(share=fractions, equity=st.integers(0, 10**12), more=st.integers(0, 10**12), peak=st.integers(1, 10**12),
       most=st.floats(0.01, 1))  # fmt: skip
def test_drawdown_scaled(share: float, equity: int, more: int, peak: int, most: float) -> None:
    size = drawdown_scaled(share, equity, peak, most)
    assert 0 <= size <= share
    assert drawdown_scaled(share, equity + more, peak, most) >= size
    assert drawdown_scaled(share, peak, peak, most) == pytest.approx(share)
    if equity < (1 - most) * peak * (1 - 1e-9):
        assert size == 0


@given(share=caps, equity=st.integers(0, 10**12), price=prices)
def test_shares_are_never_worth_more_than_the_share(share: float, equity: int, price: int) -> None:
    shares = shares_for(share, equity, price)
    assert 0 <= shares * price <= share * equity


def test_three_months_are_of_the_past_and_out_of_sample() -> None:
    def at(days: int, net_return: float, out_of_sample: bool = True) -> RoundTrip:
        return RoundTrip(DAY - dt.timedelta(days=days), net_return, out_of_sample)

    found = three_month_performance([at(91, 0.1), at(1, 0.1), at(92, 9.0, False), at(0, 9.0)], DAY)
    assert found == pytest.approx(0.21)
    assert three_month_performance([at(100, 0.5)], DAY) is None
    with pytest.raises(SizingError, match="1 of 2 round trips"):
        three_month_performance([at(5, 0.1), at(6, 0.1, False)], DAY)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fixed_fractional(-0.1, 100, 90, 1.0),
        lambda: fixed_fractional(0.1, 0, 90, 1.0),
        lambda: volatility_target(math.nan, 0.1, 1.0),
        lambda: volatility_target(0.1, -0.1, 1.0),
        lambda: drawdown_scaled(0.1, 100, 0, 0.2),
        lambda: drawdown_scaled(0.1, 100, 100, 0.0),
        lambda: shares_for(math.inf, 100, 10),
        lambda: shares_for(0.1, 100, 0),
    ],
)
def test_figures_out_of_range_are_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(SizingError):
        call()
