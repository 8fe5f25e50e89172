"""How large a position may be: fixed-fractional risk, volatility target, fractional Kelly, less in a drawdown.

Every rule gives a share of the equity (fraction, 0 or more) that never exceeds its cap; `shares_for` makes whole shares
of it.
"""

import datetime as dt
import math
from collections.abc import Sequence
from typing import NamedTuple

# Fewer round trips than this say nothing about an edge.
FEWEST_TRIPS = 30
_STEPS = 100
# A share of the equity that nobody could borrow.
_LARGEST = 1e6


class SizingError(ValueError):
    """A size that cannot be told from what was given."""


class RoundTrip(NamedTuple):
    """One trade from flat to flat.

    Attributes:
        exit_day: IST date on which it ended.
        net_return: gain after charges over the value at entry, fraction; above -1.
        out_of_sample: whether the policy had seen nothing of its days when it was made.
    """

    exit_day: dt.date
    net_return: float
    out_of_sample: bool


def fixed_fractional(risk: float, entry_paise: int, stop_paise: int, cap: float) -> float:
    """The share of the equity at which a move from entry to stop costs `risk` of it: risk x entry / |entry - stop|.

    Source: R. Vince, Portfolio Management Formulas (1990), ch. 2, fixed fractional trading; V. Tharp, Trade Your Way to
    Financial Freedom (1998), ch. 12, percent risk.

    Args:
        risk: share of the equity that the stop may cost, fraction; 0 gives 0.
        entry_paise: price at entry.
        stop_paise: price of the protective stop, another one.
        cap: largest share, fraction.

    Raises:
        SizingError: a price is not above zero, the stop is the entry, or a fraction is negative.
    """
    _check(risk=risk, cap=cap)
    if entry_paise <= 0 or stop_paise <= 0 or entry_paise == stop_paise:
        raise SizingError(
            f"expected an entry and a stop above 0 that differ, found {entry_paise} and {stop_paise} paise"
        )
    return min(risk * entry_paise / abs(entry_paise - stop_paise), cap)


def volatility_target(target: float, volatility: float, cap: float) -> float:
    """The share of the equity whose volatility is the target: target / volatility.

    Source: A. Moreira and T. Muir, Volatility-Managed Portfolios, Journal of Finance 72 (2017), with the volatility
    itself instead of its square as in C. Harvey et al., The Impact of Volatility Targeting, Journal of Portfolio
    Management 45 (2018).

    Args:
        target: wanted standard deviation of returns, fraction, over the same time as `volatility`.
        volatility: forecast one of the symbol; 0 gives the cap, for then nothing moves.
        cap: largest share, fraction.

    Raises:
        SizingError: a fraction is negative or not finite.
    """
    _check(target=target, volatility=volatility, cap=cap)
    if target == 0.0:
        return 0.0
    return min(target / volatility, cap) if volatility > 0.0 else cap


def fractional_kelly(trips: Sequence[RoundTrip], fraction: float, cap: float) -> float:
    """A fraction of the growth-optimal share over past round trips: it maximises the mean of log(1 + share x return).

    Source: J. L. Kelly, A New Interpretation of Information Rate, Bell System Technical Journal 35 (1956); on the
    empirical distribution as in R. Vince (1990), ch. 4; a fraction of it for the estimation error, E. O. Thorp, The
    Kelly Criterion in Blackjack, Sports Betting and the Stock Market (2006), sections 7 and 8. Without a positive mean
    it is 0.

    Args:
        trips: at least FEWEST_TRIPS, all out of sample: what a policy earned on days that it was trained on says
            nothing about its edge.
        fraction: of the optimum, such as 0.25.
        cap: largest share, fraction.

    Raises:
        SizingError: a trip is of the training span, there are too few, or a return is not finite or not above -1.
    """
    _check(fraction=fraction, cap=cap)
    returns = _out_of_sample(trips)
    if len(returns) < FEWEST_TRIPS:
        raise SizingError(f"expected at least {FEWEST_TRIPS} round trips out of sample, found {len(returns)}")
    if fraction == 0.0 or cap == 0.0 or math.fsum(returns) <= 0.0:
        return 0.0
    return min(fraction * _growth_optimum(returns, min(cap / fraction, _LARGEST)), cap)


