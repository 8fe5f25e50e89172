"""The matching engine of the rehearsal: money and shares add up, prices are kept, and the book is the vendor's."""

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import BookedOrder, Refused
from finsense.live.rehearsal.exchange import RehearsalExchange
from finsense.live.rehearsal.hours import Phase, Troubles, auction_match_ns, phase_at
from finsense.live.rehearsal.kite_answers import holdings
from finsense.live.rehearsal.purse import Holding
from finsense.live.rehearsal.street import Level, Listing, Street
from finsense.market.calendar import MINUTE_NS, nse_calendar

BALANCE = 10_000_000
LISTING = Listing(408065, "INFY", "INFOSYS", 5, 150_000, 0.10)


class Bench:
    """An exchange with one share and hands on its clock and its phase."""

    def __init__(self, seed: int = 0, balance: int = BALANCE) -> None:
        self.now_ns, self.phase = 0, Phase.CONTINUOUS
        self.told: list[tuple[str, str, int]] = []
        self.street = Street(LISTING, np.random.default_rng(seed))
        self.exchange = RehearsalExchange(
            {"INFY": self.street}, balance, lambda _: self.phase, lambda: self.now_ns, self._tell
        )

    def _tell(self, order: BookedOrder) -> None:
        self.told.append((order.order_id, order.status, order.filled))

    def ask(self, side: str = "BUY", quantity: int = 10, kind: str = "MARKET", **parts: Any) -> BookedOrder:
        terms: dict[str, Any] = {"tag": f"t{len(self.exchange.orders)}", "product": "MIS", **parts}
        if kind in ("MARKET", "SL-M"):
            terms.setdefault("market_protection", -1)
        order_id = self.exchange.place(OrderRequest(symbol="INFY", side=side, quantity=quantity, kind=kind, **terms))  # type: ignore[arg-type]
        return next(order for order in self.exchange.orders if order.order_id == order_id)

    def show(self, bids: list[tuple[int, int]], asks: list[tuple[int, int]]) -> None:
        self.street.bids = [Level(*level) for level in bids]
        self.street.asks = [Level(*level) for level in asks]


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.exchange.trade("INFY", 150_000, 100)
    made.show([(149_995, 50), (149_990, 70)], [(150_005, 30), (150_010, 40)])
    return made


def test_a_market_order_takes_the_best_prices_first(bench: Bench) -> None:
    order = bench.ask(quantity=50)
    assert order.status == "COMPLETE"
    assert [(one.shares, one.price_paise) for one in bench.exchange.executions] == [(30, 150_005), (20, 150_010)]
    assert bench.exchange.cash_paise == BALANCE - 30 * 150_005 - 20 * 150_010
    assert bench.exchange.positions == {("INFY", "MIS"): 50}
    assert [status for _, status in order.history][:3] == [
        "PUT ORDER REQ RECEIVED",
        "VALIDATION PENDING",
        "OPEN PENDING",
    ]
    # The stream tells of fills, not of the placing.
    assert bench.told == [(order.order_id, "OPEN", 30), (order.order_id, "COMPLETE", 50)]


def test_what_the_book_does_not_hold_waits_and_fills_with_later_trades(bench: Bench) -> None:
    order = bench.ask(quantity=60, kind="LIMIT", price_paise=150_005)
    assert (order.status, order.filled) == ("OPEN", 30)
    bench.exchange.trade("INFY", 150_010, 500)
    assert order.filled == 30
    bench.exchange.trade("INFY", 150_000, 20)
    assert order.filled == 50
    bench.exchange.trade("INFY", 149_900, 20)
    assert order.status == "COMPLETE"
    # A resting order fills at its own price, however far through it the trade went.
    assert {one.price_paise for one in bench.exchange.executions} == {150_005}


def test_at_one_price_those_who_came_before_are_served_first(bench: Bench) -> None:
    first = bench.ask(quantity=10, kind="LIMIT", price_paise=149_995)
    second = bench.ask(quantity=10, kind="LIMIT", price_paise=149_995)
    assert first.ahead == second.ahead == 50
    bench.exchange.trade("INFY", 149_995, 40)
    assert first.filled == second.filled == 0
    bench.exchange.trade("INFY", 149_995, 15)
    assert (first.filled, second.filled) == (5, 0)


def test_a_stop_waits_for_its_trigger(bench: Bench) -> None:
    bench.ask(quantity=10)
    stop = bench.ask("SELL", 10, "SL-M", trigger_paise=149_000)
    assert stop.status == "TRIGGER PENDING"
    bench.exchange.trade("INFY", 149_005, 10)
    assert stop.status == "TRIGGER PENDING"
    bench.exchange.trade("INFY", 148_900, 10)
    assert stop.status == "COMPLETE"
    assert bench.exchange.positions == {("INFY", "MIS"): 0}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"quantity": 1000}, "Insufficient funds"),
        ({"side": "SELL", "product": "CNC"}, "Insufficient stock holding"),
        ({"kind": "LIMIT", "price_paise": 165_005}, "outside the circuit limits of 1350.00 to 1650.00"),
    ],
)
def test_the_risk_system_rejects_after_the_name_was_given(bench: Bench, parts: dict[str, Any], reason: str) -> None:
    order = bench.ask(**parts)
    assert order.status == "REJECTED"
    assert reason in order.reason
    assert bench.exchange.cash_paise == BALANCE


