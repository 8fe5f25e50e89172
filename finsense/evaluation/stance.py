"""What a policy's actions say of the direction: buying says up, selling down, holding neither."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import BUY, HOLD, SELL, AccountRules, TargetActions
from finsense.evaluation.classification import DOWN, FLAT, UP
from finsense.market.bars import Bar
from finsense.model.policy import Decision, Policy


class Overheard(Policy):
    """A policy whose answers are written down while a driver runs it; it decides as the policy does."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._running = policy, policy
        self._probabilities: list[NDArray[np.float32]] = []

    def begin(self) -> "Overheard":
        """Begin a run, and a fresh record."""
        self._running = self._policy.begin()
        self._probabilities = []
        return self

    def learn(self, bar: Bar) -> None:
        """Hand the bar on."""
        self._running.learn(bar)

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """The policy's decision."""
        decision = self._running.act(state, mask)
        self._probabilities.append(decision.probabilities)
        return decision

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(n, A) float32, of every decision since the run began."""
        return np.array(self._probabilities)


def stances(rules: AccountRules, states: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class of every action in every state, (n, A) int64: UP adds to the exposure, DOWN reduces it, FLAT holds.

    Of targets it hangs on what the account holds: a target above the present exposure says up.

    Args:
        rules: of the account.
        states: (n, F) float32, whole states; the account's features are the last ones.
    """
    if not isinstance(rules.actions, TargetActions):
        by_action = np.empty(3, np.int64)
        by_action[[BUY, HOLD, SELL]] = UP, FLAT, DOWN
        return np.tile(by_action, (len(states), 1))
    exposure = states[:, -len(ACCOUNT_FEATURES), None].astype(np.float64)
    change = np.array(rules.actions.targets)[None, :] - exposure
    classes = np.where(change > 0, UP, np.where(change < 0, DOWN, FLAT)).astype(np.int64)
    return np.hstack([classes, np.full((len(states), 1), FLAT, np.int64)])


def stance_probabilities(probabilities: NDArray[np.floating[Any]], by_action: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 3) float64: the probabilities (n, A) of all actions of a class together; `by_action` as `stances` gives."""
    found = [np.where(by_action == one, probabilities, 0.0).sum(axis=1) for one in (DOWN, FLAT, UP)]
    return np.stack(found, axis=1).astype(np.float64)
