"""`finsense walkforward`: train and judge an experiment on folds that roll forward in time, over several seeds."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.crew_progress import CrewProgress
from finsense.cli.engine import Engine, Jobs, RayAddress, crew_maker
from finsense.cli.errors import RUNTIME, USAGE, refuse
from finsense.cli.extras import agents
from finsense.cli.options import AsJson, print_json
from finsense.cli.train import RUNS, Quiet, note_command
from finsense.cli.walkforward_tables import walkforward_markdown
from finsense.config import load_experiment

REPORT = "report.md"


def walkforward(
    config: ConfigFile,
    folds: Annotated[
        int, typer.Option("--folds", metavar="K", min=1, help="Folds; the config's spans are the newest.")
    ],
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Trainings of each fold.")] = 5,
    window: Annotated[
        Literal["rolling", "expanding"],
        typer.Option(help="Train on as many sessions in every fold, or on all since the config's first date."),
    ] = "rolling",
    jobs: Jobs = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder; the same command goes on there."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Train nothing: report what is finished in the folder.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Walk an experiment forward: train, choose on validation, judge once on test, beside the baselines.

    Prints Markdown, which also lies in report.md of the folder. The same command goes on after Ctrl-C or a crash.
    """
    experiment = load_experiment(config, overrides or [])
    walking = agents("walkforward")
    plan = walking.plan_walkforward(experiment, folds, seeds, window)
    folder = out or RUNS / f"walkforward_{experiment.name}_{experiment.hash()[:6]}"
    if show and not folder.is_dir():
        refuse("usage", f"{folder} holds no walk-forward; leave --show away to begin one", USAGE)
    hire = crew_maker(engine, jobs, ray_address, experiment)
    walking.open_walkforward(folder, plan)
    if not show:
        note_command(folder)
        with hire(folder) as crew, CrewProgress(Console(stderr=True), quiet=quiet) as progress:
            walking.run_walkforward(folder, plan, crew=crew, tell=lambda news: _tell(progress, news))
    found = walking.report(folder, plan)
    text = walkforward_markdown(found)
    (folder / REPORT).write_text(text, encoding="utf-8")
    if as_json:
        print_json({"folder": str(folder), **found})
    else:
        typer.echo(text, nl=False)
    if found["unfinished"] and not show:
        refuse("train", f"not everything finished; the same command goes on in {folder}", RUNTIME)


def _tell(progress: CrewProgress, news: Any) -> None:
    """The baselines end without anything to tell."""
    if news.kind != "done" or news.value is not None:
        progress(news)
