"""Where orders go while the loop runs."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from finsense.account.session import Fill, Order
from finsense.market.bars import Bar


class BrokerAccount(NamedTuple):
    """What the broker says the account owns.

    Attributes:
        cash_paise: cash after charges.
        position: signed shares of the symbol.
    """

    cash_paise: int
    position: int


class Broker(Protocol):
    """Takes orders and tells what became of them."""

    def submit(self, order: Order) -> None:
        """Send one order; it is on disk before this is called."""
        ...

    def fills(self, bar: Bar) -> Sequence[Fill]:
        """The fills since the last call, as of this bar."""
        ...

    def account(self) -> BrokerAccount:
        """The broker's own books."""
        ...
