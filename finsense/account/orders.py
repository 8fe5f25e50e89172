"""From an action to an order, and from an order to its fill: sizes, affordability, the price of the next open."""

from typing import Any

from numba import njit

from finsense.account.portfolio import fill_charges
from finsense.account.rules import BUY, FRACTION, ORDERS, PPM, RISK, SHARES
from finsense.market.costs import MAX_ORDER_VALUE_PAISE, charges_bound


@njit(cache=True)
def _lacking_paise(account: Any, quantity: int, price_paise: int, charges: int) -> int:
    cash = account.cash_paise - account.reserved_paise - quantity * price_paise - charges
    after = account.position + quantity
    if after < 0 and quantity < 0:
        # Equity after the charges, less the value of the shares owed.
        return -int(cash + 2 * after * price_paise)
    return -int(cash)


@njit(cache=True)
def shortfall_paise(account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int) -> int:
    """How many paise the account lacks for a fill; 0 or less means it can pay.

    Cash may not go below zero, and a short position must be covered in full by the equity at this price.
    """
    charges = fill_charges(account, rules, schedule, day, quantity, price_paise)
    return _lacking_paise(account, quantity, price_paise, charges)


@njit(cache=True)
def affordable_quantity(account: Any, rules: Any, schedule: Any, day: int, quantity: int, price_paise: int) -> int:
    """The order cut down until the account can pay for it; 0 when not even one share is payable."""
    if quantity == 0:
        return 0
    step = 1 if quantity > 0 else -1
    if abs(quantity) * price_paise > MAX_ORDER_VALUE_PAISE:
        quantity = step * (MAX_ORDER_VALUE_PAISE // price_paise)
    # Most orders are payable by far; only a close call needs the charges themselves.
    if _lacking_paise(account, quantity, price_paise, charges_bound(schedule, quantity, price_paise)) <= 0:
        return quantity
    while quantity != 0:
        lacking = shortfall_paise(account, rules, schedule, day, quantity, price_paise)
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
def order_quantity(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """The signed shares that an action orders at this bar's close; 0 when it orders nothing or cannot be paid.

    A purchase must be payable at the close plus the slippage and the price buffer. An order of a fixed number of shares
    is not shrunk to the cash, every other size is.
    """
    if action == rules.hold:
        return 0
    price = market.close_paise
    if rules.scheme == ORDERS:
        size = _order_size(account, rules, price, action != BUY)
        wanted = account.position + (size if action == BUY else -size)
    else:
        # Rounded towards no position on both sides, so that an exposure never exceeds its target.
        target_ppm = rules.targets_ppm[action]
        wanted = max(account.equity_paise, 0) * abs(target_ppm) // PPM // price
        wanted = wanted if target_ppm >= 0 else -wanted
    # A position beyond its limit (left by other rules) is no reason to trade: it may shrink, and never grows.
    lowest, highest = min(rules.min_position, account.position), max(rules.max_position, account.position)
    wanted = min(max(wanted, lowest), highest)
    quantity = wanted - account.position
    buffer_ppm = rules.slippage_ppm + rules.price_buffer_ppm
    worst = price + price * buffer_ppm // PPM + 1 if quantity > 0 else price
    payable = affordable_quantity(account, rules, schedule, market.day, quantity, worst)
    if rules.scheme == ORDERS and rules.size_kind == SHARES and payable != quantity:
        return 0
    return payable


@njit(cache=True)
def square_off_quantity(account: Any, rules: Any, market: Any) -> int:
    """The account's own order: close an intraday position at the square-off time, or one left over night."""
    if rules.intraday == 0 or account.position == 0:
        return 0
    if market.seconds_left <= rules.square_off_s or account.position_day != market.day:
        return -int(account.position)
    return 0


@njit(cache=True)
def fill_of(account: Any, rules: Any, market: Any, schedule: Any) -> tuple[int, int]:
    """How the waiting order fills at this bar: signed shares and price in paise.

    The price is the bar's open, moved against the order by the slippage and rounded against it to the paisa. The shares
    are capped by the bar's volume and by the cash at that price; the rest of the order is cancelled. A bar locked at a
    circuit has nobody on the other side. An exit of an intraday position is never cut for want of cash.
    """
    quantity = account.order
    if quantity == 0 or market.locked * quantity > 0:
        return 0, 0
    if rules.participation_ppm >= 0:
        cap = market.volume * rules.participation_ppm // PPM
        quantity = min(max(quantity, -cap), cap)
    if quantity > 0:
        price = (market.open_paise * (PPM + rules.slippage_ppm) + PPM - 1) // PPM
    else:
        price = max(market.open_paise * (PPM - rules.slippage_ppm) // PPM, 1)
    exits = account.position * quantity < 0 and abs(quantity) <= abs(account.position)
    if not (exits and rules.intraday == 1):
        quantity = affordable_quantity(account, rules, schedule, market.day, quantity, price)
    return quantity, price if quantity != 0 else 0
