"""Tell on which days NSE was expected to trade, as it was known on the morning of a given day.

The calendar says what happened. A feature that counts sessions ahead must not: a closure for an election or a storm is
in the calendar on every earlier date, but nobody knew it then. Three rules, each on the side of knowing too little:

- The holidays and Muhurat hours of the annual list are known always. NSE publishes the list in November or December of
  the year before (for 2011 on 22 Nov 2010, for 2024 and 2026 on 12 Dec), before any of our counts reaches into it.
- A change of the list is known from the day after its circular (data/nse_late_notices.csv): closures that came, and
  holidays of the list that were moved. Where the day of the circular was not found it is the last one that is possible.
- A live session on a weekend (Budget, disaster-recovery drill) is known from the day after it was held. Its circular
  came weeks before, but not for all of them is the day known, and no count ahead is off by more than one session.

Before 2018 the names of holidays come from the festival calendar; all but those of the notices are taken as listed.
After the last known list (2026) every weekday counts as a trading day.
"""

import csv
import datetime as dt
import io
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import NamedTuple

from finsense.market.calendar import CalendarError, SpecialDay, nse_calendar, read_special_days

# From the last day of the calendar the next monthly expiry is less than two months away.
_DAYS_BEYOND = 62


class Notice(NamedTuple):
    """A change of the annual holiday list: "closed" or "open", the day of its announcement, its reason and source."""

    status: str
    announced: dt.date
    name: str
    source: str


@dataclass(frozen=True)
class Outlook:
    """The trading days of the exchange as they were known on one morning.

    Attributes:
        sessions: days with trading, rising ordinals (`date.toordinal`): past ones as they came, later ones as planned.
        holidays: weekdays without any trading, rising ordinals.
        full_days: the sessions that are weekdays and not Muhurat: those on which contracts can expire.
    """

    sessions: tuple[int, ...]
    holidays: tuple[int, ...]
    full_days: tuple[int, ...]

    def sessions_between(self, first: dt.date, last: dt.date) -> int:
        """How many sessions come after `first`, up to and with `last`."""
        return bisect_right(self.sessions, last.toordinal()) - bisect_right(self.sessions, first.toordinal())

    def sessions_since_holiday(self, date: dt.date) -> int | None:
        """How many sessions lie between the last holiday before a date and the date; None: no holiday is known."""
        place = bisect_left(self.holidays, date.toordinal())
        if place == 0:
            return None
        return bisect_left(self.sessions, date.toordinal()) - bisect_right(self.sessions, self.holidays[place - 1])

    def sessions_to_holiday(self, date: dt.date) -> int | None:
        """How many sessions lie between a date and the next holiday after it; None: no holiday is known."""
        place = bisect_right(self.holidays, date.toordinal())
        if place == len(self.holidays):
            return None
        return bisect_left(self.sessions, self.holidays[place]) - bisect_right(self.sessions, date.toordinal())

    def full_days_around(self, date: dt.date) -> tuple[dt.date, dt.date]:
        """The last full trading day up to a date and the first from it on: the date itself twice where it is one.

        Raises:
            CalendarError: there is none on one side.
        """
        before, after = (
            bisect_right(self.full_days, date.toordinal()) - 1,
            bisect_left(self.full_days, date.toordinal()),
        )
        if before < 0 or after == len(self.full_days):
            raise CalendarError(f"expected trading days on both sides of {date}, found one side only")
        return dt.date.fromordinal(self.full_days[before]), dt.date.fromordinal(self.full_days[after])


def outlook(date: dt.date) -> Outlook:
    """What was known on the morning of a date: all that had been announced before it.

    Raises:
        CalendarError: the date is outside the calendar.
    """
    calendar = nse_calendar()
    if not calendar.first_date <= date <= calendar.last_date:
        raise CalendarError(
            f"expected a date from {calendar.first_date} to {calendar.last_date}, found {date}: "
            "use dates inside, or a finsense version with a newer calendar"
        )
    news = _news_days()
    place = bisect_left(news, date)
    return _outlook(news[place - 1] if place else calendar.first_date)


def known_days(
    special_days: Mapping[dt.date, SpecialDay], notices: Mapping[dt.date, Notice], known_to: dt.date
) -> Outlook:
    """The trading days as known in the evening of a day.

    Args:
        special_days: what the days came to be.
        notices: the changes of the annual lists.
        known_to: the last day whose announcements count.
    """
    kinds = {day: special.kind for day, special in special_days.items() if day.weekday() < 5 or day <= known_to}
    kinds.update((day, special.kind) for day, special in special_days.items() if special.kind == "muhurat")
    for day, notice in notices.items():
        closed = (notice.status == "closed") == (notice.announced <= known_to)
        kinds[day] = "holiday" if closed else "regular"
    calendar = nse_calendar()
    sessions, holidays, full_days = [], [], []
    for ordinal in range(calendar.first_date.toordinal(), calendar.last_date.toordinal() + _DAYS_BEYOND):
        day = dt.date.fromordinal(ordinal)
        kind = kinds.get(day)
        if kind == "holiday":
            holidays.append(ordinal)
        elif kind is not None or day.weekday() < 5:
            sessions.append(ordinal)
            if day.weekday() < 5 and kind != "muhurat":
                full_days.append(ordinal)
    return Outlook(tuple(sessions), tuple(holidays), tuple(full_days))


@cache
def late_notices() -> dict[dt.date, Notice]:
    """The changes of NSE's annual holiday lists, by the date that they concern."""
    return read_late_notices(_data_file("nse_late_notices.csv"))


def read_late_notices(text: str) -> dict[dt.date, Notice]:
    """Read the file of changes (CSV with the columns date, status, announced, name, source).

    Raises:
        CalendarError: On the first row that breaks the format.
    """
    notices: dict[dt.date, Notice] = {}
    for row in csv.DictReader(io.StringIO(text)):
        try:
            day, announced = dt.date.fromisoformat(row["date"]), dt.date.fromisoformat(row["announced"])
        except ValueError as error:
            raise CalendarError(f"expected dates like 2026-01-12 in the file of notices, found {row}") from error
        if row["status"] not in ("closed", "open") or announced > day or not (row["name"] and row["source"]):
            raise CalendarError(
                "expected a notice with the status closed or open, announced not after its date, with a name and a "
                f"source, found {row}"
            )
        notices[day] = Notice(row["status"], announced, row["name"], row["source"])
    return notices


@cache
def special_days() -> dict[dt.date, SpecialDay]:
    """The special days of NSE's calendar."""
    return read_special_days(_data_file("nse_sessions.csv"))


@cache
def _news_days() -> list[dt.date]:
    """The days after which more is known, rising."""
    held = {day for day in special_days() if day.weekday() >= 5}
    return sorted(held | {notice.announced for notice in late_notices().values()})


@cache
def _outlook(known_to: dt.date) -> Outlook:
    return known_days(special_days(), late_notices(), known_to)


def _data_file(name: str) -> str:
    return resources.files("finsense.market.data").joinpath(name).read_text(encoding="utf-8")
