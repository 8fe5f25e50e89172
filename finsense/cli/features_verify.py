"""`finsense features verify`: does a state keep its laws on the user's own data, and is its warm-up long enough."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from finsense.cli.config import Overrides
from finsense.cli.errors import GATE, USAGE, refuse
from finsense.cli.features_build import timelines_of
from finsense.cli.options import AsJson, Zone, print_json
from finsense.config import load_experiment
from finsense.evaluation.warmup import SUFFICIENT_CHANGE, warmup_changes
from finsense.market.bars import ist_text
from finsense.market.instruments import instrument
from finsense.market.sources.files import load_bars
from finsense.market.timeline import Timeline, timeline
from finsense.state.laws import KERNEL_LAWS, LAWS, Finding, check_laws
from finsense.state.spec import Feature, StateSpec

_WARM_UP = "warm_up"
_SHOWN = 20
_STEP = 10  # an advised warm-up is a multiple of this


@dataclass(frozen=True)
class Source:
    """Where state and bars come from: the options of the command as they were given."""

    config: Path | None
    overrides: list[str]
    data: Path | None
    symbol: str | None
    features: str | None
    warmup: int | None
    interval: str | None
    timezone: str | None


@dataclass(frozen=True)
class Verified:
    """What one symbol's bars showed.

    Attributes:
        line: the bars.
        findings: every broken law.
        warmup_checked: whether there is a session with twice the warm-up before it, so that it could be judged.
        sufficient_warmup: the least warm-up that was found sufficient; None where that was not asked, or none is.
    """

    line: Timeline
    findings: list[Finding]
    warmup_checked: bool
    sufficient_warmup: int | None


def verify(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", exists=True, dir_okay=False, help="Experiment: state and data.")
    ] = None,
    overrides: Overrides = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Bars, in place of the experiment's data."),
    ] = None,
    symbol: Annotated[str | None, typer.Option(metavar="S", help="Which symbol of --data.")] = None,
    features: Annotated[
        str | None, typer.Option(metavar="LIST", help="State without CONFIG: presets and indicators, as core,rsi.")
    ] = None,
    warmup: Annotated[int | None, typer.Option(min=1, help="Warm-up without CONFIG, bars.")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Of the bars of --data, such as 5m; told from their stamps.")
    ] = None,
    timezone: Zone = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sessions and bars that are drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Prove the state's laws and its warm-up on your own data; exit 5 on any finding."""
    source = Source(config, overrides or [], data, symbol, features, warmup, interval, timezone)
    spec, lines = _asked(source)
    verified = []
    with Console(stderr=True).status("reading") as status:
        for line in lines:
            status.update(f"proving {len(spec.columns)} columns on {len(line.bars):,} bars of {line.bars.symbol}")
            verified.append(verify_state(line, spec, seed))
    if as_json:
        print_json(_document(spec, verified))
    else:
        _show(Console(), spec, verified)
    if any(one.findings for one in verified):
        raise typer.Exit(GATE)


def verify_state(line: Timeline, spec: StateSpec, seed: int = 0) -> Verified:
    """Check every law on one symbol's bars; errors as `check_laws`."""
    findings = check_laws(line, spec, seed)
    broken = {finding.feature for finding in findings if finding.law == _WARM_UP}
    short = [feature for feature in spec.features if feature.name in broken]
    found = [_sufficient_warmup(line, feature, spec.warmup) for feature in short]
    enough = None if None in found or not found else max(one for one in found if one)
    checked = int(line.session_offsets[-2]) >= 2 * spec.warmup
    # The oldest row of a stacked state stands history - 1 bars before its session.
    return Verified(line, findings, checked, enough and _rounded(enough + spec.history - 1))


