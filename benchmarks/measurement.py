"""Times work on a shared machine: ours and the peer's in turn, wall and CPU time, medians."""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: how often ours and the peer's take turns.
        scale: every count of steps, bars and environments is multiplied by this.
    """

    rounds: int = 9
    scale: float = 1.0

    def count(self, full: int, least: int = 1) -> int:
        """A count at this effort."""
        return max(round(full * self.scale), least)


@dataclass(frozen=True)
class Measurement:
    """One line of the output.

    Attributes:
        name: what was measured.
        value: ours, the median over the rounds.
        unit: of both values.
        peer: what it was measured against; None where there is no peer.
        peer_value: the peer's median over the same rounds.
        ratio: how many times better ours is, the median over the rounds of the round's own ratio.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The documented JSON, with four significant digits."""
        return {
            key: float(f"{field:.4g}") if isinstance(field, float) else field for key, field in asdict(self).items()
        }


@dataclass(frozen=True)
class Contender:
    """Something that can be timed again and again.

    Attributes:
        work: what is timed.
        count: how many units of work it does.
        prepare: brings it back to its start; not timed.
    """

    work: Callable[[], object]
    count: int
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Peer:
    """The other side of a comparison."""

    name: str
    contender: Contender


@dataclass(frozen=True)
class Spent:
    """Wall and CPU time of one piece of work, seconds; CPU time is that of all threads of this process."""

    wall_s: float
    cpu_s: float


def spend(work: Callable[[], object]) -> Spent:
    """Do the work once and tell what it took."""
    gc.collect()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def measure_rate(
    name: str, unit: str, ours: Contender, effort: Effort, peers: Sequence[Peer] = ()
) -> list[Measurement]:
    """Units of work per second, more is better: for each peer (or for none) one line of wall and one of CPU time.

    The contenders take turns (A B A B ...) after one round that is not counted, so that what else runs on the machine
    falls on all of them alike.
    """
    contenders = {"": ours, **{peer.name: peer.contender for peer in peers}}
    rates: dict[str, dict[str, list[float]]] = {clock: {key: [] for key in contenders} for clock in ("s", "CPU s")}
    for turn in range(effort.rounds + 1):
        for key, contender in contenders.items():
            contender.prepare()
            spent = spend(contender.work)
            if turn > 0:
                rates["s"][key].append(contender.count / max(spent.wall_s, 1e-9))
                rates["CPU s"][key].append(contender.count / max(spent.cpu_s, 1e-9))
    return [
        _line(name, f"{unit}/{clock}", found[""], peer, found[peer] if peer else None)
        for clock, found in rates.items()
        for peer in ([peer.name for peer in peers] or (None,))
    ]


def _line(name: str, unit: str, ours: list[float], peer: str | None, theirs: list[float] | None) -> Measurement:
    if peer is None or theirs is None:
        remark(f"{name}: {spread(ours)} {unit}")
        return Measurement(name, statistics.median(ours), unit)
    remark(f"{name}: {spread(ours)} {unit}; {peer}: {spread(theirs)}")
    ratio = statistics.median(mine / its for mine, its in zip(ours, theirs, strict=True))
    return Measurement(name, statistics.median(ours), unit, peer, statistics.median(theirs), ratio)


def spread(values: Sequence[float]) -> str:
    """Median and range, for a person to read."""
    return f"median {statistics.median(values):,.4g} (min {min(values):,.4g}, max {max(values):,.4g})"


def remark(text: str) -> None:
    """Tell the person at the terminal; stdout carries nothing but measurements."""
    print(text, file=sys.stderr, flush=True)
