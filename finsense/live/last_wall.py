"""The last wall of a session: the gate, and how far its user wants to stop."""

from collections.abc import Mapping

import structlog

from finsense.account.joint import Books
from finsense.account.session import Order
from finsense.live.gate import Gate, reduces
from finsense.market.moments import Moment

log = structlog.get_logger()


class Stopping:
    """How far the user wants to stop: first no new positions, then everything but the stops at the exchange.

    Attributes:
        asked: how often it was asked for.
    """

    def __init__(self) -> None:
        self.asked = 0

    def ask(self) -> None:
        """Ask once more."""
        self.asked += 1
        log.warning(
            "no position is opened any more; ask again to leave" if self.asked == 1 else "leaving after this bar"
        )


class LastWall:
    """The gate, and the user's wish to open nothing more; see `Watch` of the loop."""

    def __init__(self, gate: Gate, stopping: Stopping) -> None:
        self._gate, self._stopping = gate, stopping

    def check(self, orders: Mapping[str, Order], moment: Moment, books: Books) -> dict[str, str]:
        """Which orders must not leave."""
        refused = self._gate.check(orders, moment, books)
        for symbol, order in orders.items():
            if self._stopping.asked and not reduces(books.positions.get(symbol, 0), order.quantity):
                refused.setdefault(symbol, "stopping: the user wants no new position")
        return refused

    def look(self) -> None:
        """Look around between two bars."""
        self._gate.look()
