"""What the rehearsal lets go wrong: every fault has its effect, and raises in the vendor's client what it must."""

import json
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET, socket
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from kiteconnect import KiteConnect
from kiteconnect import exceptions as kite_exceptions
from rehearsals import INFY, SECOND_NS, TCS, buy, rehearsal, rest_of
from requests import exceptions as http
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from finsense.live.brokers.errors import Rejected, UnknownFate
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import Limit
from finsense.live.feeds.kite_packets import FrameDecoder, ticks_of
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.limits import ServerLimits, endpoint_of
from finsense.live.rehearsal.server import API_KEY, API_SECRET, Rehearsal
from finsense.market.ticks import Tick


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal(limits={}) as opened:
        opened.play(20)
        yield opened


@pytest.fixture
def vendor(stage: Rehearsal) -> Iterator[KiteConnect]:
    """The vendor's own client."""
    client = KiteConnect(API_KEY, stage.log_in(), root=stage.root, timeout=1)
    client.reqsession.trust_env = False
    yield client
    client.reqsession.close()


@pytest.fixture
def kite(stage: Rehearsal, tmp_path: Path) -> Iterator[KiteRest]:
    client = rest_of(stage, tmp_path, stage.log_in(), timeout_s=1.0)
    yield client
    client.close()


def order_of_the_vendor(client: KiteConnect, **parts: Any) -> str:
    terms = {"quantity": 10, "product": "MIS", "order_type": "MARKET", "market_protection": -1, "tag": "v1", **parts}
    return str(client.place_order("regular", "NSE", "INFY", "BUY", **terms))


RAISED = {
    Fault.TOO_MANY_JSON: (kite_exceptions.NetworkException, 429),
    Fault.TOO_MANY_HTML: (kite_exceptions.DataException, 502),
    Fault.GATEWAY_PAGE: (kite_exceptions.DataException, 502),
    Fault.TOKEN_EXPIRED: (kite_exceptions.TokenException, 403),
    Fault.ADDRESS_REFUSED: (kite_exceptions.PermissionException, 403),
    Fault.SERVER_RESTART: (http.ConnectionError, None),
    Fault.HANG_AFTER_ACCEPTING: (http.ReadTimeout, None),
    Fault.ANSWER_LOST: (http.ConnectionError, None),
    Fault.ANSWER_IS_GATEWAY_PAGE: (kite_exceptions.DataException, 502),
}


@pytest.mark.parametrize("fault", RAISED, ids=str)
@pytest.mark.parametrize("act", ["place", "modify", "cancel"])
def test_the_vendors_client_raises_what_it_raises_at_the_vendor(
    stage: Rehearsal, vendor: KiteConnect, fault: Fault, act: str
) -> None:
    resting = order_of_the_vendor(vendor, order_type="LIMIT", market_protection=None, price=1490.0)
    acts: dict[str, Callable[[], Any]] = {
        "place": lambda: order_of_the_vendor(vendor, tag="v2"),
        "modify": lambda: vendor.modify_order("regular", resting, quantity=11),
        "cancel": lambda: vendor.cancel_order("regular", resting),
    }
    stage.faults.order(fault)
    kind, code = RAISED[fault]
    with pytest.raises(kind) as raised:
        acts[act]()
    assert getattr(raised.value, "code", None) == code
    assert stage.faults.struck == {fault: 1}
    done = fault in (Fault.HANG_AFTER_ACCEPTING, Fault.ANSWER_LOST, Fault.ANSWER_IS_GATEWAY_PAGE)
    first, *more = stage.exchange.orders
    assert (len(more), first.request.quantity, first.status) == {
        "place": (int(done), 10, "OPEN"),
        "modify": (0, 11 if done else 10, "OPEN"),
        "cancel": (0, 10, "CANCELLED" if done else "OPEN"),
    }[act]


@pytest.mark.parametrize("parts", [{}, {"order_type": "LIMIT", "price": 1490.0}], ids=["market", "limit"])
def test_orders_of_every_kind_meet_a_late_fate(stage: Rehearsal, vendor: KiteConnect, parts: dict[str, Any]) -> None:
    stage.faults.order(Fault.LATE_REJECTION, Fault.PARTIAL_THEN_CANCEL)
    order_of_the_vendor(vendor, **parts)
    (rejected,) = stage.exchange.orders
    assert (rejected.status, rejected.filled) == ("OPEN", 0)
    order_of_the_vendor(vendor, **parts)
    _until(lambda: not any(one.working for one in stage.exchange.orders))
    partial = stage.exchange.orders[1]
    assert (rejected.status, rejected.filled) == ("REJECTED", 0)
    assert (partial.status, partial.filled) == ("CANCELLED", 5)
    assert stage.faults.struck == {Fault.LATE_REJECTION: 1, Fault.PARTIAL_THEN_CANCEL: 1}


