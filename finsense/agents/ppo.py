"""Maskable PPO (Schulman et al. 2017; Huang and Ontanon 2022): from an experiment to a verified bundle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import nn

from finsense.agents.device import on_cpu
from finsense.agents.fast_ppo.algorithm import FastMaskablePPO
from finsense.agents.learner import Decisions, Learner
from finsense.agents.markets import Markets
from finsense.agents.network import MaskedActor
from finsense.agents.progress import Progress
from finsense.agents.sb3_settings import shared_settings
from finsense.agents.training import Trained, run_training
from finsense.config import Experiment, PpoAgent
from finsense.envs.vector import TradingVecEnv

__all__ = ["Trained", "masked_ppo", "train"]


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a PPO agent; arguments, result and errors are those of `run_training`."""
    learner = Learner(masked_ppo, _actor, _decisions, _memory, _restore_memory)
    return run_training(learner, experiment, run_dir, resume=resume, report=report)


def masked_ppo(experiment: Experiment, markets: Markets, envs: TradingVecEnv) -> FastMaskablePPO:
    """The learner, its scaler fitted on the training span alone."""
    agent = experiment.agent
    assert isinstance(agent, PpoAgent)
    return FastMaskablePPO(
        MaskableActorCriticPolicy,
        envs,
        n_epochs=agent.n_epochs,
        gae_lambda=agent.gae_lambda,
        clip_range=agent.clip_range,
        ent_coef=agent.ent_coef,
        vf_coef=agent.vf_coef,
        target_kl=agent.target_kl,
        **shared_settings(experiment, markets),
    )


def _actor(experiment: Experiment, model: FastMaskablePPO) -> nn.Module:
    return on_cpu(MaskedActor(model.policy))


def _decisions(model: FastMaskablePPO, steps: int) -> Decisions:
    """The rollout: its buffer is full, and no minibatch was drawn from it."""
    buffer = model.rollout_buffer
    actions = buffer.actions[:, :, 0].astype(np.int64)
    return Decisions(buffer.observations, buffer.action_masks, actions, buffer.episode_starts)


def _memory(model: FastMaskablePPO) -> dict[str, NDArray[Any]]:
    """Nothing: between two rollouts PPO remembers no experience."""
    return {}


def _restore_memory(model: FastMaskablePPO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """The inverse of `_memory`."""
