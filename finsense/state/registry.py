"""The registry of indicators: one streaming kernel each, compiled on first use to one C signature."""

from collections.abc import Callable, Mapping
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
    """

    name: str
    kernel: Kernel
    defaults: Parameters
    columns: Callable[[Parameters], tuple[str, ...]]
    memory: Callable[[Parameters], int]
    lookback: Callable[[Parameters], int]

    @cached_property
    def address(self) -> int:
        """Address of the compiled kernel; compiled once and cached on disk beside its source."""
        return compile_kernel(self.kernel)


INDICATORS: dict[str, Indicator] = {}


def indicator(
    *,
    defaults: Parameters,
    columns: Callable[[Parameters], tuple[str, ...]],
    memory: Callable[[Parameters], int],
    lookback: Callable[[Parameters], int],
) -> Callable[[Kernel], Indicator]:
    """Register the decorated kernel as the indicator of its function's name.

    Raises:
        ValueError: an indicator of that name is registered already.
    """

    def register(kernel: Kernel) -> Indicator:
        name = kernel.__name__
        if name in INDICATORS:
            raise ValueError(f"an indicator named `{name}` is registered already")
        INDICATORS[name] = Indicator(name, kernel, dict(defaults), columns, memory, lookback)
        return INDICATORS[name]

    return register
