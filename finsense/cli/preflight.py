"""`finsense preflight`: looks for everything that would go wrong, before money does."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from finsense.cli.errors import PREFLIGHT, USAGE, refuse
from finsense.cli.extras import live
from finsense.cli.options import AsJson, print_json
from finsense.cli.secrets import open_secrets
from finsense.config.live import KiteBroker, LiveSetup, load_live
from finsense.live.brokers.errors import BrokerError
from finsense.live.checks import Check, Mode, Scene, State, carry_out
from finsense.live.clock import SystemClock, WallClock
from finsense.live.preflight import green, wanted_checks
from finsense.market.bars import ist_text

_MARKS = {State.OK: "[green]✓[/]", State.WARNING: "[yellow]![/]", State.CROSS: "[red]✗[/]"}


def preflight(
    setup: Annotated[Path, typer.Argument(metavar="SETUP", exists=True, dir_okay=False, help="A live setup (YAML).")],
    mode: Annotated[str, typer.Option("--mode", help="`paper` or `live`.")] = "paper",
    as_json: AsJson = False,
) -> None:
    """Check everything that a start needs, and say which command mends what is wrong; exit 6 on a cross.

    It sends no order. It does send a test alarm and a sign of life, where channels are given.
    """
    if mode not in ("paper", "live"):
        refuse("usage", f"expected --mode paper or live, found {mode!r}", USAGE)
    found = load_live(setup)
    chosen = cast(Mode, mode)
    with scene_of(found, setup, chosen) as scene:
        checks = looked_at(scene)
        when = ist_text(scene.clock.now_ns())
    if as_json:
        rows = [{**check._asdict(), "state": str(check.state)} for check in checks]
        print_json({"setup": found.name, "mode": mode, "at": when, "green": green(checks), "checks": rows})
    else:
        show(checks, f"{found.name} on {found.account}, {mode}, {when}")
    if not green(checks):
        raise typer.Exit(PREFLIGHT)


def looked_at(scene: Scene) -> list[Check]:
    """Every check of a scene; `finsense live` begins with it too."""
    feed, trading = {}, {}
    if isinstance(scene.setup.broker, KiteBroker):
        broker = live("checks.broker")
        feed, trading = broker.FEED, broker.TRADING
    return carry_out(scene, wanted_checks(scene.setup, scene.mode, feed, trading))


def show(checks: list[Check], title: str) -> None:
    """The report: one line per check, and under it what mends it."""
    console = Console()
    console.print(title, highlight=False)
    for check in checks:
        console.print(f"{_MARKS[check.state]} {check.name}: ", end="", highlight=False)
        console.print(check.text, highlight=False, markup=False, soft_wrap=True)
        if check.mend:
            # A command that is wrapped cannot be copied.
            console.print(f"    {check.mend}", highlight=False, markup=False, soft_wrap=True)
    crosses = sum(check.state is State.CROSS for check in checks)
    warnings = sum(check.state is State.WARNING for check in checks)
    console.print(f"{len(checks)} checks, {warnings} warnings, {crosses} crosses", highlight=False)


@contextmanager
def scene_of(
    found: LiveSetup, path: Path, mode: Mode, opening: Callable[[Path], Any] = open_secrets
) -> Iterator[Scene]:
    """What the checks look at: the store of secrets, the broker with today's token, the clock of the market."""
    store: list[Any] = []

    def secret(name: str) -> str:
        if not store:
            store.append(opening(found.home))
        return str(store[0].get(name))

    if not isinstance(found.broker, KiteBroker):
        yield Scene(found, path, mode, SystemClock(), secret)
        return
    kite_rest, rate_limits = live("brokers.kite_rest"), live("brokers.rate_limits")
    token, why = "", ""
    try:
        token = secret(live("kite_login").access_token_name(found.account))
    except live("secrets").SecretError as error:
        why = str(error)
    with ExitStack() as stack:
        rest = None
        try:
            limits = stack.enter_context(closing(rate_limits.RateLimits(found.rates)))
        except (OSError, sqlite3.Error) as error:
            # Two checks find out which of it is wrong.
            why = f"{found.rates} cannot be used: {error}"
        else:
            if token:
                broker = found.broker
                asking = kite_rest.KiteRest(broker.api_key, token, limits, root=broker.root, timeout_s=broker.timeout_s)
                rest = stack.enter_context(closing(asking))
        yield Scene(found, path, mode, _clock(found.broker), secret, rest, why, token)


def _clock(broker: KiteBroker) -> WallClock:
    """A rehearsal has a time of its own; where it does not answer, the checks of the broker say so."""
    if broker.root is None:
        return SystemClock()
    try:
        return cast(WallClock, live("clock").clock_of(broker.root))
    except BrokerError:
        return SystemClock()
