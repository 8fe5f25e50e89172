"""Splits: no training sample shares a bar with a test span; folds and paths are those of the book and of skfolio."""

import datetime as dt
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markets import FREE, bars_of, rules, session_times
from numpy.typing import NDArray
from skfolio.model_selection import CombinatorialPurgedCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from finsense.agents.labels import label_bars
from finsense.agents.splits import (
    SplitError,
    combinatorial_purged_kfold,
    fold_of,
    purged_before,
    purged_kfold,
    recombined_paths,
)
from finsense.config.labels import Direction

Spans = tuple[NDArray[np.int64], NDArray[np.int64]]


def steady_spans(count: int, horizon: int) -> Spans:
    """One sample a bar whose label reads the next `horizon` bars; ends lie on the grid beyond the last start."""
    start = np.arange(count, dtype=np.int64) * 60
    return start, start + horizon * 60


@st.composite
def pooled_spans(draw: st.DrawFn) -> Spans:
    """Samples of one to three symbols at times of their own, with labels of any length, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    starts = [np.sort(rng.choice(60, rng.integers(8, 40), replace=False)) * 10 for _ in range(draw(st.integers(1, 3)))]
    start = rng.permutation(np.concatenate(starts)).astype(np.int64)
    return start, start + rng.integers(1, draw(st.integers(2, 120)), len(start))


def slow_splits(spans: Spans, folds: int, test_folds: int, embargo: int) -> list[tuple[list[int], list[int]]]:
    """The same sample by sample, as snippets 7.1 and 7.2 of Lopez de Prado (2018) tell it."""
    start, end = (values.tolist() for values in spans)
    times = sorted(set(start))
    size, longer = divmod(len(times), folds)
    fold_of_time: dict[int, int] = {}
    for fold in range(folds):
        for _ in range(size + (fold < longer)):
            fold_of_time[times[len(fold_of_time)]] = fold
    found = []
    for chosen in combinations(range(folds), test_folds):
        test = [sample for sample in range(len(start)) if fold_of_time[start[sample]] in chosen]
        embargoed: set[int] = set()
        for fold in chosen:
            last = max(end[sample] for sample in test if fold_of_time[start[sample]] == fold)
            embargoed |= set([time for time in times if time > last][:embargo])
        train = [
            sample
            for sample in range(len(start))
            if sample not in test
            and start[sample] not in embargoed
            and not any(start[sample] <= end[other] and start[other] <= end[sample] for other in test)
        ]
        found.append((train, test))
    return found


@given(spans=pooled_spans(), folds=st.integers(2, 6), test_folds=st.integers(1, 3), embargo=st.integers(0, 12))
def test_folds_are_those_of_the_definition(spans: Spans, folds: int, test_folds: int, embargo: int) -> None:
    test_folds = min(test_folds, folds - 1)
    expected = slow_splits(spans, folds, test_folds, embargo)
    if not all(train for train, _ in expected):
        with pytest.raises(SplitError, match=r"nothing is left to train on when fold .* is tested"):
            combinatorial_purged_kfold(*spans, folds, test_folds, embargo)
        return
    found = combinatorial_purged_kfold(*spans, folds, test_folds, embargo)
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in found] == expected
    if test_folds == 1:
        assert [fold.test.tolist() for fold in purged_kfold(*spans, folds, embargo)] == [test for _, test in expected]


@given(spans=pooled_spans(), folds=st.integers(2, 5), embargo=st.integers(0, 3))
def test_a_second_symbol_changes_no_fold_of_the_first(spans: Spans, folds: int, embargo: int) -> None:
    """Purging and embargo go by time: samples twice over give the folds twice over."""
    start, end = spans
    try:
        once = purged_kfold(start, end, folds, embargo)
    except SplitError:
        return
    twice = purged_kfold(np.concatenate([start, start]), np.concatenate([end, end]), folds, embargo)
    for one, two in zip(once, twice, strict=True):
        assert two.train.tolist() == [*one.train.tolist(), *(one.train + len(start)).tolist()]
        assert two.test.tolist() == [*one.test.tolist(), *(one.test + len(start)).tolist()]


@pytest.mark.parametrize(("folds", "test_folds"), [(3, 2), (4, 2), (4, 3), (5, 2), (5, 3), (6, 5), (8, 2), (8, 6)])
@pytest.mark.parametrize("horizon", [1, 2, 5, 9])
@pytest.mark.parametrize("embargo", [0, 1, 4, 7])
def test_folds_agree_with_skfolio(folds: int, test_folds: int, horizon: int, embargo: int) -> None:
    """With labels that read `horizon` bars each, purging them is skfolio's `purged_size` of as many samples."""
    count = folds * 30
    oracle = CombinatorialPurgedCV(folds, test_folds, purged_size=horizon, embargo_size=embargo)
    found = combinatorial_purged_kfold(*steady_spans(count, horizon), folds, test_folds, embargo)
    expected = list(oracle.split(np.zeros((count, 1))))
    assert [fold.train.tolist() for fold in found] == [train.tolist() for train, _ in expected]
    assert [fold.test.tolist() for fold in found] == [np.sort(np.concatenate(tests)).tolist() for _, tests in expected]
    assert recombined_paths(folds, test_folds).T.tolist() == oracle.recombined_paths.tolist()
    part = fold_of(np.arange(count), folds)
    for split, (_, tests) in enumerate(expected):
        # skfolio names a split's test folds one by one, and the path that each belongs to.
        for rows, path in zip(tests, oracle.get_path_ids()[split], strict=True):
            assert recombined_paths(folds, test_folds)[path, part[rows[0]]] == split
            assert np.unique(part[rows]).size == 1


