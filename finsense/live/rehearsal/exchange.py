"""The matching engine of a rehearsal: orders of one account against the street, by price and time, in whole paise."""

from collections.abc import Callable

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import BookedOrder, Execution, Refused
from finsense.live.rehearsal.hours import Phase
from finsense.live.rehearsal.street import Level, Street

_AT_ONCE = ("MARKET", "LIMIT")
# Where market_protection is -1, the exchange's own percentage; the vendor does not publish it, 5 % is ours.
_OWN_PROTECTION = 5.0
_MOST_MODIFICATIONS = 25


class RehearsalExchange:
    """One account's orders at the exchange, behind the broker's checks.

    Args:
        streets: symbol -> its street.
        balance_paise: cash of the account; a purchase must be paid in full, of MIS too.
        phase: tells the phase of a symbol's day now.
        now_ns: the clock of the rehearsal, ns UTC.
        told: called with every order that changed, as the vendor tells it on the stream.

    Attributes:
        orders: the book, in the order of arrival.
        executions: all fills.
        positions: (symbol, product) -> signed shares of the day.
        holdings: symbol -> shares of earlier days.
        cash_paise: what is left.
        now_ns: the clock.
    """

    def __init__(
        self,
        streets: dict[str, Street],
        balance_paise: int,
        phase: Callable[[str], Phase],
        now_ns: Callable[[], int],
        told: Callable[[BookedOrder], None] = lambda order: None,
    ) -> None:
        self.streets = streets
        self.cash_paise = balance_paise
        self.orders: list[BookedOrder] = []
        self.executions: list[Execution] = []
        self.positions: dict[tuple[str, str], int] = {}
        self.holdings: dict[str, int] = {}
        self.now_ns = now_ns
        self._phase, self._told = phase, told

    def place(self, request: OrderRequest) -> str:
        """Take an order; its name says nothing of whether the exchange keeps it.

        Raises:
            Refused: it is impossible; it is not in the book.
        """
        street = self._street(request.symbol)
        self._check_prices(request, street)
        order = BookedOrder(f"{260000000000000 + len(self.orders) + 1}", request, self.now_ns())
        self.orders.append(order)
        for status in ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING"):
            self._step(order, status, tell=False)
        reason = self._inadmissible(order, street)
        if reason:
            order.reason = reason
            self._step(order, "REJECTED")
            return order.order_id
        self._step(order, "OPEN PENDING", tell=False)
        order.triggered = request.kind in _AT_ONCE
        self._step(order, "OPEN" if order.triggered else "TRIGGER PENDING")
        self._enter(order, street)
        return order.order_id

    def modify(self, order_id: str, request: OrderRequest) -> None:
        """Change what is left of an order; it loses its place in the queue.

        Raises:
            Refused: it is over, was changed too often, or the change is impossible.
        """
        order = self._working(order_id)
        street = self._street(request.symbol)
        if order.changed >= _MOST_MODIFICATIONS:
            raise Refused("NetworkException", "Maximum allowed order modifications exceeded.")
        if request.quantity <= order.filled:
            raise Refused("InputException", f"Quantity cannot be less than the filled {order.filled}.")
        self._check_prices(request, street)
        reason = self._inadmissible(order, street, request)
        if reason:
            raise Refused("OrderException", reason)
        order.changed += 1
        order.request = request
        order.triggered = order.triggered or request.kind in _AT_ONCE
        for status in ("MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED"):
            self._step(order, status, tell=False)
        self._step(order, "OPEN" if order.triggered else "TRIGGER PENDING")
        self._enter(order, street)

    def cancel(self, order_id: str, reason: str = "") -> None:
        """Take an order back.

        Raises:
            Refused: it is over already.
        """
        order = self._working(order_id)
        order.reason = reason
        self._step(order, "CANCEL PENDING", tell=False)
        self._step(order, "CANCELLED")

    def reject(self, order_id: str, reason: str) -> None:
        """What the exchange does to an order that the broker took: it turns up as rejected, later.

        Raises:
            Refused: it is over already.
        """
        order = self._working(order_id)
        order.reason = reason
        self._step(order, "REJECTED")

    def trade(self, symbol: str, price_paise: int, shares: int) -> None:
        """Others traded; resting orders may be reached, triggers too."""
        street = self.streets[symbol]
        street.trade(self.now_ns(), price_paise, shares)
        traded = shares
        for order in [one for one in self.orders if one.working and one.request.symbol == symbol]:
            if not order.triggered and _reached(order.request, price_paise):
                order.triggered = True
                self._step(order, "OPEN")
                self._enter(order, street)
            elif order.triggered:
                traded = self._reach(order, street, price_paise, traded)

    def close_auction(self, symbol: str, price_paise: int) -> None:
        """All that gathered and accepts the price fills at it; what is left is cancelled."""
        for order in [one for one in self.orders if one.working and one.request.symbol == symbol]:
            limit = self._limit(order.request, self.streets[symbol])
            if order.triggered and _accepts(order.request.side, limit, price_paise):
                self._fill(order, order.left, price_paise)
            else:
                self.cancel(order.order_id, "Unexecuted in the closing auction")

    def end_day(self) -> None:
        """Orders for the day end with it."""
        for order in [one for one in self.orders if one.working]:
            self.cancel(order.order_id, "Expired at the end of the day")

    def _enter(self, order: BookedOrder, street: Street) -> None:
        """Match what the street offers now; the rest waits at its price behind what stands there."""
        if not order.triggered or self._phase(order.request.symbol) is not Phase.CONTINUOUS:
            return
        side = order.request.side
        limit = self._limit(order.request, street)
        for level in list(street.asks if side == "BUY" else street.bids):
            if not order.left or not _accepts(side, limit, level.price_paise):
                break
            self._take(order, street, level)
        if order.left:
            order.ahead = street.shown(side, limit)

    def _take(self, order: BookedOrder, street: Street, level: Level) -> None:
        shares = min(order.left, level.shares)
        level.shares -= shares
        if not level.shares:
            (street.asks if order.request.side == "BUY" else street.bids).remove(level)
        street.note(self.now_ns(), level.price_paise, shares)
        self._fill(order, shares, level.price_paise)

    def _reach(self, order: BookedOrder, street: Street, price_paise: int, traded: int) -> int:
        """A resting order meets a trade of others; returns the traded shares that are left for the next one."""
        limit = self._limit(order.request, street)
        if not _accepts(order.request.side, limit, price_paise):
            return traded
        if price_paise == limit:
            # Those who came before it are served first.
            served = min(order.ahead, traded)
            order.ahead -= served
            traded -= served
        shares = min(order.left, traded)
        if shares:
            self._fill(order, shares, limit)
        return traded - shares

    def _fill(self, order: BookedOrder, shares: int, price_paise: int) -> None:
        request = order.request
        signed = shares if request.side == "BUY" else -shares
        order.filled += shares
        order.filled_paise += shares * price_paise
        self.cash_paise -= signed * price_paise
        key = request.symbol, request.product
        self.positions[key] = self.positions.get(key, 0) + signed
        trade_id = f"{10_000_000 + len(self.executions) + 1}"
        self.executions.append(Execution(trade_id, order, shares, price_paise, self.now_ns()))
        self._step(order, "COMPLETE" if not order.left else "OPEN")

    def _street(self, symbol: str) -> Street:
        if symbol not in self.streets:
            raise Refused("InputException", f"Invalid `tradingsymbol` {symbol}.")
        return self.streets[symbol]

    def _working(self, order_id: str) -> BookedOrder:
        for order in self.orders:
            if order.order_id == order_id:
                if not order.working:
                    raise Refused("OrderException", f"Order cannot be changed as it is {order.status}.")
                if not self._phase(order.request.symbol).takes_orders:
                    raise Refused("OrderException", "Markets are closed right now.")
                return order
        raise Refused("OrderException", "Couldn't find that `order_id`.")

    def _check_prices(self, request: OrderRequest, street: Street) -> None:
        tick = street.listing.tick_paise
        for paise in (request.price_paise, request.trigger_paise):
            if paise is not None and paise % tick:
                raise Refused("InputException", f"Tick size for this script is {tick / 100:.2f}.")

    def _inadmissible(self, order: BookedOrder, street: Street, changed: OrderRequest | None = None) -> str:
        """Why the risk system would not have the order, or the change of it; empty where it would."""
        request = order.request if changed is None else changed
        phase = self._phase(request.symbol)
        if not phase.takes_orders:
            return f"Markets are {phase} right now. Use AMO orders."
        if phase is not Phase.CONTINUOUS and request.kind in ("SL", "SL-M"):
            return "Stop orders are not allowed in the closing auction."
        if phase is Phase.AUCTION_LIMIT and request.kind == "MARKET":
            return "Market orders are not allowed in the last part of the closing auction."
        lowest, highest = street.listing.limits_paise
        for paise in (request.price_paise, request.trigger_paise):
            if paise is not None and not lowest <= paise <= highest:
                return f"The price is outside the circuit limits of {lowest / 100:.2f} to {highest / 100:.2f}."
        return self._unpaid(request, street)

    def _unpaid(self, request: OrderRequest, street: Street) -> str:
        held = self.positions.get((request.symbol, request.product), 0)
        if request.product == "CNC":
            held += self.holdings.get(request.symbol, 0)
        signed = request.quantity if request.side == "BUY" else -request.quantity
        if request.product == "CNC" and held + signed < 0:
            return f"Insufficient stock holding. Check for open orders. Held {held}, asked for {request.quantity}."
        # What closes a position needs no money; what opens one is paid at the last price.
        opening = max(abs(held + signed) - abs(held), 0)
        needed = opening * (request.price_paise or street.last_paise or street.listing.previous_close_paise)
        if needed > self.cash_paise:
            return (
                f"Insufficient funds. Required margin is {needed / 100:.2f} but available margin is "
                f"{self.cash_paise / 100:.2f}."
            )
        return ""

    def _limit(self, request: OrderRequest, street: Street) -> int:
        """The worst price that an order accepts."""
        if request.price_paise is not None:
            return request.price_paise
        protection = request.market_protection or 0.0
        reach = (_OWN_PROTECTION if protection < 0 else protection) / 100.0
        last = street.last_paise or street.listing.previous_close_paise
        tick = street.listing.tick_paise
        lowest, highest = street.listing.limits_paise
        if request.side == "BUY":
            return min(int(last * (1.0 + reach)) // tick * tick, highest)
        return max(-(-int(last * (1.0 - reach)) // tick) * tick, lowest)

    def _step(self, order: BookedOrder, status: str, *, tell: bool = True) -> None:
        order.status = status
        order.history.append((self.now_ns(), status))
        if tell:
            self._told(order)


def _accepts(side: str, limit_paise: int, price_paise: int) -> bool:
    return price_paise <= limit_paise if side == "BUY" else price_paise >= limit_paise


def _reached(request: OrderRequest, price_paise: int) -> bool:
    """Whether a stop order's trigger was reached by a trade."""
    assert request.trigger_paise is not None
    return price_paise >= request.trigger_paise if request.side == "BUY" else price_paise <= request.trigger_paise
