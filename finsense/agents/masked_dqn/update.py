"""What the masked DQN minimises, its gradient, and its updates. To change the loss, change `_tile_loss`."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.agents.kernels.adam import Adam, State, adam_step, gradient_norm
from finsense.agents.kernels.layout import TILE, Scratch
from finsense.agents.kernels.passes import Floats, Table, backward, forward, scale_rows, turn_weights
from finsense.agents.masked_dqn.ring import Batch, Law, Ring, fill_batch
from finsense.agents.masked_dqn.sum_tree import reweigh
from finsense.agents.masked_dqn.values import base_of, best_legal, heads

# What is known of a minibatch after its update: its loss, the mean Q of what was done, and the mean absolute error.
LOSS, Q_MEAN, ERROR_MEAN, FIGURES = range(4)


class Target(NamedTuple):
    """What a target is made of: the target network's weights, (size,) float32, and whether the online one chooses."""

    weights: Floats
    double: bool


@njit(cache=True, error_model="numpy")
def write_targets(
    table: Table,
    dueling: bool,
    batch: Batch,
    target: Target,
    online: Floats,
    scaling: tuple[Floats, Floats, float],
    scratch: Scratch,
    targets: NDArray[np.float64],
) -> None:
    """What the Q values of a minibatch should be, (n,) float64: return + discount x Q of the best legal next action.

    With `double` the online network says which action that is and the target network what it is worth (van Hasselt et
    al. 2016), else the target network says both. Where no action is legal, nothing follows.
    """
    mean, factor, limit = scaling
    actions = batch.next_masks.shape[1]
    best = np.zeros(TILE, np.int64)
    for start in range(0, len(targets), TILE):
        count = min(TILE, len(targets) - start)
        scale_rows(batch.next_observations[start : start + count], mean, factor, limit, scratch.observations)
        if target.double:
            forward(table, online, scratch.observations, scratch.values, count)
            scores, _ = heads(table, dueling, scratch.values)
            for row in range(count):
                best[row] = best_legal(scores, row, batch.next_masks, start + row)
        forward(table, target.weights, scratch.observations, scratch.values, count)
        scores, values = heads(table, dueling, scratch.values)
        for row in range(count):
            index = start + row
            action = best[row] if target.double else best_legal(scores, row, batch.next_masks, index)
            targets[index] = batch.returns[index]
            if batch.discounts[index] != 0.0 and action >= 0:
                value = base_of(actions, dueling, scores, values, row) + scores[row, action]
                targets[index] += batch.discounts[index] * value


