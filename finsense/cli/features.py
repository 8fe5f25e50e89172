"""`finsense features`: which indicators there are and what each is; registers the commands that work on data."""

import inspect
from functools import cache
from importlib import resources
from typing import Annotated, Any

import typer
import yaml
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
from finsense.state.spec import StateSpec, unknown_name

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
    typer.echo(f"{described['name']} ({described['family']})\n\n{described['text'] or '(no docstring)'}\n")
    typer.echo(f"in YAML:  - {name}: {{{parameters}}}" if parameters else f"in YAML:  - {name}")
    typer.echo(f"columns:  {', '.join(described['columns'])}\nlookback: {described['lookback']} bars")
    if described["talib"]:
        typer.echo(f"TA-Lib:   {_talib_text(described['talib'])}")
    if described["needs"]:
        typer.echo(f"needs:    {', '.join(described['needs'])}")


def _found(name: str) -> Indicator:
    """A built-in indicator, or one of the user's own; any other name ends the command."""
    if name in INDICATORS:
        return INDICATORS[name]
    if not is_reference(name):
        refuse("features", unknown_name(name), USAGE)
    try:
        return find_indicator(name)[1]
    except ExtensionError as error:
        refuse("features", str(error), USAGE)


def preset_columns(name: str) -> list[str]:
    """The columns of a preset, in order."""
    return list(StateSpec.model_validate({"features": [name], "warmup": 1000}).columns)


def markdown() -> str:
    """The page docs/features.md, made of the kernels' docstrings."""
    version, bars = _talib()["talib"], _talib()["bars"]
    lines = [
        "# Indicators",
        "",
        "Made of the kernels' docstrings by `finsense features list --markdown`. Every column is scale-free and",
        "defined on every market. The laws that all of them keep are in `tests/test_law_kernels.py` and",
        "`tests/test_law_indicators.py`, the agreement with TA-Lib and `ta` in `tests/test_indicators_*.py`, and where",
        "`ta` is wrong in `tests/test_ta_faults.py`.",
        "",
        "*lookback*: bars until a value has its full window; averages that fade want more, see [warmup.md](warmup.md).",
        f"*TA-Lib*: the functions of TA-Lib {version} that give the same, from its first value or once the starts of",
        f"averages have faded, and the largest relative difference on {bars:,} simulated bars; on real bars the tests",
        "hold it below 1e-9. Empty: TA-Lib has no such indicator.",
        "",
        "In YAML: `features: [classic29, session_left, {rsi: {window: 7}}]`. Presets: "
        + ", ".join(f"`{name}` ({len(preset_columns(name))} columns)" for name in PRESETS)
        + ".",
    ]
    families: dict[str, list[Indicator]] = {}
    for indicator in INDICATORS.values():
        families.setdefault(_family(indicator), []).append(indicator)
    for family, members in sorted(families.items()):
        lines += [
            "",
            f"## {family}",
            "",
            "| indicator | parameters | columns | lookback | TA-Lib | needs | what it is |",
        ]
        lines += ["|---|---|---|---:|---|---|---|"]
        for indicator in members:
            one = _describe(indicator)
            parameters = ", ".join(f"{key} {value:g}" for key, value in one["parameters"].items())
            shown = one["columns"] if len(one["columns"]) <= 5 else [one["columns"][0], "...", one["columns"][-1]]
            columns = ", ".join(f"`{column}`" if column != "..." else column for column in shown)
            needs = ", ".join(f"`{name}`" for name in one["needs"])
            talib = _talib_text(one["talib"])
            text = " ".join(one["text"].split()).replace("|", "\\|")
            lines.append(
                f"| `{one['name']}` | {parameters} | {columns} | {one['lookback']} | {talib} | {needs} | {text} |"
            )
    return "\n".join(lines) + "\n"


@cache
def _talib() -> dict[str, Any]:
    """What `tests/talib_agreement.py` measured; TA-Lib itself is not needed here."""
    text = resources.files("finsense.cli").joinpath("talib_agreement.yaml").read_text(encoding="utf-8")
    measured: dict[str, Any] = yaml.safe_load(text)
    return measured


def _talib_text(measured: dict[str, Any] | None) -> str:
    """The functions and the difference; below 1e-15 it is the rounding of one operation."""
    if measured is None:
        return ""
    difference = measured["difference"]
    size = "below 1e-15" if difference < 1e-15 else f"{difference:.0e}"
    return f"{', '.join(measured['functions'])}: {size}"


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
        "talib": _talib()["indicators"].get(indicator.name) if indicator.name in INDICATORS else None,
    }
