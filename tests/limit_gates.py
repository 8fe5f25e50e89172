"""A second account of every limit, plain and exact, over many accounts at once; it shares no code with ours."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.rules import AccountRules

_MILLION = 1_000_000


class Gate:
    """Remembers what the limits of N accounts depend on, and says which orders break one.

    Args:
        account: whose limits.
        count: N.
    """

    def __init__(self, account: AccountRules, count: int) -> None:
        self._limits = account.limits
        self._balance = account.balance_paise
        self._intraday = account.product == "intraday"
        names = ("day", "start", "orders", "losses", "trip", "position", "close", "equity", "peak", "ranges")
        self._now = {name: np.zeros(count, np.int64) for name in names}
        self._average = np.zeros(count)
        self._flags = {name: np.zeros(count, np.bool_) for name in ("day", "losses", "for good", "jump", "spike")}
        self.restart(np.ones(count, np.bool_))

    def restart(self, chosen: NDArray[np.bool_]) -> None:
        """Begin anew with the balance."""
        for values in (*self._now.values(), *self._flags.values(), self._average):
            values[chosen] = 0
        for name in ("start", "equity", "peak"):
            self._now[name][chosen] = self._balance
        self._now["day"][chosen] = -1

    def close(self, books: NDArray[Any], market: NDArray[Any]) -> None:
        """Take the books (dtype ACCOUNT) as they are marked at the close of a bar (dtype MARKET)."""
        now, flags, limits = self._now, self._flags, self._limits
        opens = now["day"] != market["day"]
        now["day"] = market["day"].astype(np.int64)
        now["start"][opens] = now["equity"][opens]
        for name in ("orders", "losses"):
            now[name][opens] = 0
        flags["day"][opens] = flags["losses"][opens] = False
        for kind in ("fill", "stop_fill"):
            self._fill(*(books[f"{kind}_{name}"] for name in ("quantity", "price_paise", "charges_paise")))
        now["equity"] = books["equity_paise"].copy()
        now["peak"] = np.maximum(now["peak"], now["equity"])
        if limits.max_daily_loss is not None:
            flags["day"] |= (now["start"] - now["equity"]) * _MILLION >= now["start"] * _ppm(limits.max_daily_loss)
        if limits.max_drawdown is not None:
            flags["for good"] |= (now["peak"] - now["equity"]) * _MILLION >= now["peak"] * _ppm(limits.max_drawdown)
        if limits.max_consecutive_losses is not None:
            flags["losses"] |= now["losses"] >= limits.max_consecutive_losses
        self._quiet(market)

    def _fill(self, quantity: NDArray[np.int64], price: NDArray[np.int64], charges: NDArray[np.int64]) -> None:
        now = self._now
        held = now["position"]
        closing = np.where(held * quantity < 0, np.minimum(np.abs(quantity), np.abs(held)), 0)
        paid = np.where(quantity != 0, charges * closing // np.maximum(np.abs(quantity), 1), 0)
        now["trip"] -= np.sign(quantity) * closing * price + paid
        ended = (closing != 0) & (closing == np.abs(held))
        lost = ended & (now["trip"] < 0)
        now["losses"][lost] += 1
        now["losses"][ended & ~lost] = 0
        now["trip"][ended] = 0
        now["trip"] -= np.sign(quantity) * (np.abs(quantity) - closing) * price + charges - paid
        now["position"] = held + quantity

    def _quiet(self, market: NDArray[Any]) -> None:
        now, flags, limits = self._now, self._flags, self._limits
        close, before = market["close_paise"], now["close"]
        known = before > 0
        if limits.max_price_jump is not None:
            flags["jump"] = known & (np.abs(close - before) * _MILLION > before * _ppm(limits.max_price_jump))
        if limits.max_volatility_spike is not None:
            high = np.where(known, np.maximum(market["high_paise"], before), market["high_paise"])
            low = np.where(known, np.minimum(market["low_paise"], before), market["low_paise"])
            bars = limits.volatility_bars
            ready = now["ranges"] >= bars
            spread = (high - low).astype(float)
            # Ours rounds its average to whole paise; a range that is beyond by a hair is left to it.
            flags["spike"] = ready & (spread > 1.02 * limits.max_volatility_spike * self._average + bars)
            weight = 1 / np.minimum(now["ranges"] + 1, bars)
            self._average += (spread - self._average) * weight
            now["ranges"] += 1
        now["close"] = close.copy()

    def breaches(
        self, books: NDArray[Any], market: NDArray[Any], quantity: NDArray[np.int64], worst: NDArray[np.int64]
    ) -> dict[str, NDArray[np.bool_]]:
        """By limit, which of the orders (N,) open something that it forbids; `worst`: price of a purchase, paise."""
        limits, now, flags = self._limits, self._now, self._flags
        held, price = books["position"], market["close_paise"]
        after = held + quantity
        opens = (quantity != 0) & ((held * quantity >= 0) | (np.abs(quantity) > np.abs(held)))
        equity = np.maximum(books["equity_paise"], 0)
        worth, size = np.abs(after) * price, np.abs(quantity)
        value = None if limits.max_order_value is None else int(limits.max_order_value * 100)
        near = 0 if limits.no_entry_before_close_minutes is None else limits.no_entry_before_close_minutes * 60 + 1
        cash = books["cash_paise"] - books["reserved_paise"] - quantity * np.where(quantity > 0, worst, price)
        free = np.where((after < 0) & (quantity < 0), cash + 2 * after * price, cash)
        found = {
            "daily loss": flags["day"],
            "drawdown": flags["for good"],
            "consecutive losses": flags["losses"],
            "price jump": flags["jump"],
            "volatility spike": flags["spike"],
            "too near to the close": market["seconds_left"] < near,
            "orders of the day": _reaches(now["orders"], limits.max_orders_per_day),
            "order quantity": _exceeds(size, limits.max_order_quantity),
            "order value": _exceeds(size * price, value),
            "number of positions": _exceeds(books["others_open"] + 1, limits.max_positions),
            "position too large": _part(worth, equity, limits.max_position_fraction),
            "gross exposure": _part(worth + books["others_gross_paise"], equity, limits.max_gross_exposure),
            "net exposure": _part(np.abs(after * price + books["others_paise"]), equity, limits.max_net_exposure),
        }
        if limits.min_position_fraction is not None:
            found["position too small"] = worth * _MILLION < equity * _ppm(limits.min_position_fraction)
        if limits.cash_buffer is not None:
            found["cash buffer"] = (free + 1) * _MILLION <= equity * _ppm(limits.cash_buffer)
        return {name: opens & broken for name, broken in found.items()}

    def ordered(self, quantity: NDArray[np.int64]) -> None:
        """Count the orders that were placed, (N,) signed shares."""
        self._now["orders"] += quantity != 0


def _ppm(fraction: float) -> int:
    return round(fraction * _MILLION)


def _exceeds(values: NDArray[np.int64], limit: int | None) -> NDArray[np.bool_]:
    return np.zeros(values.shape, np.bool_) if limit is None else values > limit


def _reaches(values: NDArray[np.int64], limit: int | None) -> NDArray[np.bool_]:
    return np.zeros(values.shape, np.bool_) if limit is None else values >= limit


def _part(values: NDArray[np.int64], equity: NDArray[np.int64], limit: float | None) -> NDArray[np.bool_]:
    return np.zeros(values.shape, np.bool_) if limit is None else values * _MILLION > equity * _ppm(limit)
