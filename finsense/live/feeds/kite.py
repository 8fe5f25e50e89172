"""Live bars of NSE from Kite: ticks to bars, and the vendor's candles wherever the ticks did not see a bar whole."""

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from typing import Any

import structlog

from finsense.live.clock import WallClock
from finsense.live.feeds.candle_refill import CandleRefill
from finsense.live.feeds.kite_history import KITE_INTERVALS, CandleSource
from finsense.live.feeds.kite_report import FeedPatience as FeedPatience
from finsense.live.feeds.kite_report import FeedReport as FeedReport
from finsense.live.feeds.kite_stream import OrderUpdate, Ticks
from finsense.live.feeds.slots import Slot, slots_from
from finsense.live.feeds.stream_watch import Heard, Stream, StreamWatch
from finsense.live.feeds.tick_gathering import TickGatherer
from finsense.live.gate import LastTick
from finsense.market.bars import Bar, BarsError, ist_text
from finsense.market.extra_fields import EXTRA_FIELDS, FLOW_FIELDS, REFERENCE_FIELDS
from finsense.market.instruments import instrument
from finsense.market.moments import Moment
from finsense.market.ticks import Tick

# One connection carries so many instruments.
MAX_INSTRUMENTS = 3000
# Real seconds between two looks at the clock while nothing comes.
_TURN_S = 0.05

log = structlog.get_logger()


class FeedError(BarsError):
    """A feed that cannot give what the policy's state reads."""


class FlowLost(FeedError):
    """Ticks are missing, and the state reads what only ticks tell."""


class KiteFeed:
    """Bars of many symbols from Kite's stream, refilled from its candles.

    A bar is made of ticks when the stream was whole from its start to its end; every other one is the vendor's candle:
    bars in which the stream was lost or opened, bars of before the feed began, and the first of each session, because a
    cumulative volume does not tell what its first tick traded. Candles know no order flow, so bars carry the fields of
    `FLOW_FIELDS` only where `needs` names one; such a feed ends with FlowLost at the first gap. Where candles cannot be
    had for `give_up_s` and the stream lives, the symbol has no bar in that moment: no bar is better than a part of
    one that looks whole. That is counted and logged.

    Iterating again opens a new stream and goes on after the last moment that was given.

    Args:
        open_stream: a new stream of all tokens, in full mode.
        candles: the vendor's past, a client of its own that no other thread uses.
        tokens: symbol -> its token in today's list.
        interval: a key of `KITE_INTERVALS`; daily bars are candles alone.
        clock: of the market.
        derivatives: symbol -> whether it has derivatives; what is absent is taken from what is known of the symbol.
        needs: names of EXTRA_FIELDS that the policies' states read.
        after_ns: start of the last bar that is known already; None begins with the bar that trades now.
        on_order_update: called between two moments, in the loop's thread, with what the broker says of an order.
        patience: see there.
        candles_only: take every bar from the candles: exactly what history has, some seconds later, and a request per
            symbol and bar.

    Attributes:
        report: see there.

    Raises:
        FeedError: no symbols or too many, an unknown interval, or fields that this feed cannot give.
    """

    def __init__(
        self,
        open_stream: Callable[[], Stream],
        candles: CandleSource,
        tokens: Mapping[str, int],
        interval: str,
        clock: WallClock,
        *,
        derivatives: Mapping[str, bool] | None = None,
        needs: Collection[str] = (),
        after_ns: int | None = None,
        on_order_update: Callable[[dict[str, Any]], None] = lambda fields: None,
        patience: FeedPatience | None = None,
        candles_only: bool = False,
    ) -> None:
        if not 0 < len(tokens) <= MAX_INSTRUMENTS or len(set(tokens.values())) != len(tokens):
            raise FeedError(f"expected 1 to {MAX_INSTRUMENTS} symbols, each with its own token, found {len(tokens)}")
        if interval not in KITE_INTERVALS:
            raise FeedError(f"unknown interval {interval!r}; Kite has {', '.join(KITE_INTERVALS)}")
        self.open_stream, self.candles = open_stream, candles
        self.tokens = {symbol: tokens[symbol] for symbol in sorted(tokens)}
        self.interval, self.clock, self.after_ns = interval, clock, after_ns
        self.by_ticks = not (candles_only or interval == "1d")
        self.flow = bool(set(needs) & set(FLOW_FIELDS))
        self._refuse(needs)
        given = derivatives or {}
        self.derivatives = {
            # All shares open at the same time, and their daily candles are final at the same time.
            symbol: False if interval == "1d" else instrument(symbol, derivatives=given.get(symbol)).derivatives
            for symbol in self.tokens
        }
        self.on_order_update = on_order_update
        self.patience = patience or FeedPatience()
        self.report = FeedReport()
        self._watch: _Watch | None = None

    def __iter__(self) -> Generator[Moment | None, None, None]:
        """The moments as they end; None about once a second while none does, and after every update of an order.

        Raises:
            AuthExpired: the token is dead.
            Rejected: the vendor refuses the request for candles for good.
            ProtocolError: an answer cannot be what it claims to be.
            FlowLost: see the class.
            CalendarError: the known calendar ends, or hours depend on unknown derivatives.
        """
        self.report = FeedReport()
        self._watch = _Watch(self)
        return self._watch.moments()

    def last_tick(self, symbol: str) -> LastTick | None:
        """The newest tick of a symbol in this iteration; None before its first."""
        found = None if self._watch is None else self._watch.latest(symbol)
        if found is None:
            return None
        tick, received_ns = found
        return LastTick(round(tick.last_price * 100), tick.time_ns, received_ns)

    def _refuse(self, needs: Collection[str]) -> None:
        references = [name for name in REFERENCE_FIELDS if name in needs]
        unknown = [name for name in needs if name not in EXTRA_FIELDS]
        if references or unknown:
            raise FeedError(
                f"the policy's state reads {', '.join(references + unknown)}, and Kite's feed gives shares alone: "
                "train a policy without these features"
            )
        if self.flow and not self.by_ticks:
            raise FeedError(
                f"the policy's state reads {', '.join(name for name in FLOW_FIELDS if name in needs)}, which candles "
                "do not know: such a policy cannot trade on daily bars or on candles alone"
            )


