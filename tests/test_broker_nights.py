"""The Kite broker over nights, closed markets and senseless answers: no position is left without its stop unsaid."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from kite_stage import StageClock, Trader
from rehearsals import SECOND_NS, rehearsal

from finsense.live.brokers.errors import HaltTrading
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.server import Rehearsal

HOUR_NS = 3600 * SECOND_NS
STOP_PAISE = 140_000


@pytest.fixture
def trader(tmp_path: Path) -> Iterator[Trader]:
    with rehearsal() as stage:
        stage.play(20)
        one = Trader(stage, tmp_path).start()
        yield one
        one.end()


@pytest.fixture
def protected(trader: Trader) -> Trader:
    """Ten shares with their stop."""
    trader.bar({"INFY": 10}, stop_ppm=10_000)
    trader.bar({}, {"INFY": STOP_PAISE})
    assert resting(trader.stage) == 1
    return trader


def resting(stage: Rehearsal) -> int:
    """Stops in the exchange's book."""
    return stage.call(lambda: sum(one.status == "TRIGGER PENDING" for one in stage.exchange.orders))


def look(trader: Trader) -> None:
    """The next time at which the broker looks."""
    trader.broker.on_order_update({})
    trader.broker.look()


def test_a_stop_of_yesterday_does_not_count_as_resting(protected: Trader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was begun in the evening goes on after the broker's book has been emptied over night."""
    today = StageClock.now_ns
    monkeypatch.setattr(StageClock, "now_ns", lambda clock: today(clock) + 24 * HOUR_NS)
    look(protected)
    assert resting(protected.stage) == 1, "the book of yesterday still stands"
    protected.stage.call(protected.stage.exchange.orders.clear)
    look(protected)
    assert resting(protected.stage) == 1
    assert "expired" in [event.what for event in protected.journal.events()]
    assert protected.alarms == []


def test_a_stop_is_placed_at_the_opening_and_not_before(protected: Trader) -> None:
    stage = protected.stage
    open_ns = stage.clock.now_ns()
    stop = stage.exchange.orders[-1].order_id
    stage.call(lambda: stage.exchange.cancel(stop))
    stage.call(lambda: stage.clock.set(open_ns + 10 * HOUR_NS))
    sent = stage.rest.posted
    look(protected)
    look(protected)
    assert (stage.rest.posted, protected.alarms) == (sent, [])
    stage.call(lambda: stage.clock.set(open_ns))
    look(protected)
    assert resting(stage) == 1


def test_one_senseless_answer_between_bars_stops_nothing(trader: Trader) -> None:
    trader.bar({"INFY": 10}, stop_ppm=10_000)
    answers = senseless(trader, 2)
    look(trader)
    look(trader)
    look(trader)
    assert (answers, resting(trader.stage), trader.alarms) == ([], 1, [])


def test_senseless_answers_halt(trader: Trader) -> None:
    senseless(trader, 3)
    look(trader)
    look(trader)
    with pytest.raises(HaltTrading, match="makes no sense"):
        look(trader)
    assert trader.alarms == ["protocol"]


def test_shares_that_a_lost_exit_leaves_bare_are_told_of(protected: Trader) -> None:
    place = protected.rest.place

    def lost(request: Any) -> str:
        protected.stage.faults.order(Fault.GATEWAY_PAGE)
        return place(request)

    protected.rest.place = lost  # type: ignore[method-assign]
    with pytest.raises(HaltTrading, match="unknown"):
        protected.bar({"INFY": -10}, {"INFY": STOP_PAISE})
    protected.broker.stop_all(False)
    assert (resting(protected.stage), protected.alarms) == (0, ["order_unknown", "unprotected"])


def senseless(trader: Trader, count: int) -> list[None]:
    """Let the vendor's client give nothing so many times where it should give the book."""
    answers: list[None] = [None] * count
    orders = trader.rest._client.orders
    trader.rest._client.orders = lambda: answers.pop() if answers else orders()
    return answers
