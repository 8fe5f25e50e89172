"""Replays recorded bars as if they arrived now."""

import time
from collections.abc import Iterator, Sequence

from finsense.market.bars import Bars
from finsense.market.moments import Moment, moments

# The pause between two bars is cut here, so that a night or a weekend is not waited for.
_LONGEST_PAUSE_S = 3600.0


class ReplayFeed:
    """Gives the bars of a span at full speed, or at a multiple of real time.

    Args:
        markets: what to replay, one symbol each, of one interval.
        speed: bars arrive this many times faster than they did; None does not wait at all.

    Raises:
        ValueError: the speed is not above zero.
    """

    def __init__(self, markets: Sequence[Bars], speed: float | None = None) -> None:
        if speed is not None and speed <= 0:
            raise ValueError(f"speed must be above 0, or `max`; found {speed}")
        self._markets = list(markets)
        self._speed = speed

    def __iter__(self) -> Iterator[Moment]:
        """The moments in time order.

        Raises:
            BarsError: two markets are of one symbol, or their intervals differ.
        """
        previous_ns: int | None = None
        for moment in moments(self._markets):
            if self._speed is not None and previous_ns is not None:
                time.sleep(min((moment.time_ns - previous_ns) / 1e9 / self._speed, _LONGEST_PAUSE_S / self._speed))
            previous_ns = moment.time_ns
            yield moment
