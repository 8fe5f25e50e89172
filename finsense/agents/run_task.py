"""The task of a worker process: train what is missing of one run, tell of it, and stop where it can be resumed."""

import _thread
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finsense.agents.crew import Line
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.recorded_training import train_missing
from finsense.config import Experiment


def train_task(line: Line, values: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """Train an experiment in a folder, see `train_missing`; the progress is said after each rollout.

    Args:
        line: to the crew that gave the task.
        values: `Experiment.resolved()`.
        run_dir: of the run.

    Raises:
        TrainingInterrupted: it was asked to stop, or nobody is there any more; a checkpoint was saved.
        Others as `train_missing`.
    """
    if line.stop_asked():
        raise TrainingInterrupted("stopped before it began")

    def report(progress: Progress) -> None:
        line.say(progress)
        if line.stop_asked():
            # As Ctrl-C would, also where the signal itself is blocked, as in Ray's workers: the training ends after
            # this rollout with a checkpoint.
            _thread.interrupt_main()

    return train_missing(Experiment.model_validate_json(json.dumps(values)), run_dir, report=report)
