"""The windows that kernels keep: exact against rational arithmetic and brute force, whatever comes and goes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.state.windows import (
    DELAY_CELLS,
    HIGHEST_CELLS,
    SUM_CELLS,
    slide_delay,
    slide_highest,
    slide_lead,
    slide_mean,
    slide_since_highest,
    slide_sum,
)

PRICES = st.sampled_from([0.01, 0.02, 0.07, 1.0, 99.95, 100.05, 2500.0, 9_999_999.99])
VALUES = st.lists(st.one_of(PRICES, st.floats(0.01, 1e7)), min_size=1, max_size=80)


@given(values=VALUES, window=st.integers(1, 20))
def test_a_sliding_sum_is_the_exact_sum_rounded_once(values: list[float], window: int) -> None:
    memory = np.zeros(SUM_CELLS + window)
    for index, value in enumerate(values):
        held = values[max(0, index + 1 - window) : index + 1]
        assert slide_sum(memory, 0, window, value) == float(sum(map(Fraction, held), Fraction(0)))


@given(values=VALUES, window=st.integers(1, 20))
def test_mean_and_lead_follow_from_it(values: list[float], window: int) -> None:
    means, leads = np.zeros(SUM_CELLS + window), np.zeros(SUM_CELLS + window)
    for index, value in enumerate(values):
        held = values[max(0, index + 1 - window) : index + 1]
        mean = float(sum(map(Fraction, held), Fraction(0)) / len(held))
        assert slide_mean(means, 0, window, value) == pytest.approx(mean, rel=1e-15)
        lead = slide_lead(leads, 0, window, value)
        assert lead == pytest.approx(value - mean, rel=1e-15, abs=1e-15 * max(held))
        if len(set(held)) == 1:
            assert lead == 0.0


@given(values=VALUES, window=st.integers(1, 20), sign=st.sampled_from([1.0, -1.0]))
def test_the_highest_and_its_age_are_those_of_a_search(values: list[float], window: int, sign: float) -> None:
    highest, since = np.zeros(HIGHEST_CELLS + window), np.zeros(HIGHEST_CELLS + window)
    signed = [sign * value for value in values]
    for index, value in enumerate(signed):
        newest_first = signed[max(0, index + 1 - window) : index + 1][::-1]
        assert slide_highest(highest, 0, window, value) == max(newest_first)
        assert slide_since_highest(since, 0, window, value) == newest_first.index(max(newest_first))


@given(values=VALUES, window=st.integers(1, 20))
def test_a_delay_gives_the_first_until_it_is_full(values: list[float], window: int) -> None:
    memory = np.zeros(DELAY_CELLS + window)
    for index, value in enumerate(values):
        assert slide_delay(memory, 0, window, value) == values[max(0, index - window)]
