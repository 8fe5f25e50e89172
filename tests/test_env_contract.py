"""Law: the environments keep their contracts, and all faces of one account agree to the bit."""

import datetime as dt
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import (
    ACCOUNTS,
    CHARGED,
    MUHURAT,
    SPLIT,
    make_env,
    random_legal,
    rough_bars,
    rules,
    small_spec,
    spec_of,
    steady_bars,
    tape_of,
    walk_env,
    walk_session,
)
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.env_checker import check_env as check_sb3

from finsense.account.rules import AccountRules
from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape
from finsense.envs.trading import TradingEnv
from finsense.envs.vector import TradingVecEnv, VectorTradingEnv

SEEDS = st.integers(0, 2**32 - 1)
HOLD = 1
WEEK = (dt.date(2024, 1, 8), dt.date(2024, 1, 12))
# The checkers know nothing of masks: with this account every action is legal in the morning.
OPEN_ACCOUNT = rules(allow_short=True, balance=10_000_000, participation=None)


# --- the public checkers ---------------------------------------------------------------------------------------------


def test_gymnasium_accepts_the_registered_environment() -> None:
    tape = tape_of(steady_bars(*WEEK))
    made = gym.make(
        "finsense/Trading-v0",
        tape=tape,
        rules=OPEN_ACCOUNT,
        episode=EpisodeRules(bars=30, random_start=False),
        render_mode="rgb_array",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_gymnasium(made.unwrapped, skip_render_check=False)
    assert isinstance(made.unwrapped, TradingEnv)
    # The market is shared, however many environments are made of it.
    assert made.unwrapped.core.tape is tape
    assert made.spec is not None
    assert made.spec.kwargs["tape"] is tape
    made.close()


def test_stable_baselines3_accepts_the_environment() -> None:
    env = make_env(tape_of(steady_bars(*WEEK)), OPEN_ACCOUNT, bars=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_sb3(env, warn=True, skip_render_check=False)


def test_the_spaces_hold_what_the_environment_gives() -> None:
    tape = tape_of(rough_bars(2))
    env = make_env(tape, ACCOUNTS["intraday targets"])
    walk = walk_env(env, random_legal(0), seed=5)
    assert all(env.observation_space.contains(state) for state in walk.states)
    assert env.action_space == gym.spaces.Discrete(6)
    vector = VectorTradingEnv(tape, ACCOUNTS["intraday targets"], 4, EpisodeRules(bars=10))
    states, _ = vector.reset(seed=1)
    assert vector.observation_space.contains(states)
    assert vector.action_space.contains(np.zeros(4, np.int64))
    assert vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_maskable_ppo_finds_the_masks() -> None:
    env = TradingVecEnv(tape_of(steady_bars(*WEEK)), rules(), 3, EpisodeRules(random_start=False))
    env.reset()
    assert is_masking_supported(env)
    assert get_action_masks(env).tolist() == env.action_masks().tolist() == [[True, True, False]] * 3
    assert env.env_method("action_masks", indices=[2]).tolist() == [[True, True, False]]
    with pytest.raises(AttributeError, match="offers action_masks, not seed_everything"):
        env.env_method("seed_everything")
    with pytest.raises(AttributeError, match="share their attributes"):
        env.set_attr("rules", None)


# --- one account, however it is driven -------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [1, 5])
@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, span=st.sampled_from([SPLIT, MUHURAT]), start=st.booleans(), scale=st.sampled_from([1.0, 2.5]))
def test_the_environment_is_a_session(
    name: str, history: int, seed: int, span: tuple[dt.date, dt.date], start: bool, scale: float
) -> None:
    bars, spec = rough_bars(seed, *span), small_spec(history)
    charges = CHARGED.model_copy(update={"scale": scale})
    episode: dict[str, Any] = {"bars": 20, "random_start": True} if start else {}
    env = make_env(tape_of(bars, spec=spec, charges=charges), ACCOUNTS[name], **episode)
    walk = walk_env(env, random_legal(seed), seed=seed)
    assert walk_session(bars, ACCOUNTS[name], walk.actions, walk.first_bar, spec, charges).same_as(walk)


@pytest.mark.parametrize(
    ("name", "interval", "history", "first", "last", "derivatives"),
    [
        ("intraday shares", "5m", 1, *SPLIT, False),
        ("intraday short all in", "5m", 5, *MUHURAT, False),
        ("intraday targets", "5m", 5, *SPLIT, False),
        ("intraday short", "5m", 1, dt.date(2026, 7, 30), dt.date(2026, 8, 6), True),
        ("delivery all in", "5m", 1, *MUHURAT, False),
        ("delivery targets", "5m", 5, *SPLIT, False),
        ("delivery shares", "1d", 1, dt.date(2023, 8, 1), dt.date(2024, 5, 31), False),
        ("delivery fraction", "1d", 5, dt.date(2023, 8, 1), dt.date(2024, 5, 31), False),
        ("delivery targets", "1d", 5, dt.date(2024, 1, 1), dt.date(2024, 11, 29), False),
    ],
)
def test_the_environment_the_vector_and_the_session_are_one(
    name: str, interval: str, history: int, first: dt.date, last: dt.date, derivatives: bool
) -> None:
    bars = rough_bars(17, first, last, interval, derivatives=derivatives)
    spec = spec_of("classic29", "session_left", warmup=45, history=history)
    tape, account = tape_of(bars, spec=spec), ACCOUNTS[name]
    walk = walk_env(make_env(tape, account), random_legal(3))
    assert walk.books["fills"][-1] >= 10
    assert walk_session(bars, account, walk.actions, walk.first_bar, spec, CHARGED).same_as(walk)
    vector = VectorTradingEnv(tape, account, 3, EpisodeRules(random_start=False))
    states, _ = vector.reset()
    for place, action in enumerate(walk.actions):
        assert vector.action_masks()[1].tobytes() == walk.masks[place].tobytes()
        assert states[1].tobytes() == walk.states[place].tobytes()
        assert vector.core.accounts[1].tobytes() == walk.books[place].tobytes()
        states, rewards, terminated, truncated, info = vector.step(np.full(3, action))
        assert rewards[1] == np.float32(walk.rewards[place])
    assert (terminated | truncated).all()
    assert info["final_obs"][1].tobytes() == walk.states[-1].tobytes()
    assert vector.core.final_accounts[1].tobytes() == walk.books[-1].tobytes()


def ruinous() -> AccountRules:
    """An account that a bad bar ruins: long and short with all it has, on a thin market."""
    return ACCOUNTS["intraday short all in"].model_copy(update={"ruin_fraction": 0.97})


def two_symbols() -> Tape:
    other = rough_bars(6, *MUHURAT, symbol="SIMTWO", price=1200.0)
    return tape_of(rough_bars(5), other)


@pytest.mark.parametrize("reward", ["log_equity", "differential_sharpe", "drawdown"])
def test_a_vector_environment_is_so_many_single_ones_through_every_autoreset(reward: str) -> None:
    tape, account, count, seed = two_symbols(), ruinous(), 5, 41
    episode = EpisodeRules(reward=reward, reward_scale=100.0, bars=12)
    vector = VectorTradingEnv(tape, account, count, episode)
    face = TradingVecEnv(tape, account, count, episode)
    singles = [TradingEnv(tape, account, episode) for _ in range(count)]
    face.seed(seed)
    faced = face.reset()
    states, _ = vector.reset(seed=seed)
    expected = np.stack([env.reset(seed=seed + place)[0] for place, env in enumerate(singles)])
    choose = random_legal(9)
    ends = {"terminated": 0, "truncated": 0}
    lengths, returns = np.zeros(count), np.zeros(count)
    for _ in range(80):
        masks = np.stack([env.action_masks() for env in singles])
        assert states.tobytes() == expected.tobytes()
        assert isinstance(faced, np.ndarray)
        assert faced.tobytes() == expected.tobytes()
        assert vector.action_masks().tobytes() == face.action_masks().tobytes() == masks.tobytes()
        actions = np.array([choose(mask) for mask in masks])
        states, rewards, terminated, truncated, info = vector.step(actions)
        faced, faced_rewards, dones, infos = face.step(actions)
        assert faced_rewards.tobytes() == rewards.tobytes()
        assert dones.tolist() == (terminated | truncated).tolist()
        lengths += 1
        for place, env in enumerate(singles):
            state, reward_paid, ruined, over, _ = env.step(actions[place])
            returns[place] += reward_paid
            assert (np.float32(reward_paid), ruined, over) == (rewards[place], terminated[place], truncated[place])
            assert not (ruined and over)
            if not (ruined or over):
                assert infos[place] == {}
                expected[place] = state
                continue
            ends["terminated" if ruined else "truncated"] += 1
            assert info["_final_obs"][place]
            assert (
                info["final_obs"][place].tobytes() == infos[place]["terminal_observation"].tobytes() == state.tobytes()
            )
            assert infos[place]["account"].tobytes() == env.core.accounts[0].tobytes()
            assert infos[place]["TimeLimit.truncated"] == over
            assert infos[place]["episode"]["l"] == lengths[place]
            assert infos[place]["episode"]["r"] == pytest.approx(returns[place])
            lengths[place] = returns[place] = 0
            expected[place] = env.reset()[0]
    assert min(ends.values()) > 3


def test_without_random_starts_every_env_plays_its_symbol_from_the_first_bar() -> None:
    tape = two_symbols()
    core = VectorTradingEnv(tape, rules(), 5, EpisodeRules(random_start=False)).core
    core.reset()
    assert core.envs["symbol"].tolist() == [0, 1, 0, 1, 0]
    assert core.envs["bar"].tolist() == tape.spans[[0, 1, 0, 1, 0], 0].tolist()
    assert core.envs["last_bar"].tolist() == tape.spans[[0, 1, 0, 1, 0], 1].tolist()


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, bars=st.one_of(st.none(), st.integers(1, 30)))
def test_a_random_window_lies_inside_the_span_of_its_symbol(seed: int, bars: int | None) -> None:
    tape = two_symbols()
    core = VectorTradingEnv(tape, rules(), 64, EpisodeRules(bars=bars)).core
    core.seed(seed)
    core.reset()
    spans = tape.spans[core.envs["symbol"]]
    assert set(core.envs["symbol"].tolist()) == {0, 1}
    assert (core.envs["first_bar"] >= spans[:, 0]).all()
    assert (core.envs["last_bar"] <= spans[:, 1]).all()
    lengths = core.envs["last_bar"] - core.envs["first_bar"]
    assert (lengths == (spans[:, 1] - spans[:, 0] if bars is None else bars)).all()


