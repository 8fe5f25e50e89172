"""The best levels of an order book, and what one snapshot of them says about the price and the pressure on it."""

from typing import NamedTuple

from finsense.market.bars import PRICE_LIMIT

# NSE publishes the five best prices of each side; a feed that gives more is read as deep as that.
DEPTH_LEVELS = 5


class Level(NamedTuple):
    """One price of one side of the book.

    Attributes:
        price: Rupees; anything where the quantity is 0, which is how feeds write an empty level.
        quantity: Shares, 0 or more.
    """

    price: float
    quantity: int


class Depth(NamedTuple):
    """One snapshot of the book; a side may be empty, as in a locked circuit.

    Attributes:
        bids: Buyers, best (highest) price first.
        asks: Sellers, best (lowest) price first.
    """

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class BookView(NamedTuple):
    """What one snapshot says.

    Attributes:
        imbalance: (bid - ask) / (bid + ask) of the quantities of five levels: fraction, 1 or -1 where one side is
            empty; None where both are.
        mid: Middle of the best prices, rupees; 0 unless the book is two-sided: buyers below sellers.
        spread: (best ask - best bid) / mid, a fraction; 0 unless two-sided.
        microprice_offset: microprice / mid - 1, where the microprice weighs each best price by the quantity of the
            other side (Gatheral and Oomen 2010): a fraction, at most half the spread; 0 unless two-sided.
    """

    imbalance: float | None
    mid: float
    spread: float
    microprice_offset: float


def view_book(depth: Depth) -> BookView:
    """What a snapshot says; a crossed or half-empty book has no mid, no spread and no microprice."""
    bids, asks = depth
    bid_total = ask_total = 0
    for level in bids[:DEPTH_LEVELS]:
        bid_total += level[1]
    for level in asks[:DEPTH_LEVELS]:
        ask_total += level[1]
    total = bid_total + ask_total
    imbalance = (bid_total - ask_total) / total if total > 0 else None
    if not (bids and asks):
        return BookView(imbalance, 0.0, 0.0, 0.0)
    (bid, bid_quantity), (ask, ask_quantity) = bids[0], asks[0]
    if not (0.0 < bid < ask < PRICE_LIMIT and bid_quantity > 0 and ask_quantity > 0):
        return BookView(imbalance, 0.0, 0.0, 0.0)
    mid = 0.5 * (bid + ask)
    lean = (bid_quantity - ask_quantity) / (bid_quantity + ask_quantity)
    spread = (ask - bid) / mid
    return BookView(imbalance, mid, spread, 0.5 * spread * lean)
