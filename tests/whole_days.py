"""Whole days of live trading in which everything goes wrong at least once and nobody kills the loop; their checks."""

import datetime as dt
import json
import random
import statistics
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from crash_law import Life, LoggedIn, Nursery, check_bars, check_day, one_life, true_bars, write_setup
from rehearsals import at

from finsense.account.trace import Trace
from finsense.cli.options import setting_of
from finsense.config.live import load_live
from finsense.evaluation.backtest import backtest
from finsense.live.desk_records import EXIT, STOP
from finsense.live.gate import Reason
from finsense.live.journal_format import Event, MomentRecord
from finsense.live.journal_proof import prove
from finsense.live.journal_reader import JournalReader
from finsense.live.rehearsal.booked import RISK_SYSTEM
from finsense.live.rehearsal.faults import GAP_NS, SKEWED_FOR_NS, Fault, Faults
from finsense.live.rehearsal.hours import Span
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.market.bars import INTERVAL_NS, Bar, Bars
from finsense.model.bundle import load_bundle

OVER, HALTED = 0, 8
# The loop's memory may grow by so much from the first half of a day to the second: a journal's pages and the trace of
# the day's bars are one or two MiB; a leak of a kilobyte per packet would be more.
GROWTH_BYTES = 4 << 20
_PAGE_BYTES = 4096
_COLUMNS = ("time_ns", "open", "high", "low", "close", "volume")
_SAMPLE_S = 0.2
_MOST_LIVES = 12
# At this speed real seconds are minutes of the market, and what it missed is no reason to stop trading.
_GATE = {"stale_s": 3600.0, "gap_bars": 75, "skew_s": 60.0, "tick_distance": 0.5}
# What the stream's loss, and nothing else, writes into the log.
_LOST_STREAM = "the tick stream is lost"
_LOSES_STREAM = (Fault.STREAM_SILENT, Fault.STREAM_DROPPED)


@dataclass(frozen=True)
class Plan:
    """What happens on a day.

    Attributes:
        date: the day.
        markets: bars of that day and of some before it.
        speed: times faster than real time.
        faults: clock time in India -> faults that strike at the next occasion from then on.
        on_orders: the same; they strike the next request about an order, and no reading.
        rates: chance of those drawn at random.
        halts: clock times between which the whole market stands still.
        outages: clock times between which the exchange cannot be reached.
        start: clock time at which the loop can come first; None: before the opening.
        gate: changed settings of the gate.
        ticks_per_bar: trades of the street that make one bar; large orders fill with them.
    """

    date: dt.date
    markets: Sequence[Bars]
    speed: float
    faults: tuple[tuple[str, Fault], ...] = ()
    on_orders: tuple[tuple[str, Fault], ...] = ()
    rates: dict[Fault, float] = field(default_factory=dict)
    halts: tuple[tuple[str, str], ...] = ()
    outages: tuple[tuple[str, str], ...] = ()
    start: str | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    ticks_per_bar: int = 12

    def spans(self, clocks: Sequence[tuple[str, str]]) -> tuple[Span, ...]:
        """Clock times as instants."""
        return tuple((at(begin, self.date), at(end, self.date)) for begin, end in clocks)


@dataclass
class Weather(Faults):
    """Faults that remember what they did.

    Attributes:
        doubts: spans (ns UTC) in which ticks and candles do not tell the same.
    """

    doubts: list[Span] = field(default_factory=list)
    _on_orders: deque[Fault] = field(default_factory=deque)

    def order_for_orders(self, fault: Fault) -> None:
        """Strike the next request about an order, whatever it asks."""
        self._on_orders.append(fault)

    def strike(self, *suitable: Fault) -> Fault | None:
        """See `Faults`; only a request about an order can be refused for its address."""
        if Fault.ADDRESS_REFUSED in suitable:
            for fault in self._on_orders:
                if fault in suitable:
                    self._on_orders.remove(fault)
                    self.struck[fault] += 1
                    return fault
        return super().strike(*suitable)

    def begin(self, fault: Fault, until_ns: int) -> None:
        """See `Faults`."""
        lasts_ns = {Fault.TICK_GAP: GAP_NS, Fault.CLOCK_SKEW: SKEWED_FOR_NS}[fault]
        self.doubts.append((until_ns - lasts_ns, until_ns))
        super().begin(fault, until_ns)


