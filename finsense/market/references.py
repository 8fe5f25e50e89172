"""Puts the closes of other series (an index, the sector's index, India VIX) beside bars, never from a later bar."""

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from finsense.market.bars import IST_OFFSET_NS, Bars, BarsError, day_date, ist_text, session_day
from finsense.market.calendar import DAY_NS, MINUTE_NS, CalendarError, nse_calendar
from finsense.market.windows import trading_windows

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Places = npt.NDArray[np.intp]

# Trading time over which a close may stand in for the bars that its series lacks. The longest holes known in NSE data
# that are the market's own: 92 minutes on 24 Feb 2021, when index bars stop at 10:08 and the exchange halted at 11:40
# (SEBI press release 8/2021), and the 45 minutes of a special pre-open session. Beyond that data are missing.
STALE_LIMIT_NS = 120 * MINUTE_NS
# A series is called shifted when the moves of the bar before or after go with those of the bars this much better than
# its own moves do: in correlation, in standard errors of the difference, and as a ratio.
_SHIFT_CORRELATION = 0.1
_SHIFT_ERRORS = 5.0
_SHIFT_RATIO = 3.0
_SHOWN = 3


class MisalignedError(BarsError):
    """A second series that does not fit the bars it is put beside."""


def with_references(
    bars: Bars,
    *,
    index: Bars | None = None,
    sector: Bars | None = None,
    vix: Bars | None = None,
    missing_sessions: int = 0,
) -> Bars:
    """The same bars, knowing the closes of the given series as `index_close`, `sector_close` and `vix_close`.

    Each bar gets the close of the last bar of the series that has ended by the bar's own end (see `aligned_closes`).

    Args:
        bars: The bars of the traded symbol; what they know already is kept.
        index: Bars of the market's index.
        sector: Bars of the index of the symbol's sector.
        vix: Bars of India VIX.
        missing_sessions: How many sessions of the bars each series may lack.

    Raises:
        MisalignedError: When a series lacks sessions or hours of the bars, or its stamps are shifted by a bar.
    """
    given = {"index_close": index, "sector_close": sector, "vix_close": vix}
    closes = {
        name: aligned_closes(bars, series, missing_sessions) for name, series in given.items() if series is not None
    }
    return replace(bars, extra={**bars.extra, **closes})


def aligned_closes(bars: Bars, reference: Bars, missing_sessions: int = 0) -> Floats:
    """The close of `reference` that is known at the end of each bar: of its last bar that has ended by then.

    So bars of one interval meet the reference's bar of the same start; finer bars give the last close inside the bar,
    coarser ones the last whole bar's; daily bars of a reference give the close of the session before to bars within
    the day (today's is not known yet), and a daily bar takes the session's close. Where the reference lacks bars inside
    a session its last close stands, over at most `STALE_LIMIT_NS` of trading.

    Args:
        bars: The bars of the traded symbol.
        reference: Bars of the other series.
        missing_sessions: How many sessions of the bars the reference may lack; its last close before stands there.

    Returns:
        (n,) float64, rupees or points.

    Raises:
        MisalignedError: When the reference lacks more sessions, begins after the bars, has a longer hole, or its stamps
            are shifted by a bar.
    """
    pair = f"{bars.symbol} {bars.interval} beside {reference.symbol} {reference.interval}"
    place = np.searchsorted(_ends(reference), _ends(bars), side="right") - 1
    closes = np.where(place >= 0, reference.close[place], np.nan)
    # A daily close within the day stands all day: it has no moves to compare.
    if reference.interval != "1d" or bars.interval == "1d":
        _refuse_shift(bars, closes, pair)
    _refuse_late_start(bars, reference, place, pair)
    lacking = _lacking_sessions(bars, reference)
    if len(lacking) > missing_sessions:
        shown = ", ".join(str(day) for day in lacking[:_SHOWN])
        stand = f"or let its last close before stand on those days with missing_sessions: {len(lacking)}"
        if len(lacking) == len(bars.session_offsets) - 1:
            stand = f"its bars run from {reference.first_date} to {reference.last_date}"
        raise MisalignedError(
            f"{pair}: {reference.symbol} lacks {len(lacking)} of the {len(bars.session_offsets) - 1} sessions it is "
            f"needed on, first {shown}; complete its bars, {stand}"
        )
    if reference.interval != "1d":
        _refuse_holes(bars, reference, place, lacking, pair)
    return closes


def _ends(bars: Bars) -> Integers:
    """When each bar's close is known, (n,) int64 ns UTC; a daily bar's when its day in India is over."""
    if bars.interval == "1d":
        return (bars.session_days + 1) * DAY_NS - IST_OFFSET_NS
    windows = trading_windows(bars.sessions)
    place = np.searchsorted(windows[:, 0], bars.time_ns, side="right") - 1
    # The last bar of a window can be shorter than the interval.
    ends_ns: Integers = np.minimum(bars.time_ns + bars.interval_ns, windows[place, 1])
    return ends_ns


def _lacking_sessions(bars: Bars, reference: Bars) -> list[dt.date]:
    """The sessions that are needed and not there: the bars' own, or for a daily close within the day those before."""
    own = [day_date(day) for day in bars.session_days[bars.session_offsets[:-1]]]
    needed = map(_session_before, own) if reference.interval == "1d" and bars.interval != "1d" else own
    there = set(reference.session_days.tolist())
    return [day for day in needed if session_day(day) not in there]


