"""Looks for columns of the state that know the next bars' return: a label that leaked into a feature."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.lookahead_market import Leak, Market, Outcome, column_of

Floats = NDArray[np.float64]

LABELS = "label leak"
# Returns over so many bars, forward (the labels) and backward (what a feature may know).
_HORIZONS = (1, 5, 20)
# So many bars at most, evenly over the history: enough for any correlation that is called a leak here.
_MOST_BARS = 20_000
LEAST_BARS = 40
# A column is called a leak when its rank correlation with a forward return is at least so large, so many times that
# with any past return, and beyond chance; or so large that no market explains it: an AR(1) price with a non-negative
# coefficient, the most predictable one that a simulation here can have, lets nobody see beyond sqrt(1/2) = 0.707.
_CORRELATION = 0.3
_RATIO = 2.0
_IMPOSSIBLE = 0.75
_EQUAL = 0.9999
# The chance that any column of a market that hides nothing is called a leak by accident, before the other conditions.
_ALPHA = 1e-3
# For relations that are not monotone: mutual information in nats over this many quantiles of either side. A correlation
# of 0.3 carries 0.047 nats; information goes with the square of a correlation, and so does its ratio.
_QUANTILES = 8
_NATS = 0.05
_NATS_RATIO = 4.0


@dataclass(frozen=True)
class _Evidence:
    """Ranks of the columns and of forward and past returns at n bars, each of mean 0 and variance 1.

    A rank is as robust as it gets: one demerger or one bad tick moves no correlation.

    Attributes:
        bars: (n,) int64, places among the symbol's bars.
        columns: (n, 2 x columns) float64: the columns, and their changes since the bar before. A long window hides one
            bar of the future among many of the past; its change does not.
        forward: (n, horizons) float64.
        past: (n, horizons) float64.
    """

    bars: NDArray[np.int64]
    columns: Floats
    forward: Floats
    past: Floats


def check_labels(market: Market) -> Outcome:
    """Every column of the state, and its change, against the returns of the next 1, 5 and 20 bars and the last ones."""
    evidence = _evidence(market)
    count, width = len(evidence.bars), evidence.columns.shape[1] // 2
    if count < LEAST_BARS:
        return Outcome(0, "bars", unchecked=f"{count} bars with a state and {_HORIZONS[-1]} after it are too few")
    forward = np.abs(evidence.columns.T @ evidence.forward) / count
    past = np.abs(evidence.columns.T @ evidence.past).max(axis=1) / count
    surely = _errors(evidence) > NormalDist().inv_cdf(1 - _ALPHA / 2 / forward.size)
    high = (forward >= _CORRELATION) & (forward >= _RATIO * past[:, None])
    strength = np.where(surely & (high | (forward[:, :1] >= _IMPOSSIBLE) | (forward >= _EQUAL)), forward, 0.0)
    leaks: list[Leak] = []
    for column in range(width):
        both = [column, column + width]
        place = max(both, key=lambda one: strength[one].max())
        if strength[place].any():
            label = int(strength[place].argmax())
            leaks.append(_correlated(market, evidence, place, label, float(forward[place, label]), float(past[place])))
        else:
            leaks += [leak for one in both for leak in _informed(market, evidence, one)][:1]
    return Outcome(count, "bars", tuple(leaks))


def _evidence(market: Market) -> _Evidence:
    first, longest = market.states.first_bar, _HORIZONS[-1]
    log_close = np.log(market.bars.close)
    bars = np.arange(max(first + 1, longest), len(log_close) - longest)
    bars = bars[:: -(-len(bars) // _MOST_BARS)] if len(bars) else bars
    forward = [log_close[bars + horizon] - log_close[bars] for horizon in _HORIZONS]
    past = [log_close[bars] - log_close[bars - horizon] for horizon in _HORIZONS]
    rows = market.rows[bars - first].astype(np.float64)
    # A kernel that reads where it may not finds anything there.
    with np.errstate(invalid="ignore"):
        columns = np.concatenate([rows, rows - market.rows[bars - first - 1]], axis=1)
    return _Evidence(bars, ranks(columns), ranks(np.stack(forward, axis=1)), ranks(np.stack(past, axis=1)))


def ranks(values: NDArray[np.floating]) -> Floats:
    """Average ranks of each column, (n, columns), of mean 0 and variance 1; zeros where a column does not vary."""
    ranks = np.zeros(values.shape)
    for place in range(values.shape[1]):
        _, group, counts = np.unique(values[:, place], return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        rank = (ends - (counts - 1) / 2)[group]
        deviation = rank.std() if len(rank) else 0.0
        if deviation > 0:
            ranks[:, place] = (rank - rank.mean()) / deviation
    return ranks


def _errors(evidence: _Evidence) -> Floats:
    """(columns, horizons): correlations in standard errors, robust to volatility that clusters (White 1980).

    Forward returns over h bars overlap, so that n of them count as n / h.
    """
    found = np.empty((evidence.columns.shape[1], len(_HORIZONS)))
    for label, horizon in enumerate(_HORIZONS):
        product = evidence.columns * evidence.forward[:, label : label + 1]
        error = np.sqrt((product**2).sum(axis=0) * horizon)
        found[:, label] = np.abs(product.sum(axis=0)) / np.maximum(error, 1e-300)
    return found


def _correlated(market: Market, evidence: _Evidence, place: int, label: int, found: float, past: float) -> Leak:
    # The bar at which it tells the most.
    row = int(np.abs(evidence.columns[:, place] * evidence.forward[:, label]).argmax())
    bars = "bar" if label == 0 else f"{_HORIZONS[label]} bars"
    detail = (
        f"{_subject(evidence, place)} has a rank correlation of {found:.4f} with the return of the next {bars}, "
        f"against {past:.2f} with past returns; find what it is made of"
    )
    return _leak(market, evidence, place, row, detail)


def _subject(evidence: _Evidence, place: int) -> str:
    return "it" if place < evidence.columns.shape[1] // 2 else "its change since the bar before"


def _leak(market: Market, evidence: _Evidence, place: int, row: int, detail: str) -> Leak:
    cell = place % (evidence.columns.shape[1] // 2)
    return market.leak(LABELS, *column_of(cell, market.setting.state), int(evidence.bars[row]), detail)


def _informed(market: Market, evidence: _Evidence, place: int) -> Iterator[Leak]:
    """A column that tells the next return in another way than up or down, such as its size."""
    column, count = _quantiles(evidence.columns[:, place]), len(evidence.bars)
    joint = _joint(column, _quantiles(evidence.forward[:, 0]))
    found = _information(joint)
    past = max(_information(_joint(column, _quantiles(evidence.past[:, label]))) for label in range(len(_HORIZONS)))
    freedom = (np.count_nonzero(joint.sum(axis=1)) - 1) * (np.count_nonzero(joint.sum(axis=0)) - 1)
    limit = _chi_square(int(freedom), _ALPHA / evidence.columns.shape[1])
    if found < _NATS or found < _NATS_RATIO * past or 2 * count * found < limit:
        return
    # The cell of the table that says the most, and a bar in it.
    expected = np.outer(joint.sum(axis=1), joint.sum(axis=0)) / count
    cell = np.unravel_index(int((joint - expected).argmax()), joint.shape)
    row = int(np.flatnonzero((column == cell[0]) & (_quantiles(evidence.forward[:, 0]) == cell[1]))[0])
    detail = (
        f"{_subject(evidence, place)} tells {found:.3f} nats about the return of the next bar, against {past:.3f} "
        "about past returns; find what it is made of"
    )
    yield _leak(market, evidence, place, row, detail)


def _quantiles(values: Floats) -> NDArray[np.int64]:
    """Which quantile each value lies in, equal ones together."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _QUANTILES + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right").astype(np.int64)


def _joint(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(one * _QUANTILES + other, minlength=_QUANTILES**2).reshape(_QUANTILES, _QUANTILES)


def _information(joint: NDArray[np.int64]) -> float:
    """Mutual information of a table of counts, in nats (Cover and Thomas 2006, 2.4)."""
    share = joint / joint.sum()
    independent = np.outer(share.sum(axis=1), share.sum(axis=0))
    seen = share > 0
    return float((share[seen] * np.log(share[seen] / independent[seen])).sum())


def _chi_square(freedom: int, alpha: float) -> float:
    """The value that a chi-square of so many degrees exceeds with a chance of alpha (Wilson and Hilferty 1931)."""
    if freedom == 0:
        return math.inf
    part = 2 / (9 * freedom)
    return float(freedom * (1 - part + NormalDist().inv_cdf(1 - alpha) * math.sqrt(part)) ** 3)
