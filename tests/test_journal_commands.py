"""The journal as an audit needs it: every changed byte is found, and an export is the journal."""

import csv
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_journal import IDENTITY, STEP_NS, _bar, _fill
from typer.testing import CliRunner, Result

from finsense.account.session import Fill, Observation
from finsense.cli.journal import journal_app
from finsense.live.journal import Journal
from finsense.live.journal_export import TABLES, export
from finsense.live.journal_format import FORMAT, JournalError, schema
from finsense.live.journal_proof import prove
from finsense.live.journal_reader import JournalReader
from finsense.market.moments import Moment
from finsense.model.policy import Decision


def run(*words: str) -> Result:
    return CliRunner().invoke(journal_app, list(words))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal whose session has ended; tests copy it."""
    path = tmp_path_factory.mktemp("whole") / "session.db"
    with Journal(path, IDENTITY) as journal:
        _fill(journal, 6)
        journal.note("", "halt", {"reason": "a test [of] words"}, 9 * STEP_NS)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "session.db"))


# -------------------------------------------------------------------------------------------------------- verify


def test_a_whole_journal_is_proven(path: Path) -> None:
    before = path.read_bytes()
    said = json.loads(run("verify", str(path), "--json").stdout)
    with JournalReader(path) as reader:
        assert said["records"] == reader.verify() == 14
    assert said["remark"] == ""
    assert run("verify", str(path), "--head", said["head"].upper()).exit_code == 0
    assert "14 records, unchanged" in run("verify", str(path)).stdout
    assert path.read_bytes() == before
    # The chain grows on the noted hash, and a shorter one does not have it.
    with Journal(path, IDENTITY) as journal:
        journal.note("", "later", {}, 10 * STEP_NS)
    assert prove(path, said["head"]).head != said["head"]
    with pytest.raises(JournalError, match="no record has the hash"):
        prove(path, "0" * 64)


def _found(path: Path) -> bool:
    try:
        return prove(path).remark != ""
    except JournalError:
        return True


def _flip(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]


@settings(max_examples=100)
@given(data=st.data())
def test_any_flipped_bit_of_the_file_is_found(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    with TemporaryDirectory() as folder:
        changed = Path(folder) / "session.db"
        changed.write_bytes(_flip(content, place, data.draw(st.integers(0, 7))))
        assert _found(changed)


def test_every_flipped_byte_of_the_head_is_found(path: Path) -> None:
    content = path.read_bytes()
    for place in range(100):
        path.write_bytes(_flip(content, place, place % 8))
        assert _found(path), place


@pytest.mark.slow
def test_every_flipped_byte_is_found(path: Path) -> None:
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(_flip(content, place, place % 8))
        assert _found(path), place


@pytest.mark.parametrize("length", [0, 1, 100, 4096, 8192, -1, -4096])
def test_a_journal_that_was_cut_is_found(path: Path, length: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:length])
    with pytest.raises(JournalError):
        prove(path)
    assert run("verify", str(path)).exit_code == 1


def _columns() -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in schema():
            database.execute(statement)
        for table in TABLES:
            for row in database.execute(f"PRAGMA table_info({table})"):
                yield table, row[1]


@contextmanager
def forging(path: Path) -> Iterator[sqlite3.Connection]:
    """The journal, opened by someone who knows how to get round its triggers and to put them back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        yield database
        for _, statement in triggers:
            database.execute(statement)


@pytest.mark.parametrize(("table", "column"), list(_columns()))
def test_every_changed_column_is_found(path: Path, table: str, column: str) -> None:
    with forging(path) as database:
        rows = [row[0] for row in database.execute(f"SELECT rowid FROM {table}")]
        (kind,) = database.execute(f"SELECT typeof({column}) FROM {table} WHERE rowid = ?", rows[-1:]).fetchone()
        changed = {
            "integer": f"{column} + 1000000",
            "real": f"{column} + 0.05",
            "text": f"{column} || 'x'",
            "blob": "zeroblob(length(%s) + 4)" % column,  # noqa: UP031
        }[kind]
        assert database.execute(f"UPDATE {table} SET {column} = {changed} WHERE rowid = ?", rows[-1:]).rowcount == 1
    # The chain alone finds it, without a look at the file's bytes.
    with pytest.raises(JournalError), JournalReader(path) as reader:
        reader.verify()
    assert run("verify", str(path)).exit_code == 1


