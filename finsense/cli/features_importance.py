"""`finsense features importance`: which columns tell something about the returns that follow, beside pure chance."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.errors import DATA, USAGE, refuse
from finsense.cli.extras import agents
from finsense.cli.features_build import build_experiment, state_cache
from finsense.cli.options import AsJson, print_json
from finsense.cli.tables import show_section
from finsense.config import Experiment, Span, load_experiment
from finsense.config.feature_selection import FeatureSelection
from finsense.config.supervised import SupervisedModel
from finsense.evaluation.dependence import MOST_FOLDS, Judged
from finsense.evaluation.forecast_sections import importance_section
from finsense.evaluation.forward_returns import ImportanceError, Samples, forward_samples
from finsense.evaluation.importance import LEAST_SHUFFLES, Importance, importance
from finsense.evaluation.persistence import as_svg_file
from finsense.market.bars import day_date

_LEVEL = 0.05
_FOLDS = 5


class Where(StrEnum):
    """Which span of the experiment is judged."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


def show_importance(
    config: ConfigFile,
    overrides: Overrides = None,
    horizon: Annotated[int, typer.Option(min=1, max=10_000, help="Bars until the return ends.")] = 5,
    folds: Annotated[
        int | None,
        typer.Option(min=2, max=MOST_FOLDS, help="Spans that are judged one after the other [default: 5]."),
    ] = None,
    where: Annotated[
        Where, typer.Option("--span", help="train keeps validation and test unseen: choose features on it alone.")
    ] = Where.TRAIN,
    shuffles: Annotated[
        int, typer.Option(min=LEAST_SHUFFLES, max=10_000, help="Shuffled markets to hold it against.")
    ] = 200,
    top: Annotated[int, typer.Option(min=1, help="Rows of the table; --json has every column.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the shuffles.")] = 0,
    model: Annotated[
        bool, typer.Option("--model", help="Judge what the config's supervised model makes of the columns instead.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="With --model: draw the ranks over the folds.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge each column against the returns that follow it, on purged folds in time, beside shuffled returns."""
    experiment = load_experiment(config, overrides or [])
    if model:
        _show_model(experiment, folds, top, plot, as_json)
        return
    folds = folds or _FOLDS
    with Console(stderr=True).status("building and judging the columns"):
        try:
            samples = samples_of(experiment, horizon, where)
            found = importance(samples, experiment.state.columns, folds=folds, shuffles=shuffles, seed=seed)
        except ImportanceError as error:
            refuse("importance", str(error), DATA)
    if as_json:
        print_json(_document(experiment, found, horizon, where, shuffles))
        return
    _show(Console(), found, horizon, where, top)


def _show_model(experiment: Experiment, folds: int | None, top: int, plot: Path | None, as_json: bool) -> None:
    """Fit the model fold by fold over the training span; `agent.select` of the config says how columns are judged."""
    agent = experiment.agent
    if not isinstance(agent, SupervisedModel):
        refuse("importance", f"--model needs a supervised model, found agent.kind {agent.kind}", USAGE)
    if folds is not None:
        values = (agent.select or FeatureSelection()).model_dump() | {"folds": folds}
        try:
            select = FeatureSelection.model_validate(values)
        except ValidationError as error:
            refuse("usage", f"--folds with --model: {error.errors()[0]['msg']}, found {folds}", USAGE)
        experiment = experiment.model_copy(update={"agent": agent.model_copy(update={"select": select})})
    fit = agents(agent.kind).fit
    found = agents("feature_analysis").analyse_experiment(fit, experiment).as_dict()
    section = importance_section(found, top)
    if plot is not None:
        plot.write_text(as_svg_file(section.figures[0]), encoding="utf-8")
    if as_json:
        print_json(found | ({"plot": str(plot)} if plot is not None else {}))
        return
    show_section(Console(), section)
    if plot is not None:
        typer.echo(f"picture: {plot}")


def samples_of(experiment: Experiment, horizon: int, where: Where) -> list[Samples]:
    """Every symbol's states of a span with the returns that follow; those of an intraday account end in the session."""
    span: Span | None = None if where is Where.ALL else getattr(experiment.split, where)
    return [
        forward_samples(
            built.line.bars,
            built.matrix,
            horizon,
            within_session=experiment.account.product == "intraday",
            first=span.first if span else None,
            last=span.last if span else None,
        )
        for built in build_experiment(experiment, state_cache())
    ]


def _document(experiment: Experiment, found: Importance, horizon: int, where: Where, shuffles: int) -> dict[str, Any]:
    statistics = {
        "correlation": found.correlation,
        "direction_bits": found.direction,
        "size_bits": found.size,
        "permutation": found.permutation,
    }
    tells = found.tells_direction(_LEVEL)
    columns = [
        {
            "column": found.columns[place],
            **{name: _figures(judged, place) for name, judged in statistics.items()},
            "same_sign": float(found.same_sign[place]),
            "tells_direction": bool(tells[place]),
        }
        for place in found.order.tolist()
    ]
    return {
        "state_hash": experiment.state.hash(),
        "horizon": horizon,
        "span": str(where),
        "samples": found.samples,
        "shuffles": shuffles,
        "folds": [[str(day_date(day)) for day in days] for days in found.fold_days],
        "columns": columns,
        "shuffled": {name: judged.noise for name, judged in statistics.items()},
        "stability": {name: judged.stability for name, judged in statistics.items()},
        "model": _figures(found.model, 0) | {"shuffled": found.model.noise},
    }


def _figures(judged: Judged, place: int) -> dict[str, float]:
    names = ("value", "low", "high", "strength", "chance")
    return {name: float(getattr(judged, name)[place]) for name in names}


def _show(console: Console, found: Importance, horizon: int, where: Where, top: int) -> None:
    first, last = (day_date(found.fold_days[place][place]) for place in (0, -1))
    title = f"returns over {horizon} bars, {found.samples:,} states of the span {where}, {first} to {last}"
    table = Table(title=title, box=None, padding=(0, 1))
    table.add_column("column", overflow="fold")
    for heading in ("corr. ± 95 %", "sign", "up/down", "size", "lost", "chance"):
        table.add_column(heading, justify="right")
    both = np.minimum(2 * np.minimum(found.correlation.chance, found.direction.chance), 1.0)
    reach = found.correlation.high - found.correlation.value
    for place in found.order[:top].tolist():
        table.add_row(
            found.columns[place],
            f"{found.correlation.value[place]:+.3f} ±{reach[place]:.3f}",
            f"{found.same_sign[place]:.0%}",
            f"{1000 * found.direction.value[place]:.1f}",
            f"{1000 * found.size.value[place]:.1f}{'*' if found.size.chance[place] <= _LEVEL else ' '}",
            f"{found.permutation.value[place]:+.3f}",
            f"{both[place]:.3f}{'*' if both[place] <= _LEVEL else ' '}",
        )
    noise = found.correlation.noise, found.direction.noise, found.size.noise, found.permutation.noise
    shuffled = (
        f"±{noise[0]:.3f}       ",
        "",
        f"{1000 * noise[1]:.1f}",
        f"{1000 * noise[2]:.1f} ",
        f"{noise[3]:+.3f}",
        "",
    )
    table.add_row("[dim]shuffled, the best[/]", *(f"[dim]{text}[/]" for text in shuffled))
    console.print(table)
    for line in _words(found):
        console.print(line, highlight=False, markup=False)


def _words(found: Importance) -> list[str]:
    """The findings in sentences, with what they do not say."""
    tells = found.tells_direction(_LEVEL)
    order = [place for place in found.order.tolist() if tells[place]]
    sized = [place for place in np.argsort(-found.size.strength) if found.size.chance[place] <= _LEVEL]
    model = found.model
    beyond = model.chance[0] <= _LEVEL
    return [
        "corr.: of the ranks of column and return. sign: folds that agree on its sign. up/down, size: what the column "
        "tells of the sign and of the size of the return, thousandths of a bit. lost: what a linear model of all "
        "columns loses without it. chance: how often the best column of a shuffled market is as good, each held "
        "against its own shuffles, for a slow column shows more by chance; * at most 1 in 20.",
        _which_way(found, order),
        f"How far it goes, and not which way: {_named(found, sized)}." if sized else "No column tells how far it goes.",
        f"All columns in one linear model, fitted before and judged after: correlation {model.value[0]:+.3f} "
        f"(shuffled: up to {model.noise:.3f}), {'beyond' if beyond else 'no better than'} chance"
        + ("." if beyond else "; then the column `lost` means nothing."),
        "The order of the columns from fold to fold (Kendall's tau: 1 the same, 0 chance): "
        f"corr. {found.correlation.stability:+.2f}, up/down {found.direction.stability:+.2f}, "
        f"size {found.size.stability:+.2f}, lost {found.permutation.stability:+.2f}.",
        "Before charges, and of the past. Columns that say the same share what is `lost`. Who tries many horizons or "
        "states and keeps the best has found chance.",
    ]


def _which_way(found: Importance, order: list[int]) -> str:
    if not order:
        return "No column tells which way the price goes, beyond chance, over this horizon and span."
    count = f"{len(order)} of {len(found.columns)} columns tell" if len(order) > 1 else "One column tells"
    return f"{count} which way the price goes, beyond chance: {_named(found, order)}."


def _named(found: Importance, places: list[int]) -> str:
    shown = ", ".join(found.columns[place] for place in places[:8])
    return f"{shown} and {len(places) - 8} more" if len(places) > 8 else shown
