"""Proves that a journal is what was written, to the byte: the chain, the schema, every page, and the write-ahead log.

The chain proves what the records say. For the rest of the file (the schema with its triggers, SQLite's own structures
and unused space) the journal is written once more from its records, and the two files are compared byte by byte: SQLite
lays out the same rows, inserted in the same order, in the same way. A frame of the write-ahead log that does not fit
its checksum would be passed over by SQLite in silence, with all that follow it, so the log is read here as well.
"""

import sqlite3
import struct
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from finsense.live.journal_format import INSERT, PARTS, JournalError, schema
from finsense.live.journal_reader import JournalReader, walk

_CHUNK_BYTES = 1 << 20
# Of the file's head (https://sqlite.org/fileformat.html, 1.3): how often it was changed, twice, and the version of
# SQLite that wrote last.
_CHANGES, _CHANGES_AGAIN, _LIBRARY = slice(24, 28), slice(92, 96), slice(96, 100)
# What SQLite's own copying changes besides: formats to write and to read, and the cookie of the schema.
_COPYING = slice(18, 20), slice(40, 44)
_HEAD_BYTES = 100
# The same, 4.1 and 4.2: head and frame of a write-ahead log.
_WAL_HEAD, _WAL_FRAME = struct.Struct(">8I"), struct.Struct(">6I")
_WAL_LITTLE_ENDIAN, _WAL_BIG_ENDIAN = 0x377F0682, 0x377F0683
# A session that writes right now may leave the end of the log half written for an instant.
_TRIES, _PAUSE_S = 5, 0.05


class Proof(NamedTuple):
    """What was proven.

    Attributes:
        records: how many the chain has.
        head: hash of the last, hex; whoever noted it elsewhere can see later that nothing before it was changed.
        remark: what could not be proven; empty where all was.
    """

    records: int
    head: str
    remark: str


def prove(path: Path, head: str | None = None) -> Proof:
    """Check a journal; a session may go on writing it.

    Args:
        path: the file.
        head: a hash (hex) that was noted earlier; the chain must still hold it.

    Raises:
        JournalError: the file was changed or damaged, is no journal, or is of another version.
    """
    with TemporaryDirectory(prefix="finsense-journal-") as name:
        folder = Path(name)
        try:
            return _prove(path, folder, head)
        except JournalError as error:
            # Checks of the copy name the copy.
            raise JournalError(str(error).replace(str(folder / "copy.db"), str(path))) from None
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            # SQLite's words about a damaged schema are not always text.
            raise JournalError(f"{path}: the file is damaged: {type(error).__name__}: {error}") from error


def _prove(path: Path, folder: Path, head: str | None) -> Proof:
    with JournalReader(path):
        # It is there, and of this version.
        pass
    _check_log(path)
    log = _log_of(path)
    copied = log.is_file() and log.stat().st_size > 0
    snapshot, again = folder / "copy.db" if copied else path, folder / "again.db"
    if copied:
        # All pages as they are with the log, at one instant.
        with closing(_read_only(path)) as source, closing(sqlite3.connect(snapshot)) as target:
            source.backup(target)
    with JournalReader(snapshot) as reader:
        records = reader.verify()
    with closing(_read_only(snapshot)) as database:
        _check_schema(path, database)
        chain = [str(one) for (one,) in database.execute("SELECT lower(hex(hash)) FROM links ORDER BY seq")]
        if head is not None and head.lower() not in chain:
            raise JournalError(f"{path}: no record has the hash {head}: the journal was cut off or written anew")
        _write_again(database, again)
    return Proof(records, chain[-1] if chain else "", _compare(path, snapshot, again, copied=copied))


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _check_schema(path: Path, database: sqlite3.Connection) -> None:
    """Tables and the triggers that keep them append-only are those of a fresh journal."""
    listed = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statement in schema():
            fresh.execute(statement)
        if database.execute(listed).fetchall() != fresh.execute(listed).fetchall():
            raise JournalError(f"{path}: its tables or triggers are not those of a journal: they were changed")


