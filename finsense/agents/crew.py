"""What a crew of worker processes is to those who give it tasks, wherever it works, and how tasks are worked off."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from finsense.agents.progress import TrainingInterrupted, first_interrupt

_SECONDS_BETWEEN_LOOKS = 0.2


class CrewError(ValueError):
    """A crew that cannot be had, or is lost."""


class Line(Protocol):
    """A task's line to the crew that gave it."""

    def say(self, value: Any) -> None:
        """Tell something on the way; nobody may be there any more, and then the task is to stop."""

    def stop_asked(self) -> bool:
        """Whether the task shall stop where it can go on later."""


@dataclass(frozen=True)
class Task:
    """What a worker does: one call of a function.

    Attributes:
        name: unique among those that a crew is given.
        work: called with a `Line` and the arguments; importable from a module.
        arguments: picklable; paths are absolute.
        log: takes what the task prints to stdout and stderr.
    """

    name: str
    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    log: Path


@dataclass(frozen=True)
class News:
    """What a worker has to tell.

    Attributes:
        task: its name.
        kind: `said` on the way; the others end the task: `done`, `stopped` (it can go on later), `failed`, or `killed`
            (the process died).
        value: what was said; the task's result; or why it did not end well, a text.
        pid: of the worker's process, on its machine; None for what never came to one.
    """

    task: str
    kind: Literal["said", "done", "stopped", "failed", "killed"]
    value: Any
    pid: int | None = None


class Crew(Protocol):
    """Worker processes that do so many tasks at once."""

    @property
    def busy(self) -> list[str]:
        """Names of the tasks at work."""

    @property
    def free(self) -> bool:
        """Whether another task can be started now."""

    def start(self, task: Task) -> None:
        """Give a task to a worker."""

    def stop(self, name: str) -> None:
        """Ask a task to stop where it can go on later; it may be asked again."""

    def hear(self, timeout_s: float) -> list[News]:
        """What came in, after waiting at most so long for it; what a task says comes before its end."""


def work_off(crew: Crew, tasks: Iterator[Task], take: Callable[[News], None]) -> None:
    """Give the crew one task after the other until all have ended; one that fails leaves the others alone.

    Args:
        crew: does them.
        tasks: asked for the next one when the crew can begin it.
        take: called with all that comes in.

    Raises:
        TrainingInterrupted: Ctrl-C, after every task at work was stopped where it can go on.
    """
    with first_interrupt() as asked:
        exhausted = False
        while crew.busy or not (exhausted or asked.is_set()):
            while crew.free and not (exhausted or asked.is_set()):
                task = next(tasks, None)
                exhausted = task is None
                if task is not None:
                    crew.start(task)
            for news in crew.hear(_SECONDS_BETWEEN_LOOKS):
                take(news)
            if asked.is_set():
                for name in crew.busy:
                    crew.stop(name)
    if asked.is_set():
        raise TrainingInterrupted("stopped; all that was at work can be resumed")


def perform(line: Line, task: Task) -> tuple[Literal["done", "stopped", "failed"], Any]:
    """Do a task in this process; gives what `News` tells of its end.

    Raises:
        OSError: its log cannot be written.
    """
    with _printed_into(task.log):
        try:
            return "done", task.work(line, *task.arguments)
        except TrainingInterrupted as stopped:
            return "stopped", str(stopped)
        except Exception as error:
            traceback.print_exc()
            return "failed", f"{type(error).__name__}: {error}"


@contextmanager
def _printed_into(log: Path) -> Iterator[None]:
    """Send stdout and stderr, also those of compiled libraries, to the end of a file."""
    _flush()
    before = os.dup(1), os.dup(2)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        _flush()
        for stream, descriptor in enumerate(before, start=1):
            os.dup2(descriptor, stream)
        for descriptor in (file, *before):
            os.close(descriptor)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
