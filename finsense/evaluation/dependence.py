"""How far one series tells another: ranks, information, agreement of orders, and what chance alone would show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Two-sided 95 % quantiles of Student's t with 1, 2, 3, ... degrees of freedom (any table of it).
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
MOST_FOLDS = len(_STUDENT) + 1
BINS = 8


@dataclass(frozen=True)
class Judged:
    """One statistic of every column, beside what the same columns show on shuffled targets.

    Attributes:
        value: (C,) float64, mean over the folds.
        low: (C,) float64, lower end of the 95 % interval over the folds (Student's t).
        high: (C,) float64, its upper end.
        strength: (C,) float64, how many standard deviations of chance the value lies above what chance gives.
        chance: (C,) float64, share of the shuffles in which the best of all columns was as strong.
        noise: the value that the best of all columns reaches in one of twenty shuffles.
        stability: Kendall's tau of the columns' order by strength, mean over all pairs of folds; 0 is chance.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    strength: NDArray[np.float64]
    chance: NDArray[np.float64]
    noise: float
    stability: float


def judge(by_fold: NDArray[np.float64], *, signed: bool) -> Judged:
    """Judge a statistic against its shuffles, over all columns at once (Westfall and Young 1993, max statistic).

    Args:
        by_fold: (folds, C, 1 + shuffles), the statistic on the true target and on each shuffled one.
        signed: whether below chance is as telling as above it.
    """
    mean, value = by_fold.mean(axis=0), by_fold[:, :, 0].mean(axis=0)
    # Scaled by the true target and the shuffles together: under chance no one of them can then be told from the rest.
    equal = _strength(mean, mean, signed=signed)
    best = equal[:, 1:].max(axis=0)
    reach = interval_reach(by_fold[:, :, 0])
    sizes = np.abs(mean[:, 1:]) if signed else mean[:, 1:]
    folds = np.stack([_strength(fold, fold[:, 1:], signed=signed)[:, 0] for fold in by_fold])
    return Judged(
        value=value,
        low=value - reach,
        high=value + reach,
        strength=_strength(mean, mean[:, 1:], signed=signed)[:, 0],
        chance=(1 + (best >= equal[:, :1]).sum(axis=1)) / (1 + len(best)),
        noise=float(np.quantile(sizes.max(axis=0), 0.95)),
        stability=agreement(folds),
    )


def _strength(values: NDArray[np.float64], scale: NDArray[np.float64], *, signed: bool) -> NDArray[np.float64]:
    """(C, m) values less the mean of `scale` (C, k), in its standard deviations; 0 where it does not vary."""
    spread = scale.std(axis=1, keepdims=True)
    centred = values - scale.mean(axis=1, keepdims=True)
    strength = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 1e-12)
    found: NDArray[np.float64] = np.abs(strength) if signed else strength
    return found


def interval_reach(by_fold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the width of the 95 % interval of the mean over folds, (folds, ...) -> (...)."""
    folds = len(by_fold)
    reach: NDArray[np.float64] = by_fold.std(axis=0, ddof=1) * (_STUDENT[folds - 2] / np.sqrt(folds))
    return reach


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """The place of each value among (n,) values, from 0 to n - 1; equal values share the mean of their places."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    lengths = np.diff(np.append(starts, len(values)))
    found = np.empty(len(values))
    found[order] = np.repeat(starts + (lengths - 1) / 2, lengths)
    return found


def standardised(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks (n,) moved to mean 0 and variance 1, so that a mean product is Spearman's correlation; all 0 if equal."""
    centred = places - (len(places) - 1) / 2
    spread = centred.std()
    standard: NDArray[np.float64] = centred / spread if spread > 0 else centred
    return standard


def rank_bins(places: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each of (n,) ranks, 0 to BINS - 1, as even as equal values allow: these share one."""
    bins: NDArray[np.int64] = np.floor(places * BINS / len(places)).astype(np.int64)
    return bins


def information(yes: NDArray[np.floating], no: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mutual information of a bin and a yes-or-no question, bits (at most 1), from counts (C, BINS, m) each; (C, m).

    The plug-in estimate: its bias, about BINS / (2.8 x count) bits, is in the shuffled values too.
    """
    counts = np.stack([yes, no]).astype(np.float64)
    joint = counts / np.maximum(counts.sum(axis=(0, 2), keepdims=True), 1.0)
    alone = joint.sum(axis=0, keepdims=True) * joint.sum(axis=2, keepdims=True)
    ratio = np.divide(joint, alone, out=np.ones_like(joint), where=joint > 0)
    bits: NDArray[np.float64] = (joint * np.log2(ratio)).sum(axis=(0, 2))
    return bits


def kendall(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kendall's tau-b of two series (n,): 1 the same order, -1 the opposite, 0 none; 0 where one is constant."""
    upper = np.triu_indices(len(one), 1)
    first, second = (np.sign(series[:, None] - series[None, :])[upper] for series in (one, other))
    pairs = np.sqrt(float(np.abs(first).sum()) * float(np.abs(second).sum()))
    return float((first * second).sum() / pairs) if pairs > 0 else 0.0


def agreement(by_fold: NDArray[np.float64]) -> float:
    """Mean Kendall's tau over all pairs of folds, from (folds, C)."""
    folds = range(len(by_fold))
    return float(np.mean([kendall(by_fold[one], by_fold[other]) for one in folds for other in folds if one < other]))
