"""The live feed of the whole market: frames of Kite's stream to ticks, bars and states."""

import datetime as dt
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.markets import state_spec
from benchmarks.measurement import Effort, Measurement, remark, spend
from finsense.live.brokers.kite_rows import Candle
from finsense.live.feeds.kite import KiteFeed
from finsense.live.feeds.kite_packets import FrameDecoder, ticks_of
from finsense.live.feeds.kite_stream import Connected, Event, Idle, OrderUpdate, Ticks
from finsense.market.bars import Bars
from finsense.market.calendar import nse_calendar
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.order_book import DEPTH_LEVELS
from finsense.market.simulate import SimulatedMarket
from finsense.market.timeline import Clock
from finsense.state.builder import StateBuilder

_DAY = dt.date(2025, 12, 1)
_INSTRUMENTS, _SECONDS = 3_000, 600
_SECOND_NS = 1_000_000_000
_PACKET = np.dtype(
    [
        ("length", ">u2"),
        ("head", ">u4", (16,)),
        ("levels", [("quantity", ">u4"), ("price", ">u4"), ("orders", ">u2"), ("empty", ">u2")], (2, DEPTH_LEVELS)),
    ]
)
_LAST_PRICE, _VOLUME, _STAMP = 1, 4, 15
_STEPS = 97
_SUBSCRIBED_S = 1.0


def whole_market(effort: Effort) -> list[Measurement]:
    """Ten minutes of 3,000 instruments at one full packet a second each, through to classic29 on 1-minute bars.

    The share of one core that this takes, all threads together: decoding, ticks, the hand-over between the threads, the
    aggregation with the book, and one state per symbol and bar, the session's first with its warm-up. The market is
    made anew every second, which is in the share too. A tick or a bar that is lost ends the benchmark.
    """
    instruments, seconds = effort.count(_INSTRUMENTS, 3), effort.count(_SECONDS, 130)
    symbols = [f"SIM{number:04d}" for number in range(instruments)]
    tokens = {symbol: (number + 1) << 8 | 1 for number, symbol in enumerate(symbols)}
    session = nse_calendar().session(_DAY, derivatives=False)
    assert session is not None
    market = _Market(list(tokens.values()), session.open_ns, seconds)
    feed = KiteFeed(
        lambda: market,
        _NoPast(),
        tokens,
        "1m",
        market,
        needs=("ticks",),
        on_order_update=lambda _: market.ready.release(),
    )
    states = _States(symbols)
    remark(f"feed_whole_market: {instruments:,} instruments, {seconds} seconds of the market")

    def run() -> None:
        for moment in feed:
            if moment is not None:
                states.take(moment.bars)
            if states.bars == instruments * (seconds // 60):
                return

    spent = spend(run)
    taken = feed.report.ticks.taken if feed.report.ticks else 0
    if taken < instruments * (seconds // 60) * 60 or feed.report.overflowed or states.made != states.bars:
        raise RuntimeError(f"ticks or states were lost: {feed.report}, {states.made} states of {states.bars} bars")
    share = spent.cpu_s / seconds
    remark(f"feed_whole_market: {share:.3f} of a core ({spent.cpu_s:.1f} CPU s for {seconds} s of the market)")
    return [
        Measurement("feed_whole_market", share, "cores"),
        Measurement("feed_whole_market_ticks", taken / spent.cpu_s, "ticks/CPU s"),
    ]


class _Market:
    """A stream and a clock: every second each instrument trades one step up or down, and its book moves along."""

    def __init__(self, tokens: list[int], open_ns: int, seconds: int) -> None:
        self.heard_s = 0.0
        self.ready = threading.Semaphore(2)
        self._time_ns, self._open_ns, self._seconds = open_ns - 60 * _SECOND_NS, open_ns, seconds
        self._closed = False
        generator = np.random.default_rng(0)
        self._packets = np.zeros(len(tokens), _PACKET)
        self._packets["length"] = _PACKET.itemsize - 2
        self._packets["head"][:, 0] = tokens
        self._packets["levels"]["quantity"] = generator.integers(1, 2000, (len(tokens), 2, DEPTH_LEVELS))
        self._price = generator.integers(20_000, 500_000, len(tokens))
        self._steps = generator.integers(-2, 3, (_STEPS, len(tokens))) * 5
        self._shares = generator.integers(1, 500, (_STEPS, len(tokens)))
        self._volume = np.zeros(len(tokens), np.int64)

    def now_ns(self) -> int:
        return self._time_ns

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a feed that waits is wrong here")

    def close(self) -> None:
        self._closed = True

    def events(self) -> Iterator[Event]:
        """One frame a second, and after each an update of an order, which says that the frame was taken."""
        decoder = FrameDecoder()
        yield Connected(again=False)
        # Until then a feed does not rely on its subscription.
        time.sleep(_SUBSCRIBED_S)
        yield Idle()
        for second in range(self._seconds + 1):
            while not self.ready.acquire(timeout=0.1):
                if self._closed:
                    return
            self._time_ns = self._open_ns + second * _SECOND_NS
            self.heard_s += 1.0
            yield Ticks(ticks_of(decoder.decode(self._frame(second))))
            yield OrderUpdate({})
        while not self._closed:
            self.ready.acquire(timeout=0.01)

    def _frame(self, second: int) -> bytes:
        packets = self._packets
        self._price += self._steps[second % _STEPS]
        np.maximum(self._price, 1000, out=self._price)
        self._volume += self._shares[second % _STEPS]
        packets["head"][:, _LAST_PRICE] = self._price
        packets["head"][:, _VOLUME] = self._volume
        packets["head"][:, _STAMP] = self._time_ns // _SECOND_NS
        packets["levels"]["price"] = self._price[:, None, None] + _OFFSETS
        return len(packets).to_bytes(2, "big") + packets.tobytes()


_OFFSETS: NDArray[np.int64] = np.stack([-5 * np.arange(1, DEPTH_LEVELS + 1), 5 * np.arange(DEPTH_LEVELS)])


class _NoPast:
    """A market that was seen from its opening on has no gap to refill."""

    def historical(self, token: int, interval: str, first_ns: int, last_ns: int) -> list[Candle]:
        raise AssertionError(f"no candle may be needed, found {token}")


class _States:
    """What turns bars into states, warmed with the session before."""

    def __init__(self, symbols: list[str]) -> None:
        self.bars = self.made = 0
        spec = state_spec()
        self._drivers: dict[str, tuple[Clock, StateBuilder]] = {}
        history = _session_before().take(-spec.warmup % 375, 375)
        for symbol in symbols:
            clock, builder = Clock(instrument(symbol), "1m", ChargeRules()), StateBuilder(spec)
            for bar in history:
                builder.update(clock.row, clock.advance(bar))
            self._drivers[symbol] = clock, builder

    def take(self, bars: Any) -> None:
        """One state per bar."""
        for symbol, bar in bars.items():
            clock, builder = self._drivers[symbol]
            opens = clock.advance(bar)
            self.bars += 1
            self.made += builder.update(clock.row, opens)


def _session_before() -> Bars:
    simulated = {
        "model": "random_walk",
        "symbols": ("SIM",),
        "interval": "1m",
        "first": "2025-11-28",
        "last": "2025-11-28",
    }
    return SimulatedMarket.model_validate(simulated | {"seed": 1}).load()["SIM"]
