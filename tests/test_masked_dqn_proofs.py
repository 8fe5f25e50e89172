"""Proof: the masked DQN reaches the known optimum of a market, and leaves a random walk alone (make proofs)."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from finsense.agents.dqn import train
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.evaluation.baselines import BuyAndHold, RandomLegal
from finsense.evaluation.oracle import solve
from finsense.evaluation.oracle_policy import mean_growth, run_oracle
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import load_bundle
from finsense.model.policy import Policy

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Markets of the same law that no training has seen.
UNSEEN = range(1000, 1006)


def setting_of(experiment: Experiment) -> Setting:
    return Setting(experiment.state, experiment.account, experiment.costs, experiment.evaluation.sessions_per_year)


def markets_of(experiment: Experiment) -> list[SimulatedMarket]:
    assert isinstance(experiment.data, SimulatedMarket)
    return [experiment.data.model_copy(update={"seed": seed}) for seed in UNSEEN]


def on_unseen(experiment: Experiment, policies: list[Policy]) -> list[Report]:
    """Backtests over the test span, the i-th policy on the i-th market."""
    span, setting = experiment.split.test, setting_of(experiment)
    return [
        backtest("one", policy, market.load()["SIM"], setting, span.first, span.last)
        for policy, market in zip(policies, markets_of(experiment), strict=True)
    ]


def growth(experiment: Experiment, reports: list[Report]) -> NDArray[np.float64]:
    """Change of the log equity per bar, one for each report."""
    return np.array([mean_growth(report.trace, experiment.account.balance_paise) for report in reports])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_it_reaches_nine_tenths_of_the_optimum(seed: int, tmp_path: Path) -> None:
    """Some 20 s of one core for each seed; ten seeds are in docs/dqn.md."""
    experiment = load_experiment(CONFIGS / "dqn_oracle.yaml", [f"seed={seed}"])
    assert isinstance(experiment.data, SimulatedMarket)
    policy = load_bundle(train(experiment, tmp_path / "run").bundle).policy
    count, span = len(UNSEEN), experiment.split.test
    learned = growth(experiment, on_unseen(experiment, [policy] * count))
    held = growth(experiment, on_unseen(experiment, [BuyAndHold(experiment.account)] * count))
    random: list[Policy] = [RandomLegal(np.random.default_rng(one)) for one in UNSEEN]
    by_chance = growth(experiment, on_unseen(experiment, random))
    solution = solve(experiment.data, experiment.account, experiment.costs)
    best = growth(
        experiment,
        [
            run_oracle(market, "SIM", solution, setting_of(experiment), span.first, span.last).report
            for market in markets_of(experiment)
        ],
    )
    assert (learned > 0).all()
    assert (learned > held).all()
    assert (learned > by_chance).all()
    assert learned.mean() >= 0.9 * best.mean()


@pytest.mark.slow
def test_on_a_random_walk_it_learns_to_leave_it(tmp_path: Path) -> None:
    walk = {"kind": "simulated", "model": "random_walk", "volatility": 0.002, "symbols": ["SIM"], "seed": 7}
    walk |= {"first": "2024-01-01", "last": "2026-06-30"}
    experiment = load_experiment(CONFIGS / "dqn_demo.yaml", [f"data={json.dumps(walk)}"])
    policy = load_bundle(train(experiment, tmp_path / "run").bundle).policy
    reports = on_unseen(experiment, [policy] * len(UNSEEN))
    learned = growth(experiment, reports)
    random: list[Policy] = [RandomLegal(np.random.default_rng(one)) for one in UNSEEN]
    by_chance = growth(experiment, on_unseen(experiment, random))
    assert by_chance.mean() < 0
    assert learned.mean() > 0.1 * by_chance.mean()
    fills = sum(report.performance.fills for report in reports) / sum(report.performance.bars for report in reports)
    assert fills < 0.02
