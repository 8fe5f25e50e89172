"""The grid of bars that live symbols share: which bar comes next, when it ends, and whose hours it lies in."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from finsense.market.bars import INTERVAL_NS
from finsense.market.calendar import TradingSession, nse_calendar, session_date

_DAY = dt.timedelta(days=1)


class Slot(NamedTuple):
    """One bar of the grid.

    Attributes:
        start_ns: its start, ns UTC.
        end_ns: its end; the last one of a session may be shorter than the others.
        symbols: those that trade in it, in alphabetic order.
        opens: whether a session begins with it.
    """

    start_ns: int
    end_ns: int
    symbols: tuple[str, ...]
    opens: bool


def slots_from(time_ns: int, interval: str, derivatives: Mapping[str, bool | None]) -> Iterator[Slot]:
    """The slots that end after an instant (ns UTC), without an end of their own.

    Args:
        time_ns: see above.
        interval: a key of `INTERVAL_NS`.
        derivatives: symbol -> whether it has derivatives, which decides its hours; None: unknown.

    Raises:
        CalendarError: the known calendar ends, or hours depend on unknown derivatives.
    """
    day = session_date(time_ns)
    while True:
        yield from (slot for slot in _slots_of(day, interval, derivatives) if slot.end_ns > time_ns)
        day += _DAY


def _slots_of(day: dt.date, interval: str, derivatives: Mapping[str, bool | None]) -> list[Slot]:
    found: dict[int, tuple[int, list[str], bool]] = {}
    for symbol in sorted(derivatives):
        session = nse_calendar().session(day, derivatives=derivatives[symbol])
        if session is None:
            continue
        for start_ns, end_ns in _spans(session, interval):
            _, symbols, _ = found.setdefault(start_ns, (end_ns, [], start_ns == session.open_ns))
            symbols.append(symbol)
    return [Slot(start, end, tuple(symbols), opens) for start, (end, symbols, opens) in sorted(found.items())]


def _spans(session: TradingSession, interval: str) -> list[tuple[int, int]]:
    if interval == "1d":
        return [(session.open_ns, session.close_ns)]
    step_ns = INTERVAL_NS[interval]
    return [
        (start_ns, min(start_ns + step_ns, end_ns))
        for begin_ns, end_ns in session.windows
        for start_ns in range(begin_ns, end_ns, step_ns)
    ]
