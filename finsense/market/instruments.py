"""Describe what is traded: derivatives membership, lot, price band and the dated tick table of NSE cash equity."""

import csv
import datetime as dt
import io
from dataclasses import dataclass
from functools import cache
from importlib import resources

# Stocks with derivatives have a dynamic band that starts at 10 % of the previous close and widens during the day;
# the others a fixed daily band, 20 % unless the exchange narrowed it. Source: NSE/FAOP/62241, SEBI of 24 May 2024.
DERIVATIVES_PRICE_BAND = 0.10
FIXED_PRICE_BAND = 0.20

_SIMULATED_PREFIX = "SIM"

# (first date, ((reference close in paise up to and including, tick in paise), ...)), newest first; None = no limit.
# "Below Rs 250" is written as up to 249.99 because closes are whole paise.
# Source: NSE circulars on tick size effective 10 Jun 2024 and 15 Apr 2025, as published by brokers.
_TICKS: tuple[tuple[dt.date, tuple[tuple[int | None, int], ...]], ...] = (
    (
        dt.date(2025, 4, 15),
        ((24_999, 1), (100_000, 5), (500_000, 10), (1_000_000, 50), (2_000_000, 100), (None, 500)),
    ),
    (dt.date(2024, 6, 10), ((24_999, 1), (None, 5))),
    (dt.date.min, ((None, 5),)),
)


class InstrumentError(ValueError):
    """An instrument or a price that cannot exist on the exchange."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One cash-equity instrument.

    Attributes:
        symbol: The exchange's trading symbol.
        derivatives: Whether futures on it are listed (it then closes in an auction since 3 Aug 2026); None = unknown.
        lot: Smallest tradable number of shares.
        price_band: Daily limit as a fraction of the previous close; None = no limit.
    """

    symbol: str
    derivatives: bool | None
    lot: int = 1
    price_band: float | None = FIXED_PRICE_BAND

    def __post_init__(self) -> None:
        """Refuse what the exchange could not list."""
        if not self.symbol or self.symbol != self.symbol.strip():
            raise InstrumentError(f"expected a trading symbol without blanks around it, found {self.symbol!r}")
        if self.lot < 1:
            raise InstrumentError(f"expected a lot of at least 1 share for {self.symbol}, found {self.lot}")
        if self.price_band is not None and not 0.0 < self.price_band < 1.0:
            raise InstrumentError(
                f"expected a price band for {self.symbol} as a fraction between 0 and 1 (0.20 is 20 %), "
                f"found {self.price_band}"
            )


def instrument(symbol: str, *, derivatives: bool | None = None, price_band: float | None = None) -> Instrument:
    """Describe a stock by its symbol, filling in what the caller leaves open.

    Args:
        symbol: The exchange's trading symbol; one that starts with SIM is a simulated stock without derivatives.
        derivatives: Whether futures on it are listed. Left open, it is True for the stocks that had futures on
            6 Apr 2024 (the list changes a few times a year) and unknown (None) for every other.
        price_band: Daily limit as a fraction of the previous close. Left open, it is 0.10 with derivatives (where
            the dynamic band starts, its later widening is not modelled) and 0.20 without or when unknown.

    Raises:
        InstrumentError: When the symbol is empty or the band is not a fraction between 0 and 1.
    """
    if derivatives is None:
        if symbol in _symbols_with_derivatives():
            derivatives = True
        elif symbol.startswith(_SIMULATED_PREFIX):
            derivatives = False
    if price_band is None:
        price_band = DERIVATIVES_PRICE_BAND if derivatives else FIXED_PRICE_BAND
    return Instrument(symbol, derivatives, price_band=price_band)


def tick_paise(date: dt.date, reference_close_paise: int) -> int:
    """Return the smallest price step of a stock on a date, int paise.

    Args:
        date: The trading day.
        reference_close_paise: Close that the exchange's review used, int paise: since 10 Jun 2024 the close of the
            last trading day of the month before. The step holds for the month, wherever the price goes meanwhile.

    Raises:
        InstrumentError: When the close is not positive.
    """
    if reference_close_paise <= 0:
        raise InstrumentError(f"expected a positive reference close in paise, found {reference_close_paise}")
    steps = next(steps for first, steps in _TICKS if date >= first)
    return next(tick for limit, tick in steps if limit is None or reference_close_paise <= limit)


@cache
def _symbols_with_derivatives() -> frozenset[str]:
    """Read the stocks that had futures on 6 Apr 2024."""
    file = resources.files("finsense.market.data").joinpath("nse_derivatives.csv")
    return frozenset(row["symbol"] for row in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
