"""One loop per account: a lock that ends with its process, and what the last loop said of itself."""

import fcntl
import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple, Self

from finsense.live.durable import write_durably

_LOCK, _RUNNING = "account.lock", "account.json"
# struct flock of Linux on 64 bits: type, whence, start, length, pid.
_FLOCK = "hhqqi4x"
# Locks that this process holds: closing any descriptor of the file would release them, so it is not opened again.
_held: set[Path] = set()


class AccountBusy(RuntimeError):
    """Another loop runs on this account."""


class Running(NamedTuple):
    """What the last loop of an account said of itself when it began.

    Attributes:
        mode: paper or live.
        pid: of its process, which may be over.
        setup: the resolved setup, JSON values.
    """

    mode: str
    pid: int
    setup: dict[str, Any]


class AccountLock:
    """Held by the loop of an account while it lives; the kernel releases it with the process, however that ends.

    Args:
        home: folder of the account.
        mode: paper or live.
        setup: the resolved setup, JSON values; `finsense kill --account` finds it here.

    Raises:
        AccountBusy: another process holds it.
        OSError: the folder cannot be written.
    """

    def __init__(self, home: Path, mode: str, setup: dict[str, Any]) -> None:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = (home / _LOCK).resolve()
        if self._path in _held:
            raise AccountBusy(f"this process runs a loop on {home} already")
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            if not isinstance(error, BlockingIOError | PermissionError):
                raise
            raise AccountBusy(
                f"process {holder(home)} runs a loop on this account ({home}); stop it first, or use another account"
            ) from None
        _held.add(self._path)
        running = {"mode": mode, "pid": os.getpid(), "setup": setup}
        write_durably(home / _RUNNING, json.dumps(running).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release it."""
        if self._path in _held:
            _held.remove(self._path)
            os.close(self._file)


def holder(home: Path) -> int | None:
    """The process that runs a loop on the account of a folder; None where there is none."""
    path = (home / _LOCK).resolve()
    if path in _held:
        return os.getpid()
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else int(pid)


def last_running(home: Path) -> Running | None:
    """What the last loop said of itself; None where none ever ran, or the file is damaged."""
    try:
        found = json.loads((home / _RUNNING).read_bytes())
        return Running(found["mode"], found["pid"], found["setup"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
