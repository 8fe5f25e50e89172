"""`finsense rehearse`: Kite on loopback over a simulated or a recorded day, to practise against without an account."""

import datetime as dt
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from finsense.cli.errors import DATA, USAGE, refuse
from finsense.cli.extras import rehearsal
from finsense.market.bars import Bars, BarsError
from finsense.market.calendar import CalendarError
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import FileSource

_DAYS_BEFORE = 10
# How often the command looks whether the rehearsal still plays, seconds.
_LOOK_S = 0.2


def rehearse(
    symbols: Annotated[str, typer.Option(help="Shares, with commas between.")] = "SIMA,SIMB",
    date: Annotated[str, typer.Option(metavar="DATE", help="Day to rehearse, YYYY-MM-DD.")] = "2026-10-14",
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Recorded bars within the day; else simulated.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.1, max=10_000, help="Times faster than real time.")] = 60.0,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of loopback; 0 takes a free one.")] = 8765,
    balance: Annotated[int, typer.Option(min=1, help="Cash of the account, rupees.")] = 1_000_000,
    faults: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="NAME=RATE", help="A fault and its chance at each occasion; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the market, the order books and the faults.")] = 0,
) -> None:
    """Open a rehearsal of Zerodha Kite on loopback: orders, ticks, limits, and what may go wrong. Ctrl-C ends it."""
    staged, weather, server = rehearsal("stage"), rehearsal("faults"), rehearsal("server")
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    console = Console()
    day = _day(date)
    try:
        markets = _recorded(data, names) if data is not None else _simulated(names, day, seed)
        stage = staged.stage(
            markets,
            day,
            speed=speed,
            seed=seed,
            balance_paise=balance * 100,
            faults=_faults(weather, faults or [], seed),
            port=port,
        )
    except (staged.StageError, BarsError, CalendarError) as error:
        refuse("data", str(error), DATA)
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        with stage:
            console.print(f"[bold]rehearsal of {day}[/], {speed:g} times faster than real time; Ctrl-C ends it\n")
            for name, value in (
                ("REST", stage.root),
                ("stream", stage.stream_root),
                ("api key", server.API_KEY),
                ("api secret", server.API_SECRET),
                ("access token", stage.log_in()),
            ):
                console.print(f"  {name:<13} {value}", highlight=False)
            console.print(f'\n  KiteConnect("{server.API_KEY}", access_token, root="{stage.root}")', highlight=False)
            while stage.running and not stop.wait(_LOOK_S):
                pass
            exchange = stage.exchange
            console.print(
                f"\n{len(exchange.orders)} orders, {len(exchange.executions)} fills, "
                f"{exchange.cash_paise / 100:,.2f} rupees left; faults: {dict(stage.faults.struck) or 'none'}"
            )
    except RuntimeError as error:
        refuse("rehearsal", f"{error}; is port {port} in use? Give another --port", DATA)
    finally:
        signal.signal(signal.SIGINT, before)


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        refuse("usage", f"expected --date like 2026-10-14, found {text!r}", USAGE)


def _simulated(names: list[str], day: dt.date, seed: int) -> list[Bars]:
    first = day - dt.timedelta(days=_DAYS_BEFORE)
    market = SimulatedMarket.model_validate(
        {"model": "random_walk", "symbols": tuple(names), "interval": "1m", "first": first, "last": day, "seed": seed}
    )
    found = market.load()
    return [found[name] for name in names]


def _recorded(path: Path, names: list[str]) -> list[Bars]:
    found = FileSource.model_validate({"path": path, "symbols": tuple(names), "interval": "1m"}).load()
    return [found[name] for name in names]


def _faults(weather: ModuleType, asked: list[str], seed: int) -> Any:
    rates = {}
    known = {fault.value: fault for fault in weather.Fault}
    for text in asked:
        name, _, rate = text.partition("=")
        try:
            chance = float(rate)
        except ValueError:
            chance = -1.0
        if name not in known or not 0 <= chance <= 1:
            refuse(
                "usage",
                f"expected --fault NAME=RATE with a rate from 0 to 1, found {text!r}; names: {', '.join(known)}",
                USAGE,
            )
        rates[known[name]] = chance
    return weather.Faults(rates, np.random.default_rng(seed))
