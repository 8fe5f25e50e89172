"""Law: equity moves by position x price move less charges, to the paisa, and charges are what the schedule says."""

import datetime as dt
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markets import (
    ACCOUNTS,
    CHARGED,
    FREE,
    MUHURAT,
    SPLIT,
    Walk,
    make_env,
    orders_of,
    random_legal,
    replay,
    rough_bars,
    rules,
    small_spec,
    steady_bars,
    tape_of,
    walk_env,
)

from finsense.account.rules import AccountRules
from finsense.account.session import Fill, Session
from finsense.envs.tape import Tape
from finsense.market.costs import ChargeRules, charge_lines
from finsense.market.instruments import instrument

SEEDS = st.integers(0, 2**32 - 1)
SPANS = st.sampled_from([SPLIT, MUHURAT])
WEEK = (dt.date(2024, 1, 8), dt.date(2024, 1, 12))
CHARGE_FIELDS = ("fill_quantity", "fill_price_paise", "fill_charges_paise")


def rough_walk(account: AccountRules, seed: int, span: tuple[dt.date, dt.date] = SPLIT) -> tuple[Walk, Tape]:
    tape = tape_of(rough_bars(seed, *span))
    return walk_env(make_env(tape, account), random_legal(seed)), tape


def closes(walk: Walk, tape: Tape) -> list[int]:
    """The close of each bar of a walk, in paise."""
    found: list[int] = tape.markets["close_paise"][walk.first_bar : walk.first_bar + len(walk.books)].tolist()
    return found


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, span=SPANS)
def test_equity_moves_by_position_times_price_less_charges(name: str, seed: int, span: tuple[dt.date, dt.date]) -> None:
    walk, tape = rough_walk(ACCOUNTS[name], seed, span)
    for (before, close_before), (after, close) in pairwise(zip(walk.books, closes(walk, tape), strict=True)):
        quantity, price, charges = (int(after[field]) for field in CHARGE_FIELDS)
        held, holds = int(before["position"]), int(after["position"])
        assert holds == held + quantity
        # Held to the fill's price at the old position, from there to the close at the new one.
        price = price if quantity else close
        gain = held * (price - close_before) + holds * (close - price)
        assert int(after["equity_paise"]) - int(before["equity_paise"]) == gain - charges
        assert int(after["equity_paise"]) == int(after["cash_paise"]) + holds * close
        assert int(after["peak_paise"]) == max(int(before["peak_paise"]), int(after["equity_paise"]))


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.5, 1.0, 3.0]))
def test_charges_are_those_of_the_schedule_and_add_up(name: str, seed: int, scale: float) -> None:
    charges = ChargeRules(scale=scale)
    tape = tape_of(rough_bars(seed), charges=charges)
    walk = walk_env(make_env(tape, ACCOUNTS[name]), random_legal(seed))
    intraday = ACCOUNTS[name].product == "intraday"
    markets = tape.markets[walk.first_bar : walk.first_bar + len(walk.books)]
    total, fills, charged_days = 0, 0, set()
    for book, market in zip(walk.books, markets, strict=True):
        quantity, price, paid = (int(book[field]) for field in CHARGE_FIELDS)
        expected = 0
        if quantity:
            schedule = tape.schedules[market["schedule"]]
            expected = sum(int(line) for line in charge_lines(schedule, intraday, quantity, price))
            if quantity < 0 and not intraday and int(market["day"]) not in charged_days:
                charged_days.add(int(market["day"]))
                expected += int(schedule["dp_paise"])
        assert paid == expected
        total += paid
        fills += quantity != 0
        assert int(book["charges_paise"]) == total
        assert int(book["fills"]) == fills


def test_the_depository_charge_falls_once_a_day_of_delivery_sales() -> None:
    account = rules("delivery", slippage_bps=0, participation=None)
    tape = tape_of(steady_bars(*WEEK), spec=small_spec(warmup=25))
    bars_a_day = 25
    buys = [0] * 9 + [1] * (bars_a_day - 9)
    sells = [2, 2, 2] + [1] * (bars_a_day - 3)
    walk = walk_env(make_env(tape, account), replay(buys + sells + sells), steps=3 * bars_a_day)
    sold = np.flatnonzero(walk.books["fill_quantity"] < 0)
    assert len(sold) == 6
    paid = walk.books["fill_charges_paise"][sold]
    schedule = tape.schedules[tape.markets["schedule"][-1]]
    plain = sum(charge_lines(schedule, False, -10, 10_000))
    assert paid.tolist() == [plain + 1534, plain, plain, plain + 1534, plain, plain]


@pytest.mark.parametrize("product", ["intraday", "delivery"])
@settings(max_examples=40, deadline=None)
@given(
    shares=st.integers(1, 400),
    price=st.integers(50, 11_000),
    turns=st.lists(st.sampled_from([True, False]), min_size=1, max_size=40),
)
def test_a_round_trip_at_one_price_loses_exactly_the_charges(
    product: str, shares: int, price: int, turns: list[bool]
) -> None:
    size = orders_of("shares", shares=shares)
    account = rules(product, actions=size, slippage_bps=0, participation=None, balance=10_000_000)
    tape = tape_of(steady_bars(*WEEK, price=price / 100), spec=small_spec(warmup=25))
    # An intraday account may open no position late in the day.
    limit = 10 if product == "intraday" else len(turns)
    actions = [action for trades in turns[:limit] for action in ([0, 2] if trades else [1])]
    walk = walk_env(make_env(tape, account), replay([*actions, 1]), steps=len(actions) + 1)
    last = walk.books[-1]
    assume(last["position"] == 0)
    schedule = tape.schedules[tape.markets["schedule"][-1]]
    intraday = product == "intraday"
    bought = [n for n in range(len(actions)) if actions[n] == 0]
    days = {int(tape.markets["day"][walk.first_bar + n + 2]) for n in bought}
    trip = sum(sum(charge_lines(schedule, intraday, sign * shares, price)) for sign in (1, -1))
    depository = 0 if intraday else 1534 * len(days)
    assert int(last["equity_paise"]) == account.balance_paise - len(bought) * trip - depository
    assert int(last["charges_paise"]) == account.balance_paise - int(last["equity_paise"])


