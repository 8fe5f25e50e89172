"""`finsense live`: trade for real; and what it shares with `finsense paper` over live bars."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console

from finsense.account.joint import Books
from finsense.account.session import Order
from finsense.cli.errors import GATE, HALT, INTERRUPTED, PREFLIGHT, refuse
from finsense.cli.extras import live as live_module
from finsense.cli.options import AsJson, print_json
from finsense.cli.preflight import looked_at, scene_of, show
from finsense.cli.secrets import open_secrets
from finsense.config.live import KiteBroker, KiteFeed, LiveSetup, load_live
from finsense.live.arming import Arming, NotArmed, confirm, phrase
from finsense.live.last_wall import Stopping
from finsense.live.preflight import green
from finsense.live.start import Ended, Mode, trade
from finsense.market.bars import ist_text
from finsense.market.moments import Moment
from finsense.model.bundle import Bundle, load_bundle

SetupFile = Annotated[Path, typer.Argument(metavar="SETUP", exists=True, dir_okay=False, help="A live setup (YAML).")]
log = structlog.get_logger()
# A passphrase is asked for once, for the preflight and for what it lets begin.
_opened = cache(open_secrets)


def live(
    setup: SetupFile,
    armed: Annotated[
        bool, typer.Option("--armed", help="Start without asking, on the token of `finsense arm`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Trade for real until the day is over: preflight, a typed confirmation, then the loop.

    Ctrl-C once: no new positions. Twice: leave; protective stops go on resting at the exchange. `finsense kill` from
    another shell stops everything. Started again it goes on where it was.
    """
    found = load_live(setup)
    if not isinstance(found.broker, KiteBroker):
        refuse("setup", f"{setup} names no broker; `finsense paper {setup}` trades it on paper", PREFLIGHT)
    bundle = load_bundle(found.bundle)
    _refuse_unproven(bundle)
    with scene_of(found, setup, "live", _opened) as scene:
        checks = looked_at(scene)
    if not green(checks):
        show(checks, f"{found.name} on {found.account}, live")
        refuse("preflight", f"not everything is well; mend it and look again: finsense preflight {setup} --mode live",
               PREFLIGHT)  # fmt: skip
    log.info("the preflight is green", checks=len(checks), warnings=[one.name for one in checks if one.mend] or "none")
    _confirm(found, bundle, armed)
    run_setup(found, bundle, "live", as_json=as_json)


def run_setup(setup: LiveSetup, bundle: Bundle, mode: Mode, *, as_json: bool) -> None:
    """Run a setup over live bars to the end of its day, and say how it ended."""

    def secret(name: str) -> str:
        return str(_opened(setup.home).get(name))

    for remark in setup.remarks():
        log.warning("a limit is looser than its preset", limit=remark)
    stopping = Stopping()
    log.info("starting", mode=mode.upper(), setup=setup.name, account=setup.account, bundle=bundle.manifest.name)
    with _interrupts(stopping), closing(_source(setup, bundle, stopping)) as source:
        ended = trade(setup, mode, bundle, source, secret, stopping, _tell)
    _show(setup, mode, ended, as_json)
    if stopping.asked and not ended.over:
        refuse("interrupted", f"left after {ist_text(ended.time_ns)}; start again to go on", INTERRUPTED)
    if not ended.over:
        refuse("halted", f"the day did not come to its end; the last bar was {ist_text(ended.time_ns)}", HALT)


def _source(setup: LiveSetup, bundle: Bundle, stopping: Stopping) -> Any:
    def look() -> None:
        """Nothing is open while the first login is waited for: the first Ctrl-C leaves."""
        if stopping.asked:
            raise KeyboardInterrupt

    if isinstance(setup.feed, KiteFeed):
        return live_module("kite_source").KiteSource(setup, bundle.manifest, _opened(setup.home), look)
    return live_module("yahoo_source").YahooSource(setup, bundle.manifest)


def _refuse_unproven(bundle: Bundle) -> None:
    if not bundle.manifest.validation:
        refuse(
            "bundle",
            f"{bundle.manifest.name} carries no validation result: nobody knows what it is worth. Train it with a "
            "validation span",
            GATE,
        )


def _confirm(setup: LiveSetup, bundle: Bundle, armed: bool) -> None:
    """Nothing trades by accident: a phrase is typed, or was typed some hours ago."""
    try:
        if armed:
            Arming(setup.home).check(setup, bundle.identity)
        elif not sys.stdin.isatty():
            refuse(
                "arm", "there is no terminal to confirm on: `finsense arm` first, then `finsense live --armed`",
                PREFLIGHT,
            )  # fmt: skip
        else:
            confirm(setup, typer.prompt(f"type `{phrase(setup)}` to start", err=True))
    except NotArmed as error:
        refuse("arm", str(error), PREFLIGHT)


@contextmanager
def _interrupts(stopping: Stopping) -> Iterator[None]:
    """Ctrl-C asks to stop: once for no new positions, twice to leave, three times at once."""

    def take(*_: object) -> None:
        if stopping.asked > 1:
            raise KeyboardInterrupt
        stopping.ask()

    def leave(*_: object) -> None:
        """A service that is stopped leaves as after the second Ctrl-C."""
        while stopping.asked < 2:
            stopping.ask()

    before = [(name, signal.signal(name, act)) for name, act in ((signal.SIGINT, take), (signal.SIGTERM, leave))]
    try:
        yield
    finally:
        for name, act in before:
            signal.signal(name, act)


def _tell(moment: Moment, books: Books, orders: Mapping[str, Order], refused: Mapping[str, str]) -> None:
    held = {symbol: shares for symbol, shares in books.positions.items() if shares}
    sent = {symbol: order.quantity for symbol, order in orders.items() if symbol not in refused}
    log.info(
        "bar",
        at=ist_text(moment.time_ns),
        equity=f"{books.equity_paise / 100:,.2f}",
        held=held or "nothing",
        orders=sent or "none",
        **({"refused": dict(refused)} if refused else {}),
    )


def _show(setup: LiveSetup, mode: Mode, ended: Ended, as_json: bool) -> None:
    positions = {symbol: shares for symbol, shares in ended.books.positions.items() if shares}
    if as_json:
        print_json(
            {
                "setup": setup.name,
                "mode": mode,
                "last_bar": ist_text(ended.time_ns) if ended.time_ns else None,
                "recovered": ended.recovered,
                "equity": f"{ended.books.equity_paise / 100:.2f}",
                "cash": f"{ended.books.cash_paise / 100:.2f}",
                "positions": positions,
                "refused": dict(ended.refused),
                "alarms": dict(ended.alarms),
                "over": ended.over,
                "day": None if ended.day is None else ended.day.summary(),
                "journal": str(setup.journal(mode)),
            }
        )
        return
    console = Console()
    last = ist_text(ended.time_ns) if ended.time_ns else "none"
    console.print(f"last bar {last}; {ended.recovered} moments were recovered from the journal", highlight=False)
    console.print(
        f"equity {ended.books.equity_paise / 100:,.2f}, cash {ended.books.cash_paise / 100:,.2f}, "
        f"positions {positions or 'none'}",
        highlight=False,
    )
    console.print(f"refused by the gate {dict(ended.refused) or 'nothing'}; alarms {dict(ended.alarms) or 'none'}")
    if ended.day is not None:
        console.print(ended.day.text(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"journal {setup.journal(mode)}", highlight=False, soft_wrap=True)
