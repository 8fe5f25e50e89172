"""Tell what a trader knows of a session from the calendar alone: its weekday, holidays, month end and expiries."""

import datetime as dt
from functools import cache

from finsense.market.expiries import next_monthly_expiry, next_weekly_expiry
from finsense.market.outlook import outlook

# A holiday this many sessions away, or further, or not known at all (the start of the calendar) reads this many.
# More would reach into a year whose list is not out yet.
FAR_SESSIONS = 10
# Where no such contract exists yet.
NO_EXPIRY = -1.0


@cache
def session_context(date: dt.date) -> tuple[float, float, float, float, float, float]:
    """What the calendar says of a session beforehand, known on its morning (`finsense.market.outlook`).

    All distances count sessions, those of an hour among them; a holiday is a weekday without trading, so weekends are
    none and a Muhurat day is a session. From a session that nobody planned (on a weekend) the counts go on as usual.

    Args:
        date: The day of the session in India.

    Returns:
        weekday: 0 Monday to 6 Sunday.
        days_since_holiday: sessions between the last holiday and this one; 0 right after it, at most FAR_SESSIONS.
        days_to_holiday: sessions between this one and the next holiday; 0 right before it, at most FAR_SESSIONS.
        month_sessions_left: sessions of the calendar month after this one; 0 on its last.
        weekly_expiry_ahead: sessions to the next expiry of NIFTY options, weekly or monthly; 0 on the day; NO_EXPIRY
            before there were weekly ones (11 Feb 2019).
        monthly_expiry_ahead: sessions to the next monthly expiry; 0 on the day; NO_EXPIRY before 12 Jun 2000.

    Raises:
        CalendarError: the date is outside the calendar.
    """
    known = outlook(date)
    since, ahead = known.sessions_since_holiday(date), known.sessions_to_holiday(date)
    month_end = (date.replace(day=1) + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
    return (
        float(date.weekday()),
        float(FAR_SESSIONS if since is None else min(since, FAR_SESSIONS)),
        float(FAR_SESSIONS if ahead is None else min(ahead, FAR_SESSIONS)),
        float(known.sessions_between(date, month_end)),
        _sessions_ahead(date, next_weekly_expiry(date)),
        _sessions_ahead(date, next_monthly_expiry(date)),
    )


def _sessions_ahead(date: dt.date, expiry: dt.date | None) -> float:
    return NO_EXPIRY if expiry is None else float(outlook(date).sessions_between(date, expiry))
