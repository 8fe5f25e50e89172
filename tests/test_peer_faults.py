"""What peers get wrong, one test for each fault: both public checkers pass on environments that have it."""

import datetime as dt
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from markets import (
    ACCOUNTS,
    FREE,
    MUHURAT,
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
    steady_bars,
    tape_of,
    walk_env,
)
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.session import IllegalAction
from finsense.envs.core import EpisodeRules, TradingCore
from finsense.envs.tape import Tape
from finsense.envs.trading import TradingEnv
from finsense.envs.vector import TradingVecEnv, VectorTradingEnv
from finsense.market.bars import Bars
from finsense.state.spec import StateSpec

BUY, HOLD, SELL = 0, 1, 2
POSITION, CASH, GAIN, HELD, DRAWDOWN = range(-len(ACCOUNT_FEATURES), 0)
WEEK = (dt.date(2024, 1, 8), dt.date(2024, 1, 12))


def rising(interval: str = "15m") -> Bars:
    """A market that gains a tenth of a percent with every bar."""
    time_ns = session_times(dt.date(2024, 1, 1), WEEK[1], interval)
    return bars_of(time_ns, [round(100 * 1.001**bar, 2) for bar in range(len(time_ns))], interval=interval)


@pytest.mark.parametrize("product", ["intraday", "delivery"])
def test_charges_are_inside_the_reward(product: str) -> None:
    account = rules(product, slippage_bps=0, participation=None)
    tape = tape_of(steady_bars(*WEEK), spec=small_spec(warmup=25))
    walk = walk_env(make_env(tape, account), replay([BUY, SELL, HOLD]), steps=3)
    charges = walk.books["fill_charges_paise"].astype(float)
    equity = walk.books["equity_paise"].astype(float)
    # The price never moves: the reward of each step is what its fill cost, and nothing when nothing filled.
    assert walk.rewards == pytest.approx(np.log1p(-charges[1:] / equity[:-1]), rel=1e-6)
    assert walk.rewards[0] < 0
    assert walk.rewards[1] < 0
    assert walk.rewards[2] == 0


@pytest.mark.parametrize("reward", ["log_equity", "drawdown"])
def test_buying_and_holding_earns_what_the_price_earns(reward: str) -> None:
    account = rules("delivery", actions=orders_of("all_in"), slippage_bps=0, participation=None)
    env = make_env(tape_of(rising(), first=WEEK[0]), account, reward=reward)
    walk = walk_env(env, replay([BUY] + [HOLD] * 300))
    assert len(walk.rewards) == 124
    assert (walk.rewards[1:] > 0).all()
    # 123 bars of 0.1 percent each on nearly all of the equity: every reward on the way counts, none waits for a sale.
    assert walk.rewards.sum() == pytest.approx(123 * np.log(1.001), rel=0.02)
    idle = walk_env(env, replay([HOLD] * 300))
    assert not idle.rewards.any()


def test_the_observation_knows_the_position_and_what_became_of_it() -> None:
    account = rules("delivery", actions=orders_of("shares", shares=100), slippage_bps=0, participation=None)
    walk = walk_env(make_env(tape_of(rising(), charges=FREE, first=WEEK[0]), account), replay([BUY] + [HOLD] * 300))
    flat, held = walk.states[0], walk.states[2:]
    assert flat[[POSITION, CASH, GAIN, HELD, DRAWDOWN]].tolist() == [0, 1, 0, 0, 0]
    books = walk.books[2:]
    close = (books["equity_paise"] - books["cash_paise"]) / books["position"]
    np.testing.assert_allclose(held[:, POSITION], 100 * close / books["equity_paise"], rtol=1e-6)
    np.testing.assert_allclose(held[:, CASH], books["cash_paise"] / books["equity_paise"], rtol=1e-6)
    np.testing.assert_allclose(held[:, GAIN], close * 100 / books["cost_paise"] - 1, rtol=1e-3)
    bars = np.arange(2, len(walk.states))
    np.testing.assert_allclose(held[:, HELD], bars / (bars + 75), rtol=1e-6)
    assert not held[:, DRAWDOWN].any()


