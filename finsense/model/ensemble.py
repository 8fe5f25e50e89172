"""Several policies that decide as one, and learn from each other's outcomes whom to believe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from finsense.account.rules import AccountRules
from finsense.market.bars import Bar
from finsense.model.manifest import EnsembleSpec
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError
from finsense.model.outcomes import Outcomes
from finsense.model.policy import Decision, Policy
from finsense.model.voting import (
    NO_ACTION,
    VOTE,
    accuracies,
    all_on,
    class_actions,
    directions,
    mean_probability,
    stacked,
    updated_record,
    weighted_vote,
)

_LOG = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Seat:
    """A member's place in an ensemble.

    Attributes:
        name: of the member.
        policy: what it decides with; None where it could not be loaded.
        first_cell: where its state begins in the ensemble's: a shorter history is the tail of a longer one.
        fault: why it is dropped; empty while it is not.
    """

    name: str
    policy: OnnxPolicy | None
    first_cell: int
    fault: str = ""


class EnsemblePolicy(Policy):
    """Asks every member and lets them vote; a member that answers nonsense is out for the rest of the run.

    What it learned and whom it dropped belong to one run: `begin` gives a fresh one for the next.

    Args:
        seats: the members, in the order of the spec's.
        spec: how they decide.
        rules: of the account.

    Attributes:
        answers: (members, A) float32, the probabilities of the last decision; zeros for a member that is dropped.
    """

    def __init__(self, seats: Sequence[Seat], spec: EnsembleSpec, rules: AccountRules) -> None:
        self.spec = spec
        self._seats, self._first = list(seats), tuple(seats)
        self._rules = rules
        self._hold, self._class_actions = rules.hold_action, class_actions(rules)
        self._directions = directions(rules)
        self._start = np.array([member.weight for member in spec.members])
        self._prior = np.array([member.accuracy for member in spec.members])
        self._prior_votes = np.array([member.prior_votes for member in spec.members])
        self._hits, self._counts = np.zeros(len(seats)), np.zeros(len(seats))
        self._weights = self._start
        self._outcomes: Outcomes[NDArray[np.int8]] = Outcomes(spec.horizon, overnight=rules.product == "delivery")
        if spec.stack is not None:
            self._centre = np.array(spec.stack.centre).reshape(len(seats), -1)
            self._coefficients = np.array(spec.stack.coefficients)
            self._intercepts = np.array(spec.stack.intercepts)
        self.answers = np.zeros((len(seats), len(rules.action_names)), np.float32)

    @property
    def dropped(self) -> dict[str, str]:
        """Name -> why, of every member that is not heard."""
        return {seat.name: seat.fault for seat in self._seats if seat.fault}

    @property
    def can_decide(self) -> bool:
        """Whether enough members are left for the consensus; else it holds always."""
        voices = [one.name for one in self.spec.members if one.weight > 0 and one.name not in self.dropped]
        return len(voices) >= self.spec.consensus

    def begin(self) -> "EnsemblePolicy":
        """A fresh one: nothing learned, and nobody dropped but those that could not be loaded."""
        return EnsemblePolicy(self._first, self.spec, self._rules)

    def learn(self, bar: Bar) -> None:
        """Score the votes whose outcome this bar makes known."""
        known = self._outcomes.follow(bar)
        if not known or self.spec.forgetting is None:
            return
        for direction, forward in known:
            self._hits, self._counts = updated_record(
                self._hits, self._counts, direction, forward, self.spec.dead_zone, self.spec.forgetting
            )
        accuracy = accuracies(self._prior, self._prior_votes, self._hits, self._counts)
        self._weights = self._start * accuracy / self._prior

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Ask the members about one state, (1, F) float32, under one mask, (1, A) bool, and let them decide."""
        votes = np.zeros(len(self._seats), VOTE)
        self.answers[:] = 0.0
        for place in range(len(self._seats)):
            answer = self._ask(place, state, mask)
            if answer is None:
                votes[place] = (NO_ACTION, 0.0, self._weights[place], True)
            else:
                votes[place] = (answer.action, answer.probabilities[answer.action], self._weights[place], False)
                self.answers[place] = answer.probabilities
        action, probabilities = self._decide(votes, mask[0])
        self._outcomes.note(self._directions[votes["action"]])
        return Decision(action, probabilities, votes)

    def recall(self, votes: bytes) -> bytes:
        """Go on as if the members had just answered so, and be it that some of them are no longer here.

        Returns:
            The votes with the weights of now; nothing where these are not the votes of so many members.
        """
        if len(votes) != len(self._seats) * VOTE.itemsize:
            return b""
        found = np.frombuffer(votes, VOTE).copy()
        if not ((found["action"] >= NO_ACTION) & (found["action"] < len(self._rules.action_names))).all():
            return b""
        for place in np.flatnonzero(found["dropped"]).tolist():
            if not self._seats[place].fault:
                self._drop(place, "it was dropped before, as the journal has it")
        found["weight"] = self._weights
        self._outcomes.note(self._directions[found["action"]])
        return found.tobytes()

    def forecast(self, states: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The mean of the forecasts that its members give, by their weights at the start, (N, 3) float32.

        It is no part of a decision. None where no member forecasts.
        """
        total, weights = np.zeros((len(states), 3)), 0.0
        for seat, weight in zip(self._seats, self._start.tolist(), strict=True):
            own = None if seat.policy is None else seat.policy.forecast(states[:, seat.first_cell :])
            if own is not None:
                total += own * weight
                weights += weight
        return (total / weights).astype(np.float32) if weights > 0 else None

    def _ask(self, place: int, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision | None:
        """What a member answers; None where it is dropped, or is from now on."""
        seat = self._seats[place]
        if seat.policy is None or seat.fault:
            return None
        try:
            answer = seat.policy.act(state[:, seat.first_cell :], mask)
        except OnnxPolicyError as error:
            self._drop(place, str(error))
            return None
        if not np.isfinite(answer.probabilities).all():
            self._drop(place, f"its probabilities are not finite: {answer.probabilities.tolist()}")
            return None
        return answer

    def _decide(self, votes: NDArray[Any], mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.float32]]:
        standing = ~votes["dropped"]
        if np.count_nonzero(standing) < self.spec.consensus:
            return self._hold, all_on(self._hold, len(mask))
        if self.spec.stack is not None:
            features = np.where(standing[:, None], self.answers - self._centre, 0.0).reshape(-1)
            return stacked(features, self._coefficients, self._intercepts, self._class_actions, mask)
        weights = votes["weight"][standing].tolist()
        if self.spec.method == "mean":
            return mean_probability(self.answers[standing], weights, mask, self._hold, self.spec.consensus)
        return weighted_vote(votes["action"][standing].tolist(), weights, mask, self._hold, self.spec.consensus)

    def _drop(self, place: int, fault: str) -> None:
        self._seats[place] = replace(self._seats[place], fault=fault)
        tell_dropped(self._seats[place], self)


def tell_dropped(seat: Seat, policy: EnsemblePolicy) -> None:
    """Say that a member is not heard, and what that means."""
    standing = len(policy.spec.members) - len(policy.dropped)
    facts = {"member": seat.name, "fault": seat.fault, "standing": standing, "consensus": policy.spec.consensus}
    if policy.can_decide:
        _LOG.warning("a member of the ensemble was dropped; the others go on without it", **facts)
    else:
        _LOG.error("a member of the ensemble was dropped; too few are left, so it holds from now on", **facts)
