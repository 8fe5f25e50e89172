"""`finsense rehearse`: Kite on loopback over a simulated or a recorded day, to practise against without an account."""

import datetime as dt
import json
import os
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
from finsense.market.bars import Bars, BarsError, ist_text
from finsense.market.calendar import IST, CalendarError
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import FileSource, read_table
from finsense.market.sources.ticks import ticks_from_frame
from finsense.market.ticks import Tick

_DAYS_BEFORE = 10
# How often the command looks whether the rehearsal still plays, seconds.
_LOOK_S = 0.2
_SECOND_NS = 1_000_000_000


def rehearse(
    symbols: Annotated[str, typer.Option(help="Shares, with commas between.")] = "SIMA,SIMB",
    date: Annotated[str, typer.Option(metavar="DATE", help="Day to rehearse, YYYY-MM-DD.")] = "2026-10-14",
    data: Annotated[
        Path | None,
        typer.Option("--data", "--recorded", help="Recorded bars within the day, and before it; else simulated."),
    ] = None,
    ticks: Annotated[
        Path | None, typer.Option(help="Recorded ticks of the day of the one share, played instead of its bars.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", "--at", metavar="HH:MM", help="Begin at this hour of India.")
    ] = None,
    waits: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Stand still until somebody listens to the ticks, as a loop does."),
    ] = True,
    speed: Annotated[float, typer.Option(min=0.1, max=10_000, help="Times faster than real time.")] = 60.0,
    ticks_per_bar: Annotated[int, typer.Option(min=4, max=6000, help="Trades that make one bar.")] = 4,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Of loopback; 0 takes a free one.")] = 8765,
    balance: Annotated[int, typer.Option(min=1, help="Cash of the account, rupees.")] = 1_000_000,
    faults: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="NAME=RATE", help="A fault and its chance at each occasion; may be repeated."),
    ] = None,
    halt: Annotated[
        list[str] | None,
        typer.Option(metavar="HH:MM-HH:MM", help="The whole market stands still; may be repeated."),
    ] = None,
    outage: Annotated[
        list[str] | None,
        typer.Option(metavar="HH:MM-HH:MM", help="The exchange cannot be reached; may be repeated."),
    ] = None,
    redirect: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the login page sends you; else it shows the request token.")
    ] = None,
    state_file: Annotated[
        Path | None, typer.Option(help="Write addresses, keys and process id here as JSON, for scripts.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the market, the order books and the faults.")] = 0,
) -> None:
    """Open a rehearsal of Zerodha Kite on loopback: orders, ticks, limits, and what may go wrong. Ctrl-C ends it."""
    staged, weather, host = rehearsal("stage"), rehearsal("faults"), rehearsal("host")
    names = [name.strip() for name in symbols.split(",") if name.strip()]
    day = _day(date)
    terms: dict[str, Any] = {
        "balance_paise": balance * 100,
        "faults": _faults(weather, faults or [], seed),
        "halts": tuple(_span(text, day, "--halt") for text in halt or []),
        "outages": tuple(_span(text, day, "--outage") for text in outage or []),
        "redirect_url": redirect,
        "start_ns": None if start is None else _instant(start, day, "--from"),
        "waits": waits,
        "port": port,
    }
    try:
        markets = _recorded(data, names) if data is not None else _simulated(names, day, seed)
        played = {} if ticks is None else {names[0]: _ticks(ticks, names)}
        stage = staged.stage(markets, day, speed=speed, seed=seed, ticks_per_bar=ticks_per_bar, ticks=played, **terms)
    except (staged.StageError, BarsError, CalendarError) as error:
        refuse("data", str(error), DATA)
    try:
        _serve(stage, day, state_file)
    except host.RehearsalError as error:
        if isinstance(error.__cause__, OSError):
            refuse("rehearsal", f"port {port} cannot be had ({error.__cause__}): give another --port, or 0", USAGE)
        refuse("rehearsal", str(error), DATA)


