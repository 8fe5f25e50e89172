"""Levels of the trading session that traders watch: its open, high, low, opening gap, and the close before it.

A session begins with the bar that opens it (`SESSION_OPENS`); every daily bar is a session of its own. In the rows of a
warm-up that begins inside a session, that session begins with the first bar of the warm-up.
"""

from finsense.market.timeline import CLOSE, HIGH, LOW, OPEN, SESSION_OPENS
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator


@indicator(defaults={}, columns=columns_named("session_gap"), memory=lambda p: 3, lookback=lambda p: 2)
def session_gap(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Opening gap of the session, held until the next one opens.

    Formula: open of the session's first bar / close of the session before - 1. Unit: fraction; 0 until a second session
    opens.
    """
    # memory: whether a bar was seen, last close, gap
    if bar[SESSION_OPENS] > 0.0 and memory[0] > 0.0:
        memory[2] = (bar[OPEN] - memory[1]) / memory[1]
    memory[0] = 1.0
    memory[1] = bar[CLOSE]
    out[0] = memory[2]


@indicator(defaults={}, columns=columns_named("session_open"), memory=lambda p: 2, lookback=lambda p: 1)
def session_open(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Distance to the session's open.

    Formula: open of the session's first bar / close - 1. Unit: fraction of the close.
    """
    # memory: whether a bar was seen, the session's open
    if bar[SESSION_OPENS] > 0.0 or memory[0] == 0.0:
        memory[1] = bar[OPEN]
    memory[0] = 1.0
    out[0] = (memory[1] - bar[CLOSE]) / bar[CLOSE]


@indicator(defaults={}, columns=columns_named("session_previous_close"), memory=lambda p: 3, lookback=lambda p: 2)
def session_previous_close(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Distance to the close of the session before.

    Formula: last close of the session before / close - 1. Unit: fraction of the close; 0 until a second session opens.
    """
    close = bar[CLOSE]
    # memory: whether a bar was seen, last close, close of the session before
    if bar[SESSION_OPENS] > 0.0 or memory[0] == 0.0:
        memory[2] = memory[1]
    memory[0] = 1.0
    memory[1] = close
    out[0] = (memory[2] - close) / close if memory[2] > 0.0 else 0.0


@indicator(
    defaults={},
    columns=columns_named("session_high", "session_low", "session_position"),
    memory=lambda p: 3,
    lookback=lambda p: 1,
)
def session_range(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Range of the session so far, and where the close stands in it.

    Formula: highest high and lowest low since the session opened, each level / close - 1; position = 2 x (close - low)
    / (high - low) - 1. Units: fraction of the close; fraction in [-1, 1], 0 while the session has one price (also
    locked).
    """
    close = bar[CLOSE]
    # memory: whether a bar was seen, the session's high, its low
    if bar[SESSION_OPENS] > 0.0 or memory[0] == 0.0:
        memory[1] = bar[HIGH]
        memory[2] = bar[LOW]
    memory[0] = 1.0
    memory[1] = max(memory[1], bar[HIGH])
    memory[2] = min(memory[2], bar[LOW])
    width = memory[1] - memory[2]
    per_close = 1.0 / close
    out[0] = (memory[1] - close) * per_close
    out[1] = (memory[2] - close) * per_close
    out[2] = 2.0 * (close - memory[2]) / width - 1.0 if width > 0.0 else 0.0
