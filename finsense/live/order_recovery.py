"""What a desk does with its orders beyond a day's routine: after a restart, on a new day, when all is closed."""

from collections.abc import Callable, Mapping

from finsense.live.desk_records import KILL, DeskOrder
from finsense.live.order_desk import OrderDesk
from finsense.live.order_style import OrderStyle
from finsense.live.patience import Waiter
from finsense.live.reconcile import Held
from finsense.market.calendar import session_date


def find_unanswered(desk: OrderDesk, waiter: Waiter) -> None:
    """After a restart: look for every order that was sent and not answered; what is not found is given up for good."""
    unanswered = [one for one in desk.books.open_orders() if one.unanswered]
    for order in desk.find(unanswered, waiter.patience.arrival_s):
        desk.books.note(order.tag, "abandoned", {"reason": "it is not in the broker's book"})
        told = f"{order.request.symbol}: an order that was not answered is not in the book; it is not sent again"
        waiter.alarm("order_abandoned", told, symbol=order.request.symbol)


def end_earlier_days(desk: OrderDesk, now_ns: int) -> None:
    """Orders of earlier days are over, for the book is of today."""
    today = session_date(now_ns)
    for order in desk.books.open_orders():
        # One that was not answered is looked for by its tag.
        found = order.unanswered or order.tracked.order_id in desk.in_book
        if session_date(order.time_ns) < today and not found:
            desk.books.note(order.tag, "expired", {})


def agreed_positions(desk: OrderDesk, waiter: Waiter, read_held: Callable[[], dict[str, Held]]) -> dict[str, Held]:
    """The broker's positions, read again while they lag behind the trades."""
    until_s = waiter.now_s() + waiter.patience.lag_s
    held: dict[str, Held] = {}
    for seconds in waiter.pauses():
        held = read_held()
        if all(theirs.quantity == desk.books.held(symbol) for symbol, theirs in held.items()):
            break
        late = waiter.now_s() > until_s
        # A stop may have filled between the two readings.
        desk.read_book()
        desk.agree()
        if late:
            break
        waiter.pause(seconds)
    return held


def close_all(
    desk: OrderDesk, waiter: Waiter, style: OrderStyle, held: Mapping[str, Held], tag: Callable[[str, str], str]
) -> None:
    """Close at the market what both we and the broker count, where no order of ours is open any more.

    Args:
        desk: sends.
        waiter: waits for the fills; what stays open is told.
        style: how orders are worded.
        held: what the broker says is held.
        tag: names a new order of a symbol and a leg.
    """
    closing: list[DeskOrder] = []
    for symbol, theirs in held.items():
        ours = desk.books.held(symbol)
        shares = min(abs(theirs.quantity), abs(ours)) if theirs.quantity * ours > 0 else 0
        if desk.books.open_orders(symbol) or (ours and not shares):
            waiter.alarm(
                "not_flat", f"{symbol}: {ours} shares are not closed, for its books are in doubt", symbol=symbol
            )
        elif shares:
            leg = f"{KILL}{desk.books.last_number + 1}"
            closing.append(desk.post(style.at_market(tag(symbol, leg), symbol, -shares if ours > 0 else shares), KILL))
    _follow(desk, waiter, closing)
    desk.agree()


def _follow(desk: OrderDesk, waiter: Waiter, orders: list[DeskOrder]) -> None:
    """Wait for closing orders; those that do not fill are told of and stay in the book."""
    until_s = waiter.now_s() + waiter.patience.settle_s
    for seconds in waiter.pauses():
        if not any(one.open for one in orders):
            break
        desk.read_book()
        if waiter.now_s() > until_s:
            break
        waiter.pause(seconds)
    for order in orders:
        if order.open or order.tracked.filled_quantity < order.request.quantity:
            told = f"{order.request.symbol}: {order.tracked.filled_quantity} of {order.request.quantity} are closed"
            waiter.alarm("not_flat", told, symbol=order.request.symbol)
