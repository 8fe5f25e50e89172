"""Compares what the journal says is held with the broker's books, and takes theirs over where a user says so."""

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from finsense.live.brokers.errors import BooksDiffer, Rejected
from finsense.live.brokers.kite_rows import PositionRow
from finsense.live.desk_books import DeskBooks
from finsense.live.desk_records import Alarm, adopted_tag
from finsense.live.journal_format import Event
from finsense.live.journal_reader import JournalReader
from finsense.live.order_desk import OrderDesk, Requests
from finsense.live.orders import OrderRequest, OrderRow, state_of

_IST_S, _DAY_S, _SECOND_NS = 19_800, 86_400, 1_000_000_000
# Tags that the broker adds to orders at the market by itself.
_OWN_TAGS = "mktp"
# The broker closes intraday positions some time before the end of the day; when, it may change.
SQUARE_OFF_FROM = dt.time(15, 0)


class ReconcileError(ValueError):
    """Shares that cannot be taken over as asked."""


class Portfolio(Protocol):
    """The readings that are needed; `KiteRest` has them."""

    def positions(self) -> list[PositionRow]:
        """The day's positions."""
        ...

    def holdings(self) -> list[PositionRow]:
        """Shares of earlier days."""
        ...


class Held(NamedTuple):
    """What the broker says is held of a symbol.

    Attributes:
        quantity: signed shares.
        average_paise: of one; 0 where nothing is said.
    """

    quantity: int
    average_paise: int


class Difference(NamedTuple):
    """A symbol on which the journal and the broker disagree.

    Attributes:
        symbol: trading symbol.
        journal: signed shares by all trades that the journal knows.
        broker: signed shares at the broker.
        average_paise: what the broker says that one of its shares cost; 0 where nothing is said.
        orders: names of the orders of others on these shares.
    """

    symbol: str
    journal: int
    broker: int
    average_paise: int
    orders: tuple[str, ...]

    @property
    def missing(self) -> int:
        """Signed shares that the journal does not explain."""
        return self.broker - self.journal


def held_by_broker(portfolio: Portfolio, symbols: Collection[str], product: str) -> dict[str, Held]:
    """What is held of the symbols in a product; one that the broker does not name is held with 0 shares.

    Raises:
        BrokerError: there was no answer, which is not `flat`.
    """
    rows = portfolio.positions()
    if product == "CNC":
        rows = [*rows, *portfolio.holdings()]
    found = dict.fromkeys(sorted(symbols), Held(0, 0))
    for row in rows:
        if row.symbol in found and row.product == product:
            before = found[row.symbol]
            found[row.symbol] = Held(before.quantity + row.quantity, row.average_paise or before.average_paise)
    return found


def differences(books: DeskBooks, held: Mapping[str, Held], strangers: Sequence[OrderRow]) -> list[Difference]:
    """Where the books and the broker disagree, and where others have orders."""
    found = []
    for symbol, theirs in held.items():
        orders = tuple(row.order_id for row in strangers if row.symbol == symbol)
        if orders or theirs.quantity != books.held(symbol):
            found.append(Difference(symbol, books.held(symbol), theirs.quantity, theirs.average_paise, orders))
    return found


def table_text(found: Sequence[Difference]) -> str:
    """The differences as a table of plain text."""
    head = ("symbol", "journal", "broker", "difference", "orders that are not ours")
    rows = [
        (one.symbol, f"{one.journal:+d}", f"{one.broker:+d}", f"{one.missing:+d}", ", ".join(one.orders) or "-")
        for one in found
    ]
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def books_differ(found: Sequence[Difference]) -> BooksDiffer:
    """The exception that stops trading."""
    return BooksDiffer(
        f"the journal and the broker disagree; no order was sent\n{table_text(found)}\n"
        "`finsense reconcile CONFIG` shows this again, --accept takes the broker's quantities over"
    )


