"""The last wall before the broker: stops orders for reasons that training cannot know, and counts every one."""

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from finsense.account.joint import Books
from finsense.account.session import Order
from finsense.config.live import GateSettings
from finsense.live.alarms import Alarms
from finsense.live.bar_grid import acted_on_ns, bar_end_ns, bars_between
from finsense.live.brokers.errors import HaltTrading, RateLimited
from finsense.live.brokers.rate_limits import Limit, RateLimits
from finsense.live.clock import WallClock
from finsense.live.kill_switch import KillSwitch
from finsense.market.bars import INTERVAL_NS, ist_text
from finsense.market.calendar import CalendarError
from finsense.market.moments import Moment
from finsense.market.timeline import to_paise

ENTRIES = "gate"
# What reduces positions may queue so long behind the broker's hard rates: at a square-off all leave with one bar.
_WAY_OUT_S = 20.0
_SECOND_NS = 1_000_000_000
_DAY_S = 86_400
# So long no bar came before it is asked whether one is due, real seconds.
_SILENT_S = 60.0
# What the books may be off by where a charge was rounded, paise.
_ROUNDING_PAISE = 100


class Reason(StrEnum):
    """Why an order did not leave; the first word of the journal's text."""

    KILL = "kill switch"
    BOOKS = "contradictory books"
    CLOCK = "clock skew"
    STALE = "stale data"
    GAP = "gapped data"
    PRICE = "price far from the last trade"
    RATE = "order rate"


class LastTick(NamedTuple):
    """The last trade that a feed heard of.

    Attributes:
        price_paise: of one share.
        stamp_ns: the exchange's stamp, ns UTC.
        received_ns: when we had it, by the clock of the gate, ns UTC.
    """

    price_paise: int
    stamp_ns: int
    received_ns: int


@dataclass
class _Seen:
    """What is known of a symbol's bars.

    Attributes:
        time_ns: start of the last one, ns UTC.
        close_paise: its close.
        pause: so many more bars must come before its data counts as whole again.
        missing: bars that were missing before.
    """

    time_ns: int
    close_paise: int
    pause: int = 0
    missing: int = 0


def rate_limits(settings: GateSettings) -> Mapping[str, tuple[Limit, ...]]:
    """The rates of orders that open or add."""
    rates = (settings.orders_per_second, 1), (settings.orders_per_minute, 60), (settings.orders_per_day, _DAY_S)
    return {ENTRIES: tuple(Limit(*rate) for rate in rates)}


# The hard limits of the broker hold for what reduces a position too.
HARD_RATES: Mapping[str, tuple[Limit, ...]] = {ENTRIES: (Limit(10, 1), Limit(400, 60), Limit(5000, _DAY_S))}


def reduces(position: int, quantity: int) -> bool:
    """Whether an order only makes a position smaller."""
    return position * quantity < 0 and abs(quantity) <= abs(position)


