"""The feed from Kite against the rehearsal on loopback: what the ticks missed comes from the candles."""

import datetime as dt
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
pytest.importorskip("websockets")

from structlog.testing import capture_logs

from finsense.live.brokers.errors import AuthExpired, BrokerError, ProtocolError, Rejected, TransientRead
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.kite_rows import Candle
from finsense.live.brokers.rate_limits import Limit, RateLimits
from finsense.live.feeds.kite import FeedError, FeedPatience, FlowLost, KiteFeed
from finsense.live.feeds.kite_stream import Connected, Event, Idle, KiteStream, Lost, OrderUpdate, Patience, Ticks
from finsense.live.gate import LastTick
from finsense.live.orders import OrderRequest
from finsense.live.rehearsal.faults import Fault, Faults
from finsense.live.rehearsal.server import API_KEY, Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.market.bars import Bar, Bars
from finsense.market.calendar import MINUTE_NS, nse_calendar
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.moments import Moment, moments
from finsense.market.order_book import Depth, Level
from finsense.market.ticks import Tick

DAY = dt.date(2026, 7, 15)
SECOND_NS = 1_000_000_000
QUICK = Patience(poll_s=0.02, silence_s=1.6, open_s=5.0, first_retry_s=0.02, longest_retry_s=0.1)
FREE = {name: (Limit(10_000, 1),) for name in ("order", "quote", "historical", "other")}
MINUTES = 40


class StageClock:
    """The time of a rehearsal in this process."""

    def __init__(self, played: Rehearsal) -> None:
        self._played = played

    def now_ns(self) -> int:
        return self._played.clock.now_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, 0.01))


def market(symbol: str, seed: int, absent: float = 0.0) -> Bars:
    """Minutes of a day before and of the morning of DAY, on the grid of 10 paise; some without a trade."""
    generator = np.random.default_rng(seed)
    starts = []
    for day, count in ((DAY - dt.timedelta(days=1), 5), (DAY, MINUTES)):
        session = nse_calendar().session(day, derivatives=False)
        assert session is not None
        rows = np.arange(count)
        kept = (generator.random(count) >= absent) | (rows == 0) | (rows == count - 1)
        starts.append(session.open_ns + rows[kept] * MINUTE_NS)
    time_ns = np.concatenate(starts)
    steps = generator.integers(-3, 4, (len(time_ns), 4)).cumsum().reshape(-1, 4)
    paise = 150_000 + 10 * steps
    rupees = paise / 100
    volume = generator.integers(4, 5000, len(time_ns))
    return Bars(
        symbol, "1m", time_ns, rupees[:, 0], rupees.max(axis=1), rupees.min(axis=1), rupees[:, 3], volume, False
    )


MARKETS = [market("SIMA", 1), market("SIMB", 2, absent=0.3)]


def expected(markets: list[Bars]) -> list[Moment]:
    return list(moments([bars.between(DAY, DAY) for bars in markets]))


class Session:
    """A rehearsal, a feed on it, and somebody who plays the market meanwhile."""

    def __init__(self, played: Rehearsal, folder: Path, **options: Any) -> None:
        self.played = played
        token = played.log_in()
        self.rest = KiteRest(API_KEY, token, RateLimits(folder / "limits.db", FREE), root=played.root, timeout_s=2.0)
        self.tokens = {row.symbol: row.token for row in self.rest.instruments()}
        self.streams: list[KiteStream] = []

        def opened() -> KiteStream:
            stream = KiteStream(API_KEY, token, list(self.tokens.values()), root=played.stream_root, patience=QUICK)
            self.streams.append(stream)
            return stream

        self.feed = KiteFeed(
            opened, self.rest, self.tokens, options.pop("interval", "1m"), StageClock(played), **options
        )

    def connect(self, feed: Iterator[Moment | None]) -> list[Moment]:
        """Wait until the stream is open and its subscription in force; the moments that came meanwhile."""
        found = [next(feed)]
        while not self.played.call(lambda: self.played.stream.opened):
            assert len(found) < 200, "the stream was not opened"
            found.append(next(feed))
        until_s = time.monotonic() + 0.7
        while time.monotonic() < until_s:
            found.append(next(feed))
        return [moment for moment in found if moment is not None]

    def play(self, pause_s: float = 0.003) -> threading.Thread:
        """Play the whole day in a thread, then let the clock run past its end."""

        def played() -> None:
            while self.played.play(1):
                time.sleep(pause_s)
            end_ns = self.played.clock.now_ns() + 2 * MINUTE_NS
            self.played.call(lambda: self.played.clock.set(end_ns))

        thread = threading.Thread(target=played)
        thread.start()
        return thread


