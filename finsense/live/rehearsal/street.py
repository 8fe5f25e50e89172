"""The rest of the market in a rehearsal: a last price that is given, and a book around it that is drawn."""

from dataclasses import dataclass, field

import numpy as np

from finsense.market.order_book import DEPTH_LEVELS

# Shares at one level: a log-normal around this many, as thick as a large stock's book in a quiet minute.
_LEVEL_SHARES, _LEVEL_SPREAD = 400.0, 0.8
# Closing auction: 3 % around its reference price (NSE/CMTR/73362 of 18 Mar 2026).
_AUCTION_BAND = 0.03


@dataclass(frozen=True)
class Listing:
    """One share as it is listed on a day.

    Attributes:
        token: names it in the tick stream.
        symbol: trading symbol.
        name: of the company.
        tick_paise: the day's tick size.
        previous_close_paise: official close of the day before.
        band: largest move from it, fraction; None for no limit.
    """

    token: int
    symbol: str
    name: str
    tick_paise: int
    previous_close_paise: int
    band: float | None

    @property
    def limits_paise(self) -> tuple[int, int]:
        """Lowest and highest price of the day, on the grid of ticks."""
        if self.band is None:
            return self.tick_paise, 10**12
        reach = round(self.previous_close_paise * self.band)
        lowest = -(-(self.previous_close_paise - reach) // self.tick_paise) * self.tick_paise
        return max(lowest, self.tick_paise), (self.previous_close_paise + reach) // self.tick_paise * self.tick_paise


@dataclass
class Level:
    """One price of the street's book and the shares that are left at it."""

    price_paise: int
    shares: int


@dataclass
class Street:
    """What the street shows of one share.

    Attributes:
        listing: the share.
        generator: draws the book; one seed gives one rehearsal.
        last_paise: price of the last trade; 0 before the first.
        last_shares: of it.
        volume: shares traded since the day began.
        value_paise: paise traded since the day began.
        open_paise: first price of the day.
        high_paise: highest.
        low_paise: lowest.
        traded_ns: instant of the last trade, ns UTC.
        bids: buyers, best price first.
        asks: sellers, best price first.
        reference_paise: that of the closing auction; 0 before it.
    """

    listing: Listing
    generator: np.random.Generator
    last_paise: int = 0
    last_shares: int = 0
    volume: int = 0
    value_paise: int = 0
    open_paise: int = 0
    high_paise: int = 0
    low_paise: int = 0
    traded_ns: int = 0
    bids: list[Level] = field(default_factory=list)
    asks: list[Level] = field(default_factory=list)
    reference_paise: int = 0

    @property
    def known_paise(self) -> int:
        """The last price, before the first trade that of the day before."""
        return self.last_paise or self.listing.previous_close_paise

    @property
    def limits_paise(self) -> tuple[int, int]:
        """Lowest and highest price now: in the closing auction within 3 % of its reference price."""
        lowest, highest = self.listing.limits_paise
        if not self.reference_paise:
            return lowest, highest
        tick = self.listing.tick_paise
        reach = int(self.reference_paise * _AUCTION_BAND)
        above = -(-(self.reference_paise - reach) // tick) * tick
        return max(lowest, above), min(highest, (self.reference_paise + reach) // tick * tick)

    def trade(self, time_ns: int, price_paise: int, shares: int) -> None:
        """Others traded at a price; the book is drawn anew around it.

        Our own fills take from the book and are not printed: the day is the one that was recorded, whatever we do, so
        that two rehearsals of it show the same market.
        """
        self._print(time_ns, price_paise, shares)
        tick = self.listing.tick_paise
        lowest, highest = self.listing.limits_paise
        # The last trade hit one side of the book; the spread is one or two ticks wide.
        width = tick * int(self.generator.integers(1, 3))
        on_ask = bool(self.generator.integers(2))
        best_ask = price_paise if on_ask else price_paise + width
        best_bid = best_ask - width
        # At its limit a share has nobody on the other side.
        self.bids = [] if price_paise <= lowest else self._side(best_bid, -tick, lowest, highest)
        self.asks = [] if price_paise >= highest else self._side(best_ask, tick, lowest, highest)

    def close_at(self, time_ns: int, price_paise: int, shares: int) -> None:
        """The closing auction matched: a trade after which no book is left."""
        self._print(time_ns, price_paise, shares)
        self.bids, self.asks = [], []

    def _print(self, time_ns: int, price_paise: int, shares: int) -> None:
        self.last_paise, self.last_shares, self.traded_ns = price_paise, shares, time_ns
        self.volume += shares
        self.value_paise += price_paise * shares
        self.open_paise = self.open_paise or price_paise
        self.high_paise = max(self.high_paise, price_paise)
        self.low_paise = min(self.low_paise or price_paise, price_paise)

    def shown(self, side: str, price_paise: int) -> int:
        """Shares that stand at a price of a side ("BUY" for the bids); 0 where none do."""
        levels = self.bids if side == "BUY" else self.asks
        return sum(level.shares for level in levels if level.price_paise == price_paise)

    def _side(self, best_paise: int, step_paise: int, lowest: int, highest: int) -> list[Level]:
        prices = [best_paise + place * step_paise for place in range(DEPTH_LEVELS)]
        shares = self.generator.lognormal(np.log(_LEVEL_SHARES), _LEVEL_SPREAD, DEPTH_LEVELS)
        return [
            Level(price, max(1, int(count)))
            for price, count in zip(prices, shares, strict=True)
            if lowest <= price <= highest
        ]
