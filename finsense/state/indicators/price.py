"""Indicators of the price path itself."""

import math

from finsense.market.timeline import CLOSE
from finsense.state.registry import Parameters, indicator


def _differences(parameters: Parameters) -> int:
    return int(parameters["window"]) - 1


@indicator(
    defaults={"window": 20},
    columns=lambda p: tuple(f"price_change_{lag}" for lag in range(_differences(p))),
    memory=lambda p: 1 + _differences(p),
    lookback=lambda p: int(p["window"]),
)
def price_change(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """The window - 1 log price differences inside a window of closes, newest first.

    Formula: ln(close[t-k] / close[t-k-1]) for k = 0 .. window - 2; the lag k names the column. Unit: log return of one
    bar. Before the second bar the difference is 0.
    """
    differences = int(parameters[0]) - 1
    close = bar[CLOSE]
    # memory: previous close, then the differences newest first
    for lag in range(differences - 1, 0, -1):
        memory[1 + lag] = memory[lag]
    memory[1] = math.log(close / memory[0]) if memory[0] > 0.0 else 0.0
    memory[0] = close
    for lag in range(differences):
        out[lag] = memory[1 + lag]
