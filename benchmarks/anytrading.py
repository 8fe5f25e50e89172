"""The peer of the environments: gym-anytrading's StocksEnv, as it is and with an observation of our size."""

import matplotlib

matplotlib.use("Agg")  # gym-anytrading imports pyplot; no window is ever opened here

import numpy as np
import pandas as pd
from gym_anytrading.envs import StocksEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.measurement import Contender
from finsense.market.bars import Bars

NAME = "gym-anytrading"
# The default of its registered environment `stocks-v0`.
DEFAULT_WINDOW = 30


class WideStocksEnv(StocksEnv):
    """StocksEnv that shows given columns instead of its own two (price and difference)."""

    def __init__(self, frame: pd.DataFrame, window: int, columns: NDArray[np.float32]) -> None:
        self._columns = columns
        super().__init__(frame, window, (window, len(frame)))

    def _process_data(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        prices, _ = super()._process_data()
        return prices, self._columns


def stocks_env(bars: Bars) -> StocksEnv:
    """StocksEnv as its authors ship it, on our bars."""
    return StocksEnv(_frame(bars), DEFAULT_WINDOW, (DEFAULT_WINDOW, len(bars)))


def wide_stocks_env(bars: Bars, window: int, columns: NDArray[np.float32]) -> WideStocksEnv:
    """StocksEnv that observes `columns`, (n, C) float32, over a window of bars."""
    return WideStocksEnv(_frame(bars), window, columns)


def vector_contender(envs: DummyVecEnv, steps: int) -> Contender:
    """Steps all envs of a DummyVecEnv with given random actions; both of its actions are always legal."""
    actions = np.random.default_rng(0).integers(0, 2, (steps, envs.num_envs))

    def work() -> None:
        for row in actions:
            envs.step(row)

    return Contender(work, actions.size, envs.reset)


def single_contender(env: StocksEnv, steps: int) -> Contender:
    """Steps one env with given random actions."""
    actions = np.random.default_rng(0).integers(0, 2, steps).tolist()

    def step(action: int) -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    def work() -> None:
        for action in actions:
            step(action)

    return Contender(work, steps, env.reset)


def _frame(bars: Bars) -> pd.DataFrame:
    return pd.DataFrame({"Close": bars.close})
