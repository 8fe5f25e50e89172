"""Kill it at any record and start again: the same session, no order twice, none lost."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from bundles import make_bundle, market, setting
from test_law_parity import _write

from finsense.account.exchange import SimulatedExchange
from finsense.account.session import Fill, Order, Session
from finsense.cli.options import setting_of
from finsense.cli.paper import paper_trade
from finsense.evaluation.backtest import backtest
from finsense.live.brokers import BrokerAccount
from finsense.live.brokers.paper import PaperBroker
from finsense.live.feeds.replay import ReplayFeed
from finsense.live.journal import Journal, JournalError, identity_text
from finsense.live.loop import BooksDiffer, LiveLoop
from finsense.market.bars import Bar, Bars
from finsense.market.instruments import instrument
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

    def __init__(self, exchange: SimulatedExchange, crash_at: int, after: bool) -> None:
        super().__init__(exchange)
        self.calls = 0
        self._crash_at, self._after = crash_at, after

    def _maybe(self, now: bool) -> None:
        if self.calls == self._crash_at and now == self._after:
            raise _Crash

    def submit(self, order: Order) -> None:
        self.calls += 1
        self._maybe(False)
        super().submit(order)
        self._maybe(True)

    def fills(self, bar: Bar) -> list[Fill]:
        self.calls += 1
        self._maybe(False)
        found = super().fills(bar)
        self._maybe(True)
        return found


def _run_until_crash(bundle: Bundle, bars: Bars, journal: Path, crash_at: int, after: bool) -> bool:
    """One life of the process; true when it came to the end."""
    terms = setting_of(bundle)
    history, trading = split_history(bars, terms.state)
    stock = instrument("SIM")
    session = Session(stock, "5m", terms.state, terms.account, terms.costs)
    exchange = SimulatedExchange(stock, "5m", terms.account, terms.costs)
    with Journal(journal, identity_text(test="crash")) as opened:
        for bar in opened.begin(list(history)):
            session.warm(bar)
            exchange.warm(bar)
        loop = LiveLoop(session, bundle.policy, PaperBroker(exchange), opened)
        loop.recover()
        loop._broker = _CrashingBroker(exchange, crash_at, after)
        try:
            loop.run(ReplayFeed(trading))
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
        return list(database.execute("SELECT * FROM bars ORDER BY time_ns"))


def _records(journal: Path) -> int:
    """Bars in the journal of a running process: its WAL is locked, so its size tells."""
    wal = journal.with_name(journal.name + "-wal")
    sizes = [path.stat().st_size for path in (journal, wal) if path.exists()]
    return sum(sizes) // 4096


def test_another_sessions_journal_is_refused_untouched(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    history, trading = split_history(bars, setting().state)
    journal = tmp_path / "journal.db"
    paper_trade(bundle, history, trading.take(0, 20), journal)
    before = journal.read_bytes()
    other = make_bundle(tmp_path / "other", setting(), seed=3)
    with pytest.raises(JournalError, match="bundle: the journal has"):
        paper_trade(other, history, trading, journal)
    assert journal.read_bytes() == before


def test_two_sessions_on_one_journal_are_refused(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    history, trading = split_history(bars, setting().state)
    with Journal(tmp_path / "journal.db", identity_text(test=1)) as journal:
        journal.begin(list(history))
        with pytest.raises(JournalError, match="another session running"):
            Journal(tmp_path / "journal.db", identity_text(test=1))
    assert len(trading)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are my notes, not a database, and they must stay as they are" * 50)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="is not a journal"):
        Journal(path, {})
    assert path.read_bytes() == before


def test_a_changed_record_does_not_replay(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    history, trading = split_history(bars, setting().state)
    journal = tmp_path / "journal.db"
    paper_trade(bundle, history, trading.take(0, 60), journal)
    with closing(sqlite3.connect(journal, isolation_level=None)) as database:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database.execute("UPDATE bars SET cash_paise = 0")
        database.execute("DROP TRIGGER bars_never_change")
        database.execute("UPDATE bars SET cash_paise = cash_paise + 1 WHERE time_ns = (SELECT max(time_ns) FROM bars)")
    with pytest.raises(JournalError, match="does not replay"):
        paper_trade(bundle, history, trading, journal)


class _LyingBroker(PaperBroker):
    """Says it has one share more than it has."""

    def account(self) -> BrokerAccount:
        cash_paise, position = super().account()
        return BrokerAccount(cash_paise, position + 1)


def test_a_broker_with_other_books_stops_the_loop_before_an_order(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    terms = setting_of(bundle)
    history, trading = split_history(bars, terms.state)
    stock = instrument("SIM")
    session = Session(stock, "5m", terms.state, terms.account, terms.costs)
    exchange = SimulatedExchange(stock, "5m", terms.account, terms.costs)
    with Journal(tmp_path / "journal.db", identity_text(test="books")) as journal:
        for bar in journal.begin(list(history)):
            session.warm(bar)
            exchange.warm(bar)
        loop = LiveLoop(session, bundle.policy, _LyingBroker(exchange), journal)
        with pytest.raises(BooksDiffer, match="no order was sent"):
            loop.run(ReplayFeed(trading))
        assert journal.last_time_ns is None


def test_the_intent_is_on_disk_before_the_order_leaves(bundle: Bundle, bars: Bars, tmp_path: Path) -> None:
    """At the moment the broker is called, a copy of the files (what a crash would leave) holds the intent."""
    journal_path = tmp_path / "journal.db"
    terms = setting_of(bundle)
    history, trading = split_history(bars, terms.state)
    stock = instrument("SIM")
    left: list[tuple[object, ...]] = []
    sent: list[tuple[object, ...]] = []

    class Watching(PaperBroker):
        def submit(self, order: Order) -> None:
            for name in ("journal.db", "journal.db-wal"):
                shutil.copy(tmp_path / name, copies / name)
            sent.append((order.time_ns, order.quantity))
            left.append(_rows(copies / "journal.db")[-1])
            super().submit(order)

    copies = tmp_path / "copies"
    copies.mkdir()
    session = Session(stock, "5m", terms.state, terms.account, terms.costs)
    exchange = SimulatedExchange(stock, "5m", terms.account, terms.costs)
    with Journal(journal_path, identity_text(test="intent")) as journal:
        for bar in journal.begin(list(history)):
            session.warm(bar)
            exchange.warm(bar)
        LiveLoop(session, bundle.policy, Watching(exchange), journal).run(ReplayFeed(trading.take(0, 80)))
    assert len(sent) > 5
    assert [(row[0], row[14]) for row in left] == sent
