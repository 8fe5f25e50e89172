"""The books of an account in integer paise: the only code that changes cash and position."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.market.costs import order_charges

ACCOUNT = np.dtype(
    [
        ("cash_paise", np.int64),
        ("position", np.int64),  # shares, negative when short
        ("cost_paise", np.int64),  # what the open position cost at its fill prices, signed like the position
        ("equity_paise", np.int64),  # at the last mark
        ("close_paise", np.int64),  # the price of that mark
        ("peak_paise", np.int64),  # highest equity so far, the balance included
        ("bars_held", np.int64),  # marks since the position was opened
        ("position_day", np.int64),  # day of the last fill
        ("dp_day", np.int64),  # day of the last depository charge
        ("order", np.int64),  # signed shares waiting for the next bar's open
        ("fill_quantity", np.int64),  # of the last settlement; 0 when nothing filled
        ("fill_price_paise", np.int64),
        ("fill_charges_paise", np.int64),
        ("charges_paise", np.int64),  # all charges so far
        ("orders", np.int64),  # how many so far
        ("fills", np.int64),
        # What the other symbols of the same account mean to this one; zeros where it trades one symbol alone.
        # cash that is not this one's to spend: promised to their waiting orders, and twice what they owe short
        ("reserved_paise", np.int64),
        ("others_paise", np.int64),  # value of their positions at the last marks, negative when short
        ("others_gross_paise", np.int64),  # the same without signs
        ("others_open", np.int64),  # how many of them have a position, or an order that opens one
    ]
)

ACCOUNT_FEATURES = ("position", "cash", "unrealised_return", "holding_time", "drawdown")
# Bars after which the holding time reads one half: one session of 5-minute bars.
_HOLDING_HALF = 75.0
_NEVER = -1


@njit(cache=True)
def open_account(account: Any, rules: Any) -> None:
    """Start with the balance and nothing else."""
    account.cash_paise = rules.balance_paise
    account.position = 0
    account.cost_paise = 0
    account.equity_paise = rules.balance_paise
    account.close_paise = 0
    account.peak_paise = rules.balance_paise
    account.bars_held = 0
    account.position_day = _NEVER
    account.dp_day = _NEVER
    account.order = 0
    account.fill_quantity = 0
    account.fill_price_paise = 0
    account.fill_charges_paise = 0
    account.charges_paise = 0
    account.orders = 0
    account.fills = 0
    account.reserved_paise = 0
    account.others_paise = 0
    account.others_gross_paise = 0
    account.others_open = 0


@njit(cache=True)
def fill_charges(
    account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int, before_paise: int = 0
) -> int:
    """Charges of one fill in paise; the depository charge comes with the day's first delivery sale.

    Args:
        account: one ACCOUNT record.
        rules: one RULES record.
        schedule: one SCHEDULE record.
        day: IST day number.
        quantity: signed shares.
        price_paise: of one share.
        before_paise: value of what the same order filled before; brokerage is due once for the whole of it.
    """
    charges = order_charges(schedule, rules.intraday, quantity, price_paise)
    if before_paise != 0:
        side = 1 if quantity > 0 else -1
        whole = before_paise + abs(quantity) * price_paise
        charges = order_charges(schedule, rules.intraday, side, whole)
        charges -= order_charges(schedule, rules.intraday, side, before_paise)
    if quantity < 0 and rules.intraday == 0 and account.dp_day != day:
        charges += schedule.dp_paise
    return int(charges)


@njit(cache=True)
def apply_fill(
    account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int, before_paise: int = 0
) -> None:
    """Settle one fill: cash, position, cost and charges. A fill of 0 shares only clears the order.

    Arguments as those of `fill_charges`.
    """
    account.order = 0
    account.fill_quantity = quantity
    account.fill_price_paise = 0
    account.fill_charges_paise = 0
    if quantity == 0:
        return
    charges = fill_charges(account, rules, schedule, day, quantity, price_paise, before_paise)
    if quantity < 0 and rules.intraday == 0:
        account.dp_day = day
    before = account.position
    after = before + quantity
    if before == 0 or (before > 0) == (quantity > 0):
        account.cost_paise += quantity * price_paise
    elif (after > 0) == (before > 0) and after != 0:
        # The part that stays keeps its average cost; rounding falls on the part that goes.
        # floor(cost x after / before), without a product that could leave int64
        average, rest = account.cost_paise // before, account.cost_paise % before
        account.cost_paise = average * after + rest * after // before
    else:
        account.cost_paise = after * price_paise
        account.bars_held = 0
    account.cash_paise -= quantity * price_paise + charges
    account.position = after
    account.position_day = day
    account.charges_paise += charges
    account.fills += 1
    account.fill_price_paise = price_paise
    account.fill_charges_paise = charges


@njit(cache=True)
def mark(account: Any, close_paise: int) -> None:
    """Value the account at a bar's close; what its other symbols are worth is in `others_paise` already."""
    account.close_paise = close_paise
    account.equity_paise = account.cash_paise + account.position * close_paise + account.others_paise
    if account.equity_paise > account.peak_paise:
        account.peak_paise = account.equity_paise
    account.bars_held = account.bars_held + 1 if account.position != 0 else 0


@njit(cache=True)
def write_account_features(account: Any, close_paise: int, states: NDArray[np.float32], index: int, first: int) -> None:
    """Write the account's part of row `index` of the states, (N, F) float32, from column `first` on.

    In the order of ACCOUNT_FEATURES: value of the shares over the equity (negative when short); cash over the equity;
    gain of the open position over its cost, before charges; bars held / (bars held + 75); 1 - equity / peak.
    """
    per_equity = 1.0 / float(max(account.equity_paise, 1))
    value = account.position * close_paise
    cost = account.cost_paise
    states[index, first] = value * per_equity
    states[index, first + 1] = account.cash_paise * per_equity
    states[index, first + 2] = (value - cost) / float(abs(cost)) if cost != 0 else 0.0
    states[index, first + 3] = account.bars_held / (account.bars_held + _HOLDING_HALF)
    states[index, first + 4] = 1.0 - account.equity_paise / float(account.peak_paise)
