"""`finsense features build`: the state matrix of an experiment's data, shown and written as a table."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.errors import USAGE, refuse
from finsense.cli.options import AsJson, print_json
from finsense.config import Experiment, load_experiment
from finsense.market.bars import ist_text
from finsense.market.instruments import instrument
from finsense.market.timeline import Timeline, timeline
from finsense.state.builder import StateMatrix
from finsense.state.cache import CacheError, StateCache

_FORMATS = (".parquet", ".csv", ".csv.gz")
_CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class Built:
    """The states of one symbol: what they were made of, whether they were read from the cache, and the seconds."""

    line: Timeline
    matrix: StateMatrix
    was_read: bool
    seconds: float

    @property
    def rows(self) -> NDArray[np.float32]:
        """(states, columns) float32, the market row of each bar from `first_bar` on."""
        if self.matrix.spec.history == 1:
            return self.matrix.rows
        return self.matrix.rows[self.matrix.row_of_bar[self.matrix.first_bar :]]


def build(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Write time (IST), symbol and columns: .parquet, .csv[.gz]."),
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Show min, mean, std and max of every column.")] = False,
    use_cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Read and keep the matrix.")] = True,
    as_json: AsJson = False,
) -> None:
    """Build the state matrix of an experiment's data, every symbol; the second time it is read from the cache."""
    if out is not None and not out.name.endswith(_FORMATS):
        refuse("usage", f"--out must end with {', '.join(_FORMATS)}, found {out.name}", USAGE)
    if out is not None and not out.absolute().parent.is_dir():
        refuse("usage", f"--out: there is no folder {out.parent}; make it first", USAGE)
    experiment = load_experiment(config, overrides or [])
    built = build_experiment(experiment, state_cache() if use_cache else StateCache(Path(), 0))
    figures = {one.line.bars.symbol: column_figures(one) for one in built} if columns else {}
    if out is not None:
        write_states(out, built)
    if as_json:
        print_json(_document(experiment, built, figures, out))
        return
    _show(Console(), experiment, built, figures)
    if out is not None:
        typer.echo(f"{out}: {sum(len(one.rows) for one in built)} rows")


def state_cache() -> StateCache:
    """The cache that the environment names; a wrong size ends the command."""
    try:
        return StateCache.from_environment()
    except CacheError as error:
        refuse("cache", str(error), USAGE)


def timelines_of(experiment: Experiment) -> list[Timeline]:
    """Every symbol of an experiment's data, all its bars; errors as loading them."""
    markets = experiment.data.load().values()
    return [timeline(bars, instrument(bars.symbol, derivatives=bars.derivatives), None) for bars in markets]


def build_experiment(experiment: Experiment, cache: StateCache) -> list[Built]:
    """The states of every symbol; errors as `build_states`."""
    built = []
    for line in timelines_of(experiment):
        started_s = time.perf_counter()
        matrix, was_read = cache.states(line, experiment.state)
        built.append(Built(line, matrix, was_read, time.perf_counter() - started_s))
    return built


def column_figures(built: Built) -> dict[str, dict[str, float]]:
    """Column -> its min, mean, std (ddof 0) and max over all states, summed in float64."""
    rows = built.rows
    starts = range(0, len(rows), _CHUNK_ROWS)
    mean = np.sum([rows[start : start + _CHUNK_ROWS].sum(axis=0, dtype=np.float64) for start in starts], axis=0)
    mean /= len(rows)
    squares = [np.square(rows[start : start + _CHUNK_ROWS] - mean).sum(axis=0) for start in starts]
    variance = np.sum(squares, axis=0) / len(rows)
    values = {"min": rows.min(axis=0), "mean": mean, "std": np.sqrt(variance), "max": rows.max(axis=0)}
    return {
        name: {figure: float(value[place]) for figure, value in values.items()}
        for place, name in enumerate(built.matrix.spec.columns)
    }


