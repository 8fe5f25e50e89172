"""Brings the bars of several symbols together by their start: what a loop over one account takes at a time."""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from finsense.market.bars import Bar, Bars, BarsError


class Moment(NamedTuple):
    """The bars of one start time.

    Attributes:
        time_ns: their start, ns UTC.
        bars: symbol -> its bar, in alphabetic order; a symbol that did not trade is absent.
    """

    time_ns: int
    bars: Mapping[str, Bar]


def moments(markets: Sequence[Bars]) -> Iterator[Moment]:
    """The bars of all symbols, moment by moment.

    Raises:
        BarsError: two markets are of one symbol, or their intervals differ.
    """
    symbols = [bars.symbol for bars in markets]
    if len(set(symbols)) != len(symbols) or len({bars.interval for bars in markets}) > 1:
        found = ", ".join(f"{bars.symbol} ({bars.interval})" for bars in markets)
        raise BarsError(f"expected each symbol once and one interval, found {found}")
    rows = heapq.merge(*(_named(bars) for bars in markets))
    for time_ns, group in groupby(rows, key=lambda row: row[0]):
        yield Moment(time_ns, {symbol: bar for _, symbol, bar in group})


def _named(bars: Bars) -> Iterator[tuple[int, str, Bar]]:
    return ((bar.time_ns, bars.symbol, bar) for bar in bars)
