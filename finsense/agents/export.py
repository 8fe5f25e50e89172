"""From a trained network to a verified bundle: the graph, the proof that it decides alike, golden vectors, the card."""

import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from finsense.agents.checkpoint import Best
from finsense.agents.golden_bars import golden_bars
from finsense.agents.learner import Learner
from finsense.agents.markets import Markets
from finsense.agents.model_card import model_card
from finsense.agents.network import weights_hash
from finsense.agents.pathologies import judge_conduct
from finsense.agents.validation import Judge, actor_choice, random_choice
from finsense.config import Experiment
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import Bundle, write_bundle
from finsense.model.golden import PROBABILITY_TOLERANCE, record_golden
from finsense.model.manifest import Manifest, Provenance
from finsense.model.onnx_policy import OnnxPolicy

# Written by torch.export, the exporter that torch maintains. The opset is pinned: a newer torch must not change graphs.
OPSET = 20
# Two actions this close in probability are a tie: float32 arithmetic in another order may name either one.
TIE = 1e-6
# A golden state is decided so clearly that another processor's arithmetic decides it alike.
_CLEAR = 1e-3
_GOLDEN_STATES = 64


class ExportError(ValueError):
    """A graph that does not decide as the network does."""


@dataclass(frozen=True)
class ExportProof:
    """What the export was verified on.

    Attributes:
        states: how many states and masks.
        ties: of these, so many had two best actions within TIE.
        probability_difference: largest difference of a probability.
    """

    states: int
    ties: int
    probability_difference: float


def export_graph(actor: nn.Module, state_width: int, action_count: int) -> bytes:
    """The network as an ONNX graph: scaler, layers and mask inside, any number of rows."""
    rows = torch.export.Dim("N")
    example = torch.zeros(2, state_width), torch.ones(2, action_count, dtype=torch.bool)
    # It warns of its own deprecations and of torchvision, which has no part in this.
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                actor.eval(),
                example,
                input_names=["state", "mask"],
                output_names=["action", "probabilities"],
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"state": {0: rows}, "mask": {0: rows}},
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    assert program is not None
    return _without_remarks(program.model_proto)


def verify_graph(graph: bytes, actor: nn.Module, states: NDArray[np.float32], masks: NDArray[np.bool_]) -> ExportProof:
    """Compare the graph with the network on every state, one by one and all at once.

    Args:
        graph: the ONNX graph.
        actor: the network.
        states: (N, F) float32.
        masks: (N, A) bool.

    Raises:
        ExportError: a probability differs by more than 1e-5, an action differs, or a masked action is chosen.
    """
    with torch.inference_mode():
        outputs = actor(torch.from_numpy(states), torch.from_numpy(masks))
    expected_action, expected = (output.numpy() for output in outputs)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    runner = OnnxPolicy(graph, states.shape[1], masks.shape[1])
    decisions = [runner.act(states[row : row + 1], masks[row : row + 1]) for row in range(len(states))]
    together = session.run(["action", "probabilities"], {"state": states, "mask": masks})
    alone = np.array([one.action for one in decisions]), np.array([one.probabilities for one in decisions])
    best_two = np.sort(expected, axis=1)[:, -2:]
    tied = best_two[:, 1] - best_two[:, 0] <= TIE
    largest = 0.0
    for how, (action, probabilities) in (("one by one", alone), ("all at once", together)):
        difference = np.abs(probabilities - expected).max(axis=1)
        _refuse(difference > PROBABILITY_TOLERANCE, how, f"differ by up to {difference.max():.2e} in probability")
        _refuse((action != expected_action) & ~tied, how, "are decided otherwise")
        _refuse(~masks[np.arange(len(masks)), action], how, "are answered with a masked action")
        _refuse((probabilities[~masks] != 0).any(keepdims=True), how, "give a masked action some probability")
        largest = max(largest, float(difference.max()))
    return ExportProof(len(states), int(tied.sum()), largest)


