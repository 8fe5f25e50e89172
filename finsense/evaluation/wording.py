"""Figures as people read them: rupees with lakh and crore commas, percents, dates in Indian time."""

import math

import numpy as np
from numpy.typing import NDArray

from finsense.market.calendar import IST

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
_IST_OFFSET_NS = int(IST.utcoffset(None).total_seconds()) * 1_000_000_000
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def grouped(number: int) -> str:
    """A whole number with Indian commas: 12,34,56,789."""
    digits = str(abs(number))
    head, tail = digits[:-3], digits[-3:]
    while head:
        tail = head[-2:] + "," + tail
        head = head[:-2]
    return (MINUS if number < 0 else "") + tail


def rupees(paise: int, *, signed: bool = False) -> str:
    """Paise as ₹12,34,567.89; with `signed`, gains carry a plus."""
    sign = MINUS if paise < 0 else "+" if signed and paise > 0 else ""
    whole, rest = divmod(abs(paise), 100)
    return f"{sign}₹{grouped(whole)}.{rest:02d}"


def whole_rupees(amount: float) -> str:
    """Rupees for an axis: ₹12,34,568; below ten rupees with paise."""
    sign = MINUS if amount < 0 else ""
    size = abs(amount)
    if 0 < size < 10 and size != int(size):
        return f"{sign}₹{size:.2f}"
    return f"{sign}₹{grouped(round(size))}"


def percent(fraction: float, *, places: int = 2, signed: bool = False) -> str:
    """A fraction as a percent; a dash where it is undefined."""
    if not math.isfinite(fraction):
        return MISSING
    text = f"{abs(fraction):.{places}%}"
    if fraction < 0 and text.strip("0.%"):
        return MINUS + text
    return ("+" if signed and fraction > 0 else "") + text


def decimal(number: float, places: int = 2) -> str:
    """A plain figure; a dash where it is undefined, ∞ where it has no bound."""
    if math.isnan(number):
        return MISSING
    if math.isinf(number):
        return "∞" if number > 0 else MINUS + "∞"
    text = f"{abs(number):,.{places}f}"
    return (MINUS if number < 0 and text.strip("0.,") else "") + text


def ist(time_ns: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """Instants (n,) int64 ns UTC as wall-clock time in India, (n,) datetime64[ns] without zone."""
    return (time_ns + _IST_OFFSET_NS).astype("datetime64[ns]")


def day_text(moment: np.datetime64) -> str:
    """5 Mar 2024."""
    return f"{_day(moment)} {month_text(moment)}"


def month_text(moment: np.datetime64) -> str:
    """Mar 2024."""
    return f"{MONTHS[_month(moment) - 1]} {str(moment)[:4]}"


def short_day_text(moment: np.datetime64) -> str:
    """5 Mar."""
    return f"{_day(moment)} {MONTHS[_month(moment) - 1]}"


def moment_text(moment: np.datetime64) -> str:
    """5 Mar 2024 10:15."""
    return f"{day_text(moment)} {str(moment)[11:16]}"


def _month(moment: np.datetime64) -> int:
    return int(str(moment)[5:7])


def _day(moment: np.datetime64) -> int:
    return int(str(moment)[8:10])
