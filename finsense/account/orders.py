"""From an action to an order, and from an order to its fill: sizes, affordability, the price of the next open."""

from typing import Any

from numba import njit

from finsense.account.blocking import (
    entry_block,
    held_back_paise,
    lacking_paise,
    most_shares,
    opens,
    worst_price_paise,
)
from finsense.account.portfolio import fill_charges
from finsense.account.reasons import CASH, CASH_BUFFER, EMPTY, FLATTEN, FREE, SQUARE_OFF, TAKE_PROFIT, TIME_EXIT
from finsense.account.rules import BUY, FRACTION, ORDERS, PPM, RISK, SHARES
from finsense.market.costs import MAX_ORDER_VALUE_PAISE, charges_bound


@njit(cache=True)
def shortfall_paise(account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int) -> int:
    """How many paise the account lacks for a fill; 0 or less means it can pay.

    Cash may not go below zero, and a short position must be covered in full by the equity at this price.
    """
    charges = fill_charges(account, rules, schedule, day, quantity, price_paise)
    return lacking_paise(account, quantity, price_paise, charges)


@njit(cache=True)
def affordable_quantity(
    account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int, held_back: int = 0
) -> int:
    """The order cut down until the account can pay for it and keep `held_back` paise; 0 when no share is payable."""
    if quantity == 0:
        return 0
    step = 1 if quantity > 0 else -1
    if abs(quantity) * price_paise > MAX_ORDER_VALUE_PAISE:
        quantity = step * (MAX_ORDER_VALUE_PAISE // price_paise)
    # Most orders are payable by far; only a close call needs the charges themselves.
    if lacking_paise(account, quantity, price_paise, charges_bound(schedule, quantity, price_paise)) <= -held_back:
        return quantity
    while quantity != 0:
        lacking = shortfall_paise(account, rules, schedule, day, quantity, price_paise) + held_back
        if lacking <= 0:
            return quantity
        # A share less frees its price and its charges, which are below two prices: a third never overshoots.
        quantity -= step * min(max(1, lacking // (3 * price_paise)), abs(quantity))
    return 0


@njit(cache=True)
def _order_size(account: Any, rules: Any, price_paise: int, selling: bool) -> int:
    """Shares of one order before limits, never negative."""
    if rules.size_kind == SHARES:
        return int(rules.size_shares)
    equity = max(account.equity_paise, 0)
    if rules.size_kind == FRACTION:
        return int(equity * rules.size_ppm // PPM // price_paise)
    if rules.size_kind == RISK:
        # account x risk / (entry - stop), with the stop a fraction of the entry away
        stop_distance_paise = max(price_paise * rules.stop_ppm // PPM, 1)
        return int(equity * rules.size_ppm // PPM // stop_distance_paise)
    closing = account.position if selling else -account.position
    return int(closing if closing > 0 else equity // price_paise)


@njit(cache=True)
def _wanted_position(account: Any, rules: Any, price_paise: int, action: int) -> int:
    """The signed shares that an action other than holding aims at."""
    if rules.scheme == ORDERS:
        size = _order_size(account, rules, price_paise, action != BUY)
        wanted = account.position + (size if action == BUY else -size)
    else:
        # Rounded towards no position on both sides, so that an exposure never exceeds its target.
        target_ppm = rules.targets_ppm[action]
        wanted = max(account.equity_paise, 0) * abs(target_ppm) // PPM // price_paise
        wanted = wanted if target_ppm >= 0 else -wanted
    # A position beyond its limit (left by other rules) is no reason to trade: it may shrink, and never grows.
    lowest, highest = min(rules.min_position, account.position), max(rules.max_position, account.position)
    return int(min(max(wanted, lowest), highest))


@njit(cache=True)
def _payable_quantity(account: Any, rules: Any, market: Any, schedule: Any, quantity: int, held_back: int) -> int:
    """What of an order can be paid at the worst price; a fixed number of shares is not shrunk to the cash."""
    worst = worst_price_paise(rules, market, quantity)
    payable = affordable_quantity(account, rules, schedule, market.day, quantity, worst, held_back)
    if rules.scheme == ORDERS and rules.size_kind == SHARES and payable != quantity:
        return 0
    return payable


@njit(cache=True)
def _limited_quantity(account: Any, rules: Any, market: Any, schedule: Any, quantity: int) -> int:
    """An order that opens, cut to the limits; what a limit forbids altogether is left whole, for `blocked` to name.

    A fixed number of shares is not cut. An order that would turn the position but may not open anew only closes it, for
    no limit is in the way of an exit.
    """
    side = 1 if quantity > 0 else -1
    closing = max(-side * account.position, 0)
    whole = quantity
    if rules.scheme != ORDERS or rules.size_kind != SHARES:
        most = most_shares(account, rules, market, quantity)
        if closing < most < abs(quantity):
            whole = side * most
    payable = _payable_quantity(account, rules, market, schedule, whole, held_back_paise(account, rules))
    if closing != 0 and (abs(payable) <= closing or entry_block(account, rules, market, payable) != FREE):
        return _payable_quantity(account, rules, market, schedule, side * closing, 0)
    return payable


@njit(cache=True)
def order_quantity(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """The signed shares that an action orders at this bar's close; 0 when it orders nothing or cannot be paid.

    A purchase must be payable at the close plus the slippage and the price buffer. An order of a fixed number of shares
    is not shrunk to the cash or to a limit, every other size is.
    """
    if action == rules.hold:
        return 0
    quantity = _wanted_position(account, rules, market.close_paise, action) - account.position
    if rules.limited != 0 and opens(account, quantity):
        return _limited_quantity(account, rules, market, schedule, quantity)
    return _payable_quantity(account, rules, market, schedule, quantity, 0)


@njit(cache=True)
def empty_reason(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """Why `order_quantity` is 0: a code of REASONS."""
    quantity = _wanted_position(account, rules, market.close_paise, action) - account.position
    if quantity == 0:
        return EMPTY
    opening = rules.limited != 0 and opens(account, quantity)
    return CASH_BUFFER if opening and _payable_quantity(account, rules, market, schedule, quantity, 0) != 0 else CASH


@njit(cache=True)
def _exit_reason(account: Any, rules: Any, market: Any) -> int:
    if rules.exit_profit_ppm >= 0:
        cost = account.cost_paise
        if account.position * market.close_paise - cost >= abs(cost) * rules.exit_profit_ppm // PPM:
            return TAKE_PROFIT
    if rules.exit_bars >= 0 and account.bars_held >= rules.exit_bars:
        return TIME_EXIT
    return FREE


@njit(cache=True)
def own_order_reason(account: Any, rules: Any, market: Any) -> int:
    """Why the account closes its position by itself at the next open: a code of REASONS, 0 when it does not.

    An intraday position at the square-off time or left over night, a halt that flattens, an exit.
    """
    if account.position == 0:
        return FREE
    if rules.intraday != 0 and (market.seconds_left <= rules.square_off_s or account.position_day != market.day):
        return SQUARE_OFF
    if rules.limited != 0 and account.halted >= rules.flatten_from:
        return FLATTEN
    return _exit_reason(account, rules, market) if rules.exits != 0 else FREE


@njit(cache=True)
def own_order_quantity(account: Any, rules: Any, market: Any) -> int:
    """The account's own order, signed shares: its whole position when there is a reason to close it, else 0."""
    return 0 if own_order_reason(account, rules, market) == FREE else -int(account.position)


@njit(cache=True)
def _fill_at(
    account: Any, rules: Any, market: Any, schedule: Any, quantity: int, reference_paise: int, taken: int
) -> tuple[int, int]:
    """How an order fills at a price: moved against it by the slippage, rounded against it to the paisa.

    The shares are capped by the bar's volume, less those `taken` of it, and by the cash at that price. A bar locked at
    a circuit has nobody on the other side. An exit of an intraday position is never cut for want of cash.
    """
    if quantity == 0 or market.locked * quantity > 0:
        return 0, 0
    if rules.participation_ppm >= 0:
        cap = market.volume * rules.participation_ppm // PPM - taken
        quantity = min(max(quantity, -cap), cap)
    if quantity > 0:
        price = (reference_paise * (PPM + rules.slippage_ppm) + PPM - 1) // PPM
    else:
        price = max(reference_paise * (PPM - rules.slippage_ppm) // PPM, 1)
    exits = account.position * quantity < 0 and abs(quantity) <= abs(account.position)
    if not (exits and rules.intraday == 1):
        quantity = affordable_quantity(account, rules, schedule, market.day, quantity, price)
    return quantity, price if quantity != 0 else 0


@njit(cache=True)
def fill_of(account: Any, rules: Any, market: Any, schedule: Any) -> tuple[int, int]:
    """How the waiting order fills at this bar's open: signed shares and price in paise; its rest is cancelled."""
    return _fill_at(account, rules, market, schedule, account.order, market.open_paise, 0)


@njit(cache=True)
def stop_fill_of(account: Any, rules: Any, market: Any, schedule: Any) -> tuple[int, int]:
    """How the protective stop fills inside this bar, after the order at its open: signed shares and price in paise.

    It is hit when the bar's range reaches the trigger, and fills there, or at the open where the bar began beyond it.
    A stop that was hit before and could not fill in full goes at the open.
    """
    position, stop = account.position, account.stop_paise
    if stop == 0 or position == 0:
        return 0, 0
    reference = market.open_paise
    if stop > 0:
        if (position > 0 and market.low_paise > stop) or (position < 0 and market.high_paise < stop):
            return 0, 0
        reference = min(reference, stop) if position > 0 else max(reference, stop)
    return _fill_at(account, rules, market, schedule, -position, reference, abs(account.fill_quantity))
