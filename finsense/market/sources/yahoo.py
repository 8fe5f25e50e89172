"""Says what of Yahoo's rows may be believed: whole bars on the exchange's grid, and steps that a split explains."""

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from finsense.market.bars import INTERVAL_NS, Bars, BarsError, session_day
from finsense.market.calendar import MINUTE_NS, CalendarError, TradingSession, nse_calendar, session_date
from finsense.market.instruments import instrument
from finsense.market.sources.frames import bars_from_frame

SUFFIX = ".NS"

# The closing auction matches 15 minutes after continuous trading ends (NSE/CMTR/73362 of 18 Mar 2026), and its price is
# the day's close.
_AUCTION_NS = 15 * MINUTE_NS
_PRICES = ["Open", "High", "Low", "Close"]
# A step is a split's when it is nearer to the ratio than this share of the way (in logs) from no step to the ratio.
_NEAR = 0.35


def bar_ends(session: TradingSession, interval: str) -> dict[int, int]:
    """Start -> end of every bar of a session, ns UTC; the last of a window may be shorter than the interval.

    A daily bar ends when its close is known: after the closing auction where there is one.
    """
    if interval == "1d":
        return {session.open_ns: session.close_ns + (_AUCTION_NS if session.closing_auction else 0)}
    step = INTERVAL_NS[interval]
    return {start: min(start + step, end) for begin, end in session.windows for start in range(begin, end, step)}


@dataclass(frozen=True)
class YahooRows:
    """What one answer holds that may be believed.

    Attributes:
        bars: the whole bars; None where none was left.
        dropped: why rows were left out -> how many.
        splits: first day of the new shares -> new shares per old one, as Yahoo tells it.
        dividends: first day without the dividend -> rupees per share.
    """

    bars: Bars | None
    dropped: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[dt.date, float] = field(default_factory=dict)
    dividends: Mapping[dt.date, float] = field(default_factory=dict)


def believed_rows(
    frame: pd.DataFrame, symbol: str, interval: str, *, derivatives: bool | None, until_ns: int
) -> YahooRows:
    """Sort out a frame of yfinance's `history(auto_adjust=False, keepna=True)`.

    Left out and counted: rows with an empty price; rows off the session's grid, such as the live quote; bars that end
    after `until_ns`; rows whose prices contradict each other; repeated times (the first stays); and rows at one price
    without volume, which Yahoo puts where nothing was traded. A bar that moved but has volume 0 stays, with volume 0.

    Args:
        frame: Rows as the client gives them, stamped at their start in the exchange's zone.
        symbol: Trading symbol of the exchange, without Yahoo's suffix.
        interval: A key of `bars.INTERVAL_NS`.
        derivatives: Whether the stock has derivatives; None takes what is known of the symbol.
        until_ns: The instant up to which a bar counts as whole, ns UTC.

    Raises:
        BarsError: When the frame has no rows' times, or the calendar cannot answer for a row's day.
    """
    if not isinstance(frame.index, pd.DatetimeIndex) or frame.index.tz is None:
        raise BarsError(
            f"{symbol}: expected rows stamped with their zone, found an index of {frame.index.dtype}: the client hid "
            "an error behind an empty frame"
        )
    time_ns = frame.index.tz_convert("UTC").tz_localize(None).as_unit("ns").to_numpy().astype(np.int64)
    derivatives = instrument(symbol).derivatives if derivatives is None else derivatives
    splits, dividends = (_events(frame, column, time_ns) for column in ("Stock Splits", "Dividends"))
    ends = _ends(time_ns, symbol, interval, derivatives)
    if interval == "1d":
        time_ns = np.array([_opening(int(ns), symbol) or int(ns) for ns in time_ns], np.int64)
    end_ns = np.array([ends.get(int(ns), 0) for ns in time_ns], np.int64)
    # What the calendar and the paisa will make of the prices decides, not their noise.
    prices = frame[_PRICES].astype(np.float64).round(2)
    opens, high, low, closes = (prices[name].to_numpy() for name in _PRICES)
    kept = np.ones(len(frame), np.bool_)
    dropped: dict[str, int] = {}
    for reason, at_fault in (
        ("empty price", prices.isna().any(axis=1).to_numpy()),
        ("off the grid", end_ns == 0),
        ("still open", end_ns > until_ns),
        ("prices that contradict each other", _contradictory(opens, high, low, closes)),
        ("no trade", (frame["Volume"].to_numpy() == 0) & (high == low)),
        ("repeated time", pd.Series(time_ns).duplicated().to_numpy()),
    ):
        if count := int((kept & at_fault).sum()):
            dropped[reason] = count
        kept &= ~at_fault
    rows = frame.loc[kept, [*_PRICES, "Volume"]]
    bars = bars_from_frame(rows, symbol=symbol, interval=interval, derivatives=derivatives) if len(rows) else None
    return YahooRows(bars, dropped, splits, dividends)


