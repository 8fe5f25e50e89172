"""Show the trading hours of one date: the command `finsense calendar`."""

import datetime as dt
import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from finsense.market.calendar import (
    IST,
    CalendarError,
    TradingSession,
    UnknownDerivativesError,
    nse_calendar,
)
from finsense.market.instruments import InstrumentError, instrument

_USAGE = 2
_DATA = 4


def calendar(
    date: Annotated[str, typer.Argument(metavar="DATE", help="Day in India, YYYY-MM-DD.")],
    symbol: Annotated[str | None, typer.Option(help="Stock whose hours are asked, such as RELIANCE.")] = None,
    derivatives: Annotated[
        bool | None,
        typer.Option("--derivatives/--no-derivatives", help="Class of stock, where no symbol says it."),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show the NSE trading hours of a date, in Indian time.

    Example: finsense calendar 2026-08-03 --symbol RELIANCE --json
    """
    answer = _answer(_parse_date(date), symbol, derivatives)
    if json_output:
        typer.echo(json.dumps(answer))
        return
    table = Table(show_header=False)
    hours = ", ".join(f"{start}-{end}" for start, end in answer["windows"])
    for label, value in (
        ("date", answer["date"]),
        ("session", "yes" if answer["session"] else "no"),
        ("kind", answer["kind"]),
        ("name", answer["name"]),
        ("continuous trading (IST)", hours),
        ("closing auction", "yes" if answer["closing_auction"] else "no"),
    ):
        table.add_row(label, str(value))
    Console().print(table)


def _answer(day: dt.date, symbol: str | None, derivatives: bool | None) -> dict:
    """Ask the calendar and shape its answer as the JSON document; a refusal becomes an exit code."""
    known = nse_calendar()
    try:
        if symbol is not None:
            derivatives = instrument(symbol, derivatives=derivatives).derivatives
        session = known.session(day, derivatives=derivatives)
        reason = known.closed_reason(day) if session is None else ""
    except UnknownDerivativesError as error:
        raise _refuse(f"{error} (--derivatives or --no-derivatives)", _USAGE) from error
    except InstrumentError as error:
        raise _refuse(str(error), _USAGE) from error
    except CalendarError as error:
        raise _refuse(str(error), _DATA) from error
    if session is not None:
        kind, name = session.kind, session.name
    else:
        kind, name = ("weekend", "") if reason == "weekend" else ("holiday", reason)
    return {
        "date": day.isoformat(),
        "session": session is not None,
        "kind": kind,
        "name": name,
        "windows": [] if session is None else _clock_windows(session),
        "closing_auction": session is not None and session.closing_auction,
    }


def _parse_date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise _refuse(f"expected a date like 2026-08-03, found {text!r}: {error}", _USAGE) from error


def _clock_windows(session: TradingSession) -> list[list[str]]:
    """Write the windows as Indian wall-clock times."""
    return [[_clock(start_ns), _clock(end_ns)] for start_ns, end_ns in session.windows]


def _clock(time_ns: int) -> str:
    return dt.datetime.fromtimestamp(time_ns // 1_000_000_000, IST).strftime("%H:%M")


def _refuse(message: str, exit_code: int) -> typer.Exit:
    """Say on stderr what is wrong and return the exit to raise."""
    typer.echo(f"error[calendar]: {message}", err=True)
    return typer.Exit(exit_code)
