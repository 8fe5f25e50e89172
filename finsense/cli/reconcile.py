"""`finsense reconcile`: compare the journal of a live session with the broker, and take its quantities over."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn

import structlog
import typer
from rich.console import Console

from finsense.cli.errors import CONFIG, HALT, USAGE, refuse
from finsense.cli.extras import live
from finsense.cli.options import AsJson, print_json
from finsense.cli.secrets import open_secrets
from finsense.config.live import KiteBroker, LiveSetup, load_live
from finsense.live.account_lock import holder
from finsense.live.brokers.errors import AuthExpired
from finsense.live.clock import SystemClock, WallClock, clock_of
from finsense.live.desk_records import Notes
from finsense.live.journal import Journal
from finsense.live.journal_reader import JournalReader
from finsense.live.order_desk import OrderDesk
from finsense.live.order_recovery import find_unanswered
from finsense.live.patience import Patience, Waiter
from finsense.live.reconcile import (
    Difference,
    Held,
    OnlyReading,
    ReconcileError,
    Sketch,
    Strangers,
    accept,
    differences,
    held_by_broker,
    table_text,
)

log = structlog.get_logger()

Setup = Annotated[Path, typer.Argument(metavar="SETUP", exists=True, dir_okay=False, help="A live setup (YAML).")]
Prices = Annotated[
    list[str] | None,
    typer.Option("--price", metavar="SYMBOL=RUPEES", help="Price of shares that no trade explains; may be repeated."),
]


class _Scene(NamedTuple):
    """What a comparison needs."""

    desk: OrderDesk
    strangers: Strangers
    waiter: Waiter
    clock: WallClock
    rest: Any
    symbols: tuple[str, ...]
    product: str

    def held(self) -> dict[str, Held]:
        """What the broker says is held."""
        return self.waiter.patiently(lambda: held_by_broker(self.rest, self.symbols, self.product))


def reconcile(
    setup: Setup,
    accepting: Annotated[
        bool, typer.Option("--accept", help="Take the broker's quantities over into the journal.")
    ] = False,
    prices: Prices = None,
    as_json: AsJson = False,
) -> None:
    """Show where the journal of a live session and the broker disagree; exit 8 where they do.

    The broker is the truth for quantities. With --accept its quantities are taken over, so that the session can go on:
    orders of others on these shares come with their trades; what no trade explains is booked at --price, else at the
    broker's average price, and is marked in the journal.
    """
    given = _paise(prices or [])
    with _scene(setup, accepting) as scene:
        desk = scene.desk
        desk.read_book()
        if accepting:
            find_unanswered(desk, scene.waiter)
        desk.agree()
        found = differences(desk.books, scene.held(), scene.strangers.on_our_shares())
        taken: list[Difference] = []
        if accepting and found:
            try:
                taken = accept(desk, scene.strangers, scene.held, scene.clock.now_ns(), given)
            except ReconcileError as error:
                refuse("reconcile", str(error), USAGE)
    _show(found, taken, accepting, as_json)
    if found and not accepting:
        raise typer.Exit(HALT)


@contextmanager
def _scene(path: Path, writing: bool) -> Iterator[_Scene]:
    setup = load_live(path)
    broker = setup.broker
    if not isinstance(broker, KiteBroker):
        refuse(
            "config", f"{path} has broker {broker.kind}, which has no books to compare; expected broker kite", CONFIG
        )
    running = holder(setup.home)
    if writing and running is not None:
        refuse("reconcile", f"process {running} trades on this account; stop it before its books are changed", USAGE)
    token = open_secrets(setup.home).get(live("kite_login").access_token_name(setup.account))
    with ExitStack() as stack:
        notes, product = _notes(setup, writing, stack)
        limits = stack.enter_context(closing(live("brokers.rate_limits").RateLimits(setup.rates)))
        rest = live("brokers.kite_rest").KiteRest(
            broker.api_key, token, limits, root=broker.root, timeout_s=broker.timeout_s
        )
        stack.callback(rest.close)
        clock: WallClock = SystemClock() if broker.root is None else clock_of(broker.root)

        def dead() -> NoReturn:
            raise AuthExpired(
                f"the access token of {setup.account} is dead: log in with `finsense broker login {path}`"
            )

        waiter = Waiter(_tell, dead, patience=Patience(arrival_s=broker.timeout_s + 1.0, read_s=15.0))
        desk = OrderDesk(rest if writing else OnlyReading(rest), notes, clock, waiter)
        symbols = setup.ordered_symbols

        def held() -> dict[str, Held]:
            return waiter.patiently(lambda: held_by_broker(rest, symbols, product))

        strangers = Strangers(desk, symbols, product, _tell, held)
        yield _Scene(desk, strangers, waiter, clock, rest, symbols, product)


def _notes(setup: LiveSetup, writing: bool, stack: ExitStack) -> tuple[Notes, str]:
    """The journal's events, and the product of the account that it belongs to."""
    path = setup.journal("live")
    reader = stack.enter_context(JournalReader(path))
    rules = json.loads(reader.identity["rules"])
    product = "MIS" if rules["product"] == "intraday" else "CNC"
    if not writing:
        return Sketch(reader), product
    return stack.enter_context(Journal(path, reader.identity)), product


def _tell(kind: str, text: str, **facts: Any) -> None:
    log.warning(text, kind=kind)


def _paise(given: list[str]) -> dict[str, int]:
    prices = {}
    for text in given:
        symbol, _, rupees = text.rpartition("=")
        try:
            paise = Decimal(rupees) * 100
        except InvalidOperation:
            paise = Decimal(0)
        if not symbol or not paise.is_finite() or paise <= 0 or paise != paise.to_integral_value():
            refuse(
                "usage", f"expected --price SYMBOL=RUPEES in whole paise, such as INFY=1500.05, found {text!r}", USAGE
            )
        prices[symbol] = int(paise)
    return prices


def _show(found: list[Difference], taken: list[Difference], accepting: bool, as_json: bool) -> None:
    if as_json:
        rows: list[Mapping[str, Any]] = [{**one._asdict(), "difference": one.missing} for one in found]
        print_json({"differences": rows, "accepted": accepting, "unexplained": [one._asdict() for one in taken]})
        return
    console = Console()
    if not found:
        console.print("the journal and the broker agree", highlight=False)
        return
    console.print(table_text(found), highlight=False, markup=False, soft_wrap=True)
    if accepting:
        console.print("the broker's quantities are taken over; the session goes on with them", highlight=False)
    else:
        console.print("--accept takes the broker's quantities over", highlight=False)
