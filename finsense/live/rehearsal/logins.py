"""Who is logged in to a rehearsal, and the vendor's login page with one button instead of a password."""

import hashlib
import html
from collections.abc import Callable
from urllib.parse import quote, urlencode

from aiohttp import web

from finsense.live.rehearsal import kite_answers as answers

LOGIN_PATH, GRANT_PATH, TOKEN_PATH = "/connect/login", "/connect/grant", "/connect/token"

_PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>Rehearsal of Kite</title></head>
<body style="font-family: sans-serif; max-width: 40em; margin: 4em auto"><h1>Rehearsal of Kite</h1>{}</body></html>"""

_BUTTON = """<p>No password is asked for here.</p><form action="{action}">
<input type="hidden" name="api_key" value="{key}"><button>Log in</button></form>"""


class Logins:
    """The tokens of the one application.

    Args:
        api_key: of the application.
        api_secret: of it.
        ended: called when access tokens have died, so that their streams can be closed.
        redirect_url: where the login page sends the user, with the request token; None for a page that shows it.

    Attributes:
        access_tokens: the living ones.
        request_tokens: those of logins that were not used yet.
    """

    def __init__(
        self, api_key: str, api_secret: str, *, ended: Callable[[], None], redirect_url: str | None = None
    ) -> None:
        self.access_tokens: set[str] = set()
        self.request_tokens: set[str] = set()
        self._key, self._secret, self._ended, self._redirect_url = api_key, api_secret, ended, redirect_url
        self._logins = 0

    def routes(self) -> list[web.RouteDef]:
        """The pages of the login."""
        return [
            web.get(LOGIN_PATH, self._page),
            web.get(GRANT_PATH, self._grant),
            web.get(TOKEN_PATH, self._show),
        ]

    def new_login(self) -> str:
        """What the login page gives to a user who has logged in: a request token for one use."""
        self._logins += 1
        token = f"request{self._logins:04d}"
        self.request_tokens.add(token)
        return token

    def redeem(self, request_token: str, checksum: str) -> str | None:
        """The access token of a login, which ends the one before it; None: a wrong request token or checksum."""
        expected = hashlib.sha256(f"{self._key}{request_token}{self._secret}".encode()).hexdigest()
        if request_token not in self.request_tokens or checksum != expected:
            return None
        self.request_tokens.remove(request_token)
        return self._begin(request_token)

    def log_in(self) -> str:
        """An access token without the page."""
        self._logins += 1
        return self._begin(f"direct{self._logins:04d}")

    def expire(self, token: str | None = None) -> None:
        """Let an access token die, as all do about 06:00; None: every one."""
        self.access_tokens = set() if token is None else self.access_tokens - {token}
        self._ended()

    def knows(self, key: str, token: str) -> bool:
        """Whether an access token is alive and belongs to the key."""
        return key == self._key and token in self.access_tokens

    def _begin(self, seed: str) -> str:
        access = hashlib.sha256(f"access {seed}".encode()).hexdigest()[:32]
        self.access_tokens = {access}
        self._ended()
        return access

    async def _page(self, request: web.Request) -> web.Response:
        if request.query.get("api_key") != self._key:
            return web.json_response(answers.failure("InputException", "Invalid `api_key`."), status=400)
        button = _BUTTON.format(action=GRANT_PATH, key=html.escape(self._key))
        return web.Response(text=_PAGE.format(button), content_type="text/html")

    async def _grant(self, request: web.Request) -> web.Response:
        if request.query.get("api_key") != self._key:
            return web.json_response(answers.failure("InputException", "Invalid `api_key`."), status=400)
        address = TOKEN_PATH if self._redirect_url is None else self._redirect_url
        given = {"action": "login", "status": "success", "request_token": self.new_login()}
        joint = "&" if "?" in address else "?"
        return web.Response(status=302, headers={"Location": f"{address}{joint}{urlencode(given, quote_via=quote)}"})

    async def _show(self, request: web.Request) -> web.Response:
        token = html.escape(request.query.get("request_token", ""))
        return web.Response(text=_PAGE.format(f"<p>Request token: <code>{token}</code></p>"), content_type="text/html")
