"""A session and its simulated exchange that a test drives bar by bar, with prices of its own."""

import datetime as dt
from typing import Any

import numpy as np
from markets import FREE, session_times, small_spec

from finsense.account.exchange import SimulatedExchange
from finsense.account.rules import BUY, SELL, AccountRules
from finsense.account.session import Observation, Session
from finsense.market.bars import Bar
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument

# Two quiet sessions of 25 bars at 100 rupees are the warm-up; trading begins on Wednesday.
_FIRST, _LAST = dt.date(2024, 1, 8), dt.date(2024, 1, 19)
SESSION_BARS = 25
_WARMUP = 2 * SESSION_BARS


def desk_rules(product: str = "delivery", actions: Any = None, **changes: Any) -> AccountRules:
    """An account of 100,000 rupees that buys 100 shares at a time, without slippage or a cap by the volume."""
    size = actions or {"scheme": "orders", "size": {"kind": "shares", "shares": 100}}
    plain = {"balance": 100_000, "slippage_bps": 0, "participation": None, "price_buffer": 0}
    return AccountRules.model_validate({**plain, "product": product, "actions": size, **changes})


class Desk:
    """Settles, observes and orders; prices in rupees.

    Attributes:
        session: the account.
        exchange: fills its orders and stops.
        seen: the last observation.
        fills: (shares, paise, whether of the stop) of the last bar.
    """

    def __init__(self, account: AccountRules, charges: ChargeRules = FREE) -> None:
        stock = instrument("SIM")
        self.session = Session(stock, "15m", small_spec(), account, charges)
        self.exchange = SimulatedExchange(stock, "15m", account, charges)
        self._times = iter(session_times(_FIRST, _LAST).tolist())
        for _ in range(_WARMUP):
            bar = Bar(next(self._times), 100.0, 100.0, 100.0, 100.0, 100_000)
            self.session.warm(bar)
            self.exchange.warm(bar)
        self.seen: Observation | None = None
        self.fills: list[tuple[int, int, bool]] = []

    def bar(
        self,
        close: float = 100.0,
        *,
        open_: float | None = None,
        high: float | None = None,
        low: float | None = None,
        volume: int = 100_000,
    ) -> "Desk":
        """Let a bar pass; it is flat unless told."""
        first = close if open_ is None else open_
        high = max(first, close) if high is None else high
        low = min(first, close) if low is None else low
        bar = Bar(next(self._times), first, high, low, close, volume)
        fills = self.exchange.fills(bar)
        self.fills = [(fill.quantity, fill.price_paise, fill.order < 0) for fill in fills]
        self.session.settle(fills)
        self.seen = self.session.observe(bar)
        for name in ("cash_paise", "position", "charges_paise", "stop_paise", "stop_fill_quantity"):
            assert self.session.account[name] == self.exchange.account[name], name
        return self

    def bars(self, count: int, close: float = 100.0) -> "Desk":
        """Let flat bars pass."""
        for _ in range(count):
            self.bar(close)
        return self

    def act(self, action: int) -> int:
        """Choose an action; the signed shares that it ordered."""
        order = self.session.order(action)
        if order is None:
            return 0
        self.exchange.submit(order)
        return order.quantity

    def buy(self) -> int:
        """Buy."""
        return self.act(BUY)

    def sell(self) -> int:
        """Sell."""
        return self.act(SELL)

    def legal(self) -> list[int]:
        """The legal actions."""
        assert self.seen is not None
        found: list[int] = np.flatnonzero(self.seen.mask[0]).tolist()
        return found

    def book(self, name: str) -> int:
        """One field of the account."""
        return int(self.session.account[name][0])
