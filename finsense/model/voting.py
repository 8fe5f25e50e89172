"""How the answers of several members become one decision, and how their record weighs them: pure functions."""

from collections.abc import Sequence
from math import fsum

import numpy as np
from numpy.typing import NDArray

from finsense.account.rules import AccountRules, TargetActions

# What one member of an ensemble answered at one bar. The journal keeps these bytes.
VOTE = np.dtype(
    [
        ("action", "<i8"),  # -1 where it is dropped
        ("confidence", "<f4"),  # its probability of that action; 0 where it is dropped
        ("weight", "<f8"),  # at this bar, before the vote's outcome is known
        ("dropped", "?"),  # whether it is out for the rest of the run
    ]
)
NO_ACTION = -1
# The classes of a forward return, in the order in which a stacking regression tells their probabilities.
DOWN, FLAT, UP = 0, 1, 2


def directions(rules: AccountRules) -> NDArray[np.int8]:
    """The direction of each action, (A + 1,) int8: 1 up, -1 down, 0 none; the last place stands for NO_ACTION.

    BUY is up and SELL is down. A target above 0 is up; 0 and below are down, for they leave or oppose a long position.
    """
    if isinstance(rules.actions, TargetActions):
        sides = [1 if target > 0 else -1 for target in rules.actions.targets]
        return np.array([*sides, 0, 0], np.int8)
    return np.array([1, 0, -1, 0], np.int8)


def class_actions(rules: AccountRules) -> tuple[int, int, int]:
    """The actions that DOWN, FLAT and UP stand for: SELL, HOLD, BUY, or the lowest target, HOLD, the highest."""
    if isinstance(rules.actions, TargetActions):
        targets = rules.actions.targets
        return targets.index(min(targets)), rules.hold_action, targets.index(max(targets))
    return 2, rules.hold_action, 0


def weighted_vote(
    actions: Sequence[int], weights: Sequence[float], mask: NDArray[np.bool_], hold: int, consensus: int
) -> tuple[int, NDArray[np.float32]]:
    """The action with the most weight behind it.

    A vote for a masked action counts as one for HOLD. The winner must be strictly ahead of every other action, HOLD
    among them, and, unless it is HOLD, have at least `consensus` members with a weight above zero; else it is HOLD.
    Shares that are equal as float32 are tied.

    Args:
        actions: what each member voted; those that are dropped are left out.
        weights: of the same members, 0 or more.
        mask: (A,) bool, the legal actions.
        hold: the action that holds.
        consensus: see above.

    Returns:
        The action, and (A,) float32 the share of the weight behind each; all on HOLD where the vote failed.
    """
    behind: list[list[float]] = [[] for _ in range(len(mask))]
    for action, weight in zip(actions, weights, strict=True):
        if weight > 0:
            behind[action if mask[action] else hold].append(weight)
    total = fsum(weight for one in behind for weight in one)
    if total == 0:
        return hold, all_on(hold, len(mask))
    action, shares = _strictly_best([fsum(one) / total for one in behind], hold)
    if action != hold and len(behind[action]) < consensus:
        return hold, all_on(hold, len(mask))
    return action, shares


def mean_probability(
    probabilities: NDArray[np.float32], weights: Sequence[float], mask: NDArray[np.bool_], hold: int, consensus: int
) -> tuple[int, NDArray[np.float32]]:
    """The action with the highest weighted mean of the members' probabilities; ties, or too few members, are HOLD.

    Args:
        probabilities: (members, A) float32; those that are dropped are left out.
        weights: of the same members, 0 or more.
        mask: (A,) bool, the legal actions; what a member gives to a masked one counts for HOLD.
        hold: the action that holds.
        consensus: how many members with a weight above zero there must be.

    Returns:
        The action, and (A,) float32 the mean probabilities; all on HOLD where there was no decision.
    """
    standing = [(row, weight) for row, weight in zip(probabilities.tolist(), weights, strict=True) if weight > 0]
    if not standing or len(standing) < consensus:
        return hold, all_on(hold, len(mask))
    total = fsum(weight for _, weight in standing)
    means = [fsum(row[action] * weight for row, weight in standing) / total for action in range(len(mask))]
    return _strictly_best(_masked_to_hold(means, mask, hold), hold)


