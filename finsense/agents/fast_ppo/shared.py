"""Layers that actor and critic share: for SB3 they are features, for behind the features its two networks are apart."""

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from finsense.agents.network import ScaledState


class SharedLayers(ScaledState):
    """The frozen scaler and, behind it, layers that actor and critic share.

    Give it as `features_extractor_class` in `policy_kwargs`; `net_arch` then tells what each has for itself.

    Args:
        observation_space: of the environment.
        mean: (F,) float32, of the scaler.
        factor: (F,) float32, of the scaler.
        widths: one per shared layer.
        activation: after each of them.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        mean: NDArray[np.float32],
        factor: NDArray[np.float32],
        widths: Sequence[int],
        activation: type[nn.Module] = nn.Tanh,
    ) -> None:
        super().__init__(observation_space, mean, factor)
        layers: list[nn.Module] = []
        for inputs, outputs in zip([len(mean), *widths], widths, strict=False):
            layers += [nn.Linear(inputs, outputs), activation()]
        self.layers = nn.Sequential(*layers)
        self._features_dim = widths[-1]

    def forward(self, states: Tensor) -> Tensor:
        """The shared layers' outputs, (N, widths[-1]) float32, of states, (N, F) float32."""
        shared: Tensor = self.layers(super().forward(states))
        return shared
