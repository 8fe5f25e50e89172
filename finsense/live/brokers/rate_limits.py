"""Keeps the requests of one account below the broker's limits, whichever processes send them."""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from finsense.live.brokers.errors import RateLimited

_SECOND_NS = 1_000_000_000
# A second at the broker's clock may begin a little earlier than at ours, so every span is taken this much longer.
_MARGIN_NS = 20_000_000
_BUSY_S = 5.0
_MEMORY = ":memory:"
# Nobody books further ahead than this, or than it is ready to wait.
_FAR_S = 20.0


class Limit(NamedTuple):
    """So many requests in any span of so many seconds."""

    requests: int
    span_s: int


# Vendor's forum, comments 52882 and 51532 (2026): account-wide, even with several keys. Orders: every placing, changing
# and cancelling counts, refused ones too.
KITE_LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "order": (Limit(10, 1), Limit(400, 60), Limit(5000, 86_400)),
    "quote": (Limit(1, 1),),
    "historical": (Limit(3, 1),),
    "other": (Limit(10, 1),),
}


class RateLimits:
    """Books a time for each request in a file that all processes of an account share.

    A booking is never given back: a request that failed counts at the broker too.

    Args:
        path: the file, one per account; it is made when it does not exist.
        limits: endpoint class -> its limits.
        now_ns: the clock, ns since 1970.
        sleep_s: waits.
        or_alone: where the file cannot be used, as on a full disk, keep the limits for this process alone instead of
            failing: for who must take orders back whatever happens.
    """

    def __init__(
        self,
        path: Path,
        limits: Mapping[str, tuple[Limit, ...]] = KITE_LIMITS,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        sleep_s: Callable[[float], None] = time.sleep,
        or_alone: bool = False,
    ) -> None:
        self._limits = limits
        self._now_ns = now_ns
        self._sleep_s = sleep_s
        # One connection has one transaction at a time.
        self._lock = threading.Lock()
        self._or_alone = or_alone
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._database = _opened(path)
        except (OSError, sqlite3.Error):
            if not or_alone:
                raise
            self._database = _opened(_MEMORY)

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def wait(self, endpoint: str, *, at_most_s: float) -> None:
        """Book the next free time for a request and wait for it.

        Raises:
            RateLimited: it lies further away than `at_most_s`; nothing was booked.
        """
        wait_ns = self.book(endpoint, at_most_s=at_most_s)
        if wait_ns > 0:
            self._sleep_s(wait_ns / _SECOND_NS)

    def book(self, endpoint: str, *, at_most_s: float) -> int:
        """Book the next free time for a request; returns how far away it is, ns.

        Raises:
            RateLimited: it lies further away than `at_most_s`; nothing was booked.
        """
        with self._lock:
            try:
                return self._book(endpoint, at_most_s)
            except sqlite3.Error:
                if not self._or_alone:
                    raise
            self._database.close()
            self._database = _opened(_MEMORY)
            return self._book(endpoint, at_most_s)

    def _book(self, endpoint: str, at_most_s: float) -> int:
        limits = self._limits[endpoint]
        # One writer at a time: what two processes see free at once is given to one of them.
        self._database.execute("BEGIN IMMEDIATE")
        try:
            now_ns, far_ns = self._now_ns(), int(max(at_most_s, _FAR_S) * _SECOND_NS)
            # A clock that was set back leaves bookings far ahead; no request waits so long, so they have left already.
            self._database.execute(
                "UPDATE bookings SET at_ns = ? WHERE endpoint = ? AND at_ns > ?", (now_ns, endpoint, now_ns + far_ns)
            )
            at_ns = max([now_ns, *(self._free_ns(endpoint, limit) for limit in limits)])
            wait_ns = at_ns - now_ns
            if wait_ns > at_most_s * _SECOND_NS:
                spent = ", ".join(f"{limit.requests} in {limit.span_s} s" for limit in limits)
                raise RateLimited(
                    f"the next {endpoint} request may leave in {wait_ns / _SECOND_NS:.1f} s, and at most {at_most_s:g} "
                    f"s were to be waited; the account's limits are {spent}"
                )
            longest_ns = max(limit.span_s for limit in limits) * _SECOND_NS + _MARGIN_NS
            self._database.execute(
                "DELETE FROM bookings WHERE endpoint = ? AND at_ns <= ?", (endpoint, now_ns - longest_ns)
            )
            self._database.execute("INSERT INTO bookings VALUES (?, ?)", (endpoint, at_ns))
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return wait_ns

    def _free_ns(self, endpoint: str, limit: Limit) -> int:
        """When the oldest of the last `limit.requests` bookings has left the span."""
        row = self._database.execute(
            "SELECT at_ns FROM bookings WHERE endpoint = ? ORDER BY at_ns DESC LIMIT 1 OFFSET ?",
            (endpoint, limit.requests - 1),
        ).fetchone()
        return 0 if row is None else int(row[0]) + limit.span_s * _SECOND_NS + _MARGIN_NS


def _opened(path: Path | str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        # A power cut may forget the last bookings: by the time that the machine runs again their second has passed.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS bookings (endpoint TEXT NOT NULL, at_ns INTEGER NOT NULL)")
        database.execute("CREATE INDEX IF NOT EXISTS by_time ON bookings (endpoint, at_ns)")
    except sqlite3.Error:
        database.close()
        raise
    return database