def gathered(feed: Iterator[Moment | None], until: Callable[[list[Moment]], bool], patience: int = 300) -> list[Moment]:
    found: list[Moment] = []
    waited = 0
    while not until(found):
        moment = next(feed)
        if moment is not None:
            found.append(moment)
            waited = 0
        else:
            waited += 1
            assert waited < patience, f"nothing for {patience} signs after {found[-1:]}"
    return found


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    running: list[Rehearsal] = []

    def make(markets: list[Bars] = MARKETS, faults: Faults | None = None, **options: Any) -> Session:
        played = stage(markets, DAY, speed=0, balance_paise=10**9, faults=faults)
        played.__enter__()
        running.append(played)
        return Session(played, tmp_path, **options)

    yield make
    for played in running:
        played.__exit__()


def test_a_quiet_day_is_its_candles(opened: Callable[..., Session]) -> None:
    session = opened()
    feed = iter(session.feed)
    session.connect(feed)
    player = session.play()
    wanted = expected(MARKETS)
    found = gathered(feed, lambda found: len(found) == len(wanted))
    player.join()
    assert found == wanted
    feed.close()
    report = session.feed.report
    assert (report.by_candles, report.lost, report.losses) == (2, 0, 0)
    assert report.by_ticks == sum(len(moment.bars) for moment in wanted) - 2


STREAM_FAULTS = {
    Fault.STREAM_DROPPED: 0.01,
    Fault.TICKS_REPEATED: 0.05,
    Fault.TICKS_OUT_OF_ORDER: 0.05,
    Fault.ODD_PACKET: 0.03,
}
READ_FAULTS = {Fault.TOO_MANY_JSON: 0.05, Fault.TOO_MANY_HTML: 0.05, Fault.GATEWAY_PAGE: 0.1}


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_whatever_the_stream_suffers_the_bars_are_those_of_the_undisturbed_day(
    seed: int, opened: Callable[..., Session]
) -> None:
    faults = Faults(generator=np.random.default_rng(seed))
    session = opened(faults=faults)
    feed = iter(session.feed)
    session.connect(feed)
    faults.rates.update(STREAM_FAULTS | READ_FAULTS)
    faults.order(*STREAM_FAULTS, Fault.STREAM_SILENT)
    player = session.play(pause_s=0.01)
    wanted = expected(MARKETS)
    found = gathered(feed, lambda found: len(found) == len(wanted))
    player.join()
    assert found == wanted
    feed.close()
    report = session.feed.report
    assert report.lost == report.contradicted == report.overflowed == 0
    assert report.losses >= 2
    assert report.by_ticks > 0
    assert report.by_candles > 2
    assert all(faults.struck[fault] for fault in (*STREAM_FAULTS, Fault.STREAM_SILENT))


def test_a_storm_of_reconnections_loses_nothing(opened: Callable[..., Session]) -> None:
    faults = Faults()
    session = opened(faults=faults)
    feed = iter(session.feed)
    session.connect(feed)
    faults.order(*[Fault.STREAM_DROPPED] * 25)
    player = session.play(pause_s=0.01)
    wanted = expected(MARKETS)
    assert gathered(feed, lambda found: len(found) == len(wanted)) == wanted
    player.join()
    feed.close()
    assert session.feed.report.losses == 25
    assert session.played.call(lambda: session.played.stream.opened) == 26


