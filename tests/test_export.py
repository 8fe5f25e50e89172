"""The exported graph is the network: same probabilities, same actions, on every state, alone and in a batch."""

import io
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from small_experiment import experiment

from finsense.agents.golden_bars import golden_bars
from finsense.agents.graph import OPSET, ExportError, export_graph, torch_decider, verify_graph
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.network import MaskedActor, ScaledState
from finsense.agents.ppo import Trained, masked_ppo, train
from finsense.agents.validation import Judge, random_choice
from finsense.config import Experiment
from finsense.envs.vector import TradingVecEnv
from finsense.market.bars import INTERVAL_NS
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.model.bundle import load_bundle
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError
from finsense.state.builder import build_states
from finsense.state.scaler import Scaler, fit_scaler
from finsense.state.spec import StateSpec

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def chosen() -> Experiment:
    return experiment(state__features=["classic29"], state__warmup=60, agent__net_arch=[16, 16], agent__steps=2048)


@pytest.fixture(scope="module")
def trained(chosen: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(chosen, tmp_path_factory.mktemp("export") / "run")


@pytest.fixture(scope="module")
def actor(trained: Trained) -> MaskedActor:
    newest = sorted((trained.run_dir / "checkpoints").iterdir())[-1]
    model = MaskablePPO.load(io.BytesIO((newest / "best.zip").read_bytes()), device="cpu")
    return MaskedActor(model.policy)


@pytest.fixture(scope="module")
def graph(trained: Trained) -> bytes:
    return (trained.bundle / "policy.onnx").read_bytes()


@pytest.fixture(scope="module")
def seen(chosen: Experiment) -> tuple[Floats, NDArray[np.bool_]]:
    """States of an account that trades wildly over the validation span, each under every mask there is."""
    judge = Judge(load_markets(chosen).validation, chosen.account, episode_rules(chosen), 248)
    states = np.concatenate([path.states for path in judge.paths(random_choice(np.random.default_rng(1)))])
    masks = np.array([[buy, True, sell] for buy in (False, True) for sell in (False, True)])
    return np.repeat(states, len(masks), axis=0), np.tile(masks, (len(states), 1))


def torch_answers(actor: MaskedActor, states: Floats, masks: NDArray[np.bool_]) -> tuple[Any, Any]:
    with torch.inference_mode():
        action, probabilities = actor(torch.from_numpy(states), torch.from_numpy(masks))
    return action.numpy(), probabilities.numpy()


def test_the_graph_decides_as_the_network(
    graph: bytes, actor: MaskedActor, seen: tuple[Floats, NDArray[np.bool_]]
) -> None:
    states, masks = seen
    expected_action, expected = torch_answers(actor, states, masks)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    action, probabilities = session.run(["action", "probabilities"], {"state": states, "mask": masks})
    assert (action.dtype, probabilities.dtype) == (np.int64, np.float32)
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    assert np.array_equal(action, expected_action)
    runner = OnnxPolicy(graph, states.shape[1], 3)
    for row in range(len(states)):
        decision = runner.act(states[row : row + 1], masks[row : row + 1])
        assert decision.action == expected_action[row]
        np.testing.assert_allclose(decision.probabilities, expected[row], rtol=0, atol=1e-5)


def test_a_masked_action_has_no_probability_at_all(graph: bytes, seen: tuple[Floats, NDArray[np.bool_]]) -> None:
    states, masks = seen
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    action, probabilities = session.run(None, {"state": states, "mask": masks})
    assert (probabilities[~masks] == 0.0).all()
    assert masks[np.arange(len(masks)), action].all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 29, 33])
