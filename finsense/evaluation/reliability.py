"""Whether probabilities mean what they say: what was forecast beside what came, and how far the two lie apart."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.block_bootstrap import Estimate, error_estimate, percentile_estimate
from finsense.evaluation.charts import Chart, Figure, nice_ticks
from finsense.evaluation.wording import grouped, percent

BINS = 10
CALIBRATED = "calibration_error"
# A line and an area of the same colour on the page, for each curve of the diagram.
_STYLES = (("line s0", "bar s0"), ("line s1", "bar s2"))


class Curve:
    """Probabilities of one event in bins of as many rows each, as far as equal probabilities allow.

    Bins of equal width would leave most of them empty, for forecasts of prices lie close together.

    Args:
        stated: (n,) float64, the probabilities.
        happened: (n,) bool, whether the event came.
    """

    def __init__(self, stated: NDArray[np.float64], happened: NDArray[np.bool_]) -> None:
        self.stated, self.happened = stated, happened
        self._bin = _even_bins(stated)
        self.bins = int(self._bin.max()) + 1

    def sums(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """(r, bins, 3): rows, sum of the probabilities and events of each bin, rows taken `counts` (r, n) times."""
        member = np.eye(self.bins)[self._bin]
        parts = np.stack([member, member * self.stated[:, None], member * self.happened[:, None]], axis=2)
        return (counts @ parts.reshape(len(member), -1)).reshape(len(counts), self.bins, 3)


def _even_bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) the bin of each value, from the lowest on; equal values share one."""
    _, place, rows = np.unique(values, return_inverse=True, return_counts=True)
    begun = np.cumsum(rows) - rows
    bin_of = np.empty(len(rows), np.int64)
    first, number = 0, 0
    while first < len(rows):
        # So many rows that those which are left fill the bins that are left.
        wanted = begun[first] + (len(values) - begun[first]) / (BINS - number)
        stop = max(int(np.searchsorted(begun + rows / 2, wanted)), first + 1) if number < BINS - 1 else len(rows)
        bin_of[first:stop] = number
        first, number = stop, number + 1
    found: NDArray[np.int64] = bin_of[place]
    return found


def expected_calibration_error(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r,): distance of probability and frequency, mean over the bins weighted by rows (Guo et al. 2017).

    Args:
        sums: (r, bins, 3), of `Curve.sums`.
    """
    error: NDArray[np.float64] = np.abs(_deviations(sums)).sum(axis=1)
    return error


def calibration_noise(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r - 1,): how far each resample's diagram lies from the first one's, as an error: what chance alone adds.

    Args:
        sums: (r, bins, 3), first of the rows as they are, then of resamples.
    """
    found = _deviations(sums)
    noise: NDArray[np.float64] = np.abs(found[1:] - found[:1]).sum(axis=1)
    return noise


def _deviations(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r, bins): probability less frequency of a bin, times its share of the rows."""
    deviations: NDArray[np.float64] = (sums[:, :, 1] - sums[:, :, 2]) / sums[:, :, 0].sum(axis=1, keepdims=True)
    return deviations


@dataclass(frozen=True)
class Bin:
    """One bin: how many rows, the mean probability, how often the event came, and the 95 % interval of that."""

    rows: int
    stated: float
    came: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """The diagram and its errors.

    Attributes:
        bins: curve -> its bins, from the lowest probability on. The curves are `up` and `down`, and `top` for the
            class that was forecast as most probable.
        errors: curve -> expected calibration error.
    """

    bins: Mapping[str, tuple[Bin, ...]]
    errors: Mapping[str, Estimate]

    @classmethod
    def of(cls, sums: Mapping[str, NDArray[np.float64]]) -> "Reliability":
        """From the sums of each curve, (1 + resamples, bins, 3), first of the rows as they are."""
        errors = {
            name: error_estimate(float(expected_calibration_error(drawn[:1])[0]), calibration_noise(drawn))
            for name, drawn in sums.items()
        }
        return cls({name: _bins(drawn) for name, drawn in sums.items()}, errors)

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return {
            name: [
                {
                    "rows": one.rows,
                    "stated": one.stated,
                    "came": one.came,
                    "low": one.low if math.isfinite(one.low) else None,
                    "high": one.high if math.isfinite(one.high) else None,
                }
                for one in bins
            ]
            for name, bins in self.bins.items()
        }


def _bins(sums: NDArray[np.float64]) -> tuple[Bin, ...]:
    rows, stated, came = (sums[:, :, part] for part in range(3))
    frequency = np.divide(came, rows, out=np.full_like(came, math.nan), where=rows > 0)
    found = []
    for place in range(sums.shape[1]):
        estimate = percentile_estimate(float(frequency[0, place]), frequency[1:, place])
        mean = float(stated[0, place] / rows[0, place])
        found.append(Bin(int(rows[0, place]), mean, estimate.value, estimate.low, estimate.high))
    return tuple(found)


def reliability_figure(bins: Mapping[str, Sequence[Bin]]) -> Figure:
    """The diagram: how often each event came against its probability; on the diagonal the two are equal.

    Args:
        bins: curve -> its bins, at least one; two curves at most.
    """
    edges = [value for one in bins.values() for each in one for value in (each.stated, each.came, each.low, each.high)]
    known = [value for value in edges if math.isfinite(value)]
    air = max(0.05 * (max(known) - min(known)), 0.01)
    low, high = max(min(known) - air, 0.0), min(max(known) + air, 1.0)
    chart = Chart("Reliability", x=(low, high), y=(low, high), height=440, margins=(38, 220, 30, 220))
    chart.y_axis(lambda value: percent(value, places=0), nice_ticks(low, high))
    chart.x_axis([(tick, percent(tick, places=0)) for tick in nice_ticks(low, high)])
    chart.line(np.array([low, high]), np.array([low, high]), "axis")
    half = (high - low) / 250
    for (name, each), (line, fill) in zip(bins.items(), _STYLES, strict=len(bins) == len(_STYLES)):
        xs, ys = np.array([one.stated for one in each]), np.array([one.came for one in each])
        for one in each:
            if math.isfinite(one.low):
                chart.bar((one.stated - half, one.stated + half), (one.low, one.high), fill, opacity=0.3)
        chart.line(xs, ys, line)
        chart.markers(xs, ys, "dot", fill)
        chart.legend(name, line)
    rows = sum(one.rows for one in next(iter(bins.values())))
    note = f"how often it came over the probability stated, {grouped(rows)} bars; on the diagonal they are equal"
    return Figure("Reliability", note, chart.svg())
