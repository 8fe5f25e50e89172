"""Indicators of traded volume."""

import math

from finsense.market.timeline import VOLUME
from finsense.state.registry import indicator


@indicator(
    defaults={"window": 20},
    columns=lambda p: (f"volume_ratio_{int(p['window'])}",),
    memory=lambda p: 2 + int(p["window"]),
    lookback=lambda p: int(p["window"]),
)
def volume_ratio(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Volume against its mean over the window, as a log ratio.

    Formula: ln((1 + volume) / (1 + mean of the last `window` volumes, this bar included)). Unit: log ratio; 0 when
    every volume is equal, also when all are zero (indices). Volumes are whole shares, so the running sum is exact.
    """
    window = int(parameters[0])
    # memory: bars seen, sum of the ring, then the ring
    seen = int(memory[0])
    slot = 2 + seen % window
    memory[1] += bar[VOLUME] - memory[slot]
    memory[slot] = bar[VOLUME]
    memory[0] = seen + 1.0
    out[0] = math.log((1.0 + bar[VOLUME]) / (1.0 + memory[1] / min(seen + 1, window)))