def test_a_state_that_is_not_finite_is_refused_and_never_gives_a_masked_action(
    graph: bytes, actor: MaskedActor, seen: tuple[Floats, NDArray[np.bool_]], fault: float, column: int
) -> None:
    states, masks = seen[0][:40].copy(), seen[1][:40]
    states[:, column] = fault
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    exported = session.run(None, {"state": states, "mask": masks})
    for action, probabilities in (exported, torch_answers(actor, states, masks)):
        assert masks[np.arange(len(masks)), action].all()
        assert np.isnan(probabilities).all()
    with pytest.raises(OnnxPolicyError, match="probability nan"):
        OnnxPolicy(graph, states.shape[1], 3).act(states[:1], masks[:1])


def test_another_network_is_refused(
    chosen: Experiment, graph: bytes, actor: MaskedActor, seen: tuple[Floats, NDArray[np.bool_]]
) -> None:
    markets = load_markets(chosen)
    other = masked_ppo(chosen, markets, TradingVecEnv(markets.train, chosen.account, 8, episode_rules(chosen)))
    with pytest.raises(ExportError, match=r"not its source: run one by one, \d+ states differ by up to"):
        verify_graph(graph, torch_decider(MaskedActor(other.policy)), *seen)
    proof = verify_graph(graph, torch_decider(actor), *seen)
    assert proof.states == len(seen[0])
    assert proof.probability_difference <= 1e-5


def test_the_graph_is_pinned_and_tells_nothing_of_the_machine(graph: bytes, actor: MaskedActor) -> None:
    model = onnx.load_from_string(graph)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    for text in (str(Path(__file__).resolve().parents[1]), "site-packages", ".py"):
        assert text.encode() not in graph
    assert export_graph(actor, 63, 3) == graph


def test_the_scaler_is_the_first_layer(chosen: Experiment) -> None:
    markets = load_markets(chosen)
    scaler = fit_scaler(markets.train.training_rows(), chosen.state.history, 5)
    model = masked_ppo(chosen, markets, TradingVecEnv(markets.train, chosen.account, 8, episode_rules(chosen)))
    layer = model.policy.features_extractor
    assert isinstance(layer, ScaledState)
    rows = np.random.default_rng(0).normal(0, 5, (50, len(scaler.mean))).astype(np.float32)
    assert np.array_equal(layer(torch.from_numpy(rows)).numpy(), Scaler(scaler.mean, scaler.factor).apply(rows))
    assert not list(layer.parameters())
    assert {"features_extractor.mean", "features_extractor.factor"} <= set(model.policy.state_dict())


def test_the_bundle_says_where_it_comes_from(chosen: Experiment, trained: Trained) -> None:
    bundle = load_bundle(trained.bundle)
    manifest = bundle.manifest
    assert manifest.state == chosen.state
    assert (manifest.kind, manifest.symbols, manifest.interval) == ("ppo", ("SIMA", "SIMB"), "5m")
    assert manifest.provenance.spans["train"] == ("2023-01-03", "2023-01-31")
    assert manifest.provenance.config_hash == chosen.hash()
    assert set(manifest.provenance.versions) >= {"python", "torch", "stable-baselines3", "sb3-contrib", "onnxruntime"}
    assert manifest.validation["export_states"] > 0
    assert len(bundle.golden.states) == 64
    card = (trained.bundle / "model_card.md").read_text()
    for text in ("not investment advice", manifest.provenance.weights_hash, "`rsi_14`", "2023-02-09", "reward scale"):
        assert text in card


@pytest.mark.parametrize("interval", list(INTERVAL_NS))
def test_golden_bars_hold_a_session_with_its_warmup(interval: str) -> None:
    spec = StateSpec.model_validate({"features": ["classic29"], "warmup": 400, "history": 30})
    bars = golden_bars(spec, interval)
    assert bars.last_date <= date(2025, 12, 31)
    assert golden_bars(spec, interval).data_hash == bars.data_hash
    chosen = experiment()
    rows = build_states(timeline(bars, instrument(bars.symbol), chosen.costs), spec)
    ready = bars.take(rows.first_bar, len(bars))
    assert len(ready) >= 20
    # It is replayed at every load, so it is no longer than that needs.
    assert len(set(ready.session_days.tolist())) <= 25
