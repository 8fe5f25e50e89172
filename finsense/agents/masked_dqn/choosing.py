"""Legal actions for many states at once, by the kernels or by torch."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from finsense.agents.kernels.faults import ALL_FINE, NOT_FINITE, NotFinite
from finsense.agents.masked_dqn.memory import SharedMemory
from finsense.agents.masked_dqn.values import choose, explore

if TYPE_CHECKING:
    from finsense.agents.masked_dqn.algorithm import MaskedDQN

# States (N, F), masks (N, A) bool or None where all is legal, and the chance of exploring, to actions (N,) int64.
Choose = Callable[[NDArray[Any], NDArray[Any] | None, float], NDArray[np.int64]]


def choose_in_kernels(memory: SharedMemory) -> Choose:
    """Choose with the weights in the memory."""
    layout, scratch = memory.layout, memory.scratch
    count = layout.layers[-2 if memory.dueling else -1].linear.out_features

    def chosen(states: NDArray[Any], masks: NDArray[Any] | None, epsilon: float) -> NDArray[np.int64]:
        rows = np.ascontiguousarray(states, np.float32).reshape(len(states), -1)
        legal, uniforms, actions = _prepared(len(rows), count, masks)
        ending, row = choose(
            layout.table, memory.dueling, memory.state.weights, memory.scaling, scratch.observations, scratch.values,
            rows, legal, uniforms, epsilon, actions,
        )  # fmt: skip
        _refuse(ending, row)
        return actions

    return chosen


def choose_in_torch(model: "MaskedDQN") -> Choose:
    """Choose with the model's network."""

    def chosen(states: NDArray[Any], masks: NDArray[Any] | None, epsilon: float) -> NDArray[np.int64]:
        with torch.no_grad():
            scores = model.q_net(model.policy.obs_to_tensor(states)[0]).cpu().numpy()
        return explored(scores, masks, epsilon)

    return chosen


def explored(scores: NDArray[np.float32], masks: NDArray[Any] | None, epsilon: float) -> NDArray[np.int64]:
    """A legal action for each row of Q values, (N, A) float32: with a chance of epsilon any, else the best.

    Raises:
        NotFinite: a Q value is not finite.
        ValueError: nothing is legal.
    """
    legal, uniforms, actions = _prepared(len(scores), scores.shape[1], masks)
    ending, row = explore(np.ascontiguousarray(scores), legal, uniforms, epsilon, 0, len(scores), actions)
    _refuse(ending, row)
    return actions


def _prepared(
    count: int, actions: int, masks: NDArray[Any] | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Masks (N, A), uniforms (N, 2) and room for actions (N,)."""
    legal = np.ones((count, actions), np.bool_)
    if masks is not None:
        legal[:] = np.asarray(masks, np.bool_).reshape(count, actions)
    uniforms = np.random.random_sample((count, 2))  # noqa: NPY002  (SB3's generator)
    return legal, uniforms, np.empty(count, np.int64)


def _refuse(ending: int, row: int) -> None:
    if ending == NOT_FINITE:
        raise NotFinite(f"the Q values for environment {row} are not finite; look at its state and at the weights")
    if ending != ALL_FINE:
        raise ValueError(f"expected at least one legal action in every environment, found none in environment {row}")
