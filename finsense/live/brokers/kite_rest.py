"""Kite Connect's requests as typed calls: integers of paise and shares in and out, every failure one of six kinds."""

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from kiteconnect import KiteConnect

from finsense.live.brokers.errors import AuthExpired, BrokerError, ProtocolError, RateLimited, Rejected
from finsense.live.brokers.kite_errors import classify
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.orders import OrderRequest, OrderRow, TradeRow

_EXCHANGE, _VARIETY = "NSE", "regular"
_IST = ZoneInfo("Asia/Kolkata")
_ONE_SECOND_NS = 1_000_000_000
# How long a request may queue behind the account's own limits before it is given up.
_PATIENCE_S = {"order": 2.0, "quote": 5.0, "historical": 60.0, "other": 5.0}

Answer = TypeVar("Answer")


class PositionRow(NamedTuple):
    """What the broker says we hold of a symbol.

    Attributes:
        symbol: trading symbol.
        product: MIS or CNC.
        quantity: signed shares.
    """

    symbol: str
    product: str
    quantity: int


class InstrumentRow(NamedTuple):
    """One line of the day's list of instruments.

    Attributes:
        token: names it in the tick stream.
        symbol: trading symbol.
        name: of the company.
        tick_paise: the day's tick size.
        lot: shares.
        kind: EQ for shares.
        segment: NSE, INDICES, ...
    """

    token: int
    symbol: str
    name: str
    tick_paise: int
    lot: int
    kind: str
    segment: str


