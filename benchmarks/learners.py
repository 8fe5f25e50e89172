"""Frames per second of the PPO learners: whole learn() calls and the updates alone, on one core, same samples."""

import copy
import gc
import importlib
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnvWrapper

from benchmarks.markets import SESSION_BARS, SYMBOL, account_rules, bars_of, tape_of
from benchmarks.measurement import Contender, Effort, Measurement, Peer, Spent, measure_rate, remark, spend, spread
from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import HOLD
from finsense.agents.fast_ppo.algorithm import FastMaskablePPO
from finsense.agents.network import ScaledState
from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape
from finsense.envs.vector import TradingVecEnv
from finsense.state.scaler import fit_scaler

_EPOCHS = 10
_SB3 = "sb3-contrib MaskablePPO"
# Of one turn of a seed; half a second.
_SEED_ROLLOUTS = 25
_SBX = "sbx PPO (JAX, no masks, no scaler)"


@dataclass(frozen=True)
class Size:
    """One row of the table: environments, steps of each in a rollout, samples in a minibatch."""

    envs: int
    steps: int
    minibatch: int

    @property
    def frames(self) -> int:
        """Of a rollout."""
        return self.envs * self.steps

    @property
    def name(self) -> str:
        """As the measurement is called."""
        return f"{self.frames}_{self.minibatch}"

    def at(self, effort: Effort) -> "Size":
        """The size at an effort; the minibatch still divides the rollout."""
        envs, steps = effort.count(self.envs, 2), effort.count(self.steps)
        minibatch = math.gcd(envs * steps, effort.count(self.minibatch, 2))
        return Size(envs, steps, minibatch if minibatch > 1 else envs * steps)


SIZES = (Size(16, 128, 64), Size(64, 256, 256), Size(64, 256, 1024), Size(64, 256, 4096))


class _IllegalHolds(VecEnvWrapper):
    """Takes what the mask forbids as HOLD, for a learner that knows no masks."""

    venv: TradingVecEnv

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        legal = self.venv.core.masks[np.arange(len(actions)), actions]
        self.venv.step_async(np.where(legal, actions, HOLD))

    def step_wait(self) -> Any:
        return self.venv.step_wait()


def ppo_learn(effort: Effort) -> list[Measurement]:
    """A rollout and its update, ten epochs, 64 x 64, tanh, classic29 and the account (34 values)."""
    return [line for size in SIZES for line in _compared("ppo_learn", size, effort, _learning)]


def ppo_update(effort: Effort) -> list[Measurement]:
    """The update alone, of a rollout that is there, always from the same weights and state of Adam."""
    return [line for size in SIZES for line in _compared("ppo_update", size, effort, _updating)]


def ppo_two_seeds(effort: Effort) -> list[Measurement]:
    """Two seeds side by side in two processes against one of them alone (needs two cores).

    The wall time of two over that of one is what a person waits for, and means something on an idle machine only. The
    CPU time of a seed beside another over that of the same seed alone is what the two take from each other (cache,
    memory, clock of the cores), whatever else runs.
    """
    context = multiprocessing.get_context("spawn")
    lines = [context.Pipe() for _ in range(2)]
    workers = [
        context.Process(target=_seed, args=(seed, effort.count(_SEED_ROLLOUTS), line))
        for seed, (_, line) in enumerate(lines)
    ]
    for worker in workers:
        worker.start()
    first, second = (line for line, _ in lines)
    for line in (first, second):
        line.recv()
    walls, cpus = [], []
    for _ in range(effort.rounds):
        alone = _together([first])
        both = _together([first, second])
        walls.append(max(spent.wall_s for spent in both) / alone[0].wall_s)
        cpus.append(both[0].cpu_s / alone[0].cpu_s)
    for line, worker in zip((first, second), workers, strict=True):
        line.send(False)
        worker.join()
    remark(f"ppo_two_seeds: wall {spread(walls)}; CPU {spread(cpus)}")
    return [
        Measurement("ppo_two_seeds", statistics.median(walls), "wall of two / wall of one"),
        Measurement("ppo_two_seeds_cpu", statistics.median(cpus), "CPU of one beside another / CPU of it alone"),
    ]


def _together(lines: list[Any]) -> list[Spent]:
    """One piece of training in each of the processes, at the same time."""
    for line in lines:
        line.send(True)
    return [line.recv() for line in lines]


def _seed(seed: int, rollouts: int, line: Any) -> None:
    """A training in a process of its own: it goes on by so many rollouts whenever it is told to."""
    torch.set_num_threads(1)
    size = SIZES[0]
    model = model_of(FastMaskablePPO, size, seed)
    model.learn(size.frames)
    line.send(None)
    while line.recv():
        line.send(spend(lambda: model.learn(rollouts * size.frames, reset_num_timesteps=False)))


def _compared(name: str, size: Size, effort: Effort, contender: Callable[[Any, Size], Contender]) -> list[Measurement]:
    used = size.at(effort)
    with one_core():
        ours = contender(model_of(FastMaskablePPO, used), used)
        peers = [Peer(_SB3, contender(model_of(MaskablePPO, used), used))]
        if find_spec("sbx") is None:
            remark(f"{name}: sbx is not installed, so it is not compared")
        else:
            peers.append(Peer(_SBX, contender(_sbx_model(used), used)))
        return measure_rate(f"{name}_{size.name}", "frames", ours, effort, peers)


def _learning(model: Any, size: Size) -> Contender:
    model.learn(size.frames)
    return Contender(lambda: model.learn(size.frames, reset_num_timesteps=False), size.frames)


def _updating(model: Any, size: Size) -> Contender:
    model.learn(size.frames)
    if not isinstance(model, MaskablePPO):
        return Contender(model.train, size.frames)
    weights = copy.deepcopy(model.policy.state_dict())
    optimiser = copy.deepcopy(model.policy.optimizer.state_dict())

    def rewind() -> None:
        model.policy.load_state_dict(weights)
        model.policy.optimizer.load_state_dict(copy.deepcopy(optimiser))

    return Contender(model.train, size.frames, rewind)


@cache
def _tape() -> Tape:
    return tape_of(bars_of(Effort(), days=120)[SYMBOL])


def _environments(size: Size) -> TradingVecEnv:
    return TradingVecEnv(_tape(), account_rules(), size.envs, EpisodeRules(reward_scale=100.0, bars=SESSION_BARS))


def model_of(kind: type[MaskablePPO], size: Size, seed: int = 0, device: str = "cpu", **changes: Any) -> MaskablePPO:
    """A learner of classic29 and the account; `changes` are of its `policy_kwargs`."""
    scaler = fit_scaler(_tape().training_rows(), 1, len(ACCOUNT_FEATURES))
    layer = {"features_extractor_class": ScaledState, "features_extractor_kwargs": ScaledState.arguments(scaler)}
    policy = {**layer, **changes}
    return kind("MlpPolicy", _environments(size), **_numbers(size), policy_kwargs=policy, seed=seed, device=device)


def _sbx_model(size: Size) -> Any:
    sbx = importlib.import_module("sbx")
    return sbx.PPO("MlpPolicy", _IllegalHolds(_environments(size)), **_numbers(size), seed=0)


def _numbers(size: Size) -> dict[str, Any]:
    return {"n_steps": size.steps, "batch_size": size.minibatch, "n_epochs": _EPOCHS, "ent_coef": 0.01}


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and the threads that a library starts from here on, on one core.

    What is there already is not looked through again by the collection of garbage before each turn.
    """
    threads = torch.get_num_threads()
    gc.freeze()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
        gc.unfreeze()
