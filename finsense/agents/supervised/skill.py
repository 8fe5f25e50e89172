"""What forecasts are worth on labels that fitted no calibration (but had a say in when to stop): loss and accuracy."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.agents.labels import CLASSES, DOWN, UP
from finsense.agents.supervised.calibration import log_loss
from finsense.agents.supervised.dataset import Dataset
from finsense.evaluation.block_bootstrap import Estimate, block_counts, block_rows, percentile_estimate
from finsense.evaluation.reliability import Curve, expected_calibration_error

_SEED = 0


def calibration_errors(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> dict[str, float]:
    """Expected calibration error (Naeini et al. 2015), bins of as many samples each, fraction.

    Args:
        probabilities: (n, 3).
        target: (n,) classes.

    Returns:
        Of the most probable class (`top`), and of up and down alone.
    """
    hit = probabilities.argmax(axis=1) == target
    curves = {"top": Curve(probabilities.max(axis=1), hit)}
    curves |= {CLASSES[one]: Curve(probabilities[:, one], target == one) for one in (UP, DOWN)}
    whole = np.ones((1, len(target)))
    return {name: float(expected_calibration_error(curve.sums(whole))[0]) for name, curve in curves.items()}


def skill(
    before: NDArray[np.float64], after: NDArray[np.float64], measured: Dataset, majority: int, horizon: int
) -> dict[str, Any]:
    """Figures of forecasts without and with calibration, for the manifest; JSON-safe.

    Args:
        before: (n, 3) probabilities without calibration.
        after: (n, 3) with it.
        measured: n examples that fitted no calibration.
        majority: the class that is most frequent in training; it is what forecasting without looking would say.
        horizon: bars that a label looks ahead at most.
    """
    target = measured.target
    hit, guess = after.argmax(axis=1) == target, target == majority
    return {
        "rows": len(measured),
        "shares": {name: float((target == place).mean()) for place, name in enumerate(CLASSES)},
        "before": _losses(before, target),
        "after": _losses(after, target),
        "accuracy": _over_time(hit.astype(np.float64), measured.start_ns, horizon).as_dict(),
        "majority": CLASSES[majority],
        "accuracy_of_majority": float(guess.mean()),
        "above_majority": _over_time(hit.astype(np.float64) - guess, measured.start_ns, horizon).as_dict(),
    }


def _losses(probabilities: NDArray[np.float64], target: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "log_loss": log_loss(probabilities, target),
        "calibration_error": calibration_errors(probabilities, target),
    }


def _over_time(values: NDArray[np.float64], time_ns: NDArray[np.int64], horizon: int) -> Estimate:
    """The mean of values (n,) with its interval over blocks of time; all symbols of one bar are drawn together."""
    times, which = np.unique(time_ns, return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which).astype(np.float64)
    block = block_rows(len(times), horizon)
    drawn = [(some @ sums) / (some @ counts) for some in block_counts(len(times), block, np.random.default_rng(_SEED))]
    resampled = np.concatenate(drawn) if drawn else np.array([math.nan])
    return percentile_estimate(float(values.mean()), resampled)
