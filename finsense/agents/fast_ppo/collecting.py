"""One rollout: what sb3-contrib's `collect_rollouts` does, with the kernels in place of torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from finsense.agents.fast_ppo.acting import act, estimate, generalised_advantages
from finsense.agents.fast_ppo.eligibility import Network
from finsense.agents.kernels.faults import ALL_FINE, NOTHING_LEGAL, NotFinite


class Decided(NamedTuple):
    """Of N environments: actions (N,) int64, values and log probabilities (N,) float32, masks (N, A) bool."""

    actions: NDArray[np.int64]
    values: NDArray[np.float32]
    log_shares: NDArray[np.float32]
    legal: NDArray[np.bool_]


class Actor:
    """The policy as it stands at the start of a rollout.

    Args:
        network: of the model.
        count: N, environments.
    """

    def __init__(self, network: Network, count: int) -> None:
        layout = network.layout
        self._table, self._scaling = layout.table, network.scaling
        self._weights = np.zeros(layout.size, np.float32)
        layout.gather(lambda parameter: parameter, self._weights)
        scratch = layout.scratch()
        self._tile, self._scratch = scratch.observations, scratch.values
        self._actions_all = np.ones((count, layout.actions), np.bool_)

    def act(self, states: NDArray[Any], masks: NDArray[Any] | None, uniforms: NDArray[np.float64]) -> Decided:
        """Sample an action for every environment.

        Raises:
            NotFinite: the network gives a logit or a value that is not finite.
            ValueError: an environment offers no legal action.
        """
        count = len(states)
        legal = self._actions_all if masks is None else np.ascontiguousarray(masks, np.bool_)
        legal = legal.reshape(self._actions_all.shape)
        actions, values, log_shares = (
            np.empty(count, np.int64),
            np.empty(count, np.float32),
            np.empty(count, np.float32),
        )
        fault, row = act(
            self._table, self._weights, self._scaling, self._tile, self._scratch, _rows(states), legal, uniforms,
            actions, values, log_shares,
        )  # fmt: skip
        if fault == NOTHING_LEGAL:
            raise ValueError(
                f"expected at least one legal action in every environment, found none in environment {row}"
            )
        if fault != ALL_FINE:
            found = "its weights" if np.isfinite(states[row]).all() else "the state that it was given"
            raise NotFinite(f"the policy's output for environment {row} is not finite; look at {found}")
        return Decided(actions, values, log_shares, legal)

    def estimate(self, states: NDArray[Any]) -> NDArray[np.float32]:
        """The critic's values of states, (n,) float32."""
        values = np.empty(len(states), np.float32)
        estimate(self._table, self._weights, self._scaling, self._tile, self._scratch, _rows(states), values)
        return values


def collect(
    model: MaskablePPO,
    network: Network,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: MaskableRolloutBuffer,
    n_rollout_steps: int,
    use_masking: bool,
) -> bool:
    """Fill the buffer as sb3-contrib would; False where the callback ended the training.

    Actions are drawn by uniforms from torch's global generator, all of a rollout at once, where SB3 draws from the same
    generator step by step.

    Raises:
        NotFinite: the network gives a logit or a value that is not finite.
        ValueError: the environment offers no masks, or no legal action.
    """
    assert model._last_obs is not None, "no observation to begin with: call learn()"
    model.policy.set_training_mode(False)
    rollout_buffer.reset()
    if use_masking and not is_masking_supported(env):
        raise ValueError("Environment does not support action masking. Consider using ActionMasker wrapper")
    callback.on_rollout_start()
    actor = Actor(network, env.num_envs)
    uniforms = torch.rand((n_rollout_steps, env.num_envs), dtype=torch.float64).numpy()
    masks_of = _masks_of(env) if use_masking else lambda: None
    for n_steps in range(n_rollout_steps):
        states: Any = model._last_obs
        decided = actor.act(states, masks_of(), uniforms[n_steps])
        new_obs, rewards, dones, infos = env.step(decided.actions)
        model.num_timesteps += env.num_envs
        # The names that callbacks know from sb3-contrib's own loop.
        callback.update_locals(
            {
                "self": model,
                "env": env,
                "callback": callback,
                "rollout_buffer": rollout_buffer,
                "n_rollout_steps": n_rollout_steps,
                "use_masking": use_masking,
                "n_steps": n_steps,
                "action_masks": decided.legal if use_masking else None,
                "obs_tensor": torch.from_numpy(states),
                "actions": decided.actions,
                "values": torch.from_numpy(decided.values.reshape(-1, 1)),
                "log_probs": torch.from_numpy(decided.log_shares),
                "new_obs": new_obs,
                "rewards": rewards,
                "dones": dones,
                "infos": infos,
            }
        )
        if not callback.on_step():
            return False
        # Most steps end no episode, and then every info is empty.
        if any(infos):
            model._update_info_buffer(infos, dones)
            _bootstrap(actor, infos, dones, rewards, model.gamma)
        _add(rollout_buffer, n_steps, states, decided, rewards, model._last_episode_starts)
        model._last_obs = new_obs  # type: ignore[assignment]
        model._last_episode_starts = dones
    rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
    generalised_advantages(
        rollout_buffer.rewards,
        rollout_buffer.values,
        rollout_buffer.episode_starts,
        actor.estimate(np.asarray(new_obs)),
        np.asarray(dones, np.bool_),
        rollout_buffer.gamma,
        rollout_buffer.gamma * rollout_buffer.gae_lambda,
        rollout_buffer.advantages,
        rollout_buffer.returns,
    )
    callback.on_rollout_end()
    return True


def _masks_of(env: VecEnv) -> Callable[[], NDArray[Any]]:
    """How to ask for all masks; an environment that has them in one array is asked only once."""
    together = getattr(env, "action_masks", None)
    return together if callable(together) else lambda: get_action_masks(env)


def _bootstrap(actor: Actor, infos: list[dict[str, Any]], dones: Any, rewards: Any, gamma: float) -> None:
    """Add the discounted value of the last state to the reward of each episode that was cut short (SB3's issue 633)."""
    cut = [
        index
        for index in np.flatnonzero(dones).tolist()
        if infos[index].get("terminal_observation") is not None and infos[index].get("TimeLimit.truncated", False)
    ]
    if cut:
        finals = np.stack([infos[index]["terminal_observation"] for index in cut])
        rewards[cut] += np.float32(gamma) * actor.estimate(finals)


def _add(
    buffer: MaskableRolloutBuffer, step: int, states: Any, decided: Decided, rewards: Any, episode_starts: Any
) -> None:
    """What the buffer's own `add` stores, without its copies of copies."""
    buffer.observations[step] = states
    buffer.actions[step, :, 0] = decided.actions
    buffer.rewards[step] = rewards
    buffer.episode_starts[step] = episode_starts
    buffer.values[step] = decided.values
    buffer.log_probs[step] = decided.log_shares
    buffer.action_masks[step] = decided.legal


def _rows(states: NDArray[Any]) -> NDArray[np.float32]:
    """Observations of any number type and shape as rows, (n, F) float32."""
    return np.ascontiguousarray(states, np.float32).reshape(len(states), -1)
