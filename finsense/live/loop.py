"""The live loop: the lines a backtest runs, with a journal between the decision and the order."""

from collections.abc import Callable, Sequence

from finsense.account.session import Fill, Observation, Order, Session
from finsense.account.trace import Recorder
from finsense.live.brokers import Broker
from finsense.live.feeds import Feed
from finsense.live.journal import Journal, JournalError, Record
from finsense.market.bars import Bar, ist_text
from finsense.model.policy import Policy


class BooksDiffer(RuntimeError):
    """The broker and the session disagree about cash or position; trading stops."""


class LiveLoop:
    """Runs a policy over a feed and a broker; recovers from its journal when it starts.

    Args:
        session: warmed with the history before the first traded bar.
        policy: decides.
        broker: takes the orders.
        journal: remembers everything.

    Attributes:
        recorder: every traded bar, those recovered from the journal included.
    """

    def __init__(self, session: Session, policy: Policy, broker: Broker, journal: Journal) -> None:
        self._session = session
        self._policy = policy.begin()
        self._broker = broker
        self._journal = journal
        self.recorder = Recorder()

    def recover(self) -> int:
        """Replay the journal into the session and the paper broker; returns the number of bars recovered.

        Raises:
            JournalError: the replay does not give what was journalled, to the bit.
        """
        for record in self._journal.records():
            fills = list(self._broker.fills(record.bar))
            if fills != ([record.fill] if record.fill else []):
                raise JournalError(self._stale(record, f"fills {record.fill}", f"{fills}"))
            self._session.settle(fills)
            seen = self._session.observe(record.bar)
            if seen is None or seen.state.tobytes() != record.state or seen.mask.tobytes() != record.mask:
                raise JournalError(self._stale(record, "another state or mask", "the kernels of this version"))
            self._policy.learn(record.bar)
            if self._policy.recall(record.votes) != record.votes:
                raise JournalError(self._stale(record, "other votes", "the members of this policy"))
            order = self._session.order(record.action)
            self._finish(record.bar, seen, record.action, order)
            if (order.quantity if order else 0, *self._books()) != record[7:11]:
                raise JournalError(self._stale(record, f"order and books {record[7:11]}", f"{order}, {self._books()}"))
        return len(self.recorder)

    def run(self, feed: Feed, stop: Callable[[], bool] = lambda: False) -> None:
        """Trade every bar of the feed that the journal does not have yet.

        It ends with the feed, when `stop` says so, or when the account is ruined.

        Raises:
            BooksDiffer: the broker's books are not the session's.
        """
        last_ns = self._journal.last_time_ns
        for bar in feed:
            if self._session.ruined:
                return
            if last_ns is not None and bar.time_ns <= last_ns:
                continue
            if stop():
                return
            self._trade(bar)

    def _trade(self, bar: Bar) -> None:
        fills = self._broker.fills(bar)
        self._session.settle(fills)
        self._compare_books(bar, fills)
        seen = self._session.observe(bar)
        if seen is None:
            return
        self._policy.learn(bar)
        decision = self._policy.act(seen.state, seen.mask)
        order = self._session.order(decision.action)
        self._journal.append(bar, fills, seen, decision, order, self._books())  # the intent is on disk before it leaves
        self._finish(bar, seen, decision.action, order)

    def _finish(self, bar: Bar, seen: Observation, action: int, order: Order | None) -> None:
        self.recorder.append(bar.time_ns, seen, action, order.quantity if order else 0, self._session.account)
        if order and not self._session.ruined:
            self._broker.submit(order)

    def _books(self) -> tuple[int, int, int]:
        account = self._session.account
        return account["cash_paise"].item(), account["position"].item(), account["equity_paise"].item()

    def _compare_books(self, bar: Bar, fills: Sequence[Fill]) -> None:
        cash_paise, position, _ = self._books()
        theirs = self._broker.account()
        if (cash_paise, position) != theirs:
            raise BooksDiffer(
                f"{ist_text(bar.time_ns)}: the session has {cash_paise} paise and {position} shares, the broker "
                f"{theirs.cash_paise} paise and {theirs.position} shares after {list(fills)}; no order was sent"
            )

    def _stale(self, record: Record, expected: str, found: str) -> str:
        return (
            f"{self._journal.path}: the bar of {ist_text(record.bar.time_ns)} does not replay: the journal has "
            f"{expected}, the replay gives {found}; it was written by another version, or changed. No order was sent"
        )
