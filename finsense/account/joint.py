"""One step of trading several symbols out of one purse: settle, observe, order, moment by moment."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finsense.account.claims import CLAIM
from finsense.account.crowding import new_pasts, sector_codes
from finsense.account.joint_step import observe_symbols, open_accounts, order_symbols, settle_symbol
from finsense.account.portfolio import ACCOUNT, ACCOUNT_FEATURES
from finsense.account.reasons import REASONS
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, IllegalAction, Observation, Order, entry_stop_ppm
from finsense.account.track_record import TRACK, gained, open_tracks
from finsense.market.bars import Bar, session_day
from finsense.market.calendar import session_date
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument
from finsense.market.moments import Moment
from finsense.market.timeline import MARKET, Clock
from finsense.state.builder import StateBuilder
from finsense.state.spec import StateSpec


class JointError(ValueError):
    """Symbols that an account does not trade, or trades twice."""


class Choice(NamedTuple):
    """What a policy chose for one symbol.

    Attributes:
        action: a legal one.
        confidence: finite, the probability that the policy gives it; what the rules' ranking makes of it and of what
            was gained on the symbol says which of two choices is served first.
    """

    action: int
    confidence: float = 0.0


class Books(NamedTuple):
    """What the account owns.

    Attributes:
        cash_paise: of all symbols together.
        positions: symbol -> signed shares, of every symbol.
        equity_paise: at the last marks.
    """

    cash_paise: int
    positions: Mapping[str, int]
    equity_paise: int


def in_order(instruments: Sequence[Instrument]) -> list[Instrument]:
    """The instruments of an account by name: the order of symbols everywhere.

    Raises:
        JointError: none, or one twice.
    """
    symbols = [one.symbol for one in instruments]
    if not symbols or len(set(symbols)) != len(symbols):
        raise JointError(f"expected each symbol of an account once, and at least one, found {', '.join(symbols)}")
    return sorted(instruments, key=lambda one: one.symbol)


def new_accounts(count: int, rules: NDArray[Any]) -> NDArray[Any]:
    """The fresh records of an account with so many symbols, (count,) of dtype ACCOUNT."""
    accounts = np.zeros(count, ACCOUNT)
    open_accounts(accounts, rules)
    return accounts


def resting_stops(symbols: Sequence[str], accounts: NDArray[Any]) -> dict[str, int]:
    """Symbol -> trigger of its protective stop, paise, of the accounts that have one."""
    triggers = np.abs(accounts["stop_paise"])
    return {symbols[place]: int(triggers[place]) for place in np.flatnonzero(triggers).tolist()}


class JointSession:
    """One account trading several symbols out of one purse.

    The order of calls per moment is `settle`, `observe`, and (when anything was observed) `order`. With one symbol it
    is a `Session`, to the bit.

    Attributes:
        symbols: in alphabetic order.
        accounts: (S,) of dtype ACCOUNT, the books by symbol; what belongs to the purse stands in each. Read them, never
            write them.
        dropped: symbol -> why its last choice ordered nothing although it was legal when it was seen: an earlier order
            of the same moment took the cash or the place.
        action_count: number of actions.
        state_width: F, number of values in a state.
    """

    def __init__(
        self,
        instruments: Sequence[Instrument],
        interval: str,
        spec: StateSpec,
        rules: AccountRules,
        charges: ChargeRules,
    ) -> None:
        stocks = in_order(instruments)
        count = len(stocks)
        self.symbols = tuple(stock.symbol for stock in stocks)
        self._places = {symbol: place for place, symbol in enumerate(self.symbols)}
        self._rules = rules.record(interval)
        self._charges = charges
        self._schedules = charges.schedules()
        self._markets = np.zeros(count, MARKET)
        self._markets["first_cell"] = np.arange(count) * spec.width
        self._cells = np.zeros((count, spec.width), np.float32)
        self._flat_cells, self._width = self._cells.reshape(-1), spec.width
        self._clocks = [Clock(stock, interval, charges) for stock in stocks]
        for place, clock in enumerate(self._clocks):
            clock.record = self._markets[place : place + 1]
        self._builders = [StateBuilder(spec) for _ in stocks]
        self._bars = np.arange(count)
        self._claims = np.zeros(count + 1, CLAIM)
        # Of the last moment: which symbols have a bar, which decide; since then: which were settled.
        self._flags = np.zeros((3, count), np.bool_)
        self._present, self._deciding, self._settled = self._flags
        # The same two by name and place; on most moments they are those of the moment before.
        self._with_bar: dict[str, int] = {}
        self._observed: dict[str, int] = {}
        self._near = sector_codes(self.symbols, rules.limits), new_pasts(1, count, rules.limits)[0]
        self._tracks = np.zeros(count, TRACK)
        open_tracks(self._tracks, self._rules[0])
        self._actions, self._confidences = np.zeros(count, np.int64), np.zeros(count)
        self._scores, self._drops = np.zeros(count), np.zeros(count, np.int64)
        self._scratch = self._scores, np.zeros(count, np.int64), self._drops
        self._time_ns = 0
        # What each numbered order has filled so far, paise.
        self._filled_paise: dict[tuple[int, int], int] = {}
        self._ruin_paise = int(self._rules["ruin_paise"][0])
        self._has_stops = bool(self._rules["exit_stop_ppm"][0] > 0)
        self.accounts = new_accounts(count, self._rules)
        self.action_count = int(self._rules["actions"][0])
        self.state_width = spec.width + len(ACCOUNT_FEATURES)
        self._masks = np.zeros((count, self.action_count), np.bool_)
        self.dropped: dict[str, str] = {}

    def warm(self, symbol: str, bar: Bar) -> None:
        """Take a bar of a symbol's history before trading begins: it is seen, but the account does nothing."""
        place = self._place(symbol)
        opens = self._clocks[place].advance(bar)
        self._builders[place].update(self._clocks[place].row, opens)

    @property
    def ruined(self) -> bool:
        """Whether the equity of the last mark has fallen to the ruin level: trading ends there, in every driver."""
        return bool(self.accounts["equity_paise"][0] <= self._ruin_paise)

    def books(self) -> Books:
        """What the account owns now."""
        account = self.accounts[0]
        positions = dict(zip(self.symbols, self.accounts["position"].tolist(), strict=True))
        return Books(int(account["cash_paise"]), positions, int(account["equity_paise"]))

    def stops(self) -> dict[str, int]:
        """The protective stops that must rest now: symbol -> trigger, paise."""
        return resting_stops(self.symbols, self.accounts)

    @property
    def scores(self) -> dict[str, float]:
        """What ranked the last choices: symbol -> score, by name."""
        return {symbol: float(self._scores[place]) for symbol, place in self._observed.items()}

    def gained(self, symbol: str) -> float:
        """What was gained on a symbol over its last SESSIONS sessions, fraction; 0 where the ranking does not ask.

        Raises:
            JointError: a symbol that this account does not trade.
        """
        return float(gained(self._tracks[self._place(symbol)]))

    def settle(self, fills: Mapping[str, Sequence[Fill]]) -> None:
        """Book the fills since the last moment. Only here cash and position change.

        An order of a symbol that has a bar in the next moment and no fill before it was cancelled.

        Raises:
            JointError: a symbol that this account does not trade.
            CostError: no charge schedule is known for a fill's date.
        """
        for symbol in sorted(fills):
            place = self._place(symbol)
            # The order's own fields are cleared even where only its stop filled.
            if fills[symbol] and fills[symbol][0].order < 0 and not self._settled[place]:
                self._book(place, 0, (0, 0, 0, 0), stop=False)
            for fill in fills[symbol]:
                date = session_date(fill.time_ns)
                row, day = self._charges.schedule_index(date), session_day(date)
                before_paise = self._filled_paise.get((place, fill.order), 0)
                self._book(place, row, (day, fill.quantity, fill.price_paise, before_paise), stop=fill.order < 0)
                if fill.order:
                    value_paise = abs(fill.quantity) * fill.price_paise
                    self._filled_paise[place, fill.order] = before_paise + value_paise

    def _book(self, place: int, row: int, fill: tuple[int, int, int, int], *, stop: bool) -> None:
        settle_symbol(self.accounts, self._rules, self._markets, self._schedules, row, place, fill, stop)
        self._settled[place] = True

    def observe(self, moment: Moment) -> dict[str, Observation]:
        """Mark the account at the closes of a moment and see.

        Returns:
            Symbol -> what its policy sees, by name; those without a bar, and those that lack their warm-up, are absent.

        Raises:
            JointError: a symbol that this account does not trade.
            TimelineError: a bar is not later than the last one of its symbol, or its date has no session.
        """
        self._time_ns = moment.time_ns
        if moment.bars.keys() != self._with_bar.keys():
            self._with_bar = {symbol: self._place(symbol) for symbol in moment.bars}
            self._present[:] = [symbol in self._with_bar for symbol in self.symbols]
        observed = {}
        for symbol, place in self._with_bar.items():
            clock, builder = self._clocks[place], self._builders[place]
            opens = clock.advance(moment.bars[symbol])
            if builder.update(clock.row, opens):
                observed[symbol] = place
                self._cells[place] = builder.market_state
        if observed != self._observed:
            self._observed = dict(sorted(observed.items()))
            self._deciding[:] = [symbol in observed for symbol in self.symbols]
        count = len(self.symbols)
        states = np.empty((count, self.state_width), np.float32)
        observe_symbols(
            self.accounts,
            self._claims,
            self._near,
            self._tracks,
            self._rules,
            self._markets,
            self._bars,
            self._schedules,
            self._flags,
            self._flat_cells,
            self._width,
            states,
            self._masks,
        )
        masks = self._masks.copy()
        return {
            symbol: Observation(states[place : place + 1], masks[place : place + 1])
            for symbol, place in self._observed.items()
        }

    def order(self, choices: Mapping[str, Choice]) -> dict[str, Order]:
        """Turn the choices of the symbols that were observed into orders for each symbol's next open.

        Exits and the account's own orders come first, then the choices of higher score (equals by name); each takes its
        cash and its place from those after it. What is left without is told in `dropped`.

        Returns:
            Symbol -> its order, by name; those that send nothing are absent.

        Raises:
            JointError: the choices are not those of the symbols that were observed, or a confidence is not finite.
            IllegalAction: the mask of the last observation forbids an action; nothing was ordered.
        """
        if choices.keys() != self._observed.keys():
            raise JointError(
                f"expected a choice for each symbol that was observed ({', '.join(self._observed) or 'none'}), "
                f"found {', '.join(choices) or 'none'}"
            )
        for symbol, place in self._observed.items():
            choice = choices[symbol]
            self._check(symbol, place, choice)
            self._actions[place], self._confidences[place] = choice
        wanted = order_symbols(
            self.accounts,
            self._claims,
            self._near,
            self._tracks,
            self._rules,
            self._markets,
            self._bars,
            self._schedules,
            self._deciding,
            self._actions,
            self._confidences,
            self._scratch,
        )
        if wanted == 0:
            self.dropped = {}
            return {}
        waiting, drops = self.accounts["order"].tolist(), self._drops.tolist()
        self.dropped = {self.symbols[place]: REASONS[drop] for place, drop in enumerate(drops) if drop}
        return {
            symbol: Order(self._time_ns, waiting[place], self._stop_ppm(place, waiting[place]))
            for symbol, place in self._observed.items()
            if waiting[place]
        }

    def _stop_ppm(self, place: int, quantity: int) -> int:
        return int(entry_stop_ppm(self.accounts[place], self._rules[0], quantity)) if self._has_stops else 0

    def _check(self, symbol: str, place: int, choice: Choice) -> None:
        if not math.isfinite(choice.confidence):
            raise JointError(f"{symbol}: expected a finite confidence, found {choice.confidence}")
        if not 0 <= choice.action < self.action_count or not self._masks[place, choice.action]:
            legal = np.flatnonzero(self._masks[place]).tolist()
            raise IllegalAction(f"{symbol}: action {choice.action} is not legal at this bar; legal actions: {legal}")

    def _place(self, symbol: str) -> int:
        if symbol not in self._places:
            raise JointError(f"this account trades {', '.join(self.symbols)}, found {symbol}")
        return self._places[symbol]
