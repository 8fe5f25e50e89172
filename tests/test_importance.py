"""The importance of columns: a planted one comes first, noise shows nothing beyond chance, folds share no return."""

import datetime as dt
from collections import Counter
from itertools import pairwise
from math import log2

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import rough_bars, small_spec
from numpy.typing import NDArray

from finsense.evaluation.dependence import (
    BINS,
    agreement,
    information,
    interval_reach,
    judge,
    kendall,
    rank_bins,
    ranks,
    standardised,
)
from finsense.evaluation.forward_returns import ImportanceError, Samples, forward_samples, purged_spans
from finsense.evaluation.importance import Importance, _Ridge, importance
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.state.builder import build_states

_PER_SESSION = 25
_HORIZON = 4
# From no memory at all to a column that hardly moves in a fold: such columns look important by chance.
_MEMORIES = (0.0, 0.9, 0.99, 0.999)


def _columns(rng: np.random.Generator, count: int, columns: int) -> NDArray[np.float32]:
    """(count, columns): autoregressive columns of variance 1."""
    noise = rng.normal(size=(count, columns))
    memory = np.resize(_MEMORIES, columns)
    values = noise.copy()
    for row in range(1, count):
        values[row] = memory * values[row - 1] + np.sqrt(1 - memory**2) * noise[row]
    return values.astype(np.float32)


