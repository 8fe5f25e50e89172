"""Full-history values of our indicators and of the libraries they are held against, on real and simulated bars."""

import datetime as dt
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numba import njit
from numpy.typing import NDArray

from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import load_bars
from finsense.market.timeline import BAR_FIELDS, CLOSE, HIGH, LOW, OPEN, SESSION_OPENS, VOLUME, timeline
from finsense.state.foreign import call_kernel
from finsense.state.spec import Feature, StateSpec

Floats = NDArray[np.float64]

# Name -> file under the folder of `shared_nse`, symbol, interval.
REAL_MARKETS = {
    "RELIANCE 1d": ("daily/nse_daily_unadjusted.parquet", "RELIANCE", "1d"),
    "SBIN 5m": ("intraday/nse_5min.parquet", "SBIN", "5m"),
}
# Name -> interval, first day.
SIMULATED_MARKETS = {"simulated 1d": ("1d", dt.date(2014, 1, 1)), "simulated 5m": ("5m", dt.date(2023, 10, 3))}
MARKETS = (*REAL_MARKETS, *SIMULATED_MARKETS)
SIMULATED_LAST = dt.date(2023, 12, 29)


def market_rows(request: pytest.FixtureRequest, market: str) -> Floats:
    """The bars of one of `MARKETS`, (n, BAR_FIELDS) float64; skips a real one where the shared folder is absent."""
    folder = request.getfixturevalue("shared_nse") if market in REAL_MARKETS else None
    return _market_rows(market, folder)


@cache
def _market_rows(market: str, folder: Any) -> Floats:
    if folder is not None:
        path, symbol, interval = REAL_MARKETS[market]
        return rows_of(load_bars(folder / path, symbol, interval))
    interval, first = SIMULATED_MARKETS[market]
    drawn = SimulatedMarket.model_validate(
        {"model": "random_walk", "interval": interval, "first": first, "last": SIMULATED_LAST, "seed": 7}
    )
    return rows_of(drawn.load()["SIM"])


def rows_of(bars: Bars) -> Floats:
    """(n, BAR_FIELDS) float64."""
    return timeline(bars, instrument(bars.symbol, derivatives=bars.derivatives), None).rows


def frame_of(rows: Floats) -> pd.DataFrame:
    """The bars as the libraries take them: float64 columns open, high, low, close, volume."""
    fields = {"open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE, "volume": VOLUME}
    return pd.DataFrame({name: rows[:, field].copy() for name, field in fields.items()})


class Market(NamedTuple):
    """The bars as TA-Lib takes them, (n,) float64 each, and their rows."""

    rows: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def price(self, column: Floats) -> Floats:
        """A level in rupees from a column that gives it against the close."""
        return (1.0 + column) * self.close


def market_of(rows: Floats) -> Market:
    """The columns of the rows."""
    return Market(rows, *(rows[:, field].copy() for field in (HIGH, LOW, CLOSE, VOLUME)))


class Pair(NamedTuple):
    """One column and what a library gives for it.

    Attributes:
        column: its name.
        mine: (n,) float64, our column in the library's scale.
        theirs: (n,) float64, NaN before the library's first value.
        scale: the size below which a difference is measured against this: a number or (n,) float64.
    """

    column: str
    mine: Floats
    theirs: Floats
    scale: float | Floats = 0.0


# Parameters -> the pairs of an indicator on a market.
Oracle = Callable[[Market, Mapping[str, float]], list[Pair]]


def first_value(pairs: list[Pair]) -> int:
    """The first bar at which every library series has a value."""
    return max(int(np.flatnonzero(np.isfinite(pair.theirs))[0]) for pair in pairs)


def assert_agree(pairs: list[Pair], since: int, tolerance: float = 1e-9) -> None:
    """Every column agrees with the library from bar `since` on, or from the library's first value if that is later."""
    first = max(since, first_value(pairs))
    for pair in pairs:
        found = largest_difference(pair.mine, pair.theirs, first, scale=pair.scale)
        assert found <= tolerance, f"{pair.column}: differs by {found:.2e} relative"


def rows_from(close: Any, high: Any = None, low: Any = None, volume: Any = 1000.0) -> Floats:
    """(n, BAR_FIELDS) float64 of a made-up market of daily bars; without highs and lows each bar is one price."""
    closes = np.asarray(close, np.float64)
    rows = np.zeros((len(closes), BAR_FIELDS))
    rows[:, OPEN] = rows[:, CLOSE] = closes
    rows[:, HIGH] = closes if high is None else high
    rows[:, LOW] = closes if low is None else low
    rows[:, VOLUME] = volume
    rows[:, SESSION_OPENS] = 1.0
    return rows


@njit(cache=True)
def _fold(address: int, parameters: Floats, memory: Floats, rows: Floats, out: Floats) -> None:
    row_address, out_address = rows.ctypes.data, out.ctypes.data
    parameters_address, memory_address = parameters.ctypes.data, memory.ctypes.data
    for index in range(rows.shape[0]):
        row = row_address + 8 * index * rows.shape[1]
        call_kernel(address, row, parameters_address, memory_address, out_address + 8 * index * out.shape[1])


def feature_of(name: str, **parameters: float) -> Feature:
    """An indicator with its parameters, checked as YAML's are."""
    (feature,) = StateSpec.model_validate({"features": [{name: parameters}], "warmup": 100_000}).features
    return feature


def fold(rows: Floats, name: str, **parameters: float) -> Floats:
    """The compiled kernel over all bars from a clean slate, anchored at the first: (n, columns) float64."""
    feature = feature_of(name, **parameters)
    out = np.full((len(rows), len(feature.columns)), np.nan)
    memory = np.zeros(feature.indicator.memory(feature.parameters) + 1)
    constants = np.array([*feature.parameters.values(), 0.0])
    _fold(feature.indicator.address, constants, memory, np.ascontiguousarray(rows), out)
    return out


def largest_difference(found: Floats, expected: Any, since: int, *, scale: float | Floats = 0.0) -> float:
    """Largest difference from bar `since` on, relative to the expected value, or to `scale` where that is larger.

    Args:
        found: (n,) float64, in the library's own scale.
        expected: (n,) the library's values, finite from `since` on.
        since: the first bar compared.
        scale: the size below which a difference is measured against this: a number or (n,) float64.
    """
    theirs = np.asarray(expected, np.float64)[since:]
    mine = found[since:]
    assert len(mine) > 0, "nothing to compare"
    assert np.isfinite(theirs).all()
    assert np.isfinite(mine).all()
    sizes = np.maximum(np.abs(theirs), np.broadcast_to(np.asarray(scale, np.float64), found.shape)[since:])
    return float((np.abs(mine - theirs) / np.where(sizes > 0, sizes, 1.0)).max())
