"""`finsense evaluate`: judge what a bundle or an ensemble forecasts, how honest its probabilities are, its trading."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finsense.agents.forecast_trial import Dates, Trial, TrialError, hold_trial, label_of, seen_spans
from finsense.agents.labels import LabelError
from finsense.cli.errors import DATA, GATE, USAGE, refuse
from finsense.cli.options import (
    AsJson,
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
from finsense.cli.tables import show_reports, show_section
from finsense.evaluation.forecast_sections import forecast_sections, importance_section
from finsense.evaluation.tearsheet_section import Section
from finsense.model.bundle import Bundle, load_bundle
from finsense.model.manifest import Manifest

_SOURCES = {
    "forecast": "The calibrated forecast of the graph",
    "actions": "The probabilities of the actions read as a forecast (buying: up, holding: flat, selling: down; "
    "preferences, not calibrated)",
}


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of an exported policy or an ensemble.")],
    data: DataFile,
    symbol: SymbolName,
    first: FromDate = None,
    last: ToDate = None,
    timezone: Zone = None,
    horizon: Annotated[
        int | None,
        typer.Option(
            min=1, help="Bars over which the direction counts; a supervised model and an ensemble have theirs."
        ),
    ] = None,
    in_sample: Annotated[
        bool, typer.Option("--in-sample", help="Allow dates that it was trained or chosen on; the result says so.")
    ] = False,
    baselines: Annotated[bool, typer.Option(help="Judge the baselines over the same bars.")] = True,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the HTML report there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a forecast with intervals: classes, calibration, decisions, and the trading. Default: the test span."""
    loaded = load_bundle(bundle)
    bars = bars_for(loaded, data, symbol, timezone)
    span = _span(loaded.manifest, as_date(first), as_date(last))
    seen = seen_spans(loaded.manifest, bars, *span)
    if seen and not in_sample:
        _refuse_seen(loaded.manifest, seen, span)
    try:
        trial = hold_trial(
            f"{loaded.manifest.name} (IN SAMPLE)" if seen else loaded.manifest.name,
            loaded.policy,
            bars,
            setting_of(loaded),
            label_of(loaded.manifest, horizon),
            span,
            seen=seen,
            baselines=baselines,
        )
    except TrialError as error:
        refuse("usage", str(error), USAGE)
    except LabelError as error:
        refuse("labels", str(error), DATA)
    sections = _sections(loaded, trial)
    if report is not None:
        save_report(
            report,
            trial.report,
            trial.baselines,
            setting_of(loaded),
            interval=bars.interval,
            bundle_id=loaded.identity,
            config=loaded.config,
            facts=_facts(trial),
            sections=sections,
        )
    if as_json:
        document = _document(loaded, trial, span)
        print_json(document | ({"report": str(report)} if report is not None else {}))
        return
    console = Console()
    for section in sections:
        show_section(console, section)
    show_reports(console, [trial.report, *trial.baselines])
    if seen:
        console.print(f"IN SAMPLE: the policy was made of the span {' and '.join(seen)}; this proves nothing.")
    if report is not None:
        console.print(f"report: {report}")


def _span(manifest: Manifest, first: dt.date | None, last: dt.date | None) -> Dates:
    """The dates asked for; without any the bundle's test span."""
    test = manifest.provenance.spans.get("test")
    if first is None and last is None and test is not None:
        return dt.date.fromisoformat(test[0]), dt.date.fromisoformat(test[1])
    return first, last


def _refuse_seen(manifest: Manifest, seen: tuple[str, ...], span: Dates) -> None:
    spans = manifest.provenance.spans
    mine = ", ".join(f"{name} {spans[name][0]} to {spans[name][1]}" for name in seen)
    test = f" (its test span is {spans['test'][0]} to {spans['test'][1]})" if "test" in spans else ""
    asked = f"{span[0] or 'the first bar'} to {span[1] or 'the last bar'}"
    refuse(
        "in-sample",
        f"{asked} overlaps dates that {manifest.name} was made of: {mine}; on these it would judge what it has seen. "
        f"Choose later dates{test}, or say --in-sample to see it all the same",
        GATE,
    )


def _sections(loaded: Bundle, trial: Trial) -> tuple[Section, ...]:
    label, source = trial.label, _SOURCES[trial.source]
    if loaded.manifest.ensemble is not None and trial.source == "forecast":
        source = "The mean of the members' calibrated forecasts"
    what = (
        f"{source}, against labels of {label.kind.replace('_', ' ')} over {label.horizon} bars, which "
        f"are flat where a move would not pay for the trade. {trial.unlabelled} decisions have no label."
    )
    if label.kind == "triple_barrier":
        what = (
            f"{source}, against triple-barrier labels of at most {label.horizon} bars. "
            f"{trial.unlabelled} decisions have no label."
        )
    if trial.seen:
        what = f"IN SAMPLE, it was made of these dates ({' and '.join(trial.seen)}): this proves nothing. {what}"
    forecast = loaded.manifest.forecast
    importance = forecast.importance if forecast is not None else None
    found = forecast_sections(trial.classification, what)
    return (*found, importance_section(importance)) if importance else found


def _facts(trial: Trial) -> dict[str, str]:
    label = ", ".join(f"{name} {value}" for name, value in trial.label.model_dump(mode="json").items())
    facts = {"Labels": label, "Forecast": _SOURCES[trial.source]}
    if trial.seen:
        facts["In sample"] = f"the policy was made of dates of this span ({' and '.join(trial.seen)}): no proof"
    return facts


def _document(loaded: Bundle, trial: Trial, span: Dates) -> dict[str, Any]:
    manifest = loaded.manifest
    return {
        "bundle": manifest.name,
        "kind": manifest.kind,
        "identity": loaded.identity,
        "symbol": trial.report.symbol,
        "from": str(span[0]) if span[0] else None,
        "to": str(span[1]) if span[1] else None,
        **trial.as_dict(),
        "importance": manifest.forecast.importance if manifest.forecast is not None else None,
    }