def test_where_skfolio_cuts_otherwise() -> None:
    """What is over goes to its last fold, which with 10 folds of 29 samples is five times the others; ours are even.

    And its check counts one side of a training fold, so both sides may eat it whole: it trains on nothing, we refuse.
    """
    oracle = CombinatorialPurgedCV(10, 2)
    tests = next(tests for _, tests in oracle.split(np.zeros((29, 1))) if len(tests[1]) > 2)
    assert [len(rows) for rows in tests] == [2, 11]
    assert np.bincount(fold_of(np.arange(29), 10)).tolist() == [3] * 9 + [2]
    oracle = CombinatorialPurgedCV(3, 2, purged_size=9, embargo_size=4)
    assert [len(train) for train, _ in oracle.split(np.zeros((60, 1)))] == [7, 0, 11]
    with pytest.raises(SplitError, match="nothing is left to train on when fold 0 and 2 of 3"):
        combinatorial_purged_kfold(*steady_spans(60, 9), 3, 2, 4)


@given(folds=st.integers(2, 9), test_folds=st.integers(1, 8))
def test_every_path_crosses_the_time_once_and_uses_each_prediction_once(folds: int, test_folds: int) -> None:
    test_folds = min(test_folds, folds - 1)
    paths = recombined_paths(folds, test_folds)
    assert paths.shape == (comb(folds, test_folds) * test_folds // folds, folds)
    splits = combinatorial_purged_kfold(*steady_spans(folds * 40, 1), folds, test_folds, 0)
    part = fold_of(steady_spans(folds * 40, 1)[0], folds)
    used = set()
    for path in paths.tolist():
        for fold, split in enumerate(path):
            assert np.isin(np.flatnonzero(part == fold), splits[split].test).all()
            used.add((fold, split))
    assert len(used) == paths.size == len(splits) * test_folds


def test_folds_differ_by_one_start_at_most() -> None:
    assert np.bincount(fold_of(np.arange(17), 5)).tolist() == [4, 4, 3, 3, 3]
    # All samples of one instant fall into one fold, however many they are.
    assert fold_of(np.array([30, 10, 10, 10, 10, 20]), 3).tolist() == [2, 0, 0, 0, 0, 1]


def test_purging_leaves_out_what_touches_the_test_span_and_no_more() -> None:
    """By hand: 12 bars, labels that read two of them, four folds; an embargo of one bar."""
    folds = purged_kfold(*steady_spans(12, 2), 4, 1)
    assert folds[1].test.tolist() == [3, 4, 5]
    # The labels of bars 1 and 2 read bar 3; those of the test read up to bar 7; bar 8 is under embargo.
    assert folds[1].train.tolist() == [0, 9, 10, 11]
    assert folds[3].train.tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_what_is_purged_before_a_boundary_reads_nothing_from_it_on() -> None:
    start, end = steady_spans(10, 3)
    kept = purged_before(end, int(start[6]))
    assert np.flatnonzero(kept).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: purged_kfold(*steady_spans(20, 2), 1, 0), "expected at least 2 folds, found 1"),
        (lambda: purged_kfold(*steady_spans(20, 2), 5, -1), "embargo of 0 or more distinct starts, found -1"),
        (lambda: purged_kfold(*steady_spans(4, 2), 5, 0), "at least 5 distinct starts, one per fold, found 4"),
        (lambda: purged_kfold(*steady_spans(0, 2), 5, 0), "at least one sample, found shapes"),
        (lambda: purged_kfold(np.arange(5), np.arange(6) + 1, 2, 0), "one start and one end per sample"),
        (lambda: purged_kfold(np.arange(5), np.arange(5), 2, 0), "5 of 5 samples end at or before their start"),
        (lambda: purged_kfold(*steady_spans(20, 20), 2, 0), r"nothing is left to train on when fold 0 of 2"),
        (lambda: purged_kfold(*steady_spans(20, 2), 2, 20), r"an embargo of 20 starts; lower the embargo"),
        (lambda: combinatorial_purged_kfold(*steady_spans(20, 1), 4, 4, 0), "expected 1 to 3 test folds of 4"),
        (lambda: combinatorial_purged_kfold(*steady_spans(20, 1), 4, 0, 0), "expected 1 to 3 test folds of 4"),
        (lambda: combinatorial_purged_kfold(*steady_spans(99, 1), 30, 15, 0), "15 of 30 folds make 155,117,520 splits"),
        (lambda: recombined_paths(3, 3), "expected 1 to 2 test folds of 3"),
    ],
)
def test_folds_that_cannot_work_are_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(SplitError, match=message):
        call()


