"""The compiled paths of simulated markets: volatility over time, log prices, and the bars around them."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@njit(cache=True)
def session_shape(offsets: Integers, amplitude: float, power: int) -> Floats:
    """A U over each session, 1 + amplitude (2p-1)^2 at place p in (0, 1), scaled to a mean `power`-th power of one."""
    shape = np.empty(offsets[-1])
    for session in range(len(offsets) - 1):
        first, count = offsets[session], offsets[session + 1] - offsets[session]
        total = 0.0
        for bar in range(count):
            shape[first + bar] = 1 + amplitude * ((2 * bar + 1) / count - 1) ** 2
            total += shape[first + bar] ** power
        mean = (total / count) ** (1 / power)
        for bar in range(count):
            shape[first + bar] /= mean
    return shape


@njit(cache=True)
def clustering(noise: Floats, reaction: float, memory: float) -> Floats:
    """Root of the GARCH(1,1) variance h of mean one, h' = (1-a-b) + a h e^2 + b h, h = 1 first (Bollerslev 1986)."""
    factor = np.empty(len(noise))
    variance = 1.0
    for bar in range(len(noise)):
        factor[bar] = math.sqrt(variance)
        variance = 1 - reaction - memory + reaction * variance * noise[bar] ** 2 + memory * variance
    return factor


@njit(cache=True)
def reverting_path(noise: Floats, scale: Floats, gap: Floats, reversion: float, shock: float) -> tuple[Floats, Floats]:
    """Path (3, n): log price before the open noise, at the close, volatility of the bar; and the deviation x (n,)."""
    path = np.empty((3, len(noise)))
    deviation = 0.0
    for bar in range(len(noise)):
        path[0, bar] = deviation + gap[bar]
        path[2, bar] = shock * scale[bar]
        deviation = reversion * path[0, bar] + path[2, bar] * noise[bar]
        path[1, bar] = deviation
    return path, path[1].copy()


@njit(cache=True)
def switching_path(
    noise: Floats, scale: Floats, gap: Floats, uniform: Floats, regimes: Floats
) -> tuple[Floats, Floats]:
    """Path as `reverting_path` for a Markov chain of random walks; and the regime's index (n,).

    `regimes` (k, 3) holds drift, volatility, persistence; `uniform` (n,) in [0, 1) decides the chain before each bar.
    """
    path = np.empty((3, len(noise)))
    regime_of_bar = np.empty(len(noise))
    log_price, regime, others = 0.0, 0, len(regimes) - 1
    for bar in range(len(noise)):
        persistence = regimes[regime, 2]
        if bar > 0 and others > 0 and uniform[bar] >= persistence:
            # What the uniform exceeds the persistence by is uniform again and picks one of the others.
            chosen = min(int((uniform[bar] - persistence) / (1 - persistence) * others), others - 1)
            regime = chosen if chosen < regime else chosen + 1
        regime_of_bar[bar] = regime
        path[0, bar] = log_price + gap[bar]
        path[2, bar] = regimes[regime, 1] * scale[bar]
        log_price = path[0, bar] + regimes[regime, 0] - path[2, bar] ** 2 / 2 + path[2, bar] * noise[bar]
        path[1, bar] = log_price
    return path, regime_of_bar


@njit(cache=True)
def bar_prices(path: Floats, open_noise: Floats, above: Floats, below: Floats, start_price: float) -> Floats:
    """(4, n) float64 open, high, low, close in rupees, rounded to the paisa, from a path and its noise.

    The highest point of a Brownian bridge from a to b with variance v lies at (a + b + sqrt((b-a)^2 + 2 v E)) / 2
    with E exponential of mean one, the lowest mirrored (Borodin and Salminen 2002, IV.4): never inside open and close.
    """
    prices = np.empty((4, path.shape[1]))
    for bar in range(path.shape[1]):
        opening, closing, variance = path[0, bar] + open_noise[bar], path[1, bar], path[2, bar] ** 2
        if bar == 0:
            opening = 0.0
        middle, move = (opening + closing) / 2, closing - opening
        # Rounding may put the root a last bit below |move|.
        highest = max(opening, closing, middle + math.sqrt(move**2 + 2 * variance * above[bar]) / 2)
        lowest = min(opening, closing, middle - math.sqrt(move**2 + 2 * variance * below[bar]) / 2)
        for row, log_price in enumerate((opening, highest, lowest, closing)):
            prices[row, bar] = np.rint(start_price * math.exp(log_price) * 100) / 100
    return prices
