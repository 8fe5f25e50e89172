"""`finsense costs`: what an order, or a day of fills, costs on NSE at Zerodha."""

import csv
import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from finsense.market.calendar import IST
from finsense.market.contract_note import (
    ContractNoteError,
    NoteFill,
    ScripNote,
    contract_note,
    order_note,
)
from finsense.market.costs import LINES, CostError, charge_lines, schedule_index, schedules

DATA_QUALITY = 4
DAYS_ACROSS = 4  # what 80 columns hold
FILL_COLUMNS = ("time", "symbol", "side", "qty", "price", "product", "order_id")
_Value = TypeVar("_Value")


class Side(StrEnum):
    """What an order does."""

    BUY = "buy"
    SELL = "sell"


class Product(StrEnum):
    """How an order is held: CNC delivery, MIS intraday."""

    CNC = "CNC"
    MIS = "MIS"


def costs(
    side: Annotated[Side | None, typer.Option(help="buy or sell.", case_sensitive=False)] = None,
    qty: Annotated[int | None, typer.Option(min=1, help="Shares.")] = None,
    price: Annotated[str | None, typer.Option(help="Rupees per share, whole paise: 2901.30.")] = None,
    product: Annotated[
        Product | None, typer.Option(help="CNC delivery (the default) or MIS intraday.", case_sensitive=False)
    ] = None,
    date: Annotated[
        dt.datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Trade date, 2026-11-20; today when left out.")
    ] = None,
    contract_note_csv: Annotated[
        Path | None,
        typer.Option(
            "--contract-note", metavar="FILE.csv", help="Fills: time,symbol,side,qty,price,product,order_id (rupees)."
        ),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON document; money as rupee strings.")] = False,
) -> None:
    """Every charge of one order, or of the fills of a day, to the paisa.

    One order, alone (product CNC, so delivery):

    finsense costs --side buy --qty 10 --price 2901.30 --date 2026-11-20

    A file of fills, netted per scrip and day as the exchange does:

    finsense costs --contract-note fills.csv --json
    """
    order_flags = {"--side": side, "--qty": qty, "--price": price, "--product": product, "--date": date}
    if contract_note_csv is not None:
        given = [flag for flag, value in order_flags.items() if value is not None]
        if given:
            raise typer.BadParameter(f"--contract-note prices a file; leave out {', '.join(given)}")
        _day_costs(contract_note_csv, json_output)
        return
    if side is None or qty is None or price is None:
        missing = [flag for flag in ("--side", "--qty", "--price") if order_flags[flag] is None]
        raise typer.BadParameter(f"an order needs {', '.join(missing)} (or give --contract-note FILE.csv)")
    trade_date = dt.datetime.now(IST).date() if date is None else date.date()
    _order_costs(_order_fill(side, qty, price, product or Product.CNC, trade_date), trade_date, json_output)


def load_fills(path: Path) -> list[NoteFill]:
    """Read a day's (or many days') fills from a CSV file with the columns FILL_COLUMNS; others are ignored.

    Times are ISO 8601; one without a zone is exchange time (IST). Prices are rupees. Side and product in any case.

    Raises:
        ContractNoteError: Unreadable, a column missing, no row, or bad rows (count and the first three).
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            header = reader.fieldnames or []
            missing = [column for column in FILL_COLUMNS if column not in header]
            if missing:
                wanted = ",".join(FILL_COLUMNS)
                raise ContractNoteError(f"{path}: expected the columns {wanted}; missing {', '.join(missing)}")
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContractNoteError(f"{path}: expected a readable CSV file in UTF-8: {error}") from error
    if not rows:
        raise ContractNoteError(f"{path}: expected at least one fill, found only the header")
    fills, faults = [], []
    for line, row in rows:
        try:
            fills.append(_fill_of(row))
        except ContractNoteError as error:
            faults.append(f"  line {line}: {error}")
    if faults:
        shown = "\n".join(faults[:3])
        raise ContractNoteError(f"{path}: {len(faults)} of {len(rows)} rows are not fills; the first:\n{shown}")
    return fills


def _fill_of(row: Mapping[Any, Any]) -> NoteFill:
    if None in row:
        raise ContractNoteError("expected as many fields as columns, found more (a comma inside a number?)")
    text = {column: (row[column] or "").strip() for column in FILL_COLUMNS}
    time = _read(dt.datetime.fromisoformat, "time", text["time"], "an ISO 8601 time")
    quantity = _read(Decimal, "qty", text["qty"], "a positive whole number of shares")
    if not quantity.is_finite() or abs(quantity.adjusted()) > 12 or quantity != int(quantity):
        raise ContractNoteError(f"qty: expected a positive whole number of shares, found {text['qty']!r}")
    return NoteFill(
        time=time if time.tzinfo else time.replace(tzinfo=IST),
        symbol=text["symbol"],
        side=text["side"].lower(),
        quantity=int(quantity),
        price=_read(Decimal, "price", text["price"], "a positive price in rupees"),
        product=text["product"].upper(),
        order_id=text["order_id"],
    )


def _read(parse: Callable[[str], _Value], column: str, text: str, expected: str) -> _Value:
    try:
        return parse(text)
    except (ValueError, InvalidOperation) as error:
        raise ContractNoteError(f"{column}: expected {expected}, found {text!r}") from error


def _order_fill(side: Side, quantity: int, price: str, product: Product, trade_date: dt.date) -> NoteFill:
    try:
        rupees = Decimal(price)
        noon = dt.datetime.combine(trade_date, dt.time(12), IST)
        fill = NoteFill(noon, "ORDER", side.value, quantity, rupees, product.value, order_id="1")
    except InvalidOperation as error:
        raise typer.BadParameter(f"--price: expected rupees such as 2901.30, found {price!r}") from error
    except ContractNoteError as error:
        raise typer.BadParameter(str(error)) from error
    return fill


def _order_costs(fill: NoteFill, trade_date: dt.date, json_output: bool) -> None:
    """Print the exact note of one order, and the account's per-order form of it."""
    try:
        note = order_note(fill)
        schedule = schedules()[schedule_index(trade_date)]
    except CostError as error:
        raise _refused(error) from error
    signed = fill.quantity if fill.side == Side.BUY else -fill.quantity
    account_lines = charge_lines(schedule, fill.product == Product.MIS, signed, fill.price_paise)
    if json_output:
        order = {"side": fill.side, "qty": fill.quantity, "price": _rupees(fill.price_paise), "product": fill.product}
        per_order = {
            **{line: _rupees(paise) for line, paise in zip(LINES, account_lines, strict=True)},
            "total": _rupees(sum(account_lines)),
        }
        document = {**order, "date": str(trade_date), "value": _rupees(fill.value_paise), **_charges(note)}
        typer.echo(json.dumps({**document, "per_order": per_order}))
        return
    table = Table(title=f"{fill.side} {fill.quantity} @ {fill.price_paise / 100:.2f} {fill.product} on {trade_date}")
    table.add_column("rupees")
    table.add_column("contract note", justify="right")
    table.add_column("account (per order)", justify="right")
    table.add_row("value", _rupees(fill.value_paise), _rupees(fill.value_paise), end_section=True)
    for line, exact, account in zip(LINES, note.lines_paise, account_lines, strict=True):
        table.add_row(line, _rupees(exact), _rupees(account))
    table.add_section()
    table.add_row("contract_note_total", _rupees(note.contract_note_total_paise), _rupees(sum(account_lines)))
    table.add_row("dp_charges", _rupees(note.dp_charges_paise), _rupees(note.dp_charges_paise))
    table.add_row("total", _rupees(note.total_paise), _rupees(sum(account_lines) + note.dp_charges_paise))
    console = Console()
    console.print(table)
    if tuple(account_lines) != note.lines_paise:
        console.print("The account rounds each line of an order to the paisa; the note rounds STT to the rupee.")


def _day_costs(path: Path, json_output: bool) -> None:
    """Print the notes of a file of fills."""
    try:
        notes = contract_note(load_fills(path))
    except (ContractNoteError, CostError) as error:
        raise _refused(error) from error
    if json_output:
        scrips = [{"symbol": note.symbol, "date": str(note.date), **_charges(note)} for note in notes]
        typer.echo(json.dumps({"scrips": scrips}))
        return
    _print_notes(notes)


def _print_notes(notes: Sequence[ScripNote]) -> None:
    days = [(f"{note.symbol}\n{note.date}", _charges(note)) for note in notes]
    if len(notes) > 1:
        days.append(("all", {line: str(sum(Decimal(day[line]) for _, day in days)) for line in days[0][1]}))
    console = Console()
    for start in range(0, len(days), DAYS_ACROSS):
        shown = days[start : start + DAYS_ACROSS]
        table = Table()
        table.add_column("rupees")
        for heading, _ in shown:
            table.add_column(heading, justify="right")
        for line in shown[0][1]:
            table.add_row(line, *(charges[line] for _, charges in shown), end_section=line == LINES[-1])
        console.print(table)


def _charges(note: ScripNote) -> dict[str, str]:
    return {
        **{line: _rupees(paise) for line, paise in zip(LINES, note.lines_paise, strict=True)},
        "contract_note_total": _rupees(note.contract_note_total_paise),
        "dp_charges": _rupees(note.dp_charges_paise),
        "total": _rupees(note.total_paise),
    }


def _rupees(paise: int) -> str:
    return f"{int(paise) // 100}.{int(paise) % 100:02d}"


def _refused(error: ValueError) -> typer.Exit:
    typer.echo(f"error[costs]: {error}", err=True)
    return typer.Exit(DATA_QUALITY)