class Memory:
    """Samples the resident memory of a process in a thread of its own.

    Attributes:
        lives: bytes at every sample, one list per process.
    """

    def __init__(self) -> None:
        self.lives: list[list[int]] = []
        self._stop = threading.Event()
        self._pid = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def watch(self, pid: int) -> None:
        """Another process from here on."""
        self.lives.append([])
        self._pid = pid

    def close(self) -> None:
        """Sample no more."""
        self._stop.set()
        self._thread.join()

    def growth_bytes(self) -> int:
        """How much larger the median of the second half of the longest life is than that of the first."""
        longest = max(self.lives, key=len)
        half = len(longest) // 2
        return round(statistics.median(longest[half:]) - statistics.median(longest[:half]))

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            try:
                pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            if pages:
                self.lives[-1].append(pages * _PAGE_BYTES)


@dataclass
class Report:
    """What a day came to.

    Attributes:
        life: see there.
        alarms: kind -> how many are in the journal.
        halts: how often the loop stopped by itself and was started again.
        growth_bytes: of memory.
        day: what the end of the day found, as JSON values.
        refused: reason of the gate -> orders that did not leave.
    """

    life: Life
    alarms: Counter[str]
    halts: int
    growth_bytes: int
    day: dict[str, Any]
    refused: Counter[str]

    def text(self) -> str:
        """A line for the record."""
        struck = {fault.value: count for fault, count in sorted(self.life.struck.items())}
        return json.dumps(
            {
                "moments": self.life.recovered,
                "orders": self.life.orders,
                "fills": self.life.fills,
                "faults": struck,
                "alarms": self.alarms,
                "halts": self.halts,
                "refused": self.refused,
                "growth_kib": self.growth_bytes >> 10,
            }
        )


def live_through(folder: Path, bundle: Path, plan: Plan, seed: int) -> Report:
    """Let a loop live through a day, and start it again where it halts.

    Raises:
        AssertionError: something that must be true after a day is not.
    """
    weather = Weather(dict(plan.rates), np.random.default_rng(seed))
    rehearsal = stage(
        plan.markets,
        plan.date,
        speed=plan.speed,
        seed=seed,
        balance_paise=10**11,
        faults=weather,
        ticks_per_bar=plan.ticks_per_bar,
        halts=plan.spans(plan.halts),
        outages=plan.spans(plan.outages),
        start_ns=None if plan.start is None else at(plan.start, plan.date),
        waits=True,
    )
    for clock, fault in plan.faults:
        rehearsal.appoint(at(clock, plan.date), partial(weather.order, fault))
    for clock, fault in plan.on_orders:
        rehearsal.appoint(at(clock, plan.date), partial(weather.order_for_orders, fault))
    log = folder / "loop.log"
    memory = Memory()
    with rehearsal, _logged_in(rehearsal, folder) as token:
        symbols = [bars.symbol for bars in plan.markets]
        setup = write_setup(folder, bundle, symbols, rehearsal, gate={**_GATE, **plan.gate})
        nursery = Nursery(setup, token, log)
        try:
            ended = _live(nursery, memory, log)
        finally:
            nursery.close()
            memory.close()
        life = Life(ended=Counter(ended), struck=weather.struck)
        found = load_live(setup)
        doubtful = _doubtful(plan, weather, rehearsal)
        check_day(found, rehearsal, plan.date, life, doubtful)
        journal = found.journal("live")
        with JournalReader(journal) as reader:
            events, records = list(reader.events()), list(reader.records())
        assert prove(journal).remark == ""
        alarms = _check_alarms(events, records, rehearsal, weather)
    assert alarms["halt"] == life.ended[HALTED], "the loop halted without a word, or told of a halt that was none"
    assert log.read_text().count(_LOST_STREAM) >= sum(weather.struck[fault] for fault in _LOSES_STREAM)
    ordered = Counter(fault for _, fault in (*plan.faults, *plan.on_orders))
    missed = {fault.value: count for fault, count in ordered.items() if weather.struck[fault] < count}
    assert not missed, f"ordered faults found no occasion: {missed}"
    day = json.loads(log.with_suffix(".json").read_text())["day"]
    assert day["problems"] == []
    assert day["unbooked"] == 0
    return Report(life, alarms, life.ended[HALTED], memory.growth_bytes(), day, _refused(records))


