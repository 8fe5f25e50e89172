"""Rows of Kite's answers as typed records: integers of paise and shares, instants in ns UTC."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from finsense.live.brokers.errors import ProtocolError
from finsense.live.orders import OrderRow, TradeRow

_IST = ZoneInfo("Asia/Kolkata")
_ONE_SECOND_NS = 1_000_000_000


class PositionRow(NamedTuple):
    """What the broker says we hold of a symbol.

    Attributes:
        symbol: trading symbol.
        product: MIS or CNC.
        quantity: signed shares.
        average_paise: what one of them cost on average, to the nearest paisa; 0 where nothing is said.
    """

    symbol: str
    product: str
    quantity: int
    average_paise: int = 0


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


class QuoteRow(NamedTuple):
    """What the exchange shows of a symbol now.

    Attributes:
        token: names it in the tick stream.
        last_paise: price of the last trade.
        lowest_paise: the day's lower circuit limit.
        highest_paise: the day's upper circuit limit.
        time_ns: stamp of the exchange, ns UTC; None where it has none yet.
    """

    token: int
    last_paise: int
    lowest_paise: int
    highest_paise: int
    time_ns: int | None


class Candle(NamedTuple):
    """One candle of the past; the last of an answer may still be forming.

    Attributes:
        time_ns: its start, ns UTC.
        open: first price, rupees.
        high: highest price, rupees.
        low: lowest price, rupees.
        close: last price, rupees.
        volume: shares.
    """

    time_ns: int
    open: float
    high: float
    low: float
    close: float
    volume: int


class Profile(NamedTuple):
    """Whose account it is.

    Attributes:
        user_id: of the broker.
        exchanges: where it may trade.
        products: MIS, CNC, ...
    """

    user_id: str
    exchanges: tuple[str, ...]
    products: tuple[str, ...]


def order_row(row: Mapping[str, Any]) -> OrderRow:
    """One order of GET /orders."""
    tags = row.get("tags") or ([row["tag"]] if row.get("tag") else [])
    return OrderRow(
        order_id=text_of(row["order_id"]),
        tags=tuple(str(tag) for tag in tags),
        symbol=str(row["tradingsymbol"]),
        side=str(row["transaction_type"]),
        quantity=whole_of(row["quantity"]),
        filled_quantity=whole_of(row["filled_quantity"]),
        status=str(row["status"]),
        reason=str(row.get("status_message") or ""),
        product=str(row.get("product") or ""),
        trigger_paise=paise_of(row.get("trigger_price") or 0),
        time_ns=_india_ns(row["order_timestamp"]) if isinstance(row.get("order_timestamp"), datetime) else 0,
    )


def position_row(row: Mapping[str, Any], *quantities: str, product: str = "") -> PositionRow:
    """One row of GET /portfolio/positions or holdings, whose columns `quantities` sum to what is held."""
    average = Decimal(str(row.get("average_price") or 0)) * 100
    shares = sum(whole_of(row[name]) for name in quantities)
    return PositionRow(str(row["tradingsymbol"]), product or str(row["product"]), shares, round(average))


def trade_row(row: Mapping[str, Any]) -> TradeRow:
    """One execution of GET /trades."""
    time_ns = _india_ns(row["fill_timestamp"])
    return TradeRow(
        trade_id=text_of(row["trade_id"]),
        order_id=text_of(row["order_id"]),
        symbol=str(row["tradingsymbol"]),
        side=str(row["transaction_type"]),
        quantity=whole_of(row["quantity"]),
        price_paise=paise_of(row["average_price"]),
        time_ns=time_ns,
    )


def instrument_row(row: Mapping[str, Any]) -> InstrumentRow:
    """One line of GET /instruments."""
    return InstrumentRow(
        whole_of(row["instrument_token"]),
        str(row["tradingsymbol"]),
        str(row["name"]),
        paise_of(row["tick_size"]),
        whole_of(row["lot_size"]),
        str(row["instrument_type"]),
        str(row["segment"]),
    )


def quote_row(row: Mapping[str, Any]) -> QuoteRow:
    """One symbol of GET /quote."""
    stamp = row.get("timestamp")
    return QuoteRow(
        whole_of(row["instrument_token"]),
        paise_of(row["last_price"]),
        paise_of(row["lower_circuit_limit"]),
        paise_of(row["upper_circuit_limit"]),
        None if not stamp else _india_ns(stamp),
    )


def candle(row: Mapping[str, Any]) -> Candle:
    """One candle of GET /instruments/historical.

    Raises:
        ProtocolError: its stamp has no zone, or a price is no number.
    """
    stamp = row["date"]
    if not isinstance(stamp, datetime) or stamp.tzinfo is None:
        raise ProtocolError(f"expected the start of a candle with its zone, found {stamp!r}")
    prices = [row[name] for name in ("open", "high", "low", "close")]
    if any(isinstance(price, bool) or not isinstance(price, int | float) for price in prices):
        raise ProtocolError(f"expected four prices, found {prices} at {stamp}")
    time_ns = int(stamp.timestamp()) * _ONE_SECOND_NS
    first, high, low, last = map(float, prices)
    return Candle(time_ns, first, high, low, last, whole_of(row["volume"]))


def profile(row: Mapping[str, Any]) -> Profile:
    """GET /user/profile."""
    return Profile(text_of(row["user_id"]), tuple(map(str, row["exchanges"])), tuple(map(str, row["products"])))


def india_time(time_ns: int) -> datetime:
    """An instant as the client takes it: India's time without a zone, for it drops a zone instead of converting."""
    return datetime.fromtimestamp(time_ns // _ONE_SECOND_NS, _IST).replace(tzinfo=None)


def _india_ns(stamp: Any) -> int:
    """The client gives naive times; they are those of India."""
    if not isinstance(stamp, datetime):
        raise ProtocolError(f"expected a time of day, found {stamp!r}")
    return int(stamp.replace(tzinfo=_IST).timestamp()) * _ONE_SECOND_NS


def text_of(value: Any) -> str:
    """A name of the broker's: digits that would not survive as a float.

    Raises:
        ProtocolError: it is no text, or empty.
    """
    if not isinstance(value, str) or not value:
        raise ProtocolError(f"expected a text that names an order or a trade, found {value!r}")
    return value


def whole_of(value: Any) -> int:
    """A whole number.

    Raises:
        ProtocolError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ProtocolError(f"expected a whole number, found {value!r}")
    return int(value)


def paise_of(value: Any) -> int:
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
