"""Which actions the account may choose: the same answer in training, in the exported graph and live."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.orders import order_quantity, square_off_quantity


@njit(cache=True)
def _permitted(account: Any, rules: Any, market: Any, quantity: int) -> bool:
    """Whether the market and the session's clock let this order out."""
    if quantity == 0 or market.locked * quantity > 0:
        return False
    if rules.participation_ppm >= 0 and market.volume == 0:
        return False
    if rules.intraday == 0:
        return True
    if market.seconds_left <= rules.square_off_s:
        return False
    adds = account.position * quantity >= 0 or abs(quantity) > abs(account.position)
    return not (adds and market.seconds_left <= rules.entry_cutoff_s)


@njit(cache=True)
def write_legal_actions(
    account: Any, rules: Any, market: Any, schedule: Any, masks: NDArray[np.bool_], index: int
) -> None:
    """Write row `index` of the masks, (N, A) bool: an action is legal when the order it stands for can be given now.

    Holding is always legal. While the account squares off by itself nothing else is.
    """
    squares_off = square_off_quantity(account, rules, market) != 0
    for action in range(rules.actions):
        if action == rules.hold:
            masks[index, action] = True
        elif squares_off:
            masks[index, action] = False
        else:
            quantity = order_quantity(account, rules, market, schedule, action)
            masks[index, action] = _permitted(account, rules, market, quantity)


@njit(cache=True)
def place_order(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """Turn a legal action into the waiting order, signed shares; the account's own square-off goes first."""
    quantity = square_off_quantity(account, rules, market)
    if quantity == 0:
        quantity = order_quantity(account, rules, market, schedule, action)
    account.order = quantity
    if quantity != 0:
        account.orders += 1
    return quantity
