"""Law: every unmasked action gives an order of its sign, every masked one is refused and changes nothing."""

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import (
    ACCOUNTS,
    CHARGED,
    FREE,
    MUHURAT,
    SPLIT,
    SPLIT_DATE,
    bars_of,
    make_env,
    orders_of,
    random_legal,
    replay,
    rough_bars,
    rules,
    session_times,
    small_spec,
    spec_of,
    spliced,
    steady_bars,
    tape_of,
    walk_env,
)

from finsense.account.rules import AccountRules, TargetActions
from finsense.account.session import Fill, IllegalAction, Observation, Session
from finsense.envs.core import EpisodeRules
from finsense.envs.vector import TradingVecEnv, VectorTradingEnv
from finsense.market.bars import Bar, Bars, session_day
from finsense.market.costs import ChargeRules, charge_lines, schedule_index, schedules
from finsense.market.instruments import Instrument, instrument

SEEDS = st.integers(0, 2**32 - 1)
SPANS = st.sampled_from([SPLIT, MUHURAT])
BUY, HOLD, SELL = 0, 1, 2
MONDAY = dt.date(2024, 1, 8)
TICK_NS = 60_000_000_000
NINE_FIFTEEN_NS = 1_704_685_500_000_000_000  # Monday 8 January 2024, 09:15 in India


def opened(account: AccountRules, stock: Instrument | None = None, charges: ChargeRules = CHARGED) -> Session:
    """A session warmed by a quiet week, at 100 rupees, before Monday."""
    session = Session(stock or instrument("SIM"), "15m", spec_of("session_left", warmup=5), account, charges)
    for bar in steady_bars(dt.date(2024, 1, 1), dt.date(2024, 1, 5)):
        session.warm(bar)
    return session


def see(
    session: Session, number: int, close: float = 100.0, volume: int = 10**6, low: float | None = None
) -> Observation:
    """Observe the 15-minute bar of that number of Monday's session."""
    time_ns = NINE_FIFTEEN_NS + number * 15 * TICK_NS
    seen = session.observe(Bar(time_ns, close, close, close if low is None else low, close, volume))
    assert seen is not None
    return seen


def fill(session: Session, quantity: int, number: int = 0, price_paise: int = 10_000) -> None:
    """Settle a fill in the bar of that number of Monday's session."""
    session.settle([Fill(NINE_FIFTEEN_NS + number * 15 * TICK_NS, quantity, price_paise)])


def legal(seen: Observation) -> list[int]:
    found: list[int] = np.flatnonzero(seen.mask[0]).tolist()
    return found


def expected_sign(account: AccountRules, action: int, book: np.void, close_paise: int) -> int:
    """Which way an action trades, by its meaning alone; 0 is for holding."""
    if action == account.hold_action:
        return 0
    if not isinstance(account.actions, TargetActions):
        return 1 if action == BUY else -1
    exposure = int(book["position"]) * close_paise / int(book["equity_paise"])
    return 1 if account.actions.targets[action] > exposure else -1


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, span=SPANS)
def test_every_unmasked_action_orders_and_every_masked_one_is_refused(
    name: str, seed: int, span: tuple[dt.date, dt.date]
) -> None:
    account, bars = ACCOUNTS[name], rough_bars(seed, *span)
    walk = walk_env(make_env(tape_of(bars), account), random_legal(seed))
    squaring = 0
    session = Session(instrument("SIM"), "15m", small_spec(), account, CHARGED)
    for index, bar in enumerate(bars.take(0, walk.first_bar + len(walk.books))):
        place = index - walk.first_bar
        if place < 0:
            session.warm(bar)
            continue
        session.account[:] = walk.books[place]
        seen = session.observe(bar)
        assert seen is not None
        assert seen.mask.tobytes() == walk.masks[place].tobytes()
        assert seen.mask[0, account.hold_action]
        for action in range(-1, session.action_count + 1):
            before = session.account.copy()
            if not 0 <= action < session.action_count or not seen.mask[0, action]:
                with pytest.raises(IllegalAction, match=rf"action {action} is not legal.*legal actions: \["):
                    session.order(action)
                assert session.account.tobytes() == before.tobytes()
                continue
            order = session.order(action)
            quantity = order.quantity if order else 0
            if action == account.hold_action:
                # Holding orders nothing, but for the account's own square-off, which leaves no other choice.
                assert quantity == 0 or (quantity == -int(before["position"][0]) and legal(seen) == [action])
                squaring += quantity != 0
            else:
                close_paise = round(bar.close * 100)
                assert np.sign(quantity) == expected_sign(account, action, before[0], close_paise)
                assert_within_rules(account, before[0], quantity, close_paise, bar)
            session.account[:] = before
    assert account.product == "intraday" or squaring == 0


