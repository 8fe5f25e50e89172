"""Laws: no order gets past a limit, a looser limit blocks nothing more, an exit is never held up."""

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from limit_gates import Gate
from limited_accounts import ALL_LIMITS, LIMITED, SHORT_TARGETS, decided
from markets import CHARGED, rough_bars, rules, session_times, small_spec, tape_of
from numpy.typing import NDArray
from pydantic import ValidationError
from trading_desks import SESSION_BARS

from finsense.account.exchange import SimulatedExchange
from finsense.account.limits import Limits
from finsense.account.reasons import REASONS
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, Session
from finsense.envs.core import EpisodeRules
from finsense.envs.vector import VectorTradingEnv
from finsense.market.bars import Bar, session_day
from finsense.market.calendar import session_date
from finsense.market.instruments import instrument
from finsense.market.timeline import MARKET

SEEDS = st.integers(0, 2**32 - 1)


def random_actions(masks: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """A legal action for each env."""
    scores = np.where(masks, rng.random(masks.shape), -1.0)
    chosen: NDArray[np.int64] = scores.argmax(axis=1)
    return chosen


_ENVS, _STEPS = 1024, 200


class Crowd:
    """1024 environments under one account, watched by the gate of the same or of another one."""

    def __init__(self, account: AccountRules, watched: AccountRules) -> None:
        bars = [rough_bars(seed, dt.date(2024, 1, 8), dt.date(2024, 2, 2), volume=20_000) for seed in range(3)]
        self.env = VectorTradingEnv(tape_of(*bars), account, _ENVS, EpisodeRules(bars=150))
        self.core, self.record = self.env.core, account.record("15m")
        self.gate, self.rng = Gate(watched, _ENVS), np.random.default_rng(1)
        self.quantities = np.zeros(_ENVS, np.int64)
        self.codes = np.zeros((_ENVS, self.core.action_count), np.int64)
        self.opened = 0
        self.env.reset(seed=1)
        self.gate.close(self.core.accounts, self.bar)

    @property
    def bar(self) -> NDArray[Any]:
        """The bar of each environment."""
        found: NDArray[Any] = self.core.tape.markets[self.core.envs["bar"]]
        return found

    def step(self) -> dict[str, NDArray[np.bool_]]:
        """Choose at random among what is legal, and step; what the gate says to the orders."""
        core, bar, books = self.core, self.bar, self.core.accounts
        actions = random_actions(core.masks, self.rng)
        world = (core.tape.markets, core.tape.schedules)
        decided(core.envs, books, self.record, *world, actions, self.quantities, self.codes)
        worst_ppm = 1_000_000 + int(self.record["slippage_ppm"][0] + self.record["price_buffer_ppm"][0])
        broken = self.gate.breaches(books, bar, self.quantities, bar["close_paise"] * worst_ppm // 1_000_000)
        self.opened += int(np.count_nonzero((self.quantities != 0) & (self.quantities * books["position"] >= 0)))
        self.gate.ordered(self.quantities)
        _, _, terminated, truncated, _ = self.env.step(actions)
        self.gate.restart(terminated | truncated)
        self.gate.close(core.accounts, self.bar)
        return broken


@pytest.mark.parametrize("name", LIMITED)
def test_over_a_million_random_steps_no_order_gets_past_a_limit(name: str) -> None:
    """Five accounts, 1024 environments, 200 steps each; the mask tells what the reasons tell."""
    crowd = Crowd(LIMITED[name], LIMITED[name])
    told: set[str] = set()
    for _ in range(_STEPS):
        masks = crowd.core.masks.copy()
        for limit, broken in crowd.step().items():
            assert not broken.any(), limit
        assert ((crowd.codes == 0) == masks).all()
        told |= {REASONS[code] for code in np.unique(crowd.codes)}
    assert told >= TOLD[name]
    assert crowd.opened > 1000


# What must have masked something, so that the law is not kept by trading nothing.
TOLD = {
    "shares": {"orders of the day", "price jump", "volatility spike", "too near to the close", "consecutive losses"},
    "fraction": {"position too large", "daily loss", "orders of the day"},
    "short targets": {"position too large", "daily loss", "volatility spike", "the account takes profit"},
    "all in, flattened": {"the account is flattened", "daily loss", "position too large"},
    "small account": {"position too large", "the account's time is over"},
}


def test_the_gate_of_these_laws_has_teeth() -> None:
    """An account without limits breaks nearly all of them, and the gate sees it."""
    limited = LIMITED["short targets"]
    crowd = Crowd(rules(actions=SHORT_TARGETS, allow_short=True), limited)
    found: set[str] = set()
    for _ in range(60):
        found |= {limit for limit, broken in crowd.step().items() if broken.any()}
    # A target of half the account is never too small, and one symbol is one position.
    everything = set(crowd.gate.breaches(crowd.core.accounts, crowd.bar, crowd.quantities, crowd.quantities))
    assert found == everything - {"position too small", "number of positions"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITED)
def test_over_a_million_random_steps_of_a_session_no_order_gets_past_a_limit(name: str) -> None:
    """Five accounts, 500 sessions with their exchange each, of more than 400 bars."""
    account, stock, rng = LIMITED[name], instrument("SIM"), np.random.default_rng(2)
    steps, opened, record = 0, 0, account.record("15m")
    worst_ppm = 1_000_000 + int(record["slippage_ppm"][0] + record["price_buffer_ppm"][0])
    for seed in range(500):
        session = Session(stock, "15m", small_spec(), account, CHARGED)
        exchange, gate = SimulatedExchange(stock, "15m", account, CHARGED), Gate(account, 1)
        for place, bar in enumerate(rough_bars(seed, dt.date(2024, 1, 8), dt.date(2024, 2, 2), volume=20_000)):
            if place < 2 * SESSION_BARS:
                session.warm(bar)
                exchange.warm(bar)
                continue
            session.settle(exchange.fills(bar))
            seen = session.observe(bar)
            assert seen is not None
            gate.close(session.account, session.market)
            books, action = session.account.copy(), int(rng.choice(np.flatnonzero(seen.mask[0])))
            order = session.order(action)
            quantity = np.array([order.quantity if order else 0])
            if order:
                exchange.submit(order)
                worst = session.market["close_paise"] * worst_ppm // 1_000_000
                for limit, broken in gate.breaches(books, session.market, quantity, worst).items():
                    assert not broken.any(), limit
                opened += int(books["position"][0] * order.quantity >= 0)
            gate.ordered(quantity)
            steps += 1
    assert steps >= 200_000
    assert opened > 1000


STEP = st.tuples(
    st.floats(-0.12, 0.12),  # move of the close
    st.floats(0, 0.05),  # range beyond open and close
    st.integers(0, 4),  # which of the legal actions
    st.sampled_from([0.0, 0.3, 1.0]),  # part of the order that fills
    st.floats(-0.04, 0.04),  # how far from the open
    st.booleans(),  # whether a resting stop fills
)


@pytest.mark.parametrize("name", LIMITED)
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEP, min_size=30, max_size=60))
def test_no_sequence_of_prices_actions_and_fills_gets_an_order_past_a_limit(name: str, steps: list[Any]) -> None:
    """A broker that fills any part of an order at any price, and stops when it likes."""
    account = LIMITED[name]
    record, gate = account.record("15m"), Gate(account, 1)
    session = Session(instrument("SIM"), "15m", small_spec(), account, CHARGED)
    markets = _markets()
    times = iter(_times())
    for _ in range(2 * SESSION_BARS):
        session.warm(Bar(next(times), 100.0, 100.0, 100.0, 100.0, 10_000))
    close, waiting = 100.0, 0
    for move, spread, choice, part, off, stops in steps:
        opened, close = close, round(max(close * (1 + move), 5.0), 2)
        bar = Bar(
            next(times), opened, max(opened, close) * (1 + spread), min(opened, close) / (1 + spread), close, 9000
        )
        price = max(round(opened * 100 * (1 + off)), 1)
        fills = [Fill(bar.time_ns, int(waiting * part), price)] if int(waiting * part) else []
        held = int(session.account["position"][0]) + (fills[0].quantity if fills else 0)
        if stops and session.stop_paise and held:
            fills.append(Fill(bar.time_ns, -held, session.stop_paise, order=-bar.time_ns))
        session.settle(fills)
        seen = session.observe(bar)
        assert seen is not None
        markets[0] = session.market
        gate.close(session.account, markets)
        books = session.account.copy()
        legal = np.flatnonzero(seen.mask[0])
        order = session.order(int(legal[choice % len(legal)]))
        waiting = order.quantity if order else 0
        quantity = np.array([waiting])
        worst_ppm = 1_000_000 + int(record["slippage_ppm"][0] + record["price_buffer_ppm"][0])
        worst = markets["close_paise"] * worst_ppm // 1_000_000
        for limit, broken in gate.breaches(books, markets, quantity, worst).items():
            assert not broken.any(), limit
        gate.ordered(quantity)