def export_bundle(
    path: Path,
    learner: Learner,
    experiment: Experiment,
    markets: Markets,
    model: BaseAlgorithm,
    judge: Judge,
    best: Best,
    run: dict[str, Any],
) -> Bundle:
    """Put the best weights into the model, export and verify them on the validation span, and write the bundle.

    Raises:
        ExportError: the graph does not decide as the network does.
        BundleError: the bundle does not verify; an older one at `path` is untouched.
        OSError: it cannot be written; an older one at `path` is untouched.
    """
    steps = model.num_timesteps
    model.set_parameters(io.BytesIO(best.weights), device="cpu")  # type: ignore[arg-type]
    actor = learner.actor(experiment, model)
    graph = export_graph(actor, judge.state_width, judge.action_count)
    # The states that the policy itself meets, and those of an account that trades wildly: every mask comes up.
    own = judge.paths(actor_choice(actor))
    walked = own + judge.paths(random_choice(np.random.default_rng(experiment.seed)))
    states = np.concatenate([path.states for path in walked])
    masks = np.concatenate([path.masks for path in walked])
    proof = verify_graph(graph, actor, states, masks)
    policy = OnnxPolicy(graph, judge.state_width, judge.action_count)
    chosen = _clear_states(actor, states, masks)
    golden = record_golden(
        policy, states[chosen], masks[chosen], golden_bars(experiment.state, markets.interval), experiment.state
    )
    _, alarms = judge_conduct(own, experiment.account)
    manifest = _manifest(experiment, markets, weights_hash(model.policy), steps, best, proof, run, alarms)
    return write_bundle(path, graph, manifest, golden, experiment.resolved_yaml(), model_card(manifest, experiment))


def _clear_states(actor: nn.Module, states: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Rows spread over the span that are decided clearly."""
    with torch.inference_mode():
        _, probabilities = actor(torch.from_numpy(states), torch.from_numpy(masks))
    best_two = np.sort(probabilities.numpy(), axis=1)[:, -2:]
    clear = np.flatnonzero(best_two[:, 1] - best_two[:, 0] > _CLEAR)
    if not len(clear):
        raise ExportError(
            "the policy decides no state of the validation span clearly: every legal action has the same probability. "
            "It has learned nothing yet; train longer"
        )
    return clear[np.linspace(0, len(clear) - 1, min(_GOLDEN_STATES, len(clear))).astype(np.intp)]


def _manifest(
    experiment: Experiment,
    markets: Markets,
    weights: str,
    steps: int,
    best: Best,
    proof: ExportProof,
    run: dict[str, Any],
    alarms: dict[str, str],
) -> Manifest:
    spec, split = experiment.state, experiment.split
    spans = {"train": markets.trained, "validation": (split.validation.first, split.validation.last)}
    spans["test"] = (split.test.first, split.test.last)
    return Manifest(
        name=experiment.name,
        kind=experiment.agent.kind,
        symbols=markets.train.symbols,
        interval=markets.interval,
        derivatives=False if isinstance(experiment.data, SimulatedMarket) else experiment.data.derivatives,
        state=spec,
        state_hash=spec.hash(),
        columns=spec.columns,
        actions=experiment.account.action_names,
        account=experiment.account,
        costs=experiment.costs,
        sessions_per_year=experiment.evaluation.sessions_per_year,
        provenance=Provenance(
            config_hash=experiment.hash(),
            data_hash=markets.data_hash,
            spans={name: (first.isoformat(), last.isoformat()) for name, (first, last) in spans.items()},
            seed=experiment.seed,
            steps=steps,
            git_commit=run["git_commit"],
            versions=run["versions"],
            weights_hash=weights,
        ),
        validation={
            "best_steps": best.steps,
            **best.verdict.as_dict(),
            "export_states": proof.states,
            "export_ties": proof.ties,
            "export_probability_difference": proof.probability_difference,
        },
        alarms=alarms,
    )


def _refuse(at_fault: NDArray[np.bool_], how: str, what: str) -> None:
    rows = np.flatnonzero(at_fault)
    if len(rows):
        raise ExportError(
            f"the exported graph is not the network: run {how}, {len(rows)} states {what} (rows {rows[:3].tolist()}); "
            "the bundle was not written"
        )


def _without_remarks(model: onnx.ModelProto) -> bytes:
    """The graph without the exporter's remarks, which name source files and stacks of this machine."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
