"""Tells ways in which a policy has gone wrong, or has given up: it never trades, churns, holds for ever, sees nothing.

Counted are only bars at which the mask left a choice: an account that squares off, or may not enter, decides nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import BUY, AccountRules, TargetActions
from finsense.agents.learner import Decisions
from finsense.agents.validation import Path

NEVER_TRADES, CHURNS, HOLDS, COLLAPSED = "never_trades", "churns", "holds_one_position", "collapsed"
ALARMS = (NEVER_TRADES, CHURNS, HOLDS, COLLAPSED)

_POSITION = ACCOUNT_FEATURES.index("position")
# Fewer decisions than this say nothing of a habit.
_LEAST_DECISIONS = 50
# What is rarer than one in a thousand does not happen; what happens in all but five of a thousand always does.
_NEVER, _ALWAYS = 0.001, 0.995
# A policy whose signal turns has no reason to order at every third bar: even without any charges the best one on a
# market whose deviation halves in 13 bars orders at a tenth of them.
_CHURNING = 1 / 3
# Orders at one bar in fifty, a round trip a session, are few enough to be no churning, whatever they cost.
_OFTEN = 0.02
# Charges of less than this share of the gain before them are no reason to trade less.
_CHEAP = 0.1
# A policy that holds whatever is legal, but for orders as rare as this, has not collapsed: it waits.
_SELDOM = 0.01
# In the market at more bars than this: an intraday account that is squared off each session still needs to enter.
_HOLDING = 0.9


@dataclass(frozen=True)
class Conduct:
    """What a policy did where it had a choice; shares in [0, 1], NaN where there was no such bar.

    Attributes:
        decisions: bars with more than one legal action.
        order_rate: share of them at which it ordered.
        entry_rate: share of the flat ones at which it opened a position.
        exit_rate: share of those with a position at which it reduced or turned it.
        exposure: share of them with a position.
        told_by_mask: share of them at which it took the action that it mostly takes under that mask; 1 where the mask
            alone tells what it does.
        habit: under each mask that left a choice, the legal actions and the one it mostly takes.
    """

    decisions: int
    order_rate: float
    entry_rate: float
    exit_rate: float
    exposure: float
    told_by_mask: float
    habit: tuple[tuple[tuple[int, ...], int], ...]

    def figures(self) -> dict[str, float]:
        """The shares by name, without those that are undefined."""
        names = ("order_rate", "entry_rate", "exit_rate", "exposure", "told_by_mask")
        return {name: value for name in names if np.isfinite(value := getattr(self, name))}


def conduct(
    actions: NDArray[np.int64], masks: NDArray[np.bool_], position: NDArray[np.float32], rules: AccountRules
) -> Conduct:
    """Count what a policy did.

    Args:
        actions: (n,) int64.
        masks: (n, A) bool.
        position: (n,) float32, value of the shares over the equity before each decision.
        rules: the account's, which say what an action does.
    """
    free = masks.sum(axis=1) > 1
    actions, masks, position = actions[free], masks[free], position[free]
    held = position != 0
    orders = actions != rules.hold_action
    told, habit = _habits(actions, masks)
    return Conduct(
        decisions=len(actions),
        order_rate=_share(orders),
        entry_rate=_share(orders[~held]),
        exit_rate=_share(_reduces(actions, position, rules)[held]),
        exposure=_share(held),
        told_by_mask=told,
        habit=habit,
    )


def judge_conduct(paths: Sequence[Path], rules: AccountRules) -> tuple[dict[str, float], dict[str, str]]:
    """What a policy did on a walk over a span, all symbols together: figures by name, and `alarms`."""
    found = conduct(
        np.concatenate([path.actions for path in paths]),
        np.concatenate([path.masks for path in paths]),
        _positions(np.concatenate([path.states for path in paths])),
        rules,
    )
    return found.figures(), alarms(found, rules.action_names, _charges_over_gain(paths))


def rollout_conduct(decisions: Decisions, rules: AccountRules) -> dict[str, float]:
    """What a policy that still explores did in training: the shares and the alarms (1 or 0) as TensorBoard tags."""
    count = decisions.actions.size
    masks = decisions.masks.reshape(count, -1).astype(np.bool_)
    positions = _positions(decisions.states.reshape(count, -1))
    found = conduct(decisions.actions.reshape(-1), masks, positions, rules)
    raised = alarms(found, rules.action_names, None)
    figures = {**found.figures(), **{name: float(name in raised) for name in ALARMS}}
    return {f"policy/rollout_{name}": value for name, value in figures.items()}


def alarms(found: Conduct, names: Sequence[str], charges: float | None) -> dict[str, str]:
    """What is wrong, or may be: name of ALARMS -> a sentence; empty where nothing is.

    Args:
        found: what the policy did.
        names: one per action.
        charges: charges over the gain before them; None where it is not known.
    """
    if found.decisions < _LEAST_DECISIONS:
        return {}
    if found.order_rate < _NEVER and found.exposure < _NEVER:
        return {
            NEVER_TRADES: f"never trades: it ordered at {found.order_rate:.2%} of {found.decisions:,} bars at which it "
            "could. On this market and at these charges that may be the right answer; if something can be earned, let "
            "an agent explore more, train longer, or begin without charges (episode.charges), and give a supervised "
            "model a longer horizon or other features"
        }
    raised = {}
    cheap = charges is not None and charges < _CHEAP
    eaten = charges is not None and charges >= 1.0 and found.order_rate >= _OFTEN
    if eaten or (found.order_rate >= _CHURNING and not cheap):
        share = "" if charges is None else f", and charges took {_of_gain(charges)}"
        raised[CHURNS] = (
            f"churns: it ordered at {found.order_rate:.0%} of the bars at which it could{share}. Check that an "
            "agent's reward is paid after charges and agent.gamma looks further than one bar; for a supervised model "
            "set account.max_position or agent.abstain_error_rate"
        )
    if found.exposure >= _HOLDING and found.exit_rate < _NEVER:
        raised[HOLDS] = (
            f"buys once and holds: it had a position at {found.exposure:.0%} of the bars at which it could choose, and "
            f"left it at {found.exit_rate:.2%} of them. That is buy and hold; compare it with that baseline"
        )
    if found.told_by_mask >= _ALWAYS and found.order_rate >= _SELDOM:
        habit = "; ".join(_says(legal, action, names) for legal, action in found.habit)
        raised[COLLAPSED] = (
            f"collapsed onto one action: what is legal alone tells {found.told_by_mask:.1%} of its decisions "
            f"({habit}), whatever the state. Let an agent explore more, lower agent.learning_rate, or check that the "
            "state tells anything of the next bars"
        )
    return raised


def _charges_over_gain(paths: Sequence[Path]) -> float:
    """Infinite where charges were paid and nothing was gained before them."""
    charges = sum(path.performance.charges_paise for path in paths)
    gross = sum(path.performance.gross_paise for path in paths)
    if charges == 0:
        return 0.0
    return charges / gross if gross > 0 else math.inf


def _positions(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) value of the shares over the equity, of states (n, F)."""
    positions: NDArray[np.float32] = states[:, states.shape[1] - len(ACCOUNT_FEATURES) + _POSITION]
    return positions


