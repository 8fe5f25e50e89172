"""`finsense arm`: lets one setup trade for some hours without being asked again."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from finsense.cli.errors import HALT, USAGE, refuse
from finsense.cli.options import AsJson, print_json
from finsense.config.live import load_live
from finsense.live.arming import Arming, NotArmed, hours_of, phrase
from finsense.live.kill_switch import KillSwitch
from finsense.market.bars import ist_text
from finsense.model.bundle import load_bundle


def arm(
    setup: Annotated[Path, typer.Argument(metavar="SETUP", exists=True, dir_okay=False, help="A live setup (YAML).")],
    lifetime: Annotated[str, typer.Option("--for", metavar="TIME", help="Such as 8h or 30m; at most 24h.")] = "8h",
    off: Annotated[bool, typer.Option("--off", help="Take the token away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give the setup and its bundle, as they are now, a token for `finsense live`; asks for a typed phrase.

    A change of either ends it, and so does `finsense kill`.
    """
    found = load_live(setup)
    arming = Arming(found.home)
    if off:
        there = arming.disarm()
        Console(stderr=True).print("disarmed" if there else "it was not armed")
        return
    latch = KillSwitch(found.home).latched
    if latch is not None:
        refuse("kill", f"the kill switch is latched ({latch.reason}); release it first: finsense kill --release", HALT)
    bundle = load_bundle(found.bundle)
    typed = typer.prompt(f"type `{phrase(found)}`", err=True)
    try:
        token = arming.arm(found, bundle.identity, hours_of(lifetime), typed)
    except NotArmed as error:
        refuse("armed", str(error), USAGE)
    if as_json:
        print_json(token._asdict())
    else:
        Console().print(f"{found.account} is armed until {ist_text(token.until_ns)}", highlight=False)
