"""The kill switch: a latch on disk that stops all orders of an account until somebody types a phrase."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from finsense.live.durable import sync_folder, write_durably

RELEASE_PHRASE = "release the kill switch"
_LATCH, _TAKEN, _ANSWER, _HISTORY = "kill.json", "kill_taken.json", "kill_answer.json", "kills.jsonl"

log = structlog.get_logger()


class KillSwitchError(RuntimeError):
    """The kill switch could not be latched on disk, or not be released."""


class Latch(NamedTuple):
    """A pulled kill switch.

    Attributes:
        reason: why.
        by: who pulled it: `command`, `signal`, or what was breached.
        time_ns: when, ns UTC.
        flatten: whether positions are to be closed as well.
    """

    reason: str
    by: str
    time_ns: int
    flatten: bool


class Outcome(NamedTuple):
    """What became of a pull.

    Attributes:
        by: who carried it out: the loop, or the command in its place.
        orders: names of the orders that were seen cancelled.
        open_orders: those that may still fill.
        positions: symbol -> shares that are still held.
        problems: what went wrong; empty where all was done.
    """

    by: str
    orders: tuple[str, ...]
    open_orders: tuple[str, ...]
    positions: dict[str, int]
    problems: tuple[str, ...]


class KillSwitch:
    """The latch of one account.

    It fails closed: a latch that cannot be read, and a folder that is gone, count as pulled.

    Args:
        home: folder of the account; it is made where it does not exist.
        now_ns: the clock, ns UTC.

    Attributes:
        home: see above.
    """

    def __init__(self, home: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.home, self._now_ns = home, now_ns
        # What this process pulled holds for it even where the disk would not take it.
        self._pulled: Latch | None = None

    @property
    def latched(self) -> Latch | None:
        """The latch, or None where orders may leave. Cheap: the loop asks before every order."""
        try:
            content = (self.home / _LATCH).read_bytes()
        except FileNotFoundError:
            if self._pulled is None and not self.home.is_dir():
                return Latch(f"the folder {self.home} is gone", "kill switch", self._now_ns(), False)
            return self._pulled
        except OSError as error:
            return self._pulled or Latch(f"{self.home / _LATCH}: {error}", "kill switch", self._now_ns(), False)
        try:
            found = json.loads(content)
            return Latch(str(found["reason"]), str(found["by"]), int(found["time_ns"]), bool(found["flatten"]))
        except (ValueError, KeyError, TypeError):
            return self._pulled or Latch("the latch cannot be read", "kill switch", 0, False)

    def pull(self, reason: str, by: str, flatten: bool = False) -> Latch:
        """Latch it. A second pull keeps the first one's reason and adds to it that positions are to be closed.

        Raises:
            KillSwitchError: the disk takes nothing at all; for this process the latch holds nevertheless.
        """
        before = self.latched
        latch = Latch(reason, by, self._now_ns(), flatten)
        if before is not None:
            latch = before._replace(flatten=before.flatten or flatten)
            # A wish to close what is held is a new one: it is answered anew.
            if latch.flatten != before.flatten:
                latch = latch._replace(time_ns=self._now_ns())
        self._pulled = latch
        if latch == before and (self.home / _LATCH).exists():
            return latch
        self._write(latch)
        self._note("pulled", latch._asdict())
        return latch

    def release(self, phrase: str) -> Latch:
        """Take the latch away; returns what it was.

        Raises:
            KillSwitchError: the phrase is another, or nothing is latched; nothing was changed.
        """
        latch = self.latched
        if latch is None:
            raise KillSwitchError("the kill switch is not latched; there is nothing to release")
        if phrase.strip() != RELEASE_PHRASE:
            raise KillSwitchError(f"expected the phrase {RELEASE_PHRASE!r}, found {phrase.strip()!r}; it stays latched")
        # The record of the release comes first: what cannot be recorded is not done.
        self._append("released", latch._asdict())
        for name in (_TAKEN, _ANSWER):
            (self.home / name).unlink(missing_ok=True)
        (self.home / _LATCH).unlink(missing_ok=True)
        sync_folder(self.home)
        self._pulled = None
        return latch

    def take(self, latch: Latch) -> None:
        """Say that a pull was seen and is being carried out, so that nobody else does it."""
        if not self.taken(latch):
            try:
                write_durably(self.home / _TAKEN, json.dumps({"time_ns": latch.time_ns, "pid": os.getpid()}).encode())
            except OSError as error:
                _tell("cannot say that the pull was seen", error)

    def taken(self, latch: Latch) -> bool:
        """Whether somebody said that this pull is being carried out."""
        try:
            return bool(json.loads((self.home / _TAKEN).read_bytes())["time_ns"] == latch.time_ns)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def answer(self, latch: Latch, outcome: Outcome) -> None:
        """Say what was done about a pull, to whoever waits for it.

        Raises:
            OSError: it cannot be written.
        """
        found = {"time_ns": latch.time_ns, **outcome._asdict()}
        write_durably(self.home / _ANSWER, json.dumps(found).encode())
        self._note("answered", found)

    def answered(self, latch: Latch) -> Outcome | None:
        """What was done about a pull; None where nobody said so yet."""
        try:
            found = json.loads((self.home / _ANSWER).read_bytes())
        except (OSError, ValueError):
            return None
        if found.pop("time_ns", None) != latch.time_ns:
            return None
        parts = {name: tuple(found[name]) for name in ("orders", "open_orders", "problems")}
        return Outcome(**{**found, **parts})

    def history(self) -> list[dict[str, Any]]:
        """Every pull, answer and release, oldest first; a line that a power cut left unfinished is passed over."""
        found = []
        try:
            lines = (self.home / _HISTORY).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def _write(self, latch: Latch) -> None:
        try:
            write_durably(self.home / _LATCH, json.dumps(latch._asdict()).encode())
        except OSError as error:
            # A full disk often still takes a name. An empty latch cannot be read, and that means pulled.
            try:
                os.close(os.open(self.home / _LATCH, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
                sync_folder(self.home)
            except OSError:
                raise KillSwitchError(f"the latch cannot be written to {self.home}: {error}") from error

    def _note(self, what: str, body: dict[str, Any]) -> None:
        """Add to the history; a disk that takes no line must not keep the pull from being carried out."""
        try:
            self._append(what, body)
        except OSError as error:
            _tell("the history of the kill switch cannot be written", error)

    def _append(self, what: str, body: dict[str, Any]) -> None:
        line = json.dumps({"what": what, "at_ns": self._now_ns(), **body}) + "\n"
        file = os.open(self.home / _HISTORY, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line.encode())
            os.fsync(file)
        finally:
            os.close(file)


def _tell(what: str, error: OSError) -> None:
    """Log it; where the log lies on the disk that is full, the stop goes on without."""
    with suppress(OSError):
        log.warning(what, error=str(error))


@contextmanager
def pulled_by_signal(switch: KillSwitch) -> Iterator[None]:
    """While it lasts, SIGUSR1 pulls the switch: `kill -USR1 PID` for scripts that have no finsense at hand."""

    def pull(*_: object) -> None:
        # The signal may come between any two steps; for this process the latch holds even where the disk is full.
        with suppress(KillSwitchError):
            switch.pull("SIGUSR1 was sent to the loop", "signal")

    before = signal.signal(signal.SIGUSR1, pull)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