def test_a_fault_that_could_not_strike_waits_for_an_order_that_suits_it(stage: Rehearsal, vendor: KiteConnect) -> None:
    stage.faults.order(Fault.PARTIAL_THEN_CANCEL, Fault.CANCEL_LOSES_TO_FILL)
    order_of_the_vendor(vendor, quantity=10**9)
    one = order_of_the_vendor(vendor, quantity=1)
    assert [order.status for order in stage.exchange.orders] == ["REJECTED", "COMPLETE"]
    with pytest.raises(kite_exceptions.OrderException):
        vendor.cancel_order("regular", one)
    assert not stage.faults.struck
    order_of_the_vendor(vendor)
    assert stage.faults.struck == {Fault.PARTIAL_THEN_CANCEL: 1}
    resting = order_of_the_vendor(vendor, order_type="LIMIT", price=1490.0)
    with pytest.raises(kite_exceptions.OrderException, match="COMPLETE"):
        vendor.cancel_order("regular", resting)
    assert stage.faults.struck[Fault.CANCEL_LOSES_TO_FILL] == 1


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"validity": "IOC"}, "does not play `validity` IOC"),
        ({"validity": "TTL", "validity_ttl": 2}, "does not play `validity` TTL"),
        ({"variety": "amo"}, "does not play orders of the variety `amo`"),
        ({"variety": "iceberg", "iceberg_legs": 2, "iceberg_quantity": 5}, "variety `iceberg`"),
        ({"exchange": "BSE"}, "does not play `exchange` BSE"),
        ({"product": "NRML"}, "does not play `product` NRML"),
        ({"disclosed_quantity": 3}, "does not play `disclosed_quantity`"),
        ({"tag": "with-dash"}, "Invalid `tag`"),
        ({"tag": "x" * 21}, "Invalid `tag`"),
        ({"tag": ["a", "b"]}, "one `tag` per order"),
        ({"market_protection": 0}, "without market protection"),
        ({"order_type": "LIMIT", "price": 1490.05}, "Tick size"),
        ({"tradingsymbol": "NOBODY"}, "Invalid `tradingsymbol`"),
    ],
    ids=str,
)
def test_what_is_not_played_is_refused_in_the_vendors_form(
    stage: Rehearsal, vendor: KiteConnect, parts: dict[str, Any], told: str
) -> None:
    terms = {"variety": "regular", "exchange": "NSE", "tradingsymbol": "INFY", "transaction_type": "BUY"}
    more = {"quantity": 10, "product": "MIS", "order_type": "MARKET", "market_protection": -1}
    with pytest.raises(kite_exceptions.InputException, match=re.escape(told)) as refused:
        vendor.place_order(**{**terms, **more, **parts})
    assert refused.value.code == 400
    assert stage.exchange.orders == []


def test_a_change_at_the_market_needs_protection_too(vendor: KiteConnect) -> None:
    resting = order_of_the_vendor(vendor, order_type="LIMIT", price=1490.0)
    with pytest.raises(kite_exceptions.InputException, match="without market protection"):
        vendor.modify_order("regular", resting, order_type="MARKET")
    vendor.modify_order("regular", resting, order_type="MARKET", market_protection=-1)
    assert vendor.order_history(resting)[-1]["status"] == "COMPLETE"


def test_routes_that_the_rehearsal_lacks_answer_in_the_vendors_form(vendor: KiteConnect) -> None:
    with pytest.raises(kite_exceptions.GeneralException) as lacking:
        vendor.convert_position("NSE", "INFY", "BUY", "day", 1, "MIS", "CNC")
    assert lacking.value.code == 405
    with pytest.raises(kite_exceptions.GeneralException) as unknown:
        vendor.mf_orders()
    assert unknown.value.code == 404


def address(stage: Rehearsal, token: str | None = None) -> str:
    if token is None:
        (token,) = stage.logins.access_tokens or {stage.log_in()}
    return f"{stage.stream_root}/?api_key={API_KEY}&access_token={token}"


