"""`finsense tune`: a search for hyperparameters, from an experiment file to the bundle of its best trial."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.crew_progress import CrewProgress
from finsense.cli.engine import Engine, Jobs, RayAddress, crew_maker
from finsense.cli.errors import USAGE, refuse
from finsense.cli.extras import agents
from finsense.cli.options import AsJson, print_json
from finsense.cli.train import Quiet
from finsense.config import SearchPlan, read_search
from finsense.config.rendering import to_yaml
from finsense.config.search_space import override
from finsense.model.bundle import copy_bundle

# More than a screen of trials is in the JSON document and in the bundle.
_SHOWN = 20


def tune(
    config: ConfigFile,
    trials: Annotated[int, typer.Option("--trials", metavar="N", min=1, help="In all, with those in the storage.")],
    storage: Annotated[
        Path,
        typer.Option(metavar="FILE", dir_okay=False, help="Journal of the trials; made where there is none."),
    ],
    study: Annotated[str | None, typer.Option(metavar="NAME", help="Of the study; the experiment's name.")] = None,
    jobs: Jobs = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Copy the bundle of the best trial there.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Search for better hyperparameters on the validation span; the same command goes on after Ctrl-C or a crash."""
    plan = read_search(config, overrides or [])
    if not storage.parent.is_dir():
        refuse("usage", f"the folder of --storage {storage} does not exist; make it, or choose another file", USAGE)
    name = study or plan.experiment.name
    if Path(name).name != name:
        refuse("usage", f"--study names a folder, so it has no slashes; found {name!r}", USAGE)
    if out is not None and out.exists() and any(out.iterdir()) and not (out / "bundle.json").exists():
        refuse("usage", f"{out} is not empty and holds no bundle; choose another --out", USAGE)
    search = agents("tuning")
    hire = crew_maker(engine, jobs, ray_address, plan.experiment)
    with (
        hire(search.study_folder(storage, name)) as crew,
        CrewProgress(Console(stderr=True), quiet=quiet) as progress,
    ):
        outcome = search.tune(plan, storage, name, trials=trials, crew=crew, tell=progress)
    bundle = outcome.bundle if out is None else copy_bundle(outcome.bundle, out).path
    if as_json:
        print_json(_document(outcome, bundle))
    else:
        _show(Console(), plan, outcome, bundle)


def _document(outcome: Any, bundle: Path) -> dict[str, Any]:
    selection = outcome.selection
    return {
        "folder": str(outcome.folder),
        "bundle": str(bundle),
        "metric": selection.metric,
        "score": outcome.score,
        "chosen": selection.chosen,
        "values": dict(outcome.values),
        "set": [override(key, value) for key, value in outcome.values.items()],
        "importance": dict(outcome.importance),
        "counts": {state: selection.count(state) for state in ("finished", "pruned", "infeasible", "failed")},
        "trials": [one.model_dump(mode="json") for one in selection.candidates],
    }


def _show(console: Console, plan: SearchPlan, outcome: Any, bundle: Path) -> None:
    selection = outcome.selection
    table = Table(title="trials, best first: validation span, after charges", padding=(0, 1), box=None)
    for name in ("trial", "state", "log return", "Sharpe"):
        table.add_column(name, justify="right" if name in ("log return", "Sharpe") else "left")
    ranked = sorted(selection.candidates, key=lambda one: _rank(one, selection.metric))
    for one in ranked[:_SHOWN]:
        figures = ("" if value is None else f"{value:+.4f}" for value in (one.log_return, one.sharpe))
        table.add_row(one.name, one.state, *figures)
    console.print(table)
    if len(ranked) > _SHOWN:
        console.print(f"and {len(ranked) - _SHOWN} more")
    counts = ", ".join(
        f"{selection.count(state)} {state}"
        for state in ("finished", "pruned", "infeasible", "failed")
        if selection.count(state)
    )
    console.print(f"{len(selection.candidates)} trials: {counts}; the test span was not touched")
    console.print(f"{selection.chosen} has the highest {selection.metric}, {outcome.score:+.4f}")
    for key, share in sorted(outcome.importance.items(), key=lambda pair: -pair[1]):
        console.print(f"importance of {key}: {share:.0%}")
    console.print("best values:")
    console.print(to_yaml(dict(outcome.values)), end="", markup=False, highlight=False, soft_wrap=True)
    options = " ".join(f"--set '{override(key, value)}'" for key, value in outcome.values.items())
    console.print(f"train them: finsense train {plan.path} {options}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"trials: {outcome.folder}   (tensorboard --logdir {outcome.folder / 'hparams'})",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"bundle: {bundle}", soft_wrap=True, highlight=False)


def _rank(candidate: Any, metric: str) -> tuple[bool, float]:
    value = getattr(candidate, metric)
    return candidate.state != "finished", float("inf") if value is None else -value
