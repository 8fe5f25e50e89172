"""Tell on which dates and between which instants the National Stock Exchange of India (NSE) trades cash equity."""

import csv
import datetime as dt
import io
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

DAY_NS = 86_400_000_000_000
MINUTE_NS = 60_000_000_000
IST = dt.timezone(dt.timedelta(hours=5, minutes=30), "IST")

_IST_OFFSET_NS = 330 * MINUTE_NS
_EPOCH_ORDINAL = dt.date(1970, 1, 1).toordinal()

# The span of the data file: the last date is the end of the last holiday list that NSE had announced.
_FIRST_DATE = dt.date(2000, 1, 1)
_LAST_DATE = dt.date(2026, 12, 31)

# Continuous trading on an ordinary day, newest era first: (first date, windows in IST).
# Source: NSE announcements of 2009/2010 (pre-open pilot) and October 2010 (call auction), as collected in
# pandas_market_calendars 5.5.0; 09:55 is also what index minute bars of 2009 show.
_REGULAR_HOURS = (
    (dt.date(2010, 10, 18), "09:15-15:30"),
    (dt.date(2010, 1, 4), "09:00-15:30"),
    (dt.date(2000, 1, 1), "09:55-15:30"),
)

# Closing auction for stocks that have derivatives: continuous trading ends at 15:15 from this date on.
# Source: SEBI circular HO/47/11/11(3)2025-MRD-POD2/I/2765/2026 of 16 Jan 2026; NSE/CMTR/74466 of 29 May 2026.
CLOSING_AUCTION_FROM = dt.date(2026, 8, 3)
_CLOSING_AUCTION_HOURS = "09:15-15:15"

_SESSION_KINDS = frozenset({"weekend", "muhurat", "split", "outage"})
_COLUMNS = ["date", "kind", "windows", "name", "source"]

_MinuteWindows = tuple[tuple[int, int], ...]


class CalendarError(ValueError):
    """A date the calendar cannot answer for, or a calendar file that contradicts itself."""


class UnknownDerivativesError(CalendarError):
    """The hours depend on whether the stock has derivatives, and the caller did not say."""


@dataclass(frozen=True, slots=True)
class TradingSession:
    """One trading day of the exchange.

    Attributes:
        date: The day, as the clock in India shows it.
        kind: "regular", "weekend" (a live session on a Saturday or Sunday, with regular or shorter hours), "muhurat"
            (the hour at Diwali), "split" (two windows) or "outage" (the day ended at another time than planned).
            A halt that leaves the day's first and last minute as planned is no outage here: its bars are absent.
        name: What made the day special; empty for a regular one.
        windows: Continuous trading, ascending half-open [start_ns, end_ns) in int64 ns UTC.
        closing_auction: Whether the official close comes from an auction after the last window.
    """

    date: dt.date
    kind: str
    name: str
    windows: tuple[tuple[int, int], ...]
    closing_auction: bool

    @property
    def open_ns(self) -> int:
        """Start of continuous trading, int64 ns UTC."""
        return self.windows[0][0]

    @property
    def close_ns(self) -> int:
        """End of continuous trading, int64 ns UTC."""
        return self.windows[-1][1]


class SpecialDay(NamedTuple):
    """One row of the calendar file: a weekday without trading or a day with hours of its own.

    `windows` is empty for a holiday, otherwise times in IST like "09:15-10:00;11:30-12:30", "regular" for the hours
    of the era or "unknown" for hours not announced. `source` says where the row comes from and what is unconfirmed.
    """

    kind: str
    windows: str
    name: str
    source: str


