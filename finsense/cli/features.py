"""`finsense features`: which indicators there are and what each is; registers the commands that work on data."""

import inspect
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finsense.cli.errors import USAGE, guarded, refuse
from finsense.cli.features_build import build
from finsense.cli.features_importance import show_importance
from finsense.cli.features_verify import verify
from finsense.cli.options import AsJson, print_json
from finsense.state.extension import ExtensionError, find_indicator, is_reference
from finsense.state.presets import PRESETS
from finsense.state.registry import INDICATORS, Indicator
from finsense.state.spec import StateSpec

features_app = typer.Typer(
    name="features",
    help="What a state is made of: list it, build it, prove it, judge it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for command, name, example in (
    (build, "build", "finsense features build configs/ppo_demo.yaml --columns --out states.parquet"),
    (verify, "verify", "finsense features verify --data bars.parquet --symbol RELIANCE --features core --warmup 300"),
    (show_importance, "importance", "finsense features importance configs/ppo_demo.yaml --horizon 12 --json"),
):
    features_app.command(name, epilog=f"Example: {example}")(guarded(command))
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print docs/features.md.")]


@features_app.command("list", epilog="Example: finsense features list --json")
@guarded
def list_features(as_markdown: AsMarkdown = False, as_json: AsJson = False) -> None:
    """List every indicator with its parameters, columns and lookback, and the presets."""
    found = [_describe(indicator) for indicator in INDICATORS.values()]
    if as_json:
        print_json({"indicators": found, "presets": {name: preset_columns(name) for name in PRESETS}})
        return
    if as_markdown:
        typer.echo(markdown(), nl=False)
        return
    table = Table(box=None, padding=(0, 1))
    for heading in ("indicator", "family", "columns", "lookback", "what it is"):
        table.add_column(heading, overflow="fold")
    for one in found:
        table.add_row(one["name"], one["family"], str(len(one["columns"])), str(one["lookback"]), one["title"])
    console = Console()
    console.print(table)
    for name in PRESETS:
        console.print(f"preset {name}: {len(preset_columns(name))} columns")


@features_app.command(epilog="Example: finsense features show rsi")
@guarded
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An indicator, a preset, or your own: file.py:function.")],
    as_json: AsJson = False,
) -> None:
    """Show one indicator (formula, units, defined values, source) or the columns of a preset."""
    if name in PRESETS:
        columns = preset_columns(name)
        if as_json:
            print_json({"preset": name, "columns": columns})
        else:
            typer.echo("\n".join(columns))
        return
    described = _describe(_found(name))
    if as_json:
        print_json(described)
        return
    parameters = ", ".join(f"{key}: {value:g}" for key, value in described["parameters"].items())
    typer.echo(f"{described['name']} ({described['family']})\n\n{described['text']}\n")
    typer.echo(f"in YAML:  - {name}: {{{parameters}}}" if parameters else f"in YAML:  - {name}")
    typer.echo(f"columns:  {', '.join(described['columns'])}\nlookback: {described['lookback']} bars")
    if described["needs"]:
        typer.echo(f"needs:    {', '.join(described['needs'])}")


def _found(name: str) -> Indicator:
    """A built-in indicator, or one of the user's own; any other name ends the command."""
    if name in INDICATORS:
        return INDICATORS[name]
    if not is_reference(name):
        near = get_close_matches(name, [*INDICATORS, *PRESETS], n=1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        refuse("features", f"unknown indicator or preset `{name}`; {hint}see `finsense features list`", USAGE)
    try:
        return find_indicator(name)[1]
    except ExtensionError as error:
        refuse("features", str(error), USAGE)


def preset_columns(name: str) -> list[str]:
    """The columns of a preset, in order."""
    return list(StateSpec.model_validate({"features": [name], "warmup": 1000}).columns)


def markdown() -> str:
    """The page docs/features.md, made of the kernels' docstrings."""
    lines = [
        "# Indicators",
        "",
        "Made of the kernels' docstrings by `finsense features list --markdown`. Every column is scale-free and",
        "defined on every market. The laws that all of them keep are in `tests/test_law_kernels.py` and",
        "`tests/test_law_indicators.py`, the agreement with TA-Lib and `ta` in `tests/test_indicators_*.py`.",
        "",
        "In YAML: `features: [classic29, session_left, {rsi: {window: 7}}]`. Presets: "
        + ", ".join(f"`{name}` ({len(preset_columns(name))} columns)" for name in PRESETS)
        + ".",
    ]
    families: dict[str, list[Indicator]] = {}
    for indicator in INDICATORS.values():
        families.setdefault(_family(indicator), []).append(indicator)
    for family, members in sorted(families.items()):
        lines += ["", f"## {family}", "", "| indicator | parameters | columns | lookback | needs | what it is |"]
        lines += ["|---|---|---|---:|---|---|"]
        for indicator in members:
            one = _describe(indicator)
            parameters = ", ".join(f"{key} {value:g}" for key, value in one["parameters"].items())
            shown = one["columns"] if len(one["columns"]) <= 5 else [one["columns"][0], "...", one["columns"][-1]]
            columns = ", ".join(f"`{column}`" if column != "..." else column for column in shown)
            needs = ", ".join(f"`{name}`" for name in one["needs"])
            text = " ".join(one["text"].split()).replace("|", "\\|")
            lines.append(f"| `{one['name']}` | {parameters} | {columns} | {one['lookback']} | {needs} | {text} |")
    return "\n".join(lines) + "\n"


def _family(indicator: Indicator) -> str:
    return str(indicator.kernel.__module__).rpartition(".")[2].replace("_", " ")


def _describe(indicator: Indicator) -> dict[str, Any]:
    text = inspect.getdoc(indicator.kernel) or ""
    return {
        "name": indicator.name,
        "family": _family(indicator),
        "title": text.split("\n")[0],
        "text": text,
        "parameters": dict(indicator.defaults),
        "columns": list(indicator.columns(indicator.defaults)),
        "lookback": indicator.lookback(indicator.defaults),
        "needs": list(indicator.needs),
    }
