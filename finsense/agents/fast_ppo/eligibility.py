"""Whether the kernels can train a model, and its network laid out for them."""

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from finsense.agents.fast_ppo.shared import SharedLayers
from finsense.agents.kernels.eligibility import (
    Scaling,
    chain,
    check_device,
    check_parameters,
    known_adam,
    linear,
    scaling_of,
)
from finsense.agents.kernels.faults import NotTaken
from finsense.agents.kernels.layout import LINEAR, OBSERVATION, Layer, Layout
from finsense.agents.network import ScaledState


@dataclass(frozen=True)
class Network:
    """A policy as the kernels see it.

    Attributes:
        layout: its layers.
        scaling: mean and factor of the observations, (F,) float32, and the limit they are cut at.
    """

    layout: Layout
    scaling: Scaling


def network_of(model: MaskablePPO) -> Network:
    """The model's network for the kernels.

    Raises:
        NotTaken: the kernels cannot train this model.
    """
    policy = model.policy
    _check_spaces(model.observation_space, model.action_space)
    check_device(model.device)
    if type(policy) is not MaskableActorCriticPolicy:
        raise NotTaken(f"the policy is a {type(policy).__name__}, not a MaskableActorCriticPolicy itself")
    if type(model.rollout_buffer) is not MaskableRolloutBuffer:
        raise NotTaken(f"the rollout buffer is a {type(model.rollout_buffer).__name__}")
    scaling, shared = _features(policy)
    layers = chain(shared, [], OBSERVATION)
    extractor = policy.mlp_extractor
    if type(extractor) is not MlpExtractor:
        raise NotTaken(f"the layers are a {type(extractor).__name__}, not an MlpExtractor")
    trunk = len(layers) - 1
    layers = chain(extractor.policy_net, layers, trunk)
    actor = len(layers) - 1 if len(extractor.policy_net) else trunk
    before = len(layers)
    layers = chain(extractor.value_net, layers, trunk)
    critic = len(layers) - 1 if len(layers) > before else trunk
    layers += [Layer(linear(policy.action_net), LINEAR, actor), Layer(linear(policy.value_net), LINEAR, critic)]
    layout = Layout(layers)
    check_parameters(policy, layout.parameters())
    known_adam(policy.optimizer, policy)
    return Network(layout, scaling)


def _check_spaces(observations: spaces.Space[Any], actions: spaces.Space[Any]) -> None:
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        raise NotTaken(f"the actions are {actions}, not Discrete from 0")
    if not isinstance(observations, spaces.Box) or is_image_space(observations):
        raise NotTaken(f"the observations are {observations}, not a Box of numbers")


def _features(policy: MaskableActorCriticPolicy) -> tuple[Scaling, nn.Sequential]:
    """How observations are scaled, and the shared layers behind that."""
    extractor = policy.features_extractor
    scaling = scaling_of(extractor, (ScaledState, SharedLayers))
    if isinstance(extractor, ScaledState) and not policy.share_features_extractor:
        raise NotTaken("actor and critic do not share the features extractor")
    return scaling, extractor.layers if isinstance(extractor, SharedLayers) else nn.Sequential()
