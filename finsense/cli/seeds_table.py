"""A group of seeds as a table and as a JSON document."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from finsense.evaluation.wording import decimal


def seeds_document(outcome: Any, bundle: Path | None) -> dict[str, Any]:
    """What `finsense train --seeds --json` prints of a `finsense.agents.seeds.GroupOutcome`."""
    selection = outcome.selection
    return {
        "group": str(outcome.folder),
        "bundle": None if bundle is None else str(bundle),
        "metric": None if selection is None else selection.metric,
        "interquartile_mean": None if selection is None else selection.interquartile_mean,
        "interval": None if selection is None or selection.interval is None else list(selection.interval),
        "chosen": None if selection is None else selection.chosen,
        "reason": None if selection is None else selection.reason,
        "test": None if selection is None else selection.test,
        "seeds": [
            {
                "seed": one.seed,
                "state": one.state,
                "run": str(one.run_dir),
                "steps": one.result.get("steps"),
                "weights_hash": one.result.get("weights_hash"),
                "validation": one.result.get("validation"),
                "alarms": one.result.get("alarms"),
                "error": one.error or None,
            }
            for one in outcome.seeds
        ],
    }


def show_seeds(console: Console, outcome: Any, bundle: Path | None) -> None:
    """The seeds side by side, and what they say together."""
    selection = outcome.selection
    table = Table(title="validation span, after charges", padding=(0, 1), box=None)
    for name in ("seed", "state", "steps", "log return", "Sharpe", "drawdown", "weights", ""):
        table.add_column(name, justify="left" if name in ("state", "weights", "") else "right")
    for one in outcome.seeds:
        figures = one.result.get("validation", {})
        exported = selection is not None and one.run_dir.name == selection.chosen
        table.add_row(
            str(one.seed),
            one.state,
            f"{one.result['steps']:,}" if one.result else "",
            _signed(figures.get("log_return")),
            _signed(figures.get("sharpe"), places=2),
            _signed(figures.get("max_drawdown")),
            one.result.get("weights_hash", "")[:8],
            "exported" if exported else "",
        )
    console.print(table)
    for one in outcome.seeds:
        for text in one.result.get("alarms", {}).values():
            console.print(f"warning: seed {one.seed} {text}", markup=False, soft_wrap=True)
        if one.error:
            console.print(f"seed {one.seed}: {one.state}, {one.error}", markup=False, soft_wrap=True)
    if selection is None:
        return
    interval = ""
    if selection.interval is not None:
        interval = f", 95 % interval {selection.interval[0]:+.4f} to {selection.interval[1]:+.4f}"
    finished = selection.count("finished")
    console.print(f"interquartile mean of {finished} seeds: {selection.interquartile_mean:+.4f}{interval}")
    console.print(f"{selection.chosen} is exported: {selection.reason}", soft_wrap=True)
    if selection.test is not None:
        sharpe = selection.test["sharpe"]
        console.print(
            f"test span, touched this once: log return {selection.test['log_return']:+.4f}, "
            f"Sharpe {'undefined' if sharpe is None else decimal(sharpe)}"
        )
    console.print(f"group:  {outcome.folder}   (tensorboard --logdir {outcome.folder})", soft_wrap=True)
    console.print(f"bundle: {bundle}", soft_wrap=True)


def _signed(value: float | None, places: int = 4) -> str:
    return "" if value is None else f"{value:+.{places}f}"
