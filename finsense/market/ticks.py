"""Aggregates the ticks of one symbol into bars, one by one as the live loop does; recordings go the same way."""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from finsense.market.bars import INTERVAL_NS, PRICE_LIMIT, PRICE_MIN, Bar, Bars, BarsError
from finsense.market.calendar import DAY_NS, TradingSession, nse_calendar, session_date
from finsense.market.extra_fields import BOOK_FIELDS, EXTRA_FIELDS, FLOW_FIELDS
from finsense.market.instruments import instrument
from finsense.market.order_book import Depth, view_book
from finsense.market.tick_bar import TickBar

# The stamps of a feed are whole seconds and arrive within one; a second more lets the stragglers in.
GRACE_NS = 2_000_000_000
# What no tick without a cumulative volume can tell.
_VOLUME_FLOW = ("trades", "signed_volume", "tick_vwap")


class Tick(NamedTuple):
    """One message of a feed about one symbol.

    Attributes:
        time_ns: The exchange's stamp, ns UTC; 0 (1970) where the vendor sends none.
        last_price: Price of the last trade, rupees.
        volume: Shares traded since the day began; None where none is published (indices).
        depth: The order book; None where the feed gives none.
    """

    time_ns: int
    last_price: float
    volume: int | None = None
    depth: Depth | None = None


@dataclass(slots=True)
class TickReport:
    """What became of the ticks: each is counted in exactly one of the first eight.

    Attributes:
        taken: Went into a bar.
        out_of_order: Older than the newest tick of their bar, which was still open: they widened it.
        late: Their bar had been given out already. Their shares come with the next tick: the volume is cumulative.
        repeated: The same as the tick before.
        unstamped: Stamped before the calendar begins, as 1970-01-01 05:30 IST.
        closed_day: Stamped on a day without a session: mock trading, test messages.
        outside_hours: Before the opening, after the close, or in a pause of the session.
        invalid: The price is no price (not finite, below a paisa, a crore or more), or the volume is negative.
        volume_fell: Of the ticks that went into bars, those whose cumulative volume was below an earlier one.
    """

    taken: int = 0
    out_of_order: int = 0
    late: int = 0
    repeated: int = 0
    unstamped: int = 0
    closed_day: int = 0
    outside_hours: int = 0
    invalid: int = 0
    volume_fell: int = 0


class _Place(NamedTuple):
    """Where an instant lies: the bar's start and end, and the span around the instant without a pause."""

    day: dt.date
    start_ns: int
    end_ns: int
    from_ns: int
    until_ns: int


