"""Tells what became of a decision as soon as its forward return is known, bar by bar."""

from collections import deque
from math import log
from typing import Generic, TypeVar

from finsense.market.bars import IST_OFFSET_NS, Bar
from finsense.market.calendar import DAY_NS

Noted = TypeVar("Noted")


class Outcomes(Generic[Noted]):
    """Follows the bars of one symbol and gives each noted decision its forward return.

    A decision at the close of bar t is filled at the open of bar t + 1, and its exit is the open of bar
    t + 1 + horizon. An account that may not hold over night exits at the last close of the session instead, where that
    comes first; this is known at the next session's first bar. A decision at the last bar of such a session is never
    filled and has no outcome. The forward return is log(exit / fill).

    Args:
        horizon: bars from the fill to the exit, at least 1.
        overnight: whether a position may be held over night.
    """

    def __init__(self, horizon: int, *, overnight: bool) -> None:
        self._horizon, self._overnight = horizon, overnight
        self._waiting: deque[tuple[Noted, int]] = deque()
        self._opens: deque[float] = deque(maxlen=horizon + 1)
        self._bar = self._day = -1
        self._close = 0.0

    def follow(self, bar: Bar) -> list[tuple[Noted, float]]:
        """Take the next bar; the decisions whose forward return is known with it, oldest first."""
        day = (bar.time_ns + IST_OFFSET_NS) // DAY_NS
        known = self._ended_session() if day != self._day and not self._overnight else []
        self._bar, self._day, self._close = self._bar + 1, day, bar.close
        self._opens.append(bar.open)
        if self._waiting and self._bar - self._waiting[0][1] == self._horizon + 1:
            known.append((self._waiting.popleft()[0], log(bar.open / self._opens[0])))
        return known

    def note(self, what: Noted) -> None:
        """Remember a decision of the last bar's close; without a bar before it nothing can come of it."""
        if self._bar >= 0:
            self._waiting.append((what, self._bar))

    def _ended_session(self) -> list[tuple[Noted, float]]:
        """Everything that waits, but for the last bar's own decision, exits at the last close."""
        known = [(what, log(self._close / self._opens[at - self._bar])) for what, at in self._waiting if at < self._bar]
        self._waiting.clear()
        return known
