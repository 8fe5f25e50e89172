"""Round trips out of fills: what each trade earned, exact to the paisa, and what the trades say together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class TradesError(ValueError):
    """Fills that cannot be read as trades."""


@dataclass(frozen=True, slots=True)
class Trade:
    """One round trip, from flat to flat; a fill that turns the position around ends one and begins the next.

    An open trade is valued as if the rest were sold at the last close without charges.

    Attributes:
        entry_time_ns: start of the bar of the first fill (ns UTC); fills happen at a bar's open.
        exit_time_ns: start of the bar of the last fill; of the last bar while the trade is open.
        direction: 1 long, -1 short.
        quantity_max: the largest position during the trade, in shares, without sign.
        entry_price_paise: quantity-weighted average of the fills that opened or enlarged the position.
        exit_price_paise: the same of those that reduced it (and of the last close while the trade is open).
        gross_paise: gain before charges.
        charges_paise: charges of its fills; those of a turning fill are shared out by quantity.
        net_paise: gross less charges.
        bars_held: bars from the open of the entry to the open of the exit (to the last close while open).
        open: whether shares are still held after the last bar.
    """

    entry_time_ns: int
    exit_time_ns: int
    direction: int
    quantity_max: int
    entry_price_paise: float
    exit_price_paise: float
    gross_paise: int
    charges_paise: int
    net_paise: int
    bars_held: int
    open: bool


class _RoundTrip:
    """The books of the trade that is being built, in Python integers (no overflow)."""

    __slots__ = ("bar", "charges", "direction", "entered", "entry_value", "exit_value", "position", "quantity_max")

    def __init__(self, bar: int, direction: int) -> None:
        self.bar = bar
        self.direction = direction
        self.position = 0
        self.quantity_max = 0
        self.entered = 0
        self.entry_value = 0
        self.exit_value = 0
        self.charges = 0

    def enter(self, quantity: int, price_paise: int, charges_paise: int) -> None:
        self.position += quantity
        self.quantity_max = max(self.quantity_max, self.position)
        self.entered += quantity
        self.entry_value += quantity * price_paise
        self.charges += charges_paise

    def leave(self, quantity: int, price_paise: int, charges_paise: int) -> None:
        self.position -= quantity
        self.exit_value += quantity * price_paise
        self.charges += charges_paise

    def trade(self, entry_time_ns: int, exit_time_ns: int, bars_held: int, *, still_open: bool) -> Trade:
        gross = self.direction * (self.exit_value - self.entry_value)
        return Trade(
            entry_time_ns=entry_time_ns,
            exit_time_ns=exit_time_ns,
            direction=self.direction,
            quantity_max=self.quantity_max,
            entry_price_paise=self.entry_value / self.entered,
            exit_price_paise=self.exit_value / self.entered,
            gross_paise=gross,
            charges_paise=self.charges,
            net_paise=gross - self.charges,
            bars_held=bars_held,
            open=still_open,
        )


def round_trips(
    *,
    time_ns: NDArray[np.int64],
    close_paise: NDArray[np.int64],
    fill_bar: NDArray[np.int64],
    fill_quantity: NDArray[np.int64],
    fill_price_paise: NDArray[np.int64],
    fill_charges_paise: NDArray[np.int64],
) -> tuple[Trade, ...]:
    """The trades of an account that starts flat, in order of entry; at most the last one is open.

    The sum of their `net_paise` is exactly what the account gained, the open position marked at the last close.

    Args:
        time_ns: (n,) int64, start of each bar, ns UTC.
        close_paise: (n,) int64, close of each bar.
        fill_bar: (m,) int64, the bar at whose open each fill happened, never falling.
        fill_quantity: (m,) int64, shares, negative for a sale, never 0.
        fill_price_paise: (m,) int64.
        fill_charges_paise: (m,) int64, all charges of the fill, the depository's included.

    Raises:
        TradesError: arrays of different length, a fill of 0 shares, or fills that are not in order of the bars.
    """
    _check_fills(len(time_ns), fill_bar, fill_quantity, fill_price_paise, fill_charges_paise)
    times: list[int] = time_ns.tolist()
    trades: list[Trade] = []
    current: _RoundTrip | None = None
    rows = zip(
        fill_bar.tolist(),
        fill_quantity.tolist(),
        fill_price_paise.tolist(),
        fill_charges_paise.tolist(),
        strict=True,
    )
    for bar, signed, price, charges in rows:
        direction, quantity = (1, signed) if signed > 0 else (-1, -signed)
        if current is not None and direction != current.direction:
            closing = min(quantity, current.position)
            closing_charges = charges * closing // quantity
            current.leave(closing, price, closing_charges)
            quantity -= closing
            charges -= closing_charges
            if current.position == 0:
                trades.append(current.trade(times[current.bar], times[bar], bar - current.bar, still_open=False))
                current = None
        if quantity:
            if current is None:
                current = _RoundTrip(bar, direction)
            current.enter(quantity, price, charges)
    if current is not None:
        current.leave(current.position, int(close_paise[-1]), 0)
        trades.append(current.trade(times[current.bar], times[-1], len(times) - current.bar, still_open=True))
    return tuple(trades)


def _check_fills(bars: int, fill_bar: NDArray[np.int64], quantity: NDArray[np.int64], *rest: NDArray[np.int64]) -> None:
    lengths = [len(fill_bar), len(quantity), *(len(column) for column in rest)]
    if len(set(lengths)) != 1:
        raise TradesError(f"fills need bar, quantity, price and charges of one length, found lengths {lengths}")
    wrong = (quantity == 0) | (fill_bar < 0) | (fill_bar >= bars)
    wrong[1:] |= np.diff(fill_bar) < 0
    if wrong.any():
        rows = np.flatnonzero(wrong)
        found = ", ".join(f"fill {row}: bar {fill_bar[row]}, quantity {quantity[row]}" for row in rows[:3])
        raise TradesError(
            f"{len(rows)} fills are out of order, outside the {bars} bars, or of 0 shares ({found}); "
            "pass the fills in the order of their bars and leave out those of 0 shares"
        )


def closed_net_paise(trades: Sequence[Trade]) -> NDArray[np.int64]:
    """(k,) int64: net gain in paise of each closed trade; the open one has not decided yet."""
    return np.array([trade.net_paise for trade in trades if not trade.open], dtype=np.int64)


def win_rate(net_paise: NDArray[np.int64]) -> float:
    """Share of trades that gained after charges; NaN without trades."""
    return float(np.mean(net_paise > 0)) if len(net_paise) else math.nan


def profit_factor(net_paise: NDArray[np.int64]) -> float:
    """What the winners gained over what the losers lost, after charges.

    inf where no trade lost and at least one won (JSON: null); NaN where none won or lost.
    """
    won = int(net_paise[net_paise > 0].sum())
    lost = -int(net_paise[net_paise < 0].sum())
    if lost == 0:
        return math.inf if won > 0 else math.nan
    return won / lost


def expectancy_rupees(net_paise: NDArray[np.int64]) -> float:
    """Average gain of a trade after charges, in rupees; NaN without trades."""
    return int(net_paise.sum()) / len(net_paise) / 100.0 if len(net_paise) else math.nan
