"""What the calendar says of a session beforehand: holidays, month ends, expiries; nothing before it was announced."""

import csv
import datetime as dt
import gzip
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.market.calendar import CalendarError, nse_calendar
from finsense.market.expiries import next_monthly_expiry, next_weekly_expiry
from finsense.market.outlook import Outlook, known_days, late_notices, outlook, read_late_notices, special_days
from finsense.market.session_context import FAR_SESSIONS, NO_EXPIRY, session_context

FIRST, LAST = dt.date(2000, 1, 1), dt.date(2026, 12, 31)


def day(text: str) -> dt.date:
    return dt.date.fromisoformat(text)


def is_session(date: dt.date) -> bool:
    special = special_days().get(date)
    return date.weekday() < 5 if special is None else special.kind != "holiday"


SESSIONS = [
    date for date in map(dt.date.fromordinal, range(FIRST.toordinal(), LAST.toordinal() + 1)) if is_session(date)
]


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        # Before the expiry of June 2023 the holiday of Wednesday was moved to Thursday, and the expiry to Wednesday.
        ("2023-06-26", (0, 10, 1, 3, 2, 2)),
        ("2023-06-27", (1, 10, 0, 2, 1, 1)),  # announced at noon of this day
        ("2023-06-28", (2, 10, 0, 1, 0, 0)),
        ("2023-06-30", (4, 0, 10, 0, 4, 19)),
        # A Saturday session held instead of Monday 22 January, both announced on the 19th.
        ("2024-01-19", (4, 10, 4, 7, 4, 4)),
        ("2024-01-20", (5, 10, 0, 6, 3, 3)),
        ("2024-01-23", (1, 0, 2, 5, 2, 2)),
        # Muhurat hours of Tuesday 21 October 2025, an expiry weekday, before the holiday of Wednesday.
        ("2025-10-20", (0, 10, 1, 8, 0, 5)),
        ("2025-10-21", (1, 10, 0, 7, 4, 4)),
        # From Thursdays to Tuesdays.
        ("2025-08-28", (3, 0, 10, 1, 0, 0)),
        ("2025-08-29", (4, 1, 10, 0, 2, 22)),
        ("2025-09-02", (1, 3, 10, 20, 0, 20)),
        # The closure of Thursday 15 January 2026, announced on Monday.
        ("2026-01-12", (0, 10, 9, 13, 1, 10)),
        ("2026-01-13", (1, 10, 1, 11, 0, 8)),
        # Both ends of the calendar, and the first contracts.
        ("2000-01-03", (0, 10, 10, 19, -1, -1)),
        ("2000-06-09", (4, 10, 10, 15, -1, -1)),
        ("2000-06-12", (0, 10, 10, 14, -1, 13)),
        ("2019-02-08", (4, 10, 10, 14, -1, 14)),
        ("2019-02-11", (0, 10, 10, 13, 3, 13)),
        ("2026-12-31", (3, 3, 10, 0, 3, 18)),
    ],
)
def test_contexts_of_real_sessions(date: str, expected: tuple[int, ...]) -> None:
    assert session_context(day(date)) == expected


@pytest.mark.parametrize(
    ("date", "expiry"),
    [
        ("2011-10-03", "2011-10-25"),  # Muhurat on Wednesday, holiday on the last Thursday
        ("2023-01-02", "2023-01-25"),  # Republic Day on the last Thursday
        ("2023-03-01", "2023-03-29"),
        ("2024-03-01", "2024-03-28"),
        ("2014-04-01", "2014-04-24"),  # the election is not announced yet
        ("2014-04-23", "2014-04-23"),
        ("2005-07-27", "2005-07-28"),
        ("2005-07-29", "2005-07-29"),  # the floods closed the exchange on the day itself
        ("2025-07-31", "2025-07-31"),
        ("2025-08-29", "2025-09-30"),
        ("2026-03-02", "2026-03-30"),  # Mahavir Jayanti on the last Tuesday; NSE revised the contracts accordingly
        ("2026-12-30", "2027-01-26"),  # no list for 2027 yet
    ],
)
def test_monthly_expiries(date: str, expiry: str) -> None:
    assert next_monthly_expiry(day(date)) == day(expiry)


@pytest.mark.parametrize(
    ("date", "expiry"),
    [
        ("2019-02-11", "2019-02-14"),
        ("2021-11-01", "2021-11-03"),  # Muhurat on Thursday
        ("2024-04-08", "2024-04-10"),  # Ramzan Id on Thursday
        ("2024-08-14", "2024-08-14"),  # Independence Day on Thursday
        ("2024-08-16", "2024-08-22"),
        ("2025-08-29", "2025-09-02"),
        ("2025-10-01", "2025-10-07"),
        ("2026-03-02", "2026-03-02"),  # Holi on Tuesday
        ("2026-03-04", "2026-03-10"),
    ],
)
def test_weekly_expiries(date: str, expiry: str) -> None:
    assert next_weekly_expiry(day(date)) == day(expiry)


def test_no_expiry_before_there_were_contracts() -> None:
    assert next_monthly_expiry(day("2000-06-09")) is None
    assert next_weekly_expiry(day("2019-02-10")) is None


