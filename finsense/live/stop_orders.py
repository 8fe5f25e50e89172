"""Takes back every open order at a broker and closes what is held, believing nothing but the broker's own book."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from finsense.live.brokers.errors import BrokerError, ProtocolError, RateLimited, Rejected, TransientRead, UnknownFate
from finsense.live.brokers.kite_rows import PositionRow
from finsense.live.orders import OrderRequest, OrderRow, OrderState, Product, Side, state_of

_WAITS_FOR_TRIGGER = "TRIGGER PENDING"
# Between two readings of the book, and between two requests to cancel one order, seconds.
_POLL_S, _ASK_AGAIN_S = 0.1, 1.0
# An order that a loop sent just before it died may reach the book after our first reading of it.
_LATE_S = 0.5
# A closing order that has not filled by then is taken back, and the next one follows the price.
_FOLLOW_S = 3.0
_PROTECTION = -1.0

Answer = TypeVar("Answer")


class Desk(Protocol):
    """The requests that are needed; `KiteRest` has them."""

    def orders(self) -> list[OrderRow]:
        """The day's order book."""
        ...

    def positions(self) -> list[PositionRow]:
        """The day's positions."""
        ...

    def holdings(self) -> list[PositionRow]:
        """Shares of earlier days."""
        ...

    def cancel(self, order_id: str) -> str:
        """Take an order back."""
        ...

    def place(self, request: OrderRequest) -> str:
        """Send an order."""
        ...


class Timing(NamedTuple):
    """How time passes.

    Attributes:
        now_s: a monotonic clock, seconds.
        sleep_s: waits.
    """

    now_s: Callable[[], float]
    sleep_s: Callable[[float], None]


@dataclass
class Stopped:
    """What was done and what is left.

    Attributes:
        cancelled: names of the orders that were open and are over now.
        spared: protective stops of open positions, which go on resting.
        left: orders that may still fill.
        positions: (symbol, product) -> shares held at the last reading; None where it could not be read.
        problems: what went wrong, in words.
        confirmed_s: from the first request to the reading that showed no open order; None where none did.
    """

    cancelled: list[str] = field(default_factory=list)
    spared: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    positions: dict[tuple[str, str], int] | None = None
    problems: list[str] = field(default_factory=list)
    confirmed_s: float | None = None

    @property
    def done(self) -> bool:
        """Whether no order of ours is open but those that were spared."""
        return self.confirmed_s is not None and not self.left


def held(desk: Desk, symbols: Collection[str], products: Collection[str] | None = None) -> dict[tuple[str, str], int]:
    """What the broker says is held of the symbols: (symbol, product) -> signed shares, none of them 0.

    Args:
        desk: of the account.
        symbols: which.
        products: and in which products; None for all of them.

    Raises:
        BrokerError: it cannot be read; that is not `nothing is held`.
    """
    found: dict[tuple[str, str], int] = {}
    for row in [*desk.positions(), *desk.holdings()]:
        if row.symbol in symbols and (products is None or row.product in products):
            key = row.symbol, row.product
            found[key] = found.get(key, 0) + row.quantity
    return {key: shares for key, shares in sorted(found.items()) if shares}


def stop_orders(
    desk: Desk, symbols: Collection[str], *, spare_stops: bool, at_most_s: float, timing: Timing
) -> Stopped:
    """Cancel every open order of the symbols until two readings of the book show none.

    Args:
        desk: of the account.
        symbols: whose orders are ours.
        spare_stops: leave the protective stops of open positions where they rest.
        at_most_s: after which it is given up; what is left is told.
        timing: how time passes.
    """
    stopped, began_s = Stopped(), timing.now_s()
    asked: dict[str, float] = {}
    quiet_since: float | None = None
    while True:
        rows, fatal = _read(stopped, "the book", desk.orders)
        if rows is not None:
            if spare_stops:
                stopped.positions, fatal = _read(stopped, "positions", lambda: held(desk, symbols))
            now_s = timing.now_s()
            _sort_out(stopped, rows, symbols, asked, spare_stops)
            _ask(desk, stopped.left, asked, now_s, stopped)
            # While positions are unknown, no stop is known to protect one.
            if stopped.left or (spare_stops and stopped.positions is None):
                quiet_since = stopped.confirmed_s = None
            elif quiet_since is None:
                quiet_since, stopped.confirmed_s = now_s, now_s - began_s
            elif now_s - quiet_since >= _LATE_S:
                return stopped
        if fatal or timing.now_s() - began_s > at_most_s:
            if rows is None:
                stopped.confirmed_s = None
                stopped.left = stopped.left or ["unknown: the book cannot be read"]
            return stopped
        timing.sleep_s(_POLL_S)


def close_positions(
    desk: Desk,
    symbols: Collection[str],
    *,
    tag: str,
    chunk_shares: int,
    at_most_s: float,
    timing: Timing,
    protection: float = _PROTECTION,
    products: Collection[str] | None = None,
) -> Stopped:
    """Close what is held with protected orders at the market, in chunks, until the broker says that it is flat.

    Every chunk has a tag of its own and is over before the next one is sent. One of unknown fate is looked for in the
    book; where it is not found its symbol is given up, for a second order could sell what is not there.

    Args:
        desk: of the account; no order of the symbols is open.
        symbols: what is closed.
        tag: of at most 17 letters and digits, unique per pull; chunks append a number.
        chunk_shares: largest order.
        at_most_s: after which it is given up; what is left is told.
        timing: how time passes.
        protection: percent that an order may go beyond the last price, or -1 for the exchange's own.
        products: what is closed of them; None for all.
    """
    stopped, began_s, given_up, sent = Stopped(), timing.now_s(), set[str](), 0
    while True:
        stopped.positions, fatal = _read(stopped, "positions", lambda: held(desk, symbols, products))
        if fatal:
            return stopped
        todo = {key: shares for key, shares in (stopped.positions or {}).items() if key[0] not in given_up}
        if stopped.positions is not None and not todo:
            stopped.confirmed_s = timing.now_s() - began_s
            return stopped
        if timing.now_s() - began_s > at_most_s:
            return stopped
        requests = []
        for (symbol, product), shares in todo.items():
            requests.append(_closing(f"{tag}{sent:03d}", symbol, product, shares, chunk_shares, protection))
            sent += 1
        given_up |= _carry_out(desk, requests, stopped, timing)
        timing.sleep_s(_POLL_S)


