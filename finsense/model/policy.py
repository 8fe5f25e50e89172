"""What decides: the contract that every policy fulfils, learned or not."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Decision(NamedTuple):
    """What a policy chose.

    Attributes:
        action: the chosen action, always a legal one.
        probabilities: (A,) float32, the policy's probability of each action; 0 for those that are masked.
    """

    action: int
    probabilities: NDArray[np.float32]


class Policy(Protocol):
    """Chooses one legal action for one state. Decisions that count are taken row by row, never in a batch."""

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Decide.

        Args:
            state: (1, F) float32.
            mask: (1, A) bool, the legal actions; at least one.
        """
        ...
