"""What each kind of supervised model gives once it is fitted."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from finsense.agents.supervised.dataset import Dataset, Windows
from finsense.agents.supervised.decision import Decider
from finsense.agents.supervised.desk import FittingDesk
from finsense.config import Experiment
from finsense.state.scaler import Scaler


class FittedModel(Protocol):
    """A fitted model: the best weights it had, by the loss on the validation span."""

    @property
    def steps(self) -> int:
        """Training rows seen in all."""
        ...

    @property
    def best_steps(self) -> int:
        """Of these, how many the best weights had seen."""
        ...

    @property
    def best_epoch(self) -> int:
        """After which epoch (or round) they were reached; 0 is before the first, of a warm start."""
        ...

    def outputs(self, windows: Windows) -> NDArray[np.float32]:
        """Scores before calibration, (n, K) float32.

        K is 3, logits of the classes down, flat, up; or, for labels that are a forward return, 1, the expected one.
        """
        ...

    def graph(self, decider: Decider, state_width: int, action_count: int) -> bytes:
        """The whole ONNX graph: inputs state, mask; outputs action, probabilities, forecast.

        It carries the model's source (`finsense.agents.supervised.source`), from which another one can be started.
        """
        ...

    def decide(
        self, decider: Decider, states: NDArray[np.float32], masks: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The model's own answer to whole states (N, F) float32 under masks (N, A) bool, without the graph.

        Returns:
            action (N,) int64 and probabilities (N, A) float32.
        """
        ...

    def weights_hash(self) -> str:
        """SHA-256 (hex) of what was learned; the same for the same experiment and seed."""
        ...


# How a kind is fitted: experiment, training and validation examples, scaler of whole states, desk.
Fit = Callable[[Experiment, Dataset, Dataset, Scaler, FittingDesk], FittedModel]
