"""`finsense train`: from an experiment file to a verified bundle."""

import datetime as dt
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.errors import USAGE, refuse
from finsense.cli.extras import ppo_learner
from finsense.cli.options import AsJson, print_json
from finsense.cli.progress import TrainingProgress
from finsense.config import Experiment, load_experiment
from finsense.model.bundle import copy_bundle

BUNDLES = Path("checkpoints")
RUNS = Path("runs")


def new_run_folder(experiment: Experiment) -> Path:
    """runs/<date-time>_<name>_<config hash>, not yet made."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    return RUNS / f"{now}_{experiment.name}_{experiment.hash()[:6]}"


def run_training(experiment: Experiment, run_folder: Path, *, resume: bool, console: Console, quiet: bool) -> Any:
    """Train in a folder with the progress on the console; returns `finsense.agents.ppo.Trained`."""
    learner = ppo_learner()
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / "command.txt").open("a") as file:
        file.write(shlex.join(sys.argv) + "\n")
    with TrainingProgress(console, quiet=quiet) as progress:
        return learner.train(experiment, run_folder, resume=resume, report=progress)


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder of the run; the bundle goes to DIR/bundle."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", exists=True, file_okay=False, help="Go on with a run that was stopped."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train the agent of an experiment and export it; Ctrl-C saves a checkpoint, --resume goes on from it."""
    if out is not None and resume is not None:
        refuse("usage", "--resume goes on in its own folder; leave --out away", USAGE)
    experiment = load_experiment(config, overrides or [])
    run_folder = resume or out or new_run_folder(experiment)
    if resume is None and run_folder.exists() and any(run_folder.iterdir()):
        refuse("usage", f"{run_folder} is not empty; choose another --out, or --resume {run_folder}", USAGE)
    console = Console(stderr=True)
    trained = run_training(experiment, run_folder, resume=resume is not None, console=console, quiet=quiet)
    bundle = trained.bundle
    if run_folder.parent == RUNS:
        bundle = copy_bundle(trained.bundle, BUNDLES / experiment.name).path
    if as_json:
        print_json(
            {
                "run": str(run_folder),
                "bundle": str(bundle),
                "steps": trained.steps,
                "seconds": round(trained.seconds, 3),
                "validation": trained.validation,
            }
        )
        return
    typer.echo(f"trained {trained.steps:,} steps in {trained.seconds:.0f} s")
    typer.echo(f"run:        {run_folder}   (tensorboard --logdir {run_folder.parent})")
    typer.echo(f"bundle:     {bundle}")
    for name, value in trained.validation.items():
        typer.echo(f"validation: {name} {value}")
