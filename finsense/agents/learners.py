"""Every learner by its `agent.kind`: from an experiment and a run's folder to a verified bundle."""

from collections.abc import Callable

from finsense.agents import dqn, gru, lstm, ppo, transformer, xgboost
from finsense.agents.training import Trained

LEARNERS: dict[str, Callable[..., Trained]] = {
    "ppo": ppo.train,
    "dqn": dqn.train,
    "lstm": lstm.train,
    "gru": gru.train,
    "transformer": transformer.train,
    "xgboost": xgboost.train,
}
