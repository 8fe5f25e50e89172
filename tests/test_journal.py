"""The journal's file: append-only, chained, one writer, readable while it is written."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from finsense.account.session import Fill, Observation, Order
from finsense.live.journal import Journal
from finsense.live.journal_format import FORMAT, JournalError
from finsense.live.journal_reader import JournalReader
from finsense.market.bars import Bar
from finsense.market.moments import Moment
from finsense.model.policy import Decision

IDENTITY = {"mode": '"paper"', "bundle": '"abc"'}
STEP_NS = 300_000_000_000


def _bar(time_ns: int, price: float) -> Bar:
    return Bar(time_ns, price, price + 1, price - 1, price, 1000, (0.5,) * 11)


def _fill(journal: Journal, count: int) -> None:
    """So many moments of two symbols, with an event after each."""
    journal.begin({"TCS": [_bar(STEP_NS, 3000.0)], "INFY": [_bar(STEP_NS, 1500.0)]})
    generator = np.random.default_rng(0)
    for place in range(2, 2 + count):
        time_ns = place * STEP_NS
        moment = Moment(time_ns, {name: _bar(time_ns, 1500.0 + place) for name in ("INFY", "TCS")})
        state = generator.normal(size=(1, 5)).astype(np.float32)
        seen = {"INFY": Observation(state, np.array([[True, True, False]]))}
        decision = Decision(0, np.array([0.75, 0.25, 0.0], np.float32))
        fills = {"INFY": [Fill(time_ns, 3, 150_010, 7, "T1"), Fill(time_ns, 4, 150_015, 7, "T2")]}
        orders = {"INFY": Order(time_ns, 7, 20_000)}
        books = (10_000_000 - place, {"INFY": 7}, 10_000_100)
        journal.append(moment, fills, seen, {"INFY": decision}, orders, {"INFY": 147_000}, {"TCS": "halted"}, books)
        journal.note(f"tag{place}", "intent", {"quantity": 7, "price": None}, time_ns)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "session.db"
    with Journal(path, IDENTITY) as journal:
        _fill(journal, 3)
    return path


def test_what_was_written_is_read(path: Path) -> None:
    with JournalReader(path) as reader:
        assert reader.verify() == 7  # the history, three moments, three events
        assert [bar.close for bar in reader.history()["TCS"]] == [3000.0]
        records, events = list(reader.records()), list(reader.events())
    assert [record.seq for record in records] == [1, 3, 5]
    assert [(event.seq, event.tag, event.body["quantity"]) for event in events] == [
        (2, "tag2", 7),
        (4, "tag3", 7),
        (6, "tag4", 7),
    ]
    first = records[0]
    assert list(first.moment.bars) == ["INFY", "TCS"]
    assert first.moment.bars["INFY"] == _bar(2 * STEP_NS, 1502.0)
    assert first.fills == {
        "INFY": [Fill(2 * STEP_NS, 3, 150_010, 7, "T1"), Fill(2 * STEP_NS, 4, 150_015, 7, "T2")],
    }
    infy, tcs = first.rows
    assert (infy.order_quantity, infy.stop_ppm, infy.stop_paise, infy.refused, infy.position) == (
        7,
        20_000,
        147_000,
        "",
        7,
    )
    assert (tcs.action, tcs.refused, tcs.observation()) == (-1, "halted", None)
    seen = infy.observation()
    assert seen is not None
    np.testing.assert_array_equal(seen.mask, [[True, True, False]])


def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        assert journal.last_time_ns == 4 * STEP_NS
        journal.note("", "halt", {"reason": "a test"}, 5 * STEP_NS)
        assert journal.verify() == 8


def test_it_is_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "session.db"
    with Journal(path, IDENTITY) as journal:
        _fill(journal, 2)
        with JournalReader(path) as reader:
            records = reader.records()
            first = next(records)
            journal.note("", "late", {}, 9 * STEP_NS)
            # The reader sees the journal as it was when it began.
            assert [first.seq, *(record.seq for record in records)] == [1, 3]
            assert reader.verify() == 6


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE bars SET close = close + 0.05 WHERE symbol = 'INFY' AND seq = 3", "record 3"),
        ("UPDATE fills SET price_paise = price_paise - 5 WHERE trade = 'T2' AND seq = 1", "record 1"),
        ("UPDATE events SET body = replace(body, '7', '8') WHERE seq = 4", "record 4"),
        ("UPDATE moments SET equity_paise = equity_paise + 1 WHERE seq = 5", "record 5"),
        ("UPDATE history SET volume = 999 WHERE symbol = 'TCS'", "record 0"),
        ("UPDATE meta SET value = '\"xyz\"' WHERE key = 'bundle'", "record 0"),
        ("DELETE FROM fills WHERE place = 1 AND seq = 5", "record 5"),
        ("DELETE FROM links WHERE seq = 4", "expected record 4"),
        ("INSERT INTO fills VALUES (2, 0, 'INFY', 1, 1, 1, 0, '')", "belong to no record"),
        ("INSERT INTO events VALUES (99, 1, '', 'forged', '{}')", "belong to no record"),
    ],
)
def test_every_change_is_found(path: Path, statement: str, says: str) -> None:
    verb, table = statement.split()[0], statement.split()[1 if statement.startswith("UPDATE") else 2]
    with closing(sqlite3.connect(path)) as database:
        if verb != "INSERT":
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                database.execute(statement)
            database.execute(f"DROP TRIGGER {table}_no_{verb.lower()}")
        assert database.execute(statement).rowcount == 1
        database.commit()
    with JournalReader(path) as reader, pytest.raises(JournalError, match=says):
        reader.verify()


def test_a_second_writer_is_refused_at_once(path: Path) -> None:
    with Journal(path, IDENTITY), pytest.raises(JournalError, match="another session is running"):
        Journal(path, IDENTITY)
    Journal(path, IDENTITY).close()


def test_another_version_or_another_session_is_refused_untouched(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"bundle: the journal has '\"abc\"', this session '\"xyz\"'"):
        Journal(path, {**IDENTITY, "bundle": '"xyz"'})
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER meta_no_update")
        database.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(FORMAT + 1),))
        database.commit()
    with pytest.raises(JournalError, match="update finsense"):
        Journal(path, IDENTITY)
    with pytest.raises(JournalError, match="update finsense"):
        JournalReader(path)


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no journal at all, but long enough to be read as a page of one" * 20)
    for open_ in (lambda: Journal(path, IDENTITY), lambda: JournalReader(path)):
        with pytest.raises(JournalError, match="not a journal"):
            open_()
    with pytest.raises(JournalError, match="is not there"):
        JournalReader(tmp_path / "absent.db")


def test_a_write_that_fails_leaves_nothing_and_the_next_one_goes_on(path: Path) -> None:
    with Journal(path, IDENTITY) as journal:
        with pytest.raises(TypeError):
            journal.note("", "broken", {"value": object()}, 1)
        with pytest.raises(JournalError, match="in the journal already"):
            journal.append(Moment(4 * STEP_NS, {}), {}, {}, {}, {}, {}, {}, (0, {}, 0))
        with pytest.raises(sqlite3.IntegrityError):
            journal.append(Moment(5 * STEP_NS, {}), {}, {}, {}, {}, {}, {}, (0, {}, None))  # type: ignore[arg-type]
        journal.note("", "whole", {}, 1)
        assert journal.verify() == 8


def test_a_record_without_a_flush_reaches_the_disk_with_the_next_flushed_one(path: Path) -> None:
    """Both go into the one log, in order: no flush of a later record leaves out an earlier one."""

    def flushed(journal: Journal) -> bool:
        return bool(journal._database.execute("PRAGMA synchronous").fetchone() == (2,))

    with Journal(path, IDENTITY) as journal:
        journal.append(Moment(6 * STEP_NS, {}), {}, {}, {}, {}, {}, {}, (0, {}, 0), flush=False)
        assert not flushed(journal)
        journal.note("tag", "intent", {}, 1)
        assert flushed(journal)
        assert journal.verify() == 9
        log = path.with_name(path.name + "-wal")
        for place in range(100):
            journal.note("tag", "seen", {}, place)
        grown = log.stat().st_size
        journal.tidy()
        for place in range(50):
            journal.note("tag", "seen", {}, place)
        assert log.stat().st_size == grown, "the log begins again once it was moved into the file"
        assert journal.verify() == 159