@njit(cache=True, error_model="numpy")
def _tile_loss(
    batch: Batch,
    start: int,
    count: int,
    targets: NDArray[np.float64],
    dueling: bool,
    scores: Floats,
    values: Floats,
    score_deltas: Floats,
    value_deltas: Floats,
    errors: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> None:
    """Add the transitions of a tile to the loss, and tell its gradient by the network's outputs.

    The loss of a transition is weight x huber(Q(state, action) - target), huber(d) = d^2 / 2 up to |d| = 1 and
    |d| - 1/2 beyond; a minibatch's loss is the mean.

    Args:
        batch: the minibatch.
        start: of the tile in it.
        count: of the tile.
        targets: (n,) float64.
        dueling: whether `scores` are advantages.
        scores: (rows, at least A) float32, outputs of the network.
        values: (rows, at least 1) float32, outputs of the network.
        score_deltas: output, (rows, at least A) float32, the gradient by the scores.
        value_deltas: output, (rows, at least 1) float32, the gradient by the value.
        errors: output, (n,) float64, absolute.
        sums: (FIGURES,) float64, added to.
    """
    actions = batch.next_masks.shape[1]
    for row in range(count):
        index = start + row
        chosen, weight = batch.actions[index], float(batch.weights[index])
        q = base_of(actions, dueling, scores, values, row) + scores[row, chosen]
        error = q - targets[index]
        size = abs(error)
        errors[index] = size
        sums[LOSS] += weight * (0.5 * error * error if size < 1.0 else size - 0.5)
        sums[Q_MEAN] += q
        sums[ERROR_MEAN] += size
        slope = weight * min(max(error, -1.0), 1.0)
        # Q_chosen = V + A_chosen - mean(A)
        for action in range(actions):
            own = slope if action == chosen else 0.0
            score_deltas[row, action] = own - slope / actions if dueling else own
        if dueling:
            value_deltas[row, 0] = slope


@njit(cache=True, error_model="numpy")
def batch_gradient(
    table: Table,
    dueling: bool,
    batch: Batch,
    targets: NDArray[np.float64],
    scaling: tuple[Floats, Floats, float],
    state: State,
    scratch: Scratch,
    errors: NDArray[np.float64],
    figures: NDArray[np.float64],
) -> None:
    """Write the gradient of a minibatch's loss into the state, its absolute errors and its figures."""
    mean, factor, limit = scaling
    number = len(targets)
    figures[:] = 0.0
    state.gradient[:] = 0.0
    turn_weights(table, state.weights, scratch.turned)
    for start in range(0, number, TILE):
        count = min(TILE, number - start)
        scale_rows(batch.observations[start : start + count], mean, factor, limit, scratch.observations)
        forward(table, state.weights, scratch.observations, scratch.values, count)
        scores, values = heads(table, dueling, scratch.values)
        score_deltas, value_deltas = heads(table, dueling, scratch.deltas)
        _tile_loss(
            batch, start, count, targets, dueling, scores, values, score_deltas, value_deltas, errors, figures
        )  # fmt: skip
        backward(table, scratch.turned, scratch.observations, scratch.values, scratch.deltas, count, state.gradient)
    share = np.float32(1.0 / number)
    for cell in range(len(state.gradient)):
        state.gradient[cell] *= share
    figures /= number


@njit(cache=True, error_model="numpy")
def run_updates(
    table: Table,
    dueling: bool,
    ring: Ring,
    head: int,
    count: int,
    law: Law,
    priority_exponent: float,
    uniforms: NDArray[np.float64],
    batch: Batch,
    target: Target,
    scaling: tuple[Floats, Floats, float],
    adam: Adam,
    state: State,
    scratch: Scratch,
    step: int,
    largest_weight: float,
    figures: NDArray[np.float64],
) -> tuple[int, float]:
    """Update once with each of as many minibatches as `uniforms` has rows, until a number is not finite.

    Args:
        table: of the layout.
        dueling: whether the network has two heads.
        ring: the transitions; the tree is changed.
        head: the row of the present.
        count: rows before it that hold transitions.
        law: how minibatches are drawn.
        priority_exponent: alpha.
        uniforms: (updates, n) float64 in [0, 1).
        batch: scratch for n transitions.
        target: what targets are made of.
        scaling: of the observations.
        adam: how a gradient becomes a step.
        state: changed.
        scratch: of the layout.
        step: Adam's steps so far.
        largest_weight: of all transitions so far.
        figures: output, (updates, FIGURES) float64.

    Returns:
        Updates that were done, and the largest weight now. Where they are fewer than asked for, the figures of the next
        one tell what was not finite; weights, Adam and tree are as the last update left them.
    """
    number = uniforms.shape[1]
    targets, errors = np.zeros(number), np.zeros(number)
    for update in range(len(uniforms)):
        fill_batch(ring, head, count, law, uniforms[update], batch)
        write_targets(table, dueling, batch, target, state.weights, scaling, scratch, targets)
        batch_gradient(table, dueling, batch, targets, scaling, state, scratch, errors, figures[update])
        norm = gradient_norm(state.gradient)
        if not (np.isfinite(figures[update]).all() and np.isfinite(norm)):
            return update, largest_weight
        adam_step(state, adam, step + update + 1, norm)
        if law.prioritised:
            largest_weight = reweigh(ring.tree, batch.leaves, errors, priority_exponent, largest_weight)
    return len(uniforms), largest_weight
