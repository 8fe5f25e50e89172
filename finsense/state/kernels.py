"""The compiled driver of the indicator kernels: the only place where an indicator is called."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.state.foreign import call_kernel
from finsense.state.spec import StateSpec

# One row per feature: kernel address, first parameter, first memory cell, first column (counts of float64 cells).
_TABLE_COLUMNS = 4
_CELL_BYTES = 8


class Plan:
    """A spec laid out for the driver.

    Attributes:
        table: (features, 4) int64: kernel address, and where its parameters, memory and columns begin.
        parameters: (parameters,) float64.
        memory_cells: float64 cells of memory that one symbol needs.
        columns: number of market columns.
    """

    def __init__(self, spec: StateSpec) -> None:
        table: list[tuple[int, int, int, int]] = []
        parameters: list[float] = []
        memory = columns = 0
        for feature in spec.features:
            indicator = feature.indicator
            table.append((indicator.address, len(parameters), memory, columns))
            parameters.extend(feature.parameters.values())
            memory += indicator.memory(feature.parameters)
            columns += len(feature.columns)
        self.table = np.array(table, np.int64).reshape(-1, _TABLE_COLUMNS)
        # At least one cell each, so that a base address always exists.
        self.parameters = np.array([*parameters, 0.0])
        self.memory_cells = memory + 1
        self.columns = columns


@njit(cache=True)
def _advance(
    table: NDArray[np.int64],
    parameters: NDArray[np.float64],
    memory: NDArray[np.float64],
    bar: NDArray[np.float64],
    values: NDArray[np.float64],
) -> None:
    """Feed one bar to every kernel; `values` (columns,) float64 holds the outputs."""
    bar_address = bar.ctypes.data
    parameters_address = parameters.ctypes.data
    memory_address = memory.ctypes.data
    values_address = values.ctypes.data
    for index in range(table.shape[0]):
        call_kernel(
            table[index, 0],
            bar_address,
            parameters_address + _CELL_BYTES * table[index, 1],
            memory_address + _CELL_BYTES * table[index, 2],
            values_address + _CELL_BYTES * table[index, 3],
        )


@njit(cache=True)
def fold_sessions(
    table: NDArray[np.int64],
    parameters: NDArray[np.float64],
    memory: NDArray[np.float64],
    values: NDArray[np.float64],
    bars: NDArray[np.float64],
    offsets: NDArray[np.int64],
    warmup: int,
    history: int,
    states: NDArray[np.float32],
) -> None:
    """Fold every session that has its warm-up; `states` holds history - 1 rows before and one per bar of each.

    Args:
        table: the plan's table.
        parameters: the plan's parameters.
        memory: scratch, (memory_cells,) float64.
        values: scratch, (columns,) float64.
        bars: (n, BAR_FIELDS) float64.
        offsets: (sessions + 1,) int64, where each session starts in the bars.
        warmup: bars folded before a session.
        history: rows stacked into one observation.
        states: output, (rows, columns) float32.
    """
    written = 0
    for session in range(len(offsets) - 1):
        first, last = offsets[session], offsets[session + 1]
        if first < warmup:
            continue
        memory[:] = 0.0
        for index in range(first - warmup, last):
            _advance(table, parameters, memory, bars[index], values)
            if index >= first - history + 1:
                states[written] = values
                written += 1


@njit(cache=True)
def stream(
    table: NDArray[np.int64],
    parameters: NDArray[np.float64],
    memory: NDArray[np.float64],
    values: NDArray[np.float64],
    bar: NDArray[np.float64],
    opens: bool,
    ring: NDArray[np.float64],
    cursor: NDArray[np.int64],
    window: NDArray[np.float32],
) -> bool:
    """Take one bar; on a session's first bar fold the ring first. True when `window` holds a state.

    Args:
        table: the plan's table.
        parameters: the plan's parameters.
        memory: (memory_cells,) float64, kept between calls.
        values: scratch, (columns,) float64.
        bar: (BAR_FIELDS,) float64.
        opens: whether the bar opens a trading session.
        ring: (warmup, BAR_FIELDS) float64, the last bars.
        cursor: (3,) int64: next slot of the ring, bars in the ring, whether this session has its warm-up.
        window: (history, columns) float32, the last market rows, oldest first.
    """
    warmup = ring.shape[0]
    history = window.shape[0]
    if opens:
        cursor[2] = cursor[1] == warmup
        if cursor[2]:
            memory[:] = 0.0
            for index in range(warmup):
                slot = cursor[0] + index
                _advance(table, parameters, memory, ring[slot if slot < warmup else slot - warmup], values)
                if index >= warmup - history + 1:
                    window[index - (warmup - history)] = values
    if cursor[2]:
        _advance(table, parameters, memory, bar, values)
        for row in range(history - 1):
            window[row] = window[row + 1]
        window[history - 1] = values
    ring[cursor[0]] = bar
    cursor[0] = cursor[0] + 1 if cursor[0] + 1 < warmup else 0
    if cursor[1] < warmup:
        cursor[1] += 1
    return bool(cursor[2] != 0)
