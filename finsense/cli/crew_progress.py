"""The progress of several trainings: a live line for each on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 30.0


class CrewProgress:
    """Shows how far each training is and how each ended; call it with what the workers say.

    Args:
        console: to write on.
        quiet: show nothing but the ends that are not as wished.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._last_line_s: dict[str, float] = {}
        self._lines: dict[str, TaskID] = {}
        self._bars: Progress | None = None
        if console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=8), TaskProgressColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=console)

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, news: Any) -> None:
        """Show one `finsense.agents.crew.News`."""
        if news.kind == "said":
            if not self._quiet:
                self._show(news.task, news.value)
            return
        if self._bars and news.task in self._lines:
            self._bars.remove_task(self._lines.pop(news.task))
        if news.kind != "done":
            self._console.print(f"{news.task}: {news.value}", soft_wrap=True, markup=False)
        elif not self._quiet:
            figures = news.value["validation"]
            self._console.print(f"{news.task}: finished, log return {figures['log_return']:+.4f} on validation")

    def _show(self, name: str, progress: Any) -> None:
        text = _text(progress)
        if self._bars:
            if name not in self._lines:
                self._lines[name] = self._bars.add_task(name, total=progress.total, text=text)
            self._bars.update(self._lines[name], completed=progress.steps, total=progress.total, text=text)
            return
        now_s = time.monotonic()
        if now_s - self._last_line_s.setdefault(name, now_s) >= _SECONDS_BETWEEN_LINES:
            self._last_line_s[name] = now_s
            self._console.print(f"{name}: {progress.steps:,}/{progress.total:,}  {text}", soft_wrap=True)


def _text(progress: Any) -> str:
    """The pace, and how an agent or a supervised model is getting on."""
    fit = progress.fit
    if fit is not None:
        return f"{progress.steps_per_s:,.0f} rows/s  epoch {fit.epoch}/{fit.epochs}  loss {fit.validation_loss:.4f}"
    judged = "" if progress.last_eval is None else f"  log return {progress.last_eval.log_return:+.4f}"
    return f"{progress.steps_per_s:,.0f} steps/s{judged}"
