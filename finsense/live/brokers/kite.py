"""The Kite broker: carries a session's orders to Zerodha and tells what became of them; the book decides."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from finsense.account.session import Fill, Order
from finsense.live.brokers import BrokerAccount, Stopped
from finsense.live.brokers.errors import BooksDiffer, BrokerError, HaltTrading, ProtocolError, Rejected
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.clock import WallClock
from finsense.live.desk_records import ADOPTED, BAR, STOP, Alarm, DeskOrder, Notes
from finsense.live.order_desk import OrderDesk
from finsense.live.order_recovery import agreed_positions, close_all, end_earlier_days, find_unanswered
from finsense.live.order_style import OrderStyle
from finsense.live.orders import OrderState, tag_of
from finsense.live.patience import PROTOCOL_TRIES, Patience, Waiter, no_new_token
from finsense.live.reconcile import Held, Strangers, books_differ, differences, held_by_broker
from finsense.live.resting_stops import RestingStops
from finsense.market.calendar import session_date
from finsense.market.moments import Moment

log = structlog.get_logger()
# Between two bars: without news from the stream the book is read so often, and one that cannot be read is told of.
_LOOK_S, _DEAF_S = 1.0, 30.0


class KiteBroker:
    """Behind the contract `Broker`; all of it but `on_order_update` is called from one thread.

    Args:
        rest: Kite's requests.
        journal: where intents and what becomes of them are kept; it has the events of the session so far.
        identity: of the session; tags are made from it.
        symbols: what it trades.
        style: how orders are worded.
        clock: of the market.
        alarm: tells people.
        renew: waits until `rest` has a new access token; raises HaltTrading to give up.
        patience: how long the broker is waited for.
        pause: waits between two attempts, in real seconds; may raise HaltTrading.

    Attributes:
        desk: the orders.
    """

    # Every request that writes is an event first: `OrderDesk.post`, `modify`, `cancel`.
    flushes_intents = True

    def __init__(
        self,
        rest: KiteRest,
        journal: Notes,
        identity: str,
        symbols: Collection[str],
        style: OrderStyle,
        *,
        clock: WallClock,
        alarm: Alarm,
        renew: Callable[[], None] = no_new_token,
        patience: Patience | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._waiter = waiter = Waiter(alarm, renew, patience, pause=pause)
        self.desk = desk = OrderDesk(rest, journal, clock, waiter)
        self._rest, self._clock, self._alarm = rest, clock, alarm
        self._identity, self._symbols, self._style = identity, tuple(sorted(symbols)), style
        self._strangers = Strangers(desk, self._symbols, style.product, alarm, self._held)
        self._stops = RestingStops(desk, waiter, style, self._tick_paise, self._leg_tag, clock.now_ns)
        # What the account has booked, the last prices that it saw, and who traded in the last moment.
        self._positions = dict.fromkeys(self._symbols, 0)
        self._closes: dict[str, int] = {}
        self._traded: frozenset[str] = frozenset()
        self._ticks: dict[str, int] = {}
        self._ticks_of: date | None = None
        self._replayed: Mapping[str, Order] = {}
        self._updates: SimpleQueue[None] = SimpleQueue()
        self._looked_s = self._heard_s = waiter.now_s()
        self._told_deaf = False
        self._senseless = 0
        # When the book was last read between two bars, and when positions last agreed with so many trades.
        self._read_s, self._agreed = float("-inf"), (float("-inf"), 0)

    def on_order_update(self, fields: Mapping[str, object]) -> None:
        """The stream told of an order: a hint to read the book soon. From any thread."""
        self._updates.put(None)

    def submit(self, orders: Mapping[str, Order]) -> None:
        """Send the orders of a moment, one per symbol; an exit takes the protective stop away first.

        Raises:
            HaltTrading: what became of one is unknown.
        """
        for symbol in sorted(orders):
            self._send(symbol, orders[symbol])
        self.desk.find_lost()

    def protect(self, stops: Mapping[str, int]) -> None:
        """Let these protective stops rest, and no others; where the close passed one, leave at the market."""
        self._stops.want(stops, self._positions)
        for symbol in self._symbols:
            if symbol in self._traded and self._stops.passed(symbol, self._closes[symbol]):
                self._stops.leave(symbol)
            else:
                self._stops.keep(symbol)
        self.desk.find_lost()

    def fills(self, moment: Moment) -> dict[str, list[Fill]]:
        """Cancel what is still open of the bar before, see it over, and give what filled since the last call.

        Raises:
            HaltTrading: an order cannot be brought to its end.
            BooksDiffer: somebody else trades our shares.
            BrokerError: the book could not be read for too long.
        """
        self._take_closes(moment)
        still_open = self._to_cancel()
        if self._hinted() or still_open or not self._fresh(self._read_s):
            self.desk.read_book()
        self.desk.settle(self._to_cancel())
        self.desk.agree()
        self._strangers.check()
        self._stops.forget_entries()
        fills = self.desk.books.hand_out()
        for symbol, some in fills.items():
            self._book(symbol, some)
        return fills

    def account(self) -> BrokerAccount:
        """The broker's positions less what filled since `fills`; its cash is known at the end of the day alone.

        Raises:
            BrokerError: they could not be read for too long; that is not `flat`.
        """
        books, (agreed_s, trades) = self.desk.books, self._agreed
        if self._fresh(agreed_s) and trades == len(books.trades):
            return BrokerAccount(None, dict(self._positions))
        held = self._agreed_positions()
        late = {symbol: books.held(symbol) - self._positions[symbol] for symbol in self._symbols}
        return BrokerAccount(None, {symbol: held[symbol].quantity - late[symbol] for symbol in self._symbols})

    def look(self) -> None:
        """Between two bars: follow orders and stops; a stop rests as soon as its entry filled.

        Raises:
            HaltTrading: what became of an order is unknown, or the broker's answers make no sense.
            BooksDiffer: somebody else trades our shares.
        """
        now_s = self._waiter.now_s()
        if not self._hinted() and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        try:
            self.desk.read_book(patient=False)
            if self.desk.books.lacking():
                self.desk.read_trades(patient=False)
            self._compare_early(now_s)
        except BrokerError as error:
            self._deaf(now_s, error)
            return
        self._heard_s = self._read_s = now_s
        self._told_deaf, self._senseless = False, 0
        # A session that waits over a night would take yesterday's stops for resting ones.
        end_earlier_days(self.desk, self._clock.now_ns())
        self._strangers.check()
        for symbol in self._symbols:
            self._stops.keep(symbol)
        self.desk.find_lost()

    def replay(
        self,
        moment: Moment,
        fills: Mapping[str, Sequence[Fill]],
        orders: Mapping[str, Order],
        stops: Mapping[str, int],
    ) -> Mapping[str, Sequence[Fill]]:
        """Believe the journal, and remember what it has."""
        self._take_closes(moment)
        for symbol, some in fills.items():
            self._book(symbol, some)
            for fill in some:
                self.desk.books.given(symbol, fill)
        self._replayed = dict(orders)
        self._stops.forget_entries()
        for symbol, order in orders.items():
            self._stops.expect(symbol, order.stop_ppm)
        self._stops.want(stops, self._positions)
        return fills

    def resume(self) -> None:
        """After the replay: find what was sent and not answered, take what traded meanwhile, compare the positions.

        Raises:
            BooksDiffer: the journal and the broker disagree.
            HaltTrading: an order contradicts what was known of it.
            BrokerError: the broker gave no answer for too long.
        """
        desk, books = self.desk, self.desk.books
        self._list_ticks()
        desk.read_book()
        find_unanswered(desk, self._waiter)
        for symbol, order in self._replayed.items():
            if self._bar_tag(symbol, order) not in books.orders:
                # The loop died after the decision and before the intent: it counts as unfilled.
                self._not_sent(symbol, order)
        end_earlier_days(desk, self._clock.now_ns())
        desk.agree()
        if unexplained := books.unexplained():
            raise BooksDiffer(f"the journal has fills that no trade explains: {unexplained[:3]}; no order was sent")
        self._strangers.check()
        if found := differences(books, self._agreed_positions(), self._strangers.on_our_shares()):
            raise books_differ(found)

    def stop_all(self, flatten: bool) -> Stopped:
        """Cancel every order of ours and see it over; stops of positions go on resting, unless all is closed."""
        desk, books = self.desk, self.desk.books
        desk.read_book()
        wanted = [one for one in books.open_orders() if one.leg != ADOPTED and (flatten or one.leg != STOP)]
        # What goes on is told by name.
        with suppress(HaltTrading):
            desk.settle([one for one in wanted if not one.unanswered])
        if flatten:
            desk.agree()
            close_all(desk, self._waiter, self._style, self._agreed_positions(), self._leg_tag)
        else:
            for symbol in self._symbols:
                self._stops.keep(symbol)
                self._stops.tell_bare(symbol)
        cancelled = [one for one in wanted if one.tracked.state is OrderState.CANCELLED]
        spared = () if flatten else tuple(one.tag for one in books.open_orders() if one.leg == STOP)
        still_open = [one for one in books.open_orders() if one.leg != ADOPTED and one.tag not in spared]
        held = {symbol: books.held(symbol) for symbol in self._symbols if books.held(symbol)}
        return Stopped(_names(cancelled), _names(still_open), held)

    def _send(self, symbol: str, order: Order) -> None:
        """Send a bar's order; what a stop took meanwhile is not sold again."""
        books = self.desk.books
        self._stops.expect(symbol, order.stop_ppm)
        if order.quantity * books.held(symbol) < 0:
            self._stops.take_away(symbol)
        # What the broker's own square-off will take is not there to be sold either.
        taken = sum(one.left for one in books.open_orders(symbol) if one.leg == ADOPTED)
        wanted = self._positions[symbol] + order.quantity - books.held(symbol) - taken
        quantity = max(min(wanted, order.quantity), 0) if order.quantity > 0 else min(max(wanted, order.quantity), 0)
        tick = self._tick_paise(symbol)
        if tick is None:
            self._alarm("not_listed", f"{symbol} does not trade today; its order was not sent", symbol=symbol)
        if not quantity or tick is None:
            self._not_sent(symbol, order)
            return
        request = self._style.of_bar(self._bar_tag(symbol, order), symbol, quantity, self._closes[symbol], tick)
        self.desk.post(request, BAR)

    def _not_sent(self, symbol: str, order: Order) -> None:
        body = {"symbol": symbol, "tag": self._bar_tag(symbol, order), "quantity": order.quantity}
        self.desk.books.note("", "not_sent", body)

    def _agreed_positions(self) -> dict[str, Held]:
        return agreed_positions(self.desk, self._waiter, self._held)

    def patiently(self, read: Callable[[], Any]) -> Any:
        """A reading, repeated while it fails.

        Raises:
            BrokerError: it failed for too long.
        """
        return self._waiter.patiently(read)

    def _held(self) -> dict[str, Held]:
        return self._waiter.patiently(lambda: held_by_broker(self._rest, self._symbols, self._style.product))

    def _tick_paise(self, symbol: str) -> int | None:
        if self._ticks_of != session_date(self._clock.now_ns()):
            self._list_ticks()
        return self._ticks.get(symbol)

    def _list_ticks(self) -> None:
        """The ticks of the day; a symbol that is not in the list does not trade today."""
        today = session_date(self._clock.now_ns())
        self._ticks = {row.symbol: row.tick_paise for row in self._waiter.patiently(self._rest.instruments)}
        self._ticks_of = today

    def _bar_tag(self, symbol: str, order: Order) -> str:
        return tag_of(self._identity, order.time_ns, symbol, BAR)

    def _leg_tag(self, symbol: str, leg: str) -> str:
        return tag_of(self._identity, self._clock.now_ns(), symbol, leg)

    def _take_closes(self, moment: Moment) -> None:
        self._closes.update({symbol: round(bar.close * 100) for symbol, bar in moment.bars.items()})
        self._traded = frozenset(moment.bars)

    def _book(self, symbol: str, fills: Sequence[Fill]) -> None:
        self._positions[symbol] += sum(fill.quantity for fill in fills)

    def _to_cancel(self) -> list[DeskOrder]:
        """What was submitted for the bar before, and to leave where a stop was passed."""
        return [one for one in self.desk.books.open_orders() if one.leg not in (STOP, ADOPTED)]

    def _fresh(self, read_s: float) -> bool:
        return self._waiter.now_s() - read_s <= self._waiter.patience.fresh_s

    def _compare_early(self, now_s: float) -> None:
        """Compare positions between two bars, so that it needs no request at the close."""
        if not self._waiter.patience.fresh_s:
            return
        held = held_by_broker(self._rest, self._symbols, self._style.product)
        if all(held[symbol].quantity == self.desk.books.held(symbol) for symbol in self._symbols):
            self._agreed = now_s, len(self.desk.books.trades)

    def _hinted(self) -> bool:
        """Whether the stream told of an order since the last time."""
        hinted = False
        while True:
            try:
                self._updates.get_nowait()
            except Empty:
                return hinted
            hinted = True

    def _deaf(self, now_s: float, error: BrokerError) -> None:
        log.warning("the broker's book cannot be read", error=str(error))
        # One answer that makes no sense is no reason to leave positions alone.
        self._senseless += isinstance(error, ProtocolError | Rejected)
        if self._senseless == PROTOCOL_TRIES:
            self._waiter.halt("protocol", f"the broker's answer makes no sense: {error}")
        if now_s - self._heard_s > _DEAF_S and not self._told_deaf:
            self._told_deaf = True
            self._alarm("broker_silent", f"the broker's book cannot be read for {_DEAF_S:g} s: {error}")


def _names(orders: Iterable[DeskOrder]) -> tuple[str, ...]:
    return tuple(order.tracked.order_id or order.tag for order in orders)
