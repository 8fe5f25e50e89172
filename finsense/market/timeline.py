"""What a bar means to the state and to the account: its fields, its session's clock, its prices in paise."""

import datetime as dt
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.market.bars import INTERVAL_NS, Bar, Bars, ist_text, session_day
from finsense.market.calendar import DAY_NS, TradingSession, nse_calendar, session_date
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument

# The fields of a bar as an indicator reads them, all float64.
OPEN, HIGH, LOW, CLOSE, VOLUME, SESSION_LEFT, SESSION_OPENS = range(7)
BAR_FIELDS = 7

# The same bar as the account reads it, all int64.
MARKET = np.dtype(
    [
        ("day", np.int64),  # IST days since 1970-01-01: one trading session each
        ("open_paise", np.int64),
        ("close_paise", np.int64),
        ("volume", np.int64),
        ("locked", np.int64),  # 1 locked at the upper circuit, -1 at the lower, 0 free
        ("schedule", np.int64),  # row of `costs.schedules()` in force
        ("seconds_left", np.int64),  # of continuous trading, from the bar's end; 0 for daily bars
        ("first_cell", np.int64),  # where the bar's stacked state begins on an environment's tape; unused elsewhere
    ]
)

_SESSION = np.dtype(
    [
        ("day", np.int64),
        ("close_ns", np.int64),
        ("pause_start_ns", np.int64),  # of a split session; open_ns where there is no pause
        ("pause_end_ns", np.int64),
        ("length_ns", np.int64),  # of continuous trading
        ("interval_ns", np.int64),
        ("schedule", np.int64),
        ("previous_close_paise", np.int64),  # 0: unknown
        ("band_permille", np.int64),  # 0: no band
    ]
)
# A circuit limit is rounded to a tick, so a locked bar may stand this far (permille of the last close) inside the band.
_BAND_SLACK_PERMILLE = 1
# A state has no use for charges; whoever builds only states gives none, and no trade can be priced on such a timeline.
_NO_SCHEDULE = -1


class TimelineError(ValueError):
    """A bar that cannot follow the one before it, or lies outside the sessions of the exchange."""


@njit(cache=True)
def to_paise(price: float) -> int:
    """Rupees (float64) to the nearest whole paisa, halves up."""
    return int(np.floor(price * 100.0 + 0.5))


@njit(cache=True)
def _locked(session: Any, high: float, low: float, close_paise: int) -> int:
    """Whether the whole bar traded at one price at (or beyond) the edge of the price band."""
    reference = session.previous_close_paise
    if high != low or reference == 0 or session.band_permille == 0:
        return 0
    edge = (session.band_permille - _BAND_SLACK_PERMILLE) * reference
    move = (close_paise - reference) * 1000
    if move >= edge:
        return 1
    return -1 if move <= -edge else 0


@njit(cache=True)
def _describe(
    time_ns: int,
    prices: tuple[float, float, float, float],
    volume: int,
    opens: bool,
    session: Any,
    row: NDArray[np.float64],
    record: Any,
) -> None:
    """Write one bar's fields into `row` and its account record into `record`; `opens`: it is its session's first."""
    left_ns = 0
    if session.interval_ns < DAY_NS:
        end_ns = time_ns + session.interval_ns
        if time_ns < session.pause_start_ns:
            left_ns = max(session.pause_start_ns - end_ns, 0) + session.close_ns - session.pause_end_ns
        else:
            left_ns = max(session.close_ns - end_ns, 0)
    row[OPEN], row[HIGH], row[LOW], row[CLOSE] = prices
    row[VOLUME] = volume
    row[SESSION_LEFT] = left_ns / session.length_ns
    row[SESSION_OPENS] = 1.0 if opens else 0.0
    record.day = session.day
    record.open_paise = to_paise(prices[0])
    record.close_paise = to_paise(prices[3])
    record.volume = volume
    record.locked = _locked(session, prices[1], prices[2], record.close_paise)
    record.schedule = session.schedule
    record.seconds_left = left_ns // 1_000_000_000


@njit(cache=True)
def _describe_bar(
    time_ns: int,
    open_: float,
    high: float,
    low: float,
    close: float,
    volume: int,
    opens: bool,
    sessions: Any,
    row: NDArray[np.float64],
    records: Any,
) -> None:
    _describe(time_ns, (open_, high, low, close), volume, opens, sessions[0], row, records[0])


@njit(cache=True)
def _describe_session(
    time_ns: NDArray[np.int64],
    prices: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
    volume: NDArray[np.int64],
    sessions: Any,
    rows: NDArray[np.float64],
    records: Any,
) -> None:
    opens, highs, lows, closes = prices
    for index in range(len(time_ns)):
        bar = (opens[index], highs[index], lows[index], closes[index])
        _describe(time_ns[index], bar, volume[index], index == 0, sessions[0], rows[index], records[index])


