"""Finds time, prices, volume and symbol among the column spellings of known vendors."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pandas as pd

from finsense.market.bars import BarsError
from finsense.market.extra_fields import EXTRA_FIELDS, REFERENCE_FIELDS

# Normalised spellings (lower case, letters and digits only), the preferred one first. Vendors: our cleaned Parquet
# files, Kite, Upstox, Dhan, yfinance, investing.com, and NSE's bhavcopies (the old one, the full one, UDiFF).
SPELLINGS: dict[str, tuple[str, ...]] = {
    "stamp": ("ts", "datetime", "date", "timestamp", "traddt", "tradedate", "date1", "time"),
    "clock": ("time", "timestamp"),
    "symbol": ("symbol", "ticker", "tradingsymbol", "instrument", "tckrsymb"),
    "open": ("open", "openprice", "opnpric"),
    "high": ("high", "highprice", "hghpric"),
    "low": ("low", "lowprice", "lwpric"),
    "close": ("close", "closeprice", "clspric"),
    "volume": ("volume", "vol", "tottrdqty", "totaltradedquantity", "ttltrdqnty", "ttltradgvol"),
}
_SYMBOLS_SHOWN = 30
_CLOCK = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?")
_NEEDED = ("stamp", "open", "high", "low", "close")

FrameLike = pd.DataFrame | Sequence[Mapping[str, Any]]


def name_columns(frame: FrameLike, symbol: str | None) -> pd.DataFrame:
    """Give the columns that bars need their canonical names, and leave out the others.

    Args:
        frame: A frame of one vendor, or the list of dicts of Kite's `historical_data`. A DatetimeIndex is the time.
        symbol: Picks the ticker of a frame with yfinance's column pairs (Price, Ticker).

    Returns:
        A frame with a RangeIndex and the columns stamp, clock (optional), symbol (optional), open, high, low, close,
        volume (optional) and those of EXTRA_FIELDS that it has by these very names, with the values as the vendor gave
        them.

    Raises:
        BarsError: When a needed column is missing or two columns have the same name.
    """
    table = frame if isinstance(frame, pd.DataFrame) else pd.DataFrame(list(frame))
    if table.empty:
        raise BarsError(f"{symbol or 'frame'}: no rows")
    if table.columns.nlevels > 1:
        table = _one_ticker(table, symbol)
    index_name = _normal(table.index.name)
    if isinstance(table.index, pd.DatetimeIndex) or index_name in SPELLINGS["stamp"]:
        table = table.rename_axis("ts").reset_index(allow_duplicates=True)
        table = table.loc[:, [not (_is_stamp(name) and place > 0) for place, name in enumerate(table.columns)]]
    found = {field: _find(table, spellings) for field, spellings in SPELLINGS.items()}
    if found["clock"] == found["stamp"] or not _holds_clock(table, found["clock"]):
        found["clock"] = None
    missing = [field for field in _NEEDED if found[field] is None]
    if missing:
        wanted = "; ".join(f"{field}: {', '.join(SPELLINGS[field])}" for field in missing)
        raise BarsError(
            f"{symbol or 'frame'}: no column for {', '.join(missing)} among {list(map(str, table.columns))}; "
            f"known spellings are {wanted} (a file without a header line needs columns=[...])"
        )
    places = {field: place for field, place in found.items() if place is not None}
    names = list(table.columns)
    # By their exact names only, and flow only beside `ticks`: vendors have a "Trades" of their own.
    known = EXTRA_FIELDS if "ticks" in names else REFERENCE_FIELDS
    places |= {name: names.index(name) for name in known if name in names}
    return pd.DataFrame({field: table.iloc[:, place].array for field, place in places.items()})


def pick_symbol(table: pd.DataFrame, symbol: str | None) -> tuple[str, pd.DataFrame]:
    """The name of the symbol and its rows, index labels kept, of a frame from `name_columns`.

    Raises:
        BarsError: When the symbol is not there, or none was asked for and there is not exactly one.
    """
    if "symbol" not in table.columns:
        if symbol is None:
            raise BarsError("the data name no symbol; say which one they hold with symbol=...")
        return symbol, table
    names = table["symbol"].astype(str).str.strip()
    present = sorted(names.unique())
    if symbol is None and len(present) == 1:
        symbol = present[0]
    if symbol is None or symbol not in present:
        raise BarsError(_unknown_symbol(symbol, present))
    return symbol, table.loc[(names == symbol).to_numpy()].drop(columns="symbol")


def names_symbols(table: pd.DataFrame) -> bool:
    """Whether a vendor's frame says itself which symbol each row or column belongs to."""
    return table.columns.nlevels > 1 or _find(table, SPELLINGS["symbol"]) is not None


def _one_ticker(table: pd.DataFrame, symbol: str | None) -> pd.DataFrame:
    levels = [table.columns.get_level_values(level) for level in range(table.columns.nlevels)]
    price_level = next((level for level, names in enumerate(levels) if "close" in map(_normal, names)), None)
    if len(levels) != 2 or price_level is None:
        raise BarsError(
            f"column pairs must be (Price, Ticker) as yfinance writes them, found {list(table.columns)[:5]}"
        )
    # yfinance marks NSE by .NS; finsense knows the exchange's own symbol.
    tickers = levels[1 - price_level].map(lambda ticker: str(ticker).removesuffix(".NS"))
    present = sorted({ticker for ticker in tickers if ticker})
    if symbol is None and len(present) == 1:
        symbol = present[0]
    if symbol is None or symbol not in present:
        raise BarsError(_unknown_symbol(symbol, present))
    chosen = table.loc[:, tickers == symbol]
    # A ticker that did not trade has empty rows where another one of the download did.
    return chosen.set_axis(levels[price_level][tickers == symbol], axis=1).dropna(how="all").assign(symbol=symbol)


def _unknown_symbol(symbol: str | None, present: list[str]) -> str:
    listed = ", ".join(present[:_SYMBOLS_SHOWN]) + (" ..." if len(present) > _SYMBOLS_SHOWN else "")
    if symbol is None:
        return f"the data hold {len(present)} symbols, choose one with symbol=...: {listed}"
    near = get_close_matches(symbol.upper(), present, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"no symbol {symbol} in the data{hint}; they hold {listed}"


def _find(table: pd.DataFrame, spellings: tuple[str, ...]) -> int | None:
    names = [_normal(name) for name in table.columns]
    for spelling in spellings:
        places = [place for place, name in enumerate(names) if name == spelling]
        if len(places) > 1:
            raise BarsError(f"two columns are called {spelling}: {[str(table.columns[place]) for place in places]}")
        if places:
            return places[0]
    return None


def _holds_clock(table: pd.DataFrame, place: int | None) -> bool:
    return place is not None and bool(_CLOCK.fullmatch(str(table.iloc[0, place]).strip()))


def _is_stamp(name: object) -> bool:
    return _normal(name) in SPELLINGS["stamp"]


def _normal(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
