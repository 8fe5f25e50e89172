"""Collects experience: what SB3's `collect_rollouts` does, with masks and without a loop over the environments."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import should_collect_more_steps
from stable_baselines3.common.vec_env import VecEnv

from finsense.agents.masked_dqn.replay import MaskedReplayBuffer

if TYPE_CHECKING:
    from finsense.agents.masked_dqn.algorithm import MaskedDQN


def collect(
    model: "MaskedDQN",
    env: VecEnv,
    callback: BaseCallback,
    train_freq: TrainFreq,
    buffer: MaskedReplayBuffer,
    learning_starts: int,
    log_interval: int | None,
) -> RolloutReturn:
    """Step the environments `train_freq` times and store what happens.

    Raises:
        NotFinite: a Q value is not finite.
        ValueError: an environment offers no legal action, or an episode was cut short without its last mask.
    """
    if train_freq.frequency < 1 or (env.num_envs > 1 and train_freq.unit != TrainFrequencyUnit.STEP):
        raise ValueError(
            "expected a train_freq of at least 1, in steps where there is more than one environment, found "
            f"{train_freq}"
        )
    model.policy.set_training_mode(False)
    masks_of = _masks_of(env) if model.use_masking else lambda: None
    choose = model.chooser()
    steps = episodes = 0
    callback.on_rollout_start()
    masks = masks_of()
    while should_collect_more_steps(train_freq, steps, episodes):
        # Before learning starts, everything is explored.
        epsilon = 1.0 if model.num_timesteps < learning_starts else model.exploration_rate
        last_obs = np.asarray(model._last_obs)
        actions = choose(last_obs, masks, epsilon)
        new_obs, rewards, dones, infos = env.step(actions)
        next_masks = masks_of()
        model.num_timesteps += env.num_envs
        steps += 1
        buffer.add(last_obs, np.asarray(new_obs), actions, rewards, dones, infos, masks, next_masks)
        model._last_obs, masks = new_obs, next_masks  # type: ignore[assignment]
        ended = int(dones.sum())
        if any(infos):
            model._update_info_buffer(infos, dones)
        callback.update_locals(locals())
        if not callback.on_step():
            return RolloutReturn(steps * env.num_envs, episodes, continue_training=False)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model._on_step()
        before, episodes = model._episode_num, episodes + ended
        model._episode_num += ended
        if log_interval is not None and model._episode_num // log_interval > before // log_interval:
            model.dump_logs()
    callback.on_rollout_end()
    return RolloutReturn(steps * env.num_envs, episodes, continue_training=True)


def _masks_of(env: VecEnv) -> Callable[[], NDArray[np.bool_] | None]:
    """How to ask for all masks, (N, A); an environment that has them in one array is asked only once."""
    if not is_masking_supported(env):
        raise ValueError(
            "expected an environment that tells its `action_masks`, found one that does not; give it that method, or "
            "learn with use_masking=False"
        )
    together: Any = getattr(env, "action_masks", None)
    return together if callable(together) else lambda: get_action_masks(env).astype(np.bool_)
