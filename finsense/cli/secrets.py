"""`finsense secrets`: keeps what nobody else may see; no command shows a value, and none takes it as an argument."""

import datetime as dt
import getpass
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from finsense.cli.errors import USAGE, guarded, refuse
from finsense.cli.extras import live
from finsense.cli.options import AsJson, print_json
from finsense.config.live import default_home, load_live
from finsense.market.calendar import IST

secrets_app = typer.Typer(name="secrets", help="Keep secrets, see their names, change the passphrase, try the store.")

AccountName = Annotated[str | None, typer.Option("--account", help="Whose secrets; its usual home is taken.")]
SetupFile = Annotated[
    Path | None, typer.Option("--setup", exists=True, dir_okay=False, help="A live setup (YAML); its home is taken.")
]
Home = Annotated[Path | None, typer.Option("--home", file_okay=False, help="Folder whose secrets they are.")]

_NANOSECONDS = 1_000_000_000


def set_secret(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as main.kite.api_secret.")],
    setup: SetupFile = None,
    home: Home = None,
) -> None:
    """Keep a secret. Its value is asked for, or read from stdin; never give it as an argument."""
    if context.args:
        refuse(
            "usage",
            f"the value of {name} stands on the command line, where every user of this machine can see it, and in the "
            "history of your shell: let it be replaced where it comes from, and give the new one when you are asked",
            USAGE,
        )
    store = open_secrets(home_of(name.partition(".")[0], setup, home))
    store.set(name, ask(f"value of {name}: "))
    Console().print(f"{name} is kept in {store.place}", highlight=False, markup=False, soft_wrap=True)


def list_secrets(
    account: AccountName = None, setup: SetupFile = None, home: Home = None, as_json: AsJson = False
) -> None:
    """Show the names of the secrets and when each was taken; never a value."""
    store = open_secrets(home_of(account, setup, home))
    found = {name: instant(taken_ns) for name, taken_ns in store.names().items()}
    if as_json:
        print_json({"place": store.place, "secrets": {name: taken.isoformat() for name, taken in found.items()}})
        return
    Console().print(f"{len(found)} secrets in {store.place}", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 1))
    table.add_column("name", overflow="fold")
    table.add_column("taken")
    for name, taken in found.items():
        table.add_row(name, f"{taken:%Y-%m-%d %H:%M} IST")
    Console().print(table)


def rotate(account: AccountName = None, setup: SetupFile = None, home: Home = None) -> None:
    """Seal the encrypted file anew under another passphrase. Programs that run on it must be started again."""
    store = open_secrets(home_of(account, setup, home))
    if not hasattr(store, "rotate"):
        refuse("secrets", f"{store.place} is locked by the operating system; change its password there", USAGE)
    store.names()
    store.rotate(ask("new passphrase: ", twice=True))
    Console().print(f"{store.place} is sealed under the new passphrase", highlight=False, markup=False, soft_wrap=True)


def try_store(account: AccountName = None, setup: SetupFile = None, home: Home = None) -> None:
    """Keep, read and forget a value of no worth, and say where secrets lie."""
    store = open_secrets(home_of(account, setup, home))
    store.test()
    count = len(store.names())
    Console().print(f"{store.place} works; it holds {count} secrets", highlight=False, markup=False, soft_wrap=True)


for command, verb, example in (
    (set_secret, "set", "finsense secrets set main.kite.api_secret"),
    (list_secrets, "list", "finsense secrets list --account main"),
    (rotate, "rotate", "finsense secrets rotate --account main"),
    (try_store, "test", "finsense secrets test --setup configs/live_kite.yaml"),
):
    # `set` takes a value on the command line only to refuse it without repeating it, as the parser would.
    takes = {"allow_extra_args": verb == "set"}
    secrets_app.command(verb, epilog=f"Example: {example}", context_settings=takes)(guarded(command))


def home_of(account: str | None, setup: Path | None, home: Path | None) -> Path:
    """The folder whose secrets are meant: the one given, that of a setup, or the usual one of an account."""
    if home is not None:
        return home
    if setup is not None:
        return load_live(setup).home
    if account:
        return default_home(account)
    refuse("usage", "whose secrets? Give --account, --setup or --home", USAGE)


def open_secrets(home: Path) -> Any:
    """The store of a home folder; the passphrase of an encrypted file is asked for when it is needed."""
    module = live("secrets")

    def passphrase() -> str:
        if not sys.stdin.isatty():
            # stdin may hold the value of a secret, so the passphrase is not read from it.
            raise module.SecretError(
                f"{home} needs its passphrase and there is no terminal to ask on: set FINSENSE_PASSPHRASE_FILE to a "
                "file that only you may read (chmod 600) and that holds it"
            )
        return ask(f"passphrase of {home}: ", twice=not (home / module.FILE_NAME).exists())

    return module.open_store(home, passphrase)


def ask(prompt: str, *, twice: bool = False) -> str:
    """A secret from the terminal, without echo; where stdin is no terminal, its next line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    with warnings.catch_warnings():
        # It would go on and show what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            first = getpass.getpass(prompt, sys.stderr)
            if twice and getpass.getpass("the same again: ", sys.stderr) != first:
                refuse("secrets", "the two differ; nothing was kept", USAGE)
        except getpass.GetPassWarning:
            refuse("secrets", "this terminal would show what is typed; pipe the value to stdin instead", USAGE)
    return first


def instant(time_ns: int) -> dt.datetime:
    """An instant for a person, to the second, in India's time."""
    return dt.datetime.fromtimestamp(time_ns // _NANOSECONDS, IST)
