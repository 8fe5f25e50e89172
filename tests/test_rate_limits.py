"""No process of an account sends more than the broker allows, in any span of time."""

import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.live.brokers.errors import RateLimited
from finsense.live.brokers.rate_limits import KITE_LIMITS, Limit, RateLimits

SECOND_NS = 1_000_000_000


class Clock:
    """Stands still but for the waiting and the steps that a test takes."""

    def __init__(self) -> None:
        self.ns = 1_760_000_000 * SECOND_NS

    def now_ns(self) -> int:
        return self.ns

    def sleep_s(self, seconds: float) -> None:
        assert seconds > 0
        self.ns += round(seconds * SECOND_NS)


def limits_of(path: Path, clock: Clock, limits: Mapping[str, tuple[Limit, ...]]) -> RateLimits:
    return RateLimits(path, limits, now_ns=clock.now_ns, sleep_s=clock.sleep_s)


@given(
    steps=st.lists(st.integers(0, 3 * SECOND_NS), min_size=1, max_size=80),
    requests=st.integers(1, 5),
    minute=st.integers(5, 12),
)
def test_no_span_has_more_requests_than_its_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], requests: int, minute: int
) -> None:
    clock = Clock()
    kinds = {"order": (Limit(requests, 1), Limit(minute, 20))}
    limits = limits_of(tmp_path_factory.mktemp("rates") / "limits.db", clock, kinds)
    sent = []
    for step in steps:
        clock.ns += step
        limits.wait("order", at_most_s=1000)
        sent.append(clock.ns)
    for limit in kinds["order"]:
        for first, last in zip(sent, sent[limit.requests :], strict=False):
            assert last - first > limit.span_s * SECOND_NS
    limits.close()


def test_a_free_account_waits_for_nothing(tmp_path: Path) -> None:
    clock = Clock()
    limits = limits_of(tmp_path / "limits.db", clock, KITE_LIMITS)
    begun = clock.ns
    for _ in range(10):
        limits.wait("order", at_most_s=0)
    limits.wait("quote", at_most_s=0)
    assert clock.ns == begun
    limits.close()


def test_what_lies_too_far_away_is_refused_and_not_booked(tmp_path: Path) -> None:
    clock = Clock()
    limits = limits_of(tmp_path / "limits.db", clock, {"quote": (Limit(1, 10),)})
    limits.wait("quote", at_most_s=0)
    for _ in range(3):
        with pytest.raises(RateLimited, match=r"in 10\.0 s, and at most 1 s were to be waited; .* 1 in 10 s"):
            limits.wait("quote", at_most_s=1)
    assert limits.book("quote", at_most_s=11) == 10 * SECOND_NS + 20_000_000
    limits.close()


def test_two_openings_of_the_file_share_its_bookings(tmp_path: Path) -> None:
    clock = Clock()
    first, second = (limits_of(tmp_path / "limits.db", clock, {"quote": (Limit(1, 1),)}) for _ in range(2))
    first.wait("quote", at_most_s=0)
    begun = clock.ns
    second.wait("quote", at_most_s=5)
    assert clock.ns > begun + SECOND_NS
    first.close()
    second.close()


SENDER = """
import sys
from pathlib import Path
from finsense.live.brokers.rate_limits import Limit, RateLimits
limits = RateLimits(Path(sys.argv[1]), {"order": (Limit(5, 1), Limit(5000, 86400))})
for _ in range(8):
    limits.book("order", at_most_s=100)
"""


def test_four_processes_together_keep_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "limits.db"
    senders = [subprocess.Popen([sys.executable, "-c", SENDER, str(path)]) for _ in range(4)]
    assert [sender.wait() for sender in senders] == [0] * 4
    with closing(sqlite3.connect(path)) as database:
        booked = [int(at_ns) for (at_ns,) in database.execute("SELECT at_ns FROM bookings ORDER BY at_ns")]
    assert len(booked) == 32
    assert all(later - earlier > SECOND_NS for earlier, later in zip(booked, booked[5:], strict=False))


def test_threads_of_one_process_share_the_file(tmp_path: Path) -> None:
    limits = RateLimits(tmp_path / "limits.db", {"order": (Limit(5, 1), Limit(5000, 86400))})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: limits.book("order", at_most_s=1000), range(100)))
    limits.close()
    with closing(sqlite3.connect(tmp_path / "limits.db")) as database:
        assert database.execute("SELECT count(*) FROM bookings").fetchone() == (100,)


def test_a_clock_that_is_set_back_does_not_block_the_account(tmp_path: Path) -> None:
    clock = Clock()
    limits = limits_of(tmp_path / "limits.db", clock, KITE_LIMITS)
    for _ in range(10):
        limits.wait("order", at_most_s=0)
    clock.ns -= 3600 * SECOND_NS
    assert limits.book("order", at_most_s=2) <= 1.1 * SECOND_NS
    for _ in range(9):
        limits.book("order", at_most_s=2)
    clock.ns -= 60 * SECOND_NS
    assert limits.book("order", at_most_s=2) <= 1.1 * SECOND_NS, "a small step must not hold up a way out either"
    limits.close()


def test_who_must_cancel_goes_on_where_the_file_cannot_be_used(tmp_path: Path) -> None:
    clock = Clock()
    shared = limits_of(tmp_path / "limits.db", clock, KITE_LIMITS)
    alone = RateLimits(tmp_path / "limits.db", KITE_LIMITS, now_ns=lambda: clock.ns, or_alone=True)
    with closing(sqlite3.connect(tmp_path / "limits.db")) as database:
        database.execute("DROP TABLE bookings")
    with pytest.raises(sqlite3.Error):
        shared.book("order", at_most_s=2)
    assert [alone.book("order", at_most_s=2) > 0 for _ in range(11)] == [False] * 10 + [True]
    for limits in (shared, alone):
        limits.close()
    (tmp_path / "broken.db").write_bytes(b"no database" * 1000)
    RateLimits(tmp_path / "broken.db", KITE_LIMITS, or_alone=True).close()