def _session_before(day: dt.date) -> dt.date:
    """The date of the last session before a day, of those whose hours are known: no other can have bars."""
    before = day - dt.timedelta(days=1)
    while not _trades(before):
        before -= dt.timedelta(days=1)
    return before


def _trades(day: dt.date) -> bool:
    try:
        return nse_calendar().session(day, derivatives=False) is not None
    except CalendarError:
        # Announced without its hours, as the next Muhurat session may be.
        return False


def _refuse_late_start(bars: Bars, reference: Bars, place: Places, pair: str) -> None:
    early = int(np.count_nonzero(place < 0))
    if early:
        advice = "start the bars at a later session, or give an earlier start of the reference"
        if reference.interval == "1d" and bars.interval != "1d":
            advice += "; within the day the close of the session before is taken, for today's is not known yet"
        raise MisalignedError(
            f"{pair}: the first {early} of {len(bars)} bars, from {ist_text(int(bars.time_ns[0]))}, end before a close "
            f"of {reference.symbol} is known (its bars begin at {ist_text(int(reference.time_ns[0]))}); {advice}"
        )


def _refuse_holes(bars: Bars, reference: Bars, place: Places, lacking: Sequence[dt.date], pair: str) -> None:
    """Refuse closes that are older than `STALE_LIMIT_NS` of trading inside a session that the reference has."""
    # The opening of a daily bar's session is the same for every stock, so its derivatives need not be known.
    derivatives = False if bars.interval == "1d" else bars.derivatives
    days = [day_date(day) for day in bars.session_days[bars.session_offsets[:-1]]]
    sessions = [nse_calendar().session(day, derivatives=derivatives) for day in days]
    opened_ns = [session.open_ns for session in sessions if session is not None]
    windows = trading_windows(sessions)
    since_ns = np.maximum(_ends(reference)[place], np.repeat(opened_ns, np.diff(bars.session_offsets)))
    age_ns = _traded_ns(_ends(bars), windows) - _traded_ns(since_ns, windows)
    allowed = np.isin(bars.session_days, [session_day(day) for day in lacking])
    stale = (age_ns > STALE_LIMIT_NS) & ~allowed
    if not stale.any():
        return
    holes = []
    for hole in np.unique(place[stale])[:_SHOWN]:
        longest = int(age_ns[stale & (place == hole)].max()) // MINUTE_NS
        after = ist_text(int(reference.time_ns[hole + 1])) if hole + 1 < len(reference) else "the end of its bars"
        holes.append(f"\n  none after {ist_text(int(reference.time_ns[hole]))} until {after}: {longest} minutes")
    raise MisalignedError(
        f"{pair}: {reference.symbol} has no bar for more than {STALE_LIMIT_NS // MINUTE_NS} minutes of trading before "
        f"the end of {int(stale.sum())} of {len(bars)} bars; complete its bars, or leave those sessions out of "
        f"both:{''.join(holes)}"
    )


def _traded_ns(time_ns: Integers, windows: Integers) -> Integers:
    """Continuous trading in the windows until each instant, (n,) int64 ns."""
    lengths = windows[:, 1] - windows[:, 0]
    before = np.cumsum(lengths) - lengths
    place = np.maximum(np.searchsorted(windows[:, 0], time_ns, side="right") - 1, 0)
    traded_ns: Integers = before[place] + np.clip(time_ns - windows[place, 0], 0, lengths[place])
    return traded_ns


def _refuse_shift(bars: Bars, closes: Floats, pair: str) -> None:
    """Refuse closes whose moves go with those of the bar before or after, and not with the bars' own.

    An index file whose stamps are the bars' ends, read as their starts, is one bar late; the other way round it would
    show each bar the next one's close.
    """
    adjacent = np.diff(bars.time_ns) == bars.interval_ns if bars.interval != "1d" else np.ones(len(bars) - 1, np.bool_)
    own = np.where(adjacent, np.diff(np.log(bars.close)), np.nan)
    other = np.where(adjacent, np.diff(np.log(closes)), np.nan)
    if len(own) < 3:
        return
    middle = own[1:-1]
    ahead, same, behind = (_correlation(middle, other[first : first + len(middle)]) for first in range(3))
    best = max(ahead, behind)
    margin = max(_SHIFT_CORRELATION, _SHIFT_ERRORS * math.sqrt(2 / max(np.isfinite(middle).sum(), 1)))
    if best - same > margin and best > _SHIFT_RATIO * same:
        when, meant = ("before", "start") if ahead > behind else ("after", "end")
        raise MisalignedError(
            f"{pair}: the reference moves one bar {when} the bars do (correlation {best:.2f}, in the same bar "
            f"{same:.2f}), so its stamps are shifted by a bar; if its vendor stamps a bar at its {meant}, say so with "
            f"stamps: {meant}; if that is said already, the series itself is shifted"
        )


def _correlation(one: Floats, other: Floats) -> float:
    """The size of the correlation over the pairs that are both known; 0 where one of them does not vary."""
    known = ~(np.isnan(one) | np.isnan(other))
    if known.sum() < 3 or np.ptp(one[known]) == 0 or np.ptp(other[known]) == 0:
        return 0.0
    return abs(float(np.corrcoef(one[known], other[known])[0, 1]))
