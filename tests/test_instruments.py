"""Instruments: what is known of a symbol, and the tick table by date and reference close."""

import csv
import datetime as dt
import gzip
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.market.instruments import Instrument, InstrumentError, instrument, tick_paise


@pytest.mark.parametrize(
    ("symbol", "derivatives", "price_band"),
    [("RELIANCE", True, 0.10), ("TATASTEEL", True, 0.10), ("NOSUCH", None, 0.20), ("SIM1", False, 0.20)],
)
def test_what_is_known_of_a_symbol(symbol: str, derivatives: bool | None, price_band: float) -> None:
    assert instrument(symbol) == Instrument(symbol, derivatives, lot=1, price_band=price_band)


def test_the_caller_has_the_last_word() -> None:
    assert instrument("RELIANCE", derivatives=False) == Instrument("RELIANCE", False, price_band=0.20)
    assert instrument("NOSUCH", derivatives=True) == Instrument("NOSUCH", True, price_band=0.10)
    assert instrument("NOSUCH", price_band=0.05) == Instrument("NOSUCH", None, price_band=0.05)
    assert Instrument("RELIANCE", True, price_band=None).price_band is None


@pytest.mark.parametrize("price_band", [0.0, -0.1, 1.0, 20.0, float("nan")])
def test_a_band_in_percent_or_out_of_range_is_refused(price_band: float) -> None:
    with pytest.raises(InstrumentError, match="as a fraction between 0 and 1"):
        instrument("RELIANCE", price_band=price_band)


def test_impossible_symbols_and_lots_are_refused() -> None:
    for symbol in ("", " RELIANCE"):
        with pytest.raises(InstrumentError, match="expected a trading symbol"):
            instrument(symbol)
    with pytest.raises(InstrumentError, match="lot of at least 1"):
        Instrument("RELIANCE", True, lot=0)


def test_derivatives_list_is_the_stock_futures_of_the_instrument_list(shared_nse: Path) -> None:
    with gzip.open(shared_nse / "ref/kite/instruments_2024-04-06.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stocks = {row["tradingsymbol"] for row in rows if row["segment"] == "NSE"}
    futures = {row["name"] for row in rows if row["segment"] == "NFO-FUT"}
    text = resources.files("finsense.market.data").joinpath("nse_derivatives.csv").read_text(encoding="utf-8")
    listed = list(csv.DictReader(text.splitlines()))
    assert [row["symbol"] for row in listed] == sorted(futures & stocks)
    assert futures - stocks == {"BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "NIFTY"}
    assert {row["as_of"] for row in listed} == {"2024-04-06"}
    assert all(instrument(row["symbol"]).derivatives is True for row in listed)


@pytest.mark.parametrize(
    ("date", "close_rupees", "tick"),
    [
        ("2000-01-03", 10.0, 5),
        ("2024-06-07", 100.0, 5),
        ("2024-06-10", 249.95, 1),
        ("2024-06-10", 250.0, 5),
        ("2025-04-11", 30000.0, 5),
        ("2025-04-15", 249.99, 1),
        ("2025-04-15", 250.0, 5),
        ("2025-04-15", 1000.0, 5),
        ("2025-04-15", 1000.05, 10),
        ("2025-04-15", 5000.0, 10),
        ("2025-04-15", 5000.1, 50),
        ("2025-04-15", 10000.0, 50),
        ("2025-04-15", 10000.5, 100),
        ("2025-04-15", 20000.0, 100),
        ("2026-11-20", 20001.0, 500),
    ],
)
def test_tick_table(date: str, close_rupees: float, tick: int) -> None:
    assert tick_paise(dt.date.fromisoformat(date), round(close_rupees * 100)) == tick


@given(st.dates(dt.date(2000, 1, 1), dt.date(2026, 12, 31)), st.integers(1, 10**8), st.integers(1, 10**8))
def test_a_dearer_stock_never_has_a_finer_tick(date: dt.date, one: int, other: int) -> None:
    assert tick_paise(date, min(one, other)) <= tick_paise(date, max(one, other))


@pytest.mark.parametrize("close", [0, -5])
def test_a_close_that_is_not_positive_is_refused(close: int) -> None:
    with pytest.raises(InstrumentError, match="positive reference close"):
        tick_paise(dt.date(2026, 1, 1), close)
