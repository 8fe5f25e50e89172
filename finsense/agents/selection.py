"""Exports the policy that was chosen among several, with the record of the choice in its bundle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from finsense.agents.markets import episode_rules, span_tape
from finsense.agents.model_card import model_card
from finsense.agents.validation import Choose, Judge
from finsense.config import Experiment
from finsense.model.bundle import GRAPH, Bundle, load_bundle, write_bundle
from finsense.model.manifest import Selection
from finsense.model.policy import Policy

HPARAMS = "hparams"


def export_chosen(source: Path, path: Path, experiment: Experiment, selection: Selection) -> Bundle:
    """Write the bundle of a run to `path`, with how it was chosen; what stood there is replaced.

    Args:
        source: bundle of the chosen run.
        path: of the bundle to write.
        experiment: of the chosen run.
        selection: how it was chosen.

    Raises:
        BundleError: the run's bundle does not verify.
        OSError: it cannot be written; an older bundle at `path` is untouched.
    """
    bundle = load_bundle(source)
    manifest = bundle.manifest
    provenance = manifest.provenance.model_copy(update={"selection": selection})
    manifest = manifest.model_copy(update={"provenance": provenance})
    graph = (source / GRAPH).read_bytes()
    return write_bundle(path, graph, manifest, bundle.golden, bundle.config, model_card(manifest, experiment))


def judge_on_test(source: Path, experiment: Experiment) -> dict[str, Any]:
    """Figures of a run's policy on the test span, computed as those of the validation span are.

    Args:
        source: bundle of the run.
        experiment: of the run.

    Raises:
        BundleError: the bundle does not verify.
        BarsError, HistoryError, CostError: the data do not cover the test span.
    """
    span = experiment.split.test
    tape = span_tape(experiment, experiment.data.load(), span.first, span.last)
    judge = Judge(tape, experiment.account, episode_rules(experiment), experiment.evaluation.sessions_per_year)
    return judge.verdict(judge.paths(_choice(load_bundle(source).policy))).as_dict()


def compare_in_tensorboard(folder: Path, name: str, settings: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Add one run to what TensorBoard's HPARAMS tab compares; where it is there already, nothing is added.

    Args:
        folder: of the group; the comparison lies in its folder `hparams`.
        name: of the run.
        settings: hyperparameter -> value.
        figures: result -> number; one that is undefined is left out.
    """
    place = folder / HPARAMS / name
    if any(place.glob("events.*")):
        return
    plain = {
        key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for key, value in settings.items()
    }
    known = {f"validation/{key}": float(value) for key, value in figures.items() if value is not None}
    with SummaryWriter(str(place)) as writer:
        writer.add_hparams(plain, known, run_name=".")


def _choice(policy: Policy) -> Choose:
    return lambda state, mask: int(policy.act(state[None], mask[None]).action)