@pytest.mark.parametrize(
    ("parts", "error_type"),
    [({"kind": "LIMIT", "price_paise": 150_001}, "InputException")],
)
def test_what_is_refused_at_the_door_is_not_in_the_book(bench: Bench, parts: dict[str, Any], error_type: str) -> None:
    with pytest.raises(Refused, match="Tick size") as refused:
        bench.ask(**parts)
    assert refused.value.error_type == error_type
    assert bench.exchange.orders == []


def test_an_order_is_changed_at_most_25_times(bench: Bench) -> None:
    order = bench.ask(quantity=10, kind="LIMIT", price_paise=149_000)
    for place in range(25):
        bench.exchange.modify(order.order_id, _limit(149_000 + 5 * place))
    with pytest.raises(Refused, match="Maximum allowed order modifications"):
        bench.exchange.modify(order.order_id, _limit(149_500))
    bench.exchange.cancel(order.order_id)
    with pytest.raises(Refused, match="cannot be changed as it is CANCELLED"):
        bench.exchange.cancel(order.order_id)


def _limit(price_paise: int) -> OrderRequest:
    return OrderRequest("t0", "INFY", "BUY", 10, "LIMIT", "MIS", price_paise=price_paise)


def test_at_the_band_nobody_sells(bench: Bench) -> None:
    bench.exchange.trade("INFY", 165_000, 10)
    order = bench.ask(quantity=1)
    assert (order.status, order.filled, bench.street.asks) == ("OPEN", 0, [])


def test_the_closing_auction_gathers_and_fills_at_one_price(bench: Bench) -> None:
    resting = bench.ask(quantity=10, kind="LIMIT", price_paise=149_000)
    bench.phase = Phase.AUCTION
    market, stop = bench.ask(quantity=5), bench.ask("SELL", 5, "SL-M", trigger_paise=149_000)
    assert (market.status, stop.status) == ("OPEN", "REJECTED")
    bench.phase = Phase.AUCTION_LIMIT
    assert bench.ask(quantity=5).status == "REJECTED"
    limit = bench.ask(quantity=5, kind="LIMIT", price_paise=150_100)
    bench.exchange.close_auction("INFY", 150_050)
    assert [order.status for order in (resting, market, limit)] == ["CANCELLED", "COMPLETE", "COMPLETE"]
    assert {one.price_paise for one in bench.exchange.executions} == {150_050}


def test_nothing_is_taken_while_the_market_is_closed(bench: Bench) -> None:
    for phase in (Phase.CLOSED, Phase.HALTED, Phase.AUCTION_WAIT):
        bench.phase = phase
        assert bench.ask(quantity=1).status == "REJECTED"


def test_the_day_has_its_phases() -> None:
    session = nse_calendar().session(dt.date(2026, 11, 20), derivatives=True)
    assert session is not None
    end, minute = session.close_ns, MINUTE_NS
    expected = [
        (session.open_ns - 1, Phase.CLOSED),
        (session.open_ns, Phase.CONTINUOUS),
        (end - 1, Phase.CONTINUOUS),
        (end, Phase.AUCTION_WAIT),
        (end + 5 * minute, Phase.AUCTION),
        (end + 10 * minute, Phase.AUCTION_LIMIT),
        (end + 15 * minute, Phase.CLOSED),
    ]
    assert [phase_at(session, instant) for instant, _ in expected] == [phase for _, phase in expected]
    assert auction_match_ns(session) == end + 15 * minute
    halt = (session.open_ns, session.open_ns + minute)
    assert phase_at(session, session.open_ns, Troubles(halts=(halt,))) is Phase.HALTED
    assert phase_at(session, session.open_ns, Troubles(outages=(halt,))) is Phase.OUTAGE
    assert phase_at(None, 0) is Phase.CLOSED


def test_the_better_price_is_served_before_the_earlier_order(bench: Bench) -> None:
    early = bench.ask(quantity=10, kind="LIMIT", price_paise=149_980)
    better = bench.ask(quantity=10, kind="LIMIT", price_paise=149_985)
    bench.exchange.trade("INFY", 149_980, 12)
    assert (better.filled, early.filled) == (10, 2)


def test_what_is_left_at_the_market_takes_from_the_next_book(bench: Bench) -> None:
    bench.show([(149_995, 50)], [(150_005, 30), (150_010, 10)])
    order = bench.ask(quantity=50)
    assert (order.filled, order.limit_paise) == (40, 157_500)
    bench.exchange.trade("INFY", 150_020, 1)
    assert order.status == "COMPLETE"
    assert max(one.price_paise for one in bench.exchange.executions) < 150_100


