"""How a policy lies in the kernels' memory: a table of layers, and one vector that all its weights are copied into."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from finsense.agents.kernels.products import LANES, ROWS, padded

# The columns of the table, one row per layer.
SOURCE, INPUTS, OUTPUTS, ROW_COUNT, COLUMN_COUNT, WEIGHT, BIAS, ACTIVATION, VALUES, TURNED = range(10)
LINEAR, TANH, RELU = range(3)
ACTIVATIONS: dict[type[nn.Module], int] = {nn.Tanh: TANH, nn.ReLU: RELU}
# Samples that go through the network together, so that all that they need stays in the cache.
TILE = 64
# The vector of weights is a multiple of this long.
BLOCK = 64
# Rows that lie a multiple of so many floats apart fall into the same few sets of the cache and push each other out.
_CLASH = 128
# Stands for the observation where a layer's source is asked.
OBSERVATION = -1


@dataclass(frozen=True)
class Layer:
    """One linear layer and what follows it.

    Attributes:
        linear: torch's own, whose parameters are trained.
        activation: LINEAR, TANH or RELU.
        source: the layer whose output it takes, or OBSERVATION.
    """

    linear: nn.Linear
    activation: int
    source: int


class Scratch(NamedTuple):
    """Memory of one forward and backward pass over a tile.

    Attributes:
        observations: (TILE, padded inputs) float32, scaled.
        values: (values_size,) float32, the outputs of all layers.
        deltas: (values_size,) float32, the gradients by them.
        turned: (turned_size,) float32, the weights in torch's own orientation.
    """

    observations: NDArray[np.float32]
    values: NDArray[np.float32]
    deltas: NDArray[np.float32]
    turned: NDArray[np.float32]


class Layout:
    """A network laid out for the kernels.

    A weight is held as (inputs, outputs), torch's transposed, with both sizes rounded up to whole tiles, and one vector
    more to a row where rows would clash in the cache. What is added is zero and stays zero, for its gradient is.

    Args:
        layers: in the order of the forward pass; the last two give the logits and the value.

    Attributes:
        table: (layers, 10) int64, the columns named above. VALUES and TURNED are where a tile's outputs and the weight
            in torch's own orientation begin in their scratch.
        size: float32 cells of the vector of weights.
        values_size: float32 cells that the outputs of one tile need.
        turned_size: float32 cells that the turned weights need.
        inputs: F, values of an observation.
        actions: A.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self.inputs = self.layers[0].linear.in_features
        self.actions = self.layers[-2].linear.out_features
        rows: list[tuple[int, ...]] = []
        size = values = turned = 0
        for layer in self.layers:
            inputs, outputs = layer.linear.in_features, layer.linear.out_features
            height = padded(inputs, ROWS)
            width = _width(outputs)
            weight, bias = size, size + height * width
            rows.append((layer.source, inputs, outputs, height, width, weight, bias, layer.activation, values, turned))
            size = bias + width
            values += TILE * width
            turned += outputs * _width(inputs)
        self.table = np.array(rows, np.int64)
        self.size, self.values_size, self.turned_size = padded(size, BLOCK), values, turned

    def parameters(self) -> list[Tensor]:
        """The parameters that the kernels train, weight and bias of each layer."""
        return [one for layer in self.layers for one in (layer.linear.weight, layer.linear.bias)]

    def gather(self, of: Callable[[Tensor], Tensor], vector: NDArray[np.float32]) -> None:
        """Copy one tensor per parameter (itself, or a part of Adam's state) into a vector, (size,) float32."""
        for parameter, cells in self._cells(vector):
            cells[:] = of(parameter).detach().numpy().T

    def scatter(self, vector: NDArray[np.float32], of: Callable[[Tensor], Tensor]) -> None:
        """The inverse of `gather`: write into the memory of torch's own tensors."""
        for parameter, cells in self._cells(vector):
            of(parameter).detach().numpy()[...] = cells.T

    def scratch(self) -> Scratch:
        """Memory of one pass over a tile."""
        observations = np.zeros((TILE, padded(self.inputs, LANES)), np.float32)
        values, deltas = np.zeros(self.values_size, np.float32), np.zeros(self.values_size, np.float32)
        return Scratch(observations, values, deltas, np.zeros(self.turned_size, np.float32))

    def _cells(self, vector: NDArray[np.float32]) -> Iterator[tuple[Tensor, NDArray[np.float32]]]:
        """Every parameter with its part of the vector, in the shape of the parameter's transposed."""
        for layer, row in zip(self.layers, self.table.tolist(), strict=True):
            height, width, weight, bias = row[ROW_COUNT], row[COLUMN_COUNT], row[WEIGHT], row[BIAS]
            matrix = vector[weight:bias].reshape(height, width)
            yield layer.linear.weight, matrix[: row[INPUTS], : row[OUTPUTS]]
            yield layer.linear.bias, vector[bias : bias + row[OUTPUTS]]


def _width(outputs: int) -> int:
    """Columns of a layer's outputs and weight."""
    width = padded(outputs, LANES)
    return width if width % _CLASH else width + LANES
