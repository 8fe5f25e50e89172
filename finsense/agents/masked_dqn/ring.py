"""Reads transitions out of the replay's ring: n-step returns, what they bootstrap from, and which ones are drawn."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.agents.masked_dqn.sum_tree import Tree, draw

Floats = NDArray[np.float32]
_ZERO = np.float32(0.0)


class Ring(NamedTuple):
    """The last T steps of N environments; row `head` holds what they see now, the rows before it what they did.

    Every observation is kept once: what follows on a step is the next row, unless the episode ended there. The last
    observation of an episode that was cut short lies apart, in `finals`.

    Attributes:
        observations: (T, N, F), not scaled.
        masks: (T, N, A) bool, legal in the observation.
        actions: (T, N) int64.
        rewards: (T, N) float32.
        dones: (T, N) float32, 1 where the episode ended with this step.
        timeouts: (T, N) float32, 1 where it was cut short, so that its last state still has a value.
        final_places: (T, N) int64, where its last observation lies in `finals`; modulo their number.
        finals: (C, F).
        final_masks: (C, A) bool.
        tree: weight of each step (leaf row x N + env); a tree of two cells where all weigh the same.
    """

    observations: NDArray[Any]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    rewards: Floats
    dones: Floats
    timeouts: Floats
    final_places: NDArray[np.int64]
    finals: NDArray[Any]
    final_masks: NDArray[np.bool_]
    tree: Tree


class Batch(NamedTuple):
    """A minibatch of n transitions.

    Attributes:
        leaves: (n,) int64, row x N + env.
        observations: (n, F).
        actions: (n,) int64.
        returns: (n,) float32, the discounted rewards of up to n_steps steps.
        discounts: (n,) float32, of the value that follows on them; 0 where nothing does.
        next_observations: (n, F), what they are followed by; zeros where the discount is 0.
        next_masks: (n, A) bool, legal there.
        weights: (n,) float32, of a transition's loss, at most 1.
    """

    leaves: NDArray[np.int64]
    observations: NDArray[Any]
    actions: NDArray[np.int64]
    returns: Floats
    discounts: Floats
    next_observations: NDArray[Any]
    next_masks: NDArray[np.bool_]
    weights: Floats


class Law(NamedTuple):
    """How a minibatch is drawn.

    Attributes:
        n_steps: rewards that are summed.
        gamma: discount of a step.
        prioritised: whether the tree tells the chances.
        beta: how far the loss undoes them: 0 not at all, 1 in full.
    """

    n_steps: int
    gamma: float
    prioritised: bool
    beta: float


def new_batch(size: int, ring: Ring) -> Batch:
    """Room for a minibatch."""
    width, actions = ring.observations.shape[2], ring.masks.shape[2]
    kind = ring.observations.dtype
    return Batch(
        np.zeros(size, np.int64),
        np.zeros((size, width), kind),
        np.zeros(size, np.int64),
        np.zeros(size, np.float32),
        np.zeros(size, np.float32),
        np.zeros((size, width), kind),
        np.ones((size, actions), np.bool_),
        np.ones(size, np.float32),
    )


@njit(cache=True)
def _draw_alike(uniforms: NDArray[np.float64], ring: Ring, head: int, count: int, leaves: NDArray[np.int64]) -> None:
    """Any of the last `count` rows, any environment."""
    rows, envs = ring.rewards.shape
    for index in range(len(uniforms)):
        offset = min(int(uniforms[index] * (count * envs)), count * envs - 1)
        row = (head - count + offset // envs) % rows
        leaves[index] = row * envs + offset % envs


@njit(cache=True)
def _weigh(ring: Ring, count: int, beta: float, batch: Batch) -> None:
    """Importance weights (number x chance)^-beta over the largest of the batch (Schaul et al. 2016, 3.4)."""
    first, number = len(ring.tree) // 2, count * ring.rewards.shape[1]
    largest = 0.0
    for index in range(len(batch.leaves)):
        chance = ring.tree[first + batch.leaves[index]] / ring.tree[1]
        weight = (number * chance) ** -beta
        batch.weights[index] = weight
        largest = max(largest, weight)
    for index in range(len(batch.leaves)):
        batch.weights[index] /= largest


@njit(cache=True)
def look_ahead(ring: Ring, head: int, law: Law, row: int, env: int) -> tuple[float, float, int, bool]:
    """Sum the rewards from a step on, until `n_steps` are summed, the episode ends or the present is reached.

    Returns:
        The discounted sum; the discount of the value of what follows (0: nothing does); where that observation lies;
        and whether that place is in `finals`.
    """
    total, factor = 0.0, 1.0
    for _ in range(law.n_steps):
        total += factor * ring.rewards[row, env]
        factor *= law.gamma
        if ring.timeouts[row, env] != _ZERO:
            return total, factor, int(ring.final_places[row, env] % len(ring.finals)), True
        if ring.dones[row, env] != _ZERO:
            return total, 0.0, 0, True
        row = (row + 1) % ring.rewards.shape[0]
        if row == head:
            break
    return total, factor, row, False


@njit(cache=True)
def fill_batch(ring: Ring, head: int, count: int, law: Law, uniforms: NDArray[np.float64], batch: Batch) -> None:
    """Draw a minibatch and write it.

    Args:
        ring: the transitions.
        head: the row of the present.
        count: rows before it that hold transitions, at least 1.
        law: how to draw.
        uniforms: (n,) float64 in [0, 1).
        batch: output.
    """
    envs = ring.rewards.shape[1]
    if law.prioritised:
        draw(ring.tree, uniforms, batch.leaves)
        _weigh(ring, count, law.beta, batch)
    else:
        _draw_alike(uniforms, ring, head, count, batch.leaves)
    for index in range(len(batch.leaves)):
        row, env = batch.leaves[index] // envs, batch.leaves[index] % envs
        total, discount, place, final = look_ahead(ring, head, law, row, env)
        batch.actions[index] = ring.actions[row, env]
        batch.returns[index] = total
        batch.discounts[index] = discount
        for column in range(ring.observations.shape[2]):
            batch.observations[index, column] = ring.observations[row, env, column]
        if discount == 0.0:
            batch.next_observations[index] = 0
            batch.next_masks[index] = True
        elif final:
            batch.next_observations[index] = ring.finals[place]
            batch.next_masks[index] = ring.final_masks[place]
        else:
            batch.next_observations[index] = ring.observations[place, env]
            batch.next_masks[index] = ring.masks[place, env]
