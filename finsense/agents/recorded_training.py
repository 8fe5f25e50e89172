"""Trains the experiment of a run's folder with the learner of its kind, and writes down how it ended."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finsense.agents.learners import LEARNERS
from finsense.agents.occupancy import occupied
from finsense.agents.progress import Progress
from finsense.agents.run_folder import CHECKPOINTS, CONFIG, MANIFEST
from finsense.agents.run_record import (
    FAILED,
    FINISHED,
    PRUNED,
    RESULT,
    finished_result,
    read_json,
    read_result,
    write_json,
)
from finsense.agents.training import Trained
from finsense.config import Experiment


def train_recorded(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train with the learner of the experiment's kind, and leave result.json in the run's folder.

    The folder is held meanwhile: a second training in it is refused. Arguments, result and errors as in
    `training.run_training`.
    """
    train = LEARNERS[experiment.agent.kind]
    with occupied(run_dir):
        if resume and read_result(run_dir).get("state") in (FAILED, PRUNED):
            (run_dir / RESULT).unlink()
        try:
            trained = train(experiment, run_dir, resume=resume, report=report)
        except Exception as error:
            if _is_ours(experiment, run_dir):
                facts = {"kind": experiment.agent.kind, "seed": experiment.seed}
                write_json(run_dir / RESULT, {"state": FAILED, **facts, "error": f"{type(error).__name__}: {error}"})
            raise
        write_json(run_dir / RESULT, _result(experiment, trained))
    return trained


def train_missing(
    experiment: Experiment, run_dir: Path, *, report: Callable[[Progress], None] | None = None
) -> dict[str, Any]:
    """The result of the run in a folder: as it is recorded, or gone on with from its last checkpoint, or begun.

    What was left without a whole checkpoint is removed and trained anew.

    Returns:
        What result.json holds.

    Raises:
        As `train_recorded`.
    """
    result = finished_result(run_dir)
    if result is not None:
        return result
    resume = any((run_dir / CHECKPOINTS).glob("step_*"))
    if not resume and (run_dir / CONFIG).exists():
        with occupied(run_dir):
            shutil.rmtree(run_dir)
    train_recorded(experiment, run_dir, resume=resume, report=report)
    return read_result(run_dir)


def _is_ours(experiment: Experiment, run_dir: Path) -> bool:
    """Whether the folder holds this experiment, unfinished: the record of another run, or of a finished one, stays."""
    if not (run_dir / MANIFEST).exists() or read_result(run_dir).get("state") == FINISHED:
        return False
    return bool(read_json(run_dir / MANIFEST).get("config_hash") == experiment.hash())


def _result(experiment: Experiment, trained: Trained) -> dict[str, Any]:
    return {
        "state": FINISHED,
        "kind": experiment.agent.kind,
        "seed": experiment.seed,
        "steps": trained.steps,
        "seconds": round(trained.seconds, 3),
        "weights_hash": trained.weights_hash,
        "validation": trained.validation,
        "alarms": dict(trained.alarms),
    }
