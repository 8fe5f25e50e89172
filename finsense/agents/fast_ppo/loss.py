"""What PPO minimises, and its gradient by a sample's logits and value. To change the loss, change this file."""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# What a minibatch's sums hold: of the clipped surrogate, the squared errors of the value, the entropies, the samples
# whose ratio is clipped, the estimate of the KL divergence, and of all logits and values (to see what is not finite).
SURROGATE, SQUARED, ENTROPY, CLIPPED, DIVERGENCE, SEEN, SUMS = range(7)


class Samples(NamedTuple):
    """A rollout of n samples.

    Attributes:
        observations: (n, F) float32, scaled.
        legal: (n, A) bool.
        actions: (n,) int64.
        log_shares: (n,) float32, log probability of the action when it was taken.
        values: (n,) float32, the critic's estimate then.
        advantages: (n,) float32.
        returns: (n,) float32.
    """

    observations: Floats
    legal: NDArray[np.bool_]
    actions: NDArray[np.int64]
    log_shares: Floats
    values: Floats
    advantages: Floats
    returns: Floats


class Terms(NamedTuple):
    """The numbers of the loss.

    Attributes:
        clip_range: of the ratio around 1.
        clip_range_value: of the value around the old one; negative where it is not clipped.
        entropy_weight: SB3's ent_coef.
        value_weight: SB3's vf_coef.
        normalize_advantage: whether a minibatch's advantages get mean 0 and standard deviation 1.
    """

    clip_range: float
    clip_range_value: float
    entropy_weight: float
    value_weight: float
    normalize_advantage: bool


@njit(cache=True, error_model="numpy")
def masked_shares(logits: Floats, row: int, legal: NDArray[np.bool_], index: int, shares: NDArray[np.float64]) -> None:
    """The softmax of one row over its legal actions.

    Args:
        logits: (rows, at least A) float32.
        row: of the logits.
        legal: (n, A) bool.
        index: of the row's mask; one action at least is legal there.
        shares: output, (2, A) float64: the legal actions' probabilities, and the logarithms of them.
    """
    actions, largest = legal.shape[1], -np.inf
    for action in range(actions):
        if legal[index, action] and logits[row, action] > largest:
            largest = np.float64(logits[row, action])
    total = 0.0
    for action in range(actions):
        if legal[index, action]:
            shares[1, action] = logits[row, action] - largest
            shares[0, action] = math.exp(shares[1, action])
            total += shares[0, action]
    shift = math.log(total)
    for action in range(actions):
        if legal[index, action]:
            shares[0, action] /= total
            shares[1, action] -= shift


@njit(cache=True, error_model="numpy")
def tile_loss(
    samples: Samples,
    chosen: NDArray[np.int64],
    advantage_law: tuple[float, float],
    terms: Terms,
    logits: Floats,
    values: Floats,
    logit_deltas: Floats,
    value_deltas: Floats,
    sums: NDArray[np.float64],
) -> None:
    """Add the samples of a tile to the loss, and tell its gradient by the network's outputs.

    The loss of a sample is (Schulman et al. 2017, with masks as in Huang and Ontanon 2022)

        -min(ratio x advantage, clip(ratio) x advantage) - entropy_weight x entropy + value_weight x (value - return)^2

    with ratio = exp(log_share - old log_share), everything over the legal actions alone. Where clip_range_value is not
    negative, the value counts as the old one moved by at most so much. A minibatch's loss is the mean.

    Args:
        samples: the rollout.
        chosen: (count,) int64, the samples in the tile.
        advantage_law: what advantages are shifted and divided by.
        terms: of the loss.
        logits: (rows, at least A) float32, outputs of the network; row i is of the i-th chosen sample.
        values: (rows, at least 1) float32, outputs of the network.
        logit_deltas: output, (rows, at least A) float32, the gradient by the logits; 0 for what is not legal.
        value_deltas: output, (rows, at least 1) float32, the gradient by the value.
        sums: (SUMS,) float64, added to.
    """
    legal, actions, advantages, returns = samples.legal, samples.actions, samples.advantages, samples.returns
    old_log_shares, old_values = samples.log_shares, samples.values
    mean, deviation = advantage_law
    lowest, highest, reach = 1.0 - terms.clip_range, 1.0 + terms.clip_range, terms.clip_range_value
    shares = np.zeros((2, legal.shape[1]))
    for row in range(len(chosen)):
        index = chosen[row]
        action, value = actions[index], float(values[row, 0])
        advantage = (advantages[index] - mean) / deviation
        masked_shares(logits, row, legal, index, shares)
        seen, entropy = value, 0.0
        for other in range(legal.shape[1]):
            seen += logits[row, other]
            if legal[index, other]:
                entropy -= shares[0, other] * shares[1, other]
        log_ratio = shares[1, action] - old_log_shares[index]
        ratio = math.exp(log_ratio)
        clipped = min(max(ratio, lowest), highest)
        plain = ratio * advantage <= clipped * advantage
        sums[SEEN] += seen
        sums[SURROGATE] += (ratio if plain else clipped) * advantage
        sums[ENTROPY] += entropy
        sums[CLIPPED] += abs(ratio - 1.0) > terms.clip_range
        sums[DIVERGENCE] += (ratio - 1.0) - log_ratio
        # d ratio / d logit_j = ratio (1[j = action] - share_j)
        # d entropy / d logit_j = -share_j (log share_j + entropy)
        pull = -ratio * advantage if plain else 0.0
        for other in range(legal.shape[1]):
            slope = 0.0
            if legal[index, other]:
                slope = pull * ((1.0 if other == action else 0.0) - shares[0, other])
                slope += terms.entropy_weight * shares[0, other] * (shares[1, other] + entropy)
            logit_deltas[row, other] = slope
        moved, free = value, reach < 0.0
        if not free:
            old = float(old_values[index])
            moved, free = old + min(max(value - old, -reach), reach), abs(value - old) <= reach
        error = moved - returns[index]
        sums[SQUARED] += error * error
        value_deltas[row, 0] = terms.value_weight * 2.0 * error if free else 0.0
