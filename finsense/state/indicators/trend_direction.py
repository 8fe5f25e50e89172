"""Trend indicators of directional movement and of the trend's cycle."""

from finsense.market.timeline import CLOSE, HIGH, LOW
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import RANGE_CELLS, SUM_CELLS, Windowed, slide_range, slide_sum


@indicator(
    defaults={"window": 14},
    columns=columns_named("adx", "adx_pos", "adx_neg"),
    memory=lambda p: 9,
    lookback=lambda p: 2 * int(p["window"]),
)
def adx(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Average directional index with its two directional indicators (Wilder 1978).

    Formula: +DI = sum(+DM) / sum(TR) and -DI likewise, with +DM = rise of the high where it is positive and exceeds the
    fall of the low, -DM the reverse, TR the true range; a sum adds up its first window - 1 values and then turns into
    sum - sum / window + value. ADX = Wilder average of |+DI - -DI| / (+DI + -DI), which starts, `window` bars after the
    first bar, as the mean of its first `window` values. Unit: fraction in [0, 1]. A DI is 0 while there is no true
    range; the ADX is 0 before it starts and keeps its value over bars where both DI are 0. Source: as TA-Lib ADX,
    PLUS_DI, MINUS_DI / 100.
    """
    window = parameters[0]
    high, low, close = bar[HIGH], bar[LOW], bar[CLOSE]
    # memory: bars seen, previous high, low and close, sums of +DM, -DM and TR, values in the average, average
    if memory[0] > 0.0:
        rise = high - memory[1]
        fall = memory[2] - low
        true_range = max(high, memory[3]) - min(low, memory[3])
        if memory[0] >= window:
            fading = 1.0 / window
            memory[4] -= memory[4] * fading
            memory[5] -= memory[5] * fading
            memory[6] -= memory[6] * fading
        memory[4] += rise if rise > 0.0 and rise > fall else 0.0
        memory[5] += fall if fall > 0.0 and fall > rise else 0.0
        memory[6] += true_range
    positive = memory[4] / memory[6] if memory[6] > 0.0 else 0.0
    negative = memory[5] / memory[6] if memory[6] > 0.0 else 0.0
    if memory[0] >= window:
        both = positive + negative
        starting = memory[7] < window
        if starting:
            memory[7] += 1.0
        if starting or both > 0.0:
            strength = abs(positive - negative) / both if both > 0.0 else 0.0
            memory[8] += (strength - memory[8]) / memory[7]
    memory[0] += 1.0
    memory[1], memory[2], memory[3] = high, low, close
    out[0] = memory[8]
    out[1] = positive
    out[2] = negative


@indicator(
    defaults={"window": 14},
    columns=columns_named("vortex_ind_pos", "vortex_ind_neg"),
    memory=lambda p: 4 + 3 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def vortex(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Vortex indicator (Botes and Siepman 2010): upward and downward movement against the true range, less 1.

    Formula: pos = sum |high - previous low| / sum of true ranges - 1, neg = sum |low - previous high| / the same - 1,
    over the last `window` bars that have one before them (those seen while there are fewer). Unit: ratio above 1; 0 on
    the first bar and where no bar of the window has a true range. Source: as TA-Lib VORTEX - 1.
    """
    window = int(parameters[0])
    high, low = bar[HIGH], bar[LOW]
    cells = SUM_CELLS + window
    out[0] = 0.0
    out[1] = 0.0
    # memory: bars seen, previous high, low and close, then the windows of the two movements and of the true ranges
    if memory[0] > 0.0:
        true_range = max(high, memory[3]) - min(low, memory[3])
        upward = slide_sum(memory, 4, window, abs(high - memory[2]))
        downward = slide_sum(memory, 4 + cells, window, abs(low - memory[1]))
        ranges = slide_sum(memory, 4 + 2 * cells, window, true_range)
        if ranges > 0.0:
            per_range = 1.0 / ranges
            out[0] = (upward - ranges) * per_range
            out[1] = (downward - ranges) * per_range
    memory[0] = 1.0
    memory[1], memory[2], memory[3] = high, low, bar[CLOSE]


@indicator(
    defaults={"slow_window": 50, "fast_window": 23, "cycle_window": 10, "smooth1_window": 3, "smooth2_window": 3},
    columns=columns_named("stc"),
    memory=lambda p: 7 + 2 * (RANGE_CELLS + 2 * int(p["cycle_window"])),
    lookback=lambda p: (
        int(max(p["slow_window"], p["fast_window"]) + 2 * p["cycle_window"])
        + int(p["smooth1_window"] + p["smooth2_window"])
        - 4
    ),
)
def stc(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Schaff trend cycle (Schaff 1999): the stochastic of the stochastic of the MACD line, centred.

    Formula: line = EMA(close, fast) - EMA(close, slow); k = place of the line in its range of the last `cycle_window`
    bars, from -1 to 1; d = EMA(k, smooth1); the same again for d, smoothed with smooth2. The EMAs have factor
    2 / (window + 1); those of the close start at the first close, the others at 0. Unit: fraction in [-1, 1]; this is
    (STC - 50) / 50. Without a range (below 1e-12 of the price for the line, 1e-9 for d) the place is the one before,
    at first 0. Source: as `ta` STCIndicator after the starts have faded; TA-Lib has none.
    """
    close = bar[CLOSE]
    cycle = int(parameters[2])
    # memory: bars seen, fast and slow average, place of the line, its average, place of that, its average; then the
    # ranges of the line and of the average of its place
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = close
        memory[2] = close
    memory[1] += (close - memory[1]) * (2.0 / (parameters[1] + 1.0))
    memory[2] += (close - memory[2]) * (2.0 / (parameters[0] + 1.0))
    line = memory[1] - memory[2]
    highest, lowest = slide_range(memory, 7, cycle, line, line)
    if highest - lowest > 1e-12 * close:
        memory[3] = 2.0 * (line - lowest) / (highest - lowest) - 1.0
    memory[4] += (memory[3] - memory[4]) * (2.0 / (parameters[3] + 1.0))
    highest, lowest = slide_range(memory, 7 + RANGE_CELLS + 2 * cycle, cycle, memory[4], memory[4])
    if highest - lowest > 1e-9:
        memory[5] = 2.0 * (memory[4] - lowest) / (highest - lowest) - 1.0
    memory[6] += (memory[5] - memory[6]) * (2.0 / (parameters[4] + 1.0))
    out[0] = memory[6]
