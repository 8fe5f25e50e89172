"""The journal: every bar, fill, decision, order and event of a session, append-only, on disk before an order leaves."""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from finsense.account.session import Fill, Observation, Order
from finsense.live.journal_format import (
    EVENT,
    FORMAT,
    HISTORY,
    INSERT,
    MOMENT,
    Event,
    JournalError,
    MomentRecord,
    Parts,
    Row,
    bar_values,
    first_hash,
    next_hash,
    schema,
)
from finsense.live.journal_format import identity_text as identity_text
from finsense.live.journal_reader import check_format, read_events, read_history, read_moments, verify
from finsense.market.bars import Bar, ist_text
from finsense.market.moments import Moment
from finsense.model.policy import Decision

# The log may grow to so many pages (16 MiB) where nobody tidies up, as in a replay that never pauses.
_LOG_PAGES = 4000
_TIDY_RECORDS = 100


class Journal:
    """An SQLite file in WAL mode with one writer; others may read it meanwhile (`JournalReader`).

    Its records (the history, each moment, each event) form a chain: the hash of a record covers all that it says and
    the hash of the one before, beginning with the session's identity.

    Args:
        path: the file; it is made when it does not exist.
        identity: what must be the same for the session to go on: bundle, symbols, interval, first bar and so on.

    Raises:
        JournalError: the file is no journal, was written by another version, belongs to another session, or is in use.
    """

    def __init__(self, path: Path, identity: dict[str, str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # One writer: a second loop on the same journal is refused at once, not after the first order.
        self._lock = path.with_name(f"{path.name}.lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise JournalError(f"{path} is in use: another session is running on it") from None
        try:
            # What an account does is its owner's affair; the files beside it take its mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = sqlite3.connect(path, timeout=5.0, isolation_level=None)
            self._open(identity)
        except sqlite3.OperationalError as error:
            self._lock.close()
            raise JournalError(f"{path} cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise JournalError(f"{path} is not a journal ({error}); choose another file") from error
        except JournalError:
            self.close()
            raise

    def _open(self, identity: dict[str, str]) -> None:
        identity = {"format": str(FORMAT), **identity}
        (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        if not tables:
            # Whole or not at all: a process that dies here leaves an empty file, which is begun again.
            self._database.execute("BEGIN IMMEDIATE")
            for statement in schema():
                self._database.execute(statement)
            self._database.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
            self._database.execute("COMMIT")
        # Moving the log into the file flushes both: not between a bar's close and its order, but in `tidy`.
        self._database.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        self._synchronous, self._untidy = True, 0
        found = dict(self._database.execute("SELECT key, value FROM meta"))
        if found != identity:
            self._refuse(found, identity)
        last = self._database.execute("SELECT seq, hash FROM links ORDER BY seq DESC LIMIT 1").fetchone()
        self._seq: int = 0 if last is None else last[0] + 1
        self._hash: bytes = first_hash(identity) if last is None else last[1]
        newest = self._database.execute("SELECT time_ns FROM moments ORDER BY seq DESC LIMIT 1").fetchone()
        self._last_ns: int | None = None if newest is None else newest[0]

    def _refuse(self, found: dict[str, str], identity: dict[str, str]) -> None:
        check_format(self.path, found)
        differences = [
            f"  {key}: the journal has {found.get(key)!r}, this session {identity.get(key)!r}"
            for key in sorted({*found, *identity})
            if found.get(key) != identity.get(key)
        ]
        raise JournalError(
            f"{self.path} is the journal of another session; nothing was written to it. It differs in\n"
            + "\n".join(differences)
            + "\nName another journal (`--journal`, or `name` in the setup), or start this one as that was started"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file; everything was on disk already."""
        self._database.close()
        self._lock.close()

    @property
    def last_time_ns(self) -> int | None:
        """Start of the last journalled moment, ns UTC; None in a fresh journal."""
        return self._last_ns

    @property
    def begun(self) -> bool:
        """Whether the bars before the first traded one are in it."""
        return self._database.execute("SELECT 1 FROM links WHERE kind = ?", (HISTORY,)).fetchone() is not None

    def begin(self, history: Mapping[str, Sequence[Bar]]) -> dict[str, list[Bar]]:
        """Keep the bars before the first traded one, once; returns those that were kept first."""
        if self.begun:
            return read_history(self._database)
        rows = [(self._seq, symbol, *bar_values(bar)) for symbol in sorted(history) for bar in history[symbol]]
        self._write(HISTORY, {"history": rows}, durable=True)
        return {symbol: list(history[symbol]) for symbol in sorted(history)}

    def append(
        self,
        moment: Moment,
        fills: Mapping[str, Sequence[Fill]],
        seen: Mapping[str, Observation],
        decisions: Mapping[str, Decision],
        orders: Mapping[str, Order],
        stops: Mapping[str, int],
        refused: Mapping[str, str],
        books: tuple[int, Mapping[str, int], int],
        *,
        flush: bool = True,
    ) -> None:
        """Commit one moment; with `flush` it has reached the disk (fsync) when this returns.

        Without, the record survives a crash of the process, and a power cut may take the moments since the last flush:
        they are decided again from the feed, to the same bits. A later flush takes all records before it along.

        Args:
            moment: the bars.
            fills: what was settled before they were seen.
            seen: what the policies saw; a symbol that lacks its warm-up is absent.
            decisions: what they chose.
            orders: the intents.
            stops: the protective stops that are to rest from here on: symbol -> trigger, paise.
            refused: symbol -> why its choice or its order does not leave.
            books: cash in paise, symbol -> shares, equity in paise.
            flush: see above.

        Raises:
            JournalError: the moment is not later than the last one; nothing was written.
        """
        if self._last_ns is not None and moment.time_ns <= self._last_ns:
            raise JournalError(f"{self.path}: the moment of {ist_text(moment.time_ns)} is in the journal already")
        cash_paise, positions, equity_paise = books
        parts: Parts = {
            "moments": [(self._seq, moment.time_ns, cash_paise, equity_paise)],
            "bars": [
                (
                    self._seq,
                    symbol,
                    *bar_values(bar),
                    *_decided(seen.get(symbol), decisions.get(symbol), orders.get(symbol)),
                    stops.get(symbol, 0),
                    refused.get(symbol, ""),
                    positions.get(symbol, 0),
                )
                for symbol, bar in moment.bars.items()
            ],
            "fills": [
                (self._seq, place, symbol, *fill)
                for place, (symbol, fill) in enumerate((one, fill) for one in sorted(fills) for fill in fills[one])
            ],
        }
        self._write(MOMENT, parts, durable=flush)
        self._last_ns = moment.time_ns

    def note(self, tag: str, what: str, body: Mapping[str, Any], time_ns: int) -> None:
        """Commit an event; it has reached the disk (fsync) when this returns.

        Args:
            tag: of the order; empty for the session.
            what: in a word.
            body: the rest, as JSON values.
            time_ns: instant, ns UTC.
        """
        row = (self._seq, time_ns, tag, what, json.dumps(body, sort_keys=True))
        self._write(EVENT, {"events": [row]}, durable=True)

    def tidy(self) -> None:
        """Between two bars: move what was written into the file proper, once there is enough of it."""
        if self._untidy >= _TIDY_RECORDS:
            self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._untidy = 0

    def records(self) -> Iterator[MomentRecord]:
        """Every journalled moment in time order."""
        return read_moments(self._database)

    def events(self) -> Iterator[Event]:
        """Every event in the order of writing."""
        return read_events(self._database)

    def verify(self) -> int:
        """As `JournalReader.verify`."""
        return verify(self.path, self._database, dict(self._database.execute("SELECT key, value FROM meta")))

    def _write(self, kind: str, parts: Parts, *, durable: bool) -> None:
        if durable != self._synchronous:
            self._synchronous = durable
            self._database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        hash_ = next_hash(self._hash, kind, parts)
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        try:
            for table, rows in parts.items():
                for row in rows:
                    execute(INSERT[table], row)
            execute(INSERT["links"], (self._seq, kind, hash_))
            execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                execute("ROLLBACK")
            raise
        self._seq, self._hash = self._seq + 1, hash_
        self._untidy += 1


def _decided(seen: Observation | None, decision: Decision | None, order: Order | None) -> Row:
    quantity, stop_ppm = (order.quantity, order.stop_ppm) if order else (0, 0)
    if seen is None or decision is None:
        return b"", b"", -1, b"", b"", quantity, stop_ppm
    return (
        seen.state.tobytes(),
        seen.mask.tobytes(),
        decision.action,
        decision.probabilities.tobytes(),
        decision.vote_bytes,
        quantity,
        stop_ppm,
    )
