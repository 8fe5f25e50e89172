"""From a model's raw outputs to class probabilities that mean what they say; part of the exported graph.

All of it is done in float64: three numbers cost nothing, and a steep step does not blow up the last bits of a float32.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn

from finsense.agents.labels import CLASSES
from finsense.evaluation.classification import LEAST_PROBABILITY

# Sharper than 20 times, a model is too sure whatever the labels say.
_SHARPEST = 20.0
# Below a thousandth of its evidence nothing is left of it.
_BLUNTEST = 1e-3
# The scale of a return is looked for within a factor of e^2 of what the returns themselves have.
_WIDEST = 2.0
_LEAST_SCALE = 1e-6
_BINS = 30
_LEAST_IN_BIN = 20
# A steeper step would turn the last bits of a network's float32 into another decision on another processor.
_STEEPEST = 5.0


class CalibrationError(ValueError):
    """Labels on which no probability can be calibrated."""


class Evidence(nn.Module):
    """Temperature scaling (Guo et al. 2017) of what a model tells beyond the shares of the classes.

    Dividing the whole of a logit by a temperature would draw an unsure model to thirds. So the shares that the model
    has learned are taken out of its logits, the rest is divided by the temperature, and the true shares are put back
    (Elkan 2001): softmax((logits - log learned shares) / temperature + log shares). A model that tells nothing ends at
    the shares of the classes; where these are equal, it is Guo's.

    Args:
        shares: (3,) of the classes in the training labels.
        learned: (3,) likewise, weighted as the model was trained (unique labels weigh more).
        sharpness: one over the temperature.
    """

    sharpness: Tensor
    shift: Tensor

    def __init__(self, shares: NDArray[np.float64], learned: NDArray[np.float64], sharpness: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("sharpness", torch.tensor(sharpness, dtype=torch.float64))
        self.register_buffer("shift", torch.tensor(np.log(shares) - sharpness * np.log(learned)))

    def forward(self, outputs: Tensor) -> Tensor:
        """Logits (N, 3) float64 to probabilities (N, 3)."""
        return torch.softmax(outputs * self.sharpness + self.shift, dim=1)


class StudentReturn(nn.Module):
    """The classes' probabilities of a forecast return: the true one is spread around slope x forecast by Student's t.

    Four degrees of freedom: about what returns of stocks have (Blattberg and Gonedes 1974), and its distribution needs
    no more than a root.

    Args:
        slope: of the true return on the forecast.
        scale: of the true return around it, fraction.
        dead_zone: returns no larger than this are flat, fraction.
    """

    slope: Tensor
    scale: Tensor
    dead_zone: Tensor

    def __init__(self, slope: float, scale: float, dead_zone: float) -> None:
        super().__init__()
        self.register_buffer("slope", torch.tensor(slope, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("dead_zone", torch.tensor(dead_zone, dtype=torch.float64))

    def forward(self, outputs: Tensor) -> Tensor:
        """Forecast returns (N, 1) float64 to probabilities (N, 3)."""
        signs = torch.tensor([-1.0, 1.0], dtype=torch.float64)
        distance = (signs * (self.slope * outputs) - self.dead_zone) / self.scale
        square = 1.0 + distance * distance / 4.0
        beyond = 0.5 + 0.375 * distance / square.sqrt() * (1.0 - distance * distance / (12.0 * square))
        return torch.stack([beyond[:, 0], 1.0 - beyond[:, 0] - beyond[:, 1], beyond[:, 1]], dim=1)


class Isotonic(nn.Module):
    """Isotonic calibration, one class against the rest, made to sum to one (Zadrozny and Elkan 2002).

    Each class's probability is mapped by a rising line through knots; it is written as a sum of ramps.

    Args:
        source: gives the probabilities to correct.
        knots: of each class the abscissae and the ordinates, rising, at least one of each.
    """

    start: Tensor
    width: Tensor
    slope: Tensor
    floor: Tensor

    def __init__(self, source: nn.Module, knots: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
        super().__init__()
        self.source = source
        ramps = max(len(x) for x, _ in knots)
        start, width, slope = np.zeros((3, ramps)), np.zeros((3, ramps)), np.zeros((3, ramps))
        for index, (x, y) in enumerate(knots):
            steps = np.diff(x)
            start[index, : len(steps)], width[index, : len(steps)] = x[:-1], steps
            slope[index, : len(steps)] = np.diff(y) / steps
        for name, values in (("start", start), ("width", width), ("slope", slope)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))
        self.register_buffer("floor", torch.tensor([y[0] for _, y in knots], dtype=torch.float64))

    def forward(self, outputs: Tensor) -> Tensor:
        """Raw outputs (N, K) float64 to probabilities (N, 3)."""
        run = torch.minimum((self.source(outputs).unsqueeze(2) - self.start).clamp(min=0.0), self.width)
        mapped = self.floor + (run * self.slope).sum(dim=2)
        return mapped / mapped.sum(dim=1, keepdim=True)


def class_shares(target: NDArray[np.int64], weight: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
    """(3,) share of each class, none quite 0: each is counted once more than it is there (Laplace)."""
    weights = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
    counts = np.bincount(target, weights, minlength=len(CLASSES)) + weights.mean()
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def probabilities_of(module: nn.Module, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a module makes of raw outputs (n, K): probabilities (n, 3)."""
    with torch.inference_mode():
        found: NDArray[np.float64] = module(torch.from_numpy(outputs.astype(np.float64))).numpy()
    return found


