"""Places instants in the trading windows of sessions."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from finsense.market.calendar import TradingSession


def trading_windows(sessions: Iterable[TradingSession | None]) -> npt.NDArray[np.int64]:
    """The windows of continuous trading of sessions in time order; None is a day without one.

    Returns:
        (m, 2) int64, [start, end) of each window in ns UTC.
    """
    windows = [window for session in sessions if session is not None for window in session.windows]
    return np.array(windows, dtype=np.int64).reshape(-1, 2)


def place_in_windows(
    time_ns: npt.NDArray[np.int64], windows: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Find the window in which each instant lies.

    Args:
        time_ns: (n,) int64, ns UTC, in any order.
        windows: As from `trading_windows`.

    Returns:
        (n,) int64 ns UTC, the start of the instant's window; and (n,) bool, True where the instant lies in none (its
        start then means nothing).
    """
    if not len(windows):
        return np.zeros_like(time_ns), np.ones(len(time_ns), dtype=np.bool_)
    # Before the first window the place is -1, the last window: it starts later, so the comparison holds there too.
    place = np.searchsorted(windows[:, 0], time_ns, side="right") - 1
    start_ns, end_ns = windows[place, 0], windows[place, 1]
    return start_ns, (time_ns < start_ns) | (time_ns >= end_ns)
