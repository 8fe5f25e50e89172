"""The torch side of a policy: the scaler as its first layer, and the part of it that decides."""

import hashlib

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from finsense.state.scaler import CLIP, Scaler

# The names of an experiment's activations.
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class ScaledState(BaseFeaturesExtractor):
    """The frozen scaler as a layer, so that saved weights and exported graphs carry it."""

    mean: Tensor
    factor: Tensor

    def __init__(self, observation_space: spaces.Box, mean: NDArray[np.float32], factor: NDArray[np.float32]) -> None:
        super().__init__(observation_space, features_dim=int(observation_space.shape[0]))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("factor", torch.tensor(factor, dtype=torch.float32))

    def forward(self, states: Tensor) -> Tensor:
        """Scale states, (N, F) float32, as `Scaler.apply` does."""
        return ((states - self.mean) * self.factor).clamp(-CLIP, CLIP)

    @classmethod
    def arguments(cls, scaler: Scaler) -> dict[str, NDArray[np.float32]]:
        """The keyword arguments that make this layer of a fitted scaler."""
        return {"mean": scaler.mean, "factor": scaler.factor}


class MaskedActor(nn.Module):
    """The deciding part of an actor-critic policy: state and mask in, action and probabilities out.

    It shares its weights with the policy. It is what validation runs and what is exported.
    """

    def __init__(self, policy: MaskableActorCriticPolicy) -> None:
        super().__init__()
        self.scaled_state = policy.features_extractor
        self.actor = policy.mlp_extractor.policy_net
        self.action_net = policy.action_net

    def forward(self, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decide.

        A masked action has a probability of exactly 0 and is never chosen. A state that is not finite gives
        probabilities of NaN, which no runner accepts, and a legal action.

        Args:
            state: (N, F) float32.
            mask: (N, A) bool.

        Returns:
            action (N,) int64 and probabilities (N, A) float32.
        """
        return decided(self.action_net(self.actor(self.scaled_state(state))), state, mask)


class MaskedGreedy(nn.Module):
    """The deciding part of a Q network: the legal action with the highest Q, and a softmax of the Qs for show.

    It shares its weights with the network. It is what validation runs and what is exported.

    Args:
        network: state (N, F) float32 in, Q values (N, A) float32 out, scaler inside.
        temperature: the difference in Q that makes an action e times as probable. It ranks nothing anew: the
            probabilities tell how clear a decision is, not how often another one would be tried.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def forward(self, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Decide; arguments, result and what a state that is not finite gives are those of `MaskedActor`."""
        return decided(self.network(state) / self.temperature, state, mask)


def decided(logits: Tensor, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable legal action, and the softmax over the legal ones.

    Args:
        logits: (N, A) float32, a score of each action.
        state: (N, F) float32; where a value of it is not finite, the probabilities are NaN.
        mask: (N, A) bool.

    Returns:
        action (N,) int64 and probabilities (N, A) float32, exactly 0 where an action is masked.
    """
    # x - x is 0 for every finite x and NaN for the others: a clip or an argmax may hide a NaN, this cannot.
    fault = (state - state).sum(dim=1, keepdim=True)
    shares = torch.softmax(torch.where(mask, logits, torch.finfo(torch.float32).min), dim=1)
    # A NaN compares with nothing, so it becomes 0 here; a masked action scores below that.
    score = torch.where(mask, torch.where(shares >= 0.0, shares, 0.0), -1.0)
    probabilities = torch.where(mask, shares, 0.0) + fault
    return score.argmax(dim=1), probabilities


def weights_hash(policy: nn.Module) -> str:
    """SHA-256 (hex) over the names and bytes of a policy's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def weights_finite(policy: nn.Module) -> bool:
    """Whether no weight is NaN or infinite."""
    return all(bool(torch.isfinite(parameter).all()) for parameter in policy.parameters())