def stacked(
    features: NDArray[np.float64],
    coefficients: NDArray[np.float64],
    intercepts: NDArray[np.float64],
    actions: tuple[int, int, int],
    mask: NDArray[np.bool_],
) -> tuple[int, NDArray[np.float32]]:
    """The action of the most probable class by a multinomial logistic regression; ties are HOLD.

    Args:
        features: (K,) float64, the members' probabilities less their mean at the fit; 0 for those that are dropped.
        coefficients: (3, K) float64, of DOWN, FLAT and UP.
        intercepts: (3,) float64.
        actions: what DOWN, FLAT and UP stand for.
        mask: (A,) bool, the legal actions; the probability of a class whose action is masked counts for HOLD.

    Returns:
        The action, and (A,) float32 the probabilities of the classes at their actions.
    """
    # Row by row with numpy's own sum: a matrix product (BLAS) need not give the same bits everywhere.
    logits = (coefficients * features).sum(axis=1) + intercepts
    powers = np.exp(logits - logits.max())
    likely = (powers / powers.sum()).tolist()
    hold, by_action = actions[FLAT], [0.0] * len(mask)
    for action, probability in zip(actions, likely, strict=True):
        by_action[action] += probability
    return _strictly_best(_masked_to_hold(by_action, mask, hold), hold)


def is_right(direction: NDArray[np.int8], forward: float | NDArray[np.float64], dead_zone: float) -> NDArray[np.bool_]:
    """Whether each direction came true: the forward return has its sign and is larger than the dead zone.

    Args:
        direction: (n,) int8, 1, 0 or -1; 0 is never right.
        forward: log return from the fill to the exit, of all or (n,) of each.
        dead_zone: the same unit, 0 or more.
    """
    right: NDArray[np.bool_] = direction * forward > dead_zone
    return right


def updated_record(
    hits: NDArray[np.float64],
    counts: NDArray[np.float64],
    direction: NDArray[np.int8],
    forward: float,
    dead_zone: float,
    forgetting: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The members' record after one outcome: all that was before is multiplied by `forgetting`.

    So an outcome that lies k outcomes back counts forgetting ** k (exponential forgetting, as of the discounted
    forecasters in Cesa-Bianchi and Lugosi 2006, chapter 2.11). Who voted no direction is not scored, but forgets too.

    Args:
        hits: (members,) float64, votes that were right.
        counts: (members,) float64, votes for a direction.
        direction: (members,) int8, what each voted.
        forward: log return that came of it.
        dead_zone: see `is_right`.
        forgetting: 0 to 1.
    """
    return (
        hits * forgetting + is_right(direction, forward, dead_zone),
        counts * forgetting + (direction != 0),
    )


def accuracies(
    prior: NDArray[np.float64],
    prior_votes: NDArray[np.float64],
    hits: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The share of right votes, (members,) float64; the prior counts as so many votes, which are never forgotten."""
    found: NDArray[np.float64] = (prior * prior_votes + hits) / (prior_votes + counts)
    return found


def _strictly_best(shares: list[float], hold: int) -> tuple[int, NDArray[np.float32]]:
    """The one largest share as float32, and the shares; HOLD, for certain, where several are equal."""
    rounded = np.array(shares, np.float32)
    best = int(rounded.argmax())
    if np.count_nonzero(rounded == rounded[best]) > 1:
        return hold, all_on(hold, len(shares))
    return best, rounded


def _masked_to_hold(shares: list[float], mask: NDArray[np.bool_], hold: int) -> list[float]:
    """The shares with those of masked actions added to HOLD, which is never masked."""
    legal = mask.tolist()
    kept = [share if allowed else 0.0 for share, allowed in zip(shares, legal, strict=True)]
    kept[hold] = fsum([shares[hold], *(share for share, allowed in zip(shares, legal, strict=True) if not allowed)])
    return kept


def all_on(action: int, count: int) -> NDArray[np.float32]:
    """The probabilities of one action for certain, (count,) float32."""
    probabilities = np.zeros(count, np.float32)
    probabilities[action] = 1.0
    return probabilities
