"""Proof: on a random walk the masked DQN learns to leave the market alone (make proofs).

How near it comes to the known optimum is in `test_learning_proofs.py`.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from finsense.agents.dqn import train
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.evaluation.baselines import RandomLegal
from finsense.evaluation.oracle_policy import mean_growth
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import load_bundle
from finsense.model.policy import Policy

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Markets of the same law that no training has seen.
UNSEEN = range(1000, 1006)


def on_unseen(experiment: Experiment, policies: list[Policy]) -> list[Report]:
    """Backtests over the test span, the i-th policy on the i-th market."""
    market, span = experiment.data, experiment.split.test
    assert isinstance(market, SimulatedMarket)
    setting = Setting(experiment.state, experiment.account, experiment.costs, experiment.evaluation.sessions_per_year)
    return [
        backtest("one", policy, market.model_copy(update={"seed": seed}).load()["SIM"], setting, span.first, span.last)
        for policy, seed in zip(policies, UNSEEN, strict=True)
    ]


@pytest.mark.slow
def test_on_a_random_walk_it_learns_to_leave_it(tmp_path: Path) -> None:
    walk = {"kind": "simulated", "model": "random_walk", "volatility": 0.002, "symbols": ["SIM"], "seed": 7}
    walk |= {"first": "2024-01-01", "last": "2026-06-30"}
    experiment = load_experiment(CONFIGS / "dqn_demo.yaml", [f"data={json.dumps(walk)}"])
    policy = load_bundle(train(experiment, tmp_path / "run").bundle).policy
    learned = on_unseen(experiment, [policy] * len(UNSEEN))
    by_chance = on_unseen(experiment, [RandomLegal(np.random.default_rng(one)) for one in UNSEEN])
    balance = experiment.account.balance_paise
    mine, its = (
        np.mean([mean_growth(report.trace, balance) for report in reports]) for reports in (learned, by_chance)
    )
    assert its < 0
    assert mine > 0.1 * its
    fills = sum(report.performance.fills for report in learned) / sum(report.performance.bars for report in learned)
    assert fills < 0.02
