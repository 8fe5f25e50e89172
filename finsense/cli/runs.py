"""`finsense runs`: what was trained, how it went, how two runs differ, and whether one comes out the same again."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finsense.cli.errors import GATE, USAGE, guarded, refuse
from finsense.cli.extras import agents
from finsense.cli.options import AsJson, print_json
from finsense.cli.progress import TrainingProgress
from finsense.cli.train import RUNS, Quiet

runs_app = typer.Typer(
    name="runs", help="List, show, compare and reproduce trainings.", no_args_is_help=True, rich_markup_mode=None
)

Root = Annotated[Path, typer.Option("--root", metavar="DIR", file_okay=False, help="Where the runs lie.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, its name, or how the name begins.")]

_SORTS = ("age", "score", "steps", "name")
_STATES = ("running", "stopped", "finished", "failed", "pruned", "damaged")
_BARS = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH = 60


@runs_app.command("list", epilog="Example: finsense runs list --state finished --sort score --json")
@guarded
def list_runs(
    root: Root = RUNS,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only those: " + ", ".join(_STATES) + ".")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this experiment.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only those of this kind of agent.")] = None,
    sort: Annotated[str, typer.Option(metavar="KEY", help="By " + ", ".join(_SORTS) + ".")] = "age",
    as_json: AsJson = False,
) -> None:
    """List the runs: what, which seed, how far, how good on validation, in which state."""
    if sort not in _SORTS:
        refuse("usage", f"expected --sort {', '.join(_SORTS)}, found {sort!r}", USAGE)
    if state is not None and state not in _STATES:
        refuse("usage", f"expected --state {', '.join(_STATES)}, found {state!r}", USAGE)
    found = [
        run
        for run in agents("runs_index").find_runs(root)
        if state in (None, run.state) and name in (None, run.name) and kind in (None, run.kind)
    ]
    found.sort(key=lambda run: _order(run, sort))
    if as_json:
        print_json({"root": str(root), "runs": [_document(run) for run in found]})
    elif found:
        _show_list(Console(), found)
    else:
        typer.echo(f"no runs under {root}")


@runs_app.command(epilog="Example: finsense runs show 20261121-072323_ppo_demo_243e09")
@guarded
def show(run: RunName, root: Root = RUNS, as_json: AsJson = False) -> None:
    """Show one run: settings, data, spans, versions, the curve of its evaluations, and what is wrong with it."""
    index = agents("runs_index")
    found = index.named_run(root, run)
    record, settings = agents("run_record"), index.settings_of(found)
    manifest, curve = record.read_json(found.path / "manifest.json"), index.evaluations(found)
    result = record.read_result(found.path)
    document = {
        **_document(found),
        "settings": settings,
        "trained": manifest["trained"],
        "data_hash": manifest["data_hash"],
        "git_commit": manifest["git_commit"],
        "versions": manifest["versions"],
        "weights_hash": result.get("weights_hash"),
        "validation": dict(found.validation),
        "evaluations": [{"steps": steps, "log_return": value} for steps, value in curve],
        "warnings": [*result.get("alarms", {}).values(), *_warnings(found, manifest)],
    }
    if as_json:
        print_json(document)
    else:
        _show_one(Console(), document, curve)


@runs_app.command(epilog="Example: finsense runs compare 20261121-0723 20261121-0841")
@guarded
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two or more runs.")],
    root: Root = RUNS,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: the settings in which they differ, and what they reached."""
    if len(runs) < 2:
        refuse("usage", f"expected two runs or more, found {len(runs)}", USAGE)
    index = agents("runs_index")
    found = [index.named_run(root, name) for name in runs]
    settings = [index.settings_of(run) for run in found]
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = {key: [one.get(key) for one in settings] for key in keys}
    differing = {key: values for key, values in differing.items() if any(value != values[0] for value in values)}
    figures = {
        key: [run.validation.get(key) for run in found]
        for key in dict.fromkeys(key for run in found for key in run.validation)
    }
    labels = [run.label for run in found]
    if as_json:
        results = {"state": [run.state for run in found], "steps": [run.steps for run in found], **figures}
        print_json({"runs": labels, "settings": differing, "results": results})
        return
    console = Console()
    table = Table(padding=(0, 1), box=None)
    for head in ("", *labels):
        table.add_column(head, overflow="fold", justify="left" if not head else "right")
    for key, values in differing.items():
        table.add_row(key, *(str(value) for value in values))
    table.add_row("state", *(run.state for run in found))
    table.add_row("steps", *(f"{run.steps:,}" for run in found))
    for key, values in figures.items():
        table.add_row(key, *("" if value is None else _figure(value) for value in values))
    console.print(table)
    if not differing:
        console.print("their settings are the same")


