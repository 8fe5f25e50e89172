"""Where a bar stands in its session, week, month and expiry cycle, and between its circuit limits.

All but the limits are functions of the bar's row alone, known on the morning of the session (`session_context` says
from which announcements). A count of n sessions or bars is given as 1 / (1 + n): 1 now, 0.5 one away, near 0 far away.
"""

import math

from finsense.market.timeline import (
    BARS_LEFT,
    CLOSE,
    DAYS_SINCE_HOLIDAY,
    DAYS_TO_HOLIDAY,
    MINUTE,
    MONTH_SESSIONS_LEFT,
    MONTHLY_EXPIRY_AHEAD,
    PREVIOUS_CLOSE,
    PRICE_BAND,
    SESSION_OPENS,
    WEEKDAY,
    WEEKLY_EXPIRY_AHEAD,
)
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import Windowed

# Of continuous trading on an ordinary day since 18 Oct 2010, before there was a closing auction.
_REGULAR_MINUTES = 375.0


@indicator(
    defaults={},
    columns=columns_named("session_minute_sin", "session_minute_cos"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
)
def session_minute(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Minute of the session at the bar's start, as a point on half a circle: activity is U-shaped over the day.

    Formula: sin and cos of pi x m / 375, m = minutes of continuous trading since the session opened (pauses left out),
    375 = those of an ordinary day. Unit: [-1, 1]; sin is 0 at the open and the close and 1 at midday, cos falls from 1
    at the open to -1 at the close. A short session (Muhurat) runs through the morning of an ordinary one; a daily bar
    reads 0 and 1. The share of the session that is left is `session_left`. Source: Admati and Pfleiderer 1988.
    """
    angle = math.pi * bar[MINUTE] / _REGULAR_MINUTES
    out[0] = math.sin(angle)
    out[1] = math.cos(angle)


@indicator(defaults={}, columns=columns_named("bars_to_close"), memory=lambda p: 0, lookback=Windowed(lambda p: 1))
def bars_to_close(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Nearness of the end of continuous trading, by the calendar.

    Formula: 1 / (1 + n), n = whole bars of continuous trading after this one. Unit: fraction in (0, 1]; 1 at the last
    bar, and at every daily bar. In a session that a halt ended early, n counts to the close that was planned.
    """
    out[0] = 1.0 / (1.0 + bar[BARS_LEFT])


@indicator(
    defaults={}, columns=columns_named("weekday_sin", "weekday_cos"), memory=lambda p: 0, lookback=Windowed(lambda p: 1)
)
def weekday(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Day of the week as a point on a circle of five days.

    Formula: sin and cos of 2 pi x d / 5, d = 0 on Monday to 4 on Friday, so that Friday and Monday are neighbours.
    Unit: [-1, 1]; a session on a weekend is no day of the five and reads 0 and 0. Source: French 1980.
    """
    day = bar[WEEKDAY]
    angle = 2.0 * math.pi * day / 5.0
    out[0] = math.sin(angle) if day < 5.0 else 0.0
    out[1] = math.cos(angle) if day < 5.0 else 0.0


@indicator(
    defaults={},
    columns=columns_named("holiday_since", "holiday_ahead"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
)
def holiday(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Nearness of the last and of the next trading holiday.

    Formula: 1 / (1 + n), n = sessions between the holiday and this one, at most 10. A holiday is a weekday without
    trading; one that was declared late counts ahead only from the day after its announcement. Unit: fraction from 1/11
    (ten sessions or more) to 1 (the session right after, right before). Source: Ariel 1990.
    """
    out[0] = 1.0 / (1.0 + bar[DAYS_SINCE_HOLIDAY])
    out[1] = 1.0 / (1.0 + bar[DAYS_TO_HOLIDAY])


@indicator(defaults={}, columns=columns_named("month_end"), memory=lambda p: 0, lookback=Windowed(lambda p: 1))
def month_end(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Nearness of the end of the calendar month.

    Formula: 1 / (1 + n), n = planned sessions of the month after this one. Unit: fraction in (0, 1]; 1 on the month's
    last session. Source: Lakonishok and Smidt 1988.
    """
    out[0] = 1.0 / (1.0 + bar[MONTH_SESSIONS_LEFT])


@indicator(
    defaults={},
    columns=columns_named("expiry_weekly", "expiry_monthly", "expiry_weekly_day", "expiry_monthly_day"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
)
def expiry(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Nearness of the next weekly and monthly expiry of the NIFTY contracts (single stocks: the monthly one).

    Formula: 1 / (1 + n), n = planned sessions to the expiry day; the day columns are 1 on that day and 0 otherwise. The
    weekly cycle includes the monthly expiry that takes a weekly one's place. Unit: fraction in [0, 1]; 0 while there
    were no such contracts (weekly before 11 Feb 2019, monthly before 12 Jun 2000). Source: `finsense.market.expiries`.
    """
    weekly, monthly = bar[WEEKLY_EXPIRY_AHEAD], bar[MONTHLY_EXPIRY_AHEAD]
    out[0] = 1.0 / (1.0 + weekly) if weekly >= 0.0 else 0.0
    out[1] = 1.0 / (1.0 + monthly) if monthly >= 0.0 else 0.0
    out[2] = 1.0 if weekly == 0.0 else 0.0
    out[3] = 1.0 if monthly == 0.0 else 0.0


@indicator(defaults={}, columns=columns_named("band_upper", "band_lower"), memory=lambda p: 2, lookback=lambda p: 2)
def price_band(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Room to the upper and to the lower circuit limit of the session.

    Formula: (limit - close) / (limit - previous close), kept within [0, 1]; limit = previous close x (1 +- band). The
    band is the instrument's: with derivatives the 0.10 at which it starts, its widening is not followed. Unit: share of
    the band: 0 at the limit and outside, 1 at the previous close and on its other side. 1 and 1 without a band and
    until a second session opens. On the day of a split that the bars do not adjust for, one of them is 0.
    """
    # memory: whether a bar was seen, whether the session before lies inside this fold. Without it the rows of a first
    # session would depend on how much history happens to stand before them.
    if bar[SESSION_OPENS] > 0.0 and memory[0] > 0.0:
        memory[1] = 1.0
    memory[0] = 1.0
    width = bar[PREVIOUS_CLOSE] * bar[PRICE_BAND]
    out[0] = 1.0
    out[1] = 1.0
    if memory[1] > 0.0 and width > 0.0:
        move = (bar[CLOSE] - bar[PREVIOUS_CLOSE]) / width
        out[0] = min(max(1.0 - move, 0.0), 1.0)
        out[1] = min(max(1.0 + move, 0.0), 1.0)