def test_the_observation_knows_the_drawdown() -> None:
    account = ACCOUNTS["delivery all in"]
    walk = walk_env(make_env(tape_of(rough_bars(12)), account), random_legal(0))
    expected = 1 - walk.books["equity_paise"] / walk.books["peak_paise"]
    assert expected.max() > 0.01
    np.testing.assert_allclose(walk.states[:, DRAWDOWN], expected, rtol=1e-5, atol=1e-7)


def every_array(core: TradingCore) -> list[NDArray[Any]]:
    """All arrays that a core keeps or reads."""
    tape = [value for value in vars(core.tape).values() if isinstance(value, np.ndarray)]
    own = [value for value in vars(core).values() if isinstance(value, np.ndarray)]
    inner = [part for value in vars(core).values() if isinstance(value, tuple) for part in value]
    return tape + own + [part for part in inner if isinstance(part, np.ndarray)]


def test_what_the_caller_gets_is_his_own_and_no_view_of_internal_data() -> None:
    tape = tape_of(rough_bars(3))
    env = make_env(tape, rules(), bars=20)
    first, _ = env.reset(seed=1)
    mask = env.action_masks()
    kept = env.core.masks.tobytes(), tape.states.tobytes()
    second = env.step(np.int64(HOLD))[0]
    vector = VectorTradingEnv(tape, rules(), 3, EpisodeRules(bars=2))
    face = TradingVecEnv(tape, rules(), 3, EpisodeRules(bars=2))
    given_out: list[Any] = [first, second, mask, vector.reset(seed=1)[0], vector.action_masks(), face.reset()]
    given_out += [face.action_masks()]
    for _ in range(2):
        states, rewards, terminated, truncated, info = vector.step(np.ones(3, np.int64))
        faced, paid, dones, infos = face.step(np.ones(3, np.int64))
        given_out += [states, rewards, terminated, truncated, faced, paid, dones]
    given_out += [info["final_obs"][0], infos[0]["terminal_observation"], infos[0]["account"]]
    for place, array in enumerate(given_out):
        for core in (env.core, vector.core, face.core):
            assert not any(np.shares_memory(array, inner) for inner in every_array(core))
        assert not any(np.shares_memory(array, other) for other in given_out[:place])
    before = second.copy()
    first[:], mask[:] = 1e9, False
    assert (env.core.masks.any(axis=1)).all()
    assert (second == before).all()
    assert kept[1] == tape.states.tobytes()


def test_reset_obeys_its_seed_and_leaves_the_action_space_alone() -> None:
    env = make_env(tape_of(rough_bars(3)), rules(), bars=20, random_start=True)
    env.action_space.seed(5)
    expected = [env.action_space.sample() for _ in range(8)]
    env.action_space.seed(5)
    starts = {}
    found = []
    for seed in range(8):
        env.reset(seed=seed)
        starts[seed] = int(env.core.envs["first_bar"][0])
        found.append(env.action_space.sample())
    assert len(set(starts.values())) > 3
    assert found == expected
    for seed, start in starts.items():
        env.reset(seed=seed)
        assert env.core.envs["first_bar"][0] == start


def test_a_global_seed_does_not_touch_an_episode() -> None:
    env = make_env(tape_of(rough_bars(3)), rules(), bars=20, random_start=True)
    env.reset(seed=7)
    first = int(env.core.envs["first_bar"][0])
    before = str(np.random.get_state())  # noqa: NPY002  (the global generator is what must not be used)
    env.reset(seed=7)
    assert env.core.envs["first_bar"][0] == first
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_nothing_of_the_old_episode_is_left_in_the_new_one() -> None:
    tape = tape_of(rough_bars(8))
    account = ACCOUNTS["delivery all in"]
    for reward in ("log_equity", "differential_sharpe", "drawdown"):
        fresh = walk_env(make_env(tape, account, reward=reward, bars=30), random_legal(4))
        used = make_env(tape, account, reward=reward, bars=30)
        walk_env(used, random_legal(11), steps=20)
        assert used.core.accounts["fills"][0] > 0
        again = walk_env(used, replay(fresh.actions))
        assert again.same_as(fresh)
        assert again.rewards.tolist() == fresh.rewards.tolist()