def _habits(
    actions: NDArray[np.int64], masks: NDArray[np.bool_]
) -> tuple[float, tuple[tuple[tuple[int, ...], int], ...]]:
    """The share of the decisions that the mask tells, and the habit under each mask."""
    patterns, which = np.unique(masks, axis=0, return_inverse=True)
    told, habit = 0, []
    for index, pattern in enumerate(patterns):
        counts = np.bincount(actions[which.reshape(-1) == index], minlength=masks.shape[1])
        told += int(counts.max())
        habit.append((tuple(np.flatnonzero(pattern).tolist()), int(counts.argmax())))
    return (told / len(actions) if len(actions) else math.nan), tuple(habit)


def _reduces(actions: NDArray[np.int64], position: NDArray[np.float32], rules: AccountRules) -> NDArray[np.bool_]:
    """(n,) bool: whether an order makes the position smaller, closes it or turns it; a target does the last two."""
    orders = actions != rules.hold_action
    if isinstance(rules.actions, TargetActions):
        targets = np.array([*rules.actions.targets, 0.0])
        closes: NDArray[np.bool_] = orders & (targets[actions] * position <= 0)
        return closes
    reduces: NDArray[np.bool_] = orders & ((actions == BUY) == (position < 0))
    return reduces


def _says(legal: tuple[int, ...], action: int, names: Sequence[str]) -> str:
    others = ", ".join(names[other] for other in legal if other != action)
    return f"{names[action]} rather than {others}"


def _of_gain(charges: float) -> str:
    return (
        f"{charges:.0%} of the gain before them" if np.isfinite(charges) else "more than there was: it gained nothing"
    )


def _share(chosen: NDArray[np.bool_]) -> float:
    return float(chosen.mean()) if len(chosen) else math.nan