class KiteRest:
    """Kite's REST interface through the vendor's client.

    Every call may raise a BrokerError of any kind; no other exception leaves it. The access token is cut out of all
    messages. A request that writes is sent once.

    Args:
        api_key: of the application.
        access_token: of the day; None before the login.
        limits: of the account, shared with its other processes.
        root: of another server, such as the rehearsal's; None for the vendor's.
        timeout_s: after which an answer counts as lost.
    """

    def __init__(
        self,
        api_key: str,
        access_token: str | None,
        limits: RateLimits,
        *,
        root: str | None = None,
        timeout_s: float = 7.0,
    ) -> None:
        self._client = KiteConnect(api_key=api_key, access_token=access_token, root=root, timeout=timeout_s)
        # A proxy of the environment would send orders from an address that is not the registered one.
        self._client.reqsession.trust_env = False
        self._limits = limits

    def close(self) -> None:
        """Close the connections."""
        self._client.reqsession.close()

    def login_url(self) -> str:
        """Where the user logs in."""
        return str(self._client.login_url())

    def log_in(self, request_token: str, api_secret: str) -> str:
        """Change the request token of a login for the day's access token, and use it from now on."""

        def access_token(answer: Mapping[str, Any]) -> str:
            return str(answer["access_token"])

        try:
            return self._read(
                "other", access_token, self._client.generate_session, request_token, api_secret=api_secret
            )
        except (AuthExpired, RateLimited, Rejected):
            raise
        except BrokerError as error:
            # The text of a broken answer may hold the tokens themselves.
            kind = type(error)
        raise kind("the answer to the login was lost or broken; log in again")

    def place(self, request: OrderRequest) -> str:
        """Send an order; returns the broker's name of it, which does not mean that the exchange takes it."""
        return self._write(
            str,
            self._client.place_order,
            variety=_VARIETY,
            exchange=_EXCHANGE,
            tradingsymbol=request.symbol,
            transaction_type=request.side,
            quantity=request.quantity,
            product=request.product,
            order_type=request.kind,
            validity="DAY",
            tag=request.tag,
            **_terms(request),
        )

    def modify(self, order_id: str, request: OrderRequest) -> str:
        """Change an order's quantity, kind and prices to those of a request."""
        return self._write(
            str,
            self._client.modify_order,
            variety=_VARIETY,
            order_id=order_id,
            quantity=request.quantity,
            order_type=request.kind,
            validity="DAY",
            **_terms(request),
        )

    def cancel(self, order_id: str) -> str:
        """Ask for an order to be cancelled; a fill may be faster."""
        return self._write(str, self._client.cancel_order, variety=_VARIETY, order_id=order_id)

    def orders(self) -> list[OrderRow]:
        """The day's order book, every order that reached it."""
        return self._read("other", lambda rows: [_order_row(row) for row in rows], self._client.orders)

    def trades(self) -> list[TradeRow]:
        """The day's executions."""
        return self._read("other", lambda rows: [_trade_row(row) for row in rows], self._client.trades)

    def positions(self) -> list[PositionRow]:
        """The day's positions on NSE; shares held from earlier days are `holdings`."""

        def rows(answer: Mapping[str, Any]) -> list[PositionRow]:
            return [
                PositionRow(str(row["tradingsymbol"]), str(row["product"]), _whole(row["quantity"]))
                for row in answer["net"]
                if row["exchange"] == _EXCHANGE
            ]

        return self._read("other", rows, self._client.positions)

    def holdings(self) -> list[PositionRow]:
        """Shares held from earlier days, those not settled yet included."""

        def rows(answer: list[Mapping[str, Any]]) -> list[PositionRow]:
            return [
                PositionRow(str(row["tradingsymbol"]), "CNC", _whole(row["quantity"]) + _whole(row["t1_quantity"]))
                for row in answer
            ]

        return self._read("other", rows, self._client.holdings)

    def cash_paise(self) -> int:
        """What may be spent on shares now, paise; the vendor's sums of floats are off by less than one."""

        def nearest(answer: Mapping[str, Any]) -> int:
            return round(Decimal(str(answer["available"]["live_balance"])) * 100)

        return self._read("other", nearest, self._client.margins, "equity")

    def instruments(self) -> list[InstrumentRow]:
        """Today's list of what trades on NSE."""

        def rows(answer: list[Mapping[str, Any]]) -> list[InstrumentRow]:
            return [
                InstrumentRow(
                    _whole(row["instrument_token"]),
                    str(row["tradingsymbol"]),
                    str(row["name"]),
                    _paise(row["tick_size"]),
                    _whole(row["lot_size"]),
                    str(row["instrument_type"]),
                    str(row["segment"]),
                )
                for row in answer
            ]

        return self._read("other", rows, self._client.instruments, _EXCHANGE)

    def _write(self, shaped: Callable[[Any], Answer], call: Callable[..., Any], *args: Any, **kwargs: Any) -> Answer:
        return self._ask("order", True, shaped, call, *args, **kwargs)

    def _read(
        self, endpoint: str, shaped: Callable[[Any], Answer], call: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Answer:
        return self._ask(endpoint, False, shaped, call, *args, **kwargs)

    def _ask(
        self,
        endpoint: str,
        writes: bool,
        shaped: Callable[[Any], Answer],
        call: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Answer:
        if not self._client.access_token and call != self._client.generate_session:
            raise AuthExpired("there is no access token yet: log in with `finsense broker login`")
        try:
            self._limits.wait(endpoint, at_most_s=_PATIENCE_S[endpoint])
        except sqlite3.Error as error:
            raise RateLimited(f"nothing was sent: the file of the account's limits cannot be used ({error})") from None
        try:
            return shaped(call(*args, **kwargs))
        except Exception as error:
            # `from None`: the chain of the client's exceptions shows URLs and headers, which carry the token.
            raise self._scrubbed(classify(error, writes=writes)) from None

    def _scrubbed(self, error: BrokerError) -> BrokerError:
        token = self._client.access_token
        text = str(error).replace(token, "<access token>") if token else str(error)
        return type(error)(text)


def _terms(request: OrderRequest) -> dict[str, Any]:
    """The prices of a request as Kite takes them: rupees with two digits, never a sum of floats."""
    rupees = {
        "price": request.price_paise,
        "trigger_price": request.trigger_paise,
    }
    return {
        **{name: None if paise is None else f"{Decimal(paise) / 100:.2f}" for name, paise in rupees.items()},
        "market_protection": request.market_protection,
    }


def _order_row(row: Mapping[str, Any]) -> OrderRow:
    tags = row.get("tags") or ([row["tag"]] if row.get("tag") else [])
    return OrderRow(
        order_id=_text(row["order_id"]),
        tags=tuple(str(tag) for tag in tags),
        symbol=str(row["tradingsymbol"]),
        side=str(row["transaction_type"]),
        quantity=_whole(row["quantity"]),
        filled_quantity=_whole(row["filled_quantity"]),
        status=str(row["status"]),
        reason=str(row.get("status_message") or ""),
    )


def _trade_row(row: Mapping[str, Any]) -> TradeRow:
    stamp = row["fill_timestamp"]
    if not isinstance(stamp, datetime):
        raise ProtocolError(f"expected the time of a trade, found {stamp!r}")
    # The client gives a naive time; it is that of India.
    time_ns = int(stamp.replace(tzinfo=_IST).timestamp()) * _ONE_SECOND_NS
    return TradeRow(
        trade_id=_text(row["trade_id"]),
        order_id=_text(row["order_id"]),
        symbol=str(row["tradingsymbol"]),
        side=str(row["transaction_type"]),
        quantity=_whole(row["quantity"]),
        price_paise=_paise(row["average_price"]),
        time_ns=time_ns,
    )


def _text(value: Any) -> str:
    """A name of the broker's: digits that would not survive as a float."""
    if not isinstance(value, str) or not value:
        raise ProtocolError(f"expected a text that names an order or a trade, found {value!r}")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ProtocolError(f"expected a whole number, found {value!r}")
    return int(value)


def _paise(value: Any) -> int:
    """Rupees as the vendor writes them to paise, exactly.

    Raises:
        ProtocolError: it is no number, or not whole paise.
    """
    try:
        paise = Decimal(str(value)) * 100
    except InvalidOperation:
        raise ProtocolError(f"expected rupees, found {value!r}") from None
    if not paise.is_finite() or paise != paise.to_integral_value():
        raise ProtocolError(f"expected rupees in whole paise, found {value!r}")
    return int(paise)
