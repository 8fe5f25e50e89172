"""What the vendor's own client raises for the answers of a real server, and which of our six kinds it becomes."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kiteconnect")
from kiteconnect import KiteConnect

from finsense.live.brokers.errors import (
    AuthExpired,
    BrokerError,
    ProtocolError,
    RateLimited,
    Rejected,
    TransientRead,
    UnknownFate,
)
from finsense.live.brokers.kite_errors import classify
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits

JSON, HTML = "application/json", "text/html"
GATEWAY = "<html><body><h1>502 Bad Gateway</h1></body></html>"


def body(error_type: str | None, message: str | None = "no") -> str:
    said: dict[str, Any] = {"status": "error", "data": None}
    if message is not None:
        said["message"] = message
    if error_type is not None:
        said["error_type"] = error_type
    return json.dumps(said)


class Answering(ThreadingHTTPServer):
    """Gives every request the answer that is set; `None` drops the connection, `...` leaves it waiting."""

    answer: Any = None
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.released = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def _reply(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        answer = self.server.answer
        if answer is ...:
            self.server.released.wait(30)
        elif isinstance(answer, tuple):
            code, content_type, text = answer
            self.send_response(code)
            if content_type:
                self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _reply  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Answering]:
    with Answering() as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served
        served.released.set()
        served.shutdown()
        thread.join()


@pytest.fixture
def client(server: Answering) -> Iterator[KiteConnect]:
    kite = KiteConnect("key", "token", root=f"http://127.0.0.1:{server.server_port}", timeout=0.5)
    kite.reqsession.trust_env = False
    yield kite
    kite.reqsession.close()


def raised(client: KiteConnect, *, writes: bool) -> BaseException:
    try:
        if writes:
            client.place_order("regular", "NSE", "INFY", "BUY", 1, "CNC", "MARKET", market_protection=-1)
        else:
            client.orders()
    except Exception as error:
        return error
    pytest.fail("the client raised nothing")


# The answer, what it is for an order, what it is for a reading.
CASES: dict[str, tuple[Any, type[BrokerError], type[BrokerError]]] = {
    "dead token": ((403, JSON, body("TokenException")), AuthExpired, AuthExpired),
    "token exception without 403": ((400, JSON, body("TokenException")), AuthExpired, AuthExpired),
    "static IP not registered": ((403, JSON, body("PermissionException", "IP not allowed")), Rejected, Rejected),
    "wrong input": ((400, JSON, body("InputException", "tick size")), Rejected, Rejected),
    "wrong input, says a server that failed": ((500, JSON, body("InputException")), UnknownFate, TransientRead),
    "no margin": ((400, JSON, body("MarginException", "insufficient funds")), Rejected, Rejected),
    "no holding": ((400, JSON, body("HoldingException")), Rejected, Rejected),
    "order refused": ((400, JSON, body("OrderException")), Rejected, Rejected),
    "order system failed": ((500, JSON, body("OrderException")), UnknownFate, TransientRead),
    "general failure": ((500, JSON, body("GeneralException")), UnknownFate, TransientRead),
    "too many, JSON": ((429, JSON, body("NetworkException", "Too many requests")), RateLimited, RateLimited),
    "too many, HTML": ((429, HTML, "<html>429</html>"), UnknownFate, TransientRead),
    "26th modification": (
        (400, JSON, body("NetworkException", "Maximum allowed order modifications exceeded.")),
        Rejected,
        Rejected,
    ),
    "order system down": ((503, JSON, body("NetworkException")), UnknownFate, TransientRead),
    "order system late": ((504, JSON, body("NetworkException")), UnknownFate, TransientRead),
    "gateway page": ((502, HTML, GATEWAY), UnknownFate, TransientRead),
    "cut JSON": ((200, JSON, '{"status": "succ'), UnknownFate, TransientRead),
    "no error type": ((500, JSON, body(None)), UnknownFate, ProtocolError),
    "no message": ((400, JSON, body("InputException", None)), UnknownFate, ProtocolError),
    "a list": ((200, JSON, "[]"), UnknownFate, ProtocolError),
    "no data": ((200, JSON, '{"status": "success"}'), UnknownFate, ProtocolError),
    "no content type": ((200, None, "{}"), UnknownFate, ProtocolError),
    "dropped": (None, UnknownFate, TransientRead),
    "hanging": (..., UnknownFate, TransientRead),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("writes", [True, False], ids=["order", "reading"])
def test_every_answer_becomes_one_of_six_kinds(server: Answering, client: KiteConnect, name: str, writes: bool) -> None:
    server.answer, order, reading = CASES[name]
    error = raised(client, writes=writes)
    found = classify(error, writes=writes)
    assert type(found) is (order if writes else reading), repr(error)
    assert str(found)


def test_a_server_that_is_gone_leaves_an_order_in_doubt(client: KiteConnect) -> None:
    client.root = "http://127.0.0.1:9"
    assert type(classify(raised(client, writes=True), writes=True)) is UnknownFate
    assert type(classify(raised(client, writes=False), writes=False)) is TransientRead


@pytest.mark.parametrize("error", [ValueError("x"), ZeroDivisionError(), MemoryError(), KeyError("data")])
def test_what_is_not_known_fails_closed(error: Exception) -> None:
    assert type(classify(error, writes=True)) is UnknownFate
    assert type(classify(error, writes=False)) is ProtocolError


def test_a_kind_stays_what_it_is() -> None:
    known = Rejected("no")
    assert classify(known, writes=True) is known
    assert known.reason == "no"


def test_a_broken_answer_to_the_login_shows_no_token(server: Answering, tmp_path: Path) -> None:
    server.answer = (200, JSON, '{"status": "success", "data": {"access_token": "SECRETTOKEN", "enctoken": "ENC"')
    limits = RateLimits(tmp_path / "limits.db")
    client = KiteRest("key", None, limits, root=f"http://127.0.0.1:{server.server_port}", timeout_s=2.0)
    with pytest.raises(TransientRead, match="log in again") as raised:
        client.log_in("request", "APISECRET")
    told = repr(raised.value) + repr(raised.value.__context__) + repr(raised.value.__cause__)
    assert not any(secret in told for secret in ("SECRETTOKEN", "ENC", "APISECRET"))
    client.close()
    limits.close()


def test_a_file_of_limits_that_is_locked_is_one_of_the_kinds(server: Answering, tmp_path: Path) -> None:
    limits = RateLimits(tmp_path / "limits.db")
    limits._database.execute("PRAGMA busy_timeout = 10")
    client = KiteRest("key", "token", limits, root=f"http://127.0.0.1:{server.server_port}")
    with closing(sqlite3.connect(tmp_path / "limits.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RateLimited, match="nothing was sent"):
            client.orders()
        other.execute("ROLLBACK")
    client.close()
    limits.close()