@pytest.mark.parametrize("product", ["intraday", "delivery"])
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, scale=st.floats(0, 5))
def test_doubling_the_charges_never_raises_the_result_of_a_fixed_path(product: str, seed: int, scale: float) -> None:
    # Ample cash: no order is ever cut, so that the path of the position is the same whatever it costs.
    account = rules(product, actions=orders_of("shares", shares=7), balance=10_000_000, max_position=70)
    bars = rough_bars(seed)
    cheap = walk_env(make_env(tape_of(bars, charges=ChargeRules(scale=scale)), account), random_legal(seed))
    dear = walk_env(make_env(tape_of(bars, charges=ChargeRules(scale=2 * scale)), account), replay(cheap.actions))
    free = walk_env(make_env(tape_of(bars, charges=FREE), account), replay(cheap.actions))
    assert (dear.books["position"] == cheap.books["position"]).all()
    assert (dear.books["equity_paise"] <= cheap.books["equity_paise"]).all()
    assert (cheap.books["equity_paise"] <= free.books["equity_paise"]).all()
    assert not free.books["charges_paise"].any()
    if scale >= 0.1 and cheap.books["fills"][-1]:
        assert dear.books["equity_paise"][-1] < cheap.books["equity_paise"][-1] < free.books["equity_paise"][-1]


LONG_ONLY = {name: account for name, account in ACCOUNTS.items() if not account.allow_short}


@pytest.mark.parametrize("name", LONG_ONLY)
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, price=st.sampled_from([0.5, 40.0, 9000.0]), volatility=st.sampled_from([0.01, 0.08]))
def test_a_long_account_never_owes_cash_nor_shares(name: str, seed: int, price: float, volatility: float) -> None:
    bars = rough_bars(seed, price=price, volatility=volatility, volume=10**7)
    walk = walk_env(make_env(tape_of(bars, charges=ChargeRules(scale=3)), LONG_ONLY[name]), random_legal(seed))
    assert (walk.books["cash_paise"] >= 0).all()
    assert (walk.books["position"] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, name=st.sampled_from([name for name in ACCOUNTS if name not in LONG_ONLY]))
def test_a_short_order_is_covered_in_full_when_it_fills(seed: int, name: str) -> None:
    walk, _ = rough_walk(ACCOUNTS[name], seed)
    for book in walk.books:
        if book["position"] < 0 and book["fill_quantity"] < 0:
            owed = -int(book["position"]) * int(book["fill_price_paise"])
            assert int(book["cash_paise"]) - owed >= owed


def booked(fills: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Position and cost after each fill of (signed shares, price in paise), by the account."""
    session = Session(instrument("SIM"), "15m", small_spec(), rules(allow_short=True), FREE)
    seen = []
    for number, (quantity, price) in enumerate(fills):
        session.settle([Fill(1_705_290_300_000_000_000 + number, quantity, price)])
        seen.append((int(session.account["position"][0]), int(session.account["cost_paise"][0])))
    return seen


@settings(max_examples=200, deadline=None)
@given(
    fills=st.lists(
        st.tuples(st.integers(-50, 50).filter(bool), st.integers(1, 10**7)),
        min_size=1,
        max_size=12,
    )
)
def test_the_position_keeps_its_average_cost(fills: list[tuple[int, int]]) -> None:
    position, cost = 0, 0
    for (quantity, price), found in zip(fills, booked(fills), strict=True):
        after = position + quantity
        if position == 0 or (position > 0) == (quantity > 0):
            cost += quantity * price
        elif after != 0 and (after > 0) == (position > 0):
            cost = Fraction(cost * after, position).__floor__()
        else:
            cost = after * price
        position = after
        assert found == (position, cost)


def test_the_holding_time_counts_from_the_fill_that_opened_the_position() -> None:
    session = Session(instrument("SIM"), "15m", small_spec(), rules(allow_short=True), FREE)
    bars = list(steady_bars(*WEEK))
    for bar in bars[:50]:
        session.warm(bar)
    seen = []
    # Bought, added to, reduced, turned round, closed, and bought again.
    for bar, quantity in zip(bars[50:], [0, 10, 0, 5, -3, -20, 0, 8, 0, 4, 0], strict=False):
        session.settle([Fill(bar.time_ns, quantity, 10_000)] if quantity else [])
        session.observe(bar)
        seen.append((int(session.account["position"][0]), int(session.account["bars_held"][0])))
    positions, held = zip(*seen, strict=True)
    assert positions == (0, 10, 10, 15, 12, -8, -8, 0, 0, 4, 4)
    assert held == (0, 1, 2, 3, 4, 1, 2, 0, 0, 1, 2)


def test_cash_and_position_change_only_when_a_fill_is_settled() -> None:
    bars = rough_bars(3, volatility=0.001)
    session = Session(instrument("SIM"), "15m", small_spec(), rules(participation=None), CHARGED)
    acted = False
    for bar in bars:
        before = session.account.copy()
        seen = session.observe(bar)
        if seen is not None and seen.mask[0, 0]:
            acted = session.order(0) is not None or acted
        for field in ("cash_paise", "position", "cost_paise", "charges_paise", "fills"):
            assert session.account[field] == before[field]
    assert acted
