"""The scaler: fitted on training rows once, frozen, and the first layer of every exported policy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Scaled values are cut here, so that one freak bar cannot saturate a policy that never saw its like.
CLIP = 10.0


class ScalerError(ValueError):
    """Rows that a scaler cannot be fitted on."""


@dataclass(frozen=True)
class Scaler:
    """Scales a whole state: (state - mean) x factor, cut to [-CLIP, CLIP].

    Attributes:
        mean: (F,) float32.
        factor: (F,) float32, one over the standard deviation; 1 where a column does not vary.
    """

    mean: NDArray[np.float32]
    factor: NDArray[np.float32]

    def apply(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scaled states, (N, F) float32."""
        scaled = (states - self.mean) * self.factor
        clipped: NDArray[np.float32] = np.clip(scaled, np.float32(-CLIP), np.float32(CLIP), dtype=np.float32)
        return clipped


def fit_scaler(rows: NDArray[np.float32], history: int, account_features: int) -> Scaler:
    """Fit on market rows, (rows, columns) float32, of the training span alone.

    Every row of a stacked state is scaled alike; the account's features are fractions already and pass unchanged.

    Raises:
        ScalerError: fewer than two rows, or a value that is not finite.
    """
    if len(rows) < 2:
        raise ScalerError(f"expected at least two training rows to fit a scaler, found {len(rows)}")
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise ScalerError(f"training row {row} has a value that is not finite in column {column}")
    mean = rows.mean(axis=0, dtype=np.float64)
    deviation = rows.std(axis=0, dtype=np.float64)
    # A column that varies by less than float32 can tell apart carries nothing; scaling it would only blow up dust.
    factor = np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), 1.0 / np.maximum(deviation, 1e-300), 1.0)
    return Scaler(
        np.concatenate([np.tile(mean, history), np.zeros(account_features)]).astype(np.float32),
        np.concatenate([np.tile(factor, history), np.ones(account_features)]).astype(np.float32),
    )
