"""The account's own exits: the stop that rests at the exchange, the trailing stop, the profit taken, the time over."""

from typing import Any

import pytest
from pydantic import ValidationError
from trading_desks import SESSION_BARS, Desk, desk_rules

from finsense.account.exits import Exits
from finsense.account.rules import BUY, HOLD, SELL
from finsense.account.session import Fill
from finsense.account.stops import protective_stop_paise

TARGETS = {"scheme": "targets", "targets": [-1, -0.5, 0, 0.5, 1]}
SHORT, FLAT, LONG = 0, 2, 4


def desk(product: str = "delivery", actions: Any = None, exits: Any = None, **changes: Any) -> Desk:
    """A desk with exits; without others, a stop of 2 %."""
    short = {"allow_short": True} if product == "intraday" else {}
    return Desk(desk_rules(product, actions, exits=exits or {"stop_loss": 0.02}, **short, **changes))


def long_desk(**changes: Any) -> Desk:
    """A desk that bought 100 shares at 100 rupees."""
    found = desk(**changes).bar()
    found.buy()
    return found.bar()


def test_the_stop_rests_below_the_fill_and_fills_at_its_level() -> None:
    found = long_desk()
    assert found.session.stop_paise == found.exchange.stop_paise == 9_800
    found.bar(99.0, low=98.05)
    assert found.fills == []
    found.bar(99.0, low=97.5)
    assert found.fills == [(-100, 9_800, True)]
    assert (found.book("position"), found.session.stop_paise) == (0, 0)
    assert found.book("cash_paise") == 10_000_000 - 100 * 200
    assert [found.book(f"fill_{name}") for name in ("quantity", "price_paise", "charges_paise")] == [0, 0, 0]
    assert found.book("stop_fill_quantity") == -100
    assert found.bar(99.0).book("stop_fill_quantity") == 0


def test_a_stop_that_the_open_jumped_over_fills_at_the_open() -> None:
    found = long_desk()
    found.bar(97.0, open_=96.0)
    assert found.fills == [(-100, 9_600, True)]


def test_a_stop_slips() -> None:
    found = long_desk(slippage_bps=10)
    assert found.session.stop_paise == 9_805, "2 % below the fill at 100.10 rupees, down to the tick of 5 paise"
    found.bar(97.0, open_=99.0)
    assert found.fills == [(-100, 9_795, True)]


def test_the_stop_protects_within_the_bar_of_the_entry() -> None:
    found = desk().bar()
    found.buy()
    found.bar(99.0, open_=100.0, low=97.0)
    assert found.fills == [(100, 10_000, False), (-100, 9_800, True)]
    assert found.book("position") == 0
    assert (found.book("fill_quantity"), found.book("stop_fill_quantity")) == (100, -100)
    assert found.book("fills") == 2


def test_a_short_position_is_stopped_above() -> None:
    found = desk("intraday", TARGETS).bar()
    found.act(SHORT)
    found.bar()
    position = found.book("position")
    assert position < 0
    assert found.session.stop_paise == 10_200
    found.bar(101.0, high=101.9)
    assert found.fills == []
    found.bar(101.0, high=102.0)
    assert found.fills == [(-position, 10_200, True)]
    again = desk("intraday", TARGETS).bar()
    again.act(SHORT)
    again.bar().bar(103.0, open_=104.0)
    assert again.fills == [(-position, 10_400, True)]


@pytest.mark.parametrize(
    ("position", "price", "ppm", "tick", "level"),
    [
        (10, 10_003, 20_000, 5, 9_800),
        (10, 10_005, 20_000, 5, 9_800),
        (10, 10_010, 20_000, 5, 9_805),
        (-10, 10_003, 20_000, 5, 10_205),
        (-10, 10_000, 20_000, 5, 10_200),
        (10, 100, 999_999, 5, 5),
        (10, 12_345, 10_000, 1, 12_221),
    ],
)
def test_a_stop_is_rounded_to_the_tick_away_from_the_fill(
    position: int, price: int, ppm: int, tick: int, level: int
) -> None:
    assert protective_stop_paise(position, price, ppm, tick) == level


def test_a_locked_bar_stops_nothing() -> None:
    found = long_desk()
    found.bar(80.0, open_=80.0)
    assert found.fills == []
    assert found.session.stop_paise == 9_800
    found.bar(81.0, open_=80.5)
    assert found.fills == [(-100, 8_050, True)]


def test_a_bar_without_volume_stops_nothing_and_a_thin_one_in_part() -> None:
    found = desk(participation=0.1).bar()
    found.buy()
    found.bar().bar(97.0, open_=99.0, volume=0)
    assert found.fills == []
    found.bar(97.0, open_=99.0, volume=300)
    assert found.fills == [(-30, 9_800, True)]
    assert found.session.stop_paise == 9_800
    # The stop was hit: what it left is a market order by now, though the price came back.
    found.bar(105.0, open_=104.0, low=104.0)
    assert found.fills == [(-70, 10_400, True)]
    assert found.session.stop_paise == 0


def test_an_order_at_the_open_and_its_stop_share_the_volume_of_a_bar() -> None:
    found = desk(participation=0.1).bar()
    found.buy()
    found.bar(97.0, open_=100.0, volume=1_500)
    assert found.fills == [(100, 10_000, False), (-50, 9_800, True)]


