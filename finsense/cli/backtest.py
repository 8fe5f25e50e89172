"""`finsense backtest`: judge a bundle on history, beside the baselines."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
from finsense.cli.report import save_report
from finsense.cli.tables import show_reports
from finsense.evaluation.backtest import backtest as run_backtest
from finsense.evaluation.baselines import run_baselines
from finsense.model.bundle import load_bundle
from finsense.model.ensemble import EnsemblePolicy


def backtest(
    bundle: BundleFolder,
    data: DataFile,
    symbol: SymbolName,
    first: FromDate = None,
    last: ToDate = None,
    timezone: Zone = None,
    baselines: Annotated[bool, typer.Option(help="Judge the baselines over the same bars.")] = True,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the HTML report there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a bundle on history, with its own rules and charges, beside the baselines."""
    loaded = load_bundle(bundle)
    setting = setting_of(loaded)
    bars = bars_for(loaded, data, symbol, timezone)
    span = as_date(first), as_date(last)
    seen = loaded.manifest.provenance.seen_between(span[0] or bars.first_date, span[1] or bars.last_date)
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
    if as_json:
        document: dict[str, Any] = {**judged.summary(), "in_sample": list(seen)}
        if baselines:
            document["baselines"] = {one.name: one.summary() for one in others}
        if report is not None:
            document["report"] = str(report)
        if isinstance(loaded.policy, EnsemblePolicy):
            document |= {"dropped": loaded.policy.dropped, "holds_always": not loaded.policy.can_decide}
        print_json(document)
        return
    console = Console()
    show_reports(console, [judged, *others])
    if seen:
        console.print(f"IN SAMPLE: the policy was made of days of this span ({' and '.join(seen)}); it proves nothing.")
    if report is not None:
        console.print(f"report: {report}")
