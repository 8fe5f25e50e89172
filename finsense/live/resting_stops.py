"""The protective stops of an account's positions: they rest at the exchange, cover what is held, and never more."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from finsense.account.stops import protective_stop_paise
from finsense.live.bar_grid import trades_at
from finsense.live.desk_records import EXIT, STOP, DeskOrder
from finsense.live.order_desk import OrderDesk
from finsense.live.order_style import OrderStyle, grid
from finsense.live.orders import Kind, OrderRequest, OrderState, Side
from finsense.live.patience import Waiter

# The broker refuses the 26th change of an order.
MOST_CHANGES = 25
# A stop that the exchange takes back again and again is not placed for ever.
_MOST_TRIES = 6


class Due(NamedTuple):
    """The stop that must rest for a symbol.

    Attributes:
        side: SELL under a long position, BUY above a short one.
        quantity: shares.
        trigger_paise: on the grid of ticks.
    """

    side: Side
    quantity: int
    trigger_paise: int

    @property
    def signed(self) -> int:
        """Shares, negative for a sale."""
        return self.quantity if self.side == "BUY" else -self.quantity


class RestingStops:
    """Keeps the stops at the exchange as they are wanted.

    Args:
        desk: sends them.
        waiter: tells people.
        style: how they are worded.
        tick_paise: the day's tick of a symbol; None where it does not trade today.
        tag: names a new order of a symbol and a leg.
        now_ns: the clock, ns UTC: while the exchange is closed no stop is sent, for it would be refused.
    """

    def __init__(
        self,
        desk: OrderDesk,
        waiter: Waiter,
        style: OrderStyle,
        tick_paise: Callable[[str], int | None],
        tag: Callable[[str, str], str],
        now_ns: Callable[[], int],
    ) -> None:
        self._desk, self._waiter, self._style = desk, waiter, style
        self._tick_paise, self._tag, self._now_ns = tick_paise, tag, now_ns
        # symbol -> the position that it is meant for, and the trigger that the account wants.
        self._wanted: dict[str, tuple[int, int]] = {}
        # symbol -> distance of the stop of an entry that may fill any moment.
        self._entries: dict[str, int] = {}
        # What is refused now is not tried again before the account says what it wants again.
        self._tried_before = 0
        self._refused: set[tuple[str, Due]] = set()

    def want(self, stops: Mapping[str, int], positions: Mapping[str, int]) -> None:
        """The account says which stops must rest, symbol -> trigger in paise, for the positions that it knows of."""
        self._wanted = {symbol: (positions.get(symbol, 0), trigger) for symbol, trigger in stops.items()}
        self._tried_before = self._desk.books.last_number
        self._refused.clear()

    def expect(self, symbol: str, stop_ppm: int) -> None:
        """An order was sent; what it opens needs a stop at this distance from its fill."""
        self._entries[symbol] = stop_ppm

    def forget_entries(self) -> None:
        """The orders sent before are over."""
        self._entries.clear()

    def due(self, symbol: str) -> Due | None:
        """What must rest now: for what is held less what orders to leave may still take."""
        books = self._desk.books
        held = books.held(symbol)
        orders = [one for one in books.open_orders(symbol) if one.leg != STOP]
        bare = abs(held) - sum(abs(one.left) for one in orders if one.left * held < 0)
        tick = self._tick_paise(symbol)
        trigger = self._trigger(symbol, held)
        if bare <= 0 or trigger is None or tick is None:
            return None
        # On the grid a price reaches the trigger exactly when it reaches the one beside it that lies further away.
        return Due("SELL" if held > 0 else "BUY", bare, grid(trigger, tick, up=held < 0))

    def passed(self, symbol: str, price_paise: int) -> bool:
        """Whether a price lies at or beyond the stop that must rest."""
        due = self.due(symbol)
        if due is None:
            return False
        return price_paise <= due.trigger_paise if due.side == "SELL" else price_paise >= due.trigger_paise

    def resting(self, symbol: str) -> list[DeskOrder]:
        """The stops of a symbol that may still fill."""
        return [one for one in self._desk.books.open_orders(symbol) if one.leg == STOP]

    def keep(self, symbol: str) -> None:
        """Place, move or take away, so that what is due rests."""
        due, resting = self.due(symbol), self.resting(symbol)
        if any(one.unanswered for one in resting):
            # It is looked for; a second one beside it would be one too many.
            return
        if due is not None and len(resting) == 1 and self._serves(resting[0], due):
            self._move(resting[0], due)
            return
        if resting:
            self.take_away(symbol)
            # It may have filled before it could be taken away.
            due = self.due(symbol)
        if due is not None:
            self._place(symbol, due)

    def take_away(self, symbol: str) -> None:
        """Cancel the stops of a symbol and see that they are over; one may have filled."""
        self._desk.settle(self.resting(symbol))

    def tell_bare(self, symbol: str) -> None:
        """Tell of shares that nothing protects, for an order of unknown fate may have sold them."""
        books = self._desk.books
        held = books.held(symbol)
        doubtful = [one for one in books.open_orders(symbol) if one.unanswered and one.left * held < 0]
        if doubtful and self._trigger(symbol, held) is not None and not self.resting(symbol):
            told = f"{symbol}: no stop rests for {held} shares, which {doubtful[0].tag} may have sold: look at the book"
            self._waiter.alarm("unprotected", told, symbol=symbol)

    def leave(self, symbol: str) -> None:
        """Its stop was passed without filling: leave at the market what it should have covered."""
        self.take_away(symbol)
        due = self.due(symbol)
        if due is None:
            return
        told = f"{symbol}: the price passed its stop at {due.trigger_paise} paise; leaving at the market"
        self._waiter.alarm("stop_passed", told, symbol=symbol)
        leg = f"{EXIT}{self._desk.books.last_number + 1}"
        self._desk.post(self._style.at_market(self._tag(symbol, leg), symbol, due.signed), EXIT)

    def _trigger(self, symbol: str, held: int) -> int | None:
        meant, trigger = self._wanted.get(symbol, (0, 0))
        if meant * held > 0:
            return trigger
        stop_ppm = self._entries.get(symbol, 0)
        if not stop_ppm or not held:
            return None
        return int(protective_stop_paise(held, self._entry_paise(symbol, held), stop_ppm, 1))

    def _entry_paise(self, symbol: str, held: int) -> int:
        """What the newest shares of a position cost on average."""
        missing, paise = abs(held), 0
        for trade in reversed(self._desk.books.trades):
            if not missing:
                break
            if trade.symbol == symbol and trade.quantity * held > 0:
                shares = min(missing, abs(trade.quantity))
                missing -= shares
                paise += shares * trade.price_paise
        return paise // abs(held)

    def _serves(self, order: DeskOrder, due: Due) -> bool:
        """Whether an order can stay, its trigger perhaps moved."""
        same = order.request.side == due.side and abs(order.left) == due.quantity
        return same and (order.request.trigger_paise == due.trigger_paise or order.tracked.changes < MOST_CHANGES)

    def _move(self, order: DeskOrder, due: Due) -> None:
        key = order.request.symbol, due
        if order.request.trigger_paise == due.trigger_paise or order.traded or key in self._refused:
            return
        request = self._request(order.request.symbol, due, order.request.kind, order.tag)
        if not self._desk.modify(order, request):
            self._refused.add(key)
            told = f"{order.request.symbol}: its stop could not be moved to {due.trigger_paise} paise"
            self._waiter.alarm("stop_not_moved", told, symbol=order.request.symbol)
        self._desk.read_book()

    def _place(self, symbol: str, due: Due) -> None:
        """SL-M, or SL where that is refused; so often until the account says again what it wants."""
        if not trades_at(self._now_ns()):
            # It is placed at the next look after the opening.
            return
        tried = self._tried(symbol, due)
        refused = {one.request.kind for one in tried if one.tracked.state is OrderState.REJECTED}
        kinds: tuple[Kind, Kind] = ("SL-M", "SL")
        for kind in kinds:
            if kind not in refused and len(tried) < _MOST_TRIES:
                leg = f"{STOP}{self._desk.books.last_number + 1}"
                order = self._desk.post(self._request(symbol, due, kind, self._tag(symbol, leg)), STOP)
                if order.open:
                    return
        if (symbol, due) not in self._refused:
            self._refused.add((symbol, due))
            told = f"{symbol}: no stop rests for {due.quantity} shares at {due.trigger_paise} paise"
            self._waiter.alarm("unprotected", told, symbol=symbol)

    def _tried(self, symbol: str, due: Due) -> list[DeskOrder]:
        """The orders of this stop since the account last said what it wants."""
        tried = []
        for order in reversed(self._desk.books.orders.values()):
            if order.number <= self._tried_before:
                break
            asked = Due(order.request.side, order.request.quantity, order.request.trigger_paise or 0)
            if order.leg == STOP and (order.request.symbol, asked) == (symbol, due):
                tried.append(order)
        return tried

    def _request(self, symbol: str, due: Due, kind: Kind, tag: str) -> OrderRequest:
        tick = self._tick_paise(symbol)
        assert tick is not None
        return self._style.stop(tag, symbol, due.signed, due.trigger_paise, kind, tick)