def test_an_episode_longer_than_the_data_is_refused() -> None:
    tape = tape_of(rough_bars(5))
    steps = int(tape.spans[0, 1] - tape.spans[0, 0])
    make_env(tape, rules(), bars=steps)
    with pytest.raises(ValueError, match=f"an episode of {steps + 1} bars does not fit SIM, which has {steps} steps"):
        make_env(tape, rules(), bars=steps + 1)


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        ({"reward": "profit"}, "unknown reward `profit`; known: log_equity"),
        ({"reward_parameters": {"eta": 1}}, "unknown parameter of reward `log_equity`: eta"),
        ({"bars": 0}, "at least 1 bar"),
    ],
)
def test_impossible_episodes_are_refused(episode: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EpisodeRules(**episode)


def test_no_step_after_the_end_and_none_before_the_start() -> None:
    env = make_env(tape_of(rough_bars(5)), rules(), bars=3)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.int64(HOLD))
    walk_env(env, random_legal(0))
    with pytest.raises(RuntimeError, match="the episode is over"):
        env.step(np.int64(HOLD))


def test_a_vector_of_no_environment_and_a_list_of_seeds_are_refused() -> None:
    tape = tape_of(rough_bars(5))
    with pytest.raises(ValueError, match="at least one environment, found 0"):
        VectorTradingEnv(tape, rules(), 0)
    with pytest.raises(TypeError, match=r"env i takes seed \+ i"):
        VectorTradingEnv(tape, rules(), 2).reset(seed=[1, 2])
