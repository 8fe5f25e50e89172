"""Where the close stands against a price that the user names."""

import math

from finsense.market.timeline import CLOSE
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import Windowed


@indicator(
    defaults={"level": 1000.0},
    columns=columns_named("level_distance"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
)
def level_distance(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Log distance of the close from a price: a pivot, an offer, the level that a simulated market reverts to.

    Formula: ln(close / level). Unit: natural logarithm; 0 at the level. It is the one indicator that a split moves, for
    the level is a price. On a `mean_reversion` market with the level at its `start_price` it is the market's hidden
    deviation itself, which makes an agent's problem the one that `finsense oracle` solves.
    """
    out[0] = math.log(bar[CLOSE] / parameters[0])
