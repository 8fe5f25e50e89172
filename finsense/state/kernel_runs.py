"""Runs one kernel alone: as plain Python inside its declared cells, and compiled, between guard cells."""

import ctypes
import traceback
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.timeline import BAR_FIELDS, INDEX_CLOSE
from finsense.state.foreign import Kernel
from finsense.state.registry import Indicator

Floats = NDArray[np.float64]

# Cells on either side of what a compiled kernel may touch. They hold a NaN that no arithmetic gives: what is read there
# spreads, and what is written there shows.
_GUARD = 32
_UNTOUCHED = np.int64(0x7FF8_DEAD_BEEF_0001)


class KernelFault(ValueError):
    """A kernel that left its cells or raised.

    Attributes:
        bar: at which bar.
        detail: what it did, with its line.
        raised: whether it was its arithmetic that failed.
    """

    def __init__(self, bar: int, detail: str, *, raised: bool = False) -> None:
        super().__init__(f"bar {bar}: {detail}")
        self.bar = bar
        self.detail = detail
        self.raised = raised


class _OutsideCells(Exception):
    """Text of what a kernel touched that it may not."""


class _Cells:
    """An array whose bounds are checked: what the compiled kernel sees as a bare pointer."""

    def __init__(self, name: str, values: Floats, *, writable: bool, closed: Mapping[int, str] | None = None) -> None:
        self.name = name
        self.values = values
        self.writable = writable
        self.closed = closed or {}
        self.written = np.zeros(len(values), np.bool_)

    def __getitem__(self, cell: Any) -> float:
        place = self._place(cell, "reads")
        if place in self.closed:
            field = self.closed[place]
            raise _OutsideCells(f'it reads {field.upper()} without saying so; add needs=("{field}",) to its decorator')
        return float(self.values[place])

    def __setitem__(self, cell: Any, value: Any) -> None:
        place = self._place(cell, "writes")
        if not self.writable:
            raise _OutsideCells(f"it writes into its input `{self.name}`; keep values in `memory`")
        self.values[place] = value
        self.written[place] = True

    def _place(self, cell: Any, does: str) -> int:
        if isinstance(cell, bool) or not isinstance(cell, int | np.integer):
            raise _OutsideCells(f"it {does} `{self.name}[{cell!r}]`; a place is a whole number, so write int(...)")
        if not 0 <= cell < len(self.values):
            raise _OutsideCells(
                f"it {does} `{self.name}[{cell}]`, but `{self.name}` has {len(self.values)} cells"
                + {"memory": "; declare more in `memory=`", "out": "; declare more in `columns=`"}.get(self.name, "")
            )
        return int(cell)


def interpreted(indicator: Indicator, parameters: Mapping[str, float], rows: Floats) -> Floats:
    """The kernel as plain Python from a clean slate, (n, columns) float64.

    Args:
        indicator: whose kernel.
        parameters: its parameters.
        rows: (n, BAR_FIELDS) float64.

    Raises:
        KernelFault: it leaves its cells, leaves a column unwritten, reads what it did not ask for, or raises.
    """
    kernel = _as_python(indicator.kernel)
    closed = {INDEX_CLOSE + place: name for place, name in enumerate(EXTRA_FIELDS) if name not in set(indicator.needs)}
    memory = _Cells("memory", np.zeros(indicator.memory(parameters)), writable=True)
    constants = _Cells("parameters", np.array(list(parameters.values()), np.float64), writable=False)
    columns = indicator.columns(parameters)
    found = np.zeros((len(rows), len(columns)))
    with np.errstate(all="ignore"), redirect_stdout(StringIO()) as printed:
        for bar, row in enumerate(rows):
            out = _Cells("out", found[bar], writable=True)
            try:
                kernel(_Cells("bar", row, writable=False, closed=closed), constants, memory, out)
            except _OutsideCells as fault:
                raise KernelFault(bar, f"{fault}{_line(fault, indicator.kernel)}") from None
            except Exception as error:
                text = f"it raises {type(error).__name__}: {error}{_line(error, indicator.kernel)}"
                raise KernelFault(bar, text, raised=True) from error
            if printed.tell():
                raise KernelFault(
                    bar, "it prints, which compiled code here cannot; write what you want to see into `out`"
                )
            if not out.written.all():
                place = int(np.flatnonzero(~out.written)[0])
                raise KernelFault(bar, f"it leaves out[{place}], column `{columns[place]}`, unwritten")
    return found