def _serve(stage: Any, day: dt.date, state_file: Path | None) -> None:
    """Stay open until Ctrl-C or SIGTERM."""
    server = rehearsal("server")
    console = Console()
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with stage:
            token = stage.log_in()
            found = {
                "root": stage.root,
                "stream_root": stage.stream_root,
                "login_url": f"{stage.login_root}?v=3&api_key={server.API_KEY}",
                "api_key": server.API_KEY,
                "api_secret": server.API_SECRET,
                "access_token": token,
                "pid": os.getpid(),
                "date": str(day),
                "speed": stage.clock.speed,
            }
            if state_file is not None:
                _write(state_file, found)
            console.print(
                f"[bold]rehearsal of {day}[/], {stage.clock.speed:g} times faster than real time; Ctrl-C ends it\n"
            )
            for name in ("root", "stream_root", "login_url", "api_key", "api_secret", "access_token"):
                console.print(f"  {name.replace('_', ' '):<13} {found[name]}", highlight=False, soft_wrap=True)
            console.print(
                f'\n  KiteConnect("{server.API_KEY}", access_token, root="{stage.root}")\n'
                "  or log in as a user does: open the login url, press the button, and give the request token to\n"
                "  `finsense broker login`; a new login ends the access token above",
                highlight=False,
                soft_wrap=True,
            )
            if stage.waits:
                at = ist_text(stage.clock.now_ns())
                console.print(
                    f"\nthe market waits at {at} until somebody listens to its ticks, as `finsense live` and `finsense "
                    "paper` do; log in and look at the preflight in peace",
                    highlight=False,
                    soft_wrap=True,
                )
            _wait(stage, stop, console)
            _tell_end(stage, console)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if state_file is not None:
            state_file.unlink(missing_ok=True)


def _wait(stage: Any, stop: threading.Event, console: Console) -> None:
    told, waiting = False, stage.waits
    while stage.running and not stop.wait(_LOOK_S):
        if waiting and stage.runs:
            waiting = False
            console.print("somebody listens: the market runs")
        if not told and stage.clock.now_ns() >= stage.end_ns:
            told = True
            console.print("\nthe day is over; the server stays up for readings until Ctrl-C")


def _tell_end(stage: Any, console: Console) -> None:
    if not stage.running:
        return
    state = stage.call(stage.state)
    struck = ", ".join(f"{name} {count}" for name, count in sorted(state["struck"].items()))
    console.print(
        f"\n{state['orders']} orders, {state['executions']} fills, {state['cash_paise'] / 100:,.2f} rupees left; "
        f"faults: {struck or 'none'}"
    )


def _write(path: Path, found: dict[str, Any]) -> None:
    """Whole or not at all, and for the user alone: it holds the rehearsal's keys."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(found, indent=1))
    fresh.replace(path)


def _day(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        refuse("usage", f"expected --date like 2026-10-14, found {text!r}", USAGE)


def _instant(text: str, day: dt.date, option: str) -> int:
    try:
        when = dt.datetime.combine(day, dt.time.fromisoformat(text), IST)
    except ValueError:
        refuse("usage", f"expected {option} with an hour of India like 09:15, found {text!r}", USAGE)
    return int(when.timestamp()) * _SECOND_NS


def _span(text: str, day: dt.date, option: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    begin, end = _instant(first, day, option), _instant(last, day, option)
    if begin >= end:
        refuse("usage", f"expected {option} like 11:00-11:45, found {text!r}", USAGE)
    return begin, end


def _simulated(names: list[str], day: dt.date, seed: int) -> list[Bars]:
    first = day - dt.timedelta(days=_DAYS_BEFORE)
    market = SimulatedMarket.model_validate(
        {"model": "random_walk", "symbols": tuple(names), "interval": "1m", "first": first, "last": day, "seed": seed}
    )
    found = market.load()
    return [found[name] for name in names]


def _recorded(path: Path, names: list[str]) -> list[Bars]:
    found = FileSource.model_validate({"path": path, "symbols": tuple(names)}).load()
    return [found[name] for name in names]


def _ticks(path: Path, names: list[str]) -> list[Tick]:
    if len(names) != 1:
        refuse("usage", f"expected one of --symbols with --ticks, found {len(names)}", USAGE)
    found = ticks_from_frame(read_table(path), names[0], timezone="Asia/Kolkata")
    return sorted(found, key=lambda tick: tick.time_ns)


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
