"""Bands and channels around the price: their levels against the close, their width, and where the close stands."""

import math

from finsense.market.timeline import CLOSE, HIGH, LOW
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import RANGE_CELLS, SQUARES_CELLS, Windowed, slide_range, slide_squares

# A range below a billionth of the price is rounding dust: there is no band.
_NO_BAND = 1e-9
# In a long halt range and distance both fade, each at its own rate: their ratio means nothing any more.
_POSITION_LIMIT = 10.0


@indicator(
    defaults={"window": 20, "deviations": 2},
    columns=columns_named("bb_high", "bb_low", "bb_mid"),
    memory=lambda p: SQUARES_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def bb(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Bollinger bands (Bollinger 1992) as levels; their width and the close's place (%b) are `bollinger`.

    Formula: mid = mean of the last `window` closes; high and low = mid +- deviations x std (of the population); each
    level / close - 1. Unit: fraction of the close. Before the window is full the bars seen stand for it; a flat window
    gives 0.
    """
    close = bar[CLOSE]
    # memory: the window of closes
    lead, squares = slide_squares(memory, 0, int(parameters[0]), close)
    band = parameters[1] * math.sqrt(squares / memory[1])
    per_close = 1.0 / close
    out[0] = (band - lead) * per_close
    out[1] = (-band - lead) * per_close
    out[2] = -lead * per_close


@indicator(
    defaults={"window": 20, "atr_window": 10, "multiplier": 2},
    columns=columns_named("kc_high", "kc_low", "kc_mid", "kc_width", "kc_position"),
    memory=lambda p: 4,
    lookback=lambda p: int(max(p["window"], p["atr_window"] + 1)),
)
def kc(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Keltner channel in Raschke's form (about 1990): an exponential average with bands of average true ranges.

    Formula: mid = EMA of (high + low + close) / 3, factor 2 / (window + 1), started at the first bar; band = multiplier
    x Wilder average (factor 1/atr_window, started at the first bar's range) of the true range; high and low = mid +-
    band, each level / close - 1; width = 2 x band / mid; position = (close - mid) / band, kept within +-10. Units:
    fraction of the close (levels) and of mid (width); band half-widths. Where the range has faded (a halt) width and
    position are 0.
    """
    high, low, close = bar[HIGH], bar[LOW], bar[CLOSE]
    typical = (high + low + close) / 3.0
    # memory: bars seen, previous close, average typical price, average true range
    if memory[0] == 0.0:
        memory[0] = 1.0
        memory[2] = typical
        memory[3] = high - low
    else:
        memory[2] += (typical - memory[2]) * (2.0 / (parameters[0] + 1.0))
        memory[3] += (max(high, memory[1]) - min(low, memory[1]) - memory[3]) * (1.0 / parameters[1])
    memory[1] = close
    distance = memory[2] - close
    band = parameters[2] * memory[3]
    per_close = 1.0 / close
    out[0] = (distance + band) * per_close
    out[1] = (distance - band) * per_close
    out[2] = distance * per_close
    flat = band <= _NO_BAND * memory[2]
    out[3] = 0.0 if flat else 2.0 * band / memory[2]
    out[4] = 0.0 if flat else min(max(-distance / band, -_POSITION_LIMIT), _POSITION_LIMIT)


@indicator(
    defaults={"window": 20},
    columns=columns_named("dc_high", "dc_low", "dc_mid", "dc_width", "dc_position"),
    memory=lambda p: RANGE_CELLS + 2 * int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
)
def dc(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Donchian channel (Donchian 1960): the highest high and the lowest low of the window, this bar included.

    Formula: high, low, mid = their mean, each level / close - 1; width = (high - low) / mid; position = 2 x (close -
    low) / (high - low) - 1. Units: fraction of the close (levels) and of mid (width); fraction in [-1, 1]. Before the
    window is full the bars seen stand for it; a channel of one price gives 0 everywhere.
    """
    close = bar[CLOSE]
    # memory: the window of highs and lows
    high, low = slide_range(memory, 0, int(parameters[0]), bar[HIGH], bar[LOW])
    middle = 0.5 * (high + low)
    per_close = 1.0 / close
    out[0] = (high - close) * per_close
    out[1] = (low - close) * per_close
    out[2] = (middle - close) * per_close
    out[3] = (high - low) / middle
    out[4] = 2.0 * (close - low) / (high - low) - 1.0 if high > low else 0.0
