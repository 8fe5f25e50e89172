"""A learner earns what a market with a known signal offers, and nothing on a random walk; always after charges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finsense.account.rules import BUY, HOLD, SELL
from finsense.agents.ppo import train
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.evaluation.baselines import BuyAndHold, RandomLegal
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import load_bundle
from finsense.model.policy import Decision, Policy

DEMO = Path(__file__).resolve().parents[1] / "configs" / "ppo_demo.yaml"
SPANS = {
    "data.last": "2024-09-30",
    "split.train.to": "2024-07-31",
    "split.validation": "{from: 2024-08-01, to: 2024-08-30}",
    "split.test": "{from: 2024-09-02, to: 2024-09-30}",
    "agent.steps": 150_000,
    "agent.eval_every": 50_000,
}
# Markets of the same law that no training has seen, over the test span.
UNSEEN = range(1000, 1008)


class KnownSignal(Policy):
    """Knows the hidden deviation from the mean: buys below one line, sells above another."""

    def __init__(self, deviation: NDArray[np.float64], buy_below: float, sell_above: float) -> None:
        self._deviation, self._buy_below, self._sell_above, self._bar = deviation, buy_below, sell_above, 0

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        deviation = self._deviation[self._bar]
        self._bar += 1
        wanted = BUY if deviation < self._buy_below else SELL if deviation > self._sell_above else HOLD
        return Decision(wanted if mask[0, wanted] else HOLD, np.zeros(3, np.float32))


def demo(**changes: Any) -> Experiment:
    sets = {**SPANS, **{name.replace("__", "."): value for name, value in changes.items()}}
    return load_experiment(DEMO, [f"{name}={value}" for name, value in sets.items()])


def log_returns(reports: list[Report]) -> NDArray[np.float64]:
    return np.log1p([report.performance.total_return for report in reports])


def on_unseen(experiment: Experiment, policy: Policy | str) -> list[Report]:
    """Backtests over the test span of unseen markets; `known` and `random` are made anew for each."""
    setting = Setting(experiment.state, experiment.account, experiment.costs, experiment.evaluation.sessions_per_year)
    span = experiment.split.test
    reports = []
    for seed in UNSEEN:
        assert isinstance(experiment.data, SimulatedMarket)
        market = experiment.data.model_copy(update={"seed": seed})
        bars, deviation = market.simulate_with_signal()
        begin = len(bars.between(None, experiment.split.validation.last))
        chosen: Policy
        if policy == "known":
            # The lines that a grid search found best on the demo's training span, in stationary deviations.
            lines = -0.25 * market.stationary_deviation, 0.25 * market.stationary_deviation
            chosen = KnownSignal(deviation[begin:], *lines)
        elif policy == "random":
            chosen = RandomLegal(np.random.default_rng(seed))
        else:
            assert not isinstance(policy, str)
            chosen = policy
        reports.append(backtest(str(policy), chosen, bars, setting, span.first, span.last))
    return reports


def t_value(values: NDArray[np.float64]) -> float:
    """Mean over its standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() / error) if error > 0 else 0.0


def assert_earns_the_known_signal(experiment: Experiment, run_dir: Path, least_share: float) -> None:
    bundle = load_bundle(train(experiment, run_dir).bundle)
    learned = log_returns(on_unseen(experiment, bundle.policy))
    known = log_returns(on_unseen(experiment, "known"))
    by_chance = log_returns(on_unseen(experiment, "random"))
    held = log_returns(on_unseen(experiment, BuyAndHold(experiment.account)))
    # Always flat earns 0 exactly. Paired by market, on each of them and with a t value no luck explains.
    assert (learned > 0).all()
    assert (learned > held).all()
    assert (learned > by_chance).all()
    assert t_value(learned) > 6
    assert t_value(learned - held) > 6
    # It sees prices only and earns most of what the hidden signal itself is worth.
    assert learned.mean() > least_share * known.mean()
    assert known.mean() > 0


def test_a_reverting_market_is_learned(tmp_path: Path) -> None:
    assert_earns_the_known_signal(demo(), tmp_path / "run", least_share=0.6)


def test_on_a_random_walk_it_learns_to_leave_it(tmp_path: Path) -> None:
    walk = {"kind": "simulated", "model": "random_walk", "volatility": 0.002, "symbols": ["SIM"], "seed": 7}
    walk |= {"first": "2024-01-01", "last": SPANS["data.last"]}
    settings = {name: value for name, value in SPANS.items() if name != "data.last"}
    sets = {**settings, "data": json.dumps(walk), "agent.ent_coef": 0, "agent.steps": 200_000}
    experiment = load_experiment(DEMO, [f"{name}={value}" for name, value in sets.items()])
    bundle = load_bundle(train(experiment, tmp_path / "run").bundle)
    reports = on_unseen(experiment, bundle.policy)
    learned, by_chance = log_returns(reports), log_returns(on_unseen(experiment, "random"))
    assert by_chance.mean() < -0.1
    # No more than chance, and hardly any of the charges that trading at random pays.
    assert t_value(learned) < 3
    assert learned.mean() > 0.1 * by_chance.mean()
    fills = sum(report.performance.fills for report in reports) / sum(report.performance.bars for report in reports)
    assert fills < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_demo_learns_from_every_seed(seed: int, tmp_path: Path) -> None:
    experiment = demo(seed=seed, agent__steps=600_000, agent__eval_every=100_000)
    assert_earns_the_known_signal(experiment, tmp_path / "run", least_share=0.7)