@runs_app.command(epilog="Example: finsense runs reproduce 20261121-072323_ppo_demo_243e09")
@guarded
def reproduce(
    run: RunName,
    root: Root = RUNS,
    scratch: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Train there, and keep it; else it is removed.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a run again from what it left and compare the weights; exit code 5 when they differ, and what else does."""
    if scratch is not None and scratch.exists() and any(scratch.iterdir()):
        refuse("usage", f"{scratch} is not empty; choose another --scratch", USAGE)
    found = agents("runs_index").named_run(root, run)
    folder = scratch or Path(tempfile.mkdtemp(prefix="finsense-reproduce-"))
    try:
        with TrainingProgress(Console(stderr=True), quiet=quiet) as progress:
            done = agents("reproduction").reproduce(found.path, folder, report=progress)
    finally:
        if scratch is None:
            shutil.rmtree(folder)
    facts = {"same": done.same, "expected": done.expected, "found": done.found, "differs": list(done.differs)}
    if as_json:
        print_json({"run": str(found.path), **facts})
    else:
        typer.echo(f"run:      {found.path}")
        typer.echo(f"expected: {done.expected}")
        typer.echo(f"found:    {done.found or 'not trained, for it cannot come out the same'}")
        for text in done.differs:
            typer.echo(f"differs:  {text}")
        typer.echo("the weights are the same" if done.same else "the weights are NOT the same")
    if not done.same:
        raise typer.Exit(GATE)


def sparkline(values: list[float]) -> str:
    """The values as a line of bars, the lowest and the highest at the ends of the scale; long ones are thinned out."""
    if len(values) > _CURVE_WIDTH:
        values = [values[round(index * (len(values) - 1) / (_CURVE_WIDTH - 1))] for index in range(_CURVE_WIDTH)]
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def _order(run: Any, sort: str) -> Any:
    """Best, furthest and newest first; names in the order of the alphabet."""
    if sort == "score":
        return -run.score if run.score is not None else float("inf")
    return {"steps": -run.steps, "age": -run.started_ns, "name": run.label}[sort]


def _document(run: Any) -> dict[str, Any]:
    return {
        "run": run.label,
        "path": str(run.path),
        "name": run.name,
        "kind": run.kind,
        "seed": run.seed,
        "state": run.state,
        "steps": run.steps,
        "total": run.total,
        "score": run.score,
        "age_s": round(time.time() - run.started_ns / 1e9),
        "bundle": None if run.bundle is None else str(run.bundle),
        "error": run.error or None,
    }


def _show_list(console: Console, runs: list[Any]) -> None:
    table = Table(padding=(0, 1), box=None)
    for head in ("run", "kind", "seed", "steps", "log return", "state", "age", "bundle"):
        justify: Any = "right" if head in ("seed", "steps", "log return", "age") else "left"
        table.add_column(head, justify=justify, overflow="fold")
    for run in runs:
        score = "" if run.score is None else f"{run.score:+.4f}"
        age = _age(time.time() - run.started_ns / 1e9)
        seed = "" if run.seed is None else str(run.seed)
        table.add_row(run.label, run.kind, seed, f"{run.steps:,}", score, run.state, age, "yes" if run.bundle else "")
    console.print(table)
    console.print(f"runs: {len(runs)}; log return: of the best weights on the validation span, after charges")


def _show_one(console: Console, document: dict[str, Any], curve: list[tuple[int, float]]) -> None:
    for key in ("run", "path", "state", "error", "bundle", "git_commit", "weights_hash"):
        if document[key]:
            console.print(f"{key}: {document[key]}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"steps: {document['steps']:,} of {document['total']:,}", highlight=False)
    console.print(f"trained: {' to '.join(document['trained'])}", highlight=False)
    for part in ("settings", "data_hash", "versions", "validation"):
        console.print(f"\n{part}", highlight=False)
        for key, value in document[part].items():
            console.print(f"  {key}: {_figure(value)}", soft_wrap=True, highlight=False, markup=False)
    if curve:
        values = [value for _, value in curve]
        console.print(f"\nlog return on validation, {curve[0][0]:,} to {curve[-1][0]:,} steps", highlight=False)
        console.print(f"  {sparkline(values)}  {min(values):+.4f} to {max(values):+.4f}", highlight=False)
    for text in document["warnings"]:
        console.print(f"warning: {text}", soft_wrap=True, highlight=False, markup=False)


def _warnings(run: Any, manifest: dict[str, Any]) -> list[str]:
    found = []
    if run.state == "stopped":
        found.append(
            f"it stopped before its end; go on with `finsense train {run.path / 'config.resolved.yaml'} "
            f"--resume {run.path}`"
        )
    provenance = agents("provenance")
    found += [
        f"now another version of {line}"
        for line in agents("run_folder").differences(manifest["versions"], provenance.versions())
    ]
    if manifest["git_commit"].endswith("+changes"):
        found.append("it was trained with changes that are in no commit")
    return found


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
