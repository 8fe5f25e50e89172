"""The masked DQN beside Stable-Baselines3's own: the same environment steps, gradient steps and network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN

from benchmarks.markets import SYMBOL, account_rules, bars_of, tape_of
from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate
from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import HOLD
from finsense.agents.masked_dqn.algorithm import MaskedDQN
from finsense.agents.network import ScaledState
from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape
from finsense.envs.vector import TradingVecEnv
from finsense.state.scaler import fit_scaler

# Environments, transitions of an update, updates after each step of all environments.
_SHAPES = ((1, 32, 1), (16, 64, 1), (64, 256, 1), (64, 64, 8))
_DAYS = 120
# Vector steps of one round; fewer where each is followed by many updates.
_STEPS = 2_000


class _Forgiving(TradingVecEnv):
    """The environment for a learner that knows no mask: an illegal action is a hold."""

    def step_async(self, actions: NDArray[Any]) -> None:
        legal = self.core.masks[np.arange(self.num_envs), actions]
        super().step_async(np.where(legal, actions, HOLD))


def training(effort: Effort) -> list[Measurement]:
    """Environment steps per second of training, 64 x 64, one step of all environments and then the updates."""
    torch.set_num_threads(1)  # faster than more for a network so small, and what training does
    tape = tape_of(bars_of(effort, days=_DAYS)[SYMBOL])
    lines = []
    for envs, batch, updates in _SHAPES:
        count = envs * effort.count(_STEPS // updates, 2)
        ours = Contender(*_work(MaskedDQN, TradingVecEnv, tape, envs, batch, updates, count))
        peer = Contender(*_work(DQN, _Forgiving, tape, envs, batch, updates, count))
        name = f"dqn_{envs}_envs_batch_{batch}_updates_{updates}"
        lines += measure_rate(name, "steps", ours, effort, [Peer("stable-baselines3 DQN", peer)])
    return lines


def _work(
    kind: type[DQN], env_kind: type[TradingVecEnv], tape: Tape, envs: int, batch: int, updates: int, count: int
) -> tuple[Callable[[], object], int]:
    """Training goes on from round to round; the first steps, before learning starts, are done here."""
    scaler = fit_scaler(tape.training_rows(), tape.spec.history, len(ACCOUNT_FEATURES))
    layer = {"features_extractor_class": ScaledState, "features_extractor_kwargs": ScaledState.arguments(scaler)}
    episode = EpisodeRules(bars=min(375, int(np.diff(tape.spans, axis=1).min())))
    model = kind(
        "MlpPolicy",
        env_kind(tape, account_rules(), envs, episode),
        buffer_size=50_000,
        learning_starts=batch,
        batch_size=batch,
        train_freq=1,
        gradient_steps=updates,
        target_update_interval=max(1_000, envs),
        policy_kwargs={"net_arch": [64, 64], **layer},
        seed=0,
        device="cpu",
    )
    model.learn(2 * batch)
    return lambda: model.learn(count, reset_num_timesteps=False), count