def _market(
    seed: int, *, count: int = 2400, columns: int = 8, straight: float = 0.0, bent: float = 0.0, symbols: int = 1
) -> list[Samples]:
    """Columns of noise and returns over overlapping bars; column 4 tells of them, straight or bent."""
    rng = np.random.default_rng(seed)
    day = np.arange(count) // _PER_SESSION
    exit_day = np.minimum((np.arange(count) + _HORIZON) // _PER_SESSION, day[-1])
    common = rng.standard_t(4, size=count + _HORIZON) * 0.002
    made = []
    for symbol in range(symbols):
        values = _columns(rng, count, columns)
        moves = common + rng.standard_t(4, size=count + _HORIZON) * 0.0005
        forward = np.convolve(moves, np.ones(_HORIZON), "valid")[1:]
        planted = values[:, min(4, columns - 1)]
        forward += 0.002 * (straight * planted + bent * (np.square(planted) - 1))
        made.append(Samples(f"S{symbol}", values, forward, day, exit_day))
    return made


def _judged(samples: list[Samples], *, folds: int = 4, shuffles: int = 100, seed: int = 0) -> Importance:
    names = [f"c{place}" for place in range(samples[0].values.shape[1])]
    return importance(samples, names, folds=folds, shuffles=shuffles, seed=seed)


@pytest.mark.parametrize("symbols", [1, 3])
@pytest.mark.parametrize("straight", [0.5, -0.5])
def test_a_planted_column_comes_first(straight: float, symbols: int) -> None:
    found = _judged(_market(1, straight=straight, symbols=symbols))
    assert found.order[0] == 4
    assert found.tells_direction().tolist() == [place == 4 for place in range(8)]
    assert np.sign(found.correlation.value[4]) == np.sign(straight)
    assert found.correlation.low[4] < found.correlation.value[4] < found.correlation.high[4]
    assert abs(found.correlation.value[4]) > found.correlation.noise
    assert found.same_sign[4] == 1.0
    assert int(np.argmax(found.permutation.value)) == 4
    assert found.permutation.chance[4] <= 0.05
    assert found.model.chance[0] <= 0.05
    assert found.model.value[0] > found.model.noise


def test_a_bent_tie_is_seen_by_information_alone() -> None:
    found = _judged(_market(2, bent=0.7))
    assert found.order[0] == 4
    assert found.direction.chance[4] <= 0.025
    assert found.correlation.chance[4] > 0.05


def test_the_size_of_a_move_is_not_its_direction() -> None:
    rng = np.random.default_rng(3)
    (market,) = _market(3)
    calm = np.where(market.values[:, 5] > 0, 0.2, 2.0)
    forward = rng.normal(size=len(calm)) * calm * 0.002
    found = _judged([Samples("S", market.values, forward, market.day, market.exit_day)])
    assert int(np.argmax(found.size.strength)) == 5
    assert found.size.chance[5] <= 0.05
    assert not found.tells_direction().any()


@pytest.mark.parametrize("seed", range(4))
def test_noise_shows_nothing_beyond_chance(seed: int) -> None:
    found = _judged(_market(seed + 20, symbols=1 + seed % 2))
    assert not found.tells_direction().any()
    assert (found.size.chance > 0.05).all()
    assert found.model.chance[0] > 0.05
    assert abs(found.correlation.stability) < 0.5
    assert found.correlation.noise > 0.03, "noise is not small, and it is shown"


def test_noise_is_taken_for_a_finding_about_as_often_as_promised() -> None:
    """One market of noise in twenty, whatever the memory of the columns and though the returns overlap.

    Were the returns shuffled one by one, the slow columns would make it far more.
    """
    flagged = [
        bool(_judged(_market(seed, count=900, columns=4), folds=2, shuffles=39, seed=seed).tells_direction().any())
        for seed in range(60)
    ]
    # At one in twenty, more than 10 of 60 come once in two thousand times.
    assert sum(flagged) <= 10


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (_judged(_market(5, straight=0.1), seed=7) for _ in range(2))
    for name in ("correlation", "direction", "size", "permutation", "model"):
        for figure in ("value", "low", "high", "chance"):
            assert np.array_equal(getattr(getattr(one, name), figure), getattr(getattr(other, name), figure))


def test_a_column_that_never_moves_tells_nothing() -> None:
    (market,) = _market(6, straight=0.5)
    values = market.values.copy()
    values[:, 0] = 3.0
    found = _judged([Samples("S", values, market.forward, market.day, market.exit_day)])
    assert (found.correlation.value[0], found.direction.value[0]) == (0, 0)
    # A product of matrices, whose last bits hang on how many threads it is cut into.
    assert found.permutation.value[0] == pytest.approx(0, abs=1e-12)
    assert found.correlation.chance[0] == found.direction.chance[0] == 1
    assert found.same_sign[0] == 0
    assert found.order[0] == 4


@given(folds=st.integers(2, 6), sessions=st.integers(120, 160), horizon=st.integers(1, 40), symbols=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_no_span_shares_a_return_with_another(folds: int, sessions: int, horizon: int, symbols: int) -> None:
    count = sessions * _PER_SESSION
    place = np.arange(count)
    day = place // _PER_SESSION
    exit_day = np.minimum((place + horizon) // _PER_SESSION, day[-1])
    # Each value is its own place, so that what was kept can be told.
    numbered = [
        Samples(
            f"S{one}",
            place[one::symbols, None].astype(np.float32),
            place[one::symbols].astype(np.float64),
            day[one::symbols],
            exit_day[one::symbols],
        )
        for one in range(symbols)
    ]
    spans, forward = purged_spans(numbered, folds + 1)
    assert len(spans) == folds + 1
    for before, after in pairwise(spans):
        assert before.days[1] < after.days[0]
        last = int(before.values.max())
        assert exit_day[last] <= before.days[1]
        assert last + horizon < after.values.min() or exit_day[last] == day[-1]
    for span in spans:
        for rows, places, own in zip(span.symbols, span.places, forward, strict=True):
            assert span.values[rows, 0].tolist() == own[places].tolist()
    assert [sum(place.stop - place.start for place in one) for one in zip(*(s.places for s in spans), strict=True)] == [
        len(own) for own in forward
    ]


@pytest.mark.parametrize("within_session", [True, False])
@pytest.mark.parametrize("history", [1, 3])
def test_a_forward_return_is_what_an_order_could_earn(within_session: bool, history: int) -> None:
    """From the next bar's open to the close that the horizon names; inside the span, and the session if told."""
    bars = rough_bars(4, dt.date(2024, 1, 1), dt.date(2024, 1, 31))
    first, last = dt.date(2024, 1, 10), dt.date(2024, 1, 25)
    matrix = build_states(timeline(bars, instrument("SIM"), None), small_spec(history))
    found = forward_samples(bars, matrix, 3, within_session=within_session, first=first, last=last)
    days, expected = bars.session_days, []
    epoch = dt.date(1970, 1, 1)
    for bar in range(matrix.first_bar, len(bars) - 3):
        inside = (first - epoch).days <= days[bar] and days[bar + 3] <= (last - epoch).days
        if inside and (days[bar] == days[bar + 3] or not within_session):
            state = matrix.window(bar)[-len(matrix.spec.columns) :]
            expected.append((np.log(bars.close[bar + 3] / bars.open[bar + 1]), days[bar], days[bar + 3], state))
    assert len(expected) > 100
    assert found.forward.tolist() == pytest.approx([one[0] for one in expected])
    assert found.day.tolist() == [one[1] for one in expected]
    assert found.exit_day.tolist() == [one[2] for one in expected]
    assert found.values.tobytes() == np.stack([one[3] for one in expected]).tobytes()


def test_too_little_to_judge_is_refused() -> None:
    with pytest.raises(ImportanceError, match=r"2 to 16 folds and at least 39 shuffles, found 1 and 100"):
        _judged(_market(1), folds=1)
    with pytest.raises(ImportanceError, match="found 4 and 38"):
        _judged(_market(1), shuffles=38)
    with pytest.raises(ImportanceError, match=r"S0: expected at least 100 states .* found \d+ in one of 4 sessions"):
        _judged(_market(1, count=500))
    with pytest.raises(ImportanceError, match="at least 5 sessions"):
        _judged(_market(1, count=100))


def test_a_horizon_that_no_return_reaches_is_said_to_be_too_long() -> None:
    bars, spec = rough_bars(1), small_spec()
    matrix = build_states(timeline(bars, instrument("SIM"), None), spec)
    samples = forward_samples(bars, matrix, 100, within_session=True)
    with pytest.raises(ImportanceError, match=r"found none: the horizon reaches beyond .*choose a shorter horizon"):
        importance([samples], spec.columns)


def test_permuting_a_column_is_what_it_says() -> None:
    """The loss by sums equals predicting anew with the column permuted."""
    spans, forward = purged_spans(_market(8, straight=0.3), 3)
    model, rng = _Ridge(spans[0]), np.random.default_rng(5)
    for span in spans[:2]:
        model.learn(span, np.stack([standardised(ranks(forward[0][span.places[0]]))]).T.astype(np.float32))
    last = spans[2]
    target = standardised(ranks(forward[0][last.places[0]]))
    lost, whole = model.lost(last, target[:, None].astype(np.float32), np.random.default_rng(5))
    scaled = model._scaled(last)
    gram = model._gram + 0.1 * model._samples * np.eye(8)
    weights = np.linalg.solve(gram, model._cross)[:, 0]
    assert whole[0] == pytest.approx(np.corrcoef(scaled @ weights, target)[0, 1], abs=1e-6)
    orders = [rng.permutation(np.arange(len(target))) for _ in range(5)]
    for column in range(8):
        again = []
        for order in orders:
            moved = scaled.copy()
            moved[:, column] = moved[order, column]
            again.append(np.corrcoef(moved @ weights, target)[0, 1])
        assert lost[column, 0] == pytest.approx(whole[0] - np.mean(again), abs=1e-6)


_SERIES = st.lists(st.integers(-5, 5), min_size=3, max_size=40).map(lambda values: np.array(values, np.float64))


@given(values=_SERIES)
@settings(deadline=None)
def test_ranks_are_those_of_pandas(values: NDArray[np.float64]) -> None:
    assert (ranks(values) + 1).tolist() == pd.Series(values).rank().tolist()
    standard = standardised(ranks(values))
    assert standard.mean() == pytest.approx(0, abs=1e-12)
    assert standard.var() == pytest.approx(1 if len(set(values)) > 1 else 0)
    bins = rank_bins(ranks(values))
    assert 0 <= bins.min() <= bins.max() < BINS
    assert all(len(set(bins[values == value])) == 1 for value in set(values))


@given(data=st.data())
@settings(deadline=None)
def test_kendall_counts_pairs(data: st.DataObject) -> None:
    one = data.draw(_SERIES)
    other = data.draw(st.lists(st.integers(-5, 5), min_size=len(one), max_size=len(one)).map(np.array))
    agree = ties_one = ties_other = 0
    pairs = [(first, second) for first in range(len(one)) for second in range(first)]
    for first, second in pairs:
        agree += int(np.sign(one[first] - one[second]) * np.sign(other[first] - other[second]))
        ties_one += one[first] == one[second]
        ties_other += other[first] == other[second]
    whole = (len(pairs) - ties_one) * (len(pairs) - ties_other)
    assert kendall(one, other.astype(float)) == pytest.approx(agree / whole**0.5 if whole else 0.0)
    assert agreement(np.stack([one, one, -one])) == pytest.approx(-1 / 3 if len(set(one)) > 1 else 0)


@given(pairs=st.lists(st.tuples(st.integers(0, BINS - 1), st.booleans()), min_size=1, max_size=200))
@settings(deadline=None)
def test_information_is_its_definition(pairs: list[tuple[int, bool]]) -> None:
    joint, bins, answers = Counter(pairs), Counter(one for one, _ in pairs), Counter(one for _, one in pairs)
    total = len(pairs)
    bits = sum(
        count / total * log2(count * total / (bins[one] * answers[answer])) for (one, answer), count in joint.items()
    )
    yes, no = (np.array([[[joint[place, answer]] for place in range(BINS)]], float) for answer in (True, False))
    found = information(yes, no)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(bits, abs=1e-12)
    assert -1e-12 <= found[0, 0] <= 1


def test_intervals_and_chance_by_hand() -> None:
    assert interval_reach(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.303 / np.sqrt(3))
    by_fold = np.zeros((2, 2, 4))
    by_fold[:, 0] = [0.5, 0.1, -0.1, 0.0]
    by_fold[:, 1] = [0.0, 0.1, -0.3, 0.2]
    judged = judge(by_fold, signed=True)
    assert judged.value.tolist() == [0.5, 0.0]
    assert judged.chance.tolist() == [0.25, 1.0]
    assert judged.noise == pytest.approx(np.quantile([0.1, 0.3, 0.2], 0.95))
    assert judged.strength[0] == pytest.approx(0.5 / np.std([0.1, -0.1, 0.0]))
