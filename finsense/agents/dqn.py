"""Masked DQN (Mnih et al. 2015; van Hasselt et al. 2016): from an experiment to a verified bundle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from finsense.agents.device import on_cpu
from finsense.agents.learner import Decisions, Learner
from finsense.agents.markets import Markets
from finsense.agents.masked_dqn.algorithm import MaskedDQN
from finsense.agents.network import MaskedGreedy
from finsense.agents.progress import Progress
from finsense.agents.sb3_settings import shared_settings
from finsense.agents.training import Trained, run_training
from finsense.config import DqnAgent, Experiment
from finsense.envs.vector import TradingVecEnv

# A gain of one hundredth of the equity makes an action e times as probable in the exported graph.
_GAIN = 0.01


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a DQN agent; arguments, result and errors are those of `run_training`."""
    learner = Learner(masked_dqn, _actor, _decisions, _memory, _restore_memory)
    return run_training(learner, experiment, run_dir, resume=resume, report=report)


def masked_dqn(experiment: Experiment, markets: Markets, envs: TradingVecEnv) -> MaskedDQN:
    """The learner, its scaler fitted on the training span alone."""
    agent = experiment.agent
    assert isinstance(agent, DqnAgent)
    replay = agent.prioritised_replay
    return MaskedDQN(
        "DuelingMlpPolicy" if agent.dueling else "MlpPolicy",
        envs,
        buffer_size=agent.buffer_size,
        learning_starts=agent.learning_starts,
        tau=agent.tau,
        train_freq=agent.train_freq,
        gradient_steps=agent.gradient_steps,
        # Counted in steps of all environments, it is never less than one of them.
        target_update_interval=max(agent.target_update_interval, agent.envs),
        exploration_fraction=agent.exploration_fraction,
        exploration_initial_eps=agent.exploration_initial_eps,
        exploration_final_eps=agent.exploration_final_eps,
        double=agent.double,
        priority_exponent=0.0 if replay is None else replay.alpha,
        importance_exponent=1.0 if replay is None else replay.beta,
        **shared_settings(experiment, markets),
    )


def _actor(experiment: Experiment, model: MaskedDQN) -> nn.Module:
    return on_cpu(MaskedGreedy(model.q_net, _GAIN * experiment.reward.scale))


def _decisions(model: MaskedDQN, steps: int) -> Decisions:
    """The newest rows of the replay buffer."""
    buffer = model.replay_buffer
    assert buffer is not None
    count = min(max(steps // buffer.n_envs, 1), buffer.size())
    rows = np.arange(buffer.pos - count, buffer.pos) % buffer.buffer_size
    ended_before = buffer.dones[(rows - 1) % buffer.buffer_size]
    return Decisions(buffer.observations[rows], buffer.masks[rows], buffer.actions[rows, :, 0], ended_before)


def _memory(model: MaskedDQN) -> Mapping[str, NDArray[Any]]:
    return model.memory_arrays()


def _restore_memory(model: MaskedDQN, arrays: Mapping[str, NDArray[Any]]) -> None:
    model.restore_memory(arrays)
