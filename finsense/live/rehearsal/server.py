"""Runs a rehearsal: a clock, a day that plays, an exchange, and Kite's two interfaces on one port of loopback."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, TypeVar, Unpack

from aiohttp import web

from finsense.live.brokers.rate_limits import KITE_LIMITS
from finsense.live.rehearsal import candles
from finsense.live.rehearsal.candles import Candles
from finsense.live.rehearsal.clock import RehearsalClock
from finsense.live.rehearsal.control import Control
from finsense.live.rehearsal.day import Day, appoint_the_day
from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.faults import Faults
from finsense.live.rehearsal.host import Host
from finsense.live.rehearsal.hours import SQUARE_OFF_BEFORE_NS, Phase, Troubles, end_ns, phase_at
from finsense.live.rehearsal.kite_guard import KiteGuard
from finsense.live.rehearsal.kite_server import KiteServer
from finsense.live.rehearsal.kite_socket import KiteSocket
from finsense.live.rehearsal.limits import ServerLimits
from finsense.live.rehearsal.logins import Logins
from finsense.live.rehearsal.street import Street
from finsense.live.rehearsal.tape import StreetTrade, Tape
from finsense.live.rehearsal.terms import Terms
from finsense.market.bars import Bars
from finsense.market.calendar import TradingSession

API_KEY, API_SECRET = "rehearsalkey", "rehearsalsecret"
_SECOND_NS = 1_000_000_000
# How often a waiting market looks at its clock, seconds.
_LOOK_S = 0.02
# What happens to an order "a moment later": by the rehearsal's clock, or in real time where that stands still.
_MOMENT_NS, _MOMENT_S = _SECOND_NS, 0.05

Answer = TypeVar("Answer")


class Rehearsal:
    """A whole rehearsal in a thread of its own; use it in a `with` statement.

    Where the clock stands still (speed 0) the day is played by hand: `play`, `play_until`. Else it plays itself. After
    the day the server stays up for readings.

    Args:
        streets: symbol -> its street.
        sessions: symbol -> its session of the day.
        trades: what others trade, in the order of time.
        clock: of the rehearsal.
        past: symbol -> bars of the days before, for candles.
        **terms: see there.

    Attributes:
        exchange: the matching engine; touch it from other threads through `call` alone.
        faults: see above.
        clock: see above.
        sessions: see above.
        rest: the REST half.
        stream: the streaming half.
        logins: who is logged in.
        tapes: symbol -> the minutes that were played.
        limits: of requests.
        waits: whether the day begins only when somebody listens; see `Terms`.
        runs: whether it has begun to play itself.
    """

    def __init__(
        self,
        streets: dict[str, Street],
        sessions: dict[str, TradingSession],
        trades: Iterable[StreetTrade],
        clock: RehearsalClock,
        past: Mapping[str, Bars] | None = None,
        **terms: Unpack[Terms],
    ) -> None:
        self.clock, self.sessions = clock, sessions
        self.faults = terms.get("faults") or Faults()
        self.tapes = {symbol: Tape() for symbol in streets}
        self._troubles = Troubles(terms.get("halts", ()), terms.get("outages", ()))
        self._start_ns = terms.get("start_ns")
        self.waits, self.runs = terms.get("waits", False), False
        self._day = Day(trades)
        self.exchange = RehearsalExchange(
            streets,
            terms["balance_paise"],
            self._phase,
            clock.now_ns,
            lambda order: self.stream.tell(order),
            terms.get("holdings"),
        )
        square_off_before_ns = terms.get("square_off_before_ns", SQUARE_OFF_BEFORE_NS)
        appoint_the_day(self._day, self.exchange, sessions, self.tapes, square_off_before_ns)
        self.logins = Logins(
            API_KEY,
            API_SECRET,
            ended=lambda: self.stream.drop_the_dead(API_KEY),
            redirect_url=terms.get("redirect_url"),
        )
        self.rest = KiteServer(
            self.exchange, self.faults, self.logins, api_key=API_KEY, candles=self._candles, later=self._later
        )
        self.stream = KiteSocket(
            streets, self.faults, self.logins.knows, now_ns=clock.now_ns, restart=self._restart_soon
        )
        # Who plays by hand asks as fast as a test runs; orders are counted there too.
        usual = KITE_LIMITS if clock.speed else {"order": KITE_LIMITS["order"]}
        self.limits = ServerLimits(terms.get("limits", usual), now_s=time.monotonic)
        self._shown = {
            street.listing.token: Candles((past or {}).get(symbol), sessions[symbol], street, self.tapes[symbol])
            for symbol, street in streets.items()
        }
        self._host = Host(self._application, self._work, self.stream.close, terms.get("port", 0))

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._host.port

    @property
    def root(self) -> str:
        """Address of the REST half."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_root(self) -> str:
        """Address of the streaming half."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def login_root(self) -> str:
        """Address of the login page, for `KiteConnect._default_login_uri`."""
        return f"{self.root}/connect/login"

    @property
    def end_ns(self) -> int:
        """When the last share's day is over, ns UTC."""
        return max(end_ns(session) for session in self.sessions.values())

    @property
    def running(self) -> bool:
        """Whether it is up; false after a fault of its own."""
        return self._host.running

    def __enter__(self) -> Self:
        if self._start_ns is not None:
            self._skip_to(self._start_ns)
        self._host.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._host.close()

    def log_in(self) -> str:
        """An access token, as a user gets it who logs in; one of before dies, and its streams with it."""
        return self.call(self.logins.log_in)

    def expire_token(self) -> None:
        """Let every access token die, as the vendor does about 06:00."""
        self.call(self.logins.expire)

    def restart_server(self) -> None:
        """Close all connections and the port, and open it again after a moment; returns when it is open."""
        self._host.wait_for(self._restart())

    def call(self, act: Callable[[], Answer]) -> Answer:
        """Do something in the rehearsal's own thread, between two requests."""
        return self._host.call(act)

    def play(self, count: int = 1) -> int:
        """Let the next so many trades of others happen now, and all that comes before; returns how many there were.

        Raises:
            RuntimeError: it plays by its clock.
        """
        return self._host.wait_for(self._play(count, None))

    def play_until(self, time_ns: int) -> int:
        """Let everything happen up to an instant (ns UTC), inclusive, and go there; returns the trades of others.

        Raises:
            RuntimeError: it plays by its clock.
        """
        return self._host.wait_for(self._play(None, time_ns))

    def appoint(self, time_ns: int, act: Callable[[], None]) -> None:
        """Let something happen at an instant of the day, ns UTC; before the rehearsal is open, or through `call`."""
        self._day.appoint(time_ns, act)

    def state(self) -> dict[str, Any]:
        """What is going on, in plain numbers; from other threads through `call` alone."""
        exchange = self.exchange
        return {
            **self._time(),
            "phases": {symbol: self._phase(symbol).value for symbol in self.sessions},
            "over": self.clock.now_ns() >= self.end_ns,
            "orders": len(exchange.orders),
            "working": sum(order.working for order in exchange.orders),
            "executions": len(exchange.executions),
            "posted": self.rest.posted,
            "cash_paise": exchange.cash_paise,
            "spendable_paise": exchange.spendable_paise,
            "positions": {" ".join(key): shares for key, shares in exchange.positions.items()},
            "streams": self.stream.clients,
            "logged_in": bool(self.logins.access_tokens),
            "struck": dict(self.faults.struck),
        }

    def _time(self) -> dict[str, Any]:
        return {"now_ns": self.clock.now_ns(), "speed": self.clock.speed if self.runs else 0.0}

    def _phase(self, symbol: str) -> Phase:
        return phase_at(self.sessions.get(symbol), self.clock.now_ns(), self._troubles)

    def _candles(self, token: str, interval: str, first: str, last: str) -> list[list[Any]]:
        return candles.answer(self._shown, self.end_ns, self.clock.now_ns(), token, interval, first, last)

    def _later(self, act: Callable[[], None]) -> None:
        if not self.runs:
            asyncio.get_running_loop().call_later(_MOMENT_S, act)
            return
        self._day.appoint(self.clock.now_ns() + _MOMENT_NS, act)
        self.clock.hold(self._day.next_ns())

    async def _play(self, count: int | None, until_ns: int | None) -> int:
        """So many trades, or to an instant."""
        if self.clock.speed:
            raise RuntimeError(f"this rehearsal plays by its clock, {self.clock.speed:g} times faster than real time")
        played = 0
        while played != count:
            next_ns = self._day.next_ns()
            if next_ns is None or (until_ns is not None and next_ns > until_ns):
                break
            self.clock.set(next_ns)
            played += self._happen()
            await self.stream.room()
            # What was told is written, and requests are served.
            await asyncio.sleep(0)
        if until_ns is not None:
            self.clock.set(max(until_ns, self.clock.now_ns()))
        return played

    def _happen(self) -> bool:
        """The day's next thing; says whether it was a trade of others."""
        thing = self._day.take()
        if not isinstance(thing, StreetTrade):
            thing.act()
            return False
        # A halted market and one that cannot be reached have no trades, whatever was recorded.
        if self._phase(thing.symbol) is Phase.CONTINUOUS:
            self.tapes[thing.symbol].note(thing)
            self.exchange.trade(thing.symbol, thing.price_paise, thing.shares)
            self.stream.publish(self.exchange.streets[thing.symbol])
        return True

    async def _work(self) -> None:
        """Play by the clock; where it stands still, wait for whoever plays by hand."""
        if not self.clock.speed:
            await asyncio.Event().wait()
        if self.waits:
            await self.stream.listened()
        self.runs = True
        self.clock.begin()
        while True:
            next_ns = self._day.next_ns()
            self.clock.hold(next_ns)
            away_s = _LOOK_S if next_ns is None else self.clock.real_seconds_to(next_ns)
            if away_s > 0:
                await asyncio.sleep(min(away_s, _LOOK_S))
                continue
            self._happen()
            # Faster than real time the market can wait for those who listen; in real time it cannot.
            if self.clock.speed > 1:
                await self.stream.room()
            # A market far behind its clock must not starve the requests.
            await asyncio.sleep(0)

    def _skip_to(self, start_ns: int) -> None:
        """Play what comes before anyone can connect."""
        while (next_ns := self._day.next_ns()) is not None and next_ns <= start_ns:
            self.clock.set(next_ns)
            self._happen()
        self.clock.set(start_ns)

    def _application(self) -> web.Application:
        guard = KiteGuard(self.logins, self.faults, self.limits, now_ns=self.clock.now_ns, restart=self._restart_soon)
        application = guard.application()
        self.rest.add_routes(application)
        application.router.add_get("/", self.stream.handle)
        application.add_routes(self.logins.routes())
        control = Control(
            self._time,
            self.state,
            self.faults,
            play=self._play,
            expire=self.logins.expire,
            restart=self._restart_soon,
        )
        application.add_routes(control.routes())
        return application

    def _restart_soon(self) -> None:
        self.stream.drop_all()
        self._host.restart_soon()

    async def _restart(self) -> None:
        self.stream.drop_all()
        await self._host.restart()
