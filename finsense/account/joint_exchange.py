"""The simulated exchange of an account with several symbols: fills their orders at their next opens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.claims import CLAIM, claim_all
from finsense.account.joint import Books, JointError, in_order, new_accounts, resting_stops
from finsense.account.purse import close_moment, fill_moment
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, Order
from finsense.market.bars import Bar
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument
from finsense.market.moments import Moment
from finsense.market.timeline import MARKET, Clock


@njit(cache=True)
def _trade(
    accounts: Any,
    claims: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    present: NDArray[np.bool_],
) -> None:
    fill_moment(accounts, claims, rules, markets, bars, schedules, present)
    close_moment(accounts, claims, rules, markets, bars, schedules, present)


class JointExchange:
    """Keeps its own books of the account, as a broker does, so that the two can be compared.

    Attributes:
        symbols: in alphabetic order.
        accounts: (S,) of dtype ACCOUNT, the exchange's books; read them, never write them.
    """

    def __init__(
        self, instruments: Sequence[Instrument], interval: str, rules: AccountRules, charges: ChargeRules
    ) -> None:
        stocks = in_order(instruments)
        count = len(stocks)
        self.symbols = tuple(stock.symbol for stock in stocks)
        self._places = {symbol: place for place, symbol in enumerate(self.symbols)}
        self._rules = rules.record(interval)
        self._schedules = charges.schedules()
        self._markets = np.zeros(count, MARKET)
        self._clocks = [Clock(stock, interval, charges) for stock in stocks]
        for place, clock in enumerate(self._clocks):
            clock.record = self._markets[place : place + 1]
        self._bars = np.arange(count)
        self._present = np.zeros(count, np.bool_)
        # Which those are; on most moments those of the moment before.
        self._with_bar: dict[str, int] = {}
        self._claims = np.zeros(count + 1, CLAIM)
        self.accounts = new_accounts(count, self._rules)

    def warm(self, symbol: str, bar: Bar) -> None:
        """Take a bar of the history before trading begins; the price band needs the close before the first session."""
        self._clocks[self._place(symbol)].advance(bar)

    def submit(self, orders: Mapping[str, Order]) -> None:
        """Take orders; each waits for its symbol's next bar.

        Raises:
            JointError: a symbol that this account does not trade.
        """
        for symbol, order in orders.items():
            self.accounts["order"][self._place(symbol)] = order.quantity
        if orders:
            claim_all(self.accounts, self._claims, self._rules, self._markets, self._bars, self._schedules)

    def fills(self, moment: Moment) -> dict[str, list[Fill]]:
        """Fill the waiting orders of the symbols of this moment at their opens; what does not fill is cancelled.

        Returns:
            Symbol -> its fill, by name; those without one are absent.

        Raises:
            JointError: a symbol that this account does not trade.
            TimelineError: a bar is not later than the last one of its symbol.
        """
        if moment.bars.keys() != self._with_bar.keys():
            self._with_bar = {symbol: self._place(symbol) for symbol in moment.bars}
            self._present[:] = [symbol in self._with_bar for symbol in self.symbols]
        for symbol, place in self._with_bar.items():
            self._clocks[place].advance(moment.bars[symbol])
        _trade(
            self.accounts,
            self._claims,
            self._rules,
            self._markets,
            self._bars,
            self._schedules,
            self._present,
        )
        found = {symbol: self._fills_of(place, moment.time_ns) for symbol, place in self._with_bar.items()}
        return {symbol: fills for symbol, fills in found.items() if fills}

    def _fills_of(self, place: int, time_ns: int) -> list[Fill]:
        """What filled of one symbol in the last moment, its stop's fill after its order's."""
        account, fills = self.accounts[place], []
        if account["fill_quantity"]:
            fills.append(Fill(time_ns, int(account["fill_quantity"]), int(account["fill_price_paise"])))
        if account["stop_fill_quantity"]:
            stopped = int(account["stop_fill_quantity"]), int(account["stop_fill_price_paise"])
            fills.append(Fill(time_ns, *stopped, order=-time_ns))
        return fills

    def books(self) -> Books:
        """The exchange's own books."""
        account = self.accounts[0]
        positions = dict(zip(self.symbols, self.accounts["position"].tolist(), strict=True))
        return Books(int(account["cash_paise"]), positions, int(account["equity_paise"]))

    def stops(self) -> dict[str, int]:
        """The protective stops that rest now: symbol -> trigger, paise."""
        return resting_stops(self.symbols, self.accounts)

    def _place(self, symbol: str) -> int:
        if symbol not in self._places:
            raise JointError(f"this account trades {', '.join(self.symbols)}, found {symbol}")
        return self._places[symbol]
