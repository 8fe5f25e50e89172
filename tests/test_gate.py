"""The gate: every reason is breached, counted and told; what only reduces a position passes where data is in doubt."""

import datetime as dt
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finsense.account.joint import Books
from finsense.account.session import Order
from finsense.config.live import GateSettings
from finsense.live.alarms import Alarms
from finsense.live.bar_grid import acted_on_ns, bar_end_ns, bars_between, next_session
from finsense.live.brokers.errors import HaltTrading
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.gate import HARD_RATES, Gate, LastTick, Reason, rate_limits, reduces
from finsense.live.kill_switch import RELEASE_PHRASE, KillSwitch
from finsense.market.bars import Bar
from finsense.market.calendar import MINUTE_NS, nse_calendar
from finsense.market.moments import Moment

DAY = dt.date(2026, 7, 15)
SECOND_NS = 1_000_000_000
STEP_NS = 5 * MINUTE_NS
SESSION = nse_calendar().session(DAY, derivatives=True)
BEFORE = nse_calendar().session(DAY - dt.timedelta(1), derivatives=True)
assert SESSION is not None
assert BEFORE is not None
OPEN_NS, CLOSE_NS, BEFORE_CLOSE_NS = SESSION.open_ns, SESSION.close_ns, BEFORE.close_ns
SYMBOLS = ("INFY", "TCS")


class Clock:
    """Stands where it is set."""

    def __init__(self) -> None:
        self.time_ns = 0

    def now_ns(self) -> int:
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        self.time_ns += int(seconds * SECOND_NS)


class Stage:
    """A gate with everything that it looks at in hand."""

    def __init__(self, home: Path, **changed: Any) -> None:
        self.home, self.settings = home, GateSettings(**changed)
        self.clock, self.real_ns = Clock(), [10**18]
        self.ticks: dict[str, LastTick] = {}
        self.notes: list[dict[str, Any]] = []
        self.beats = 0
        self.alarms = Alarms(
            "main", clock=self.clock, note=lambda tag, what, body, time_ns: self.notes.append(dict(body))
        )
        self.switch = KillSwitch(home)
        self.restart()
        self.bar = 0
        self.gate.begin(dict.fromkeys(SYMBOLS, BEFORE_CLOSE_NS - STEP_NS))

    def restart(self) -> None:
        """A new process on the same files."""
        self.rates = RateLimits(self.home / "rates.db", rate_limits(self.settings), now_ns=lambda: self.real_ns[0])
        self.hard = RateLimits(self.home / "rates.db", HARD_RATES, now_ns=lambda: self.real_ns[0])
        self.gate = Gate(
            self.settings,
            "5m",
            self.switch,
            self.rates,
            self.hard,
            self.clock,
            derivatives=dict.fromkeys(SYMBOLS, True),
            last_tick=self.ticks.get,
            alarms=self.alarms,
            beat=self.beat,
            now_s=lambda: self.real_ns[0] / SECOND_NS,
        )

    def beat(self) -> None:
        self.beats += 1

    def close(self) -> None:
        self.rates.close()
        self.hard.close()

    def moment(self, skip: int = 0, symbols: tuple[str, ...] = SYMBOLS, close: float = 1500.0) -> Moment:
        """The next bar, `skip` bars later than it should be; the clock stands two seconds after its end."""
        time_ns = OPEN_NS + (self.bar + skip) * STEP_NS
        self.bar += 1 + skip
        self.clock.time_ns = time_ns + STEP_NS + 2 * SECOND_NS
        return Moment(time_ns, {symbol: Bar(time_ns, close, close, close, close, 1000) for symbol in symbols})

    def check(self, moment: Moment, quantities: dict[str, int], **books: Any) -> dict[str, str]:
        """What of these orders is stopped."""
        orders = {symbol: Order(moment.time_ns, quantity) for symbol, quantity in quantities.items()}
        held: dict[str, int] = books.pop("held", {})
        cash = books.pop("cash", 10**9)
        worth = cash + sum(shares * 150_000 for shares in held.values())
        return self.gate.check(orders, moment, Books(cash, held, books.pop("equity", worth)))


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


BUY = {"INFY": 10}


def test_an_order_on_whole_and_fresh_data_leaves(stage: Stage) -> None:
    assert stage.check(stage.moment(), {"INFY": 10, "TCS": 5}) == {}
    assert not stage.gate.refused
    assert stage.gate.checked == 2


