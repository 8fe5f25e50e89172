"""Reads bars from CSV and Parquet files."""

import gzip
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from finsense.market.bars import Bars, BarsError
from finsense.market.sources.columns import names_symbols
from finsense.market.sources.frames import bars_from_frame
from finsense.market.sources.stamps import StampedAt

_TEXT_SUFFIXES = (".csv", ".csv.gz", ".txt", ".txt.gz")
_KNOWN_SUFFIXES = (*_TEXT_SUFFIXES, ".parquet")


class ReadingOptions(TypedDict, total=False):
    """What the stamps and numbers of a file do not tell by themselves; see `bars_from_frame`."""

    timezone: str | None
    derivatives: bool | None
    drop_outside_session: bool
    stamps: StampedAt
    volume_missing: int | None
    date_format: str | None


def read_table(path: str | Path, columns: tuple[str, ...] | None = None) -> pd.DataFrame:
    """Read a file as it is: .csv and .txt (also .gz) with text stamps, or .parquet.

    Args:
        path: The file.
        columns: Names of the columns of a text file that has no header line.

    Raises:
        BarsError: When the file is missing, of an unknown kind, or broken.
    """
    path = Path(path)
    if not path.name.lower().endswith(_KNOWN_SUFFIXES):
        raise BarsError(f"{path}: cannot read this kind of file; known are {', '.join(_KNOWN_SUFFIXES)}")
    if not path.is_file():
        raise BarsError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        return _read_text(path, columns)
    except (OSError, EOFError, ValueError) as error:
        raise BarsError(f"{path}: the file cannot be read: {error}") from error


def _read_text(path: Path, columns: tuple[str, ...] | None) -> pd.DataFrame:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        lines = [file.readline(), file.readline()]
        file.seek(0)
        if columns is not None:
            return pd.read_csv(file, header=None, names=list(columns), index_col=False)
        if lines[0].startswith("Price,") and lines[1].startswith("Ticker,"):
            # yfinance: a line of prices, a line of tickers, a line with the name of the index.
            return pd.read_csv(file, header=[0, 1], index_col=0)
        return pd.read_csv(file)


def load_bars(
    path: str | Path,
    symbol: str | None = None,
    interval: str | None = None,
    *,
    columns: tuple[str, ...] | None = None,
    **options: Unpack[ReadingOptions],
) -> Bars:
    """Read one symbol's bars from a .csv, .csv.gz, .txt, .txt.gz or .parquet file.

    Args:
        path: The file.
        symbol: Which symbol to read; may be left out where the file names exactly one.
        interval: A key of `bars.INTERVAL_NS`; left out, it is told from the stamps and logged.
        columns: Names of the columns of a text file that has no header line.
        **options: As for `bars_from_frame`.

    Raises:
        BarsError: When the file cannot be read, with the file's path before the reason.
    """
    return _bars_of(read_table(path, columns), Path(path), symbol, interval, options)


def _bars_of(
    table: pd.DataFrame, path: Path, symbol: str | None, interval: str | None, options: ReadingOptions
) -> Bars:
    try:
        return bars_from_frame(table, symbol=symbol, interval=interval, **options)
    except BarsError as error:
        raise BarsError(f"{path}: {error}") from error


class FileSource(BaseModel):
    """Bars from one file, as an experiment names it.

    Attributes:
        kind: "file".
        path: The file.
        symbols: Which symbols to read, at least one, each once.
        interval: A key of `bars.INTERVAL_NS`; None tells it from the stamps.
        timezone: Zone of stamps that carry none.
        derivatives: Whether the stocks have derivatives; None takes what is known of each symbol.
        drop_outside_session: Drop rows outside the sessions instead of refusing them.
        stamps: Whether a stamp is the bar's start or its end.
        volume_missing: Shares to put where the volume is empty; None refuses it.
        date_format: A `strptime` format for ambiguous dates.
        columns: Names of the columns of a text file without a header line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file"] = "file"
    path: Path
    symbols: tuple[str, ...] = Field(min_length=1)
    interval: Literal["1m", "3m", "5m", "10m", "15m", "30m", "60m", "1d"] | None = None
    timezone: str | None = None
    derivatives: bool | None = None
    drop_outside_session: bool = False
    stamps: StampedAt = "start"
    volume_missing: int | None = Field(default=None, ge=0)
    date_format: str | None = None
    columns: tuple[str, ...] | None = None

    @field_validator("symbols")
    @classmethod
    def _each_once(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
        if twice:
            raise ValueError(f"expected each symbol once, found {', '.join(twice)} more than once")
        return symbols

    def load(self) -> dict[str, Bars]:
        """The bars of each symbol, in the order of `symbols`.

        Raises:
            BarsError: When the file or one of the symbols cannot be read.
        """
        table = read_table(self.path, self.columns)
        if len(self.symbols) > 1 and not names_symbols(table):
            raise BarsError(
                f"{self.path}: the file names no symbols, so it holds one; found {len(self.symbols)} asked for"
            )
        options: ReadingOptions = {
            "timezone": self.timezone,
            "derivatives": self.derivatives,
            "drop_outside_session": self.drop_outside_session,
            "stamps": self.stamps,
            "volume_missing": self.volume_missing,
            "date_format": self.date_format,
        }
        return {symbol: _bars_of(table, self.path, symbol, self.interval, options) for symbol in self.symbols}
