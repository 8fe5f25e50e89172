"""N environments in one compiled step: the Gymnasium vector API and the Stable-Baselines3 face of it."""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from finsense.account.rules import AccountRules
from finsense.envs.core import EpisodeRules, TradingCore
from finsense.envs.tape import Tape


class VectorTradingEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]):
    """N accounts over one tape; env i behaves as a TradingEnv that was reset with seed + i.

    A finished env starts its next episode within the same step; its last state is `info["final_obs"]`, with
    `info["_final_obs"]` telling the rows (Gymnasium's SAME_STEP).

    Args:
        tape: the prepared market, shared by all.
        rules: the account's rules.
        num_envs: N.
        episode: reward, length and start of an episode.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  (gymnasium's own form)

    def __init__(self, tape: Tape, rules: AccountRules, num_envs: int, episode: EpisodeRules | None = None) -> None:
        self.core = TradingCore(tape, rules, episode or EpisodeRules(), num_envs, autoreset=True)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = self.core.spaces()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def action_masks(self) -> NDArray[np.bool_]:
        """The legal actions of every env, (N, A) bool."""
        return self.core.masks.copy()

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in every env; a whole number seeds env i with seed + i."""
        if isinstance(seed, list):
            raise TypeError("expected one whole number as the seed of all envs (env i takes seed + i), found a list")
        if seed is not None or self.core.envs["random"][0] == 0:
            self.core.seed(int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed)
        return self.core.reset(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Step every env.

        Raises:
            IllegalAction: an action that its mask forbids; no env was stepped.
        """
        outcome = self.core.step(np.ascontiguousarray(actions, np.int64))
        info: dict[str, Any] = {}
        ended = outcome.terminated | outcome.truncated
        if ended.any():
            finals = np.full(self.num_envs, None, object)
            for index in np.flatnonzero(ended):
                finals[index] = outcome.finals[index].copy()
            info = {"final_obs": finals, "_final_obs": ended}
        ends = outcome.terminated.copy(), outcome.truncated.copy()
        return outcome.states, outcome.rewards.copy(), *ends, info


class TradingVecEnv(VecEnv):
    """The face that Stable-Baselines3 trains on; masks come as one array from `env_method("action_masks")`.

    The info of a finished env carries `terminal_observation`, `TimeLimit.truncated` and `episode` (r, l, t), as SB3's
    own wrappers do, `terminal_action_mask`, the actions that were legal in that observation, and `account`, the last
    books of the episode. The other infos are shared empty dicts.
    """

    render_mode: str | None = None

    def __init__(self, tape: Tape, rules: AccountRules, num_envs: int, episode: EpisodeRules | None = None) -> None:
        self.core = TradingCore(tape, rules, episode or EpisodeRules(), num_envs, autoreset=True)
        self._actions = np.zeros(num_envs, np.int64)
        self._no_infos: list[dict[str, Any]] = [{} for _ in range(num_envs)]
        self._lengths = np.zeros(num_envs, np.int64)
        self._returns = np.zeros(num_envs)
        self._started_s = time.monotonic()
        super().__init__(num_envs, *self.core.spaces())

    def action_masks(self) -> NDArray[np.bool_]:
        """The legal actions of every env, (N, A) bool."""
        return self.core.masks.copy()

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """Every array in which the envs keep their state, not copied: who writes into them puts the envs elsewhere."""
        lengths_and_returns = {"episode_lengths": self._lengths, "episode_returns": self._returns}
        return {**self.core.state_arrays(), **lengths_and_returns}

    def reset(self) -> VecEnvObs:
        """Start an episode in every env, with the seed of the last `seed()` if there was one."""
        seeds = [seed for seed in self._seeds if seed is not None]
        if seeds:
            self.core.seed(int(seeds[0]))
        elif self.core.envs["random"][0] == 0:
            self.core.seed(int(np.random.SeedSequence().generate_state(1)[0]))
        self._reset_seeds()
        self._lengths[:] = 0
        self._returns[:] = 0.0
        return self.core.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the actions of the next step, (N,) int64."""
        self._actions = np.ascontiguousarray(actions, np.int64)

    def step_wait(self) -> VecEnvStepReturn:
        """Step every env with the actions taken."""
        outcome = self.core.step(self._actions)
        dones = outcome.terminated | outcome.truncated
        self._lengths += 1
        self._returns += outcome.rewards
        infos = self._no_infos
        ended = dones.nonzero()[0]
        if ended.size:
            infos = list(infos)
            # Copied together: a record copied alone costs as much as dozens of steps.
            finals, final_masks = outcome.finals[ended], outcome.final_masks[ended]
            accounts = outcome.accounts.take(ended)
            elapsed_s = round(time.monotonic() - self._started_s, 6)
            for row, index in enumerate(ended.tolist()):
                infos[index] = {
                    "terminal_observation": finals[row],
                    "terminal_action_mask": final_masks[row],
                    "TimeLimit.truncated": bool(outcome.truncated[index]),
                    "account": accounts[row],
                    "episode": {"r": float(self._returns[index]), "l": int(self._lengths[index]), "t": elapsed_s},
                }
            self._lengths[dones] = 0
            self._returns[dones] = 0.0
        return outcome.states, outcome.rewards.copy(), dones, infos

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """One attribute, the same for every chosen env."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: the envs share one core.

        Raises:
            AttributeError: always.
        """
        raise AttributeError(f"the envs of a {type(self).__name__} share their attributes; cannot set {attr_name}")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> Any:
        """`action_masks` of the chosen envs, (n, A) bool; no other method is offered.

        Raises:
            AttributeError: for another method.
        """
        if method_name != "action_masks":
            raise AttributeError(f"{type(self).__name__} offers action_masks, not {method_name}")
        return self.action_masks()[list(self._get_indices(indices))]

    def has_attr(self, attr_name: str) -> bool:
        """Whether the environment has the attribute; asked by MaskablePPO for `action_masks`."""
        return hasattr(self, attr_name)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        """No env is wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """No pictures; render a TradingEnv instead."""
        return [None] * self.num_envs
