"""What others trade in a rehearsal: a path of trades that makes each bar again, and the minutes that were played."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from finsense.market.bars import Bar
from finsense.market.calendar import MINUTE_NS

# Open, the two extremes, close: fewer trades make no bar.
FEWEST_TRADES = 4
# The path between two of these wanders by this part of the bar's range.
_WANDER = 0.1


class StreetTrade(NamedTuple):
    """What others trade.

    Attributes:
        time_ns: instant, ns UTC.
        symbol: of which share.
        price_paise: of one.
        shares: how many; 0 where the bar has fewer shares than prices, or publishes none.
    """

    time_ns: int
    symbol: str
    price_paise: int
    shares: int


def trades_of_bar(
    symbol: str, bar: Bar, span_ns: int, tick_paise: int, count: int, generator: np.random.Generator
) -> Iterator[StreetTrade]:
    """Trades that make a bar again: its open, its extremes (the nearer one first), its close, its volume, to the share.

    Args:
        symbol: of which share.
        bar: its prices are rounded to the tick.
        span_ns: how long it lasts; the trades are spread evenly over it.
        tick_paise: the day's tick size.
        count: of trades; those between the four that are needed are left out where they would have no share.
        generator: draws the path and the sizes.
    """
    first, low, high, last = (
        round(price * 100 / tick_paise) * tick_paise for price in (bar.open, bar.low, bar.high, bar.close)
    )
    extremes = (high, low) if high - first < first - low else (low, high)
    corners = _corners(count, generator)
    path = np.interp(np.arange(count), corners, (first, *extremes, last))
    path += generator.normal(0.0, _WANDER * (high - low), count)
    steps = np.clip(np.round(path / tick_paise) * tick_paise, low, high).astype(np.int64)
    steps[corners] = (first, *extremes, last)
    shares = generator.multinomial(bar.volume, generator.dirichlet(np.ones(count)))
    needed = set(corners)
    for place, (price, size) in enumerate(zip(steps.tolist(), shares.tolist(), strict=True)):
        if size or place in needed:
            yield StreetTrade(bar.time_ns + place * span_ns // count, symbol, price, size)


def _corners(count: int, generator: np.random.Generator) -> list[int]:
    """The places of open, first extreme, second extreme and close among so many trades."""
    inner = np.sort(generator.choice(np.arange(1, count - 1), 2, replace=False)).tolist()
    return [0, *inner, count - 1]


class Minute(NamedTuple):
    """One minute as it was played.

    Attributes:
        time_ns: its start, ns UTC.
        open: first price, paise.
        high: highest.
        low: lowest.
        close: last.
        shares: traded.
        value_paise: price times shares.
    """

    time_ns: int
    open: int
    high: int
    low: int
    close: int
    shares: int
    value_paise: int


class Tape:
    """The minutes of one share that were played so far, those of continuous trading alone.

    Attributes:
        minutes: in time order, the last one still open.
    """

    def __init__(self) -> None:
        self.minutes: list[Minute] = []

    def note(self, trade: StreetTrade) -> None:
        """Take a trade."""
        start_ns, price = trade.time_ns - trade.time_ns % MINUTE_NS, trade.price_paise
        value = price * trade.shares
        if not self.minutes or self.minutes[-1].time_ns != start_ns:
            self.minutes.append(Minute(start_ns, price, price, price, price, trade.shares, value))
            return
        one = self.minutes[-1]
        self.minutes[-1] = Minute(
            start_ns,
            one.open,
            max(one.high, price),
            min(one.low, price),
            price,
            one.shares + trade.shares,
            one.value_paise + value,
        )

    def average_paise(self, since_ns: int) -> int | None:
        """Volume-weighted average price since an instant; None where nothing was traded."""
        late = [one for one in self.minutes if one.time_ns >= since_ns]
        shares = sum(one.shares for one in late)
        return sum(one.value_paise for one in late) // shares if shares else None
