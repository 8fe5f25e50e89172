"""Making bars of ticks: one symbol's session with and without the book, and many symbols in turn."""

import datetime as dt

import numpy as np

from benchmarks.measurement import Contender, Effort, Measurement, measure_rate, remark
from finsense.market.calendar import nse_calendar
from finsense.market.order_book import DEPTH_LEVELS, Depth, Level
from finsense.market.ticks import Tick, TickAggregator

_DAY = dt.date(2025, 12, 1)
_SECOND_NS = 1_000_000_000
_SESSION_S = 22_500
_INSTRUMENTS = 3_000
# Two bars of a minute and the beginning of a third.
_MANY_SECONDS = 130


def aggregate(effort: Effort) -> list[Measurement]:
    """One tick a second into 1-minute bars, through `TickAggregator.add`.

    First a session of one symbol without and with five levels of the book, then 3,000 symbols with the book in turn,
    as a feed of the whole market brings them: there a core is busy for 3,000 / value of every second.
    """
    seconds = effort.count(_SESSION_S, 120)
    plain, full = _ticks(seconds, with_book=False), _ticks(seconds, with_book=True)
    instruments = effort.count(_INSTRUMENTS, 3)
    remark(f"aggregate_ticks: {seconds:,} ticks of one symbol, then {instruments:,} symbols")

    def one_symbol(ticks: list[Tick]) -> None:
        aggregator = TickAggregator("SIM", "1m")
        for tick in ticks:
            aggregator.add(tick)

    def many_symbols() -> None:
        aggregators = [TickAggregator(f"SIM{number}", "1m") for number in range(instruments)]
        for tick in full[:_MANY_SECONDS]:
            for aggregator in aggregators:
                aggregator.add(tick)

    many = Contender(many_symbols, instruments * len(full[:_MANY_SECONDS]))
    return [
        *measure_rate("aggregate_ticks", "ticks", Contender(lambda: one_symbol(plain), seconds), effort),
        *measure_rate("aggregate_ticks_with_book", "ticks", Contender(lambda: one_symbol(full), seconds), effort),
        *measure_rate("aggregate_ticks_of_many_symbols", "ticks", many, effort),
    ]


def _ticks(seconds: int, *, with_book: bool) -> list[Tick]:
    """One tick a second from the opening on: a walk on the grid of 5 paise, a trade in most of them."""
    session = nse_calendar().session(_DAY, derivatives=False)
    assert session is not None
    rng = np.random.default_rng(1)
    prices = np.round(1500.0 + 0.05 * np.cumsum(rng.integers(-2, 3, seconds)), 2).tolist()
    volumes = np.cumsum(rng.integers(0, 500, seconds)).tolist()
    times = (session.open_ns + _SECOND_NS * np.arange(seconds)).tolist()
    books = [_book(rng, price) if with_book else None for price in prices]
    return list(map(Tick, times, prices, volumes, books))


def _book(rng: np.random.Generator, price: float) -> Depth:
    quantities = rng.integers(1, 2_000, (2, DEPTH_LEVELS)).tolist()
    steps = [0.05 * (level + 1) for level in range(DEPTH_LEVELS)]
    bids = tuple(Level(round(price - step, 2), shares) for step, shares in zip(steps, quantities[0], strict=True))
    asks = tuple(Level(round(price + step, 2), shares) for step, shares in zip(steps, quantities[1], strict=True))
    return Depth(bids, asks)