def test_the_order_at_the_open_goes_before_the_stop() -> None:
    leaving = long_desk()
    leaving.sell()
    leaving.bar(95.0, open_=96.0)
    assert leaving.fills == [(-100, 9_600, False)], "nothing is left for the stop"
    adding = long_desk()
    adding.buy()
    adding.bar(95.0, open_=96.0)
    assert adding.fills == [(100, 9_600, False), (-200, 9_600, True)]


def test_a_second_purchase_never_moves_the_stop_away() -> None:
    found = long_desk()
    found.buy()
    found.bar(110.0, open_=110.0)
    assert found.session.stop_paise == 10_780
    found.buy()
    found.bar(109.0, open_=109.0)
    assert found.session.stop_paise == 10_780
    found.sell()
    assert found.bar(109.0).session.stop_paise == 10_780


def test_the_trailing_stop_follows_the_closes() -> None:
    found = desk(exits={"trailing_stop": 0.05}).bar()
    found.buy()
    assert found.bar().session.stop_paise == 9_500
    assert found.bar(108.0).session.stop_paise == 10_260
    assert found.bar(104.0).session.stop_paise == 10_260
    found.bar(102.0, open_=103.0)
    assert found.fills == [(-100, 10_260, True)]
    both = desk(exits={"stop_loss": 0.01, "trailing_stop": 0.05}).bar()
    both.buy()
    assert both.bar().session.stop_paise == 9_900
    assert both.bar(103.0).session.stop_paise == 9_900
    assert both.bar(110.0).session.stop_paise == 10_450
    down = desk("intraday", TARGETS, exits={"trailing_stop": 0.05}).bar()
    down.act(SHORT)
    assert down.bar().session.stop_paise == 10_500
    assert down.bar(90.0).session.stop_paise == 9_450
    assert down.bar(91.0).session.stop_paise == 9_450


def test_the_profit_is_taken_at_the_next_open() -> None:
    found = desk(exits={"take_profit": 0.05}).bar()
    found.buy()
    assert found.bar().bar(104.99).legal() == [BUY, HOLD, SELL]
    assert found.bar(105.0).legal() == [HOLD]
    assert found.session.reason(HOLD) == found.session.reason(BUY) == "the account takes profit"
    assert found.act(HOLD) == -100
    found.bar(103.0, open_=103.0)
    assert found.fills == [(-100, 10_300, False)]
    down = desk("intraday", TARGETS, exits={"take_profit": 0.05}).bar()
    down.act(SHORT)
    assert down.bar().bar(95.0).session.reason(HOLD) == "the account takes profit"


def test_the_time_of_a_position_is_over() -> None:
    found = desk(exits={"time_exit_bars": 3}).bar()
    found.buy()
    assert found.bars(2).legal() == [BUY, HOLD, SELL]
    assert found.bar().legal() == [HOLD]
    assert found.session.reason(SELL) == "the account's time is over"
    assert found.act(HOLD) == -100
    assert found.bar().book("position") == 0


def test_an_entry_tells_the_broker_its_stop_and_an_exit_has_none() -> None:
    found = desk().bar()
    order = found.session.order(BUY)
    assert order is not None
    assert order.stop_ppm == 20_000
    found.exchange.submit(order)
    order = found.bar().session.order(SELL)
    assert order is not None
    assert order.stop_ppm == 0


def test_a_stop_is_an_exit_that_no_limit_holds_up() -> None:
    found = desk(limits={"max_daily_loss": 0.001, "max_orders_per_day": 1}).bar()
    found.buy()
    found.bar(98.5, open_=100.0)
    assert found.session.reason(BUY) == "daily loss"
    found.bar(97.0, open_=98.5)
    assert found.fills == [(-100, 9_800, True)]


def test_a_stop_out_counts_as_a_losing_trip_and_ends_with_the_square_off() -> None:
    found = desk(limits={"max_consecutive_losses": 1}).bar()
    found.buy()
    found.bar(99.0, open_=100.0, low=97.0)
    assert found.session.reason(BUY) == "consecutive losses"
    day = desk("intraday").bar()
    day.buy()
    day.bars(SESSION_BARS - 2)
    assert day.act(HOLD) == -100
    assert (day.bar().book("position"), day.session.stop_paise) == (0, 0)


def test_a_live_stop_fills_in_parts_beside_an_order() -> None:
    """What a broker may report: parts of one stop, and a stop before the order of the same bar is known cancelled."""
    found = long_desk()
    time_ns = 1_704_858_300_000_000_000
    found.session.settle([Fill(time_ns, -40, 9_790, order=-7), Fill(time_ns, -60, 9_780, order=-7)])
    assert (found.book("position"), found.book("stop_paise"), found.book("fill_quantity")) == (0, 0, 0)
    assert (found.book("stop_fill_quantity"), found.book("stop_fill_price_paise")) == (-100, 9_780)
    part = long_desk()
    part.session.settle([Fill(time_ns, -40, 9_790, order=-7)])
    assert (part.book("position"), part.session.stop_paise) == (60, 9_800)


@pytest.mark.parametrize("name", ["stop_loss", "trailing_stop", "take_profit", "time_exit_bars"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_an_exit_of_nothing_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        Exits.model_validate({name: value})


def test_unknown_exits_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Exits.model_validate({"stop": 0.1})
