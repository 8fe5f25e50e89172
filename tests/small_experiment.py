"""An experiment that trains in a second, for the tests of the learners."""

import copy
import json
from typing import Any

from finsense.config import Experiment

SETTINGS: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "data": {
        "kind": "simulated",
        "model": "mean_reversion",
        "symbols": ["SIMA", "SIMB"],
        "first": "2023-01-02",
        "last": "2023-02-28",
        "seed": 1,
    },
    "split": {
        "train": {"from": "2023-01-02", "to": "2023-01-31"},
        "validation": {"from": "2023-02-01", "to": "2023-02-08"},
        "test": {"from": "2023-02-09", "to": "2023-02-28"},
    },
    "state": {"features": ["rsi", "bollinger"], "warmup": 40, "history": 2},
    "account": {
        "balance": 50000,
        "product": "intraday",
        "actions": {"scheme": "orders", "size": {"kind": "shares", "shares": 10}},
    },
    "reward": {"kind": "log_equity", "scale": 100},
    "episode": {"bars": 40},
    "agent": {
        "kind": "ppo",
        "steps": 2048,
        "envs": 8,
        "n_steps": 32,
        "batch_size": 64,
        "n_epochs": 2,
        "net_arch": [8],
        "eval_every": 500,
        "checkpoint_every": 700,
    },
}


# A DQN whose buffer goes round and whose every part is used; `experiment(agent=DQN_AGENT)`.
DQN_AGENT: dict[str, Any] = {
    "kind": "dqn",
    "steps": 2048,
    "envs": 8,
    "buffer_size": 1200,
    "learning_starts": 200,
    "batch_size": 32,
    "train_freq": 2,
    "gradient_steps": 2,
    "n_steps": 3,
    "dueling": True,
    "prioritised_replay": {"alpha": 0.6, "beta": 0.4},
    "target_update_interval": 100,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-4,
    "net_arch": [8, 8],
    "eval_every": 500,
    "checkpoint_every": 700,
}


def experiment(**changes: Any) -> Experiment:
    """The small experiment; `agent__steps=5` changes one value."""
    values = json.loads(json.dumps(SETTINGS))
    for name, value in changes.items():
        *route, key = name.split("__")
        inner = values
        for step in route:
            inner = inner[step]
        inner[key] = copy.deepcopy(value)
    return Experiment.model_validate_json(json.dumps(values))
