"""How a session's orders are worded: product, kind, protection, and prices on the day's grid of ticks."""

from typing import NamedTuple

from finsense.live.orders import AUTOMATIC_PROTECTION, Kind, OrderRequest, Product, Side

PPM = 1_000_000


def grid(paise: int, tick_paise: int, *, up: bool) -> int:
    """A price on the grid of ticks, at least one tick."""
    steps = -(-paise // tick_paise) if up else paise // tick_paise
    return max(steps, 1) * tick_paise


class OrderStyle(NamedTuple):
    """How orders are worded.

    Attributes:
        product: of the account.
        market_protection: percent that an order at the market may go beyond the last price, or -1 for the exchange's
            own; never 0, which is refused.
        band_ppm: send limit orders that reach so far beyond the last close instead, parts per million; None: at the
            market.
        stop_limit_ppm: how far beyond its trigger a stop's limit lies, where SL-M is refused, parts per million.
    """

    product: Product
    market_protection: float = AUTOMATIC_PROTECTION
    band_ppm: int | None = None
    stop_limit_ppm: int = 20_000

    def at_market(self, tag: str, symbol: str, quantity: int) -> OrderRequest:
        """An order at the market for signed shares."""
        protection = self.market_protection
        return OrderRequest(
            tag, symbol, _side(quantity), abs(quantity), "MARKET", self.product, market_protection=protection
        )

    def of_bar(self, tag: str, symbol: str, quantity: int, close_paise: int, tick_paise: int) -> OrderRequest:
        """What a bar's decision sends: at the market, or a limit within the band around the close."""
        if self.band_ppm is None:
            return self.at_market(tag, symbol, quantity)
        reach = close_paise * self.band_ppm // PPM
        price = grid(close_paise + (reach if quantity > 0 else -reach), tick_paise, up=quantity < 0)
        return OrderRequest(tag, symbol, _side(quantity), abs(quantity), "LIMIT", self.product, price_paise=price)

    def stop(
        self, tag: str, symbol: str, quantity: int, trigger_paise: int, kind: Kind, tick_paise: int
    ) -> OrderRequest:
        """A protective stop for signed shares: SL-M, or SL with a limit beyond its trigger."""
        side = _side(quantity)
        if kind == "SL-M":
            protection = self.market_protection
            return OrderRequest(tag, symbol, side, abs(quantity), kind, self.product, None, trigger_paise, protection)
        reach = trigger_paise * self.stop_limit_ppm // PPM
        price = grid(trigger_paise + (reach if quantity > 0 else -reach), tick_paise, up=quantity < 0)
        return OrderRequest(tag, symbol, side, abs(quantity), kind, self.product, price, trigger_paise)


def _side(quantity: int) -> Side:
    return "BUY" if quantity > 0 else "SELL"
