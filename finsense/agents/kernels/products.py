"""Matrix products of small float32 matrices, held in the processor's vector registers.

Every other kernel is plain Python for numba; this one spells out its vectors, because without them the compiler reaches
a third of the speed. Each element of a result is one chain of fused multiply-adds in the order of the inner index: its
bits depend neither on the other rows nor on how the work is cut into tiles.
"""

from typing import Any

import llvmlite.binding as llvm
import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

_WIDE_REGISTERS = bool(llvm.get_host_cpu_features().get("avx512f", False))
# Floats of a vector, and vectors side by side in a wide tile: as many sums as the registers hold with their operands.
LANES = 16 if _WIDE_REGISTERS else 8
_VECTORS = 4 if _WIDE_REGISTERS else 2
_WIDE = LANES * _VECTORS
# Rows of a tile, and so of every matrix here.
ROWS = 4

_FLOAT, _WORD, _INDEX = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)
# Row and vector in a tile.
_Cell = tuple[int, int]


def padded(size: int, multiple: int) -> int:
    """The size, rounded up to a multiple."""
    return -(-size // multiple) * multiple


def _place(builder: Any, address: Any, floats: Any, kind: Any) -> Any:
    """A pointer that lies so many floats behind an address."""
    return builder.inttoptr(builder.add(address, builder.mul(floats, _WORD(4))), kind.as_pointer())


def _load(builder: Any, address: Any, floats: Any) -> Any:
    """The vector there; no alignment beyond that of a float is asked for."""
    return builder.load(_place(builder, address, floats, _VECTOR), align=4)


def _spread(builder: Any, address: Any, floats: Any) -> Any:
    """A vector of the one float there."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, builder.load(_place(builder, address, floats, _FLOAT)), _INDEX(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES))


def _starts(builder: Any, add: Any, c: Any, targets: dict[_Cell, Any]) -> dict[_Cell, Any]:
    """What the sums start from: C where it is added to, else 0."""
    with builder.if_else(add) as (then, otherwise):
        with then:
            found = {cell: _load(builder, c, target) for cell, target in targets.items()}
            then_block = builder.block
        with otherwise:
            otherwise_block = builder.block
    starts = {cell: builder.phi(_VECTOR) for cell in targets}
    for cell, start in starts.items():
        start.add_incoming(found[cell], then_block)
        start.add_incoming(ir.Constant(_VECTOR, None), otherwise_block)
    return starts


def _write_tile(builder: Any, rows: int, vectors: int, arguments: Any) -> None:
    """Write the code of a tile: a loop over the inner index that keeps every sum in a register."""
    a, a_row, a_inner, b, b_row, c, c_row, inner, add = arguments
    fused = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
        builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32"
    )
    targets = {
        (row, vector): builder.add(builder.mul(c_row, _WORD(row)), _WORD(vector * LANES))
        for row in range(rows)
        for vector in range(vectors)
    }
    starts = _starts(builder, add, c, targets)
    before, loop, after = builder.block, builder.append_basic_block(), builder.append_basic_block()
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_WORD)
    sums = {cell: builder.phi(_VECTOR) for cell in targets}
    b_place, a_place = builder.mul(index, b_row), builder.mul(index, a_inner)
    across = [_load(builder, b, builder.add(b_place, _WORD(vector * LANES))) for vector in range(vectors)]
    down = [_spread(builder, a, builder.add(a_place, builder.mul(a_row, _WORD(row)))) for row in range(rows)]
    results = {cell: builder.call(fused, [down[cell[0]], across[cell[1]], sums[cell]]) for cell in targets}
    following = builder.add(index, _WORD(1))
    index.add_incoming(_WORD(0), before)
    index.add_incoming(following, loop)
    for cell, total in sums.items():
        total.add_incoming(starts[cell], before)
        total.add_incoming(results[cell], loop)
    builder.cbranch(builder.icmp_signed("<", following, inner), loop, after)
    builder.position_at_end(after)
    for cell, target in targets.items():
        builder.store(results[cell], _place(builder, c, target, _VECTOR), align=4)


def _tile(rows: int, vectors: int) -> Any:
    """An intrinsic: `rows` x (`vectors` x LANES) elements of C = A B, or C + A B, in registers.

    Its arguments are addresses and, in floats, the distances between neighbours: of A's rows and along the inner index,
    of B's rows, of C's rows; then the inner size (at least 1) and whether C is added to.
    """

    def tile(typing_context, a, a_row, a_inner, b, b_row, c, c_row, inner, add):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            _write_tile(builder, rows, vectors, arguments)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8, types.boolean), generate

    return intrinsic(tile)


_wide_tile = _tile(ROWS, _VECTORS)
_tall_tile = _tile(2 * ROWS, 1)
_small_tile = _tile(ROWS, 1)


@njit(cache=True)
def _tiles(
    a: int,
    a_row: int,
    a_inner: int,
    b: int,
    b_row: int,
    c: int,
    c_row: int,
    rows: int,
    columns: int,
    inner: int,
    add: bool,
) -> None:
    column = 0
    while column + _WIDE <= columns:
        for row in range(0, rows, ROWS):
            a_tile, c_tile = a + 4 * a_row * row, c + 4 * (c_row * row + column)
            _wide_tile(a_tile, a_row, a_inner, b + 4 * column, b_row, c_tile, c_row, inner, add)
        column += _WIDE
    while column < columns:
        row = 0
        while row + 2 * ROWS <= rows:
            a_tile, c_tile = a + 4 * a_row * row, c + 4 * (c_row * row + column)
            _tall_tile(a_tile, a_row, a_inner, b + 4 * column, b_row, c_tile, c_row, inner, add)
            row += 2 * ROWS
        if row < rows:
            a_tile, c_tile = a + 4 * a_row * row, c + 4 * (c_row * row + column)
            _small_tile(a_tile, a_row, a_inner, b + 4 * column, b_row, c_tile, c_row, inner, add)
        column += LANES


@njit(cache=True)
def multiply(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32], inner: int, add: bool) -> None:
    """C = A B, or C += A B.

    Args:
        a: (rows, at least inner) float32, contiguous.
        b: (at least inner, columns) float32, contiguous.
        c: output, (rows, columns) float32, contiguous; rows a multiple of ROWS, columns of LANES.
        inner: length of the sums, at least 1.
        add: whether C is added to.
    """
    _tiles(
        a.ctypes.data, a.shape[1], 1, b.ctypes.data, b.shape[1], c.ctypes.data, c.shape[1], c.shape[0], c.shape[1],
        inner, add,
    )  # fmt: skip


@njit(cache=True)
def multiply_transposed(
    a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32], inner: int, add: bool
) -> None:
    """C = A' B, or C += A' B, with A' the transposed of A.

    Args:
        a: (at least inner, rows) float32, contiguous.
        b: (at least inner, columns) float32, contiguous.
        c: output, (rows, columns) float32, contiguous; rows a multiple of ROWS, columns of LANES.
        inner: length of the sums, at least 1.
        add: whether C is added to.
    """
    _tiles(
        a.ctypes.data, 1, a.shape[1], b.ctypes.data, b.shape[1], c.ctypes.data, c.shape[1], c.shape[0], c.shape[1],
        inner, add,
    )  # fmt: skip
