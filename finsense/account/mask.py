"""Which actions the account may choose: the same answer in training, in the exported graph and live."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.blocking import blocked
from finsense.account.orders import empty_reason, order_quantity, own_order_quantity, own_order_reason
from finsense.account.reasons import EMPTY, FREE


@njit(cache=True)
def write_legal_actions(
    account: Any, rules: Any, market: Any, schedule: Any, masks: NDArray[np.bool_], index: int
) -> None:
    """Write row `index` of the masks, (N, A) bool: an action is legal when the order it stands for can be given now.

    Holding is always legal. While the account closes its position by itself nothing else is.
    """
    closes = own_order_reason(account, rules, market) != FREE
    for action in range(rules.actions):
        if action == rules.hold:
            masks[index, action] = True
        elif closes:
            masks[index, action] = False
        else:
            quantity = order_quantity(account, rules, market, schedule, action)
            masks[index, action] = blocked(account, rules, market, quantity) == FREE


@njit(cache=True)
def reason_of(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """Why an action is masked at this bar: a code of REASONS, 0 where it is legal."""
    if action == rules.hold:
        return FREE
    own = own_order_reason(account, rules, market)
    if own != FREE:
        return own
    quantity = order_quantity(account, rules, market, schedule, action)
    code = blocked(account, rules, market, quantity)
    return code if code != EMPTY else empty_reason(account, rules, market, schedule, action)


@njit(cache=True)
def place_order(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """Turn a legal action into the waiting order, signed shares; the account's own order goes first."""
    quantity = own_order_quantity(account, rules, market)
    if quantity == 0:
        quantity = order_quantity(account, rules, market, schedule, action)
    account.order = quantity
    if quantity != 0:
        account.orders += 1
        account.day_orders += rules.limited
        account.bar_orders += rules.limited
    return quantity
