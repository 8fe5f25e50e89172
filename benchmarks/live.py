"""The live loop before the rehearsal: from a bar's close to the order on the wire, and a journal's recovery."""

import datetime as dt
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from benchmarks import policies
from benchmarks.markets import LAST, SYMBOL, account_rules, setting
from benchmarks.measurement import Effort, Measurement, remark, spend, spread
from finsense.account.joint import JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.rules import BUY, SELL
from finsense.config.live import GateSettings
from finsense.live.alarms import Alarms
from finsense.live.brokers.kite import KiteBroker
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.paper import PaperBroker
from finsense.live.brokers.rate_limits import KITE_LIMITS, Limit, RateLimits
from finsense.live.feeds.replay import ReplayFeed
from finsense.live.gate import ENTRIES, Gate
from finsense.live.journal import Journal
from finsense.live.kill_switch import KillSwitch
from finsense.live.kite_source import _FRESH_S as FRESH_S
from finsense.live.loop import LiveLoop
from finsense.live.order_style import OrderStyle
from finsense.live.patience import Patience
from finsense.live.rehearsal.server import API_KEY
from finsense.market.bars import Bars
from finsense.market.calendar import session_date
from finsense.market.instruments import instrument
from finsense.market.moments import Moment, moments
from finsense.market.simulate import SimulatedMarket
from finsense.model.policy import Decision, Policy
from finsense.state.span import split_history

_DAY = dt.date(2026, 7, 15)
_MINUTE_NS = 60_000_000_000
_IDENTITY = {"session": "benchmark"}
_BARS = 375
# As many queries as with the vendor's limits, and never a wait: a day is traded in seconds.
_WIDE = (Limit(500, 1), Limit(5_000, 60), Limit(5_000, 86_400))
_RECORDS = 100_000


# In a process of its own, as the vendor's server is: in ours it would take the interpreter from the loop between two
# writes to a socket.
_SERVER = """
import datetime as dt, logging, sys
import structlog
from finsense.live.rehearsal.stage import stage
from finsense.market.simulate import SimulatedMarket
structlog.configure(
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),
)
market, date = SimulatedMarket.model_validate_json(sys.argv[1]), dt.date.fromisoformat(sys.argv[2])
with stage(list(market.load().values()), date, speed=0, balance_paise=10**9, limits={}) as rehearsal:
    print(rehearsal.root, rehearsal.log_in(), flush=True)
    for line in sys.stdin:
        print(rehearsal.play_until(int(line)), flush=True)
"""


class _Times(NamedTuple):
    """What lies between a bar's close and its order's last byte, us: on the clock, and of this thread's CPU time."""

    wall: list[float]
    cpu: list[float]


class _Eager(Policy):
    """Decides as the policy of 64 x 64 does, and then buys and sells in turn wherever that is legal."""

    def __init__(self) -> None:
        self._policy, self._count = policies.onnx_policy(), 0

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        decision = self._policy.act(state, mask)
        self._count += 1
        wish = BUY if self._count % 2 else SELL
        return decision._replace(action=wish) if mask[0, wish] else decision


class _Wire:
    """Notes when the last byte of an order was given to the socket, in the thread that gives it."""

    def __init__(self) -> None:
        self.sent_ns: tuple[int, int] | None = None
        wire = self

        class Connection(HTTPConnection):
            """Knows which request it carries."""

            _orders = False

            def send(self, data: Any) -> None:
                if data[:5] in (b"POST ", b"GET /"):
                    self._orders = data.startswith(b"POST /orders/")
                super().send(data)
                if self._orders:
                    wire.sent_ns = time.perf_counter_ns(), time.thread_time_ns()

        class Pool(HTTPConnectionPool):
            """Of such connections."""

            ConnectionCls = Connection

        self._pool = Pool

    def taken(self) -> tuple[int, int] | None:
        """Wall and CPU time of this thread of the last order since the last call, ns; None: none left."""
        sent_ns, self.sent_ns = self.sent_ns, None
        return sent_ns

    def tap(self, rest: KiteRest, root: str) -> None:
        """Listen to the connections of a client."""
        pools = rest._client.reqsession.get_adapter(root).poolmanager
        pools.pool_classes_by_scheme = {**pools.pool_classes_by_scheme, "http": self._pool}


