"""Reads the forms of Kite's order routes, and refuses what the vendor refuses at its door."""

from dataclasses import replace
from typing import Any

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import Refused

# The vendor takes orders without a tag; ours never are.
_NO_TAG = "untagged"


def order_of(form: dict[str, Any]) -> OrderRequest:
    """The order of POST /orders/{variety}.

    Raises:
        Refused: as the vendor refuses it.
        OrderError: its parts make no order.
    """
    kind = str(form.get("order_type", ""))
    protection = float(form["market_protection"]) if "market_protection" in form else 0.0
    if kind in ("MARKET", "SL-M") and protection == 0:
        raise Refused("InputException", "Market orders without market protection are not allowed.")
    tag = str(form.get("tag", _NO_TAG))
    if len(tag) > 20:
        raise Refused("InputException", "Tag must be at most 20 characters.")
    return OrderRequest(
        tag=tag,
        symbol=str(form["tradingsymbol"]),
        side=form["transaction_type"],
        quantity=int(form["quantity"]),
        kind=form["order_type"],
        product=form["product"],
        price_paise=_paise(form, "price") if kind in ("LIMIT", "SL") else None,
        trigger_paise=_paise(form, "trigger_price") if kind in ("SL", "SL-M") else None,
        market_protection=protection if kind in ("MARKET", "SL-M") else None,
    )


def changed_order(before: OrderRequest, form: dict[str, Any]) -> OrderRequest:
    """An order after PUT /orders/{variety}/{order_id}; what the form leaves out stays.

    Raises:
        Refused: as in `order_of`.
    """
    kind = form.get("order_type", before.kind)
    protection = float(form.get("market_protection", before.market_protection or 0))
    if kind in ("MARKET", "SL-M") and protection == 0:
        raise Refused("InputException", "Market orders without market protection are not allowed.")
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


def _paise(form: dict[str, Any], name: str) -> int:
    paise = float(form.get(name, 0)) * 100
    if abs(paise - round(paise)) > 1e-6:
        raise Refused("InputException", f"Invalid `{name}`.")
    return round(paise)
