"""Reads the time stamps of vendor rows as instants, and fits them to the sessions of the exchange."""

import re
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt
import pandas as pd

from finsense.market.bars import INTERVAL_NS, IST_OFFSET_NS, BarsError, day_date
from finsense.market.calendar import DAY_NS, CalendarError, TradingSession, nse_calendar
from finsense.market.sources.faults import refuse_rows
from finsense.market.windows import trading_windows

StampedAt = Literal["start", "end"]

_ZONED = re.compile(r"\d{1,2}:\d{2}.*(?:Z|[+-]\d{2}:?\d{2})$")
_DATE_FORMATS = ("%d-%m-%Y", "%m-%d-%Y", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y")
_CLOCK_FORMATS = {0: "", 1: " %H:%M", 2: " %H:%M:%S"}
_DATES_EXPECTED = "expected dates such as 2023-07-03, 20230703, 03-07-2023 or 03-Jul-2023"
# Seconds since 1970 reach nine digits in 1973 and need eleven only in 5138; milliseconds are a thousand times that.
_EPOCH_SECONDS_MIN = 1e8
_EPOCH_SECONDS_LIMIT = 1e11
_GAPS_TO_JUDGE = 10


class Instants(NamedTuple):
    """Stamps as instants.

    Attributes:
        time_ns: (n,) int64, ns UTC; where the vendor gave dates only, midnight in India.
        dates_only: Whether the stamps carry no time of day.
    """

    time_ns: npt.NDArray[np.int64]
    dates_only: bool


def read_stamps(table: pd.DataFrame, symbol: str, timezone: str | None, date_format: str | None) -> Instants:
    """Read the stamp column (and the clock column, where there is one) of a frame from `name_columns`.

    Args:
        table: The rows; shown where a stamp cannot be read.
        symbol: Whose rows they are.
        timezone: Zone of stamps that carry none, e.g. "Asia/Kolkata" or "UTC"; stamps with a zone keep their own.
        date_format: A `strptime` format of date (and time), for spellings that cannot be told apart by themselves.

    Raises:
        BarsError: When stamps cannot be read, are ambiguous, or carry neither a zone nor a declared one.
    """
    moments = _moments(table, symbol, date_format)
    refuse_rows(moments.isna().to_numpy(), f"have a time that cannot be read; {_DATES_EXPECTED}", table, symbol)
    if moments.dt.tz is not None:
        return Instants(_nanoseconds(moments), dates_only=False)
    naive_ns = _nanoseconds(moments)
    if (naive_ns % DAY_NS == 0).all():
        return Instants(naive_ns - IST_OFFSET_NS, dates_only=True)
    if timezone is None:
        raise BarsError(
            f"{symbol}: times such as {moments.iloc[0]} carry no zone; declare the vendor's one with "
            'timezone="Asia/Kolkata" (or "UTC" where the day starts at 03:45)'
        )
    try:
        zoned = moments.dt.tz_localize(ZoneInfo(timezone))
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise BarsError(f"{symbol}: cannot read the times in the zone {timezone!r}: {error}") from error
    return Instants(_nanoseconds(zoned), dates_only=False)


def _nanoseconds(moments: "pd.Series[pd.Timestamp]") -> npt.NDArray[np.int64]:
    naive = moments if moments.dt.tz is None else moments.dt.tz_convert("UTC").dt.tz_localize(None)
    return naive.dt.as_unit("ns").to_numpy().astype(np.int64)


def _moments(table: pd.DataFrame, symbol: str, date_format: str | None) -> "pd.Series[pd.Timestamp]":
    stamp = table["stamp"]
    if pd.api.types.is_datetime64_any_dtype(stamp.dtype) and "clock" not in table.columns:
        return stamp
    if pd.api.types.is_numeric_dtype(stamp.dtype) and (stamp >= _EPOCH_SECONDS_MIN).all():
        unit: Literal["s", "ms"] = "s" if (stamp < _EPOCH_SECONDS_LIMIT).all() else "ms"
        return pd.to_datetime(stamp, unit=unit, utc=True)
    text = stamp.astype(str).str.strip()
    if pd.api.types.is_datetime64_any_dtype(stamp.dtype):
        text = text.str.slice(stop=10)
    if "clock" in table.columns:
        text = text + " " + table["clock"].astype(str).str.strip()
    if date_format is not None:
        try:
            return pd.to_datetime(text, format=date_format, errors="coerce")
        except ValueError as error:
            raise BarsError(f"{symbol}: date_format {date_format!r} cannot be used: {error}") from error
    zoned = text.str.contains(_ZONED)
    refuse_rows((zoned != zoned.iloc[0]).to_numpy(), "mix times with and without a zone", table, symbol)
    moments = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=bool(zoned.iloc[0]))
    return moments if moments.notna().any() or zoned.iloc[0] else _other_spelling(text, symbol)


