"""Indicators of the market's regime; trend strength (the efficiency ratio) is in `trend`, with its sign."""

import math

from finsense.market.timeline import CLOSE
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import Parameters, indicator
from finsense.state.windows import (
    AGE_CELLS,
    PATH_CELLS,
    SQUARES_CELLS,
    SUM_CELLS,
    Windowed,
    slide_highest_age,
    slide_mean,
    slide_path,
    slide_squares,
    slide_sum,
)

# Log returns carry rounding of a few 1e-15; one paisa on the dearest share is 1e-9. Below this returns do not vary.
_NO_DEVIATION = 1e-12
# A variance below this share of the squared mean is a steady run, whose correlation would be that of the rounding.
_STEADY = 1e-8


@indicator(
    defaults={"short_window": 10, "long_window": 60},
    columns=columns_named("volatility_regime"),
    memory=lambda p: 1 + 2 * SUM_CELLS + int(p["short_window"] + p["long_window"]),
    lookback=Windowed(lambda p: int(max(p["short_window"], p["long_window"])) + 1),
)
def volatility_regime(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Short against long realised volatility of the close.

    Formula: (short - long) / (short + long), each sqrt(mean of ln(close / previous close)^2 over its last bars); the
    ratio short / long is (1 + value) / (1 - value). Unit: fraction in [-1, 1]; 0 where neither moved. Before a window
    is full the returns seen stand for it.
    """
    short, long = int(parameters[0]), int(parameters[1])
    # memory: previous close, the short and the long window of squared returns
    out[0] = 0.0
    if memory[0] > 0.0:
        change = math.log(bar[CLOSE] / memory[0])
        near = math.sqrt(max(slide_mean(memory, 1, short, change * change), 0.0))
        far = math.sqrt(max(slide_mean(memory, 1 + SUM_CELLS + short, long, change * change), 0.0))
        out[0] = (near - far) / (near + far) if near + far > _NO_DEVIATION else 0.0
    memory[0] = bar[CLOSE]


@indicator(
    defaults={"window": 30},
    columns=columns_named("autocorrelation"),
    memory=lambda p: 2 + SQUARES_CELLS + int(p["window"]) + SUM_CELLS + max(int(p["window"]) - 1, 1),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def autocorrelation(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Autocorrelation of the log returns at lag 1: above 0 moves go on, below 0 they come back.

    Formula: sum of (r[t] - m)(r[t-1] - m) / sum of (r[t] - m)^2 over the last `window` log returns of the close, m
    their mean (Box and Jenkins 1970). Unit: fraction in [-1, 1]; 0 where the returns do not vary, that is by less than
    1e-4 of their mean. Before the window is full the first close stands in for those missing.
    """
    window = int(parameters[0])
    log_close = math.log(bar[CLOSE])
    # memory: previous log close, previous return, the window of returns, the window of their products
    if memory[3] == 0.0:
        # Full from the start: the first close stands in, so the returns before it are 0.
        memory[3] = window
        memory[0] = log_close
    change = log_close - memory[0]
    lead, squares = slide_squares(memory, 2, window, change)
    products = slide_sum(memory, 2 + SQUARES_CELLS + window, max(window - 1, 1), change * memory[1])
    memory[0] = log_close
    memory[1] = change
    mean = change - lead
    oldest = memory[2 + SQUARES_CELLS + int(memory[2])]
    covariance = products + mean * (oldest + change) - (window + 1.0) * mean * mean
    varies = squares > window * max(_NO_DEVIATION * _NO_DEVIATION, _STEADY * mean * mean)
    out[0] = covariance / squares if varies else 0.0


def _variance_ratio_memory(parameters: Parameters) -> int:
    window, step = int(parameters["window"]), int(parameters["step_window"])
    return PATH_CELLS + 2 * (step + 1) + 2 * SQUARES_CELLS + window + max(window - step + 1, 1)


@indicator(
    defaults={"window": 60, "step_window": 5},
    columns=columns_named("variance_ratio"),
    memory=_variance_ratio_memory,
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def variance_ratio(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Variance ratio (Lo and MacKinlay 1988) less 1: above 0 the market trends, below 0 it reverts, 0 is a random walk.

    Formula: variance of the overlapping returns of q = step_window bars / (q x variance of the returns of one bar) - 1,
    both unbiased, over the last n = window log returns of the close with mean m: sum of (R - q m)^2 / (q (n - q + 1) (1
    - q / n)) and sum of (r - m)^2 / (n - 1). Unit: fraction from -1 up; 0 where the returns do not vary, and where the
    step is not below the window. Before the window is full the first close stands in for those missing.
    """
    window, step = int(parameters[0]), int(parameters[1])
    overlapping = max(window - step + 1, 1)
    log_close = math.log(bar[CLOSE])
    # memory: the path of log closes, the window of their differences, the window of those over the step
    first = PATH_CELLS + 2 * (step + 1)
    if memory[0] == 0.0:
        # Full from the start: the first close stands in, so the differences before it are 0.
        memory[first + 1] = window
        memory[first + SQUARES_CELLS + window + 1] = overlapping
    last = slide_path(memory, 0, step + 1, log_close)
    change, move = log_close - memory[last - 1], log_close - memory[last - step]
    lead, single = slide_squares(memory, first, window, change)
    move_lead, several = slide_squares(memory, first + SQUARES_CELLS + window, overlapping, move)
    if step >= window or single <= _NO_DEVIATION * _NO_DEVIATION * window:
        out[0] = 0.0
    else:
        drift = (move - move_lead) - step * (change - lead)
        several += overlapping * drift * drift
        unbiased = step * (window - step + 1.0) * (1.0 - step / window)
        out[0] = several / unbiased / (single / (window - 1.0)) - 1.0


@indicator(
    defaults={"window": 60},
    columns=columns_named("drawdown", "drawdown_age"),
    memory=lambda p: AGE_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def drawdown_state(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Drawdown of the close from its highest of the window, and how long ago that was.

    Formula: close / highest of the last `window` closes - 1; bars since that close (the latest of equals) / (window -
    1). Units: fraction in [-1, 0]; fraction in [0, 1]. Before the window is full the bars seen stand for it; a market
    that stands still gives 0 and 0.
    """
    window = int(parameters[0])
    close = bar[CLOSE]
    # memory: the window of closes
    age = slide_highest_age(memory, 0, window, close)
    out[0] = (close - memory[1]) / memory[1]
    out[1] = age / (window - 1) if window > 1 else 0.0
