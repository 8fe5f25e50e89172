"""Looks for columns of the data that belong to another bar: a shifted index, tomorrow's VIX, the next bar's flow."""

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from finsense.evaluation.lookahead_labels import LEAST_BARS, Floats, ranks
from finsense.evaluation.lookahead_market import Leak, Market, Outcome
from finsense.market.bars import Bars
from finsense.market.extra_fields import REFERENCE_FIELDS

REFERENCES = "shifted data"
# A data column is called shifted when it goes with the next (or last) bar this much better than with its own.
_SHIFT = 0.1
_SHIFT_ERRORS = 5.0
_SHIFT_SESSION_ERRORS = 3.5
_SHIFT_RATIO = 2.0
# What goes with the size of the bar's move or with its volume, and not with a direction.
_SIZES = ("ticks", "trades", "realised_variance")


def check_references(market: Market) -> Outcome:
    """Every column of the data beside the prices: its moves go with its own bar's, not with the next or last one's."""
    bars = market.bars
    signals = [(name, *signal) for name in bars.extra if (signal := _signal(name, bars)) is not None]
    leaks = [leak for name, column, own in signals for leak in _shifted(market, name, column, own)]
    for name in REFERENCE_FIELDS:
        if name in bars.extra and bars.interval != "1d":
            leaks += _close_before_it_is_known(market, name)
    reason = "" if signals else "the data have no column beside the prices"
    return Outcome(len(bars) if signals else 0, "bars", tuple(leaks), reason)


def _signal(name: str, bars: Bars) -> tuple[Floats, Floats] | None:
    """What moves in a column and what of the same bar it should go with, (n - 1,) each; NaN over a night.

    None for those that may know the next move by right: what the book shows at the bar's end.
    """
    values, close = bars.extra[name], np.log(bars.close)
    own = np.diff(close)
    if name in REFERENCE_FIELDS:
        column = np.diff(np.log(values))
    elif name == "signed_volume":
        column = values[1:].copy()
    elif name == "tick_vwap":
        column = close[1:] - np.log(values[1:])
    elif name == "realised_variance":
        column, own = np.diff(values), np.diff(np.abs(own), prepend=np.nan)
    elif name in ("ticks", "trades"):
        column, own = np.diff(values), np.diff(bars.volume.astype(np.float64))
    else:
        return None
    within = np.diff(bars.session_days) == 0 if bars.interval != "1d" else np.ones(len(own), np.bool_)
    return np.where(within, column, np.nan), np.where(within, own, np.nan)


def _shifted(market: Market, name: str, column: Floats, own: Floats) -> Iterator[Leak]:
    middle = own[1:-1]
    if len(middle) < LEAST_BARS:
        return
    # The column one bar earlier, the same bar, one bar later.
    before, same, after = (_correlation(column[start : start + len(middle)], middle) for start in range(3))
    if name in _SIZES:
        # They grow together; a difference goes against that of the bar before by itself.
        before, same, after = max(before, 0.0), max(same, 0.0), max(after, 0.0)
    before, same, after = abs(before), abs(same), abs(after)
    known = int((~np.isnan(middle)).sum())
    margin = max(_SHIFT, _SHIFT_ERRORS * math.sqrt(2 / max(known, 1)))
    best = max(before, after)
    if best - same <= margin or best <= _SHIFT_RATIO * same:
        return
    early = before > after
    product = np.abs(np.nan_to_num(column[:-2] if early else column[2:]) * np.nan_to_num(middle))
    bar = int(product.argmax()) + (1 if early else 3)
    what = "the bar after, so it shows what comes" if early else "the bar before, so it comes a bar late"
    readers = [one.name for one in market.setting.state.features if name in one.indicator.needs]
    read = f"; read by {', '.join(dict.fromkeys(readers))}" if readers else ""
    detail = (
        f"its moves go with those of {what}: rank correlation {best:.2f}, with its own bar {same:.2f}{read}; "
        "shift the column by one bar, or read the file with the right `stamps`"
    )
    yield market.leak(REFERENCES, "data", name, bar, detail)


def _close_before_it_is_known(market: Market, name: str) -> Iterator[Leak]:
    """A series of daily closes beside bars within the day: today's is known tomorrow."""
    bars, offsets = market.bars, market.bars.session_offsets
    values = bars.extra[name]
    constant = np.array([np.ptp(values[start:stop]) == 0 for start, stop in pairwise(offsets.tolist())])
    if constant.mean() < 0.95 or len(constant) < LEAST_BARS:
        return
    change = np.diff(np.log(values[offsets[:-1]]))
    own = np.diff(np.log(bars.close[offsets[1:] - 1]))
    same, before = abs(_correlation(change[1:], own[1:])), abs(_correlation(change[1:], own[:-1]))
    margin = max(_SHIFT, _SHIFT_SESSION_ERRORS * math.sqrt(2 / len(change)))
    if same - before <= margin or same <= _SHIFT_RATIO * before:
        return
    session = int(np.abs(change * own).argmax()) + 1
    detail = (
        f"it stands still within the day and moves with the same day's return (rank correlation {same:.2f}, with the "
        f"day before {before:.2f}): the day's close is on its bars before it is known; use the close of the day before"
    )
    yield market.leak(REFERENCES, "data", name, int(offsets[session]), detail)


def _correlation(one: Floats, other: Floats) -> float:
    """Rank correlation over the pairs that are both known."""
    known = ~(np.isnan(one) | np.isnan(other))
    if known.sum() < LEAST_BARS:
        return 0.0
    both = ranks(np.stack([one[known], other[known]], axis=1))
    return float((both[:, 0] * both[:, 1]).mean())