class Calendar:
    """Sessions of one exchange between two dates, from a table of its special days."""

    def __init__(self, special_days: Mapping[dt.date, SpecialDay], first_date: dt.date, last_date: dt.date) -> None:
        """Take the special days; every other weekday of the span has the regular hours of its era."""
        self._special_days = dict(special_days)
        self._first_date = first_date
        self._last_date = last_date
        self._answers: dict[tuple[dt.date, bool | None], TradingSession | None] = {}

    @property
    def first_date(self) -> dt.date:
        """First date the calendar answers for."""
        return self._first_date

    @property
    def last_date(self) -> dt.date:
        """Last date the calendar answers for."""
        return self._last_date

    def session(self, date: dt.date, *, derivatives: bool | None) -> TradingSession | None:
        """Return the session of a date, or None where the exchange is closed.

        Args:
            date: A day in India.
            derivatives: Whether the stock has derivatives (then it closes in an auction since 3 Aug 2026);
                None = unknown, which is enough for every date before that.

        Raises:
            CalendarError: Outside the known span, or on a session whose hours are not announced.
            UnknownDerivativesError: Where the answer depends on `derivatives` and that is None.
        """
        key = (date, derivatives)
        try:
            return self._answers[key]
        except KeyError:
            answer = self._answers[key] = self._find_session(date, derivatives)
            return answer

    def sessions(self, first: dt.date, last: dt.date, *, derivatives: bool | None) -> list[TradingSession]:
        """Return every session from `first` to `last`, both included, in order.

        Raises:
            CalendarError: As `session` does, and when `first` is after `last`.
        """
        if first > last:
            raise CalendarError(f"expected the first date not after the last, found {first} and {last}: swap them")
        days = (dt.date.fromordinal(ordinal) for ordinal in range(first.toordinal(), last.toordinal() + 1))
        found = (self.session(day, derivatives=derivatives) for day in days)
        return [session for session in found if session is not None]

    def planned_close_ns(self, date: dt.date, *, derivatives: bool | None) -> int:
        """When continuous trading of an ordinary day would end, int64 ns UTC: what was known before an outage.

        Raises:
            CalendarError: As `session` does.
        """
        self._check_known(date)
        return _regular_session(date, "regular", "", derivatives).close_ns

    def closed_reason(self, date: dt.date) -> str:
        """Say why there is no session on a date: "weekend" or the holiday's name.

        Raises:
            CalendarError: Outside the known span, or when the exchange trades on that date.
        """
        self._check_known(date)
        special = self._special_days.get(date)
        if special is not None and special.kind == "holiday":
            return special.name
        if special is None and date.weekday() >= 5:
            return "weekend"
        raise CalendarError(f"expected a date without trading, found {date}, which has a session: ask session() for it")

    def _check_known(self, date: dt.date) -> None:
        if isinstance(date, dt.datetime):
            raise CalendarError(f"expected a date, found the instant {date}: take the date in India (session_date)")
        if not self._first_date <= date <= self._last_date:
            raise CalendarError(
                f"expected a date from {self._first_date} to {self._last_date} (the last known holiday list), "
                f"found {date}: use dates inside, or a finsense version with a newer calendar"
            )

    def _find_session(self, date: dt.date, derivatives: bool | None) -> TradingSession | None:
        self._check_known(date)
        special = self._special_days.get(date)
        if special is None:
            return None if date.weekday() >= 5 else _regular_session(date, "regular", "", derivatives)
        if special.kind == "holiday":
            return None
        if special.windows == "unknown":
            raise CalendarError(
                f"the hours of the {special.kind} session on {date} ({special.name}) are not known to this version "
                f"({special.source}): leave the date out, or use a finsense version with a newer calendar"
            )
        if special.windows == "regular":
            return _regular_session(date, special.kind, special.name, derivatives)
        windows = _instants(date, parse_windows(special.windows))
        return TradingSession(date, special.kind, special.name, windows, closing_auction=False)


def _regular_session(date: dt.date, kind: str, name: str, derivatives: bool | None) -> TradingSession:
    """Give a date the hours of its era."""
    if date >= CLOSING_AUCTION_FROM and derivatives is None:
        raise UnknownDerivativesError(
            f"on {date} the hours depend on the stock: since {CLOSING_AUCTION_FROM} one with derivatives trades to "
            "15:15 and closes in an auction, another trades to 15:30; state derivatives as true or false"
        )
    closing_auction = date >= CLOSING_AUCTION_FROM and derivatives is True
    hours = _CLOSING_AUCTION_HOURS if closing_auction else next(h for first, h in _REGULAR_HOURS if date >= first)
    return TradingSession(date, kind, name, _instants(date, parse_windows(hours)), closing_auction)