class _Unflushed:
    """A database that leaves its pages to the system; everything else is as it was."""

    def __init__(self, database: Any) -> None:
        self._database = database
        database.execute("PRAGMA synchronous = OFF")

    def execute(self, statement: str, *values: Any) -> Any:
        """Run a statement, unless it asks for the flush."""
        return None if "synchronous" in statement else self._database.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class _Rehearsal:
    """A rehearsed day in another process, and its time.

    Attributes:
        root: its address.
        token: of a login.
        time_ns: the instant that it has reached, ns UTC.
    """

    def __init__(self, market: SimulatedMarket, date: dt.date) -> None:
        command = [sys.executable, "-c", _SERVER, market.model_dump_json(), date.isoformat()]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._told, self._heard = self._process.stdin, self._process.stdout
        self.root, self.token = self._heard.readline().split()
        self.time_ns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._told.close()
        self._process.wait()
        self._heard.close()

    def now_ns(self) -> int:
        """The rehearsal's time."""
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        """Nobody waits on a market that is played by hand."""
        raise AssertionError(f"nothing here waits, found {seconds} s")

    def play_until(self, time_ns: int) -> None:
        """Let everything happen up to an instant, ns UTC."""
        print(time_ns, file=self._told, flush=True)
        self._heard.readline()
        self.time_ns = time_ns


class _Desk:
    """One session of a rehearsed day: the loop with gate, journal and Kite broker, as `finsense live` puts it together.

    Attributes:
        times: of every order that left.
    """

    def __init__(self, rehearsal: _Rehearsal, folder: Path, markets: list[Bars], *, flushed: bool) -> None:
        self.times = _Times([], [])
        self._rehearsal, self._wire, self._stack = rehearsal, _Wire(), ExitStack()
        stocks = [instrument(bars.symbol) for bars in markets]
        terms, clock = setting(), rehearsal
        limits = self._closing(RateLimits(folder / "rates.db", {**KITE_LIMITS, "order": _WIDE, "other": _WIDE}))
        gate_rates = self._closing(RateLimits(folder / "rates.db", {ENTRIES: _WIDE}))
        rest = self._closing(KiteRest(API_KEY, rehearsal.token, limits, root=rehearsal.root))
        self._wire.tap(rest, rehearsal.root)
        journal = self._stack.enter_context(Journal(folder / "journal.db", _IDENTITY))
        if not flushed:
            journal._database = _Unflushed(journal._database)  # type: ignore[assignment]
        alarms = self._stack.enter_context(Alarms("benchmark", clock=clock, note=journal.note))
        settings = GateSettings(orders_per_second=10, orders_per_minute=400, orders_per_day=5000)
        gate = Gate(
            settings,
            markets[0].interval,
            KillSwitch(folder),
            gate_rates,
            gate_rates,
            clock,
            derivatives={stock.symbol: stock.derivatives for stock in stocks},
            alarms=alarms,
        )
        self._broker = KiteBroker(
            rest,
            journal,
            "benchmark",
            [stock.symbol for stock in stocks],
            OrderStyle("MIS"),
            clock=clock,
            alarm=lambda kind, text, **facts: alarms.raise_(kind, text, **facts),
            patience=Patience(fresh_s=FRESH_S),
        )
        session = JointSession(stocks, markets[0].interval, terms.state, account_rules(), terms.costs)
        self._day: list[Moment] = []
        for moment in moments(markets):
            if session_date(moment.time_ns) < _DAY:
                for symbol, bar in moment.bars.items():
                    session.warm(symbol, bar)
            else:
                self._day.append(moment)
        self._loop = LiveLoop(session, _Eager(), self._broker, journal, gate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, bars: int) -> None:
        """Trade the first so many bars of the day."""
        self._loop.recover()
        self._loop.run(self._feed(bars))

    def _feed(self, bars: int) -> Iterator[Moment | None]:
        """Each bar at its close; before it the stream tells of the last order, as it does while a bar trades."""
        for moment in self._day[:bars]:
            self._rehearsal.play_until(moment.time_ns + _MINUTE_NS - 1)
            self._broker.on_order_update({})
            yield None
            self._wire.taken()
            cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
            yield moment
            if (sent_ns := self._wire.taken()) is not None:
                self.times.wall.append((sent_ns[0] - wall_ns) / 1000)
                self.times.cpu.append((sent_ns[1] - cpu_ns) / 1000)

    def _closing(self, one: Any) -> Any:
        self._stack.callback(one.close)
        return one