def _closing(tag: str, symbol: str, product: str, shares: int, chunk: int, protection: float) -> OrderRequest:
    kind: Product = "CNC" if product == "CNC" else "MIS"
    side: Side = "SELL" if shares > 0 else "BUY"
    return OrderRequest(tag, symbol, side, min(abs(shares), chunk), "MARKET", kind, market_protection=protection)


def _carry_out(desk: Desk, requests: Sequence[OrderRequest], stopped: Stopped, timing: Timing) -> set[str]:
    """Send orders, follow them until they are over, take back what did not fill; the symbols to be given up."""
    given_up: set[str] = set()
    followed: dict[str, OrderRequest] = {}
    for request in requests:
        try:
            desk.place(request)
            followed[request.tag] = request
        except UnknownFate as error:
            followed[request.tag] = request
            _note(stopped, f"{request.symbol}: the answer to a closing order is lost ({error})")
        except RateLimited as error:
            # Nothing was sent; the next round sends it.
            _note(stopped, f"{request.symbol}: {error}")
        except BrokerError as error:
            given_up.add(request.symbol)
            _note(stopped, f"{request.symbol}: the closing order was refused: {error}")
    _follow(desk, followed, given_up, stopped, timing)
    for request in followed.values():
        given_up.add(request.symbol)
        _note(stopped, f"{request.symbol}: what became of the closing order {request.tag} is unknown; close it by hand")
    return given_up


def _follow(
    desk: Desk, followed: dict[str, OrderRequest], given_up: set[str], stopped: Stopped, timing: Timing
) -> None:
    """Look after sent orders; those that are over leave `followed`, symbols of rejected ones enter `given_up`."""
    until_s = timing.now_s() + _FOLLOW_S
    asked: dict[str, float] = {}
    while followed and timing.now_s() < until_s + _FOLLOW_S:
        book, fatal = _read(stopped, "the book", desk.orders)
        if fatal:
            return
        rows = {tag: row for row in book or [] for tag in row.tags if tag in followed}
        for tag, row in rows.items():
            state = state_of(row.status)
            if state.over:
                request = followed.pop(tag)
                if state is OrderState.REJECTED:
                    given_up.add(request.symbol)
                    _note(stopped, f"{request.symbol}: the closing order was rejected: {row.reason}")
        if timing.now_s() >= until_s:
            working = [row.order_id for tag, row in rows.items() if tag in followed]
            _ask(desk, working, asked, timing.now_s(), stopped)
        timing.sleep_s(_POLL_S)


def _read(stopped: Stopped, what: str, read: Callable[[], Answer]) -> tuple[Answer | None, bool]:
    """An answer, or None and whether asking again is of no use."""
    try:
        return read(), False
    except BrokerError as error:
        _note(stopped, f"{what} cannot be read: {error}")
        return None, not isinstance(error, TransientRead | RateLimited | ProtocolError)


def _sort_out(
    stopped: Stopped, rows: Sequence[OrderRow], symbols: Collection[str], asked: Collection[str], spare_stops: bool
) -> None:
    """Which orders of ours are open, which of those are spared, which are over."""
    open_rows = [row for row in rows if row.symbol in symbols and not state_of(row.status).over]
    spared = _protective(open_rows, stopped.positions) if spare_stops else set()
    stopped.spared = sorted(spared)
    stopped.left = [row.order_id for row in open_rows if row.order_id not in spared]
    stopped.cancelled = sorted(set(asked) - set(stopped.left))


def _protective(rows: Sequence[OrderRow], positions: Mapping[tuple[str, str], int] | None) -> set[str]:
    """Orders that wait for a trigger and would only reduce what is held; all that wait, where that is not known."""
    waiting = [row for row in rows if row.status.strip().upper() == _WAITS_FOR_TRIGGER]
    if positions is None:
        return {row.order_id for row in waiting}
    spared = set()
    room: dict[str, int] = {}
    for (symbol, _), shares in positions.items():
        room[symbol] = room.get(symbol, 0) + shares
    for row in waiting:
        shares = room.get(row.symbol, 0)
        signed = -row.quantity if row.side == "SELL" else row.quantity
        if shares * signed < 0 and row.quantity <= abs(shares):
            spared.add(row.order_id)
            room[row.symbol] = shares + signed
    return spared


def _ask(desk: Desk, order_ids: Sequence[str], asked: dict[str, float], now_s: float, stopped: Stopped) -> None:
    """Ask for orders to be cancelled, each at most once a second; only the book says whether they are."""
    for order_id in order_ids:
        if now_s - asked.get(order_id, float("-inf")) < _ASK_AGAIN_S:
            continue
        asked[order_id] = now_s
        try:
            desk.cancel(order_id)
        except UnknownFate:
            # The book tells.
            continue
        except Rejected as error:
            _note(stopped, f"order {order_id} would not be cancelled: {error.reason}")
        except BrokerError as error:
            _note(stopped, f"order {order_id}: {error}")


def _note(stopped: Stopped, text: str) -> None:
    if text not in stopped.problems:
        stopped.problems.append(text)