def _instants(date: dt.date, windows: _MinuteWindows) -> tuple[tuple[int, int], ...]:
    """Turn minutes of an Indian day into half-open windows of int64 ns UTC."""
    midnight_ns = (date.toordinal() - _EPOCH_ORDINAL) * DAY_NS - _IST_OFFSET_NS
    return tuple((midnight_ns + start * MINUTE_NS, midnight_ns + end * MINUTE_NS) for start, end in windows)


@cache
def parse_windows(text: str) -> _MinuteWindows:
    """Read "09:15-10:00;11:30-12:30" as minutes after midnight, [start, end) each.

    Raises:
        CalendarError: When a time is malformed, or the windows are empty, backwards or overlapping.
    """
    windows = [window.split("-") for window in text.split(";")]
    try:
        times = [dt.time.fromisoformat(time) for start, end in windows for time in (start, end)]
    except ValueError as error:
        raise CalendarError(f"expected windows like 09:15-10:00;11:30-12:30, found {text!r}") from error
    minutes = [time.hour * 60 + time.minute for time in times]
    if any(earlier >= later for earlier, later in itertools.pairwise(minutes)):
        raise CalendarError(f"expected rising windows like 09:15-10:00;11:30-12:30, found {text!r}")
    return tuple(zip(minutes[::2], minutes[1::2], strict=True))


def read_special_days(text: str) -> dict[dt.date, SpecialDay]:
    """Read the calendar file (CSV with the columns date, kind, windows, name, source).

    Raises:
        CalendarError: On the first row that breaks the format, named by its date.
    """
    rows = csv.DictReader(io.StringIO(text))
    if rows.fieldnames != _COLUMNS:
        raise CalendarError(f"expected the columns {_COLUMNS} in the calendar file, found {rows.fieldnames}")
    special_days: dict[dt.date, SpecialDay] = {}
    for row in rows:
        try:
            date = dt.date.fromisoformat(row["date"])
        except ValueError as error:
            raise CalendarError(
                f"expected dates like 2026-01-26 in the calendar file, found {row['date']!r}"
            ) from error
        day = SpecialDay(row["kind"], row["windows"], row["name"], row["source"])
        _check_row(date, day, special_days)
        special_days[date] = day
    return special_days


def _check_row(date: dt.date, day: SpecialDay, earlier: dict[dt.date, SpecialDay]) -> None:
    if earlier and date <= next(reversed(earlier)):
        raise CalendarError(f"expected rising dates in the calendar file, found {date} out of order or twice")
    if not (day.name and day.source):
        raise CalendarError(f"expected a name and a source for {date} in the calendar file, found an empty one")
    if day.kind == "holiday":
        if day.windows or date.weekday() >= 5:
            raise CalendarError(f"expected a holiday on a weekday and without hours, found {date} {day.windows!r}")
        return
    if day.kind not in _SESSION_KINDS:
        raise CalendarError(f"expected a holiday or one of {sorted(_SESSION_KINDS)}, found {day.kind!r} on {date}")
    if day.windows not in ("regular", "unknown"):
        parse_windows(day.windows)


@cache
def nse_calendar() -> Calendar:
    """Return the NSE cash-equity calendar of this version, 2000-01-01 to 2026-12-31."""
    file = resources.files("finsense.market.data").joinpath("nse_sessions.csv")
    return Calendar(read_special_days(file.read_text(encoding="utf-8")), _FIRST_DATE, _LAST_DATE)


def session_date(time_ns: int) -> dt.date:
    """Return the date in India of an instant given in int64 ns UTC."""
    return dt.date.fromordinal((int(time_ns) + _IST_OFFSET_NS) // DAY_NS + _EPOCH_ORDINAL)
