"""The order desk: what it knows is in the journal, and random faults and crashes neither double nor lose an order."""

import re
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from kite_stage import QUICK, Trader
from rehearsals import buy, rehearsal

from finsense.live.brokers.errors import HaltTrading, TransientRead
from finsense.live.desk_books import DeskBooks
from finsense.live.desk_records import intended, intent_body
from finsense.live.journal_reader import JournalReader
from finsense.live.order_style import OrderStyle
from finsense.live.orders import OrderError, OrderRequest, OrderRow, OrderState, TrackedOrder, tag_of
from finsense.live.rehearsal.faults import Fault

WEATHER = {
    Fault.TOO_MANY_JSON: 0.05,
    Fault.GATEWAY_PAGE: 0.01,
    Fault.TOO_MANY_HTML: 0.01,
    Fault.TOKEN_EXPIRED: 0.01,
    Fault.ADDRESS_REFUSED: 0.01,
    Fault.SERVER_RESTART: 0.01,
    Fault.HANG_AFTER_ACCEPTING: 0.03,
    Fault.ANSWER_LOST: 0.05,
    Fault.ANSWER_IS_GATEWAY_PAGE: 0.05,
    Fault.LATE_REJECTION: 0.1,
    Fault.PARTIAL_THEN_CANCEL: 0.1,
    Fault.CANCEL_LOSES_TO_FILL: 0.3,
}


class Crash(BaseException):
    """The process dies here."""


class Step(NamedTuple):
    """A bar of a random day: what is ordered, how far the stops lie, when the process dies, what the street does."""

    infy: int
    tcs: int
    stop_ppm: int
    dies_after: int
    plays: int
    looks: int


STEPS = st.lists(
    st.builds(
        Step,
        infy=st.integers(-15, 15),
        tcs=st.integers(-15, 15),
        stop_ppm=st.sampled_from([0, 300, 2_000]),
        dies_after=st.integers(0, 40),
        plays=st.integers(0, 6),
        looks=st.integers(0, 2),
    ),
    min_size=4,
    max_size=10,
)


def day(steps: list[Step], seed: int, style: OrderStyle, folder: Path) -> None:
    """Trade through the steps in bad weather; at the end, in good weather, all books must be equal."""
    with rehearsal(seed) as stage:
        stage.play(20)
        stage.faults.rates.update(WEATHER)

        def renew() -> None:
            trader.token = stage.log_in()
            trader.rest.use_token(trader.token)

        trader = Trader(stage, folder, style=style, renew=renew)
        _revive(trader)
        for step in steps:
            _mortal(trader, step.dies_after)
            try:
                _bar(trader, step)
            except HaltTrading:
                _stop(trader)
            except (Crash, TransientRead):
                _revive(trader)
            stage.play(step.plays)
        trader.point = lambda: None
        stage.faults.rates.clear()
        trader.again()
        trader.bar()
        trader.sound()
        assert trader.positions == trader.exchange
        _same_from_disk(trader)
        trader.end()


def _bar(trader: Trader, step: Step) -> None:
    held = trader.positions
    last = {symbol: street.last_paise for symbol, street in trader.stage.exchange.streets.items()}
    stops = {
        symbol: last[symbol] - (1 if shares > 0 else -1) * last[symbol] * step.stop_ppm // 1_000_000
        for symbol, shares in held.items()
        if shares and step.stop_ppm
    }
    orders = {symbol: shares for symbol, shares in (("INFY", step.infy), ("TCS", step.tcs)) if shares}
    trader.bar(orders, stops, stop_ppm=step.stop_ppm)
    for _ in range(step.looks):
        trader.broker.on_order_update({})
        trader.broker.look()


def _mortal(trader: Trader, dies_after: int) -> None:
    """Die at the so-manieth place; 0: live on."""
    left = dies_after

    def point() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash

    trader.point = point


def _stop(trader: Trader) -> None:
    """What the loop does at the end of its trading, and what the user does then."""
    with suppress(Crash, HaltTrading, TransientRead):
        trader.broker.stop_all(False)
    _revive(trader)


def _revive(trader: Trader) -> None:
    for _ in range(20):
        try:
            trader.again()
            return
        except (Crash, HaltTrading, TransientRead):
            continue
    pytest.fail("it does not come up again")


def _same_from_disk(trader: Trader) -> None:
    """What the journal makes of itself is what the desk knows."""
    known = trader.broker.desk.books
    read = DeskBooks(trader.journal, lambda: 0)
    assert list(read.orders.values()) == list(known.orders.values())
    assert (read.trades, read.last_number) == (known.trades, known.last_number)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, seed=st.integers(0, 1000), band=st.sampled_from([None, 200]))
def test_random_faults_and_crashes_neither_double_nor_lose_an_order(
    steps: list[Step], seed: int, band: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        day(steps, seed, OrderStyle("MIS", band_ppm=band), Path(folder))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, seed=st.integers(0, 10**6), band=st.sampled_from([None, 200]))
