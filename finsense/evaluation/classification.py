"""How well a forecast of the direction agrees with what came, and how sure that is where labels overlap in time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.block_bootstrap import (
    RESAMPLES,
    Estimate,
    block_counts,
    block_rows,
    percentile_estimate,
)
from finsense.evaluation.reliability import CALIBRATED, Curve, Reliability

# In the order of the classes: what the price did, or what was forecast or done about it.
CLASSES = ("down", "flat", "up")
DOWN, FLAT, UP = range(3)
# A probability of 0 is taken as this one, half a step of float32 below 1: else one miss would make the loss infinite.
LEAST_PROBABILITY = 2.0**-24
_BY_CLASS = ("precision", "recall", "f1")


class ForecastError(ValueError):
    """Forecasts that cannot be judged."""


@dataclass(frozen=True)
class Forecasts:
    """What was forecast and done at n bars of one symbol, in the order of time, and what came of it.

    Attributes:
        probabilities: (n, 3) float, of down, flat and up; each row sums to 1.
        acted: (n,) int64, class of what was done: UP bought, DOWN sold, FLAT held.
        target: (n,) int64, class of the label.
        span_bars: how many bars the longest label looks ahead.

    Raises:
        ForecastError: no rows, rows of different number, or probabilities that are none.
    """

    probabilities: NDArray[np.floating[Any]]
    acted: NDArray[np.int64]
    target: NDArray[np.int64]
    span_bars: int

    def __post_init__(self) -> None:
        rows = len(self.target)
        if not rows or len(self.acted) != rows or self.probabilities.shape != (rows, len(CLASSES)):
            raise ForecastError(
                f"expected forecasts (n, 3), actions and labels of as many bars, at least one, found "
                f"{self.probabilities.shape}, {self.acted.shape} and {self.target.shape}"
            )
        wrong = np.flatnonzero(
            ~((self.probabilities >= 0).all(axis=1) & (np.abs(self.probabilities.sum(axis=1) - 1) < 1e-4))
        )
        if len(wrong):
            raise ForecastError(
                f"expected probabilities that sum to 1, found {len(wrong)} rows that do not "
                f"(rows {wrong[:3].tolist()}: {self.probabilities[wrong[0]].tolist()})"
            )


@dataclass(frozen=True)
class Reference:
    """What a forecast that knows nothing of the bar would show.

    Attributes:
        majority: name of a figure -> of the forecast that always states how frequent each class is in these very rows,
            and so names the most frequent one.
        chance: of one that names each class equally often, and acts at any time as often in each direction.
    """

    majority: dict[str, float]
    chance: dict[str, float]


@dataclass(frozen=True)
class Classification:
    """The figures of a forecast.

    Attributes:
        rows: bars judged.
        counts: class -> how many of them it has.
        block: rows of one block of the bootstrap.
        span_bars: how many bars the longest label looks ahead.
        figures: name -> estimate.
        reference: the same figures without a forecast.
        confusion: (3, 3) int64, rows the true class, columns the one that was forecast as most probable.
        acted: (3, 3) int64, rows the true class, columns what was done: sold, held, bought.
        reliability: of the forecast of up and of down, and of the most probable class.
    """

    rows: int
    counts: dict[str, int]
    block: int
    span_bars: int
    figures: dict[str, Estimate]
    reference: Reference
    confusion: NDArray[np.int64]
    acted: NDArray[np.int64]
    reliability: Reliability

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        known = self.reference
        return {
            "rows": self.rows,
            "classes": self.counts,
            "label_span_bars": self.span_bars,
            "block_rows": self.block,
            "figures": {
                name: {**one.as_dict(), "majority": known.majority.get(name), "chance": known.chance.get(name)}
                for name, one in self.figures.items()
            },
            "confusion": {"classes": list(CLASSES), "forecast": self.confusion.tolist(), "acted": self.acted.tolist()},
            "reliability": self.reliability.as_dict(),
        }


def classify(forecasts: Forecasts, seed: int = 0, resamples: int = RESAMPLES) -> Classification:
    """Judge forecasts, each figure with a 95 % interval from a moving-block bootstrap over time.

    Args:
        forecasts: what to judge.
        seed: of the bootstrap.
        resamples: how many it draws.
    """
    rows = len(forecasts.target)
    table, ranking, curves = _Table(forecasts), _Ranking(forecasts), _curves(forecasts)
    whole = np.ones((1, rows))
    block = block_rows(rows, forecasts.span_bars)
    draws = block_counts(rows, block, np.random.default_rng(seed), resamples)
    sums: list[NDArray[np.float64]] = []
    areas: list[NDArray[np.float64]] = []
    binned: dict[str, list[NDArray[np.float64]]] = {name: [] for name in curves}
    for counts in _with_first(whole, draws):
        sums.append(table.sums(counts))
        areas.append(ranking.area(counts))
        for name, curve in curves.items():
            binned[name].append(curve.sums(counts))
    values = {**table.figures(np.concatenate(sums)), "auc_up": np.concatenate(areas)}
    figures = {name: percentile_estimate(float(drawn[0]), drawn[1:]) for name, drawn in values.items()}
    reliability = Reliability.of({name: np.concatenate(found) for name, found in binned.items()})
    figures |= {f"{CALIBRATED}_{name}": one for name, one in reliability.errors.items()}
    counts_of = np.bincount(forecasts.target, minlength=3)
    return Classification(
        rows=rows,
        counts=dict(zip(CLASSES, counts_of.tolist(), strict=True)),
        block=block,
        span_bars=forecasts.span_bars,
        figures=figures,
        reference=reference(forecasts),
        confusion=_confusion(forecasts.target, forecasts.probabilities.argmax(axis=1)),
        acted=_confusion(forecasts.target, forecasts.acted),
        reliability=reliability,
    )


def reference(forecasts: Forecasts) -> Reference:
    """What is reached without a forecast on the same labels."""
    share = np.bincount(forecasts.target, minlength=3) / len(forecasts.target)
    present = int((share > 0).sum())
    bought, sold = (float((forecasts.acted == way).mean()) for way in (UP, DOWN))
    hit = (bought * share[UP] + sold * share[DOWN]) / (bought + sold) if bought + sold else math.nan
    entropy = -float((share[share > 0] * np.log(share[share > 0])).sum())
    both = {"balanced_accuracy": 1 / present, "mcc": 0.0, "auc_up": 0.5, "hit_rate": float(hit)}
    one_way = max(share[UP], share[DOWN]) if bought + sold else math.nan
    return Reference(
        majority={
            **both,
            "accuracy": float(share.max()),
            "log_loss": entropy,
            "brier": float(1 - (share**2).sum()),
            "hit_rate": float(one_way),
        },
        chance={**both, "accuracy": 1 / 3, "balanced_accuracy": 1 / 3, "log_loss": math.log(3), "brier": 2 / 3},
    )


def _with_first(whole: NDArray[np.float64], draws: Iterator[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
    """The rows as they are, and then every resample: the first value of a figure is the figure."""
    yield whole
    yield from draws


def _confusion(target: NDArray[np.int64], named: NDArray[np.int64]) -> NDArray[np.int64]:
    cells: NDArray[np.int64] = np.bincount(target * 3 + named, minlength=9).reshape(3, 3)
    return cells


def _curves(forecasts: Forecasts) -> dict[str, Curve]:
    named = forecasts.probabilities.argmax(axis=1)
    return {
        "top": Curve(forecasts.probabilities.max(axis=1).astype(np.float64), forecasts.target == named),
        "up": Curve(forecasts.probabilities[:, UP].astype(np.float64), forecasts.target == UP),
        "down": Curve(forecasts.probabilities[:, DOWN].astype(np.float64), forecasts.target == DOWN),
    }


class _Table:
    """Every figure that is a function of sums over rows."""

    def __init__(self, forecasts: Forecasts) -> None:
        probabilities = forecasts.probabilities.astype(np.float64)
        probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
        target = forecasts.target
        named = probabilities.argmax(axis=1)
        happened = np.eye(3)[target]
        own = np.maximum(probabilities[np.arange(len(target)), target], LEAST_PROBABILITY)
        losses = np.stack([-np.log(own), np.square(probabilities - happened).sum(axis=1)], axis=1)
        self._parts = np.hstack([np.eye(9)[target * 3 + named], np.eye(9)[target * 3 + forecasts.acted], losses])

    def sums(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r, 20): sums over the rows, each taken as often as `counts` (r, n) says."""
        found: NDArray[np.float64] = counts @ self._parts
        return found

    @staticmethod
    def figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Name -> (r,); NaN where it is undefined."""
        forecast, acted = sums[:, :9].reshape(-1, 3, 3), sums[:, 9:18].reshape(-1, 3, 3)
        rows = forecast.sum(axis=(1, 2))
        right, true, named = (
            np.diagonal(forecast, axis1=1, axis2=2),
            forecast.sum(axis=2),
            forecast.sum(axis=1),
        )
        recall = _ratio(right, true)
        taken = acted[:, :, [DOWN, UP]].sum(axis=(1, 2))
        figures = {
            "accuracy": right.sum(axis=1) / rows,
            # Over the classes that occur, as scikit-learn takes it.
            "balanced_accuracy": np.nansum(recall, axis=1) / (true > 0).sum(axis=1),
            "log_loss": sums[:, 18] / rows,
            "brier": sums[:, 19] / rows,
            "mcc": _correlation(rows, right.sum(axis=1), true, named),
            "hit_rate": _ratio(acted[:, DOWN, DOWN] + acted[:, UP, UP], taken),
        }
        each = {"precision": _ratio(right, named), "recall": recall, "f1": _ratio(2 * right, true + named)}
        for place, name in enumerate(CLASSES):
            figures |= {f"{figure}_{name}": each[figure][:, place] for figure in _BY_CLASS}
        return figures


def _correlation(
    rows: NDArray[np.float64], right: NDArray[np.float64], true: NDArray[np.float64], named: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Matthews' correlation for several classes (Gorodkin 2004); NaN where one class alone is true or named."""
    shared = right * rows - (true * named).sum(axis=1)
    spread = (rows**2 - (true**2).sum(axis=1)) * (rows**2 - (named**2).sum(axis=1))
    return _ratio(shared, np.sqrt(spread))


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fraction; NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full_like(part, math.nan), where=whole > 0)


class _Ranking:
    """The area under the curve of up against the rest: how often an `up` got a higher probability than another bar.

    Ties count half (Mann and Whitney 1947).
    """

    def __init__(self, forecasts: Forecasts) -> None:
        stated = forecasts.probabilities[:, UP]
        self._order = np.argsort(stated, kind="stable")
        ordered = stated[self._order]
        self._starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        self._up = (forecasts.target == UP)[self._order]

    def area(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r,); NaN where every row is up, or none."""
        ordered = counts[:, self._order]
        ups = np.add.reduceat(ordered * self._up, self._starts, axis=1)
        others = np.add.reduceat(ordered * ~self._up, self._starts, axis=1)
        below = others.cumsum(axis=1) - others / 2
        return _ratio((ups * below).sum(axis=1), ups.sum(axis=1) * others.sum(axis=1))
