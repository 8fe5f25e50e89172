"""Fits the regression that decides from the probabilities of several members."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from finsense.agents.voter_record import Trial, known_returns
from finsense.evaluation.backtest import Setting, backtest
from finsense.market.bars import Bar
from finsense.model.ensemble import EnsemblePolicy
from finsense.model.manifest import Stack
from finsense.model.policy import Decision, Policy
from finsense.model.voting import DOWN, FLAT, UP

_CLASSES = ("down", "flat", "up")
_MAX_ITERATIONS = 5000


class StackingError(ValueError):
    """A span from which no regression can be fitted."""


class _Listening(Policy):
    """Decides as the ensemble does and keeps what every member answered."""

    def __init__(self, ensemble: EnsemblePolicy) -> None:
        self._ensemble = ensemble
        self.answers: list[NDArray[np.float32]] = []

    def learn(self, bar: Bar) -> None:
        """As the ensemble does."""
        self._ensemble.learn(bar)

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """As the ensemble does."""
        decision = self._ensemble.act(state, mask)
        self.answers.append(self._ensemble.answers.reshape(-1).copy())
        return decision


def fit_stack(ensemble: EnsemblePolicy, trial: Trial, setting: Setting) -> tuple[Stack, int]:
    """Fit a multinomial logistic regression (scikit-learn's, L2 penalty 1) of the class of the forward return.

    The members answer along the path of their own vote, under the masks of its account, as they will when it decides.
    The trial must lie after every member's training, which its caller checks.

    Args:
        ensemble: the vote of all members.
        trial: where to fit.
        setting: of the ensemble.

    Returns:
        The regression, and the number of bars that it was fitted on.

    Raises:
        StackingError: a class does not come up.
    """
    features, classes = [], []
    for bars in trial.markets.values():
        listening = _Listening(ensemble.begin())
        backtest("stacking", listening, bars, setting, trial.first, trial.last)
        rows, forward = known_returns(bars, setting, trial, len(listening.answers))
        if len(rows):
            features.append(np.array(listening.answers, np.float64)[rows])
            classes.append(FLAT + (forward > trial.dead_zone).astype(np.int64) - (forward < -trial.dead_zone))
    target = np.concatenate(classes) if classes else np.empty(0, np.int64)
    counts = np.bincount(target, minlength=3)
    if not counts.all():
        found = ", ".join(f"{count} {name}" for name, count in zip(_CLASSES, counts.tolist(), strict=True))
        raise StackingError(
            f"stacking needs bars of every class between {trial.first} and {trial.last}, found {found}; give a longer "
            "span, another horizon or dead zone"
        )
    known = np.concatenate(features)
    centre = known.mean(axis=0)
    fitted = LogisticRegression(C=1.0, max_iter=_MAX_ITERATIONS).fit(known - centre, target)
    down, flat, up = (tuple(fitted.coef_[place].tolist()) for place in (DOWN, FLAT, UP))
    first, second, third = fitted.intercept_.tolist()
    return Stack(centre=tuple(centre.tolist()), coefficients=(down, flat, up), intercepts=(first, second, third)), len(
        known
    )
