"""`finsense broker`: the daily login, and whether it still holds."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from finsense.cli.errors import CONFIG, guarded, refuse
from finsense.cli.extras import live
from finsense.cli.options import AsJson, print_json
from finsense.cli.secrets import ask, instant, open_secrets
from finsense.config.live import KiteBroker, LiveSetup, load_live
from finsense.evaluation.wording import rupees

broker_app = typer.Typer(name="broker", help="Log in at the broker, and see whether the login holds.")

Setup = Annotated[Path, typer.Argument(metavar="SETUP", exists=True, dir_okay=False, help="A live setup (YAML).")]


def login(
    setup: Setup,
    listen: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Wait on this port of 127.0.0.1 for the browser instead of asking."),
    ] = None,
    wait_s: Annotated[float, typer.Option(min=1, max=3600, help="How long to listen, seconds.")] = 300.0,
) -> None:
    """Log in at Zerodha Kite: open the printed address, log in there, and paste the address that you are sent to.

    The access token is kept encrypted for every command of this account. It dies the next day: log in every morning.
    """
    found, broker = _kite(setup)
    kite = live("kite_login")
    store, console = open_secrets(found.home), Console(stderr=True)
    secret, asked = _api_secret(store, kite.api_secret_name(found.account))
    with _rest(found, broker, None) as rest:
        console.print("Log in here:\n", highlight=False)
        # A plain line: an address that is wrapped cannot be opened.
        typer.echo(kite.login_url(rest, broker.root))
        token = _request_token(kite, listen, wait_s, console)
        try:
            kite.log_in(rest, store, found.account, token, secret)
        except live("brokers.errors").AuthExpired as error:
            mend = store.command("set", kite.api_secret_name(found.account))
            raise type(error)(
                f"the login was refused ({error}). A request token serves once and for a few minutes: log in again. "
                f"If that is refused too, the api secret is wrong: {mend}"
            ) from None
    if asked:
        store.set(kite.api_secret_name(found.account), secret)
    console.print(f"logged in; the access token of {found.account} is kept in {store.place}", highlight=False)


def status(setup: Setup, as_json: AsJson = False) -> None:
    """Ask the broker whether the login holds: whose account, its cash, and the age of the token; exit 7 if not."""
    found, broker = _kite(setup)
    kite, errors = live("kite_login"), live("brokers.errors")
    store = open_secrets(found.home)
    mend = f"log in with `finsense broker login {setup}`"
    try:
        token = store.entry(kite.access_token_name(found.account))
    except live("secrets").SecretMissing:
        raise errors.AuthExpired(f"there is no access token of {found.account} yet: {mend}") from None
    taken = instant(token.taken_ns)
    with _rest(found, broker, token.value) as rest:
        try:
            profile, cash_paise = rest.profile(), rest.cash_paise()
        except errors.AuthExpired as error:
            raise errors.AuthExpired(
                f"the access token of {found.account}, taken {taken:%Y-%m-%d %H:%M} IST, is dead ({error}): {mend}"
            ) from None
    age_s = time.time() - taken.timestamp()
    if as_json:
        print_json(
            {
                "account": found.account,
                "user_id": profile.user_id,
                "cash_paise": cash_paise,
                "token_taken": taken.isoformat(),
                "token_age_s": round(age_s),
            }
        )
        return
    console = Console()
    for label, text in (
        ("account", f"{found.account}: {profile.user_id} at the broker"),
        ("server", broker.root or "Zerodha"),
        ("cash", rupees(cash_paise)),
        ("token", f"alive; taken {taken:%Y-%m-%d %H:%M} IST, {age_s / 3600:.1f} hours ago"),
    ):
        console.print(f"{label:<8} {text}", highlight=False, markup=False)


for command, example in (
    (login, "finsense broker login configs/live_kite.yaml"),
    (status, "finsense broker status configs/live_kite.yaml --json"),
):
    broker_app.command(epilog=f"Example: {example}")(guarded(command))


def _kite(path: Path) -> tuple[LiveSetup, KiteBroker]:
    found = load_live(path)
    if not isinstance(found.broker, KiteBroker):
        refuse("config", f"{path} has broker {found.broker.kind}, which needs no login; expected broker kite", CONFIG)
    return found, found.broker


@contextmanager
def _rest(found: LiveSetup, broker: KiteBroker, token: str | None) -> Iterator[Any]:
    kite_rest, rate_limits = live("brokers.kite_rest"), live("brokers.rate_limits")
    with (
        closing(rate_limits.RateLimits(found.rates)) as limits,
        closing(
            kite_rest.KiteRest(broker.api_key, token, limits, root=broker.root, timeout_s=broker.timeout_s)
        ) as rest,
    ):
        yield rest


def _api_secret(store: Any, name: str) -> tuple[str, bool]:
    """The secret of the application, and whether it was asked for because the store has none."""
    try:
        return store.get(name), False
    except live("secrets").SecretMissing:
        return ask(f"api secret of the application ({name}), asked once: "), True


def _request_token(kite: Any, listen: int | None, wait_s: float, console: Console) -> str:
    if listen is None:
        token: str = kite.request_token_of(ask("\nAddress that you were sent to, or its request_token: "))
        return token
    with closing(kite.RedirectListener(listen)) as listener:
        console.print(f"\nwaiting on http://127.0.0.1:{listener.port} for the browser", highlight=False)
        return str(listener.wait(wait_s))
