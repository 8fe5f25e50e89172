"""Turns frames of known vendors into Bars, and refuses what cannot be read without a guess."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import structlog

from finsense.market.bars import INTERVAL_NS, IST_OFFSET_NS, Bars, BarsError, day_date, ist_text, session_day
from finsense.market.calendar import DAY_NS, nse_calendar
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.instruments import instrument
from finsense.market.sources.columns import FrameLike, name_columns, pick_symbol
from finsense.market.sources.faults import refuse_rows
from finsense.market.sources.numbers import PRICES, read_prices, read_volume
from finsense.market.sources.stamps import (
    Instants,
    StampedAt,
    check_interval,
    daily_openings,
    infer_interval,
    read_stamps,
    session_windows,
    start_from_end,
)
from finsense.market.windows import place_in_windows

_LOG = structlog.get_logger(__name__)


def bars_from_frame(
    frame: FrameLike,
    *,
    symbol: str | None = None,
    interval: str | None = None,
    timezone: str | None = None,
    derivatives: bool | None = None,
    drop_outside_session: bool = False,
    stamps: StampedAt = "start",
    volume_missing: int | None = None,
    date_format: str | None = None,
) -> Bars:
    """Read one symbol's bars from a frame in any of the known spellings.

    Prices are rounded to the paisa (vendors store 1215.85 as 1215.8499755859375); what is lost beyond the noise of a
    32-bit float is logged. Rows that repeat another one exactly are dropped and logged; a frame that runs strictly
    backwards is turned round. A frame without a volume column gets volume 0.

    Args:
        frame: A DataFrame, or the list of dicts that Kite's `historical_data` returns.
        symbol: Which symbol to read; may be left out where the frame names exactly one.
        interval: A key of `bars.INTERVAL_NS`; left out, it is told from the stamps and logged.
        timezone: Zone of stamps that carry none, e.g. "Asia/Kolkata"; dates without a time of day need none.
        derivatives: Whether the stock has derivatives; left out, what is known of the symbol.
        drop_outside_session: Drop (and log) rows outside the exchange's sessions instead of refusing them.
        stamps: Whether a stamp is the bar's "start" or its "end"; daily bars are dated either way.
        volume_missing: Shares to put where the volume is empty; left out, an empty volume is refused.
        date_format: A `strptime` format, for dates such as 02-03-2009 that the data alone leave ambiguous.

    Raises:
        BarsError: When the frame cannot be read without a guess, or the bars do not pass the checks of `Bars`.
    """
    symbol, table = pick_symbol(name_columns(frame, symbol), symbol)
    instants = read_stamps(table, symbol, timezone, date_format)
    if drop_outside_session:
        table, instants = _known_days(table, instants, symbol)
    if interval is None:
        interval = infer_interval(instants, symbol)
        _LOG.info("interval told from the stamps", symbol=symbol, interval=interval)
    if interval not in INTERVAL_NS:
        raise BarsError(f"{symbol}: unknown interval {interval!r}; known are {', '.join(INTERVAL_NS)}")
    check_interval(instants, interval, symbol)
    if derivatives is None:
        derivatives = instrument(symbol).derivatives
    if interval == "1d":
        time_ns, outside = daily_openings(instants.time_ns, symbol)
    else:
        windows = session_windows(instants.time_ns, symbol, derivatives)
        time_ns = instants.time_ns if stamps == "start" else start_from_end(instants.time_ns, interval, windows)
        _, outside = place_in_windows(time_ns, windows)
    table = table.assign(time_ns=time_ns)
    if outside.any():
        table = _inside_sessions(table, outside, symbol, bool(derivatives), drop_outside_session)
    prices = read_prices(table, symbol)
    rows = prices.assign(time_ns=table["time_ns"], volume=read_volume(table, symbol, volume_missing))
    if "volume" not in table.columns:
        _LOG.info("the data have no volume column: every bar has volume 0", symbol=symbol)
    known = [name for name in EXTRA_FIELDS if name in table.columns]
    rows = rows.assign(**{name: table[name] for name in known})
    rows = _one_row_per_time(rows, table, symbol, interval)
    columns: dict[str, Any] = {name: rows[name].to_numpy() for name in ("time_ns", *PRICES, "volume")}
    extra = {name: _numbers(rows[name], symbol) for name in known}
    return Bars(symbol, interval, **columns, derivatives=derivatives, extra=extra)


def _known_days(table: pd.DataFrame, instants: Instants, symbol: str) -> tuple[pd.DataFrame, Instants]:
    """The rows of the days that the calendar knows; of an index many decades before are kept by some vendors."""
    begin_ns = session_day(nse_calendar().first_date) * DAY_NS - IST_OFFSET_NS
    early = instants.time_ns < begin_ns
    if not early.any():
        return table, instants
    if early.all():
        raise BarsError(
            f"{symbol}: all {len(table)} rows lie before {nse_calendar().first_date}, where the calendar begins"
        )
    _LOG.warning(
        "rows before the calendar begins dropped",
        symbol=symbol,
        rows=int(early.sum()),
        calendar=str(nse_calendar().first_date),
    )
    return table.loc[~early], Instants(instants.time_ns[~early], instants.dates_only)


def _numbers(column: pd.Series, symbol: str) -> npt.NDArray[np.float64]:
    try:
        return column.to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise BarsError(f"{symbol}: {column.name} must hold numbers: {error}") from error


def _inside_sessions(
    table: pd.DataFrame, outside: npt.NDArray[np.bool_], symbol: str, derivatives: bool, drop: bool
) -> pd.DataFrame:
    first_ns = int(table["time_ns"].to_numpy()[outside][0])
    hours = _hours(first_ns, derivatives)
    if not drop:
        advice = "set stamps: end if the vendor stamps a bar at its end, drop_outside_session: true to leave them out"
        what = f"lie outside the exchange's sessions ({hours}); {advice}"
        refuse_rows(outside, what, table.drop(columns="time_ns"), symbol)
    _LOG.warning(
        "rows outside the sessions dropped", symbol=symbol, rows=int(outside.sum()), first_start=ist_text(first_ns)
    )
    if outside.all():
        raise BarsError(f"{symbol}: all {len(table)} rows lie outside the exchange's sessions ({hours})")
    return table.loc[~outside]


def _hours(time_ns: int, derivatives: bool) -> str:
    day = day_date((time_ns + IST_OFFSET_NS) // DAY_NS)
    session = nse_calendar().session(day, derivatives=derivatives)
    if session is None:
        return f"{day:%A} {day} is no trading day: {nse_calendar().closed_reason(day)}"
    spans = ", ".join(f"{ist_text(start)[11:16]}-{ist_text(end)[11:16]}" for start, end in session.windows)
    return f"{day} trades {spans} IST"


def _one_row_per_time(rows: pd.DataFrame, table: pd.DataFrame, symbol: str, interval: str) -> pd.DataFrame:
    repeats = rows.duplicated().to_numpy()
    if repeats.any():
        first = ist_text(int(rows["time_ns"].to_numpy()[repeats][0]))
        _LOG.warning("rows that repeat another one dropped", symbol=symbol, rows=int(repeats.sum()), first=first)
    kept = rows.loc[~repeats]
    clash = kept.duplicated("time_ns", keep=False).to_numpy()
    advice = "daily bars have one row per date" if interval == "1d" else "keep one row per time"
    given = table.loc[~repeats].drop(columns="time_ns")
    refuse_rows(clash, f"share their time with a row that says otherwise; {advice}", given, symbol)
    if len(kept) > 1 and (np.diff(kept["time_ns"].to_numpy()) < 0).all():
        _LOG.info("rows ran from the newest to the oldest and were turned round", symbol=symbol, rows=len(kept))
        kept = kept.iloc[::-1]
    return kept
