"""Volatility indicators; all are fractions of the price per bar, so TA-Lib's NATR is `atr` itself (times 100)."""

import math

from finsense.market.timeline import CLOSE, HIGH, LOW, OPEN
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import (
    AGE_CELLS,
    SQUARES_CELLS,
    SUM_CELLS,
    Windowed,
    slide_highest_age,
    slide_mean,
    slide_squares,
)

_LN_2 = math.log(2.0)


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
        memory[2] += (true_range - memory[2]) * (1.0 / parameters[0])
    memory[1] = close
    out[0] = memory[2] / close


@indicator(
    defaults={"window": 20, "deviations": 2},
    columns=lambda p: (f"bollinger_position_{int(p['window'])}", f"bollinger_width_{int(p['window'])}"),
    memory=lambda p: SQUARES_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def bollinger(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Bollinger bands (Bollinger 1992): where the close stands between them, and how far apart they are.

    Formula: position = (close - mean) / (deviations x std), which is 2 %b - 1; width = 2 x deviations x std / mean,
    with the population standard deviation of the last `window` closes. Units: band half-widths; fraction of the price.
    A flat window gives position 0 and width 0.
    """
    close = bar[CLOSE]
    # memory: the window of closes
    lead, squares = slide_squares(memory, 0, int(parameters[0]), close)
    mean = close - lead
    band = parameters[1] * math.sqrt(squares / memory[1])
    # A flat window may leave rounding dust in the sum of squares; below a billionth of the price there is no band.
    flat = band <= 1e-9 * mean
    out[0] = 0.0 if flat else lead / band
    out[1] = 0.0 if flat else 2.0 * band / mean


@indicator(
    defaults={"window": 14},
    columns=columns_named("ui"),
    memory=lambda p: AGE_CELLS + SUM_CELLS + 2 * int(p["window"]),
    lookback=Windowed(lambda p: 2 * int(p["window"]) - 1),
)
def ui(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Ulcer index (Martin 1987): depth and length of the drawdowns of the close.

    Formula: sqrt(mean of d^2 over the last `window` bars), d = close / (highest close of its own last `window`) - 1.
    Unit: fraction of the peak (the usual index divided by 100). Before the window is full the bars seen stand for it; a
    market that only rises or stands still gives 0.
    """
    window = int(parameters[0])
    # memory: the window of closes, the window of squares of d
    slide_highest_age(memory, 0, window, bar[CLOSE])
    peak = memory[1]
    depth = (bar[CLOSE] - peak) / peak
    out[0] = math.sqrt(max(slide_mean(memory, AGE_CELLS + window, window, depth * depth), 0.0))


@indicator(
    defaults={"window": 20},
    columns=columns_named("realised_volatility"),
    memory=lambda p: 1 + SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def realised_volatility(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Realised volatility (Andersen and Bollerslev 1998) of the close, per bar.

    Formula: sqrt(mean of r^2 over the last `window` bars), r = ln(close / previous close); the mean return is taken as
    0, and nothing is annualised. Unit: log return of one bar. Before the window is full the returns seen stand for it;
    the first bar and a market that stands still give 0.
    """
    # memory: previous close, the window of squared returns
    if memory[0] > 0.0:
        change = math.log(bar[CLOSE] / memory[0])
        out[0] = math.sqrt(max(slide_mean(memory, 1, int(parameters[0]), change * change), 0.0))
    else:
        out[0] = 0.0
    memory[0] = bar[CLOSE]


@indicator(
    defaults={"window": 20},
    columns=columns_named("parkinson"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def parkinson(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Parkinson's volatility (Parkinson 1980) from the range inside each bar; gaps between bars are not in it.

    Formula: sqrt(mean of ln(high / low)^2 over the last `window` bars / (4 ln 2)). Unit: log return of one bar. Before
    the window is full the bars seen stand for it; bars of one price (also locked ones) give 0.
    """
    spread = math.log(bar[HIGH] / bar[LOW])
    # memory: the window of squared ranges
    variance = slide_mean(memory, 0, int(parameters[0]), spread * spread) / (4.0 * _LN_2)
    out[0] = math.sqrt(max(variance, 0.0))


@indicator(
    defaults={"window": 20},
    columns=columns_named("garman_klass"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def garman_klass(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Garman and Klass's volatility (1980, their practical estimator) from range and body of each bar, without gaps.

    Formula: sqrt(mean over the last `window` bars of ln(high / low)^2 / 2 - (2 ln 2 - 1) ln(close / open)^2). Unit: log
    return of one bar. Before the window is full the bars seen stand for it; bars of one price give 0.
    """
    spread = math.log(bar[HIGH] / bar[LOW])
    body = math.log(bar[CLOSE] / bar[OPEN])
    # memory: the window of the bars' variances; a body lies inside its range, so none is below 0
    variance = 0.5 * spread * spread - (2.0 * _LN_2 - 1.0) * body * body
    out[0] = math.sqrt(max(slide_mean(memory, 0, int(parameters[0]), variance), 0.0))
