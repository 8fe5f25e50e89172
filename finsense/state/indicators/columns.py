"""How an indicator's columns are named: its name, then the values of its parameters."""

from collections.abc import Callable

from finsense.state.registry import Parameters


def columns_named(*names: str) -> Callable[[Parameters], tuple[str, ...]]:
    """The columns `name_value_value...` for the `columns` argument of `indicator`."""

    def columns(parameters: Parameters) -> tuple[str, ...]:
        ending = "".join(f"_{value:g}" for value in parameters.values())
        return tuple(name + ending for name in names)

    return columns