def _markets() -> NDArray[Any]:
    return np.zeros(1, MARKET)


def _times() -> list[int]:
    found: list[int] = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 19)).tolist()
    return found


# Smaller is looser for these.
FLOORS = ("min_position_fraction", "cash_buffer", "no_entry_before_close_minutes")
FRACTIONS = ("max_position_fraction", "max_gross_exposure", "max_net_exposure", "max_price_jump")
STATE = st.fixed_dictionaries(
    {
        "cash_paise": st.integers(0, 8_000_000),
        "position": st.integers(-300, 300),
        "others_paise": st.integers(-2_000_000, 2_000_000),
        "others_open": st.integers(0, 4),
        "reserved_paise": st.integers(0, 500_000),
        "day_orders": st.integers(0, 12),
        "losses": st.integers(0, 6),
        "equity_paise": st.integers(1_000_000, 9_000_000),
        "peak_paise": st.integers(1_000_000, 12_000_000),
        "range_bars": st.just(5),
        "range_paise": st.integers(50, 5_000),
    }
)


def loosened(limits: dict[str, Any], name: str) -> dict[str, Any]:
    """The limits with one of them twice as loose; a fraction ends at the whole."""
    value = limits[name]
    if name in FLOORS:
        return {**limits, name: max(value // 2, 1) if isinstance(value, int) else value / 2}
    return {**limits, name: min(2 * value, 1.0) if value < 1 else 2 * value}


def masks_of(
    account: AccountRules, state: dict[str, int], close: float, late: int
) -> tuple[Session, NDArray[np.bool_]]:
    """A session in a given state that sees one more bar, and its mask."""
    session = Session(instrument("SIM"), "15m", small_spec(), account, CHARGED)
    times = _times()
    for time_ns in times[: 2 * SESSION_BARS]:
        session.warm(Bar(time_ns, 100.0, 100.0, 100.0, 100.0, 10_000))
    if not account.allow_short:
        state = {**state, "position": abs(state["position"])}
    for name, value in state.items():
        session.account[name] = value
    session.account["others_gross_paise"] = abs(state["others_paise"])
    session.account["cost_paise"] = state["position"] * 10_000
    session.account["close_paise"] = 10_000
    bar = Bar(times[2 * SESSION_BARS + late], 100.0, max(close, 100.0), min(close, 100.0), close, 10_000)
    session.account["day"] = session.account["position_day"] = session_day(session_date(bar.time_ns))
    session.account["day_equity_paise"] = state["equity_paise"]
    seen = session.observe(bar)
    assert seen is not None
    return session, seen.mask[0]


@pytest.mark.parametrize("name", LIMITED)
@settings(max_examples=60, deadline=None)
@given(state=STATE, close=st.floats(92, 108), late=st.integers(0, 23), limit=st.sampled_from(sorted(ALL_LIMITS)))
def test_a_looser_limit_never_blocks_more(
    name: str, state: dict[str, int], close: float, late: int, limit: str
) -> None:
    account = LIMITED[name]
    limits = account.limits.model_dump()
    assume(limit != "volatility_bars" and limits[limit] is not None)
    try:
        loose = account.limits.model_validate(loosened(limits, limit))
    except ValidationError:
        assume(False)
    _, tight_mask = masks_of(account, state, round(close, 2), late)
    _, loose_mask = masks_of(account.model_copy(update={"limits": loose}), state, round(close, 2), late)
    assert (loose_mask >= tight_mask).all()


@pytest.mark.parametrize("name", LIMITED)
@settings(max_examples=60, deadline=None)
@given(state=STATE, close=st.floats(92, 108), late=st.integers(0, 23))
def test_an_exit_is_never_held_up_by_a_limit(name: str, state: dict[str, int], close: float, late: int) -> None:
    """Whoever could leave without limits can leave with them, unless the account is leaving by itself."""
    account = LIMITED[name]
    free, free_mask = masks_of(account.model_copy(update={"limits": Limits()}), state, round(close, 2), late)
    bound, bound_mask = masks_of(account, state, round(close, 2), late)
    if bound.reason(account.hold_action):
        assert bound.order(account.hold_action) is not None
        return
    for action in np.flatnonzero(free_mask).tolist():
        before = free.account.copy()
        order, held = free.order(action), int(before["position"][0])
        free.account[:] = before
        if order is not None and order.quantity * held < 0:
            assert bound_mask[action]
            mine = bound.account.copy()
            leaving = bound.order(action)
            bound.account[:] = mine
            assert leaving is not None
            assert abs(leaving.quantity) >= min(abs(order.quantity), abs(held))
