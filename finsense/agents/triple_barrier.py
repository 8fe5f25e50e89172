"""Which of three barriers a price reaches first: a profit, a stop, or the end of the horizon."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.market.bars import Bars

_Touches = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def trailing_volatility(bars: Bars, window: int, *, own_open: bool) -> NDArray[np.float64]:
    """Standard deviation (n - 1) of the last `window` log returns up to and with each bar's close.

    A bar's return runs from the close before it to its own close. With `own_open` a session's first bar counts from
    its own open: a gap over night is no risk of an account that does not hold over night.

    Returns:
        Array (n,) float64, per bar; NaN for the first `window` bars. It depends on the bars t - window .. t alone.
    """
    before = np.append(np.nan, bars.close[:-1])
    if own_open:
        opening = bars.session_offsets[:-1]
        before[opening] = bars.open[opening]
    found = np.full(len(bars), np.nan)
    _write_deviations(np.log(bars.close / before), window, found)
    return found


@njit(cache=True)
def _write_deviations(returns: NDArray[np.float64], window: int, found: NDArray[np.float64]) -> None:
    # Each window on its own, for running sums would carry the past in their rounding.
    for bar in range(window, len(returns)):
        total = 0.0
        for place in range(bar - window + 1, bar + 1):
            total += returns[place]
        mean = total / window
        squares = 0.0
        for place in range(bar - window + 1, bar + 1):
            squares += (returns[place] - mean) ** 2
        found[bar] = np.sqrt(squares / (window - 1))


def first_touches(
    bars: Bars,
    bar: NDArray[np.int64],
    exit_bar: NDArray[np.int64],
    at_close: NDArray[np.bool_],
    barriers: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> _Touches:
    """How a purchase at the open of bar t + 1 ends (Lopez de Prado 2018, chapter 3).

    The barriers are prices: entry x (1 + profit) above, entry x (1 - stop) below. From the entry on, bar by bar:

    1. an open at or beyond a barrier (a gap) exits at that open;
    2. at the exit bar, where the exit is its open, the time is up;
    3. a low at or below the stop exits at the stop, a high at or above the profit at the profit. A bar that reaches
       both counts as the stop, for its bar does not tell which came first: the cautious answer;
    4. at the exit bar, where the exit is its close, the time is up.

    Args:
        bars: of one symbol.
        bar: (n,) int64, the rows t.
        exit_bar: (n,) int64, the bar at which the time is up, after t.
        at_close: (n,) bool, whether that is at its close (else its open).
        barriers: profit and stop, (n,) float64 each, fractions of the entry, above zero.

    Returns:
        Side, (n,) int64: 1 profit, -1 stop, 0 time; the bar of the exit, (n,) int64; its price, (n,) float64, rupees.
    """
    side, last_bar, price = np.zeros(len(bar), np.int64), exit_bar.copy(), np.empty(len(bar))
    prices = (bars.open, bars.high, bars.low, bars.close)
    _write_touches(prices, bar, at_close, barriers, side, last_bar, price)
    return side, last_bar, price


_Prices = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@njit(cache=True)
def _write_touches(
    prices: _Prices,
    bars: NDArray[np.int64],
    at_close: NDArray[np.bool_],
    barriers: tuple[NDArray[np.float64], NDArray[np.float64]],
    side: NDArray[np.int64],
    last_bar: NDArray[np.int64],
    price: NDArray[np.float64],
) -> None:
    """`last_bar` comes as the bar at which the time is up."""
    opens, highs, lows, closes = prices
    for label in range(len(bars)):
        entry_bar, exit_bar = bars[label] + 1, last_bar[label]
        upper = opens[entry_bar] * (1.0 + barriers[0][label])
        lower = opens[entry_bar] * (1.0 - barriers[1][label])
        price[label] = closes[exit_bar] if at_close[label] else opens[exit_bar]
        for bar in range(entry_bar, exit_bar + 1):
            within = bar < exit_bar or at_close[label]
            if bar > entry_bar and opens[bar] <= lower:
                side[label], price[label] = -1, opens[bar]
            elif bar > entry_bar and opens[bar] >= upper:
                side[label], price[label] = 1, opens[bar]
            elif within and lows[bar] <= lower:
                side[label], price[label] = -1, lower
            elif within and highs[bar] >= upper:
                side[label], price[label] = 1, upper
            if side[label] != 0:
                last_bar[label] = bar
                break
