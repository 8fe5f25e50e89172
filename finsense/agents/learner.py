"""What the shared training needs to know of a learner; the rest of a training is the same for all of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from finsense.agents.markets import Markets
from finsense.config import Experiment
from finsense.envs.vector import TradingVecEnv


@dataclass(frozen=True)
class Decisions:
    """What T steps of N environments saw and did.

    Attributes:
        states: (T, N, F) float32.
        masks: (T, N, A), 1 where the action was legal.
        actions: (T, N) int64.
        starts: (T, N), 1 where the state is the first of an episode.
    """

    states: NDArray[np.float32]
    masks: NDArray[Any]
    actions: NDArray[np.int64]
    starts: NDArray[Any]


@dataclass(frozen=True)
class Learner:
    """A kind of agent.

    Attributes:
        make: a fresh Stable-Baselines3 model, its scaler fitted on the training span alone.
        actor: the deciding part of a model, to judge and to export: state (N, F) float32 and mask (N, A) bool in,
            action (N,) int64 and probabilities (N, A) float32 out.
        decisions: of a model, the last so many environment steps, or as many of them as it still holds.
        memory: arrays that an exact resume needs besides weights, optimiser and generators; not copied.
        restore_memory: puts them back into a fresh model.
    """

    make: Callable[[Experiment, Markets, TradingVecEnv], Any]
    actor: Callable[[Experiment, Any], nn.Module]
    decisions: Callable[[Any, int], Decisions]
    memory: Callable[[Any], Mapping[str, NDArray[Any]]]
    restore_memory: Callable[[Any, Mapping[str, NDArray[Any]]], None]
