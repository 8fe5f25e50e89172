"""A Q network on memory that torch and the kernels share: torch's parameters are views of the kernels' vector."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor, nn

from finsense.agents.fast_ppo.eligibility import NotTaken
from finsense.agents.fast_ppo.layout import (
    ACTIVATIONS,
    BIAS,
    COLUMN_COUNT,
    INPUTS,
    LINEAR,
    OBSERVATION,
    OUTPUTS,
    ROW_COUNT,
    WEIGHT,
    Layer,
    Layout,
)
from finsense.agents.fast_ppo.update import Scratch, State
from finsense.agents.masked_dqn.policies import DuelingQNetwork
from finsense.agents.network import ScaledState
from finsense.state.scaler import CLIP

Floats = NDArray[np.float32]
# Mean and factor of the observations, and where they are cut.
Scaling = tuple[Floats, Floats, float]
# Options of torch's Adam that change what a step is, with the value that the kernels know.
_ADAM = {
    "amsgrad": False,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "decoupled_weight_decay": False,
}


class SharedMemory:
    """The weights of the online and of the target network and Adam's state, each in one vector.

    Everything that torch does with the parameters in place (loading, its own optimiser, SB3's soft updates) happens in
    the same memory; where torch puts other tensors in their place, `holds` tells.

    Args:
        online: the network that is trained.
        target: the network that the targets are taken from.
        optimiser: torch's Adam of the online network.

    Raises:
        NotTaken: the kernels cannot train this network.

    Attributes:
        layout: of both networks.
        scaling: of their observations.
        dueling: whether they have two heads.
        state: weights and Adam's moments of the online network, and a gradient.
        target: (size,) float32, the weights of the target network.
        scratch: of one pass.
    """

    def __init__(self, online: QNetwork, target: QNetwork, optimiser: torch.optim.Optimizer) -> None:
        self._optimiser = _known_adam(optimiser)
        layers, others = layers_of(online), layers_of(target)
        self.layout = Layout(layers)
        self.scaling = _scaling(online)
        self.dueling = isinstance(online, DuelingQNetwork)
        self.state = State(*(np.zeros(self.layout.size, np.float32) for _ in range(4)))
        self.target = np.zeros(self.layout.size, np.float32)
        self.scratch = Scratch(*self.layout.scratch())
        self._parameters = self.layout.parameters()
        self._targets = Layout(others).parameters()
        _check_parameters(online, self._parameters, self._optimiser)
        self._steps = np.zeros(len(self._parameters), np.float32)
        self._seen = [*_share(self.layout, self.state.weights, self._parameters)]
        self._seen += _share(self.layout, self.target, self._targets)
        self._share_moments()
        self._addresses = [one.data_ptr() for one in self._tensors()]

    @property
    def step(self) -> int:
        """Adam's steps so far."""
        return int(self._steps[0])

    @step.setter
    def step(self, step: int) -> None:
        self._steps[:] = step

    def holds(self) -> bool:
        """Whether torch's tensors still lie here."""
        adam = self._optimiser.state
        if any(parameter not in adam for parameter in self._parameters):
            return False
        return [one.data_ptr() for one in self._tensors()] == self._addresses

    def _share_moments(self) -> None:
        """Put Adam's state here, made anew where it has taken no step yet."""
        adam = self._optimiser.state
        names = {"exp_avg": self.state.first, "exp_avg_sq": self.state.second}
        for name, vector in names.items():
            views = _views(self.layout, vector)
            for parameter, view in zip(self._parameters, views, strict=True):
                if parameter in adam and name in adam[parameter]:
                    view.copy_(adam[parameter][name])
                adam[parameter][name] = view
        for place, parameter in enumerate(self._parameters):
            self._steps[place] = float(adam[parameter].get("step", 0.0))
            adam[parameter]["step"] = torch.from_numpy(self._steps[place : place + 1])[0]

    def _tensors(self) -> Iterator[Tensor]:
        adam = self._optimiser.state
        yield from self._parameters
        yield from self._targets
        for parameter in self._parameters:
            yield from (adam[parameter][name] for name in ("step", "exp_avg", "exp_avg_sq"))


def layers_of(network: QNetwork) -> list[Layer]:
    """The linear layers of a Q network; a dueling one ends with the advantages and the value.

    Raises:
        NotTaken: it is another network.
    """
    if type(network) is DuelingQNetwork:
        layers = _chain(network.shared, [], OBSERVATION)
        trunk = len(layers) - 1
        layers = _chain(network.advantages[:-1], layers, trunk)
        advantage = len(layers) - 1
        before = len(layers)
        layers = _chain(network.value[:-1], layers, trunk)
        value = len(layers) - 1 if len(layers) > before else trunk
        heads = [Layer(_linear(network.advantages[-1]), LINEAR, advantage)]
        return [*layers, *heads, Layer(_linear(network.value[-1]), LINEAR, value)]
    if type(network) is not QNetwork:
        raise NotTaken(f"the network is a {type(network).__name__}")
    if len(network.q_net) < 3:
        raise NotTaken("the network has no hidden layer")
    layers = _chain(network.q_net[:-1], [], OBSERVATION)
    return [*layers, Layer(_linear(network.q_net[-1]), LINEAR, len(layers) - 1)]


def _chain(modules: Any, layers: list[Layer], source: int) -> list[Layer]:
    """The layers, and behind them those of linear layers that alternate with activations."""
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


def _scaling(network: QNetwork) -> Scaling:
    extractor = network.features_extractor
    if type(extractor) is FlattenExtractor:
        width = extractor.features_dim
        return np.zeros(width, np.float32), np.ones(width, np.float32), np.inf
    if type(extractor) is not ScaledState:
        raise NotTaken(f"the features come from a {type(extractor).__name__}")
    return extractor.mean.numpy(), extractor.factor.numpy(), CLIP


def _known_adam(optimiser: torch.optim.Optimizer) -> torch.optim.Adam:
    if type(optimiser) is not torch.optim.Adam or len(optimiser.param_groups) != 1:
        raise NotTaken(f"the optimiser is {type(optimiser).__name__}, not Adam with one group of parameters")
    for name, expected in _ADAM.items():
        if optimiser.param_groups[0].get(name, expected) != expected:
            raise NotTaken(f"Adam runs with {name}={optimiser.param_groups[0][name]}")
    return optimiser


def _check_parameters(network: QNetwork, known: list[Tensor], optimiser: torch.optim.Adam) -> None:
    known_ids = {id(parameter) for parameter in known}
    for name, parameter in network.named_parameters():
        if id(parameter) not in known_ids:
            raise NotTaken(f"{name} belongs to no layer that the kernels know")
        if not parameter.requires_grad or parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise NotTaken(f"{name} is frozen, not float32 or not on the CPU")
    if {id(parameter) for parameter in optimiser.param_groups[0]["params"]} != known_ids:
        raise NotTaken("the optimiser does not hold the network's parameters and no others")


def _views(layout: Layout, vector: Floats) -> list[Tensor]:
    """Each parameter's part of a vector, in the parameter's own shape: weight and bias of each layer."""
    views: list[Tensor] = []
    whole: Any = torch.from_numpy(vector)
    for row in layout.table.tolist():
        matrix = whole[row[WEIGHT] : row[BIAS]].reshape(row[ROW_COUNT], row[COLUMN_COUNT])
        views.append(matrix[: row[INPUTS], : row[OUTPUTS]].T)
        views.append(whole[row[BIAS] : row[BIAS] + row[OUTPUTS]])
    return views


def _share(layout: Layout, vector: Floats, parameters: list[Tensor]) -> list[Tensor]:
    """Move parameters into a vector."""
    views = _views(layout, vector)
    for parameter, view in zip(parameters, views, strict=True):
        view.copy_(parameter.data)
        parameter.data = view
    return views
