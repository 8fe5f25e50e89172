"""What the order desk keeps of orders and trades, and how both stand in the journal's events."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Protocol

from finsense.account.session import Fill
from finsense.live.journal_format import Event
from finsense.live.orders import OrderRequest, OrderRow, OrderState, TrackedOrder

# What an order is for: of a bar's decision, protective, to leave where its stop was passed, of the kill switch, taken
# over from somebody else.
BAR, STOP, EXIT, KILL, ADOPTED = "bar", "stop", "exit", "kill", "adopted"


class Notes(Protocol):
    """Where events are kept; the journal is it."""

    def note(self, tag: str, what: str, body: Mapping[str, Any], time_ns: int) -> None:
        """Commit an event; it is on disk when this returns."""
        ...

    def events(self) -> Iterator[Event]:
        """Every event in the order of writing."""
        ...


class Alarm(Protocol):
    """Tells people."""

    def __call__(self, kind: str, text: str, **facts: Any) -> None:
        """Tell of something; it neither waits nor fails."""
        ...


@dataclass
class DeskOrder:
    """An order of the account.

    Attributes:
        tracked: what is known of it.
        leg: what it is for.
        number: of the account's orders, from 1; brokerage is due once for each.
        time_ns: when it was intended, ns UTC.
        traded: shares of its trades that are known.
    """

    tracked: TrackedOrder
    leg: str
    number: int
    time_ns: int
    traded: int = 0

    @property
    def request(self) -> OrderRequest:
        """What is asked for, as it stands now."""
        return self.tracked.request

    @property
    def tag(self) -> str:
        """Its name with us."""
        return self.tracked.request.tag

    @property
    def open(self) -> bool:
        """Whether something may still come of it."""
        return not self.tracked.state.over

    @property
    def unanswered(self) -> bool:
        """Whether it may exist without our knowing it."""
        return self.tracked.state in (OrderState.INTENDED, OrderState.UNKNOWN)

    @property
    def left(self) -> int:
        """Signed shares that may still fill."""
        left = self.request.quantity - self.traded if self.open else 0
        return left if self.request.side == "BUY" else -left


class DeskTrade(NamedTuple):
    """One execution of the account, or shares that a user took over from the broker's books.

    Attributes:
        trade_id: the exchange's name of it.
        order_id: the broker's name of its order; empty for shares taken over.
        symbol: trading symbol.
        quantity: signed shares.
        price_paise: of one.
        time_ns: instant, ns UTC.
        number: of its order; negative for a protective stop, as `Fill.order` has it.
    """

    trade_id: str
    order_id: str
    symbol: str
    quantity: int
    price_paise: int
    time_ns: int
    number: int

    @property
    def fill(self) -> Fill:
        """As the account books it."""
        return Fill(self.time_ns, self.quantity, self.price_paise, self.number, self.trade_id)


def intent_body(request: OrderRequest, leg: str, number: int) -> dict[str, Any]:
    """The event of an order before it is sent."""
    return {**asdict(request), "leg": leg, "number": number}


def intended(event: Event) -> DeskOrder:
    """The order of the event of its intent."""
    body = dict(event.body)
    leg, number = body.pop("leg"), body.pop("number")
    return DeskOrder(TrackedOrder(OrderRequest(**body)), leg, number, event.time_ns)


def row_of(body: Mapping[str, Any]) -> OrderRow:
    """The row of the event of its being seen."""
    return OrderRow(**{**body, "tags": tuple(body["tags"])})


def adopted_tag(order_id: str) -> str:
    """How an order that somebody else placed is named with us."""
    return f"x{order_id}"


def adopted_order(row: OrderRow, number: int, time_ns: int) -> DeskOrder:
    """An order of somebody else on our shares, taken into our books; we never change it."""
    request = OrderRequest(
        adopted_tag(row.order_id),
        row.symbol,
        "BUY" if row.side == "BUY" else "SELL",
        row.quantity,
        "MARKET",
        "CNC" if row.product == "CNC" else "MIS",
        market_protection=-1,
    )
    return DeskOrder(TrackedOrder(request).accepted(row.order_id), ADOPTED, number, time_ns)


def moved(request: OrderRequest, body: Mapping[str, Any]) -> OrderRequest:
    """A request with the prices of the event of its change."""
    return replace(request, price_paise=body["price_paise"], trigger_paise=body["trigger_paise"])
