"""A Q network on memory that torch and the kernels share: torch's parameters are views of the kernels' vector."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3.dqn.policies import QNetwork
from torch import Tensor

from finsense.agents.kernels.adam import new_state
from finsense.agents.kernels.eligibility import chain, check_parameters, known_adam, linear, scaling_of
from finsense.agents.kernels.faults import NotTaken
from finsense.agents.kernels.layout import (
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
from finsense.agents.kernels.passes import Floats
from finsense.agents.masked_dqn.policies import DuelingQNetwork


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
        self._optimiser = known_adam(optimiser, online)
        layers, others = layers_of(online), layers_of(target)
        self.layout = Layout(layers)
        self.scaling = scaling_of(online.features_extractor)
        self.dueling = isinstance(online, DuelingQNetwork)
        self.state = new_state(self.layout.size)
        self.target = np.zeros(self.layout.size, np.float32)
        self.scratch = self.layout.scratch()
        self._parameters = self.layout.parameters()
        self._targets = Layout(others).parameters()
        check_parameters(online, self._parameters)
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
        layers = chain(network.shared, [], OBSERVATION)
        trunk = len(layers) - 1
        layers = chain(network.advantages[:-1], layers, trunk)
        advantage = len(layers) - 1
        before = len(layers)
        layers = chain(network.value[:-1], layers, trunk)
        value = len(layers) - 1 if len(layers) > before else trunk
        heads = [Layer(linear(network.advantages[-1]), LINEAR, advantage)]
        return [*layers, *heads, Layer(linear(network.value[-1]), LINEAR, value)]
    if type(network) is not QNetwork:
        raise NotTaken(f"the network is a {type(network).__name__}")
    if len(network.q_net) < 3:
        raise NotTaken("the network has no hidden layer")
    layers = chain(network.q_net[:-1], [], OBSERVATION)
    return [*layers, Layer(linear(network.q_net[-1]), LINEAR, len(layers) - 1)]


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
