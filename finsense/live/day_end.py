"""The end of a trading day: orders, trades and charges are read once more and compared with what the account booked."""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Protocol

from finsense.account.session import Fill
from finsense.live.desk_books import DeskBooks
from finsense.live.desk_records import Alarm
from finsense.live.journal_format import MomentRecord
from finsense.live.orders import OrderRow, TradeRow, state_of
from finsense.market.bars import session_day
from finsense.market.calendar import session_date
from finsense.market.contract_note import NoteFill, ScripNote, contract_note
from finsense.market.costs import ChargeRules, order_charges


class Book(Protocol):
    """The readings that are needed; `KiteRest` has them."""

    def orders(self) -> list[OrderRow]:
        """The day's orders."""
        ...

    def trades(self) -> list[TradeRow]:
        """The day's executions."""
        ...


@dataclass(frozen=True)
class ScripCharges:
    """What a day of one symbol cost, three times.

    Attributes:
        symbol: trading symbol.
        account_paise: as the account charges its orders.
        note_paise: as the broker's contract note will have it, with the depository charge.
        bound_paise: how far the two may lie apart by rounding; None where no bound is proven (bought and sold in
            delivery, or not flat in intraday).
    """

    symbol: str
    account_paise: int
    note_paise: int
    bound_paise: int | None

    @property
    def agrees(self) -> bool:
        """Whether the two lie no further apart than rounding explains."""
        return self.bound_paise is None or abs(self.account_paise - self.note_paise) <= self.bound_paise


@dataclass(frozen=True)
class DayEnd:
    """What the end of a day found.

    Attributes:
        date: of the day.
        orders: ours in the broker's book.
        trades: of them.
        unbooked: trades that the account books with its next bar.
        charged_paise: what the account's cash paid for charges in the day's bars.
        charges: one per traded symbol.
        problems: what does not agree, in words; empty on a good day.
    """

    date: dt.date
    orders: int
    trades: int
    unbooked: int
    charged_paise: int
    charges: tuple[ScripCharges, ...]
    problems: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "date": self.date.isoformat()}

    def text(self) -> str:
        """As plain text."""
        lines = [
            f"{self.date}: {self.orders} orders, {self.trades} trades, {self.unbooked} of them not booked yet; charges "
            f"{self.charged_paise / 100:.2f}"
        ]
        for one in self.charges:
            bound = "no bound is proven" if one.bound_paise is None else f"may differ by {one.bound_paise / 100:.2f}"
            account, note = one.account_paise / 100, one.note_paise / 100
            lines.append(f"  {one.symbol}: account {account:.2f}, contract note {note:.2f} ({bound})")
        return "\n".join(lines + [f"  WRONG: {problem}" for problem in self.problems])


class _Tariff:
    """The account's own charges: each order whole, the depository charge with a day's first delivery sale."""

    def __init__(self, rules: ChargeRules, intraday: bool) -> None:
        self._rules, self._intraday = rules, intraday
        self._filled: dict[tuple[str, int], int] = {}
        self._dp: set[tuple[str, int]] = set()

    def charge(self, symbol: str, fill: Fill) -> int:
        """What one more fill costs, paise; in the order of booking."""
        date = session_date(fill.time_ns)
        schedule = self._rules.schedules()[self._rules.schedule_index(date)]
        side, value = (1 if fill.quantity > 0 else -1), abs(fill.quantity) * fill.price_paise
        before = self._filled.get((symbol, fill.order), 0) if fill.order else 0
        charges = int(order_charges(schedule, self._intraday, side, before + value))
        if before:
            charges -= int(order_charges(schedule, self._intraday, side, before))
        if fill.order:
            self._filled[symbol, fill.order] = before + value
        key = symbol, session_day(date)
        if side < 0 and not self._intraday and key not in self._dp:
            self._dp.add(key)
            charges += int(schedule["dp_paise"])
        return charges


def day_end(
    book: Book,
    books: DeskBooks,
    records: Iterable[MomentRecord],
    date: dt.date,
    rules: ChargeRules,
    *,
    product: str,
    opening_cash_paise: int,
    alarm: Alarm,
    patiently: Callable[[Callable[[], Any]], Any] = lambda read: read(),
) -> DayEnd:
    """Read the day's book once more and compare.

    Args:
        book: the broker's.
        books: the desk's.
        records: of the journal, from its beginning.
        date: of the day; the broker's book is of today.
        rules: which schedule prices the trades.
        product: MIS or CNC.
        opening_cash_paise: of the account, before the first record.
        alarm: is told of every problem.
        patiently: repeats a reading that fails.

    Raises:
        BrokerError: there was no answer.
    """
    rows = [row for row in patiently(book.orders) if books.order_of(row.order_id)]
    trades = [row for row in patiently(book.trades) if books.order_of(row.order_id)]
    booked, charged, wrong = _booked(records, date, _Tariff(rules, product == "MIS"), opening_cash_paise)
    unbooked = [one for one in books.trades if not _take(booked, (one.symbol, one.fill))]
    problems = [
        *_not_final(rows, books),
        *_trades_differ(rows, trades, books, date),
        *(f"the account booked {fill} of {symbol}, which no trade explains" for symbol, fill in booked.elements()),
        *wrong,
    ]
    charges = _charges(trades, books, date, rules, product)
    problems += [
        f"{one.symbol}: the account charged {one.account_paise} paise and the contract note has {one.note_paise}; they "
        f"may differ by {one.bound_paise}"
        for one in charges
        if not one.agrees
    ]
    for problem in problems:
        alarm("day_end", problem)
    return DayEnd(date, len(rows), len(trades), len(unbooked), charged, charges, tuple(problems))


