"""`finsense journal`: what a session decided and why, whether anybody changed it since, and all of it as tables."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finsense.cli.errors import guarded
from finsense.cli.options import AsJson, print_json
from finsense.evaluation.wording import grouped, rupees
from finsense.live.journal_export import Decided, export, identity_of, last_decisions, last_events
from finsense.live.journal_format import Event
from finsense.live.journal_proof import prove
from finsense.market.bars import ist_text

journal_app = typer.Typer(name="journal", help="Read, prove and export the journal of a session; it may be running.")

JournalFile = Annotated[Path, typer.Argument(metavar="JOURNAL", exists=True, dir_okay=False, help="A journal (.db).")]


def verify(
    journal: JournalFile,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HASH", help="A hash that was noted before; it must still be there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that no byte of a journal was changed, or say where; exit 1 where one was.

    Note the printed hash where nobody who can write the journal can write: whoever writes a whole journal anew can make
    its chain fit, but not with that hash in it.
    """
    proof = prove(journal, head)
    if as_json:
        print_json({"journal": str(journal), **proof._asdict()})
        return
    console = Console()
    console.print(f"{grouped(proof.records)} records, unchanged; the last has the hash", highlight=False)
    console.print(proof.head or "(none)", highlight=False, soft_wrap=True)
    if proof.remark:
        console.print(f"[yellow]![/] {escape(proof.remark)}", highlight=False)


def export_tables(
    journal: JournalFile,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", dir_okay=False, help="X.parquet or X.csv.")],
    as_json: AsJson = False,
) -> None:
    """Write bars and decisions to FILE, and fills, events and the rest beside it, each in a file of its own."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = export(journal, out)
    if as_json:
        print_json({one.table: {"path": str(one.path), "rows": one.rows} for one in done})
        return
    for one in done:
        Console().print(f"{one.table:<8} {grouped(one.rows):>12} rows  {one.path}", highlight=False, soft_wrap=True)


def show(
    journal: JournalFile,
    last: Annotated[int, typer.Option("--last", min=1, max=10_000, help="How many decisions and events.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the last decisions with the reasons of what did not leave, and the last events."""
    identity, decisions, events = identity_of(journal), last_decisions(journal, last), last_events(journal, last)
    if as_json:
        print_json(
            {
                "identity": identity,
                "decisions": [one._asdict() for one in decisions],
                "events": [one._asdict() for one in events],
            }
        )
        return
    console = Console()
    console.print(" ".join(f"{name}={value}" for name, value in identity.items()), highlight=False, markup=False)
    console.print(_decision_table(decisions))
    console.print(_event_table(events))


def _decision_table(decisions: list[Decided]) -> Table:
    table = Table(title="decisions", box=None, padding=(0, 1))
    for heading in ("time", "symbol"):
        table.add_column(heading)
    for heading in ("close", "action", "order", "stop", "position", "equity"):
        table.add_column(heading, justify="right")
    table.add_column("why it did not leave", overflow="fold")
    for one in decisions:
        table.add_row(
            ist_text(one.time_ns),
            one.symbol,
            f"{one.close:.2f}",
            "-" if one.action is None else str(one.action),
            f"{one.order_quantity:+d}" if one.order_quantity else "",
            rupees(one.stop_paise) if one.stop_paise else "",
            str(one.position),
            rupees(one.equity_paise),
            escape(one.refused),
        )
    return table


def _event_table(events: list[Event]) -> Table:
    table = Table(title="events", box=None, padding=(0, 1))
    for heading in ("time", "order", "what", "more"):
        table.add_column(heading, overflow="fold")
    for event in events:
        more = " ".join(f"{name}={value}" for name, value in event.body.items())
        table.add_row(ist_text(event.time_ns), event.tag or "(session)", event.what, escape(more))
    return table


for command, verb, example in (
    (verify, "verify", "finsense journal verify ~/.local/state/finsense/main/largecaps.live.db"),
    (export_tables, "export", "finsense journal export journal.db --out journal.parquet"),
    (show, "show", "finsense journal show journal.db --last 50"),
):
    journal_app.command(verb, epilog=f"Example: {example}")(guarded(command))
