"""The daily login at Kite: from the page where a user logs in to the access token in the store, and waiting for it.

The access token dies on the next day at an hour that the vendor may move, with a logout, or with another login of the
same user; so nobody here knows the hour: a token is good until the broker refuses it.
"""

import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

import structlog

from finsense.live.brokers.errors import AuthExpired, BrokerError
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.clock import WallClock
from finsense.live.redaction import register_secret, scrub
from finsense.live.secret_store import SecretMissing, SecretStore

_TOKEN = re.compile(r"[A-Za-z0-9]{6,64}")
# How often a waiting loop looks into the store, seconds of the market.
_LOOK_S = 1.0
# A browser that opens a connection and says nothing must not hold the one that brings the token.
_SILENT_S = 5.0
_PAGE = "<!doctype html><title>finsense</title><p>{}</p>"

log = structlog.get_logger()


class LoginError(AuthExpired):
    """A login that was not completed, so there is no token yet."""


def api_secret_name(account: str) -> str:
    """Where the secret of the account's application is kept."""
    return f"{account}.kite.api_secret"


def access_token_name(account: str) -> str:
    """Where the account's access token is kept."""
    return f"{account}.kite.access_token"


def login_url(rest: KiteRest, root: str | None) -> str:
    """Where the user logs in: the vendor's page, or that of a rehearsal."""
    url = rest.login_url()
    return url if root is None else f"{root}/connect/login?{urlsplit(url).query}"


def request_token_of(text: str) -> str:
    """The request token that a user pasted, alone or in the address that the browser was sent to.

    Raises:
        LoginError: there is none, or the login was not completed. The message does not show the text.
    """
    text = text.strip()
    found = {key: values[-1] for key, values in parse_qs(urlsplit(text).query).items()}
    if found.get("status", "success") != "success":
        raise LoginError(f"the login was not completed (status {found['status'][:20]!r}); open the address again")
    token = found.get("request_token", "") if found else text
    register_secret(token)
    if not _TOKEN.fullmatch(token):
        raise LoginError(
            "expected the address that the browser was sent to after the login, or its request_token of letters and "
            f"digits; found a text of {len(text)} characters without one"
        )
    return token


def log_in(rest: KiteRest, store: SecretStore, account: str, request_token: str, api_secret: str) -> None:
    """Change a request token for the day's access token and keep it.

    Raises:
        BrokerError: the broker refused, or its answer was lost.
        SecretError: the token cannot be kept.
    """
    register_secret(request_token)
    register_secret(api_secret)
    try:
        token = rest.log_in(request_token, api_secret)
    except BrokerError as error:
        # Brokers repeat what they were sent.
        raise type(error)(scrub(str(error))) from None
    store.set(access_token_name(account), token)


def wait_for_token(
    store: SecretStore, account: str, clock: WallClock, look: Callable[[], None], dead: str | None = None
) -> str:
    """The account's access token, as soon as the store has one that is not the dead one.

    A user logs in with `finsense broker login` from another shell, at whatever hour.

    Args:
        store: where that command keeps it.
        account: whose.
        clock: waits between two looks.
        look: called at least once a second of the market while there is none: kill switch, heartbeat and so on.
        dead: the token that the broker refused; it is never given again.

    Raises:
        SecretError: the store cannot be read.
    """
    waiting = False
    while True:
        try:
            token = store.get(access_token_name(account))
        except SecretMissing:
            token = None
        if token is not None and token != dead:
            if waiting:
                log.info("there is a new login", account=account)
            return token
        if not waiting:
            waiting = True
            log.warning(
                "waiting for a login; no order leaves until then", account=account, mend="finsense broker login SETUP"
            )
        look()
        clock.sleep(_LOOK_S)


class RedirectListener:
    """Waits on loopback for the browser that Kite sends back after a login.

    Args:
        port: the one of the application's redirect address; 0 takes a free one.

    Raises:
        OSError: the port is taken.

    Attributes:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        found: list[str | LoginError] = []

        class Handler(BaseHTTPRequestHandler):
            timeout = _SILENT_S

            def do_GET(self) -> None:
                if not urlsplit(self.path).query:
                    self.send_error(404)
                    return
                try:
                    found.append(request_token_of(self.path))
                    words = "The login is complete. You may close this window."
                except LoginError as error:
                    found.append(error)
                    words = "The login was not completed. See the shell."
                content = _PAGE.format(words).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                # The address of this page holds the token.
                self.send_header("Referrer-Policy", "no-referrer")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the request line holds the token."""

        self._found = found
        self._server = HTTPServer(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])

    def close(self) -> None:
        """Release the port."""
        self._server.server_close()

    def wait(self, at_most_s: float) -> str:
        """The request token of the login.

        Raises:
            LoginError: the login was not completed, or nobody came in time.
        """
        until_s = time.monotonic() + at_most_s
        while not self._found:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise LoginError(f"nobody came back from the login within {at_most_s:g} s; start it again")
            self._server.timeout = left_s
            self._server.handle_request()
        found = self._found[0]
        if isinstance(found, LoginError):
            raise found
        return found