def _write_again(database: sqlite3.Connection, again: Path) -> None:
    """The journal once more, from what its records say."""
    with closing(sqlite3.connect(again, isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode = WAL")
        # It is thrown away; only its bytes count.
        target.execute("PRAGMA synchronous = OFF")
        target.execute("BEGIN")
        for statement in schema():
            target.execute(statement)
        target.executemany(
            "INSERT INTO meta VALUES (?, ?)", database.execute("SELECT key, value FROM meta ORDER BY rowid")
        )
        for link, _, parts in walk(database, tuple(PARTS)):
            for table, rows in parts.items():
                target.executemany(INSERT[table], rows)
            target.execute(INSERT["links"], link)
        target.execute("COMMIT")


def _compare(path: Path, snapshot: Path, again: Path, *, copied: bool) -> str:
    """Compare the file with what its records make; returns what could not be proven."""
    head, library = _head(path, snapshot, copied=copied)
    place = _first_difference(snapshot, again, head, copied=copied)
    same_library = library == sqlite3.sqlite_version
    if place is not None and same_library:
        raise JournalError(
            f"{path}: byte {place} was changed; it belongs to no record, and what the records say is untouched"
        )
    if same_library:
        return ""
    rest = ", and its unused bytes are not laid out as this one does it" if place is not None else ""
    return f"the file says that SQLite {library} wrote it, and this is {sqlite3.sqlite_version}{rest}"


def _first_difference(snapshot: Path, again: Path, head: bytes, *, copied: bool) -> int | None:
    place = 0
    with snapshot.open("rb") as first, again.open("rb") as second:
        ignored = (_CHANGES, _CHANGES_AGAIN, _LIBRARY, *(_COPYING if copied else ()))
        ours, theirs = _without(head, ignored), _without(second.read(first.seek(_HEAD_BYTES)), ignored)
        while ours or theirs:
            if ours != theirs:
                unequal = (at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1])
                return place + next(unequal, min(len(ours), len(theirs)))
            place += len(ours)
            ours, theirs = first.read(_CHUNK_BYTES), second.read(_CHUNK_BYTES)
    return None


def _head(path: Path, snapshot: Path, *, copied: bool) -> tuple[bytes, str]:
    """The head of the file, and the version of SQLite that it names.

    Raises:
        JournalError: the head contradicts itself.
    """
    with (snapshot if copied else path).open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not copied and head[_CHANGES] != head[_CHANGES_AGAIN]:
        raise JournalError(f"{path}: the counters in its head differ: it was changed by another program")
    number = int.from_bytes(head[_LIBRARY], "big")
    return head, f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _without(head: bytes, parts: Sequence[slice]) -> bytes:
    """A head without what differs between two files of the same records."""
    cut = bytearray(head)
    for part in parts:
        cut[part] = bytes(part.stop - part.start)
    return bytes(cut)


def _check_log(path: Path) -> None:
    """No frame of the write-ahead log is damaged.

    Raises:
        JournalError: one is; SQLite passes over it and all after it, so records at the end are lost.
    """
    place: int | None = None
    for _ in range(_TRIES):
        log = _log_of(path)
        content = log.read_bytes() if log.is_file() else b""
        place = _damage(content)
        if place is None:
            return
        time.sleep(_PAUSE_S)
    raise JournalError(
        f"{_log_of(path)} is damaged at byte {place}: what was written last to {path} cannot be read. Keep a copy of "
        "both before any session opens the journal again"
    )


def _damage(log: bytes) -> int | None:
    """Where a write-ahead log is damaged; None where it is whole."""
    if len(log) < _WAL_HEAD.size:
        # Empty, or cut within its head: nothing was written through it yet.
        return None
    magic, _, page_bytes, _, *salts = _WAL_HEAD.unpack_from(log)[:6]
    if magic not in (_WAL_LITTLE_ENDIAN, _WAL_BIG_ENDIAN):
        return 0
    order = ">" if magic == _WAL_BIG_ENDIAN else "<"
    sums = _sums(log[:24], (0, 0), order)
    if sums != _WAL_HEAD.unpack_from(log)[6:]:
        return 0
    frame_bytes = _WAL_FRAME.size + page_bytes
    whole = True
    for place in range(_WAL_HEAD.size, len(log) - frame_bytes + 1, frame_bytes):
        found = _WAL_FRAME.unpack_from(log, place)
        # A frame of an earlier round has another pair; one that shares half a pair with this round was changed.
        ours = [mine == own for mine, own in zip(found[2:4], salts, strict=True)]
        if whole and all(ours):
            sums = _sums(log[place : place + 8], sums, order)
            sums = _sums(log[place + _WAL_FRAME.size : place + frame_bytes], sums, order)
            if sums != found[4:]:
                return place
        elif any(ours):
            return place
        else:
            whole = False
    return None


def _sums(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    """SQLite's running checksum over 8-byte steps."""
    first, second = sums
    for one, two in struct.iter_unpack(f"{order}2I", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second
