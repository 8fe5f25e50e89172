"""Which columns of a state tell something about the returns that follow, how surely, and for how long.

Every figure stands beside the same figure on shuffled returns. Shuffled means turned: the series of returns is moved
round by a random part of its length, alike for all symbols. So the shuffled market keeps how returns hang together over
time and between symbols, and how slowly a column moves; only the tie between column and return is cut. Plain shuffling
would make chance look smaller than it is, for returns over several bars overlap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.dependence import (
    BINS,
    MOST_FOLDS,
    Judged,
    information,
    judge,
    rank_bins,
    ranks,
    standardised,
)
from finsense.evaluation.forward_returns import ImportanceError, Samples, Span, purged_spans

LEAST_SHUFFLES = 39
# Turns stay clear of both ends, where the shuffled returns would nearly be the true ones.
_TURNS = (0.1, 0.9)
# Weight of the ridge, in variances of a standardised column: returns are almost all noise, columns nearly repeat.
_RIDGE = 0.1
_REPEATS = 5
_SCALED_LIMIT = 5.0
_COLUMNS_AT_ONCE = 16


@dataclass(frozen=True)
class Importance:
    """What the columns tell about the returns, judged on `folds` spans in the order of time.

    Attributes:
        columns: (C,) names.
        samples: states judged.
        fold_days: first and last session of each judged fold, days since 1970-01-01.
        correlation: of the ranks of column and forward return (Spearman's; the information coefficient).
        same_sign: (C,) share of folds whose correlation has the sign of their mean.
        direction: information, bits, on whether the return is up or down; it sees bends that a correlation does not.
        size: information, bits, on whether the move is large; it says nothing about which way.
        permutation: how much of `model` is lost when the column alone is permuted in the judged fold.
        model: correlation of the linear model of all columns with the rank of the return, in folds after its training.
    """

    columns: tuple[str, ...]
    samples: int
    fold_days: tuple[tuple[int, int], ...]
    correlation: Judged
    same_sign: NDArray[np.float64]
    direction: Judged
    size: Judged
    permutation: Judged
    model: Judged

    @property
    def order(self) -> NDArray[np.int64]:
        """Columns from the strongest evidence on direction to the weakest, (C,) places."""
        strongest = np.maximum(self.correlation.strength, self.direction.strength)
        return np.argsort(-strongest, kind="stable")

    def tells_direction(self, level: float = 0.05) -> NDArray[np.bool_]:
        """(C,): beyond chance in one of the two statistics; `level` holds for all columns and both together."""
        return np.minimum(self.correlation.chance, self.direction.chance) <= level / 2


def importance(
    samples: Sequence[Samples], columns: Sequence[str], *, folds: int = 5, shuffles: int = 200, seed: int = 0
) -> Importance:
    """Judge every column on `folds` spans of equal length; an earlier span of that length only trains the model.

    Args:
        samples: one per symbol.
        columns: names of their columns.
        folds: how many spans are judged, 2 to 16.
        shuffles: how many shuffled markets show what chance gives; with fewer than 39 nothing could beat it.
        seed: of the shuffles and permutations.

    Raises:
        ImportanceError: a span of a symbol has fewer than 100 samples, or folds or shuffles are not so many.
    """
    if not 2 <= folds <= MOST_FOLDS or shuffles < LEAST_SHUFFLES:
        raise ImportanceError(
            f"expected 2 to {MOST_FOLDS} folds and at least {LEAST_SHUFFLES} shuffles, found {folds} and {shuffles}"
        )
    spans, forward = purged_spans(samples, folds + 1)
    rng = np.random.default_rng(seed)
    turns = np.append(0.0, rng.uniform(*_TURNS, shuffles))
    ranked = [standardised(ranks(one)) for one in forward]
    model = _Ridge(spans[0])
    found: list[tuple[NDArray[np.float64], ...]] = []
    for place, span in enumerate(spans):
        target = _ranked(span, ranked, turns)
        if place:
            found.append((*_alone(span, target, forward, turns), *model.lost(span, target, rng)))
        model.learn(span, target)
    correlation, direction, size, lost, skill = (np.stack(part) for part in zip(*found, strict=True))
    judged = judge(correlation, signed=True)
    same_sign = (correlation[:, :, 0] * judged.value > 0).mean(axis=0)
    return Importance(
        columns=tuple(columns),
        samples=sum(len(span.values) for span in spans[1:]),
        fold_days=tuple(span.days for span in spans[1:]),
        correlation=judged,
        same_sign=same_sign,
        direction=judge(direction, signed=False),
        size=judge(size, signed=False),
        permutation=judge(lost, signed=False),
        model=judge(skill[:, None, :], signed=False),
    )


def _turned(span: Span, series: list[NDArray[np.float64]], turns: NDArray[np.float64]) -> list[NDArray[np.float32]]:
    """Per symbol (1 + shuffles, n): what stands in the span when its series is moved round by fractions of its length.

    Args:
        span: which samples.
        series: one value per kept sample of each symbol, over all spans.
        turns: (1 + shuffles,) fractions; the first is 0.
    """
    return [
        np.stack(
            [
                own.take(np.arange(place.start, place.stop) - round(turn * len(own)), mode="wrap").astype(np.float32)
                for turn in turns
            ]
        )
        for own, place in zip(series, span.places, strict=True)
    ]


def _ranked(span: Span, ranked: list[NDArray[np.float64]], turns: NDArray[np.float64]) -> NDArray[np.float32]:
    """(n, 1 + shuffles): ranks of the returns that follow, each symbol's with mean 0 and variance 1 in the span."""
    parts = []
    for turned in _turned(span, ranked, turns):
        turned -= turned.mean(axis=1, keepdims=True)
        turned /= np.maximum(turned.std(axis=1, keepdims=True), 1e-12)
        parts.append(turned)
    return np.concatenate(parts, axis=1).T


def _by_symbol(span: Span, view: Callable[[NDArray[Any]], NDArray[Any]], series: NDArray[Any]) -> NDArray[Any]:
    """A view of (n,) values, taken of each symbol's part alone."""
    return np.concatenate([view(series[rows]) for rows in span.symbols])


def _alone(
    span: Span, target: NDArray[np.float32], forward: list[NDArray[np.float64]], turns: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Correlation, direction and size of each column by itself, (C, 1 + shuffles) each."""
    turned = _turned(span, forward, turns)
    moves = np.concatenate(turned, axis=1).T
    large = np.concatenate([np.abs(own) > np.median(np.abs(own), axis=1, keepdims=True) for own in turned], axis=1).T
    up, down, size = (question.astype(np.float32) for question in (moves > 0, moves < 0, large))
    found: list[tuple[NDArray[np.float64], ...]] = []
    for start in range(0, span.values.shape[1], _COLUMNS_AT_ONCE):
        places = [_by_symbol(span, ranks, column) for column in span.values.T[start : start + _COLUMNS_AT_ONCE]]
        standard = np.stack([_by_symbol(span, standardised, column) for column in places]).astype(np.float32)
        bins = np.stack([_by_symbol(span, rank_bins, column) for column in places])
        # One row per column and bin, so that all counts of all shuffles are a single product.
        in_bin = (bins[:, None] == np.arange(BINS)[:, None]).astype(np.float32).reshape(len(places) * BINS, -1)
        ups, downs, larges = ((in_bin @ one).reshape(len(places), BINS, -1) for one in (up, down, size))
        smalls = in_bin.sum(axis=1).reshape(len(places), BINS, 1) - larges
        found.append((standard @ target / len(target), information(ups, downs), information(larges, smalls)))
    correlation, direction, sizes = (np.concatenate(part) for part in zip(*found, strict=True))
    return correlation, direction, sizes


class _Ridge:
    """A linear model of the rank of the return, one for the true target and one for each shuffled one.

    Columns are scaled by the first span alone, which is never judged.
    """

    def __init__(self, first: Span) -> None:
        spread = first.values.std(axis=0, dtype=np.float64)
        self._mean = first.values.mean(axis=0, dtype=np.float64)
        varies = spread > 1e-6 * np.maximum(np.abs(self._mean), 1e-6)
        self._factor = np.where(varies, 1 / np.maximum(spread, 1e-300), 0.0)
        self._gram: Any = 0.0
        self._cross: Any = 0.0
        self._samples = 0

    def learn(self, span: Span, target: NDArray[np.float32]) -> None:
        """Take a span into the sums that the next fit is made of."""
        scaled = self._scaled(span)
        self._gram = self._gram + scaled.T @ scaled
        self._cross = self._cross + scaled.T @ target
        self._samples += len(scaled)

    def lost(
        self, span: Span, target: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """On a span after those learned: correlation lost by permuting a column, (C, 1 + shuffles); the correlation."""
        scaled, count = self._scaled(span), len(span.values)
        penalty = _RIDGE * self._samples * np.eye(len(self._factor))
        weights = np.linalg.solve(self._gram + penalty, self._cross)
        predicted = scaled @ weights
        predicted -= predicted.mean(axis=0)
        shared, variance = (predicted * target).mean(axis=0), np.square(predicted).mean(axis=0)
        whole = _ratio(shared, variance)
        permuted = np.zeros_like(weights)
        for _ in range(_REPEATS):
            order = _by_symbol(span, rng.permutation, np.arange(count))
            moved = scaled[order] - scaled
            # The prediction changes by weight x moved: its correlation follows from sums, without predicting anew.
            new_shared = shared + weights * (moved.T @ target) / count
            new_variance = (
                variance
                + 2 * weights * (moved.T @ predicted) / count
                + np.square(weights) * np.square(moved).mean(axis=0)[:, None]
            )
            permuted += _ratio(new_shared, new_variance) / _REPEATS
        return whole - permuted, whole

    def _scaled(self, span: Span) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = (span.values - self._mean) * self._factor
        return np.clip(scaled, -_SCALED_LIMIT, _SCALED_LIMIT, out=scaled)


def _ratio(shared: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A correlation with a target of variance 1; 0 where the prediction does not vary."""
    spread = np.sqrt(np.maximum(variance, 0.0))
    return np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 1e-12)
