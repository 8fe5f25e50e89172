"""A day of live trading in which the loop dies again and again, and what must be true at its end."""

import datetime as dt
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from finsense.account.joint import Choice, JointSession
from finsense.config.live import KiteBroker, LiveSetup, load_live
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.clock import clock_of
from finsense.live.feeds.kite_history import history
from finsense.live.journal_format import MomentRecord
from finsense.live.journal_reader import JournalReader
from finsense.live.rehearsal.booked import CLIENT, BookedOrder
from finsense.live.rehearsal.faults import Fault, Faults
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.market.bars import Bars, ist_text
from finsense.market.costs import order_charges
from finsense.market.instruments import instrument
from finsense.market.moments import Moment, moments
from finsense.model.bundle import load_bundle

NURSERY = Path(__file__).with_name("loop_nursery.py")
# Chance of each fault at each of its occasions. TICK_GAP is left to the whole days: no client can notice that ticks
# were swallowed while the stream lived, and the bars would differ from the exchange's.
RATES = {
    Fault.TOO_MANY_JSON: 0.01,
    Fault.TOO_MANY_HTML: 0.01,
    Fault.GATEWAY_PAGE: 0.01,
    Fault.TOKEN_EXPIRED: 0.001,
    Fault.HANG_AFTER_ACCEPTING: 0.01,
    Fault.ANSWER_LOST: 0.03,
    Fault.ANSWER_IS_GATEWAY_PAGE: 0.03,
    Fault.LATE_REJECTION: 0.03,
    Fault.PARTIAL_THEN_CANCEL: 0.05,
    Fault.CANCEL_LOSES_TO_FILL: 0.2,
    Fault.STREAM_SILENT: 0.0005,
    Fault.STREAM_DROPPED: 0.002,
    Fault.TICKS_REPEATED: 0.01,
    Fault.TICKS_OUT_OF_ORDER: 0.01,
    Fault.ODD_PACKET: 0.01,
    Fault.UPDATE_LOST: 0.1,
    Fault.SERVER_RESTART: 0.0005,
}
_POLL_S = 0.02
# Real seconds after which a loop that neither ends nor trades counts as hung.
_HUNG_S = 120.0


@dataclass
class Life:
    """How the lives of a day ended.

    Attributes:
        kills: by SIGKILL of ours.
        ended: exit code -> how often a loop ended by itself.
        struck: faults that struck.
        recovered: moments in the journal at the end.
        orders: orders of ours in the exchange's book.
        fills: their executions.
    """

    kills: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    struck: Counter[Fault] = field(default_factory=Counter)
    recovered: int = 0
    orders: int = 0
    fills: int = 0


