"""One bar while its ticks come in: prices, volume, and how the trading inside it went."""

import math

from finsense.market.bars import Bar
from finsense.market.extra_fields import REFERENCE_FIELDS
from finsense.market.order_book import BookView

_NO_REFERENCES = (0.0,) * len(REFERENCE_FIELDS)


class TickBar:
    """Gathers the ticks of one bar.

    The caller says which ticks belong here and what each one traded; `bar` may be asked at any time.

    Args:
        start_ns: Start of the bar, ns UTC.
        time_ns: Stamp of its first tick, ns UTC.
        price: Last price of its first tick, rupees; the tick itself is then given to `take` as every other.
    """

    __slots__ = (
        "_close",
        "_first_ns",
        "_high",
        "_imbalance",
        "_last_view",
        "_low",
        "_open",
        "_signed",
        "_snapshots",
        "_spread",
        "_start_ns",
        "_ticks",
        "_trades",
        "_two_sided",
        "_value",
        "_variance",
        "_volume",
    )

    def __init__(self, start_ns: int, time_ns: int, price: float) -> None:
        self._start_ns = start_ns
        self._first_ns = time_ns
        self._open = self._high = self._low = self._close = price
        self._volume = self._signed = self._ticks = self._trades = 0
        self._value = self._variance = self._imbalance = self._spread = 0.0
        self._snapshots = self._two_sided = 0
        self._last_view: BookView | None = None

    def take(self, price: float, shares: int, side: int, view: BookView | None) -> None:
        """Take the newest tick in.

        Args:
            price: Last price, rupees.
            shares: Traded since the tick before, 0 or more.
            side: 1 when the buyer, -1 when the seller took the other's price, 0 unknown.
            view: What its book says; None where it has none.
        """
        if price != self._close:
            change = math.log(price / self._close)
            self._variance += change * change
            self._close = price
            if price > self._high:
                self._high = price
            elif price < self._low:
                self._low = price
        self._ticks += 1
        if shares > 0:
            self._trade(price, shares, side)
        self._last_view = view
        if view is not None:
            if view.imbalance is not None:
                self._snapshots += 1
                self._imbalance += view.imbalance
            if view.mid > 0.0:
                self._two_sided += 1
                self._spread += view.spread

    def widen(self, time_ns: int, price: float, shares: int, side: int) -> None:
        """Take a tick in that is older than the newest: it is no close, no tick, and says nothing of the path."""
        if time_ns < self._first_ns:
            self._first_ns, self._open = time_ns, price
        self._high = max(self._high, price)
        self._low = min(self._low, price)
        if shares > 0:
            self._trade(price, shares, side)

    def _trade(self, price: float, shares: int, side: int) -> None:
        self._trades += 1
        self._volume += shares
        self._signed += side * shares
        self._value += price * shares

    def bar(self) -> Bar:
        """The bar as it stands, with all of EXTRA_FIELDS; those of other series are 0, not known."""
        vwap = self._close
        if self._volume > 0:
            # Rounding may carry an average of equal prices past them by the last bit.
            vwap = min(max(self._value / self._volume, self._low), self._high)
        flow = (
            float(self._ticks),
            float(self._trades),
            float(self._signed),
            self._variance,
            vwap,
            self._imbalance / self._snapshots if self._snapshots else 0.0,
            self._spread / self._two_sided if self._two_sided else 0.0,
            self._last_view.microprice_offset if self._last_view is not None else 0.0,
        )
        prices = (self._open, self._high, self._low, self._close)
        return Bar(self._start_ns, *prices, self._volume, (*_NO_REFERENCES, *flow))
