"""What the book of a rehearsal holds: orders with their history, executions, and what is refused at the door."""

from dataclasses import dataclass, field

from finsense.live.orders import OrderRequest

# Who places an order: the account's user, or the broker's risk system.
CLIENT, RISK_SYSTEM = "AB1234", "RMS"


class Refused(ValueError):
    """The order system takes a request at its door for impossible; it never reaches the book.

    Attributes:
        error_type: the vendor's name of the fault.
        status: of HTTP; None where the name tells it.
    """

    def __init__(self, error_type: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.error_type, self.status = error_type, status


@dataclass
class BookedOrder:
    """One order in the broker's book.

    Attributes:
        order_id: the broker's name.
        request: as it stands after the last change.
        placed_ns: when it came, ns UTC.
        status: the vendor's word.
        filled: shares.
        filled_paise: their value.
        reason: why it was rejected or cancelled.
        history: (instant ns, status) of every step.
        triggered: whether its trigger was reached; true for kinds without one.
        limit_paise: the worst price that it accepts, since it was entered, changed or triggered.
        ahead: shares of the street that stand before it at its price.
        changed: how often it was modified.
        most: shares that it may fill at most, where a fault will end it; None: all.
        placed_by: the user, or the broker's risk system.
        tagged: whether the tag of the request came from the client.
    """

    order_id: str
    request: OrderRequest
    placed_ns: int
    status: str = "OPEN"
    filled: int = 0
    filled_paise: int = 0
    reason: str = ""
    history: list[tuple[int, str]] = field(default_factory=list)
    triggered: bool = True
    limit_paise: int = 0
    ahead: int = 0
    changed: int = 0
    most: int | None = None
    placed_by: str = CLIENT
    tagged: bool = True

    @property
    def left(self) -> int:
        """Shares that are not filled."""
        return self.request.quantity - self.filled

    @property
    def fillable(self) -> int:
        """Shares that may fill now."""
        return self.left if self.most is None else min(self.left, max(self.most - self.filled, 0))

    @property
    def working(self) -> bool:
        """Whether it may still fill."""
        return self.status in ("OPEN", "TRIGGER PENDING")


@dataclass(frozen=True)
class Execution:
    """One fill of ours.

    Attributes:
        trade_id: unique in the rehearsal.
        order: whose.
        shares: how many.
        price_paise: of one.
        time_ns: instant, ns UTC.
    """

    trade_id: str
    order: BookedOrder
    shares: int
    price_paise: int
    time_ns: int
