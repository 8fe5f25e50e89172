"""What a policy on an account with several symbols stands beside: flat, equal-weight buy and hold, random legal."""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import AccountRules, TargetActions
from finsense.evaluation.backtest import Setting
from finsense.evaluation.baselines import AlwaysFlat, RandomLegal, certain
from finsense.evaluation.joint import JointReport, backtest_joint
from finsense.market.bars import Bars
from finsense.model.policy import Decision, Policy

_SHARE, _HOLD = 1, 2


class EqualWeight(Policy):
    """Buys its share of the equity whenever it is flat and may, and holds it; for `equal_weight_rules` alone."""

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Buy while flat."""
        # The account's features end the state; the first of them is the value of the position over the equity.
        flat = state[0, -len(ACCOUNT_FEATURES)] == 0
        return certain(_SHARE if flat and mask[0, _SHARE] else _HOLD, mask)


def equal_weight_rules(rules: AccountRules, symbols: int) -> AccountRules:
    """The same account with other actions: nothing, or an equal share of the equity in each symbol.

    It is a share for each symbol that the limits let the account hold at a time.
    """
    places = min(symbols, rules.limits.max_positions or symbols)
    least = rules.limits.min_position_fraction
    if least is not None:
        places = max(min(places, math.ceil(1 / least) - 1), 1)
    return rules.model_copy(update={"actions": TargetActions(targets=(0.0, 1 / places))})


def run_joint_baselines(
    markets: Sequence[Bars],
    setting: Setting,
    first: dt.date | None = None,
    last: dt.date | None = None,
    *,
    seed: int = 0,
) -> list[JointReport]:
    """Backtest every baseline over the same markets, span and terms; errors as in `backtest_joint`."""
    equal = replace(setting, account=equal_weight_rules(setting.account, len(markets)))
    span = first, last
    return [
        backtest_joint("always flat", AlwaysFlat(setting.account), markets, setting, *span),
        backtest_joint("equal-weight buy and hold", EqualWeight(), markets, equal, *span),
        backtest_joint("random legal", RandomLegal(np.random.default_rng(seed)), markets, setting, *span),
    ]
