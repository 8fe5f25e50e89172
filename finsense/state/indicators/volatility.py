"""Volatility indicators."""

import math

from finsense.market.timeline import CLOSE, HIGH, LOW
from finsense.state.registry import indicator


@indicator(
    defaults={"window": 14},
    columns=lambda p: (f"atr_{int(p['window'])}",),
    memory=lambda p: 3,
    lookback=lambda p: int(p["window"]) + 1,
)
def atr(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Average true range (Wilder 1978) over the close.

    Formula: Wilder average (factor 1/window, started at the first bar's range) of max(high, previous close) -
    min(low, previous close), divided by the close. Unit: fraction of the price.
    """
    high, low, close = bar[HIGH], bar[LOW], bar[CLOSE]
    # memory: bars seen, previous close, average
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[2] = high - low
    else:
        true_range = max(high, memory[1]) - min(low, memory[1])
        memory[2] += (true_range - memory[2]) / parameters[0]
    memory[1] = close
    out[0] = memory[2] / close


@indicator(
    defaults={"window": 20, "deviations": 2},
    columns=lambda p: (f"bollinger_position_{int(p['window'])}", f"bollinger_width_{int(p['window'])}"),
    memory=lambda p: 2 + int(p["window"]),
    lookback=lambda p: int(p["window"]),
)
def bollinger(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Bollinger bands (Bollinger 1992): where the close stands between them, and how far apart they are.

    Formula: position = (close - mean) / (deviations x std), which is 2 %b - 1; width = 2 x deviations x std / mean,
    with the population standard deviation of the last `window` closes. Units: band half-widths; fraction of the price.
    A flat window gives position 0 and width 0.
    """
    window = int(parameters[0])
    close = bar[CLOSE]
    # memory: bars seen, next slot of the ring, then the ring of closes
    slot = int(memory[1])
    memory[2 + slot] = close
    memory[1] = slot + 1 if slot + 1 < window else 0
    if memory[0] < window:
        memory[0] += 1.0
    filled = int(memory[0])

    total = 0.0
    for index in range(filled):
        total += memory[2 + index]
    mean = total / filled
    squares = 0.0
    for index in range(filled):
        deviation = memory[2 + index] - mean
        squares += deviation * deviation
    band = parameters[1] * math.sqrt(squares / filled)
    # A flat window may leave rounding dust in the sum of squares; below a billionth of the price there is no band.
    flat = band <= 1e-9 * mean
    out[0] = 0.0 if flat else (close - mean) / band
    out[1] = 0.0 if flat else 2.0 * band / mean
