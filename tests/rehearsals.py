"""A small rehearsal for tests: two shares of a simulated morning, standing still until it is played."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np

from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.faults import Faults
from finsense.live.rehearsal.server import API_KEY, Rehearsal, RehearsalClock, StreetTrade
from finsense.live.rehearsal.street import Listing, Street
from finsense.market.calendar import nse_calendar

DAY = dt.date(2026, 7, 15)
INFY, TCS = 408065, 2953217
SECOND_NS = 1_000_000_000


def rehearsal(seed: int = 0, seconds: int = 600, faults: Faults | None = None, balance_paise: int = 10**9) -> Rehearsal:
    """One trade of each share a second from the opening on."""
    generator = np.random.default_rng(seed)
    listings = [
        Listing(INFY, "INFY", "INFOSYS", 10, 150_000, 0.10),
        Listing(TCS, "TCS", "TATA CONSULTANCY SERVICES", 10, 310_000, 0.10),
    ]
    streets = {one.symbol: Street(one, np.random.default_rng([seed, one.token])) for one in listings}
    session = nse_calendar().session(DAY, derivatives=True)
    assert session is not None
    trades = []
    for one in listings:
        steps = np.cumsum(generator.integers(-3, 4, seconds)) * one.tick_paise
        for second, step in enumerate(steps.tolist()):
            shares = int(generator.integers(10, 500))
            at_ns = session.open_ns + second * SECOND_NS
            trades.append(StreetTrade(at_ns, one.symbol, one.previous_close_paise + step, shares))
    clock = RehearsalClock(session.open_ns)
    sessions = dict.fromkeys(streets, session)
    return Rehearsal(streets, sessions, sorted(trades), clock, balance_paise=balance_paise, faults=faults)


def rest_of(stage: Rehearsal, folder: Path, token: str, **options: Any) -> KiteRest:
    """Our client, logged in."""
    return KiteRest(API_KEY, token, RateLimits(folder / "limits.db"), root=stage.root, **options)


def buy(tag: str = "fs1", quantity: int = 10, **parts: Any) -> OrderRequest:
    """An order at the market."""
    terms: dict[str, Any] = {"symbol": "INFY", "side": "BUY", "kind": "MARKET", "product": "MIS"}
    if parts.get("kind", "MARKET") in ("MARKET", "SL-M"):
        terms["market_protection"] = -1
    return OrderRequest(tag=tag, quantity=quantity, **(terms | parts))
