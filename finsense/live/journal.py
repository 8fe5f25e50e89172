"""The journal: every bar, fill, decision and intent of a session, append-only, on disk before an order leaves."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from finsense.account.session import Fill, Observation, Order
from finsense.market.bars import Bar
from finsense.model.policy import Decision

FORMAT = 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    time_ns INTEGER PRIMARY KEY, open REAL, high REAL, low REAL, close REAL, volume INTEGER, extra BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS bars (
    time_ns INTEGER PRIMARY KEY, open REAL, high REAL, low REAL, close REAL, volume INTEGER, extra BLOB NOT NULL,
    fill_quantity INTEGER NOT NULL, fill_price_paise INTEGER NOT NULL,
    state BLOB NOT NULL, mask BLOB NOT NULL, action INTEGER NOT NULL, probabilities BLOB NOT NULL,
    votes BLOB NOT NULL, order_quantity INTEGER NOT NULL,
    cash_paise INTEGER NOT NULL, position INTEGER NOT NULL, equity_paise INTEGER NOT NULL
);
CREATE TRIGGER IF NOT EXISTS bars_never_change BEFORE UPDATE ON bars
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER IF NOT EXISTS bars_never_go BEFORE DELETE ON bars
BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""
_INSERT = f"INSERT INTO bars VALUES ({', '.join('?' * 18)})"


class JournalError(ValueError):
    """A journal that belongs to another session, or that does not replay."""


class Record(NamedTuple):
    """One journalled bar.

    Attributes:
        bar: the bar.
        fill: what filled at its open, or None.
        state: the (F,) float32 state, as bytes.
        mask: the (A,) bool mask, as bytes.
        action: the chosen action.
        probabilities: (A,) float32, as bytes.
        votes: what each member of an ensemble voted (dtype VOTE), as bytes; empty for a policy that is alone.
        order_quantity: the intent, signed shares; 0 for none.
        cash_paise: the session's cash at the bar's close.
        position: its shares.
        equity_paise: its equity.
    """

    bar: Bar
    fill: Fill | None
    state: bytes
    mask: bytes
    action: int
    probabilities: bytes
    votes: bytes
    order_quantity: int
    cash_paise: int
    position: int
    equity_paise: int


class Journal:
    """An SQLite file in WAL mode, opened by one session at a time.

    Args:
        path: the file; it is made when it does not exist.
        identity: what must be the same for the session to go on: bundle, symbol, interval, first bar and so on.

    Raises:
        JournalError: the file is no journal, was written by another version, belongs to another session, or is in use.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=0.2, isolation_level=None)
            # One writer: a second loop on the same journal is refused at once, not after the first order.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._synchronous = True
            self._database.executescript(_SCHEMA)
            self._identify({"format": str(FORMAT), **identity})
        except sqlite3.OperationalError as error:
            raise JournalError(f"{path} cannot be opened ({error}); is another session running on it?") from error
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{path} is not a journal ({error}); choose another file") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; everything was on disk already."""
        self._database.close()

    def _identify(self, identity: dict[str, str]) -> None:
        found = dict(self._database.execute("SELECT key, value FROM meta"))
        if not found:
            with_commit = [("BEGIN", ()), *(("INSERT INTO meta VALUES (?, ?)", pair) for pair in identity.items())]
            for statement, values in with_commit:
                self._database.execute(statement, values)
            self._database.execute("COMMIT")
        elif found != identity:
            differences = [
                f"  {key}: the journal has {found.get(key)!r}, this session {identity.get(key)!r}"
                for key in sorted({*found, *identity})
                if found.get(key) != identity.get(key)
            ]
            self.close()
            raise JournalError(
                f"{self.path} is the journal of another session; nothing was written to it. It differs in\n"
                + "\n".join(differences)
                + "\nGive another --journal, or start this session as that one was started"
            )

    @property
    def last_time_ns(self) -> int | None:
        """Start of the last journalled bar, ns UTC; None in a fresh journal."""
        (last,) = self._database.execute("SELECT max(time_ns) FROM bars").fetchone()
        return None if last is None else int(last)

    def begin(self, history: Sequence[Bar]) -> list[Bar]:
        """Keep the bars before the first traded one, once; returns those that were kept first."""
        kept = [_bar(row) for row in self._database.execute("SELECT * FROM history ORDER BY time_ns")]
        if kept:
            return kept
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?)", map(_values, history))
        self._database.execute("COMMIT")
        return list(history)

    def append(
        self,
        bar: Bar,
        fills: Sequence[Fill],
        seen: Observation,
        decision: Decision,
        order: Order | None,
        books: tuple[int, int, int],
    ) -> None:
        """Commit one bar; with an order it has reached the disk (fsync) when this returns.

        Without an order the record survives a crash of the process, and a power cut may take the bars since the last
        order: they are decided again from the feed, to the same bits.

        Args:
            bar: the bar.
            fills: at most one.
            seen: what the policy saw.
            decision: what it chose.
            order: the intent.
            books: cash in paise, shares, equity in paise.

        Raises:
            JournalError: more than one fill; the journal keeps one a bar.
        """
        if len(fills) > 1:
            raise JournalError(f"expected at most one fill a bar, found {len(fills)}")
        if (order is not None) != self._synchronous:
            self._synchronous = order is not None
            self._database.execute(f"PRAGMA synchronous = {'FULL' if self._synchronous else 'NORMAL'}")
        fill = fills[0] if fills else None
        self._database.execute(
            _INSERT,
            (
                *_values(bar),
                fill.quantity if fill else 0,
                fill.price_paise if fill else 0,
                seen.state.tobytes(),
                seen.mask.tobytes(),
                decision.action,
                decision.probabilities.tobytes(),
                decision.vote_bytes,
                order.quantity if order else 0,
                *books,
            ),
        )

    def records(self) -> Iterator[Record]:
        """Every journalled bar in time order."""
        for row in self._database.execute("SELECT * FROM bars ORDER BY time_ns"):
            bar = _bar(row[:7])
            fill = Fill(bar.time_ns, row[7], row[8]) if row[7] else None
            yield Record(bar, fill, *row[9:])


def _values(bar: Bar) -> tuple[float | bytes, ...]:
    """A bar as the tables keep it: what it knows beyond its prices as little-endian float64."""
    return *bar[:6], np.array(bar.extra, "<f8").tobytes()


def _bar(row: Sequence[Any]) -> Bar:
    time_ns, open_, high, low, close, volume, extra = row
    return Bar(time_ns, open_, high, low, close, volume, tuple(np.frombuffer(extra, "<f8").tolist()))


def identity_text(**parts: object) -> dict[str, str]:
    """An identity from named parts, each as canonical JSON text."""
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in parts.items()}


def observation_of(record: Record) -> Observation:
    """The observation of a journalled bar."""
    return Observation(
        np.frombuffer(record.state, np.float32).reshape(1, -1).copy(),
        np.frombuffer(record.mask, np.bool_).reshape(1, -1).copy(),
    )
