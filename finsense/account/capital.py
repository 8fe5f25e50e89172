"""When cash runs out: which signal deserves it, what to close for a better one, and in which order."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from finsense.account.ranking import CapitalError, Ranked, Signal, Weights, rank

# Signed shares and paise per share -> what the order costs, paise.
Charges = Callable[[int, int], int]
_NO_SIGNAL = "no signal"


class Holding(NamedTuple):
    """A position.

    Attributes:
        symbol: trading symbol.
        quantity: signed shares, not 0.
        price_paise: last price.
    """

    symbol: str
    quantity: int
    price_paise: int

    @property
    def value_paise(self) -> int:
        """Without its sign."""
        return abs(self.quantity) * self.price_paise


@dataclass(frozen=True)
class Terms:
    """What the account wants of a new position.

    Attributes:
        cash_buffer: of the equity, cash that nothing may spend.
        max_position_fraction: of the equity, in one symbol.
        min_position_fraction: of the equity; less is not worth a position.
        max_positions: symbols held at a time.
        better_by: how much higher a new signal's score must be than that of what is closed for it, so that two that
            are about equal do not take turns at the expense of charges.
    """

    cash_buffer: float = 0.10
    max_position_fraction: float = 0.30
    min_position_fraction: float = 0.05
    max_positions: int = 4
    better_by: float = 0.10

    def __post_init__(self) -> None:
        if not (0 <= self.cash_buffer < 1 and 0 < self.min_position_fraction <= self.max_position_fraction <= 1):
            raise CapitalError(
                "expected a cash buffer below 1 and 0 < min_position_fraction <= max_position_fraction <= 1, found "
                f"{self.cash_buffer}, {self.min_position_fraction} and {self.max_position_fraction}"
            )
        if self.max_positions < 1 or not (math.isfinite(self.better_by) and self.better_by >= 0):
            raise CapitalError(
                f"expected a position or more, better_by of 0 or more; found {self.max_positions}, {self.better_by}"
            )


@dataclass(frozen=True)
class Capital:
    """The account.

    Attributes:
        cash_paise: as the account keeps it; it holds what short sales brought.
        holdings: positions, each symbol once.
    """

    cash_paise: int
    holdings: tuple[Holding, ...]

    def __post_init__(self) -> None:
        symbols = [holding.symbol for holding in self.holdings]
        if len(set(symbols)) < len(symbols) or any(one.quantity == 0 or one.price_paise <= 0 for one in self.holdings):
            raise CapitalError(
                f"expected positions of one share or more at a price, each symbol once; found {self.holdings}"
            )

    @property
    def equity_paise(self) -> int:
        """Cash and what the positions are worth, short ones negative."""
        return self.cash_paise + sum(holding.quantity * holding.price_paise for holding in self.holdings)

    def free_paise(self, cash_buffer: float) -> int:
        """Cash that a new position may take: without the buffer and twice the value of short positions."""
        short = sum(holding.value_paise for holding in self.holdings if holding.quantity < 0)
        return self.cash_paise - 2 * short - math.ceil(cash_buffer * max(self.equity_paise, 0))


class Step(NamedTuple):
    """One order of a suggestion.

    Attributes:
        symbol: trading symbol.
        quantity: signed shares.
        price_paise: last price.
        charges_paise: estimated, at that price.
        reason: why.
    """

    symbol: str
    quantity: int
    price_paise: int
    charges_paise: int
    reason: str


class Suggestion(NamedTuple):
    """What to do with the cash.

    Attributes:
        steps: orders, those that close before the one that they make room for.
        left_out: symbol -> why nothing is suggested for its signal.
        free_paise: cash without the buffer before the first order.
        free_after_paise: the same after the last.
        positions_left: new positions of full size that the cash pays for without closing anything.
    """

    steps: tuple[Step, ...]
    left_out: Mapping[str, str]
    free_paise: int
    free_after_paise: int
    positions_left: int

    @property
    def depleted(self) -> bool:
        """Whether the cash pays for no full position any more."""
        return self.positions_left == 0


def liquidation_order(capital: Capital, signals: Sequence[Signal], weights: Weights | None = None) -> list[Ranked]:
    """The positions in the order in which to close them when cash is wanted: the weakest first.

    Without a signal first, then without positive momentum, then by score; of equals the larger position, then by name.

    Raises:
        CapitalError: see `rank`.
    """
    known = {one.symbol: one for one in rank(signals, weights)}
    held = [known.get(one.symbol, Ranked(one.symbol, 0.0, _NO_SIGNAL)) for one in capital.holdings]
    value = {one.symbol: one.value_paise for one in capital.holdings}
    return sorted(held, key=lambda one: weakness(one, value[one.symbol]))


def weakness(one: Ranked, value_paise: int) -> tuple[bool, bool, float, int, str]:
    """The lower, the earlier a position worth so much, without its sign, is closed when cash is wanted."""
    return one.refused != _NO_SIGNAL, not one.refused, one.score, -value_paise, one.symbol


def suggest(
    capital: Capital,
    signals: Sequence[Signal],
    charges: Charges,
    terms: Terms | None = None,
    weights: Weights | None = None,
    shares: Mapping[str, float] | None = None,
) -> Suggestion:
    """What to buy with the free cash, and what to close for a better signal once it is spent.

    The signals are served from the best down. Each gets a full position, or what the cash gives if that is worth a
    position; where cash or places are spent, positions are closed in liquidation order, as long as each is weaker by
    `better_by`. A signal for which not enough can be closed is left out, and nothing is closed for it.

    Args:
        capital: the account.
        signals: of held symbols and of others.
        charges: what an order costs.
        terms: see there.
        weights: see there.
        shares: symbol -> share of the equity of a full position (fraction), as `sizing` tells it; it never exceeds
            `max_position_fraction`, which holds for a symbol that is absent.

    Raises:
        CapitalError: see `rank`; or the equity is not above 0.
    """
    terms = terms or Terms()
    if capital.equity_paise <= 0:
        raise CapitalError(f"expected an equity above 0, found {capital.equity_paise} paise")
    return _Purse(capital, signals, charges, terms, weights, shares or {}).serve()


class _Purse:
    """The account while a suggestion is made; arguments as in `suggest`."""

    def __init__(
        self,
        capital: Capital,
        signals: Sequence[Signal],
        charges: Charges,
        terms: Terms,
        weights: Weights | None,
        shares: Mapping[str, float],
    ) -> None:
        self._ranked = rank(signals, weights)
        self._prices = {signal.symbol: signal.price_paise for signal in signals}
        self._holdings = {holding.symbol: holding for holding in capital.holdings}
        self._weakest = liquidation_order(capital, signals, weights)
        self._charges, self._terms = charges, terms
        self._shares, self._equity_paise = shares, capital.equity_paise
        self._least_paise = math.ceil(terms.min_position_fraction * capital.equity_paise)
        self._begun_paise = self._free_paise = capital.free_paise(terms.cash_buffer)
        self._held = len(self._holdings)
        self._steps: list[Step] = []
        self._left_out: dict[str, str] = {}

    def serve(self) -> Suggestion:
        for one in self._ranked:
            if one.symbol in self._holdings:
                continue
            reason = one.refused or self._open(one)
            if reason:
                self._left_out[one.symbol] = reason
        left = max(self._begun_paise, 0) // max(math.floor(self._terms.max_position_fraction * self._equity_paise), 1)
        left = min(left, max(self._terms.max_positions - len(self._holdings), 0))
        return Suggestion(tuple(self._steps), self._left_out, self._begun_paise, self._free_paise, left)

    def _open(self, one: Ranked) -> str:
        """Suggest a position in a symbol; why not, where nothing is suggested."""
        if self._affordable(one.symbol, self._equity_paise * 2) == 0:
            return "a position of its size is worth less than the smallest one, or one share is worth more"
        closings: list[Step] = []
        free_paise, held, weaker = self._free_paise, self._held, list(self._weakest)
        quantity = self._affordable(one.symbol, free_paise)
        while held >= self._terms.max_positions or quantity == 0:
            if not weaker or weaker[0].score + self._terms.better_by >= one.score:
                spent = "cash" if held < self._terms.max_positions else "places"
                return f"no {spent} left, and nothing held is weaker by {self._terms.better_by:g}"
            weakest = weaker.pop(0)
            step = self._closing(weakest, one)
            closings.append(step)
            free_paise += abs(step.quantity) * step.price_paise - step.charges_paise
            held -= 1
            quantity = self._affordable(one.symbol, free_paise)
        price_paise = self._prices[one.symbol]
        cost_paise = self._charges(quantity, price_paise)
        self._steps += [*closings, Step(one.symbol, quantity, price_paise, cost_paise, f"score {one.score:.3f}")]
        self._free_paise = free_paise - quantity * price_paise - cost_paise
        self._held, self._weakest = held + 1, weaker
        return ""

    def _closing(self, weakest: Ranked, better: Ranked) -> Step:
        holding = self._holdings[weakest.symbol]
        quantity = -holding.quantity
        reason = f"score {weakest.score:.3f}{f' ({weakest.refused})' if weakest.refused else ''}, for {better.symbol}"
        return Step(holding.symbol, quantity, holding.price_paise, self._charges(quantity, holding.price_paise), reason)

    def _affordable(self, symbol: str, free_paise: int) -> int:
        """Shares of a full position, or of what the cash pays with charges; 0 where that is worth no position."""
        price_paise = self._prices[symbol]
        most = self._terms.max_position_fraction
        full_paise = math.floor(min(self._shares.get(symbol, most), most) * self._equity_paise)
        quantity = min(full_paise, max(free_paise, 0)) // price_paise
        while quantity > 0 and quantity * price_paise + self._charges(quantity, price_paise) > free_paise:
            over_paise = quantity * price_paise + self._charges(quantity, price_paise) - free_paise
            quantity -= max(1, over_paise // price_paise)
        return quantity if quantity * price_paise >= self._least_paise and quantity > 0 else 0


class Change(NamedTuple):
    """One line of a rebalancing.

    Attributes:
        symbol: trading symbol.
        value_paise: of the position now, negative when short.
        target_paise: what its score would have it worth.
        quantity: signed shares to trade; 0 where the difference is worth no order.
    """

    symbol: str
    value_paise: int
    target_paise: int
    quantity: int


def rebalance(
    capital: Capital, signals: Sequence[Signal], terms: Terms | None = None, weights: Weights | None = None
) -> list[Change]:
    """Positions in proportion to the scores of the best signals, each and all together within the terms.

    Differences below the smallest position are left, for charges would eat them; what should be closed is closed.

    Raises:
        CapitalError: see `suggest`.
    """
    terms = terms or Terms()
    if capital.equity_paise <= 0:
        raise CapitalError(f"expected an equity above 0, found {capital.equity_paise} paise")
    chosen = [one for one in rank(signals, weights) if not one.refused and one.score > 0][: terms.max_positions]
    total = math.fsum(one.score for one in chosen)
    share = {
        one.symbol: min((1 - terms.cash_buffer) * one.score / total, terms.max_position_fraction) for one in chosen
    }
    prices = {signal.symbol: signal.price_paise for signal in signals}
    held = {holding.symbol: holding for holding in capital.holdings}
    changes = []
    for symbol in sorted(set(share) | set(held)):
        holding = held.get(symbol)
        price_paise = holding.price_paise if holding is not None else prices[symbol]
        now = holding.quantity if holding is not None else 0
        target_paise = math.floor(share.get(symbol, 0.0) * capital.equity_paise)
        quantity = target_paise // price_paise - now
        closes = target_paise == 0 and now != 0
        if not closes and abs(quantity) * price_paise < terms.min_position_fraction * capital.equity_paise:
            quantity = 0
        changes.append(Change(symbol, now * price_paise, target_paise, quantity))
    return changes
