"""Indicators of a stock beside its market: the index, the index of its sector, and India VIX."""

import math
from typing import Any

from numba.extending import register_jitable

from finsense.market.timeline import CLOSE, INDEX_CLOSE, SECTOR_CLOSE, VIX_CLOSE
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import DELAY_CELLS, SUM_CELLS, Windowed, slide_delay, slide_lead, slide_mean, slide_sum

# Log returns carry rounding of a few 1e-15; a hundredth of a point on an index of 100,000 is 1e-7. Below this they do
# not vary.
_NO_DEVIATION = 1e-12
# A round number near the long-run level of India VIX (percent a year), so that a common day reads about 0.
_USUAL_VIX = 20.0


@indicator(
    defaults={"window": 60},
    columns=columns_named("index_beta", "index_correlation"),
    memory=lambda p: 4 + 2 * int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
    needs=("index_close",),
)
def index_beta(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Beta to the index and correlation with it (Sharpe 1964), from log returns of one bar.

    Formula: with r and m the last `window` log returns of the stock's and the index's close, less their means: sum of
    r m / sum of m^2; sum of r m / sqrt(sum of r^2 x sum of m^2). Units: stock's move per move of the index; fraction in
    [-1, 1]. Where the index does not vary both are 0, and where the stock does not. Before the window is full the
    returns seen stand for it; the first two bars give 0.
    """
    window = int(parameters[0])
    # memory: returns seen, next slot of both rings, previous close and index, the rings of the stock and the index
    out[0] = 0.0
    out[1] = 0.0
    if memory[2] > 0.0:
        slot = int(memory[1])
        memory[4 + slot] = math.log(bar[CLOSE] / memory[2])
        memory[4 + window + slot] = math.log(bar[INDEX_CLOSE] / memory[3])
        memory[1] = slot + 1 if slot + 1 < window else 0
        if memory[0] < window:
            memory[0] += 1.0
        seen = int(memory[0])
        own = 0.0
        market = 0.0
        for place in range(4, 4 + seen):
            own += memory[place]
            market += memory[place + window]
        own /= seen
        market /= seen
        products = 0.0
        own_squares = 0.0
        market_squares = 0.0
        for place in range(4, 4 + seen):
            one = memory[place] - own
            other = memory[place + window] - market
            products += one * other
            own_squares += one * one
            market_squares += other * other
        least = _NO_DEVIATION * _NO_DEVIATION * seen
        if own_squares > least and market_squares > least:
            out[0] = products / market_squares
            # Rounding may carry a perfect correlation beyond one.
            out[1] = max(-1.0, min(1.0, products / math.sqrt(own_squares * market_squares)))
    memory[2] = bar[CLOSE]
    memory[3] = bar[INDEX_CLOSE]


@register_jitable
def _relative_strength(close: float, reference: float, window: int, memory: Any) -> float:
    """See `index_relative_strength`. Cells: previous close, previous reference, the windows of d and of d^2."""
    strength = 0.0
    if memory[0] > 0.0:
        lead = math.log(close / memory[0]) - math.log(reference / memory[1])
        total = slide_sum(memory, 2, window, lead)
        squares = slide_sum(memory, 2 + SUM_CELLS + window, window, lead * lead)
        if squares > _NO_DEVIATION * _NO_DEVIATION * window:
            strength = total / math.sqrt(squares)
    memory[0] = close
    memory[1] = reference
    return strength


@indicator(
    defaults={"window": 20},
    columns=columns_named("index_relative_strength"),
    memory=lambda p: 2 + 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
    needs=("index_close",),
)
def index_relative_strength(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Relative strength against the index (Levy 1967), in standard deviations: above 0 the stock has outrun it.

    Formula: sum of d / sqrt(sum of d^2) over the last `window` bars, d = log return of the close - log return of the
    index. Unit: standard deviations of a difference without direction, in [-sqrt(window), sqrt(window)]; no beta is
    taken out. 0 where stock and index move alike. Before the window is full the returns seen stand for it; the first
    bar gives 0.
    """
    out[0] = _relative_strength(bar[CLOSE], bar[INDEX_CLOSE], int(parameters[0]), memory)


@indicator(
    defaults={"window": 20},
    columns=columns_named("sector_relative_strength"),
    memory=lambda p: 2 + 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
    needs=("sector_close",),
)
def sector_relative_strength(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Relative strength against the index of the sector (Moskowitz and Grinblatt 1999 on what a sector explains).

    Formula: that of `index_relative_strength`, with the sector's close in the place of the index's. Unit and defined
    values: the same.
    """
    out[0] = _relative_strength(bar[CLOSE], bar[SECTOR_CLOSE], int(parameters[0]), memory)


@indicator(
    defaults={"window": 20},
    columns=columns_named("index_return"),
    memory=lambda p: DELAY_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
    needs=("index_close",),
)
def index_return(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Log return of the index over the window.

    Formula: ln(index[t] / index[t - window]), the index at the stock's own bars. Unit: log return of `window` bars.
    Before the window is full the first value stands in for those missing; an index that does not move gives 0.
    """
    # memory: the window of the index
    out[0] = math.log(bar[INDEX_CLOSE] / slide_delay(memory, 0, int(parameters[0]), bar[INDEX_CLOSE]))


@indicator(
    defaults={"window": 20},
    columns=columns_named("index_volatility"),
    memory=lambda p: 1 + SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"]) + 1),
    needs=("index_close",),
)
def index_volatility(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Realised volatility of the index (Andersen and Bollerslev 1998), per bar.

    Formula: sqrt(mean of m^2 over the last `window` bars), m = ln(index / previous index), as `realised_volatility` of
    the stock. Unit: log return of one bar. Before the window is full the returns seen stand for it; the first bar and
    an index that does not move give 0.
    """
    # memory: previous index, the window of squared returns
    out[0] = 0.0
    if memory[0] > 0.0:
        change = math.log(bar[INDEX_CLOSE] / memory[0])
        out[0] = math.sqrt(max(slide_mean(memory, 1, int(parameters[0]), change * change), 0.0))
    memory[0] = bar[INDEX_CLOSE]


@indicator(
    defaults={},
    columns=columns_named("vix_level"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
    needs=("vix_close",),
)
def vix_level(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Level of India VIX, the volatility that NIFTY options expect (NSE, India VIX white paper, after Whaley 2000).

    Formula: ln(VIX / 20). Unit: logarithm; 0 is a VIX of 20 % a year, 0.69 one of 40.
    """
    out[0] = math.log(bar[VIX_CLOSE] / _USUAL_VIX)


@indicator(
    defaults={"window": 20},
    columns=columns_named("vix_change"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("vix_close",),
)
def vix_change(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """India VIX against its rolling mean: above 0 fear has risen.

    Formula: ln(VIX / mean of the last `window` values, this one included). Unit: logarithm. Before the window is full
    the values seen stand for it; a VIX that does not move gives 0, as a daily one does within the day once it has stood
    for `window` bars.
    """
    # memory: the window of VIX
    lead = slide_lead(memory, 0, int(parameters[0]), bar[VIX_CLOSE])
    out[0] = -math.log1p(-lead / bar[VIX_CLOSE])
