"""The order of a rehearsed day: what others trade, and what the exchange and the broker do at their hours."""

import heapq
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import NamedTuple

from finsense.live.orders import AUTOMATIC_PROTECTION, OrderRequest
from finsense.live.rehearsal.booked import RISK_SYSTEM
from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.hours import Phase, auction_match_ns
from finsense.live.rehearsal.street import Street
from finsense.live.rehearsal.tape import StreetTrade, Tape
from finsense.market.calendar import MINUTE_NS, TradingSession

# The broker tries to close MIS positions so often, a minute apart: Zerodha's square-off takes from 15:20 to 15:25.
_SQUARE_OFF_TRIES = 5
# Reference price of the closing auction: the average of the last so many minutes (NSE/CMTR/73362 of 18 Mar 2026).
_REFERENCE_NS = 15 * MINUTE_NS
# The auction's price lies around the last one by this standard deviation, its shares are this part of the day's; ours.
_AUCTION_DEVIATION, _AUCTION_PART = 0.001, 0.05


class Appointment(NamedTuple):
    """Something that happens at an instant, other than a trade.

    Attributes:
        time_ns: when, ns UTC; of those at one instant the one that was made first comes first, and trades come after.
        place: numbers them.
        act: what happens.
    """

    time_ns: int
    place: int
    act: Callable[[], None]


class Day:
    """Everything that is still to happen, in order.

    Args:
        trades: of others, in the order of time.
    """

    def __init__(self, trades: Iterable[StreetTrade]) -> None:
        self._trades = iter(trades)
        self._trade = next(self._trades, None)
        self._appointments: list[Appointment] = []
        self._places = count()

    def appoint(self, time_ns: int, act: Callable[[], None]) -> None:
        """Let something happen at an instant."""
        heapq.heappush(self._appointments, Appointment(time_ns, next(self._places), act))

    def next_ns(self) -> int | None:
        """When the next thing happens, ns UTC; None: nothing more does."""
        instants = [one.time_ns for one in (self._trade, *self._appointments[:1]) if one is not None]
        return min(instants, default=None)

    def take(self) -> StreetTrade | Appointment:
        """The next thing.

        Raises:
            StopIteration: nothing more happens.
        """
        trade = self._trade
        if self._appointments and (trade is None or self._appointments[0].time_ns <= trade.time_ns):
            return heapq.heappop(self._appointments)
        if trade is None:
            raise StopIteration
        self._trade = next(self._trades, None)
        return trade


def appoint_the_day(
    day: Day,
    exchange: RehearsalExchange,
    sessions: Mapping[str, TradingSession],
    tapes: Mapping[str, Tape],
    square_off_before_ns: int,
) -> None:
    """Write the hours of a session into the day: the broker's square-off, the closing auction, the end of orders."""
    for symbol, session in sorted(sessions.items()):
        begin_ns = session.close_ns - square_off_before_ns
        for late in range(_SQUARE_OFF_TRIES):
            day.appoint(begin_ns + late * MINUTE_NS, _square_off(exchange, symbol))
        match_ns = auction_match_ns(session)
        if match_ns is None:
            day.appoint(session.close_ns, _end(exchange, symbol))
        else:
            day.appoint(session.close_ns, _begin_auction(exchange, symbol, session, tapes[symbol]))
            # The last instant at which the phase is still the auction's: a halt or an outage over it ends the day.
            day.appoint(match_ns - 1, _match(exchange, symbol))


def _square_off(exchange: RehearsalExchange, symbol: str) -> Callable[[], None]:
    """The broker closes what MIS has left: the client's orders first, then the position at the market."""

    def act() -> None:
        exchange.squared.add(symbol)
        if exchange.phase(symbol) is not Phase.CONTINUOUS:
            return
        for order in exchange.working(symbol):
            if order.request.product == "MIS":
                exchange.withdraw(order, "MIS order cancelled by the broker's square-off")
        left = exchange.positions.get((symbol, "MIS"), 0)
        if left:
            side, shares = ("SELL" if left > 0 else "BUY"), abs(left)
            exchange.place(
                OrderRequest("squareoff", symbol, side, shares, "MARKET", "MIS", None, None, AUTOMATIC_PROTECTION),  # type: ignore[arg-type]
                placed_by=RISK_SYSTEM,
                tagged=False,
            )

    return act


def _begin_auction(exchange: RehearsalExchange, symbol: str, session: TradingSession, tape: Tape) -> Callable[[], None]:
    """Continuous trading is over: stop orders end, open limit orders are carried into the auction."""

    def act() -> None:
        street = exchange.streets[symbol]
        average = tape.average_paise(session.close_ns - _REFERENCE_NS)
        tick = street.listing.tick_paise
        street.reference_paise = round((average or street.known_paise) / tick) * tick
        for order in exchange.working(symbol):
            if not order.triggered:
                exchange.withdraw(order, "Stop orders end with continuous trading")

    return act


def _match(exchange: RehearsalExchange, symbol: str) -> Callable[[], None]:
    def act() -> None:
        if exchange.phase(symbol) is Phase.AUCTION_LIMIT:
            exchange.close_auction(symbol, *_equilibrium(exchange.streets[symbol]))
        else:
            exchange.end_day(symbol)

    return act


def _equilibrium(street: Street) -> tuple[int, int]:
    """Price (paise) and shares of the auction, as the rest of the market makes them."""
    tick = street.listing.tick_paise
    lowest, highest = street.limits_paise
    price = street.known_paise * (1.0 + _AUCTION_DEVIATION * float(street.generator.standard_normal()))
    return min(max(round(price / tick) * tick, lowest), highest), int(street.volume * _AUCTION_PART)


def _end(exchange: RehearsalExchange, symbol: str) -> Callable[[], None]:
    return lambda: exchange.end_day(symbol)
