"""Marks a folder as in use by a process, so that no second one writes in it; the mark dies with the process."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finsense.agents.run_folder import RunError

LOCK = ".in_use"
# A reader that looks whether a folder is in use holds its lock for an instant.
_ATTEMPTS, _SECONDS_BETWEEN = 5, 0.05


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if it does not exist; the kernel lets go of it when the process ends, however.

    Raises:
        RunError: another process holds it.
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a") as file:
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if attempt == _ATTEMPTS - 1:
                    raise RunError(
                        f"{folder} is in use by another process; wait until it has ended, or end it"
                    ) from error
                time.sleep(_SECONDS_BETWEEN)
        yield


def is_occupied(folder: Path) -> bool:
    """Whether a process holds the folder now."""
    try:
        with open(folder / LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