class Gate:
    """Implements the loop's `Watch`.

    An order that only reduces a position passes where data is in doubt, since staying in is the greater risk then; it
    is stopped by the kill switch, by books that contradict themselves and by the broker's own hard rates.
    Cash below 0 is no contradiction, for a fill may cost more than was expected: it opens nothing.

    Args:
        settings: of the YAML.
        interval: of the bars.
        switch: the account's kill switch.
        rates: of `rate_limits(settings)`, over the account's file of rates, so that a restart forgets nothing.
        hard_rates: of HARD_RATES, over the same file.
        clock: of the market.
        derivatives: symbol -> whether it has derivatives.
        last_tick: symbol -> the last trade that the feed heard of; None where the feed has no ticks.
        alarms: is told of what stops orders.
        beat: is called at every look, for the heartbeat.
        now_s: a monotonic clock, real seconds.

    Attributes:
        refused: reason -> how many orders it stopped.
        checked: orders seen in all.
    """

    def __init__(
        self,
        settings: GateSettings,
        interval: str,
        switch: KillSwitch,
        rates: RateLimits,
        hard_rates: RateLimits,
        clock: WallClock,
        *,
        derivatives: Mapping[str, bool | None],
        last_tick: Callable[[str], LastTick | None] = lambda symbol: None,
        alarms: Alarms | None = None,
        beat: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s, self._moved_s, self._told_silent = now_s, now_s(), False
        self._settings, self._interval, self._switch = settings, interval, switch
        self._rates, self._hard_rates, self._clock = rates, hard_rates, clock
        self._derivatives, self._last_tick, self._alarms, self._beat = derivatives, last_tick, alarms, beat
        self._seen: dict[str, _Seen] = {}
        self._told: set[Reason] = set()
        self.refused: Counter[Reason] = Counter()
        self.checked = 0

    def begin(self, time_ns: Mapping[str, int]) -> None:
        """Know the last bar of each symbol before the first moment: the end of its history or of the journal."""
        for symbol, start_ns in time_ns.items():
            self._seen[symbol] = _Seen(start_ns, 0)

    def look(self) -> None:
        """Look around between two bars.

        Raises:
            HaltTrading: the kill switch is latched.
        """
        self._beat()
        if self._alarms is not None:
            self._alarms.look()
            self._listen(self._alarms)
        latch = self._switch.latched
        if latch is not None:
            self._switch.take(latch)
            raise HaltTrading(f"kill switch ({latch.by}): {latch.reason}", flatten=latch.flatten)

    def check(self, orders: Mapping[str, Order], moment: Moment, books: Books) -> dict[str, str]:
        """Which orders must not leave: symbol -> reason; called for every moment, one without orders too."""
        self._follow(moment)
        self._moved_s, self._told_silent = self._now_s(), False
        self.checked += len(orders)
        stopped: dict[str, tuple[Reason, str]] = {}
        latch = self._switch.latched
        contradiction = self._contradiction(books)
        for symbol in sorted(orders):
            found: tuple[Reason, str] | None = None
            if latch is not None:
                found = Reason.KILL, f"{latch.by}: {latch.reason}"
            elif contradiction:
                found = Reason.BOOKS, contradiction
            else:
                reducing = reduces(books.positions.get(symbol, 0), orders[symbol].quantity)
                if not reducing:
                    found = self._overspent(books) or self._doubt(symbol, moment)
                found = found or self._too_fast(reducing)
            if found is not None:
                stopped[symbol] = found
        self._tell(stopped)
        return {symbol: f"{reason}: {text}" for symbol, (reason, text) in stopped.items()}

    def _listen(self, alarms: Alarms) -> None:
        """Raise an alarm, once, where bars are due and none has come for a while."""
        silent_s = self._now_s() - self._moved_s
        if self._told_silent or silent_s < _SILENT_S or not self._seen:
            return
        symbol, newest = max(self._seen.items(), key=lambda one: one[1].time_ns)
        # A bar counts as due once it would be too old to trade on.
        due_ns = self._clock.now_ns() - INTERVAL_NS[self._interval] - int(self._settings.stale_s * _SECOND_NS)
        if due_ns > newest.time_ns and self._missing(symbol, newest.time_ns, due_ns) > 0:
            self._told_silent = True
            told = f"no bar has come since that of {ist_text(newest.time_ns)}, for {silent_s:.0f} s of ours"
            alarms.raise_("feed_silent", told)

    def _follow(self, moment: Moment) -> None:
        """Count what is missing between the bars of each symbol."""
        for symbol, bar in moment.bars.items():
            known = self._seen.get(symbol)
            now = _Seen(moment.time_ns, to_paise(bar.close))
            if known is not None:
                missing = self._missing(symbol, known.time_ns, moment.time_ns)
                passed = 1 if moment.time_ns > known.time_ns else 0
                now.pause, now.missing = max(known.pause - passed, 0), known.missing
                if missing > self._settings.gap_bars:
                    now.pause, now.missing = self._settings.gap_pause_bars, missing
            self._seen[symbol] = now

    def _missing(self, symbol: str, first_ns: int, last_ns: int) -> int:
        try:
            return bars_between(first_ns, last_ns, self._interval, derivatives=self._derivatives.get(symbol))
        except CalendarError:
            # Days that the calendar cannot answer for cannot be known to be whole.
            return self._settings.gap_bars + 1

    def _contradiction(self, books: Books) -> str:
        """What the books of the session say against each other; empty where they agree."""
        marks = {symbol: known.close_paise for symbol, known in self._seen.items()}
        held = {symbol: shares for symbol, shares in books.positions.items() if shares}
        if not all(marks.get(symbol) for symbol in held):
            return ""
        worth = books.cash_paise + sum(shares * marks[symbol] for symbol, shares in held.items())
        if abs(worth - books.equity_paise) > _ROUNDING_PAISE:
            return f"equity of {books.equity_paise} paise, but cash and positions are worth {worth}"
        return ""

    def _overspent(self, books: Books) -> tuple[Reason, str] | None:
        return None if books.cash_paise >= 0 else (Reason.BOOKS, f"cash of {books.cash_paise} paise")

    def _doubt(self, symbol: str, moment: Moment) -> tuple[Reason, str] | None:
        settings, now_ns = self._settings, self._clock.now_ns()
        known = self._seen.get(symbol)
        if symbol not in moment.bars or known is None:
            return Reason.GAP, f"there is no bar of {symbol} in this moment"
        tick = self._last_tick(symbol)
        end_ns, due_ns = (
            instant(moment.time_ns, self._interval, derivatives=self._derivatives.get(symbol))
            for instant in (bar_end_ns, acted_on_ns)
        )
        if tick is not None and abs(tick.received_ns - tick.stamp_ns) > settings.skew_s * _SECOND_NS:
            apart_s = (tick.received_ns - tick.stamp_ns) / _SECOND_NS
            return Reason.CLOCK, f"our clock is {apart_s:+.1f} s from the exchange's stamp, allowed {settings.skew_s:g}"
        early_s, late_s = (end_ns - now_ns) / _SECOND_NS, (now_ns - due_ns) / _SECOND_NS
        if early_s > settings.skew_s:
            return Reason.CLOCK, f"the bar ends {early_s:.1f} s ahead of our clock, allowed {settings.skew_s:g}"
        if late_s > settings.stale_s:
            return Reason.STALE, f"the bar ended {late_s:.1f} s ago, allowed {settings.stale_s:g}"
        if known.pause:
            return Reason.GAP, f"{known.missing} bars were missing; {known.pause} more must come before it trades again"
        if tick is not None and known.close_paise:
            distance = abs(tick.price_paise - known.close_paise) / known.close_paise
            if distance > settings.tick_distance:
                return Reason.PRICE, (
                    f"the last trade was at {tick.price_paise / 100:.2f}, {distance:.2%} from the close of "
                    f"{known.close_paise / 100:.2f}, allowed {settings.tick_distance:.2%}"
                )
        return None

    def _too_fast(self, reducing: bool) -> tuple[Reason, str] | None:
        try:
            if reducing:
                self._hard_rates.book(ENTRIES, at_most_s=_WAY_OUT_S)
            else:
                self._rates.book(ENTRIES, at_most_s=0.0)
        except RateLimited as error:
            return Reason.RATE, str(error)
        except sqlite3.Error as error:
            return Reason.RATE, f"the file of the account's rates cannot be used ({error})"
        return None

    def _tell(self, stopped: Mapping[str, tuple[Reason, str]]) -> None:
        self.refused.update(reason for reason, _ in stopped.values())
        before, self._told = self._told, {reason for reason, _ in stopped.values()}
        if self._alarms is None:
            return
        # Once for each reason, until a moment passes without it: bars of a catch-up would be an alarm each.
        for reason in dict.fromkeys(reason for reason, _ in stopped.values() if reason not in before):
            texts = {symbol: text for symbol, (why, text) in stopped.items() if why is reason}
            first = next(iter(texts.values()))
            self._alarms.raise_("order stopped", f"{reason}: {first}", symbols=sorted(texts))