def assert_within_rules(account: AccountRules, book: np.void, quantity: int, close_paise: int, bar: Bar) -> None:
    """An order respects the position limits and can be paid at the price it might fill at, charges and all."""
    limit = account.max_position or 10**9
    position, cash = int(book["position"]), int(book["cash_paise"])
    assert (-limit if account.allow_short else 0) <= position + quantity <= limit
    worst = close_paise * (1 + (account.slippage_bps / 10_000 + account.price_buffer) * (quantity > 0))
    schedule = schedules()[schedule_index(dt.date(2024, 1, 8))]
    charges = sum(charge_lines(schedule, account.product == "intraday", quantity, int(worst)))
    left = cash - quantity * int(worst) - charges
    if position + quantity >= 0 or quantity > 0:
        assert left >= 0
    else:
        assert left + (position + quantity) * close_paise >= -(position + quantity) * close_paise


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_an_environment_refuses_what_its_mask_forbids_and_changes_nothing(name: str, seed: int) -> None:
    env = make_env(tape_of(rough_bars(seed)), ACCOUNTS[name])
    env.reset()
    over, choose = False, random_legal(seed)
    while not over:
        mask = env.action_masks()
        for action in [-1, *np.flatnonzero(~mask).tolist(), len(mask)]:
            before = [array.tobytes() for array in (env.core.envs, env.core.accounts, env.core.masks)]
            with pytest.raises(IllegalAction, match=rf"env 0: action {action} is not legal here"):
                env.step(np.int64(action))
            assert before == [array.tobytes() for array in (env.core.envs, env.core.accounts, env.core.masks)]
        _, _, terminated, truncated, _ = env.step(np.int64(choose(mask)))
        over = terminated or truncated


@pytest.mark.parametrize("kind", [VectorTradingEnv, TradingVecEnv])
def test_a_vector_environment_steps_nobody_when_one_action_is_illegal(kind: type[Any]) -> None:
    env = kind(tape_of(rough_bars(4)), rules(), 3, EpisodeRules(bars=20))
    env.reset()
    assert env.action_masks()[:, SELL].tolist() == [False] * 3
    before = env.core.envs.tobytes(), env.core.accounts.tobytes()
    with pytest.raises(IllegalAction, match=r"env 2: action 2 is not legal here; legal actions: \["):
        env.step(np.array([HOLD, HOLD, SELL]))
    assert before == (env.core.envs.tobytes(), env.core.accounts.tobytes())
    with pytest.raises(ValueError, match=r"one action for each of 3 environments, found shape \(2,\)"):
        env.step(np.array([HOLD, HOLD]))


def test_a_flat_long_account_may_buy_and_may_not_sell() -> None:
    assert legal(see(opened(rules()), 0)) == [BUY, HOLD]
    assert legal(see(opened(rules(allow_short=True)), 0)) == [BUY, HOLD, SELL]


def test_no_order_before_the_first_observation() -> None:
    with pytest.raises(IllegalAction, match=r"legal actions: \[\]"):
        opened(rules()).order(HOLD)


def test_no_entry_after_the_cut_off_but_exits() -> None:
    account = rules(entry_cutoff_minutes=60, square_off_minutes=15, allow_short=True)
    for number, minutes_left in ((19, 75), (20, 60), (21, 45)):
        flat, long = opened(account), opened(account)
        assert legal(see(flat, number)) == ([BUY, HOLD, SELL] if minutes_left > 60 else [HOLD])
        fill(long, 10, number)
        assert legal(see(long, number)) == ([BUY, HOLD, SELL] if minutes_left > 60 else [HOLD, SELL])
        short = opened(account)
        fill(short, -10, number)
        assert legal(see(short, number)) == ([BUY, HOLD, SELL] if minutes_left > 60 else [BUY, HOLD])


def test_an_order_that_turns_the_position_round_counts_as_an_entry() -> None:
    account = rules(entry_cutoff_minutes=60, allow_short=True)
    for number, expected in ((19, [BUY, HOLD, SELL]), (20, [HOLD])):
        session = opened(account)
        fill(session, 5, number)
        # Five shares are held: to sell ten would open a short position of five.
        assert legal(see(session, number)) == expected


