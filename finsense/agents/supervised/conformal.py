"""Split conformal limits: how improbable a direction must be before the opposite one may be traded."""

import math

import numpy as np
from numpy.typing import NDArray

from finsense.agents.labels import CLASSES, DOWN, UP

# A class whose probability is never below this is never excluded.
NEVER_EXCLUDED = -1.0


class ConformalError(ValueError):
    """An error rate that the labels at hand cannot show."""


def check_counts(target: NDArray[np.int64], error_rate: float) -> None:
    """Refuse an error rate for which there are too few labels of a direction.

    Args:
        target: (n,) classes of the labels that shall give the limits.
        error_rate: fraction in (0, 1).

    Raises:
        ConformalError: with fewer than 1 / error_rate - 1 labels of a class none of them is so rare.
    """
    needed = math.ceil(1.0 / error_rate - 1e-9) - 1
    for one in (DOWN, UP):
        count = int((target == one).sum())
        if count < needed:
            raise ConformalError(
                f"agent.abstain_error_rate {error_rate:g} needs at least {needed} labels of class {CLASSES[one]} in "
                f"the second half of the validation span, found {count}; give a longer split.validation, a higher "
                "rate, or null"
            )


def conformal_limit(probabilities: NDArray[np.floating], error_rate: float) -> float:
    """The limit of one class: it is excluded where its probability lies below.

    Split conformal prediction with the score 1 - p of the true class (Vovk et al. 2005; Angelopoulos and Bates 2021),
    conditional on the class (Vovk 2012): of new samples of the class, exchangeable with these, it is excluded for at
    most the share `error_rate`, whatever the model. The limit is the k-th smallest probability, k = floor(error_rate
    (n + 1)): the finite-sample correction. Bars in time are not quite exchangeable, so the share holds only as far as
    the market stays as it was.

    Args:
        probabilities: (n,) probability of the class, of samples that were of this class and fitted nothing.
        error_rate: fraction in [0, 1); where n is below 1 / error_rate - 1, nothing is excluded.
    """
    # A whisker more: 0.05 x 20 is 1, whatever the last bit says.
    place = math.floor(error_rate * (len(probabilities) + 1) + 1e-9)
    return float(np.sort(probabilities)[place - 1]) if place else NEVER_EXCLUDED


def conformal_limits(
    probabilities: NDArray[np.float64], target: NDArray[np.int64], error_rate: float
) -> tuple[float, float]:
    """The limits of down and of up, from calibrated probabilities (n, 3) and classes (n,); see `conformal_limit`.

    Where down is not excluded nothing may be bought, so of all falls at most the share `error_rate` is bought; and
    likewise for rises.
    """
    down, up = (conformal_limit(probabilities[target == one, one], error_rate) for one in (DOWN, UP))
    return down, up
