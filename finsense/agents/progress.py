"""What a training tells of itself while it runs, and the wish to stop it."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import structlog

from finsense.agents.validation import Verdict

log = structlog.get_logger()


@dataclass(frozen=True)
class FitFigures:
    """How a supervised model is getting on, after its last whole pass.

    Attributes:
        epoch: passes over the training rows (or rounds of boosting) done.
        epochs: passes at most; it may stop earlier.
        train_loss: of that pass.
        validation_loss: after it.
        validation_accuracy: share of the validation examples whose class it names.
        best_loss: the lowest validation loss so far.
    """

    epoch: int
    epochs: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    best_loss: float


@dataclass(frozen=True)
class Progress:
    """How far a training is: of an agent after each rollout, of a supervised model every second or pass.

    Attributes:
        steps: environment steps done; of a supervised model training rows seen.
        total: in all: whole rollouts, or rows of all passes (it may stop earlier).
        steps_per_s: over this process.
        seconds_left: at that pace.
        reward_mean: of an agent's last 100 episodes; NaN before the first has ended.
        trades_per_episode: fills / 2 of the last 100 episodes; NaN before the first has ended.
        hold_share: share of the rollout's decisions that hold.
        last_eval: the agent's last evaluation, if there was one; of a resumed run the best one, until the next.
        evaluated: environment steps at the last evaluation; 0 before the first.
        fit: of a supervised model in place of these figures; None for an agent, and before the first pass is done.
    """

    steps: int
    total: int
    steps_per_s: float
    seconds_left: float
    reward_mean: float = math.nan
    trades_per_episode: float = math.nan
    hold_share: float = math.nan
    last_eval: Verdict | None = None
    evaluated: int = 0
    fit: FitFigures | None = None


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C: a checkpoint was saved, the run can be resumed."""


@contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that training stops where it can be resumed; the second stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may handle signals.
        yield asked
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(signum: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGINT, previous)
        log.info("interrupted: stopping where the run can be resumed; press Ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)
