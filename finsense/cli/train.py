"""`finsense train`: from an experiment file to a verified bundle, of one seed or of several."""

import datetime as dt
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.crew_progress import CrewProgress
from finsense.cli.engine import Engine, Jobs, RayAddress, crew_maker
from finsense.cli.errors import RUNTIME, USAGE, refuse
from finsense.cli.extras import agents
from finsense.cli.options import AsJson, print_json
from finsense.cli.progress import TrainingProgress
from finsense.cli.seeds_table import seeds_document, show_seeds
from finsense.config import Experiment, TradingAgent, load_experiment
from finsense.model.bundle import copy_bundle

BUNDLES = Path("checkpoints")
RUNS = Path("runs")
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def new_run_folder(experiment: Experiment) -> Path:
    """runs/<date-time>_<name>_<config hash>, not yet made."""
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    return RUNS / f"{now}_{experiment.name}_{experiment.hash()[:6]}"


def run_training(experiment: Experiment, run_folder: Path, *, resume: bool, console: Console, quiet: bool) -> Any:
    """Train in a folder with the progress on the console; returns `finsense.agents.training.Trained`."""
    recorded = agents("recorded_training")
    note_command(run_folder)
    with TrainingProgress(console, quiet=quiet) as progress:
        return recorded.train_recorded(experiment, run_folder, resume=resume, report=progress)


def note_command(folder: Path) -> None:
    """Add this command to the folder's command.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "command.txt").open("a") as file:
        file.write(shlex.join(sys.argv) + "\n")


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Train N seeds, from the experiment's own on; export the median."),
    ] = None,
    jobs: Jobs = None,
    engine: Engine = "local",
    ray_address: RayAddress = None,
    test: Annotated[
        bool, typer.Option("--test", help="With --seeds: judge the exported seed on the test span, once.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Folder of the run; the bundle goes to DIR/bundle."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", exists=True, file_okay=False, help="Go on with a run or a group of seeds."),
    ] = None,
    quiet: Quiet = False,
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
    if seeds is not None or (run_folder / "group.json").exists():
        hire = crew_maker(engine, jobs, ray_address, experiment)
        _train_seeds(console, experiment, run_folder, seeds, hire, resume is not None, test, quiet, as_json)
        return
    if jobs is not None or test or engine != "local" or ray_address is not None:
        refuse("usage", "--jobs, --engine, --ray-address and --test belong to --seeds N", USAGE)
    trained = run_training(experiment, run_folder, resume=resume is not None, console=console, quiet=quiet)
    bundle = _kept(trained.bundle, run_folder, experiment)
    if as_json:
        print_json(
            {
                "run": str(run_folder),
                "bundle": str(bundle),
                "steps": trained.steps,
                "seconds": round(trained.seconds, 3),
                "validation": trained.validation,
                "alarms": trained.alarms,
            }
        )
        return
    agent = isinstance(experiment.agent, TradingAgent)
    what = "steps" if agent else "rows (examples times epochs or rounds)"
    typer.echo(f"trained {trained.steps:,} {what} in {trained.seconds:.0f} s")
    typer.echo(f"run:        {run_folder}   (tensorboard --logdir {run_folder.parent})")
    typer.echo(f"bundle:     {bundle}")
    for name, value in trained.validation.items():
        typer.echo(f"validation: {name} {value:.6g}" if isinstance(value, float) else f"validation: {name} {value}")
    typer.echo("validation: what was exported was chosen on this span, so it flatters; judge it on the test span")
    for text in trained.alarms.values():
        typer.secho(f"warning:    {text}", fg="yellow")


def _train_seeds(
    console: Console,
    experiment: Experiment,
    folder: Path,
    count: int | None,
    hire: Callable[[Path], Any],
    resume: bool,
    test: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    group = agents("seeds")
    seeds = group.open_group(folder, experiment, count, resume)
    note_command(folder)
    with hire(folder) as crew, CrewProgress(console, quiet=quiet) as progress:
        outcomes = group.train_seeds(folder, experiment, seeds, crew=crew, tell=progress)
    outcome = group.conclude(folder, experiment, outcomes, test=test)
    bundle = None if outcome.bundle is None else _kept(outcome.bundle, folder, experiment)
    if as_json:
        print_json(seeds_document(outcome, bundle))
    else:
        show_seeds(Console(), outcome, bundle)
    if any(one.state != "finished" for one in outcome.seeds):
        refuse("train", f"not every seed finished; go on with --resume {folder}", RUNTIME)


def _kept(bundle: Path, folder: Path, experiment: Experiment) -> Path:
    """The bundle of a run under runs/ is copied to checkpoints/<name>; the bundle of another folder stays there."""
    return copy_bundle(bundle, BUNDLES / experiment.name).path if folder.parent == RUNS else bundle
