"""Reads the forms of Kite's order routes, and refuses what the vendor refuses at its door."""

import re
from dataclasses import replace
from typing import Any

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import Refused

# What an order without a tag is called inside; it is never shown.
UNTAGGED = "untagged"
_TAG = re.compile(r"[A-Za-z0-9]{1,20}")
# Parts of the vendor's form that a rehearsal does not play: any other value than these is refused, not ignored.
_PLAYED = {
    "exchange": ("NSE",),
    "variety": ("regular",),
    "validity": ("DAY",),
    "product": ("CNC", "MIS"),
    "autoslice": ("false", "False"),
}
_UNPLAYED = ("validity_ttl", "iceberg_legs", "iceberg_quantity", "auction_number", "squareoff", "stoploss")
_UNPLAYED_NUMBERS = ("disclosed_quantity", "trailing_stoploss")


def check_variety(variety: str) -> None:
    """Refuse what the path of an order's route asks for and a rehearsal does not play.

    Raises:
        Refused: another variety than regular.
    """
    if variety != "regular":
        raise Refused("InputException", f"The rehearsal does not play orders of the variety `{variety}`.")


def order_of(form: dict[str, Any]) -> tuple[OrderRequest, bool]:
    """The order of POST /orders/{variety}, and whether it carries a tag.

    Raises:
        Refused: as the vendor refuses it.
        OrderError: its parts make no order.
    """
    _check_played(form)
    kind = str(form.get("order_type", ""))
    protection = _protection(form, kind)
    tag = str(form.get("tag", ""))
    if tag and not _TAG.fullmatch(tag):
        raise Refused("InputException", "Invalid `tag`. It must be alphanumeric and at most 20 characters.")
    request = OrderRequest(
        tag=tag or UNTAGGED,
        symbol=str(form["tradingsymbol"]),
        side=form["transaction_type"],
        quantity=int(form["quantity"]),
        kind=form["order_type"],
        product=form["product"],
        price_paise=_paise(form, "price") if kind in ("LIMIT", "SL") else None,
        trigger_paise=_paise(form, "trigger_price") if kind in ("SL", "SL-M") else None,
        market_protection=protection if kind in ("MARKET", "SL-M") else None,
    )
    return request, bool(tag)


def changed_order(before: OrderRequest, form: dict[str, Any]) -> OrderRequest:
    """An order after PUT /orders/{variety}/{order_id}; what the form leaves out stays.

    Raises:
        Refused: as in `order_of`.
    """
    _check_played(form)
    kind = form.get("order_type", before.kind)
    # Protection is not remembered: a change at the market without it is refused like a new order without it.
    protection = _protection(form, kind)
    prices = {"price_paise": "price", "trigger_paise": "trigger_price"}
    kinds = {"price_paise": ("LIMIT", "SL"), "trigger_paise": ("SL", "SL-M")}
    terms: dict[str, Any] = {
        name: (_paise(form, field) if field in form else getattr(before, name)) if kind in kinds[name] else None
        for name, field in prices.items()
    }
    return replace(
        before,
        kind=kind,
        quantity=int(form.get("quantity", before.quantity)),
        market_protection=protection if kind in ("MARKET", "SL-M") else None,
        **terms,
    )


def _check_played(form: dict[str, Any]) -> None:
    for name, played in _PLAYED.items():
        if name in form and form[name] not in played:
            raise Refused("InputException", f"The rehearsal does not play `{name}` {form[name]}.")
    for name in _UNPLAYED:
        if name in form:
            raise Refused("InputException", f"The rehearsal does not play `{name}`.")
    for name in _UNPLAYED_NUMBERS:
        if float(form.get(name, 0)):
            raise Refused("InputException", f"The rehearsal does not play `{name}`.")


def _protection(form: dict[str, Any], kind: str) -> float:
    protection = float(form.get("market_protection", 0))
    if kind in ("MARKET", "SL-M") and protection == 0:
        raise Refused("InputException", "Market orders without market protection are not allowed.")
    return protection


def _paise(form: dict[str, Any], name: str) -> int:
    paise = float(form.get(name, 0)) * 100
    if abs(paise - round(paise)) > 1e-6:
        raise Refused("InputException", f"Invalid `{name}`.")
    return round(paise)
