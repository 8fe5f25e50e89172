"""Indicators of traded volume; what has no end in the textbook is a rate over a window here."""

import math

from finsense.market.timeline import CLOSE, HIGH, LOW, VOLUME
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import SUM_CELLS, Windowed, slide_mean, slide_sum

# Averages of whole shares that have faded below this came from a market that has long been silent.
_NO_VOLUME = 1e-9


@indicator(
    defaults={"window": 20},
    columns=lambda p: (f"volume_ratio_{int(p['window'])}",),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def volume_ratio(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Volume against its mean over the window, as a log ratio.

    Formula: ln((1 + volume) / (1 + mean of the last `window` volumes, this bar included)). Unit: log ratio; 0 when
    every volume is equal, also when all are zero (indices). Volumes are whole shares, so the running sum is exact.
    """
    # memory: the window of volumes
    mean = slide_mean(memory, 0, int(parameters[0]), bar[VOLUME])
    out[0] = math.log((1.0 + bar[VOLUME]) / (1.0 + mean))


@indicator(
    defaults={"window": 20},
    columns=columns_named("obv"),
    memory=lambda p: 1 + 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def obv(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """On-balance volume (Granville 1963) as a rate: its change over the window against the volume of the window.

    Formula: sum of sign(close - previous close) x volume / sum of volume, over the last `window` bars; an unchanged
    close counts 0, and so does the first bar. Unit: fraction in [-1, 1]; 0 without volume.
    """
    window = int(parameters[0])
    close, volume = bar[CLOSE], bar[VOLUME]
    rises = 1.0 if close > memory[0] else 0.0
    falls = 1.0 if close < memory[0] else 0.0
    signed = volume * (rises - falls) if memory[0] > 0.0 else 0.0
    # memory: previous close, the window of signed volume, the window of volume
    memory[0] = close
    balance = slide_sum(memory, 1, window, signed)
    total = slide_sum(memory, 1 + SUM_CELLS + window, window, volume)
    out[0] = balance / total if total > 0.0 else 0.0


@indicator(
    defaults={"window": 20},
    columns=columns_named("vpt"),
    memory=lambda p: 1 + 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def vpt(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Volume-price trend (TA-Lib PVT) as a rate: its change over the window against the volume of the window.

    Formula: sum of volume x (close / previous close - 1) / sum of volume, over the last `window` bars; the first bar
    counts 0. Unit: return of one bar, weighted by volume (fraction); 0 without volume.
    """
    window = int(parameters[0])
    close, volume = bar[CLOSE], bar[VOLUME]
    moved = volume * (close - memory[0]) / memory[0] if memory[0] > 0.0 else 0.0
    # memory: previous close, the window of volume x return, the window of volume
    memory[0] = close
    trend = slide_sum(memory, 1, window, moved)
    total = slide_sum(memory, 1 + SUM_CELLS + window, window, volume)
    out[0] = trend / total if total > 0.0 else 0.0


@indicator(
    defaults={"window": 20},
    columns=columns_named("nvi"),
    memory=lambda p: 2 + SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def nvi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Negative volume index (Dysart 1930s, Fosback 1976) as a rate: its log change over the window.

    Formula: sum of ln(close / previous close) over those of the last `window` bars whose volume is below that of the
    bar before. Unit: log return; 0 while no volume falls (also where none is published).
    """
    close, volume = bar[CLOSE], bar[VOLUME]
    counts = memory[0] > 0.0 and volume < memory[1]
    change = math.log(close / memory[0]) if counts else 0.0
    # memory: previous close, previous volume, the window of counted returns
    memory[0] = close
    memory[1] = volume
    out[0] = slide_sum(memory, 2, int(parameters[0]), change)


@indicator(
    defaults={"window": 13},
    columns=columns_named("fi"),
    memory=lambda p: 4,
    lookback=lambda p: int(p["window"]) + 1,
)
def fi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Force index (Elder 1993) against the volume: the average move of the close, weighted by volume.

    Formula: EMA((close - previous close) x volume) / (EMA(volume) x close); both averages have factor 2 / (window + 1)
    and start at the second bar. Unit: fraction of the price; 0 at the first bar and without volume.
    """
    close, volume = bar[CLOSE], bar[VOLUME]
    # memory: bars seen (up to two), previous close, average force, average volume
    force = (close - memory[1]) * volume
    if memory[0] == 1.0:
        memory[2] = force
        memory[3] = volume
    elif memory[0] == 2.0:
        factor = 2.0 / (parameters[0] + 1.0)
        memory[2] += (force - memory[2]) * factor
        memory[3] += (volume - memory[3]) * factor
    memory[0] = min(memory[0] + 1.0, 2.0)
    memory[1] = close
    out[0] = memory[2] / (memory[3] * close) if memory[3] > _NO_VOLUME else 0.0


@indicator(
    defaults={"window": 14},
    columns=columns_named("em"),
    memory=lambda p: 1 + 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def em(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Ease of movement (Arms 1970s), smoothed: how far the middle of the bar moves for the volume it takes.

    Formula: mean of e over the last `window` bars x mean of their volume / close^2, where e = (middle - previous
    middle) x (high - low) / volume, middle = (high + low) / 2. Unit: squared fraction of the price. The first bar is
    left out; a bar without volume or range counts 0. Before the window is full the bars seen stand for it.
    """
    window = int(parameters[0])
    high, low, close, volume = bar[HIGH], bar[LOW], bar[CLOSE], bar[VOLUME]
    middle = 0.5 * (high + low)
    # memory: previous middle, the window of e, the window of volume
    if memory[0] > 0.0:
        ease = (middle - memory[0]) * (high - low) / volume if volume > 0.0 else 0.0
        mean = slide_mean(memory, 1, window, ease)
        out[0] = mean * slide_mean(memory, 1 + SUM_CELLS + window, window, volume) / close / close
    else:
        out[0] = 0.0
    memory[0] = middle
