"""The progress of a training: a live line on a terminal, a plain line every few seconds elsewhere."""

import math
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Shows the pace, how the learner is getting on and the time left; call it with the learner's progress."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._last_line_s = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                # Narrow enough for a terminal of 80 columns.
                BarColumn(bar_width=8),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self._task = self._bar.add_task("training", total=None, text="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, progress: Any) -> None:
        """Show one `finsense.agents.progress.Progress`."""
        text = _fit_text(progress) if math.isnan(progress.hold_share) else _agent_text(progress)
        if self._bar:
            self._bar.update(self._task, completed=progress.steps, total=progress.total, text=text)
        elif not self._quiet and time.monotonic() - self._last_line_s >= _SECONDS_BETWEEN_LINES:
            self._last_line_s = time.monotonic()
            self._console.print(
                f"{progress.steps:,}/{progress.total:,}  {text}  {progress.seconds_left:.0f} s left", soft_wrap=True
            )


def _agent_text(progress: Any) -> str:
    reward, trades = _known(progress.reward_mean, "+.2f"), _known(progress.trades_per_episode, ".1f")
    return f"{progress.steps_per_s:,.0f} steps/s reward {reward} {trades} trades/episode hold {progress.hold_share:.0%}"


def _fit_text(progress: Any) -> str:
    """Of a supervised model, which has no episodes."""
    pace, fit = f"{progress.steps_per_s:,.0f} rows/s", progress.fit
    if fit is None:
        return pace
    return (
        f"{pace} epoch {fit.epoch}/{fit.epochs} loss {fit.validation_loss:.4f} (best {fit.best_loss:.4f}) "
        f"right {fit.validation_accuracy:.1%}"
    )


def _known(value: float, form: str) -> str:
    """The value, or a dash while no episode has ended."""
    return "-" if math.isnan(value) else format(value, form)
