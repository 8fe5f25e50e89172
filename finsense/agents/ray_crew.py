"""A crew on the machines of a Ray cluster: it does what a local crew does, in folders that all machines share."""

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from finsense.agents.crew import CrewError, News, Task, perform
from finsense.agents.provenance import versions

# Ray reads these when it is imported: no usage statistics, and nothing of the cluster's on a command's stdout.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS_SKIP_REGEX"] = "."

import ray
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SECONDS_TO_CONNECT = 10.0
# A machine that has never imported torch from its disk takes its time.
_SECONDS_TO_ANSWER = 120.0
_SECONDS_TO_END = 10.0
# Nothing big travels; the least that Ray takes is 75 MiB.
_OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True)
class _Place:
    """What a machine must have: the shared folder, known by a mark in it, what the tasks read, the same libraries."""

    folder: Path
    mark: str
    files: tuple[Path, ...]
    versions: Mapping[str, str]


class _Desk:
    """An actor beside the crew: workers leave there what they say, and learn whether they are to stop."""

    def __init__(self) -> None:
        self._said: list[tuple[str, int, Any]] = []
        self._stopped: set[str] = set()

    def say(self, task: str, pid: int, value: Any) -> bool:
        self._said.append((task, pid, value))
        return task in self._stopped

    def stop(self, task: str) -> None:
        self._stopped.add(task)

    def take(self) -> list[tuple[str, int, Any]]:
        said, self._said = self._said, []
        return said


@dataclass(frozen=True)
class _Begun:
    """The first that a task says: on which machine it is."""

    machine: str


class _DeskLine:
    """A `crew.Line` by way of the desk.

    It does not wait for the desk's answers: Ray would give the CPU of a task that waits to another one.
    """

    def __init__(self, desk: Any, task: str) -> None:
        self._desk, self._task = desk, task
        self._answers: deque[Future[bool]] = deque()
        self._stop = False

    def say(self, value: Any) -> None:
        self._answers.append(self._desk.say.remote(self._task, os.getpid(), value).future())

    def stop_asked(self) -> bool:
        while self._answers and self._answers[0].done():
            self._hear()
        return self._stop

    def close(self) -> None:
        """Wait until the desk has taken all that was said."""
        while self._answers:
            self._hear()

    def _hear(self) -> None:
        try:
            self._stop |= self._answers.popleft().result()
        except RayError:
            self._stop = True


