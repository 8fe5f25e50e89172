"""Tells people what is wrong: log, journal and webhooks, without ever holding up or breaking what trades."""

import json
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self
from urllib.parse import urlsplit

import structlog

from finsense.live.clock import SystemClock, WallClock
from finsense.live.plain_http import ask
from finsense.live.redaction import scrub, scrubbed

_QUEUE = 256
# A service that is down is tried again after so many seconds, the last pause repeating until the session ends.
_PAUSES_S = (1.0, 5.0, 15.0, 60.0)
_MOST_TRIES = 30

log = structlog.get_logger()


def post_json(address: str, body: Mapping[str, Any], timeout_s: float) -> None:
    """Send JSON by POST.

    Raises:
        OSError: it was not delivered.
        ValueError: the address is none.
    """
    content = json.dumps(body, default=str).encode()
    ask(address, timeout_s, method="POST", content=content, kind="application/json")


def host_of(address: str) -> str:
    """What may be shown of an address: the rest of it is often a secret."""
    return urlsplit(address).hostname or "?"


class Webhook:
    """One address, served by a thread of its own, in order; one that hangs holds up nothing but itself.

    Args:
        address: where alarms are posted.
        timeout_s: of one try.

    Attributes:
        delivered: alarms that were taken.
        failed: tries that failed.
        dropped: alarms that were given up, or did not fit into the queue.
    """

    def __init__(self, address: str, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._waiting: queue.Queue[Mapping[str, Any]] = queue.Queue(_QUEUE)
        self._closing = threading.Event()
        self.delivered = self.failed = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=f"alarms to {host_of(address)}", daemon=True)
        self._thread.start()

    def send(self, body: Mapping[str, Any]) -> None:
        """Queue an alarm; returns at once. Where 256 wait already, it is counted as dropped."""
        try:
            self._waiting.put_nowait(body)
        except queue.Full:
            self.dropped += 1

    def close(self, at_most_s: float) -> bool:
        """Deliver what waits, for a limited time; whether all of it was delivered."""
        until_s = time.monotonic() + at_most_s
        while self._waiting.unfinished_tasks and time.monotonic() < until_s:
            time.sleep(0.01)
        left = self._waiting.unfinished_tasks
        self._closing.set()
        return not left

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                body = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            self._deliver(body)
            self._waiting.task_done()

    def _deliver(self, body: Mapping[str, Any]) -> None:
        for tried in range(_MOST_TRIES):
            try:
                post_json(self._address, body, self._timeout_s)
            except (OSError, ValueError) as error:
                self.failed += 1
                # The error may name the address.
                log.warning("an alarm was not delivered", host=host_of(self._address), why=type(error).__name__)
                if self._closing.wait(_PAUSES_S[min(tried, len(_PAUSES_S) - 1)]):
                    break
            else:
                self.delivered += 1
                return
        self.dropped += 1


class Alarms:
    """Raises alarms; never blocks, never fails.

    Args:
        account: named in every alarm.
        addresses: of webhooks.
        timeout_s: of one try to reach one.
        clock: of the market.
        note: writes an event into the journal: tag, what, body, time (ns UTC). It is called in the thread that made
            this object, which is the journal's own.

    Attributes:
        counts: kind -> alarms raised.
        lost_notes: alarms that the journal would not take.
        webhooks: see there.
    """

    def __init__(
        self,
        account: str,
        addresses: Sequence[str] = (),
        timeout_s: float = 10.0,
        clock: WallClock | None = None,
        note: Callable[[str, str, Mapping[str, Any], int], None] = lambda tag, what, body, time_ns: None,
    ) -> None:
        self._account, self._clock, self._note = account, clock or SystemClock(), note
        self._owner = threading.get_ident()
        self._pending: deque[tuple[Mapping[str, Any], int]] = deque()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.lost_notes = 0
        self.webhooks = [Webhook(address, timeout_s) for address in addresses]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def raise_(self, kind: str, text: str, /, **facts: Any) -> None:
        """Raise one; from any thread."""
        body = {"kind": kind, "text": scrub(text), "facts": scrubbed(facts)}
        time_ns = self._clock.now_ns()
        with self._lock:
            self.counts[kind] += 1
            self._pending.append((body, time_ns))
        with suppress(OSError):
            # The log may lie on the disk that the alarm is about.
            log.error(f"alarm: {kind}", text=body["text"], facts=body["facts"])
        for webhook in self.webhooks:
            webhook.send({"account": self._account, "time_ns": time_ns, **body})
        if threading.get_ident() == self._owner:
            self.look()

    def look(self) -> None:
        """Write what other threads raised into the journal; the loop calls it between bars."""
        while self._pending:
            with self._lock:
                body, time_ns = self._pending.popleft()
            try:
                self._note("", "alarm", body, time_ns)
            except Exception as error:
                # A journal that fails stops the loop by itself; the alarm about it must not be what breaks first.
                self.lost_notes += 1
                with suppress(OSError):
                    log.error("an alarm is not in the journal", kind=body["kind"], why=str(error))

    def close(self, at_most_s: float = 5.0) -> bool:
        """Deliver what waits, for a limited time; whether all of it was delivered."""
        self.look()
        return all([webhook.close(at_most_s) for webhook in self.webhooks])
