"""Reads bars, and the series that stand beside them, from CSV and Parquet files."""

import gzip
from pathlib import Path
from typing import Literal, Self, TypedDict, Unpack

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from finsense.market.bars import Bars, BarsError
from finsense.market.references import with_references
from finsense.market.sources.columns import names_symbols
from finsense.market.sources.frames import bars_from_frame
from finsense.market.sources.stamps import StampedAt

_TEXT_SUFFIXES = (".csv", ".csv.gz", ".txt", ".txt.gz")
_KNOWN_SUFFIXES = (*_TEXT_SUFFIXES, ".parquet")

Interval = Literal["1m", "3m", "5m", "10m", "15m", "30m", "60m", "1d"]


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


class ReferenceFile(BaseModel):
    """One series that stands beside the bars, as an experiment names it; of its prices only the close is taken.

    Attributes:
        path: The file.
        symbol: Which symbol to read, e.g. "NIFTY 50"; may be left out where the file names exactly one.
        interval: A key of `bars.INTERVAL_NS`, not always that of the bars; None tells it from the stamps.
        timezone: Zone of stamps that carry none.
        derivatives: Whether the series trades the hours of a stock with derivatives; an index does not.
        drop_outside_session: Drop rows outside the sessions instead of refusing them.
        stamps: Whether a stamp is the bar's start or its end.
        date_format: A `strptime` format for ambiguous dates.
        columns: Names of the columns of a text file without a header line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    symbol: str | None = None
    interval: Interval | None = None
    timezone: str | None = None
    derivatives: bool | None = None
    drop_outside_session: bool = False
    stamps: StampedAt = "start"
    date_format: str | None = None
    columns: tuple[str, ...] | None = None

    def load(self) -> Bars:
        """The bars of the series; an empty volume, as indices have it, is 0.

        Raises:
            BarsError: When the file cannot be read.
        """
        options = _options(self, volume_missing=0)
        return load_bars(self.path, self.symbol, self.interval, columns=self.columns, **options)


class References(BaseModel):
    """The series that stand beside the bars: what indicators of the market, the sector and the fear gauge read.

    Attributes:
        index: The market's index.
        sector: For each symbol the index of its sector; every symbol of the bars or none.
        vix: India VIX.
        missing_sessions: How many sessions of the bars each series may lack; its last close before stands there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: ReferenceFile | None = None
    sector: dict[str, ReferenceFile] | None = None
    vix: ReferenceFile | None = None
    missing_sessions: int = Field(default=0, ge=0)

    def beside(self, markets: dict[str, Bars]) -> dict[str, Bars]:
        """The bars of each symbol, knowing the closes of the series.

        Raises:
            BarsError: When a file cannot be read, or a series does not fit the bars.
        """
        index = None if self.index is None else self.index.load()
        vix = None if self.vix is None else self.vix.load()
        sectors = {symbol: file.load() for symbol, file in (self.sector or {}).items()}
        return {
            symbol: with_references(
                bars, index=index, sector=sectors.get(symbol), vix=vix, missing_sessions=self.missing_sessions
            )
            for symbol, bars in markets.items()
        }


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
        references: Series that stand beside the bars, each in a file of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file"] = "file"
    path: Path
    symbols: tuple[str, ...] = Field(min_length=1)
    interval: Interval | None = None
    timezone: str | None = None
    derivatives: bool | None = None
    drop_outside_session: bool = False
    stamps: StampedAt = "start"
    volume_missing: int | None = Field(default=None, ge=0)
    date_format: str | None = None
    columns: tuple[str, ...] | None = None
    references: References | None = None

    @field_validator("symbols")
    @classmethod
    def _each_once(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
        if twice:
            raise ValueError(f"expected each symbol once, found {', '.join(twice)} more than once")
        return symbols

    @model_validator(mode="after")
    def _a_sector_for_every_symbol(self) -> Self:
        sector = None if self.references is None else self.references.sector
        if sector is not None and set(sector) != set(self.symbols):
            more, less = sorted(set(sector) - set(self.symbols)), sorted(set(self.symbols) - set(sector))
            found = f"lists {', '.join(more)}, which is not among the symbols" if more else f"lacks {', '.join(less)}"
            raise ValueError(f"references.sector names one series for each symbol, but {found}")
        return self

    def load(self) -> dict[str, Bars]:
        """The bars of each symbol, in the order of `symbols`, with the series beside them.

        Raises:
            BarsError: When a file or one of the symbols cannot be read, or a series does not fit the bars.
        """
        table = read_table(self.path, self.columns)
        if len(self.symbols) > 1 and not names_symbols(table):
            raise BarsError(
                f"{self.path}: the file names no symbols, so it holds one; found {len(self.symbols)} asked for"
            )
        options = _options(self, volume_missing=self.volume_missing)
        markets = {symbol: _bars_of(table, self.path, symbol, self.interval, options) for symbol in self.symbols}
        return markets if self.references is None else self.references.beside(markets)


def _options(file: FileSource | ReferenceFile, volume_missing: int | None) -> ReadingOptions:
    return {
        "timezone": file.timezone,
        "derivatives": file.derivatives,
        "drop_outside_session": file.drop_outside_session,
        "stamps": file.stamps,
        "volume_missing": volume_missing,
        "date_format": file.date_format,
    }
