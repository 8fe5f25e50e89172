"""Indicators of the market's regime; trend strength (the efficiency ratio) is in `trend`, with its sign."""

import math

from finsense.market.timeline import CLOSE
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import SUM_CELLS, slide_mean

# Log returns carry rounding of a few 1e-15; one paisa on the dearest share is 1e-9. Below this returns do not vary.
_NO_DEVIATION = 1e-12


@indicator(
    defaults={"short_window": 10, "long_window": 60},
    columns=columns_named("volatility_regime"),
    memory=lambda p: 1 + 2 * SUM_CELLS + int(p["short_window"] + p["long_window"]),
    lookback=lambda p: int(max(p["short_window"], p["long_window"])) + 1,
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
    memory=lambda p: 3 + int(p["window"]),
    lookback=lambda p: int(p["window"]) + 1,
)
def autocorrelation(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Autocorrelation of the log returns at lag 1: above 0 moves go on, below 0 they come back.

    Formula: sum of (r[t] - m)(r[t-1] - m) / sum of (r[t] - m)^2 over the last `window` log returns of the close, m
    their mean (Box and Jenkins 1970). Unit: fraction in [-1, 1]; 0 where the returns do not vary. Before the window is
    full the first close stands in for those missing.
    """
    size = int(parameters[0]) + 1
    log_close = math.log(bar[CLOSE])
    # memory: bars seen, the oldest slot of the ring, then the ring of log closes
    if memory[0] == 0.0:
        memory[0] = 1.0
        for index in range(size):
            memory[2 + index] = log_close
    slot = int(memory[1])
    memory[2 + slot] = log_close
    slot = slot + 1 if slot + 1 < size else 0
    memory[1] = slot
    mean = (log_close - memory[2 + slot]) / parameters[0]
    products = 0.0
    squares = 0.0
    before = 0.0
    previous = memory[2 + slot]
    for _ in range(size - 1):
        slot = slot + 1 if slot + 1 < size else 0
        deviation = memory[2 + slot] - previous - mean
        previous = memory[2 + slot]
        products += deviation * before
        squares += deviation * deviation
        before = deviation
    out[0] = products / squares if squares > _NO_DEVIATION * _NO_DEVIATION * parameters[0] else 0.0


@indicator(
    defaults={"window": 60, "step_window": 5},
    columns=columns_named("variance_ratio"),
    memory=lambda p: 3 + int(p["window"]),
    lookback=lambda p: int(p["window"]) + 1,
)
def variance_ratio(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Variance ratio (Lo and MacKinlay 1988) less 1: above 0 the market trends, below 0 it reverts, 0 is a random walk.

    Formula: variance of the overlapping returns of q = step_window bars / (q x variance of the returns of one bar) - 1,
    both unbiased, over the last n = window log returns of the close with mean m: sum of (R - q m)^2 / (q (n - q + 1) (1
    - q / n)) and sum of (r - m)^2 / (n - 1). Unit: fraction from -1 up; 0 where the returns do not vary, and where the
    step is not below the window. Before the window is full the first close stands in for those missing.
    """
    window, step = int(parameters[0]), int(parameters[1])
    size = window + 1
    log_close = math.log(bar[CLOSE])
    # memory: bars seen, the oldest slot of the ring, then the ring of log closes
    if memory[0] == 0.0:
        memory[0] = 1.0
        for index in range(size):
            memory[2 + index] = log_close
    slot = int(memory[1])
    memory[2 + slot] = log_close
    slot = slot + 1 if slot + 1 < size else 0
    memory[1] = slot
    mean = (log_close - memory[2 + slot]) / window
    behind = slot
    single = 0.0
    several = 0.0
    for index in range(1, size):
        before = memory[2 + slot]
        slot = slot + 1 if slot + 1 < size else 0
        value = memory[2 + slot]
        single += (value - before - mean) * (value - before - mean)
        if index >= step:
            deviation = value - memory[2 + behind] - step * mean
            several += deviation * deviation
            behind = behind + 1 if behind + 1 < size else 0
    if step >= window or single <= _NO_DEVIATION * _NO_DEVIATION * window:
        out[0] = 0.0
    else:
        unbiased = step * (window - step + 1.0) * (1.0 - step / window)
        out[0] = several / unbiased / (single / (window - 1.0)) - 1.0


@indicator(
    defaults={"window": 60},
    columns=columns_named("drawdown", "drawdown_age"),
    memory=lambda p: 3 + int(p["window"]),
    lookback=lambda p: int(p["window"]),
)
def drawdown_state(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Drawdown of the close from its highest of the window, and how long ago that was.

    Formula: close / highest of the last `window` closes - 1; bars since that close (the latest of equals) / (window -
    1). Units: fraction in [-1, 0]; fraction in [0, 1]. Before the window is full the bars seen stand for it; a market
    that stands still gives 0 and 0.
    """
    window = int(parameters[0])
    close = bar[CLOSE]
    # memory: next slot of the ring, highest close, bars since it, then the ring of closes
    slot = int(memory[0])
    memory[3 + slot] = close
    slot = slot + 1 if slot + 1 < window else 0
    memory[0] = slot
    memory[2] += 1.0
    if close >= memory[1]:
        memory[1] = close
        memory[2] = 0.0
    elif memory[2] == window:
        # The peak has left the window, which is full: the next highest is looked for, oldest bar first.
        memory[1] = 0.0
        for age in range(window - 1, -1, -1):
            if memory[3 + slot] >= memory[1]:
                memory[1] = memory[3 + slot]
                memory[2] = age
            slot = slot + 1 if slot + 1 < window else 0
    out[0] = (close - memory[1]) / memory[1]
    out[1] = memory[2] / (window - 1) if window > 1 else 0.0
