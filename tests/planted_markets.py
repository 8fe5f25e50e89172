"""Simulated markets whose direction can be forecast with a known accuracy, and supervised experiments on them."""

import json
import math
from typing import Any

import numpy as np

from finsense.config import Experiment

# One bar ahead, so that no two labels look at the same bar and each is one independent trial.
HORIZON = 1
SETTINGS: dict[str, Any] = {
    "name": "planted",
    "seed": 1,
    "data": {
        "kind": "simulated",
        "model": "mean_reversion",
        "reversion": 0.5,
        "shock": 0.003,
        "first": "2022-01-03",
        "last": "2023-12-29",
        "seed": 5,
        # Without these the law is that of an AR(1), and nothing else.
        "volatility_shape": 0,
        "clustering_reaction": 0,
        "clustering_memory": 0,
        "overnight_gap": 0,
        "open_noise": 0,
    },
    "split": {
        "train": {"from": "2022-01-03", "to": "2022-12-30"},
        "validation": {"from": "2023-01-02", "to": "2023-04-28"},
        "test": {"from": "2023-05-02", "to": "2023-12-29"},
    },
    "state": {"features": [{"level_distance": {"level": 1000}}, "weekday"], "warmup": 40},
    "account": {
        "balance": 100_000,
        "product": "delivery",
        "actions": {"scheme": "orders", "size": {"kind": "shares", "shares": 10}},
    },
    "agent": {"label": {"kind": "direction", "horizon": HORIZON, "dead_zone": 0}},
}


def planted(agent: dict[str, Any], **changes: Any) -> Experiment:
    """A supervised experiment on the planted market; `data__seed=5` changes one value."""
    values = json.loads(json.dumps(SETTINGS))
    values["agent"] |= agent
    for name, value in changes.items():
        *route, key = name.split("__")
        inner = values
        for step in route:
            inner = inner[step]
        inner[key] = value
    return Experiment.model_validate_json(json.dumps(values))


def random_walk(agent: dict[str, Any], seed: int, **changes: Any) -> Experiment:
    """The same experiment where nothing can be forecast; the seed is of the market and of the model."""
    walk = {name: value for name, value in SETTINGS["data"].items() if name not in ("reversion", "shock")}
    data = {**walk, "model": "random_walk", "volatility": 0.003, "seed": seed}
    return planted(agent, data=data, seed=seed, **changes)


def bayes_accuracy(reversion: float, history: int | None = None) -> float:
    """How often the best forecaster names the direction of the next bar of an AR(1), x' = reversion x + noise.

    The move x' - x and its best forecast m are jointly normal with mean 0 and correlation r, so that their signs agree
    with a chance of 1/2 + arcsin(r) / pi (Sheppard 1899). The noise's scale does not matter.

    Args:
        reversion: of the AR(1).
        history: the forecaster sees so many last moves; None: it sees x itself, where m = -(1 - reversion) x, of
            variance (1 - reversion)^2 times that of x, against the move's 2 (1 - reversion): r^2 is their ratio.
    """
    if history is None:
        return 0.5 + math.asin(math.sqrt((1 - reversion) / 2)) / math.pi
    # Covariances of x over history + 2 bars, then of its history + 1 moves; the last move is forecast by the others.
    places = np.arange(history + 2)
    levels = reversion ** np.abs(places[:, None] - places[None, :])
    moves = np.diff(np.diff(levels, axis=0), axis=1)
    seen, with_next, following = moves[:-1, :-1], moves[:-1, -1], moves[-1, -1]
    explained = with_next @ np.linalg.solve(seen, with_next)
    return 0.5 + math.asin(math.sqrt(explained / following)) / math.pi
