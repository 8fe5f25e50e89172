"""`finsense parity`: prove that all drivers give the same session to the bit."""

import datetime as dt
import tempfile
from collections.abc import Sequence
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
    SymbolNames,
    ToDate,
    Zone,
    as_date,
    bars_for,
    print_json,
    setting_of,
    symbol_names,
)
from finsense.cli.paper import paper_trade
from finsense.evaluation.backtest import backtest
from finsense.evaluation.joint import backtest_joint, judge_joint
from finsense.live.paper_session import trade_on_paper
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


def joint_digests(
    bundle: Bundle, markets: Sequence[Bars], first: dt.date | None, last: dt.date | None
) -> dict[str, str]:
    """The same of several symbols on one account: one SHA-256 per driver over the traces of all."""
    setting, name = setting_of(bundle), bundle.manifest.name
    driven = environment_drivers().drive_joint(bundle.policy, markets, setting, first, last)
    histories, trading = zip(*(split_history(bars, setting.state, first, last) for bars in markets), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        on_paper = trade_on_paper(bundle, setting, histories, trading, Path(folder) / "parity.db")
    return {
        "vector": judge_joint(name, driven, setting).digest(),
        "backtest": backtest_joint(name, bundle.policy, markets, setting, first, last).digest(),
        "paper": judge_joint(name, on_paper.traces, setting).digest(),
    }


def parity(
    bundle: BundleFolder,
    data: DataFile,
    symbol: SymbolNames,
    first: FromDate = None,
    last: ToDate = None,
    timezone: Zone = None,
    as_json: AsJson = False,
) -> None:
    """Drive single env, vector env, backtest and paper loop over the same bars; exit 5 unless every bit is equal.

    Several symbols trade on one account, which the single env has not.
    """
    names, loaded = symbol_names(symbol), load_bundle(bundle)
    markets = [bars_for(loaded, data, name, timezone) for name in names]
    span = as_date(first), as_date(last)
    drivers = digests(loaded, markets[0], *span) if len(markets) == 1 else joint_digests(loaded, markets, *span)
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
