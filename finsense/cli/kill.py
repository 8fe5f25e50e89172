"""`finsense kill`: stop an account from any shell, whatever its loop does, and keep it stopped."""

import json
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from finsense.cli.errors import HALT, USAGE, refuse
from finsense.cli.extras import live
from finsense.cli.options import AsJson, print_json
from finsense.cli.secrets import open_secrets
from finsense.config.errors import ConfigError
from finsense.config.live import KiteBroker, LiveSetup, default_home, load_live
from finsense.live.account_lock import last_running
from finsense.live.arming import Arming
from finsense.live.journal_format import JournalError
from finsense.live.journal_reader import JournalReader
from finsense.live.kill import KillRun
from finsense.live.kill_switch import RELEASE_PHRASE, KillSwitch, KillSwitchError, Latch, Outcome


def kill(
    setup: Annotated[Path | None, typer.Argument(metavar="[SETUP]", help="The live setup (YAML).")] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Instead of SETUP: the account in its usual home folder.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option("--home", file_okay=False, help="Instead of SETUP: the account's home folder.")
    ] = None,
    flatten: Annotated[bool, typer.Option("--flatten", help="Close what is held as well.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="For the record.")] = "no reason was given",
    release: Annotated[bool, typer.Option("--release", help="Take the latch away; asks for a typed phrase.")] = False,
    as_json: AsJson = False,
) -> None:
    """Stop an account: latch its kill switch, cancel its orders, and with --flatten close what it holds.

    It works with a loop that is healthy, that hangs (it is ended) or that is dead (the command cancels by itself). The
    latch survives restarts and reboots; no order leaves until somebody types the phrase of --release. Without --flatten
    the protective stops of open positions go on resting. Exit code 8: something is left, and the output says what.
    """
    found, folder = _what(setup, account, home)
    switch = KillSwitch(folder)
    if release:
        _release(switch, as_json)
        return
    console = Console(stderr=True)
    latch = _pull(switch, reason, flatten, console)
    console.print(f"the kill switch of {folder} is latched", highlight=False)
    # Who wants to trade again after this confirms it anew.
    Arming(folder).disarm()
    if found is None:
        console.print("no setup is known, so the broker was not asked; give the SETUP to cancel what is open there")
        raise typer.Exit(HALT)
    with ExitStack() as stack:
        outcome = _run(found, switch, latch, stack, console).carry_out()
    _show(latch, outcome, as_json)
    if outcome.problems or outcome.open_orders or (latch.flatten and outcome.positions):
        raise typer.Exit(HALT)


def _what(setup: Path | None, account: str | None, home: Path | None) -> tuple[LiveSetup | None, Path]:
    """The setup, as far as it is known, and the home folder."""
    given = [one for one in (setup, account, home) if one is not None]
    if len(given) != 1:
        refuse("usage", "expected one of SETUP, --account and --home, such as `finsense kill --account main`", USAGE)
    if setup is not None:
        try:
            found = load_live(setup)
        except (ConfigError, OSError) as error:
            typer.echo(str(error), err=True)
            refuse("kill", f"{setup} cannot be used; `finsense kill --account NAME` does not need it", USAGE)
        return found, found.home
    folder = home or default_home(str(account))
    if not folder.is_dir():
        refuse("kill", f"there is no {folder}; give the SETUP, or the --home that it names", USAGE)
    running = last_running(folder)
    try:
        return (None if running is None else LiveSetup.model_validate(running.setup)), folder
    except ValidationError:
        return None, folder


def _pull(switch: KillSwitch, reason: str, flatten: bool, console: Console) -> Latch:
    try:
        return switch.pull(reason, "command", flatten)
    except KillSwitchError as error:
        # The loop is ended and the orders are cancelled even where nothing can be written down.
        console.print(f"[red]{error}[/]; the loop is stopped, but a restart would not be", highlight=False)
        latch = switch.latched
        assert latch is not None
        return latch


def _run(found: LiveSetup, switch: KillSwitch, latch: Latch, stack: ExitStack, console: Console) -> KillRun:
    broker, running = found.broker, last_running(found.home)
    # What a live session of the account left at the broker is there still, whatever ran on paper after it.
    traded_live = any(found.home.glob("*.live.db"))
    on_paper = running is not None and running.mode == "paper" and not traded_live

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    if not isinstance(broker, KiteBroker) or on_paper:
        return KillRun(switch, latch, found.ordered_symbols, found.kill, None, tell=tell)

    def desk() -> Any:
        kite_rest, rate_limits = live("brokers.kite_rest"), live("brokers.rate_limits")
        token = open_secrets(found.home).get(live("kite_login").access_token_name(found.account))
        limits = stack.enter_context(closing(rate_limits.RateLimits(found.rates, or_alone=True)))
        rest = kite_rest.KiteRest(broker.api_key, token, limits, root=broker.root, timeout_s=broker.timeout_s)
        return stack.enter_context(closing(rest))

    return KillRun(
        switch,
        latch,
        found.ordered_symbols,
        found.kill,
        desk,
        protection=broker.market_protection,
        products=_products(found, tell),
        tell=tell,
    )


def _products(found: LiveSetup, tell: Callable[[str], None]) -> set[str] | None:
    """In which products the account's live sessions trade, by their journals; None where one cannot be read."""
    products = set()
    for path in sorted(found.home.glob("*.live.db")):
        try:
            with JournalReader(path) as journal:
                intraday = json.loads(journal.identity["rules"])["product"] == "intraday"
        except (JournalError, KeyError, ValueError) as error:
            tell(f"{error}; shares of every product count as the account's")
            return None
        products.add("MIS" if intraday else "CNC")
    return products or None


def _show(latch: Latch, outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json({"latch": latch._asdict(), "outcome": outcome._asdict()})
        return
    console = Console()
    console.print(f"carried out by {outcome.by}", highlight=False)
    for label, names in (("cancelled", outcome.orders), ("still open", outcome.open_orders)):
        if names:
            console.print(f"{label:<11}{', '.join(names)}", highlight=False)
    for symbol, shares in outcome.positions.items():
        console.print(f"{'held':<11}{shares} {symbol}", highlight=False)
    for problem in outcome.problems:
        console.print(f"[red]✗[/] {problem}", highlight=False)
    console.print("release it with --release when you know why; nothing trades until then", highlight=False)


def _release(switch: KillSwitch, as_json: bool) -> None:
    latch = switch.latched
    if latch is None:
        refuse("kill", "the kill switch is not latched; there is nothing to release", USAGE)
    Console(stderr=True).print(f"latched by {latch.by}: {latch.reason}", highlight=False, markup=False)
    typed = typer.prompt(f"type `{RELEASE_PHRASE}`", err=True)
    try:
        switch.release(typed)
    except KillSwitchError as error:
        refuse("kill", str(error), USAGE)
    if as_json:
        print_json({"released": latch._asdict()})
    else:
        Console().print("released; start the loop again when the preflight is green")
