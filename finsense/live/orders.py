"""The life of one order at a broker: what we asked for, what the broker says of it, and what we know by that."""

import base64
import hashlib
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, NamedTuple, get_args

Side = Literal["BUY", "SELL"]
Kind = Literal["MARKET", "LIMIT", "SL", "SL-M"]
Product = Literal["MIS", "CNC"]
# Kite takes at most 20 letters and digits, and does not check the length itself.
_TAG = re.compile(r"[A-Za-z0-9]{1,20}")
_PREFIX, _TAG_LENGTH = "fs", 20
# Since April 2026 an order at the market without protection is refused; -1 lets the exchange's own percentage hold.
AUTOMATIC_PROTECTION = -1


class OrderError(ValueError):
    """A request that no broker could carry out, or an answer that contradicts what is known of an order."""


@dataclass(frozen=True)
class OrderRequest:
    """What is asked of the broker.

    Attributes:
        tag: names the intent, unique per account: 1 to 20 letters and digits. By it an order is found again.
        symbol: trading symbol on NSE.
        side: BUY or SELL.
        quantity: shares, above 0.
        kind: MARKET, LIMIT, SL (a limit order that waits for its trigger) or SL-M (a market order that does).
        product: MIS (closed the same day) or CNC (delivery).
        price_paise: of LIMIT and SL; None for the others.
        trigger_paise: of SL and SL-M; None for the others.
        market_protection: percent that MARKET and SL-M may go beyond the last price, or -1 for the exchange's own;
            never 0, which is refused; None for the others.

    Raises:
        OrderError: the parts do not make an order.
    """

    tag: str
    symbol: str
    side: Side
    quantity: int
    kind: Kind
    product: Product
    price_paise: int | None = None
    trigger_paise: int | None = None
    market_protection: float | None = None

    def __post_init__(self) -> None:
        wrong = [
            f"a {name} of {', '.join(known)}, found {value!r}"
            for name, value, known in (
                ("side", self.side, get_args(Side)),
                ("kind", self.kind, get_args(Kind)),
                ("product", self.product, get_args(Product)),
            )
            if value not in known
        ]
        if not _TAG.fullmatch(self.tag):
            wrong.append(f"a tag of 1 to 20 letters and digits, found {self.tag!r}")
        if self.quantity <= 0:
            wrong.append(f"a quantity above 0, found {self.quantity}")
        for name, value, kinds in (
            ("price_paise", self.price_paise, ("LIMIT", "SL")),
            ("trigger_paise", self.trigger_paise, ("SL", "SL-M")),
            ("market_protection", self.market_protection, ("MARKET", "SL-M")),
        ):
            if (value is not None) != (self.kind in kinds):
                wrong.append(f"{name} of {' and '.join(kinds)} alone, found {value} with {self.kind}")
        if any(price is not None and price <= 0 for price in (self.price_paise, self.trigger_paise)):
            wrong.append(f"prices above 0, found {self.price_paise} and {self.trigger_paise}")
        protection = self.market_protection
        if protection is not None and protection != AUTOMATIC_PROTECTION and not 0 < protection <= 100:
            wrong.append(f"market_protection above 0 up to 100, or -1, found {protection:g}")
        if wrong:
            raise OrderError(f"expected {'; '.join(wrong)}; no order was sent")


class OrderState(StrEnum):
    """Where an order stands.

    INTENDED: in the journal, not sent yet, or refused before it left.
    UNKNOWN: sent, and the answer is lost: it may exist. Only the broker's book can tell.
    WORKING: the broker has it, and it may still fill: accepted, open, waiting for its trigger, being changed, or in any
        state that we do not know.
    COMPLETE, CANCELLED, REJECTED: over. A cancelled order may have filled in part.
    """

    INTENDED = "intended"
    UNKNOWN = "unknown"
    WORKING = "working"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REJECTED = "rejected"

    @property
    def over(self) -> bool:
        """Whether nothing more can come of it."""
        return self in (OrderState.COMPLETE, OrderState.CANCELLED, OrderState.REJECTED)


# All others that Kite has or may get are passing states.
_OVER = {state.name: state for state in (OrderState.COMPLETE, OrderState.CANCELLED, OrderState.REJECTED)}


def state_of(status: str) -> OrderState:
    """What Kite's word for a status means; one that is not known means that the order may still fill."""
    return _OVER.get(status.strip().upper(), OrderState.WORKING)


class OrderRow(NamedTuple):
    """What the broker's book says of an order.

    Attributes:
        order_id: the broker's name of it, a text of up to 19 digits.
        tags: all tags that it carries; the broker adds its own.
        symbol: trading symbol.
        side: BUY or SELL.
        quantity: shares asked for.
        filled_quantity: shares filled; the only figure of the book that can be relied on.
        status: the broker's word.
        reason: why it was rejected or cancelled; empty where nothing is said.
        product: MIS or CNC; empty where nothing is said.
        trigger_paise: at which it wakes; 0 for none.
        time_ns: of its last change, ns UTC; 0 where nothing is said.
    """

    order_id: str
    tags: tuple[str, ...]
    symbol: str
    side: str
    quantity: int
    filled_quantity: int
    status: str
    reason: str
    product: str = ""
    trigger_paise: int = 0
    time_ns: int = 0


class TradeRow(NamedTuple):
    """One execution.

    Attributes:
        trade_id: the exchange's name of it, unique per day.
        order_id: whose.
        symbol: trading symbol.
        side: BUY or SELL.
        quantity: shares.
        price_paise: of one share.
        time_ns: at the exchange, ns UTC.
    """

    trade_id: str
    order_id: str
    symbol: str
    side: str
    quantity: int
    price_paise: int
    time_ns: int


