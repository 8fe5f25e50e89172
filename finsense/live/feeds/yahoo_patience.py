"""How long the Yahoo feed waits for what, whom it tells, and how it ends."""

import random
from dataclasses import dataclass
from typing import Protocol


class FeedSilent(RuntimeError):
    """A feed gave nothing for so long, in trading hours, that trading on would be trading blind."""


class HistoryOutdated(RuntimeError):
    """A split that the warm-up does not know; the state would see a move that nobody made. Start again."""


class Tell(Protocol):
    """Takes what somebody must hear of."""

    def __call__(self, kind: str, text: str, /, **facts: object) -> None:
        """Tell and count it."""
        ...


@dataclass(frozen=True)
class YahooPatience:
    """How long the feed waits for what, seconds of the market.

    Attributes:
        settle_s: after a bar's end before it is asked for.
        settle_day_s: the same for daily bars; Yahoo mends the day's figures for a while.
        wait_s: for a symbol whose bar lags, before the moment goes without it.
        retry_s: between two askings for one bar; after a failure it doubles, up to `longest_retry_s`. Each pause is
            drawn between its half and its whole.
        longest_retry_s: see above.
        silence_s: without a new bar that is due, or with one symbol's answers empty or failing: the feed gives up.
    """

    settle_s: float = 20.0
    settle_day_s: float = 1800.0
    wait_s: float = 90.0
    retry_s: float = 10.0
    longest_retry_s: float = 300.0
    silence_s: float = 900.0

    def pause_s(self, failures: int, generator: random.Random) -> float:
        """How long to wait after so many failures in a row, at least one."""
        longest_s = min(self.retry_s * 2.0 ** min(failures - 1, 30), self.longest_retry_s)
        return longest_s * generator.uniform(0.5, 1.0)
