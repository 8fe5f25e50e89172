"""The simulated exchange: fills orders at the next open and stops inside a bar, for backtest and paper alike."""

from typing import Any

from numba import njit

from finsense.account.blocking import opens
from finsense.account.orders import fill_of, stop_fill_of
from finsense.account.portfolio import apply_fill, apply_stop_fill
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, Order, new_account
from finsense.account.stops import trail_stop
from finsense.market.bars import Bar
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument
from finsense.market.timeline import Clock


@njit(cache=True)
def fill_bar(account: Any, rules: Any, market: Any, schedule: Any, day: int, tick_paise: int) -> None:
    """Fill the waiting order at a bar's open, then the protective stop inside the bar, and book both.

    An intraday order that would open or add never waits into another session: there it is cancelled.

    Args:
        account: one ACCOUNT record; `fill_*` and `stop_fill_*` tell what filled.
        rules: one RULES record.
        market: the bar's MARKET record.
        schedule: the SCHEDULE record in force.
        day: of the bar at whose close the order was decided.
        tick_paise: of the bar at whose close the order was decided.
    """
    if rules.intraday != 0 and day != market.day and opens(account, account.order):
        account.order = 0
    quantity, price_paise = fill_of(account, rules, market, schedule)
    apply_fill(account, rules, schedule, market.day, quantity, price_paise, 0, tick_paise)
    if rules.exit_stop_ppm > 0:
        quantity, price_paise = stop_fill_of(account, rules, market, schedule)
        apply_stop_fill(account, rules, schedule, market.day, quantity, price_paise)


@njit(cache=True)
def _fill(accounts: Any, rules: Any, markets: Any, schedules: Any, day: int, tick_paise: int) -> None:
    account, rule, market = accounts[0], rules[0], markets[0]
    fill_bar(account, rule, market, schedules[market.schedule], day, tick_paise)
    # The resting stop follows the close as the session's does, by the same lines.
    if rule.exit_trail_ppm > 0 and account.stop_paise != 0:
        trail_stop(account, rule, market)


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

    @property
    def stop_paise(self) -> int:
        """Trigger of the protective stop that rests here, paise; 0 for none."""
        return abs(int(self.account["stop_paise"][0]))

    def submit(self, order: Order) -> None:
        """Take an order; it waits for the next bar's open."""
        self.account["order"] = order.quantity

    def fills(self, bar: Bar) -> list[Fill]:
        """Fill the waiting order at this bar's open, then the stop inside it; what does not fill is cancelled.

        Raises:
            TimelineError: the bar is not later than the last one.
        """
        decided = self._clock.record[0]
        day, tick_paise = int(decided["day"]), int(decided["tick_paise"])
        self._clock.advance(bar)
        _fill(self.account, self._rules, self._clock.record, self._schedules, day, tick_paise)
        account = self.account[0]
        fills = []
        if account["fill_quantity"]:
            fills.append(Fill(bar.time_ns, int(account["fill_quantity"]), int(account["fill_price_paise"])))
        if account["stop_fill_quantity"]:
            stopped = int(account["stop_fill_quantity"]), int(account["stop_fill_price_paise"])
            fills.append(Fill(bar.time_ns, *stopped, order=-bar.time_ns))
        return fills
