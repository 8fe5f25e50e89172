"""The compiled driver of the indicator kernels: the only place where an indicator is called."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.state.foreign import call_kernel
from finsense.state.spec import StateSpec
from finsense.state.windows import Windowed

# One row per feature: kernel address, first parameter, first memory cell, first column (counts of float64 cells), bars.
_TABLE_COLUMNS = 5
_CELL_BYTES = 8
# Bars that a kernel takes at a time where their rows are kept: a session of 5-minute bars, and its values in the cache.
_BLOCK_BARS = 128


class Plan:
    """A spec laid out for the driver.

    Attributes:
        table: (features, 5) int64: kernel address, where its parameters, memory and columns begin, and how many bars
            before a session it is folded over.
        parameters: (parameters,) float64.
        memory_cells: float64 cells of memory that one symbol needs.
        columns: number of market columns.
    """

    def __init__(self, spec: StateSpec) -> None:
        table: list[tuple[int, int, int, int, int]] = []
        parameters: list[float] = []
        memory = columns = 0
        for feature in spec.features:
            indicator = feature.indicator
            before = spec.warmup
            if isinstance(indicator.lookback, Windowed):
                before = feature.lookback - 1 + spec.history - 1
            table.append((indicator.address, len(parameters), memory, columns, before))
            parameters.extend(feature.parameters.values())
            memory += indicator.memory(feature.parameters)
            columns += len(feature.columns)
        self.table = np.array(table, np.int64).reshape(-1, _TABLE_COLUMNS)
        # At least one cell each, so that a base address always exists.
        self.parameters = np.array([*parameters, 0.0])
        self.memory_cells = memory + 1
        self.columns = columns


@njit(cache=True)
def _fold(
    table: NDArray[np.int64],
    parameters: NDArray[np.float64],
    memory: NDArray[np.float64],
    bars: NDArray[np.float64],
    before: int,
    values: NDArray[np.float64],
) -> None:
    """Feed bars, (n, BAR_FIELDS), to every kernel; `values` holds a row of outputs for each, or one row for all.

    Of the first `before` bars a kernel takes the last that it needs before a session. One kernel takes all its bars
    before the next does: its code and its memory stay close to the processor.
    """
    row_bytes = _CELL_BYTES * bars.shape[1]
    out_bytes = _CELL_BYTES * values.shape[1] if values.shape[0] > 1 else 0
    bars_address, values_address = bars.ctypes.data, values.ctypes.data
    parameters_address, memory_address = parameters.ctypes.data, memory.ctypes.data
    for index in range(table.shape[0]):
        kernel = table[index, 0]
        constants = parameters_address + _CELL_BYTES * table[index, 1]
        cells = memory_address + _CELL_BYTES * table[index, 2]
        out = values_address + _CELL_BYTES * table[index, 3]
        skipped = max(before - table[index, 4], 0)
        row = bars_address + row_bytes * skipped
        for _ in range(skipped, bars.shape[0]):
            call_kernel(kernel, row, constants, cells, out)
            row += row_bytes
            out += out_bytes


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
    block = np.empty((_BLOCK_BARS, values.shape[0]))
    dropped = values.reshape((1, values.shape[0]))
    written = 0
    for session in range(len(offsets) - 1):
        first, last = offsets[session], offsets[session + 1]
        if first < warmup:
            continue
        memory[:] = 0.0
        kept = first - history + 1
        _fold(table, parameters, memory, bars[first - warmup : kept], warmup, dropped)
        for start in range(kept, last, _BLOCK_BARS):
            count = min(_BLOCK_BARS, last - start)
            _fold(table, parameters, memory, bars[start : start + count], 0, block)
            states[written : written + count] = block[:count]
            written += count


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
    row = values.reshape((1, values.shape[0]))
    if opens:
        cursor[2] = cursor[1] == warmup
        if cursor[2]:
            memory[:] = 0.0
            kept = warmup - history + 1
            past = np.concatenate((ring[cursor[0] :], ring[: cursor[0]]))
            _fold(table, parameters, memory, past[:kept], warmup, row)
            for index in range(kept, warmup):
                _fold(table, parameters, memory, past[index : index + 1], 0, row)
                window[index - kept + 1] = values
    if cursor[2]:
        _fold(table, parameters, memory, bar.reshape((1, bar.shape[0])), 0, row)
        for index in range(history - 1):
            window[index] = window[index + 1]
        window[history - 1] = values
    ring[cursor[0]] = bar
    cursor[0] = cursor[0] + 1 if cursor[0] + 1 < warmup else 0
    if cursor[1] < warmup:
        cursor[1] += 1
    return bool(cursor[2] != 0)
