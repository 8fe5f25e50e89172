"""The matching engine of a rehearsal: orders of one account against the street, by price and time, in whole paise."""

from collections.abc import Callable, Mapping

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import CLIENT, BookedOrder, Execution, Refused
from finsense.live.rehearsal.hours import Phase
from finsense.live.rehearsal.matching import accepts, by_priority, shares_met, trigger_reached, worst_price
from finsense.live.rehearsal.purse import Holding, Purse
from finsense.live.rehearsal.street import Street
from finsense.market.calendar import session_date

_AT_ONCE = ("MARKET", "LIMIT")
_MOST_MODIFICATIONS = 25
_OUTAGE = "The exchange cannot be reached. Please try again."


class RehearsalExchange:
    """One account's orders at the exchange, behind the broker's checks.

    Args:
        streets: symbol -> its street.
        balance_paise: cash of the account; a purchase must be paid in full, of MIS too.
        phase: tells the phase of a symbol's day now.
        now_ns: the clock of the rehearsal, ns UTC.
        told: called with every order that changed, as the vendor tells it on the stream; its placing is no change.
        holdings: symbol -> shares of earlier days.

    Attributes:
        orders: the book, in the order of arrival.
        executions: all fills.
        purse: the account's money and shares.
        squared: symbols whose MIS positions the broker closes by now; it takes no more orders of MIS in them.
        now_ns: the clock.
    """

    def __init__(
        self,
        streets: dict[str, Street],
        balance_paise: int,
        phase: Callable[[str], Phase],
        now_ns: Callable[[], int],
        told: Callable[[BookedOrder], None] = lambda order: None,
        holdings: Mapping[str, Holding] | None = None,
    ) -> None:
        self.streets = streets
        self.orders: list[BookedOrder] = []
        self.executions: list[Execution] = []
        self.purse = Purse(balance_paise, holdings or {})
        self.squared: set[str] = set()
        self.now_ns = now_ns
        self._by_id: dict[str, BookedOrder] = {}
        self._working: dict[str, list[BookedOrder]] = {symbol: [] for symbol in streets}
        self._phase, self._told = phase, told

    @property
    def cash_paise(self) -> int:
        """Cash after all trades."""
        return self.purse.cash_paise

    @property
    def spendable_paise(self) -> int:
        """Cash that neither shorts nor open orders block."""
        return self.purse.spendable_paise([one for one in self.orders if one.working], self._price_of)

    @property
    def positions(self) -> dict[tuple[str, str], int]:
        """(symbol, product) -> signed shares of the day."""
        return {key: position.quantity for key, position in self.purse.positions.items()}

    def order(self, order_id: str) -> BookedOrder:
        """An order by its name.

        Raises:
            Refused: there is none.
        """
        if order_id not in self._by_id:
            raise Refused("OrderException", "Couldn't find that `order_id`.")
        return self._by_id[order_id]

    def working(self, symbol: str) -> list[BookedOrder]:
        """The orders of a symbol that may still fill, in the order of arrival."""
        return list(self._working[symbol])

    def phase(self, symbol: str) -> Phase:
        """The part of the day that a symbol is in now."""
        return self._phase(symbol)

    def objection(self, request: OrderRequest) -> str:
        """Why the risk system would reject an order; empty where it would not."""
        return self._inadmissible(request, request.quantity, [one for one in self.orders if one.working])

    def place(
        self, request: OrderRequest, *, most: int | None = None, placed_by: str = CLIENT, tagged: bool = True
    ) -> str:
        """Take an order; its name says nothing of whether the exchange keeps it.

        Args:
            request: the order.
            most: shares that it may fill at most, where a fault will end it.
            placed_by: the user, or the broker's risk system.
            tagged: whether the tag of the request came from the client.

        Raises:
            Refused: it is impossible; it is not in the book.
        """
        street = self._street(request.symbol)
        self._check_prices(request, street)
        self._check_reached(request.symbol)
        reason = self.objection(request) if placed_by == CLIENT else ""
        # The vendor's names begin with the day: no two days have one in common.
        name = f"{session_date(self.now_ns()):%y%m%d}{len(self.orders) + 1:09d}"
        order = BookedOrder(name, request, self.now_ns(), most=most, placed_by=placed_by, tagged=tagged)
        self.orders.append(order)
        self._by_id[name] = order
        for status in ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING"):
            self._step(order, status, tell=False)
        if reason:
            order.reason = reason
            self._step(order, "REJECTED")
            return order.order_id
        self._step(order, "OPEN PENDING", tell=False)
        order.triggered = request.kind in _AT_ONCE
        self._step(order, "OPEN" if order.triggered else "TRIGGER PENDING", tell=False)
        self._working[request.symbol].append(order)
        self._enter(order, street)
        return order.order_id

    def modify(self, order_id: str, request: OrderRequest) -> None:
        """Change what is left of an order; it loses its place in the queue.

        Raises:
            Refused: it is over, was changed too often, or the change is impossible.
        """
        order = self._changeable(order_id)
        street = self._street(request.symbol)
        if order.changed >= _MOST_MODIFICATIONS:
            raise Refused("NetworkException", "Maximum allowed order modifications exceeded.")
        if request.quantity <= order.filled:
            raise Refused("InputException", f"Quantity cannot be less than the filled {order.filled}.")
        self._check_prices(request, street)
        others = [one for one in self.orders if one.working and one is not order]
        reason = self._inadmissible(request, request.quantity - order.filled, others)
        if reason:
            raise Refused("OrderException", reason)
        order.changed += 1
        order.request = request
        order.triggered = order.triggered or request.kind in _AT_ONCE
        queue = self._working[request.symbol]
        queue.remove(order)
        queue.append(order)
        for status in ("MODIFY VALIDATION PENDING", "MODIFY PENDING", "MODIFIED"):
            self._step(order, status, tell=False)
        self._step(order, "OPEN" if order.triggered else "TRIGGER PENDING")
        self._enter(order, street)

    def cancel(self, order_id: str, reason: str = "") -> None:
        """Take an order back.

        Raises:
            Refused: it is over already, or nothing may be changed now.
        """
        order = self._changeable(order_id)
        self._step(order, "CANCEL PENDING", tell=False)
        self.withdraw(order, reason)

    def withdraw(self, order: BookedOrder, reason: str) -> None:
        """The exchange or the broker takes a working order out, at any hour."""
        order.reason = reason
        self._over(order, "CANCELLED")

    def reject(self, order: BookedOrder, reason: str) -> None:
        """What the exchange does to a working order that the broker took: it turns up as rejected, later."""
        order.reason = reason
        self._over(order, "REJECTED")

    def trade(self, symbol: str, price_paise: int, shares: int) -> None:
        """Others traded; resting orders may be reached, triggers too."""
        street = self.streets[symbol]
        street.trade(self.now_ns(), price_paise, shares)
        for order in self.working(symbol):
            if not order.triggered and trigger_reached(order.request, price_paise):
                order.triggered = True
                self._step(order, "OPEN")
                self._enter(order, street)
        resting = by_priority(order for order in self.working(symbol) if order.triggered)
        # What is left of an order at the market takes from the book that is shown now; a limit waits to be met.
        for order in [one for one in resting if one.request.price_paise is None]:
            self._sweep(order, street)
        limits = [one for one in resting if one.request.price_paise is not None]
        for order, met in shares_met(limits, price_paise, shares):
            self.fill(order, met, order.limit_paise)

    def close_auction(self, symbol: str, price_paise: int, shares: int = 0) -> None:
        """All that gathered and accepts the price fills at it; what is left is cancelled."""
        street = self.streets[symbol]
        street.close_at(self.now_ns(), price_paise, shares)
        for order in self.working(symbol):
            if order.triggered and accepts(order, price_paise) and order.fillable:
                self.fill(order, order.fillable, price_paise)
            if order.working:
                self.withdraw(order, "Unexecuted in the closing auction")

    def end_day(self, symbol: str) -> None:
        """Orders for the day end with it."""
        for order in self.working(symbol):
            self.withdraw(order, "Expired at the end of the day")

    def fill(self, order: BookedOrder, shares: int, price_paise: int) -> None:
        """Give a working order some of its shares."""
        order.filled += shares
        order.filled_paise += shares * price_paise
        self.purse.book(order.request, shares, price_paise)
        trade_id = f"{10_000_000 + len(self.executions) + 1}"
        self.executions.append(Execution(trade_id, order, shares, price_paise, self.now_ns()))
        if order.left:
            self._step(order, "OPEN")
        else:
            self._over(order, "COMPLETE")

    def _enter(self, order: BookedOrder, street: Street) -> None:
        """Match what the street offers now; the rest waits at its price behind what stands there."""
        order.limit_paise = worst_price(order.request, street)
        if not order.triggered or self._phase(order.request.symbol) is not Phase.CONTINUOUS:
            return
        self._sweep(order, street)
        order.ahead = street.shown(order.request.side, order.limit_paise)

    def _sweep(self, order: BookedOrder, street: Street) -> None:
        """Take from the street's book what the order accepts, the best price first."""
        levels = street.asks if order.request.side == "BUY" else street.bids
        while levels and order.fillable and accepts(order, levels[0].price_paise):
            price_paise, shares = levels[0].price_paise, min(order.fillable, levels[0].shares)
            levels[0].shares -= shares
            if not levels[0].shares:
                levels.pop(0)
            self.fill(order, shares, price_paise)

    def _street(self, symbol: str) -> Street:
        if symbol not in self.streets:
            raise Refused("InputException", f"Invalid `tradingsymbol` {symbol}.")
        return self.streets[symbol]

    def _changeable(self, order_id: str) -> BookedOrder:
        order = self.order(order_id)
        if not order.working:
            raise Refused("OrderException", f"Order cannot be changed as it is {order.status}.")
        self._check_reached(order.request.symbol)
        if not self._phase(order.request.symbol).takes_orders:
            raise Refused("OrderException", "Markets are closed right now.")
        return order

    def _check_reached(self, symbol: str) -> None:
        if self._phase(symbol) is Phase.OUTAGE:
            raise Refused("NetworkException", _OUTAGE, 503)

    def _check_prices(self, request: OrderRequest, street: Street) -> None:
        tick = street.listing.tick_paise
        for paise in (request.price_paise, request.trigger_paise):
            if paise is not None and paise % tick:
                raise Refused("InputException", f"Tick size for this script is {tick / 100:.2f}.")

    def _inadmissible(self, request: OrderRequest, shares: int, others: list[BookedOrder]) -> str:
        """Why the risk system would not have so many shares of an order beside others; empty where it would."""
        street, phase = self._street(request.symbol), self._phase(request.symbol)
        if not phase.takes_orders:
            return f"Markets are {phase} right now. Use AMO orders."
        if phase is not Phase.CONTINUOUS and request.kind in ("SL", "SL-M"):
            return "Stop orders are not allowed in the closing auction."
        if phase is Phase.AUCTION_LIMIT and request.kind == "MARKET":
            return "Market orders are not allowed in the last part of the closing auction."
        if request.product == "MIS" and request.symbol in self.squared:
            return "Intraday orders (MIS) are not allowed after the square-off of the day. Use CNC."
        lowest, highest = street.limits_paise
        for paise in (request.price_paise, request.trigger_paise):
            if paise is not None and not lowest <= paise <= highest:
                return f"The price is outside the circuit limits of {lowest / 100:.2f} to {highest / 100:.2f}."
        return self.purse.objection(request, shares, others, self._price_of)

    def _price_of(self, request: OrderRequest) -> int:
        """What one share of an order blocks: its limit, its trigger, or the last price."""
        return request.price_paise or request.trigger_paise or self.streets[request.symbol].known_paise

    def _over(self, order: BookedOrder, status: str) -> None:
        self._working[order.request.symbol].remove(order)
        self._step(order, status)

    def _step(self, order: BookedOrder, status: str, *, tell: bool = True) -> None:
        order.status = status
        order.history.append((self.now_ns(), status))
        if tell:
            self._told(order)
