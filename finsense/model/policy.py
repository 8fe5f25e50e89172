"""What decides: the contract that every policy fulfils, learned or not."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import Bar


class Decision(NamedTuple):
    """What a policy chose.

    Attributes:
        action: the chosen action, always a legal one.
        probabilities: (A,) float32, the policy's probability of each action; 0 for those that are masked.
        votes: (members,), what each member of an ensemble voted; None for a policy that is alone.
    """

    action: int
    probabilities: NDArray[np.float32]
    votes: NDArray[Any] | None = None

    @property
    def confidence(self) -> float:
        """The probability that the policy gives its own choice."""
        return float(self.probabilities[self.action])

    @property
    def vote_bytes(self) -> bytes:
        """The votes as the journal keeps them; empty where there are none."""
        return b"" if self.votes is None else self.votes.tobytes()


class Policy(Protocol):
    """Chooses one legal action for one state. Decisions that count are taken row by row, never in a batch.

    Every driver (environment, backtest, live loop) calls `begin` once, and then per bar `learn` and `act`; or, while a
    journal is replayed, `learn` and `recall`. A policy that does not change while it trades needs `act` alone and
    inherits the others.
    """

    def begin(self) -> "Policy":
        """The policy for one run on one symbol; one that learns while it trades gives a fresh one."""
        return self

    def learn(self, bar: Bar) -> None:
        """Take what became known with a traded bar, at its close and before its decision."""
        return

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Decide.

        Args:
            state: (1, F) float32.
            mask: (1, A) bool, the legal actions; at least one.
        """
        ...

    def recall(self, votes: bytes) -> bytes:
        """Go on as if it had just decided with these votes of the journal.

        Returns:
            The votes with the weights that it has now: equal to the journal's, unless something was changed.
        """
        return votes
