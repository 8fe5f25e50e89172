"""Kite Connect on loopback: the vendor's routes, forms, errors and limits before a rehearsal's exchange."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from finsense.live.orders import OrderError
from finsense.live.rehearsal import kite_answers as answers
from finsense.live.rehearsal.booked import BookedOrder, Refused
from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.faults import AFTER, BEFORE, CANCEL, ORDER, Fault, Faults
from finsense.live.rehearsal.kite_forms import changed_order, order_of

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_STATUS = {"TokenException": 403, "PermissionException": 403, "InputException": 400, "OrderException": 400}
_ORDERS_PER_SECOND = 10
_HTML = "text/html"


class KiteServer:
    """The REST half of a rehearsal.

    Args:
        exchange: behind it.
        faults: what goes wrong.
        api_key: of the application that may log in.
        api_secret: of it.
        candles: answers GET /instruments/historical: token, interval, first, last (as text) -> rows.

    Attributes:
        access_tokens: the living ones.
        request_tokens: those of logins that were not used yet.
        posted: how many orders were posted, those refused at the door included.
    """

    def __init__(
        self,
        exchange: RehearsalExchange,
        faults: Faults,
        *,
        api_key: str,
        api_secret: str,
        candles: Callable[[int, str, str, str], list[list[Any]]],
    ) -> None:
        self.exchange, self.faults = exchange, faults
        self.access_tokens: set[str] = set()
        self.request_tokens: set[str] = set()
        self.posted = 0
        self._key, self._secret = api_key, api_secret
        self._candles = candles
        self._order_times_s: deque[float] = deque(maxlen=_ORDERS_PER_SECOND)
        self._logins = 0

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(middlewares=[self._guard])
        routes: list[tuple[str, str, _Handler]] = [
            ("POST", "/session/token", self._log_in),
            ("DELETE", "/session/token", self._log_out),
            ("GET", "/user/profile", self._profile),
            ("GET", "/user/margins", self._margins),
            ("GET", "/user/margins/{segment}", self._margins),
            ("POST", "/orders/{variety}", self._place),
            ("PUT", "/orders/{variety}/{order_id}", self._modify),
            ("DELETE", "/orders/{variety}/{order_id}", self._cancel),
            ("GET", "/orders", self._orders),
            ("GET", "/orders/{order_id}", self._history),
            ("GET", "/orders/{order_id}/trades", self._order_trades),
            ("GET", "/trades", self._trades),
            ("GET", "/portfolio/positions", self._positions),
            ("GET", "/portfolio/holdings", self._holdings),
            ("GET", "/instruments", self._instruments),
            ("GET", "/instruments/{exchange}", self._instruments),
            ("GET", "/instruments/historical/{token}/{interval}", self._historical),
            ("GET", "/quote", self._quote),
            ("GET", "/quote/{what}", self._quote),
        ]
        for method, path, handler in routes:
            application.router.add_route(method, path, handler)
        return application

    def new_login(self) -> str:
        """What the login page gives to a user who has logged in: a request token for one use."""
        self._logins += 1
        token = f"request{self._logins:04d}"
        self.request_tokens.add(token)
        return token

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Faults, the token and the limits around every route; the stream at / guards itself."""
        if request.path == "/":
            return await handler(request)
        orders = request.path.startswith("/orders/") and request.method != "GET"
        # Only requests about orders must come from a registered address; a login is how a dead token is replaced.
        suitable = [
            fault
            for fault in BEFORE
            if (fault is not Fault.ADDRESS_REFUSED or orders)
            and (fault is not Fault.TOKEN_EXPIRED or request.path != "/session/token")
        ]
        before = self.faults.strike(*suitable)
        if before is not None:
            return self._struck(before)
        if request.path != "/session/token" and not self._authorised(request):
            return _failed("TokenException", "Incorrect `api_key` or `access_token`.")
        if orders and self._too_fast():
            return _failed("NetworkException", "Too many requests", 429)
        try:
            response = await handler(request)
        except Refused as refused:
            return _failed(refused.error_type, str(refused))
        except OrderError as error:
            return _failed("InputException", str(error))
        except (KeyError, ValueError, TypeError) as error:
            return _failed("InputException", f"Invalid or missing parameter: {error}.")
        after = self.faults.strike(*AFTER) if request.method != "GET" else None
        if after is not None:
            return await self._struck_after(request, after)
        return response

    def _struck(self, fault: Fault) -> web.Response:
        if fault is Fault.TOO_MANY_JSON:
            return _failed("NetworkException", "Too many requests", 429)
        if fault is Fault.TOO_MANY_HTML:
            return web.Response(status=429, text=answers.TOO_MANY_HTML, content_type=_HTML)
        if fault is Fault.GATEWAY_PAGE:
            return web.Response(status=502, text=answers.GATEWAY_HTML, content_type=_HTML)
        if fault is Fault.TOKEN_EXPIRED:
            self.access_tokens.clear()
            return _failed("TokenException", "Token is invalid or has expired.")
        return _failed("PermissionException", "IP address is not allowed to place orders.")

    async def _struck_after(self, request: web.Request, fault: Fault) -> web.Response:
        if fault is Fault.ANSWER_IS_GATEWAY_PAGE:
            return web.Response(status=502, text=answers.GATEWAY_HTML, content_type=_HTML)
        if fault is Fault.HANG_AFTER_ACCEPTING:
            # Until the client gives up: aiohttp then cancels the handler.
            await asyncio.Event().wait()
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError

    def knows(self, key: str, token: str) -> bool:
        """Whether an access token is alive and belongs to the key."""
        return key == self._key and token in self.access_tokens

    def _authorised(self, request: web.Request) -> bool:
        scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
        key, _, token = pair.partition(":")
        return scheme == "token" and self.knows(key, token)

    def _too_fast(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        times = self._order_times_s
        fast = len(times) == _ORDERS_PER_SECOND and now_s - times[0] < 1.0
        if not fast:
            times.append(now_s)
        return fast

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        token = str(form.get("request_token", ""))
        checksum = hashlib.sha256(f"{self._key}{token}{self._secret}".encode()).hexdigest()
        if token not in self.request_tokens or form.get("checksum") != checksum:
            return _failed("TokenException", "Token is invalid or has expired.")
        self.request_tokens.remove(token)
        access = hashlib.sha256(f"access {token}".encode()).hexdigest()[:32]
        # A new login ends the one before it.
        self.access_tokens = {access}
        user = {"user_id": "AB1234", "user_name": "Rehearsal", "broker": "ZERODHA", "api_key": self._key}
        tokens = {"access_token": access, "public_token": "public", "refresh_token": "", "enctoken": "enc"}
        return _good({**user, **tokens, "login_time": answers.stamp(self._now_ns())})

    async def _log_out(self, request: web.Request) -> web.Response:
        self.access_tokens.discard(request.query.get("access_token", ""))
        return _good(True)

    async def _profile(self, _: web.Request) -> web.Response:
        return _good({"user_id": "AB1234", "user_name": "Rehearsal", "exchanges": ["NSE"], "products": ["CNC", "MIS"]})

    async def _margins(self, request: web.Request) -> web.Response:
        equity = answers.margins(self.exchange)
        return _good(equity if "segment" in request.match_info else {"equity": equity, "commodity": equity})

    async def _place(self, request: web.Request) -> web.Response:
        self.posted += 1
        form = dict(await request.post())
        if form.get("exchange") != "NSE":
            raise Refused("InputException", "This rehearsal trades on NSE alone.")
        order_id = self.exchange.place(order_of(form))
        fault = self.faults.strike(*ORDER)
        if fault is not None:
            self._upset(order_id, fault)
        return _good({"order_id": order_id})

    def _upset(self, order_id: str, fault: Fault) -> None:
        """What happens to an order after it was taken, a moment later."""
        order = self._order(order_id)

        def later() -> None:
            if not order.working:
                return
            if fault is Fault.LATE_REJECTION and not order.filled:
                self.exchange.reject(order_id, "RMS:Rule: rejected by the rehearsal")
            elif fault is Fault.PARTIAL_THEN_CANCEL:
                self.exchange.cancel(order_id, "Cancelled by the rehearsal")

        asyncio.get_running_loop().call_later(0.05, later)

    async def _modify(self, request: web.Request) -> web.Response:
        order = self._order(request.match_info["order_id"])
        self.exchange.modify(order.order_id, changed_order(order.request, dict(await request.post())))
        return _good({"order_id": order.order_id})

    async def _cancel(self, request: web.Request) -> web.Response:
        order = self._order(request.match_info["order_id"])
        if order.working and self.faults.strike(*CANCEL) is not None:
            # The street is faster than the cancellation.
            street = self.exchange.streets[order.request.symbol]
            self.exchange.trade(order.request.symbol, order.request.price_paise or street.last_paise, order.left * 100)
        self.exchange.cancel(order.order_id)
        return _good({"order_id": order.order_id})

    async def _orders(self, _: web.Request) -> web.Response:
        return _good([answers.order_row(order) for order in self.exchange.orders])

    async def _history(self, request: web.Request) -> web.Response:
        order = self._order(request.match_info["order_id"])
        return _good([answers.order_row(order, status) for _, status in order.history])

    async def _order_trades(self, request: web.Request) -> web.Response:
        order = self._order(request.match_info["order_id"])
        return _good([answers.trade_row(one) for one in self.exchange.executions if one.order is order])

    async def _trades(self, _: web.Request) -> web.Response:
        return _good([answers.trade_row(one) for one in self.exchange.executions])

    async def _positions(self, _: web.Request) -> web.Response:
        return _good(answers.positions(self.exchange))

    async def _holdings(self, _: web.Request) -> web.Response:
        return _good(answers.holdings(self.exchange))

    async def _instruments(self, _: web.Request) -> web.Response:
        return web.Response(text=answers.instruments(self.exchange.streets), content_type="text/csv")

    async def _historical(self, request: web.Request) -> web.Response:
        token, interval = int(request.match_info["token"]), request.match_info["interval"]
        return _good({"candles": self._candles(token, interval, request.query["from"], request.query["to"])})

    async def _quote(self, request: web.Request) -> web.Response:
        what = request.match_info.get("what", "")
        found: dict[str, Any] = {}
        for name in request.query.getall("i", []):
            street = self.exchange.streets.get(name.removeprefix("NSE:"))
            if street is None:
                continue
            whole = answers.quote(street)
            kept = {"": whole.keys(), "ltp": ("last_price",), "ohlc": ("last_price", "ohlc")}[what]
            found[name] = {key: whole[key] for key in ("instrument_token", *kept)}
        return _good(found)

    def _order(self, order_id: str) -> BookedOrder:
        for order in self.exchange.orders:
            if order.order_id == order_id:
                return order
        raise Refused("OrderException", "Couldn't find that `order_id`.")

    def _now_ns(self) -> int:
        return self.exchange.now_ns()


def _good(data: Any) -> web.Response:
    return web.json_response(answers.success(data))


def _failed(error_type: str, message: str, status: int | None = None) -> web.Response:
    code = _STATUS.get(error_type, 500) if status is None else status
    return web.json_response(answers.failure(error_type, message), status=code)
