"""Kite Connect on loopback: the vendor's routes and forms before a rehearsal's exchange."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal import kite_answers as answers
from finsense.live.rehearsal.booked import BookedOrder, Refused
from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.faults import Fault, Faults
from finsense.live.rehearsal.hours import Phase
from finsense.live.rehearsal.kite_forms import changed_order, check_variety, order_of
from finsense.live.rehearsal.kite_guard import failed
from finsense.live.rehearsal.logins import Logins

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# Instruments of one request (vendor's forum, comments 52882 and 51532).
_MOST_QUOTES = {"": 500, "ltp": 1000, "ohlc": 1000}


class KiteServer:
    """The REST half of a rehearsal.

    Args:
        exchange: behind it.
        faults: what goes wrong.
        logins: who is logged in.
        api_key: of the application.
        candles: answers GET /instruments/historical: token, interval, first, last (as text) -> rows.
        later: does something a moment later.

    Attributes:
        posted: how many orders were posted, those refused at the door included.
    """

    def __init__(
        self,
        exchange: RehearsalExchange,
        faults: Faults,
        logins: Logins,
        *,
        api_key: str,
        candles: Callable[[str, str, str, str], list[list[Any]]],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self.exchange, self.faults, self.logins = exchange, faults, logins
        self.posted = 0
        self._key, self._candles, self._later = api_key, candles, later

    @property
    def access_tokens(self) -> set[str]:
        """The living ones."""
        return self.logins.access_tokens

    def new_login(self) -> str:
        """What the login page gives to a user who has logged in: a request token for one use."""
        return self.logins.new_login()

    def add_routes(self, application: web.Application) -> None:
        """Serve them."""
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

    async def _log_in(self, request: web.Request) -> web.Response:
        form = await request.post()
        access = self.logins.redeem(str(form.get("request_token", "")), str(form.get("checksum", "")))
        if access is None:
            return failed("TokenException", "Token is invalid or has expired.")
        user = {"user_id": "AB1234", "user_name": "Rehearsal", "broker": "ZERODHA", "api_key": self._key}
        tokens = {"access_token": access, "public_token": "public", "refresh_token": "", "enctoken": "enc"}
        return _good({**user, **tokens, "login_time": answers.stamp(self.exchange.now_ns())})

    async def _log_out(self, request: web.Request) -> web.Response:
        self.logins.expire(request.query.get("access_token", ""))
        return _good(True)

    async def _profile(self, _: web.Request) -> web.Response:
        return _good(
            {
                "user_id": "AB1234",
                "user_name": "Rehearsal",
                "broker": "ZERODHA",
                "exchanges": ["NSE"],
                "products": ["CNC", "MIS"],
                "order_types": ["MARKET", "LIMIT", "SL", "SL-M"],
            }
        )

    async def _margins(self, request: web.Request) -> web.Response:
        equity = answers.margins(self.exchange)
        return _good(equity if "segment" in request.match_info else {"equity": equity, "commodity": equity})

    async def _place(self, request: web.Request) -> web.Response:
        self.posted += 1
        check_variety(request.match_info["variety"])
        form = await request.post()
        if len(form.getall("tag", [])) > 1:
            raise Refused("InputException", "The rehearsal plays one `tag` per order.")
        if "exchange" not in form:
            raise Refused("InputException", "Missing `exchange`.")
        asked, tagged = order_of(dict(form))
        fault = self.faults.strike(*self._fates(asked))
        most = {Fault.LATE_REJECTION: 0, Fault.PARTIAL_THEN_CANCEL: asked.quantity // 2}
        order_id = self.exchange.place(asked, most=None if fault is None else most[fault], tagged=tagged)
        if fault is not None:
            self._later(self._fate(self.exchange.order(order_id), fault))
        return _good({"order_id": order_id})

    def _fates(self, asked: OrderRequest) -> list[Fault]:
        """What can befall an order after it was taken; nothing where it is not taken."""
        if asked.symbol not in self.exchange.streets or self.exchange.objection(asked):
            return []
        parts = asked.kind in ("MARKET", "LIMIT") and asked.quantity > 1
        if parts and self.exchange.phase(asked.symbol) is Phase.CONTINUOUS:
            return [Fault.LATE_REJECTION, Fault.PARTIAL_THEN_CANCEL]
        return [Fault.LATE_REJECTION]

    def _fate(self, order: BookedOrder, fault: Fault) -> Callable[[], None]:
        def act() -> None:
            if not order.working:
                return
            if fault is Fault.LATE_REJECTION:
                self.exchange.reject(order, "RMS:Rule: rejected by the rehearsal")
                return
            if not order.filled and order.fillable:
                # Nobody came so far; someone does.
                street = self.exchange.streets[order.request.symbol]
                self.exchange.fill(order, order.fillable, order.request.price_paise or street.known_paise)
            self.exchange.withdraw(order, "Cancelled by the rehearsal")

        return act

    async def _modify(self, request: web.Request) -> web.Response:
        check_variety(request.match_info["variety"])
        order = self.exchange.order(request.match_info["order_id"])
        self.exchange.modify(order.order_id, changed_order(order.request, dict(await request.post())))
        return _good({"order_id": order.order_id})

    async def _cancel(self, request: web.Request) -> web.Response:
        check_variety(request.match_info["variety"])
        order = self.exchange.order(request.match_info["order_id"])
        continuous = self.exchange.phase(order.request.symbol) is Phase.CONTINUOUS
        can_fill = order.working and order.triggered and order.fillable == order.left
        if continuous and can_fill and self.faults.strike(Fault.CANCEL_LOSES_TO_FILL):
            street = self.exchange.streets[order.request.symbol]
            self.exchange.fill(order, order.left, order.request.price_paise or street.known_paise)
        self.exchange.cancel(order.order_id)
        return _good({"order_id": order.order_id})

    async def _orders(self, _: web.Request) -> web.Response:
        return _good([answers.order_row(order) for order in self.exchange.orders])

    async def _history(self, request: web.Request) -> web.Response:
        order = self.exchange.order(request.match_info["order_id"])
        return _good([answers.order_row(order, status) for _, status in order.history])

    async def _order_trades(self, request: web.Request) -> web.Response:
        order = self.exchange.order(request.match_info["order_id"])
        return _good([answers.trade_row(one) for one in self.exchange.executions if one.order is order])

    async def _trades(self, _: web.Request) -> web.Response:
        return _good([answers.trade_row(one) for one in self.exchange.executions])

    async def _positions(self, _: web.Request) -> web.Response:
        return _good(answers.positions(self.exchange))

    async def _holdings(self, _: web.Request) -> web.Response:
        return _good(answers.holdings(self.exchange))

    async def _instruments(self, request: web.Request) -> web.Response:
        listed = self.exchange.streets if request.match_info.get("exchange", "NSE") == "NSE" else {}
        return web.Response(text=answers.instruments(listed), content_type="text/csv")

    async def _historical(self, request: web.Request) -> web.Response:
        token, interval = request.match_info["token"], request.match_info["interval"]
        return _good({"candles": self._candles(token, interval, request.query["from"], request.query["to"])})

    async def _quote(self, request: web.Request) -> web.Response:
        what = request.match_info.get("what", "")
        names = request.query.getall("i", [])
        if what not in _MOST_QUOTES or len(names) > _MOST_QUOTES[what]:
            raise Refused("InputException", f"Invalid quote, or more than {_MOST_QUOTES.get(what, 0)} instruments.")
        found: dict[str, Any] = {}
        for name in names:
            street = self.exchange.streets.get(name.removeprefix("NSE:"))
            if street is None:
                continue
            whole = answers.quote(street)
            kept = {"": whole.keys(), "ltp": ("last_price",), "ohlc": ("last_price", "ohlc")}[what]
            found[name] = {key: whole[key] for key in ("instrument_token", *kept)}
        return _good(found)


def _good(data: Any) -> web.Response:
    return web.json_response(answers.success(data))
