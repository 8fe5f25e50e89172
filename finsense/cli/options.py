"""The options that several commands share, and how their texts become values."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from finsense.cli.errors import USAGE, refuse
from finsense.evaluation.backtest import Setting
from finsense.market.bars import Bars
from finsense.market.sources.files import References, load_bars
from finsense.model.bundle import Bundle
from finsense.state.spec import StateSpec

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of an exported policy.")]
DataFile = Annotated[
    Path,
    typer.Option("--data", metavar="FILE", exists=True, dir_okay=False, help="Bars: .parquet, .csv or .csv.gz."),
]
SymbolName = Annotated[str, typer.Option("--symbol", metavar="S", help="Which symbol of the file.")]
SymbolNames = Annotated[
    str,
    typer.Option("--symbol", metavar="S[,S...]", help="Which symbol of the file; several with commas, one account."),
]
FromDate = Annotated[str | None, typer.Option("--from", metavar="DATE", help="First date (IST), inclusive.")]
ToDate = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last date (IST), inclusive.")]
Zone = Annotated[str | None, typer.Option("--timezone", help="Zone of stamps that carry none, e.g. Asia/Kolkata.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]


def as_date(text: str | None) -> dt.date | None:
    """The date that an option names; a wrong one ends the command with exit code 2."""
    if text is None:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        refuse("usage", f"expected a date like 2023-12-01, found {text!r}", USAGE)


def symbol_names(text: str) -> list[str]:
    """The symbols that an option names, by name; none, or one twice, ends the command with exit code 2."""
    names = sorted(name.strip() for name in text.split(",") if name.strip())
    if not names or len(set(names)) < len(names):
        refuse("usage", f"expected --symbol with one symbol or several different ones, found {text!r}", USAGE)
    return names


def bars_for(bundle: Bundle, data: Path, symbol: str, timezone: str | None) -> Bars:
    """The bars of a file, at the interval that the bundle was trained on, beside the series that its config names."""
    manifest = bundle.manifest
    bars = load_bars(data, symbol, manifest.interval, timezone=timezone, derivatives=manifest.derivatives)
    return beside_references(bars, manifest.state, _references_of(bundle))


def _references_of(bundle: Bundle) -> Any:
    """What the config of a bundle says under `data.references`; None where it says nothing."""
    data = yaml.safe_load(bundle.config).get("data", {})
    return data.get("references")


def beside_references(bars: Bars, spec: StateSpec, references: Any) -> Bars:
    """The bars with what the state reads of other series, unless they know it already.

    Args:
        bars: of the stock.
        spec: the state.
        references: as `data.references` of a config; None where it names no series.

    Raises:
        BarsError: a series cannot be read, or does not cover the bars.
    """
    needed = {name for feature in spec.features for name in feature.indicator.needs}
    if references is None or needed <= set(bars.extra):
        return bars
    return References.model_validate(references).beside({bars.symbol: bars})[bars.symbol]


def setting_of(bundle: Bundle) -> Setting:
    """The terms a bundle was trained under."""
    manifest = bundle.manifest
    return Setting(manifest.state, manifest.account, manifest.costs, manifest.sessions_per_year)


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout, and nothing else."""
    typer.echo(json.dumps(document, indent=2, default=str, allow_nan=False))
