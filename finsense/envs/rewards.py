"""The rewards an environment can pay, in one registry; each is made of the equity after charges and nothing else."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from finsense.state.foreign import Kernel, compile_kernel

# What a reward kernel reads in place of a bar; all in paise as float64.
EQUITY_BEFORE, EQUITY_AFTER, PEAK_BEFORE, PEAK_AFTER = range(4)
REWARD_INPUTS = 4
REWARD_MEMORY = 2


@dataclass(frozen=True)
class Reward:
    """One reward: a kernel of the indicators' form, `kernel(inputs, parameters, memory, out)`.

    Attributes:
        kernel: reads the four inputs above, keeps REWARD_MEMORY cells (zeros at the reset), writes out[0].
        defaults: parameter name -> default value.
    """

    kernel: Kernel
    defaults: Mapping[str, float]

    @cached_property
    def address(self) -> int:
        """Address of the compiled kernel."""
        return compile_kernel(self.kernel)


def log_equity(inputs, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Change of the log equity: ln(after / before). An equity at or below zero counts as one paisa."""
    out[0] = math.log(max(inputs[EQUITY_AFTER], 1.0) / max(inputs[EQUITY_BEFORE], 1.0))


def differential_sharpe(inputs, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Differential Sharpe ratio of the simple return after charges (Moody and Saffell 1998, eq. 8).

    D = (B dA - A dB / 2) / (B - A^2)^(3/2), where A and B are exponential averages of the return and of its square, and
    dA = return - A, dB = return^2 - B, both with the weight `rate` (their eta). It is 0 while the variance is 0.
    """
    gain = inputs[EQUITY_AFTER] / max(inputs[EQUITY_BEFORE], 1.0) - 1.0
    first, second = memory[0], memory[1]
    variance = second - first * first
    change_first, change_second = gain - first, gain * gain - second
    out[0] = (second * change_first - 0.5 * first * change_second) / variance**1.5 if variance > 1e-12 else 0.0
    memory[0] = first + parameters[0] * change_first
    memory[1] = second + parameters[0] * change_second


def drawdown(inputs, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Change of the log equity less `penalty` times the growth of the drawdown (1 - equity / peak)."""
    before = 1.0 - inputs[EQUITY_BEFORE] / inputs[PEAK_BEFORE]
    after = 1.0 - inputs[EQUITY_AFTER] / inputs[PEAK_AFTER]
    gain = math.log(max(inputs[EQUITY_AFTER], 1.0) / max(inputs[EQUITY_BEFORE], 1.0))
    out[0] = gain - parameters[0] * max(after - before, 0.0)


REWARDS: dict[str, Reward] = {
    "log_equity": Reward(log_equity, {}),
    "differential_sharpe": Reward(differential_sharpe, {"rate": 0.01}),
    "drawdown": Reward(drawdown, {"penalty": 0.1}),
}
