"""NSE cash charges of a Zerodha resident individual: the dated schedule and the compiled per-order form.

Everything is integer: values and charges in paise, rates in units of 1e-9 of value ("nano": STT 0.1 % = 1_000_000).
The per-order form rounds each line half-up to the paisa on the order's own value, so that an order is priced alone, at
once, the same on every path. The exact contract note rounds per scrip-day and taxes the day's average price:
`finsense.market.contract_note`. For a day of intraday orders the two differ by rounding plus 0.0125 % of the day's
gross profit (STT on the sale value here, on the average price there); tests/test_contract_note.py proves the bound.

Not modelled: the 40 rupee brokerage of a debit-funded account (since 1 Apr 2026), auto square-off fees, the lower DP
charge of a woman first holder. Held at today's value over the whole table, for want of a dated source: the DP charge
(13.50 + GST was printed until at least March 2024), the SEBI fee (halved until March 2021), the GST base (the SEBI fee
joined it between January 2022 and January 2023).
"""

import csv
from bisect import bisect_right
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

SCHEDULE = np.dtype(
    [
        ("brokerage_rate_intraday_nano", np.int64),  # per executed order; delivery brokerage is 0
        ("brokerage_cap_paise", np.int64),
        ("stt_delivery_nano", np.int64),  # on both sides
        ("stt_intraday_sell_nano", np.int64),
        ("exchange_txn_nano", np.int64),
        ("ipft_nano", np.int64),
        ("sebi_nano", np.int64),
        ("stamp_delivery_buy_nano", np.int64),
        ("stamp_intraday_buy_nano", np.int64),
        ("gst_nano", np.int64),  # of brokerage + exchange_txn + sebi; IPFT carries none
        ("dp_paise", np.int64),  # per scrip and day of delivery sale, GST inside; the account adds it, not the order
    ],
    align=True,
)
"""One period's rates; the fields are the columns of nse_charges.csv."""

LINES = ("brokerage", "stt", "exchange_txn", "ipft", "sebi", "stamp_duty", "gst")
"""The names of what `charge_lines` returns, in order."""

MAX_SCALE = 10
# 1e12 paise (1000 crore rupees) x the highest rate (STT 1e6) x MAX_SCALE = 1e19 < 2**64.
MAX_ORDER_VALUE_PAISE = 10**12

_NANO = np.uint64(1_000_000_000)
_HALF_NANO = np.uint64(500_000_000)


class CostError(ValueError):
    """A trade cannot be priced: no schedule for its date, or a value outside the exact range."""


