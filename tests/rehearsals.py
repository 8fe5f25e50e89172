"""Rehearsals for tests: two shares of a simulated morning, or whole days, standing still until they are played."""

import datetime as dt
import json
import urllib.request
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.clock import RehearsalClock
from finsense.live.rehearsal.faults import Faults
from finsense.live.rehearsal.server import API_KEY, Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.live.rehearsal.street import Listing, Street
from finsense.live.rehearsal.tape import StreetTrade
from finsense.live.rehearsal.terms import Terms
from finsense.market.bars import Bars
from finsense.market.calendar import IST, nse_calendar
from finsense.market.simulate import SimulatedMarket

DAY = dt.date(2026, 7, 15)
INFY, TCS = 408065, 2953217
SECOND_NS = 1_000_000_000
# Days with hours of their own: a closing auction for stocks with derivatives, Muhurat, two windows.
AUCTION_DAY, MUHURAT, SPLIT = dt.date(2026, 10, 14), dt.date(2023, 11, 12), dt.date(2024, 3, 2)


def rehearsal(
    seed: int = 0,
    seconds: int = 600,
    faults: Faults | None = None,
    balance_paise: int = 10**9,
    speed: float = 0.0,
    **terms: Any,
) -> Rehearsal:
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
    clock = RehearsalClock(session.open_ns, speed)
    sessions = dict.fromkeys(streets, session)
    return Rehearsal(streets, sessions, sorted(trades), clock, balance_paise=balance_paise, faults=faults, **terms)


def simulated(*symbols: str, date: dt.date = DAY, interval: str = "1m", seed: int = 5, days: int = 4) -> list[Bars]:
    """Bars of a random walk, of a day and of some before it."""
    market = SimulatedMarket.model_validate(
        {
            "model": "random_walk",
            "symbols": symbols or ("SIMA",),
            "interval": interval,
            "first": date - dt.timedelta(days=days),
            "last": date,
            "seed": seed,
        }
    )
    return list(market.load().values())


def whole_day(
    *symbols: str, date: dt.date = DAY, speed: float = 0.0, seed: int = 5, **terms: Unpack[Terms]
) -> Rehearsal:
    """A whole simulated day of minutes."""
    return stage(simulated(*symbols, date=date, seed=seed), date, speed=speed, seed=seed, **terms)


def at(clock: str, date: dt.date = DAY) -> int:
    """The instant of a clock time in India, ns UTC."""
    return int(dt.datetime.combine(date, dt.time.fromisoformat(clock), IST).timestamp()) * SECOND_NS


def asked(root: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What a rehearsal's own routes answer: a GET, or a POST of a body."""
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(f"{root}/rehearsal/{path}", data), timeout=10) as answer:
        return json.load(answer)


def rest_of(stage: Rehearsal, folder: Path, token: str, **options: Any) -> KiteRest:
    """Our client, logged in."""
    return KiteRest(API_KEY, token, RateLimits(folder / "limits.db"), root=stage.root, **options)


def buy(tag: str = "fs1", quantity: int = 10, **parts: Any) -> OrderRequest:
    """An order at the market."""
    terms: dict[str, Any] = {"symbol": "INFY", "side": "BUY", "kind": "MARKET", "product": "MIS"}
    if parts.get("kind", "MARKET") in ("MARKET", "SL-M"):
        terms["market_protection"] = -1
    return OrderRequest(tag=tag, quantity=quantity, **(terms | parts))
