"""`finsense demo`: the whole main job on a simulated market."""

import time
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console

from finsense.cli.errors import GATE
from finsense.cli.options import AsJson, print_json, setting_of
from finsense.cli.paper import paper_trade
from finsense.cli.parity import digests, show_parity
from finsense.cli.report import save_report
from finsense.cli.tables import show_reports
from finsense.cli.train import new_run_folder, run_training
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Report, backtest, judge
from finsense.evaluation.baselines import run_baselines
from finsense.market.bars import Bars
from finsense.market.sources.files import load_bars
from finsense.model.bundle import Bundle, load_bundle
from finsense.state.span import split_history


def demo(
    out: Annotated[Path | None, typer.Option(metavar="DIR", file_okay=False, help="Folder of the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train, export, backtest, paper-trade and prove parity on a simulated market; nothing is downloaded."""
    console = Console(stderr=as_json, soft_wrap=True)
    started_s = time.monotonic()
    with resources.as_file(resources.files("finsense.cli").joinpath("ppo_demo.yaml")) as path:
        experiment = load_experiment(path)
    run_folder = out or new_run_folder(experiment)
    console.rule("1  train and export")
    console.print(f"{experiment.agent.steps:,} steps on a simulated mean-reverting market; run folder {run_folder}")
    trained = run_training(experiment, run_folder, resume=False, console=console, quiet=False)
    bundle = load_bundle(trained.bundle)
    bars = _save_market(experiment, run_folder / "market.parquet")
    document = _judge(console, experiment, bundle, bars, run_folder)
    document["seconds"] = round(time.monotonic() - started_s, 1)
    _say_where(console, document, experiment)
    if as_json:
        print_json(document)
    if not document["parity"]["equal"]:
        raise typer.Exit(GATE)


def _save_market(experiment: Experiment, path: Path) -> Bars:
    """Write the simulated bars to a file and read them back, so that every later command sees the same."""
    (bars,) = experiment.data.load().values()
    frame = pd.DataFrame(
        {
            "ts": pd.to_datetime(bars.time_ns, unit="ns", utc=True).tz_convert("Asia/Kolkata"),
            "symbol": bars.symbol,
            "open": bars.open,
            "high": bars.high,
            "low": bars.low,
            "close": bars.close,
            "volume": bars.volume,
            **bars.extra,
        }
    )
    frame.to_parquet(path, index=False)
    return load_bars(path, bars.symbol, bars.interval)


def _judge(console: Console, experiment: Experiment, bundle: Bundle, bars: Bars, run_folder: Path) -> dict[str, Any]:
    """Backtest, paper session, parity and report on the held-back span."""
    setting, span = setting_of(bundle), experiment.split.test
    sma = experiment.evaluation.sma
    console.rule(f"2  backtest on unseen bars, {span.first} to {span.last}")
    judged = backtest(bundle.manifest.name, bundle.policy, bars, setting, span.first, span.last)
    others = run_baselines(
        bars, setting, span.first, span.last, seed=experiment.evaluation.seed, fast=sma.fast, slow=sma.slow
    )
    show_reports(console, [judged, *others])
    console.rule("3  paper session over the same bars, with a journal")
    on_paper = _paper(bundle, bars, experiment, run_folder / "journal.db")
    console.print(f"{len(on_paper.trace.time_ns)} bars, final equity as in the backtest: {_same(judged, on_paper)}")
    console.rule("4  parity of environment, vector environment, backtest and paper")
    drivers = digests(bundle, bars, span.first, span.last)
    show_parity(console, drivers)
    report = save_report(
        run_folder / "report.html",
        judged,
        others,
        setting,
        interval=bars.interval,
        bundle_id=bundle.identity,
        config=bundle.config,
        parity=drivers,
        facts={"market": "simulated: a demonstration, not a forecast of any real return"},
    )
    return {
        "run": str(run_folder),
        "bundle": str(bundle.path),
        "market": str(run_folder / "market.parquet"),
        "journal": str(run_folder / "journal.db"),
        "report": str(report),
        "backtest": judged.summary(),
        "baselines": {one.name: one.summary() for one in others},
        "paper": on_paper.summary(),
        "parity": {"drivers": drivers, "equal": len(set(drivers.values())) == 1},
    }


def _paper(bundle: Bundle, bars: Bars, experiment: Experiment, journal: Path) -> Report:
    setting, span = setting_of(bundle), experiment.split.test
    history, trading = split_history(bars, setting.state, span.first, span.last)
    trace, _, _ = paper_trade(bundle, history, trading, journal)
    return judge("paper", bars.symbol, trace, setting)


def _same(one: Report, other: Report) -> str:
    return "yes" if one.trace.digest() == other.trace.digest() else "NO"


def _say_where(console: Console, document: dict[str, Any], experiment: Experiment) -> None:
    console.rule("where everything lies")
    for name in ("run", "bundle", "market", "journal", "report"):
        console.print(f"{name:<9} {document[name]}")
    span = experiment.split.test
    symbol = experiment.data.symbols[0]
    console.print(f"done in {document['seconds']} s. Try next:")
    console.print(
        f"  .venv/bin/finsense backtest {document['bundle']} --data {document['market']} --symbol {symbol} "
        f"--from {span.first} --to {span.last}"
    )
    console.print(f"  .venv/bin/tensorboard --logdir {document['run']}")
