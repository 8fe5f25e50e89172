"""What a bar means to the state and to the account: its fields, its session's clock, its prices in paise."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.market.bars import INTERVAL_NS, Bar, Bars, ist_text
from finsense.market.calendar import DAY_NS, MINUTE_NS, session_date
from finsense.market.costs import ChargeRules
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.instruments import Instrument
from finsense.market.session_records import SESSION, check_hours, session_of, session_record
from finsense.market.session_records import TimelineError as TimelineError

# The fields of a bar as an indicator reads them, all float64. First what every bar has.
OPEN, HIGH, LOW, CLOSE, VOLUME, SESSION_LEFT, SESSION_OPENS = range(7)
# Minutes of continuous trading before the bar's start; whole bars of it after this one; the close of the session before
# (rupees; 0 where the history begins, so only a kernel without memory may use it); the price band (fraction; 0 none).
MINUTE, BARS_LEFT, PREVIOUS_CLOSE, PRICE_BAND = range(7, 11)
# What the calendar knows of the session beforehand, as `session_context` gives it.
WEEKDAY, DAYS_SINCE_HOLIDAY, DAYS_TO_HOLIDAY, MONTH_SESSIONS_LEFT = range(11, 15)
WEEKLY_EXPIRY_AHEAD, MONTHLY_EXPIRY_AHEAD = range(15, 17)
# What only some bars know, in the order of EXTRA_FIELDS; an indicator that reads one of them says so in its `needs`.
INDEX_CLOSE, SECTOR_CLOSE, VIX_CLOSE = range(17, 20)
TICKS, TRADES, SIGNED_VOLUME, REALISED_VARIANCE, TICK_VWAP = range(20, 25)
BOOK_IMBALANCE, SPREAD, MICROPRICE_OFFSET = range(25, 28)
BAR_FIELDS = 28
_EXTRA = slice(INDEX_CLOSE, BAR_FIELDS)

# The same bar as the account reads it, whole numbers; 64 bytes, for the environments jump between bars and a processor
# reads memory by lines of that length.
MARKET = np.dtype(
    [
        ("open_paise", np.int64),
        ("high_paise", np.int64),
        ("low_paise", np.int64),
        ("close_paise", np.int64),
        ("volume", np.int64),
        ("first_cell", np.int64),  # where the bar's stacked state begins on an environment's tape; unused elsewhere
        ("day", np.int32),  # IST days since 1970-01-01: one trading session each
        ("seconds_left", np.int32),  # of continuous trading, from the bar's end; 0 for daily bars
        ("tick_paise", np.int32),  # smallest price step of the session
        ("schedule", np.int16),  # row of `costs.schedules()` in force
        ("locked", np.int16),  # 1 locked at the upper circuit, -1 at the lower, 0 free
    ]
)

# A circuit limit is rounded to a tick, so a locked bar may stand this far (permille of the last close) inside the band.
_BAND_SLACK_PERMILLE = 1


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
def _left_ns(time_ns: int, session: Any) -> Any:
    """Continuous trading left at the end of the bar that starts at `time_ns`; 0 for daily bars."""
    end_ns = time_ns + session.interval_ns
    if session.interval_ns >= DAY_NS:
        return 0
    if time_ns < session.pause_start_ns:
        return max(session.pause_start_ns - end_ns, 0) + session.close_ns - session.pause_end_ns
    return max(session.close_ns - end_ns, 0)


@njit(cache=True)
def _elapsed_ns(time_ns: int, session: Any) -> Any:
    """Continuous trading before `time_ns`; 0 for daily bars, which start with their session."""
    pause_ns = session.pause_length_ns if time_ns >= session.pause_start_ns else 0
    return time_ns - session.open_ns - pause_ns


@njit(cache=True)
def _write_row(
    time_ns: int,
    prices: tuple[float, float, float, float],
    volume: int,
    opens: bool,
    session: Any,
    row: NDArray[np.float64],
) -> None:
    """Write one bar's fields into `row`, but for those of EXTRA_FIELDS; `opens`: it is its session's first."""
    left_ns = _left_ns(time_ns, session)
    row[OPEN], row[HIGH], row[LOW], row[CLOSE] = prices
    row[VOLUME] = volume
    row[SESSION_LEFT] = left_ns / session.length_ns
    row[SESSION_OPENS] = 1.0 if opens else 0.0
    row[MINUTE] = _elapsed_ns(time_ns, session) / MINUTE_NS
    row[BARS_LEFT] = (left_ns + session.interval_ns - 1) // session.interval_ns
    row[PREVIOUS_CLOSE] = session.previous_close_paise / 100.0
    row[PRICE_BAND] = session.band_permille / 1000.0
    context = session.context
    for index in range(len(context)):
        row[WEEKDAY + index] = context[index]


@njit(cache=True)
def _write_record(
    time_ns: int, prices: tuple[float, float, float, float], volume: int, session: Any, record: Any
) -> None:
    """Write the account's view of one bar into `record`."""
    record.day = session.day
    record.open_paise = to_paise(prices[0])
    record.high_paise = to_paise(prices[1])
    record.low_paise = to_paise(prices[2])
    record.close_paise = to_paise(prices[3])
    record.volume = volume
    record.locked = _locked(session, prices[1], prices[2], record.close_paise)
    record.schedule = session.schedule
    record.seconds_left = _left_ns(time_ns, session) // 1_000_000_000
    record.tick_paise = session.tick_paise


