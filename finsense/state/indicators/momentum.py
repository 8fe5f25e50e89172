"""Momentum indicators: rates of change and differences of averages."""

from finsense.market.timeline import CLOSE, HIGH, LOW, VOLUME
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import DELAY_CELLS, SUM_CELLS, Windowed, slide_delay, slide_lead, slide_sum


@indicator(
    defaults={"window": 14},
    columns=lambda p: (f"rsi_{int(p['window'])}",),
    memory=lambda p: 3,
    lookback=lambda p: int(p["window"]) + 1,
)
def rsi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Relative strength index (Wilder 1978), centred.

    Formula: (gain - loss) / (gain + loss), where gain and loss are Wilder averages (factor 1/window, started at 0) of
    the rises and falls of the close; this is (RSI - 50) / 50. Unit: fraction in [-1, 1]; 0 until the close moves.
    """
    close = bar[CLOSE]
    # memory: previous close, average gain, average loss
    change = close - memory[0] if memory[0] > 0.0 else 0.0
    memory[0] = close
    factor = 1.0 / parameters[0]
    memory[1] += ((change if change > 0.0 else 0.0) - memory[1]) * factor
    memory[2] += ((-change if change < 0.0 else 0.0) - memory[2]) * factor
    total = memory[1] + memory[2]
    out[0] = (memory[1] - memory[2]) / total if total > 0.0 else 0.0


@indicator(
    defaults={"window": 12},
    columns=columns_named("roc"),
    memory=lambda p: DELAY_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def roc(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Rate of change of the close.

    Formula: close / close of `window` bars ago - 1; the first close stands in while there are fewer. Unit: fraction of
    the price; 0 on the first bar. Source: as TA-Lib ROCP.
    """
    # memory: the delay of closes
    earlier = slide_delay(memory, 0, int(parameters[0]), bar[CLOSE])
    out[0] = (bar[CLOSE] - earlier) / earlier


@indicator(
    defaults={"slow_window": 25, "fast_window": 13},
    columns=columns_named("tsi"),
    memory=lambda p: 6,
    lookback=lambda p: int(p["slow_window"] + p["fast_window"]),
)
def tsi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """True strength index (Blau 1991).

    Formula: EMA(EMA(change, slow), fast) / EMA(EMA(|change|, slow), fast) of the changes of the close; the EMAs have
    factor 2 / (window + 1) and start at the first change. Unit: fraction in [-1, 1]; 0 until the close moves. Source:
    as `ta` TSIIndicator / 100 (TA-Lib TSI starts its averages at means; after 15 slow windows the two are one).
    """
    close = bar[CLOSE]
    # memory: bars seen (at most 2), previous close, slow and double average of the change, the same of its size
    if memory[0] > 0.0:
        change = close - memory[1]
        if memory[0] == 1.0:
            memory[0] = 2.0
            memory[2] = change
            memory[3] = change
            memory[4] = abs(change)
            memory[5] = abs(change)
        slow = 2.0 / (parameters[0] + 1.0)
        fast = 2.0 / (parameters[1] + 1.0)
        memory[2] += (change - memory[2]) * slow
        memory[3] += (memory[2] - memory[3]) * fast
        memory[4] += (abs(change) - memory[4]) * slow
        memory[5] += (memory[4] - memory[5]) * fast
    else:
        memory[0] = 1.0
    memory[1] = close
    out[0] = memory[3] / memory[5] if memory[5] > 0.0 else 0.0