def test_open_orders_and_shorts_block_money(bench: Bench) -> None:
    exchange = bench.exchange
    resting = bench.ask(quantity=20, kind="LIMIT", price_paise=149_000)
    assert exchange.spendable_paise == BALANCE - 20 * 149_000
    assert bench.ask(quantity=60, kind="LIMIT", price_paise=149_000).status == "REJECTED"
    exchange.cancel(resting.order_id)
    assert exchange.spendable_paise == BALANCE
    short = bench.ask("SELL", 30)
    # Its proceeds cannot be spent, and its whole value is blocked beside.
    assert exchange.cash_paise == BALANCE + short.filled_paise
    assert exchange.spendable_paise == BALANCE - short.filled_paise
    assert bench.ask("SELL", 60).status == "REJECTED"
    stop = bench.ask("BUY", 30, "SL-M", trigger_paise=155_000)
    assert exchange.spendable_paise == BALANCE - short.filled_paise
    exchange.cancel(stop.order_id)
    back = bench.ask("BUY", 30)
    assert back.status == "COMPLETE"
    assert exchange.spendable_paise == exchange.cash_paise == BALANCE + short.filled_paise - back.filled_paise


def test_shares_are_sold_once(bench: Bench) -> None:
    exchange = bench.exchange
    exchange.purse.holdings["INFY"] = Holding(settled=6, unsettled=4)
    bought = bench.ask(quantity=5, product="CNC")
    assert bought.status == "COMPLETE"
    waiting = bench.ask("SELL", 12, "LIMIT", product="CNC", price_paise=151_000)
    assert waiting.status == "OPEN"
    assert "Insufficient stock holding" in bench.ask("SELL", 4, product="CNC").reason
    sold = bench.ask("SELL", 3, product="CNC")
    assert sold.status == "COMPLETE"
    assert exchange.spendable_paise == BALANCE - bought.filled_paise + sold.filled_paise
    exchange.cancel(waiting.order_id)
    bench.ask("SELL", 9, product="CNC")
    (row,) = holdings(exchange)
    assert (row["quantity"], row["used_quantity"], row["t1_quantity"], row["opening_quantity"]) == (0, 7, 3, 10)
    assert exchange.positions == {("INFY", "CNC"): -7}


STEPS = st.one_of(
    st.tuples(st.just("trade"), st.integers(27_100, 32_900), st.integers(1, 300)),
    st.tuples(st.sampled_from(["BUY", "SELL"]), st.just(0), st.integers(1, 80)),
    st.tuples(st.sampled_from(["BUY", "SELL"]), st.integers(27_100, 32_900), st.integers(1, 80)),
    st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("modify"), st.integers(0, 30), st.integers(27_100, 32_900)),
)


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=60), seed=st.integers(0, 1000))
def test_money_and_shares_add_up_and_no_limit_is_passed(steps: list[tuple[str, int, int]], seed: int) -> None:
    bench = Bench(seed)
    exchange = bench.exchange
    exchange.trade("INFY", 150_000, 10)
    for kind, first, second in steps:
        bench.now_ns += 1
        try:
            if kind == "trade":
                exchange.trade("INFY", 5 * first, second)
            elif kind == "cancel" and first < len(exchange.orders):
                exchange.cancel(exchange.orders[first].order_id)
            elif kind == "modify" and first < len(exchange.orders):
                old = exchange.orders[first].request
                new = OrderRequest(old.tag, "INFY", old.side, old.quantity, "LIMIT", "MIS", price_paise=5 * second)
                exchange.modify(exchange.orders[first].order_id, new)
            elif kind in ("BUY", "SELL"):
                limit: dict[str, Any] = {"kind": "LIMIT", "price_paise": 5 * first} if first else {}
                bench.ask(kind, second, **limit)
        except Refused:
            continue
    cash, position = BALANCE, 0
    for order in exchange.orders:
        own = [one for one in exchange.executions if one.order is order]
        assert sum(one.shares for one in own) == order.filled <= order.request.quantity
        assert sum(one.shares * one.price_paise for one in own) == order.filled_paise
        assert (order.status == "COMPLETE") == (order.left == 0)
        signed = order.filled if order.request.side == "BUY" else -order.filled
        position += signed
        cash -= order.filled_paise if signed > 0 else -order.filled_paise
    assert exchange.cash_paise == cash
    assert exchange.positions.get(("INFY", "MIS"), 0) == position
    lowest, highest = LISTING.limits_paise
    assert all(lowest <= one.price_paise <= highest for one in exchange.executions)
    assert len({one.trade_id for one in exchange.executions}) == len(exchange.executions)
    assert all(sum(level.shares <= 0 for level in side) == 0 for side in (bench.street.bids, bench.street.asks))


def test_one_seed_gives_one_rehearsal() -> None:
    def run() -> list[tuple[int, int]]:
        bench = Bench(seed=7)
        for price in (150_000, 150_050, 149_900, 150_000):
            bench.exchange.trade("INFY", price, 100)
            bench.ask(quantity=20)
        return [(one.shares, one.price_paise) for one in bench.exchange.executions]

    assert run() == run() != []