def _live(nursery: Nursery, memory: Memory, log: Path) -> list[int]:
    """Start the loop until it comes to the end of its day; how it ended each time."""
    ended: list[int] = []
    while not ended or ended[-1] != OVER:
        memory.watch(nursery.start())
        ended.append(nursery.wait())
        tail = log.read_text()[-6000:]
        assert ended[-1] in (OVER, HALTED), f"the loop ended with {ended[-1]}:\n{tail}"
        assert len(ended) < _MOST_LIVES, f"the loop halts again and again:\n{tail}"
    return ended


@contextmanager
def _logged_in(rehearsal: Rehearsal, folder: Path) -> Iterator[Path]:
    token = folder / "token"
    logged_in = LoggedIn(rehearsal, token)
    try:
        yield token
    finally:
        logged_in.close()


def paper_day(folder: Path, bundle: Path, plan: Plan, *, kills: int, until: str, seed: int) -> Life:
    """Trade the rehearsal's ticks on paper, killed at random instants, and compare with a backtest of its candles.

    Raises:
        AssertionError: they are not the same to the bit.
    """
    weather, dice = Weather(dict(plan.rates), np.random.default_rng(seed)), random.Random(seed)
    rehearsal = stage(
        plan.markets,
        plan.date,
        speed=plan.speed,
        seed=seed,
        balance_paise=10**9,
        faults=weather,
        ticks_per_bar=8,
        start_ns=None if plan.start is None else at(plan.start, plan.date),
        waits=True,
    )
    (market,) = plan.markets
    log, life = folder / "loop.log", Life(struck=weather.struck)
    with rehearsal, _logged_in(rehearsal, folder) as token:
        # What is caught up after a restart comes at once.
        setup = write_setup(folder, bundle, [market.symbol], rehearsal, gate={**_GATE, "orders_per_second": 10})
        nursery = Nursery(setup, token, log, "paper")
        try:
            until_ns = at(until, plan.date)
            while one_life(nursery, rehearsal, life, dice, kills, until_ns, 2.5, log) != OVER:
                pass
        finally:
            nursery.close()
        found = load_live(setup)
        true = true_bars(found, rehearsal, plan.date)
        assert not rehearsal.exchange.orders, "a paper session has sent an order"
    journal = found.journal("paper")
    assert prove(journal).remark == ""
    with JournalReader(journal) as reader:
        records, before = list(reader.records()), reader.history()
    check_bars(records, true)
    assert not _refused(records)
    today = [moment.bars[market.symbol] for moment in true.values()]
    trace = _backtest(bundle, market, [*before[market.symbol], *today], plan.date)
    _check_same(records, trace)
    life.recovered, life.fills = len(records), len(trace.all_fills()[0])
    return life


def _backtest(folder: Path, market: Bars, bars: Sequence[Bar], date: dt.date) -> Trace:
    """The backtest of a day, its bars given after those before it."""
    bundle = load_bundle(folder)
    columns: dict[str, Any] = {name: np.array([getattr(bar, name) for bar in bars]) for name in _COLUMNS}
    whole = Bars(market.symbol, market.interval, **columns, derivatives=market.derivatives)
    return backtest("paper", bundle.policy, whole, setting_of(bundle), date, date).trace