class Clock:
    """Follows the bars of one symbol one by one and describes each.

    Attributes:
        row: (BAR_FIELDS,) float64, the fields of the last bar.
        record: (1,) of dtype MARKET, the account's view of the last bar.
    """

    def __init__(self, instrument: Instrument, interval: str, charges: ChargeRules | None) -> None:
        self.row = np.zeros(BAR_FIELDS)
        self.record = np.zeros(1, MARKET)
        self._instrument = instrument
        self._interval_ns = INTERVAL_NS[interval]
        self._charges = charges
        self._session = np.zeros(1, _SESSION)
        self._close_ns = 0
        self._time_ns = 0

    def advance(self, bar: Bar) -> bool:
        """Describe the next bar in `row` and `record`; true when it opens a new trading session.

        Raises:
            TimelineError: the bar is not later than the last one, or lies outside the sessions of the exchange.
            CostError: no charge schedule is known for its date.
        """
        if bar.time_ns <= self._time_ns:
            raise TimelineError(
                f"{self._instrument.symbol}: expected a bar later than {ist_text(self._time_ns)}, "
                f"found {ist_text(bar.time_ns)}: the feed went back in time or repeated a bar"
            )
        opens = bar.time_ns >= self._close_ns
        if opens:
            self._open_session(bar.time_ns)
        self._time_ns = bar.time_ns
        _describe_bar(
            bar.time_ns,
            bar.open,
            bar.high,
            bar.low,
            bar.close,
            bar.volume,
            opens,
            self._session,
            self.row,
            self.record,
        )
        return opens

    def _open_session(self, time_ns: int) -> None:
        session = session_of(session_date(time_ns), self._instrument, self._interval_ns)
        _check_hours(session, self._instrument, time_ns, time_ns)
        self._session[0] = session_record(
            session, self._instrument, self._interval_ns, self._charges, int(self.record["close_paise"][0])
        )
        self._close_ns = session.close_ns


def session_of(date: dt.date, instrument: Instrument, interval_ns: int) -> TradingSession:
    """The trading session of a date; a daily bar needs no knowledge of the stock's closing auction.

    Raises:
        TimelineError: the exchange is closed on that date.
    """
    calendar = nse_calendar()
    session = calendar.session(date, derivatives=False if interval_ns == DAY_NS else instrument.derivatives)
    if session is None:
        raise TimelineError(f"{instrument.symbol}: bar on {date}, when NSE is closed ({calendar.closed_reason(date)})")
    return session


def _check_hours(session: TradingSession, instrument: Instrument, first_ns: int, last_ns: int) -> None:
    """Refuse bars that start outside the session: another clock than the instrument's stamped them."""
    if first_ns < session.open_ns or last_ns >= session.close_ns:
        outside_ns = first_ns if first_ns < session.open_ns else last_ns
        raise TimelineError(
            f"{instrument.symbol}: bar at {ist_text(outside_ns)}, but the {session.kind} session trades from "
            f"{ist_text(session.open_ns)} to {ist_text(session.close_ns)} (derivatives: {instrument.derivatives})"
        )


def session_record(
    session: TradingSession,
    instrument: Instrument,
    interval_ns: int,
    charges: ChargeRules | None,
    previous_close_paise: int,
) -> tuple[int, ...]:
    """What the kernels know of a session, in the order of its dtype.

    Raises:
        TimelineError: the session has more than one pause.
    """
    if len(session.windows) > 2:
        raise TimelineError(
            f"expected at most one pause in a session, found {len(session.windows) - 1} on {session.date}"
        )
    pause_start_ns = session.windows[0][1] if len(session.windows) == 2 else session.open_ns
    pause_end_ns, length_ns = session.windows[-1][0], sum(end_ns - start_ns for start_ns, end_ns in session.windows)
    if session.kind == "outage":
        # A split session is announced, an outage is not: until it came, the clock ran towards the ordinary close.
        planned_ns = nse_calendar().planned_close_ns(session.date, derivatives=instrument.derivatives)
        pause_end_ns = session.close_ns - (planned_ns - pause_start_ns)
        length_ns = planned_ns - session.open_ns
    return (
        session_day(session.date),
        session.close_ns,
        pause_start_ns,
        pause_end_ns,
        length_ns,
        interval_ns,
        _NO_SCHEDULE if charges is None else charges.schedule_index(session.date),
        previous_close_paise,
        0 if instrument.price_band is None else round(instrument.price_band * 1000),
    )


@dataclass(frozen=True)
class Timeline:
    """All bars of one symbol, described in one pass; bar for bar the same bits as `Clock` gives.

    Attributes:
        bars: the bars, n of them.
        rows: (n, BAR_FIELDS) float64, the fields of each bar.
        market: (n,) of dtype MARKET, the account's view of each bar.
        session_offsets: (sessions + 1,) int64, where each trading session starts in the bars, and n.
    """

    bars: Bars
    instrument: Instrument
    rows: NDArray[np.float64]
    market: NDArray[Any]
    session_offsets: NDArray[np.int64]


def timeline(bars: Bars, instrument: Instrument, charges: ChargeRules | None) -> Timeline:
    """Describe every bar.

    Raises:
        TimelineError: a bar lies outside the instrument's sessions.
        CostError: no charge schedule is known for a session's date.
    """
    rows = np.zeros((len(bars), BAR_FIELDS))
    market = np.zeros(len(bars), MARKET)
    session = np.zeros(1, _SESSION)
    offsets = bars.session_offsets
    previous_close_paise = 0
    for start, stop in pairwise(offsets.tolist()):
        first_ns, last_ns = int(bars.time_ns[start]), int(bars.time_ns[stop - 1])
        found = session_of(session_date(first_ns), instrument, bars.interval_ns)
        _check_hours(found, instrument, first_ns, last_ns)
        session[0] = session_record(found, instrument, bars.interval_ns, charges, previous_close_paise)
        prices = (bars.open[start:stop], bars.high[start:stop], bars.low[start:stop], bars.close[start:stop])
        _describe_session(
            bars.time_ns[start:stop], prices, bars.volume[start:stop], session, rows[start:stop], market[start:stop]
        )
        previous_close_paise = int(market["close_paise"][stop - 1])
    return Timeline(bars, instrument, rows, market, offsets)
