"""Ticks by hand and at random, the bars they make, and what the tests of ticks read from them."""

import datetime as dt
import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from finsense.market.bars import Bar, Bars, ist_text
from finsense.market.calendar import IST, MINUTE_NS
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.order_book import Depth, Level
from finsense.market.ticks import Tick, TickAggregator, TickReport

SECOND_NS = 1_000_000_000
DAY = dt.date(2024, 1, 15)
MUHURAT, SPLIT, OUTAGE = dt.date(2023, 11, 12), dt.date(2024, 3, 2), dt.date(2021, 2, 24)


def at(clock: str, day: dt.date = DAY) -> int:
    """The instant of a clock time in India, ns UTC."""
    moment = dt.datetime.combine(day, dt.time.fromisoformat(clock), IST)
    return int(moment.timestamp()) * SECOND_NS


def tick(clock: str, price: float = 100.0, volume: int | None = None, depth: Depth | None = None) -> Tick:
    return Tick(at(clock), price, volume, depth)


def aggregate(ticks: Iterable[Tick], interval: str = "1m", symbol: str = "SIM") -> tuple[list[Bar], TickReport]:
    """All bars, the open one included, and what became of the ticks."""
    aggregator = TickAggregator(symbol, interval)
    given_out = [aggregator.add(tick) for tick in ticks]
    return [bar for bar in (*given_out, aggregator.flush()) if bar is not None], aggregator.report


def starts(bars: Iterable[Bar]) -> list[str]:
    return [ist_text(bar.time_ns)[11:16] for bar in bars]


def flow(bar: Bar) -> dict[str, float]:
    return dict(zip(EXTRA_FIELDS, bar.extra, strict=True))


def assert_valid(bars: list[Bar], interval: str) -> None:
    """`Bars` accepts them: on the grid of the sessions, in order, their range around their prices."""
    time_ns, opens, high, low, close, volume, _ = map(np.array, zip(*bars, strict=True))
    assert len(Bars("SIM", interval, time_ns, opens, high, low, close, volume)) == len(bars)


def counts(report: TickReport) -> dict[str, int]:
    """The counts that are not zero."""
    fields = ("taken", "out_of_order", "late", "repeated", "unstamped", "closed_day", "outside_hours", "invalid")
    return {name: getattr(report, name) for name in (*fields, "volume_fell") if getattr(report, name)}


def book(bid: float, bid_quantity: int, ask: float, ask_quantity: int) -> Depth:
    return Depth((Level(bid, bid_quantity),), (Level(ask, ask_quantity),))


def day_of(time_ns: int) -> int:
    return (time_ns + 330 * MINUTE_NS) // (1440 * MINUTE_NS)


def as_frame(ticks: list[Tick], levels: int = 2) -> pd.DataFrame:
    """A recording of ticks, empty cells where a tick knows nothing."""
    rows = []
    for each in ticks:
        row: dict[str, Any] = {"time_ns": each.time_ns, "last_price": each.last_price, "volume": each.volume}
        for side, place in itertools.product(("bid", "ask"), range(levels)):
            found = () if each.depth is None else each.depth.bids if side == "bid" else each.depth.asks
            row[f"{side}_price_{place + 1}"] = found[place].price if len(found) > place else None
            row[f"{side}_quantity_{place + 1}"] = found[place].quantity if len(found) > place else None
        rows.append(row)
    return pd.DataFrame(rows)


class Recording(NamedTuple):
    """Ticks of two days as a feed sends them: holes, and unless ordered stragglers and stamps that are none."""

    seed: int
    length: int
    step_s: int
    first_day: dt.date
    begins: str
    ordered: bool

    def days(self) -> list[list[Tick]]:
        rng = np.random.default_rng(self.seed)
        return [self._ticks(self.first_day + dt.timedelta(days=later), rng) for later in (0, 1)]

    def ticks(self) -> list[Tick]:
        return list(itertools.chain.from_iterable(self.days()))

    def _ticks(self, day: dt.date, rng: np.random.Generator) -> list[Tick]:
        count = self.length
        seconds = np.cumsum(rng.integers(0, 2 * self.step_s, count))
        time_ns = at(self.begins, day) + seconds * SECOND_NS
        if not self.ordered:
            time_ns -= np.where(rng.random(count) < 0.2, rng.integers(0, 90, count), 0) * SECOND_NS
            time_ns[rng.random(count) < 0.03] = 0
        prices = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.003, count))), 2)
        volumes = np.cumsum(rng.integers(0, 50, count) * (rng.random(count) < 0.7)) + rng.integers(0, 5000)
        volumes = np.maximum(volumes - (rng.random(count) < 0.15) * rng.integers(0, 80, count), 0)
        books = [random_book(rng, price) for price in prices.tolist()]
        return list(map(Tick, time_ns.tolist(), prices.tolist(), volumes.tolist(), books))


def recordings(ordered: bool = False) -> st.SearchStrategy[Recording]:
    """Recordings of ordinary days, of a Muhurat hour, and of a day with two windows."""
    return st.builds(
        Recording,
        seed=st.integers(0, 2**32 - 1),
        length=st.integers(1, 120),
        step_s=st.sampled_from([1, 7, 40]),
        first_day=st.sampled_from([DAY, MUHURAT, SPLIT - dt.timedelta(days=1)]),
        begins=st.sampled_from(["09:14", "09:58", "15:28:30", "18:14:30"]),
        ordered=st.just(ordered),
    )


def random_book(rng: np.random.Generator, price: float) -> Depth | None:
    if rng.random() < 0.3:
        return None
    quantities = rng.integers(0, 100, 4).tolist()
    bids = (Level(price - 0.05, quantities[0]), Level(price - 0.1, quantities[1]))
    asks = (Level(price + 0.05, quantities[2]), Level(price + 0.1, quantities[3]))
    return Depth(bids if rng.random() < 0.9 else (), asks if rng.random() < 0.9 else ())
