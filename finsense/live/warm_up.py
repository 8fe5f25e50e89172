"""Which session a state is for, and which ones before it hold the bars that it must have folded."""

import datetime as dt

from finsense.live.bar_grid import next_session
from finsense.market.bars import INTERVAL_NS
from finsense.market.calendar import CalendarError, TradingSession, nse_calendar, session_date

# The calendar is walked back so far at most.
_LONGEST_DAYS = 3000


def sessions_before(date: dt.date, interval: str, bars: int, derivatives: bool | None) -> list[TradingSession]:
    """The last sessions before a day that together have at least so many bars, oldest first.

    Args:
        date: the day, which is not among them.
        interval: a key of `bars.INTERVAL_NS`.
        bars: how many; one more session is given where a share may not have traded at every bar.
        derivatives: whether the share has derivatives; None takes what is known.

    Raises:
        CalendarError: the span leaves the known calendar.
    """
    found: list[TradingSession] = []
    for days in range(1, _LONGEST_DAYS):
        session = nse_calendar().session(date - dt.timedelta(days), derivatives=derivatives)
        if session is not None:
            found.append(session)
            if bars <= 0:
                break
            step = INTERVAL_NS[interval]
            bars -= 1 if interval == "1d" else sum(len(range(*window, step)) for window in session.windows)
    return found[::-1]


def session_ahead(now_ns: int, derivatives: bool | None) -> TradingSession:
    """The session in progress, or the next one.

    Raises:
        CalendarError: the known calendar ends before it.
    """
    today = session_date(now_ns)
    found = next_session(today - dt.timedelta(1), derivatives=derivatives)
    if found is not None and found.close_ns <= now_ns:
        found = next_session(today, derivatives=derivatives)
    if found is None:
        raise CalendarError(f"the known calendar has no session after {today}; update finsense")
    return found