def test_the_account_squares_off_by_itself_and_leaves_no_other_choice() -> None:
    session = opened(rules(square_off_minutes=15))
    fill(session, 30, 22)
    assert SELL in legal(see(session, 22))
    assert session.order(HOLD) is None
    assert legal(see(session, 23)) == [HOLD]  # ends at 15:15
    order = session.order(HOLD)
    assert order is not None
    assert order.quantity == -30


@pytest.mark.parametrize("name", [name for name, account in ACCOUNTS.items() if account.product == "intraday"])
@pytest.mark.parametrize("interval", ["5m", "15m", "30m", "60m"])
@pytest.mark.parametrize(
    ("first", "last", "derivatives"),
    [(*SPLIT, False), (*MUHURAT, False), (dt.date(2026, 8, 3), dt.date(2026, 8, 7), True)],
)
def test_an_intraday_position_is_flat_at_the_end_of_every_complete_session(
    name: str, interval: str, first: dt.date, last: dt.date, derivatives: bool
) -> None:
    # Nobody locks the price and the volume is ample: the square-off always finds its other side.
    account = ACCOUNTS[name].model_copy(update={"square_off_minutes": 0, "entry_cutoff_minutes": 0})
    time_ns = session_times(first - dt.timedelta(days=12), last, interval, derivatives=derivatives)
    closes = 300 * np.exp(np.cumsum(np.random.default_rng(2).normal(0, 0.002, len(time_ns))))
    bars = bars_of(time_ns, closes.round(2), volume=10**8, interval=interval, derivatives=derivatives)
    tape = tape_of(bars, spec=spec_of("session_left", warmup=5), first=first)
    traded = 0
    for seed in range(3):
        walk = walk_env(make_env(tape, account), random_legal(seed))
        days = tape.markets["day"][walk.first_bar : walk.first_bar + len(walk.books)]
        ends = np.flatnonzero(np.diff(days, append=days[-1] + 1))
        assert len(ends) >= 3
        assert not walk.books["position"][ends].any()
        traded += int(walk.books["fills"][-1])
    assert traded


def test_a_split_session_ends_with_its_last_window() -> None:
    tape = tape_of(steady_bars(*SPLIT), spec=spec_of("session_left", warmup=30))
    split = tape.markets["day"] == session_day(SPLIT_DATE)
    # 09:15 to 10:00 in three bars and 11:30 to 12:30 in four: the pause is no trading time.
    assert tape.markets["seconds_left"][split].tolist() == [5400, 4500, 3600, 2700, 1800, 900, 0]


def test_what_a_hole_in_the_data_left_over_is_closed_in_the_next_session() -> None:
    whole = steady_bars(dt.date(2024, 1, 1), dt.date(2024, 1, 9))
    monday = int(np.searchsorted(whole.session_days, session_day(MONDAY)))
    holed = spliced(whole.take(0, monday + 6), whole.take(monday + 25, len(whole)))  # Monday ends at 10:45
    env = make_env(tape_of(holed, spec=small_spec(warmup=30), first=MONDAY), rules())
    walk = walk_env(env, replay([BUY] + [HOLD] * 30), steps=10)
    assert walk.books["position"].tolist() == [0, *[10] * 6, 0, 0, 0, 0]
    # At Tuesday's first close the account closes what is left of Monday; the order fills at the second open.
    assert walk.masks[6].tolist() == [False, True, False]
    assert walk.books["fill_quantity"][7] == -10


def test_no_position_beyond_the_limit() -> None:
    for held, expected in ((0, 10), (5, 10), (35, 5), (39, 1)):
        session = opened(rules(max_position=40))
        if held:
            fill(session, held)
        see(session, 0)
        order = session.order(BUY)
        assert order is not None
        assert order.quantity == expected
    session = opened(rules(max_position=40))
    fill(session, 40)
    assert legal(see(session, 0)) == [HOLD, SELL]


def test_a_position_beyond_the_limit_may_shrink_and_is_never_forced() -> None:
    for size in (orders_of("shares", shares=10), orders_of("all_in")):
        session = opened(rules(max_position=40, actions=size))
        fill(session, 60)
        assert legal(see(session, 0)) == [HOLD, SELL]
        order = session.order(SELL)
        assert order is not None
        assert order.quantity == (-60 if size["size"]["kind"] == "all_in" else -10)


def test_an_order_must_be_payable_with_its_charges_and_the_price_buffer() -> None:
    # Ten shares at 100 rupees, two basis points of slippage and half a percent of buffer, and the charges.
    worst = 10_000 + 10_000 * 52 // 10_000 + 1
    schedule = schedules()[schedule_index(MONDAY)]
    needed = 10 * worst + sum(charge_lines(schedule, True, 10, worst))
    assert legal(see(opened(rules(balance=needed / 100)), 0)) == [BUY, HOLD]
    assert legal(see(opened(rules(balance=(needed - 1) / 100)), 0)) == [HOLD]