def stopped_by(stage: Stage, stopped: dict[str, str], reason: Reason, symbols: tuple[str, ...] = ("INFY",)) -> None:
    assert set(stopped) == set(symbols)
    assert all(text.startswith(f"{reason}: ") for text in stopped.values())
    assert stage.gate.refused == {reason: len(symbols)}
    (note,) = stage.notes
    assert note["kind"] == "order stopped"
    assert note["text"].startswith(str(reason))
    assert note["facts"]["symbols"] == list(symbols)


def test_a_latched_switch_stops_every_order_and_the_loop(stage: Stage) -> None:
    stage.gate.look()
    latch = stage.switch.pull("smoke", "command", flatten=True)
    moment = stage.moment()
    stopped_by(stage, stage.check(moment, {"INFY": 10, "TCS": -5}, held={"TCS": 5}), Reason.KILL, SYMBOLS)
    with pytest.raises(HaltTrading, match="smoke") as caught:
        stage.gate.look()
    assert caught.value.flatten
    assert stage.switch.taken(latch)
    stage.restart()
    with pytest.raises(HaltTrading):
        stage.gate.look()
    stage.switch.release(RELEASE_PHRASE)
    stage.gate.look()
    assert stage.beats == 4


def test_an_old_bar_opens_nothing(stage: Stage) -> None:
    moment = stage.moment()
    stage.clock.time_ns = moment.time_ns + STEP_NS + int(60.5 * SECOND_NS)
    stopped_by(stage, stage.check(moment, BUY), Reason.STALE)


def test_a_bar_from_the_future_shows_a_wrong_clock(stage: Stage) -> None:
    moment = stage.moment()
    stage.clock.time_ns = moment.time_ns + STEP_NS - 60 * SECOND_NS
    stopped_by(stage, stage.check(moment, BUY), Reason.CLOCK)


@pytest.mark.parametrize("apart_s", [-5.5, 5.5])
def test_stamps_far_from_our_clock_show_a_wrong_clock(stage: Stage, apart_s: float) -> None:
    moment = stage.moment()
    now_ns = stage.clock.now_ns()
    stage.ticks["INFY"] = LastTick(150_000, now_ns - int(apart_s * SECOND_NS), now_ns)
    stopped_by(stage, stage.check(moment, BUY), Reason.CLOCK)


def test_a_price_that_ran_away_opens_nothing(stage: Stage) -> None:
    moment = stage.moment()
    now_ns = stage.clock.now_ns()
    stage.ticks["INFY"] = LastTick(155_000, now_ns, now_ns)
    stage.ticks["TCS"] = LastTick(154_000, now_ns, now_ns)
    stopped_by(stage, stage.check(moment, {"INFY": 10, "TCS": 10}), Reason.PRICE)


def test_after_a_gap_nothing_opens_until_the_data_is_whole_again(stage: Stage) -> None:
    stage.check(stage.moment(), {})
    stopped = stage.check(stage.moment(skip=2), BUY)
    assert "2 bars were missing" in stopped["INFY"]
    stopped_by(stage, stopped, Reason.GAP)
    assert stage.check(stage.moment(), BUY)
    assert stage.check(stage.moment(), BUY)
    assert not stage.check(stage.moment(), BUY)


def test_a_gap_of_one_symbol_stops_that_one(stage: Stage) -> None:
    stage.check(stage.moment(), {})
    stage.check(stage.moment(symbols=("TCS",)), {})
    stopped_by(stage, stage.check(stage.moment(), {"INFY": 10, "TCS": 10}), Reason.GAP)


