"""Fits the scaler anew on the training rows alone and compares, to the bit, with the one that is used."""

from collections.abc import Mapping
from datetime import date

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.evaluation.lookahead_market import Leak, Span, column_of
from finsense.market.bars import Bars, session_day
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.state.builder import build_states
from finsense.state.scaler import Scaler, fit_scaler
from finsense.state.span import tradable_range
from finsense.state.spec import StateSpec

SCALER = "scaler"


def span_rows(markets: Mapping[str, Bars], spec: StateSpec, span: Span, *, until: date | None) -> NDArray[np.float32]:
    """The market rows of every tradable bar of a span, (rows, columns) float32, symbol after symbol.

    Args:
        markets: symbol -> its bars.
        spec: the state.
        span: the span.
        until: the last date of which the builder is given bars; None gives it all there are.
    """
    rows = []
    for bars in markets.values():
        known = bars.between(None, until)
        states = build_states(timeline(known, instrument(bars.symbol, derivatives=bars.derivatives), None), spec)
        first, last = tradable_range(known, spec, span.first, span.last)
        rows.append(states.rows[states.row_of_bar[first : last + 1]])
    return np.concatenate(rows)


def first_traded(markets: Mapping[str, Bars], spec: StateSpec, span: Span) -> Span:
    """The span from the first date on which every symbol has its warm-up behind it."""
    ready = []
    for bars in markets.values():
        offsets = bars.session_offsets
        warm = bars.session_days[offsets[:-1][offsets[:-1] >= spec.warmup]]
        ready.append(int(warm[0]) if len(warm) else session_day(span.last) + 1)
    later = max(ready) - session_day(span.first)
    return span if later <= 0 else Span(date.fromordinal(span.first.toordinal() + later), span.last)


def fitted_on(markets: Mapping[str, Bars], spec: StateSpec, span: Span, *, until: date | None) -> Scaler:
    """The scaler of a span's rows; arguments as `span_rows`."""
    return fit_scaler(span_rows(markets, spec, span, until=until), spec.history, len(ACCOUNT_FEATURES))


def compare_scalers(
    expected: Scaler,
    found: Scaler,
    spec: StateSpec,
    markets: Mapping[str, Bars],
    span: Span,
    who: str,
    others: Mapping[str, tuple[Span, date | None]],
) -> list[Leak]:
    """One finding where the scalers differ by a bit: the column that differs the most, and the first bar too many.

    Args:
        expected: fitted on the training rows alone.
        found: the one that is used.
        spec: of the state.
        markets: symbol -> its bars.
        span: the training span.
        who: whose scaler was found.
        others: other rows -> their span and the last date of the bars; the scaler that is equal tells the mistake.
    """
    if _bits(expected) == _bits(found):
        return []
    shift = np.abs(found.mean.astype(np.float64) - expected.mean) * expected.factor
    shift += np.abs(np.log(found.factor.astype(np.float64) / expected.factor))
    cell = int(shift.argmax())
    equal = [
        rows
        for rows, (other, until) in others.items()
        if _bits(fitted_on(markets, spec, other, until=until)) == _bits(found)
    ]
    how = f"it is the scaler of {equal[0]}" if equal else "it is not the scaler of any span of the experiment either"
    detail = (
        f"{who}: mean {found.mean[cell]:.6g} and factor {found.factor[cell]:.6g}, expected {expected.mean[cell]:.6g} "
        f"and {expected.factor[cell]:.6g} of the rows from {span.first} to {span.last}; {how}; fit it on the training "
        "rows alone"
    )
    symbol, bars = next(iter(markets.items()))
    after = int(np.searchsorted(bars.session_days, session_day(span.last), side="right"))
    bar = after if after < len(bars) else -1
    time_ns = int(bars.time_ns[bar]) if bar >= 0 else 0
    return [Leak(SCALER, symbol, *column_of(cell, spec), bar, time_ns, detail)]


def _bits(scaler: Scaler) -> bytes:
    return scaler.mean.tobytes() + scaler.factor.tobytes()
