"""Refuses settings that cannot work, before anything is made of them."""

from typing import TYPE_CHECKING

from gymnasium import spaces

from finsense.agents.masked_dqn.replay import MaskedReplayBuffer

if TYPE_CHECKING:
    from finsense.agents.masked_dqn.algorithm import MaskedDQN


def check_settings(model: "MaskedDQN") -> None:
    """Check a model's arguments.

    Raises:
        ValueError: says what was expected, what was found, and what to do.
    """
    if not isinstance(model.observation_space, spaces.Box):
        raise ValueError(f"expected observations in one Box, found {model.observation_space}; flatten them")
    if model._vec_normalize_env is not None:
        raise ValueError(
            "expected observations that stay as they are, found a VecNormalize, whose scale moves under the stored "
            "ones; put a frozen scaler into the network (finsense.agents.network.ScaledState)"
        )
    if model.replay_buffer_class not in (None, MaskedReplayBuffer) or model.replay_buffer_kwargs:
        raise ValueError("expected no replay_buffer_class or replay_buffer_kwargs: this DQN has a buffer of its own")
    if model.buffer_size < model.n_envs:
        raise ValueError(
            f"expected a buffer_size of at least one step of {model.n_envs} environments, found {model.buffer_size}"
        )
    if not 1 <= model.batch_size <= model.buffer_size:
        raise ValueError(
            f"expected a batch_size from 1 to the buffer_size of {model.buffer_size}, found {model.batch_size}; lower "
            "it, or raise buffer_size"
        )
    if model.n_steps < 1:
        raise ValueError(f"expected n_steps of at least 1, found {model.n_steps}")
    for name in ("priority_exponent", "importance_exponent"):
        if not 0.0 <= getattr(model, name) <= 1.0:
            raise ValueError(f"expected {name} from 0 to 1, found {getattr(model, name)}")
    if not model.max_grad_norm > 0:
        raise ValueError(f"expected a max_grad_norm above 0, found {model.max_grad_norm}")
