"""Whether columns keep their importance over time: their ranks from fold to fold, and which of them stay in front."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.charts import Chart, Figure
from finsense.evaluation.dependence import agreement, interval_reach, ranks

_STYLE = (
    "<style>svg{background:#fff;font:12px system-ui,sans-serif}text{fill:#333}.grid{stroke:#eee}.axis{stroke:#888}"
    ".line{stroke-width:1.2}.price{stroke:#ccc}.s0{stroke:#0060a8;stroke-width:2.4}.s1{stroke:#c76a00}.s2{stroke:#00866a}"
    ".s3{stroke:#b0477f}.s4{stroke:#7a5cc2}.s5{stroke:#6b6f76}</style>"
)
# A rank is steady where it moves by at most this share of all places over the folds.
_STEADY = 0.25
# For all columns together.
_LEVEL = 0.05
_LUCKY = 200_000
# Columns that the picture names; as many as the page has line styles.
_NAMED = 6
# Height of a line of text, SVG units.
_LINE = 14.0


@dataclass(frozen=True)
class Persistence:
    """How the importance of C columns lasts over folds.

    Attributes:
        mean: (C,) float64, importance, mean over the folds.
        low: (C,) float64, lower end of its 95 % interval over the folds.
        high: (C,) float64, its upper end.
        chance: (C,) float64, how often the best of C columns that tell nothing would look as good (at most).
        ranks: (folds, C) float64, 1 for the most important column of a fold; equal ones share the mean of their places.
        in_front: (C,) float64, share of the folds in which the column is among the first and its importance above 0.
        spread: (C,) float64, worst rank less best rank.
        stable: (C,) bool, in front often enough, and `chance` at most 0.05.
        tau: Kendall's tau of the ranks, mean over all pairs of folds: 1 the same order, 0 none.
        tau_chance: what |tau| stays below in 19 of 20 tables of chance, if columns were independent.
        steady: share of the columns whose rank moves by at most a quarter of the places.
        steady_chance: the same where every order is by chance.
    """

    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    chance: NDArray[np.float64]
    ranks: NDArray[np.float64]
    in_front: NDArray[np.float64]
    spread: NDArray[np.float64]
    stable: NDArray[np.bool_]
    tau: float
    tau_chance: float
    steady: float
    steady_chance: float


def persistence(by_fold: NDArray[np.float64], *, top: int, share: float) -> Persistence:
    """Judge the importance of columns over folds, each judged by a model of the other folds.

    The interval is Student's with the variance of Nadeau and Bengio (2003), for the models share most of their rows.

    Args:
        by_fold: (folds, C) float64, at least 2 folds; 0 where a column tells nothing.
        top: how many first places count as the front.
        share: of the folds in which a stable column is in front.
    """
    folds, columns = by_fold.shape
    places = np.stack([ranks(-one) + 1 for one in by_fold])
    mean = by_fold.mean(axis=0)
    # The mean of folds that were independent would have a variance of 1/folds; judged over fitted rows are added.
    reach = interval_reach(by_fold) * math.sqrt(1 + folds / (folds - 1))
    chance = _chance(by_fold)
    in_front = ((places <= top) & (by_fold > 0)).mean(axis=0)
    spread = places.max(axis=0) - places.min(axis=0)
    # A share of folds is a ratio of whole numbers: 4 of 5 is enough for 0.8 whatever the last bit says.
    stable = (in_front >= share - 1e-9) & (chance <= _LEVEL)
    return Persistence(
        mean=mean,
        low=mean - reach,
        high=mean + reach,
        chance=chance,
        ranks=places,
        in_front=in_front,
        spread=spread,
        stable=stable,
        tau=agreement(by_fold),
        tau_chance=_tau_chance(folds, columns),
        steady=float((spread <= _STEADY * (columns - 1)).mean()) if columns > 1 else 1.0,
        steady_chance=folds * _STEADY ** (folds - 1) - (folds - 1) * _STEADY**folds if columns > 1 else 1.0,
    )


def _chance(by_fold: NDArray[np.float64]) -> NDArray[np.float64]:
    """(C,): p of each column's t over folds, times the columns (Bonferroni), at most 1.

    Where nothing is to be known, a column is worth in a fold the luck it has there times the luck that the model saw
    elsewhere: l_k x (sum of the other l). So luck that has one sign everywhere looks like knowledge, and Student's t
    would be far too sure.
    """
    folds, columns = by_fold.shape
    null = _lucky_t(folds)
    beyond = len(null) - np.searchsorted(null, _t(by_fold.T), side="left")
    chance: NDArray[np.float64] = np.minimum((beyond + 1) / (len(null) + 1) * columns, 1.0)
    return chance


@cache
def _lucky_t(folds: int) -> NDArray[np.float64]:
    """The t of columns that tell nothing, (m,) float64, rising."""
    luck = np.random.default_rng(0).normal(size=(_LUCKY, folds))
    return np.sort(_t(luck * (luck.sum(axis=1, keepdims=True) - luck)))


def _t(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): the mean of each row of (n, folds) over its standard error; 0 where nothing varies."""
    error = values.std(axis=1, ddof=1) / math.sqrt(values.shape[1])
    mean = values.mean(axis=1)
    found: NDArray[np.float64] = np.divide(mean, error, out=np.zeros_like(mean), where=error > 0)
    return found


def _tau_chance(folds: int, columns: int) -> float:
    """Two standard deviations of the mean tau under chance (Kendall 1938); pairs that share a fold do not correlate."""
    if columns < 2:
        return 1.0
    variance = 2 * (2 * columns + 5) / (9 * columns * (columns - 1))
    return min(2 * math.sqrt(variance / math.comb(folds, 2)), 1.0)


def persistence_figure(columns: Sequence[str], by_fold: Sequence[Sequence[float]], labels: Sequence[str]) -> Figure:
    """The picture: each column's rank from fold to fold; the first of them by name.

    Args:
        columns: (C,) names, the most important first.
        by_fold: (folds, C) ranks.
        labels: one per fold.
    """
    places: NDArray[Any] = np.asarray(by_fold, np.float64)
    folds, count = places.shape
    height = min(max(14 * count + 60, 200), 560)
    chart = Chart(
        "Rank of each column over the folds",
        x=(0, folds - 1),
        y=(count + 0.5, 0.5),
        height=height,
        margins=(12, 230, 28, 44),
    )
    step = max(math.ceil(count / 12), 1)
    chart.y_axis(lambda rank: f"{rank:.0f}", [1, *range(1 + step, count + 1, step)])
    chart.x_axis(list(enumerate(labels)))
    fold = np.arange(folds)
    named = min(_NAMED, count)
    for place in range(count - 1, -1, -1):
        style = f"line s{place}" if place < named else "line price"
        chart.line(fold, places[:, place], style)
    below = 0.0
    for place in np.argsort(places[-1, :named], kind="stable").tolist():
        # Names of neighbours would lie on each other.
        below = max(chart.y_at(places[-1, place]) + 4, below + _LINE)
        chart.text(chart.x_at(folds - 1) + 10, below, columns[place], "label")
    return Figure("Rank over the folds", "1 is the most important; named are the first by their mean", chart.svg())


def as_svg_file(figure: Figure) -> str:
    """The picture as a file of its own, with the colours that else come from the page."""
    drawn = str(figure.svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, rest = drawn.split(">", 1)
    return f"{head}>{_STYLE}{rest}\n"
