"""Proof: over ten seeds the fast PPO learns a market with a known signal as sb3-contrib's PPO does (make proofs)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

from finsense.agents.fast_ppo.algorithm import FastMaskablePPO
from finsense.agents.markets import Markets, episode_rules, load_markets
from finsense.agents.ppo import masked_ppo
from finsense.config import Experiment, PpoAgent, load_experiment
from finsense.envs.vector import TradingVecEnv

DEMO = Path(__file__).resolve().parents[1] / "configs" / "ppo_demo.yaml"
SETS = {
    "data.last": "2024-09-30",
    "split.train.to": "2024-07-31",
    "split.validation": "{from: 2024-08-01, to: 2024-08-30}",
    "split.test": "{from: 2024-09-02, to: 2024-09-30}",
    "agent.steps": 25 * 8192,
}
SEEDS = range(10)


class Curve(BaseCallback):
    """The mean reward of a decision, rollout by rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.means: list[float] = []

    def _on_rollout_start(self) -> None:
        self._rewards: list[float] = []

    def _on_step(self) -> bool:
        self._rewards.append(float(self.locals["rewards"].mean()))
        return True

    def _on_rollout_end(self) -> None:
        self.means.append(float(np.mean(self._rewards)))


def curves(kind: type[MaskablePPO], experiment: Experiment, markets: Markets) -> NDArray[np.float64]:
    """(seeds, rollouts) float64."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finsense.agents.ppo.FastMaskablePPO", kind)
        for seed in SEEDS:
            chosen = experiment.model_copy(update={"seed": seed})
            assert isinstance(chosen.agent, PpoAgent)
            envs = TradingVecEnv(markets.train, chosen.account, chosen.agent.envs, episode_rules(chosen))
            curve = Curve()
            model = masked_ppo(chosen, markets, envs)
            assert type(model) is kind
            model.learn(chosen.agent.steps, callback=curve)
            found.append(curve.means)
    return np.array(found)


def chance(mine: NDArray[np.float64], its: NDArray[np.float64]) -> float:
    """Of a difference of means as large as this, if both samples are of one law: a permutation test, two-sided."""
    random, both = np.random.default_rng(0), np.concatenate([mine, its])
    shuffled = random.permuted(np.tile(both, (20_000, 1)), axis=1)
    differences = np.abs(shuffled[:, : len(mine)].mean(axis=1) - shuffled[:, len(mine) :].mean(axis=1))
    return float((differences >= abs(mine.mean() - its.mean())).mean())


@pytest.mark.slow
def test_learning_curves_are_those_of_sb3() -> None:
    experiment = load_experiment(DEMO, [f"{name}={value}" for name, value in SETS.items()])
    slower = load_experiment(
        DEMO, [f"{name}={value}" for name, value in {**SETS, "agent.learning_rate": 2.5e-4}.items()]
    )
    markets = load_markets(experiment)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, theirs = curves(FastMaskablePPO, experiment, markets), curves(MaskablePPO, experiment, markets)
        other = curves(FastMaskablePPO, slower, markets)
    finally:
        torch.set_num_threads(threads)
    # Both learn: what was lost to charges at first is earned at the end.
    gain = theirs[:, -5:].mean() - theirs[:, 0].mean()
    assert (ours[:, -5:].mean(axis=1) > 0).all()
    assert (theirs[:, -5:].mean(axis=1) > 0).all()
    for part in (slice(0, 8), slice(8, 16), slice(16, None), slice(None)):
        mine, its = ours[:, part].mean(axis=1), theirs[:, part].mean(axis=1)
        likely = chance(mine, its)
        assert likely > 0.01, (part, mine.mean(), its.mean())
        # And the difference is small, not merely uncertain: with two standard errors it is below a tenth of the gain.
        error = np.sqrt(mine.var(ddof=1) / len(mine) + its.var(ddof=1) / len(its))
        assert abs(mine.mean() - its.mean()) + 2 * error < 0.1 * gain
    # The same test tells a learner with half the learning rate apart.
    assert chance(other.mean(axis=1), theirs.mean(axis=1)) < 0.01
