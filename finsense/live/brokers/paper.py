"""The paper broker: the simulated exchange behind the broker's contract. It holds no network client."""

from finsense.account.exchange import SimulatedExchange
from finsense.account.session import Fill, Order
from finsense.live.brokers import BrokerAccount
from finsense.market.bars import Bar


class PaperBroker:
    """Fills at the next bar's open by the code that training and backtest use.

    Args:
        exchange: warmed with the history before the first traded bar.
    """

    def __init__(self, exchange: SimulatedExchange) -> None:
        self._exchange = exchange

    def submit(self, order: Order) -> None:
        """Take an order for the next bar's open."""
        self._exchange.submit(order)

    def fills(self, bar: Bar) -> list[Fill]:
        """Fill the waiting order at this bar's open."""
        return self._exchange.fills(bar)

    def account(self) -> BrokerAccount:
        """The exchange's own books, kept apart from the session's."""
        books = self._exchange.account
        return BrokerAccount(int(books["cash_paise"][0]), int(books["position"][0]))
