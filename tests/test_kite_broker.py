"""The Kite broker against the rehearsal: every fault on every kind of order, and the books are equal after it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from kite_stage import Trader
from rehearsals import SECOND_NS, buy, rehearsal

from finsense.account.session import Order
from finsense.live.brokers.errors import BooksDiffer, HaltTrading, TransientRead
from finsense.live.order_style import OrderStyle
from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import RISK_SYSTEM, BookedOrder
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.rehearsal.street import Level


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal() as opened:
        opened.play(20)
        yield opened


@pytest.fixture
def trader(stage: Rehearsal, tmp_path: Path) -> Iterator[Trader]:
    one = Trader(stage, tmp_path).start()
    yield one
    one.end()


def test_an_order_fills_and_the_account_books_it(trader: Trader) -> None:
    assert trader.bar({"INFY": 10, "TCS": -5}) == {}
    fills = trader.bar()
    assert {symbol: sum(one.quantity for one in some) for symbol, some in fills.items()} == {"INFY": 10, "TCS": -5}
    assert {one.order for one in fills["INFY"]} == {1}
    assert {one.order for one in fills["TCS"]} == {2}
    assert trader.bar() == {}
    trader.sound()


@pytest.mark.parametrize(
    "fault", [Fault.HANG_AFTER_ACCEPTING, Fault.ANSWER_LOST, Fault.ANSWER_IS_GATEWAY_PAGE], ids=str
)
def test_an_order_whose_answer_is_lost_is_found_and_not_sent_again(trader: Trader, fault: Fault) -> None:
    trader.at_submit = [fault]
    trader.bar({"INFY": 10})
    assert trader.stage.rest.posted == 1
    assert sum(one.quantity for one in trader.bar()["INFY"]) == 10
    trader.sound()


@pytest.mark.parametrize("fault", [Fault.GATEWAY_PAGE, Fault.TOO_MANY_HTML], ids=str)
def test_an_order_that_never_arrived_halts_and_is_abandoned_after_a_restart(trader: Trader, fault: Fault) -> None:
    trader.at_submit = [fault]
    with pytest.raises(HaltTrading, match=r"unknown after 0\.6 s"):
        trader.bar({"INFY": 10})
    assert "order_unknown" in trader.alarms
    trader.broker.stop_all(False)
    trader.again()
    assert "order_abandoned" in trader.alarms
    assert trader.bar({"INFY": 3}) == {}
    assert sum(one.quantity for one in trader.bar()["INFY"]) == 3
    assert trader.stage.rest.posted == 1
    trader.sound()


def test_too_many_requests_are_sent_again_while_the_bar_is_young(trader: Trader) -> None:
    trader.at_submit = [Fault.TOO_MANY_JSON, Fault.TOO_MANY_JSON]
    trader.bar({"INFY": 10})
    assert trader.stage.rest.posted == 1
    assert [event.what for event in trader.journal.events()].count("delayed") == 2
    assert sum(one.quantity for one in trader.bar()["INFY"]) == 10
    trader.sound()


def test_a_dead_token_is_waited_for(stage: Rehearsal, tmp_path: Path) -> None:
    def renew() -> None:
        logged_out.token = stage.log_in()
        logged_out.rest.use_token(logged_out.token)

    trader = logged_out = Trader(stage, tmp_path, renew=renew).start()
    trader.at_submit = [Fault.TOKEN_EXPIRED]
    trader.bar({"INFY": 10})
    stage.faults.order(Fault.TOKEN_EXPIRED)
    assert sum(one.quantity for one in trader.bar()["INFY"]) == 10
    assert trader.alarms.count("token") == 2
    trader.sound()
    trader.end()


def test_a_dead_token_that_nobody_renews_halts(trader: Trader) -> None:
    trader.at_submit = [Fault.TOKEN_EXPIRED]
    with pytest.raises(HaltTrading, match="access token is dead"):
        trader.bar({"INFY": 10})
    assert trader.stage.exchange.orders == []


def test_a_refused_order_is_over_and_told(trader: Trader) -> None:
    trader.at_submit = [Fault.ADDRESS_REFUSED]
    trader.bar({"INFY": 10})
    assert trader.alarms == ["order_refused"]
    assert trader.bar() == {}
    trader.sound()


def test_a_rejection_that_comes_later_fills_nothing(stage: Rehearsal, tmp_path: Path) -> None:
    trader = Trader(stage, tmp_path, style=OrderStyle("MIS", band_ppm=1000)).start()
    stage.call(lambda: stage.exchange.streets["INFY"].asks.clear())
    stage.faults.order(Fault.LATE_REJECTION)
    trader.bar({"INFY": 10})
    _until(lambda: stage.exchange.orders[0].status == "REJECTED")
    assert trader.bar() == {}
    trader.sound()
    trader.end()


@pytest.mark.parametrize("fault", [None, Fault.CANCEL_LOSES_TO_FILL, Fault.ANSWER_LOST, Fault.GATEWAY_PAGE], ids=str)
def test_what_is_open_at_the_next_bar_is_cancelled_or_filled_first(
    stage: Rehearsal, tmp_path: Path, fault: Fault | None
) -> None:
    """A limit order within 0.1 % of the close, in a market that ran away, filled in part."""
    trader = Trader(stage, tmp_path, style=OrderStyle("MIS", band_ppm=1000)).start()
    close = stage.exchange.streets["INFY"].last_paise
    stage.call(lambda: _only_ask(stage, close, 4))
    trader.bar({"INFY": 10})
    (order,) = stage.exchange.orders
    assert (order.status, order.filled) == ("OPEN", 4)
    assert order.request.price_paise == (close + close // 1000) // 10 * 10
    book_read = trader.broker.desk.read_book

    def strike() -> None:
        book_read()
        trader.broker.desk.read_book = book_read  # type: ignore[method-assign]
        if fault is not None:
            stage.faults.order(fault)

    trader.broker.desk.read_book = strike  # type: ignore[assignment, method-assign]
    fills = trader.bar()["INFY"]
    whole = fault is Fault.CANCEL_LOSES_TO_FILL
    assert sum(one.quantity for one in fills) == (10 if whole else 4)
    assert {one.order for one in fills} == {1}
    assert order.status == ("COMPLETE" if whole else "CANCELLED")
    assert trader.bar() == {}
    trader.sound()
    trader.end()


def test_an_order_that_fills_in_part_and_is_cancelled_by_others(stage: Rehearsal, tmp_path: Path) -> None:
    trader = Trader(stage, tmp_path, style=OrderStyle("MIS", band_ppm=1000)).start()
    stage.call(lambda: _only_ask(stage, stage.exchange.streets["INFY"].last_paise, 4))
    stage.faults.order(Fault.PARTIAL_THEN_CANCEL)
    trader.bar({"INFY": 10})
    _until(lambda: stage.exchange.orders[0].status == "CANCELLED")
    assert 4 <= sum(one.quantity for one in trader.bar()["INFY"]) == stage.exchange.orders[0].filled <= 5
    trader.sound()
    trader.end()


def test_a_stop_rests_as_soon_as_its_entry_filled_and_moves_and_goes(trader: Trader) -> None:
    trader.bar({"INFY": 10}, stop_ppm=20_000)
    _look(trader)
    (stop,) = _stops(trader)
    entry = sum(one.shares * one.price_paise for one in trader.stage.exchange.executions) // 10
    assert stop.request.trigger_paise == entry * 98 // 100 // 10 * 10
    assert (stop.request.side, stop.request.quantity, stop.request.kind) == ("SELL", 10, "SL-M")
    assert stop.request.market_protection == -1
    trader.bar(stops={"INFY": 148_005})
    assert stop.request.trigger_paise == 148_000
    assert (stop.changed, stop.status) == (1, "TRIGGER PENDING")
    _look(trader)
    assert stop.changed == 1
    trader.bar()
    assert stop.status == "CANCELLED"
    assert _stops(trader) == []
    trader.sound()


def test_a_stop_is_changed_25_times_and_then_placed_anew(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    for step in range(27):
        trader.bar(stops={"INFY": 140_000 + 100 * step})
    (stop,) = _stops(trader)
    assert (stop.request.trigger_paise, stop.changed) == (142_600, 0)
    first = next(one for one in trader.stage.exchange.orders if one.request.kind == "SL-M")
    assert (first.changed, first.status) == (25, "CANCELLED")
    trader.sound()


def test_a_stop_follows_the_size_of_the_position(trader: Trader) -> None:
    trader.bar({"INFY": 10}, stop_ppm=20_000)
    _look(trader)
    trader.bar({"INFY": 5}, stops={"INFY": 147_000})
    _look(trader)
    assert [one.request.quantity for one in _stops(trader)] == [15]
    trader.bar({"INFY": -6}, stops={"INFY": 147_000})
    _look(trader)
    assert [one.request.quantity for one in _stops(trader)] == [9]
    trader.bar(stops={"INFY": 147_000})
    assert trader.positions["INFY"] == 9
    trader.sound()


def test_a_stop_that_fires_is_booked_and_the_exit_does_not_sell_again(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    trader.bar(stops={"INFY": 147_000})
    _trade(trader.stage, 146_900)
    assert trader.exchange["INFY"] == 0
    # The loop has not heard of it, and leaves.
    trader.broker.desk.read_book = _once_later(trader.broker.desk, trader.broker.desk.read_book)  # type: ignore[method-assign]
    trader.time_ns += 1
    trader.broker.submit({"INFY": Order(trader.time_ns, -10)})
    assert trader.exchange["INFY"] == 0
    assert sum(one.quantity for one in trader.bar()["INFY"]) == -10
    assert trader.positions["INFY"] == 0
    trader.sound()


def test_a_stop_that_fills_while_it_is_cancelled_for_an_exit_leaves_nothing_to_sell(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    trader.bar(stops={"INFY": 147_000})
    (stop,) = _stops(trader)
    stop.triggered = True
    trader.at_submit = [Fault.CANCEL_LOSES_TO_FILL]
    trader.stage.exchange.streets["INFY"].last_paise -= 10
    trader.bar({"INFY": -10}, stops={"INFY": 147_000})
    trader.bar()
    assert trader.exchange["INFY"] == trader.positions["INFY"] == 0
    assert "not_sent" in [event.what for event in trader.journal.events()]
    trader.sound()


def test_where_sl_m_is_refused_an_sl_rests(trader: Trader) -> None:
    objection = trader.stage.exchange.objection

    def blocked(request: OrderRequest) -> str:
        return "SL-M orders are blocked" if request.kind == "SL-M" else objection(request)

    trader.stage.exchange.objection = blocked  # type: ignore[method-assign]
    trader.bar({"INFY": 10}, stop_ppm=20_000)
    for _ in range(3):
        _look(trader)
    (stop,) = _stops(trader)
    assert (stop.request.kind, stop.request.price_paise) == (
        "SL",
        -(-(stop.request.trigger_paise or 0) * 98 // 1000) * 10,
    )
    assert [one.request.kind for one in trader.stage.exchange.orders] == ["MARKET", "SL-M", "SL"]
    trader.sound()


def test_a_position_that_cannot_be_protected_is_told_once(trader: Trader) -> None:
    def blocked(request: OrderRequest) -> str:
        return "no stops today" if request.trigger_paise else ""

    trader.stage.exchange.objection = blocked  # type: ignore[method-assign]
    trader.bar({"INFY": 10}, stop_ppm=20_000)
    for _ in range(5):
        _look(trader)
    assert trader.alarms.count("unprotected") == 1
    assert len(trader.stage.exchange.orders) == 3


def test_a_stop_that_the_close_passed_leaves_at_the_market(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    trader.bar(stops={"INFY": 151_000})
    assert "stop_passed" in trader.alarms
    assert sum(one.quantity for one in trader.bar()["INFY"]) == -10
    assert trader.exchange["INFY"] == 0
    trader.sound()


def test_an_order_of_another_program_on_our_shares_stops_trading(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    trader.rest.place(buy("hand1", 3))
    with pytest.raises(BooksDiffer, match=r"INFY +\+10 +\+13 +\+3 +26") as raised:
        trader.bar()
    assert "reconcile" in str(raised.value)


def test_orders_elsewhere_are_told_once(trader: Trader) -> None:
    trader.rest.place(buy("hand1", 3, product="CNC"))
    for _ in range(3):
        trader.bar({"TCS": 1})
    assert trader.alarms == ["other_order"]
    trader.again()
    trader.bar()
    assert trader.alarms == ["other_order"]


def test_the_brokers_own_square_off_is_booked_and_told(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    trader.bar(stops={"INFY": 147_000})
    hour = 3_600 * SECOND_NS
    trader.stage.call(lambda: trader.stage.clock.set(trader.stage.clock.now_ns() + 5 * hour + hour // 2 + hour // 4))

    exchange = trader.stage.exchange
    closing = buy("untagged", 10, side="SELL")
    trader.stage.call(lambda: exchange.place(closing, placed_by=RISK_SYSTEM, tagged=False))
    fills = trader.bar()["INFY"]
    assert sum(one.quantity for one in fills) == -10
    assert "squared_off" in trader.alarms
    assert trader.positions["INFY"] == 0
    assert _stops(trader) == []


def test_an_order_that_counted_as_never_sent_is_cancelled_when_it_turns_up(stage: Rehearsal, tmp_path: Path) -> None:
    trader = Trader(stage, tmp_path).start()
    trader.at_submit = [Fault.GATEWAY_PAGE]
    with pytest.raises(HaltTrading):
        trader.bar({"INFY": 10})
    trader.again()
    (lost,) = trader.broker.desk.books.orders.values()
    late = buy(lost.tag, 10, kind="LIMIT", price_paise=149_000)
    stage.call(lambda: stage.exchange.place(late))
    with pytest.raises(HaltTrading, match="counted as never sent"):
        trader.bar()
    assert "order_appeared" in trader.alarms
    assert stage.exchange.orders[0].status == "CANCELLED"
    trader.again()
    assert trader.bar() == {}
    trader.sound()
    trader.end()


def test_no_answer_is_not_flat(trader: Trader) -> None:
    trader.bar({"INFY": 10})
    trader.stage.faults.rates[Fault.GATEWAY_PAGE] = 1.0
    with pytest.raises(TransientRead):
        trader.broker.account()
    with pytest.raises(TransientRead):
        trader.bar()
    trader.broker.look()
    trader.stage.faults.rates.clear()
    assert sum(one.quantity for one in trader.bar()["INFY"]) == 10


@pytest.mark.parametrize("flatten", [False, True])
def test_the_kill_switch_cancels_and_closes(stage: Rehearsal, tmp_path: Path, flatten: bool) -> None:
    trader = Trader(stage, tmp_path, style=OrderStyle("MIS", band_ppm=1000)).start()
    trader.bar({"INFY": 10})
    stage.call(lambda: stage.exchange.streets["TCS"].asks.clear())
    trader.bar({"TCS": 5}, stops={"INFY": 147_000})
    trader.broker.stop_all(flatten)
    kept = [one.request.kind for one in stage.exchange.orders if one.working]
    assert kept == ([] if flatten else ["SL-M"])
    assert trader.exchange == {"INFY": 0 if flatten else 10, "TCS": 0}
    trader.bar()
    trader.sound()
    trader.end()


def test_order_updates_are_hints(trader: Trader) -> None:
    trader.bar({"INFY": 10}, stop_ppm=20_000)
    trader.broker.on_order_update({"status": "COMPLETE", "order_id": "1", "filled_quantity": 99})
    trader.broker.look()
    assert len(_stops(trader)) == 1
    trader.sound()


def _look(trader: Trader) -> None:
    trader.broker.on_order_update({})
    trader.broker.look()


def _stops(trader: Trader) -> list[BookedOrder]:
    return [one for one in trader.stage.exchange.orders if one.request.trigger_paise and one.working]


def _trade(stage: Rehearsal, price_paise: int) -> None:
    stage.call(lambda: stage.exchange.trade("INFY", price_paise, 5000))


def _only_ask(stage: Rehearsal, price_paise: int, shares: int) -> None:
    stage.exchange.streets["INFY"].asks[:] = [Level(price_paise, shares)]


def _once_later(desk: Any, read: Any) -> Any:
    """The next reading of the book is the real one."""

    def again() -> None:
        desk.read_book = read
        read()

    return again


def _until(true: Any) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")
