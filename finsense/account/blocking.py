"""Which orders the limits let out: one answer for the mask, for the order and for the journal."""

from typing import Any

from numba import njit

from finsense.account.reasons import (
    AFTER_SQUARE_OFF,
    CASH_BUFFER,
    EMPTY,
    ENTRY_CUTOFF,
    FREE,
    GROSS_EXPOSURE,
    LOCKED,
    NEAR_CLOSE,
    NET_EXPOSURE,
    NO_VOLUME,
    ORDER_QUANTITY,
    ORDER_VALUE,
    ORDERS_PER_BAR,
    ORDERS_PER_DAY,
    POSITION_SIZE,
    POSITION_TOO_SMALL,
    POSITIONS,
)
from finsense.account.rules_record import PPM

_NO_LIMIT = 2**62


@njit(cache=True)
def lacking_paise(account: Any, quantity: int, price_paise: int, charges: int) -> int:
    """Cash that a fill of this order would lack, paise; 0 or less where it can be paid.

    A short position must be covered in full by the equity at this price.
    """
    cash = account.cash_paise - account.reserved_paise - quantity * price_paise - charges
    after = account.position + quantity
    if after < 0 and quantity < 0:
        # Equity after the charges, less the value of the shares owed.
        return -int(cash + 2 * after * price_paise)
    return -int(cash)


@njit(cache=True)
def worst_price_paise(rules: Any, market: Any, quantity: int) -> int:
    """The price at which an order must be payable at the decision: a purchase at the close and its buffer."""
    price = market.close_paise
    if quantity <= 0:
        return int(price)
    return int(price + price * (rules.slippage_ppm + rules.price_buffer_ppm) // PPM + 1)


@njit(cache=True)
def opens(account: Any, quantity: int) -> bool:
    """Whether an order opens a position, adds to it or turns it around."""
    return bool(account.position * quantity >= 0 or abs(quantity) > abs(account.position))


@njit(cache=True)
def held_back_paise(account: Any, rules: Any) -> int:
    """Cash that no opening order may spend."""
    return int(max(account.equity_paise, 0) * max(rules.cash_buffer_ppm, 0) // PPM)


@njit(cache=True)
def most_shares(account: Any, rules: Any, market: Any, quantity: int) -> int:
    """The most shares, without sign, that the limits of size let an order on the side of `quantity` have."""
    price, equity = market.close_paise, max(account.equity_paise, 0)
    side = 1 if quantity > 0 else -1
    value = _NO_LIMIT
    if rules.max_position_ppm >= 0:
        value = equity * rules.max_position_ppm // PPM
    if rules.max_gross_ppm >= 0:
        value = min(value, equity * rules.max_gross_ppm // PPM - account.others_gross_paise)
    if rules.max_net_ppm >= 0:
        value = min(value, equity * rules.max_net_ppm // PPM - side * account.others_paise)
    shares = value // price - side * account.position
    if rules.max_order_paise >= 0:
        shares = min(shares, rules.max_order_paise // price)
    if rules.max_order_shares >= 0:
        shares = min(shares, rules.max_order_shares)
    return int(shares)


@njit(cache=True)
def _oversized(account: Any, rules: Any, market: Any, quantity: int) -> int:
    """Which limit of size an opening order breaks: a code of REASONS."""
    price, equity = market.close_paise, max(account.equity_paise, 0)
    shares, side = abs(quantity), 1 if quantity > 0 else -1
    value = abs(account.position + quantity) * price
    if rules.max_order_shares >= 0 and shares > rules.max_order_shares:
        return ORDER_QUANTITY
    if rules.max_order_paise >= 0 and shares * price > rules.max_order_paise:
        return ORDER_VALUE
    if rules.max_position_ppm >= 0 and value > equity * rules.max_position_ppm // PPM:
        return POSITION_SIZE
    if rules.min_position_ppm >= 0 and value < (equity * rules.min_position_ppm + PPM - 1) // PPM:
        return POSITION_TOO_SMALL
    if rules.max_gross_ppm >= 0 and value + account.others_gross_paise > equity * rules.max_gross_ppm // PPM:
        return GROSS_EXPOSURE
    if rules.max_net_ppm >= 0 and value + side * account.others_paise > equity * rules.max_net_ppm // PPM:
        return NET_EXPOSURE
    if rules.cash_buffer_ppm >= 0:
        worst = worst_price_paise(rules, market, quantity)
        if lacking_paise(account, quantity, worst, 0) + held_back_paise(account, rules) > 0:
            return CASH_BUFFER
    return FREE


@njit(cache=True)
def entry_block(account: Any, rules: Any, market: Any, quantity: int) -> int:
    """Which limit forbids an order that opens: a code of REASONS."""
    if account.halted != FREE:
        return int(account.halted)
    if account.unsettled != FREE:
        return int(account.unsettled)
    if market.seconds_left <= rules.near_close_s:
        return NEAR_CLOSE
    if rules.day_orders >= 0 and account.day_orders >= rules.day_orders:
        return ORDERS_PER_DAY
    if rules.bar_orders >= 0 and account.bar_orders >= rules.bar_orders:
        return ORDERS_PER_BAR
    if rules.max_positions >= 0 and account.position == 0 and account.others_open >= rules.max_positions:
        return POSITIONS
    return _oversized(account, rules, market, quantity)


@njit(cache=True)
def blocked(account: Any, rules: Any, market: Any, quantity: int) -> int:
    """Why an order cannot leave at this bar's close: a code of REASONS, 0 for free.

    Limits are asked for orders that open; one that only reduces is stopped by the market and its hours alone.

    Args:
        account: one ACCOUNT record, marked at this bar.
        rules: one RULES record.
        market: the bar's MARKET record.
        quantity: signed shares.
    """
    if quantity == 0:
        return EMPTY
    if market.locked * quantity > 0:
        return LOCKED
    if rules.participation_ppm >= 0 and market.volume == 0:
        return NO_VOLUME
    if rules.intraday != 0:
        if market.seconds_left <= rules.square_off_s:
            return AFTER_SQUARE_OFF
        if market.seconds_left <= rules.entry_cutoff_s and opens(account, quantity):
            return ENTRY_CUTOFF
    if rules.limited != 0 and opens(account, quantity):
        return entry_block(account, rules, market, quantity)
    return FREE
