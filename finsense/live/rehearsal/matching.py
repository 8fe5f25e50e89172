"""Who of a rehearsal's orders gets what when others trade: price first, then time, the street's own shares included."""

from collections.abc import Iterable

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import BookedOrder
from finsense.live.rehearsal.street import Street

# Where market_protection is -1, the exchange's own percentage; the vendor does not publish it, 5 % is ours.
_OWN_PROTECTION = 5.0


def worst_price(request: OrderRequest, street: Street) -> int:
    """The worst price that an order accepts, paise: its limit, or the last price and its protection."""
    if request.price_paise is not None:
        return request.price_paise
    protection = request.market_protection or 0.0
    reach = (_OWN_PROTECTION if protection < 0 else protection) / 100.0
    last, tick = street.known_paise, street.listing.tick_paise
    lowest, highest = street.limits_paise
    if request.side == "BUY":
        return min(int(last * (1.0 + reach)) // tick * tick, highest)
    return max(-(-int(last * (1.0 - reach)) // tick) * tick, lowest)


def accepts(order: BookedOrder, price_paise: int) -> bool:
    """Whether an order would trade at a price."""
    if order.request.side == "BUY":
        return price_paise <= order.limit_paise
    return price_paise >= order.limit_paise


def trigger_reached(request: OrderRequest, price_paise: int) -> bool:
    """Whether a stop order's trigger was reached by a trade."""
    assert request.trigger_paise is not None
    return price_paise >= request.trigger_paise if request.side == "BUY" else price_paise <= request.trigger_paise


def by_priority(orders: Iterable[BookedOrder]) -> list[BookedOrder]:
    """Orders in arrival's order as the exchange serves them: the better price first, then the earlier."""
    return sorted(orders, key=lambda one: -one.limit_paise if one.request.side == "BUY" else one.limit_paise)


def shares_met(resting: Iterable[BookedOrder], price_paise: int, traded: int) -> list[tuple[BookedOrder, int]]:
    """What resting orders, in their priority, get of the shares that others traded at a price.

    At their own price they stand behind the street's shares that were there before them, which are served now.

    Returns:
        Each order that gets some, with its shares.
    """
    street_served, met = 0, []
    at_price = []
    for order in resting:
        if not accepts(order, price_paise):
            continue
        if order.limit_paise == price_paise:
            at_price.append(order)
            before = min(max(order.ahead - street_served, 0), traded)
            street_served += before
            traded -= before
        shares = min(order.fillable, traded)
        if shares:
            traded -= shares
            met.append((order, shares))
    for order in at_price:
        order.ahead = max(order.ahead - street_served, 0)
    return met
