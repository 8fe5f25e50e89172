"""How a journal lies on disk: tables, rows, and the hash chain that binds every record to all before it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from finsense.account.session import Fill, Observation
from finsense.market.bars import Bar
from finsense.market.moments import Moment

FORMAT = 4
HISTORY, MOMENT, EVENT = "history", "moment", "event"
HASH_BYTES = 32

# `links` has one row per record in the order of writing; the other tables hold what the record says, by its number.
# What a moment writes has no index beside its rows: they lie in the order of writing, and every further tree is another
# page to write and to flush before an order leaves. The chain is what finds a row that is there twice.
_TABLES = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "links": "seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, hash BLOB NOT NULL",
    "history": "seq INTEGER, symbol TEXT, time_ns INTEGER, open REAL, high REAL, low REAL, close REAL, volume INTEGER, "
    "extra BLOB, PRIMARY KEY (seq, symbol, time_ns)",
    "moments": "seq INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, cash_paise INTEGER NOT NULL, "
    "equity_paise INTEGER NOT NULL",
    "bars": "seq INTEGER, symbol TEXT, time_ns INTEGER, open REAL, high REAL, low REAL, close REAL, volume INTEGER, "
    "extra BLOB, state BLOB, mask BLOB, action INTEGER, probabilities BLOB, votes BLOB, order_quantity INTEGER, "
    "stop_ppm INTEGER, stop_paise INTEGER, refused TEXT, position INTEGER",
    "fills": "seq INTEGER, place INTEGER, symbol TEXT, time_ns INTEGER, quantity INTEGER, price_paise INTEGER, "
    "order_number INTEGER, trade TEXT",
    "events": "seq INTEGER PRIMARY KEY, time_ns INTEGER NOT NULL, tag TEXT NOT NULL, what TEXT NOT NULL, "
    "body TEXT NOT NULL",
}
# What each kind of record consists of, in the order in which it is hashed.
PARTS = {HISTORY: ("history",), MOMENT: ("moments", "bars", "fills"), EVENT: ("events",)}
INSERT = {
    table: f"INSERT INTO {table} VALUES ({', '.join('?' * count)})"
    for table, count in (("links", 3), ("history", 9), ("moments", 4), ("bars", 19), ("fills", 8), ("events", 5))
}

Row = tuple[Any, ...]
Parts = Mapping[str, Sequence[Row]]


def schema() -> list[str]:
    """The statements that make an empty journal; no row of it may change or go."""
    statements = []
    for table, columns in _TABLES.items():
        statements.append(f"CREATE TABLE {table} ({columns})")
        for verb in ("UPDATE", "DELETE"):
            statements.append(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
            )
    return statements


class JournalError(ValueError):
    """A journal that belongs to another session, that was changed, or that does not replay."""


class BarRecord(NamedTuple):
    """What was journalled of one symbol in a moment.

    Attributes:
        symbol: which.
        state: the (F,) float32 state, as bytes; empty while the symbol lacked its warm-up, as are the next three.
        mask: the (A,) bool mask, as bytes.
        action: the chosen action; -1 while the symbol lacked its warm-up.
        probabilities: (A,) float32, as bytes.
        votes: what each member of an ensemble voted (dtype VOTE), as bytes; empty for a policy that is alone.
        order_quantity: the intent, signed shares; 0 for none.
        stop_ppm: distance of the protective stop of the intent, parts per million.
        stop_paise: trigger of the protective stop that was to rest from here on; 0 for none.
        refused: why the choice or the order did not leave; empty where it did, or where there was none.
        position: shares at the bar's close.
    """

    symbol: str
    state: bytes
    mask: bytes
    action: int
    probabilities: bytes
    votes: bytes
    order_quantity: int
    stop_ppm: int
    stop_paise: int
    refused: str
    position: int

    def observation(self) -> Observation | None:
        """What the policy saw; None while the symbol lacked its warm-up."""
        if not self.state:
            return None
        return Observation(
            np.frombuffer(self.state, np.float32).reshape(1, -1).copy(),
            np.frombuffer(self.mask, np.bool_).reshape(1, -1).copy(),
        )


class MomentRecord(NamedTuple):
    """One journalled moment.

    Attributes:
        seq: number of the record.
        moment: the bars.
        rows: one per bar, in the same order.
        fills: symbol -> what was settled before the bars were seen.
        cash_paise: of the account at the close of the bars.
        equity_paise: of the account.
    """

    seq: int
    moment: Moment
    rows: tuple[BarRecord, ...]
    fills: Mapping[str, list[Fill]]
    cash_paise: int
    equity_paise: int


class Event(NamedTuple):
    """Something that happened to an order, or to the session.

    Attributes:
        seq: number of the record.
        time_ns: instant, ns UTC.
        tag: of the order; empty for the session.
        what: in a word.
        body: the rest.
    """

    seq: int
    time_ns: int
    tag: str
    what: str
    body: dict[str, Any]


def first_hash(identity: Mapping[str, str]) -> bytes:
    """Where the chain begins: SHA-256 over the identity of the session."""
    return hashlib.sha256(repr(sorted(identity.items())).encode()).digest()


def next_hash(before: bytes, kind: str, parts: Parts) -> bytes:
    """SHA-256 over the hash before, the kind, and every value of the record's rows as Python writes it.

    `repr` of numbers, texts and bytes is exact and the same in every version of Python.
    """
    digest = hashlib.sha256(before)
    digest.update(kind.encode())
    for table in PARTS[kind]:
        digest.update(repr([tuple(row) for row in parts.get(table, ())]).encode())
    return digest.digest()


def bar_values(bar: Bar) -> Row:
    """A bar as the tables keep it: what it knows beyond its prices as little-endian float64."""
    return *bar[:6], np.array(bar.extra, "<f8").tobytes() if bar.extra else b""


def bar_of(row: Sequence[Any]) -> Bar:
    """The bar of seven columns."""
    time_ns, open_, high, low, close, volume, extra = row
    return Bar(time_ns, open_, high, low, close, volume, tuple(np.frombuffer(extra, "<f8").tolist()) if extra else ())


def moment_of(moment: Row, bars: Sequence[Row], fills: Sequence[Row]) -> MomentRecord:
    """The record of its rows of the three tables."""
    seq, time_ns, cash_paise, equity_paise = moment
    found: dict[str, list[Fill]] = {}
    for _, _, symbol, *fill in fills:
        found.setdefault(symbol, []).append(Fill(*fill))
    seen = Moment(time_ns, {row[1]: bar_of(row[2:9]) for row in bars})
    rows = tuple([BarRecord(row[1], *row[9:]) for row in bars])
    return MomentRecord(seq, seen, rows, found, cash_paise, equity_paise)


def event_of(row: Row) -> Event:
    """The event of its row."""
    seq, time_ns, tag, what, body = row
    return Event(seq, time_ns, tag, what, json.loads(body))


def identity_text(**parts: object) -> dict[str, str]:
    """An identity from named parts, each as canonical JSON text."""
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in parts.items()}
