"""One step of trading: settle, observe, order. The backtest and the live loop call it bar by bar."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.blocking import opens
from finsense.account.mask import place_order, reason_of, write_legal_actions
from finsense.account.orders import own_order_reason
from finsense.account.portfolio import (
    ACCOUNT,
    ACCOUNT_FEATURES,
    apply_fill,
    apply_stop_fill,
    open_account,
    write_account_features,
)
from finsense.account.reasons import FREE, REASONS
from finsense.account.rules import AccountRules
from finsense.account.watch import mark_bar
from finsense.market.bars import Bar, session_day
from finsense.market.calendar import session_date
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument
from finsense.market.timeline import Clock
from finsense.state.builder import StateBuilder
from finsense.state.spec import StateSpec


class IllegalAction(ValueError):
    """An action that the mask forbids."""


class Fill(NamedTuple):
    """A trade of the account.

    Attributes:
        time_ns: start of the bar in which it happened, ns UTC.
        quantity: signed shares, + bought, - sold.
        price_paise: price of one share.
        order: number of the order that it belongs to, which may fill in parts: brokerage is due once for the whole of
            it. 0: an order of its own. Negative: a protective stop, whose fills are kept apart from the orders'.
        trade: the broker's name of the execution; empty on paper.
    """

    time_ns: int
    quantity: int
    price_paise: int
    order: int = 0
    trade: str = ""


class Order(NamedTuple):
    """A market order for the next bar's open.

    Attributes:
        time_ns: start of the bar at whose close it was decided, ns UTC.
        quantity: signed shares, + buy, - sell.
        stop_ppm: how far from its fill a protective stop must rest at the exchange, parts per million; 0 for none.
    """

    time_ns: int
    quantity: int
    stop_ppm: int = 0


class Observation(NamedTuple):
    """What a policy sees at a bar's close; both arrays are the caller's own.

    Attributes:
        state: (1, F) float32: stacked market rows, then ACCOUNT_FEATURES.
        mask: (1, A) bool, the legal actions.
    """

    state: NDArray[np.float32]
    mask: NDArray[np.bool_]


# Inlined: a call that hands on arrays counts them up and down, which costs more than the work.
@njit(cache=True, forceinline=True)
def write_observation(
    account: Any,
    rules: Any,
    market: Any,
    schedule: Any,
    market_states: NDArray[np.float32],
    start: int,
    width: int,
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
    index: int,
) -> None:
    """Write row `index` of the states and the masks, for an account that was marked at this bar.

    Args:
        account: one ACCOUNT record.
        rules: one RULES record.
        market: the bar's MARKET record.
        schedule: the SCHEDULE record in force.
        market_states: (cells,) float32; the stacked market rows of this bar are its cells start .. start + width.
        start: see above.
        width: see above.
        states: output, (N, F) float32.
        masks: output, (N, A) bool.
        index: the row to write.
    """
    # By index, for a slice would cost more than the copy; unsigned, for a signed index is tested for being negative.
    first = np.uint64(start)
    for cell in range(np.uint64(width)):
        states[index, cell] = market_states[first + cell]
    write_account_features(account, market.close_paise, states, index, width)
    write_legal_actions(account, rules, market, schedule, masks, index)


@njit(cache=True)
def settle_fill(
    account: Any,
    rules: Any,
    schedule: Any,
    day: int,
    quantity: int,
    price_paise: int,
    before_paise: int,
    tick_paise: int,
    stop: bool,
) -> None:
    """Book a fill of the waiting order, or of the protective stop; arguments as those of `apply_fill`."""
    if stop:
        apply_stop_fill(account, rules, schedule, day, quantity, price_paise, before_paise)
    else:
        apply_fill(account, rules, schedule, day, quantity, price_paise, before_paise, tick_paise)


@njit(cache=True)
def _settle(accounts: Any, rules: Any, schedules: Any, markets: Any, row: int, fill: Any, stop: bool) -> None:
    # The step of the bar at whose close the order was decided: that of the fill's own bar is not known yet.
    tick_paise = markets[0].tick_paise
    day, quantity, price_paise, before_paise = fill
    settle_fill(accounts[0], rules[0], schedules[row], day, quantity, price_paise, before_paise, tick_paise, stop)


@njit(cache=True)
def _observe(
    accounts: Any,
    rules: Any,
    markets: Any,
    schedules: Any,
    market_state: NDArray[np.float32],
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
) -> None:
    market = markets[0]
    mark_bar(accounts[0], rules[0], market)
    write_observation(
        accounts[0],
        rules[0],
        market,
        schedules[market.schedule],
        market_state,
        0,
        len(market_state),
        states,
        masks,
        0,
    )


@njit(cache=True)
def _order(accounts: Any, rules: Any, markets: Any, schedules: Any, action: int) -> tuple[int, int]:
    account, rule, market = accounts[0], rules[0], markets[0]
    quantity = place_order(account, rule, market, schedules[market.schedule], action)
    return quantity, entry_stop_ppm(account, rule, quantity)


@njit(cache=True)
def entry_stop_ppm(account: Any, rules: Any, quantity: int) -> int:
    """How far from its fill a stop must rest for an order of the account; 0 for one that only reduces, or for none."""
    return int(rules.exit_stop_ppm) if rules.exit_stop_ppm > 0 and opens(account, quantity) else 0


@njit(cache=True)
def _reason(accounts: Any, rules: Any, markets: Any, schedules: Any, action: int) -> int:
    account, rule, market = accounts[0], rules[0], markets[0]
    if action == rule.hold:
        return own_order_reason(account, rule, market)
    return reason_of(account, rule, market, schedules[market.schedule], action)


@njit(cache=True)
def _open(accounts: Any, rules: Any) -> None:
    open_account(accounts[0], rules[0])


def new_account(rules: NDArray[Any]) -> NDArray[Any]:
    """A fresh account: one record of dtype ACCOUNT, shape (1,)."""
    accounts = np.zeros(1, ACCOUNT)
    _open(accounts, rules)
    return accounts


class Session:
    """One account trading one symbol, bar by bar.

    The order of calls per bar is `settle`, `observe`, and (when there is an observation) `order`.

    Attributes:
        account: (1,) of dtype ACCOUNT, the books; read it, never write it.
        action_count: number of actions.
        state_width: F, number of values in a state.
    """

    def __init__(
        self, instrument: Instrument, interval: str, spec: StateSpec, rules: AccountRules, charges: ChargeRules
    ) -> None:
        self._clock = Clock(instrument, interval, charges)
        self._builder = StateBuilder(spec)
        self._rules = rules.record(interval)
        self._charges = charges
        self._schedules = charges.schedules()
        self._mask = np.zeros((1, int(self._rules["actions"][0])), np.bool_)
        self._time_ns = 0
        # What each numbered order has filled so far, paise.
        self._filled_paise: dict[int, int] = {}
        self._ruin_paise = int(self._rules["ruin_paise"][0])
        self.account = new_account(self._rules)
        self.action_count = self._mask.shape[1]
        self.state_width = spec.width + len(ACCOUNT_FEATURES)

    def warm(self, bar: Bar) -> None:
        """Take a bar of the history before trading begins: it is seen, but the account does nothing."""
        opens = self._clock.advance(bar)
        self._builder.update(self._clock.row, opens)

    @property
    def ruined(self) -> bool:
        """Whether the equity of the last mark has fallen to the ruin level: trading ends there, in every driver."""
        return bool(self.account["equity_paise"].item() <= self._ruin_paise)

    def settle(self, fills: Sequence[Fill]) -> None:
        """Book the fills of the last order; none means that it was cancelled. Only here cash and position change.

        Raises:
            CostError: no charge schedule is known for a fill's date.
        """
        # The order's own fields are cleared even where only its stop filled.
        if not fills or fills[0].order < 0:
            self._book(0, (0, 0, 0, 0), stop=False)
        for fill in fills:
            date = session_date(fill.time_ns)
            row, day = self._charges.schedule_index(date), session_day(date)
            before_paise = self._filled_paise.get(fill.order, 0)
            self._book(row, (day, fill.quantity, fill.price_paise, before_paise), stop=fill.order < 0)
            if fill.order:
                self._filled_paise[fill.order] = before_paise + abs(fill.quantity) * fill.price_paise

    def _book(self, row: int, fill: tuple[int, int, int, int], *, stop: bool) -> None:
        _settle(self.account, self._rules, self._schedules, self._clock.record, row, fill, stop)

    @property
    def market(self) -> NDArray[Any]:
        """The account's view of the last bar, (1,) of dtype MARKET; read it, never write it."""
        return self._clock.record

    @property
    def stop_paise(self) -> int:
        """Trigger of the protective stop that must rest at the exchange now, paise; 0 for none."""
        return abs(int(self.account["stop_paise"][0]))

    def reason(self, action: int) -> str:
        """Why an action is masked since the last observation, in the words of REASONS; empty where it is legal.

        For holding: why the account closes its position by itself.
        """
        code = _reason(self.account, self._rules, self._clock.record, self._schedules, action)
        return "" if code == FREE else REASONS[code]

    def observe(self, bar: Bar) -> Observation | None:
        """Mark the account at the bar's close and see; None while the session lacks its warm-up.

        Raises:
            TimelineError: the bar is not later than the last one, or its date has no session.
        """
        opens = self._clock.advance(bar)
        self._time_ns = bar.time_ns
        if not self._builder.update(self._clock.row, opens):
            return None
        seen = Observation(np.empty((1, self.state_width), np.float32), np.empty((1, self.action_count), np.bool_))
        _observe(
            self.account,
            self._rules,
            self._clock.record,
            self._schedules,
            self._builder.market_state,
            seen.state,
            seen.mask,
        )
        self._mask[:] = seen.mask
        return seen

    def order(self, action: int) -> Order | None:
        """Turn an action into an order for the next open; None when there is nothing to send.

        Raises:
            IllegalAction: the mask of the last observation forbids the action.
        """
        if not 0 <= action < self.action_count or not self._mask[0, action]:
            legal = np.flatnonzero(self._mask[0]).tolist()
            raise IllegalAction(f"action {action} is not legal at this bar; legal actions: {legal}")
        quantity, stop_ppm = _order(self.account, self._rules, self._clock.record, self._schedules, action)
        return Order(self._time_ns, int(quantity), int(stop_ppm)) if quantity else None
