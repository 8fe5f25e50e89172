"""The kernels of a rollout: scale, decide and sample, estimate values, and the advantages at its end."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.agents.fast_ppo.loss import masked_shares
from finsense.agents.kernels.faults import ALL_FINE, NOT_FINITE, NOTHING_LEGAL
from finsense.agents.kernels.layout import TILE
from finsense.agents.kernels.passes import Floats, Table, forward, outputs_of, scale_rows


@njit(cache=True, error_model="numpy")
def _sampled(shares: NDArray[np.float64], legal: NDArray[np.bool_], index: int, uniform: float) -> int:
    """The action at a place in [0, 1) of the cumulated probabilities; always a legal one."""
    reached, last = 0.0, -1
    for action in range(legal.shape[1]):
        if legal[index, action]:
            last = action
            reached += shares[0, action]
            if uniform < reached:
                return action
    return last


@njit(cache=True, error_model="numpy")
def act(
    table: Table,
    weights: Floats,
    scaling: tuple[Floats, Floats, float],
    tile: Floats,
    scratch: Floats,
    states: Floats,
    legal: NDArray[np.bool_],
    uniforms: NDArray[np.float64],
    actions: NDArray[np.int64],
    values: Floats,
    log_shares: Floats,
) -> tuple[int, int]:
    """Sample an action for every row.

    Args:
        table: of the layout.
        weights: (size,) float32.
        scaling: mean and factor, (F,) float32, and the limit.
        tile: scratch for the observations.
        scratch: for the outputs.
        states: (N, F) float32, not scaled.
        legal: (N, A) bool.
        uniforms: (N,) float64 in [0, 1).
        actions: output, (N,) int64.
        values: output, (N,) float32, the critic's estimates.
        log_shares: output, (N,) float32, log probabilities of the actions.

    Returns:
        ALL_FINE, NOTHING_LEGAL or NOT_FINITE, and the row that is at fault.
    """
    mean, factor, limit = scaling
    shares = np.zeros((2, legal.shape[1]))
    for start in range(0, len(states), TILE):
        count = min(TILE, len(states) - start)
        scale_rows(states[start : start + count], mean, factor, limit, tile)
        forward(table, weights, tile, scratch, count)
        logits = outputs_of(table, len(table) - 2, scratch, TILE)
        estimates = outputs_of(table, len(table) - 1, scratch, TILE)
        for row in range(count):
            index = start + row
            seen = np.float64(estimates[row, 0])
            for action in range(legal.shape[1]):
                seen += logits[row, action]
            if not np.isfinite(seen):
                return NOT_FINITE, index
            if not legal[index].any():
                return NOTHING_LEGAL, index
            masked_shares(logits, row, legal, index, shares)
            actions[index] = _sampled(shares, legal, index, uniforms[index])
            values[index] = estimates[row, 0]
            log_shares[index] = shares[1, actions[index]]
    return ALL_FINE, 0


@njit(cache=True, error_model="numpy")
def estimate(
    table: Table,
    weights: Floats,
    scaling: tuple[Floats, Floats, float],
    tile: Floats,
    scratch: Floats,
    states: Floats,
    values: Floats,
) -> None:
    """Write the critic's estimates of states, (N, F) float32, into `values`, (N,) float32."""
    mean, factor, limit = scaling
    for start in range(0, len(states), TILE):
        count = min(TILE, len(states) - start)
        scale_rows(states[start : start + count], mean, factor, limit, tile)
        forward(table, weights, tile, scratch, count)
        estimates = outputs_of(table, len(table) - 1, scratch, TILE)
        for row in range(count):
            values[start + row] = estimates[row, 0]


@njit(cache=True, error_model="numpy")
def generalised_advantages(
    rewards: Floats,
    values: Floats,
    starts: Floats,
    last_values: Floats,
    dones: NDArray[np.bool_],
    discount: float,
    decay: float,
    advantages: Floats,
    returns: Floats,
) -> None:
    """Generalised advantage estimation (Schulman et al. 2016), in float32 and to the bit as SB3's buffer does it.

    Args:
        rewards: (T, N) float32, with the bootstrapped value where an episode was cut short.
        values: (T, N) float32.
        starts: (T, N) float32, 1 where an episode starts.
        last_values: (N,) float32, of the states after the last step.
        dones: (N,) bool, whether an episode ended with the last step.
        discount: gamma.
        decay: gamma x lambda.
        advantages: output, (T, N) float32.
        returns: output, (T, N) float32, advantages + values.
    """
    steps, count = rewards.shape
    gamma, gamma_lambda, one = np.float32(discount), np.float32(decay), np.float32(1.0)
    running = np.zeros(count, np.float32)
    for step in range(steps - 1, -1, -1):
        for index in range(count):
            if step == steps - 1:
                going, following = one - np.float32(dones[index]), last_values[index]
            else:
                going, following = one - starts[step + 1, index], values[step + 1, index]
            error = rewards[step, index] + gamma * following * going - values[step, index]
            running[index] = error + gamma_lambda * going * running[index]
            advantages[step, index] = running[index]
            returns[step, index] = running[index] + values[step, index]
