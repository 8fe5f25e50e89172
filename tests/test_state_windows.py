"""The windows that kernels keep: exact against rational arithmetic and brute force, whatever comes and goes."""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.state.windows import (
    AGE_CELLS,
    DELAY_CELLS,
    PATH_CELLS,
    RANGE_CELLS,
    SQUARES_CELLS,
    SUM_CELLS,
    distances_about,
    slide_delay,
    slide_highest_age,
    slide_lead,
    slide_mean,
    slide_path,
    slide_range,
    slide_squares,
    slide_sum,
    weighted_about,
)

PRICES = st.sampled_from([0.01, 0.02, 0.07, 1.0, 99.95, 100.05, 2500.0, 9_999_999.99])
VALUES = st.lists(st.one_of(PRICES, st.floats(0.01, 1e7)), min_size=1, max_size=80)


def exact(values: Sequence[float]) -> Fraction:
    """The sum without rounding."""
    return sum(map(Fraction, values), Fraction(0))


@given(values=VALUES, window=st.integers(1, 20))
def test_a_sliding_sum_is_the_exact_sum_rounded_once(values: list[float], window: int) -> None:
    memory = np.zeros(SUM_CELLS + window)
    for index, value in enumerate(values):
        held = values[max(0, index + 1 - window) : index + 1]
        assert slide_sum(memory, 0, window, value) == float(exact(held))


@given(values=VALUES, window=st.integers(1, 20))
def test_mean_and_lead_follow_from_it(values: list[float], window: int) -> None:
    means, leads = np.zeros(SUM_CELLS + window), np.zeros(SUM_CELLS + window)
    for index, value in enumerate(values):
        held = values[max(0, index + 1 - window) : index + 1]
        mean = float(exact(held) / len(held))
        assert slide_mean(means, 0, window, value) == pytest.approx(mean, rel=1e-15)
        lead = slide_lead(leads, 0, window, value)
        assert lead == pytest.approx(value - mean, rel=1e-15, abs=1e-15 * max(held))
        if len(set(held)) == 1:
            assert lead == 0.0


def assert_squares(memory: np.ndarray, window: int, value: float, held: Sequence[float]) -> None:
    """`slide_squares` gives the lead and the squared deviations of the values that the window holds."""
    lead, squares = slide_squares(memory, 0, window, value)
    mean = exact(held) / len(held)
    about = sum(((Fraction(one) - mean) ** 2 for one in held), Fraction(0))
    assert squares == pytest.approx(float(about), rel=1e-10, abs=1e-31 * max(map(abs, held)) ** 2)
    assert lead == pytest.approx(float(Fraction(value) - mean), rel=1e-10, abs=1e-15 * max(map(abs, held)))
    if len(set(held)) == 1:
        assert (lead, squares) == (0.0, 0.0)


@given(values=VALUES, window=st.integers(1, 20), sign=st.sampled_from([1.0, -1.0]))
def test_squares_are_those_about_the_mean_whatever_jumped_before(values: list[float], window: int, sign: float) -> None:
    memory = np.zeros(SQUARES_CELLS + window)
    signed = [sign * value for value in values]
    for index, value in enumerate(signed):
        assert_squares(memory, window, value, signed[max(0, index + 1 - window) : index + 1])


@given(start=PRICES, steps=st.lists(st.integers(-3, 3), min_size=1, max_size=80), window=st.integers(2, 20))
def test_squares_of_a_quiet_price_far_from_its_first_keep_their_digits(
    start: float, steps: list[int], window: int
) -> None:
    """After a jump by nine orders of magnitude it moves by parts of a millionth."""
    memory = np.zeros(SQUARES_CELLS + window)
    values = [9_999_999.99 / start, *(start * (1 + 1e-7 * step) for step in steps)]
    for index, value in enumerate(values):
        assert_squares(memory, window, value, values[max(0, index + 1 - window) : index + 1])


@given(values=VALUES, window=st.integers(1, 20))
def test_squares_of_a_window_that_is_full_from_the_start_count_zeros(values: list[float], window: int) -> None:
    memory = np.zeros(SQUARES_CELLS + window)
    memory[1] = window
    padded = [0.0] * window + values
    for index, value in enumerate(values):
        assert_squares(memory, window, value, padded[index + 1 : index + 1 + window])


@given(values=VALUES, window=st.integers(1, 20), sign=st.sampled_from([1.0, -1.0]))
def test_range_highest_and_its_age_are_those_of_a_search(values: list[float], window: int, sign: float) -> None:
    ranges, ages = np.zeros(RANGE_CELLS + 2 * window), np.zeros(AGE_CELLS + window)
    signed = [sign * value for value in values]
    for index, value in enumerate(signed):
        newest_first = signed[max(0, index + 1 - window) : index + 1][::-1]
        lower = [one - abs(one) for one in newest_first]
        assert slide_range(ranges, 0, window, value, value - abs(value)) == (max(newest_first), min(lower))
        assert slide_highest_age(ages, 0, window, value) == newest_first.index(max(newest_first))
        assert ages[1] == max(newest_first)


@given(values=VALUES, window=st.integers(1, 20))
def test_a_delay_gives_the_first_until_it_is_full(values: list[float], window: int) -> None:
    memory = np.zeros(DELAY_CELLS + window)
    for index, value in enumerate(values):
        assert slide_delay(memory, 0, window, value) == values[max(0, index - window)]


@given(values=VALUES, window=st.integers(1, 20))
def test_a_path_holds_the_values_before_side_by_side(values: list[float], window: int) -> None:
    memory = np.zeros(PATH_CELLS + 2 * window)
    padded = [values[0]] * (window - 1) + values
    for index, value in enumerate(values):
        last = slide_path(memory, 0, window, value)
        assert memory[last - window + 1 : last + 1].tolist() == padded[index : index + window]


@given(values=VALUES, centre=PRICES, weight=st.floats(-10, 10))
def test_deviations_are_summed_over_the_cells_between(values: list[float], centre: float, weight: float) -> None:
    memory = np.array([math.nan, *values, math.nan])
    distances = [abs(value - centre) for value in values]
    found = distances_about(memory, 1, len(values) + 1, centre)
    assert found == pytest.approx(math.fsum(distances), rel=1e-14)
    parts = [(weight + place) * (value - centre) for place, value in enumerate(values)]
    found = weighted_about(memory, 1, len(values) + 1, centre, weight)
    assert found == pytest.approx(math.fsum(parts), rel=1e-14, abs=1e-14 * math.fsum(map(abs, parts)))


def test_a_window_does_not_touch_its_neighbours() -> None:
    """Each keeps to its cells, wherever they begin."""
    sizes = [SUM_CELLS + 3, SQUARES_CELLS + 3, RANGE_CELLS + 6, AGE_CELLS + 3, DELAY_CELLS + 3, PATH_CELLS + 6]
    starts = np.cumsum([2, *(size + 1 for size in sizes)]).tolist()
    memory = np.full(starts[-1], math.nan)
    for start, stop in pairwise(starts):
        memory[start : stop - 1] = 0.0
    outside = np.isnan(memory)
    for value in (5.0, 1.0, 7.0, 7.0, 2.0, 9.0, 1.0, 4.0):
        slide_sum(memory, starts[0], 3, value)
        slide_squares(memory, starts[1], 3, value)
        slide_range(memory, starts[2], 3, value, value)
        slide_highest_age(memory, starts[3], 3, value)
        slide_delay(memory, starts[4], 3, value)
        slide_path(memory, starts[5], 3, value)
        assert np.isnan(memory[outside]).all()
        assert not np.isnan(memory[~outside]).any()
