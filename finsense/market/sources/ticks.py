"""Reads recorded ticks from tables, one symbol each."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finsense.market.bars import BarsError
from finsense.market.order_book import DEPTH_LEVELS, Depth, Level
from finsense.market.sources.faults import refuse_rows
from finsense.market.sources.stamps import read_stamps
from finsense.market.ticks import Tick

# Spellings of a recording's columns, the preferred one first. Vendors: Kite's stream and our own recordings.
_STAMPS = ("exchange_timestamp", "timestamp", "ts", "datetime", "time")
_PRICES = ("last_price", "ltp")
_VOLUMES = ("volume_traded", "volume")


def ticks_from_frame(frame: pd.DataFrame, symbol: str, *, timezone: str | None = None) -> Iterator[Tick]:
    """The rows of a recording as ticks, in the order of the rows.

    Columns: a stamp (`time_ns` in ns UTC, or text or datetimes under exchange_timestamp, timestamp, ts, datetime or
    time), last_price or ltp, and where there are such volume_traded or volume (of the day so far) and the book as
    bid_price_1, bid_quantity_1, ask_price_1, ask_quantity_1 to _5 (from the best level on). Empty cells of the volume
    are ticks without one, empty quantities are empty levels. An empty price is left for the aggregator to count.

    Args:
        frame: Ticks of one symbol.
        symbol: Whose ticks they are.
        timezone: Zone of stamps that carry none, e.g. "Asia/Kolkata".

    Raises:
        BarsError: When a column is missing, or cells hold what cannot be read.
    """
    stamp, price = _column(frame, _STAMPS), _column(frame, _PRICES)
    if price is None or (stamp is None and "time_ns" not in frame.columns):
        wanted = f"time_ns or one of {', '.join(_STAMPS)}; one of {', '.join(_PRICES)}"
        raise BarsError(f"{symbol}: expected the columns {wanted}, found {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise BarsError(f"{symbol}: the recording holds no ticks")
    table = frame.reset_index(drop=True)
    if "time_ns" in table.columns:
        times = _whole_numbers(table, "time_ns", symbol)
        refuse_rows(np.array([time is None for time in times]), "have no time_ns", table, symbol)
    else:
        times = read_stamps(table.rename(columns={stamp: "stamp"}), symbol, timezone, None).time_ns.tolist()
    volume = _column(table, _VOLUMES)
    volumes = repeat(None) if volume is None else _whole_numbers(table, volume, symbol)
    books = _books(table, symbol) if {"bid_price_1", "ask_price_1"} <= set(table.columns) else repeat(None)
    return map(Tick, times, _numbers(table, price, symbol).tolist(), volumes, books)


def _column(frame: pd.DataFrame, spellings: tuple[str, ...]) -> str | None:
    return next((spelling for spelling in spellings if spelling in frame.columns), None)


def _numbers(table: pd.DataFrame, name: str, symbol: str) -> NDArray[np.float64]:
    """One column as (n,) float64, NaN where it is empty."""
    numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    refuse_rows(np.isnan(numbers) & table[name].notna().to_numpy(), f"have a {name} that is no number", table, symbol)
    return numbers


def _whole_numbers(table: pd.DataFrame, name: str, symbol: str) -> list[Any]:
    """One column as Python integers, None where it is empty."""
    if pd.api.types.is_integer_dtype(table[name].dtype) and not table[name].hasnans:
        # Not by way of float64, which ends at 2**53: that is less than a stamp in ns.
        return table[name].tolist()
    numbers = _numbers(table, name, symbol)
    empty = np.isnan(numbers)
    refuse_rows(~empty & (np.floor(numbers) != numbers), f"have a {name} that is no whole number", table, symbol)
    return [None if gone else int(number) for gone, number in zip(empty.tolist(), numbers.tolist(), strict=True)]


def _books(table: pd.DataFrame, symbol: str) -> Iterator[Depth | None]:
    """One book per row; None where a row has no quantity at all."""
    for bids, asks in zip(_side(table, "bid", symbol), _side(table, "ask", symbol), strict=True):
        yield Depth(bids, asks) if any(level.quantity for level in (*bids, *asks)) else None


def _side(table: pd.DataFrame, side: str, symbol: str) -> list[tuple[Level, ...]]:
    """The levels of one side, one tuple per row; an empty level is one of no quantity."""
    columns = []
    for number in range(1, DEPTH_LEVELS + 1):
        price, quantity = f"{side}_price_{number}", f"{side}_quantity_{number}"
        if {price, quantity} <= set(table.columns):
            quantities = [count or 0 for count in _whole_numbers(table, quantity, symbol)]
            refuse_rows(np.array(quantities) < 0, f"have a {quantity} below 0", table, symbol)
            # Not NaN: a tick that holds one would not be equal to itself sent again.
            prices = np.nan_to_num(_numbers(table, price, symbol)).tolist()
            columns.append(map(Level, prices, quantities))
    return list(zip(*columns, strict=True))
