"""Adam as torch takes it, on vectors: what it changes, the norm that its gradient is cut by, and one step."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit

from finsense.agents.kernels.layout import BLOCK
from finsense.agents.kernels.passes import Floats


class Adam(NamedTuple):
    """The numbers of torch's Adam, and the norm that a gradient is cut to before its step."""

    max_grad_norm: float
    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


class State(NamedTuple):
    """What an update changes, each (size,) float32 in the order of the layout.

    Attributes:
        weights: the parameters.
        first: Adam's mean of the gradients (exp_avg).
        second: Adam's mean of their squares (exp_avg_sq).
        gradient: scratch.
    """

    weights: Floats
    first: Floats
    second: Floats
    gradient: Floats


def new_state(size: int) -> State:
    """Zeros for a layout of so many cells."""
    return State(*(np.zeros(size, np.float32) for _ in range(4)))


def numbers_of(optimiser: torch.optim.Optimizer, max_grad_norm: float) -> Adam:
    """The numbers of torch's own, as they are now."""
    group = optimiser.param_groups[0]
    beta1, beta2 = group["betas"]
    numbers = (max_grad_norm, group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
    return Adam(*(float(number) for number in numbers))


@njit(cache=True, error_model="numpy")
def gradient_norm(gradient: Floats) -> float:
    """The Euclidean norm, in as many sums as a block is long, so that they can be taken side by side."""
    sums = np.zeros(BLOCK, np.float32)
    for start in range(0, len(gradient), BLOCK):
        block = gradient[start : start + BLOCK]
        for lane in range(BLOCK):
            sums[lane] += block[lane] * block[lane]
    total = 0.0
    for lane in range(BLOCK):
        total += sums[lane]
    return math.sqrt(total)


@njit(cache=True, error_model="numpy")
def adam_step(state: State, adam: Adam, step: int, norm: float) -> None:
    """One step as torch's Adam takes it (Kingma and Ba 2015), of the gradient cut to `max_grad_norm`.

    Args:
        state: its weights and moments change.
        adam: the numbers.
        step: of this step, the first is 1.
        norm: of the gradient, as it is.
    """
    weights, first, second, gradient = state.weights, state.first, state.second, state.gradient
    fresh1, fresh2 = np.float32(1.0 - adam.beta1), np.float32(1.0 - adam.beta2)
    kept2, eps = np.float32(adam.beta2), np.float32(adam.eps)
    stride = np.float32(adam.learning_rate / (1.0 - adam.beta1**step))
    correction = np.float32(math.sqrt(1.0 - adam.beta2**step))
    decay, factor = np.float32(adam.weight_decay), np.float32(min(adam.max_grad_norm / (norm + 1e-6), 1.0))
    for cell in range(len(weights)):
        slope = gradient[cell] * factor + decay * weights[cell]
        first[cell] += (slope - first[cell]) * fresh1
        second[cell] = second[cell] * kept2 + slope * slope * fresh2
        weights[cell] -= stride * (first[cell] / (np.sqrt(second[cell]) / correction + eps))
