"""One contract for all models: trained briefly, each becomes a bundle that decides, trades and restarts like any other.

It runs over the registry: a learner that joins it joins the law.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from small_experiment import SETTINGS, experiment
from supervised_fits import FITS, settings_of

from finsense.agents.labels import CLASSES
from finsense.agents.learners import LEARNERS
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.supervised import run
from finsense.agents.supervised.decision import FittedDecider
from finsense.agents.supervised.export import export_fitted
from finsense.agents.supervised.model import FittedModel
from finsense.agents.training import Trained
from finsense.agents.validation import Judge, random_choice
from finsense.cli.options import setting_of
from finsense.cli.paper import paper_trade
from finsense.cli.parity import digests
from finsense.config import Experiment
from finsense.evaluation.backtest import backtest
from finsense.market.bars import Bars
from finsense.model.bundle import GRAPH, Bundle, load_bundle
from finsense.model.onnx_policy import OnnxPolicy
from finsense.state.span import split_history

AGENTS: dict[str, dict[str, Any]] = {
    "ppo": {**SETTINGS["agent"], "steps": 1280},
    "dqn": {
        **{name: SETTINGS["agent"][name] for name in ("envs", "net_arch", "eval_every", "checkpoint_every")},
        "kind": "dqn",
        "steps": 1280,
        "learning_starts": 200,
        "batch_size": 32,
        "exploration_fraction": 0.5,
    },
}
LABEL = {"kind": "direction", "horizon": 4}
BRIEFLY = {"lstm": {"epochs": 3}, "gru": {"epochs": 3}, "transformer": {"epochs": 3}, "xgboost": {"rounds": 40}}
# Half of a deviation is gone after three bars and a round trip costs little: even a brief training finds trades.
MARKET = {"reversion": 0.8, "shock": 0.004}


def experiment_of(kind: str) -> Experiment:
    agent = AGENTS[kind] if kind in AGENTS else settings_of(kind, label={**LABEL}, **BRIEFLY[kind])
    data = {**SETTINGS["data"], **MARKET}
    return experiment(agent=agent, data=data, costs={"scale": 0.1}, account__slippage_bps=0.5, account__max_position=30)


@dataclass(frozen=True)
class Learned:
    """A training, and what stood behind the graph of a supervised model."""

    kind: str
    experiment: Experiment
    trained: Trained
    bundle: Bundle
    source: tuple[FittedModel, FittedDecider] | None

    @property
    def bars(self) -> Bars:
        """Of a market of the same law that the model has not seen."""
        other = self.experiment.data.model_copy(update={"seed": 99})
        return other.load()["SIMA"]


@pytest.fixture(scope="module", params=sorted(LEARNERS))
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    kind: str = request.param
    chosen, behind = experiment_of(kind), []

    def overheard(path: Path, fitted: FittedModel, decision: FittedDecider, *others: Any) -> Bundle:
        behind.append((fitted, decision))
        return export_fitted(path, fitted, decision, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "export_fitted", overheard)
        trained = LEARNERS[kind](chosen, tmp_path_factory.mktemp(kind) / "run")
    return Learned(kind, chosen, trained, load_bundle(trained.bundle), behind[0] if behind else None)


def seen(learned: Learned) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Every state of the validation span as an account that trades wildly meets it, with its mask."""
    chosen = learned.experiment
    judge = Judge(load_markets(chosen).validation, chosen.account, episode_rules(chosen), 248)
    paths = judge.paths(random_choice(np.random.default_rng(1)))
    return np.concatenate([path.states for path in paths]), np.concatenate([path.masks for path in paths])


