"""The arguments that every learner on Stable-Baselines3 takes alike, from an experiment."""

from typing import Any

from stable_baselines3.common.utils import LinearSchedule

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.device import training_device
from finsense.agents.markets import Markets
from finsense.agents.network import ACTIVATIONS, ScaledState
from finsense.config import Experiment, TradingAgent
from finsense.state.scaler import fit_scaler


def shared_settings(experiment: Experiment, markets: Markets) -> dict[str, Any]:
    """Keyword arguments of a Stable-Baselines3 model, its scaler fitted on the training span alone.

    Raises:
        DeviceError: a GPU was asked for, and torch sees none.
        ScalerError: the training span's states cannot be scaled.
    """
    agent = experiment.agent
    assert isinstance(agent, TradingAgent)
    scaler = fit_scaler(markets.train.training_rows(), experiment.state.history, len(ACCOUNT_FEATURES))
    rate, last = agent.learning_rate, agent.final_learning_rate
    return {
        "learning_rate": rate if last is None else LinearSchedule(rate, last, 1.0),
        "batch_size": agent.batch_size,
        "n_steps": agent.n_steps,
        "gamma": agent.gamma,
        "max_grad_norm": agent.max_grad_norm,
        "policy_kwargs": {
            "net_arch": list(agent.net_arch),
            "activation_fn": ACTIVATIONS[agent.activation],
            "features_extractor_class": ScaledState,
            "features_extractor_kwargs": ScaledState.arguments(scaler),
        },
        "seed": experiment.seed,
        "device": training_device(experiment),
    }