def test_an_order_fills_at_the_next_open_and_not_at_the_close_that_was_seen() -> None:
    time_ns = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 9))
    closes = np.full(len(time_ns), 100.0)
    opens = closes.copy()
    opens[26], closes[26] = 103.0, 104.0
    tape = tape_of(bars_of(time_ns, closes, open_=opens), spec=small_spec(warmup=25), charges=FREE)
    env = make_env(tape, rules(slippage_bps=0))
    env.reset()
    state, reward, _, _, info = env.step(np.int64(BUY))
    assert info["fill_price_paise"] == 10_300
    assert info["fill_quantity"] == 10
    assert info["equity_paise"] == 5_000_000 + 10 * 100  # only the rupee from 103 to 104 is the buyer's
    assert reward == pytest.approx(np.log(1 + 1000 / 5_000_000))
    assert state[GAIN] == pytest.approx(1 / 103)


def test_the_end_of_the_data_truncates_and_only_ruin_terminates() -> None:
    tape = tape_of(rough_bars(5))
    env = make_env(tape, rules())
    env.reset()
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        _, _, terminated, truncated, _ = env.step(np.int64(HOLD))
        steps += 1
    assert (terminated, truncated) == (False, True)
    assert steps == int(tape.spans[0, 1] - tape.spans[0, 0])


@pytest.mark.parametrize("bars", [None, 2])
def test_ruin_terminates_also_on_the_last_bar_of_the_window(bars: int | None) -> None:
    time_ns = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 9))
    closes = np.full(len(time_ns), 100.0)
    closes[27:] = 25.0
    account = rules(actions=orders_of("all_in"), participation=None, ruin_fraction=0.3, slippage_bps=0)
    env = make_env(tape_of(bars_of(time_ns, closes), spec=small_spec(warmup=25)), account, bars=bars)
    env.reset()
    assert env.step(np.int64(BUY))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(np.int64(HOLD))
    assert (terminated, truncated) == (True, False)
    assert info["equity_paise"] <= 0.3 * 5_000_000
    assert reward < -1


