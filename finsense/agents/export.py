"""From a trained policy to a verified bundle: the proof that the graph decides alike, golden vectors, the card."""

import datetime as dt
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from finsense.agents.checkpoint import Best
from finsense.agents.golden_bars import golden_bars
from finsense.agents.graph import Decide, ExportError, ExportProof, export_graph, torch_decider, verify_graph
from finsense.agents.learner import Learner
from finsense.agents.markets import Markets
from finsense.agents.model_card import model_card
from finsense.agents.network import weights_hash
from finsense.agents.pathologies import judge_conduct
from finsense.agents.validation import Judge, Verdict, random_choice
from finsense.config import Experiment
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import Bundle, write_bundle
from finsense.model.golden import PROBABILITY_TOLERANCE, record_golden
from finsense.model.manifest import Forecast, Manifest, Provenance
from finsense.model.onnx_policy import OnnxPolicy

# A golden state is decided so clearly that another processor's arithmetic decides it alike.
_CLEAR = 1e-3
_GOLDEN_STATES = 64


@dataclass(frozen=True)
class Lineage:
    """What is left of a training for its bundle, besides the graph.

    Attributes:
        steps: environment steps, or rows of a supervised model, that were trained.
        best_steps: of these, how many the exported weights had seen.
        weights_hash: SHA-256 (hex) of the exported weights.
        forecast: of a supervised model.
        inherited: the days that the models before it were made of, if it was started from one.
    """

    steps: int
    best_steps: int
    weights_hash: str
    forecast: Forecast | None = None
    inherited: tuple[dt.date, dt.date] | None = None


def write_policy_bundle(
    path: Path,
    graph: bytes,
    decide: Decide,
    experiment: Experiment,
    markets: Markets,
    judge: Judge,
    trained: Lineage,
    run: dict[str, Any],
    tolerance: float = PROBABILITY_TOLERANCE,
) -> Bundle:
    """Verify a graph on the validation span and write its bundle, with figures, golden vectors and card.

    Args:
        path: of the bundle.
        graph: inputs state and mask, outputs action and probabilities.
        decide: the source's own answer, which the graph must give too.
        experiment: what was trained.
        markets: its markets.
        judge: of its validation span.
        trained: how.
        run: the run's manifest.
        tolerance: as in `verify_graph`.

    Raises:
        ExportError: the graph does not decide as its source does.
        BundleError: the bundle does not verify; an older one at `path` is untouched.
        OSError: it cannot be written; an older one at `path` is untouched.
    """
    # The states that the policy itself meets, and those of an account that trades wildly: every mask comes up.
    own = judge.paths(lambda state, mask: int(decide(state[None], mask[None])[0][0]))
    walked = own + judge.paths(random_choice(np.random.default_rng(experiment.seed)))
    states = np.concatenate([path.states for path in walked])
    masks = np.concatenate([path.masks for path in walked])
    proof = verify_graph(graph, decide, states, masks, tolerance)
    policy = OnnxPolicy(graph, judge.state_width, judge.action_count)
    chosen = _clear_states(decide, states, masks)
    golden = record_golden(
        policy, states[chosen], masks[chosen], golden_bars(experiment.state, markets.interval), experiment.state
    )
    _, alarms = judge_conduct(own, experiment.account)
    manifest = _manifest(experiment, markets, trained, judge.verdict(own), proof, run, alarms)
    return write_bundle(path, graph, manifest, golden, experiment.resolved_yaml(), model_card(manifest, experiment))


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
    """Put an agent's best weights into its model, and export and verify them; errors as in `write_policy_bundle`."""
    steps = model.num_timesteps
    model.set_parameters(io.BytesIO(best.weights), device="cpu")  # type: ignore[arg-type]
    actor = learner.actor(experiment, model)
    graph = export_graph(actor, judge.state_width, judge.action_count)
    trained = Lineage(steps, best.steps, weights_hash(model.policy))
    return write_policy_bundle(path, graph, torch_decider(actor), experiment, markets, judge, trained, run)


def _clear_states(decide: Decide, states: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Rows spread over the span that are decided clearly."""
    best_two = np.sort(decide(states, masks)[1], axis=1)[:, -2:]
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
    trained: Lineage,
    verdict: Verdict,
    proof: ExportProof,
    run: dict[str, Any],
    alarms: dict[str, str],
) -> Manifest:
    spec, split = experiment.state, experiment.split
    spans = {"train": markets.trained, "validation": (split.validation.first, split.validation.last)}
    spans["test"] = (split.test.first, split.test.last)
    if trained.inherited is not None:
        spans["inherited"] = trained.inherited
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
            steps=trained.steps,
            git_commit=run["git_commit"],
            versions=run["versions"],
            weights_hash=trained.weights_hash,
        ),
        validation={
            "best_steps": trained.best_steps,
            **verdict.as_dict(),
            "export_states": proof.states,
            "export_ties": proof.ties,
            "export_probability_difference": proof.probability_difference,
        },
        alarms=alarms,
        forecast=trained.forecast,
    )