def test_a_record_that_went_and_triggers_that_went_are_found(path: Path) -> None:
    head = prove(path).head
    copy = Path(shutil.copy(path, path.with_name("copy.db")))
    with closing(sqlite3.connect(copy)) as database:
        database.execute("DROP TRIGGER events_no_delete")
    with pytest.raises(JournalError, match="tables or triggers"):
        prove(copy)
    # The last record without a trace in chain and schema: the file itself tells, and so does a hash that was noted.
    with forging(path) as database:
        database.execute("DELETE FROM events WHERE seq = 13")
        database.execute("DELETE FROM links WHERE seq = 13")
    with JournalReader(path) as reader:
        assert reader.verify() == 13
    with pytest.raises(JournalError, match="no record has the hash"):
        prove(path, head)
    with pytest.raises(JournalError, match=r"byte \d+ was changed; it belongs to no record"):
        prove(path)


def test_a_file_of_another_sqlite_is_told_apart(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[96:100] = (3_045_001).to_bytes(4, "big")
    path.write_bytes(content)
    assert "SQLite 3.45.1 wrote it" in prove(path).remark
    shown = run("verify", str(path))
    assert shown.exit_code == 0
    assert "SQLite 3.45.1" in shown.stdout


# -------------------------------------------------------------------------------------- the write-ahead log, the loop

_SESSION = """
import sys, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_journal import IDENTITY, STEP_NS, _fill
from finsense.live.journal import Journal
journal = Journal(Path(sys.argv[1]), IDENTITY)
_fill(journal, 6)
print("written", flush=True)
time.sleep(600)
"""


@contextmanager
def session(path: Path) -> Iterator[None]:
    """A session in another process that has written and holds the journal; it is killed at the end."""
    command = [sys.executable, "-c", _SESSION, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == b"written\n"
            yield
        finally:
            running.kill()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal whose session was killed, so that its last records are in the write-ahead log alone."""
    path = tmp_path_factory.mktemp("killed") / "session.db"
    with session(path):
        pass
    assert path.with_name("session.db-wal").stat().st_size > 4096
    return path


def _copied(killed: Path, folder: Path) -> Path:
    for suffix in ("", "-wal"):
        shutil.copy(f"{killed}{suffix}", folder / f"session.db{suffix}")
    return folder / "session.db"


def test_it_is_proven_shown_and_exported_while_a_session_runs(tmp_path: Path) -> None:
    path = tmp_path / "session.db"
    with session(path):
        with pytest.raises(JournalError, match="another session is running"):
            Journal(path, IDENTITY)
        assert json.loads(run("verify", str(path), "--json").stdout)["records"] == 13
        assert run("show", str(path)).exit_code == 0
        assert run("export", str(path), "--out", str(tmp_path / "x.csv")).exit_code == 0


def test_a_killed_session_leaves_a_journal_that_is_proven(killed: Path, tmp_path: Path) -> None:
    path = _copied(killed, tmp_path)
    before = path.read_bytes(), Path(f"{path}-wal").read_bytes()
    assert prove(path).records == 13
    assert (path.read_bytes(), Path(f"{path}-wal").read_bytes()) == before
    with Journal(path, IDENTITY) as journal:
        journal.note("", "again", {}, 10 * STEP_NS)
    assert prove(path).records == 14


@settings(max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_of_the_log_is_found(killed: Path, data: st.DataObject) -> None:
    """SQLite would pass over the frame and all after it, and the journal would only be shorter."""
    with TemporaryDirectory() as folder:
        path = _copied(killed, Path(folder))
        log = Path(f"{path}-wal")
        content = log.read_bytes()
        place = data.draw(st.one_of(st.integers(0, 55), st.integers(0, len(content) - 1)))
        log.write_bytes(_flip(content, place, data.draw(st.integers(0, 7))))
        with pytest.raises(JournalError):
            prove(path)


def test_frames_of_an_earlier_round_are_no_damage(tmp_path: Path) -> None:
    """A log is written from its beginning again after a checkpoint; behind its end lie frames of the round before."""
    path = tmp_path / "session.db"
    with Journal(path, IDENTITY) as journal:
        _fill(journal, 30)
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(RESTART)")
        journal.note("", "after", {}, 10 * STEP_NS)
        assert prove(path).records == 62


# --------------------------------------------------------------------------------------------- versions and strangers


@pytest.mark.parametrize("words", [["verify"], ["show"], ["export", "--out", "{out}"]])
def test_a_newer_journal_is_refused_clearly(path: Path, tmp_path: Path, words: list[str]) -> None:
    with forging(path) as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'format'", (str(FORMAT + 1),))
    done = run(words[0], str(path), *(word.format(out=tmp_path / "x.csv") for word in words[1:]))
    assert done.exit_code == 1
    assert f"expected a journal of format {FORMAT}, found format {FORMAT + 1}; update finsense" in done.stderr
    path.write_text("no journal at all" * 1000)
    done = run(words[0], str(path), *(word.format(out=tmp_path / "x.csv") for word in words[1:]))
    assert done.exit_code == 1
    assert "not a journal" in done.stderr
    assert not (tmp_path / "x.csv").exists()


def test_a_damaged_journal_is_never_a_traceback(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for place in generator.integers(0, len(content), 60).tolist():
        path.write_bytes(content[:place] + generator.bytes(64) + content[place + 64 :])
        for words in (["show", str(path)], ["export", str(path), "--out", str(tmp_path / "x.csv")]):
            done = run(*words)
            assert done.exit_code in (0, 1), done.exception
            assert isinstance(done.exception, SystemExit | None)
            refused += done.exit_code
    assert refused > 0


def test_an_export_has_a_known_ending_and_replaces_whole_files(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("export", str(path), "--out", str(tmp_path / "x.xlsx"))
    assert done.exit_code == 1
    assert "expected --out to end with .parquet or .csv" in done.stderr
    export(path, tmp_path / "x.csv")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("finsense.live.journal_export._batches", full)
    with pytest.raises(OSError, match="No space left"):
        export(path, tmp_path / "x.csv")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


# ----------------------------------------------------------------------------------------------------------- show


def test_show_gives_the_last_decisions_with_their_reasons(path: Path) -> None:
    said = json.loads(run("show", str(path), "--last", "3", "--json").stdout)
    assert said["identity"] == {"format": FORMAT, "mode": "paper", "bundle": "abc"}
    assert [(one["symbol"], one["seq"]) for one in said["decisions"]] == [("TCS", 9), ("INFY", 11), ("TCS", 11)]
    _, infy, tcs = said["decisions"]
    assert (infy["action"], infy["order_quantity"], infy["stop_paise"], infy["refused"]) == (0, 7, 147_000, "")
    assert (tcs["action"], tcs["refused"], tcs["equity_paise"]) == (None, "halted", 10_000_100)
    assert [one["what"] for one in said["events"]] == ["intent", "intent", "halt"]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(journal_app, ["show", str(path)])
    assert shown.exit_code == 0
    for words in ("INFY", "+7", "halted", "reason=a test [of] words", "(session)", "mode=paper"):
        assert words in shown.stdout


# --------------------------------------------------------------------------------------------------------- export


def _rows(path: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(f"SELECT * FROM {table} ORDER BY {TABLES[table]}").fetchall()


def _from_csv(path: Path, like: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    def value(text: str, example: object) -> object:
        kind: Any = type(example)
        return bytes.fromhex(text) if kind is bytes else kind(text)

    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:]
    return [tuple(map(value, line, like[0])) for line in lines]


def _assert_equal(journal: Path, out: Path) -> None:
    for one in export(journal, out):
        rows = _rows(journal, one.table)
        assert one.rows == len(rows) > 0
        if out.suffix == ".csv":
            assert _from_csv(one.path, rows) == rows
        else:
            found = pq.read_table(one.path)
            assert list(zip(*(column.to_pylist() for column in found.columns), strict=True)) == rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_an_export_equals_the_journal(path: Path, tmp_path: Path, suffix: str) -> None:
    _assert_equal(path, tmp_path / f"out{suffix}")
    names = sorted(one.name for one in tmp_path.iterdir() if one.name.startswith("out"))
    assert names == sorted([f"out{suffix}", *(f"out.{table}{suffix}" for table in TABLES if table != "bars")])


def _long(path: Path, records: int) -> Path:
    generator = np.random.default_rng(0)
    state, mask = generator.normal(size=(1, 20)).astype(np.float32), np.array([[True, True, False]])
    decision = Decision(0, np.array([0.75, 0.25, 0.0], np.float32))
    with Journal(path, IDENTITY) as journal:
        journal.begin({"INFY": [_bar(0, 1500.0)]})
        # Nothing here is worth a disk's time.
        journal._database.execute("PRAGMA synchronous = OFF")
        for place in range(1, records):
            if place % 10 == 0:
                journal._synchronous = True
                journal.note(f"tag{place}", "filled", {"price": place, "why": 'a "quoted", word\n'}, place)
                continue
            journal._synchronous = False
            price = 1500.0 + generator.normal()
            moment = Moment(place * STEP_NS, {"INFY": _bar(place * STEP_NS, price)})
            fills = {"INFY": [Fill(place * STEP_NS, 3, 150_010, place, "T1")]} if place % 3 == 0 else {}
            seen = {"INFY": Observation(state, mask)}
            journal.append(moment, fills, seen, {"INFY": decision}, {}, {}, {}, (place, {"INFY": 7}, place))
    return path


@pytest.mark.parametrize("records", [3000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_a_long_journal_is_proven_and_its_export_equals_it(tmp_path: Path, records: int) -> None:
    path = _long(tmp_path / "session.db", records)
    assert prove(path).records == records
    _assert_equal(path, tmp_path / "out.parquet")
    _assert_equal(path, tmp_path / "out.csv")