def test_cash_never_falls_below_zero_even_when_the_price_runs_away_before_the_fill() -> None:
    time_ns = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 9))
    closes, opens = np.full(len(time_ns), 100.0), np.full(len(time_ns), 100.0)
    opens[26], closes[26] = 137.0, 136.0
    bars = bars_of(time_ns, closes, open_=opens)
    for name, account in ACCOUNTS.items():
        if not account.allow_short:
            env = make_env(
                tape_of(bars, spec=small_spec(warmup=25)), account.model_copy(update={"participation": None})
            )
            walk = walk_env(env, replay([account.hold_action - 1 if "targets" in name else BUY]), steps=1)
            assert walk.books["fill_quantity"][1] > 0
            assert walk.books["cash_paise"][1] >= 0


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most memory that a piece of work allocated at any time."""
    work()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def two_lengths() -> tuple[Tape, Tape]:
    """Tapes of about 100 and about 9,000 bars."""
    spec = spec_of("classic29", warmup=45)
    short = rough_bars(1, dt.date(2024, 1, 1), dt.date(2024, 1, 5), "15m")
    long = rough_bars(1, dt.date(2024, 1, 1), dt.date(2024, 8, 30), "5m", volatility=0.002)
    assert len(long) > 80 * len(short)
    return tape_of(short, spec=spec), tape_of(long, spec=spec)


def test_the_work_of_a_step_and_of_a_reset_does_not_grow_with_the_data() -> None:
    peaks = []
    for tape in two_lengths():
        vector = VectorTradingEnv(tape, rules(), 4, EpisodeRules(bars=10))
        env = make_env(tape, rules(), bars=10, random_start=True)

        def reset_and_step(vector: VectorTradingEnv = vector, env: TradingEnv = env) -> None:
            vector.reset(seed=1)
            env.reset(seed=1)
            for _ in range(5):
                vector.step(np.ones(4, np.int64))
                env.step(np.int64(HOLD))

        peaks.append(peak_bytes(reset_and_step))
    short, long = peaks
    # A copy of one column of the long tape, 8 bytes a bar, would already be 70,000 bytes.
    assert abs(long - short) < 2_000


@pytest.mark.parametrize("history", [1, 4])
def test_a_step_uses_the_bars_at_hand_and_no_others(history: int) -> None:
    tape = tape_of(rough_bars(6), rough_bars(7, *MUHURAT, symbol="SIMTWO"), spec=small_spec(history))
    seed, account = 12, ACCOUNTS["intraday targets"]
    env = make_env(tape, account, bars=11, random_start=True)
    walk = walk_env(env, random_legal(1), seed=seed)
    first, last = walk.first_bar, walk.first_bar + len(walk.actions)
    row = int(tape.state_of_bar[first])
    known_bars = np.isin(np.arange(len(tape.markets)), np.arange(first, last + 1))
    known_rows = np.isin(np.arange(len(tape.states)), np.arange(row - history + 1, tape.state_of_bar[last] + 1))
    states, markets = tape.states.copy(), tape.markets.copy()
    states[~known_rows] = np.nan
    for field in markets.dtype.names or ():
        markets[field][~known_bars] = min(7_777_777_777, np.iinfo(markets[field].dtype).max)
    blinded = make_env(replace(tape, states=states, markets=markets), account, bars=11, random_start=True)
    assert walk_env(blinded, replay(walk.actions), seed=seed).same_as(walk)


def test_the_memory_of_a_vector_environment_grows_with_its_envs_and_not_with_the_data() -> None:
    own = {}
    for length, tape in zip(("short", "long"), two_lengths(), strict=True):
        for count in (64, 128):
            vector = TradingVecEnv(tape, rules(), count, EpisodeRules(bars=10))
            vector.reset()
            tapes = [id(value) for value in vars(tape).values()]
            arrays = [array for array in every_array(vector.core) if id(array) not in tapes]
            arrays = [
                array for array in arrays if not any(np.shares_memory(array, value) for value in tape_arrays(tape))
            ]
            arrays += [value for value in vars(vector).values() if isinstance(value, np.ndarray)]
            own[length, count] = sum(array.nbytes for array in arrays)
            # Nothing is copied that the tape holds: what a step reads is the tape itself.
            assert any(
                np.shares_memory(array, tape.states) for array in every_array(vector.core)[len(tape_arrays(tape)) :]
            )
    assert own["short", 64] == own["long", 64]
    assert own["short", 128] == own["long", 128]
    width = 29 + len(ACCOUNT_FEATURES)
    assert own["short", 128] - own["short", 64] < 64 * (4 * width * 2 + 512)


def tape_arrays(tape: Tape) -> list[NDArray[Any]]:
    return [value for value in vars(tape).values() if isinstance(value, np.ndarray)]


def test_masks_are_enforced_and_not_only_offered() -> None:
    env = make_env(tape_of(rough_bars(3)), rules())
    env.reset()
    assert not env.action_masks()[SELL]
    with pytest.raises(IllegalAction):
        env.step(np.int64(SELL))


def test_masks_of_an_episode_that_ended_are_those_of_the_next_one() -> None:
    spec: StateSpec = small_spec(warmup=25)
    tape = tape_of(steady_bars(*WEEK), spec=spec)
    account = rules("delivery", participation=None)
    vector = VectorTradingEnv(tape, account, 1, EpisodeRules(bars=2, random_start=False))
    vector.reset()
    vector.step(np.array([BUY]))
    assert vector.action_masks()[0, SELL]
    vector.step(np.array([HOLD]))
    assert not vector.action_masks()[0, SELL]
