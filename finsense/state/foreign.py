"""Small kernels behind one C signature: compiled apart, called by address, so that a driver is compiled only once.

A kernel is `kernel(inputs, parameters, memory, out)`, four pointers to float64. Calling by address costs about two
nanoseconds and lets a user's own kernel run in the same compiled loop as ours, without compiling the loop again.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.ir as ir
from numba import cfunc, types
from numba.core import cgutils
from numba.extending import intrinsic

_POINTER = types.CPointer(types.float64)  # type: ignore[no-untyped-call]
_SIGNATURE = types.void(_POINTER, _POINTER, _POINTER, _POINTER)
_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy"}

Kernel = Callable[[Any, Any, Any, Any], None]

# A compiled kernel must live as long as somebody may hold its address.
_compiled: dict[Kernel, Any] = {}


def compile_kernel(kernel: Kernel) -> int:
    """Compile a kernel (cached on disk, keyed by its file's content) and return its address.

    It is compiled without numba's runtime, so what allocates does not compile; and a division by zero gives an
    infinity, which the laws see, where an exception could not leave the kernel and would leave an old value behind.
    """
    if kernel not in _compiled:
        try:
            _compiled[kernel] = cfunc(_SIGNATURE, cache=True, **_OPTIONS)(kernel)
        except (RuntimeError, OSError) as error:
            if isinstance(error, RuntimeError) and "cannot cache" not in str(error):
                raise
            # No folder can be written, the disk is full, or the kernel's file is gone: for this process alone then.
            _compiled[kernel] = cfunc(_SIGNATURE, **_OPTIONS)(kernel)
    return int(_compiled[kernel].address)


def _call_kernel(typing_context, address, inputs, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Inside compiled code: call the kernel at `address`; the four arrays are given by their addresses (int64)."""
    signature = types.void(types.int64, types.int64, types.int64, types.int64, types.int64)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = ir.DoubleType().as_pointer()
        function_type = ir.FunctionType(ir.VoidType(), [pointer] * 4)
        function = builder.inttoptr(arguments[0], function_type.as_pointer())
        builder.call(function, [builder.inttoptr(argument, pointer) for argument in arguments[1:]])
        return context.get_dummy_value()

    return signature, generate


def _prefetch(typing_context, address):  # type: ignore[no-untyped-def]
    """Inside compiled code: ask the processor for the cache line at `address` (int64); it changes no result."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, ir.FunctionType(ir.VoidType(), [pointer, word, word, word]), "llvm.prefetch.p0"
        )
        # read, keep in all cache levels, data
        builder.call(function, [builder.inttoptr(arguments[0], pointer), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _borrow(typing_context, array):  # type: ignore[no-untyped-def]
    """Inside compiled code: the same array, not counted as a reference; somebody else must keep it alive.

    Every function that takes an array counts it up and down, atomically, which in a loop costs more than the work.
    """

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        view = context.make_array(signature.return_type)(context, builder, arguments[0])
        view.meminfo = cgutils.get_null_value(view.meminfo.type)  # type: ignore[no-untyped-call]
        view.parent = cgutils.get_null_value(view.parent.type)  # type: ignore[no-untyped-call]
        return view._getvalue()

    return array(array), generate


# The compiler gives the first argument, the caller the others, which a type checker cannot know.
call_kernel: Any = intrinsic(_call_kernel)
prefetch: Any = intrinsic(_prefetch)
borrow: Any = intrinsic(_borrow)
