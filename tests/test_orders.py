"""The life of an order: what it may become, and which answers of a broker are refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.live.orders import (
    OrderError,
    OrderRequest,
    OrderRow,
    OrderState,
    TrackedOrder,
    find_by_tag,
    state_of,
)

PASSING = [
    "PUT ORDER REQ RECEIVED",
    "PUT ORDER REQUEST RECEIVED",
    "VALIDATION PENDING",
    "OPEN PENDING",
    "OPEN",
    "TRIGGER PENDING",
    "MODIFY VALIDATION PENDING",
    "MODIFY PENDING",
    "MODIFIED",
    "CANCEL PENDING",
    "AMO REQ RECEIVED",
    "SOMETHING NEW",
]


def request(**changes: Any) -> OrderRequest:
    parts: dict[str, Any] = {
        "tag": "fs1",
        "symbol": "INFY",
        "side": "BUY",
        "quantity": 10,
        "kind": "MARKET",
        "product": "MIS",
        "market_protection": -1,
    }
    return OrderRequest(**(parts | changes))


def row(status: str, filled: int, **changes: Any) -> OrderRow:
    return OrderRow("151220000000000", ("mktp", "fs1"), "INFY", "BUY", 10, filled, status, "")._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tag": ""}, "tag of 1 to 20 letters and digits"),
        ({"tag": "a" * 21}, "tag of 1 to 20"),
        ({"tag": "fs-1"}, "tag of 1 to 20"),
        ({"quantity": 0}, "quantity above 0, found 0"),
        ({"side": "HOLD"}, "a side of BUY, SELL, found 'HOLD'"),
        ({"kind": "FOO"}, "a kind of MARKET, LIMIT, SL, SL-M, found 'FOO'"),
        ({"product": "NRML"}, "a product of MIS, CNC, found 'NRML'"),
        ({"price_paise": 100}, "price_paise of LIMIT and SL alone, found 100 with MARKET"),
        ({"market_protection": None}, "market_protection of MARKET and SL-M alone, found None with MARKET"),
        ({"market_protection": 0}, "market_protection above 0 up to 100, or -1, found 0"),
        ({"market_protection": 101}, "found 101"),
        ({"kind": "LIMIT", "market_protection": None}, "price_paise of LIMIT and SL alone, found None with LIMIT"),
        ({"kind": "LIMIT", "market_protection": None, "price_paise": 0}, "prices above 0"),
        ({"kind": "SL", "market_protection": None, "price_paise": 100}, "trigger_paise of SL and SL-M alone"),
    ],
)
def test_what_is_no_order_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(OrderError, match=told):
        request(**changes)


def test_every_kind_of_order_can_be_asked_for() -> None:
    request()
    request(kind="LIMIT", market_protection=None, price_paise=150_000)
    request(kind="SL", market_protection=None, price_paise=149_000, trigger_paise=149_500)
    request(kind="SL-M", market_protection=5, trigger_paise=149_500)


@pytest.mark.parametrize("status", PASSING)
def test_a_status_that_is_not_final_leaves_the_order_working(status: str) -> None:
    assert state_of(status) is OrderState.WORKING
    assert not TrackedOrder(request()).accepted("151220000000000").seen(row(status, 3)).state.over


@given(st.lists(st.tuples(st.sampled_from([*PASSING, "COMPLETE", "CANCELLED", "REJECTED"]), st.integers(0, 12))))
def test_fills_never_fall_and_an_end_is_an_end(answers: list[tuple[str, int]]) -> None:
    order = TrackedOrder(request()).lost()
    for status, filled in answers:
        before = order
        try:
            order = order.seen(row(status, filled))
        except OrderError:
            assert order is before
            continue
        assert before.filled_quantity <= order.filled_quantity <= 10
        if before.state.over:
            assert (order.state, order.filled_quantity) == (before.state, before.filled_quantity)
        if order.state is OrderState.COMPLETE:
            assert order.filled_quantity == 10


def test_a_cancelled_order_may_have_filled_in_part() -> None:
    order = TrackedOrder(request()).accepted("151220000000000").seen(row("CANCELLED", 4))
    assert (order.state, order.filled_quantity) == (OrderState.CANCELLED, 4)
    with pytest.raises(OrderError, match="was cancelled with 4 shares filled, and now it is COMPLETE with 10"):
        order.seen(row("COMPLETE", 10))


def test_an_order_whose_answer_was_lost_is_found_by_its_tag() -> None:
    order = TrackedOrder(request()).lost()
    assert order.state is OrderState.UNKNOWN
    others = [row("OPEN", 0, order_id="1", tags=("fs2",)), row("OPEN", 2)]
    found = find_by_tag(others, "fs1")
    assert found is not None
    assert order.seen(found).order_id == "151220000000000"
    assert find_by_tag(others, "fs3") is None


def test_an_unknown_order_is_never_sent_again() -> None:
    """There is no way back from UNKNOWN to INTENDED, the only state that is sent."""
    order = TrackedOrder(request()).lost()
    for act in (order.lost, lambda: order.refused("no")):
        with pytest.raises(OrderError, match="expected the order fs1 to be intended, found unknown"):
            act()


def test_an_intent_that_was_sent_twice_is_told() -> None:
    with pytest.raises(OrderError, match="expected one order with the tag fs1, found 2: 1, 2"):
        find_by_tag([row("OPEN", 0, order_id="1"), row("OPEN", 0, order_id="2")], "fs1")


@pytest.mark.parametrize(
    "changes", [{"symbol": "TCS"}, {"side": "SELL"}, {"quantity": 11}, {"tags": ("mktp",)}], ids=lambda one: str(one)
)
def test_a_row_of_another_order_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OrderError, match="it is not the one that was sent"):
        TrackedOrder(request()).lost().seen(row("OPEN", 0, **changes))
    known = TrackedOrder(request()).accepted("7")
    with pytest.raises(OrderError, match="expected a row of order 7, found 151220000000000"):
        known.seen(row("OPEN", 0))


def test_the_book_may_tell_of_an_order_before_its_answer_comes() -> None:
    told = TrackedOrder(request()).seen(row("OPEN", 3))
    assert told.accepted("151220000000000") is told
    assert told.lost() is told
    with pytest.raises(OrderError, match="found working"):
        told.accepted("another")
