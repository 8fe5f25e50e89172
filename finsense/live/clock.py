"""The time of the market: the machine's own, or that of a rehearsal, which runs faster."""

import json
import time
from typing import Protocol

from finsense.live.brokers.errors import TransientRead
from finsense.live.plain_http import ask

_SECOND_NS = 1_000_000_000
_ASK_S = 5.0
# A clock that stands still is asked again after so many real seconds.
_ASK_AGAIN_S = 0.1


class WallClock(Protocol):
    """Tells the time and waits; the core never reads a clock, a feed and what watches it do."""

    def now_ns(self) -> int:
        """The instant now, ns UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the market."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        """The instant now, ns UTC."""
        return time.time_ns()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class FastClock:
    """The clock of a rehearsal, so many times faster than real time.

    Args:
        now_ns: the instant at which it stands now, ns UTC.
        speed: seconds of the market per second; 0 stands still.
    """

    def __init__(self, now_ns: int, speed: float) -> None:
        self._base_ns, self._base_s, self._speed = now_ns, time.monotonic(), speed

    def now_ns(self) -> int:
        """The instant now, ns UTC."""
        return self._base_ns + int((time.monotonic() - self._base_s) * self._speed * _SECOND_NS)

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the market; where it stands still, as many of ours."""
        time.sleep(seconds / (self._speed or 1.0))


class StandingClock:
    """The clock of a rehearsal whose day has not begun, or that is played by hand: it is asked until it runs.

    Args:
        root: address of the rehearsal.
        now_ns: the instant at which it stands, ns UTC.
    """

    def __init__(self, root: str, now_ns: int) -> None:
        self._root, self._now_ns, self._asked_s = root, now_ns, time.monotonic()
        self._running: FastClock | None = None

    def now_ns(self) -> int:
        """The instant now, ns UTC."""
        if self._running is None and time.monotonic() - self._asked_s >= _ASK_AGAIN_S:
            try:
                self._now_ns, speed = _asked(self._root)
            except TransientRead:
                # Whoever asks for more than the time hears that nobody is there.
                speed = 0.0
            self._asked_s = time.monotonic()
            if speed:
                self._running = FastClock(self._now_ns, speed)
        return self._now_ns if self._running is None else self._running.now_ns()

    def sleep(self, seconds: float) -> None:
        """Wait so many seconds of the market; while it stands still, as many of ours."""
        if self._running is None:
            time.sleep(seconds)
        else:
            self._running.sleep(seconds)


def clock_of(root: str) -> WallClock:
    """The clock of the rehearsal at an address.

    Raises:
        TransientRead: nobody rehearses there.
    """
    now_ns, speed = _asked(root)
    return FastClock(now_ns, speed) if speed else StandingClock(root, now_ns)


def _asked(root: str) -> tuple[int, float]:
    """The instant, ns UTC, and the speed; 0 while it stands.

    Raises:
        TransientRead: nobody rehearses there.
    """
    try:
        said = json.loads(ask(f"{root}/rehearsal/clock", _ASK_S).body)
        return int(said["now_ns"]), float(said["speed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TransientRead(f"no rehearsal answers at {root} ({error}): start it with `finsense rehearse`") from error
