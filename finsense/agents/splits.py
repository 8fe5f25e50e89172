"""Cut samples into training and test folds that share no bar between their labels."""

from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

_ROWS_SHOWN = 3
_MOST_SPLITS = 10_000


class SplitError(ValueError):
    """Samples that cannot be cut as asked, or training samples that reach into a test span."""


@dataclass(frozen=True)
class Fold:
    """One split of the samples.

    Attributes:
        train: (k,) int64, ascending, places of the samples to train on.
        test: (m,) int64, ascending, places of the samples to judge.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def purged_kfold(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], folds: int, embargo: int) -> list[Fold]:
    """Each part of the time tested once, with what touches it left out of the training (Lopez de Prado 2018, 7.4).

    The distinct starts are cut into `folds` runs of as many each (the first ones one longer where that does not come
    out even), so samples of one instant, such as those of several symbols, stay together. A sample spans the time from
    its start to the end of its label, both included. Left out of the training are

    - samples that overlap the span of a test fold, which runs from its first start to its last label's end (purging);
    - samples that start at one of the next `embargo` distinct starts after that span (embargo).

    The order of the samples does not matter.

    Args:
        start_ns: (n,) int64, start of the bar at whose close each sample is decided, ns UTC.
        end_ns: (n,) int64, start of the last bar that its label reads, ns UTC.
        folds: how many, at least 2.
        embargo: distinct starts, 0 or more.

    Raises:
        SplitError: the samples or the numbers make no folds, or nothing is left to train on.
    """
    return combinatorial_purged_kfold(start_ns, end_ns, folds, 1, embargo)


def combinatorial_purged_kfold(
    start_ns: NDArray[np.int64], end_ns: NDArray[np.int64], folds: int, test_folds: int, embargo: int
) -> list[Fold]:
    """Every choice of `test_folds` of the folds tested once (Lopez de Prado 2018, 12.3), purged as `purged_kfold`.

    The choices come in the order of `itertools.combinations`. Each fold is tested more than once; `recombined_paths`
    puts the predictions together again.

    Args:
        start_ns: as in `purged_kfold`.
        end_ns: likewise.
        folds: how many parts the time is cut into, at least 2.
        test_folds: how many of them are tested at once, at least 1 and below `folds`.
        embargo: as in `purged_kfold`.

    Raises:
        SplitError: the samples or the numbers make no folds, or nothing is left to train on.
    """
    _check_spans(start_ns, end_ns)
    _check_counts(folds, test_folds, embargo)
    part = fold_of(start_ns, folds)
    times = np.unique(start_ns)
    spans = []
    for fold in range(folds):
        first, last = start_ns[part == fold].min(), end_ns[part == fold].max()
        released = min(int(np.searchsorted(times, last, side="right")) + embargo, len(times))
        # Without an embargo this is the last start within the span, and the span itself decides.
        spans.append((first, max(last, times[released - 1])))
    found = []
    for chosen in combinations(range(folds), test_folds):
        test = np.isin(part, chosen)
        left_out = test.copy()
        for first, last in (spans[fold] for fold in chosen):
            left_out |= (end_ns >= first) & (start_ns <= last)
        if left_out.all():
            raise SplitError(
                f"nothing is left to train on when fold {' and '.join(map(str, chosen))} of {folds} is tested: "
                f"expected some of {len(start_ns)} samples at {len(times)} distinct starts to be left after purging "
                f"and an embargo of {embargo} starts; lower the embargo, the horizon or the number of test folds"
            )
        found.append(Fold(np.flatnonzero(~left_out), np.flatnonzero(test)))
    return found


def fold_of(start_ns: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """The fold, 0 .. folds - 1, that each sample is tested in: (n,) int64.

    Raises:
        SplitError: there are fewer distinct starts than folds.
    """
    times, place = np.unique(start_ns, return_inverse=True)
    if len(times) < folds:
        raise SplitError(
            f"expected at least {folds} distinct starts, one per fold, found {len(times)} among {len(start_ns)} "
            "samples; give more data or fewer folds"
        )
    sizes = [len(run) for run in np.array_split(times, folds)]
    found: NDArray[np.int64] = np.repeat(np.arange(folds), sizes)[place]
    return found


def recombined_paths(folds: int, test_folds: int) -> NDArray[np.int64]:
    """Which split of `combinatorial_purged_kfold` predicts each fold on each path through the whole time.

    A path takes every fold's predictions from one split that tested it; no two paths take the same. A fold's samples
    are those where `fold_of` says so.

    Returns:
        Array (paths, folds) int64, places in the list of splits; paths = comb(folds - 1, test_folds - 1).

    Raises:
        SplitError: the numbers make no folds.
    """
    _check_counts(folds, test_folds, 0)
    chosen = list(combinations(range(folds), test_folds))
    by_fold = [[split for split, tested in enumerate(chosen) if fold in tested] for fold in range(folds)]
    return np.array(by_fold, np.int64).T


def purged_before(end_ns: NDArray[np.int64], boundary_ns: int) -> NDArray[np.bool_]:
    """Which samples' labels read no bar from the boundary on: those to train on when validation or test begins there.

    Args:
        end_ns: (n,) int64, start of the last bar that each label reads, ns UTC.
        boundary_ns: start of the first bar of the next span, ns UTC.

    Returns:
        Array (n,) bool.
    """
    before: NDArray[np.bool_] = end_ns < boundary_ns
    return before


def _check_spans(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> None:
    if start_ns.ndim != 1 or start_ns.shape != end_ns.shape or not len(start_ns):
        raise SplitError(
            f"expected one start and one end per sample, at least one sample, found shapes {start_ns.shape} and "
            f"{end_ns.shape}"
        )
    rows = np.flatnonzero(end_ns <= start_ns)
    if len(rows):
        raise SplitError(
            f"{len(rows)} of {len(start_ns)} samples end at or before their start, at rows "
            f"{rows[:_ROWS_SHOWN].tolist()}: a label's last bar lies after its own"
        )


def _check_counts(folds: int, test_folds: int, embargo: int) -> None:
    if folds < 2:
        raise SplitError(f"expected at least 2 folds, found {folds}")
    if not 1 <= test_folds < folds:
        raise SplitError(
            f"expected 1 to {folds - 1} test folds of {folds}, to have some left to train on, found {test_folds}"
        )
    if comb(folds, test_folds) > _MOST_SPLITS:
        raise SplitError(
            f"{test_folds} of {folds} folds make {comb(folds, test_folds):,} splits, each a training of its own; "
            f"expected at most {_MOST_SPLITS:,}: choose fewer folds"
        )
    if embargo < 0:
        raise SplitError(f"expected an embargo of 0 or more distinct starts, found {embargo}")
