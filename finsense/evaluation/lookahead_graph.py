"""Reads the scaler out of an exported graph, with nothing but the graph's own encoding."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finsense.state.scaler import Scaler

_MEAN, _FACTOR = ".mean", ".factor"
# ONNX's own numbers: onnx.proto3, messages ModelProto, GraphProto and TensorProto.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_NAME, _TENSOR_RAW = 2, 4, 8, 9
_FLOAT = 1
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class GraphError(ValueError):
    """A graph whose tensors cannot be read."""


def graph_scaler(graph: bytes, width: int) -> Scaler | None:
    """The scaler in an exported graph: its tensors `...mean` and `...factor` of one value per column; None without.

    Raises:
        GraphError: the bytes are not those of a graph.
    """
    tensors = float_tensors(graph)
    stems = [name.removesuffix(_MEAN) for name in tensors if name.endswith(_MEAN)]
    for stem in stems:
        mean, factor = tensors[stem + _MEAN], tensors.get(stem + _FACTOR)
        if factor is not None and mean.size == factor.size == width:
            return Scaler(mean, factor)
    return None


def float_tensors(graph: bytes) -> dict[str, NDArray[np.float32]]:
    """Name -> values of every float32 tensor of an ONNX graph.

    Read from the file's own encoding (protobuf), for a live box runs graphs and has nothing else that reads them.

    Raises:
        GraphError: the bytes are not those of a graph.
    """
    found = {}
    for model in _of(_fields(graph), _MODEL_GRAPH):
        for tensor in _of(_fields(model), _GRAPH_INITIALIZER):
            fields = _fields(tensor)
            if (_TENSOR_TYPE, _FLOAT) not in fields:
                continue
            # Either as one block of little-endian bytes or as a packed list, which is the same block.
            values = b"".join(_of(fields, _TENSOR_RAW) or _of(fields, _TENSOR_FLOATS))
            name = b"".join(_of(fields, _TENSOR_NAME)).decode()
            found[name] = np.frombuffer(values, "<f4").astype(np.float32)
    return found


def _of(fields: Sequence[tuple[int, int | bytes]], number: int) -> list[bytes]:
    return [value for found, value in fields if found == number and isinstance(value, bytes)]


def _fields(message: bytes) -> list[tuple[int, int | bytes]]:
    """(number, value) of every field of a protobuf message, in order."""
    fields: list[tuple[int, int | bytes]] = []
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            number, place = _varint(message, place)
            fields.append((key >> 3, number))
            continue
        if kind == _LENGTH:
            length, place = _varint(message, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise GraphError(f"expected an ONNX graph, found a field of kind {kind} at byte {place}")
        if place + length > len(message):
            raise GraphError(f"expected an ONNX graph, found a field that ends behind its message at byte {place}")
        fields.append((key >> 3, message[place : place + length]))
        place += length
    return fields


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise GraphError("expected an ONNX graph, found a number that does not end")
