"""`finsense parity`: prove that four drivers give the same session to the bit."""

import datetime as dt
import tempfile
from pathlib import Path

import typer
from rich.console import Console

from finsense.cli.errors import GATE
from finsense.cli.extras import environment_drivers
from finsense.cli.options import (
    AsJson,
    BundleFolder,
    DataFile,
    FromDate,
    SymbolName,
    ToDate,
    Zone,
    as_date,
    bars_for,
    print_json,
    setting_of,
)
from finsense.cli.paper import paper_trade
from finsense.evaluation.backtest import backtest
from finsense.market.bars import Bars
from finsense.model.bundle import Bundle, load_bundle
from finsense.state.span import split_history


def digests(bundle: Bundle, bars: Bars, first: dt.date | None, last: dt.date | None) -> dict[str, str]:
    """One SHA-256 per driver over states, masks, actions, fills, charges and equity."""
    setting = setting_of(bundle)
    environments = environment_drivers()
    history, trading = split_history(bars, setting.state, first, last)
    with tempfile.TemporaryDirectory() as folder:
        on_paper, _, _ = paper_trade(bundle, history, trading, Path(folder) / "parity.db")
    return {
        "env": environments.drive_single(bundle.policy, bars, setting, first, last).digest(),
        "vector": environments.drive_vector(bundle.policy, bars, setting, first, last).digest(),
        "backtest": backtest(bundle.manifest.name, bundle.policy, bars, setting, first, last).trace.digest(),
        "paper": on_paper.digest(),
    }


def parity(
    bundle: BundleFolder,
    data: DataFile,
    symbol: SymbolName,
    first: FromDate = None,
    last: ToDate = None,
    timezone: Zone = None,
    as_json: AsJson = False,
) -> None:
    """Drive single env, vector env, backtest and paper loop over the same bars; exit 5 unless every bit is equal."""
    loaded = load_bundle(bundle)
    bars = bars_for(loaded, data, symbol, timezone)
    drivers = digests(loaded, bars, as_date(first), as_date(last))
    equal = len(set(drivers.values())) == 1
    if as_json:
        print_json({"drivers": drivers, "equal": equal})
    else:
        show_parity(Console(), drivers)
    if not equal:
        raise typer.Exit(GATE)


def show_parity(console: Console, drivers: dict[str, str]) -> None:
    """The hashes and the verdict, for a person."""
    for driver, digest in drivers.items():
        console.print(f"{driver:<9} {digest}")
    same = len(set(drivers.values())) == 1
    console.print("equal to the bit" if same else "[bold red]NOT EQUAL[/]: do not trade with this version")