class Nursery:
    """See `loop_nursery.py`."""

    def __init__(self, setup: Path, token: Path, log: Path, mode: str = "live") -> None:
        command = [sys.executable, str(NURSERY), str(setup), str(token), str(log), mode]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._answer() == "ready"

    def start(self) -> int:
        return int(self._ask("start"))

    def wait(self) -> int:
        return int(self._ask("wait"))

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def _ask(self, word: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the nursery died; see its log"
        return line


def write_setup(folder: Path, bundle: Path, symbols: Sequence[str], rehearsal: Rehearsal, **sections: Any) -> Path:
    """The YAML of a live setup against a rehearsal."""
    setup = {
        "name": "crash",
        "account": "crash",
        "bundle": str(bundle),
        "symbols": list(symbols),
        "home": str(folder / "home"),
        "feed": {"kind": "kite", "silence_s": 3.0},
        "broker": {
            "kind": "kite",
            "api_key": "rehearsalkey",
            "root": rehearsal.root,
            "stream_root": rehearsal.stream_root,
            "timeout_s": 1.0,
            "fate_s": 6.0,
        },
        "gate": {"stale_s": 600.0, "gap_bars": 75, "skew_s": 60.0, "tick_distance": 0.5},
        **sections,
    }
    path = folder / "live.yaml"
    path.write_text(yaml.safe_dump(setup))
    return path


class LoggedIn:
    """Logs in again whenever the login died, as its user would."""

    def __init__(self, rehearsal: Rehearsal, path: Path) -> None:
        self._rehearsal, self._path, self._stop = rehearsal, path, threading.Event()
        self._seen = -1
        self._look()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            self._look()

    def _look(self) -> None:
        struck = self._rehearsal.faults.struck
        deaths = struck[Fault.TOKEN_EXPIRED] + struck[Fault.STREAM_REFUSED]
        if deaths != self._seen:
            self._seen = deaths
            fresh = self._path.with_suffix(".new")
            fresh.write_text(self._rehearsal.log_in())
            os.replace(fresh, self._path)


def crash_day(
    folder: Path,
    bundle: Path,
    markets: Sequence[Bars],
    date: dt.date,
    *,
    speed: float,
    kills: int,
    until_ns: int,
    seed: int,
    long_life_s: float = 2.5,
    start_ns: int | None = None,
    rates: dict[Fault, float] | None = None,
    **sections: Any,
) -> Life:
    """Kill the loop at random instants until `until_ns` of the market or `kills`, then let it finish the day.

    Raises:
        AssertionError: something was lost, doubled, or differs.
    """
    dice = random.Random(seed)
    faults = Faults(RATES if rates is None else rates, np.random.default_rng(seed))
    life = Life()
    rehearsal = stage(
        markets, date, speed=speed, seed=seed, balance_paise=10**9, faults=faults, ticks_per_bar=8, start_ns=start_ns
    )
    log = folder / "loop.log"
    with rehearsal:
        token = folder / "token"
        logged_in = LoggedIn(rehearsal, token)
        setup = write_setup(folder, bundle, [bars.symbol for bars in markets], rehearsal, **sections)
        nursery = Nursery(setup, token, log)
        try:
            while one_life(nursery, rehearsal, life, dice, kills, until_ns, long_life_s, log) != 0:
                pass
        finally:
            nursery.close()
            logged_in.close()
        life.struck = faults.struck
        check_day(load_live(setup), rehearsal, date, life)
    return life


def one_life(
    nursery: Nursery,
    rehearsal: Rehearsal,
    life: Life,
    dice: random.Random,
    kills: int,
    until_ns: int,
    long_life_s: float,
    log: Path,
) -> int:
    """One life of the loop; how it ended."""
    pid = nursery.start()
    killable = life.kills < kills and rehearsal.clock.now_ns() < until_ns
    if killable:
        # Half of them die while they start and recover, half while they trade.
        time.sleep(dice.uniform(0.02, 1.0) if dice.random() < 0.5 else dice.expovariate(1.0 / long_life_s))
        life.kills += 1
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            life.kills -= 1
    code = nursery.wait()
    if code == -signal.SIGKILL:
        return code
    if killable:
        # It had ended by itself before the signal came.
        life.kills -= 1
    life.ended[code] += 1
    tail = log.read_text()[-4000:]
    assert code in (0, 7, 8), f"the loop ended with {code}:\n{tail}"
    assert sum(life.ended.values()) < 200, f"the loop ends again and again: {life.ended}\n{tail}"
    return code


def check_day(
    setup: LiveSetup, rehearsal: Rehearsal, date: dt.date, life: Life, doubtful: Collection[int] = ()
) -> None:
    """What must be true after a day, whatever happened in it.

    Args:
        setup: what ran.
        rehearsal: still open.
        date: the day.
        life: is told what was found.
        doubtful: starts of bars (ns UTC) for which the vendor's ticks and its candles do not tell the same.
    """
    with JournalReader(setup.journal("live")) as journal:
        assert journal.verify() > 0
        records, events, before = list(journal.records()), list(journal.events()), journal.history()
    exchange = rehearsal.exchange
    ours = [order for order in exchange.orders if order.placed_by == CLIENT]
    tags = Counter(order.request.tag for order in ours)
    assert not [tag for tag, count in tags.items() if count > 1], "an order was sent twice"
    intents = {event.tag for event in events if event.what == "intent"}
    assert set(tags) <= intents, "an order left before its intent was in the journal"
    _check_fates(intents, set(tags), events)
    _check_trades(records, exchange)
    _check_cash(records, exchange, setup, date)
    check_bars(records, true_bars(setup, rehearsal, date), doubtful)
    _check_decisions(setup, records, before)
    life.recovered, life.orders = len(records), len(ours)
    life.fills = len(exchange.executions)


def _check_fates(intents: set[str], booked: set[str], events: Sequence[Any]) -> None:
    """Every intent came to an end that the book confirms."""
    ends: dict[str, set[str]] = {}
    for event in events:
        ends.setdefault(event.tag, set()).add(event.what)
    for tag in intents - booked:
        assert ends[tag] & {"refused", "abandoned"}, f"the intent {tag} was lost: {sorted(ends[tag])}"
    for tag in intents & booked:
        assert not ends[tag] & {"abandoned"}, f"the order {tag} is in the book and was given up: {sorted(ends[tag])}"


def _check_trades(records: Sequence[MomentRecord], exchange: Any) -> None:
    """The journal's fills are the exchange's executions, each once."""
    journalled = sorted(
        (fill.trade, symbol, fill.quantity, fill.price_paise)
        for record in records
        for symbol, fills in record.fills.items()
        for fill in fills
    )
    executed = sorted(
        (
            one.trade_id,
            one.order.request.symbol,
            one.shares if one.order.request.side == "BUY" else -one.shares,
            one.price_paise,
        )
        for one in exchange.executions
    )
    assert journalled == executed


def _check_cash(records: Sequence[MomentRecord], exchange: Any, setup: LiveSetup, date: dt.date) -> None:
    """The account's cash is the balance less the value of the trades and the charges of each order, to the paisa."""
    manifest = load_bundle(setup.bundle).manifest
    rules = setup.account_rules(manifest.account)
    schedule = manifest.costs.schedules()[manifest.costs.schedule_index(date)]
    cash_paise = rules.balance_paise
    by_order: dict[str, tuple[BookedOrder, int]] = {}
    for one in exchange.executions:
        signed = one.shares if one.order.request.side == "BUY" else -one.shares
        cash_paise -= signed * one.price_paise
        _, value = by_order.get(one.order.order_id, (one.order, 0))
        by_order[one.order.order_id] = one.order, value + one.shares * one.price_paise
    for order, value_paise in by_order.values():
        side = 1 if order.request.side == "BUY" else -1
        cash_paise -= int(order_charges(schedule, rules.product == "intraday", side, value_paise))
    last = records[-1]
    assert last.cash_paise == cash_paise
    assert not any(row.position for row in last.rows), "an intraday account holds shares at the end of its day"
    assert last.equity_paise == cash_paise


def true_bars(setup: LiveSetup, rehearsal: Rehearsal, date: dt.date) -> dict[int, Moment]:
    """The day as the exchange's own candles have it, by start; our own trades are in them."""
    interval = load_bundle(setup.bundle).manifest.interval
    broker = setup.broker
    assert isinstance(broker, KiteBroker)
    with closing(RateLimits(setup.home / "check.db")) as limits:
        rest = KiteRest(broker.api_key, rehearsal.log_in(), limits, root=rehearsal.root)
        tokens = {symbol: street.listing.token for symbol, street in rehearsal.exchange.streets.items()}
        clock = clock_of(rehearsal.root)
        found = [
            history(rest, symbol, token, interval, date, date, clock=clock) for symbol, token in sorted(tokens.items())
        ]
        rest.close()
    return {moment.time_ns: moment for moment in moments(found)}


def check_bars(records: Sequence[MomentRecord], true: Mapping[int, Moment], doubtful: Collection[int] = ()) -> None:
    """The bars are those of the exchange's own candles: none is missing, and none was invented."""
    times = {record.moment.time_ns for record in records}
    assert times - set(doubtful) == set(true) - set(doubtful), "a bar is missing, or was invented"
    assert times <= set(true)
    for record in records:
        time_ns = record.moment.time_ns
        if time_ns in doubtful:
            continue
        assert set(record.moment.bars) == set(true[time_ns].bars), ist_text(time_ns)
        for symbol, bar in record.moment.bars.items():
            assert bar[:6] == true[time_ns].bars[symbol][:6], f"{symbol} {ist_text(time_ns)}"


def _check_decisions(setup: LiveSetup, records: Sequence[MomentRecord], before: Any) -> None:
    """States, masks, actions and books are those of a session that nobody disturbed, given the same bars and fills."""
    bundle = load_bundle(setup.bundle)
    manifest = bundle.manifest
    stocks = [instrument(symbol, derivatives=manifest.derivatives) for symbol in setup.ordered_symbols]
    rules = setup.account_rules(manifest.account)
    session = JointSession(stocks, manifest.interval, manifest.state, rules, manifest.costs)
    for symbol, bars in before.items():
        for bar in bars:
            session.warm(symbol, bar)
    policies = {symbol: bundle.policy.begin() for symbol in session.symbols}
    assert [record.moment.time_ns for record in records] == sorted({record.moment.time_ns for record in records})
    for record in records:
        session.settle(record.fills)
        seen = session.observe(record.moment)
        choices = {}
        for row in record.rows:
            one = seen[row.symbol]
            assert one.state.tobytes() == row.state
            assert one.mask.tobytes() == row.mask
            policies[row.symbol].learn(record.moment.bars[row.symbol])
            decision = policies[row.symbol].act(one.state, one.mask)
            assert decision.action == row.action
            choices[row.symbol] = Choice(decision.action, float(decision.probabilities[decision.action]))
        session.order(choices)
        books = session.books()
        assert (books.cash_paise, books.equity_paise) == (record.cash_paise, record.equity_paise)


def as_json(life: Life) -> str:
    """A line for the record."""
    return json.dumps(
        {
            "kills": life.kills,
            "ended": {str(code): count for code, count in life.ended.items()},
            "moments": life.recovered,
            "orders": life.orders,
            "fills": life.fills,
            "faults": {fault.value: count for fault, count in sorted(life.struck.items())},
        }
    )
