"""The forward side of the kernels: Q values of a tile of states, and the masked, epsilon-greedy choice."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.agents.kernels.faults import ALL_FINE, NOT_FINITE, NOTHING_LEGAL
from finsense.agents.kernels.layout import TILE
from finsense.agents.kernels.passes import Floats, Table, forward, outputs_of, scale_rows


@njit(cache=True, error_model="numpy")
def heads(table: Table, dueling: bool, values: Floats) -> tuple[Floats, Floats]:
    """The two heads' outputs of a tile, (TILE, at least A) and (TILE, at least 1); without dueling twice the first."""
    last = len(table) - 1
    return outputs_of(table, last - 1 if dueling else last, values, TILE), outputs_of(table, last, values, TILE)


@njit(cache=True, error_model="numpy")
def base_of(actions: int, dueling: bool, advantages: Floats, values: Floats, row: int) -> float:
    """What is added to a row's advantages to make them Q values: V - mean(A), or 0."""
    if not dueling:
        return 0.0
    total = 0.0
    for action in range(actions):
        total += advantages[row, action]
    return float(values[row, 0]) - total / actions


@njit(cache=True, error_model="numpy")
def best_legal(scores: Floats, row: int, legal: NDArray[np.bool_], index: int) -> int:
    """The legal action with the highest score, the first of equals; -1 where nothing is legal."""
    best = -1
    for action in range(legal.shape[1]):
        if legal[index, action] and (best < 0 or scores[row, action] > scores[row, best]):
            best = action
    return best


@njit(cache=True, error_model="numpy")
def nth_legal(legal: NDArray[np.bool_], index: int, uniform: float) -> int:
    """Any legal action, all with the same chance; -1 where nothing is legal."""
    count = 0
    for action in range(legal.shape[1]):
        count += legal[index, action]
    wanted = min(int(uniform * count), count - 1)
    for action in range(legal.shape[1]):
        if legal[index, action]:
            if wanted == 0:
                return action
            wanted -= 1
    return -1


@njit(cache=True, error_model="numpy")
def explore(
    scores: Floats,
    legal: NDArray[np.bool_],
    uniforms: NDArray[np.float64],
    epsilon: float,
    first: int,
    count: int,
    actions: NDArray[np.int64],
) -> tuple[int, int]:
    """Choose for the rows from `first` on: with a chance of epsilon any legal action, else the best one.

    Args:
        scores: (at least count, at least A) float32; its first row is of row `first`.
        legal: (N, A) bool.
        uniforms: (N, 2) float64 in [0, 1).
        epsilon: chance of any legal action.
        first: row.
        count: rows.
        actions: output, (N,) int64.

    Returns:
        ALL_FINE, NOTHING_LEGAL or NOT_FINITE, and the row at fault.
    """
    for row in range(count):
        index = first + row
        seen = 0.0
        for action in range(legal.shape[1]):
            seen += scores[row, action]
        if not np.isfinite(seen):
            return NOT_FINITE, index
        if uniforms[index, 0] < epsilon:
            actions[index] = nth_legal(legal, index, uniforms[index, 1])
        else:
            actions[index] = best_legal(scores, row, legal, index)
        if actions[index] < 0:
            return NOTHING_LEGAL, index
    return ALL_FINE, 0


@njit(cache=True, error_model="numpy")
def choose(
    table: Table,
    dueling: bool,
    weights: Floats,
    scaling: tuple[Floats, Floats, float],
    tile: Floats,
    scratch: Floats,
    states: Floats,
    legal: NDArray[np.bool_],
    uniforms: NDArray[np.float64],
    epsilon: float,
    actions: NDArray[np.int64],
) -> tuple[int, int]:
    """An action for every state, (N, F) float32 and not scaled; the other arguments and the answer as in `explore`.

    The advantages of a dueling network rank a state's actions as its Q values do.
    """
    mean, factor, limit = scaling
    for start in range(0, len(states), TILE):
        count = min(TILE, len(states) - start)
        scale_rows(states[start : start + count], mean, factor, limit, tile)
        forward(table, weights, tile, scratch, count)
        scores, _ = heads(table, dueling, scratch)
        ending, row = explore(scores, legal, uniforms, epsilon, start, count, actions)
        if ending != ALL_FINE:
            return ending, row
    return ALL_FINE, 0
