"""The registry of indicators: one streaming kernel each, compiled on first use to one C signature."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property

from finsense.state.foreign import Kernel, compile_kernel

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Indicator:
    """One indicator: its kernel, its parameters and its columns.

    The kernel is `step(bar, parameters, memory, out)`, all float64: it reads the bar's fields (OPEN, HIGH, ... of
    `finsense.market.timeline`), its parameters in the order of `defaults`, updates its `memory` (zeros at the anchor)
    and writes one value per column into `out`. It sees nothing else: it can look neither ahead nor at another symbol.

    Attributes:
        name: the name used in YAML.
        kernel: the Python function; it runs on arrays as well, which is how its bounds are checked in tests.
        defaults: parameter name -> default value.
        columns: parameters -> column names.
        memory: parameters -> number of float64 cells that the kernel keeps.
        lookback: parameters -> number of bars before the first value that has its full window.
        needs: the fields of `finsense.market.bars.EXTRA_FIELDS` that the kernel reads; bars without them are refused.
    """

    name: str
    kernel: Kernel
    defaults: Parameters
    columns: Callable[[Parameters], tuple[str, ...]]
    memory: Callable[[Parameters], int]
    lookback: Callable[[Parameters], int]
    needs: tuple[str, ...] = ()

    @cached_property
    def address(self) -> int:
        """Address of the compiled kernel; compiled once and cached on disk beside its source."""
        return compile_kernel(self.kernel)


INDICATORS: dict[str, Indicator] = {}

# Where the decorator registers: among ours, or among those of the user's file that is being run.
_filled: ContextVar[dict[str, Indicator]] = ContextVar("filled", default=INDICATORS)


@contextmanager
def registering_into(registry: dict[str, Indicator]) -> Iterator[None]:
    """Let the decorator fill another registry than `INDICATORS` for a while."""
    token = _filled.set(registry)
    try:
        yield
    finally:
        _filled.reset(token)


def indicator(
    *,
    defaults: Parameters,
    columns: Callable[[Parameters], tuple[str, ...]],
    memory: Callable[[Parameters], int],
    lookback: Callable[[Parameters], int],
    needs: tuple[str, ...] = (),
) -> Callable[[Kernel], Indicator]:
    """Register the decorated kernel as the indicator of its function's name.

    Raises:
        ValueError: an indicator of that name is registered already.
    """

    def register(kernel: Kernel) -> Indicator:
        name, registry = kernel.__name__, _filled.get()
        if name in registry:
            raise ValueError(f"an indicator named `{name}` is registered already")
        registry[name] = Indicator(name, kernel, dict(defaults), columns, memory, lookback, needs)
        return registry[name]

    return register
