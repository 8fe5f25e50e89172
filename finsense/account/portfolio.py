"""The books of an account in integer paise: the only code that changes cash and position."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.reasons import DRAWDOWN, FREE
from finsense.account.stops import set_entry_stop
from finsense.market.costs import order_charges

# Small counts take half the room: the less memory the accounts need, the faster the environments step through them.
ACCOUNT = np.dtype(
    [
        ("cash_paise", np.int64),
        ("position", np.int64),  # shares, negative when short
        ("cost_paise", np.int64),  # what the open position cost at its fill prices, signed like the position
        ("equity_paise", np.int64),  # at the last mark
        ("close_paise", np.int64),  # the price of that mark
        ("peak_paise", np.int64),  # highest equity so far, the balance included
        ("order", np.int64),  # signed shares waiting for the next bar's open
        ("fill_quantity", np.int64),  # of the last settlement; 0 when nothing filled
        ("fill_price_paise", np.int64),
        ("fill_charges_paise", np.int64),
        ("charges_paise", np.int64),  # all charges so far
        ("brought_paise", np.int64),  # cash that its fills brought so far, after charges; negative for what they took
        # What the other symbols of the same account mean to this one; zeros where it trades one symbol alone.
        # cash that is not this one's to spend: promised to their waiting orders, and twice what they owe short
        ("reserved_paise", np.int64),
        ("others_paise", np.int64),  # value of their positions at the last marks, negative when short
        ("others_gross_paise", np.int64),  # the same without signs, and of their waiting orders that open
        ("others_open", np.int64),  # how many of them have a position, or an order that opens one
        ("bars_held", np.int32),  # marks since the position was opened
        ("position_day", np.int32),  # day of the last fill
        ("dp_day", np.int32),  # day of the last depository charge
        ("orders", np.int32),  # how many so far
        ("fills", np.int32),  # how many so far, those of stops included
        # What the limits and the exits remember; zeros where there are none.
        ("day", np.int32),  # of the last bar or fill
        ("day_orders", np.int32),  # orders of that day
        ("bar_orders", np.int32),  # orders since the last mark
        ("losses", np.int32),  # round trips of that day that lost, one after the other, to the last one
        ("halted", np.int32),  # why nothing may be opened: a code of REASONS, 0 for free
        ("unsettled", np.int32),  # why nothing may be opened at this bar: the same, for this symbol alone
        ("range_bars", np.int32),  # how many true ranges are in the sum, at most as many as the limit asks for
        ("range_paise", np.int64),  # their sum, as Wilder smooths it
        ("day_equity_paise", np.int64),  # equity before the day's first bar
        ("trip_paise", np.int64),  # what the open round trip has brought in cash so far, charges taken off
        # trigger of the protective stop, 0 for none; negative once it was hit and could not fill in full
        ("stop_paise", np.int64),
        ("stop_fill_quantity", np.int64),  # of the last settlement, beside the order's own fill; 0 where none filled
        ("stop_fill_price_paise", np.int64),
        ("stop_fill_charges_paise", np.int64),
    ]
)

# What all symbols of one account have in common: equal in each one's record, whatever they trade.
SHARED = (
    "cash_paise",
    "equity_paise",
    "peak_paise",
    "day",
    "day_equity_paise",
    "day_orders",
    "bar_orders",
    "losses",
    "halted",
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
    account.brought_paise = 0
    account.orders = 0
    account.fills = 0
    account.reserved_paise = 0
    account.others_paise = 0
    account.others_gross_paise = 0
    account.others_open = 0
    account.day = _NEVER
    account.day_equity_paise = rules.balance_paise
    account.day_orders = 0
    account.bar_orders = 0
    account.losses = 0
    account.halted = FREE
    account.unsettled = FREE
    account.trip_paise = 0
    account.range_paise = 0
    account.range_bars = 0
    account.stop_paise = 0
    account.stop_fill_quantity = 0
    account.stop_fill_price_paise = 0
    account.stop_fill_charges_paise = 0


@njit(cache=True)
def begin_day(account: Any, day: int) -> None:
    """On the first bar or fill of a day: count its orders and losses anew, from the equity of the last mark."""
    if account.day == day:
        return
    account.day = day
    account.day_equity_paise = account.equity_paise
    account.day_orders = 0
    account.losses = 0
    if account.halted < DRAWDOWN:
        account.halted = FREE


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
def _follow_trip(account: Any, rules: Any, before: int, quantity: int, price_paise: int, charges: int) -> None:
    """Add a fill to the open round trip and count whether it lost, when it ends there; `before`: shares before it."""
    side, shares = (1, quantity) if quantity > 0 else (-1, -quantity)
    closing = min(shares, abs(before)) if before * quantity < 0 else 0
    closing_charges = charges * closing // shares
    account.trip_paise -= side * closing * price_paise + closing_charges
    if closing != 0 and closing == abs(before):
        if account.trip_paise < 0:
            account.losses += 1
        elif account.losses < rules.losses:
            account.losses = 0
        account.trip_paise = 0
    account.trip_paise -= side * (shares - closing) * price_paise + charges - closing_charges


@njit(cache=True)
def _book(
    account: Any,
    rules: Any,
    schedule: Any,
    day: int,
    quantity: int,
    price_paise: int,
    before_paise: int,
    tick_paise: int,
) -> int:
    """Move cash, position and cost by a fill that is not empty; returns its charges."""
    if rules.limited != 0:
        begin_day(account, day)
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
    account.brought_paise -= quantity * price_paise + charges
    account.position = after
    account.position_day = day
    account.charges_paise += charges
    account.fills += 1
    if rules.losses > 0:
        _follow_trip(account, rules, before, quantity, price_paise, charges)
    if rules.exit_stop_ppm > 0:
        set_entry_stop(account, rules, before, price_paise, tick_paise)
    return charges


@njit(cache=True)
def apply_fill(
    account: Any,
    rules: Any,
    schedule: Any,
    day: int,
    quantity: int,
    price_paise: int,
    before_paise: int = 0,
    tick_paise: int = 1,
) -> None:
    """Settle one fill of an order: cash, position, cost and charges. A fill of 0 shares only clears the order.

    Arguments as those of `fill_charges`; `tick_paise` is the price step at which a protective stop can rest.
    """
    account.order = 0
    account.fill_quantity = quantity
    account.fill_price_paise = 0
    account.fill_charges_paise = 0
    if rules.exits != 0:
        account.stop_fill_quantity = 0
        account.stop_fill_price_paise = 0
        account.stop_fill_charges_paise = 0
    if quantity == 0:
        return
    account.fill_charges_paise = _book(account, rules, schedule, day, quantity, price_paise, before_paise, tick_paise)
    account.fill_price_paise = price_paise


@njit(cache=True)
def apply_stop_fill(
    account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int, before_paise: int = 0
) -> None:
    """Settle a fill of the protective stop, after the order's own fill; arguments as those of `fill_charges`.

    A stop that leaves shares was hit all the same: the rest of it goes at the next open.
    """
    if quantity == 0:
        return
    stop_paise = account.stop_paise
    account.stop_fill_quantity += quantity
    account.stop_fill_price_paise = price_paise
    account.stop_fill_charges_paise += _book(account, rules, schedule, day, quantity, price_paise, before_paise, 1)
    if account.position * quantity < 0:
        account.stop_paise = -abs(stop_paise)


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
