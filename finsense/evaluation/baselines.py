"""The policies that every result stands beside: always flat, buy and hold, random legal, moving-average cross."""

import datetime as dt

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import BUY, HOLD, SELL, AccountRules, TargetActions
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.market.bars import Bars
from finsense.model.policy import Decision, Policy
from finsense.state.span import tradable_range


def action_codes(rules: AccountRules) -> tuple[int, int, int]:
    """The actions that add to the position, leave it, and reduce it: for targets the highest, HOLD and flat."""
    if isinstance(rules.actions, TargetActions):
        targets = rules.actions.targets
        return targets.index(max(targets)), len(targets), targets.index(0.0)
    return BUY, HOLD, SELL


def certain(action: int, mask: NDArray[np.bool_]) -> Decision:
    """A decision that leaves nothing to chance; `mask`: (1, A) bool."""
    probabilities = np.zeros(mask.shape[1], np.float32)
    probabilities[action] = 1.0
    return Decision(action, probabilities)


class AlwaysFlat(Policy):
    """Never trades."""

    def __init__(self, rules: AccountRules) -> None:
        self._hold = action_codes(rules)[1]

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Hold."""
        return certain(self._hold, mask)


class BuyAndHold(Policy):
    """Buys whenever it may; an intraday account is squared off each session, and so buys anew each session."""

    def __init__(self, rules: AccountRules) -> None:
        self._buy, self._hold, _ = action_codes(rules)

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Buy if that is legal, else hold."""
        return certain(self._buy if mask[0, self._buy] else self._hold, mask)


class RandomLegal(Policy):
    """Chooses among the legal actions with equal probability."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Draw one legal action."""
        legal = np.flatnonzero(mask[0])
        probabilities = (mask[0] / len(legal)).astype(np.float32)
        return Decision(int(legal[self._random.integers(len(legal))]), probabilities)


class SmaCross(Policy):
    """Long while the fast moving average of the closes stands above the slow one, else flat.

    It follows the bars by counting its own decisions, one per bar.

    Args:
        rules: the account's rules.
        above: (n,) bool, whether fast stands above slow at each traded bar, known at its close.
    """

    def __init__(self, rules: AccountRules, above: NDArray[np.bool_]) -> None:
        self._buy, self._hold, self._sell = action_codes(rules)
        self._above = above
        self._bar = 0

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Buy above, sell below, as far as that is legal and there is something to sell."""
        above = self._above[self._bar]
        self._bar += 1
        # The account's features end the state; the first of them is the value of the position over the equity.
        holds_shares = state[0, -len(ACCOUNT_FEATURES)] > 0
        wanted = self._buy if above else (self._sell if holds_shares else self._hold)
        return certain(wanted if mask[0, wanted] else self._hold, mask)


def sma_above(close: NDArray[np.float64], fast: int, slow: int) -> NDArray[np.bool_]:
    """(n,) bool: whether the mean of the last `fast` closes exceeds that of the last `slow`; false at first."""
    sums = np.concatenate([[0.0], np.cumsum(close)])
    above = np.zeros(len(close), np.bool_)
    ends = np.arange(slow, len(close) + 1)
    above[slow - 1 :] = (sums[ends] - sums[ends - fast]) / fast > (sums[ends] - sums[ends - slow]) / slow
    return above


def baseline_policies(
    bars: Bars,
    setting: Setting,
    first: dt.date | None,
    last: dt.date | None,
    *,
    seed: int,
    fast: int,
    slow: int,
) -> dict[str, Policy]:
    """A fresh policy of each kind for one run over a span; errors as in `tradable_range`."""
    begin, end = tradable_range(bars, setting.state, first, last)
    return {
        "always flat": AlwaysFlat(setting.account),
        "buy and hold": BuyAndHold(setting.account),
        "random legal": RandomLegal(np.random.default_rng(seed)),
        f"SMA cross {fast}/{slow}": SmaCross(setting.account, sma_above(bars.close, fast, slow)[begin : end + 1]),
    }


def run_baselines(
    bars: Bars,
    setting: Setting,
    first: dt.date | None = None,
    last: dt.date | None = None,
    *,
    seed: int = 0,
    fast: int = 10,
    slow: int = 30,
) -> list[Report]:
    """Backtest every baseline over the same span and terms; errors as in `backtest`."""
    policies = baseline_policies(bars, setting, first, last, seed=seed, fast=fast, slow=slow)
    return [backtest(name, policy, bars, setting, first, last) for name, policy in policies.items()]
