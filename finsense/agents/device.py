"""Where a learner trains: in compiled kernels on the CPU, or in plain torch on a GPU that is worth the way there."""

import copy
from itertools import pairwise

import torch
from torch import nn

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.config import Experiment, TradingAgent

# Weights of a network times rows of a minibatch above which a GPU is taken; docs/learners.md says where it comes from.
WORTH_A_GPU = 100_000_000
# Of PPO actor and critic, of DQN the one that is trained.
_NETWORKS = {"ppo": 2, "dqn": 1}


class DeviceError(ValueError):
    """A device that was asked for and is not there."""


def training_device(experiment: Experiment) -> str:
    """`cpu` or `cuda`, for an experiment on this machine.

    Raises:
        DeviceError: a GPU was asked for, and torch sees none.
    """
    agent = experiment.agent
    assert isinstance(agent, TradingAgent)
    inputs = experiment.state.width + len(ACCOUNT_FEATURES)
    widths = (inputs, *agent.net_arch, len(experiment.account.action_names))
    weights = _NETWORKS[agent.kind] * sum(before * after for before, after in pairwise(widths))
    return device_for(agent.device, weights, agent.batch_size, torch.cuda.is_available())


def device_for(asked: str, weights: int, batch_size: int, sees_cuda: bool) -> str:
    """`cpu` or `cuda`.

    Args:
        asked: `auto`, `cpu` or `cuda`.
        weights: that a sample is multiplied with.
        batch_size: samples of a gradient step.
        sees_cuda: whether torch sees a GPU.

    Raises:
        DeviceError: `cuda` was asked for, and torch sees none.
    """
    if asked == "cuda" and not sees_cuda:
        built = "is built without CUDA" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        raise DeviceError(
            f"expected a GPU, as agent.device: cuda asks for, but torch {torch.__version__}, which {built}, sees none; "
            "set agent.device: auto or cpu, or install a driver and a torch that see it"
        )
    if asked != "auto":
        return asked
    return "cuda" if sees_cuda and weights * batch_size > WORTH_A_GPU else "cpu"


def on_cpu(module: nn.Module) -> nn.Module:
    """The module itself where it lies on the CPU, else a copy there: to decide row by row, and to be exported."""
    elsewhere = any(tensor.device.type != "cpu" for tensor in [*module.parameters(), *module.buffers()])
    return copy.deepcopy(module).cpu() if elsewhere else module
