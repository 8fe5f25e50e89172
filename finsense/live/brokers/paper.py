"""The paper broker: the simulated exchange behind the broker's contract. It holds no network client."""

from collections.abc import Mapping, Sequence

from finsense.account.joint_exchange import JointExchange
from finsense.account.session import Fill, Order
from finsense.live.brokers import BrokerAccount, Stopped
from finsense.live.brokers.errors import BooksDiffer
from finsense.market.moments import Moment


class PaperBroker:
    """Fills at the next bar's open by the code that training and backtest use.

    Args:
        exchange: warmed with the history before the first traded bar.
    """

    flushes_intents = False

    def __init__(self, exchange: JointExchange) -> None:
        self._exchange = exchange

    def submit(self, orders: Mapping[str, Order]) -> None:
        """Take orders for the next open of each symbol."""
        self._exchange.submit(orders)

    def protect(self, stops: Mapping[str, int]) -> None:
        """The exchange's own books know which stops rest; these must be the same.

        Raises:
            BooksDiffer: they are not.
        """
        resting = self._exchange.stops()
        if dict(stops) != resting:
            raise BooksDiffer(f"the session has the protective stops {dict(stops)}, the paper exchange {resting}")

    def fills(self, moment: Moment) -> dict[str, list[Fill]]:
        """Fill the waiting orders, and the stops that are reached."""
        return self._exchange.fills(moment)

    def account(self) -> BrokerAccount:
        """The exchange's own books, kept apart from the session's."""
        books = self._exchange.books()
        return BrokerAccount(books.cash_paise, books.positions)

    def look(self) -> None:
        """Nothing happens between two bars."""

    def replay(
        self,
        moment: Moment,
        fills: Mapping[str, Sequence[Fill]],
        orders: Mapping[str, Order],
        stops: Mapping[str, int],
    ) -> dict[str, list[Fill]]:
        """Go through a journalled moment; the exchange finds the fills again by itself."""
        found = self._exchange.fills(moment)
        self._exchange.submit(orders)
        return found

    def resume(self) -> None:
        """The replay has rebuilt everything that there is."""

    def stop_all(self, flatten: bool) -> Stopped:
        """Withdraw what waits for the next open; to flatten, wait for it with the opposite of every position."""
        positions = self._exchange.books().positions
        self._exchange.submit({symbol: Order(0, -shares if flatten else 0) for symbol, shares in positions.items()})
        return Stopped((), (), {symbol: shares for symbol, shares in positions.items() if shares})
