"""A trading session as the kernels know it: one record of numbers."""

import datetime as dt

import numpy as np

from finsense.market.bars import ist_text, session_day
from finsense.market.calendar import DAY_NS, TradingSession, nse_calendar
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument, tick_paise
from finsense.market.session_context import session_context

SESSION = np.dtype(
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
        ("open_ns", np.int64),
        ("pause_length_ns", np.int64),  # as it came, not as it was announced
        ("tick_paise", np.int64),
        ("context", np.float64, (6,)),  # as `session_context` gives it
    ]
)
# A state has no use for charges; whoever builds only states gives none, and no trade can be priced on such a timeline.
_NO_SCHEDULE = -1


class TimelineError(ValueError):
    """A bar that cannot follow the one before it, or lies outside the sessions of the exchange."""


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


def check_hours(session: TradingSession, instrument: Instrument, first_ns: int, last_ns: int) -> None:
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
) -> tuple[int | tuple[float, ...], ...]:
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
        session.open_ns,
        session.windows[-1][0] - session.windows[0][1] if len(session.windows) == 2 else 0,
        # The exchange fixes the step for a month; the close before the session stands in for that of the month before.
        tick_paise(session.date, max(previous_close_paise, 1)),
        session_context(session.date),
    )
