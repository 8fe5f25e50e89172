"""Indicators of the money that flows at a price: accumulation, money flow and volume-weighted prices.

A session begins where the share of it that is left does not fall; so every daily bar is a session of its own. In the
rows of a warm-up that begins inside a session, that session begins with the first bar of the warm-up. Not told apart
are two sessions of which the first broke off and the second has its first bar even later in its day.
"""

from finsense.market.timeline import CLOSE, HIGH, LOW, SESSION_OPENS, VOLUME
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import SUM_CELLS, Windowed, slide_sum

# Half a paisa: the smallest flow is one share at one paisa, below it there is only rounding dust.
_NO_FLOW = 0.005
# (591.85 + 591.60 + 591.65) / 3 and (591.80 + 591.60 + 591.70) / 3 are one price, but not one float64.
_SAME_PRICE = 1e-12


@indicator(defaults={}, columns=columns_named("adi"), memory=lambda p: 3, lookback=lambda p: 1)
def adi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Accumulation/distribution line (Chaikin) of the session, against the session's volume so far.

    Formula: sum of m x volume / sum of volume since the session opened, m = (2 close - high - low) / (high - low), 0
    for a bar of one price; over a window instead of the session this is `cmf`. A daily bar stands alone: m itself.
    Unit: fraction in [-1, 1]; 0 while the session has no volume.
    """
    high, low, close, volume = bar[HIGH], bar[LOW], bar[CLOSE], bar[VOLUME]
    # memory: whether a bar was seen, the session's money flow, its volume
    if bar[SESSION_OPENS] > 0.0 or memory[0] == 0.0:
        memory[1] = 0.0
        memory[2] = 0.0
    memory[0] = 1.0
    memory[1] += volume * ((close - low) - (high - close)) / (high - low) if high > low else 0.0
    memory[2] += volume
    out[0] = memory[1] / memory[2] if memory[2] > 0.0 else 0.0


@indicator(
    defaults={"window": 20},
    columns=columns_named("cmf"),
    memory=lambda p: 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"])),
)
def cmf(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Chaikin money flow: change of the accumulation/distribution line over the window against the window's volume.

    Formula: sum of m x volume / sum of volume over the last `window` bars, m = (2 close - high - low) / (high - low), 0
    for a bar of one price. Unit: fraction in [-1, 1]; 0 without volume. Before the window is full the bars seen stand
    for it.
    """
    window = int(parameters[0])
    high, low, close, volume = bar[HIGH], bar[LOW], bar[CLOSE], bar[VOLUME]
    flow = volume * ((close - low) - (high - close)) / (high - low) if high > low else 0.0
    # memory: the window of money flow, the window of volume
    balance = slide_sum(memory, 0, window, flow)
    total = slide_sum(memory, SUM_CELLS + window, window, volume)
    out[0] = balance / total if total > 0.0 else 0.0


@indicator(
    defaults={"window": 14},
    columns=columns_named("mfi"),
    memory=lambda p: 1 + 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
)
def mfi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Money flow index (Quong and Soudack 1989), centred.

    Formula: sum of f / sum of |f| over the last `window` bars, f = typical price x volume, signed as the typical price
    (high + low + close) / 3 rose or fell, 0 where it did not change (within 1e-12) and at the first bar; this is (MFI -
    50) / 50. Unit: fraction in [-1, 1]; 0 where no money flows.
    """
    window = int(parameters[0])
    typical = (bar[HIGH] + bar[LOW] + bar[CLOSE]) / 3.0
    slack = _SAME_PRICE * typical
    rises = 1.0 if typical - memory[0] > slack else 0.0
    falls = 1.0 if memory[0] - typical > slack else 0.0
    flow = typical * bar[VOLUME] * (rises - falls) if memory[0] > 0.0 else 0.0
    # memory: previous typical price, the window of signed money flow, the window of its size
    memory[0] = typical
    net = slide_sum(memory, 1, window, flow)
    gross = slide_sum(memory, 1 + SUM_CELLS + window, window, abs(flow))
    out[0] = net / gross if gross > _NO_FLOW else 0.0


@indicator(
    defaults={"window": 14},
    columns=columns_named("vwap"),
    memory=lambda p: 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"])),
)
def vwap(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Volume-weighted average price (Berkowitz 1988) of the last bars; that of the session is `session_vwap`.

    Formula: sum of typical price x volume / sum of volume over the last `window` bars, typical price = (high + low +
    close) / 3; the level / close - 1. Unit: fraction of the close; 0 without volume. Before the window is full the bars
    seen stand for it.
    """
    window = int(parameters[0])
    close, volume = bar[CLOSE], bar[VOLUME]
    typical = close + ((bar[HIGH] - close) + (bar[LOW] - close)) / 3.0
    # memory: the window of typical price x volume, the window of volume
    flow = slide_sum(memory, 0, window, typical * volume)
    total = slide_sum(memory, SUM_CELLS + window, window, volume)
    distance = flow / total - close if total > 0.0 else 0.0
    out[0] = distance / close if abs(distance) > _SAME_PRICE * close else 0.0


@indicator(defaults={}, columns=columns_named("session_vwap"), memory=lambda p: 4, lookback=lambda p: 1)
def session_vwap(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Volume-weighted average price since the session opened.

    Formula: sum of typical price x volume / sum of volume over the bars of the session, typical price = (high + low +
    close) / 3; the level / close - 1. A daily bar stands alone: its typical price. Unit: fraction of the close; 0 while
    the session has no volume.
    """
    close, volume = bar[CLOSE], bar[VOLUME]
    # memory: whether a bar was seen, its first close, its flow against that close, its volume
    if bar[SESSION_OPENS] > 0.0 or memory[0] == 0.0:
        memory[1] = close
        memory[2] = 0.0
        memory[3] = 0.0
    memory[0] = 1.0
    # Differences to the session's first close: exact where the session is flat.
    memory[2] += volume * ((bar[HIGH] - memory[1]) + (bar[LOW] - memory[1]) + (close - memory[1])) / 3.0
    memory[3] += volume
    out[0] = (memory[1] - close + memory[2] / memory[3]) / close if memory[3] > 0.0 else 0.0