def write_states(path: Path, built: list[Built]) -> None:
    """Write `time` (IST), `symbol` and the columns of every bar that has a state; a file is whole or not there.

    Raises:
        OSError: the file cannot be written; one that was there before is untouched.
    """
    fresh = path.with_name(f".new-{path.name}")
    try:
        if path.suffix == ".parquet":
            _write_parquet(fresh, built)
        else:
            for place, frame in enumerate(_frames(built)):
                frame.to_csv(fresh, mode="a" if place else "w", header=not place, index=False)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _write_parquet(path: Path, built: list[Built]) -> None:
    writer = None
    try:
        for frame in _frames(built):
            table = pa.Table.from_pandas(frame, preserve_index=False)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _frames(built: list[Built]) -> Iterator[pd.DataFrame]:
    """The table in parts that fit into memory beside the matrix."""
    for one in built:
        rows, bars = one.rows, one.line.bars
        stamps = pd.to_datetime(bars.time_ns[one.matrix.first_bar :], unit="ns", utc=True)
        times = stamps.tz_convert("Asia/Kolkata").as_unit("us")
        for start in range(0, len(rows), _CHUNK_ROWS):
            frame = pd.DataFrame(rows[start : start + _CHUNK_ROWS], columns=list(one.matrix.spec.columns))
            frame.insert(0, "time", times[start : start + _CHUNK_ROWS])
            frame.insert(1, "symbol", bars.symbol)
            yield frame


def _document(
    experiment: Experiment, built: list[Built], figures: dict[str, dict[str, dict[str, float]]], out: Path | None
) -> dict[str, Any]:
    symbols = []
    for one in built:
        bars = one.line.bars
        described = {
            "symbol": bars.symbol,
            "interval": bars.interval,
            "bars": len(bars),
            "states": len(one.rows),
            "first": _moment(one, one.matrix.first_bar),
            "last": _moment(one, -1),
            "data_hash": bars.data_hash,
            "cache": _cache_word(one),
            "seconds": round(one.seconds, 6),
        }
        if figures:
            described["figures"] = figures[bars.symbol]
        symbols.append(described)
    return {
        "state_hash": experiment.state.hash(),
        "columns": list(experiment.state.columns),
        "warmup": experiment.state.warmup,
        "history": experiment.state.history,
        "symbols": symbols,
        "file": str(out) if out else None,
    }


def _moment(one: Built, bar: int) -> str:
    stamp = pd.Timestamp(int(one.line.bars.time_ns[bar]), unit="ns", tz="UTC")
    return str(stamp.tz_convert("Asia/Kolkata").isoformat())


def _cache_word(one: Built) -> str:
    return "read" if one.was_read else "built"


def _show(
    console: Console, experiment: Experiment, built: list[Built], figures: dict[str, dict[str, dict[str, float]]]
) -> None:
    state = experiment.state
    title = f"{len(state.columns)} columns, warm-up {state.warmup} bars, history {state.history}"
    table = Table(title=title, box=None, padding=(0, 1))
    for heading in ("symbol", "bars", "states", "first state", "seconds", "cache"):
        table.add_column(heading, justify="right" if heading in ("bars", "states", "seconds") else "left")
    for one in built:
        first = ist_text(int(one.line.bars.time_ns[one.matrix.first_bar]))
        counts = f"{len(one.line.bars):,}", f"{len(one.rows):,}"
        table.add_row(one.line.bars.symbol, *counts, first, f"{one.seconds:.3f}", _cache_word(one))
    console.print(table)
    for symbol, columns in figures.items():
        console.print(_figures_table(symbol, columns))
        still = [name for name, figure in columns.items() if figure["min"] == figure["max"]]
        if still:
            console.print(f"{symbol}: these never change and tell a learner nothing: {', '.join(still)}")


def _figures_table(symbol: str, columns: dict[str, dict[str, float]]) -> Table:
    table = Table(title=symbol, box=None, padding=(0, 1))
    table.add_column("column", overflow="fold")
    for heading in ("min", "mean", "std", "max"):
        table.add_column(heading, justify="right")
    for name, figure in columns.items():
        table.add_row(name, *(f"{figure[heading]:.4g}" for heading in ("min", "mean", "std", "max")))
    return table