@dataclass(frozen=True)
class TrackedOrder:
    """What is known of an order.

    Attributes:
        request: what was asked for.
        state: where it stands.
        order_id: None until the broker named it.
        filled_quantity: shares filled so far.
        reason: the broker's words, where it was refused.
        changes: how often a change of it was asked for; the broker allows 25.
    """

    request: OrderRequest
    state: OrderState = OrderState.INTENDED
    order_id: str | None = None
    filled_quantity: int = 0
    reason: str = ""
    changes: int = 0

    def accepted(self, order_id: str) -> "TrackedOrder":
        """The broker gave it a name, which says nothing of whether the exchange takes it.

        Its book may have told of the order before its answer came.
        """
        if self.order_id == order_id:
            return self
        self._expect(OrderState.INTENDED, OrderState.UNKNOWN)
        return replace(self, state=OrderState.WORKING, order_id=order_id)

    def refused(self, reason: str) -> "TrackedOrder":
        """The broker would not have it; it is not in its book."""
        self._expect(OrderState.INTENDED)
        return replace(self, state=OrderState.REJECTED, reason=reason)

    def lost(self) -> "TrackedOrder":
        """It was sent and the answer did not come: it must be looked for, and not be sent again.

        Where the broker's book has told of it already, nothing is lost.
        """
        if self.order_id is not None:
            return self
        self._expect(OrderState.INTENDED)
        return replace(self, state=OrderState.UNKNOWN)

    def abandoned(self, reason: str) -> "TrackedOrder":
        """It was looked for long enough and is not in the broker's book: it never arrived, and is not sent again."""
        self._expect(OrderState.INTENDED, OrderState.UNKNOWN)
        return replace(self, state=OrderState.REJECTED, reason=reason)

    def modified(self, request: OrderRequest) -> "TrackedOrder":
        """A change of its prices was asked for; the book tells whether it was made.

        Raises:
            OrderError: the order does not work, or more than its prices would change.
        """
        self._expect(OrderState.WORKING)
        if replace(self.request, price_paise=request.price_paise, trigger_paise=request.trigger_paise) != request:
            raise OrderError(f"expected a change of the prices alone of {self.request}, found {request}")
        return replace(self, request=request, changes=self.changes + 1)

    def expired(self) -> "TrackedOrder":
        """Its day is over, and the book of a later day does not have it."""
        self._expect(OrderState.WORKING)
        return replace(self, state=OrderState.CANCELLED, reason="its day is over")

    def seen(self, row: OrderRow) -> "TrackedOrder":
        """The broker's book told of it.

        Raises:
            OrderError: the row is of another order, fewer shares are filled than before, more than were asked for, or
                an order that was over goes on (it has happened: one cancelled on 12 Oct 2020 filled an hour later).
        """
        if self.order_id not in (None, row.order_id):
            raise OrderError(f"expected a row of order {self.order_id}, found {row.order_id}")
        asked = (self.request.symbol, self.request.side, self.request.quantity)
        if self.request.tag not in row.tags or asked != (row.symbol, row.side, row.quantity):
            raise OrderError(f"expected the order {self.request}, found {row}: it is not the one that was sent")
        if not self.filled_quantity <= row.filled_quantity <= row.quantity:
            raise OrderError(
                f"order {row.order_id}: expected {self.filled_quantity} to {row.quantity} filled shares, found "
                f"{row.filled_quantity}"
            )
        state = state_of(row.status)
        if self.state.over and (state, row.filled_quantity) != (self.state, self.filled_quantity):
            raise OrderError(
                f"order {row.order_id} was {self.state} with {self.filled_quantity} shares filled, and now it is "
                f"{row.status} with {row.filled_quantity}: reconcile the account by hand"
            )
        if state is OrderState.COMPLETE and row.filled_quantity != row.quantity:
            # The book is between two states: the order is not over before its shares are there.
            state = OrderState.WORKING
        request = self.request
        if request.trigger_paise and row.trigger_paise:
            # A change whose answer was lost was made or not: the book knows.
            request = replace(request, trigger_paise=row.trigger_paise)
        return replace(
            self,
            request=request,
            state=state,
            order_id=row.order_id,
            filled_quantity=row.filled_quantity,
            reason=row.reason,
        )

    def _expect(self, *states: OrderState) -> None:
        if self.state not in states:
            raise OrderError(f"expected the order {self.request.tag} to be {' or '.join(states)}, found {self.state}")


def tag_of(identity: str, time_ns: int, symbol: str, leg: str) -> str:
    """The tag of an intent: the same for the same parts, 20 letters and digits, 90 bits of SHA-256.

    Args:
        identity: of the session.
        time_ns: start of the bar at whose close it was decided, ns UTC.
        symbol: trading symbol.
        leg: which of the bar's orders of the symbol.
    """
    digest = hashlib.sha256("\n".join((identity, str(time_ns), symbol, leg)).encode()).digest()
    return _PREFIX + base64.b32encode(digest).decode().lower()[: _TAG_LENGTH - len(_PREFIX)]


def find_by_tag(rows: list[OrderRow], tag: str) -> OrderRow | None:
    """The order of an intent in the broker's book; None: it is not there.

    Raises:
        OrderError: two orders carry the tag, so one intent was sent twice.
    """
    found = [row for row in rows if tag in row.tags]
    if len(found) > 1:
        raise OrderError(
            f"expected one order with the tag {tag}, found {len(found)}: {', '.join(row.order_id for row in found)}; "
            "an intent was sent twice, reconcile the account by hand"
        )
    return found[0] if found else None