def _events(frame: pd.DataFrame, column: str, time_ns: npt.NDArray[np.int64]) -> dict[dt.date, float]:
    if column not in frame.columns:
        return {}
    values = frame[column].to_numpy(np.float64, na_value=0.0)
    return {session_date(int(time_ns[row])): float(values[row]) for row in np.flatnonzero(values)}


def _session(time_ns: int, symbol: str, derivatives: bool | None) -> TradingSession | None:
    try:
        return nse_calendar().session(session_date(time_ns), derivatives=derivatives)
    except CalendarError as error:
        raise BarsError(f"{symbol}: {error}") from error


def _opening(time_ns: int, symbol: str) -> int | None:
    # The opening is the same for every stock of a day.
    session = _session(time_ns, symbol, derivatives=False)
    return None if session is None else session.open_ns


def _ends(time_ns: npt.NDArray[np.int64], symbol: str, interval: str, derivatives: bool | None) -> dict[int, int]:
    ends: dict[int, int] = {}
    for day in {session_date(int(ns)): int(ns) for ns in time_ns}.values():
        session = _session(day, symbol, derivatives)
        if session is not None:
            ends |= bar_ends(session, interval)
    return ends


def _contradictory(
    opens: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    closes: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    wrong: npt.NDArray[np.bool_] = (high < np.maximum(opens, closes)) | (low > np.minimum(opens, closes)) | (low <= 0)
    return wrong


def continuous(bars: Bars, splits: Mapping[dt.date, float]) -> tuple[Bars, dict[dt.date, float]]:
    """The bars in the shares of their last day, and by what each split's older prices were divided.

    Yahoo divides older prices by a split's ratio itself, but not always, and not always at once. So the step over each
    split tells: where the ratio is still in it, older prices are divided and older volumes multiplied by it; where it
    is not, the factor is 1. Dividends are left as they are: the account trades raw prices.

    Args:
        bars: Of one symbol.
        splits: First day of the new shares -> new shares per old one. Days outside the bars have no part.

    Raises:
        BarsError: When a step fits neither; a guess would put a false move into the state.
    """
    factors: dict[dt.date, float] = {}
    for day, ratio in sorted(splits.items()):
        place = int(np.searchsorted(bars.session_days, session_day(day)))
        if not 0 < place < len(bars):
            continue
        if not (math.isfinite(ratio) and ratio > 0):
            raise BarsError(f"{bars.symbol}: expected a split's ratio above zero on {day}, found {ratio}")
        factor = _factor(bars, place, ratio, day)
        factors[day] = factor
        if factor != 1.0:
            bars = _divided(bars, place, factor)
    return bars, factors


def _factor(bars: Bars, place: int, ratio: float, day: dt.date) -> float:
    step = math.log(bars.close[place - 1] / bars.open[place])
    whole = math.log(ratio)
    if abs(step) <= _NEAR * abs(whole) or whole == 0.0:
        return 1.0
    if abs(step - whole) <= _NEAR * abs(whole):
        return ratio
    raise BarsError(
        f"{bars.symbol}: Yahoo tells of a split of {ratio:g} new shares per old one on {day}, but the price went from "
        f"{bars.close[place - 1]:.10g} to {bars.open[place]:.10g}: expected a step of about {ratio:g} or of none; take "
        "the history from another source, adjusted by hand"
    )


def _divided(bars: Bars, place: int, factor: float) -> Bars:
    older = np.arange(len(bars)) < place
    columns = {
        name: np.where(older, getattr(bars, name) / factor, getattr(bars, name)) for name in map(str.lower, _PRICES)
    }
    volume = np.where(older, np.rint(bars.volume * factor).astype(np.int64), bars.volume)
    return replace(bars, **columns, volume=volume)
