"""Momentum indicators that place the close, or another indicator, between the extremes of a window."""

from finsense.market.timeline import CLOSE, HIGH, LOW
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import Parameters, indicator
from finsense.state.windows import (
    PATH_CELLS,
    RANGE_CELLS,
    SUM_CELLS,
    Windowed,
    exchange,
    slide_mean,
    slide_path,
    slide_range,
)


@indicator(
    defaults={"window": 14, "signal_window": 3},
    columns=columns_named("stoch", "stoch_signal"),
    memory=lambda p: RANGE_CELLS + 2 * int(p["window"]) + SUM_CELLS + int(p["signal_window"]),
    lookback=Windowed(lambda p: int(p["window"] + p["signal_window"]) - 1),
)
def stoch(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Stochastic oscillator (Lane 1957), centred, and its signal.

    Formula: stoch = 2 x (close - lowest low) / (highest high - lowest low) - 1 over the last `window` bars (those seen
    while there are fewer); stoch_signal = mean of its last `signal_window` values. Unit: fraction in [-1, 1]; these are
    (%K - 50) / 50 and (%D - 50) / 50. 0 where the window has no range. Source: as TA-Lib STOCHF.
    """
    window = int(parameters[0])
    cells = RANGE_CELLS + 2 * window
    # memory: the window of highs and lows, of stoch
    highest, lowest = slide_range(memory, 0, window, bar[HIGH], bar[LOW])
    place = 2.0 * (bar[CLOSE] - lowest) / (highest - lowest) - 1.0 if highest > lowest else 0.0
    out[0] = place
    out[1] = slide_mean(memory, cells, int(parameters[1]), place)


@indicator(
    defaults={"window": 14},
    columns=columns_named("wr"),
    memory=lambda p: RANGE_CELLS + 2 * int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def wr(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Williams %R (Williams 1973), centred.

    Formula: 1 - 2 x (highest high - close) / (highest high - lowest low) over the last `window` bars (those seen while
    there are fewer). Unit: fraction in [-1, 1]; this is (%R + 50) / 50, and equals `stoch` of the same window. 0 where
    the window has no range. Source: as TA-Lib WILLR.
    """
    window = int(parameters[0])
    # memory: the window of highs and lows
    highest, lowest = slide_range(memory, 0, window, bar[HIGH], bar[LOW])
    out[0] = 1.0 - 2.0 * (highest - bar[CLOSE]) / (highest - lowest) if highest > lowest else 0.0


def _longest(parameters: Parameters) -> int:
    return int(max(parameters["short_window"], parameters["middle_window"], parameters["long_window"]))


def _stoch_rsi_memory(parameters: Parameters) -> int:
    windows = 2 * parameters["window"] + parameters["k_window"] + parameters["d_window"]
    return 3 + RANGE_CELLS + 2 * SUM_CELLS + int(windows)


@indicator(
    defaults={"window": 14, "k_window": 3, "d_window": 3},
    columns=columns_named("stoch_rsi", "stoch_rsi_k", "stoch_rsi_d"),
    memory=_stoch_rsi_memory,
    lookback=lambda p: int(2 * p["window"] + p["k_window"] + p["d_window"]) - 2,
)
def stoch_rsi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Stochastic of the relative strength index (Chande and Kroll 1994), centred, with two smoothings.

    Formula: stoch_rsi = 2 x (rsi - lowest) / (highest - lowest) - 1 over the last `window` values of the RSI of the
    same window (as the indicator `rsi`); stoch_rsi_k = mean of its last `k_window` values, stoch_rsi_d = mean of the
    last `d_window` values of that (of those seen while there are fewer). Unit: fraction in [-1, 1]; `ta` gives
    (value + 1) / 2. 0 where the RSI has moved less than 1e-9 over the window. Source: as TA-Lib STOCHRSI once the start
    of the RSI has faded.
    """
    window = int(parameters[0])
    cells = RANGE_CELLS + 2 * window
    close = bar[CLOSE]
    # memory: previous close, average gain, average loss; the range of the RSI, the windows of stoch_rsi, of k
    change = close - memory[0] if memory[0] > 0.0 else 0.0
    memory[0] = close
    factor = 1.0 / parameters[0]
    memory[1] += ((change if change > 0.0 else 0.0) - memory[1]) * factor
    memory[2] += ((-change if change < 0.0 else 0.0) - memory[2]) * factor
    total = memory[1] + memory[2]
    strength = (memory[1] - memory[2]) / total if total > 0.0 else 0.0
    highest, lowest = slide_range(memory, 3, window, strength, strength)
    spread = highest - lowest
    place = 2.0 * (strength - lowest) / spread - 1.0 if spread > 1e-9 else 0.0
    first = 3 + cells
    smooth = slide_mean(memory, first, int(parameters[1]), place)
    out[0] = place
    out[1] = smooth
    out[2] = slide_mean(memory, first + SUM_CELLS + int(parameters[1]), int(parameters[2]), smooth)


@indicator(
    defaults={"short_window": 7, "middle_window": 14, "long_window": 28},
    columns=columns_named("uo"),
    memory=lambda p: 14 + 2 * (PATH_CELLS + 2 * (_longest(p) + 1)),
    lookback=Windowed(lambda p: _longest(p) + 1),
)
def uo(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Ultimate oscillator (Williams 1985), centred.

    Formula: (4 x short + 2 x middle + long) / 7, each 2 x sum of buying pressure / sum of true ranges - 1 over its
    window of bars that have one before them (those seen while there are fewer); buying pressure = close - true low.
    Unit: fraction in [-1, 1]; this is (UO - 50) / 50. A window without true range counts 0 (TA-Lib: -1). Source: as
    TA-Lib ULTOSC.
    """
    close = bar[CLOSE]
    previous = memory[1]
    true_low = min(bar[LOW], previous)
    true_range = max(bar[HIGH], previous) - true_low
    total = 0.0
    # memory: bars seen, previous close; for each of the three windows the sums of its buying pressures and true ranges
    # (two cells each); the path of buying pressures, the path of true ranges
    longest = int(max(parameters[0], max(parameters[1], parameters[2])))
    cells = PATH_CELLS + 2 * (longest + 1)
    if memory[0] == 0.0:
        slide_path(memory, 14, longest + 1, 0.0)
        slide_path(memory, 14 + cells, longest + 1, 0.0)
    else:
        pressure = close - true_low
        last = slide_path(memory, 14, longest + 1, pressure)
        last_range = slide_path(memory, 14 + cells, longest + 1, true_range)
        weight = 4.0
        for span in range(3):
            window = int(parameters[span])
            bought = exchange(memory, 2 + 4 * span, pressure, memory[last - window])
            ranges = exchange(memory, 4 + 4 * span, true_range, memory[last_range - window])
            if ranges > 0.0:
                total += weight * (2.0 * bought / ranges - 1.0)
            weight *= 0.5
    memory[0] = 1.0
    memory[1] = close
    out[0] = total / 7.0