def test_bars_missing_before_the_first_one_count(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stopped_by(stage, stage.check(stage.moment(skip=4), BUY), Reason.GAP)
    stage.close()


def test_a_night_is_no_gap(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    assert not stage.check(stage.moment(), BUY)
    stage.gate.begin(dict.fromkeys(SYMBOLS, BEFORE_CLOSE_NS - 3 * STEP_NS))
    stage.bar = 0
    assert stage.check(stage.moment(), BUY), "two bars of yesterday are missing"
    stage.close()


def test_an_order_for_a_symbol_without_a_bar_does_not_leave(stage: Stage) -> None:
    stopped_by(stage, stage.check(stage.moment(symbols=("TCS",)), BUY), Reason.GAP)


def test_a_feed_that_dies_with_the_market_open_is_told_once_per_silence(stage: Stage) -> None:
    def silence() -> list[str]:
        stage.real_ns[0] += 61 * SECOND_NS
        for _ in range(3):
            stage.gate.look()
        return [note["kind"] for note in stage.notes]

    stage.check(stage.moment(), {})
    assert silence() == [], "the next bar is not due yet"
    stage.clock.time_ns += 2 * STEP_NS
    assert silence() == ["feed_silent"]
    stage.check(stage.moment(), {})
    stage.clock.time_ns += 3 * STEP_NS
    assert silence() == ["feed_silent", "feed_silent"]
    stage.check(stage.moment(), {})
    # After the close, and over the night, nothing is due.
    stage.bar = (CLOSE_NS - OPEN_NS) // STEP_NS - 1
    stage.check(stage.moment(), {})
    stage.clock.time_ns += 3600 * SECOND_NS
    assert silence() == ["feed_silent", "feed_silent"]


def test_contradictory_books_stop_everything(stage: Stage) -> None:
    stopped = stage.check(stage.moment(), {"INFY": -10}, held={"INFY": 10}, equity=10**9)
    stopped_by(stage, stopped, Reason.BOOKS)
    assert stage.check(stage.moment(), BUY, cash=-1)


def test_what_only_reduces_a_position_passes_doubts(stage: Stage) -> None:
    moment = stage.moment(skip=4)
    now_ns = stage.clock.time_ns = stage.clock.time_ns + 3600 * SECOND_NS
    stage.ticks["INFY"] = LastTick(100_000, now_ns - 99 * SECOND_NS, now_ns)
    assert stage.check(moment, {"INFY": -10}, held={"INFY": 10}) == {}
    assert set(stage.check(moment, {"INFY": -11}, held={"INFY": 10})) == {"INFY"}, "it would go through zero"


def test_the_rate_of_a_second_and_what_a_restart_remembers(stage: Stage) -> None:
    moment = stage.moment()
    for _ in range(8):
        assert stage.check(moment, BUY) == {}
    stopped_by(stage, stage.check(moment, BUY), Reason.RATE)
    stage.close()
    stage.restart()
    assert stage.check(moment, BUY), "a restart does not forget what left"
    for _ in range(2):
        assert not stage.check(moment, {"INFY": -10}, held={"INFY": 20}), "a way out is kept to the hard limit"
    stage.real_ns[0] += 2 * SECOND_NS
    assert not stage.check(moment, BUY)


def test_a_way_out_queues_behind_the_hard_rate(stage: Stage) -> None:
    """At a square-off every position leaves with the same bar; none may stay in for having come eleventh."""
    moment, out = stage.moment(), {"INFY": -10}
    for _ in range(200):
        assert not stage.check(moment, out, held={"INFY": 20})
    stopped_by(stage, stage.check(moment, out, held={"INFY": 20}), Reason.RATE)
    assert stage.check(moment, BUY), "nothing opens before what waits has left"


def test_overspent_cash_opens_nothing_and_holds_nobody_in(stage: Stage) -> None:
    moment = stage.moment()
    stopped_by(stage, stage.check(moment, BUY, cash=-1, held={"TCS": 10}), Reason.BOOKS)
    assert not stage.check(moment, {"TCS": -10}, cash=-1, held={"TCS": 10})


@pytest.mark.parametrize(("limit", "span_s"), [("orders_per_minute", 60), ("orders_per_day", 86_400)])
def test_the_rates_of_a_minute_and_a_day(tmp_path: Path, limit: str, span_s: int) -> None:
    stage = Stage(tmp_path, **{"orders_per_second": 4, "orders_per_minute": 10, limit: 10})
    moment = stage.moment()
    for _ in range(10):
        assert not stage.check(moment, BUY)
        stage.real_ns[0] += SECOND_NS
    assert Reason.RATE in stage.check(moment, BUY)["INFY"]
    stage.real_ns[0] += span_s * SECOND_NS
    assert not stage.check(moment, BUY)
    stage.close()


def test_a_clock_that_is_set_back_frees_no_rate(stage: Stage) -> None:
    moment = stage.moment()
    for _ in range(8):
        stage.check(moment, BUY)
    stage.real_ns[0] -= 3600 * SECOND_NS
    assert stage.check(moment, BUY)


def test_a_broken_file_of_rates_stops_orders(stage: Stage) -> None:
    with sqlite3.connect(stage.home / "rates.db") as database:
        database.execute("DROP TABLE bookings")
    database.close()
    assert "cannot be used" in stage.check(stage.moment(), BUY)["INFY"]


@given(position=st.integers(-50, 50), quantity=st.integers(-50, 50))
def test_reducing_means_smaller_and_on_the_same_side(position: int, quantity: int) -> None:
    after = position + quantity
    smaller = abs(after) < abs(position) and after * position >= 0
    assert reduces(position, quantity) == smaller


_DOUBLED = {
    "stale_s": st.floats(1, 120),
    "gap_bars": st.integers(1, 5),
    "tick_distance": st.floats(0.001, 0.2),
    "skew_s": st.floats(0.5, 20),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limits=st.fixed_dictionaries({}, optional=_DOUBLED), data=st.data())
def test_doubling_a_limit_never_stops_more(tmp_path_factory: Any, limits: dict[str, Any], data: st.DataObject) -> None:
    doubled = {name: value * 2 for name, value in limits.items()}
    late_s, skip = data.draw(st.floats(-40, 250)), data.draw(st.integers(0, 12))
    paise, apart_s = data.draw(st.integers(100_000, 200_000)), data.draw(st.floats(-45, 45))
    found = []
    for values in (limits, doubled):
        stage = Stage(tmp_path_factory.mktemp("gate"), **values)
        stage.check(stage.moment(), {})
        moment = stage.moment(skip=skip)
        now_ns = stage.clock.time_ns = moment.time_ns + STEP_NS + int(late_s * SECOND_NS)
        stage.ticks["INFY"] = LastTick(paise, now_ns - int(apart_s * SECOND_NS), now_ns)
        found.append(bool(stage.check(moment, BUY)))
        stage.close()
    tighter, looser = found
    assert tighter or not looser


# -- where bars belong -------------------------------------------------------------------------------------------------


def test_bars_are_counted_on_the_exchanges_grid() -> None:
    def between(first_ns: int, last_ns: int, interval: str = "5m") -> int:
        return bars_between(first_ns, last_ns, interval, derivatives=True)

    assert between(OPEN_NS, OPEN_NS + STEP_NS) == 0
    assert between(OPEN_NS, OPEN_NS + 4 * STEP_NS) == 3
    friday = nse_calendar().session(dt.date(2026, 7, 17), derivatives=True)
    monday = nse_calendar().session(dt.date(2026, 7, 20), derivatives=True)
    assert friday is not None
    assert monday is not None
    assert between(friday.close_ns - STEP_NS, monday.open_ns) == 0
    assert between(friday.open_ns, monday.open_ns) == 74
    assert between(friday.open_ns, monday.open_ns, "1d") == 0
    assert between(OPEN_NS, monday.open_ns, "1d") == 2


def test_bars_end_with_their_window() -> None:
    assert bar_end_ns(OPEN_NS, "5m", derivatives=True) == OPEN_NS + STEP_NS
    last_ns = OPEN_NS + 6 * 3_600_000_000_000
    assert bar_end_ns(last_ns, "60m", derivatives=True) == CLOSE_NS < last_ns + 3_600_000_000_000
    assert bar_end_ns(OPEN_NS, "1d", derivatives=True) == CLOSE_NS
    following = next_session(DAY, derivatives=True)
    assert following is not None
    assert acted_on_ns(OPEN_NS, "1d", derivatives=True) == following.open_ns
    assert next_session(dt.date(2026, 12, 31), derivatives=True) is None


def test_a_daily_decision_is_good_until_the_next_opening(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.gate = Gate(
        stage.settings,
        "1d",
        stage.switch,
        stage.rates,
        stage.hard,
        stage.clock,
        derivatives=dict.fromkeys(SYMBOLS, True),
    )
    moment = stage.moment()
    following = next_session(DAY, derivatives=True)
    assert following is not None
    for time_ns, leaves in (
        (CLOSE_NS - 60 * SECOND_NS, False),
        (CLOSE_NS + 60 * SECOND_NS, True),
        (following.open_ns, True),
        (following.open_ns + 61 * SECOND_NS, False),
    ):
        stage.clock.time_ns = time_ns
        assert (not stage.check(moment, BUY)) == leaves
    stage.close()