@contextmanager
def watched(stage: Rehearsal, mode: str = "full") -> Iterator[ClientConnection]:
    """A raw stream that is subscribed and has read its first pictures."""
    with connect(address(stage), proxy=None, max_queue=None, close_timeout=1) as stream:
        stream.send(json.dumps({"a": "subscribe", "v": [INFY]}))
        stream.send(json.dumps({"a": "mode", "v": [mode, [INFY]]}))
        pictures = [len(stream.recv(10)) for _ in range(2)]
        assert pictures == [4 + 44, 4 + {"full": 184, "ltp": 8}[mode]]
        yield stream


def refused(stage: Rehearsal, token: str | None = None) -> int:
    """The status with which the stream is refused."""
    with pytest.raises(InvalidStatus) as answer, connect(address(stage, token), proxy=None):
        pass
    return answer.value.response.status_code


def read_to_the_end(stream: ClientConnection) -> None:
    while True:
        stream.recv(10)


def ticks(stream: ClientConnection, count: int) -> list[Tick]:
    """The next so many ticks; heartbeats and texts are left out."""
    found: list[Tick] = []
    while len(found) < count:
        frame = stream.recv(10)
        if isinstance(frame, bytes):
            found += [tick for _, tick in ticks_of(FrameDecoder().decode(frame))]
    return found


def test_a_wrong_clock_shows_in_answers_and_ticks(stage: Rehearsal, vendor: KiteConnect) -> None:
    def off_s() -> float:
        answer = vendor.reqsession.get(f"{stage.root}/user/profile", timeout=5)
        return parsedate_to_datetime(answer.headers["Date"]).timestamp() - stage.clock.now_ns() // SECOND_NS

    assert off_s() == 0
    with watched(stage) as stream:
        stage.play(2)
        assert ticks(stream, 1)[0].time_ns == stage.clock.now_ns()
        stage.faults.order(Fault.CLOCK_SKEW)
        assert off_s() == 60
        stage.play(2)
        assert ticks(stream, 1)[0].time_ns == stage.clock.now_ns() + 60 * SECOND_NS
        stage.play_until(stage.clock.now_ns() + 301 * SECOND_NS)
        assert off_s() == 0
    assert stage.faults.struck == {Fault.CLOCK_SKEW: 1}


def test_a_minute_of_ticks_is_swallowed(stage: Rehearsal) -> None:
    with watched(stage) as stream:
        stage.faults.order(Fault.TICK_GAP)
        began_ns = stage.clock.now_ns()
        stage.play_until(began_ns + 120 * SECOND_NS)
        (tick,) = ticks(stream, 1)
        assert 60 * SECOND_NS <= tick.time_ns - began_ns <= 62 * SECOND_NS
    assert stage.faults.struck == {Fault.TICK_GAP: 1}


def test_an_update_may_be_lost(stage: Rehearsal, kite: KiteRest) -> None:
    with watched(stage) as stream:
        stage.faults.order(Fault.UPDATE_LOST)
        first, second = kite.place(buy("a", 1)), kite.place(buy("b", 1))
        while isinstance(text := stream.recv(10), bytes):
            continue
        assert json.loads(text)["data"]["order_id"] == second != first
    assert stage.faults.struck == {Fault.UPDATE_LOST: 1}


def test_the_server_comes_back_on_its_port_with_all_that_it_knew(stage: Rehearsal, kite: KiteRest) -> None:
    order_id = kite.place(buy(kind="LIMIT", price_paise=149_000))
    port = stage.port
    with watched(stage) as stream:
        stage.restart_server()
        with pytest.raises(ConnectionClosed):
            read_to_the_end(stream)
    assert stage.port == port
    assert [row.order_id for row in kite.orders()] == [order_id]
    kite.cancel(order_id)


def test_a_dead_token_ends_the_streams_and_the_next_login_the_one_before(stage: Rehearsal, kite: KiteRest) -> None:
    with watched(stage) as stream:
        stage.expire_token()
        with pytest.raises(ConnectionClosed):
            read_to_the_end(stream)
    assert refused(stage, "dead") == 403
    first = stage.log_in()
    second = stage.log_in()
    assert first != second
    assert stage.logins.access_tokens == {second}


def test_a_client_that_does_not_read_is_dropped_and_the_market_goes_on() -> None:
    with rehearsal(seconds=4000) as stage, socket() as narrow:
        narrow.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        narrow.connect(("127.0.0.1", stage.port))
        with connect(address(stage), sock=narrow, max_queue=1, close_timeout=0.1) as deaf:
            deaf.send(json.dumps({"a": "mode", "v": ["full", [INFY, TCS]]}))
            _until(lambda: stage.call(lambda: any(one.modes for one in stage.stream._clients)))
            assert stage.play(8000) == 8000
            assert stage.call(lambda: stage.stream.clients) == 0


