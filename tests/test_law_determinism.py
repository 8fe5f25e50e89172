"""Law: one seed, one episode: `reset(seed)` fixes the window and all that follows, in every face and every process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import ACCOUNTS, Walk, make_env, random_legal, replay, rough_bars, rules, tape_of, walk_env

from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape
from finsense.envs.trading import TradingEnv
from finsense.envs.vector import TradingVecEnv, VectorTradingEnv

SEEDS = st.integers(0, 2**32 - 1)


def three_symbols() -> Tape:
    return tape_of(*[rough_bars(place, symbol=f"SIM{place}", price=100.0 * (place + 1)) for place in range(3)])


def random_env(name: str = "delivery targets") -> TradingEnv:
    return make_env(three_symbols(), ACCOUNTS[name], bars=15, random_start=True)


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, other=SEEDS)
def test_a_seed_fixes_the_episode_and_all_that_follow(name: str, seed: int, other: int) -> None:
    env, again = random_env(name), random_env(name)
    first = walk_env(env, random_legal(1), seed=seed)
    following = [walk_env(env, random_legal(2)) for _ in range(3)]
    # What was played before, and under which seed, leaves no trace.
    walk_env(again, random_legal(3), seed=other)
    for expected, start in ((first, seed), *((walk, None) for walk in following)):
        found = walk_env(again, replay(expected.actions), seed=start)
        assert found.first_bar == expected.first_bar
        assert found.same_as(expected)
        assert found.rewards.tolist() == expected.rewards.tolist()


def test_different_seeds_play_different_episodes() -> None:
    env = random_env()
    starts = set()
    for seed in range(40):
        env.reset(seed=seed)
        starts.add(int(env.core.envs["first_bar"][0]))
    assert len(starts) > 25


def test_without_a_seed_two_environments_differ() -> None:
    # One chance in more than a hundred million that two honest environments agree six times.
    starts = []
    for env in (random_env(), random_env()):
        found = []
        for _ in range(6):
            env.reset()
            found.append(int(env.core.envs["first_bar"][0]))
        starts.append(found)
    assert starts[0] != starts[1]


@pytest.mark.parametrize("kind", [VectorTradingEnv, TradingVecEnv])
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_a_seed_fixes_a_vector_environment(kind: type[VectorTradingEnv] | type[TradingVecEnv], seed: int) -> None:
    env = kind(three_symbols(), rules(), 6, EpisodeRules(bars=7))
    hashes = set()
    for _ in range(2):
        if isinstance(env, TradingVecEnv):
            env.seed(seed)
            env.reset()
        else:
            env.reset(seed=seed)
        choose, digest = random_legal(5), hashlib.sha256()
        for _ in range(30):
            actions = np.array([choose(mask) for mask in env.action_masks()])
            for part in env.step(actions)[:3]:
                digest.update(np.asarray(part).tobytes())
            digest.update(env.core.accounts.tobytes())
        hashes.add(digest.hexdigest())
    assert len(hashes) == 1


def test_a_seeded_vector_environment_is_seeded_once() -> None:
    env = TradingVecEnv(three_symbols(), rules(), 4, EpisodeRules(bars=5))
    env.seed(3)
    env.reset()
    first = env.core.envs["first_bar"].tolist()
    env.reset()
    assert env.core.envs["first_bar"].tolist() != first


def episode_digest() -> str:
    """SHA-256 of a seeded episode, to be compared across processes."""
    walk: Walk = walk_env(random_env("intraday short"), random_legal(4), seed=2024)
    digest = hashlib.sha256()
    for part in (walk.states, walk.masks, walk.actions, walk.rewards, walk.books):
        digest.update(part.tobytes())
    return digest.hexdigest()


def test_another_process_plays_the_same_episode() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {Path(__file__).stem} as law; "
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    run = [sys.executable, "-c", code + "print(law.episode_digest())"]
    found = subprocess.run(run, env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == episode_digest()
