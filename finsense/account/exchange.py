"""The simulated exchange: fills an order at the next bar's open, by the same code in backtest and on paper."""

from typing import Any

from numba import njit

from finsense.account.orders import fill_of
from finsense.account.portfolio import apply_fill
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, Order, new_account
from finsense.market.bars import Bar
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument
from finsense.market.timeline import Clock


@njit(cache=True)
def _fill(accounts: Any, rules: Any, markets: Any, schedules: Any) -> tuple[int, int]:
    account, market = accounts[0], markets[0]
    schedule = schedules[market.schedule]
    quantity, price_paise = fill_of(account, rules[0], market, schedule)
    apply_fill(account, rules[0], schedule, market.day, quantity, price_paise)
    return quantity, price_paise


class SimulatedExchange:
    """Keeps its own books of the account, as a broker does, so that the two can be compared.

    Attributes:
        account: (1,) of dtype ACCOUNT, the exchange's books; read it, never write it.
    """

    def __init__(self, instrument: Instrument, interval: str, rules: AccountRules, charges: ChargeRules) -> None:
        self._clock = Clock(instrument, interval, charges)
        self._rules = rules.record(interval)
        self._schedules = charges.schedules()
        self.account = new_account(self._rules)

    def warm(self, bar: Bar) -> None:
        """Take a bar of the history before trading begins; the price band needs the close before the first session."""
        self._clock.advance(bar)

    def submit(self, order: Order) -> None:
        """Take an order; it waits for the next bar's open."""
        self.account["order"] = order.quantity

    def fills(self, bar: Bar) -> list[Fill]:
        """Fill the waiting order at this bar's open; what does not fill is cancelled.

        Raises:
            TimelineError: the bar is not later than the last one.
        """
        self._clock.advance(bar)
        quantity, price_paise = _fill(self.account, self._rules, self._clock.record, self._schedules)
        return [Fill(bar.time_ns, int(quantity), int(price_paise))] if quantity else []