class _Watch:
    """One iteration of a feed."""

    def __init__(self, feed: KiteFeed) -> None:
        patience = feed.patience
        self._feed, self._clock, self._report = feed, feed.clock, feed.report
        self._stream = StreamWatch(feed.open_stream(), feed.clock, room=patience.room, margin_ns=patience.grace_ns)
        self._gatherer = TickGatherer(
            feed.tokens, feed.interval, feed.derivatives, grace_ns=patience.grace_ns, ahead_ns=patience.ahead_ns
        )
        self._refill = CandleRefill(feed.candles, feed.tokens, feed.interval)
        self._gaps, self._gap_s = 0, 0.0
        self._sign_s = 0.0
        self._updated = False

    def moments(self) -> Generator[Moment | None, None, None]:
        """See `KiteFeed`."""
        self._stream.open()
        try:
            for slot in self._slots():
                while True:
                    # What has come already is taken first, so that it is not late for its own bar.
                    self._hear(0.0)
                    if self._sign():
                        yield None
                        self._signed()
                    elif self._over(slot):
                        break
                    else:
                        self._hear(_TURN_S)
                bars: dict[str, Bar] = {}
                for settled in self._settle(slot):
                    if settled is None:
                        yield None
                    else:
                        bars = settled
                self._feed.after_ns = slot.start_ns
                self._tell()
                if bars:
                    yield Moment(slot.start_ns, {symbol: bars[symbol] for symbol in sorted(bars)})
        finally:
            self._stream.close()
            self._refill.close()
            self._tell()

    def latest(self, symbol: str) -> tuple[Tick, int] | None:
        """The newest tick of a symbol and when it came, ns UTC."""
        return self._gatherer.latest(symbol)

    def _slots(self) -> Iterator[Slot]:
        feed = self._feed
        after_ns = feed.after_ns
        begin_ns = self._clock.now_ns() if after_ns is None else after_ns
        begun = False
        for slot in slots_from(begin_ns, feed.interval, feed.derivatives):
            if after_ns is not None and slot.start_ns <= after_ns:
                continue
            if not begun:
                self._gatherer.begin(slot.start_ns)
            begun = True
            yield slot

    def _hear(self, timeout_s: float) -> None:
        """Take what comes within a time and all that waits behind it, unless the loop should look after its orders."""
        heard = self._stream.take(timeout_s)
        while heard is not None:
            self._take(heard)
            heard = None if self._late() else self._stream.take(0.0)

    def _late(self) -> bool:
        return time.monotonic() - self._sign_s >= self._feed.patience.sign_s

    def _signed(self) -> None:
        """The loop has looked, however long that took; until the next sign what has come meanwhile is heard."""
        self._sign_s = time.monotonic()

    def _due(self) -> bool:
        return self._updated or self._late()

    def _sign(self) -> bool:
        """Whether the loop should look after its orders now."""
        if not self._due():
            return False
        self._updated, self._sign_s = False, time.monotonic()
        return True

    def _take(self, heard: Heard) -> None:
        if self._stream.gaps != self._gaps:
            self._gaps, self._gap_s = self._stream.gaps, time.monotonic()
            self._gatherer.resume()
        if isinstance(heard.event, Ticks):
            dropped = self._gatherer.ahead
            self._gatherer.take(heard.event.ticks, heard.now_ns)
            if self._gatherer.ahead != dropped:
                # Its shares are in no bar of ours: the vendor's candles have them.
                self._stream.doubt()
        elif isinstance(heard.event, OrderUpdate):
            self._updated = True
            self._feed.on_order_update(heard.event.fields)

    def _over(self, slot: Slot) -> bool:
        """Whether all has been heard that will be heard of a slot."""
        over_ns = slot.end_ns + self._feed.patience.grace_ns
        if not self._whole(slot):
            return self._clock.now_ns() >= over_ns
        # The clock alone does not tell: a stream that stalls has more for this slot when it speaks again.
        return self._stream.read_ns >= over_ns or self._gatherer.passed(slot)

    def _whole(self, slot: Slot) -> bool:
        """Whether ticks make the bars of a slot."""
        if not self._feed.by_ticks or (slot.opens and not self._feed.flow):
            return False
        covered_ns = self._stream.covered_ns
        return covered_ns is not None and covered_ns <= slot.start_ns

    def _settle(self, slot: Slot) -> Iterator[dict[str, Bar] | None]:
        """The bars of a slot, once they are known; None where the loop should look after its orders meanwhile."""
        whole = self._whole(slot)
        seen = self._gatherer.settle(slot, whole=whole)
        if whole:
            self._refill.forget(slot)
            yield self._made(seen)
            return
        if self._feed.flow:
            raise FlowLost(
                f"ticks of the bar of {ist_text(slot.start_ns)} are missing, and the policy's state reads what only "
                "ticks tell; this session cannot be traded any further. Begin again before the next opening"
            )
        begun_s = time.monotonic()
        while waiting := self._refill.waiting(slot, seen):
            if self._gives_up(begun_s):
                break
            self._refill.work(waiting, slot, self._clock.now_ns())
            self._hear(_TURN_S)
            if self._sign():
                yield None
                self._signed()
        bars, lost = self._refill.bars(slot, seen)
        self._report.by_candles += len(bars)
        self._report.lost += len(lost)
        log.info("bars are taken from the candles", slot=ist_text(slot.start_ns), bars=len(bars))
        if lost:
            log.error("bars are missing for good", slot=ist_text(slot.start_ns), symbols=lost)
        yield bars

    def _made(self, seen: dict[str, Bar]) -> dict[str, Bar]:
        """The bars of shares that traded; a book that moved alone makes no candle, so it makes no bar either."""
        traded = {symbol: bar for symbol, bar in seen.items() if bar.volume > 0}
        self._report.by_ticks += len(traded)
        self._report.untraded += len(seen) - len(traded)
        if self._feed.flow:
            return traded
        return {symbol: bar._replace(extra=()) for symbol, bar in traded.items()}

    def _gives_up(self, begun_s: float) -> bool:
        failing_s = self._refill.failing_s
        if failing_s is None or self._stream.covered_ns is None:
            return False
        return time.monotonic() - max(begun_s, failing_s, self._gap_s) >= self._feed.patience.give_up_s

    def _tell(self) -> None:
        report, gatherer, stream = self._report, self._gatherer, self._stream
        report.ahead, report.unknown, report.ticks = gatherer.ahead, gatherer.unknown, gatherer.report()
        report.losses, report.overflowed = stream.losses, stream.overflowed
        report.contradicted = self._refill.contradicted
