"""Indicators of the session's clock."""

from finsense.market.timeline import SESSION_LEFT
from finsense.state.registry import indicator
from finsense.state.windows import Windowed


@indicator(defaults={}, columns=lambda p: ("session_left",), memory=lambda p: 0, lookback=Windowed(lambda p: 1))
def session_left(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Share of the session's continuous trading that is left at the bar's end, by the calendar.

    Unit: fraction from 1 (the open) to 0 (the last bar of the session, and every daily bar).
    """
    out[0] = bar[SESSION_LEFT]
