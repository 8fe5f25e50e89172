"""Stands before every route of Kite in a rehearsal: faults, the token, limits, and the vendor's form of errors."""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import NoReturn

import structlog
from aiohttp import hdrs, web

from finsense.live.orders import OrderError
from finsense.live.rehearsal import kite_answers as answers
from finsense.live.rehearsal.booked import Refused
from finsense.live.rehearsal.faults import AFTER, BEFORE, Fault, Faults
from finsense.live.rehearsal.limits import ServerLimits, endpoint_of
from finsense.live.rehearsal.logins import Logins

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_STATUS = {"TokenException": 403, "PermissionException": 403, "InputException": 400, "OrderException": 400}
_HTML = "text/html"
_LOGIN = "/session/token"
# The stream guards itself, and these pages are open to everyone.
_UNGUARDED = ("/connect/", "/rehearsal/")

log = structlog.get_logger()


class KiteGuard:
    """The middleware of a rehearsal's REST half.

    Args:
        logins: who is logged in.
        faults: what goes wrong.
        limits: of requests.
        now_ns: the clock of the rehearsal, ns UTC; it stamps every answer.
        restart: closes all connections and opens the server again, a moment later.
    """

    def __init__(
        self,
        logins: Logins,
        faults: Faults,
        limits: ServerLimits,
        *,
        now_ns: Callable[[], int],
        restart: Callable[[], None],
    ) -> None:
        self.limits = limits
        self._logins, self._faults = logins, faults
        self._now_ns, self._restart = now_ns, restart

    def application(self) -> web.Application:
        """An application behind the guard, without routes."""

        @web.middleware
        async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
            if request.path == "/" or request.path.startswith(_UNGUARDED):
                return await handler(request)
            return await self._guard(request, handler)

        application = web.Application(middlewares=[guard])
        application.on_response_prepare.append(self._stamp)
        return application

    async def _stamp(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """The server's clock is that of the rehearsal; only Kite's own routes show it wrong."""
        now_ns = self._now_ns()
        if not request.path.startswith(_UNGUARDED):
            self._faults.maybe_skew(now_ns)
            now_ns += self._faults.skew_ns(now_ns)
        response.headers[hdrs.DATE] = formatdate(now_ns // 1_000_000_000, usegmt=True)

    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        endpoint = endpoint_of(request.method, request.path)
        # Only requests about orders must come from a registered address; a login is how a dead token is replaced.
        suitable = [
            fault
            for fault in BEFORE
            if (fault is not Fault.ADDRESS_REFUSED or endpoint == "order")
            and (fault is not Fault.TOKEN_EXPIRED or request.path != _LOGIN)
        ]
        before = self._faults.strike(*suitable)
        if before is not None:
            return self._struck(request, before)
        if request.path != _LOGIN and not self._authorised(request):
            return failed("TokenException", "Incorrect `api_key` or `access_token`.")
        if not self.limits.admit(endpoint):
            return failed("NetworkException", "Too many requests", 429)
        try:
            response = await handler(request)
        except Refused as refused:
            return failed(refused.error_type, str(refused), refused.status)
        except OrderError as error:
            return failed("InputException", str(error))
        except web.HTTPException as error:
            return failed("GeneralException", f"{error.reason}: {request.method} {request.path}", error.status)
        except (KeyError, ValueError, TypeError) as error:
            log.info("a request was malformed", path=request.path, error=repr(error))
            return failed("InputException", f"Invalid or missing parameter: {error}.")
        after = self._faults.strike(*AFTER) if request.method != "GET" else None
        return response if after is None else await self._struck_after(request, after)

    def _struck(self, request: web.Request, fault: Fault) -> web.Response:
        if fault is Fault.TOO_MANY_JSON:
            return failed("NetworkException", "Too many requests", 429)
        if fault is Fault.TOO_MANY_HTML:
            return web.Response(status=429, text=answers.TOO_MANY_HTML, content_type=_HTML)
        if fault is Fault.GATEWAY_PAGE:
            return web.Response(status=502, text=answers.GATEWAY_HTML, content_type=_HTML)
        if fault is Fault.TOKEN_EXPIRED:
            self._logins.expire()
            return failed("TokenException", "Token is invalid or has expired.")
        if fault is Fault.SERVER_RESTART:
            self._restart()
            _abort(request)
        return failed("PermissionException", "IP address is not allowed to place orders.")

    async def _struck_after(self, request: web.Request, fault: Fault) -> web.Response:
        if fault is Fault.ANSWER_IS_GATEWAY_PAGE:
            return web.Response(status=502, text=answers.GATEWAY_HTML, content_type=_HTML)
        if fault is Fault.HANG_AFTER_ACCEPTING:
            # Until the client gives up: aiohttp then cancels the handler.
            await asyncio.Event().wait()
        _abort(request)

    def _authorised(self, request: web.Request) -> bool:
        scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
        key, _, token = pair.partition(":")
        return scheme == "token" and self._logins.knows(key, token)


def failed(error_type: str, message: str, status: int | None = None) -> web.Response:
    """An error in the vendor's form."""
    code = _STATUS.get(error_type, 500) if status is None else status
    return web.json_response(answers.failure(error_type, message), status=code)


def _abort(request: web.Request) -> NoReturn:
    """Drop the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError
