"""Each limit is breached in a running session: it blocks the entry, says why, and never the exit."""

from typing import Any

import pytest
from pydantic import ValidationError
from trading_desks import SESSION_BARS, Desk, desk_rules

from finsense.account.limits import PRESETS, Limits, loosened
from finsense.account.rules import BUY, HOLD, SELL, AccountRules

FRACTION = {"scheme": "orders", "size": {"kind": "fraction", "fraction": 0.5}}
TARGETS = {"scheme": "targets", "targets": [-1, -0.5, 0, 0.5, 1]}


def desk(actions: Any = None, product: str = "delivery", exits: Any = None, **limits: Any) -> Desk:
    """A desk under limits."""
    short = {"allow_short": True} if product == "intraday" else {}
    return Desk(desk_rules(product, actions, limits=limits, exits=exits or {}, **short))


def blocks(found: Desk, reason: str) -> None:
    """Buying is masked for this reason."""
    assert BUY not in found.legal()
    assert found.session.reason(BUY) == reason


def test_the_largest_order_by_shares() -> None:
    blocks(desk(max_order_quantity=99).bar(), "order quantity")
    assert desk(max_order_quantity=100).bar().legal() == [BUY, HOLD]
    assert desk(FRACTION, max_order_quantity=7).bar().buy() == 7


def test_the_largest_order_by_value() -> None:
    blocks(desk(max_order_value=9_999).bar(), "order value")
    assert desk(max_order_value=10_000).bar().legal() == [BUY, HOLD]
    assert desk(FRACTION, max_order_value=1_250).bar().buy() == 12


def test_the_largest_position() -> None:
    found = desk(max_position_fraction=0.15).bar()
    found.buy()
    blocks(found.bar(), "position too large")
    assert SELL in found.legal()
    assert desk(FRACTION, max_position_fraction=0.3).bar().buy() == 300


def test_the_smallest_position() -> None:
    blocks(desk(min_position_fraction=0.11).bar(), "position too small")
    assert BUY in desk(min_position_fraction=0.1).bar().legal()
    # Cash for less than the least position: what is left over is not spent on a crumb.
    found = desk(FRACTION, min_position_fraction=0.3).bar()
    found.buy()
    assert BUY in found.bar().legal()


def test_the_gross_and_the_net_exposure() -> None:
    blocks(desk(max_gross_exposure=0.09).bar(), "gross exposure")
    blocks(desk(max_net_exposure=0.09).bar(), "net exposure")
    found = desk(TARGETS, "intraday", max_net_exposure=0.6).bar()
    assert found.act(4) == 600
    assert desk(TARGETS, "intraday", max_gross_exposure=0.7).bar().act(0) == -700


def others(found: Desk, **fields: int) -> Desk:
    """What the account's other symbols have; a joint account writes it there before each bar."""
    for name, value in fields.items():
        found.session.account[name] = value
    return found


def test_the_positions_of_other_symbols_count() -> None:
    assert found_reason(others(desk(max_positions=2).bar(), others_open=2)) == "number of positions"
    assert found_reason(others(desk(max_positions=3).bar(), others_open=2)) == ""
    worth = {"others_paise": 4_000_000, "others_gross_paise": 4_000_000, "others_open": 1, "cash_paise": 6_000_000}
    assert found_reason(others(desk(max_gross_exposure=0.5).bar(), **worth)) == ""
    assert found_reason(others(desk(max_gross_exposure=0.49).bar(), **worth)) == "gross exposure"
    hedged = {**worth, "others_paise": -4_000_000}
    assert found_reason(others(desk(max_net_exposure=0.1).bar(), **hedged)) == ""


def found_reason(found: Desk) -> str:
    """Why buying would be masked now."""
    return found.session.reason(BUY)


def test_an_open_position_may_grow_when_all_places_are_taken() -> None:
    found = desk(max_positions=1).bar()
    found.buy()
    assert found_reason(others(found.bar(), others_open=1)) == ""


def test_the_cash_buffer() -> None:
    found = desk({"scheme": "orders", "size": {"kind": "all_in"}}, cash_buffer=0.2).bar()
    assert found.buy() == 799, "a purchase must be payable a paisa above the close"
    blocks(found.bar(), "cash buffer")
    assert found.legal() == [HOLD, SELL]
    fixed = {"scheme": "orders", "size": {"kind": "shares", "shares": 900}}
    blocks(desk(fixed, cash_buffer=0.2).bar(), "cash buffer")


def test_orders_of_the_day_and_of_the_bar() -> None:
    found = desk(max_orders_per_day=2).bar()
    found.buy()
    found.bar().buy()
    blocks(found.bar(), "orders of the day")
    found.sell()
    assert found.bar().book("position") == 100, "an exit is never limited"
    found.bars(SESSION_BARS - 4)
    assert BUY in found.bar().legal(), "a new day begins"
    busy = desk(max_orders_per_bar=1).bar()
    busy.buy()
    assert busy.session.reason(BUY) == "orders of the bar"
    assert BUY in busy.bar().legal()


def test_a_price_jump() -> None:
    found = desk(max_price_jump=0.05).bar().bar(106.0)
    blocks(found, "price jump")
    assert BUY in found.bar(106.0).legal()
    assert BUY in found.bar(101.0).legal()
    blocks(found.bar(95.0), "price jump")


def test_a_volatility_spike() -> None:
    found = desk(max_volatility_spike=3.0, volatility_bars=4)
    for close in (100, 101, 100, 101, 100):
        found.bar(close)
    assert BUY in found.legal()
    blocks(found.bar(104.0), "volatility spike")
    assert BUY in found.bar(104.0).legal()
    # A range inside the bar is one as well.
    blocks(found.bar(104.0, high=108.0, low=103.0), "volatility spike")


def test_the_daily_loss_ends_with_the_day() -> None:
    found = desk(max_daily_loss=0.02).bar()
    found.buy()
    found.bar().buy()
    found.bar()
    assert BUY in found.bar(90.5).legal(), "1.9 % are not 2 %"
    blocks(found.bar(90.0), "daily loss")
    blocks(found.bar(110.0), "daily loss")
    assert SELL in found.legal()
    found.bars(SESSION_BARS - 7, 110.0)
    blocks(found.bar(110.0), "daily loss")
    assert BUY in found.bar(110.0).legal()


def test_the_daily_loss_counts_from_the_last_close_before_the_day() -> None:
    found = desk(max_daily_loss=0.02).bar()
    found.buy()
    found.bar().buy()
    found.bars(SESSION_BARS - 2)
    blocks(found.bar(89.0), "daily loss")


def test_a_daily_loss_can_flatten() -> None:
    found = desk(max_daily_loss=0.02, on_daily_loss="flatten").bar()
    found.buy()
    found.bar().buy()
    found.bar()
    assert found.bar(89.0).legal() == [HOLD]
    assert found.session.reason(SELL) == found.session.reason(HOLD) == "the account is flattened"
    assert found.act(HOLD) == -200
    assert found.bar(89.0).book("position") == 0
    blocks(found, "daily loss")


def test_the_drawdown_is_for_good() -> None:
    found = desk(max_drawdown=0.05).bar()
    found.buy()
    found.bar().buy()
    found.bar().bar(130.0)
    assert BUY in found.bar(104.0).legal(), "5,200 of 106,000 are less than 5 %"
    blocks(found.bar(103.0), "drawdown")
    assert SELL in found.legal()
    found.bars(2 * SESSION_BARS, 140.0)
    blocks(found, "drawdown")
    flat = desk(max_drawdown=0.05, on_drawdown="flatten").bar()
    flat.buy()
    assert flat.bar().bar(49.0, open_=50.0).legal() == [HOLD]
    flat.act(HOLD)
    assert flat.bar(49.0, open_=50.0).book("position") == 0


def test_losses_in_a_row() -> None:
    found = desk(max_consecutive_losses=2).bar()
    found.buy()
    found.bar(100.0).sell()
    found.bar(99.0, open_=99.0)
    assert found.book("losses") == 1
    found.buy()
    found.bar(99.0).sell()
    found.bar(101.0, open_=101.0)
    assert found.book("losses") == 0, "a gain ends the row"
    for price in (100.0, 99.0):
        found.buy()
        found.bar(price + 1, open_=price + 1).sell()
        found.bar(price, open_=price)
    blocks(found, "consecutive losses")
    found.bars(SESSION_BARS - 9, 99.0)
    blocks(found, "consecutive losses")
    assert BUY in found.bar(99.0).legal()


def test_no_entry_near_the_close() -> None:
    found = desk(no_entry_before_close_minutes=30).bars(SESSION_BARS - 3)
    assert BUY in found.legal(), "45 minutes are left"
    found.buy()
    blocks(found.bar(), "too near to the close")
    assert SELL in found.legal()
    blocks(found.bars(2), "too near to the close")
    assert BUY in found.bar().legal(), "a new session"


def test_the_older_rules_say_why_too() -> None:
    locked = desk().bar(120.0, open_=120.0)
    assert locked.session.reason(BUY) == "locked at the circuit"
    poor = desk({"scheme": "orders", "size": {"kind": "shares", "shares": 1001}}).bar()
    assert poor.session.reason(BUY) == "not enough cash"
    assert poor.session.reason(SELL) == "nothing to order"
    late = desk(product="intraday").bars(SESSION_BARS - 2)
    assert late.session.reason(BUY) == "after the entry cut-off"
    assert late.bar().session.reason(BUY) == "after the square-off"
    thin = Desk(desk_rules(participation=0.1)).bar(volume=0)
    assert thin.session.reason(BUY) == "no volume"
    assert thin.session.reason(HOLD) == ""


