"""Kill it at any record and start again: the same session, no order twice, none lost."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from bundles import make_bundle, market, setting
from test_law_parity import _write

from finsense.account.joint import JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.session import Fill, Order
from finsense.cli.options import setting_of
from finsense.cli.paper import paper_trade
from finsense.evaluation.backtest import backtest
from finsense.live.brokers import BrokerAccount
from finsense.live.brokers.errors import BooksDiffer
from finsense.live.brokers.paper import PaperBroker
from finsense.live.feeds.replay import ReplayFeed
from finsense.live.journal import Journal, identity_text
from finsense.live.journal_format import JournalError
from finsense.live.journal_reader import JournalReader
from finsense.live.loop import LiveLoop
from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.moments import Moment
from finsense.model.bundle import Bundle
from finsense.state.span import split_history


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("journal") / "policy", setting())


@pytest.fixture(scope="module")
def bars() -> Bars:
    return market(sessions=6)


class _Crash(BaseException):
    """Stands for the process's death between two lines of the loop."""


class _CrashingBroker(PaperBroker):
    """Dies at its n-th call, before or after doing what was asked."""

    def __init__(self, exchange: JointExchange, crash_at: int, after: bool) -> None:
        super().__init__(exchange)
        self.calls = 0
        self._crash_at, self._after = crash_at, after

    def _maybe(self, now: bool) -> None:
        if self.calls == self._crash_at and now == self._after:
            raise _Crash

    def submit(self, orders: Mapping[str, Order]) -> None:
        self.calls += 1
        self._maybe(False)
        super().submit(orders)
        self._maybe(True)

    def fills(self, moment: Moment) -> dict[str, list[Fill]]:
        self.calls += 1
        self._maybe(False)
        found = super().fills(moment)
        self._maybe(True)
        return found


def _desk(bundle: Bundle, opened: Journal, history: Bars) -> tuple[JointSession, JointExchange]:
    """An account and its exchange, warmed."""
    terms, stocks = setting_of(bundle), [instrument("SIM")]
    session = JointSession(stocks, "5m", terms.state, terms.account, terms.costs)
    exchange = JointExchange(stocks, "5m", terms.account, terms.costs)
    for bar in opened.begin({"SIM": list(history)})["SIM"]:
        session.warm("SIM", bar)
        exchange.warm("SIM", bar)
    return session, exchange


def _run_until_crash(bundle: Bundle, bars: Bars, journal: Path, crash_at: int, after: bool) -> bool:
    """One life of the process; true when it came to the end."""
    history, trading = split_history(bars, setting_of(bundle).state)
    with Journal(journal, identity_text(test="crash")) as opened:
        session, exchange = _desk(bundle, opened, history)
        loop = LiveLoop(session, bundle.policy, PaperBroker(exchange), opened)
        loop.recover()
        loop._broker = _CrashingBroker(exchange, crash_at, after)
        try:
            loop.run(ReplayFeed([trading]))
        except _Crash:
            return False
    return True


