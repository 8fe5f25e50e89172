"""A rehearsed day from its first minute to its last: its hours, what happens in them, and the laws that always hold."""

import datetime as dt
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from rehearsals import AUCTION_DAY, MUHURAT, SPLIT, asked, at, buy, rehearsal, rest_of, whole_day

from finsense.live.brokers.errors import Rejected, UnknownFate
from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.booked import RISK_SYSTEM, BookedOrder, Refused
from finsense.live.rehearsal.faults import Fault, Faults
from finsense.live.rehearsal.hours import Phase
from finsense.live.rehearsal.purse import Holding
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.market.bars import Bars
from finsense.market.simulate import SimulatedMarket

SYMBOL = "SIMA"


def place(played: Rehearsal, side: str = "BUY", quantity: int = 10, **parts: Any) -> BookedOrder:
    """An order at the exchange itself."""
    exchange = played.exchange
    request = buy(f"t{len(exchange.orders)}", quantity, **{"symbol": SYMBOL, "side": side, **parts})
    return played.call(lambda: exchange.order(exchange.place(request)))


def phase(played: Rehearsal) -> Phase:
    return played.call(lambda: played.exchange.phase(SYMBOL))


def listed_with_derivatives() -> Bars:
    """A simulated share that closes in an auction."""
    market = SimulatedMarket.model_validate(
        {"model": "random_walk", "symbols": (SYMBOL,), "interval": "1m", "seed": 5}
        | {"first": AUCTION_DAY - dt.timedelta(days=2), "last": AUCTION_DAY}
    )
    (bars,) = market.load().values()
    minute = (bars.time_ns // 60_000_000_000 + 330) % 1440
    kept = minute < 15 * 60 + 15
    columns = {name: getattr(bars, name)[kept] for name in ("time_ns", "open", "high", "low", "close", "volume")}
    return Bars(SYMBOL, "1m", **columns, derivatives=True)


def test_orders_end_with_the_day_and_the_server_stays_up(tmp_path: Path) -> None:
    with whole_day(SYMBOL, balance_paise=10**9) as played:
        assert phase(played) is Phase.CLOSED
        assert place(played).status == "REJECTED"
        played.play_until(at("09:20"))
        street = played.exchange.streets[SYMBOL]
        far = street.last_paise * 95 // 100 // 10 * 10
        delivery = place(played, kind="LIMIT", price_paise=far, product="CNC")
        stop = place(played, "SELL", kind="SL-M", trigger_paise=far, product="MIS")
        played.play_until(at("15:29:59"))
        assert delivery.working
        played.play_until(at("15:30"))
        assert (delivery.status, delivery.reason) == ("CANCELLED", "Expired at the end of the day")
        assert "square-off" in stop.reason
        played.play_until(at("18:00"))
        kite = rest_of(played, tmp_path, played.log_in())
        assert [row.status for row in kite.orders()] == ["REJECTED", "CANCELLED", "CANCELLED"]
        with pytest.raises(Rejected, match="is CANCELLED"):
            kite.cancel(delivery.order_id)
        kite.place(buy("late", symbol=SYMBOL))
        assert kite.orders()[-1].reason == "Markets are closed right now. Use AMO orders."
        kite.close()
        assert asked(played.root, "state")["over"]
        assert asked(played.root, "clock") == {"now_ns": at("18:00"), "speed": 0.0}


@pytest.mark.parametrize("side", ["BUY", "SELL"])
def test_the_broker_squares_intraday_positions_off(side: str) -> None:
    with whole_day(SYMBOL, balance_paise=10**9) as played:
        played.play_until(at("15:00"))
        assert place(played, side).status == "COMPLETE"
        kept = place(played, "BUY", product="CNC")
        resting = place(played, side, kind="LIMIT", price_paise=played.exchange.streets[SYMBOL].last_paise // 100 * 95)
        played.play_until(at("15:19:59"))
        assert played.exchange.positions[SYMBOL, "MIS"] != 0
        played.play_until(at("15:25"))
        assert played.exchange.positions == {(SYMBOL, "MIS"): 0, (SYMBOL, "CNC"): kept.filled}
        assert not resting.working
        (squared,) = [one for one in played.exchange.orders if one.placed_by == RISK_SYSTEM]
        assert (squared.status, squared.placed_ns) == ("COMPLETE", at("15:20"))
        late = place(played, side)
        assert "not allowed after the square-off" in late.reason
        assert place(played, "SELL", product="CNC").status == "COMPLETE"


def test_the_closing_auction() -> None:
    with stage([listed_with_derivatives()], AUCTION_DAY, speed=0, balance_paise=10**10) as played:
        played.play_until(at("15:14:59", AUCTION_DAY))
        street = played.exchange.streets[SYMBOL]
        last, tick = street.last_paise, street.listing.tick_paise
        passive = place(played, kind="LIMIT", price_paise=last - 20 * tick, product="CNC")
        carried = place(played, kind="LIMIT", price_paise=last - 400 * tick, product="CNC")
        stop = place(
            played, "SELL", kind="SL-M", trigger_paise=last - 100 * tick, product="CNC", quantity=passive.filled or 1
        )
        played.play_until(at("15:15", AUCTION_DAY))
        minutes = played.tapes[SYMBOL].minutes[-15:]
        average = sum(one.value_paise for one in minutes) // sum(one.shares for one in minutes)
        assert abs(street.reference_paise - average) < tick
        assert not stop.working
        assert phase(played) is Phase.AUCTION_WAIT
        assert place(played, product="CNC").status == "REJECTED"
        played.play_until(at("15:20", AUCTION_DAY))
        market = place(played, product="CNC")
        low, high = street.limits_paise
        assert street.reference_paise * 0.97 <= low < high <= street.reference_paise * 1.03
        outside = place(played, kind="LIMIT", price_paise=low - tick, product="CNC")
        assert "outside the circuit limits" in outside.reason
        played.play_until(at("15:26", AUCTION_DAY))
        assert place(played, product="CNC").status == "REJECTED"
        limit = place(played, kind="LIMIT", price_paise=high, product="CNC", quantity=7)
        assert (market.filled, limit.filled) == (0, 0)
        played.play_until(at("15:30", AUCTION_DAY))
        assert (market.status, limit.status, carried.status) == ("COMPLETE", "COMPLETE", "CANCELLED")
        closing = {one.price_paise for one in played.exchange.executions if one.order in (market, limit)}
        assert closing == {street.last_paise}
        assert low <= street.last_paise <= high
        assert street.traded_ns < at("15:30", AUCTION_DAY) == played.end_ns


def test_a_halt_to_the_end_of_the_day_leaves_no_auction() -> None:
    halt = (at("14:00", AUCTION_DAY), at("16:00", AUCTION_DAY))
    with stage([listed_with_derivatives()], AUCTION_DAY, speed=0, balance_paise=10**10, halts=(halt,)) as played:
        played.play_until(at("13:59:59", AUCTION_DAY))
        street = played.exchange.streets[SYMBOL]
        order = place(played, kind="LIMIT", price_paise=street.last_paise * 98 // 100 // 10 * 10, product="CNC")
        volume = street.volume
        played.play_until(played.end_ns)
        assert (street.volume, order.status) == (volume, "CANCELLED")


def test_nothing_trades_in_a_halt_and_orders_wait_for_its_end() -> None:
    halt = (at("11:00"), at("11:45"))
    with whole_day(SYMBOL, balance_paise=10**9, halts=(halt,)) as played:
        played.play_until(at("10:59:59"))
        street = played.exchange.streets[SYMBOL]
        waiting = place(played, kind="LIMIT", price_paise=street.last_paise - 500)
        volume = street.volume
        played.play_until(at("11:30"))
        assert phase(played) is Phase.HALTED
        assert (street.volume, waiting.working) == (volume, True)
        assert place(played).status == "REJECTED"
        with pytest.raises(Refused, match="Markets are closed right now"):
            played.call(lambda: played.exchange.cancel(waiting.order_id))
        played.play_until(at("12:00"))
        assert street.volume > volume
        assert place(played).status == "COMPLETE"
        starts = {one.time_ns for one in played.tapes[SYMBOL].minutes}
        assert not any(halt[0] <= start < halt[1] for start in starts)


def test_in_an_outage_orders_have_an_unknown_fate_and_readings_go_on(tmp_path: Path) -> None:
    with whole_day(SYMBOL, balance_paise=10**9, outages=((at("11:00"), at("11:45")),)) as played:
        played.play_until(at("11:10"))
        kite = rest_of(played, tmp_path, played.log_in())
        with pytest.raises(UnknownFate, match="cannot be reached"):
            kite.place(buy(symbol=SYMBOL))
        assert kite.orders() == []
        assert phase(played) is Phase.OUTAGE
        played.play_until(at("11:45"))
        kite.place(buy(symbol=SYMBOL))
        assert kite.orders()[0].status == "COMPLETE"
        kite.close()


@pytest.mark.parametrize(
    ("date", "open_at", "closed_at", "trades"),
    [(MUHURAT, "18:15", "19:15", 60 * 4), (SPLIT, "09:15", "12:30", 105 * 4)],
    ids=["Muhurat", "two windows"],
)
def test_special_sessions(date: dt.date, open_at: str, closed_at: str, trades: int) -> None:
    with whole_day(SYMBOL, date=date, balance_paise=10**9) as played:
        assert played.end_ns == at(closed_at, date)
        played.play_until(at(open_at, date) - 1)
        assert phase(played) is Phase.CLOSED
        played.play_until(at(open_at, date))
        assert phase(played) is Phase.CONTINUOUS
        order = place(played)
        if date == SPLIT:
            played.play_until(at("10:30", date))
            assert phase(played) is Phase.CLOSED
        counted = played.play_until(played.end_ns)
        assert 0 < counted <= trades
        assert order.filled == 10
        assert played.exchange.positions[SYMBOL, "MIS"] == 0
        assert played.play() == 0


def test_a_late_start_is_the_day_played_so_far() -> None:
    with (
        whole_day(SYMBOL, balance_paise=10**9) as slow,
        whole_day(SYMBOL, balance_paise=10**9, start_ns=at("11:00")) as late,
    ):
        slow.play_until(at("11:00"))
        assert late.clock.now_ns() == at("11:00")
        assert late.tapes[SYMBOL].minutes == slow.tapes[SYMBOL].minutes
        assert late.exchange.streets[SYMBOL].asks == slow.exchange.streets[SYMBOL].asks


def test_a_day_that_runs_by_its_clock_is_the_one_that_is_played_by_hand() -> None:
    """However far the machine falls behind, the minutes and the book are the same, and time does not run past them."""
    with (
        whole_day(SYMBOL, balance_paise=10**9, speed=20_000) as running,
        pytest.raises(RuntimeError, match="by its clock"),
    ):
        running.play()
    with (
        whole_day(SYMBOL, balance_paise=10**9, speed=20_000) as running,
        whole_day(SYMBOL, balance_paise=10**9) as hand,
    ):
        hand.play_until(hand.end_ns)
        for _ in range(3000):
            if running.clock.now_ns() > running.end_ns:
                break
            time.sleep(0.01)
        assert running.running
        assert running.tapes[SYMBOL].minutes == hand.tapes[SYMBOL].minutes
        assert running.exchange.streets[SYMBOL].bids == hand.exchange.streets[SYMBOL].bids


def disturbed_day(seed: int) -> tuple[Any, Any, Any]:
    """A day with orders of all kinds, changes and cancellations; what came of it."""
    generator = np.random.default_rng(seed)
    holdings = {"INFY": Holding(30, 20)}
    with rehearsal(seed, seconds=400, balance_paise=200_000_000, holdings=holdings) as played:
        for _ in range(80):
            played.play(int(generator.integers(1, 10)))
            played.call(lambda: _act(played, generator))
            _check_laws(played)
        played.play_until(played.end_ns)
        _check_laws(played)
        exchange = played.exchange
        return (
            [(one.order_id, one.status, one.filled_paise, tuple(one.history)) for one in exchange.orders],
            [(one.trade_id, one.shares, one.price_paise, one.time_ns) for one in exchange.executions],
            {symbol: tuple(tape.minutes) for symbol, tape in played.tapes.items()},
        )


def _act(played: Rehearsal, generator: np.random.Generator) -> None:
    exchange = played.exchange
    symbol = ("INFY", "TCS")[int(generator.integers(2))]
    last = exchange.streets[symbol].known_paise
    near = last + 10 * int(generator.integers(-15, 16))
    terms: dict[str, Any] = {
        "symbol": symbol,
        "side": ("BUY", "SELL")[int(generator.integers(2))],
        "product": ("MIS", "CNC")[int(generator.integers(2))],
        "kind": ("MARKET", "LIMIT", "SL", "SL-M")[int(generator.integers(4))],
    }
    if terms["kind"] in ("LIMIT", "SL"):
        terms["price_paise"] = near
    if terms["kind"] in ("SL", "SL-M"):
        terms["trigger_paise"] = near + (20 if terms["side"] == "BUY" else -20)
    try:
        if exchange.orders and generator.random() < 0.3:
            old = exchange.orders[int(generator.integers(len(exchange.orders)))]
            if generator.random() < 0.5:
                exchange.cancel(old.order_id)
            else:
                changed = OrderRequest(
                    "t", old.request.symbol, old.request.side, 50, "LIMIT", old.request.product, near
                )
                exchange.modify(old.order_id, changed)
        else:
            exchange.place(buy("t", int(generator.integers(1, 120)), **terms))
    except Refused:
        pass


def _check_laws(played: Rehearsal) -> None:
    exchange = played.exchange
    cash, positions = exchange.purse.opening_paise, dict.fromkeys(exchange.positions, 0)
    for one in exchange.executions:
        signed = one.shares if one.order.request.side == "BUY" else -one.shares
        cash -= signed * one.price_paise
        positions[one.order.request.symbol, one.order.request.product] += signed
        lowest, highest = exchange.streets[one.order.request.symbol].listing.limits_paise
        assert lowest <= one.price_paise <= highest
        session = played.sessions[one.order.request.symbol]
        assert any(begin <= one.time_ns < end for begin, end in session.windows)
        limit = one.order.request.price_paise
        if limit is not None and not one.order.changed:
            assert one.price_paise <= limit if signed > 0 else one.price_paise >= limit
    # What was paid is in the shares: nothing comes from nowhere.
    assert (cash, positions) == (exchange.cash_paise, exchange.positions)
    for order in exchange.orders:
        assert 0 <= order.filled <= order.request.quantity
        assert (order.status == "COMPLETE") == (order.left == 0)
    for symbol, held in exchange.purse.holdings.items():
        assert held.shares + exchange.positions.get((symbol, "CNC"), 0) >= 0
    assert exchange.positions.get(("TCS", "CNC"), 0) >= 0
    shorts = sum(one.short_paise for one in exchange.purse.positions.values())
    assert exchange.spendable_paise <= exchange.cash_paise - 2 * shorts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_seed_gives_one_day_and_its_laws_hold(seed: int) -> None:
    first = disturbed_day(seed)
    assert first == disturbed_day(seed)
    assert first[0] != disturbed_day(seed + 10)[0]
    assert len(first[1]) > 20


def test_what_we_do_does_not_move_the_market() -> None:
    with rehearsal(4, seconds=400) as quiet:
        quiet.play_until(quiet.end_ns)
        tapes = {symbol: tuple(tape.minutes) for symbol, tape in quiet.tapes.items()}
    assert disturbed_day(4)[2] == tapes


def test_faults_by_name_and_the_day_from_another_process(tmp_path: Path) -> None:
    with rehearsal(faults=Faults()) as played:
        assert asked(played.root, "play", {"trades": 4})["trades"] == 4
        until = asked(played.root, "play", {"until_ns": at("09:16")})
        assert until["now_ns"] == at("09:16")
        asked(played.root, "faults", {"name": "too_many_json", "count": 2})
        kite = rest_of(played, tmp_path, played.log_in())
        for _ in range(2):
            with pytest.raises(Exception, match="Too many requests"):
                kite.orders()
        assert kite.orders() == []
        kite.place(buy(quantity=3))
        state = asked(played.root, "state")
        assert state["struck"] == {"too_many_json": 2}
        assert (state["orders"], state["executions"], state["positions"]) == (1, 1, {"INFY MIS": 3})
        assert state["cash_paise"] == played.exchange.cash_paise
        asked(played.root, "faults", {"name": "token_expired", "now": True})
        assert not asked(played.root, "state")["logged_in"]
        asked(played.root, "faults", {"name": "update_lost", "rate": 0.5})
        assert played.faults.rates == {Fault.UPDATE_LOST: 0.5}
        for path, body in (
            ("faults", {"name": "nope"}),
            ("faults", {"name": "tick_gap", "rate": 2}),
            ("faults", {}),
            ("play", {}),
            ("play", {"trades": "many"}),
        ):
            with pytest.raises(OSError, match="400"):
                asked(played.root, path, body)
        kite.close()
