"""What each symbol of an account claims of its cash and its places, and what belongs to all of them."""

from typing import Any

import numpy as np
from numba import literal_unroll, njit
from numpy.typing import NDArray

from finsense.account.blocking import worst_price_paise
from finsense.account.portfolio import SHARED, fill_charges

# What one symbol claims of the account; after those of all symbols stands their sum.
CLAIM = np.dtype(
    [
        # cash that nobody else may spend: of its waiting order at the worst price, or twice what it owes short
        ("tied_paise", np.int64),
        ("gross_paise", np.int64),  # value of its position, or of the larger one that its waiting order leads to
        ("open", np.int64),  # 1 with a position or a waiting order
        ("value_paise", np.int64),  # of its position, negative when short
        ("close_paise", np.int64),  # of its last bar; 0 in the sum
        ("day", np.int64),  # of its last bar; 0 in the sum
        ("tick_paise", np.int64),  # of its last bar; 0 in the sum
    ]
)


@njit(cache=True)
def write_claim(claim: Any, account: Any, rules: Any, market: Any, schedule: Any) -> None:
    """Write what a symbol claims at its last bar, with the order that waits."""
    quantity, price = account.order, market.close_paise
    after = account.position + quantity
    claim.close_paise = price
    claim.day = market.day
    claim.tick_paise = market.tick_paise
    claim.tied_paise = 2 * max(-account.position, 0) * price
    claim.gross_paise = max(abs(account.position), abs(after)) * price
    claim.open = 1 if account.position != 0 or quantity != 0 else 0
    claim.value_paise = account.position * price
    if quantity == 0:
        return
    price = worst_price_paise(rules, market, quantity)
    charges = fill_charges(account, rules, schedule, market.day, quantity, price)
    claim.tied_paise = max(claim.tied_paise, 2 * max(-after, 0) * price + quantity * price + charges)


@njit(cache=True)
def claim_all(accounts: Any, claims: Any, rules: Any, markets: Any, bars: NDArray[np.int64], schedules: Any) -> None:
    """Write the claims of every symbol, and their sum; arguments as in `close_moment`."""
    purse = claims[len(accounts)]
    purse.tied_paise = 0
    purse.gross_paise = 0
    purse.open = 0
    purse.value_paise = 0
    for index in range(len(accounts)):
        if bars[index] < 0:
            continue
        account, claim, market = accounts[index], claims[index], markets[bars[index]]
        write_claim(claim, account, rules[0], market, schedules[market.schedule])
        purse.tied_paise += claim.tied_paise
        purse.gross_paise += claim.gross_paise
        purse.open += claim.open
        purse.value_paise += claim.value_paise


@njit(cache=True)
def tell_claims(account: Any, claim: Any, purse: Any) -> None:
    """Tell a symbol's account what the others claim."""
    account.reserved_paise = purse.tied_paise - claim.tied_paise
    account.others_gross_paise = purse.gross_paise - claim.gross_paise
    account.others_open = purse.open - claim.open


@njit(cache=True)
def share_fields(source: Any, target: Any) -> None:
    """Give one symbol's account what another one's knows of the purse."""
    for name in literal_unroll(SHARED):
        target[name] = source[name]


@njit(cache=True)
def share(accounts: Any, index: int) -> None:
    """Give what one account knows of the purse to all the others."""
    for other in range(len(accounts)):
        if other != index:
            share_fields(accounts[index], accounts[other])
