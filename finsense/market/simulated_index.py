"""An index beside a simulated stock, with known beta and correlation, that leaves the stock's own bars as they are."""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Floats = NDArray[np.float64]

_START_POINTS = 20_000.0


class SimulatedIndex(BaseModel):
    """What the index of a simulated stock is to it.

    The stock's surprise in a bar (its noise, and the gap at which a session opens) is beta x the index's log return + a
    noise that is independent of the index. What the stock is expected to do (its reversion, its drift) is not in the
    index, which is a martingale: it tells nothing of the stock's next bar that the stock's own price does not.

    Attributes:
        beta: Slope of the stock's surprise on the index's log return.
        correlation: Correlation of the two; the index's standard deviation is correlation / beta of the stock's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    beta: float = Field(1.0, ge=0.1, le=10, description="slope of the stock's surprise on the index's log return")
    correlation: float = Field(0.5, gt=0, lt=1, description="correlation of the two (fraction)")

    def moves(self, surprise: Floats, volatility: Floats | float, own: Floats) -> Floats:
        """Log returns of the index (n,) float64, given what happened to the stock: (c / beta) s (c e + sqrt(1-c^2) z).

        This is the law of one of two jointly normal numbers, given the other; c is the correlation.

        Args:
            surprise: e, (n,) float64, the stock's surprise in standard deviations.
            volatility: s, (n,) float64 or one for all, the standard deviation of the surprise (fraction).
            own: z, (n,) float64, standard normal, the index's own.
        """
        spread = self.correlation / self.beta * np.asarray(volatility)
        # Less half the variance, so that the index and not its logarithm is the martingale.
        return spread * (self.correlation * surprise + math.sqrt(1 - self.correlation**2) * own) - spread**2 / 2


def index_points(moves: Floats) -> Floats:
    """The index at the end of each log return, (n,) float64, points to a hundredth."""
    return np.rint(_START_POINTS * np.exp(np.cumsum(moves)) * 100) / 100
