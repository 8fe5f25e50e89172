"""SB3's DQN policy with a dueling head (Wang et al. 2016)."""

from typing import Any

import torch
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn


class DuelingQNetwork(QNetwork):
    """Q = V + A - mean(A), where V and A are told by streams of their own behind the layers that they share.

    The last width of `net_arch` is that of each stream's hidden layer, those before it are of the shared layers.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        activation = self.activation_fn

        def chain(inputs: int, widths: list[int]) -> list[nn.Module]:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Linear(inputs, width), activation()]
                inputs = width
            return layers

        shared, own = list(self.net_arch[:-1]), list(self.net_arch[-1:])
        behind = ([self.features_dim, *shared])[-1]
        last = ([behind, *own])[-1]
        del self.q_net
        self.shared = nn.Sequential(*chain(self.features_dim, shared))
        self.advantages = nn.Sequential(*chain(behind, own), nn.Linear(last, int(self.action_space.n)))
        self.value = nn.Sequential(*chain(behind, own), nn.Linear(last, 1))

    def forward(self, obs: Any) -> Tensor:
        """Q values, (N, A) float32."""
        features = self.shared(self.extract_features(obs, self.features_extractor))
        return dueling_values(self.value(features), self.advantages(features))


class DuelingPolicy(DQNPolicy):
    """`DQNPolicy` with dueling networks; takes the same arguments."""

    def make_q_net(self) -> QNetwork:
        """One Q network with a features extractor of its own."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return DuelingQNetwork(**arguments).to(self.device)


def dueling_values(value: Tensor, advantages: Tensor) -> Tensor:
    """Q values, (N, A), of a state's value, (N, 1), and its actions' advantages, (N, A)."""
    return value + advantages - torch.mean(advantages, dim=1, keepdim=True)