class RayCrew:
    """Up to so many tasks at once on a Ray cluster, as `crew.Crew`; each has one CPU.

    Where Ray runs in this process already, that cluster is used, and left as it is. Otherwise the cluster at the
    address is joined; without an address one is started on this machine, and stopped in the end.

    Args:
        folder: all that the tasks write lies below it; every machine must reach it by this path. It is made.
        files: what the tasks read; every machine must have them by these absolute paths.
        jobs: tasks at once; None: as many as the cluster has CPUs.
        address: `auto`, or `HOST:PORT` of a cluster that this machine belongs to; None takes RAY_ADDRESS, if it is set.

    Raises on entering:
        CrewError: no cluster can be reached or started, it has no CPU, or a machine of it cannot work in the folder.
    """

    def __init__(
        self, folder: Path, *, files: tuple[Path, ...] = (), jobs: int | None = None, address: str | None = None
    ) -> None:
        if jobs is not None and jobs < 1:
            raise CrewError(f"expected one job or more, found {jobs}")
        self._folder = folder.absolute()
        self._wanted_jobs, self._address = jobs, address or os.environ.get("RAY_ADDRESS")
        self._jobs = 0
        self._ours = False
        self._desk: Any = None
        self._place = _Place(self._folder, f".ray_{secrets.token_hex(8)}", files, versions())
        self._running: dict[Any, str] = {}
        self._begun: dict[str, tuple[int, str]] = {}
        self._stopped: set[str] = set()

    def __enter__(self) -> Self:
        try:
            if self._address is not None:
                _refuse_silence(self._address)
            self._ours = not ray.is_initialized()
            if self._ours:
                _connect(self._address, self._wanted_jobs)
            self._jobs = self._wanted_jobs or int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
            if self._jobs < 1:
                raise CrewError("the Ray cluster has no CPU now; add a machine, or say how many --jobs it will take")
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / self._place.mark).touch()
            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            self._desk = ray.remote(_Desk).options(num_cpus=0, scheduling_strategy=here).remote()
            _refuse_strangers(self._place)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all tasks at work, and the cluster where it was started here."""
        self._leave()

    @property
    def busy(self) -> list[str]:
        """Names of the tasks at work, or waiting for a CPU of the cluster."""
        return list(self._running.values())

    @property
    def free(self) -> bool:
        """Whether another task can be started now."""
        return len(self._running) < self._jobs

    def start(self, task: Task) -> None:
        """Give a task to the cluster, which finds a machine for it."""
        task.log.parent.mkdir(parents=True, exist_ok=True)
        work = ray.remote(_work).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        self._running[work.remote(self._desk, self._place, task)] = task.name

    def stop(self, name: str) -> None:
        """Ask a task to stop where it can go on later; one that no machine has begun is taken back."""
        if name in self._stopped:
            return
        self._stopped.add(name)
        self._desk.stop.remote(name)
        if name not in self._begun:
            ray.cancel(next(end for end, task in self._running.items() if task == name))

    def hear(self, timeout_s: float) -> list[News]:
        """What came in, after waiting at most so long for the end of a task.

        Raises:
            CrewError: the cluster is lost; tasks end by themselves where they can go on later.
        """
        ended, _ = ray.wait(list(self._running), timeout=timeout_s) if self._running else ([], [])
        try:
            # A task ends when the desk has taken all that it said, so of one that has ended all lies there.
            said = ray.get(self._desk.take.remote())
        except RayError as error:
            raise CrewError(f"the Ray cluster is lost: {error}. What was saved can be resumed") from error
        heard: list[News] = []
        for task, pid, value in said:
            if isinstance(value, _Begun):
                self._begun[task] = pid, value.machine
            elif task in self.busy:
                # What the dead said may come after their end.
                heard.append(News(task, "said", value, pid))
        return heard + [self._end(one) for one in ended]

    def _end(self, end: Any) -> News:
        task = self._running.pop(end)
        pid, machine = self._begun.get(task, (None, "the cluster"))
        kind: Literal["done", "stopped", "failed", "killed"]
        try:
            kind, value = ray.get(end)
        except TaskCancelledError:
            kind, value = "stopped", "stopped before it began"
        except RayTaskError as error:
            kind, value = "failed", f"{machine}: {_last_line(error)}"
        except RayError as error:
            kind, value = "killed", f"its process on {machine} died: {error}"
        return News(task, kind, value, pid)

    def _leave(self) -> None:
        (self._folder / self._place.mark).unlink(missing_ok=True)
        if self._running:
            for end in self._running:
                ray.cancel(end, force=True)
            ray.wait(list(self._running), num_returns=len(self._running), timeout=_SECONDS_TO_END)
            self._running.clear()
        if self._desk is not None:
            ray.kill(self._desk)
        if self._ours:
            ray.shutdown()


def _connect(address: str | None, jobs: int | None) -> None:
    """Join the cluster at the address, or start one on this machine.

    Raises:
        CrewError: it cannot be done.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        if address is None:
            cpus = jobs or len(os.sched_getaffinity(0))
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
        else:
            ray.init(address, **quiet)
    except (RayError, OSError, RuntimeError, ValueError, SystemExit) as error:
        if address is None:
            raise CrewError(f"a Ray cluster cannot be started here: {error}") from error
        raise CrewError(
            f"cannot join the Ray cluster {address}: is it up, is that its head's address, as `ray start` told it, and "
            f"does this machine belong to it? Ray says: {error}"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints a trace and aborts.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _refuse_silence(address: str) -> None:
    """Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal():
        raise CrewError(
            f"expected `auto` or HOST:PORT of the cluster's head, as `ray start` tells it, found {address!r}; "
            "run the command on a machine of the cluster"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError) as error:
        raise CrewError(f"no Ray cluster answers at {address} ({error}); is it up, and the address right?") from error


def _refuse_strangers(place: _Place) -> None:
    """Ask every machine whether it can work here.

    Raises:
        CrewError: some cannot, or do not answer.
    """
    ask = ray.remote(_complaint)
    asked = {}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answer = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(place)
            asked[answer] = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_SECONDS_TO_ANSWER) if asked else ([], [])
    complaints = [f"{asked[answer]}: no answer within {_SECONDS_TO_ANSWER:.0f} s" for answer in silent]
    for answer in answered:
        try:
            complaint = ray.get(answer)
        except RayError as error:
            complaint = f"{asked[answer]}: {_last_line(error)}"
        complaints.extend([complaint] if complaint else [])
    if complaints:
        raise CrewError("\n  ".join(["these machines of the Ray cluster cannot work here:", *complaints]))


def _last_line(error: RayError) -> str:
    """What went wrong; the lines before tell where."""
    return str(error).rstrip().splitlines()[-1]


def _machine() -> str:
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"  # type: ignore[no-untyped-call]


def _complaint(place: _Place) -> str:
    """Why this machine cannot work in a place; empty where it can."""
    if not (place.folder / place.mark).exists():
        return (
            f"{_machine()}: {place.folder} is not the folder that this path names where the command runs; it must lie "
            "on a filesystem that all machines share, under the same path"
        )
    try:
        probe = place.folder / f"{place.mark}_{ray.get_runtime_context().get_node_id()}_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"{_machine()}: {place.folder} cannot be written ({error.strerror})"
    missing = [str(path) for path in place.files if not path.exists()]
    if missing:
        return f"{_machine()}: {', '.join(missing)} is missing; put it on every machine under the same path"
    found = versions()
    other = [f"{name} {found[name]}, not {wanted}" for name, wanted in place.versions.items() if found[name] != wanted]
    return f"{_machine()}: other versions are installed: {'; '.join(other)}" if other else ""


def _work(desk: Any, place: _Place, task: Task) -> tuple[str, Any]:
    """The worker: does one task; a machine that came to the cluster later is asked now whether it can."""
    line = _DeskLine(desk, task.name)
    line.say(_Begun(_machine()))
    complaint = _complaint(place)
    kind, value = ("failed", complaint) if complaint else perform(line, task)
    line.close()
    return kind, f"{_machine()}: {value}" if kind == "failed" and not complaint else value
