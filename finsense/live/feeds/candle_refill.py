"""Takes from the vendor's candles what ticks did not see whole: one request at a time, in a thread of its own."""

import random
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import structlog

from finsense.live.brokers.errors import RateLimited, TransientRead
from finsense.live.brokers.kite_rows import Candle
from finsense.live.feeds.kite_history import KITE_INTERVALS, SPAN_DAYS, CandleSource, settle_ns
from finsense.live.feeds.slots import Slot
from finsense.market.bars import Bar, Bars, BarsError, session_day
from finsense.market.calendar import DAY_NS, session_date

# Between two requests for the same symbol, for a candle that is not final.
_AGAIN_NS = 2_000_000_000
# Real seconds after a request that failed, and the longest after many: a vendor's trouble keeps no market's time.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
# A share without a candle so long after the end of the slot did not trade in it.
_ABSENT_NS = 30_000_000_000

log = structlog.get_logger()


class CandleRefill:
    """Answers for slots: the candle of each symbol, or that there is none.

    A candle counts once it was asked for so long after its end that it is final (`kite_history.settle_ns`) and does not
    contradict the ticks that were seen; half a minute after the end it counts as it is, and a share without one did not
    trade. No answer is no answer: it is asked for again.

    Args:
        source: the vendor.
        tokens: symbol -> its token.
        interval: a key of `KITE_INTERVALS`.

    Attributes:
        contradicted: candles that stayed narrower than the ticks that were seen.
        failing_s: since when every request has failed, by a monotonic clock; None while they do not.
    """

    def __init__(self, source: CandleSource, tokens: Mapping[str, int], interval: str) -> None:
        self.contradicted = 0
        self.failing_s: float | None = None
        self._failures = 0
        self._source, self._tokens, self._interval = source, tokens, interval
        self._settle_ns = settle_ns(interval)
        # Symbol -> key of a start -> candle and until when it was known.
        self._candles: dict[str, dict[int, tuple[Candle, int]]] = {symbol: {} for symbol in tokens}
        self._known_ns = dict.fromkeys(tokens, 0)
        self._next_ns = dict.fromkeys(tokens, 0)
        self._pause_until_s = 0.0
        self._worker = ThreadPoolExecutor(1, "kite-candles")
        self._asked: tuple[str, int, Future[list[Candle]]] | None = None

    def close(self) -> None:
        """Ask for nothing more; a request that is under way ends by itself."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def waiting(self, slot: Slot, seen: Mapping[str, Bar]) -> list[str]:
        """The symbols of a slot that are not answered for.

        Args:
            slot: it has ended.
            seen: what ticks told of it.
        """
        return [symbol for symbol in slot.symbols if not self._answered(symbol, slot, seen.get(symbol))]

    def work(self, symbols: Iterable[str], slot: Slot, now_ns: int) -> None:
        """Take the answer that came, and ask for the next of these symbols whose turn it is.

        Raises:
            BrokerError: the vendor refuses for good, or the token is dead.
        """
        if self._asked is not None:
            if not self._asked[2].done():
                return
            self._take()
        if now_ns < slot.end_ns + self._settle_ns or time.monotonic() < self._pause_until_s:
            return
        for symbol in symbols:
            if now_ns >= self._next_ns[symbol]:
                last_ns = min(now_ns, slot.start_ns + (SPAN_DAYS[self._interval] - 1) * DAY_NS)
                # A candle of a day starts at midnight.
                first_ns = slot.start_ns - DAY_NS // 2 if self._interval == "1d" else slot.start_ns
                future = self._worker.submit(
                    self._source.historical, self._tokens[symbol], KITE_INTERVALS[self._interval], first_ns, last_ns
                )
                self._asked = symbol, last_ns, future
                self._next_ns[symbol] = now_ns + _AGAIN_NS
                return

    def bars(self, slot: Slot, seen: Mapping[str, Bar]) -> tuple[dict[str, Bar], list[str]]:
        """The bars of a slot, and the symbols that may have traded in it but have none that can be believed."""
        found: dict[str, Bar] = {}
        lost: list[str] = []
        for symbol in slot.symbols:
            candle, known_ns = self._candles[symbol].pop(self._key(slot.start_ns), (None, 0))
            if candle is None or known_ns < slot.end_ns + self._settle_ns:
                traded = symbol in seen and seen[symbol].volume > 0
                if traded or self._known_ns[symbol] < slot.end_ns + _ABSENT_NS:
                    lost.append(symbol)
                continue
            self.contradicted += _narrower(candle, seen.get(symbol))
            try:
                found[symbol] = self._bar(symbol, slot, candle)
            except BarsError as error:
                log.error("a candle cannot be believed", symbol=symbol, reason=str(error))
                lost.append(symbol)
        return found, lost

    def forget(self, slot: Slot) -> None:
        """What is known of a slot is not needed."""
        for symbol in slot.symbols:
            self._candles[symbol].pop(self._key(slot.start_ns), None)

    def _answered(self, symbol: str, slot: Slot, seen: Bar | None) -> bool:
        if self._known_ns[symbol] >= slot.end_ns + max(_ABSENT_NS, self._settle_ns):
            return True
        candle, known_ns = self._candles[symbol].get(self._key(slot.start_ns), (None, 0))
        return candle is not None and known_ns >= slot.end_ns + self._settle_ns and not _narrower(candle, seen)

    def _take(self) -> None:
        assert self._asked is not None
        symbol, last_ns, future = self._asked
        self._asked = None
        try:
            candles = future.result()
        except (TransientRead, RateLimited) as error:
            self._failures += 1
            if self.failing_s is None and not isinstance(error, RateLimited):
                self.failing_s = time.monotonic()
            longest_s = min(_FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10), _LONGEST_PAUSE_S)
            self._pause_until_s = time.monotonic() + longest_s * random.uniform(0.5, 1.0)
            self._next_ns[symbol] = 0
            log.warning("no candles yet", symbol=symbol, failures=self._failures, reason=str(error))
            return
        self._failures, self.failing_s = 0, None
        self._known_ns[symbol] = last_ns
        # The answer begins with the slot that was asked for: what came before it is not needed any more.
        self._candles[symbol] = {self._key(one.time_ns): (one, last_ns) for one in candles}

    def _key(self, time_ns: int) -> int:
        return session_day(session_date(time_ns)) if self._interval == "1d" else time_ns

    def _bar(self, symbol: str, slot: Slot, candle: Candle) -> Bar:
        """A candle that has passed the door of all bars."""
        first, high, low, last = (np.array([price]) for price in candle[1:5])
        start_ns, volume = np.array([slot.start_ns]), np.array([candle.volume])
        return next(iter(Bars(symbol, self._interval, start_ns, first, high, low, last, volume, False)))


def _narrower(candle: Candle, seen: Bar | None) -> bool:
    """Whether a candle knows less than the ticks: it is not finished then."""
    return seen is not None and (seen.high > candle.high or seen.low < candle.low)
