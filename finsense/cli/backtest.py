"""`finsense backtest`: judge a bundle on history, beside the baselines."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finsense.cli.errors import USAGE, refuse
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
from finsense.cli.report import save_report
from finsense.cli.tables import show_joint, show_reports
from finsense.evaluation.backtest import backtest as run_backtest
from finsense.evaluation.baselines import run_baselines
from finsense.evaluation.joint import backtest_joint
from finsense.evaluation.joint_baselines import run_joint_baselines
from finsense.market.bars import Bars
from finsense.model.bundle import Bundle, load_bundle
from finsense.model.ensemble import EnsemblePolicy


def backtest(
    bundle: BundleFolder,
    data: DataFile,
    symbol: SymbolNames,
    first: FromDate = None,
    last: ToDate = None,
    timezone: Zone = None,
    baselines: Annotated[bool, typer.Option(help="Judge the baselines over the same bars.")] = True,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the HTML report there; of one symbol only.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a bundle on history, with its own rules and charges, beside the baselines."""
    names = symbol_names(symbol)
    if report is not None and len(names) > 1:
        refuse("usage", "--report writes the report of one symbol: name one, or leave --report out", USAGE)
    loaded = load_bundle(bundle)
    markets = [bars_for(loaded, data, name, timezone) for name in names]
    span = as_date(first), as_date(last)
    begins, ends = min(bars.first_date for bars in markets), max(bars.last_date for bars in markets)
    seen = loaded.manifest.provenance.seen_between(span[0] or begins, span[1] or ends)
    judge = _judge_one if len(markets) == 1 else _judge_several
    document = judge(Console(quiet=as_json), loaded, markets, span, baselines, report)
    if as_json:
        document["in_sample"] = list(seen)
        if isinstance(loaded.policy, EnsemblePolicy):
            members = {"dropped": loaded.policy.dropped, "holds_always": not loaded.policy.can_decide}
            document |= members if len(markets) == 1 else {"ensemble": members}
        print_json(document)
        return
    console = Console()
    if seen:
        console.print(f"IN SAMPLE: the policy was made of days of this span ({' and '.join(seen)}); it proves nothing.")
    if report is not None:
        console.print(f"report: {report}")


_Span = tuple[dt.date | None, dt.date | None]


def _judge_one(
    console: Console, loaded: Bundle, markets: list[Bars], span: _Span, baselines: bool, report: Path | None
) -> dict[str, Any]:
    """Show what came of one symbol; the documented JSON."""
    bars, setting = markets[0], setting_of(loaded)
    judged = run_backtest(loaded.manifest.name, loaded.policy, bars, setting, *span)
    others = run_baselines(bars, setting, *span) if baselines else []
    if report is not None:
        save_report(
            report,
            judged,
            others,
            setting,
            interval=bars.interval,
            bundle_id=loaded.identity,
            config=loaded.config,
        )
    show_reports(console, [judged, *others])
    document: dict[str, Any] = judged.summary()
    if baselines:
        document["baselines"] = {one.name: one.summary() for one in others}
    if report is not None:
        document["report"] = str(report)
    return document


def _judge_several(
    console: Console, loaded: Bundle, markets: list[Bars], span: _Span, baselines: bool, _: Path | None
) -> dict[str, Any]:
    """Show what came of several symbols on one account; the documented JSON."""
    setting = setting_of(loaded)
    judged = backtest_joint(loaded.manifest.name, loaded.policy, markets, setting, *span)
    others = run_joint_baselines(markets, setting, *span) if baselines else []
    show_joint(console, [judged, *others])
    document: dict[str, Any] = judged.summary()
    if baselines:
        document["baselines"] = {one.name: one.summary() for one in others}
    return document
