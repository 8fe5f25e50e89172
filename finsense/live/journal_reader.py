"""Reads a journal, also while a session writes it, and proves that nobody changed it."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from finsense.live.journal_format import (
    EVENT,
    FORMAT,
    HISTORY,
    MOMENT,
    PARTS,
    Event,
    JournalError,
    MomentRecord,
    Parts,
    Row,
    bar_of,
    event_of,
    first_hash,
    moment_of,
    next_hash,
)
from finsense.market.bars import Bar


class JournalReader:
    """A journal, read only.

    Args:
        path: the file.

    Raises:
        JournalError: there is none, it is no journal, or it is of another version.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise JournalError(f"{path} is not there: expected the journal of a session")
        self.path = path
        try:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            self.identity = check_format(path, dict(self._database.execute("SELECT key, value FROM meta")))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise JournalError(f"{path} is not a journal ({error}); choose another file") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def history(self) -> dict[str, list[Bar]]:
        """The bars before the first traded one, by symbol."""
        return read_history(self._database)

    def records(self) -> Iterator[MomentRecord]:
        """Every journalled moment in time order."""
        return read_moments(self._database)

    def events(self) -> Iterator[Event]:
        """Every event in the order of writing."""
        return read_events(self._database)

    def verify(self) -> int:
        """Follow the chain through the whole journal; returns how many records it has.

        Raises:
            JournalError: a record was changed, is missing, or was put in.
        """
        return verify(self.path, self._database, self.identity)


def check_format(path: Path, meta: dict[str, str]) -> dict[str, str]:
    """The identity of a journal from its meta table, if this version can read it.

    Raises:
        JournalError: it was written by another version, or is no journal.
    """
    found = meta.get("format", "")
    if found != str(FORMAT):
        newer = found.isdigit() and int(found) > FORMAT
        advice = "update finsense" if newer else "finish that session with the version that began it"
        raise JournalError(f"{path}: expected a journal of format {FORMAT}, found format {found or 'none'}; {advice}")
    return meta


def read_history(database: sqlite3.Connection) -> dict[str, list[Bar]]:
    """See `JournalReader.history`."""
    rows = database.execute("SELECT * FROM history ORDER BY symbol, time_ns")
    return {symbol: [bar_of(row[2:]) for row in group] for symbol, group in groupby(rows, key=lambda row: row[1])}


def read_moments(database: sqlite3.Connection) -> Iterator[MomentRecord]:
    """See `JournalReader.records`."""
    # The links are left to `verify`: a recovery waits for this.
    with _one_instant(database):
        bars, fills = _Stream(database, "bars"), _Stream(database, "fills")
        for row in database.execute("SELECT * FROM moments ORDER BY seq"):
            seq = row[0]
            yield moment_of(row, bars.take(seq), fills.take(seq))


def read_events(database: sqlite3.Connection) -> Iterator[Event]:
    """See `JournalReader.events`."""
    for row in database.execute("SELECT * FROM events ORDER BY seq"):
        yield event_of(row)


def verify(path: Path, database: sqlite3.Connection, identity: dict[str, str]) -> int:
    """See `JournalReader.verify`."""
    try:
        (sound,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if sound != "ok":
            raise JournalError(f"{path}: the file is damaged: {sound}")
        before, count = first_hash(identity), 0
        taken = dict.fromkeys((table for tables in PARTS.values() for table in tables), 0)
        for link, kind, parts in walk(database, (HISTORY, MOMENT, EVENT)):
            seq, _, kept = link
            if seq != count:
                raise JournalError(f"{path}: expected record {count}, found record {seq}: records are missing")
            before = next_hash(before, kind, parts)
            if before != kept:
                raise JournalError(f"{path}: record {seq} ({kind}) is not what was written: it was changed")
            for table in parts:
                taken[table] += len(parts[table])
            count += 1
        for table, number in taken.items():
            (found,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
            if found != number:
                raise JournalError(f"{path}: {found - number} rows of `{table}` belong to no record: they were put in")
    except (sqlite3.Error, TypeError, ValueError, KeyError) as error:
        if isinstance(error, JournalError):
            raise
        raise JournalError(f"{path}: the file is damaged: {error}") from error
    return count


def walk(database: sqlite3.Connection, kinds: tuple[str, ...]) -> Iterator[tuple[Row, str, Parts]]:
    """Every record of the kinds with the rows of its tables: one pass over each table, in the order of writing."""
    with _one_instant(database):
        streams = {table: _Stream(database, table) for kind in kinds for table in PARTS[kind]}
        for link in database.execute("SELECT * FROM links ORDER BY seq"):
            seq, kind, _ = link
            if kind not in PARTS:
                raise JournalError(f"record {seq} is of an unknown kind {kind!r}: it was changed")
            if kind in kinds:
                yield link, kind, {table: streams[table].take(seq) for table in PARTS[kind]}


@contextmanager
def _one_instant(database: sqlite3.Connection) -> Iterator[None]:
    """One transaction, so that all tables are read as they were at one instant while a session goes on writing."""
    database.execute("BEGIN")
    try:
        yield
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")


# In which order the rows of a record stand; sqlite would else have to sort the whole table.
_ORDER = {"history": "seq, symbol, time_ns", "bars": "rowid", "fills": "rowid"}


class _Stream:
    """The rows of a table, record by record."""

    def __init__(self, database: sqlite3.Connection, table: str) -> None:
        self._rows: Iterator[Any] = database.execute(f"SELECT * FROM {table} ORDER BY {_ORDER.get(table, 'seq')}")
        self._next: Any = next(self._rows, None)

    def take(self, seq: int) -> list[Row]:
        """The rows of a record; those of a record before it that nobody asked for are passed over."""
        row, rows = self._next, self._rows
        while row is not None and row[0] < seq:
            row = next(rows, None)
        taken = []
        while row is not None and row[0] == seq:
            taken.append(row)
            row = next(rows, None)
        self._next = row
        return taken
