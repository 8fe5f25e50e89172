"""`finsense state`: write the states of a config or bundle over a file's bars."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from finsense.cli.options import AsJson, DataFile, SymbolName, Zone, bars_for, beside_references, print_json
from finsense.config import load_experiment
from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.sources.files import load_bars
from finsense.market.timeline import timeline
from finsense.model.bundle import load_bundle
from finsense.state.builder import build_states
from finsense.state.spec import StateSpec


def state(
    source: Annotated[Path, typer.Argument(metavar="CONFIG|BUNDLE", exists=True, help="Experiment file or bundle.")],
    data: DataFile,
    symbol: SymbolName,
    out: Annotated[Path, typer.Option(metavar="F.npz", help="File to write: time, names, matrix.")],
    timezone: Zone = None,
    as_json: AsJson = False,
) -> None:
    """Write the market states of every bar that has its warm-up: time (ns UTC), column names, matrix (float32)."""
    if source.is_dir():
        bundle = load_bundle(source)
        spec, bars = bundle.manifest.state, bars_for(bundle, data, symbol, timezone)
    else:
        experiment = load_experiment(source)
        spec, market = experiment.state, experiment.data
        derivatives = getattr(market, "derivatives", None)
        bars = load_bars(data, symbol, market.interval, timezone=timezone, derivatives=derivatives)
        bars = beside_references(bars, spec, getattr(market, "references", None))
    times, matrix = market_states(bars, spec)
    names = [f"{name}[-{age}]" if age else name for age in reversed(range(spec.history)) for name in spec.columns]
    with out.open("wb") as file:
        np.savez_compressed(file, time=times, names=np.array(names), matrix=matrix)
    if as_json:
        print_json({"file": str(out), "bars": len(times), "columns": names, "state_hash": spec.hash()})
    else:
        typer.echo(f"{out}: {len(times)} states of {len(names)} columns; spec {spec.hash()[:12]}")


def market_states(bars: Bars, spec: StateSpec) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Times (n,) int64 ns UTC and stacked market states (n, history x columns) float32 of the bars that have one."""
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    matrix = build_states(timeline(bars, stock, charges=None), spec)
    ready = range(matrix.first_bar, len(bars))
    return bars.time_ns[matrix.first_bar :], np.stack([matrix.window(bar) for bar in ready])