def test_connections_and_instruments_are_counted(stage: Rehearsal) -> None:
    token = stage.log_in()
    with ExitStack() as opened:
        sockets = [opened.enter_context(connect(address(stage, token), proxy=None)) for _ in range(3)]
        assert refused(stage) == 429
        sockets[0].send(json.dumps({"a": "subscribe", "v": [*range(1, 3001), INFY]}))
        while isinstance(text := sockets[0].recv(10), bytes):
            continue
        assert json.loads(text) == {"type": "error", "data": "At most 3000 instruments."}
    _until(lambda: stage.call(lambda: stage.stream.clients) == 0)
    with watched(stage):
        assert stage.call(lambda: stage.stream.clients) == 1


def test_a_stream_beats_in_single_bytes(stage: Rehearsal) -> None:
    with watched(stage, "ltp") as stream:
        assert stream.recv(10) == b"\x00"


def test_before_the_first_trade_a_picture_shows_the_close_of_the_day_before() -> None:
    with rehearsal() as stage, watched(stage) as stream:
        stream.send(json.dumps({"a": "mode", "v": ["full", [TCS]]}))
        (tick,) = ticks(stream, 1)
        assert (tick.last_price, tick.volume) == (3100.0, 0)
        assert tick.time_ns == stage.clock.now_ns()


LIMITS = {
    "order": (Limit(3, 1), Limit(5, 60)),
    "quote": (Limit(1, 1),),
    "historical": (Limit(2, 1),),
    "other": (Limit(4, 1),),
}


def test_each_class_of_requests_has_its_limits() -> None:
    now = [0.0]
    limits = ServerLimits(LIMITS, now_s=lambda: now[0])
    assert [limits.admit("order") for _ in range(4)] == [True, True, True, False]
    now[0] = 1.0
    assert [limits.admit("order") for _ in range(3)] == [True, True, False]
    now[0] = 59.9
    assert not limits.admit("order")
    now[0] = 60.0
    assert limits.admit("order")
    assert [limits.admit("quote") for _ in range(2)] == [True, False]
    assert limits.admit("unlimited")
    classes = {
        ("POST", "/orders/regular"): "order",
        ("PUT", "/orders/regular/1"): "order",
        ("GET", "/orders/1"): "other",
        ("GET", "/orders"): "other",
        ("GET", "/quote/ltp"): "quote",
        ("GET", "/instruments/historical/1/minute"): "historical",
        ("GET", "/instruments/NSE"): "other",
    }
    assert {asked: endpoint_of(*asked) for asked in classes} == classes


@pytest.mark.parametrize(
    ("endpoint", "ask", "free"),
    [
        ("quote", lambda client: client.ltp("NSE:INFY"), 1),
        ("historical", lambda client: client.historical_data(INFY, "2026-07-15", "2026-07-15", "minute"), 2),
        ("other", lambda client: client.orders(), 4),
        ("order", order_of_the_vendor, 3),
    ],
)
def test_one_request_too_many_is_a_429(endpoint: str, ask: Callable[[KiteConnect], Any], free: int) -> None:
    """The spans are an hour, so that a slow machine changes nothing."""
    limits = {kind: (Limit(some[0].requests, 3600),) for kind, some in LIMITS.items()}
    with rehearsal(limits=limits) as stage:
        client = KiteConnect(API_KEY, stage.log_in(), root=stage.root)
        client.reqsession.trust_env = False
        for _ in range(free):
            ask(client)
        with pytest.raises(kite_exceptions.NetworkException, match="Too many requests") as refused:
            ask(client)
        assert refused.value.code == 429
        client.reqsession.close()