_WALKS, _BARS, _HORIZON = 16, 2000, 50


def _predicted(seed: int, *, purged: bool) -> float:
    """Balanced accuracy out of fold, on a random walk, of neighbours that know the price and its last hundred bars."""
    close = 1000 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, _BARS)))
    times = session_times(dt.date(2021, 1, 1), dt.date(2023, 12, 31), "60m")[:_BARS]
    bars = bars_of(times, close, interval="60m")
    labels = label_bars(bars, Direction(horizon=_HORIZON, dead_zone=0), rules("delivery", slippage_bps=0), FREE)
    kept = labels.bar >= 100
    bar, target = labels.bar[kept], labels.target[kept]
    level = np.log(close)
    features = np.stack([level[bar], level[bar] - level[bar - 100]], axis=1)
    found = np.empty(len(bar), np.int64)
    for fold in purged_kfold(labels.start_ns[kept], labels.end_ns[kept], 40, 0):
        train = fold.train if purged else np.setdiff1d(np.arange(len(bar)), fold.test)
        found[fold.test] = KNeighborsClassifier(5).fit(features[train], target[train]).predict(features[fold.test])
    return float(balanced_accuracy_score(target, found))


def test_an_unpurged_split_finds_an_edge_where_there_is_none() -> None:
    """Neighbours in time share most of their label's bars, so a fold's answers stand in the training set beside it.

    The standard errors are those of independent walks; balanced accuracy is 1/2 for whoever has learned nothing.
    """
    errors = {}
    for purged in (False, True):
        scores = np.array([_predicted(seed, purged=purged) for seed in range(_WALKS)])
        errors[purged] = (scores.mean() - 0.5) / (scores.std(ddof=1) / np.sqrt(_WALKS))
    assert errors[False] > 5
    assert abs(errors[True]) < 2
