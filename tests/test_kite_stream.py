"""The tick stream against a real server on loopback that is silent, drops, refuses, and sends what it should not."""

import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import pytest

pytest.importorskip("websockets")
from structlog.testing import capture_logs
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from finsense.live.brokers.errors import AuthExpired
from finsense.live.feeds.kite_stream import Connected, Event, Idle, KiteStream, Lost, OrderUpdate, Patience, Ticks

TOKEN = 408065 << 8 | 1
SECRET = "verysecrettoken"
QUICK = Patience(poll_s=0.02, silence_s=0.3, open_s=5.0, first_retry_s=0.02, longest_retry_s=0.05)
Talk = Callable[[ServerConnection, int], None]


def frame(price_paise: int = 150_005) -> bytes:
    packet = struct.pack(">16I", TOKEN, price_paise, *[0] * 13, 1_760_000_000) + bytes(120)
    return struct.pack(">HH", 1, len(packet)) + packet


class Server:
    """Talks to the n-th connection as the test says."""

    def __init__(self, talk: Talk, refuse: Callable[[int], int | None]) -> None:
        self.subscriptions: list[list[Any]] = []
        self.paths: list[str] = []
        self._talk, self._refuse = talk, refuse
        self._server = serve(self._serve, "127.0.0.1", 0, process_request=self._greet, ping_interval=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _greet(self, connection: ServerConnection, request: Request) -> Response | None:
        self.paths.append(request.path)
        code = self._refuse(len(self.paths))
        return None if code is None else connection.respond(HTTPStatus(code), "no")

    def _serve(self, connection: ServerConnection) -> None:
        try:
            self.subscriptions.append([json.loads(connection.recv()), json.loads(connection.recv())])
            self._talk(connection, len(self.subscriptions))
        except ConnectionClosed:
            return

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()


@contextmanager
def served(talk: Talk, refuse: Callable[[int], int | None] = lambda _: None) -> Iterator[tuple[Server, KiteStream]]:
    server = Server(talk, refuse)
    stream = KiteStream("key", SECRET, [TOKEN], root=f"ws://127.0.0.1:{server.port}", patience=QUICK)
    try:
        yield server, stream
    finally:
        stream.close()
        server.stop()


def until(stream: KiteStream, enough: Callable[[list[Event]], bool]) -> list[Event]:
    """The events, Idle ones left out, until there are enough."""
    found: list[Event] = []
    for event in stream.events():
        if not isinstance(event, Idle):
            found.append(event)
        if enough(found):
            break
    return found


def wait_forever(connection: ServerConnection) -> None:
    for _ in connection:
        pass


def test_ticks_and_order_updates_arrive_in_order_after_one_subscription() -> None:
    def talk(connection: ServerConnection, _: int) -> None:
        connection.send(frame(150_005))
        connection.send(b"\x00")
        connection.send(json.dumps({"type": "order", "data": {"order_id": "1", "status": "COMPLETE"}}))
        connection.send(frame(150_010))
        wait_forever(connection)

    with served(talk) as (server, stream):
        found = until(stream, lambda events: len(events) == 4)
    assert found[0] == Connected(again=False)
    assert isinstance(found[1], Ticks)
    assert isinstance(found[3], Ticks)
    assert [found[1].ticks[0][1].last_price, found[3].ticks[0][1].last_price] == [1500.05, 1500.10]
    assert found[1].ticks[0][0] == TOKEN
    assert found[2] == OrderUpdate({"order_id": "1", "status": "COMPLETE"})
    assert server.subscriptions == [[{"a": "subscribe", "v": [TOKEN]}, {"a": "mode", "v": ["full", [TOKEN]]}]]


def test_a_silent_connection_is_dropped_and_opened_again() -> None:
    with served(lambda connection, _: wait_forever(connection)) as (server, stream):
        found = until(stream, lambda events: len(events) == 3)
    assert [type(event) for event in found] == [Connected, Lost, Connected]
    assert isinstance(found[1], Lost)
    assert "not even a heartbeat" in found[1].reason
    assert found[2] == Connected(again=True)
    assert len(server.subscriptions) == 2


def test_heartbeats_alone_keep_the_connection() -> None:
    def talk(connection: ServerConnection, _: int) -> None:
        for _ in range(40):
            connection.send(b"\x00")
            threading.Event().wait(0.02)
        connection.send(frame())
        wait_forever(connection)

    with served(talk) as (server, stream):
        found = until(stream, lambda events: isinstance(events[-1], Ticks))
    assert [type(event) for event in found] == [Connected, Ticks]
    assert len(server.subscriptions) == 1


@pytest.mark.parametrize("how", ["closed", "aborted", "cut frame", "bad frame"])
def test_every_way_to_lose_the_connection_ends_in_a_new_one(how: str) -> None:
    def talk(connection: ServerConnection, number: int) -> None:
        if number > 1:
            connection.send(frame())
            wait_forever(connection)
        elif how == "closed":
            connection.close(1011)
        elif how == "aborted":
            connection.socket.close()
        else:
            connection.send(frame()[:100] if how == "cut frame" else b"\xff" * 300)
            wait_forever(connection)

    with served(talk) as (_, stream):
        found = until(stream, lambda events: isinstance(events[-1], Ticks))
    assert [type(event) for event in found] == [Connected, Lost, Connected, Ticks]


def test_a_server_that_fails_is_tried_again_and_a_refused_token_is_not() -> None:
    with (
        served(lambda connection, _: wait_forever(connection), lambda number: 502 if number < 3 else 403) as (
            server,
            stream,
        ),
        pytest.raises(AuthExpired, match=r"refuses the access token \(HTTP 403\): log in again"),
    ):
        until(stream, lambda events: False)
    assert len(server.paths) == 3


def test_a_server_that_is_gone_is_tried_again() -> None:
    server = Server(lambda connection, _: wait_forever(connection), lambda _: None)
    server.stop()
    stream = KiteStream("key", SECRET, [TOKEN], root=f"ws://127.0.0.1:{server.port}", patience=QUICK)
    found = until(stream, lambda events: len(events) == 3)
    assert all(isinstance(event, Lost) for event in found)


def test_the_token_is_in_no_log_and_no_message() -> None:
    def talk(connection: ServerConnection, number: int) -> None:
        connection.send(json.dumps({"type": "error", "data": f"bad {SECRET}"}))
        connection.close(1011, SECRET)

    with capture_logs() as logs, served(talk) as (server, stream):
        found = until(stream, lambda events: sum(isinstance(event, Lost) for event in events) == 2)
    assert f"access_token={SECRET}" in server.paths[0]
    assert SECRET not in repr(found) + repr(logs)
    assert any("error" in entry["event"] for entry in logs)


def test_closing_ends_the_events() -> None:
    with served(lambda connection, _: wait_forever(connection)) as (_, stream):
        found = []
        for event in stream.events():
            found.append(event)
            stream.close()
        assert found == [Connected(again=False)]


def test_what_is_not_json_and_what_is_unknown_are_left_alone() -> None:
    def talk(connection: ServerConnection, _: int) -> None:
        for text in ("nonsense", "[]", '{"type": "order", "data": 1}', '{"type": "message", "data": "x"}', "null"):
            connection.send(text)
        connection.send(frame())
        wait_forever(connection)

    with served(talk) as (_, stream):
        found = until(stream, lambda events: len(events) == 2)
    assert [type(event) for event in found] == [Connected, Ticks]