def test_a_turning_order_is_cut_to_the_exit() -> None:
    found = desk(TARGETS, "intraday", max_orders_per_day=1).bar()
    found.act(3)
    assert found.bar().book("position") == 500
    assert found.act(0) == -500
    free = desk(TARGETS, "intraday").bar()
    free.act(3)
    assert free.bar().act(0) == -1500


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"max_positions": -1}, "max_positions"),
    "zero": ({"max_daily_loss": 0}, "max_daily_loss"),
    "zero fraction": ({"max_position_fraction": 0.0}, "greater than 0"),
    "not a number": ({"max_drawdown": float("nan")}, "max_drawdown"),
    "percent for a fraction": ({"max_drawdown": 15}, "less than or equal to 1"),
    "min above max": ({"min_position_fraction": 0.4, "max_position_fraction": 0.3}, "must not exceed"),
    "one position above all": ({"max_position_fraction": 0.5, "max_gross_exposure": 0.4}, "must not exceed"),
    "net above gross": ({"max_net_exposure": 0.5, "max_gross_exposure": 0.4}, "never exceed the gross"),
    "day above drawdown": ({"max_daily_loss": 0.2, "max_drawdown": 0.1}, "drawdown would always be reached first"),
    "preset and its contrary": ({"preset": "small_account", "max_daily_loss": 0.2}, "must not exceed max_drawdown"),
    "bar above day": ({"max_orders_per_bar": 5, "max_orders_per_day": 4}, "a bar is part of its day"),
    "buffer leaves nothing": ({"min_position_fraction": 0.5, "cash_buffer": 0.6}, "no position could be opened"),
    "flatten without a limit": ({"on_drawdown": "flatten"}, "needs max_drawdown"),
    "unknown limit": ({"max_leverage": 2}, "Extra inputs"),
    "unknown preset": ({"preset": "yolo"}, "small_account"),
    "broken paise": ({"max_order_value": "10.005"}, "whole paise"),
}


@pytest.mark.parametrize("name", WRONG)
def test_limits_that_make_no_sense_are_refused(name: str) -> None:
    values, message = WRONG[name]
    with pytest.raises(ValidationError, match=message):
        Limits.model_validate(values)


def test_rules_that_could_never_trade_are_refused() -> None:
    with pytest.raises(ValidationError, match="nothing would ever be bought"):
        desk_rules(actions=FRACTION, limits={"min_position_fraction": 0.5})
    with pytest.raises(ValidationError, match="nothing would ever be bought"):
        desk_rules("intraday", TARGETS, allow_short=True, limits={"min_position_fraction": 1.0})
    risk = {"scheme": "orders", "size": {"kind": "risk", "risk": 0.01, "stop": 0.02}}
    with pytest.raises(ValidationError, match="give both the same distance"):
        desk_rules(actions=risk, exits={"stop_loss": 0.03})
    assert desk_rules(actions=risk, exits={"stop_loss": 0.02}).exits.stop_loss == 0.02


def test_a_preset_is_the_start_and_what_stands_beside_it_replaces_it() -> None:
    small = Limits.model_validate({"preset": "small_account"})
    assert (small.max_position_fraction, small.min_position_fraction, small.max_positions) == (0.30, 0.05, 4)
    assert (small.cash_buffer, small.max_daily_loss, small.max_drawdown) == (0.10, 0.10, 0.15)
    assert loosened(small) == []
    mine = Limits.model_validate(
        {"preset": "small_account", "max_positions": 6, "cash_buffer": 0.2, "max_drawdown": None, "max_net_exposure": 1}
    )
    assert loosened(mine) == ["max_positions: 6 instead of 4", "max_drawdown: off instead of 0.15"]
    assert Limits.model_validate(mine.model_dump()) == mine
    assert Limits.model_validate_json(mine.model_dump_json()) == mine
    assert loosened(Limits.model_validate({"preset": "small_account", "min_position_fraction": 0.01})) == [
        "min_position_fraction: 0.01 instead of 0.05"
    ]
    assert all(loosened(Limits.model_validate({"preset": name})) == [] for name in PRESETS)


def test_without_limits_nothing_is_limited() -> None:
    record = AccountRules.model_validate(desk_rules().model_dump()).record("15m")
    assert record["limited"][0] == record["exits"][0] == 0
    assert not Limits().on
    assert all(Limits.model_validate({"preset": name}).on for name in PRESETS if name != "none")
