"""What Kite answers, as the vendor words it: orders, trades, positions, instruments, quotes and errors."""

import csv
import io
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from finsense.live.rehearsal.booked import BookedOrder, Execution
from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.purse import Position
from finsense.live.rehearsal.street import Level, Street

GATEWAY_HTML = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
TOO_MANY_HTML = "<html><head><title>429 Too Many Requests</title></head><body><h1>429</h1></body></html>"
_COLUMNS = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "last_price",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)
_IST = ZoneInfo("Asia/Kolkata")
_SECOND_NS = 1_000_000_000


def stamp(time_ns: int) -> str:
    """An instant as the vendor writes it: India's time without a zone."""
    return datetime.fromtimestamp(time_ns // _SECOND_NS, _IST).strftime("%Y-%m-%d %H:%M:%S")


def rupees(paise: int) -> float:
    """A price as the vendor writes it."""
    return paise / 100


def success(data: Any) -> dict[str, Any]:
    """The body of an answer that went well."""
    return {"status": "success", "data": data}


def failure(error_type: str, message: str) -> dict[str, Any]:
    """The body of an answer that did not."""
    return {"status": "error", "message": message, "data": None, "error_type": error_type}


def order_row(order: BookedOrder, status: str | None = None) -> dict[str, Any]:
    """An order as in GET /orders; `status` replaces its own, for the history."""
    request = order.request
    shown = order.status if status is None else status
    own = [request.tag] if order.tagged else []
    return {
        "placed_by": order.placed_by,
        "order_id": order.order_id,
        "exchange_order_id": None if shown in ("REJECTED", "PUT ORDER REQ RECEIVED") else f"12{order.order_id}",
        "parent_order_id": None,
        "status": shown,
        "status_message": order.reason or None,
        "status_message_raw": order.reason or None,
        "order_timestamp": stamp(order.history[-1][0]),
        "exchange_timestamp": stamp(order.history[-1][0]),
        "exchange_update_timestamp": stamp(order.history[-1][0]),
        "variety": "regular",
        "modified": order.changed > 0,
        "exchange": "NSE",
        "tradingsymbol": request.symbol,
        # The vendor sends a placeholder in early rows of a history, so nobody may rely on it.
        "instrument_token": 1,
        # An order at the market with protection is shown as the limit order that the exchange holds.
        "order_type": "LIMIT" if request.kind == "MARKET" else request.kind,
        "transaction_type": request.side,
        "validity": "DAY",
        "product": request.product,
        "quantity": request.quantity,
        "disclosed_quantity": 0,
        "price": rupees(request.price_paise or 0),
        "trigger_price": rupees(request.trigger_paise or 0),
        "average_price": order.filled_paise / order.filled / 100 if order.filled else 0,
        "filled_quantity": order.filled,
        "pending_quantity": 0 if order.status == "COMPLETE" else order.left,
        "cancelled_quantity": order.left if order.status == "CANCELLED" else 0,
        "market_protection": 0,
        "meta": {},
        "tag": request.tag if order.tagged else None,
        "tags": ["mktp", *own] if request.kind in ("MARKET", "SL-M") else own,
        "guid": f"guid{order.order_id}",
    }


def trade_row(execution: Execution) -> dict[str, Any]:
    """A trade as in GET /trades; `order_timestamp` is a bare time there."""
    request = execution.order.request
    return {
        "trade_id": execution.trade_id,
        "order_id": execution.order.order_id,
        "exchange": "NSE",
        "tradingsymbol": request.symbol,
        "instrument_token": 1,
        "product": request.product,
        "average_price": rupees(execution.price_paise),
        "quantity": execution.shares,
        "exchange_order_id": f"12{execution.order.order_id}",
        "transaction_type": request.side,
        "fill_timestamp": stamp(execution.time_ns),
        "order_timestamp": stamp(execution.order.placed_ns)[11:],
        "exchange_timestamp": stamp(execution.time_ns),
    }


def positions(exchange: RehearsalExchange) -> dict[str, list[dict[str, Any]]]:
    """GET /portfolio/positions; a closed position stays in it with the quantity 0."""
    rows = []
    for (symbol, product), one in exchange.purse.positions.items():
        last = exchange.streets[symbol].known_paise
        whole = one.sold_paise - one.bought_paise + one.quantity * last
        rows.append(
            {
                "tradingsymbol": symbol,
                "exchange": "NSE",
                "instrument_token": exchange.streets[symbol].listing.token,
                "product": product,
                "quantity": one.quantity,
                "overnight_quantity": 0,
                "multiplier": 1,
                "buy_quantity": one.bought,
                "buy_value": rupees(one.bought_paise),
                "buy_price": one.bought_paise / one.bought / 100 if one.bought else 0,
                "sell_quantity": one.sold,
                "sell_value": rupees(one.sold_paise),
                "sell_price": one.sold_paise / one.sold / 100 if one.sold else 0,
                "average_price": _average(one),
                "last_price": rupees(last),
                "close_price": 0,
                "value": rupees(one.sold_paise - one.bought_paise),
                "pnl": rupees(whole),
                "m2m": rupees(whole),
            }
        )
    return {"net": rows, "day": rows}


def _average(position: Position) -> float:
    """Average price of the side that is open, rupees."""
    if position.quantity > 0:
        return position.bought_paise / position.bought / 100
    return position.sold_paise / position.sold / 100 if position.quantity < 0 else 0


def holdings(exchange: RehearsalExchange) -> list[dict[str, Any]]:
    """GET /portfolio/holdings: shares sold today leave `quantity`, and stand in the positions below 0 as well.

    What was bought yesterday is `t1_quantity`, and no part of `quantity`; `opening_quantity` is both, as the night
    left them (payloads recorded by the vendor; that a sale reduces the holdings: its support page).
    """
    rows = []
    for symbol, held in exchange.purse.holdings.items():
        used = max(-exchange.positions.get((symbol, "CNC"), 0), 0)
        unsettled = held.unsettled - max(used - held.settled, 0)
        rows.append(
            {
                "tradingsymbol": symbol,
                "exchange": "NSE",
                "instrument_token": exchange.streets[symbol].listing.token,
                "product": "CNC",
                "quantity": max(held.settled - used, 0),
                "used_quantity": used,
                "t1_quantity": unsettled,
                "realised_quantity": held.settled,
                "opening_quantity": held.shares,
                "authorised_quantity": 0,
                "collateral_quantity": 0,
                "discrepancy": False,
                "last_price": rupees(exchange.streets[symbol].known_paise),
            }
        )
    return rows


def margins(exchange: RehearsalExchange) -> dict[str, Any]:
    """One segment of GET /user/margins: `cash` is that of the morning, `live_balance` what may be spent now."""
    opening, live = exchange.purse.opening_paise, exchange.spendable_paise
    return {
        "enabled": True,
        "net": rupees(live),
        "available": {
            "adhoc_margin": 0,
            "cash": rupees(opening),
            "opening_balance": rupees(opening),
            "live_balance": rupees(live),
            "collateral": 0,
            "intraday_payin": 0,
        },
        "utilised": {
            "debits": rupees(opening - live),
            "exposure": 0,
            "m2m_realised": 0,
            "m2m_unrealised": 0,
            "span": 0,
        },
    }


def instruments(streets: dict[str, Street]) -> str:
    """GET /instruments/NSE, CSV."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for street in streets.values():
        one = street.listing
        tick = f"{one.tick_paise / 100:.2f}"
        row = (one.token, one.token >> 8, one.symbol, one.name, 0, "", 0, tick, 1, "EQ", "NSE", "NSE")
        writer.writerow(row)
    return text.getvalue()


def quote(street: Street) -> dict[str, Any]:
    """One symbol of GET /quote."""
    lowest, highest = street.limits_paise
    return {
        "instrument_token": street.listing.token,
        "timestamp": stamp(street.traded_ns),
        "last_trade_time": stamp(street.traded_ns),
        "last_price": rupees(street.known_paise),
        "last_quantity": street.last_shares,
        "volume": street.volume,
        "average_price": street.value_paise / street.volume / 100 if street.volume else 0,
        "buy_quantity": sum(level.shares for level in street.bids),
        "sell_quantity": sum(level.shares for level in street.asks),
        "net_change": 0,
        "oi": 0,
        "oi_day_high": 0,
        "oi_day_low": 0,
        "lower_circuit_limit": rupees(lowest),
        "upper_circuit_limit": rupees(highest),
        "ohlc": ohlc(street),
        "depth": {"buy": _side(street.bids), "sell": _side(street.asks)},
    }


def ohlc(street: Street) -> dict[str, float]:
    """The day's prices; `close` is that of the day before, as the vendor has it."""
    return {
        "open": rupees(street.open_paise),
        "high": rupees(street.high_paise),
        "low": rupees(street.low_paise),
        "close": rupees(street.listing.previous_close_paise),
    }


def _side(levels: list[Level]) -> list[dict[str, Any]]:
    shown = [{"price": rupees(one.price_paise), "quantity": one.shares, "orders": 1} for one in levels]
    return shown + [{"price": 0, "quantity": 0, "orders": 0}] * (5 - len(shown))
