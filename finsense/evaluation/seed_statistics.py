"""What several seeds say together: the interquartile mean of their scores, how sure it is, and the middle seed."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 20_000
CONFIDENCE = 0.95


def interquartile_mean(scores: NDArray[np.float64]) -> float:
    """Mean of the middle half of all scores: the lowest and the highest quarter (rounded down) are left out.

    With fewer than four scores nothing is left out and it is the mean. Source: Agarwal, Schwarzer, Castro, Courville
    and Bellemare 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (their rliable takes
    `scipy.stats.trim_mean(scores, 0.25)` over runs and tasks together, which is this).

    Args:
        scores: any shape, float64, finite, at least one.
    """
    ordered = np.sort(scores, axis=None)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def stratified_interval(
    scores: NDArray[np.float64],
    generator: np.random.Generator,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> tuple[float, float] | None:
    """Percentile interval of the interquartile mean by the stratified bootstrap; None for a single seed.

    Within each task (stratum) the seeds are drawn anew with replacement, independently of the other tasks, as in
    Agarwal et al. 2021, section 4.1. With one task it is the ordinary bootstrap over seeds. Few seeds make it too
    narrow: it knows no score beyond those it saw.

    Args:
        scores: (seeds, tasks) float64, finite.
        generator: draws the seeds.
        confidence: share of the bootstrap distribution inside the interval.
        resamples: how often the seeds are drawn.
    """
    seeds, tasks = scores.shape
    if seeds < 2:
        return None
    drawn = generator.integers(0, seeds, (resamples, seeds, tasks))
    samples = np.sort(np.take_along_axis(scores[None], drawn, axis=1).reshape(resamples, -1), axis=1)
    cut = samples.shape[1] // 4
    means = samples[:, cut : samples.shape[1] - cut].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def median_seed(scores: Sequence[tuple[int, float]]) -> int:
    """The seed whose score is the median; of an even number the lower of the middle two, equal scores by the seed.

    Args:
        scores: (seed, score), at least one.
    """
    ordered = sorted(scores, key=lambda pair: (pair[1], pair[0]))
    return ordered[(len(ordered) - 1) // 2][0]