@njit(cache=True)
def _write_bar(
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
    prices = (open_, high, low, close)
    _write_row(time_ns, prices, volume, opens, sessions[0], row)
    _write_record(time_ns, prices, volume, sessions[0], records[0])


_Prices = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@njit(cache=True)
def _write_rows(
    start: int,
    time_ns: NDArray[np.int64],
    prices: _Prices,
    volume: NDArray[np.int64],
    sessions: Any,
    offsets: NDArray[np.int64],
    rows: NDArray[np.float64],
) -> None:
    """Write the fields of the bars from `start` on, as many as `rows` has."""
    opens, highs, lows, closes = prices
    session = np.searchsorted(offsets, start, side="right") - 1
    for index in range(start, start + len(rows)):
        if index == offsets[session + 1]:
            session += 1
        bar = (opens[index], highs[index], lows[index], closes[index])
        first = index == offsets[session]
        _write_row(time_ns[index], bar, volume[index], first, sessions[session], rows[index - start])


@njit(cache=True)
def _write_records(
    time_ns: NDArray[np.int64],
    prices: _Prices,
    volume: NDArray[np.int64],
    sessions: Any,
    offsets: NDArray[np.int64],
    records: Any,
) -> None:
    """Write the account's view of every bar."""
    opens, highs, lows, closes = prices
    for session in range(len(sessions)):
        for index in range(offsets[session], offsets[session + 1]):
            bar = (opens[index], highs[index], lows[index], closes[index])
            _write_record(time_ns[index], bar, volume[index], sessions[session], records[index])


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
        self._session = np.zeros(1, SESSION)
        self._close_ns = 0
        self._time_ns = 0
        self._extra_known = False

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
        _write_bar(
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
        if bar.extra or self._extra_known:
            self.row[_EXTRA] = bar.extra or 0.0
            self._extra_known = bool(bar.extra)
        return opens

    def _open_session(self, time_ns: int) -> None:
        session = session_of(session_date(time_ns), self._instrument, self._interval_ns)
        check_hours(session, self._instrument, time_ns, time_ns)
        self._session[0] = session_record(
            session, self._instrument, self._interval_ns, self._charges, int(self.record["close_paise"][0])
        )
        self._close_ns = session.close_ns


@dataclass(frozen=True)
class Timeline:
    """All bars of one symbol with their sessions; bar for bar the same bits as `Clock` gives.

    Attributes:
        bars: the bars, n of them.
        market: (n,) of dtype MARKET, the account's view of each bar.
        session_offsets: (sessions + 1,) int64, where each trading session starts in the bars, and n.
        sessions: (sessions,), what the kernels know of each session.
    """

    bars: Bars
    instrument: Instrument
    market: NDArray[Any]
    session_offsets: NDArray[np.int64]
    sessions: NDArray[Any]

    @cached_property
    def rows(self) -> NDArray[np.float64]:
        """(n, BAR_FIELDS) float64, the fields of every bar; 224 bytes a bar, so a long history is read in parts."""
        return self.rows_between(0, len(self.bars))

    def rows_between(self, start: int, stop: int) -> NDArray[np.float64]:
        """(stop - start, BAR_FIELDS) float64, the fields of the bars `start` to `stop` (exclusive)."""
        bars = self.bars
        rows = np.zeros((stop - start, BAR_FIELDS))
        prices = (bars.open, bars.high, bars.low, bars.close)
        _write_rows(start, bars.time_ns, prices, bars.volume, self.sessions, self.session_offsets, rows)
        for name, values in bars.extra.items():
            rows[:, INDEX_CLOSE + EXTRA_FIELDS.index(name)] = values[start:stop]
        return rows


def timeline(bars: Bars, instrument: Instrument, charges: ChargeRules | None) -> Timeline:
    """Describe the sessions of the bars.

    Raises:
        TimelineError: a bar lies outside the instrument's sessions.
        CostError: no charge schedule is known for a session's date.
    """
    offsets = bars.session_offsets
    sessions = np.zeros(len(offsets) - 1, SESSION)
    previous_close_paise = 0
    for place, (start, stop) in enumerate(pairwise(offsets.tolist())):
        first_ns, last_ns = int(bars.time_ns[start]), int(bars.time_ns[stop - 1])
        found = session_of(session_date(first_ns), instrument, bars.interval_ns)
        check_hours(found, instrument, first_ns, last_ns)
        sessions[place] = session_record(found, instrument, bars.interval_ns, charges, previous_close_paise)
        previous_close_paise = int(to_paise(bars.close[stop - 1]))
    market = np.zeros(len(bars), MARKET)
    prices = (bars.open, bars.high, bars.low, bars.close)
    _write_records(bars.time_ns, prices, bars.volume, sessions, offsets, market)
    return Timeline(bars, instrument, market, offsets, sessions)
