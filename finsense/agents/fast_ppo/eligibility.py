"""Whether the kernels can train a model, and its network laid out for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from finsense.agents.fast_ppo.layout import ACTIVATIONS, LINEAR, OBSERVATION, Layer, Layout
from finsense.agents.fast_ppo.shared import SharedLayers
from finsense.agents.network import ScaledState
from finsense.state.scaler import CLIP

# Options of torch's Adam that change what a step is, with the value that the kernels know.
_ADAM = {
    "amsgrad": False,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "decoupled_weight_decay": False,
}


class NotTaken(ValueError):
    """A model that the kernels do not take; the text says why."""


@dataclass(frozen=True)
class Network:
    """A policy as the kernels see it.

    Attributes:
        layout: its layers.
        scaling: mean and factor of the observations, (F,) float32, and the limit they are cut at.
    """

    layout: Layout
    scaling: tuple[NDArray[np.float32], NDArray[np.float32], float]


def network_of(model: MaskablePPO) -> Network:
    """The model's network for the kernels.

    Raises:
        NotTaken: the kernels cannot train this model.
    """
    policy = model.policy
    _check_spaces(model.observation_space, model.action_space)
    if model.device.type != "cpu":
        raise NotTaken(f"the model lies on the device {model.device}")
    if type(policy) is not MaskableActorCriticPolicy:
        raise NotTaken(f"the policy is a {type(policy).__name__}, not a MaskableActorCriticPolicy itself")
    if type(model.rollout_buffer) is not MaskableRolloutBuffer:
        raise NotTaken(f"the rollout buffer is a {type(model.rollout_buffer).__name__}")
    scaling, shared = _features(policy)
    layers = _chain(shared, [], OBSERVATION)
    extractor = policy.mlp_extractor
    if type(extractor) is not MlpExtractor:
        raise NotTaken(f"the layers are a {type(extractor).__name__}, not an MlpExtractor")
    trunk = len(layers) - 1
    layers = _chain(extractor.policy_net, layers, trunk)
    actor = len(layers) - 1 if len(extractor.policy_net) else trunk
    before = len(layers)
    layers = _chain(extractor.value_net, layers, trunk)
    critic = len(layers) - 1 if len(layers) > before else trunk
    layers += [Layer(_linear(policy.action_net), LINEAR, actor), Layer(_linear(policy.value_net), LINEAR, critic)]
    layout = Layout(layers)
    _check_parameters(policy, layout)
    _check_optimiser(policy)
    return Network(layout, scaling)


def _check_spaces(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise NotTaken(f"the actions are {actions}, not Discrete from 0")
    if not isinstance(observations, spaces.Box) or is_image_space(observations):
        raise NotTaken(f"the observations are {observations}, not a Box of numbers")


def _features(policy: MaskableActorCriticPolicy) -> tuple[tuple[Any, Any, float], nn.Sequential]:
    """How observations are scaled, and the shared layers behind that."""
    extractor = policy.features_extractor
    if type(extractor) is FlattenExtractor:
        width = extractor.features_dim
        return (np.zeros(width, np.float32), np.ones(width, np.float32), np.inf), nn.Sequential()
    if type(extractor) not in (ScaledState, SharedLayers):
        raise NotTaken(f"the features come from a {type(extractor).__name__}")
    if not policy.share_features_extractor:
        raise NotTaken("actor and critic do not share the features extractor")
    assert isinstance(extractor, ScaledState)
    scaling = (extractor.mean.numpy(), extractor.factor.numpy(), CLIP)
    return scaling, extractor.layers if isinstance(extractor, SharedLayers) else nn.Sequential()


def _chain(modules: nn.Sequential, layers: list[Layer], source: int) -> list[Layer]:
    """The layers, and after them those of linear layers that alternate with activations."""
    chained = list(layers)
    for linear, activation in zip(list(modules)[::2], list(modules)[1::2], strict=True):
        if type(activation) not in ACTIVATIONS:
            raise NotTaken(f"the activation is {type(activation).__name__}, not Tanh or ReLU")
        chained.append(Layer(_linear(linear), ACTIVATIONS[type(activation)], source))
        source = len(chained) - 1
    return chained


def _linear(module: nn.Module) -> nn.Linear:
    if type(module) is not nn.Linear or module.bias is None:
        raise NotTaken(f"a layer is a {type(module).__name__}, not Linear with a bias")
    return module


def _check_parameters(policy: MaskableActorCriticPolicy, layout: Layout) -> None:
    known = {id(parameter) for parameter in layout.parameters()}
    for name, parameter in policy.named_parameters():
        if id(parameter) not in known:
            raise NotTaken(f"{name} belongs to no layer that the kernels know")
        if not parameter.requires_grad:
            raise NotTaken(f"{name} is frozen")
        if parameter.dtype != torch.float32:
            raise NotTaken(f"{name} is {parameter.dtype}, not float32")


def _check_optimiser(policy: MaskableActorCriticPolicy) -> None:
    optimiser = policy.optimizer
    if type(optimiser) is not torch.optim.Adam:
        raise NotTaken(f"the optimiser is {type(optimiser).__name__}, not Adam")
    if len(optimiser.param_groups) != 1:
        raise NotTaken(f"the optimiser has {len(optimiser.param_groups)} groups of parameters, not 1")
    group = optimiser.param_groups[0]
    for name, expected in _ADAM.items():
        if group.get(name, expected) != expected:
            raise NotTaken(f"Adam runs with {name}={group[name]}")
    optimised = {id(parameter) for parameter in group["params"]}
    if optimised != {id(parameter) for parameter in policy.parameters()}:
        raise NotTaken("the optimiser does not hold the policy's parameters and no others")
    steps = {float(state["step"]) for state in optimiser.state.values()}
    if len(steps) > 1 or len(optimiser.state) not in (0, len(optimised)):
        raise NotTaken("Adam's steps differ between the parameters")