def _booked(
    records: Iterable[MomentRecord], date: dt.date, tariff: _Tariff, cash_paise: int
) -> tuple[Counter[tuple[str, Fill]], int, list[str]]:
    """All fills of the records, what the day's charged in cash, and where that is not what the tariff says."""
    booked: Counter[tuple[str, Fill]] = Counter()
    charged, problems = 0, []
    for record in records:
        paid = cash_paise - record.cash_paise
        cash_paise = record.cash_paise
        due = 0
        for symbol in sorted(record.fills):
            for fill in record.fills[symbol]:
                booked[symbol, fill] += 1
                due += tariff.charge(symbol, fill)
                paid -= fill.quantity * fill.price_paise
        if session_date(record.moment.time_ns) == date:
            charged += paid
            if paid != due:
                problems.append(f"a bar's fills were charged {paid} paise, and its orders cost {due}")
    return booked, charged, problems


def _take(counted: Counter[tuple[str, Fill]], key: tuple[str, Fill]) -> bool:
    """Take one of a key out; false where there is none."""
    if not counted[key]:
        del counted[key]
        return False
    counted[key] -= 1
    return True


def _not_final(rows: Sequence[OrderRow], books: DeskBooks) -> list[str]:
    """Orders of ours that may still fill."""
    ids = {row.order_id for row in rows if not state_of(row.status).over}
    ids |= {order.tracked.order_id or order.tag for order in books.open_orders()}
    return [f"order {name} is not over" for name in sorted(ids)]


def _trades_differ(rows: Sequence[OrderRow], trades: Sequence[TradeRow], books: DeskBooks, date: dt.date) -> list[str]:
    """Where the broker's trades are not ours, or not what its own book says."""
    theirs = {(row.order_id, row.trade_id): (row.symbol, _signed(row), row.price_paise) for row in trades}
    ours = {
        (one.order_id, one.trade_id): (one.symbol, one.quantity, one.price_paise)
        for one in books.trades
        if one.order_id and session_date(one.time_ns) == date
    }
    told = [
        f"trade {key[1]} of order {key[0]}: the journal has {ours.get(key)}, the broker {theirs.get(key)}"
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key)
    ]
    filled: Counter[str] = Counter()
    for row in trades:
        filled[row.order_id] += row.quantity
    return told + [
        f"order {row.order_id}: {row.filled_quantity} shares are filled and {filled[row.order_id]} traded"
        for row in rows
        if row.filled_quantity != filled[row.order_id]
    ]


def _charges(
    trades: Sequence[TradeRow], books: DeskBooks, date: dt.date, rules: ChargeRules, product: str
) -> tuple[ScripCharges, ...]:
    """The day's charges of every symbol, as the account and as the contract note have them."""
    of_symbol: dict[str, list[TradeRow]] = defaultdict(list)
    for row in sorted(trades, key=lambda row: row.time_ns):
        of_symbol[row.symbol].append(row)
    tariff, found = _Tariff(rules, product == "MIS"), []
    for symbol, some in sorted(of_symbol.items()):
        account = 0
        for row in some:
            order = books.order_of(row.order_id)
            assert order is not None
            account += tariff.charge(symbol, Fill(row.time_ns, _signed(row), row.price_paise, order.number))
        fills = [
            NoteFill(row.time_ns, symbol, row.side.lower(), row.quantity, row.price_paise, product, row.order_id)
            for row in some
        ]
        (note,) = contract_note(fills, rules)
        found.append(ScripCharges(symbol, account, note.total_paise, _bound(some, note, rules, product)))
    return tuple(found)


def _bound(trades: Sequence[TradeRow], note: ScripNote, rules: ChargeRules, product: str) -> int | None:
    """How far the account's charges of a scrip-day may lie from the note's, paise: see tests/test_contract_note.py."""
    sides = {row.order_id: row.side for row in trades}
    count, buys = len(sides), sum(side == "BUY" for side in sides.values())
    value = sum(_signed(row) * row.price_paise for row in trades)
    flat = sum(_signed(row) for row in trades) == 0
    rounding = Fraction(3 * (count + 1) + buys + 1, 2) + Fraction(18, 100) * (count + 1) + Fraction(count + 1, 2)
    if product == "MIS" and flat:
        schedule = rules.schedules()[rules.schedule_index(note.date)]
        stt = Fraction(int(schedule["stt_intraday_sell_nano"]), 10**9) * abs(value) / 2
        return int(rounding + Fraction(count - buys, 2) + 50 + stt)
    if product == "CNC" and buys in (0, count):
        return int(rounding + Fraction(count, 2) + 50)
    return None


def _signed(row: TradeRow) -> int:
    return row.quantity if row.side == "BUY" else -row.quantity