def _sufficient_warmup(line: Timeline, feature: Feature, warmup: int) -> int | None:
    """The least warm-up above `warmup` found sufficient, by doubling and halving; None where the history ends first."""
    most = int(line.session_offsets[-2]) // 2

    def suffices(bars: int) -> bool:
        changes = warmup_changes(line.bars, line.instrument, StateSpec(features=(feature,), warmup=bars))
        return all(change < SUFFICIENT_CHANGE for _, change in changes)

    low, high = warmup, _rounded(2 * warmup)
    while high <= most and not suffices(high):
        low, high = high, 2 * high
    if high > most:
        return None
    while high - low > _STEP:
        middle = _rounded((low + high) // 2)
        if middle >= high:
            break
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _rounded(bars: int) -> int:
    return -(-bars // _STEP) * _STEP


def _asked(source: Source) -> tuple[StateSpec, list[Timeline]]:
    """The state and the bars that the options name; contradictions end the command."""
    _refuse_contradictions(source)
    experiment = load_experiment(source.config, source.overrides) if source.config is not None else None
    spec = (
        experiment.state
        if experiment is not None
        else _spec("core" if source.features is None else source.features, source.warmup)
    )
    if source.data is None:
        assert experiment is not None
        return spec, timelines_of(experiment)
    interval = source.interval or (experiment.data.interval if experiment is not None else None)
    derivatives = getattr(experiment.data, "derivatives", None) if experiment is not None else None
    bars = load_bars(source.data, source.symbol, interval, timezone=source.timezone, derivatives=derivatives)
    return spec, [timeline(bars, instrument(bars.symbol, derivatives=bars.derivatives), None)]


def _refuse_contradictions(source: Source) -> None:
    alone = source.config is None
    for wrong, message in (
        (alone and source.data is None, "give an experiment, or --data FILE --symbol S --features core"),
        (
            not alone and (source.features is not None or source.warmup is not None),
            "the state stands in CONFIG; leave --features and --warmup out, or use --set",
        ),
        (alone and bool(source.overrides), "--set changes a CONFIG; give one"),
        ((source.data is None) != (source.symbol is None), "--data and --symbol belong together"),
        (
            source.data is None and (source.interval is not None or source.timezone is not None),
            "--interval and --timezone belong to --data",
        ),
    ):
        if wrong:
            refuse("usage", message, USAGE)


def _spec(features: str, warmup: int | None) -> StateSpec:
    names = [name.strip() for name in features.split(",") if name.strip()]
    given: dict[str, Any] = {"features": names} | ({} if warmup is None else {"warmup": warmup})
    try:
        return StateSpec.model_validate(given)
    except ValidationError as error:
        reasons = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        refuse("usage", f"--features {features}: {reasons}", USAGE)


def _document(spec: StateSpec, verified: list[Verified]) -> dict[str, Any]:
    laws = {
        name: {"says": says, "findings": sum(finding.law == name for one in verified for finding in one.findings)}
        for name, says in _laws()
    }
    symbols = [
        {
            "symbol": one.line.bars.symbol,
            "bars": len(one.line.bars),
            "data_hash": one.line.bars.data_hash,
            "warmup_checked": one.warmup_checked,
            "sufficient_warmup": one.sufficient_warmup,
        }
        for one in verified
    ]
    findings = [
        {
            "symbol": one.line.bars.symbol,
            "law": finding.law,
            "feature": finding.feature,
            "column": finding.column,
            "bar": finding.bar,
            "time": ist_text(finding.time_ns) if finding.bar >= 0 else None,
            "detail": finding.detail,
        }
        for one in verified
        for finding in one.findings
    ]
    return {
        "ok": not findings,
        "state_hash": spec.hash(),
        "warmup": spec.warmup,
        "symbols": symbols,
        "laws": laws,
        "findings": findings,
    }


def _laws() -> Iterator[tuple[str, str]]:
    """Name and first sentence of every law, the state's before the kernels'."""
    for name, law in [*LAWS.items(), *KERNEL_LAWS.items()]:
        yield name, (law.__doc__ or "").partition("\n")[0]


def _show(console: Console, spec: StateSpec, verified: list[Verified]) -> None:
    names = ", ".join(one.line.bars.symbol for one in verified)
    table = Table(title=f"{len(spec.columns)} columns on {names}", box=None, padding=(0, 1))
    for heading in ("law", "what it says", "verdict"):
        table.add_column(heading, overflow="fold")
    judged = any(one.warmup_checked for one in verified)
    for name, says in _laws():
        count = sum(finding.law == name for one in verified for finding in one.findings)
        kept = "[green]kept[/]" if name != _WARM_UP or judged else "[yellow]not checked[/]"
        table.add_row(name, says, f"[bold red]{count} broken[/]" if count else kept)
    console.print(table)
    findings = [(one.line.bars.symbol, finding) for one in verified for finding in one.findings]
    if findings:
        console.print(_findings_table(findings))
    if len(findings) > _SHOWN:
        console.print(f"... and {len(findings) - _SHOWN} more: --json has them all")
    for one in verified:
        console.print(_advice(one, spec), highlight=False)
    if findings:
        console.print(f"[bold red]{len(findings)} found[/]: mend these before anything is learned from the state")
    else:
        console.print("[green]every law is kept[/]")


def _findings_table(findings: list[tuple[str, Finding]]) -> Table:
    table = Table(box=None, padding=(0, 1))
    for heading in ("law", "where", "what"):
        table.add_column(heading, overflow="fold")
    for symbol, finding in findings[:_SHOWN]:
        bar = f"bar {finding.bar}, {ist_text(finding.time_ns)}" if finding.bar >= 0 else ""
        column = f"`{finding.column}`" if finding.column else ""
        where = "\n".join(text for text in (f"{symbol} {finding.feature}", column, bar) if text)
        table.add_row(finding.law, where, finding.detail)
    return table


def _advice(one: Verified, spec: StateSpec) -> str:
    symbol, before = one.line.bars.symbol, int(one.line.session_offsets[-2])
    if not one.warmup_checked:
        return (
            f"{symbol}: the warm-up cannot be judged: that takes {2 * spec.warmup} bars before a session, "
            f"the data have {before}"
        )
    if all(finding.law != _WARM_UP for finding in one.findings):
        return f"{symbol}: a warm-up of {spec.warmup} bars is enough: twice as many change no column"
    if one.sufficient_warmup is None:
        return f"{symbol}: no warm-up up to {before // 2} bars, which is what the data can show, is enough"
    return f"{symbol}: set state.warmup to {one.sufficient_warmup}: the least that was found to be enough"