def test_the_contracts_that_a_broker_listed(shared_nse: Path) -> None:
    """Every NIFTY option that Kite listed on 6 April 2024 and that the rule covers: the next weeks and months."""
    with gzip.open(shared_nse / "ref/kite/instruments_2024-04-06.csv.gz", "rt", encoding="utf-8") as file:
        texts = {row["expiry"] for row in csv.DictReader(file) if row["name"] == "NIFTY" and row["exchange"] == "NFO"}
    listed = sorted(dt.datetime.strptime(text, "%d-%m-%Y").date() for text in texts)
    weekly = [day("2024-04-05")]
    for _ in range(4):
        expiry = next_weekly_expiry(weekly[-1] + dt.timedelta(days=1))
        assert expiry is not None
        weekly.append(expiry)
    covered = [date for date in listed if weekly[0] < date < day("2025-09-01")]
    assert weekly[1:] == covered[:4]
    assert len(covered) == 10
    assert [next_monthly_expiry(date.replace(day=1)) for date in covered[4:]] == covered[4:]


@given(st.sampled_from(sorted(late_notices())))
def test_nothing_is_known_before_it_was_announced(changed: dt.date) -> None:
    """Were a closure never to come (or a holiday not moved), every earlier morning would look the same."""
    notices, specials = dict(late_notices()), dict(special_days())
    announced = notices.pop(changed).announced
    if changed in specials:
        del specials[changed]
    else:
        specials[changed] = special_days()[day("2023-12-25")]
    for known_to in (announced - dt.timedelta(days=1), announced - dt.timedelta(days=40)):
        assert known_days(specials, notices, known_to) == known_days(special_days(), late_notices(), known_to)
    assert known_days(specials, notices, announced) != known_days(special_days(), late_notices(), announced)


@given(st.sampled_from([date for date, special in special_days().items() if date.weekday() >= 5]))
def test_a_weekend_session_counts_after_it_was_held_and_muhurat_before(held: dt.date) -> None:
    in_the_list = special_days()[held].kind == "muhurat"
    assert (held.toordinal() in outlook(held - dt.timedelta(days=3)).sessions) == in_the_list
    assert (held.toordinal() in outlook(held).sessions) == in_the_list
    if held + dt.timedelta(days=1) <= LAST:
        assert held.toordinal() in outlook(held + dt.timedelta(days=1)).sessions


@given(st.integers(0, len(SESSIONS) - 1))
def test_the_past_of_an_outlook_is_what_happened(place: int) -> None:
    known = outlook(SESSIONS[place])
    past = [date.toordinal() for date in SESSIONS[:place]]
    assert list(known.sessions[: len(past)]) == past
    assert session_context(SESSIONS[place])[1] == float(slow_since(place))


def slow_since(place: int) -> int:
    """Sessions since the last holiday, counted day by day."""
    date, count = SESSIONS[place], 0
    while count < FAR_SESSIONS:
        date -= dt.timedelta(days=1)
        if date < FIRST:
            return FAR_SESSIONS
        if is_session(date):
            count += 1
        elif date.weekday() < 5:
            return count
    return count


def test_counts_run_down_by_one_unless_something_was_announced() -> None:
    """Between any two sessions; one on a weekend, which nobody planned, takes nothing off the counts."""
    for today, tomorrow in itertools.pairwise(SESSIONS):
        quiet = outlook(today) == outlook(tomorrow)
        planned = tomorrow.toordinal() in outlook(today).sessions
        for name, now, then in zip(
            ("to holiday", "month", "weekly", "monthly"),
            session_context(today)[2:],
            session_context(tomorrow)[2:],
            strict=True,
        ):
            far = name == "to holiday" and now == FAR_SESSIONS
            if quiet and now > 0 and not far:
                assert then == now - planned, (name, today)
            assert then >= (NO_EXPIRY if "ly" in name else 0)


def test_every_session_has_a_context_in_its_bounds() -> None:
    assert len(SESSIONS) > 6700
    contexts = [session_context(date) for date in SESSIONS]
    assert all(isinstance(value, float) for context in contexts for value in context)
    highest = [max(values) for values in zip(*contexts, strict=True)]
    lowest = [min(values) for values in zip(*contexts, strict=True)]
    assert lowest == [0, 0, 0, 0, NO_EXPIRY, NO_EXPIRY]
    assert highest == [6, FAR_SESSIONS, FAR_SESSIONS, 22, 4, 25]
    on_the_day = [date for date, context in zip(SESSIONS, contexts, strict=True) if context[5] == 0]
    assert len(on_the_day) == 12 * 26 + 7  # one a month, June 2000 to December 2026
    assert {date.weekday() for date in on_the_day} <= {0, 1, 2, 3, 4}


def test_every_notice_agrees_with_the_calendar() -> None:
    for date, notice in late_notices().items():
        assert is_session(date) == (notice.status == "open")
        assert notice.announced <= date
        assert date.weekday() < 5


def test_dates_outside_the_calendar_are_refused() -> None:
    for date in (FIRST - dt.timedelta(days=1), LAST + dt.timedelta(days=1)):
        with pytest.raises(CalendarError, match="expected a date from 2000-01-01 to 2026-12-31"):
            session_context(date)
    assert (nse_calendar().first_date, nse_calendar().last_date) == (FIRST, LAST)
    with pytest.raises(CalendarError, match="trading days on both sides"):
        Outlook((), (), ()).full_days_around(FIRST)


HEADER = "date,status,announced,name,source\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("2024-13-01,closed,2024-01-01,a,b", "expected dates like 2026-01-12"),
        ("2024-01-22,shut,2024-01-19,a,b", "the status closed or open"),
        ("2024-01-22,closed,2024-01-23,a,b", "announced not after its date"),
        ("2024-01-22,closed,2024-01-19,a,", "with a name and a source"),
    ],
)
def test_a_broken_notice_is_refused(row: str, message: str) -> None:
    with pytest.raises(CalendarError, match=re.escape(message)):
        read_late_notices(HEADER + row + "\n")