def test_the_same_at_length(steps: list[Step], seed: int, band: int | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        day(steps, seed, OrderStyle("MIS", band_ppm=band), Path(folder))


def test_an_intent_is_sent_once(tmp_path: Path) -> None:
    with rehearsal() as stage:
        stage.play(20)
        trader = Trader(stage, tmp_path).start()
        trader.broker.desk.post(buy("fs1"), "bar")
        with pytest.raises(OrderError, match="was sent before"):
            trader.broker.desk.post(buy("fs1"), "bar")
        trader.again()
        with pytest.raises(OrderError, match="was sent before"):
            trader.broker.desk.post(buy("fs1"), "bar")
        assert stage.rest.posted == 1
        trader.end()


def test_an_order_that_arrives_while_it_is_looked_for_is_adopted(tmp_path: Path) -> None:
    """The process died with the request under way, and the broker took it a moment after the restart."""
    with rehearsal() as stage:
        stage.play(20)
        trader = Trader(stage, tmp_path).start()
        request = buy("fs1")
        trader.broker.desk.books.note("fs1", "intent", intent_body(request, "bar", 1))
        trader.end()
        arriving = threading.Timer(0.2, lambda: stage.call(lambda: stage.exchange.place(request)))
        arriving.start()
        trader.start()
        arriving.join()
        assert trader.alarms == []
        assert sum(one.quantity for one in trader.bar()["INFY"]) == 10
        trader.sound()
        trader.end()


def test_the_intent_is_on_disk_before_the_order_leaves(tmp_path: Path) -> None:
    with rehearsal() as stage:
        stage.play(20)
        trader = Trader(stage, tmp_path).start()
        place = trader.rest.place
        found: list[list[str]] = []

        def watched(request: OrderRequest) -> str:
            with closing(JournalReader(trader.path)) as reader:
                found.append([event.what for event in reader.events() if event.tag == request.tag])
                (event,) = [event for event in reader.events() if event.tag == request.tag]
                assert intended(event).request == request
            return place(request)

        trader.rest.place = watched  # type: ignore[method-assign]
        trader.bar({"INFY": 10})
        assert found == [["intent"]]
        trader.end()


def test_what_was_read_between_bars_is_not_read_again_at_the_close(tmp_path: Path) -> None:
    with rehearsal() as stage:
        stage.play(20)
        trader = Trader(stage, tmp_path, patience=QUICK._replace(fresh_s=30.0)).start()
        trader.bar({"INFY": 10})
        assert [one.quantity for one in trader.bar(stops={"INFY": 140_000})["INFY"]] == [10]
        trader.broker.on_order_update({})
        trader.broker.look()
        asked: list[str] = []
        ask = trader.rest._ask

        def counted(endpoint: str, writes: bool, shaped: Any, call: Any, *args: Any, **options: Any) -> Any:
            asked.append(call.__name__)
            return ask(endpoint, writes, shaped, call, *args, **options)

        trader.rest._ask = counted  # type: ignore[method-assign]
        trader.bar({"TCS": 1}, stops={"INFY": 140_000})
        assert asked == ["place_order"]
        # The stream tells of the stop that fired, so the book is read.
        stage.call(lambda: stage.exchange.trade("INFY", 139_000, 5_000))
        trader.broker.on_order_update({})
        assert [one.quantity for one in trader.bar()["INFY"]] == [-10]
        trader.sound()
        trader.end()


@given(time_ns=st.integers(0, 2**62), symbol=st.sampled_from(["INFY", "M&M", "BAJAJ-AUTO"]), leg=st.text(max_size=5))
def test_a_tag_is_what_kite_takes_and_depends_on_every_part(time_ns: int, symbol: str, leg: str) -> None:
    tag = tag_of("one", time_ns, symbol, leg)
    assert re.fullmatch(r"[a-z0-9]{20}", tag)
    assert tag == tag_of("one", time_ns, symbol, leg)
    others = {
        tag_of("two", time_ns, symbol, leg),
        tag_of("one", time_ns + 1, symbol, leg),
        tag_of("one", time_ns, symbol + "X", leg),
        tag_of("one", time_ns, symbol, leg + "x"),
    }
    assert len(others | {tag}) == 5


def test_only_the_prices_of_a_working_order_change() -> None:
    stop = buy(kind="SL-M", trigger_paise=149_000)
    order = TrackedOrder(stop)
    with pytest.raises(OrderError, match="to be working, found intended"):
        order.modified(replace(stop, trigger_paise=149_100))
    order = order.accepted("26")
    moved = order.modified(replace(stop, trigger_paise=149_100))
    assert (moved.request.trigger_paise, moved.changes) == (149_100, 1)
    with pytest.raises(OrderError, match="prices alone"):
        order.modified(replace(stop, quantity=11))
    # Whether the change was made, the book knows.
    row = OrderRow("26", ("mktp", stop.tag), "INFY", "BUY", 10, 0, "TRIGGER PENDING", "", "MIS", 149_000)
    assert moved.seen(row).request.trigger_paise == 149_000
    with pytest.raises(OrderError, match="to be intended or unknown, found working"):
        order.abandoned("late")
    assert order.expired().state is OrderState.CANCELLED
    assert TrackedOrder(stop).lost().abandoned("not there").state is OrderState.REJECTED
