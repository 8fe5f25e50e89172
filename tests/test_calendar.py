"""The calendar agrees with the days and minutes on which NSE really traded, and refuses what it cannot know."""

import csv
import datetime as dt
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from finsense.cli.calendar import calendar as calendar_command
from finsense.market.calendar import (
    CLOSING_AUCTION_FROM,
    DAY_NS,
    IST,
    MINUTE_NS,
    Calendar,
    CalendarError,
    SpecialDay,
    TradingSession,
    UnknownDerivativesError,
    nse_calendar,
    parse_windows,
    read_special_days,
    session_date,
)

MUHURAT_2026 = dt.date(2026, 11, 8)
MINUTE_WINDOWS_OF_2009_05_18 = ["09:55-09:56", "11:55-11:56"]


def clock(session: TradingSession | None) -> list[str]:
    assert session is not None
    stamps = [[dt.datetime.fromtimestamp(ns // 10**9, IST) for ns in window] for window in session.windows]
    assert all(stamp.date() == session.date for window in stamps for stamp in window)
    return [f"{start:%H:%M}-{end:%H:%M}" for start, end in stamps]


def on(text: str, derivatives: bool | None = None) -> TradingSession | None:
    return nse_calendar().session(dt.date.fromisoformat(text), derivatives=derivatives)


def session_dates(first: dt.date, last: dt.date) -> set[dt.date]:
    return {session.date for session in nse_calendar().sessions(first, last, derivatives=False)}


def bar_dates(path: Path) -> set[dt.date]:
    stamps = pd.to_datetime(pd.read_parquet(path, columns=["ts"])["ts"])
    return set(stamps.dt.date)


# --- against the market ---------------------------------------------------------------------------------------------


def test_sessions_are_exactly_the_days_with_trades_2000_to_2018(shared_nse: Path) -> None:
    traded = bar_dates(shared_nse / "daily/nse_daily_unadjusted.parquet")
    assert len(traded) == 4729
    assert session_dates(dt.date(2000, 1, 1), dt.date(2018, 12, 31)) == traded


@pytest.mark.parametrize(
    "file",
    [
        "daily/zerodha_daily_adjusted.parquet",
        "daily/dhan_daily_2023.parquet",
        "intraday/nse_5min.parquet",
        "intraday/index_1min_2021.parquet",
        "intraday/yf_RELIANCE_5min_2025-01.parquet",
    ],
)
def test_sessions_are_exactly_the_days_with_bars(shared_nse: Path, file: str) -> None:
    traded = bar_dates(shared_nse / file)
    assert session_dates(min(traded), max(traded)) == traded


def test_days_of_the_index_lack_one_session(shared_nse: Path) -> None:
    frame = pd.read_parquet(shared_nse / "daily/index_daily.parquet", columns=["ts", "symbol"])
    traded = set(pd.to_datetime(frame[frame["symbol"] == "NIFTY 50"]["ts"]).dt.date)
    traded = {day for day in traded if day.year >= 2000}
    # The index provider has no row for this Saturday; all ten stocks traded.
    assert session_dates(dt.date(2000, 1, 1), dt.date(2018, 12, 31)) ^ traded == {dt.date(2012, 4, 28)}


def bars_outside(path: Path, bar_ns: int) -> list[str]:
    """List the starts of bars that do not lie wholly in a window of their session."""
    stamps = pd.read_parquet(path, columns=["ts"])["ts"].drop_duplicates()
    start_ns = stamps.dt.as_unit("ns").astype("int64").to_numpy()
    inside = np.zeros(len(start_ns), dtype=bool)
    days = sorted(set(stamps.dt.date))
    for session in nse_calendar().sessions(days[0], days[-1], derivatives=True):
        for begin_ns, end_ns in session.windows:
            inside |= (start_ns >= begin_ns) & (start_ns + bar_ns <= end_ns)
    return [str(stamp) for stamp in stamps[~inside]]


def test_every_five_minute_bar_lies_in_a_window(shared_nse: Path) -> None:
    assert bars_outside(shared_nse / "intraday/nse_5min.parquet", 5 * MINUTE_NS) == []


def test_every_minute_from_ticks_lies_in_a_window(shared_nse: Path) -> None:
    assert bars_outside(shared_nse / "ticks/bars_1min_from_ticks.parquet", MINUTE_NS) == []


def test_every_index_minute_of_2021_lies_in_a_window(shared_nse: Path) -> None:
    assert bars_outside(shared_nse / "intraday/index_1min_2021.parquet", MINUTE_NS) == []


def test_election_day_2009_traded_in_two_single_minutes(shared_nse: Path) -> None:
    stamps = pd.read_parquet(shared_nse / "intraday/index_1min_2009.parquet", columns=["ts"])["ts"]
    day = stamps[stamps.dt.date == dt.date(2009, 5, 18)]
    assert list(day.dt.strftime("%H:%M")) == ["09:55", "11:55"]
    assert clock(on("2009-05-18")) == MINUTE_WINDOWS_OF_2009_05_18


def test_minutes_of_2009_open_at_0955(shared_nse: Path) -> None:
    stamps = pd.read_parquet(shared_nse / "intraday/index_1min_2009.parquet", columns=["ts"])["ts"]
    assert stamps.dt.strftime("%H:%M").min() == "09:55"
    assert clock(on("2009-01-02")) == ["09:55-15:30"]


def test_agreement_with_the_collected_exceptions_2015_to_2026(shared_nse: Path) -> None:
    known = nse_calendar()
    with (shared_nse / "ref/nse_calendar_exceptions.csv").open(encoding="utf-8") as file:
        rows = [(dt.date.fromisoformat(row["date"]), row["status"], row["kind"]) for row in csv.DictReader(file)]
    assert len(rows) == 188
    exceptional = {day for day, _, _ in rows}
    for day, status, kind in rows:
        session = known.session(day, derivatives=False)
        if status == "holiday":
            assert session is None
            assert known.closed_reason(day) not in ("", "weekend")
        else:
            assert session is not None
            assert (session.kind == "muhurat") == (kind == "muhurat")
    ordinals = range(dt.date(2015, 1, 1).toordinal(), known.last_date.toordinal() + 1)
    for day in set(map(dt.date.fromordinal, ordinals)) - exceptional - {MUHURAT_2026}:
        assert (known.session(day, derivatives=False) is not None) == (day.weekday() < 5)


# --- facts ----------------------------------------------------------------------------------------------------------


def test_sessions_per_year() -> None:
    known = nse_calendar()
    found = known.sessions(dt.date(2015, 1, 1), MUHURAT_2026 - dt.timedelta(1), derivatives=False)
    found += known.sessions(MUHURAT_2026 + dt.timedelta(1), known.last_date, derivatives=False)
    counts = Counter(session.date.year for session in found)
    counts[2026] += 1  # the Muhurat session whose hour is not announced
    assert [counts[year] for year in range(2015, 2027)] == [
        248, 247, 248, 246, 245, 252, 248, 248, 246, 249, 249, 247,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("date", "kind", "windows"),
    [
        ("2000-01-03", "regular", ["09:55-15:30"]),
        ("2009-12-31", "regular", ["09:55-15:30"]),
        ("2010-01-04", "regular", ["09:00-15:30"]),
        ("2010-10-15", "regular", ["09:00-15:30"]),
        ("2010-10-18", "regular", ["09:15-15:30"]),
        ("2026-07-31", "regular", ["09:15-15:30"]),
        ("2010-02-06", "weekend", ["11:00-12:30"]),
        ("2012-03-03", "weekend", ["11:15-12:45"]),
        ("2014-03-22", "weekend", ["11:15-12:45"]),
        ("2015-02-28", "weekend", ["09:15-15:30"]),
        ("2024-01-20", "weekend", ["09:15-15:30"]),
        ("2026-02-01", "weekend", ["09:15-15:30"]),
        ("2012-11-13", "muhurat", ["15:45-17:00"]),
        ("2016-10-30", "muhurat", ["18:30-19:30"]),
        ("2019-10-27", "muhurat", ["18:15-19:15"]),
        ("2021-11-04", "muhurat", ["18:15-19:15"]),
        ("2023-11-12", "muhurat", ["18:15-19:15"]),
        ("2024-11-01", "muhurat", ["18:00-19:00"]),
        ("2025-10-21", "muhurat", ["13:45-14:45"]),
        ("2024-03-02", "split", ["09:15-10:00", "11:30-12:30"]),
        ("2024-05-18", "split", ["09:15-10:00", "11:30-12:30"]),
        ("2021-02-24", "outage", ["09:15-11:40", "15:45-17:00"]),
        ("2009-05-18", "outage", MINUTE_WINDOWS_OF_2009_05_18),
    ],
)
def test_hours(date: str, kind: str, windows: list[str]) -> None:
    for derivatives in (None, False, True):
        session = on(date, derivatives)
        assert session is not None
        assert (session.kind, clock(session), session.closing_auction) == (kind, windows, False)
        assert (session.name == "") == (kind == "regular")
        assert (session.open_ns, session.close_ns) == (session.windows[0][0], session.windows[-1][1])


@pytest.mark.parametrize(
    ("date", "reason"),
    [
        ("2000-01-01", "weekend"),
        ("2005-07-28", "Mumbai floods"),
        ("2013-11-15", "Muharram"),
        ("2021-05-01", "weekend"),
        ("2024-01-22", "Ram Mandir Inauguration Day"),
        ("2026-01-15", "Municipal Corporation Election - Maharashtra"),
        ("2026-12-25", "Christmas"),
    ],
)
def test_closed_days_say_why(date: str, reason: str) -> None:
    assert on(date) is None
    assert nse_calendar().closed_reason(dt.date.fromisoformat(date)) == reason


def test_closing_auction_depends_on_the_stock_since_3_august_2026() -> None:
    assert dt.date(2026, 8, 3) == CLOSING_AUCTION_FROM
    with_derivatives, without = on("2026-08-03", True), on("2026-08-03", False)
    assert with_derivatives is not None
    assert without is not None
    assert (clock(with_derivatives), with_derivatives.closing_auction) == (["09:15-15:15"], True)
    assert (clock(without), without.closing_auction) == (["09:15-15:30"], False)
    assert (with_derivatives.close_ns - with_derivatives.open_ns) // (5 * MINUTE_NS) == 72
    with pytest.raises(UnknownDerivativesError, match="state derivatives as true or false"):
        on("2026-08-03")
    assert on("2026-08-02") is None, "a closed day needs no class of stock"


def test_unannounced_muhurat_hour_is_refused_not_invented() -> None:
    with pytest.raises(CalendarError, match=r"hours of the muhurat session on 2026-11-08 .* not known"):
        nse_calendar().session(MUHURAT_2026, derivatives=True)
    with pytest.raises(CalendarError, match="2026-11-08"):
        nse_calendar().sessions(dt.date(2026, 11, 2), dt.date(2026, 11, 13), derivatives=True)


@pytest.mark.parametrize("date", [dt.date(1999, 12, 31), dt.date(2027, 1, 1)])
def test_dates_without_a_known_holiday_list_are_refused(date: dt.date) -> None:
    known = nse_calendar()
    assert (known.first_date, known.last_date) == (dt.date(2000, 1, 1), dt.date(2026, 12, 31))
    with pytest.raises(CalendarError, match="expected a date from 2000-01-01 to 2026-12-31"):
        known.session(date, derivatives=False)
    with pytest.raises(CalendarError, match="last known holiday list"):
        known.closed_reason(date)


def test_misuse_is_refused() -> None:
    known = nse_calendar()
    with pytest.raises(CalendarError, match="found the instant"):
        known.session(dt.datetime(2024, 1, 1, 10, tzinfo=IST), derivatives=False)
    with pytest.raises(CalendarError, match="swap them"):
        known.sessions(dt.date(2024, 1, 2), dt.date(2024, 1, 1), derivatives=False)
    for open_date in (dt.date(2024, 3, 2), dt.date(2024, 3, 4)):
        with pytest.raises(CalendarError, match="has a session"):
            known.closed_reason(open_date)


def test_a_session_is_built_once() -> None:
    day = dt.date(2024, 3, 4)
    assert nse_calendar() is nse_calendar()
    assert nse_calendar().session(day, derivatives=True) is nse_calendar().session(day, derivatives=True)


# --- laws -----------------------------------------------------------------------------------------------------------


@given(st.dates(dt.date(2000, 1, 1), dt.date(2026, 12, 31)).filter(lambda day: day != MUHURAT_2026), st.booleans())
def test_every_known_date_trades_inside_its_own_day_or_says_why_not(date: dt.date, derivatives: bool) -> None:
    known = nse_calendar()
    session = known.session(date, derivatives=derivatives)
    if session is None:
        assert known.closed_reason(date)
        return
    edges = [edge for window in session.windows for edge in window]
    assert edges == sorted(set(edges))
    assert {session_date(edge) for edge in edges} == {date}
    assert all(edge % MINUTE_NS == 0 for edge in edges)
    assert known.sessions(date, date, derivatives=derivatives) == [session]


@given(st.datetimes(dt.datetime(1960, 1, 1), dt.datetime(2100, 1, 1), timezones=st.just(IST)))
def test_session_date_is_the_date_on_the_indian_clock(instant: dt.datetime) -> None:
    time_ns = round((instant - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) / dt.timedelta(microseconds=1)) * 1000
    assert session_date(time_ns) == instant.date()
    assert session_date(time_ns + DAY_NS) == instant.date() + dt.timedelta(1)


# --- the file -------------------------------------------------------------------------------------------------------

HEADER = "date,kind,windows,name,source\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("day,kind\n", "expected the columns"),
        (HEADER + "26 Jan,holiday,,Republic Day,s\n", "expected dates like"),
        (HEADER + "2026-01-26,holiday,,A,s\n2026-01-26,holiday,,A,s\n", "out of order or twice"),
        (HEADER + "2026-01-26,holiday,,,s\n", "expected a name and a source"),
        (HEADER + "2026-01-26,holiday,09:15-15:30,A,s\n", "without hours"),
        (HEADER + "2026-01-25,holiday,,A,s\n", "on a weekday"),
        (HEADER + "2026-01-26,party,regular,A,s\n", "one of"),
        (HEADER + "2026-01-26,split,10:00-09:15,A,s\n", "rising windows"),
        (HEADER + "2026-01-26,split,,A,s\n", "expected windows like"),
    ],
)
def test_a_broken_calendar_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(CalendarError, match=message):
        read_special_days(text)


@pytest.mark.parametrize("text", ["09:15", "9-10", "09:15-10:00;09:30-11:00", "09:15-10:00-11:00;12:00", "24:00-25:00"])
def test_malformed_windows_are_refused(text: str) -> None:
    with pytest.raises(CalendarError, match="windows like"):
        parse_windows(text)


def test_a_calendar_of_ones_own() -> None:
    day = dt.date(2024, 3, 5)
    own = Calendar({day: SpecialDay("split", "10:00-11:00", "Test", "none")}, day, day)
    assert clock(own.session(day, derivatives=None)) == ["10:00-11:00"]
    with pytest.raises(CalendarError, match="from 2024-03-05 to 2024-03-05"):
        own.session(dt.date(2024, 3, 6), derivatives=None)


# --- the command ----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(calendar_command)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["2026-08-03", "--symbol", "RELIANCE"],
            {"session": True, "kind": "regular", "name": "", "windows": [["09:15", "15:15"]], "closing_auction": True},
        ),
        (
            ["2026-08-03", "--no-derivatives"],
            {"session": True, "kind": "regular", "name": "", "windows": [["09:15", "15:30"]], "closing_auction": False},
        ),
        (
            ["2026-08-03", "--symbol", "RELIANCE", "--no-derivatives"],
            {"session": True, "kind": "regular", "name": "", "windows": [["09:15", "15:30"]], "closing_auction": False},
        ),
        (
            ["2024-01-26", "--symbol", "NOSUCH"],
            {"session": False, "kind": "holiday", "name": "Republic Day", "windows": [], "closing_auction": False},
        ),
        (
            ["2024-03-03"],
            {"session": False, "kind": "weekend", "name": "", "windows": [], "closing_auction": False},
        ),
    ],
)
def test_json_answer(arguments: list[str], expected: dict) -> None:
    result = command(*arguments, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"date": arguments[0], **expected}
    assert result.stderr == ""


