"""Runs a rehearsal: a clock, a market that plays, an exchange, and Kite's two interfaces on one port of loopback."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

import structlog
from aiohttp import web

from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.faults import Faults
from finsense.live.rehearsal.hours import Phase, phase_at
from finsense.live.rehearsal.kite_server import KiteServer
from finsense.live.rehearsal.kite_socket import KiteSocket
from finsense.live.rehearsal.street import Street
from finsense.market.bars import Bar
from finsense.market.calendar import TradingSession

API_KEY, API_SECRET = "rehearsalkey", "rehearsalsecret"
_START_S = 10.0
_SECOND_NS = 1_000_000_000
# How often a waiting market looks at its clock, seconds.
_LOOK_S = 0.02

log = structlog.get_logger()


class StreetTrade(NamedTuple):
    """What others trade.

    Attributes:
        time_ns: instant, ns UTC.
        symbol: of which share.
        price_paise: of one.
        shares: how many.
    """

    time_ns: int
    symbol: str
    price_paise: int
    shares: int


def trades_of_bar(symbol: str, bar: Bar, interval_ns: int, tick_paise: int) -> Iterator[StreetTrade]:
    """Four trades that make the bar again: its open, its extremes in the order of the nearer one first, its close."""
    prices = [bar.open, bar.low, bar.high, bar.close]
    if bar.high - bar.open < bar.open - bar.low:
        prices[1], prices[2] = prices[2], prices[1]
    for place, price in enumerate(prices):
        shares = bar.volume // 4 + (bar.volume % 4 if place == 3 else 0)
        if shares:
            paise = round(price * 100 / tick_paise) * tick_paise
            yield StreetTrade(bar.time_ns + place * interval_ns // 4, symbol, paise, shares)


class RehearsalClock:
    """The time of a rehearsal: it stands still until it is set, or runs so many times faster than real time.

    Args:
        start_ns: first instant, ns UTC.
        speed: 0 stands still.
    """

    def __init__(self, start_ns: int, speed: float = 0.0) -> None:
        self._base_ns, self._base_s, self.speed = start_ns, time.monotonic(), speed

    def now_ns(self) -> int:
        """The instant now, ns UTC."""
        return self._base_ns + int((time.monotonic() - self._base_s) * self.speed * _SECOND_NS)

    def set(self, time_ns: int) -> None:
        """Go to an instant."""
        self._base_ns, self._base_s = time_ns, time.monotonic()


class Rehearsal:
    """A whole rehearsal in a thread of its own; use it in a `with` statement.

    Args:
        streets: symbol -> its street.
        sessions: symbol -> its session of the day.
        trades: what others trade, in the order of time; played by the clock, or by `play`.
        clock: of the rehearsal.
        balance_paise: cash of the account.
        faults: what goes wrong.
        halts: half-open spans, ns UTC, in which the whole market stands still.
        candles: answers for the past: token, interval, first, last (as text) -> rows of the vendor.
        port: of loopback; 0 takes a free one.

    Attributes:
        exchange: the matching engine; touch it from other threads through `call` alone.
        faults: see above.
        rest: the REST half.
        stream: the streaming half.
        port: where it listens.
    """

    def __init__(
        self,
        streets: dict[str, Street],
        sessions: dict[str, TradingSession],
        trades: Iterable[StreetTrade],
        clock: RehearsalClock,
        *,
        balance_paise: int,
        faults: Faults | None = None,
        halts: tuple[tuple[int, int], ...] = (),
        candles: Callable[[int, str, str, str], list[list[Any]]] = lambda *_: [],
        port: int = 0,
    ) -> None:
        self.faults = faults or Faults()
        self.clock, self.port = clock, port
        self._trades = iter(trades)

        def phase(symbol: str) -> Phase:
            return phase_at(sessions.get(symbol), clock.now_ns(), halts)

        self.exchange = RehearsalExchange(
            streets, balance_paise, phase, clock.now_ns, lambda order: self.stream.tell(order)
        )
        self.rest = KiteServer(self.exchange, self.faults, api_key=API_KEY, api_secret=API_SECRET, candles=candles)
        self.stream = KiteSocket(streets, self.faults, self.rest.knows)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rehearsal", daemon=True)

    @property
    def root(self) -> str:
        """Address of the REST half."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_root(self) -> str:
        """Address of the streaming half."""
        return f"ws://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_START_S) or self._failed is not None:
            raise RuntimeError(f"the rehearsal did not start: {self._failed}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failed is not None:
            raise RuntimeError(f"the rehearsal failed: {self._failed!r}") from self._failed

    @property
    def running(self) -> bool:
        """Whether it still plays; false after a fault of its own."""
        return self._thread.is_alive()

    def log_in(self) -> str:
        """An access token, as a user gets it who logs in; one of before dies."""
        token = f"access{self.call(self.rest.new_login)}"

        def give() -> None:
            self.rest.access_tokens = {token}

        self.call(give)
        return token

    def call(self, act: Callable[[], Any]) -> Any:
        """Do something in the rehearsal's own thread, between two requests."""
        assert self._loop is not None

        async def acted() -> Any:
            return act()

        return asyncio.run_coroutine_threadsafe(acted(), self._loop).result(_START_S)

    def play(self, count: int = 1) -> int:
        """Let the next so many trades of others happen now; returns how many there were."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._play(count), self._loop).result()

    async def _play(self, count: int) -> int:
        for done in range(count):
            trade = next(self._trades, None)
            if trade is None:
                return done
            self.clock.set(trade.time_ns)
            await self._happen(trade)
        return count

    async def _happen(self, trade: StreetTrade) -> None:
        self.exchange.trade(trade.symbol, trade.price_paise, trade.shares)
        await self.stream.publish(self.exchange.streets[trade.symbol])

    async def _play_by_the_clock(self) -> None:
        for trade in self._trades:
            while self.clock.now_ns() < trade.time_ns:
                await asyncio.sleep(_LOOK_S)
            await self._happen(trade)
            # A market far behind its clock must not starve the requests.
            await asyncio.sleep(0)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            # Told by whoever waits for it, not by the thread.
            self._failed = error
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        application = self.rest.application()
        application.router.add_get("/", self.stream.handle)
        # A client that gives up must end its handler, which may be one that hangs on purpose.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port)
        await site.start()
        self.port = runner.addresses[0][1]
        playing = asyncio.create_task(self._play_by_the_clock()) if self.clock.speed else None
        self._started.set()
        log.info("the rehearsal is open", root=self.root)
        stopping = asyncio.create_task(self._stop.wait())
        waited: set[asyncio.Task[Any]] = {stopping} if playing is None else {stopping, playing}
        try:
            while not stopping.done():
                done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopping}:
                    waited.remove(task)
                    # A market that died must not look like one that is quiet.
                    task.result()
        finally:
            stopping.cancel()
            if playing is not None:
                playing.cancel()
            await self._close(runner)

    async def _close(self, runner: web.AppRunner) -> None:
        await self.stream.close()
        await runner.cleanup()
