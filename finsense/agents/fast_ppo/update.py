"""One epoch of updates: minibatch by minibatch the gradient of the loss, its clipping, and a step of Adam."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.agents.fast_ppo.loss import (
    CLIPPED,
    DIVERGENCE,
    ENTROPY,
    SQUARED,
    SUMS,
    SURROGATE,
    Samples,
    Terms,
    tile_loss,
)
from finsense.agents.kernels.adam import Adam, State, adam_step, gradient_norm
from finsense.agents.kernels.layout import TILE, Scratch
from finsense.agents.kernels.passes import Floats, Table, backward, forward, outputs_of, turn_weights

# What is known of a minibatch after its update; the names of SB3's train/ tags.
FIGURES = ("policy_gradient_loss", "value_loss", "entropy_loss", "clip_fraction", "approx_kl", "loss")
_DIVERGENCE, _LOSS = FIGURES.index("approx_kl"), FIGURES.index("loss")
# How an epoch ended.
DONE, STOPPED, NOT_FINITE = range(3)


@njit(cache=True, error_model="numpy")
def _advantage_law(advantages: Floats, chosen: NDArray[np.int64]) -> tuple[float, float]:
    """What SB3 shifts and divides the chosen advantages by: mean, and standard deviation (n - 1) + 1e-8."""
    total = 0.0
    for index in chosen:
        total += advantages[index]
    mean = total / len(chosen)
    squares = 0.0
    for index in chosen:
        squares += (advantages[index] - mean) ** 2
    return mean, math.sqrt(squares / (len(chosen) - 1)) + 1e-8


@njit(cache=True, error_model="numpy")
def minibatch_gradient(
    table: Table, samples: Samples, chosen: NDArray[np.int64], terms: Terms, state: State, scratch: Scratch
) -> NDArray[np.float64]:
    """Write the gradient of the minibatch's loss; `loss.py` says what that is.

    Args:
        table: of the layout.
        samples: the rollout.
        chosen: (minibatch,) int64, its samples.
        terms: of the loss.
        state: its weights are read, its gradient is written.
        scratch: of the layout.

    Returns:
        (SUMS,) float64, see `loss.py`.
    """
    sums = np.zeros(SUMS)
    law = _advantage_law(samples.advantages, chosen) if terms.normalize_advantage else (0.0, 1.0)
    state.gradient[:] = 0.0
    turn_weights(table, state.weights, scratch.turned)
    policy, critic = len(table) - 2, len(table) - 1
    for start in range(0, len(chosen), TILE):
        tile = chosen[start : start + TILE]
        count = len(tile)
        for row in range(count):
            index = tile[row]
            for column in range(samples.observations.shape[1]):
                scratch.observations[row, column] = samples.observations[index, column]
        forward(table, state.weights, scratch.observations, scratch.values, count)
        logits = outputs_of(table, policy, scratch.values, TILE)
        values = outputs_of(table, critic, scratch.values, TILE)
        logit_deltas = outputs_of(table, policy, scratch.deltas, TILE)
        value_deltas = outputs_of(table, critic, scratch.deltas, TILE)
        tile_loss(samples, tile, law, terms, logits, values, logit_deltas, value_deltas, sums)
        backward(table, scratch.turned, scratch.observations, scratch.values, scratch.deltas, count, state.gradient)
    share = np.float32(1.0 / len(chosen))
    for cell in range(len(state.gradient)):
        state.gradient[cell] *= share
    return sums


@njit(cache=True, error_model="numpy")
def _figures(sums: NDArray[np.float64], count: int, terms: Terms, figures: NDArray[np.float64]) -> None:
    surrogate, squared, entropy = -sums[SURROGATE] / count, sums[SQUARED] / count, -sums[ENTROPY] / count
    loss = surrogate + terms.entropy_weight * entropy + terms.value_weight * squared
    figures[:] = (surrogate, squared, entropy, sums[CLIPPED] / count, sums[DIVERGENCE] / count, loss)


@njit(cache=True, error_model="numpy")
def run_epoch(
    table: Table,
    samples: Samples,
    order: NDArray[np.int64],
    size: int,
    terms: Terms,
    adam: Adam,
    largest_divergence: float,
    state: State,
    scratch: Scratch,
    step: int,
    figures: NDArray[np.float64],
) -> tuple[int, int, int]:
    """Update once with every minibatch.

    Args:
        table: of the layout.
        samples: the rollout, n samples.
        order: (n,) int64, every sample once; consecutive ones make a minibatch.
        size: of a minibatch; it divides n.
        terms: of the loss.
        adam: how a gradient becomes a step.
        largest_divergence: of KL, above which the epoch ends; inf for never.
        state: changed.
        scratch: of the layout.
        step: Adam's steps so far.
        figures: output, (n / size, FIGURES) float64.

    Returns:
        DONE, STOPPED (by the divergence) or NOT_FINITE, the minibatches whose figures are written, and Adam's steps.
    """
    minibatches = len(order) // size
    for minibatch in range(minibatches):
        chosen = order[minibatch * size : (minibatch + 1) * size]
        sums = minibatch_gradient(table, samples, chosen, terms, state, scratch)
        _figures(sums, size, terms, figures[minibatch])
        norm = gradient_norm(state.gradient)
        if not (np.isfinite(sums).all() and np.isfinite(figures[minibatch, _LOSS]) and np.isfinite(norm)):
            return NOT_FINITE, minibatch + 1, step
        if figures[minibatch, _DIVERGENCE] > largest_divergence:
            return STOPPED, minibatch + 1, step
        step += 1
        adam_step(state, adam, step, norm)
    return DONE, minibatches, step