def test_the_bundle_says_what_it_is(learned: Learned) -> None:
    manifest, chosen = learned.bundle.manifest, learned.experiment
    assert manifest.kind == learned.kind
    assert manifest.provenance.weights_hash
    assert manifest.provenance.steps == learned.trained.steps > 0
    assert manifest.provenance.config_hash == chosen.hash()
    assert manifest.validation["export_states"] > 800
    assert set(manifest.validation) >= {"log_return", "sharpe", "best_steps", "hold_share"}
    card = (learned.bundle.path / "model_card.md").read_text()
    assert "## What it is not" in card
    if learned.kind not in FITS:
        assert manifest.forecast is None
        assert "## What it forecasts" not in card
        return
    forecast = manifest.forecast
    assert forecast is not None
    assert forecast.label["horizon"] == LABEL["horizon"]
    assert forecast.classes == CLASSES
    assert forecast.columns == chosen.state.columns
    assert forecast.calibration["measured"]["rows"] > 300
    assert forecast.decision["round_trip"] > 0
    for section in ("What it forecasts", "How good the forecast is", "From forecast to action"):
        assert f"## {section}" in card


def test_alone_and_in_a_batch_it_decides_alike_and_never_what_is_masked(learned: Learned) -> None:
    states, masks = seen(learned)
    policy = learned.bundle.policy
    session = ort.InferenceSession((learned.bundle.path / GRAPH).read_bytes(), providers=["CPUExecutionProvider"])
    actions, probabilities = session.run(["action", "probabilities"], {"state": states, "mask": masks})
    alone = [policy.act(states[row : row + 1], masks[row : row + 1]) for row in range(len(states))]
    own = np.array([one.probabilities for one in alone])
    assert np.abs(own - probabilities).max() <= 1e-5
    best_two = np.sort(own, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > 1e-6
    assert (np.array([one.action for one in alone]) == actions)[clear].all()
    assert masks[np.arange(len(masks)), actions].all()
    assert (probabilities[~masks] == 0).all()
    assert len(np.unique(actions)) > 1, "the law was not tested: it always did the same"


def test_the_graph_is_the_model(learned: Learned) -> None:
    """Its own answer, without the graph; that of the agents is tested in test_export.py and test_law_dqn.py."""
    if learned.source is None:
        assert learned.kind not in FITS
        return
    states, masks = seen(learned)
    fitted, decision = learned.source
    tolerance = 1e-6 if learned.kind == "xgboost" else 1e-5
    actions, probabilities = fitted.decide(decision.decider, states, masks)
    alone = [learned.bundle.policy.act(states[row : row + 1], masks[row : row + 1]) for row in range(len(states))]
    assert np.abs(np.array([one.probabilities for one in alone]) - probabilities).max() <= tolerance
    assert (np.array([one.action for one in alone]) == actions).all()


def test_the_forecast_stands_beside_the_decision(learned: Learned) -> None:
    states, _ = seen(learned)
    policy = learned.bundle.policy
    assert isinstance(policy, OnnxPolicy)
    forecast = policy.forecast(states)
    if learned.kind not in FITS:
        assert forecast is None
        return
    assert forecast is not None
    assert forecast.shape == (len(states), 3)
    assert np.allclose(forecast.sum(axis=1), 1, atol=1e-5)
    assert forecast.min() >= 0


def test_four_drivers_give_the_same_bits(learned: Learned) -> None:
    bars, span = learned.bars, learned.experiment.split.test
    found = digests(learned.bundle, bars, span.first, span.last)
    assert len(set(found.values())) == 1, found
    terms = setting_of(learned.bundle)
    trace = backtest(learned.kind, learned.bundle.policy, bars, terms, span.first, span.last).trace
    assert np.count_nonzero(trace.fills[:, 0]) > 0, "the law was not tested: nothing was traded"


@pytest.mark.parametrize("kept", [40, 112])
def test_stopped_in_mid_session_and_started_again_it_is_the_same_session(
    learned: Learned, kept: int, tmp_path: Path
) -> None:
    terms, span = setting_of(learned.bundle), learned.experiment.split.test
    history, trading = split_history(learned.bars, terms.state, span.first, span.last)
    trading = trading.take(0, 3 * 75)
    whole, _, _ = paper_trade(learned.bundle, history, trading, tmp_path / "whole.db")
    paper_trade(learned.bundle, history, trading.take(0, kept), tmp_path / "cut.db")
    # As a new process does: everything is loaded again.
    again = load_bundle(learned.bundle.path)
    resumed, recovered, _ = paper_trade(again, history, trading, tmp_path / "cut.db")
    assert recovered == kept
    assert resumed.digest() == whole.digest()