@cache
def _table() -> tuple[tuple[date, ...], NDArray[Any]]:
    with files("finsense.market.data").joinpath("nse_charges.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    first_days = tuple(date.fromisoformat(row["valid_from"]) for row in rows)
    if list(first_days) != sorted(set(first_days)):
        raise CostError("nse_charges.csv: expected strictly ascending valid_from")
    rates = np.array([tuple(int(row[field]) for field in SCHEDULE.names or ()) for row in rows], dtype=SCHEDULE)
    rates.flags.writeable = False
    return first_days, rates


def schedules() -> NDArray[Any]:
    """The dated rates, oldest first.

    Returns:
        Array (periods,) of dtype SCHEDULE, read-only.
    """
    return _table()[1]


def schedule_index(trade_date: date) -> int:
    """The row of `schedules()` in force on a trade date.

    Raises:
        CostError: The date lies before the first row.
    """
    first_days = _table()[0]
    index = bisect_right(first_days, trade_date) - 1
    if index < 0:
        raise CostError(
            f"no charges are known for {trade_date}: the schedule starts on {first_days[0]}. "
            f"Set costs.as_of to price every trade with one date's rates, for example {first_days[-1]} (the newest)"
        )
    return index


def check_order_value(quantity: int, price_paise: int) -> None:
    """Refuse at the edge what the compiled form cannot price exactly; the kernel itself never checks.

    Raises:
        CostError: A non-positive price, or a value above MAX_ORDER_VALUE_PAISE.
    """
    if price_paise <= 0:
        raise CostError(f"expected a positive price, found {price_paise} paise")
    value_paise = abs(int(quantity)) * int(price_paise)
    if value_paise > MAX_ORDER_VALUE_PAISE:
        raise CostError(
            f"expected an order value of at most {MAX_ORDER_VALUE_PAISE} paise, found {value_paise}: split the order"
        )


@njit(cache=True)
def _part(value_paise, rate_nano):  # type: ignore[no-untyped-def]
    # Unsigned: the division by a constant becomes a multiplication, and the product may use all 64 bits.
    return np.int64((np.uint64(value_paise) * np.uint64(rate_nano) + _HALF_NANO) // _NANO)


@njit(cache=True)
def charge_lines(schedule, intraday, quantity, price_paise):  # type: ignore[no-untyped-def]
    """The charges of one executed order, each rounded half-up to the paisa on this order's value.

    Args:
        schedule: One record of dtype SCHEDULE.
        intraday: True for an intraday product (MIS), False for delivery (CNC).
        quantity: Signed int64 shares, + buy, - sell; 0 costs nothing.
        price_paise: int64 price per share; |quantity| * price_paise <= MAX_ORDER_VALUE_PAISE (`check_order_value`).

    Returns:
        Seven int64 paise in the order of LINES. The DP charge is not among them: it belongs to the day.
    """
    value = np.int64(abs(quantity)) * np.int64(price_paise)
    # 0/1 factors instead of branches: the direction of an order is what a processor guesses worst.
    day, buy = np.int64(bool(intraday)), np.int64(quantity > 0)
    overnight, sell = np.int64(1) - day, np.int64(1) - buy
    brokerage = min(_part(value, day * schedule["brokerage_rate_intraday_nano"]), schedule["brokerage_cap_paise"])
    stt = _part(value, overnight * schedule["stt_delivery_nano"] + day * sell * schedule["stt_intraday_sell_nano"])
    exchange_txn = _part(value, schedule["exchange_txn_nano"])
    ipft = _part(value, schedule["ipft_nano"])
    sebi = _part(value, schedule["sebi_nano"])
    stamp_rate = overnight * schedule["stamp_delivery_buy_nano"] + day * schedule["stamp_intraday_buy_nano"]
    stamp_duty = _part(value, buy * stamp_rate)
    gst = _part(brokerage + exchange_txn + sebi, schedule["gst_nano"])
    return brokerage, stt, exchange_txn, ipft, sebi, stamp_duty, gst


@njit(cache=True)
def order_charges(schedule, intraday, quantity, price_paise):  # type: ignore[no-untyped-def]
    """The sum of `charge_lines` (same arguments): int64 paise, without the DP charge."""
    brokerage, stt, exchange_txn, ipft, sebi, stamp_duty, gst = charge_lines(schedule, intraday, quantity, price_paise)
    return brokerage + stt + exchange_txn + ipft + sebi + stamp_duty + gst


@njit(cache=True)
def charges_bound(schedule, quantity, price_paise):  # type: ignore[no-untyped-def]
    """int64 paise that `order_charges` and the DP charge together never exceed, at a fraction of their work.

    At the highest rates and MAX_SCALE the lines sum to less than 1/32 of the value; each may round up by half a paisa.
    """
    return (np.int64(abs(quantity)) * np.int64(price_paise) >> 5) + schedule["dp_paise"] + len(LINES)


def scaled_schedules(rates: NDArray[Any], scale: float) -> NDArray[Any]:
    """Schedules, (periods,) of dtype SCHEDULE, with every rate and amount times a scale, rounded to its unit.

    GST keeps its rate, for its base is scaled already.
    """
    scaled = rates.copy()
    for field in SCHEDULE.names or ():
        if field != "gst_nano":
            scaled[field] = np.floor(scaled[field] * scale + 0.5).astype(np.int64)
    return scaled


class ChargeRules(BaseModel):
    """Which schedule prices a trade, and how hard.

    Attributes:
        as_of: Price every trade with the rates of this date: for bars older than the table, or to judge old bars at
            today's cost. None: the rates of the trade's own date.
        scale: Multiplies every charge (a stress test), DP and brokerage cap included; 0 is a market without charges.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: date | None = None
    scale: float = Field(default=1.0, ge=0.0, le=MAX_SCALE, allow_inf_nan=False)

    def schedule_index(self, trade_date: date) -> int:
        """The row of `schedules()` that prices a trade of this date.

        Raises:
            CostError: No schedule is known for the date that counts.
        """
        return schedule_index(trade_date if self.as_of is None else self.as_of)

    def schedules(self) -> NDArray[Any]:
        """The dated rates with the scale inside (`scaled_schedules`), so that no kernel has to know of it.

        Returns:
            Array (periods,) of dtype SCHEDULE, read-only.
        """
        if self.scale == 1.0:
            return schedules()
        scaled = scaled_schedules(schedules(), self.scale)
        scaled.flags.writeable = False
        return scaled
