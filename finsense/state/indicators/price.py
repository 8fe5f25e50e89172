"""Indicators of the price path itself."""

import math

from finsense.market.timeline import CLOSE, OPEN
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import Parameters, indicator
from finsense.state.windows import DELAY_CELLS, PATH_CELLS, Windowed, slide_delay, slide_path


def _differences(parameters: Parameters) -> int:
    return int(parameters["window"]) - 1


@indicator(
    defaults={"window": 20},
    columns=lambda p: tuple(f"price_change_{lag}" for lag in range(_differences(p))),
    memory=lambda p: 1 + PATH_CELLS + 2 * _differences(p),
    lookback=Windowed(lambda p: int(p["window"])),
)
def price_change(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """The window - 1 log price differences inside a window of closes, newest first.

    Formula: ln(close[t-k] / close[t-k-1]) for k = 0 .. window - 2; the lag k names the column. Unit: log return of one
    bar. Before the second bar the difference is 0.
    """
    differences = int(parameters[0]) - 1
    close = bar[CLOSE]
    # memory: previous close, the path of differences
    change = math.log(close / memory[0]) if memory[0] > 0.0 else 0.0
    last = slide_path(memory, 1, differences, change)
    memory[0] = close
    out[0] = change
    for lag in range(1, differences):
        out[lag] = memory[last - lag]


@indicator(
    defaults={"window": 5},
    columns=columns_named("log_return"),
    memory=lambda p: DELAY_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def log_return(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Log return over the window.

    Formula: ln(close[t] / close[t - window]). Unit: log return of `window` bars. Before the window is full the first
    close stands in for those missing.
    """
    # memory: the window of closes
    out[0] = math.log(bar[CLOSE] / slide_delay(memory, 0, int(parameters[0]), bar[CLOSE]))


@indicator(
    defaults={"lag_window": 5, "window": 5},
    columns=columns_named("lagged_difference"),
    memory=lambda p: PATH_CELLS + 2 * (int(p["lag_window"] + p["window"]) + 1),
    lookback=Windowed(lambda p: int(p["lag_window"] + p["window"]) + 1),
)
def lagged_difference(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Log difference of the close over a window that ended some bars ago: momentum that leaves out the latest bars.

    Formula: ln(close[t - lag_window] / close[t - lag_window - window]), as momentum without its last month (Jegadeesh
    1990); with a window of 1 it is that lag of `price_change`. Unit: log return of `window` bars. Before the window is
    full the first close stands in for those missing.
    """
    lag, window = int(parameters[0]), int(parameters[1])
    # memory: the path of closes
    last = slide_path(memory, 0, lag + window + 1, bar[CLOSE])
    out[0] = math.log(memory[last - lag] / memory[last - lag - window])


@indicator(defaults={}, columns=columns_named("gap"), memory=lambda p: 1, lookback=Windowed(lambda p: 2))
def gap(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Gap between two bars; that of the session, held all day, is `session_gap`.

    Formula: open / previous close - 1. Unit: fraction; 0 at the first bar.
    """
    # memory: previous close
    out[0] = (bar[OPEN] - memory[0]) / memory[0] if memory[0] > 0.0 else 0.0
    memory[0] = bar[CLOSE]


@indicator(
    defaults={"divisions": 10},
    columns=columns_named("round_number"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
)
def round_number(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Distance to the nearest round number, where orders cluster (Osler 2003).

    Formula: level / close - 1, level = the multiple of the step nearest to the close (halves up), step = (the greatest
    power of ten not above the close) / divisions: with 10 divisions 2437 has the step 100 and the level 2400. Unit:
    fraction of the close; 0 on a round number.
    """
    close = bar[CLOSE]
    power = 1.0
    while power * 10.0 <= close:
        power *= 10.0
    while power > close:
        power /= 10.0
    step = power / parameters[0]
    level = math.floor(close / step + 0.5) * step
    out[0] = (level - close) / close
