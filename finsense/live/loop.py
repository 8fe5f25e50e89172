"""The live loop: the lines a backtest runs, with a journal between the decision and the order."""

import sqlite3
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from finsense.account.joint import Books, Choice, JointSession
from finsense.account.remedies import explain_drops
from finsense.account.session import Fill, Observation, Order
from finsense.account.trace import Recorder
from finsense.live.brokers import Broker, Stopped
from finsense.live.brokers.errors import AuthExpired, BooksDiffer, BrokerError, HaltTrading
from finsense.live.feeds import Feed
from finsense.live.journal import Journal
from finsense.live.journal_format import BarRecord, JournalError, MomentRecord
from finsense.market.bars import ist_text
from finsense.market.moments import Moment
from finsense.model.policy import Decision, Policy

log = structlog.get_logger()
Fills = Mapping[str, Sequence[Fill]]
_NO_ORDER = Order(0, 0)
# One float32 as numpy writes it.
_PROBABILITY = struct.Struct("=f")
# Hears of every moment that was traded: bars, books, orders, and why some of them did not leave.
Tell = Callable[[Moment, Books, Mapping[str, Order], Mapping[str, str]], None]


def quiet(moment: Moment, books: Books, orders: Mapping[str, Order], refused: Mapping[str, str]) -> None:
    """Tell nobody."""


class Watch(Protocol):
    """The last wall: what training cannot know and what must stop an order, or everything."""

    def check(self, orders: Mapping[str, Order], moment: Moment, books: Books) -> Mapping[str, str]:
        """Which of the orders must not leave: symbol -> reason."""
        ...

    def look(self) -> None:
        """Look around between two bars.

        Raises:
            HaltTrading: trading must stop.
        """
        ...


class NoWatch:
    """For a session over recorded bars, where nothing is late and nobody pulls a switch."""

    def check(self, orders: Mapping[str, Order], moment: Moment, books: Books) -> Mapping[str, str]:
        """All may leave."""
        return {}

    def look(self) -> None:
        """Nothing can have happened."""


