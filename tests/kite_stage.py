"""A Kite broker before a rehearsal, driven as the loop drives it, and a crash at any place of it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rehearsals import SECOND_NS

from finsense.account.session import Fill, Order
from finsense.live.brokers.kite import KiteBroker
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import KITE_LIMITS, Limit, RateLimits
from finsense.live.journal import Journal
from finsense.live.order_style import OrderStyle
from finsense.live.patience import Patience, no_new_token
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.server import API_KEY, Rehearsal
from finsense.market.bars import Bar
from finsense.market.moments import Moment

QUICK = Patience(
    young_s=1.0, fate_s=0.6, arrival_s=0.6, settle_s=1.5, lag_s=0.3, read_s=2.0, first_s=0.01, longest_s=0.1
)
SYMBOLS = ("INFY", "TCS")
# Of one of our requests: long enough for loopback, short where the rehearsal hangs on purpose.
TIMEOUT_S = 0.4
# Readings as fast as loopback gives them; a rehearsal counts the orders itself.
LIMITS = {**KITE_LIMITS, "other": (Limit(10_000, 1),)}


class StageClock:
    """The rehearsal's time; waiting is real."""

    def __init__(self, stage: Rehearsal) -> None:
        self._stage = stage

    def now_ns(self) -> int:
        return self._stage.clock.now_ns()

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing here waits on the market's clock")


class Trader:
    """What the loop does, with its records kept in memory as if each had been journalled in one stroke."""

    def __init__(
        self,
        stage: Rehearsal,
        folder: Path,
        *,
        style: OrderStyle | None = None,
        renew: Callable[[], None] = no_new_token,
        patience: Patience = QUICK,
        **hooks: Any,
    ) -> None:
        self.stage, self.folder, self.style = stage, folder, style or OrderStyle("MIS")
        self.renew, self.patience, self.hooks = renew, patience, hooks
        self.path, self.identity = folder / "journal.db", {"session": "test"}
        self.alarms: list[str] = []
        self.records: list[tuple[Moment, dict[str, list[Fill]], dict[str, Order], dict[str, int]]] = []
        # Faults that strike from the first request of the next submit on.
        self.at_submit: list[Fault] = []
        # Called at every place where a process may die.
        self.point: Callable[[], None] = lambda: None
        self.token = stage.log_in()
        self.time_ns = stage.clock.now_ns()
        self.broker: KiteBroker
        self.journal: Journal

    def alarm(self, kind: str, text: str, **facts: Any) -> None:
        self.alarms.append(kind)

    def start(self) -> "Trader":
        """Begin, or begin again, from what is on disk."""
        self.journal = Journal(self.path, self.identity)
        limits = RateLimits(self.folder / "limits.db", LIMITS)
        self.rest = KiteRest(API_KEY, self.token, limits, root=self.stage.root, timeout_s=TIMEOUT_S)
        self.journal.note = self._mortal(self.journal.note)  # type: ignore[method-assign]
        self.rest._write = self._mortal(self.rest._write)  # type: ignore[method-assign]
        self.broker = KiteBroker(
            self.rest,
            self.journal,
            "test",
            SYMBOLS,
            self.style,
            clock=StageClock(self.stage),
            alarm=self.alarm,
            renew=self.renew,
            patience=self.patience,
            **self.hooks,
        )
        for record in self.records:
            assert self.broker.replay(*record) == record[1]
        self.broker.resume()
        return self

    def end(self) -> None:
        """The process is gone: nothing more is said to anybody."""
        with suppress(AttributeError):
            self.journal.close()
            self.rest.close()

    def again(self) -> "Trader":
        """Crash and start."""
        self.end()
        return self.start()

    def bar(
        self,
        orders: Mapping[str, int] | None = None,
        stops: Mapping[str, int] | None = None,
        stop_ppm: int = 0,
    ) -> dict[str, list[Fill]]:
        """One round of the loop; returns what filled."""
        self.time_ns += 300 * SECOND_NS
        moment = self._moment()
        fills = self.broker.fills(moment)
        sent = {symbol: Order(self.time_ns, shares, stop_ppm) for symbol, shares in (orders or {}).items()}
        record = moment, fills, sent, dict(stops or {})
        before = self.positions
        for symbol, some in fills.items():
            before[symbol] += sum(fill.quantity for fill in some)
        assert self.broker.account().positions == before
        self.records.append(record)
        self.stage.faults.order(*self.at_submit)
        self.at_submit.clear()
        self.broker.submit(sent)
        self.broker.protect(dict(stops or {}))
        return fills

    @property
    def positions(self) -> dict[str, int]:
        """What the account has booked."""
        held = dict.fromkeys(SYMBOLS, 0)
        for _, fills, _, _ in self.records:
            for symbol, some in fills.items():
                held[symbol] += sum(fill.quantity for fill in some)
        return held

    @property
    def exchange(self) -> dict[str, int]:
        """What the exchange says."""
        found = self.stage.call(lambda: dict(self.stage.exchange.positions))
        return {symbol: found.get((symbol, self.style.product), 0) for symbol in SYMBOLS}

    def sound(self) -> None:
        """No order twice, none lost, the books of both sides equal to the share and the paisa."""
        orders = self.stage.call(lambda: [(one.request.tag, one.order_id) for one in self.stage.exchange.orders])
        tags = [tag for tag, _ in orders]
        assert len(tags) == len(set(tags))
        books = self.broker.desk.books
        assert {order_id for _, order_id in orders} == {
            one.tracked.order_id for one in books.orders.values() if one.tracked.order_id
        }
        done = self.stage.call(
            lambda: sorted(
                (
                    one.order.request.symbol,
                    one.shares if one.order.request.side == "BUY" else -one.shares,
                    one.price_paise,
                )
                for one in self.stage.exchange.executions
            )
        )
        booked = [
            (symbol, fill.quantity, fill.price_paise)
            for _, fills, _, _ in self.records
            for symbol, some in fills.items()
            for fill in some
        ]
        due = [(one.symbol, one.quantity, one.price_paise) for one in books.due()]
        assert sorted(booked + due) == done
        assert self.journal.verify() >= 0

    def _mortal(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """An act that the process may die before, or after."""

        def tried(*args: Any, **kwargs: Any) -> Any:
            self.point()
            done = act(*args, **kwargs)
            self.point()
            return done

        return tried

    def _moment(self) -> Moment:
        last = {symbol: self.stage.exchange.streets[symbol].last_paise / 100 for symbol in SYMBOLS}
        return Moment(
            self.time_ns,
            {
                symbol: Bar(self.time_ns, last[symbol], last[symbol], last[symbol], last[symbol], 100)
                for symbol in SYMBOLS
            },
        )
