"""Kite Connect's requests as typed calls: integers of paise and shares in and out, every failure one of six kinds."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from kiteconnect import KiteConnect

from finsense.live.brokers.errors import AuthExpired, BrokerError, RateLimited, Rejected
from finsense.live.brokers.kite_errors import classify
from finsense.live.brokers.kite_rows import (
    Candle,
    Profile,
    QuoteRow,
    candle,
    india_time,
    instrument_row,
    order_row,
    paise_of,
    position_row,
    profile,
    quote_row,
    trade_row,
    whole_of,
)
from finsense.live.brokers.kite_rows import InstrumentRow as InstrumentRow
from finsense.live.brokers.kite_rows import PositionRow as PositionRow
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.orders import OrderRequest, OrderRow, TradeRow

_EXCHANGE, _VARIETY = "NSE", "regular"
_PREFIX = f"{_EXCHANGE}:"
# How long a request may queue behind the account's own limits before it is given up.
_PATIENCE_S = {"order": 2.0, "quote": 5.0, "historical": 60.0, "other": 5.0}

Answer = TypeVar("Answer")


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

    def use_token(self, access_token: str) -> None:
        """Go on with the access token of a new login."""
        self._client.set_access_token(access_token)

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
        return self._read("other", lambda rows: [order_row(row) for row in rows], self._client.orders)

    def trades(self) -> list[TradeRow]:
        """The day's executions."""
        return self._read("other", lambda rows: [trade_row(row) for row in rows], self._client.trades)

    def positions(self) -> list[PositionRow]:
        """The day's positions on NSE; shares held from earlier days are `holdings`."""

        def rows(answer: Mapping[str, Any]) -> list[PositionRow]:
            return [position_row(row, "quantity") for row in answer["net"] if row["exchange"] == _EXCHANGE]

        return self._read("other", rows, self._client.positions)

    def holdings(self) -> list[PositionRow]:
        """Shares held when the day began, those not settled yet included; what was sold today is in `positions`."""

        def rows(answer: list[Mapping[str, Any]]) -> list[PositionRow]:
            return [position_row(row, "opening_quantity", product="CNC") for row in answer]

        return self._read("other", rows, self._client.holdings)

    def cash_paise(self) -> int:
        """What may be spent on shares now, paise; the vendor's sums of floats are off by less than one."""

        def nearest(answer: Mapping[str, Any]) -> int:
            return round(Decimal(str(answer["available"]["live_balance"])) * 100)

        return self._read("other", nearest, self._client.margins, "equity")

    def instruments(self) -> list[InstrumentRow]:
        """Today's list of what trades on NSE."""
        return self._read(
            "other", lambda rows: [instrument_row(row) for row in rows], self._client.instruments, _EXCHANGE
        )

    def order_history(self, order_id: str) -> list[OrderRow]:
        """The states that an order went through, oldest first."""
        return self._read("other", lambda rows: [order_row(row) for row in rows], self._client.order_history, order_id)

    def profile(self) -> Profile:
        """Whose account it is; the cheapest way to see whether the access token lives."""
        return self._read("other", profile, self._client.profile)

    def quote(self, symbols: Sequence[str]) -> dict[str, QuoteRow]:
        """What the exchange shows of symbols (500 at most) now; one that it does not know today is absent."""
        return self._read(
            "quote",
            lambda rows: {key.removeprefix(_PREFIX): quote_row(row) for key, row in rows.items()},
            self._client.quote,
            [_PREFIX + symbol for symbol in symbols],
        )

    def ltp(self, symbols: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Token and last price in paise of symbols (1,000 at most); one that is not known today is absent."""

        def rows(answer: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
            return {
                key.removeprefix(_PREFIX): (whole_of(row["instrument_token"]), paise_of(row["last_price"]))
                for key, row in answer.items()
            }

        return self._read("quote", rows, self._client.ltp, [_PREFIX + symbol for symbol in symbols])

    def historical(self, token: int, interval: str, first_ns: int, last_ns: int) -> list[Candle]:
        """The candles that start from `first_ns` to `last_ns`, ns UTC, both included; the last may be forming.

        `interval` is the vendor's word (minute, 5minute, day, ...); see `kite_history` for spans that are too long for
        one request.
        """
        return self._read(
            "historical",
            lambda rows: [candle(row) for row in rows],
            self._client.historical_data,
            token,
            india_time(first_ns),
            india_time(last_ns),
            interval,
        )

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
