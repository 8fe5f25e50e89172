"""Trend indicators that place the close in the range of the last bars."""

from finsense.market.timeline import CLOSE, HIGH, LOW
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import (
    AGE_CELLS,
    PATH_CELLS,
    RANGE_CELLS,
    SUM_CELLS,
    Windowed,
    distances_about,
    slide_highest_age,
    slide_lead,
    slide_path,
    slide_range,
)


@indicator(
    defaults={"window": 25},
    columns=columns_named("aroon_up", "aroon_down"),
    memory=lambda p: 2 * (AGE_CELLS + int(p["window"]) + 1),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def aroon(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Aroon (Chande 1995): how recently the window had its highest high and its lowest low.

    Formula: (window - bars since the highest high of this and the `window` bars before it) / window; down likewise
    with the lowest low. Of equal extremes the latest counts; before the window is full only the bars seen do. Unit:
    fraction in [0, 1]; both are 1 in a flat market, where every bar ties. Source: as TA-Lib AROON / 100.
    """
    window = int(parameters[0])
    low = AGE_CELLS + window + 1
    # memory: the window of highs, the window of negative lows
    out[0] = (window - slide_highest_age(memory, 0, window + 1, bar[HIGH])) / window
    out[1] = (window - slide_highest_age(memory, low, window + 1, -bar[LOW])) / window


@indicator(
    defaults={"window": 20},
    columns=columns_named("cci"),
    memory=lambda p: SUM_CELLS + PATH_CELLS + 3 * int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def cci(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Commodity channel index (Lambert 1980), over 100.

    Formula: (typical - mean) / (0.015 x mean absolute deviation) / 100, with typical = (high + low + close) / 3 and
    both means over the last `window` bars (those seen while there are fewer). Unit: 1 is the classic line of +100; 0
    when the window is flat, that is when the deviation is below 1e-12 of the price. Source: as TA-Lib CCI / 100.
    """
    window = int(parameters[0])
    typical = (bar[HIGH] + bar[LOW] + bar[CLOSE]) / 3.0
    # memory: the window of typical prices, the path of them
    lead = slide_lead(memory, 0, window, typical)
    last = slide_path(memory, SUM_CELLS + window, window, typical)
    filled = int(memory[1])
    deviation = (abs(lead) + distances_about(memory, last - filled + 1, last, typical - lead)) / filled
    out[0] = lead / (1.5 * deviation) if deviation > 1e-12 * typical else 0.0


@indicator(
    defaults={"conversion_window": 9, "base_window": 26, "span_window": 52},
    columns=columns_named("ichimoku_conv", "ichimoku_base", "ichimoku_a", "ichimoku_b"),
    memory=lambda p: 3 * RANGE_CELLS + 2 * int(p["conversion_window"] + p["base_window"] + p["span_window"]),
    lookback=Windowed(lambda p: int(max(p["conversion_window"], p["base_window"], p["span_window"]))),
)
def ichimoku(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Ichimoku (Hosoda 1968): conversion line, base line, leading spans A and B, each against the close.

    Formula: a line = (highest high + lowest low) / 2 of its window (of the bars seen while there are fewer); conv, base
    and span B have their windows, span A = (conv + base) / 2; each line / close - 1. The spans are those of this bar:
    a chart draws them base_window bars ahead. Unit: fraction of the price; 0 in a flat market. Source: as TA-Lib
    MIDPRICE per window.
    """
    close = bar[CLOSE]
    per_close = 1.0 / close
    # memory: for each of the three windows its highs and lows
    first = 0
    for line in range(3):
        window = int(parameters[line])
        highest, lowest = slide_range(memory, first, window, bar[HIGH], bar[LOW])
        first += RANGE_CELLS + 2 * window
        out[line if line < 2 else 3] = (0.5 * (highest + lowest) - close) * per_close
    out[2] = 0.5 * (out[0] + out[1])


@indicator(
    defaults={"step": 0.02, "max_step": 0.2},
    columns=columns_named("psar", "psar_direction"),
    memory=lambda p: 7,
    lookback=lambda p: 2,
)
def psar(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Parabolic stop and reverse (Wilder 1978): the stop against the close, and the side it is on.

    Formula: psar = stop / close - 1; psar_direction = 1 while the stop trails a rise, -1 a fall, after this bar. The
    stop moves by step x (extreme - stop), the step grows by `step` at each new extreme up to `max_step`, and the stop
    never enters the range of the last two bars; a bar that touches it reverses, and the stop jumps to the extreme. The
    first direction is up unless the second bar's low falls further than its high rises. Units: fraction of the price;
    sign. Both are 0 on the first bar and until a bar differs from the first; a bar without range that stands on the
    stop does not reverse. Source: as TA-Lib SAR, which reverses on every bar of a flat market.
    """
    high, low, close = bar[HIGH], bar[LOW], bar[CLOSE]
    most = parameters[1]
    start = min(parameters[0], most)
    # memory: direction, stop for this bar, extreme, step, previous high, previous low, bars seen
    previous_high, previous_low = memory[4], memory[5]
    if memory[0] == 0.0 and memory[6] > 0.0 and not (high == low == previous_high == previous_low):
        falls = previous_low - low
        down = falls > 0.0 and falls > high - previous_high
        memory[0] = -1.0 if down else 1.0
        memory[1] = previous_high if down else previous_low
        memory[2] = low if down else high
        memory[3] = start
        # The first stop is not held against the bar before it.
        previous_high, previous_low = high, low
    memory[4], memory[5], memory[6] = high, low, 1.0
    if memory[0] == 0.0:
        out[0] = 0.0
        out[1] = 0.0
        return
    # A fall is a rise of the negative prices, so one rule serves both.
    side = memory[0]
    near = low if side > 0.0 else -high
    far = high if side > 0.0 else -low
    previous_near = previous_low if side > 0.0 else -previous_high
    previous_far = previous_high if side > 0.0 else -previous_low
    stop = side * memory[1]
    extreme = side * memory[2]
    if near < stop or (near == stop and far > stop):
        stop = max(extreme, previous_far, far)
        shown = side * stop
        memory[0] = -side
        memory[2] = side * near
        memory[3] = start
        following = max(stop + start * (near - stop), previous_far, far)
    else:
        shown = side * stop
        if far > extreme:
            extreme = far
            memory[3] = min(memory[3] + start, most)
        memory[2] = side * extreme
        following = min(stop + memory[3] * (extreme - stop), previous_near, near)
    memory[1] = side * following
    out[0] = (shown - close) / close
    out[1] = memory[0]
