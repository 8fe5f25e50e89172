"""The passes of a network over one tile of samples: scale it, forward, backward."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.agents.kernels.elementary import tanh
from finsense.agents.kernels.layout import (
    ACTIVATION,
    BIAS,
    COLUMN_COUNT,
    INPUTS,
    OBSERVATION,
    OUTPUTS,
    RELU,
    ROW_COUNT,
    SOURCE,
    TANH,
    TURNED,
    VALUES,
    WEIGHT,
)
from finsense.agents.kernels.products import ROWS, multiply, multiply_transposed

Floats = NDArray[np.float32]
Table = NDArray[np.int64]

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@njit(cache=True, error_model="numpy")
def scale_rows(rows: Floats, mean: Floats, factor: Floats, limit: float, scaled: Floats) -> None:
    """Write (row - mean) x factor, cut to [-limit, limit], into the first columns of `scaled`; a NaN stays one."""
    end = np.float32(limit)
    for row in range(len(rows)):
        for column in range(rows.shape[1]):
            value = (rows[row, column] - mean[column]) * factor[column]
            value = end if value > end else value
            scaled[row, column] = -end if value < -end else value


@njit(cache=True, error_model="numpy")
def outputs_of(table: Table, layer: int, values: Floats, rows: int) -> Floats:
    """A layer's part of the tile's outputs (or of their gradients), (rows, COLUMN_COUNT) float32."""
    width, start = table[layer, COLUMN_COUNT], table[layer, VALUES]
    return values[start : start + rows * width].reshape(rows, width)


@njit(cache=True, error_model="numpy")
def _weight_of(table: Table, layer: int, vector: Floats) -> Floats:
    """A layer's weight (or its gradient), (ROW_COUNT, COLUMN_COUNT) float32: inputs by outputs."""
    return vector[table[layer, WEIGHT] : table[layer, BIAS]].reshape(
        table[layer, ROW_COUNT], table[layer, COLUMN_COUNT]
    )


@njit(cache=True, error_model="numpy")
def _bias_of(table: Table, layer: int, vector: Floats) -> Floats:
    """A layer's bias (or its gradient), (COLUMN_COUNT,) float32."""
    return vector[table[layer, BIAS] : table[layer, BIAS] + table[layer, COLUMN_COUNT]]


@njit(cache=True, error_model="numpy")
def _activate(outputs: Floats, bias: Floats, activation: int) -> None:
    """Add the bias and apply the activation, in place."""
    for row in range(outputs.shape[0]):
        one = outputs[row]
        if activation == TANH:
            for column in range(len(bias)):
                one[column] = tanh(one[column] + bias[column])
        elif activation == RELU:
            for column in range(len(bias)):
                total = one[column] + bias[column]
                # Not max(total, 0): that would turn a NaN into 0.
                one[column] = _ZERO if total < _ZERO else total
        else:
            for column in range(len(bias)):
                one[column] += bias[column]


@njit(cache=True, error_model="numpy")
def forward(table: Table, vector: Floats, observations: Floats, values: Floats, count: int) -> None:
    """Send a tile through the network.

    Args:
        table: of the layout.
        vector: (size,) float32, the weights.
        observations: (TILE, padded inputs) float32, scaled; the first `count` rows count.
        values: output, scratch for the outputs of all layers.
        count: samples in the tile.
    """
    rows = -(-count // ROWS) * ROWS
    for layer in range(len(table)):
        source = table[layer, SOURCE]
        inputs = observations if source == OBSERVATION else outputs_of(table, source, values, rows)
        outputs = outputs_of(table, layer, values, rows)
        multiply(inputs, _weight_of(table, layer, vector), outputs, table[layer, INPUTS], False)
        _activate(outputs, _bias_of(table, layer, vector), table[layer, ACTIVATION])


@njit(cache=True, error_model="numpy")
def turn_weights(table: Table, vector: Floats, turned: Floats) -> None:
    """Write torch's orientation of the weights, outputs by inputs, that the backward pass multiplies with."""
    for layer in range(len(table)):
        source = table[layer, SOURCE]
        if source != OBSERVATION:
            weight, target = _weight_of(table, layer, vector), _turned_of(table, layer, turned)
            for inner in range(table[layer, INPUTS]):
                for outer in range(table[layer, OUTPUTS]):
                    target[outer, inner] = weight[inner, outer]


@njit(cache=True, error_model="numpy")
def _turned_of(table: Table, layer: int, turned: Floats) -> Floats:
    """A layer's turned weight, (OUTPUTS, the source's COLUMN_COUNT) float32."""
    height, width = table[layer, OUTPUTS], table[table[layer, SOURCE], COLUMN_COUNT]
    return turned[table[layer, TURNED] : table[layer, TURNED] + height * width].reshape(height, width)


@njit(cache=True, error_model="numpy")
def _through_activation(outputs: Floats, deltas: Floats, activation: int) -> None:
    """Turn the gradient by a layer's outputs into that by its sums, in place."""
    for row in range(outputs.shape[0]):
        found, delta = outputs[row], deltas[row]
        if activation == TANH:
            for column in range(len(found)):
                delta[column] *= _ONE - found[column] * found[column]
        elif activation == RELU:
            for column in range(len(found)):
                delta[column] = delta[column] if found[column] > _ZERO else _ZERO


@njit(cache=True, error_model="numpy")
def backward(
    table: Table, turned: Floats, observations: Floats, values: Floats, deltas: Floats, count: int, gradient: Floats
) -> None:
    """Add a tile's share to the gradient.

    Args:
        table: of the layout.
        turned: from `turn_weights`.
        observations: as in `forward`.
        values: as `forward` left them.
        deltas: scratch like `values`; holds the gradient by the outputs of the last two layers, and is spent.
        count: samples in the tile.
        gradient: (size,) float32, added to.
    """
    rows = -(-count // ROWS) * ROWS
    reached = np.zeros(len(table), np.bool_)
    for layer in range(len(table) - 1, -1, -1):
        source = table[layer, SOURCE]
        delta = outputs_of(table, layer, deltas, rows)
        if table[layer, ACTIVATION] != 0:
            _through_activation(outputs_of(table, layer, values, rows), delta, table[layer, ACTIVATION])
        inputs = observations if source == OBSERVATION else outputs_of(table, source, values, rows)
        multiply_transposed(inputs, delta, _weight_of(table, layer, gradient), count, True)
        bias = _bias_of(table, layer, gradient)
        for row in range(count):
            one = delta[row]
            for column in range(len(bias)):
                bias[column] += one[column]
        if source != OBSERVATION:
            before = outputs_of(table, source, deltas, rows)
            multiply(delta, _turned_of(table, layer, turned), before, table[layer, OUTPUTS], reached[source])
            reached[source] = True