def fit_evidence(
    outputs: NDArray[np.float32],
    target: NDArray[np.int64],
    shares: NDArray[np.float64],
    learned: NDArray[np.float64],
) -> Evidence:
    """The temperature with the least log-loss on logits (n, 3) and classes (n,); the loss is convex in its inverse."""

    def loss(sharpness: float) -> float:
        return log_loss(probabilities_of(Evidence(shares, learned, sharpness), outputs), target)

    found = lowest(loss, 0.0, _SHARPEST)
    return Evidence(shares, learned, 0.0 if found < _BLUNTEST else found)


def fit_student_return(
    outputs: NDArray[np.float32], forward: NDArray[np.float64], target: NDArray[np.int64], dead_zone: float
) -> StudentReturn:
    """Slope as in `fit_slope`; the scale with the least log-loss of the classes.

    Args:
        outputs: (n, 1) forecast log returns.
        forward: (n,) true ones.
        target: (n,) classes.
        dead_zone: fraction.
    """
    slope = fit_slope(outputs, forward)
    spread = max(float(np.sqrt(((forward - slope * outputs[:, 0]) ** 2).mean())), _LEAST_SCALE)

    def loss(log_ratio: float) -> float:
        module = StudentReturn(slope, spread * math.exp(log_ratio), dead_zone)
        return log_loss(probabilities_of(module, outputs), target)

    return StudentReturn(slope, spread * math.exp(lowest(loss, -_WIDEST, _WIDEST)), dead_zone)


def fit_slope(outputs: NDArray[np.float32], forward: NDArray[np.float64]) -> float:
    """True return (n,) per forecast one (n, 1): least squares through 0; 0 where the forecasts point the wrong way."""
    forecast = outputs[:, 0].astype(np.float64)
    square = float((forecast**2).sum())
    return max(float((forecast * forward).sum()) / square, 0.0) if square > 0.0 else 0.0


def fit_isotonic(source: nn.Module, outputs: NDArray[np.float32], target: NDArray[np.int64]) -> Isotonic:
    """Isotonic regression over bins of as many samples each, so that its steps are few and not steep."""
    found = probabilities_of(source, outputs)
    return Isotonic(source, [_knots(found[:, one], target == one) for one in range(len(CLASSES))])


def _knots(probability: NDArray[np.float64], happened: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    order = np.argsort(probability, kind="stable")
    bins = np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_IN_BIN)))
    # One sample more, that of the class's own share: no bin says never or always.
    share = (happened.sum() + 1.0) / (len(happened) + len(CLASSES))
    x = np.array([probability[rows].mean() for rows in bins])
    y = np.array([(happened[rows].sum() + share) / (len(rows) + 1.0) for rows in bins])
    count = np.array([float(len(rows)) for rows in bins])
    y = IsotonicRegression().fit_transform(x, y, sample_weight=count)
    merged: list[tuple[float, float, float]] = []
    for point in zip(x.tolist(), y.tolist(), count.tolist(), strict=True):
        merged.append(point)
        while len(merged) > 1 and merged[-1][1] - merged[-2][1] > _STEEPEST * (merged[-1][0] - merged[-2][0]) - 1e-9:
            right, left = merged.pop(), merged.pop()
            merged.append(_mean_point(left, right))
    return np.array([point[0] for point in merged]), np.array([point[1] for point in merged])


def _mean_point(left: tuple[float, float, float], right: tuple[float, float, float]) -> tuple[float, float, float]:
    count = left[2] + right[2]
    x, y = ((left[place] * left[2] + right[place] * right[2]) / count for place in (0, 1))
    return x, y, count


def log_loss(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> float:
    """Mean of -log p of the true class (n,), of probabilities (n, 3)."""
    true = probabilities[np.arange(len(target)), target]
    return float(-np.log(np.maximum(true, LEAST_PROBABILITY)).mean())


def lowest(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest between two places: golden section (Kiefer 1953), to a millionth."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    tolerance = (high - low) * 1e-6
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > tolerance:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return (low + high) / 2.0