@pytest.mark.parametrize("redirect", [None, "http://127.0.0.1:1/back?who=me"], ids=["page", "redirect"])
def test_the_login_page_leads_to_an_access_token(redirect: str | None) -> None:
    with rehearsal(redirect_url=redirect) as stage:
        client = KiteConnect(API_KEY, root=stage.root)
        client.reqsession.trust_env = False
        client._default_login_uri = stage.login_root
        page = client.reqsession.get(client.login_url(), timeout=5)
        assert "<button>Log in</button>" in page.text
        target = re.search(r'form action="([^"]+)"', page.text)
        assert target is not None
        given = client.reqsession.get(
            stage.root + target[1], params={"api_key": API_KEY}, allow_redirects=False, timeout=5
        )
        assert given.status_code == 302
        where = urllib.parse.urlsplit(given.headers["Location"])
        found = dict(urllib.parse.parse_qsl(where.query))
        assert (found["action"], found["status"]) == ("login", "success")
        assert found.get("who") == (None if redirect is None else "me")
        if redirect is None:
            shown = client.reqsession.get(stage.root + given.headers["Location"], timeout=5)
            assert found["request_token"] in shown.text
        client.generate_session(found["request_token"], API_SECRET)
        assert client.profile()["user_name"] == "Rehearsal"
        with pytest.raises(kite_exceptions.TokenException):
            client.generate_session(found["request_token"], API_SECRET)
        assert client.reqsession.get(f"{stage.login_root}?api_key=other", timeout=5).status_code == 400
        client.reqsession.close()


TICKER = """
import json, sys, threading
from kiteconnect import KiteTicker
stream, key, token = sys.argv[1:4]
said = {"ticks": 0, "closed": 0, "updates": [], "connected": 0, "errors": []}
done = threading.Event()
ticker = KiteTicker(key, token, root=stream, connect_timeout=5, reconnect_max_delay=5)
def on_connect(ws, _):
    said["connected"] += 1
    ws.subscribe([408065])
    ws.set_mode(ws.MODE_FULL, [408065])
def on_ticks(ws, found):
    said["ticks"] += len(found)
    if said["connected"] == 2 and said["ticks"] > 40:
        done.set()
def on_close(ws, code, reason):
    said["closed"] += 1
def on_error(ws, code, reason):
    said["errors"].append([code, str(reason)])
    if "403" in str(reason):
        done.set()
def on_order_update(ws, data):
    said["updates"].append([data["order_id"], data["status"], data["checksum"]])
ticker.on_connect, ticker.on_ticks, ticker.on_close, ticker.on_error = on_connect, on_ticks, on_close, on_error
ticker.on_order_update = on_order_update
ticker.connect(threaded=True)
said["finished"] = done.wait(30)
ticker.close()
print(json.dumps(said))
"""


def ticker(stage: Rehearsal, token: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", TICKER, stage.stream_root, API_KEY, token]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_the_vendors_ticker_survives_faults_and_comes_back(stage: Rehearsal, kite: KiteRest) -> None:
    (token,) = stage.logins.access_tokens
    odd = (Fault.ODD_PACKET, Fault.TICKS_REPEATED, Fault.TICKS_OUT_OF_ORDER)
    with ticker(stage, token) as process:
        _until(lambda: stage.call(lambda: any(INFY in one.modes for one in stage.stream._clients)), 30)
        stage.faults.order(*odd)
        stage.play(20)
        order_id = kite.place(buy(quantity=1))
        stage.faults.order(Fault.STREAM_DROPPED)
        for _ in range(200):
            if process.poll() is not None:
                break
            stage.play(4)
            time.sleep(0.05)
        said = json.loads(process.communicate(timeout=40)[0])
    assert said["finished"]
    assert said["connected"] == 2
    assert said["closed"] >= 1
    assert [order_id, "COMPLETE", ""] in said["updates"]
    assert stage.faults.struck == dict.fromkeys((*odd, Fault.STREAM_DROPPED), 1)


def test_the_vendors_ticker_is_refused_with_a_dead_token(stage: Rehearsal) -> None:
    with ticker(stage, "dead") as process:
        said = json.loads(process.communicate(timeout=40)[0])
    assert said["connected"] == 0
    assert any("403" in reason for _, reason in said["errors"])


def test_an_unknown_fate_is_found_and_cancelled_once(stage: Rehearsal, kite: KiteRest) -> None:
    order_id = kite.place(buy(kind="LIMIT", price_paise=149_000))
    stage.faults.order(Fault.ANSWER_LOST)
    with pytest.raises(UnknownFate):
        kite.cancel(order_id)
    assert kite.orders()[0].status == "CANCELLED"
    with pytest.raises(Rejected):
        kite.cancel(order_id)


def test_a_refused_handshake(stage: Rehearsal) -> None:
    stage.faults.order(Fault.STREAM_REFUSED)
    stage.log_in()
    assert refused(stage) == 403
    with watched(stage):
        pass


def _until(true: Callable[[], Any], patience_s: float = 10.0) -> None:
    for _ in range(int(patience_s / 0.02)):
        if true():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")
