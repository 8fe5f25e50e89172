"""What a training tells of itself while it runs, and the wish to stop it."""

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
class Progress:
    """How far a training is, after each rollout.

    Attributes:
        steps: environment steps done.
        total: environment steps in all, whole rollouts.
        steps_per_s: over this process.
        seconds_left: at that pace.
        reward_mean: of the last 100 episodes; NaN before the first has ended.
        trades_per_episode: fills / 2 of the last 100 episodes; NaN before the first has ended.
        hold_share: share of the rollout's decisions that hold.
        last_eval: the last evaluation, if there was one; of a resumed run the best one, until the next.
        evaluated: environment steps at the last evaluation; 0 before the first.
    """

    steps: int
    total: int
    steps_per_s: float
    seconds_left: float
    reward_mean: float
    trades_per_episode: float
    hold_share: float
    last_eval: Verdict | None
    evaluated: int


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
        log.info("interrupted: stopping with a checkpoint after this rollout; press Ctrl-C again to stop at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, previous)
