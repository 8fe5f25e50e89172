"""Alarms and heartbeat against real servers on loopback: told, kept, retried, and never in the way of the loop."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from services import Service

from finsense.config.live import HeartbeatSettings
from finsense.live.alarms import Alarms
from finsense.live.heartbeat import Heartbeat
from finsense.live.redaction import register_secret

WAIT_S = 20.0


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition with a generous limit."""
    deadline = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    with contextlib.closing(made):
        yield made


def test_an_alarm_reaches_log_journal_and_webhook(service: Service, capfd: pytest.CaptureFixture[str]) -> None:
    notes: list[tuple[str, str, Mapping[str, Any], int]] = []
    with Alarms("main", [service.address], note=lambda *parts: notes.append(parts)) as alarms:
        alarms.raise_("order stopped", "stale data", symbols=["INFY"])
        until(lambda: service.bodies)
    (body,) = service.bodies
    expected = {"kind": "order stopped", "text": "stale data", "facts": {"symbols": ["INFY"]}}
    assert {**expected, "account": "main"} == {name: body[name] for name in ("kind", "text", "facts", "account")}
    ((tag, what, noted, time_ns),) = notes
    assert (tag, what, noted) == ("", "alarm", expected)
    assert time_ns == body["time_ns"]
    assert alarms.counts == {"order stopped": 1}
    out, err = capfd.readouterr()
    assert "stale data" in out + err


def test_a_secret_leaves_in_no_alarm(service: Service) -> None:
    register_secret("hunter2hunter2")
    with Alarms("main", [service.address]) as alarms:
        alarms.raise_("broker", "refused: token hunter2hunter2", url="ws://x?t=hunter2hunter2")
        until(lambda: service.bodies)
    assert "hunter2" not in json.dumps(service.bodies)


def test_a_service_that_hangs_holds_up_nothing(service: Service) -> None:
    """The alarms are raised while the server holds the first one's answer back, and every one arrives in the end."""
    service.hang.clear()
    with Alarms("main", [service.address], timeout_s=60) as alarms:
        alarms.raise_("test", "first")
        until(lambda: service.methods)
        for number in range(100):
            alarms.raise_("test", str(number))
        assert not service.bodies, "all were raised and none was answered"
        assert alarms.counts["test"] == 101
        service.hang.set()
        until(lambda: len(service.bodies) == 101)
    assert [body["text"] for body in service.bodies] == ["first", *map(str, range(100))]
    assert alarms.webhooks[0].dropped == 0


def test_a_queue_that_is_full_drops_and_counts(service: Service) -> None:
    service.hang.clear()
    alarms = Alarms("main", [service.address], timeout_s=60)
    alarms.raise_("test", "first")
    until(lambda: service.methods)
    for number in range(300):
        alarms.raise_("test", str(number))
    assert alarms.webhooks[0].dropped == 300 - 256
    assert alarms.counts["test"] == 301
    service.hang.set()
    assert alarms.close(WAIT_S)


def test_a_service_that_fails_is_tried_again_and_hurts_no_other(service: Service) -> None:
    other = Service()
    service.status = 500
    with contextlib.closing(other), Alarms("main", [service.address, other.address]) as alarms:
        alarms.raise_("test", "text")
        until(lambda: other.bodies)
        until(lambda: alarms.webhooks[0].failed)
        service.status = 200
        until(lambda: service.bodies)
    assert (alarms.webhooks[0].delivered, alarms.webhooks[1].delivered) == (1, 1)


def test_a_redirect_is_not_followed(service: Service) -> None:
    service.status = 302
    alarms = Alarms("main", [service.address])
    alarms.raise_("test", "text")
    until(lambda: alarms.webhooks[0].failed)
    assert set(service.methods) == {"POST"}
    assert not alarms.close(0.0)


def test_a_journal_that_fails_breaks_nothing() -> None:
    def note(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with Alarms("main", note=note) as alarms:
        alarms.raise_("test", "text")
    assert (alarms.lost_notes, alarms.counts["test"]) == (1, 1)


def test_alarms_of_other_threads_wait_for_the_journals_own() -> None:
    threads: list[int] = []
    with Alarms("main", note=lambda *_: threads.append(threading.get_ident())) as alarms:
        others = [threading.Thread(target=alarms.raise_, args=("test", str(n))) for n in range(20)]
        for one in others:
            one.start()
        for one in others:
            one.join()
        assert not threads
        alarms.look()
    assert threads == [threading.get_ident()] * 20


# -- heartbeat ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_signs_of_life_are_sent(service: Service, method: Any) -> None:
    settings = HeartbeatSettings(url=service.address, every_s=0.05, method=method)
    with Heartbeat(settings, service.address) as heart:
        until(lambda: len(service.methods) >= 3)
    assert set(service.methods) == {method}
    assert heart.sent >= 2


def test_a_service_that_hangs_never_delays_the_loop(service: Service) -> None:
    """A thousand beats of the loop while one request hangs, and after it the signs go on."""
    service.hang.clear()
    settings = HeartbeatSettings(url=service.address, every_s=0.05, timeout_s=60)
    with Heartbeat(settings, service.address) as heart:
        until(lambda: service.methods)
        for _ in range(1000):
            heart.beat()
        assert (heart.sent, len(service.methods)) == (0, 1), "the request still hangs"
        service.hang.set()
        until(lambda: heart.sent >= 3)
    assert heart.failed == 0


def test_a_hang_beyond_the_timeout_is_a_failure_and_it_goes_on(service: Service) -> None:
    service.hang.clear()
    notes: list[Any] = []
    alarms = Alarms("main", note=lambda *parts: notes.append(parts))
    settings = HeartbeatSettings(url=service.address, every_s=0.05, timeout_s=0.1)
    with Heartbeat(settings, service.address, alarms) as heart:
        until(lambda: heart.failed >= 3)
        until(lambda: alarms.counts["heartbeat"] == 1)
        service.hang.set()
        until(lambda: heart.sent >= 1)
    alarms.look()
    assert len(notes) == 1, "one alarm for a row of failures"


def test_a_silent_loop_sends_no_sign(service: Service) -> None:
    settings = HeartbeatSettings(url=service.address, every_s=0.05, silence_s=0.2)
    with Heartbeat(settings, service.address) as heart:
        until(lambda: heart.withheld >= 2)
        sent = heart.sent
        until(lambda: heart.withheld >= 5)
        assert heart.sent == sent
        heart.beat()
        until(lambda: heart.sent > sent)


def test_an_address_that_nobody_serves_fails_quietly() -> None:
    address = "http://127.0.0.1:9/nobody"
    with Heartbeat(HeartbeatSettings(url=address, every_s=0.05, timeout_s=1), address) as heart:
        until(lambda: heart.failed >= 2)
