"""Gives a journal away as tables: one file for each, in Parquet or CSV, every column as it lies in the journal."""

import csv
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from finsense.live.journal_format import Event, JournalError, event_of
from finsense.live.journal_reader import JournalReader

# The bars with what was decided on them are the records that most readers want, so they take the name of the file.
TABLES = {
    "bars": "seq, symbol",
    "moments": "seq",
    "fills": "seq, place",
    "events": "seq",
    "history": "seq, symbol, time_ns",
    "links": "seq",
    "meta": "rowid",
}
SUFFIXES = (".parquet", ".csv")
_ROWS = 10_000
_TYPES = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string(), "BLOB": pa.binary()}


class Exported(NamedTuple):
    """One file of an export.

    Attributes:
        table: of the journal.
        path: the file.
        rows: how many it has.
    """

    table: str
    path: Path
    rows: int


def export(journal: Path, out: Path) -> list[Exported]:
    """Write the tables of a journal as they are at one instant; a session may go on writing it.

    Args:
        journal: the file.
        out: X.parquet or X.csv for the bars and decisions; the other tables go to X.moments.parquet and so on. In CSV
            a blob is hex; a number has the shortest digits that give the same number again.

    Raises:
        JournalError: it is no journal, or of another version; or `out` ends otherwise.
        OSError: a file cannot be written; those of before are untouched.
    """
    if out.suffix not in SUFFIXES:
        raise JournalError(f"expected --out to end with {' or '.join(SUFFIXES)}, found {out}")
    write = _write_parquet if out.suffix == ".parquet" else _write_csv
    done, unfinished = [], []
    with _reading(journal) as database:
        # One transaction: all tables as they are at one instant.
        database.execute("BEGIN")
        try:
            for table, order in TABLES.items():
                path = out if table == "bars" else out.with_suffix(f".{table}{out.suffix}")
                partial = path.with_name(f"{path.name}.unfinished")
                unfinished.append((partial, path))
                columns = [(row[1], row[2]) for row in database.execute(f"PRAGMA table_info({table})")]
                rows = database.execute(f"SELECT * FROM {table} ORDER BY {order}")
                done.append(Exported(table, path, write(partial, columns, rows)))
            for partial, path in unfinished:
                os.replace(partial, path)
        finally:
            for partial, _ in unfinished:
                partial.unlink(missing_ok=True)
    return done


@contextmanager
def _reading(journal: Path) -> Iterator[sqlite3.Connection]:
    """The journal, read only, once it is known to be one of this version.

    Raises:
        JournalError: it is not, or what is read of it is damaged.
    """
    try:
        with (
            JournalReader(journal),
            closing(
                sqlite3.connect(f"{journal.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
            ) as database,
        ):
            yield database
    except JournalError:
        raise
    except (sqlite3.Error, ValueError, TypeError) as error:
        # SQLite's words about a damaged schema are not always text.
        raise JournalError(f"{journal} is damaged ({error}); see `finsense journal verify {journal}`") from error


def _batches(rows: sqlite3.Cursor) -> Iterator[list[Any]]:
    while batch := rows.fetchmany(_ROWS):
        yield batch


def _write_parquet(path: Path, columns: Sequence[tuple[str, str]], rows: sqlite3.Cursor) -> int:
    schema = pa.schema([(name, _TYPES[kind]) for name, kind in columns])
    count = 0
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(rows):
            count += len(batch)
            arrays = [pa.array(column, one.type) for column, one in zip(zip(*batch, strict=True), schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return count


def _write_csv(path: Path, columns: Sequence[tuple[str, str]], rows: sqlite3.Cursor) -> int:
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([name for name, _ in columns])
        for batch in _batches(rows):
            count += len(batch)
            writer.writerows([one.hex() if isinstance(one, bytes) else one for one in row] for row in batch)
    return count


class Decided(NamedTuple):
    """One symbol at one moment, for a person.

    Attributes:
        seq: number of the record.
        time_ns: start of the bar, ns UTC.
        symbol: which.
        close: rupees.
        action: what the policy chose; None while the symbol lacked its warm-up.
        order_quantity: the intent, signed shares; 0 for none.
        stop_paise: trigger of the protective stop from here on; 0 for none.
        refused: why the choice or the order did not leave; empty where it did, or where there was none.
        position: shares at the close.
        cash_paise: of the account.
        equity_paise: of the account.
    """

    seq: int
    time_ns: int
    symbol: str
    close: float
    action: int | None
    order_quantity: int
    stop_paise: int
    refused: str
    position: int
    cash_paise: int
    equity_paise: int


_LAST_DECISIONS = """
SELECT bars.seq, bars.time_ns, symbol, close, nullif(action, -1), order_quantity, stop_paise, refused, position,
    cash_paise, equity_paise
FROM bars JOIN moments USING (seq) ORDER BY bars.seq DESC, symbol DESC LIMIT ?
"""


def last_decisions(journal: Path, count: int) -> list[Decided]:
    """The last rows of the bars and what was decided on them, oldest first.

    Raises:
        JournalError: it is no journal, or of another version.
    """
    with _reading(journal) as database:
        return [Decided(*row) for row in database.execute(_LAST_DECISIONS, (count,)).fetchall()[::-1]]


def last_events(journal: Path, count: int) -> list[Event]:
    """The last events of orders and session, oldest first.

    Raises:
        JournalError: it is no journal, or of another version.
    """
    with _reading(journal) as database:
        rows = database.execute("SELECT * FROM events ORDER BY seq DESC LIMIT ?", (count,)).fetchall()
        return [event_of(row) for row in rows[::-1]]


def identity_of(journal: Path) -> dict[str, Any]:
    """What the session is: bundle, symbols, config and so on, as JSON values.

    Raises:
        JournalError: it is no journal, or of another version.
    """
    with _reading(journal) as database:
        return {name: json.loads(value) for name, value in database.execute("SELECT key, value FROM meta")}
