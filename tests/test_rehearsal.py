"""Our Kite clients, and the vendor's own, against the rehearsal on loopback, in good weather and in bad."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from kiteconnect import exceptions as kite_exceptions
from rehearsals import INFY, TCS, buy, rehearsal, rest_of
from websockets.sync.client import connect

from finsense.live.brokers.errors import AuthExpired, RateLimited, Rejected, TransientRead, UnknownFate
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.feeds.kite_stream import Connected, Event, Idle, KiteStream, Lost, OrderUpdate, Patience, Ticks
from finsense.live.orders import OrderState, TrackedOrder, find_by_tag
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.server import API_KEY, API_SECRET, Rehearsal

QUICK = Patience(poll_s=0.02, silence_s=2.5, first_retry_s=0.02, longest_retry_s=0.05)


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal() as opened:
        opened.play(20)
        yield opened


@pytest.fixture
def kite(stage: Rehearsal, tmp_path: Path) -> Iterator[KiteRest]:
    client = rest_of(stage, tmp_path, stage.log_in(), timeout_s=1.0)
    yield client
    client.close()


def test_an_order_fills_and_all_books_agree(stage: Rehearsal, kite: KiteRest) -> None:
    cash = kite.cash_paise()
    order = TrackedOrder(request := buy(quantity=10)).accepted(kite.place(request))
    (row,), trades = kite.orders(), kite.trades()
    order = order.seen(row)
    assert (order.state, order.filled_quantity) == (OrderState.COMPLETE, 10)
    assert sum(trade.quantity for trade in trades) == 10
    spent = sum(trade.quantity * trade.price_paise for trade in trades)
    assert kite.cash_paise() == cash - spent
    assert [(one.symbol, one.product, one.quantity) for one in kite.positions()] == [("INFY", "MIS", 10)]
    assert all(trade.time_ns == stage.clock.now_ns() for trade in trades)


def test_a_limit_order_is_changed_and_cancelled(kite: KiteRest) -> None:
    request = buy(kind="LIMIT", price_paise=149_000)
    order_id = kite.place(request)
    kite.modify(order_id, buy(kind="LIMIT", price_paise=149_100, quantity=20))
    (row,) = kite.orders()
    assert (row.quantity, row.status) == (20, "OPEN")
    kite.cancel(order_id)
    assert kite.orders()[0].status == "CANCELLED"
    with pytest.raises(Rejected, match="cannot be changed as it is CANCELLED"):
        kite.cancel(order_id)


def test_the_days_instruments_have_their_tick(kite: KiteRest) -> None:
    assert {one.symbol: (one.token, one.tick_paise) for one in kite.instruments()} == {
        "INFY": (INFY, 10),
        "TCS": (TCS, 10),
    }


def test_a_login_gives_a_token_once(stage: Rehearsal, tmp_path: Path) -> None:
    client = KiteRest(API_KEY, None, RateLimits(tmp_path / "limits.db"), root=stage.root)
    with pytest.raises(AuthExpired, match="no access token yet"):
        client.orders()
    request_token = stage.call(stage.rest.new_login)
    with pytest.raises(AuthExpired):
        client.log_in(request_token, "wrong secret")
    token = client.log_in(request_token, API_SECRET)
    assert token in stage.rest.access_tokens
    assert client.orders() == []
    with pytest.raises(AuthExpired):
        client.log_in(request_token, API_SECRET)
    client.close()


@pytest.mark.parametrize(
    ("fault", "order", "reading"),
    [
        (Fault.TOO_MANY_JSON, RateLimited, RateLimited),
        (Fault.TOO_MANY_HTML, UnknownFate, TransientRead),
        (Fault.GATEWAY_PAGE, UnknownFate, TransientRead),
        (Fault.TOKEN_EXPIRED, AuthExpired, AuthExpired),
        (Fault.ADDRESS_REFUSED, Rejected, Rejected),
    ],
)
def test_a_request_that_was_not_carried_out(
    stage: Rehearsal, kite: KiteRest, fault: Fault, order: type[Exception], reading: type[Exception]
) -> None:
    stage.faults.order(fault)
    with pytest.raises(order):
        kite.place(buy())
    assert stage.exchange.orders == []
    # A dead token stays dead, and reading needs no registered address.
    if fault not in (Fault.TOKEN_EXPIRED, Fault.ADDRESS_REFUSED):
        stage.faults.order(fault)
        with pytest.raises(reading):
            kite.orders()
        assert kite.orders() == []


@pytest.mark.parametrize(
    "fault", [Fault.HANG_AFTER_ACCEPTING, Fault.ANSWER_LOST, Fault.ANSWER_IS_GATEWAY_PAGE], ids=str
)
def test_an_order_whose_answer_is_lost_exists_once_and_is_found_by_its_tag(
    stage: Rehearsal, kite: KiteRest, fault: Fault
) -> None:
    order = TrackedOrder(buy("fs7"))
    stage.faults.order(fault)
    with pytest.raises(UnknownFate):
        kite.place(order.request)
    order = order.lost()
    row = find_by_tag(kite.orders(), "fs7")
    assert row is not None
    assert order.seen(row).state is OrderState.COMPLETE
    assert len(stage.exchange.orders) == 1


def test_a_rejection_may_come_later(stage: Rehearsal, kite: KiteRest) -> None:
    stage.faults.order(Fault.LATE_REJECTION)
    order_id = kite.place(buy(kind="LIMIT", price_paise=149_000))
    _until(lambda: kite.orders()[0].status == "REJECTED")
    assert kite.orders()[0].order_id == order_id
    assert "rejected by the rehearsal" in kite.orders()[0].reason


def test_a_fill_may_be_faster_than_its_cancellation(stage: Rehearsal, kite: KiteRest) -> None:
    order_id = kite.place(buy(kind="LIMIT", price_paise=149_000))
    stage.faults.order(Fault.CANCEL_LOSES_TO_FILL)
    with pytest.raises(Rejected, match="cannot be changed as it is COMPLETE"):
        kite.cancel(order_id)
    assert kite.orders()[0].filled_quantity == 10


def test_more_orders_than_the_account_may_send_are_refused_by_the_server(
    stage: Rehearsal, kite: KiteRest, tmp_path: Path
) -> None:
    """Another process that does not share our limits has used them up."""

    def use_up() -> None:
        for _ in range(10):
            assert stage.limits.admit("order")

    stage.call(use_up)
    with pytest.raises(RateLimited):
        kite.place(buy())


@pytest.mark.parametrize(
    "parts",
    [
        {"kind": "LIMIT", "price_paise": 150_005},
        {"symbol": "UNKNOWN"},
    ],
    ids=["off the grid of ticks", "unknown symbol"],
)
def test_what_the_vendor_refuses_at_its_door(stage: Rehearsal, kite: KiteRest, parts: dict[str, Any]) -> None:
    with pytest.raises(Rejected):
        kite.place(buy(**parts))
    assert kite.orders() == []


def test_the_stream_tells_ticks_and_our_own_orders(stage: Rehearsal, kite: KiteRest) -> None:
    found = _watch(stage, lambda: (stage.play(4), kite.place(buy())), 8)
    kinds = [type(event) for event in found]
    assert kinds[:3] == [Connected, Ticks, Ticks]
    assert kinds.count(Ticks) >= 3
    updates = [event.fields for event in found if isinstance(event, OrderUpdate)]
    assert updates[-1]["status"] in ("OPEN", "COMPLETE")
    assert updates[-1]["checksum"] == ""
    quoted, full = (event.ticks[0][1] for event in found[1:3] if isinstance(event, Ticks))
    # A subscription begins in quote mode, which has neither stamp nor book.
    assert (quoted.time_ns, quoted.depth) == (0, None)
    assert full.depth is not None
    assert full.volume


@pytest.mark.parametrize("fault", [Fault.STREAM_DROPPED, Fault.STREAM_SILENT], ids=str)
def test_a_lost_stream_comes_back(stage: Rehearsal, fault: Fault) -> None:
    stage.faults.order(fault)
    found = _watch(stage, lambda: stage.play(2), 5)
    assert [type(event) for event in found if not isinstance(event, Ticks)][:3] == [Connected, Lost, Connected]


def test_odd_packets_and_repeated_ticks_do_no_harm(stage: Rehearsal) -> None:
    stage.faults.order(Fault.ODD_PACKET, Fault.TICKS_REPEATED, Fault.TICKS_OUT_OF_ORDER)
    found = _watch(stage, lambda: stage.play(6), 6)
    assert not any(isinstance(event, Lost) for event in found)
    assert [len(event.ticks) for event in found if isinstance(event, Ticks)][2:5] == [1, 2, 2]


def test_a_dead_token_ends_the_stream(stage: Rehearsal) -> None:
    stream = KiteStream(API_KEY, "dead", [INFY], root=stage.stream_root, patience=QUICK)
    with pytest.raises(AuthExpired, match="log in again"):
        list(stream.events())


VENDOR = """
import json, sys, threading
from kiteconnect import KiteConnect, KiteTicker
root, stream, key, token = sys.argv[1:5]
kite = KiteConnect(key, token, root=root)
kite.reqsession.trust_env = False
said = {}
said["profile"] = kite.profile()["user_name"]
said["instruments"] = sorted(one["tradingsymbol"] for one in kite.instruments("NSE"))
said["quote"] = sorted(kite.quote("NSE:INFY", "NSE:NONE"))
said["ltp"] = kite.ltp("NSE:INFY")["NSE:INFY"]["last_price"]
said["ohlc"] = sorted(kite.ohlc("NSE:INFY")["NSE:INFY"]["ohlc"])
order = kite.place_order("regular", "NSE", "INFY", "BUY", 5, "MIS", "MARKET", market_protection=-1, tag="vendor")
said["history"] = [one["status"] for one in kite.order_history(order)]
said["filled"] = sum(one["quantity"] for one in kite.order_trades(order))
said["book"] = [(one["order_id"] == order, one["tag"]) for one in kite.orders()]
said["positions"] = [one["quantity"] for one in kite.positions()["net"]]
said["margins"] = kite.margins("equity")["available"]["live_balance"] > 0
for name, call in {
    "market without protection": lambda: kite.place_order("regular", "NSE", "INFY", "BUY", 1, "MIS", "MARKET"),
    "long tag": lambda: kite.place_order("regular", "NSE", "INFY", "BUY", 1, "MIS", "LIMIT", price=1500, tag="x" * 21),
    "no such order": lambda: kite.cancel_order("regular", "999"),
}.items():
    try:
        call()
    except Exception as error:
        said[name] = [type(error).__name__, error.code]