class LiveLoop:
    """Runs a policy over a feed and a broker; recovers from its journal when it starts.

    Args:
        session: warmed with the history before the first traded bar.
        policy: decides for every symbol; one that learns while it trades learns each apart.
        broker: takes the orders.
        journal: remembers everything.
        watch: the last wall.
        tell: see `Tell`.

    Attributes:
        recorders: symbol -> every traded bar, those recovered from the journal included.
        dropped: reason -> how many choices ordered nothing because an earlier order of the same moment was in the way,
            those recovered included.
        time_ns: start of the last moment, ns UTC; 0 before the first.
        halting: whether trading is being stopped, so that nobody needs to be told so again.
        stopped: what became of the orders when trading was halted; None while it was not, or could not be found out.
    """

    def __init__(
        self,
        session: JointSession,
        policy: Policy,
        broker: Broker,
        journal: Journal,
        watch: Watch | None = None,
        tell: Tell = quiet,
    ) -> None:
        self._session = session
        self._policies = {symbol: policy.begin() for symbol in session.symbols}
        self._broker = broker
        self._journal = journal
        self._watch = watch or NoWatch()
        self.recorders = {symbol: Recorder() for symbol in session.symbols}
        self.dropped: Counter[str] = Counter()
        self._tell = tell
        self.time_ns = 0
        self.stopped: Stopped | None = None
        self.halting = False

    def recover(self) -> int:
        """Replay the journal into the session and the broker, and let the broker compare; how many moments there were.

        Raises:
            JournalError: the replay does not give what was journalled, to the bit.
            BooksDiffer: the broker's books are not those of the journal.
        """
        count = 0
        for record in self._journal.records():
            self._replay(record)
            count += 1
        self._broker.resume()
        return count

    def run(self, feed: Feed, stop: Callable[[], bool] = lambda: False) -> None:
        """Trade every moment of the feed that the journal does not have yet.

        It ends with the feed, when `stop` says so, or when the account is ruined.

        Raises:
            BooksDiffer: the broker's books are not the session's.
            HaltTrading: something is doubtful, or the kill switch was pulled; our orders are cancelled.
        """
        last_ns = self._journal.last_time_ns
        try:
            for moment in feed:
                if self._session.ruined or stop():
                    return
                self._watch.look()
                if moment is None:
                    self._broker.look()
                    self._journal.tidy()
                elif last_ns is None or moment.time_ns > last_ns:
                    self._trade(moment)
        except (HaltTrading, BooksDiffer) as halt:
            self._halt(halt)
            raise
        except AuthExpired:
            # Nothing is over: a new login is waited for.
            raise
        except (BrokerError, ValueError, sqlite3.Error) as error:
            # What nobody foresaw must not leave orders working that nobody follows.
            self._halt(HaltTrading(f"the session cannot go on: {type(error).__name__}: {error}"))
            raise

    def _trade(self, moment: Moment) -> None:
        session = self._session
        fills = self._broker.fills(moment)
        session.settle(fills)
        self._compare_books(moment, fills)
        seen = session.observe(moment)
        decisions = {symbol: self._decide(symbol, moment, one) for symbol, one in seen.items()}
        orders = session.order({symbol: _choice(decision) for symbol, decision in decisions.items()})
        stops, books = session.stops(), session.books()
        late = _explained(session, orders) if session.dropped else {}
        refused = {**late, **self._watch.check(orders, moment, books)}
        # The intent is on disk before it leaves; a broker that flushes each one anyway takes this record along.
        flush = bool(orders or stops) and not self._broker.flushes_intents
        self._journal.append(moment, fills, seen, decisions, orders, stops, refused, books, flush=flush)
        actions = {symbol: decision.action for symbol, decision in decisions.items()}
        sent = self._finish(moment, seen, actions, orders, refused)
        self._broker.submit(sent)
        self._broker.protect(stops)
        self._tell(moment, books, orders, refused)

    def _decide(self, symbol: str, moment: Moment, seen: Observation) -> Decision:
        policy = self._policies[symbol]
        policy.learn(moment.bars[symbol])
        return policy.act(seen.state, seen.mask)

    def _finish(
        self,
        moment: Moment,
        seen: Mapping[str, Observation],
        actions: Mapping[str, int],
        orders: Mapping[str, Order],
        refused: Mapping[str, str],
    ) -> dict[str, Order]:
        """Record the moment; the orders that leave."""
        self.time_ns = moment.time_ns
        if self._session.dropped:
            self.dropped.update(self._session.dropped.values())
        for place, symbol in enumerate(self._session.symbols):
            if symbol in seen:
                quantity = orders[symbol].quantity if symbol in orders else 0
                account = self._session.accounts[place : place + 1]
                self.recorders[symbol].append(moment.time_ns, seen[symbol], actions[symbol], quantity, account)
        if self._session.ruined:
            return {}
        return {symbol: order for symbol, order in orders.items() if symbol not in refused}

    def _replay(self, record: MomentRecord) -> None:
        session, moment = self._session, record.moment
        sent = {
            row.symbol: Order(moment.time_ns, row.order_quantity, row.stop_ppm)
            for row in record.rows
            if row.order_quantity and not row.refused
        }
        stops = {row.symbol: row.stop_paise for row in record.rows if row.stop_paise}
        fills = {symbol: list(some) for symbol, some in self._broker.replay(moment, record.fills, sent, stops).items()}
        if {symbol: some for symbol, some in fills.items() if some} != record.fills:
            raise self._stale(record, f"fills {record.fills}", f"{fills}")
        session.settle(fills)
        seen = session.observe(moment)
        choices: dict[str, Choice] = {}
        for row in record.rows:
            self._recall(record, row, seen.get(row.symbol))
            if row.symbol in seen:
                choices[row.symbol] = _journalled_choice(row)
        orders, books, resting = session.order(choices), session.books(), session.stops()
        for symbol, *kept in ((row.symbol, row.order_quantity, row.stop_ppm, row.position) for row in record.rows):
            order = orders.get(symbol, _NO_ORDER)
            if [order.quantity, order.stop_ppm, books.positions[symbol]] != kept:
                told = f"{symbol}: order, distance of its stop and position {kept}"
                raise self._stale(record, told, f"{order} and {books.positions[symbol]}")
        theirs = stops, record.cash_paise, record.equity_paise
        if (resting, books.cash_paise, books.equity_paise) != theirs:
            raise self._stale(record, f"stops, cash and equity {theirs}", f"{resting} and {books}")
        refused = {row.symbol: row.refused for row in record.rows if row.refused}
        self._finish(moment, seen, {symbol: choice.action for symbol, choice in choices.items()}, orders, refused)

    def _recall(self, record: MomentRecord, row: BarRecord, seen: Observation | None) -> None:
        """Compare what was seen with the journal, and let the policy go on as if it had decided."""
        state, mask = (seen.state.tobytes(), seen.mask.tobytes()) if seen else (b"", b"")
        if (state, mask) != (row.state, row.mask):
            raise self._stale(record, f"another state or mask of {row.symbol}", "the kernels of this version")
        if seen is not None:
            policy = self._policies[row.symbol]
            policy.learn(record.moment.bars[row.symbol])
            if policy.recall(row.votes) != row.votes:
                raise self._stale(record, f"other votes on {row.symbol}", "the members of this policy")

    def _compare_books(self, moment: Moment, fills: Fills) -> None:
        ours, theirs = self._session.books(), self._broker.account()
        held = {symbol: shares for symbol, shares in ours.positions.items() if shares}
        held_there = {symbol: shares for symbol, shares in theirs.positions.items() if shares}
        cash = ours.cash_paise if theirs.cash_paise is None else theirs.cash_paise
        if (ours.cash_paise, held) != (cash, held_there):
            raise BooksDiffer(
                f"{ist_text(moment.time_ns)}: the session has {ours.cash_paise} paise and {held or 'no shares'}, the "
                f"broker {cash} paise and {held_there or 'no shares'} after the fills {dict(fills)}; no order was sent"
            )

    def _halt(self, halt: HaltTrading | BooksDiffer) -> None:
        self.halting = True
        flatten = isinstance(halt, HaltTrading) and halt.flatten
        body = {"reason": str(halt), "flatten": flatten, "kind": type(halt).__name__}
        self._note("halt", body)
        try:
            self.stopped = self._broker.stop_all(flatten)
        except (BrokerError, HaltTrading, BooksDiffer, sqlite3.Error) as error:
            # Why it halted is told, not that the broker would not hear of it; nobody is answered.
            self._note("not_halted", {**body, "why": str(error)})
            return
        self._note("halted", {**body, **self.stopped._asdict()})

    def _note(self, what: str, body: Mapping[str, Any]) -> None:
        """Write an event of the session; a disk that is full must not keep orders from being cancelled."""
        try:
            self._journal.note("", what, body, self.time_ns)
        except sqlite3.Error as error:
            log.error("an event is not in the journal", what=what, why=str(error), **body)

    def _stale(self, record: MomentRecord, expected: str, found: str) -> JournalError:
        return JournalError(
            f"{self._journal.path}: the bars of {ist_text(record.moment.time_ns)} do not replay: the journal has "
            f"{expected}, the replay gives {found}; it was written by another version, or changed. No order was sent"
        )


def _explained(session: JointSession, orders: Mapping[str, Order]) -> dict[str, str]:
    """Why choices came too late at this bar, and what could be closed for them."""
    books = session.accounts[["position", "close_paise"]].tolist()
    held = {
        symbol: abs(shares) * price for symbol, (shares, price) in zip(session.symbols, books, strict=True) if shares
    }
    scores = session.scores
    worth = {symbol: paise for symbol, paise in held.items() if symbol in scores and symbol not in orders}
    return explain_drops(session.dropped, scores, worth)


def _choice(decision: Decision) -> Choice:
    return Choice(decision.action, decision.confidence)


def _journalled_choice(row: BarRecord) -> Choice:
    return Choice(row.action, _PROBABILITY.unpack_from(row.probabilities, row.action * _PROBABILITY.size)[0])