def _growth_optimum(returns: Sequence[float], most: float) -> float:
    """The share in [0, most] at which the mean of log(1 + share x return) is largest, by bisection on its slope."""
    worst = -min(returns)
    low, high = 0.0, min(most, 1.0 / worst) if worst > 0 else most
    if _slope(returns, high) >= 0.0:
        return high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(returns, middle) > 0.0 else (low, middle)
    return low


def _slope(returns: Sequence[float], share: float) -> float:
    """Of the sum of log(1 + share x return); it falls with the share and rises with every return."""
    if min(1.0 + share * one for one in returns) <= 0.0:
        return -math.inf
    return math.fsum(one / (1.0 + share * one) for one in returns)


def drawdown_scaled(share: float, equity_paise: int, peak_paise: int, most: float) -> float:
    """A share that falls with the drawdown and is 0 from the largest allowed one on.

    It is share x (equity - floor) / equity over its value at the peak, with floor = (1 - most) x peak. Source: S. J.
    Grossman and Z. Zhou, Optimal Investment Strategies for Controlling Drawdowns, Mathematical Finance 3 (1993).

    Args:
        share: at the peak, fraction of the equity.
        equity_paise: now.
        peak_paise: highest so far, above 0.
        most: largest drawdown, fraction above 0, at most 1.

    Raises:
        SizingError: a figure lies outside these.
    """
    _check(share=share)
    if peak_paise <= 0 or not 0.0 < most <= 1.0:
        raise SizingError(f"expected a peak above 0 and a drawdown in (0, 1], found {peak_paise} paise and {most}")
    if equity_paise <= 0:
        return 0.0
    scale = (1.0 - (1.0 - most) * peak_paise / equity_paise) / most
    return share * min(max(scale, 0.0), 1.0)


def shares_for(share: float, equity_paise: int, price_paise: int) -> int:
    """Whole shares worth at most a share of the equity (fraction) at a price.

    Raises:
        SizingError: the fraction is negative, or the price not above 0.
    """
    _check(share=share)
    if price_paise <= 0:
        raise SizingError(f"expected a price above 0, found {price_paise} paise")
    return max(0, math.floor(share * equity_paise) // price_paise)


def three_month_performance(trips: Sequence[RoundTrip], day: dt.date, days: int = 91) -> float | None:
    """What the policy earned on a symbol over its round trips that ended in the `days` before a day, compounded.

    Returns:
        A fraction; None where no trip ended in that time, so that nothing is known.

    Raises:
        SizingError: a trip of that time is of the training span, or a return is not finite or not above -1.
    """
    recent = [trip for trip in trips if day - dt.timedelta(days=days) <= trip.exit_day < day]
    returns = _out_of_sample(recent)
    return math.expm1(math.fsum(math.log1p(one) for one in returns)) if returns else None


def _out_of_sample(trips: Sequence[RoundTrip]) -> list[float]:
    seen = [trip for trip in trips if not trip.out_of_sample]
    if seen:
        raise SizingError(
            f"{len(seen)} of {len(trips)} round trips lie in days that the policy was trained on, the first ended on "
            f"{seen[0].exit_day}: give those of its validation, test or live days alone"
        )
    wrong = [trip for trip in trips if not (math.isfinite(trip.net_return) and trip.net_return > -1.0)]
    if wrong:
        raise SizingError(f"expected returns above -1, found {wrong[0].net_return} on {wrong[0].exit_day}")
    return [trip.net_return for trip in trips]


def _check(**fractions: float) -> None:
    for name, value in fractions.items():
        if not (math.isfinite(value) and value >= 0.0):
            raise SizingError(f"expected {name} as a fraction of 0 or more, found {value}")
