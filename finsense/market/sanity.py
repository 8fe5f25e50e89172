"""Looks through valid bars for what is suspicious but no error: gaps, unadjusted splits, outliers, odd volume."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby

import numpy as np
import numpy.typing as npt

from finsense.market.bars import Bars, ist_text
from finsense.market.calendar import TradingSession, nse_calendar
from finsense.market.instruments import tick_paise

# Of the 45,000 daily bars of ten large NSE stocks from 2000 to 2018 no genuine overnight gap was wider than 1.25, and
# no split, bonus or demerger narrower than 1.47.
_GAP_RATIO = 1.33
# Old price / new price of the splits and bonus issues seen on NSE; 15 is a 10:1 split with a 1:2 bonus on one day.
_FACTORS = np.array([1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 25.0, 50.0, 100.0])
_FACTOR_TOLERANCE = 0.10
# The market-wide circuit breakers stop an index at 20 %; a large stock rarely moves further in a day.
_MOVE_FRACTION = 0.25
_OFF_TICK_SHARE = 0.01
_RUNS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Finding:
    """Something suspicious in bars.

    Attributes:
        kind: "missing_session", "missing_bars", "split_or_bonus", "price_gap", "outlier", "no_volume",
            "zero_volume" or "off_tick".
        date: IST date of the session, or of the first one where the finding is about many.
        detail: What was seen, in words.
    """

    kind: str
    date: date
    detail: str

    def __str__(self) -> str:
        return f"{self.date} {self.kind}: {self.detail}"


def inspect(bars: Bars) -> list[Finding]:
    """Everything suspicious in the bars, by date; an empty list is a clean bill.

    Raises:
        BarsError: Where the hours of a session depend on whether the stock has derivatives and that is not known.
    """
    findings = [
        *_missing_sessions(bars),
        *_missing_bars(bars),
        *_session_moves(bars),
        *_volume(bars),
        *_off_tick(bars),
    ]
    return sorted(findings, key=lambda finding: finding.date)


def summary(bars: Bars, findings: list[Finding]) -> str:
    """The findings of `inspect` in one line: how many of each kind, and the first dates."""
    if not findings:
        return f"{bars!r}: nothing suspicious"
    parts = []
    for kind, group in groupby(sorted(findings, key=lambda finding: finding.kind), key=lambda finding: finding.kind):
        dates = [str(finding.date) for finding in group]
        parts.append(f"{len(dates)} {kind} ({', '.join(dates[:3])}{', ...' if len(dates) > 3 else ''})")
    return f"{bars!r}: {'; '.join(parts)}"


def _missing_sessions(bars: Bars) -> Iterator[Finding]:
    # Only whether there was a session counts here, and that is the same for every stock.
    sessions = nse_calendar().sessions(bars.first_date, bars.last_date, derivatives=False)
    present = {session.date for session in bars.sessions}
    for session in sessions:
        if session.date not in present:
            what = f"{session.kind} session{f' ({session.name})' if session.name else ''}"
            yield Finding("missing_session", session.date, f"no bars of the {what}")


def _missing_bars(bars: Bars) -> Iterator[Finding]:
    if bars.interval == "1d":
        return
    for place, session in enumerate(bars.sessions):
        start, stop = bars.session_offsets[place], bars.session_offsets[place + 1]
        expected = _grid(session, bars.interval_ns)
        if stop - start == len(expected):
            continue
        absent = ~np.isin(expected, bars.time_ns[start:stop])
        spans = [
            f"{ist_text(int(expected[run[0]]))[11:16]}-{ist_text(int(expected[run[-1]]))[11:16]}"
            for run in _runs(absent)
        ]
        shown = ", ".join(spans[:_RUNS_SHOWN]) + (f" and {len(spans) - _RUNS_SHOWN} more" * (len(spans) > _RUNS_SHOWN))
        yield Finding("missing_bars", session.date, f"{absent.sum()} of {len(expected)} bars missing, starts {shown}")


def _grid(session: TradingSession, interval_ns: int) -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(start, end, interval_ns, dtype=np.int64) for start, end in session.windows])


def _runs(flags: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    places = np.flatnonzero(flags)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


def _session_moves(bars: Bars) -> Iterator[Finding]:
    first, last = bars.session_offsets[:-1], bars.session_offsets[1:] - 1
    opened, closed = bars.open[first], bars.close[last]
    high, low = np.maximum.reduceat(bars.high, first), np.minimum.reduceat(bars.low, first)
    for place in range(1, len(opened)):
        before, day = float(closed[place - 1]), bars.sessions[place].date
        gap_ratio, close_ratio = before / float(opened[place]), before / float(closed[place])
        if max(gap_ratio, 1 / gap_ratio) >= _GAP_RATIO:
            yield _gap(day, gap_ratio, close_ratio, before, float(opened[place]))
            continue
        for name, price in (("high", high[place]), ("low", low[place]), ("close", closed[place])):
            move = float(price) / before - 1.0
            if abs(move) > _MOVE_FRACTION:
                yield Finding("outlier", day, f"{name} {price:.2f} is {move:+.1%} from the close before, {before:.2f}")
                break


def _gap(day: date, gap_ratio: float, close_ratio: float, before: float, opened: float) -> Finding:
    seen = f"close {before:.2f}, next open {opened:.2f} (ratio {gap_ratio:.3f})"
    distance = np.maximum(np.abs(np.log(gap_ratio / _FACTORS)), np.abs(np.log(close_ratio / _FACTORS)))
    nearest = int(np.argmin(distance))
    if distance[nearest] <= _FACTOR_TOLERANCE:
        return Finding(
            "split_or_bonus", day, f"{seen} looks like an unadjusted split or bonus of {_FACTORS[nearest]:g}"
        )
    return Finding("price_gap", day, f"{seen} is no usual split ratio: a demerger, a consolidation or a wrong price")


def _volume(bars: Bars) -> Iterator[Finding]:
    zero = np.flatnonzero(bars.volume == 0)
    if len(zero) == len(bars):
        yield Finding("no_volume", bars.first_date, "no bar has a volume; do not use volume as a feature")
    elif len(zero):
        openings = int(np.isin(zero, bars.session_offsets[:-1]).sum())
        day = bars.sessions[int(np.searchsorted(bars.session_offsets, zero[0], side="right")) - 1].date
        detail = f"{len(zero)} of {len(bars)} bars have volume 0"
        if bars.interval != "1d":
            detail += f", {openings} of them are the first of their session ({len(bars.sessions)} sessions)"
        yield Finding("zero_volume", day, detail)


def _off_tick(bars: Bars) -> Iterator[Finding]:
    offsets = bars.session_offsets
    ticks = np.repeat(_ticks(bars), np.diff(offsets))
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    off = np.rint(prices * 100.0).astype(np.int64) % ticks != 0
    share = float(off.mean())
    if share > _OFF_TICK_SHARE:
        row = int(np.flatnonzero(off.any(axis=0))[0])
        day = bars.sessions[int(np.searchsorted(offsets, row, side="right")) - 1].date
        yield Finding("off_tick", day, f"{share:.1%} of the prices are off the tick grid: adjusted prices, or an index")


def _ticks(bars: Bars) -> npt.NDArray[np.int64]:
    """Tick of each session in paise, from the last close of the month before (of the data's first month: its open)."""
    closes = bars.close[bars.session_offsets[1:] - 1]
    reference = float(bars.open[0])
    ticks = []
    for place, session in enumerate(bars.sessions):
        if place and session.date.month != bars.sessions[place - 1].date.month:
            reference = float(closes[place - 1])
        ticks.append(tick_paise(session.date, round(reference * 100)))
    return np.array(ticks, dtype=np.int64)
