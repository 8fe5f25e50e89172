"""M accounts with several symbols each in one compiled step: the Gymnasium vector API and the face of SB3."""

import time

import numpy as np
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import VecEnv

from finsense.account.rules import AccountRules
from finsense.envs.core import EpisodeRules
from finsense.envs.joint_core import JointCore, JointTape
from finsense.envs.vector import TradingVecEnv, VectorTradingEnv


class JointVectorTradingEnv(VectorTradingEnv):
    """M accounts with S symbols each as M x S envs: env m x S + s trades symbol s (by name) of account m.

    It is a VectorTradingEnv in all but this: the envs of one account share its cash, end together and start their next
    episode together, and a step is a moment in which not every symbol needs to have a bar (`core.deciding`). The reward
    of an env is that of what its symbol added to the account. Account m is seeded with seed + m.

    Args:
        tape: the prepared moments, shared by all.
        rules: the rules of each account.
        accounts: M.
        episode: reward, length and start of an episode.
    """

    core: JointCore  # type: ignore[assignment]

    def __init__(
        self, tape: JointTape, rules: AccountRules, accounts: int, episode: EpisodeRules | None = None
    ) -> None:
        self.core = JointCore(tape, rules, episode or EpisodeRules(), accounts, autoreset=True)
        self.num_envs = self.core.count
        self.single_observation_space, self.single_action_space = self.core.spaces()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)


class JointTradingVecEnv(TradingVecEnv):
    """The same as Stable-Baselines3 trains on it; see `TradingVecEnv` and `JointVectorTradingEnv`."""

    core: JointCore  # type: ignore[assignment]

    def __init__(
        self, tape: JointTape, rules: AccountRules, accounts: int, episode: EpisodeRules | None = None
    ) -> None:
        self.core = JointCore(tape, rules, episode or EpisodeRules(), accounts, autoreset=True)
        count = self.core.count
        self._actions = np.zeros(count, np.int64)
        self._no_infos = [{} for _ in range(count)]
        self._lengths = np.zeros(count, np.int64)
        self._returns = np.zeros(count)
        self._started_s = time.monotonic()
        VecEnv.__init__(self, count, *self.core.spaces())
