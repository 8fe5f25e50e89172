"""Which of torch's parts the kernels know: layers, activations, features and Adam; the rest is left to torch."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from torch import Tensor, nn

from finsense.agents.kernels.faults import NotTaken
from finsense.agents.kernels.layout import ACTIVATIONS, Layer
from finsense.agents.network import ScaledState
from finsense.state.scaler import CLIP

# Mean and factor of the observations, (F,) float32 each, and the limit they are cut at.
Scaling = tuple[NDArray[np.float32], NDArray[np.float32], float]

# Options of torch's Adam that change what a step is, with the value that the kernels know.
_ADAM = {
    "amsgrad": False,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "decoupled_weight_decay": False,
}


def chain(modules: Any, layers: list[Layer], source: int) -> list[Layer]:
    """The layers, and behind them those of linear layers that alternate with activations.

    Args:
        modules: nn.Sequential or part of one: linear, activation, linear, activation, ...
        layers: those before; not changed.
        source: the layer whose output the first one takes, or OBSERVATION.

    Raises:
        NotTaken: an activation or a layer that the kernels do not know.
    """
    chained = list(layers)
    for one, activation in zip(list(modules)[::2], list(modules)[1::2], strict=True):
        if type(activation) not in ACTIVATIONS:
            raise NotTaken(f"the activation is {type(activation).__name__}, not Tanh or ReLU")
        chained.append(Layer(linear(one), ACTIVATIONS[type(activation)], source))
        source = len(chained) - 1
    return chained


def linear(module: nn.Module) -> nn.Linear:
    """The module, known to be a linear layer with a bias.

    Raises:
        NotTaken: it is another layer.
    """
    if type(module) is not nn.Linear or module.bias is None:
        raise NotTaken(f"a layer is a {type(module).__name__}, not Linear with a bias")
    return module


def scaling_of(extractor: BaseFeaturesExtractor, known: tuple[type[ScaledState], ...] = (ScaledState,)) -> Scaling:
    """How a features extractor scales observations.

    Args:
        extractor: of the policy.
        known: the classes that scale as `ScaledState` does.

    Raises:
        NotTaken: it does more than that.
    """
    if type(extractor) is FlattenExtractor:
        width = extractor.features_dim
        return np.zeros(width, np.float32), np.ones(width, np.float32), np.inf
    if type(extractor) not in known:
        raise NotTaken(f"the features come from a {type(extractor).__name__}")
    assert isinstance(extractor, ScaledState)
    return extractor.mean.numpy(), extractor.factor.numpy(), CLIP


def check_parameters(module: nn.Module, known: Iterable[Tensor]) -> None:
    """Refuse a module with parameters that the kernels could not train.

    Args:
        module: the whole of it.
        known: the parameters that lie in its layout.

    Raises:
        NotTaken: names the parameter.
    """
    ids = {id(parameter) for parameter in known}
    for name, parameter in module.named_parameters():
        if id(parameter) not in ids:
            raise NotTaken(f"{name} belongs to no layer that the kernels know")
        if not parameter.requires_grad:
            raise NotTaken(f"{name} is frozen")
        if parameter.dtype != torch.float32:
            raise NotTaken(f"{name} is {parameter.dtype}, not float32")
        check_device(parameter.device)


def check_device(device: torch.device) -> None:
    """Refuse another device than the CPU.

    Raises:
        NotTaken: it is another.
    """
    if device.type != "cpu":
        raise NotTaken(f"the model lies on the device {device}")


def known_adam(optimiser: torch.optim.Optimizer, module: nn.Module) -> torch.optim.Adam:
    """The optimiser, known to be an Adam of exactly the module's parameters, in step for all of them.

    Raises:
        NotTaken: it is another, or an option of it changes what a step is.
    """
    if type(optimiser) is not torch.optim.Adam:
        raise NotTaken(f"the optimiser is {type(optimiser).__name__}, not Adam")
    if len(optimiser.param_groups) != 1:
        raise NotTaken(f"the optimiser has {len(optimiser.param_groups)} groups of parameters, not 1")
    group: dict[str, Any] = optimiser.param_groups[0]
    for name, expected in _ADAM.items():
        if group.get(name, expected) != expected:
            raise NotTaken(f"Adam runs with {name}={group[name]}")
    optimised = {id(parameter) for parameter in group["params"]}
    if optimised != {id(parameter) for parameter in module.parameters()}:
        raise NotTaken("the optimiser does not hold the network's parameters and no others")
    steps = {float(state["step"]) for state in optimiser.state.values() if "step" in state}
    if len(steps) > 1 or len(optimiser.state) not in (0, len(optimised)):
        raise NotTaken("Adam's steps differ between the parameters")
    return optimiser
