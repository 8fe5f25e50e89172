"""The orders and trades of an account as the journal's events make them: nothing is known that is not on disk."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from finsense.account.session import Fill
from finsense.live.desk_records import (
    DeskOrder,
    DeskTrade,
    Notes,
    adopted_order,
    intended,
    moved,
    row_of,
)
from finsense.live.journal_format import Event
from finsense.live.orders import OrderError, TrackedOrder


class DeskBooks:
    """Orders, trades and positions of one account, folded from its events; every change is an event first.

    Args:
        notes: the journal.
        now_ns: the clock, ns UTC.

    Attributes:
        orders: tag -> order, in the order of intent.
        trades: all executions, in the order in which we learned of them.
        seen_elsewhere: names of orders that are not ours and were told of.
        last_number: of the newest order, or of shares taken over.
    """

    def __init__(self, notes: Notes, now_ns: Callable[[], int]) -> None:
        self.orders: dict[str, DeskOrder] = {}
        self.trades: list[DeskTrade] = []
        self.seen_elsewhere: set[str] = set()
        self.last_number = 0
        self._notes, self._now_ns = notes, now_ns
        self._by_id: dict[str, DeskOrder] = {}
        self._open: dict[str, DeskOrder] = {}
        self._lacking: dict[str, DeskOrder] = {}
        self._trade_ids: set[tuple[str, str]] = set()
        self._held: Counter[str] = Counter()
        self._due: list[DeskTrade] = []
        # Fills that the journal's records have; their trades are not handed out again.
        self._given: Counter[tuple[str, Fill]] = Counter()
        self._fold: dict[str, Callable[[Event], None]] = {
            "intent": self._intend,
            "adopted_order": self._adopt,
            "adopted_shares": self._take_trade,
            "trade": self._take_trade,
            "elsewhere": lambda event: self.seen_elsewhere.add(event.body["order_id"]),
            "accepted": self._change(lambda known, body: known.accepted(body["order_id"])),
            "refused": self._change(lambda known, body: known.refused(body["reason"])),
            "lost": self._change(lambda known, _: known.lost()),
            "abandoned": self._change(lambda known, body: known.abandoned(body["reason"])),
            "modify": self._change(lambda known, body: known.modified(moved(known.request, body))),
            "seen": self._change(lambda known, body: known.seen(row_of(body))),
            "appeared": self._change(lambda known, body: TrackedOrder(known.request).seen(row_of(body))),
            "expired": self._change(lambda known, _: known.expired()),
        }
        for event in notes.events():
            self._apply(event)

    def order_of(self, order_id: str) -> DeskOrder | None:
        """The order of a broker's name; None: it is not ours."""
        return self._by_id.get(order_id)

    def known_trade(self, order_id: str, trade_id: str) -> bool:
        """Whether an execution is in the books already."""
        return (order_id, trade_id) in self._trade_ids

    def open_orders(self, symbol: str | None = None) -> list[DeskOrder]:
        """The orders that something may still come of."""
        return [order for order in self._open.values() if symbol in (None, order.request.symbol)]

    def lacking(self) -> list[DeskOrder]:
        """The orders of which more is filled than their trades explain."""
        return list(self._lacking.values())

    def held(self, symbol: str) -> int:
        """Signed shares by all trades that are known."""
        return self._held[symbol]

    def due(self) -> list[DeskTrade]:
        """Trades that were not handed out yet, oldest first."""
        kept = []
        for trade in self._due:
            key = trade.symbol, trade.fill
            if self._given[key]:
                self._given[key] -= 1
            else:
                kept.append(trade)
        self._due = kept
        return sorted(kept, key=lambda trade: trade.time_ns)

    def hand_out(self) -> dict[str, list[Fill]]:
        """The fills that the account has not booked yet, by symbol; they are not given again."""
        fills: dict[str, list[Fill]] = {}
        for trade in self.due():
            fills.setdefault(trade.symbol, []).append(trade.fill)
        self._due = []
        return dict(sorted(fills.items()))

    def given(self, symbol: str, fill: Fill) -> None:
        """The journal's records have this fill."""
        self._given[symbol, fill] += 1

    def unexplained(self) -> list[tuple[str, Fill]]:
        """Fills of the journal's records that no trade explains."""
        self.due()
        return [key for key, count in self._given.items() if count]

    def note(self, tag: str, what: str, body: Mapping[str, Any]) -> None:
        """Write an event, then take it into the books. That it contradicts nothing is the caller's to see."""
        time_ns = self._now_ns()
        self._notes.note(tag, what, body, time_ns)
        self._apply(Event(-1, time_ns, tag, what, dict(body)))

    def _apply(self, event: Event) -> None:
        # The journal has events of others too.
        fold = self._fold.get(event.what)
        if fold is not None:
            fold(event)

    def _intend(self, event: Event) -> None:
        self._enter(intended(event))

    def _adopt(self, event: Event) -> None:
        row = row_of(event.body["row"])
        self._enter(adopted_order(row, event.body["number"], event.time_ns))

    def _enter(self, order: DeskOrder) -> None:
        if order.tag in self.orders:
            raise OrderError(f"expected an intent that is new, found {order.tag} a second time: it was sent before")
        self.orders[order.tag] = self._open[order.tag] = order
        self.last_number = order.number
        if order.tracked.order_id is not None:
            self._by_id[order.tracked.order_id] = order

    def _change(self, step: Callable[[TrackedOrder, Mapping[str, Any]], TrackedOrder]) -> Callable[[Event], None]:
        def change(event: Event) -> None:
            order = self.orders[event.tag]
            order.tracked = step(order.tracked, event.body)
            if order.tracked.order_id is not None:
                self._by_id[order.tracked.order_id] = order
            if order.open:
                self._open[order.tag] = order
            else:
                self._open.pop(order.tag, None)
            self._compare(order)

        return change

    def _compare(self, order: DeskOrder) -> None:
        if order.traded < order.tracked.filled_quantity:
            self._lacking[order.tag] = order
        else:
            self._lacking.pop(order.tag, None)

    def _take_trade(self, event: Event) -> None:
        trade = DeskTrade(**event.body)
        self.trades.append(trade)
        self._due.append(trade)
        self._trade_ids.add((trade.order_id, trade.trade_id))
        self._held[trade.symbol] += trade.quantity
        self.last_number = max(self.last_number, trade.number)
        order = self._by_id.get(trade.order_id)
        if order is not None:
            order.traded += abs(trade.quantity)
            self._compare(order)