def test_killed_at_any_call_and_restarted_it_is_the_same_session(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    """Dies again and again, a random number of broker calls into each life; the end equals an undisturbed run."""
    journal = tmp_path / "journal.db"
    dice = random.Random(7)
    lives = 1
    while not _run_until_crash(bundle, bars, journal, dice.randint(1, 40), dice.random() < 0.5):
        lives += 1
    assert lives > 10
    history, trading = split_history(bars, setting().state)
    undisturbed, _, _ = paper_trade(bundle, history, trading, tmp_path / "other.db")
    rows = [_rows(journal), _rows(tmp_path / "other.db")]
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(trading)
    assert undisturbed.digest() == backtest("random", bundle.policy, bars, setting()).trace.digest()


@pytest.mark.parametrize("kept", [0, 1, 2, 57, 150, 224])
def test_cut_after_any_record_it_goes_on_exactly(bundle: Bundle, bars: Bars, tmp_path: Path, kept: int) -> None:
    """A journal that ends after `kept` bars is recovered, the rest is traded, and the trace is whole."""
    history, trading = split_history(bars, setting().state)
    whole, _, _ = paper_trade(bundle, history, trading, tmp_path / "whole.db")
    if kept:
        paper_trade(bundle, history, trading.take(0, kept), tmp_path / "cut.db")
    again, recovered, _ = paper_trade(bundle, history, trading, tmp_path / "cut.db")
    assert recovered == kept
    assert again.digest() == whole.digest()
    _, recovered, _ = paper_trade(bundle, history, trading, tmp_path / "cut.db")
    assert recovered == len(trading), "a finished session is recovered and nothing is traded again"


def test_a_killed_process_goes_on_where_it_was(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    """The real command, killed with SIGKILL while it runs, three times."""
    data = _write(bars, tmp_path / "bars.parquet")
    journal = tmp_path / "journal.db"
    command = [
        sys.executable, "-c", "from finsense.cli.main import main; main()", "paper", "--bundle", str(bundle.path),
        "--replay", str(data), "--symbol", "SIM", "--journal", str(journal), "--json",
    ]  # fmt: skip
    environment = {**os.environ, "COLUMNS": "200"}
    for _ in range(3):
        before = _records(journal)
        process = subprocess.Popen([*command, "--speed", "60000"], stdout=subprocess.DEVNULL, env=environment)
        while _records(journal) < before + 20 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    subprocess.run([*command, "--speed", "max"], stdout=subprocess.DEVNULL, env=environment, check=True)
    history, trading = split_history(bars, setting().state)
    trace, recovered, _ = paper_trade(bundle, history, trading, tmp_path / "undisturbed.db")
    rows = [_rows(journal), _rows(tmp_path / "undisturbed.db")]
    assert rows[0] == rows[1]
    assert recovered == 0
    assert len(trace.time_ns) == len(trading)


def _rows(journal: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(journal)) as database:
        rows = database.execute("SELECT * FROM moments JOIN bars USING (seq) LEFT JOIN fills USING (seq) ORDER BY seq")
        return list(rows)


def _records(journal: Path) -> int:
    """Moments in the journal of a running process."""
    try:
        with closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM moments").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def test_another_sessions_journal_is_refused_untouched(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    history, trading = split_history(bars, setting().state)
    journal = tmp_path / "journal.db"
    paper_trade(bundle, history, trading.take(0, 20), journal)
    before = journal.read_bytes()
    other = make_bundle(tmp_path / "other", setting(), seed=3)
    with pytest.raises(JournalError, match="bundle: the journal has"):
        paper_trade(other, history, trading, journal)
    assert journal.read_bytes() == before


def test_a_changed_record_does_not_replay(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    history, trading = split_history(bars, setting().state)
    journal = tmp_path / "journal.db"
    paper_trade(bundle, history, trading.take(0, 60), journal)
    with closing(sqlite3.connect(journal, isolation_level=None)) as database:
        database.execute("DROP TRIGGER moments_no_update")
        database.execute("UPDATE moments SET cash_paise = cash_paise + 1 WHERE seq = (SELECT max(seq) FROM moments)")
    with pytest.raises(JournalError, match="do not replay"):
        paper_trade(bundle, history, trading, journal)


class _LyingBroker(PaperBroker):
    """Says it has one share more than it has."""

    def account(self) -> BrokerAccount:
        cash_paise, positions = super().account()
        return BrokerAccount(cash_paise, {"SIM": positions["SIM"] + 1})


def test_a_broker_with_other_books_stops_the_loop_before_an_order(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    history, trading = split_history(bars, setting_of(bundle).state)
    with Journal(tmp_path / "journal.db", identity_text(test="books")) as journal:
        session, exchange = _desk(bundle, journal, history)
        loop = LiveLoop(session, bundle.policy, _LyingBroker(exchange), journal)
        with pytest.raises(BooksDiffer, match="no order was sent"):
            loop.run(ReplayFeed([trading]))
        assert journal.last_time_ns is None
        assert [event.what for event in journal.events()] == ["halt", "halted"]


def test_the_intent_is_on_disk_before_the_order_leaves(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    """At the moment the broker is called, a copy of the files (what a crash would leave) holds the intent."""
    history, trading = split_history(bars, setting_of(bundle).state)
    left: list[tuple[int, int]] = []
    sent: list[tuple[int, int]] = []

    class Watching(PaperBroker):
        def submit(self, orders: Mapping[str, Order]) -> None:
            for order in orders.values():
                for name in ("journal.db", "journal.db-wal"):
                    shutil.copy(tmp_path / name, copies / name)
                sent.append((order.time_ns, order.quantity))
                with JournalReader(copies / "journal.db") as reader:
                    *_, last = reader.records()
                left.append((last.moment.time_ns, last.rows[0].order_quantity))
            super().submit(orders)

    copies = tmp_path / "copies"
    copies.mkdir()
    with Journal(tmp_path / "journal.db", identity_text(test="intent")) as journal:
        session, exchange = _desk(bundle, journal, history)
        LiveLoop(session, bundle.policy, Watching(exchange), journal).run(ReplayFeed([trading.take(0, 80)]))
    assert len(sent) > 5
    assert left == sent