def _as_python(kernel: Kernel) -> Kernel:
    """The kernel with every function of its file that numba has compiled replaced by its Python original."""
    written = kernel.__globals__
    namespace = dict(written)
    for name, value in written.items():
        plain = value.py_func if isinstance(value, Dispatcher) else value
        if isinstance(plain, FunctionType) and plain.__globals__ is written:
            copied = FunctionType(plain.__code__, namespace, name, plain.__defaults__, plain.__closure__)
            copied.__kwdefaults__ = plain.__kwdefaults__
            namespace[name] = copied
    code, closure = kernel.__code__, kernel.__closure__
    return FunctionType(code, namespace, kernel.__name__, None, closure)


def _line(error: BaseException, kernel: Kernel) -> str:
    """Where in the kernel's file an exception came from."""
    file = kernel.__code__.co_filename
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name}, line {lines[-1]})" if lines else ""


class GuardedKernel:
    """A compiled kernel with cells of its own between guards, from a clean slate."""

    def __init__(self, indicator: Indicator, parameters: Mapping[str, float]) -> None:
        self._call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(indicator.address)
        self._given = np.array(list(parameters.values()), np.float64)
        self._parameters = between_guards(self._given)
        self._memory = between_guards(np.zeros(indicator.memory(parameters)))
        self._out = between_guards(np.zeros(len(indicator.columns(parameters))))
        self._addresses = [_inner(block).ctypes.data for block in (self._parameters, self._memory, self._out)]

    def step(self, bar_address: int) -> Floats:
        """Feed the bar at an address; (columns,) float64, a NaN in what it leaves unwritten."""
        out = _inner(self._out)
        out.view(np.int64)[:] = _UNTOUCHED
        self._call(bar_address, *self._addresses)
        return out.copy()

    def damage(self) -> str:
        """What the kernel wrote outside its memory and columns; empty where it kept to them."""
        for name, block in (("memory", self._memory), ("out", self._out), ("parameters", self._parameters)):
            if not guards_hold(block):
                return f"it writes outside `{name}`"
        if _inner(self._parameters).tobytes() != self._given.tobytes():
            return "it writes into `parameters`"
        return ""


def folded(kernel: GuardedKernel, rows: Floats) -> Floats:
    """The compiled kernel over bars that lie behind each other in memory, as in the batch: (n, columns) float64."""
    block = between_guards(rows.reshape(-1))
    first, step = _inner(block).ctypes.data, rows.shape[1] * rows.itemsize
    return np.array([kernel.step(first + step * bar) for bar in range(len(rows))])


def stepped(kernel: GuardedKernel, row: Floats) -> tuple[Floats, bool]:
    """The compiled kernel over one bar that lies alone between guards, as live; whether it left the bar as it was."""
    block = between_guards(row)
    found = kernel.step(_inner(block).ctypes.data)
    return found, guards_hold(block) and _inner(block).tobytes() == row.tobytes()


def between_guards(values: Floats) -> Floats:
    """The values with guard cells before and after them."""
    block = np.empty(len(values) + 2 * _GUARD)
    block.view(np.int64)[:] = _UNTOUCHED
    block[_GUARD : _GUARD + len(values)] = values
    return block


def guards_hold(block: Floats) -> bool:
    """Whether nobody wrote into the guard cells."""
    cells = block.view(np.int64)
    return bool((cells[:_GUARD] == _UNTOUCHED).all() and (cells[-_GUARD:] == _UNTOUCHED).all())


def _inner(block: Floats) -> Floats:
    return block[_GUARD:-_GUARD]


assert INDEX_CLOSE + len(EXTRA_FIELDS) == BAR_FIELDS
