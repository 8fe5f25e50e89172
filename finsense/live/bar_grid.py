"""Where bars belong in the exchange's day: when one is over, and how many lie between two."""

import datetime as dt

from finsense.market.bars import INTERVAL_NS
from finsense.market.calendar import DAY_NS, CalendarError, TradingSession, nse_calendar, session_date

# A session follows within so many days, the longest holidays included.
_LONGEST_PAUSE_DAYS = 15
# The exchange's clock may be behind ours: an order that comes before its opening is refused.
_OPENING_NS = 1_000_000_000


def next_session(after: dt.date, *, derivatives: bool | None) -> TradingSession | None:
    """The first session after a date; None where the calendar ends before it.

    A session whose hours are not announced is passed over.
    """
    for days in range(1, _LONGEST_PAUSE_DAYS):
        try:
            session = nse_calendar().session(after + dt.timedelta(days), derivatives=derivatives)
        except CalendarError:
            continue
        if session is not None:
            return session
    return None


def trades_at(now_ns: int) -> bool:
    """Whether shares are in continuous trading at an instant, ns UTC; where the calendar does not know, they may be."""
    try:
        session = nse_calendar().session(session_date(now_ns), derivatives=False)
    except CalendarError:
        return True
    windows = () if session is None else session.windows
    return any(open_ns + _OPENING_NS <= now_ns < close_ns for open_ns, close_ns in windows)


def bar_end_ns(time_ns: int, interval: str, *, derivatives: bool | None) -> int:
    """When a bar is over, ns UTC; the last one of a window may be shorter than the others, a daily one ends with it.

    Args:
        time_ns: start of the bar, ns UTC.
        interval: of it.
        derivatives: whether its stock has derivatives, which decides its hours.
    """
    session = nse_calendar().session(session_date(time_ns), derivatives=derivatives)
    if session is None:
        return time_ns + INTERVAL_NS[interval]
    if INTERVAL_NS[interval] >= DAY_NS:
        return session.close_ns
    ends = [close_ns for _, close_ns in session.windows if time_ns < close_ns]
    return min([time_ns + INTERVAL_NS[interval], *ends])


def acted_on_ns(time_ns: int, interval: str, *, derivatives: bool | None) -> int:
    """When what a bar decides should reach the exchange, ns UTC: at its end, or after a daily bar at the next opening.

    Arguments as in `bar_end_ns`.
    """
    end_ns = bar_end_ns(time_ns, interval, derivatives=derivatives)
    if INTERVAL_NS[interval] < DAY_NS:
        return end_ns
    session = next_session(session_date(time_ns), derivatives=derivatives)
    return session.open_ns if session is not None else end_ns


def bars_between(first_ns: int, last_ns: int, interval: str, *, derivatives: bool | None) -> int:
    """How many bars of the exchange's continuous trading begin between two starts, both excluded.

    Raises:
        CalendarError: the calendar does not know a day between them.
    """
    dates = (session_date(first_ns), session_date(last_ns))
    sessions = nse_calendar().sessions(*dates, derivatives=derivatives)
    if INTERVAL_NS[interval] >= DAY_NS:
        return sum(first_ns < session.open_ns < last_ns for session in sessions)
    step = INTERVAL_NS[interval]
    windows = [window for session in sessions for window in session.windows]
    return sum(first_ns < start < last_ns for window in windows for start in range(*window, step))
