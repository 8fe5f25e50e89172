"""The rewards: their formulas, their registry, and that each is made of the equity after charges alone."""

import ctypes
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import ACCOUNTS, Walk, make_env, random_legal, rough_bars, tape_of, walk_env

from finsense.envs.rewards import REWARD_INPUTS, REWARD_MEMORY, REWARDS

PAISE = st.integers(1, 10**13)


def paid(name: str, path: list[tuple[float, float]], **parameters: float) -> list[float]:
    """The rewards along a path of (equity, peak) in paise, by the compiled kernel, bare of any environment."""
    reward = REWARDS[name]
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(reward.address)
    constants = np.array([*{**reward.defaults, **parameters}.values(), 0.0])
    memory, out = np.zeros(REWARD_MEMORY), np.zeros(1)
    rewards = []
    for (equity, peak), (after, peak_after) in pairwise(path):
        inputs = np.array([equity, after, peak, peak_after])
        assert len(inputs) == REWARD_INPUTS
        call(inputs.ctypes.data, constants.ctypes.data, memory.ctypes.data, out.ctypes.data)
        rewards.append(float(out[0]))
    return rewards


def with_peaks(equity: list[int]) -> list[tuple[float, float]]:
    return [(float(value), float(max(equity[: place + 1]))) for place, value in enumerate(equity)]


def expected_log_equity(equity: list[int]) -> list[float]:
    rewards: list[float] = np.diff(np.log(equity)).tolist()
    return rewards


def expected_drawdown(equity: list[int], penalty: float = 0.1) -> list[float]:
    drawdown = 1 - np.array(equity) / np.maximum.accumulate(equity)
    rewards: list[float] = (np.diff(np.log(equity)) - penalty * np.maximum(np.diff(drawdown), 0)).tolist()
    return rewards


def expected_sharpe(equity: list[int], rate: float = 0.01) -> list[float]:
    """Moody and Saffell, "Reinforcement learning for trading" (1998), equations 6 to 8."""
    first = second = 0.0
    rewards = []
    for gain in np.diff(equity) / np.array(equity[:-1]):
        spread = second - first**2
        numerator = second * (gain - first) - first * (gain**2 - second) / 2
        rewards.append(float(numerator / spread**1.5) if spread > 1e-12 else 0.0)
        first, second = first + rate * (gain - first), second + rate * (gain**2 - second)
    return rewards


FORMULAS: dict[str, Callable[[list[int]], list[float]]] = {
    "log_equity": expected_log_equity,
    "differential_sharpe": expected_sharpe,
    "drawdown": expected_drawdown,
}


def test_every_registered_reward_has_a_formula_here() -> None:
    assert set(FORMULAS) == set(REWARDS)


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=60, deadline=None)
@given(equity=st.lists(st.integers(10**5, 10**9), min_size=2, max_size=30))
def test_each_reward_is_its_formula(name: str, equity: list[int]) -> None:
    np.testing.assert_allclose(paid(name, with_peaks(equity)), FORMULAS[name](equity), rtol=1e-7, atol=1e-9)


def test_parameters_reach_the_kernel() -> None:
    equity = [1_000_000, 1_010_000, 990_000, 1_005_000, 998_000]
    np.testing.assert_allclose(
        paid("differential_sharpe", with_peaks(equity), rate=0.2), expected_sharpe(equity, 0.2), rtol=1e-9
    )
    np.testing.assert_allclose(
        paid("drawdown", with_peaks(equity), penalty=3.0), expected_drawdown(equity, 3.0), rtol=1e-9
    )


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=60, deadline=None)
@given(equity=st.lists(st.integers(-(10**13), 10**13), min_size=2, max_size=12))
def test_no_path_of_the_equity_makes_a_reward_infinite(name: str, equity: list[int]) -> None:
    path = [(10**6, 10**6), *[(value, max(10**6, *equity[: place + 1])) for place, value in enumerate(equity)]]
    assert np.isfinite(paid(name, [(float(value), float(peak)) for value, peak in path])).all()


def test_an_equity_that_never_moves_pays_nothing() -> None:
    for name in REWARDS:
        assert not any(paid(name, [(5e6, 5e6)] * 20))


def rough_walk(reward: str, scale: float) -> Walk:
    env = make_env(tape_of(rough_bars(21)), ACCOUNTS["delivery all in"], reward=reward, reward_scale=scale)
    return walk_env(env, random_legal(2))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("scale", [1.0, 250.0])
def test_an_environment_pays_the_formula_of_its_equity_after_charges(name: str, scale: float) -> None:
    walk = rough_walk(name, scale)
    assert walk.books["charges_paise"][-1] > 0
    expected = np.array(FORMULAS[name](walk.books["equity_paise"].tolist())) * scale
    np.testing.assert_allclose(walk.rewards, expected, rtol=1e-6, atol=1e-9 * scale)


def test_log_equity_sums_to_the_return_of_the_episode() -> None:
    walk = rough_walk("log_equity", 1.0)
    total = math.log(walk.books["equity_paise"][-1] / walk.books["equity_paise"][0])
    assert walk.rewards.sum() == pytest.approx(total, abs=1e-6)


def test_a_drawdown_costs_more_than_it_lost() -> None:
    falling = paid("drawdown", with_peaks([1000, 900]))
    assert falling[0] == pytest.approx(math.log(0.9) - 0.1 * 0.1)
    # To climb back pays the return alone: the penalty is not given back.
    assert paid("drawdown", with_peaks([1000, 900, 1000]))[1] == pytest.approx(math.log(1000 / 900))