ticker = KiteTicker(key, token, root=stream, connect_timeout=5)
ticks, ready = [], threading.Event()
ticker.on_connect = lambda ws, _: (ws.subscribe([408065]), ws.set_mode(ws.MODE_FULL, [408065]))
def on_ticks(ws, found):
    ticks.extend(found)
    if ticks[-1]["mode"] == "full":
        ready.set()
ticker.on_ticks = on_ticks
ticker.connect(threaded=True)
said["ticked"] = ready.wait(20)
said["tick"] = {name: ticks[-1][name] for name in ("instrument_token", "mode", "last_price", "volume_traded")}
said["depth"] = [len(ticks[-1]["depth"][side]) for side in ("buy", "sell")]
ticker.close()
print(json.dumps(said))
"""


def test_the_vendors_own_client_and_ticker_work_unmodified() -> None:
    with rehearsal(limits={}) as stage:
        stage.play(20)
        _drive_the_vendors_own(stage, stage.log_in())


def _drive_the_vendors_own(stage: Rehearsal, token: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", VENDOR, stage.root, stage.stream_root, API_KEY, token],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    street = stage.exchange.streets["INFY"]
    assert said["profile"] == "Rehearsal"
    assert said["instruments"] == ["INFY", "TCS"]
    assert said["quote"] == ["NSE:INFY"]
    assert said["ohlc"] == ["close", "high", "low", "open"]
    assert said["history"][:3] == ["PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING"]
    assert said["history"][-1] == "COMPLETE"
    assert (said["filled"], said["positions"], said["book"]) == (5, [5], [[True, "vendor"]])
    assert said["margins"]
    assert said["market without protection"] == ["InputException", 400]
    assert said["long tag"] == ["InputException", 400]
    assert said["no such order"] == ["OrderException", 400]
    assert said["ticked"]
    assert said["tick"] == {
        "instrument_token": INFY,
        "mode": "full",
        "last_price": street.last_paise / 100,
        "volume_traded": street.volume,
    }
    assert said["depth"] == [5, 5]


def test_what_no_exchange_knows_harms_nobody(stage: Rehearsal, kite: KiteRest) -> None:
    """A side, a kind, a mode that do not exist are refused or left alone, and the market plays on."""
    client = kite._client
    for changes in ({"transaction_type": "HOLD"}, {"order_type": "FOO"}, {"product": "NRML"}, {"quantity": "ten"}):
        terms = {"transaction_type": "BUY", "order_type": "MARKET", "product": "MIS", "quantity": 1, **changes}
        with pytest.raises(kite_exceptions.InputException):
            client.place_order("regular", "NSE", tradingsymbol="INFY", market_protection=-1, tag="x", **terms)
    token = _token(stage)
    with connect(f"{stage.stream_root}?api_key={API_KEY}&access_token={token}", proxy=None) as socket:
        for text in ("nonsense", "[]", '{"a": "mode", "v": ["foo", [408065]]}', '{"a": "subscribe", "v": ["x"]}'):
            socket.send(text)
        socket.send('{"a": "mode", "v": ["full", [408065]]}')
        socket.recv(timeout=10)
        assert stage.play(4) == 4
    assert kite.orders() == []


def test_a_market_that_fails_is_told() -> None:
    failing = rehearsal(speed=1000.0)

    def broken() -> None:
        raise KeyError("NOBODY")

    failing.appoint(failing.clock.start_ns + 1, broken)
    failing.__enter__()
    for _ in range(200):
        if not failing.running:
            break
        time.sleep(0.02)
    assert not failing.running
    with pytest.raises(RuntimeError, match="the rehearsal failed: KeyError"):
        failing.__exit__()


def _watch(stage: Rehearsal, act: Any, enough: int) -> list[Event]:
    """Open a stream, act once it is subscribed, and give its first events, Idle ones left out."""
    stream = KiteStream(API_KEY, _token(stage), [INFY, TCS], root=stage.stream_root, patience=QUICK)
    found: list[Event] = []
    acted = False
    for event in stream.events():
        if not isinstance(event, Idle):
            found.append(event)
        if not acted and isinstance(event, Ticks) and event.ticks[0][1].depth is not None:
            acted = True
            act()
        if len(found) >= enough:
            stream.close()
    return found


def _token(stage: Rehearsal) -> str:
    tokens = stage.call(lambda: list(stage.rest.access_tokens))
    return str(tokens[0]) if tokens else stage.log_in()


def _until(true: Any) -> None:
    for _ in range(100):
        if true():
            return
    pytest.fail("it did not happen")