def _check_same(records: Sequence[MomentRecord], trace: Trace) -> None:
    rows = [record.rows[0] for record in records]
    booked = [
        (fill.quantity, fill.price_paise) for record in records for some in record.fills.values() for fill in some
    ]
    assert [record.moment.time_ns for record in records] == trace.time_ns.tolist()
    assert b"".join(row.state for row in rows) == trace.states.tobytes()
    assert b"".join(row.mask for row in rows) == trace.masks.tobytes()
    assert [row.action for row in rows] == trace.actions.tolist()
    assert [row.order_quantity for row in rows] == trace.orders.tolist()
    assert [row.position for row in rows] == trace.position.tolist()
    assert [record.equity_paise for record in records] == trace.equity_paise.tolist()
    assert booked == [(quantity, price) for quantity, price, _ in trace.all_fills()[1].tolist()]


def _doubtful(plan: Plan, weather: Weather, rehearsal: Rehearsal) -> set[int]:
    """Starts of the bars that a span of doubt touches."""
    step_ns = INTERVAL_NS[plan.markets[0].interval]
    session = next(iter(rehearsal.sessions.values()))
    starts = [start for window in session.windows for start in range(*window, step_ns)]
    # A tick that was kept back or disbelieved shows in the bar of the next one too.
    return {
        start for begin, end in weather.doubts for start in starts if start < end + step_ns and begin < start + step_ns
    }


def _check_alarms(
    events: Sequence[Event], records: Sequence[MomentRecord], rehearsal: Rehearsal, weather: Weather
) -> Counter[str]:
    """Every alarm that should be raised was raised, and no other; what happened is counted, and not the alarms."""
    raised = Counter(event.body["kind"] for event in events if event.what == "alarm")
    booked = {tag: order for order in rehearsal.exchange.orders for tag in [order.request.tag]}
    legs = {event.tag: event.body["leg"] for event in events if event.what == "intent"}
    gone = {event.tag for event in events if event.what == "lost"} - set(booked)
    # At the door, or later in the book.
    rejected = sum(event.what == "seen" and event.body["status"] == "REJECTED" for event in events)
    refusals = sum(event.what == "refused" for event in events) + rejected
    squared = [order for order in rehearsal.exchange.orders if order.placed_by == RISK_SYSTEM]
    stops_refused = [order for tag, order in booked.items() if legs.get(tag) == STOP and order.status == "REJECTED"]
    exact = {
        # One that never arrived is looked for, halts the loop, and is given up when it starts again.
        "order_abandoned": len(gone),
        "order_refused": refusals,
        "stop_passed": sum(leg == EXIT for leg in legs.values()),
        "squared_off": len(squared),
    }
    assert {kind: raised[kind] for kind in exact} == exact
    at_least_once = {
        "token": weather.struck[Fault.TOKEN_EXPIRED] + weather.struck[Fault.STREAM_REFUSED],
        "order_unknown": len(gone),
        "halt": len(gone),
        "order stopped": sum(_refused(records).values()),
    }
    assert {kind: raised[kind] > 0 for kind in at_least_once} == {kind: why > 0 for kind, why in at_least_once.items()}
    assert raised["halt"] <= len(gone), "a halt that no order of unknown fate explains"
    perhaps = {
        "unprotected": len(stops_refused) + refusals,
        "stop_not_moved": weather.struck[Fault.ADDRESS_REFUSED],
    }
    for kind, why in perhaps.items():
        assert not raised[kind] or why, f"{kind}: {raised}"
    others = set(raised) - set(exact) - set(at_least_once) - set(perhaps)
    assert not others, f"nobody expected {[event.body for event in events if event.body.get('kind') in others]}"
    return raised


def _refused(records: Sequence[MomentRecord]) -> Counter[str]:
    """Reason of the gate -> orders that it stopped."""
    reasons = {reason.value for reason in Reason}
    texts = (row.refused.partition(":")[0] for record in records for row in record.rows if row.refused)
    return Counter(text for text in texts if text in reasons)
