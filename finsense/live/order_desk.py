"""The order desk: sends, changes, cancels and follows an account's orders so that none is doubled and none is lost."""

import sqlite3
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from finsense.live.brokers.errors import AuthExpired, BrokerError, RateLimited, Rejected, UnknownFate
from finsense.live.clock import WallClock
from finsense.live.desk_books import DeskBooks
from finsense.live.desk_records import ADOPTED, STOP, DeskOrder, DeskTrade, Notes, adopted_tag, intent_body
from finsense.live.orders import OrderError, OrderRequest, OrderRow, OrderState, TradeRow
from finsense.live.patience import Waiter

log = structlog.get_logger()


class Requests(Protocol):
    """The requests that a desk makes; `KiteRest` has them."""

    def place(self, request: OrderRequest) -> str:
        """Send an order; the broker's name of it."""
        ...

    def modify(self, order_id: str, request: OrderRequest) -> str:
        """Change an order."""
        ...

    def cancel(self, order_id: str) -> str:
        """Take an order back."""
        ...

    def orders(self) -> list[OrderRow]:
        """The day's book."""
        ...

    def trades(self) -> list[TradeRow]:
        """The day's executions."""
        ...


class OrderDesk:
    """Carries out what the broker object wants, one request at a time; the book decides, not the answers.

    Args:
        rest: the requests.
        notes: the journal.
        clock: stamps the events.
        waiter: waits.

    Attributes:
        books: what is known.
        strangers: rows of the last book that are not ours.
        in_book: names of all orders of the last book.
    """

    def __init__(self, rest: Requests, notes: Notes, clock: WallClock, waiter: Waiter) -> None:
        self.books = DeskBooks(notes, clock.now_ns)
        self.strangers: list[OrderRow] = []
        self.in_book: set[str] = set()
        self._rest, self._waiter, self._patience = rest, waiter, waiter.patience

    def post(self, request: OrderRequest, leg: str) -> DeskOrder:
        """Send an order once; whatever the answer, the order is in the books.

        Raises:
            OrderError: its intent was sent before.
            HaltTrading: nobody gives a new token.
        """
        if request.tag in self.books.orders:
            raise OrderError(f"the intent {request.tag} was sent before; an order is never sent twice")
        self.books.note(request.tag, "intent", intent_body(request, leg, self.books.last_number + 1))
        order = self.books.orders[request.tag]
        until_s, pauses = self._waiter.now_s() + self._patience.young_s, self._waiter.pauses()
        while True:
            try:
                order_id = self._rest.place(request)
            except Rejected as error:
                return self._refused(order, error.reason)
            except (RateLimited, AuthExpired) as error:
                # Neither was carried out.
                self.books.note(request.tag, "delayed", {"reason": str(error)})
                self._waiter.after(error, next(pauses))
                if self._waiter.now_s() > until_s:
                    return self._refused(order, f"it came too late: {error}")
            except BrokerError as error:
                self.books.note(request.tag, "lost", {"reason": str(error)})
                return order
            else:
                self.books.note(request.tag, "accepted", {"order_id": order_id})
                return order

    def modify(self, order: DeskOrder, request: OrderRequest) -> bool:
        """Ask for other prices; the next reading of the book tells whether they hold. False: refused for good."""
        self.books.note(
            order.tag, "modify", {"price_paise": request.price_paise, "trigger_paise": request.trigger_paise}
        )
        return self._ask(lambda: self._rest.modify(str(order.tracked.order_id), request))

    def cancel(self, order: DeskOrder) -> None:
        """Ask for an order to be taken back; the book tells whether it was, or filled first."""
        try:
            self.books.note(order.tag, "cancel", {"order_id": order.tracked.order_id})
        except sqlite3.Error as error:
            # It opens nothing: a full disk must not keep an order working.
            log.error("a cancellation is not in the journal", order=order.tag, why=str(error))
        self._ask(lambda: self._rest.cancel(str(order.tracked.order_id)))

    def read_book(self, *, patient: bool = True) -> None:
        """Read the day's orders into the books.

        Raises:
            BrokerError: there was no answer; that is not an empty book.
            HaltTrading: the book contradicts what is known, or has an order that was given up.
        """
        rows = self._waiter.patiently(self._rest.orders) if patient else self._rest.orders()
        self.in_book = {row.order_id for row in rows}
        ours: dict[str, OrderRow] = {}
        self.strangers = []
        for row in rows:
            tag = self._tag(row)
            if tag is None:
                self.strangers.append(row)
            elif tag in ours:
                names = f"{ours[tag].order_id} and {row.order_id}"
                self._waiter.halt("order_twice", f"two orders carry the tag {tag}: {names}; reconcile by hand")
            else:
                ours[tag] = row
        late = [self.books.orders[tag] for tag, row in ours.items() if self._see(self.books.orders[tag], row)]
        for order in late:
            if order.open:
                self.cancel(order)
        if late:
            names = ", ".join(f"{order.request.symbol} {order.tracked.order_id}" for order in late)
            self._waiter.halt("order_appeared", f"orders that counted as never sent are in the broker's book: {names}")

    def read_trades(self, *, patient: bool = True) -> list[DeskTrade]:
        """Read the day's executions into the books; returns the new ones."""
        rows = self._waiter.patiently(self._rest.trades) if patient else self._rest.trades()
        before = len(self.books.trades)
        for row in sorted(rows, key=lambda row: row.time_ns):
            order = self.books.order_of(row.order_id)
            if order is None or self.books.known_trade(row.order_id, row.trade_id):
                continue
            trade = DeskTrade(
                row.trade_id,
                row.order_id,
                row.symbol,
                row.quantity if row.side == "BUY" else -row.quantity,
                row.price_paise,
                row.time_ns,
                # The account keeps the fills of its protective stops apart from those of its orders.
                -order.number if order.leg == STOP else order.number,
            )
            self.books.note(order.tag, "trade", trade._asdict())
        return self.books.trades[before:]

    def agree(self) -> None:
        """Read executions until they explain what the book says is filled.

        Raises:
            HaltTrading: they do not.
        """
        until_s, pauses = self._waiter.now_s() + self._patience.settle_s, self._waiter.pauses()
        while self.books.lacking():
            self.read_trades()
            lacking = self.books.lacking()
            if not lacking:
                return
            if self._waiter.now_s() > until_s:
                told = ", ".join(
                    f"{one.request.symbol} {one.tracked.order_id}: {one.tracked.filled_quantity} filled, {one.traded} "
                    "traded"
                    for one in lacking
                )
                self._waiter.halt("trades_missing", f"the broker's trades do not explain its book: {told}")
            self._waiter.pause(next(pauses))

    def settle(self, orders: Iterable[DeskOrder]) -> None:
        """Cancel orders and see in the book that they are over, by the cancellation or by a fill before it.

        Raises:
            HaltTrading: they go on.
        """
        wanted = list(orders)
        until_s, pauses = self._waiter.now_s() + self._patience.settle_s, self._waiter.pauses()
        while still := [one for one in wanted if one.open]:
            if self._waiter.now_s() > until_s:
                told = ", ".join(f"{one.request.symbol} {one.tracked.order_id or one.tag}" for one in still)
                self._waiter.halt("cancel_failed", f"orders were cancelled and are not over: {told}")
            for one in still:
                if one.tracked.order_id is not None and one.leg != ADOPTED:
                    self.cancel(one)
            self.read_book()
            if any(one.open for one in still):
                self._waiter.pause(next(pauses))
        if wanted:
            self.agree()

    def find(self, orders: Iterable[DeskOrder], at_most_s: float) -> list[DeskOrder]:
        """Look for orders by their tags until each is found or the time is over; returns those that were not."""
        until_s, missing = self._waiter.now_s() + at_most_s, list(orders)
        for seconds in self._waiter.pauses():
            missing = [one for one in missing if one.unanswered]
            if not missing:
                break
            last = self._waiter.now_s() > until_s
            self.read_book()
            missing = [one for one in missing if one.unanswered]
            if last or not missing:
                break
            self._waiter.pause(seconds)
        return missing

    def find_lost(self) -> None:
        """Look for every order of unknown fate.

        Raises:
            HaltTrading: one is not found; it is not sent again.
        """
        lost = [one for one in self.books.open_orders() if one.tracked.state is OrderState.UNKNOWN]
        if missing := self.find(lost, self._patience.fate_s):
            told = ", ".join(f"{one.request.symbol} ({one.tag})" for one in missing)
            self._waiter.halt(
                "order_unknown",
                f"what became of these orders is unknown after {self._patience.fate_s:g} s: {told}; look at the "
                "broker's book, then start again: they are looked for once more",
            )

    def _tag(self, row: OrderRow) -> str | None:
        """Under which tag the books have an order; None: it is not ours."""
        found = [tag for tag in row.tags if tag in self.books.orders]
        adopted = adopted_tag(row.order_id)
        return found[0] if found else adopted if adopted in self.books.orders else None

    def _see(self, order: DeskOrder, row: OrderRow) -> bool:
        """Take a row of ours into the books; returns whether the order had been given up."""
        known = order.tracked
        if order.leg == ADOPTED:
            row = row._replace(tags=(order.tag,), product=order.request.product)
        if known.state.over and known.order_id is None:
            self.books.note(order.tag, "appeared", row._asdict())
            # One that was refused after all does no harm.
            return order.open or row.filled_quantity > 0
        try:
            seen = known.seen(row)
        except OrderError as error:
            self._waiter.halt("order_contradicts", str(error))
        if seen != known:
            self.books.note(order.tag, "seen", row._asdict())
            if seen.state is OrderState.REJECTED:
                self._tell_refused(order.request, row.reason)
        return False

    def _refused(self, order: DeskOrder, reason: str) -> DeskOrder:
        self.books.note(order.tag, "refused", {"reason": reason})
        self._tell_refused(order.request, reason)
        return order

    def _tell_refused(self, request: OrderRequest, reason: str) -> None:
        told = f"{request.side} {request.quantity} {request.symbol}: {reason}"
        self._waiter.alarm("order_refused", told, symbol=request.symbol)

    def _ask(self, request: Callable[[], str]) -> bool:
        """A change of an order that works: the book tells what became of it, also where the answer is lost."""
        try:
            request()
        except (AuthExpired, RateLimited) as error:
            self._waiter.after(error, self._patience.first_s)
        except UnknownFate:
            return True
        except BrokerError:
            # Refused, perhaps for having filled: the book tells that too.
            return False
        return True
