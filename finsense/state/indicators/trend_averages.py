"""Trend indicators that are averages of the close, or built of averages."""

from finsense.market.timeline import CLOSE, HIGH, LOW
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import Parameters, indicator
from finsense.state.windows import (
    DELAY_CELLS,
    PATH_CELLS,
    SUM_CELLS,
    Windowed,
    slide_delay,
    slide_lead,
    slide_mean,
    slide_path,
    weighted_about,
)


@indicator(
    defaults={"window": 20},
    columns=columns_named("sma"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def sma(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Simple moving average of the close, against the close.

    Formula: mean of the last `window` closes (of those seen while there are fewer) / close - 1. Unit: fraction of the
    price; 0 on the first bar and when the window is flat. Source: as TA-Lib SMA.
    """
    # memory: the window of closes
    out[0] = -slide_lead(memory, 0, int(parameters[0]), bar[CLOSE]) / bar[CLOSE]


@indicator(
    defaults={"window": 14},
    columns=columns_named("ema"),
    memory=lambda p: 2,
    lookback=lambda p: int(p["window"]),
)
def ema(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Exponential moving average of the close, against the close.

    Formula: average += (close - average) x 2 / (window + 1), started at the first close; average / close - 1. Unit:
    fraction of the price; 0 on the first bar and in a flat market. Source: as `ta` EMAIndicator (TA-Lib starts at the
    mean of the first window; after 15 windows the two are one).
    """
    close = bar[CLOSE]
    # memory: bars seen, average
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = close
    memory[1] += (close - memory[1]) * (2.0 / (parameters[0] + 1.0))
    out[0] = (memory[1] - close) / close


@indicator(
    defaults={"window": 9},
    columns=columns_named("wma"),
    memory=lambda p: 1 + PATH_CELLS + 2 * int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def wma(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Linearly weighted moving average of the close, against the close.

    Formula: sum of weight x close / sum of weights / close - 1, the weights 1 (oldest) to `window` (newest); while
    fewer closes have been seen, the newest still weighs `window` and the missing ones nothing. Unit: fraction of the
    price; 0 on the first bar and when the window is flat. Source: as TA-Lib WMA.
    """
    window = int(parameters[0])
    close = bar[CLOSE]
    # memory: bars seen (at most window), the path of closes
    if memory[0] < window:
        memory[0] += 1.0
    before = int(memory[0]) - 1
    last = slide_path(memory, 1, window, close)
    weighted = weighted_about(memory, last - before, last, close, float(window - before))
    weights = 0.5 * (before + 1.0) * (2.0 * window - before)
    out[0] = weighted / weights / close


@indicator(
    defaults={"window": 15},
    columns=columns_named("trix"),
    memory=lambda p: 4,
    lookback=lambda p: 3 * int(p["window"]) - 1,
)
def trix(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Rate of change of the triple exponential average (Hutson 1983).

    Formula: EMA(EMA(EMA(close))) over its value one bar earlier, - 1; the averages have factor 2 / (window + 1) and
    start at the first close. Unit: fraction of the price per bar; 0 on the first bar and in a flat market. Source: as
    `ta` TRIXIndicator / 100 (TA-Lib TRIX starts its averages at means; after 15 windows the two are one).
    """
    close = bar[CLOSE]
    # memory: bars seen, single, double and triple average
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = close
        memory[2] = close
        memory[3] = close
    factor = 2.0 / (parameters[0] + 1.0)
    before = memory[3]
    memory[1] += (close - memory[1]) * factor
    memory[2] += (memory[1] - memory[2]) * factor
    memory[3] += (memory[2] - memory[3]) * factor
    out[0] = (memory[3] - before) / before


@indicator(
    defaults={"fast_window": 9, "slow_window": 25},
    columns=columns_named("mass_index"),
    memory=lambda p: 3 + SUM_CELLS + int(p["slow_window"]),
    lookback=lambda p: 2 * int(p["fast_window"]) + int(p["slow_window"]) - 2,
)
def mass_index(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Mass index (Dorsey 1992): whether the range of the bars widens.

    Formula: mean over `slow_window` bars (over those seen while there are fewer) of EMA(range) / EMA(EMA(range)), - 1,
    with range = high - low and EMAs of factor 2 / (fast_window + 1) from the first range; `ta` and TA-Lib give the sum,
    (value + 1) x slow_window. Unit: ratio above 1. A bar adds 0 while no bar has had a range.
    """
    spread = bar[HIGH] - bar[LOW]
    # memory: bars seen, single and double average of the range, then the window of their excess ratio
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = spread
        memory[2] = spread
    factor = 2.0 / (parameters[0] + 1.0)
    memory[1] += (spread - memory[1]) * factor
    memory[2] += (memory[1] - memory[2]) * factor
    excess = (memory[1] - memory[2]) / memory[2] if memory[2] > 0.0 else 0.0
    out[0] = slide_mean(memory, 3, int(parameters[1]), excess)


@indicator(
    defaults={"window": 20},
    columns=columns_named("dpo"),
    memory=lambda p: DELAY_CELLS + int(p["window"]) // 2 + 1 + SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: max(int(p["window"]), int(p["window"]) // 2 + 2)),
)
def dpo(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Detrended price oscillator: an earlier close against the average around it.

    Formula: (close of window / 2 + 1 bars ago - mean of the last `window` closes) / close; half windows are rounded
    down. Nothing is shifted back in time, so the value is known at its bar. While fewer bars have been seen the first
    close stands in for the earlier one, and the mean is of those seen. Unit: fraction of the price; 0 on the first bar
    and when the window is flat. Source: as TA-Lib DPO / close.
    """
    window = int(parameters[0])
    delay = window // 2 + 1
    close = bar[CLOSE]
    # memory: the delay of closes, the window of closes
    earlier = slide_delay(memory, 0, delay, close)
    lead = slide_lead(memory, DELAY_CELLS + delay, window, close)
    out[0] = (earlier - close + lead) / close


def _kst_memory(parameters: Parameters) -> int:
    longest = max(int(parameters[f"roc{number}_window"]) for number in (1, 2, 3, 4))
    means = sum(int(parameters[f"sma{number}_window"]) for number in (1, 2, 3, 4))
    return PATH_CELLS + 2 * (longest + 1) + 5 * SUM_CELLS + means + int(parameters["signal_window"])


def _kst_lookback(parameters: Parameters) -> int:
    legs = (int(parameters[f"roc{number}_window"] + parameters[f"sma{number}_window"]) for number in (1, 2, 3, 4))
    return max(legs) + int(parameters["signal_window"]) - 1


@indicator(
    defaults={
        "roc1_window": 10,
        "roc2_window": 15,
        "roc3_window": 20,
        "roc4_window": 30,
        "sma1_window": 10,
        "sma2_window": 10,
        "sma3_window": 10,
        "sma4_window": 15,
        "signal_window": 9,
    },
    columns=columns_named("kst", "kst_sig", "kst_diff"),
    memory=_kst_memory,
    lookback=Windowed(_kst_lookback),
)
def kst(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Know sure thing (Pring 1992): four smoothed rates of change, the longer the heavier; signal; difference.

    Formula: kst = sum over k = 1..4 of k x SMA(ROC(close, roc_k), sma_k), ROC = close / close of roc_k bars ago - 1;
    kst_sig = SMA(kst, signal); kst_diff = kst - kst_sig. While fewer bars have been seen, the first close stands in for
    the earlier one and a mean is of the values seen. Unit: sum of fractions; 0 in a flat market. Source: as `ta`
    KSTIndicator / 100 once the lookback is full; TA-Lib has none.
    """
    close = bar[CLOSE]
    # memory: the path of closes; for each of the four legs its window of rates; the window of the line
    longest = int(max(max(parameters[0], parameters[1]), max(parameters[2], parameters[3]))) + 1
    last = slide_path(memory, 0, longest, close)
    first = PATH_CELLS + 2 * longest
    line = 0.0
    for leg in range(4):
        earlier = memory[last - int(parameters[leg])]
        window = int(parameters[4 + leg])
        line += (leg + 1) * slide_mean(memory, first, window, (close - earlier) / earlier)
        first += SUM_CELLS + window
    lead = slide_lead(memory, first, int(parameters[8]), line)
    out[0] = line
    out[1] = line - lead
    out[2] = lead
