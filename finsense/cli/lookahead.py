"""`finsense lookahead`: search an experiment for what knows the future, before money believes in it."""

import datetime as dt
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.errors import GATE
from finsense.cli.extras import environment_drivers
from finsense.cli.options import AsJson, print_json
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Setting
from finsense.evaluation.lookahead import Finished, beyond_checking, leaks_of, search
from finsense.evaluation.lookahead_market import Drive, Leak, Span, Subject, drive_session
from finsense.market.bars import Bars, ist_text
from finsense.market.calendar import IST
from finsense.market.instruments import instrument
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import load_bundle

_COLOURS = {"clean": "green", "found": "bold red", "not checked": "yellow"}


def lookahead(
    config: ConfigFile,
    overrides: Overrides = None,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", exists=True, file_okay=False, help="The policy that was trained on it."),
    ] = None,
    cuts: Annotated[int, typer.Option(min=1, help="Bars at which the future is taken away, over all symbols.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the bars and actions that are drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Search an experiment, and its bundle, for look-ahead: exit 5 on any finding, with the feature and the bar."""
    experiment = load_experiment(config, overrides or [])
    subject = subject_of(experiment, bundle, cuts, seed)
    console = Console(stderr=True)
    with console.status("reading") as status:
        finished = search(subject, lambda name: status.update(f"looking at {name}"))
    notes = [] if isinstance(experiment.data, SimulatedMarket) else beyond_checking(subject.markets)
    if subject.learner_rows is None:
        notes.append("whether the environments keep to this: they need pip install 'finsense[train]'")
    if as_json:
        print_json(_document(experiment, bundle, finished, notes))
    else:
        show_search(Console(), experiment.name, finished, notes)
    if leaks_of(finished):
        raise typer.Exit(GATE)


def subject_of(experiment: Experiment, bundle: Path | None = None, cuts: int = 24, seed: int = 0) -> Subject:
    """What is searched; the environments only where the extra [train] is installed."""
    markets = experiment.data.load()
    setting = Setting(experiment.state, experiment.account, experiment.costs, experiment.evaluation.sessions_per_year)
    drivers: dict[str, Drive] = {"session": drive_session}
    trains = find_spec("gymnasium") is not None
    if trains:
        environments = environment_drivers()
        drivers |= {"env": environments.drive_single, "vector": environments.drive_vector}
    split = experiment.split
    spans = {"train": split.train, "validation": split.validation, "test": split.test}
    return Subject(
        markets,
        setting,
        {name: Span(span.first, span.last) for name, span in spans.items()},
        drivers,
        None if bundle is None else load_bundle(bundle),
        (lambda span: _learner_rows(markets, setting, span)) if trains else None,
        cuts,
        seed,
    )


def _learner_rows(markets: dict[str, Bars], setting: Setting, span: Span) -> NDArray[np.float32]:
    """The training rows that the tape of a learner's environment holds."""
    known = [bars.between(None, span.last) for bars in markets.values()]
    stocks = [(bars, instrument(bars.symbol, derivatives=bars.derivatives)) for bars in known]
    tape = environment_drivers().build_tape(stocks, setting.state, setting.costs, span.first, span.last)
    rows: NDArray[np.float32] = tape.training_rows()
    return rows


def show_search(console: Console, name: str, finished: list[Finished], notes: list[str]) -> None:
    """What was looked at, what was found, and what nobody can look at, for a person."""
    table = Table(title=f"look-ahead in {name}", box=None, padding=(0, 1))
    for heading in ("check", "what is asked", "looked at", "verdict"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "looked at" else "left")
    for one in finished:
        outcome = one.outcome
        count = f"{outcome.count:,} {outcome.unit}" if outcome.count else ""
        verdict = f"[{_COLOURS[one.verdict]}]{one.verdict}[/]"
        asks = f"{one.asks} [yellow]({escape(outcome.unchecked)})[/]" if outcome.unchecked else one.asks
        table.add_row(one.name, asks, count, verdict)
    console.print(table)
    leaks = leaks_of(finished)
    if leaks:
        _show_leaks(console, leaks)
    if notes:
        console.print("\nnot looked at:")
    for note in notes:
        console.print(f"  {note}", highlight=False, markup=False)
    if leaks:
        console.print(f"[bold red]{len(leaks)} found[/]: what this experiment shows cannot be had live")
    else:
        console.print("[green]nothing knows its future[/]")


def _show_leaks(console: Console, leaks: list[Leak]) -> None:
    """One row for each: the check, the feature and the bar, and what was found there."""
    table = Table(title="findings", padding=(0, 1), box=box.HORIZONTALS, show_lines=True)
    for heading, width in (("check", 10), ("feature and bar", 25), ("what was found", None)):
        table.add_column(heading, overflow="fold", width=width)
    for leak in leaks:
        feature = f"{leak.symbol} {leak.feature}" + (f" `{leak.column}`" if leak.column else "")
        place = f"\nbar {leak.bar}\n{ist_text(leak.time_ns)}" if leak.bar >= 0 else ""
        table.add_row(f"[bold red]{leak.check}[/]", escape(feature.strip() + place), escape(leak.detail))
    console.print(table)


def _document(
    experiment: Experiment, bundle: Path | None, finished: list[Finished], notes: list[str]
) -> dict[str, Any]:
    """The documented JSON."""
    leaks = leaks_of(finished)
    return {
        "experiment": experiment.name,
        "hash": experiment.hash(),
        "bundle": None if bundle is None else str(bundle),
        "clean": not leaks,
        "checks": [
            {
                "check": one.name,
                "asks": one.asks,
                "looked_at": one.outcome.count,
                "unit": one.outcome.unit,
                "verdict": one.verdict,
                "unchecked": one.outcome.unchecked or None,
            }
            for one in finished
        ],
        "findings": [
            {
                "check": leak.check,
                "symbol": leak.symbol,
                "feature": leak.feature,
                "column": leak.column or None,
                "bar": leak.bar if leak.bar >= 0 else None,
                "time": _iso(leak.time_ns) if leak.bar >= 0 else None,
                "detail": leak.detail,
            }
            for leak in leaks
        ],
        "not_looked_at": notes,
    }


def _iso(time_ns: int) -> str:
    return dt.datetime.fromtimestamp(time_ns // 1_000_000_000, IST).isoformat()
