"""Reads the prices and volumes of vendor rows, written as numbers or as text."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import structlog

from finsense.market.sources.faults import refuse_rows

PRICES = ("open", "high", "low", "close")

_LOG = structlog.get_logger(__name__)
_SUFFIX = {"K": 1e3, "M": 1e6, "B": 1e9}
_EMPTY = ("", "-")
_FLOAT32_NOISE = 2.0**-23


def read_prices(table: pd.DataFrame, symbol: str) -> pd.DataFrame:
    """Prices of a frame from `name_columns`: columns open, high, low, close, float64 rupees rounded to the paisa.

    Raises:
        BarsError: When a price is text that is no number.
    """
    given = pd.DataFrame({name: _numbers(table, name, symbol) for name in PRICES}, index=table.index)
    rounded = given.round(2)
    lost = (given - rounded).abs()
    beyond_noise = (lost > given * _FLOAT32_NOISE + 1e-9).to_numpy()
    if beyond_noise.any():
        _LOG.warning(
            "prices finer than a paisa were rounded",
            symbol=symbol,
            prices=int(beyond_noise.sum()),
            largest_change_rupees=float(lost.to_numpy()[beyond_noise].max()),
        )
    return rounded


def read_volume(table: pd.DataFrame, symbol: str, volume_missing: int | None) -> npt.NDArray[np.int64]:
    """Volume of a frame from `name_columns`, (n,) int64 shares; zeros where it has no volume column.

    Args:
        table: The rows.
        symbol: Whose rows they are.
        volume_missing: What an empty volume stands for; None refuses it.

    Raises:
        BarsError: When a volume is empty and `volume_missing` is None, is no number, or is no whole number.
    """
    if "volume" not in table.columns:
        return np.zeros(len(table), dtype=np.int64)
    volume = _numbers(table, "volume", symbol)
    empty = np.isnan(volume)
    shown = table.drop(columns="time_ns", errors="ignore")
    if volume_missing is None:
        advice = "set volume_missing: 0 if none is published, or leave the rows out"
        refuse_rows(empty, f"have an empty volume; {advice}", shown, symbol)
    else:
        volume = np.where(empty, float(volume_missing), volume)
    refuse_rows(
        ~(np.floor(volume) == volume) | np.isinf(volume), "have a volume that is no whole number", shown, symbol
    )
    return volume.astype(np.int64)


def _numbers(table: pd.DataFrame, name: str, symbol: str) -> npt.NDArray[np.float64]:
    """One column as (n,) float64, NaN where it is empty."""
    column = table[name]
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    text = column.astype(str).str.strip().str.replace(",", "", regex=False)
    suffix = text.str.slice(start=-1).str.upper()
    factor = suffix.map(_SUFFIX).to_numpy(dtype=np.float64, na_value=np.nan)
    scaled = ~np.isnan(factor)
    digits = text.where(~scaled, text.str.slice(stop=-1))
    numbers: npt.NDArray[np.float64] = pd.to_numeric(digits, errors="coerce").to_numpy(dtype=np.float64)
    # 186.50M is a rounded count, so its product is made whole again.
    numbers = np.where(scaled, np.round(numbers * np.where(scaled, factor, 1.0)), numbers)
    wrong = np.isnan(numbers) & ~(column.isna() | text.isin(_EMPTY)).to_numpy()
    named = f"an {name}" if name == "open" else f"a {name}"
    refuse_rows(wrong, f"have {named} that is not a number", table.drop(columns="time_ns", errors="ignore"), symbol)
    return numbers