def test_screen_answer_and_help() -> None:
    result = command("2024-03-02")
    assert result.exit_code == 0
    for part in ("2024-03-02", "split", "09:15-10:00, 11:30-12:30", "disaster-recovery"):
        assert part in result.stdout
    assert "Example: finsense calendar 2026-08-03" in command("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["3 Aug"], 2, "expected a date like 2026-08-03, found '3 Aug'"),
        (["2024-02-30"], 2, "expected a date like"),
        (["2026-08-03"], 2, "--derivatives or --no-derivatives"),
        (["2026-08-03", "--symbol", "NOSUCH"], 2, "--derivatives or --no-derivatives"),
        (["2024-01-01", "--symbol", ""], 2, "expected a trading symbol"),
        (["1999-12-31"], 4, "expected a date from 2000-01-01 to 2026-12-31"),
        (["2027-01-01", "--json"], 4, "found 2027-01-01"),
        (["2026-11-08", "--json"], 4, "not known"),
    ],
)
def test_refusals_go_to_stderr_with_the_exit_code(arguments: list[str], exit_code: int, message: str) -> None:
    result = command(*arguments)
    assert result.exit_code == exit_code
    assert result.stderr.startswith("error[calendar]: ")
    assert message in result.stderr
    assert result.stdout == ""