def order(effort: Effort) -> list[Measurement]:
    """Microseconds from a bar that the loop takes to the last byte of its order's request on a socket.

    One symbol, an order at every bar: settle, compare with the broker's books (read between the bars, as the stream
    told of the last order), state, policy, gate, journal, request. Once with the journal flushed (fsync) before the
    request, and once, in turn, without the flush alone: what is spent outside it.
    """
    simulated = {"model": "random_walk", "symbols": (SYMBOL,), "interval": "1m", "seed": 3}
    market = SimulatedMarket.model_validate({**simulated, "first": _DAY - dt.timedelta(5), "last": _DAY})
    markets = list(market.load().values())
    bars = effort.count(_BARS, 5)
    found = {"live_order": _Times([], []), "live_order_unflushed": _Times([], [])}
    for turn in range(effort.rounds + 1):
        for label, times in found.items():
            with tempfile.TemporaryDirectory() as folder, _Rehearsal(market, _DAY) as rehearsal:
                flushed = label == "live_order"
                with _Desk(rehearsal, Path(folder), markets, flushed=flushed) as desk:
                    desk.run(bars)
            if turn > 0:
                times.wall.extend(desk.times.wall)
                times.cpu.extend(desk.times.cpu)
    lines = []
    for label, times in found.items():
        for unit, some in zip(("us", "CPU us"), times, strict=True):
            remark(f"{label}: {spread(some)} {unit} of {len(some):,} orders")
            for share in (50, 99):
                lines.append(Measurement(f"{label}_p{share}", float(np.percentile(some, share)), unit))
    return lines


def recovery(effort: Effort) -> list[Measurement]:
    """Seconds until a loop has replayed a journal of 100,000 one-minute bars of one symbol, its opening included."""
    records = effort.count(_RECORDS, 100)
    # Rich enough for the charges of years of an untrained policy: after ruin nothing would be journalled.
    terms, account = setting(), account_rules().model_copy(update={"balance": Decimal(10_000_000)})
    # So many sessions, and some for holidays and the warm-up.
    first = LAST - dt.timedelta(round(records / _BARS * 7 / 5 * 1.1) + 14)
    simulated = {"model": "mean_reversion", "symbols": (SYMBOL,), "interval": "1m", "seed": 1}
    market = SimulatedMarket.model_validate({**simulated, "first": first, "last": LAST})
    history, trading = split_history(market.load()[SYMBOL], terms.state)
    trading = trading.take(0, min(records, len(trading)))
    policy = policies.onnx_policy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"

        def session(run: bool) -> int:
            stock = instrument(SYMBOL)
            joint = JointSession([stock], "1m", terms.state, account, terms.costs)
            exchange = JointExchange([stock], "1m", account, terms.costs)
            with Journal(path, _IDENTITY) as journal:
                for bar in journal.begin({SYMBOL: list(history)})[SYMBOL]:
                    joint.warm(SYMBOL, bar)
                    exchange.warm(SYMBOL, bar)
                loop = LiveLoop(joint, policy, PaperBroker(exchange), journal)
                count = loop.recover()
                if run:
                    loop.run(ReplayFeed([trading]))
                return count

        session(run=True)
        spent = []
        for _ in range(effort.rounds):
            spent.append(spend(lambda: session(run=False)))
        if session(run=False) != len(trading):
            raise RuntimeError("the journal was not recovered whole")
    lines = []
    for unit, some in (("s", [one.wall_s for one in spent]), ("CPU s", [one.cpu_s for one in spent])):
        remark(f"journal_recovery of {len(trading):,} bars: {spread(some)} {unit}")
        lines.append(Measurement("journal_recovery", statistics.median(some), unit))
    return lines
