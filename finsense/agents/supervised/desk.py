"""What a fitting is handed besides its data: where it writes, whom it tells, what it starts from."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from finsense.agents.progress import Progress


@dataclass(frozen=True)
class FittingDesk:
    """The surroundings of one fitting.

    Attributes:
        checkpoints: the folder of its checkpoints.
        resume: whether to go on from the newest of them.
        writer: of TensorBoard's curves.
        asked_to_stop: set when it shall save and raise `TrainingInterrupted` after the epoch that is under way.
        report: called with the progress after each epoch.
        columns: (c,) int64, places of the market columns that the model may read, ascending; all of them or a choice.
        warm_start: source of an earlier model of the same kind (see `finsense.agents.supervised.source`); None: afresh.
    """

    checkpoints: Path
    resume: bool
    writer: SummaryWriter
    asked_to_stop: threading.Event
    report: Callable[[Progress], None] | None
    columns: NDArray[np.int64]
    warm_start: bytes | None = None