def _other_spelling(text: "pd.Series[str]", symbol: str) -> "pd.Series[pd.Timestamp]":
    clock = _CLOCK_FORMATS.get(str(text.iloc[0]).count(":"), "")
    readings = {form: pd.to_datetime(text, format=form + clock, errors="coerce") for form in _DATE_FORMATS}
    whole = {form: moments for form, moments in readings.items() if moments.notna().all()}
    if len(whole) > 1:
        raise BarsError(
            f"{symbol}: dates such as {text.iloc[0]} can be read as {' or as '.join(whole)}; "
            f'say which with date_format="{next(iter(whole)) + clock}"'
        )
    best = max(readings.values(), key=lambda moments: int(moments.notna().sum()))
    return next(iter(whole.values()), best)


def infer_interval(instants: Instants, symbol: str) -> str:
    """The interval that the stamps show: the median gap inside a day, or "1d" where each day has one stamp.

    Raises:
        BarsError: When the median gap is no known interval, or there are too few rows to tell.
    """
    gaps_ns, days = _gaps_inside_days(instants.time_ns)
    if instants.dates_only or (len(gaps_ns) == 0 and len(days) > 1):
        return "1d"
    gap_ns = float(np.median(gaps_ns)) if len(gaps_ns) else 0.0
    for interval, length_ns in INTERVAL_NS.items():
        if gap_ns == length_ns:
            return interval
    raise BarsError(
        f"{symbol}: cannot tell the interval (median gap inside a day: {gap_ns / 60e9:g} minutes); "
        f"declare it, one of {', '.join(INTERVAL_NS)}"
    )


def check_interval(instants: Instants, interval: str, symbol: str) -> None:
    """Refuse a declared interval that the stamps contradict.

    Raises:
        BarsError: When stamps without a time of day are declared intraday, or no two stamps lie as close as declared.
    """
    if interval == "1d":
        return
    if instants.dates_only:
        raise BarsError(f"{symbol}: the stamps are dates without a time of day, the interval is declared {interval}")
    gaps_ns, _ = _gaps_inside_days(instants.time_ns)
    if len(gaps_ns) >= _GAPS_TO_JUDGE and gaps_ns.min() > INTERVAL_NS[interval]:
        minutes = gaps_ns.min() / 60e9
        raise BarsError(f"{symbol}: the interval is declared {interval}, but no two bars are closer than {minutes:g}m")


def _gaps_inside_days(time_ns: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    ordered = np.unique(time_ns)
    days = (ordered + IST_OFFSET_NS) // DAY_NS
    return np.diff(ordered)[np.diff(days) == 0], np.unique(days)


def session_windows(time_ns: npt.NDArray[np.int64], symbol: str, derivatives: bool | None) -> npt.NDArray[np.int64]:
    """Trading windows of the days that have stamps: (m, 2) int64, [start, end) in ns UTC, ascending.

    Raises:
        BarsError: Where the calendar cannot answer for a day.
    """
    days = np.unique((time_ns + IST_OFFSET_NS) // DAY_NS)
    sessions = [_session(int(day), symbol, derivatives) for day in days]
    return trading_windows(sessions)


def daily_openings(time_ns: npt.NDArray[np.int64], symbol: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Openings of the sessions on the IST dates of instants, and which dates have none.

    Returns:
        (n,) int64 ns UTC, midnight in India on a day without a session; and (n,) bool, True on such a day.

    Raises:
        BarsError: Where the calendar cannot answer for a day.
    """
    days, place = np.unique((time_ns + IST_OFFSET_NS) // DAY_NS, return_inverse=True)
    # The opening is the same for every stock of a day.
    sessions = [_session(int(day), symbol, derivatives=False) for day in days]
    midnights = days * DAY_NS - IST_OFFSET_NS
    openings = [session.open_ns if session else int(ns) for session, ns in zip(sessions, midnights, strict=True)]
    closed = np.array([session is None for session in sessions], dtype=np.bool_)
    return np.array(openings, dtype=np.int64)[place], closed[place]


def _session(day: int, symbol: str, derivatives: bool | None) -> TradingSession | None:
    try:
        return nse_calendar().session(day_date(day), derivatives=derivatives)
    except CalendarError as error:
        early = day_date(day) < nse_calendar().first_date
        hint = "; drop_outside_session: true leaves out what lies before the calendar begins" if early else ""
        raise BarsError(f"{symbol}: {error}{hint}") from error


def start_from_end(
    end_ns: npt.NDArray[np.int64], interval: str, windows: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Starts of bars that are stamped at their end: one interval earlier, and at a window's end its last bar's start.

    The last bar of a window can be shorter than the interval (60m: 15:15 to 15:30).
    """
    length_ns = INTERVAL_NS[interval]
    if not len(windows):
        return end_ns - length_ns
    last_start_ns = windows[:, 0] + (windows[:, 1] - windows[:, 0] - 1) // length_ns * length_ns
    place = np.minimum(np.searchsorted(windows[:, 1], end_ns), len(windows) - 1)
    start_ns: npt.NDArray[np.int64] = np.where(end_ns == windows[place, 1], last_start_ns[place], end_ns - length_ns)
    return start_ns