def test_a_start_in_the_middle_takes_the_broken_bar_from_the_candles(opened: Callable[..., Session]) -> None:
    session = opened()
    wanted = expected(MARKETS)
    session.played.play(80)
    while (now_ns := session.played.clock.now_ns()) % MINUTE_NS == 0:
        session.played.play(1)
    feed = iter(session.feed)
    session.connect(feed)
    player = session.play()
    rest = [moment for moment in wanted if moment.time_ns + MINUTE_NS > now_ns]
    assert 1 < len(rest) < len(wanted)
    assert rest[0].time_ns < now_ns
    assert gathered(feed, lambda found: len(found) == len(rest)) == rest
    player.join()
    feed.close()
    assert session.feed.report.by_candles == len(rest[0].bars)


def test_a_feed_goes_on_after_the_last_bar_that_is_known(opened: Callable[..., Session]) -> None:
    yesterday = MARKETS[0].between(None, DAY - dt.timedelta(days=1))
    session = opened(after_ns=int(yesterday.time_ns[-3]))
    session.played.play(8 * 20)
    feed = iter(session.feed)
    begun = session.connect(feed)
    player = session.play()
    wanted = [*moments([bars.between(None, DAY) for bars in MARKETS])][3:]
    first = begun + gathered(feed, lambda found: len(found) == 10)
    feed.close()
    # Iterating again opens another stream, and neither repeats nor leaves out a bar.
    again = iter(session.feed)
    found = first + gathered(again, lambda found: len(first) + len(found) == len(wanted))
    player.join()
    again.close()
    assert found == wanted
    assert len(session.streams) == 2


def test_a_dead_token_ends_the_feed(opened: Callable[..., Session]) -> None:
    session = opened()
    feed = iter(session.feed)
    session.connect(feed)
    session.played.call(session.played.rest.access_tokens.clear)
    session.played.faults.order(Fault.STREAM_DROPPED)
    player = session.play()
    with pytest.raises(AuthExpired, match=r"log in again|Incorrect `api_key`"):
        gathered(feed, lambda found: len(found) == MINUTES)
    player.join()


class Clock:
    """Stands still until it is set."""

    def __init__(self, time_ns: int) -> None:
        self.time_ns = time_ns

    def now_ns(self) -> int:
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        self.time_ns += int(seconds * SECOND_NS)


