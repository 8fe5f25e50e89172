"""States paired with the returns that follow them, cut into spans of time that share no return."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import Bars, session_day
from finsense.state.builder import StateMatrix

_LEAST_SAMPLES = 100


class ImportanceError(ValueError):
    """Too few samples, or folds that cannot be judged."""


@dataclass(frozen=True)
class Samples:
    """States of one symbol and the returns that follow them, in time order.

    Attributes:
        symbol: whose.
        values: (n, C) float32, the market row of each state.
        forward: (n,) float64, log return from the next bar's open, where an order would fill, to the close `horizon`
            bars after the state's.
        day: (n,) int64, session of the state, days since 1970-01-01.
        exit_day: (n,) int64, session of the last close in `forward`.
    """

    symbol: str
    values: NDArray[np.float32]
    forward: NDArray[np.float64]
    day: NDArray[np.int64]
    exit_day: NDArray[np.int64]


def forward_samples(
    bars: Bars,
    matrix: StateMatrix,
    horizon: int,
    *,
    within_session: bool,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> Samples:
    """The states of a span of IST dates (inclusive) with their forward returns, which end within the span too.

    Args:
        bars: the symbol's bars.
        matrix: their states.
        horizon: bars from the state to the close that ends its return.
        within_session: leave out states whose return would reach into another session.
        first: first date; None is the first state.
        last: last date; None is the last bar.
    """
    days = bars.session_days
    begin = matrix.first_bar if first is None else int(np.searchsorted(days, session_day(first)))
    stop = len(bars) if last is None else int(np.searchsorted(days, session_day(last), side="right"))
    state = np.arange(max(begin, matrix.first_bar), max(stop - horizon, 0))
    if within_session:
        state = state[days[state] == days[state + horizon]]
    forward = np.log(bars.close[state + horizon] / bars.open[state + 1])
    return Samples(bars.symbol, matrix.rows[matrix.row_of_bar[state]], forward, days[state], days[state + horizon])


@dataclass(frozen=True)
class Span:
    """The samples of a span of time: symbol after symbol, each in time order.

    Attributes:
        values: (n, C) float32.
        symbols: the rows of each symbol in `values`.
        places: the same samples in the symbol's own series of kept samples.
        days: first and last session, days since 1970-01-01.
    """

    values: NDArray[np.float32]
    symbols: tuple[slice, ...]
    places: tuple[slice, ...]
    days: tuple[int, int]


def purged_spans(samples: Sequence[Samples], count: int) -> tuple[list[Span], list[NDArray[np.float64]]]:
    """Cut all samples into spans of as many sessions each; with them each symbol's forward returns that were kept.

    States whose return reaches into the next span are left out (purged), so no span shares a return with another.

    Raises:
        ImportanceError: a span of a symbol has fewer than 100 samples.
    """
    days = np.unique(np.concatenate([one.day for one in samples]))
    if not len(days):
        raise ImportanceError(
            "expected states whose return is known, found none: the horizon reaches beyond the data, or beyond the "
            "session, in which an intraday account's returns end; choose a shorter horizon"
        )
    if len(days) < count:
        raise ImportanceError(f"expected at least {count} sessions, one per span, found {len(days)}; give more history")
    parts = np.array_split(days, count)
    kept = [[(one.day >= part[0]) & (one.exit_day <= part[-1]) for one in samples] for part in parts]
    forward = [one.forward[np.any([masks[place] for masks in kept], axis=0)] for place, one in enumerate(samples)]
    starts = np.zeros(len(samples), np.int64)
    spans = []
    for part, masks in zip(parts, kept, strict=True):
        counts = np.array([mask.sum() for mask in masks])
        _check_counts(samples, counts, len(part), count)
        ends = np.cumsum([0, *counts])
        spans.append(
            Span(
                np.concatenate([one.values[mask] for one, mask in zip(samples, masks, strict=True)]),
                tuple(slice(int(start), int(stop)) for start, stop in pairwise(ends)),
                tuple(slice(int(start), int(start + size)) for start, size in zip(starts, counts, strict=True)),
                (int(part[0]), int(part[-1])),
            )
        )
        starts += counts
    return spans, forward


def _check_counts(samples: Sequence[Samples], counts: NDArray[np.int64], sessions: int, spans: int) -> None:
    least = int(np.argmin(counts))
    if counts[least] < _LEAST_SAMPLES:
        raise ImportanceError(
            f"{samples[least].symbol}: expected at least {_LEAST_SAMPLES} states with their returns in each of {spans} "
            f"spans, found {counts[least]} in one of {sessions} sessions; give more history, fewer folds or a shorter "
            f"horizon"
        )
