"""Worker processes: each does one task at a time, tells of it, and can be asked to stop or die without the others."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from finsense.agents.progress import TrainingInterrupted

_STOP = "stop"
_SECONDS_TO_END = 10.0


class Line:
    """A task's line to the process that gave it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stop = False

    def say(self, value: Any) -> None:
        """Tell something on the way; nobody may be there any more, and then the task is to stop."""
        try:
            self._connection.send(("said", value))
        except OSError:
            self._stop = True

    def stop_asked(self) -> bool:
        """Whether the task shall stop where it can go on later."""
        try:
            while not self._stop and self._connection.poll():
                self._stop = self._connection.recv() == _STOP
        except (EOFError, OSError):
            self._stop = True
        return self._stop


@dataclass(frozen=True)
class News:
    """What a worker has to tell.

    Attributes:
        task: its name.
        kind: `said` on the way; the others end the task: `done`, `stopped` (it can go on later), `failed`, or `killed`
            (the process died).
        value: what was said; the task's result; or why it did not end well, a text.
        pid: of the worker's process; None for what never came to one.
    """

    task: str
    kind: Literal["said", "done", "stopped", "failed", "killed"]
    value: Any
    pid: int | None = None


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: str | None = None


class Crew:
    """Up to so many spawned processes; a task is a function of this package's modules, given a `Line` and arguments.

    Workers are kept for the next task, because starting one costs seconds. They do not listen to Ctrl-C, which a
    terminal sends to all: the crew's owner decides who stops.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._processes = multiprocessing.get_context("spawn")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers: idle ones leave by themselves, the others are terminated."""
        for worker in self._workers:
            if worker.task is not None:
                worker.process.terminate()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(_SECONDS_TO_END)
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
        self._workers.clear()

    @property
    def busy(self) -> list[str]:
        """Names of the tasks at work."""
        return [worker.task for worker in self._workers if worker.task is not None]

    @property
    def free(self) -> bool:
        """Whether another task can be started now."""
        return len(self.busy) < self._jobs

    def start(self, task: str, work: Callable[..., Any], arguments: tuple[Any, ...], log: Path) -> None:
        """Give a task to an idle worker, or to a new one.

        Args:
            task: its name, unique among those at work.
            work: called with a `Line` and the arguments; importable from a module.
            arguments: picklable.
            log: takes what the task prints to stdout and stderr.
        """
        worker = next((one for one in self._workers if one.task is None and one.process.is_alive()), None)
        if worker is None:
            ours, theirs = self._processes.Pipe()
            process = self._processes.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            worker = _Worker(process, ours)
            self._workers.append(worker)
        log.parent.mkdir(parents=True, exist_ok=True)
        worker.task = task
        _send(worker.connection, (work, arguments, log))

    def stop(self, task: str) -> None:
        """Ask a task to stop where it can go on later."""
        _send(self._at(task).connection, _STOP)

    def hear(self, timeout_s: float) -> list[News]:
        """What came in, after waiting at most so long for the first of it."""
        busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
        heard: list[News] = []
        for connection in wait(list(busy), timeout_s):
            assert isinstance(connection, Connection)
            heard.append(self._news(busy[connection]))
        return heard

    def _news(self, worker: _Worker) -> News:
        task = worker.task
        assert task is not None
        try:
            kind, value = worker.connection.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.process.join()
            worker.connection.close()
            return News(task, "killed", _how_it_died(worker.process.exitcode), worker.process.pid)
        if kind != "said":
            worker.task = None
        return News(task, kind, value, worker.process.pid)

    def _at(self, task: str) -> _Worker:
        return next(worker for worker in self._workers if worker.task == task)


def _send(connection: Connection, value: Any) -> None:
    try:
        connection.send(value)
    except OSError:
        # The worker has died; `hear` tells it.
        return


def _how_it_died(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"its process was killed by {signal.Signals(-exit_code).name}"
    return f"its process ended with exit code {exit_code}"


def _serve(connection: Connection) -> None:
    """The worker: does the tasks that come in until the line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            order = connection.recv()
        except (EOFError, OSError):
            return
        # A task may have ended before it heard that it shall stop.
        if order == _STOP:
            continue
        work, arguments, log = order
        _print_into(log)
        line = Line(connection)
        kind, value = _outcome(line, work, arguments)
        try:
            connection.send((kind, value))
        except OSError:
            return


def _outcome(line: Line, work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "done", work(line, *arguments)
    except TrainingInterrupted as stopped:
        return "stopped", str(stopped)
    except Exception as error:
        traceback.print_exc()
        return "failed", f"{type(error).__name__}: {error}"


def _print_into(log: Path) -> None:
    """Send stdout and stderr, also those of compiled libraries, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
