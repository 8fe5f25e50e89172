"""What it costs to buy and sell: the account's usual order through the account's own books."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.orders import fill_of, order_quantity
from finsense.account.portfolio import ACCOUNT, apply_fill, open_account
from finsense.account.rules import BUY, AccountRules, TargetActions
from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline

# Beyond the value of any order, so that the cash never cuts one that is to be priced.
_AMPLE_PAISE = 10**15


def round_trips(bars: Bars, bar: NDArray[np.int64], rules: AccountRules, costs: ChargeRules) -> NDArray[np.float64]:
    """Charges and slippage of the account's usual order, bought and sold again at the open of some bars.

    The order is what a fresh account orders at that price: its BUY, or its largest target. Where the balance does not
    pay for it, a fixed number of shares counts all the same, and any other size as one share. Both fills are at the
    same open, moved against the order by the slippage, and pay the charges of that date; a delivery sale pays the
    depository charge, as if it were the first of the day. Volume and circuits do not count.

    Args:
        bars: of one symbol.
        bar: (n,) int64, rows of the bars.
        rules: of the account.
        costs: its charges.

    Returns:
        Array (n,) float64, fraction of the order's value at the open.

    Raises:
        CostError: no charge schedule is known for a date.
        ValueError: an intraday account on daily bars.
    """
    record = rules.record(bars.interval)
    record["participation_ppm"] = -1
    action = BUY
    if isinstance(rules.actions, TargetActions):
        action = int(np.argmax(np.abs(rules.actions.targets)))
    markets = timeline(bars, instrument(bars.symbol, derivatives=bars.derivatives), costs).market[bar]
    # The order is sized at a close and filled at an open; here both are the open.
    markets["close_paise"], markets["locked"] = markets["open_paise"], 0
    fractions = np.empty(len(bar))
    _write_round_trips(np.zeros(1, ACCOUNT), record, markets, costs.schedules(), action, fractions)
    return fractions


@njit(cache=True)
def _write_round_trips(
    accounts: Any, rules: Any, markets: Any, schedules: Any, action: int, fractions: NDArray[np.float64]
) -> None:
    account = accounts[0]
    for place in range(len(fractions)):
        market = markets[place]
        schedule = schedules[market.schedule]
        open_account(account, rules[0])
        quantity = order_quantity(account, rules[0], market, schedule, action)
        account.cash_paise = _AMPLE_PAISE
        if quantity == 0:
            quantity = max(order_quantity(account, rules[0], market, schedule, action), 1)
        for order in (quantity, -quantity):
            account.order = order
            filled, price_paise = fill_of(account, rules[0], market, schedule)
            apply_fill(account, rules[0], schedule, market.day, filled, price_paise)
        fractions[place] = (_AMPLE_PAISE - account.cash_paise) / (abs(quantity) * market.open_paise)
