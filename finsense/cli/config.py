"""`finsense config`: show, validate and describe an experiment file."""

import json
from pathlib import Path
from typing import Annotated

import typer

from finsense.config import ConfigError, LoadedExperiment, experiment_schema, read_experiment

CONFIG_INVALID = 3

config_app = typer.Typer(
    name="config",
    help="Show, validate and describe experiment files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ConfigFile = Annotated[
    Path,
    typer.Argument(metavar="CONFIG", exists=True, dir_okay=False, readable=True, help="The experiment's YAML file."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value, such as agent.gamma=0.9; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]


@config_app.command(epilog="Example: finsense config show configs/ppo_demo.yaml --set agent.gamma=0.9 --origin")
def show(
    config: ConfigFile,
    overrides: Overrides = None,
    resolved: Annotated[bool, typer.Option(help="Include the defaults.")] = True,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value was written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the experiment after extends, overrides and defaults; --json adds its hash."""
    loaded = _read(config, overrides or [])
    if as_json:
        document = {
            "experiment": loaded.experiment.resolved() if resolved else loaded.written(),
            "hash": loaded.experiment.hash(),
        }
        if origin:
            document["origins"] = loaded.origins(resolved=resolved)
        typer.echo(json.dumps(document, indent=2))
    elif origin:
        typer.echo(loaded.annotated_yaml(resolved=resolved), nl=False)
    else:
        typer.echo(loaded.experiment.resolved_yaml() if resolved else loaded.written_yaml(), nl=False)


@config_app.command(epilog="Example: finsense config validate configs/ppo_demo.yaml --set agent.steps=1e6 --json")
def validate(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check the experiment and print everything that is wrong with it; exit code 3 if anything is."""
    try:
        loaded = read_experiment(config, overrides or [])
    except ConfigError as error:
        if as_json:
            problems = [problem.to_json() for problem in error.problems]
            typer.echo(json.dumps({"valid": False, "problems": problems}, indent=2))
        else:
            typer.echo(str(error), err=True)
        raise typer.Exit(CONFIG_INVALID) from error
    if as_json:
        typer.echo(json.dumps({"valid": True, "problems": []}, indent=2))
    else:
        typer.echo(f"{config}: valid, hash {loaded.experiment.hash()}")


@config_app.command(epilog="Example: finsense config schema > experiment.schema.json")
def schema() -> None:
    """Print the JSON Schema of an experiment file, for completion in an editor."""
    typer.echo(json.dumps(experiment_schema(), indent=2))


def _read(config: Path, overrides: list[str]) -> LoadedExperiment:
    try:
        return read_experiment(config, overrides)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(CONFIG_INVALID) from error