class TickAggregator:
    """Turns the ticks of one symbol into bars on the calendar's grid.

    A bar is given out when the first tick of a later one arrives, or when `advance` says that its end and the grace
    have passed. Minutes without a tick have no bar. Each day begins from nothing. The object can be pickled in the
    middle of a bar; fed again with the day's ticks, a new one comes to the same state.

    Args:
        symbol: Trading symbol.
        interval: A key of `bars.INTERVAL_NS`.
        derivatives: Whether the stock has derivatives, which decides its hours since 2026-08-03; None takes what is
            known of the symbol.
        grace_ns: How long after a bar's end its ticks are waited for.

    Attributes:
        report: What became of the ticks so far.

    Raises:
        BarsError: The interval is unknown, or the grace is negative.
    """

    def __init__(
        self, symbol: str, interval: str, *, derivatives: bool | None = None, grace_ns: int = GRACE_NS
    ) -> None:
        if interval not in INTERVAL_NS:
            raise BarsError(f"{symbol}: unknown interval {interval!r}; known are {', '.join(INTERVAL_NS)}")
        if grace_ns < 0:
            raise BarsError(f"{symbol}: expected a grace of 0 ns or more, found {grace_ns}")
        self.report = TickReport()
        self._interval_ns = INTERVAL_NS[interval]
        self._derivatives = instrument(symbol).derivatives if derivatives is None else derivatives
        self._grace_ns = grace_ns
        self._bar: TickBar | None = None
        # Ticks of the open bar lie in [from, until), which is empty while none is open.
        self._from_ns = self._until_ns = self._end_ns = 0
        # Whatever ends at or before this instant has been given out, or never had a tick.
        self._settled_ns = 0
        self._day: dt.date | None = None
        self._begin_day(None)

    def _begin_day(self, day: dt.date | None) -> None:
        self._day = day
        self._newest: Tick | None = None
        self._volume: int | None = None
        self._price = self._mid = 0.0
        self._direction = 0

    def add(self, tick: Tick) -> Bar | None:
        """Take the next tick as it arrives; gives the bar before when this one opens another.

        Raises:
            CalendarError: The stamp lies beyond the known calendar, or the hours depend on unknown derivatives.
        """
        if tick == self._newest:
            self.report.repeated += 1
            return None
        time_ns, price, volume, _ = tick
        if not PRICE_MIN <= price < PRICE_LIMIT or (volume is not None and volume < 0):
            self.report.invalid += 1
            return None
        if self._bar is not None and self._from_ns <= time_ns < self._until_ns:
            self._take(self._bar, tick)
            return None
        place = self._place(time_ns)
        if place is None:
            return None
        given = None
        if self._bar is None or place.end_ns != self._end_ns:
            given = self.flush()
            self._settled_ns = max(self._settled_ns, place.start_ns)
            if place.day != self._day:
                self._begin_day(place.day)
            self._bar = TickBar(place.start_ns, time_ns, price)
            self._end_ns = place.end_ns
        self._from_ns, self._until_ns = place.from_ns, place.until_ns
        self._take(self._bar, tick)
        return given

    def rebase(self, tick: Tick) -> None:
        """Count shares from this tick's volume on: those before it belong to bars that are made of something else.

        A feed calls it with the first tick after a gap, before it adds that tick.
        """
        day, volume = session_date(tick.time_ns), tick.volume
        if volume is None or day < nse_calendar().first_date:
            return
        if self._bar is None and day != self._day:
            self._begin_day(day)
        if day == self._day:
            self._volume = volume if self._volume is None else max(self._volume, volume)

    def advance(self, time_ns: int) -> Bar | None:
        """Tell the time, ns UTC; gives the open bar when its end and the grace have passed.

        From then on the ticks of that span are late, also where it had none yet.
        """
        self._settled_ns = max(self._settled_ns, time_ns - self._grace_ns)
        return self.flush() if self._bar is not None and self._end_ns <= self._settled_ns else None

    def flush(self) -> Bar | None:
        """Give the open bar out as it stands, at the end of a recording; None where no bar is open."""
        if self._bar is None:
            return None
        given = self._bar.bar()
        self._settled_ns = max(self._settled_ns, self._end_ns)
        self._bar = None
        return given

    def _place(self, time_ns: int) -> _Place | None:
        """Where a tick belongs; None (and counted) where it belongs to no bar that can still be made."""
        report = self.report
        day, calendar = session_date(time_ns), nse_calendar()
        if day < calendar.first_date:
            report.unstamped += 1
            return None
        session = calendar.session(day, derivatives=self._derivatives)
        if session is None:
            report.closed_day += 1
            return None
        window = next((window for window in session.windows if window[0] <= time_ns < window[1]), None)
        if window is None:
            report.outside_hours += 1
            return None
        place = self._place_in(session, window, time_ns)
        if place.end_ns <= self._settled_ns:
            report.late += 1
            return None
        return place

    def _place_in(self, session: TradingSession, window: tuple[int, int], time_ns: int) -> _Place:
        if self._interval_ns == DAY_NS:
            return _Place(session.date, session.open_ns, session.close_ns, *window)
        start_ns = time_ns - (time_ns - window[0]) % self._interval_ns
        end_ns = min(start_ns + self._interval_ns, window[1])
        return _Place(session.date, start_ns, end_ns, start_ns, end_ns)

    def _take(self, bar: TickBar, tick: Tick) -> None:
        time_ns, price, volume, depth = tick
        in_order = self._newest is None or time_ns >= self._newest.time_ns
        if in_order and price != self._price:
            if self._price > 0.0:
                self._direction = 1 if price > self._price else -1
            self._price = price
        shares = 0
        if volume is not None:
            shares = self._shares(volume)
        # Lee and Ready (1991): against the book before the trade, and where that does not tell by the last change.
        side = self._direction
        if self._mid > 0.0 and price != self._mid:
            side = 1 if price > self._mid else -1
        if not in_order:
            self.report.out_of_order += 1
            bar.widen(time_ns, price, shares, side)
            return
        self.report.taken += 1
        view = None if depth is None else view_book(depth)
        self._mid = 0.0 if view is None else view.mid
        self._newest = tick
        bar.take(price, shares, side, view)

    def _shares(self, volume: int) -> int:
        """Shares traded since the highest cumulative volume of the day so far."""
        highest = self._volume
        if highest is None:
            # Nothing tells what was traded before: until the opening auction is matched, feeds send in this field what
            # it would match, which rises and falls.
            self._volume = volume
            return 0
        if volume < highest:
            self.report.volume_fell += 1
            return 0
        self._volume = volume
        return volume - highest


def bars_from_ticks(
    ticks: Iterable[Tick], symbol: str, interval: str, *, derivatives: bool | None = None
) -> tuple[Bars, TickReport]:
    """Bars of recorded ticks in the order of their arrival, the last one as far as the recording goes.

    Give ticks sorted by stamp (`sorted(ticks, key=lambda tick: tick.time_ns)`) where the order of arrival is lost; the
    bars are then what a feed without stragglers would have given. What no tick carries is absent from `extra`.

    Args:
        ticks: Of one symbol.
        symbol: Trading symbol.
        interval: A key of `bars.INTERVAL_NS`.
        derivatives: As for `TickAggregator`.

    Raises:
        BarsError: No tick fell into a session.
        CalendarError: As `TickAggregator.add` does.
    """
    aggregator = TickAggregator(symbol, interval, derivatives=derivatives)
    given: list[Bar] = []
    unknown = {*_VOLUME_FLOW, *BOOK_FIELDS}
    for tick in ticks:
        if unknown:
            unknown.difference_update(_VOLUME_FLOW if tick.volume is not None else ())
            unknown.difference_update(BOOK_FIELDS if tick.depth is not None else ())
        bar = aggregator.add(tick)
        if bar is not None:
            given.append(bar)
    last = aggregator.flush()
    given += [] if last is None else [last]
    if not given:
        raise BarsError(f"{symbol}: no tick fell into a trading session: {aggregator.report}")
    return _bars(given, unknown, symbol, interval, derivatives), aggregator.report


def _bars(given: list[Bar], unknown: set[str], symbol: str, interval: str, derivatives: bool | None) -> Bars:
    *columns, extra = zip(*given, strict=True)
    time_ns, opens, high, low, close, volume = map(np.array, columns)
    known = zip(EXTRA_FIELDS, zip(*extra, strict=True), strict=True)
    flow = {name: np.array(values) for name, values in known if name in FLOW_FIELDS and name not in unknown}
    return Bars(symbol, interval, time_ns, opens, high, low, close, volume, derivatives, flow)