class Script:
    """A stream that tells what the test puts into it."""

    def __init__(self) -> None:
        self.heard_s = 0.0
        self.told: queue.Queue[Event | BaseException | None] = queue.Queue()

    def events(self) -> Iterator[Event]:
        while (event := self.told.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            if not isinstance(event, Idle):
                self.heard_s += 1.0
            yield event

    def close(self) -> None:
        self.told.put(None)


class Archive:
    """The vendor's candles as the test has them; `late_ns`: how long after their end they come."""

    def __init__(self, clock: Clock, rows: list[Candle], late_ns: int = 0) -> None:
        self.clock, self.rows, self.late_ns = clock, rows, late_ns
        self.fault: BrokerError | None = None
        self.asked: list[tuple[int, int]] = []

    def historical(self, token: int, interval: str, first_ns: int, last_ns: int) -> list[Candle]:
        self.asked.append((token, self.clock.now_ns()))
        if self.fault is not None:
            raise self.fault
        known_ns = self.clock.now_ns() - self.late_ns
        return [row for row in self.rows if first_ns <= row.time_ns <= last_ns and row.time_ns + MINUTE_NS <= known_ns]


OPEN_NS = nse_calendar().session(DAY, derivatives=False).open_ns  # type: ignore[union-attr]
ONE = 1 << 8 | 1


def at(seconds: float) -> int:
    return OPEN_NS + int(seconds * SECOND_NS)


def tick(seconds: float, rupees: float, volume: int, token: int = ONE) -> Ticks:
    depth = Depth((Level(rupees - 0.1, 10),), (Level(rupees, 10),))
    return Ticks([(token, Tick(at(seconds), rupees, volume, depth))])


class Bench:
    """A feed on a scripted stream: no network, no time but the test's."""

    def __init__(self, start_s: float = -60, **options: Any) -> None:
        self.clock, self.script = Clock(at(start_s)), Script()
        rows = [Candle(at(60 * row), 100.0 + row, 102.0 + row, 99.0 + row, 101.0 + row, 50 + row) for row in range(30)]
        self.archive = Archive(self.clock, rows)
        self.updates: list[dict[str, Any]] = []
        self.feed = KiteFeed(
            lambda: self.script,
            self.archive,
            {"SIMA": ONE} | options.pop("tokens", {}),
            "1m",
            self.clock,
            on_order_update=self.updates.append,
            patience=options.pop("patience", FeedPatience(sign_s=0.1)),
            **options,
        )
        self.iterator = iter(self.feed)

    def tell(self, *events: Event | BaseException, seconds: float | None = None) -> None:
        """Put events into the stream, and wait until its thread has passed them on."""
        if seconds is not None:
            self.clock.time_ns = at(seconds)
        for event in events:
            self.script.told.put(event)
        while not self.script.told.empty():
            time.sleep(0.001)
        time.sleep(0.005)

    def next(self) -> Moment:
        return next(moment for moment in self.iterator if moment is not None)

    def quiet(self) -> bool:
        """Whether the next thing is a sign of waiting."""
        return next(self.iterator) is None


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        assert made[-1].quiet()
        return made[-1]

    yield make
    for one in made:
        one.iterator.close()


def opened_at_0930(make: Callable[..., Bench], **options: Any) -> Bench:
    """Connected a minute before 09:30, with that broken bar given."""
    found = make(start_s=14 * 60, **options)
    found.tell(Connected(again=False), tick(14 * 60 + 1, 115.0, 900))
    found.tell(Idle(), seconds=15 * 60 + 6)
    assert found.next().time_ns == at(14 * 60)
    return found


def test_a_feed_gives_a_sign_now_and_then_and_after_each_update(bench: Callable[..., Bench]) -> None:
    one = bench(patience=FeedPatience(sign_s=0.5))
    one.tell(Connected(again=False), OrderUpdate({"order_id": "7"}), OrderUpdate({"order_id": "8"}))
    begun_s = time.monotonic()
    assert [one.quiet(), one.updates] == [True, [{"order_id": "7"}, {"order_id": "8"}]]
    updated_s = time.monotonic()
    assert one.quiet()
    # The updates did not wait as long as a quiet feed does.
    assert updated_s - begun_s < time.monotonic() - updated_s


def test_a_stamp_far_ahead_closes_no_bar(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench)
    one.tell(tick(15 * 60 + 7, 115.0, 910), tick(15 * 60 + 9, 116.0, 920), tick(40 * 60, 90.0, 915))
    assert one.quiet()
    seen = one.feed.last_tick("SIMA")
    assert seen is not None
    assert seen.stamp_ns == at(40 * 60), "the gate must see a clock that is wrong"
    one.tell(tick(16 * 60 + 6, 117.0, 930), seconds=16 * 60 + 6)
    bar = one.next().bars["SIMA"]
    # A stamp that cannot be believed leaves no bar of its time believed either: the vendor's candle is taken.
    assert (bar.high, bar.low, bar.close, bar.volume) == (117.0, 114.0, 116.0, 65)
    assert one.feed.report.ahead == 1


def test_a_tick_after_its_bar_was_given_is_late_and_one_out_of_order_widens_it(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench)
    one.tell(tick(15 * 60 + 7, 115.0, 910), tick(15 * 60 + 9, 116.0, 920), tick(15 * 60 + 8, 120.0, 915))
    one.tell(tick(16 * 60 + 1, 117.0, 930), seconds=16 * 60 + 1)
    bar = one.next().bars["SIMA"]
    assert (bar.high, bar.close, bar.volume) == (120.0, 116.0, 20)
    one.tell(tick(15 * 60 + 50, 200.0, 925), tick(17 * 60 + 1, 118.0, 940), seconds=17 * 60 + 1)
    bar = one.next().bars["SIMA"]
    assert (bar.high, bar.volume) == (117.0, 10)
    assert one.feed.report.ticks is not None
    assert one.feed.report.ticks.late == 1


def test_a_stalled_stream_is_waited_for(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench)
    one.tell(tick(15 * 60 + 7, 115.0, 910))
    # A minute has ended, but nothing was heard since: what comes now was sent before.
    one.tell(seconds=16 * 60 + 30)
    assert one.quiet()
    one.tell(tick(15 * 60 + 40, 130.0, 950))
    assert one.quiet()
    one.tell(tick(16 * 60 + 29, 117.0, 990))
    bar = one.next().bars["SIMA"]
    assert (bar.high, bar.close, bar.volume) == (130.0, 130.0, 50)


def test_a_heartbeat_before_a_pause_closes_the_bars_of_a_quiet_market(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench)
    one.tell(tick(15 * 60 + 7, 115.0, 910), Idle())
    one.tell(Idle(), seconds=16 * 60 + 2)
    one.script.heard_s += 1.0
    one.tell(Idle(), Idle(), seconds=16 * 60 + 4)
    assert one.next().time_ns == at(15 * 60)
    # A minute without a tick has no bar.
    one.tell(Idle(), seconds=18 * 60 + 2)
    one.script.heard_s += 1.0
    one.tell(Idle(), tick(18 * 60 + 5, 118.0, 920), seconds=18 * 60 + 5)
    one.tell(tick(19 * 60 + 3, 119.0, 930), seconds=19 * 60 + 3)
    assert one.next().time_ns == at(18 * 60)


def test_a_book_that_moves_alone_makes_no_bar(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench)
    one.tell(tick(15 * 60 + 7, 115.0, 900), tick(15 * 60 + 17, 115.0, 900), seconds=15 * 60 + 17)
    one.tell(tick(16 * 60 + 7, 115.0, 910), tick(17 * 60 + 3, 115.0, 920), seconds=17 * 60 + 3)
    assert one.next().time_ns == at(16 * 60)
    assert one.feed.report.untraded == 1


def test_a_candle_is_waited_for_until_it_is_final_and_covers_what_ticks_saw(bench: Callable[..., Bench]) -> None:
    one = bench(start_s=14 * 60)
    one.tell(Connected(again=False), tick(14 * 60 + 1, 150.0, 900))
    one.tell(Idle(), seconds=15 * 60 + 3)
    assert one.quiet()
    assert one.archive.asked == []
    # The vendor's candle is there in time but narrower than the ticks: it cannot be finished.
    one.tell(Idle(), seconds=15 * 60 + 6)
    assert one.quiet()
    one.archive.rows[14] = one.archive.rows[14]._replace(high=150.0)
    one.tell(Idle(), seconds=15 * 60 + 9)
    assert one.next().bars["SIMA"].high == 150.0
    assert [now_ns for _, now_ns in one.archive.asked] == [at(15 * 60 + 6), at(15 * 60 + 9)]
    assert one.feed.report.contradicted == 0


def test_a_candle_that_stays_narrow_is_taken_in_the_end_and_counted(bench: Callable[..., Bench]) -> None:
    one = bench(start_s=14 * 60)
    one.tell(Connected(again=False), tick(14 * 60 + 1, 150.0, 900))
    one.tell(Idle(), seconds=15 * 60 + 31)
    assert one.next().bars["SIMA"].high == 116.0
    assert one.feed.report.contradicted == 1


def test_no_candle_half_a_minute_later_is_no_trade(bench: Callable[..., Bench]) -> None:
    one = bench(start_s=14 * 60, tokens={"SIMB": ONE + 256})
    one.archive.rows = [row for row in one.archive.rows if row.time_ns != at(14 * 60)]
    one.tell(Connected(again=False), tick(15 * 60 + 1, 115.0, 900), tick(15 * 60 + 2, 115.0, 910), seconds=15 * 60 + 31)
    one.tell(tick(16 * 60 + 1, 117.0, 930), tick(16 * 60 + 1, 117.0, 930, ONE + 256), seconds=16 * 60 + 40)
    # Connected inside the second minute too: it is the candle.
    moment = one.next()
    assert (moment.time_ns, sorted(moment.bars)) == (at(15 * 60), ["SIMA", "SIMB"])
    assert one.feed.report.lost == 0


def test_what_cannot_be_had_is_missing_and_said_while_the_stream_lives(bench: Callable[..., Bench]) -> None:
    one = bench(start_s=14 * 60, patience=FeedPatience(give_up_s=0.3, sign_s=0.1))
    one.archive.fault = TransientRead("502")
    one.tell(Connected(again=False), tick(14 * 60 + 1, 115.0, 900))
    one.tell(tick(15 * 60 + 2, 116.0, 910), seconds=15 * 60 + 6)
    assert one.quiet()
    one.tell(tick(16 * 60 + 2, 116.0, 920), seconds=16 * 60 + 2)
    with capture_logs() as logs:
        assert one.next().time_ns == at(15 * 60)
    assert [entry["symbols"] for entry in logs if entry["event"] == "bars are missing for good"] == [["SIMA"]]
    assert (one.feed.report.lost, one.feed.report.by_ticks) == (1, 1)


def test_while_the_stream_is_lost_too_nothing_is_given_up(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench, patience=FeedPatience(give_up_s=0.1, sign_s=0.1))
    one.tell(tick(15 * 60 + 2, 116.0, 910), Lost("gone"))
    one.archive.fault = TransientRead("502")
    one.tell(Lost("gone"), seconds=25 * 60)
    assert all(one.quiet() for _ in range(4))
    one.archive.fault = None
    one.tell(Connected(again=True), seconds=26 * 60 + 6)
    assert [one.next().time_ns for _ in range(11)] == [at(60 * minute) for minute in range(15, 26)]
    assert one.feed.report.lost == 0


@pytest.mark.parametrize("error", [AuthExpired("dead"), Rejected("no such token"), ProtocolError("nonsense")])
def test_what_patience_does_not_mend_comes_out_of_the_candles(error: BrokerError, bench: Callable[..., Bench]) -> None:
    one = bench(start_s=14 * 60)
    one.archive.fault = error
    one.tell(Connected(again=False), seconds=15 * 60 + 6)
    with pytest.raises(type(error)):
        one.next()


@pytest.mark.parametrize("error", [AuthExpired("dead"), RuntimeError("a fault of ours")])
def test_what_ends_the_stream_comes_out_of_the_feed(error: Exception, bench: Callable[..., Bench]) -> None:
    one = bench()
    one.tell(Connected(again=False), error)
    with pytest.raises(type(error)):
        one.next()


def test_a_candle_that_cannot_be_believed_is_missing(bench: Callable[..., Bench]) -> None:
    one = bench(start_s=14 * 60, tokens={"SIMB": ONE + 256})
    one.archive.rows[14] = one.archive.rows[14]._replace(high=1.0)
    one.archive.rows[15] = one.archive.rows[15]._replace(low=90.0)
    one.tell(Connected(again=False), Lost("gone"), seconds=16 * 60 + 6)
    assert one.next().time_ns == at(15 * 60)
    assert one.feed.report.lost == 2


def test_a_loop_that_is_too_slow_is_told_and_the_bars_come_from_the_candles(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench, patience=FeedPatience(room=3, sign_s=0.1))
    ticks = [tick(15 * 60 + second, 115.0, 900 + second) for second in range(10)]
    with capture_logs() as logs:
        one.tell(*ticks)
        one.tell(tick(16 * 60 + 5, 117.0, 990), Idle(), seconds=16 * 60 + 6)
        bar = one.next().bars["SIMA"]
    assert (bar.high, bar.volume) == (117.0, 65)
    assert any("too slow" in entry["event"] for entry in logs)
    assert one.feed.report.overflowed >= 7
    assert one.feed.report.by_ticks == 0


def test_order_flow_is_given_where_it_is_read_and_ends_with_the_first_gap(bench: Callable[..., Bench]) -> None:
    one = bench(needs=("signed_volume",))
    one.tell(Connected(again=False))
    assert one.quiet()
    # Nothing has traded yet that would show the subscription; half a second later it is in force.
    time.sleep(0.6)
    one.tell(Idle())
    one.tell(tick(1, 100.0, 500), tick(3, 100.5, 510), tick(61, 101.0, 530), seconds=61)
    bar = one.next().bars["SIMA"]
    assert (bar.time_ns, bar.volume) == (OPEN_NS, 10)
    assert dict(zip(EXTRA_FIELDS, bar.extra, strict=True))["ticks"] == 2.0
    one.tell(Lost("gone"), Connected(again=True), tick(121, 101.0, 560), seconds=123)
    with pytest.raises(FlowLost, match="09:16 IST are missing, and the policy's state reads what only ticks tell"):
        one.next()


@pytest.mark.parametrize(
    ("tokens", "interval", "needs", "told"),
    [
        ({}, "1m", (), "1 to 3000 symbols"),
        ({"A": 1, "B": 1}, "1m", (), "each with its own token"),
        ({"A": 1}, "2m", (), "unknown interval '2m'"),
        ({"A": 1}, "1m", ("index_close",), "index_close, and Kite's feed gives shares alone"),
        ({"A": 1}, "1d", ("spread",), "spread, which candles do not know"),
    ],
)
def test_a_feed_that_cannot_give_what_is_asked_is_refused(
    tokens: dict[str, int], interval: str, needs: tuple[str, ...], told: str
) -> None:
    clock = Clock(OPEN_NS)
    with pytest.raises(FeedError, match=told):
        KiteFeed(Script, Archive(clock, []), tokens, interval, clock, needs=needs)


def test_daily_bars_are_candles_once_the_auction_is_over() -> None:
    clock, script = Clock(at(3600)), Script()
    midnight_ns = OPEN_NS - (9 * 60 + 15) * MINUTE_NS
    archive = Archive(clock, [Candle(midnight_ns, 1.0, 3.0, 1.0, 2.0, 9)])
    feed = iter(KiteFeed(lambda: script, archive, {"SIMA": ONE}, "1d", clock, patience=FeedPatience(sign_s=0.1)))
    script.told.put(Connected(again=False))
    script.told.put(tick(3601, 2.0, 5))
    assert next(feed) is None
    clock.time_ns = at(6.5 * 3600)
    assert next(feed) is None
    assert archive.asked == []
    clock.time_ns = at(6.75 * 3600 + 1)
    moment = next(one for one in feed if one is not None)
    assert moment == Moment(OPEN_NS, {"SIMA": Bar(OPEN_NS, 1.0, 3.0, 1.0, 2.0, 9)})
    feed.close()


def test_the_last_tick_is_the_newest_that_came_since_the_opening(bench: Callable[..., Bench]) -> None:
    one = opened_at_0930(bench)
    # What the stream showed when it was opened says nothing of the clock.
    assert one.feed.last_tick("SIMA") is None
    one.tell(tick(15 * 60 + 7, 115.05, 910), seconds=15 * 60 + 8)
    one.tell(tick(15 * 60 + 3, 110.0, 905), seconds=15 * 60 + 9)
    assert one.quiet()
    assert one.feed.last_tick("SIMA") == LastTick(11_505, at(15 * 60 + 7), at(15 * 60 + 8))


def test_what_the_broker_tells_of_now(opened: Callable[..., Session]) -> None:
    session = opened()
    session.played.play(9)
    rest = session.rest
    quotes = rest.quote(["SIMA", "SIMB", "NOPE"])
    assert sorted(quotes) == ["SIMA", "SIMB"]
    now = quotes["SIMA"]
    assert now.token == session.tokens["SIMA"]
    assert now.lowest_paise < now.last_paise < now.highest_paise
    assert now.time_ns is not None
    assert OPEN_NS <= now.time_ns <= session.played.clock.now_ns()
    assert rest.ltp(["SIMA", "NOPE"]) == {"SIMA": (now.token, now.last_paise)}
    profile = rest.profile()
    assert profile.user_id
    assert "NSE" in profile.exchanges
    order_id = rest.place(OrderRequest("fs1", "SIMA", "BUY", 1, "LIMIT", "MIS", now.lowest_paise))
    assert [row.status for row in rest.order_history(order_id)][-1] == "OPEN"