def test_a_delivery_sale_must_pay_its_depository_charge() -> None:
    session = opened(rules("delivery", actions=orders_of("shares", shares=1), balance=11))
    fill(session, 1, 0, 1_050)
    # Ten and a half rupees of the sale and a few paise of cash do not pay 15.34 rupees.
    assert legal(see(session, 0, close=10.5)) == [HOLD]
    assert legal(see(session, 1, close=16.0, low=15.0)) == [HOLD, SELL]


@pytest.mark.parametrize(("sign", "expected"), [(1, [HOLD, SELL]), (-1, [BUY, HOLD])])
def test_nobody_sells_at_the_upper_circuit_and_nobody_buys_at_the_lower(sign: int, expected: list[int]) -> None:
    limit = 100 * (1 + sign * 0.2)
    for close, low, allowed in ((limit, limit, expected), (limit, limit - 1, [BUY, HOLD, SELL])):
        session = opened(rules(allow_short=True))
        assert legal(see(session, 0, close, low=low)) == allowed
    # Inside the band one price for a whole bar is no lock.
    assert legal(see(opened(rules(allow_short=True)), 0, 100 * (1 + sign * 0.19))) == [BUY, HOLD, SELL]
    unbound = Instrument("SIM", False, price_band=None)
    assert legal(see(opened(rules(allow_short=True), unbound), 0, limit)) == [BUY, HOLD, SELL]


def test_no_order_into_a_bar_that_nobody_traded() -> None:
    assert legal(see(opened(rules()), 0, volume=0)) == [HOLD]
    assert legal(see(opened(rules(participation=None)), 0, volume=0)) == [BUY, HOLD]


@pytest.mark.parametrize(
    ("volume", "locked", "filled"), [(10**6, False, 10), (55, False, 5), (9, False, 0), (10**6, True, 0)]
)
def test_a_fill_is_capped_by_the_volume_of_its_bar_and_refused_at_a_lock(
    volume: int, locked: bool, filled: int
) -> None:
    quiet = steady_bars(dt.date(2024, 1, 1), MONDAY)
    start = int(np.searchsorted(quiet.session_days, session_day(MONDAY)))
    closes, volumes = quiet.close.copy(), quiet.volume.copy()
    opens = quiet.open.copy()
    volumes[start + 1] = volume
    if locked:
        closes[start + 1 :] = opens[start + 1 :] = 120.0
    bars = bars_of(quiet.time_ns, closes, open_=opens, volume=volumes)
    env = make_env(tape_of(bars, spec=small_spec(warmup=30), first=MONDAY), rules())
    walk = walk_env(env, replay([BUY, HOLD, HOLD]), steps=3)
    # What did not fill is cancelled: nothing comes later.
    assert walk.books["position"].tolist() == [0, filled, filled, filled]
    assert walk.books["orders"].tolist() == [0, 1, 1, 1]


def test_targets_set_the_exposure_and_hold_is_the_last_action() -> None:
    account = rules(allow_short=True, actions={"scheme": "targets", "targets": [-0.5, 0, 0.5]}, participation=None)
    assert account.action_names == ("target -0.5", "target 0", "target 0.5", "hold")
    session = opened(account)
    assert legal(see(session, 0, 99.0)) == [0, 2, 3]
    for action, shares in ((0, -252), (2, 252)):  # 25,000 rupees at 99, never more than the target
        order = session.order(action)
        assert order is not None
        assert order.quantity == shares


def test_at_a_target_only_holding_is_left() -> None:
    session = opened(rules(actions={"scheme": "targets", "targets": [0, 0.5]}, participation=None), charges=FREE)
    fill(session, 250)
    assert legal(see(session, 0)) == [0, 2]


def full_width(bars: Bars, account: AccountRules) -> int:
    """How many masks of a walk leave every action open."""
    walk = walk_env(make_env(tape_of(bars), account), random_legal(0))
    return int(walk.masks.all(axis=1).sum())


def test_the_masks_of_the_rough_market_are_of_every_kind() -> None:
    bars = rough_bars(7)
    assert 0 < full_width(bars, ACCOUNTS["delivery shares"]) < len(bars) // 2
    assert 0 < full_width(bars, ACCOUNTS["intraday short"]) < len(bars) // 2