class Strangers:
    """Orders in the broker's book that are not ours: on our shares they stop trading, elsewhere they are told once.

    Args:
        desk: reads the book.
        symbols: ours.
        product: ours.
        alarm: tells people.
        read_held: reads the broker's quantities.
        square_off_from: from when on an order of nobody that only closes our intraday shares is the broker's own, time
            of day in India.
    """

    def __init__(
        self,
        desk: OrderDesk,
        symbols: Collection[str],
        product: str,
        alarm: Alarm,
        read_held: Callable[[], dict[str, Held]],
        square_off_from: dt.time = SQUARE_OFF_FROM,
    ) -> None:
        self._desk, self._symbols, self._product, self._alarm = desk, frozenset(symbols), product, alarm
        self._read_held = read_held
        self._square_off_s = square_off_from.hour * 3600 + square_off_from.minute * 60 + square_off_from.second

    def on_our_shares(self) -> list[OrderRow]:
        """Orders of others that trade, or may still trade, what we trade."""
        return [row for row in self._desk.strangers if self._touches(row)]

    def check(self) -> None:
        """Take the broker's own square-off into our books, tell of orders elsewhere.

        Raises:
            BooksDiffer: somebody else has an order on our shares.
        """
        adopted = False
        for row in self._desk.strangers:
            if not self._touches(row):
                self._tell(row)
            elif self._is_square_off(row):
                self._adopt_square_off(row)
                adopted = True
        if adopted:
            self._desk.read_book()
            self._desk.agree()
        if found := self.on_our_shares():
            raise books_differ(differences(self._desk.books, self._read_held(), found))

    def _touches(self, row: OrderRow) -> bool:
        ours = row.symbol in self._symbols and row.product in ("", self._product)
        return ours and (row.filled_quantity > 0 or not state_of(row.status).over)

    def _is_square_off(self, row: OrderRow) -> bool:
        """Without a tag of anybody, late in the day, and closing what we hold in an intraday product."""
        held = self._desk.books.held(row.symbol)
        signed = row.quantity if row.side == "BUY" else -row.quantity
        time_s = (row.time_ns // _SECOND_NS + _IST_S) % _DAY_S
        closes = signed * held < 0 and abs(signed) <= abs(held)
        untagged = all(tag.startswith(_OWN_TAGS) for tag in row.tags)
        return row.product == "MIS" and untagged and closes and time_s >= self._square_off_s

    def _adopt_square_off(self, row: OrderRow) -> None:
        adopt(self._desk, row)
        told = (
            f"the broker itself closes {row.quantity} {row.symbol} ({row.order_id}) and charges for it: be flat earlier"
        )
        self._alarm("squared_off", told, symbol=row.symbol)

    def _tell(self, row: OrderRow) -> None:
        if row.order_id in self._desk.books.seen_elsewhere:
            return
        self._desk.books.note("", "elsewhere", {"order_id": row.order_id, "symbol": row.symbol})
        told = f"an order that is not ours: {row.side} {row.quantity} {row.symbol} ({row.order_id})"
        self._alarm("other_order", told, symbol=row.symbol)


def adopt(desk: OrderDesk, row: OrderRow) -> None:
    """Take an order of somebody else on our shares into our books; the next reading brings its trades."""
    body = {"number": desk.books.last_number + 1, "row": row._asdict()}
    desk.books.note(adopted_tag(row.order_id), "adopted_order", body)


class Sketch:
    """Takes what a journal says and what is learned beside it, and writes nothing down.

    Args:
        journal: read only.
    """

    def __init__(self, journal: JournalReader) -> None:
        self._journal = journal

    def events(self) -> Iterator[Event]:
        """Those of the journal."""
        return self._journal.events()

    def note(self, tag: str, what: str, body: Mapping[str, Any], time_ns: int) -> None:
        """Nothing is written: who only looks changes nothing."""


class OnlyReading:
    """The readings of a broker, for a desk that must send nothing.

    Args:
        rest: the requests.
    """

    def __init__(self, rest: Requests) -> None:
        self.orders, self.trades = rest.orders, rest.trades

    def place(self, request: OrderRequest) -> str:
        """Refused."""
        raise Rejected("who only looks sends no order")

    def modify(self, order_id: str, request: OrderRequest) -> str:
        """Refused."""
        raise Rejected("who only looks changes no order")

    def cancel(self, order_id: str) -> str:
        """Refused."""
        raise Rejected("who only looks cancels no order")


def accept(
    desk: OrderDesk,
    strangers: Strangers,
    read_held: Callable[[], dict[str, Held]],
    time_ns: int,
    prices_paise: Mapping[str, int],
) -> list[Difference]:
    """Take the broker's quantities over; returns what was taken without trades that explain it.

    Orders of others come with their trades, at their prices. What no trade explains is booked at the price that the
    user gives, else at the broker's average; in the journal it is marked as taken over.

    Args:
        desk: of the account; its book was read.
        strangers: see there.
        read_held: reads the broker's quantities.
        time_ns: instant of what is taken over, ns UTC.
        prices_paise: symbol -> price of one share, for what no trade explains.

    Raises:
        ReconcileError: somebody else's order still works, or no price is known; nothing more was taken over.
    """
    found = strangers.on_our_shares()
    if working := [row for row in found if not state_of(row.status).over]:
        told = ", ".join(f"{row.symbol} ({row.order_id}, {row.status})" for row in working)
        raise ReconcileError(f"orders of others still work: {told}; cancel them at the broker, then try again")
    for row in found:
        adopt(desk, row)
    desk.read_book()
    desk.agree()
    left = differences(desk.books, read_held(), [])
    if unpriced := [one.symbol for one in left if not prices_paise.get(one.symbol, one.average_paise)]:
        raise ReconcileError(
            f"the broker names no price for {', '.join(unpriced)}: give one with --price {unpriced[0]}=RUPEES"
        )
    for one in left:
        number = desk.books.last_number + 1
        trade = {
            "trade_id": f"taken{number}",
            "order_id": "",
            "symbol": one.symbol,
            "quantity": one.missing,
            "price_paise": prices_paise.get(one.symbol, one.average_paise),
            "time_ns": time_ns,
            "number": number,
        }
        desk.books.note("", "adopted_shares", trade)
    return left
