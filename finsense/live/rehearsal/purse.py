"""The money and the shares of a rehearsal's account: what was traded, what open orders block, what may be spent."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import BookedOrder

Key = tuple[str, str]


@dataclass(frozen=True)
class Holding:
    """Shares of earlier days.

    Attributes:
        settled: in the depository.
        unsettled: bought the day before (T+1); they may be sold.
    """

    settled: int = 0
    unsettled: int = 0

    @property
    def shares(self) -> int:
        """All of them."""
        return self.settled + self.unsettled


@dataclass
class Position:
    """What was traded of a share today under one product.

    Attributes:
        bought: shares.
        bought_paise: their value.
        sold: shares.
        sold_paise: their value.
        short_paise: entry value of the shares that are sold and not bought back.
    """

    bought: int = 0
    bought_paise: int = 0
    sold: int = 0
    sold_paise: int = 0
    short_paise: int = 0

    @property
    def quantity(self) -> int:
        """Signed shares of the day."""
        return self.bought - self.sold


class Purse:
    """One account's cash and shares.

    A purchase is paid in full, of MIS too. A short sale of MIS blocks its full value, and its proceeds cannot be spent
    before it is bought back; those of shares that were held can. Charges are not taken during the day.

    Args:
        balance_paise: cash at the beginning.
        holdings: symbol -> shares of earlier days.

    Attributes:
        opening_paise: cash at the beginning.
        cash_paise: after all trades.
        positions: (symbol, product) -> what was traded today.
        holdings: see above; they do not change during the day.
    """

    def __init__(self, balance_paise: int, holdings: Mapping[str, Holding]) -> None:
        self.opening_paise = self.cash_paise = balance_paise
        self.positions: dict[Key, Position] = {}
        self.holdings = dict(holdings)

    def book(self, request: OrderRequest, shares: int, price_paise: int) -> None:
        """Take a fill."""
        position = self.positions.setdefault((request.symbol, request.product), Position())
        value = shares * price_paise
        short = max(-position.quantity, 0)
        if request.side == "BUY":
            self.cash_paise -= value
            position.bought += shares
            position.bought_paise += value
            if short:
                position.short_paise -= position.short_paise * min(shares, short) // short
        else:
            self.cash_paise += value
            # Of CNC nothing is ever sold short: what is below 0 today comes out of the holdings.
            if request.product == "MIS":
                position.short_paise += (shares - min(max(position.quantity, 0), shares)) * price_paise
            position.sold += shares
            position.sold_paise += value

    def held(self, symbol: str, product: str) -> int:
        """Signed shares that an order of the product can close."""
        position = self.positions.get((symbol, product))
        shares = 0 if position is None else position.quantity
        if product == "CNC" and symbol in self.holdings:
            shares += self.holdings[symbol].shares
        return shares

    def spendable_paise(self, working: Iterable[BookedOrder], price_of: Callable[[OrderRequest], int]) -> int:
        """Cash that neither shorts nor open orders block."""
        left = [(order.request, order.left) for order in working]
        blocked = sum(opening * price_of(request) for request, opening in self._openings(left))
        return self.cash_paise - 2 * sum(one.short_paise for one in self.positions.values()) - blocked

    def objection(
        self,
        request: OrderRequest,
        shares: int,
        working: list[BookedOrder],
        price_of: Callable[[OrderRequest], int],
    ) -> str:
        """Why an order of so many shares cannot be had beside those that work; empty where it can."""
        left = [(order.request, order.left) for order in working]
        *_, (_, opening) = self._openings([*left, (request, shares)])
        if request.product == "CNC" and request.side == "SELL" and opening:
            held = self.held(request.symbol, "CNC")
            return f"Insufficient stock holding. Check for open orders. Held {held}, asked for {request.quantity}."
        needed, available = opening * price_of(request), self.spendable_paise(working, price_of)
        if needed > available:
            return (
                f"Insufficient funds. Required margin is {needed / 100:.2f} but available margin is "
                f"{available / 100:.2f}."
            )
        return ""

    def _openings(self, orders: Iterable[tuple[OrderRequest, int]]) -> list[tuple[OrderRequest, int]]:
        """Of each order the shares that open a position, those before it having closed what they can."""
        closable: dict[tuple[str, str, str], int] = {}
        openings = []
        for request, shares in orders:
            held = self.held(request.symbol, request.product)
            key = request.symbol, request.product, request.side
            free = closable.setdefault(key, max(held if request.side == "SELL" else -held, 0))
            closable[key] = max(free - shares, 0)
            openings.append((request, max(shares - free, 0)))
        return openings
