"""A crew of processes on this machine: each does one task at a time, and may stop or die without the others."""

import multiprocessing
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self

from finsense.agents.crew import CrewError, News, Task, perform

_STOP = "stop"
_SECONDS_TO_END = 10.0


class _PipeLine:
    """A `crew.Line` through a pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stop = False

    def say(self, value: Any) -> None:
        try:
            self._connection.send(("said", value))
        except OSError:
            self._stop = True

    def stop_asked(self) -> bool:
        try:
            while not self._stop and self._connection.poll():
                self._stop = self._connection.recv() == _STOP
        except (EOFError, OSError):
            self._stop = True
        return self._stop


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    task: str | None = None


class LocalCrew:
    """Up to so many spawned processes, as `crew.Crew`.

    Workers are kept for the next task, because starting one costs seconds. They do not listen to Ctrl-C, which a
    terminal sends to all: the crew's owner decides who stops.
    """

    def __init__(self, jobs: int) -> None:
        """So many tasks at once.

        Raises:
            CrewError: less than one.
        """
        if jobs < 1:
            raise CrewError(f"expected one job or more, found {jobs}")
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

    def start(self, task: Task) -> None:
        """Give a task to an idle worker, or to a new one."""
        worker = next((one for one in self._workers if one.task is None and one.process.is_alive()), None)
        if worker is None:
            ours, theirs = self._processes.Pipe()
            process = self._processes.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            worker = _Worker(process, ours)
            self._workers.append(worker)
        task.log.parent.mkdir(parents=True, exist_ok=True)
        worker.task = task.name
        _send(worker.connection, task)

    def stop(self, name: str) -> None:
        """Ask a task to stop where it can go on later."""
        _send(next(worker for worker in self._workers if worker.task == name).connection, _STOP)

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
        ended = perform(_PipeLine(connection), order)
        try:
            connection.send(ended)
        except OSError:
            return
