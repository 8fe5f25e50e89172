"""The time of a rehearsal: real time made faster, that never runs past what has not happened yet."""

import time

_SECOND_NS = 1_000_000_000


class RehearsalClock:
    """It stands still until it is set, or runs so many times faster than real time.

    A running clock waits at the next thing that is to happen until it has happened: the day's order and its stamps
    are the same however slow the machine is. What was waited is made up for afterwards.

    Args:
        start_ns: first instant, ns UTC; it stands there until `begin`.
        speed: 0 stands still.
    """

    def __init__(self, start_ns: int, speed: float = 0.0) -> None:
        self.start_ns, self.speed = start_ns, speed
        self._base_ns, self._base_s = start_ns, time.monotonic()
        # It stands still until it is begun.
        self._held_ns: int | None = start_ns

    def now_ns(self) -> int:
        """The instant now, ns UTC."""
        now_ns = self._base_ns + int((time.monotonic() - self._base_s) * self.speed * _SECOND_NS)
        held_ns = self._held_ns
        return now_ns if held_ns is None else min(now_ns, held_ns)

    def set(self, time_ns: int) -> None:
        """Go to an instant and stand there."""
        self._base_ns, self._base_s = time_ns, time.monotonic()
        self._held_ns = time_ns

    def begin(self) -> None:
        """Run from where it stands."""
        self.set(self.now_ns())
        self._held_ns = None

    def hold(self, time_ns: int | None) -> None:
        """Do not run past an instant; None lets it run."""
        self._held_ns = time_ns

    def real_seconds_to(self, time_ns: int) -> float:
        """How long an instant is away in real time, for a clock that runs; below 0 where it has passed."""
        reached_ns = self._base_ns + int((time.monotonic() - self._base_s) * self.speed * _SECOND_NS)
        return (time_ns - reached_ns) / self.speed / _SECOND_NS
