"""Intervals for figures over rows that hang together in time: whole blocks of rows are drawn anew, not single rows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_TAIL = 0.025
# Rows x resamples whose counts are in memory at once.
_CELLS = 4_000_000
# A block as long as a label's span alone would make the intervals too narrow: of the correlation of labels that overlap
# by k of h bars, a block of length b keeps the fraction 1 - k/b.
_SPANS_PER_BLOCK = 5
_LEAST_BLOCKS = 10
# Below this share of resamples in which a figure is defined, its interval would tell of those alone.
_LEAST_DEFINED = 0.9


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; NaN where it is undefined, or where too few rows allow no interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """JSON-safe."""
        return {
            name: number if math.isfinite(number) else None
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }


def block_rows(rows: int, span: int) -> int:
    """How many rows a block has: five spans of a label or the cube root of all rows, if that leaves ten blocks.

    Never less than one span: labels that share a bar belong together. The cube root is the order at which the error of
    the block bootstrap is least (Hall, Horowitz and Jing 1995).

    Args:
        rows: in all.
        span: bars that the longest label looks ahead, at least 1.
    """
    wanted = max(_SPANS_PER_BLOCK * span, math.ceil(math.cbrt(rows)))
    return max(span, min(wanted, rows // _LEAST_BLOCKS), 1)


def block_counts(
    rows: int, block: int, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Iterator[NDArray[np.float64]]:
    """How often each row is in each resample of the moving-block bootstrap (Kuensch 1989), (few, rows) at a time.

    Nothing where the rows do not make two blocks.

    Args:
        rows: in the order of time.
        block: rows per block.
        generator: draws the blocks.
        resamples: how many in all.
    """
    if rows < 2 * block:
        return
    starts, blocks = rows - block + 1, math.ceil(rows / block)
    for begin in range(0, resamples, max(_CELLS // rows, 1)):
        many = min(max(_CELLS // rows, 1), resamples - begin)
        drawn = generator.integers(0, starts, (many, blocks)) + np.arange(many)[:, None] * starts
        begun = np.bincount(drawn.ravel(), minlength=many * starts).reshape(many, starts)
        # A row is drawn with every block that began within the last `block` rows.
        edges = np.zeros((many, rows + 1))
        edges[:, :starts] += begun
        edges[:, block:] -= begun
        yield edges.cumsum(axis=1)[:, :-1]


def percentile_estimate(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """The figure with the middle 95 % of its resamples (r,), of which NaN are left out."""
    bounds = _bounds(resampled)
    return Estimate(value, *bounds)


def error_estimate(value: float, noise: NDArray[np.float64]) -> Estimate:
    """An error that is 0 at best, give or take the distance that 19 of 20 resamples (r,) keep from what they are of.

    A mean of absolute deviations is too large in every sample, by chance alone, and larger still in a resample, so that
    its percentiles would hold 0 never. By the triangle inequality the true error lies within the distance.
    """
    if not len(noise):
        return Estimate(value, math.nan, math.nan)
    reach = float(np.quantile(noise, 1 - 2 * _TAIL))
    return Estimate(value, max(value - reach, 0.0), value + reach)


def _bounds(resampled: NDArray[np.float64]) -> tuple[float, float]:
    defined = resampled[np.isfinite(resampled)]
    if not len(resampled) or len(defined) < _LEAST_DEFINED * len(resampled):
        return math.nan, math.nan
    low, high = np.quantile(defined, [_TAIL, 1 - _TAIL])
    return float(low), float(high)