@indicator(
    defaults={"fast_window": 5, "slow_window": 34},
    columns=columns_named("ao"),
    memory=lambda p: 2 * SUM_CELLS + int(p["fast_window"] + p["slow_window"]),
    lookback=Windowed(lambda p: int(max(p["fast_window"], p["slow_window"]))),
)
def ao(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Awesome oscillator (Williams 1998), over the close.

    Formula: (SMA(median, fast) - SMA(median, slow)) / close, with median = (high + low) / 2 and means of the bars seen
    while there are fewer. Unit: fraction of the price; 0 on the first bar and when both windows are flat. Source: as
    TA-Lib AO / close.
    """
    fast = int(parameters[0])
    median = 0.5 * (bar[HIGH] + bar[LOW])
    # memory: the fast and the slow window of medians
    fast_lead = slide_lead(memory, 0, fast, median)
    slow_lead = slide_lead(memory, SUM_CELLS + fast, int(parameters[1]), median)
    out[0] = (slow_lead - fast_lead) / bar[CLOSE]


@indicator(
    defaults={"window": 10, "fast_window": 2, "slow_window": 30},
    columns=columns_named("kama"),
    memory=lambda p: 3 + DELAY_CELLS + int(p["window"]) + SUM_CELLS + int(p["window"]),
    lookback=lambda p: int(p["window"]) + 1,
)
def kama(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Kaufman's adaptive moving average (Kaufman 1995), against the close.

    Formula: average += (close - average) x (efficiency x (fast - slow) + slow)^2, with fast = 2 / (fast_window + 1),
    slow likewise, and efficiency = |change over `window` bars| / sum of the |changes of one bar|; average / close - 1.
    The average is the close until `window` changes have been seen. Unit: fraction of the price; 0 until then and in a
    flat market. A window without a change has efficiency 1, so that the average soon meets a price that stands still.
    Source: as TA-Lib KAMA.
    """
    window = int(parameters[0])
    close = bar[CLOSE]
    # memory: changes seen, previous close, average; the delay of closes; the window of the sizes of the changes
    earlier = slide_delay(memory, 3, window, close)
    efficiency = 1.0
    if memory[1] > 0.0:
        path = slide_sum(memory, 3 + DELAY_CELLS + window, window, abs(close - memory[1]))
        if memory[0] < window:
            memory[0] += 1.0
        if path > 0.0:
            efficiency = min(abs(close - earlier) / path, 1.0)
    memory[1] = close
    if memory[0] < window:
        memory[2] = close
    else:
        slow = 2.0 / (parameters[2] + 1.0)
        factor = efficiency * (2.0 / (parameters[1] + 1.0) - slow) + slow
        memory[2] += (close - memory[2]) * factor * factor
    out[0] = (memory[2] - close) / close


@indicator(
    defaults={"fast_window": 12, "slow_window": 26, "signal_window": 9},
    columns=columns_named("ppo", "ppo_signal", "ppo_hist"),
    memory=lambda p: 4,
    lookback=lambda p: int(max(p["fast_window"], p["slow_window"]) + p["signal_window"]) - 1,
)
def ppo(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Percentage price oscillator (Appel): line, signal and their difference.

    Formula: line = EMA(close, fast) / EMA(close, slow) - 1; signal = EMA(line, signal); hist = line - signal. The EMAs
    have factor 2 / (window + 1) and start at their first value. Unit: fraction; 0 in a flat market. Source: as `ta`
    PercentagePriceOscillator / 100 (TA-Lib PPO has the line, started at means; after 15 slow windows the two are one).
    """
    close = bar[CLOSE]
    # memory: bars seen, fast average, slow average, signal average
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = close
        memory[2] = close
    memory[1] += (close - memory[1]) * (2.0 / (parameters[0] + 1.0))
    memory[2] += (close - memory[2]) * (2.0 / (parameters[1] + 1.0))
    line = (memory[1] - memory[2]) / memory[2]
    memory[3] += (line - memory[3]) * (2.0 / (parameters[2] + 1.0))
    out[0] = line
    out[1] = memory[3]
    out[2] = line - memory[3]


@indicator(
    defaults={"fast_window": 12, "slow_window": 26, "signal_window": 9},
    columns=columns_named("pvo", "pvo_signal", "pvo_hist"),
    memory=lambda p: 4,
    lookback=lambda p: int(max(p["fast_window"], p["slow_window"]) + p["signal_window"]) - 1,
)
def pvo(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Percentage volume oscillator: as `ppo`, of the volume.

    Formula: line = EMA(volume, fast) / EMA(volume, slow) - 1; signal = EMA(line, signal); hist = line - signal. The
    EMAs have factor 2 / (window + 1) and start at their first value. Unit: fraction, -1 after a long silence; the line
    is 0 while nothing has ever traded (indices publish no volume). Source: as `ta` PercentageVolumeOscillator / 100
    (TA-Lib PVO has the line, started at means; after 15 slow windows the two are one).
    """
    volume = bar[VOLUME]
    # memory: bars seen, fast average, slow average, signal average
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[1] = volume
        memory[2] = volume
    memory[1] += (volume - memory[1]) * (2.0 / (parameters[0] + 1.0))
    memory[2] += (volume - memory[2]) * (2.0 / (parameters[1] + 1.0))
    line = (memory[1] - memory[2]) / memory[2] if memory[2] > 0.0 else 0.0
    memory[3] += (line - memory[3]) * (2.0 / (parameters[2] + 1.0))
    out[0] = line
    out[1] = memory[3]
    out[2] = line - memory[3]
