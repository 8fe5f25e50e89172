"""A compiled sum tree: draws an index with a chance in proportion to its weight (Schaul et al. 2016, B.2.1)."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Node 1 is the root; node i has the children 2i and 2i + 1; the leaves are the second half. A node always holds the sum
# of its two children as it is added anew, never a difference: a tree that is rebuilt from its leaves has the same bits.
Tree = NDArray[np.float64]
# Added to an error, so that no transition's chance is 0.
_LEAST_PRIORITY = 1e-6


def new_tree(leaves: int) -> Tree:
    """A tree of at least so many leaves, all of weight 0."""
    half = 1 << max(leaves - 1, 1).bit_length()
    return np.zeros(2 * half)


@njit(cache=True)
def set_weight(tree: Tree, leaf: int, weight: float) -> None:
    """Give a leaf its weight, at least 0 and finite."""
    node = len(tree) // 2 + leaf
    tree[node] = weight
    node //= 2
    while node > 0:
        tree[node] = tree[2 * node] + tree[2 * node + 1]
        node //= 2


@njit(cache=True)
def set_weights(tree: Tree, first: int, count: int, weight: float) -> None:
    """Give consecutive leaves one weight."""
    for leaf in range(first, first + count):
        set_weight(tree, leaf, weight)


@njit(cache=True)
def rebuild(tree: Tree) -> None:
    """Add up a tree whose leaves were written directly."""
    for node in range(len(tree) // 2 - 1, 0, -1):
        tree[node] = tree[2 * node] + tree[2 * node + 1]


@njit(cache=True)
def find(tree: Tree, place: float) -> int:
    """The leaf at a place in [0, total weight); never one of weight 0, whatever was rounded on the way."""
    node, half = 1, len(tree) // 2
    while node < half:
        left, right = tree[2 * node], tree[2 * node + 1]
        if right == 0.0 or (place < left and left > 0.0):
            node = 2 * node
        else:
            place -= left
            node = 2 * node + 1
    return node - half


@njit(cache=True)
def draw(tree: Tree, uniforms: NDArray[np.float64], leaves: NDArray[np.int64]) -> None:
    """Draw one leaf from each of as many equal slices of the total weight.

    Args:
        tree: with a total weight above 0.
        uniforms: (n,) float64 in [0, 1).
        leaves: output, (n,) int64.
    """
    slice_weight = tree[1] / len(uniforms)
    for index in range(len(uniforms)):
        leaves[index] = find(tree, (index + uniforms[index]) * slice_weight)


@njit(cache=True)
def reweigh(
    tree: Tree, leaves: NDArray[np.int64], errors: NDArray[np.float64], exponent: float, largest_weight: float
) -> float:
    """Give each drawn leaf the weight (error + 1e-6)^exponent.

    Args:
        tree: changed.
        leaves: (n,) int64; of a leaf that was drawn twice the last error counts.
        errors: (n,) float64, absolute and finite.
        exponent: alpha.
        largest_weight: of all leaves so far.

    Returns:
        The largest weight now.
    """
    for index in range(len(leaves)):
        weight = (errors[index] + _LEAST_PRIORITY) ** exponent
        set_weight(tree, leaves[index], weight)
        largest_weight = max(largest_weight, weight)
    return largest_weight
