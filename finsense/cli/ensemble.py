"""`finsense ensemble`: let several bundles decide as one, and look at such an ensemble."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from finsense.cli.errors import DATA, GATE, USAGE, guarded, refuse
from finsense.cli.extras import agents
from finsense.cli.options import AsJson, FromDate, ToDate, Zone, as_date, bars_for, print_json
from finsense.config import load_experiment
from finsense.evaluation.wording import percent
from finsense.market.bars import Bars
from finsense.model.bundle import CONFIG, MEMBERS, Bundle, load_bundle
from finsense.model.ensemble import EnsemblePolicy
from finsense.model.manifest import EnsembleSpec

ensemble_app = typer.Typer(
    name="ensemble", help="Let several bundles decide as one.", no_args_is_help=True, rich_markup_mode=None
)


@ensemble_app.command(
    epilog="Example: finsense ensemble build checkpoints/ppo_5m checkpoints/lstm_5m checkpoints/xgboost_5m --out "
    "checkpoints/vote_5m"
)
@guarded
def build(
    members: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Folders of exported policies.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the ensemble; it must not exist.")],
    method: Annotated[str, typer.Option(help="`vote`, `mean` (of the probabilities) or `stacking`.")] = "vote",
    consensus: Annotated[
        int | None, typer.Option(metavar="N", help="Members that an order needs; 60 % of them, rounded up.")
    ] = None,
    forgetting: Annotated[
        float, typer.Option(metavar="F", help="What earlier outcomes are multiplied by at each new one.")
    ] = 0.99,
    fixed: Annotated[bool, typer.Option("--fixed", help="The weights do not change while it trades.")] = False,
    horizon: Annotated[
        int | None, typer.Option(metavar="BARS", help="After how many bars a vote is right or wrong.")
    ] = None,
    dead_zone: Annotated[
        float, typer.Option(metavar="X", help="Round trips of charges that a move must be worth.")
    ] = 1.0,
    weights: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="At the start; else in proportion to the accuracies.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Bars to judge the members on; else those of their experiment, over the validation span.",
        ),
    ] = None,
    symbol: Annotated[str | None, typer.Option(metavar="S", help="Which symbol of the file.")] = None,
    first: FromDate = None,
    last: ToDate = None,
    timezone: Zone = None,
    as_json: AsJson = False,
) -> None:
    """Judge bundles on days that none was trained on, weigh them by that, and write the ensemble."""
    building, choosing = agents("ensemble"), agents("ensemble_members")
    if method not in building.METHODS:
        refuse("usage", f"expected --method {', '.join(building.METHODS)}, found {method!r}", USAGE)
    recipe = building.Recipe(
        method, consensus, None if fixed else forgetting, horizon, dead_zone, weights=_numbers(weights)
    )
    try:
        loaded = choosing.load_members(members)
        markets = _markets(next(iter(loaded.values())), data, symbol, timezone)
        begin, end = _span(loaded, markets, choosing, data, as_date(first), as_date(last))
        built = building.build_ensemble(loaded, out, recipe, markets, begin, end)
    except choosing.EnsembleError as error:
        refuse("ensemble", str(error), USAGE)
    except (agents("voter_record").VoterRecordError, agents("stacking").StackingError) as error:
        refuse("data", str(error), DATA)
    if as_json:
        print_json({"ensemble": str(out), **_document(built.bundle)})
    else:
        _show(Console(), built.bundle)


@ensemble_app.command(epilog="Example: finsense ensemble show checkpoints/vote_5m")
@guarded
def show(
    folder: Annotated[Path, typer.Argument(metavar="ENSEMBLE", help="Folder of an ensemble.")], as_json: AsJson = False
) -> None:
    """Show who votes with which weight, and whether every member still verifies: exit 5 where one does not."""
    bundle = load_bundle(folder)
    if bundle.manifest.ensemble is None:
        refuse("usage", f"{folder} is the bundle of one policy, not an ensemble", USAGE)
    if as_json:
        print_json({"ensemble": str(folder), **_document(bundle)})
    else:
        _show(Console(), bundle)
    if _dropped(bundle):
        raise typer.Exit(GATE)


def _markets(bundle: Bundle, data: Path | None, symbol: str | None, timezone: str | None) -> Mapping[str, Bars]:
    """The bars of a file, or of the experiment that a member was trained on."""
    if data is not None:
        if symbol is None:
            refuse("usage", "--data needs --symbol, which symbol of the file", USAGE)
        return {symbol: bars_for(bundle, data, symbol, timezone)}
    if symbol is not None or timezone is not None:
        refuse("usage", "--symbol and --timezone belong to --data FILE", USAGE)
    return load_experiment(bundle.path / CONFIG).data.load()


def _span(
    members: Mapping[str, Bundle],
    markets: Mapping[str, Bars],
    choosing: Any,
    data: Path | None,
    first: dt.date | None,
    last: dt.date | None,
) -> tuple[dt.date, dt.date]:
    """What was asked for; of a file all days after the last training, of an experiment the validation span."""
    if first is not None and last is not None:
        return first, last
    if data is None:
        begin, end = choosing.default_span(members)
    else:
        begin, end = choosing.first_unseen(members), min(bars.last_date for bars in markets.values())
    return first or begin, last or end


def _numbers(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        refuse("usage", f"expected --weights as numbers with commas between them, found {text!r}", USAGE)


def _dropped(bundle: Bundle) -> dict[str, str]:
    assert isinstance(bundle.policy, EnsemblePolicy), "the bundle of an ensemble"
    return bundle.policy.dropped


def _spec(bundle: Bundle) -> EnsembleSpec:
    assert bundle.manifest.ensemble is not None, "the bundle of an ensemble"
    return bundle.manifest.ensemble


def _holds_always(bundle: Bundle) -> bool:
    return isinstance(bundle.policy, EnsemblePolicy) and not bundle.policy.can_decide


def _document(bundle: Bundle) -> dict[str, Any]:
    """The documented JSON."""
    spec, dropped = _spec(bundle), _dropped(bundle)
    plain = spec.model_dump(mode="json", exclude={"stack"})
    measured = plain["measured"]
    records = measured.pop("records")
    return {
        "identity": bundle.identity,
        **plain,
        "members": [{**one, **records[one["name"]], "dropped": dropped.get(one["name"])} for one in plain["members"]],
        "holds_always": _holds_always(bundle),
        "validation": bundle.manifest.validation,
    }


def _show(console: Console, bundle: Bundle) -> None:
    spec, dropped = _spec(bundle), _dropped(bundle)
    measured = spec.measured
    table = Table(title=f"{bundle.manifest.name}: {spec.method} of {len(spec.members)} members", box=box.HORIZONTALS)
    for heading in ("member", "weight", "accuracy", "by chance", "votes", "log return", ""):
        table.add_column(heading, justify="left" if heading in ("member", "") else "right", overflow="fold")
    for one in spec.members:
        record = measured["records"][one.name]
        votes = record["votes"]
        shares = [percent(record[key] / votes if votes else float("nan"), places=1) for key in ("right", "chance")]
        state = f"[bold red]dropped[/]: {dropped[one.name]}" if one.name in dropped else ""
        table.add_row(one.name, f"{one.weight:.3f}", *shares, str(votes), f"{record['log_return']:+.4f}", state)
    console.print(table)
    zone = f"{spec.dead_zone:.3%} ({measured['dead_zone_round_trips']:g} round trips)"
    console.print(
        f"measured {measured['first']} to {measured['last']} on {', '.join(measured['symbols'])}: a vote is right "
        f"when the move over {spec.horizon} bars is of its direction and above {zone}",
        highlight=False,
    )
    if measured["chosen_on_this_span"]:
        console.print(
            f"[yellow]chosen on days of this span, so flattered[/]: {', '.join(measured['chosen_on_this_span'])}",
            highlight=False,
        )
    online = "weights stay" if spec.forgetting is None else f"weights learn, forgetting {spec.forgetting:g}"
    console.print(f"consensus {spec.consensus}; {online}; bundles in {bundle.path / MEMBERS}", highlight=False)
    if _holds_always(bundle):
        console.print("[bold red]too few members are left: it holds always[/]")
