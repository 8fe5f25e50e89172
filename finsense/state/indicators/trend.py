"""Trend indicators."""

import math

from finsense.market.timeline import CLOSE
from finsense.state.registry import Parameters, indicator
from finsense.state.windows import PATH_CELLS, SUM_CELLS, Windowed, slide_path, slide_sum, weighted_about


def _macd_columns(parameters: Parameters) -> tuple[str, ...]:
    fast, slow, signal = (int(parameters[key]) for key in ("fast_window", "slow_window", "signal_window"))
    return tuple(f"{name}_{fast}_{slow}_{signal}" for name in ("macd", "macd_signal", "macd_diff"))


@indicator(
    defaults={"fast_window": 12, "slow_window": 26, "signal_window": 9},
    columns=_macd_columns,
    memory=lambda p: 4,
    lookback=lambda p: int(max(p["fast_window"], p["slow_window"]) + p["signal_window"]) - 1,
)
def macd(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Moving average convergence divergence (Appel 1979): line, signal and their difference, over the close.

    Formula: line = EMA(close, fast) - EMA(close, slow); signal = EMA(line, signal); each divided by the close. The EMAs
    have factor 2 / (window + 1) and start at the first value. Unit: fraction of the price.
    """
    close = bar[CLOSE]
    # memory: bars seen, fast average, slow average, signal average
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = close
        memory[2] = close
    memory[1] += (close - memory[1]) * (2.0 / (parameters[0] + 1.0))
    memory[2] += (close - memory[2]) * (2.0 / (parameters[1] + 1.0))
    line = memory[1] - memory[2]
    memory[3] += (line - memory[3]) * (2.0 / (parameters[2] + 1.0))
    per_close = 1.0 / close
    out[0] = line * per_close
    out[1] = memory[3] * per_close
    out[2] = (line - memory[3]) * per_close


@indicator(
    defaults={"window": 20},
    columns=lambda p: (f"trend_slope_{int(p['window'])}", f"trend_efficiency_{int(p['window'])}"),
    memory=lambda p: PATH_CELLS + SUM_CELLS + 3 * int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def trend(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Slope and efficiency of the log close over the window.

    Formula: slope = least-squares slope of ln(close) over the last `window` closes, times window - 1 (the move of the
    fitted line over the window); efficiency = (last - first) / sum of the absolute differences inside the window
    (Kaufman's ratio with its sign). Units: log return; fraction in [-1, 1]. Before the window is full the first close
    stands in for those missing; a flat window gives 0.
    """
    window = int(parameters[0])
    log_close = math.log(bar[CLOSE])
    # memory: the path of log closes, the window of the sizes of their differences
    last = slide_path(memory, 0, window, log_close)
    first = last - window + 1
    size = abs(log_close - memory[last - 1])
    path = slide_sum(memory, PATH_CELLS + 2 * window, max(window - 1, 1), size)
    product = weighted_about(memory, first, last, log_close, -0.5 * (window - 1))
    squares = window * (window * window - 1.0) / 12.0
    out[0] = product / squares * (window - 1) if squares > 0.0 else 0.0
    out[1] = (log_close - memory[first]) / path if path > 0.0 else 0.0
