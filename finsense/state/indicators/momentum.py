"""Momentum indicators."""

from finsense.market.timeline import CLOSE
from finsense.state.registry import indicator


@indicator(
    defaults={"window": 14},
    columns=lambda p: (f"rsi_{int(p['window'])}",),
    memory=lambda p: 3,
    lookback=lambda p: int(p["window"]) + 1,
)
def rsi(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Relative strength index (Wilder 1978), centred.

    Formula: (gain - loss) / (gain + loss), where gain and loss are Wilder averages (factor 1/window, started at 0) of
    the rises and falls of the close; this is (RSI - 50) / 50. Unit: fraction in [-1, 1]; 0 until the close moves.
    """
    close = bar[CLOSE]
    # memory: previous close, average gain, average loss
    change = close - memory[0] if memory[0] > 0.0 else 0.0
    memory[0] = close
    memory[1] += ((change if change > 0.0 else 0.0) - memory[1]) / parameters[0]
    memory[2] += ((-change if change < 0.0 else 0.0) - memory[2]) / parameters[0]
    total = memory[1] + memory[2]
    out[0] = (memory[1] - memory[2]) / total if total > 0.0 else 0.0
