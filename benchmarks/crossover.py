"""Updates of PPO networks of many widths, by the kernels and by plain torch; on a GPU too if there is one."""

import torch
from sb3_contrib import MaskablePPO

from benchmarks.learners import Size, model_of, one_core
from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate
from finsense.agents.fast_ppo.algorithm import FastMaskablePPO

_WIDTHS = (64, 128, 256, 512, 1024)
_MINIBATCHES = (64, 256, 1024, 4096)
# They differ by factors, so a few rounds tell.
_ROUNDS = 3


def ppo_crossover(effort: Effort) -> list[Measurement]:
    """One epoch over 4,096 samples, actor and critic of two hidden layers each, tanh; torch on one thread or a GPU."""
    effort = Effort(min(effort.rounds, _ROUNDS), effort.scale)
    sizes = [Size(64, 64, minibatch).at(effort) for minibatch in _MINIBATCHES]
    with one_core():
        return [line for width in _WIDTHS for size in sizes for line in _compared(width, size, effort)]


def _compared(width: int, size: Size, effort: Effort) -> list[Measurement]:
    peers = [Peer("sb3-contrib, torch on one thread", _updates(MaskablePPO, width, size, "cpu"))]
    if torch.cuda.is_available():
        peers.append(Peer(f"sb3-contrib, {torch.cuda.get_device_name()}", _updates(MaskablePPO, width, size, "cuda")))
    ours = _updates(FastMaskablePPO, width, size, "cpu")
    return measure_rate(f"ppo_crossover_{width}_{size.minibatch}", "samples", ours, effort, peers)


def _updates(kind: type[MaskablePPO], width: int, size: Size, device: str) -> Contender:
    """Updates of one rollout; their time does not depend on what the weights are."""
    model = model_of(kind, size, device=device, net_arch=[width, width], ortho_init=False)
    model.n_epochs = 1
    model.learn(size.frames)
    return Contender(model.train, size.frames)
