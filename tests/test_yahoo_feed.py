"""The Yahoo feed through the real client against a real server, in good weather and in every bad one that was met."""

import datetime as dt
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("yfinance")
import yfinance
from hypothesis import given
from hypothesis import strategies as st
from yahoo_server import SECOND_NS, StepClock, YahooServer, ist, loopback_session, yahoo_server

from finsense.live.brokers.errors import ProtocolError, RateLimited, Rejected, TransientRead
from finsense.live.feeds.yahoo import FeedSilent, HistoryOutdated, YahooFeed, YahooPatience
from finsense.live.feeds.yahoo_chart import YahooChart, classify
from finsense.market.bars import Bars, BarsError, ist_text
from finsense.market.calendar import MINUTE_NS, nse_calendar
from finsense.market.moments import Moment, moments
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.yahoo import bar_ends, believed_rows, continuous

DAY = dt.date(2024, 3, 14)
FIRST, LAST = dt.date(2024, 3, 4), dt.date(2024, 3, 15)


@dataclass
class Stage:
    """A server, its clock, and what was told."""

    server: YahooServer
    clock: StepClock
    chart: YahooChart
    told: list[tuple[str, str]]

    def feed(self, *symbols: str, interval: str = "5m", **options: Any) -> YahooFeed:
        def hear(kind: str, text: str, /, **facts: object) -> None:
            self.told.append((kind, text))

        names = symbols or ("SIMA", "SIMB")
        generator = random.Random(1)
        return YahooFeed(names, interval, self.clock, chart=self.chart, alarm=hear, generator=generator, **options)

    def bars(self, symbol: str, interval: str = "5m") -> Bars:
        return self.server.markets[symbol][interval]

    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.told}


def simulated(interval: str, **options: Any) -> dict[str, Bars]:
    return SimulatedMarket(
        model="random_walk", symbols=("SIMA", "SIMB"), interval=interval, first=FIRST, last=LAST, seed=3, **options
    ).load()


MARKETS: dict[str, dict[str, Bars]] = {
    symbol: {interval: simulated(interval)[symbol] for interval in ("5m", "1d")} for symbol in ("SIMA", "SIMB")
}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A Thursday morning in front of the opening."""
    yfinance.set_tz_cache_location(str(tmp_path))
    clock = StepClock(ist(2024, 3, 14, 9, 10))
    with ExitStack() as stack:
        server = stack.enter_context(yahoo_server(YahooServer(MARKETS, clock), hang_s=0.6))
        session = stack.enter_context(loopback_session(server.port))
        yield Stage(server, clock, YahooChart(session, timeout_s=0.3), [])


def take(feed: YahooFeed, count: int) -> list[Moment]:
    found: list[Moment] = []
    for moment in feed:
        if moment is not None:
            found.append(moment)
            if len(found) == count:
                break
    return found


def expected(stage: Stage, count: int, interval: str = "5m", *symbols: str) -> list[Moment]:
    bars = [stage.bars(symbol, interval).between(DAY, None) for symbol in symbols or ("SIMA", "SIMB")]
    return [moment for moment, _ in zip(moments(bars), range(count), strict=False)]


def at(hour: int, minute: int, day: dt.date = DAY) -> int:
    return int(ist(day.year, day.month, day.day, hour, minute).timestamp()) * SECOND_NS


# what the client can meet


@pytest.mark.parametrize("fault", ["404", "500", "429", "back soon", "page", "nothing", "hang", "drop", "empty day"])
def test_a_failure_is_told_and_passes(stage: Stage, fault: str) -> None:
    stage.server.fail(*[fault] * (2 if fault in ("404", "500", "429") else 1))
    assert take(stage.feed(), 2) == expected(stage, 2)
    kind = "feed rate limited" if fault == "429" else "feed failing"
    assert stage.kinds() == {kind}
    assert len(stage.told) == 1


def test_a_server_that_hangs_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    """The loop hears None while a request waits, so that it can look after its orders."""
    yfinance.set_tz_cache_location(str(tmp_path))
    clock = StepClock(ist(2024, 3, 14, 9, 21))
    server = YahooServer(MARKETS, clock)
    with yahoo_server(server, hang_s=1.5), loopback_session(server.port) as session:
        server.fail("hang")
        feed = iter(YahooFeed(["SIMA"], "5m", clock, chart=YahooChart(session)))
        assert next(feed) is None
        assert len(server.asked) == 1
        assert clock.now_ns() == at(9, 21)


def test_missing_trading_periods_do_not_matter(stage: Stage) -> None:
    stage.server.fail(*["no tradingPeriods"] * 4)
    assert take(stage.feed(), 2) == expected(stage, 2)
    assert not stage.told


def test_a_range_too_old_is_refused_at_once(stage: Stage) -> None:
    stage.server.fail("422", "422")
    with pytest.raises(Rejected, match="last 60 days"):
        stage.feed().history(3)


def test_a_failure_of_the_history_is_not_kept_by_the_client(stage: Stage) -> None:
    """The client's own memory holds answers of the past, a 500 among them."""
    stage.server.fail("500", "500", "back soon", "429", "429")
    found = stage.feed().history(3)
    assert [kind for kind, _ in stage.told] == ["feed failing", "feed failing", "feed rate limited"]
    assert sorted(found.bars) == ["SIMA", "SIMB"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("404", TransientRead), ("429", RateLimited), ("back soon", TransientRead), ("page", TransientRead)],
)
def test_a_history_that_never_comes_ends(stage: Stage, fault: str, kind: type[Exception]) -> None:
    stage.server.fail(*[fault] * 200)
    with pytest.raises(kind):
        stage.feed(patience=YahooPatience(silence_s=120)).history(3)


@pytest.mark.parametrize("fault", ["404", "429", "500", "back soon", "empty day", "nothing"])
def test_a_feed_that_only_fails_ends(stage: Stage, fault: str) -> None:
    stage.server.fail(*[fault] * 10_000)
    begun_ns = stage.clock.now_ns()
    with pytest.raises(FeedSilent):
        take(stage.feed(), 1)
    # 15 minutes after the first bar was due, which was whole at 9:20:20.
    silent_s = (stage.clock.now_ns() - at(9, 20)) / SECOND_NS - 20
    assert 900 <= silent_s < 905
    assert begun_ns < at(9, 20)
    # Backing off: 10 s, 20 s, 40 s, ... up to 300 s, each cut by up to a half; the client doubles what fails.
    assert len(stage.server.asked) <= 2 * 2 * 10
    assert "feed late" in stage.kinds()


def test_an_exchange_that_stands_still_ends_the_feed(stage: Stage) -> None:
    """Well-formed answers without anything new are as blind as none."""
    stage.server.lag_s = 86_400
    with pytest.raises(FeedSilent, match=r"09:15 IST or later for 15\.0 minutes"):
        take(stage.feed(), 1)
    assert stage.kinds() == {"feed late"}


def test_one_symbol_that_fails_does_not_hold_up_the_other_but_ends_the_feed(stage: Stage) -> None:
    found: list[Moment | None] = []
    with pytest.raises(FeedSilent, match=r"SIMX: .* failed or were empty"):
        found.extend(stage.feed("SIMA", "SIMX"))
    found = [moment for moment in found if moment is not None]
    assert found == expected(stage, len(found), "5m", "SIMA")
    assert len(found) == 3
    assert ("feed late", "SIMX: the moment of 2024-03-14 09:15 IST goes without it") in stage.told


def test_a_refusal_for_asking_too_often_makes_every_symbol_wait(stage: Stage) -> None:
    stage.server.fail("429", "429")
    feed = stage.feed(patience=YahooPatience(retry_s=60))
    asked_at: list[int] = []
    stage.server.mark = lambda result: asked_at.append(stage.clock.now_ns())
    assert take(feed, 1) == expected(stage, 1)
    assert asked_at[0] - at(9, 20) >= (20 + 30) * SECOND_NS
    assert feed.counts["feed rate limited"] == 1


# rows that are not to be believed


def test_open_bars_live_quotes_and_rows_without_a_trade_are_left_out(stage: Stage) -> None:
    flat = dt.datetime.fromtimestamp(at(9, 30) / SECOND_NS, dt.UTC)

    def spoil(result: dict[str, Any]) -> None:
        """Yahoo fills 9:30 of SIMA, in which nothing is traded, and loses the prices of 9:35."""
        quote, stamps = result["indicators"]["quote"][0], result["timestamp"]
        if result["meta"]["symbol"] == "SIMA.NS":
            for place, stamp in enumerate(stamps):
                if stamp == flat.timestamp():
                    price = quote["close"][place]
                    quote["open"][place] = quote["high"][place] = quote["low"][place] = price
                    quote["volume"][place] = 0
                if stamp == flat.timestamp() + 300:
                    quote["close"][place] = None

    stage.server.mark = spoil
    feed = stage.feed()
    found = take(feed, 7)
    assert [list(moment.bars) for moment in found] == [["SIMA", "SIMB"]] * 3 + [["SIMB"]] * 2 + [["SIMA", "SIMB"]] * 2
    whole = expected(stage, 7)
    assert all(
        its.bars[symbol] == bar for mine, its in zip(found, whole, strict=True) for symbol, bar in mine.bars.items()
    )
    # The bar of the failing client is counted once for each answer that has it.
    assert min(feed.counts[why] for why in ("no trade", "empty price", "off the grid", "still open")) >= 1


def test_a_late_bar_is_waited_for_and_then_left(stage: Stage) -> None:
    """SIMB's rows of 9:20 come with the next ones: the moment waits 90 s, then goes, and SIMB's bar is never given."""
    late_s = at(9, 20) // SECOND_NS

    def withhold(result: dict[str, Any]) -> None:
        if result["meta"]["symbol"] == "SIMB.NS" and stage.clock.now_ns() < at(9, 28):
            for column in (quote := result["indicators"]["quote"][0]):
                quote[column] = [
                    one for stamp, one in zip(result["timestamp"], quote[column], strict=True) if stamp < late_s
                ]
            result["timestamp"] = [stamp for stamp in result["timestamp"] if stamp < late_s]

    stage.server.mark = withhold
    found: list[Moment] = []
    given_at: list[int] = []
    for moment in stage.feed():
        if moment is not None:
            found.append(moment)
            given_at.append(stage.clock.now_ns())
            if len(found) == 3:
                break
    assert [list(moment.bars) for moment in found] == [["SIMA", "SIMB"], ["SIMA"], ["SIMA", "SIMB"]]
    assert 110 <= (given_at[1] - at(9, 25)) / SECOND_NS <= 112
    assert ("feed late", "SIMB: the moment of 2024-03-14 09:20 IST goes without it") in stage.told


def test_a_bar_that_yahoo_changes_later_is_told_and_left(stage: Stage) -> None:
    def change(result: dict[str, Any]) -> None:
        if stage.clock.now_ns() > at(9, 40):
            result["indicators"]["quote"][0]["volume"][0] += 7

    stage.server.mark = change
    assert take(stage.feed(), 6) == expected(stage, 6)
    assert [kind for kind, _ in stage.told] == ["bar revised", "bar revised"]


def test_prices_that_contradict_each_other_are_left_out(stage: Stage) -> None:
    def spoil(result: dict[str, Any]) -> None:
        if result["meta"]["symbol"] == "SIMA.NS":
            result["indicators"]["quote"][0]["high"][1] = 1.0

    stage.server.mark = spoil
    found = take(stage.feed(), 3)
    assert [list(moment.bars) for moment in found] == [["SIMA", "SIMB"], ["SIMB"], ["SIMA", "SIMB"]]


def test_bars_on_yahoos_grid_instead_of_the_exchanges_are_none(stage: Stage) -> None:
    """Bars anchored at :00 lose the first quarter of an hour; nothing can be made of them."""

    def shift(result: dict[str, Any]) -> None:
        result["timestamp"] = [stamp + 120 for stamp in result["timestamp"]]

    stage.server.mark = shift
    with pytest.raises(FeedSilent):
        take(stage.feed(), 1)
    assert "feed empty" in stage.kinds()
    assert any("off the grid" in text for kind, text in stage.told if kind == "feed empty")


# where the feed begins, and what lies before


@pytest.mark.parametrize("interval", ["5m", "1d"])
@pytest.mark.parametrize("start", [(9, 10), (12, 34), (15, 29)])
def test_history_and_feed_join_without_a_gap(stage: Stage, interval: str, start: tuple[int, int]) -> None:
    stage.clock.sleep((at(*start) - stage.clock.now_ns()) / SECOND_NS)
    feed = stage.feed(interval=interval)
    warm = feed.history(4)
    assert not warm.missing
    assert feed.first_day == DAY
    count = 30 if interval == "5m" else 2
    given = take(feed, count)
    for symbol in ("SIMA", "SIMB"):
        # 11 March has a session, 8 March is a holiday.
        source = stage.bars(symbol, interval).between(dt.date(2024, 3, 7), None)
        mine = [*warm.bars[symbol], *(moment.bars[symbol] for moment in given)]
        assert mine == list(source)[: len(mine)]
        assert warm.bars[symbol].last_date == dt.date(2024, 3, 13)


def test_after_the_close_the_next_session_comes(stage: Stage) -> None:
    stage.clock.sleep((at(15, 31) - stage.clock.now_ns()) / SECOND_NS)
    feed = stage.feed()
    assert feed.first_day == dt.date(2024, 3, 15)
    assert feed.history(1).bars["SIMA"].last_date == DAY


def test_a_feed_can_begin_days_ago(stage: Stage) -> None:
    feed = stage.feed(since=dt.date(2024, 3, 12))
    found = take(feed, 151)
    bars = [stage.bars(symbol).between(dt.date(2024, 3, 12), None) for symbol in ("SIMA", "SIMB")]
    assert found == [moment for moment, _ in zip(moments(bars), range(151), strict=False)]
    assert stage.server.asked[0][1]["range"] == "5d"


def test_more_history_than_yahoo_keeps_is_refused_before_asking(stage: Stage) -> None:
    with pytest.raises(ValueError, match="last 59 days"):
        stage.feed().history(60)
    assert not stage.server.asked


def test_what_yahoo_does_not_have_is_told(stage: Stage) -> None:
    warm = stage.feed().history(12)
    # Yahoo's bars begin on 4 March.
    assert warm.missing["SIMA"][-1] < FIRST
    assert stage.kinds() == {"history gap"}


def test_the_request_asks_for_raw_prices(stage: Stage) -> None:
    feed = stage.feed("SIMA", interval="1d")
    assert (
        feed.history(4).bars["SIMA"].close.tolist()
        == stage.bars("SIMA", "1d").between(dt.date(2024, 3, 7), dt.date(2024, 3, 13)).close.tolist()
    )


# splits and dividends


def unadjusted(bars: Bars, day: dt.date, ratio: float) -> Bars:
    """The market before the split in its old shares, as the exchange saw it."""
    older = bars.session_days < (day - dt.date(1970, 1, 1)).days
    columns = {
        name: np.where(older, getattr(bars, name) * ratio, getattr(bars, name)) for name in ("open", "high", "low")
    }
    close = np.where(older, bars.close * ratio, bars.close)
    volume = np.where(older, bars.volume // int(ratio), bars.volume)
    return replace(bars, **columns, close=close, volume=volume)


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("interval", ["5m", "1d"])
def test_a_split_in_the_history_leaves_no_step(stage: Stage, interval: str, adjusted: bool) -> None:
    day, ratio = dt.date(2024, 3, 12), 5.0
    true = stage.bars("SIMA", interval)
    stage.server.splits = {"SIMA": {day: (5, 1)}}
    served = true if adjusted else unadjusted(true, day, ratio)
    stage.server.markets = {"SIMA": {interval: served}}
    warm = stage.feed("SIMA", interval=interval).history(5)
    assert warm.factors == {"SIMA": {day: 1.0 if adjusted else ratio}}
    whole = true.between(warm.bars["SIMA"].first_date, warm.bars["SIMA"].last_date)
    np.testing.assert_allclose(warm.bars["SIMA"].close, whole.close, rtol=1e-5)
    np.testing.assert_allclose(warm.bars["SIMA"].volume, whole.volume, atol=5)


def test_a_step_that_fits_no_split_is_refused(stage: Stage) -> None:
    day = dt.date(2024, 3, 12)
    stage.server.splits = {"SIMA": {day: (5, 1)}}
    stage.server.markets = {"SIMA": {"5m": unadjusted(stage.bars("SIMA"), day, 2.0)}}
    with pytest.raises(BarsError, match="expected a step of about 5 or of none"):
        stage.feed("SIMA").history(5)


def test_a_split_of_today_that_the_warm_up_does_not_know_stops_the_feed(stage: Stage) -> None:
    feed = stage.feed("SIMA")
    feed.history(3)
    stage.server.splits = {"SIMA": {DAY: (2, 1)}}
    with pytest.raises(HistoryOutdated, match=r"SIMA: Yahoo tells of 2 new shares per old one on 2024-03-14"):
        take(feed, 1)


def test_splits_that_another_feed_found_are_known(stage: Stage) -> None:
    stage.server.splits = {"SIMA": {DAY: (2, 1)}}
    stage.clock.sleep((at(9, 31) - stage.clock.now_ns()) / SECOND_NS)
    found = stage.feed("SIMA").history(3)
    feed = stage.feed("SIMA", since=dt.date(2024, 3, 13), splits_known=found.factors)
    given = take(feed, 80)
    assert [moment.bars["SIMA"] for moment in given] == list(stage.bars("SIMA").between(dt.date(2024, 3, 13), None))[
        :80
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_may_end_without_a_trade(stage: Stage, fails: bool) -> None:
    """A thin stock's last bars are missing; only answers tell that from a feed that is broken."""
    true = stage.bars("SIMA").between(DAY, None)
    there = np.ones(len(true), np.bool_)
    there[70:75] = False
    names = ("time_ns", "open", "high", "low", "close", "volume")
    thin = replace(true, **{name: getattr(true, name)[there] for name in names})
    stage.server.markets = {"SIMA": {"5m": thin}}
    stage.clock.sleep((at(15, 0) - stage.clock.now_ns()) / SECOND_NS)
    feed = stage.feed("SIMA", patience=YahooPatience(silence_s=3600))
    if not fails:
        assert take(feed, 72) == list(moments([thin]))[:72]
        return
    found = iter(feed)
    while (moment := next(found)) is None or moment.time_ns < thin.time_ns[69]:
        pass
    stage.server.fail(*["500"] * 10_000)
    with pytest.raises(FeedSilent):
        list(found)


def test_a_split_of_today_that_the_warm_up_knows_is_told(stage: Stage) -> None:
    stage.server.splits = {"SIMA": {DAY: (2, 1)}}
    stage.server.markets = {"SIMA": {"5m": unadjusted(stage.bars("SIMA"), DAY, 2.0)}}
    stage.clock.sleep((at(9, 31) - stage.clock.now_ns()) / SECOND_NS)
    feed = stage.feed("SIMA")
    warm = feed.history(3)
    assert warm.factors == {"SIMA": {DAY: 2.0}}
    np.testing.assert_allclose(warm.bars["SIMA"].close[-1], stage.server.markets["SIMA"]["5m"].open[0], rtol=1)
    take(feed, 6)
    assert [kind for kind, _ in stage.told] == ["split"]


def test_a_dividend_is_told_once_and_changes_no_price(stage: Stage) -> None:
    stage.server.dividends = {"SIMB": {DAY: 12.5}}
    assert take(stage.feed(), 4) == expected(stage, 4)
    assert stage.told == [("dividend", "SIMB on 2024-03-14: 12.5 rupees a share; the price falls by about that")]


@given(
    ratio=st.sampled_from([0.1, 0.5, 1.5, 2.0, 5.0, 10.0]),
    place=st.integers(1, 8),
    adjusted=st.booleans(),
)
def test_continuous_undoes_a_split_wherever_it_lies(ratio: float, place: int, adjusted: bool) -> None:
    true = MARKETS["SIMA"]["1d"]
    day = true.sessions[place].date
    served = true if adjusted else replace(
        true, **{name: np.where(np.arange(len(true)) < place, getattr(true, name) * ratio, getattr(true, name))
                 for name in ("open", "high", "low", "close")}
    )  # fmt: skip
    whole, factors = continuous(served, {day: ratio, dt.date(2000, 1, 3): 7.0})
    assert factors == {day: 1.0 if adjusted else ratio}
    np.testing.assert_allclose(whole.close, true.close, rtol=1e-12)


# the rest


def test_a_frame_that_hides_an_error_is_refused() -> None:
    import pandas as pd

    with pytest.raises(BarsError, match="hid an error"):
        believed_rows(pd.DataFrame(), "SIMA", "5m", derivatives=None, until_ns=0)


def test_hours_of_every_kind_of_session() -> None:
    calendar = nse_calendar()
    muhurat = calendar.session(dt.date(2024, 11, 1), derivatives=False)
    auction = calendar.session(dt.date(2026, 8, 4), derivatives=True)
    assert muhurat is not None
    assert auction is not None
    assert [ist_text(start)[11:16] for start in bar_ends(muhurat, "5m")][:2] == ["18:00", "18:05"]
    assert list(bar_ends(auction, "60m").items())[-1] == (auction.close_ns - 60 * MINUTE_NS, auction.close_ns)
    assert bar_ends(auction, "1d") == {auction.open_ns: auction.close_ns + 15 * MINUTE_NS}


def test_a_muhurat_session_is_given(stage: Stage) -> None:
    day = dt.date(2024, 11, 1)
    drawn = SimulatedMarket(model="random_walk", symbols=("SIMA",), first=day, last=day, seed=4).load()
    stage.clock.sleep((at(17, 50, day) - stage.clock.now_ns()) / SECOND_NS)
    stage.server.markets = {"SIMA": {"5m": drawn["SIMA"]}}
    assert take(stage.feed("SIMA"), len(drawn["SIMA"])) == list(moments([drawn["SIMA"]]))


@pytest.mark.parametrize(
    ("symbols", "interval", "words"),
    [(("SIMA",), "30m", "serves on NSE's grid"), ((), "5m", "found none"), (("SIMA", "SIMA"), "5m", "each once")],
)
def test_what_cannot_be_served_is_refused(stage: Stage, symbols: tuple[str, ...], interval: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        YahooFeed(symbols, interval, stage.clock, chart=stage.chart)


def test_an_unknown_exception_fails_closed() -> None:
    assert isinstance(classify(RuntimeError("new"), "SIMA.NS"), ProtocolError)


_OWN_SESSION = """
import sys, warnings
import yfinance, yfinance.base, yfinance.data, yfinance.scrapers.history
base = f"http://127.0.0.1:{sys.argv[1]}/query2.finance.yahoo.com"
yfinance.base._BASE_URL_ = yfinance.scrapers.history._BASE_URL_ = base
yfinance.data.YfData._get_cookie_and_crumb = lambda self, *rest, **more: (None, "basic")
yfinance.set_tz_cache_location(sys.argv[2])
from datetime import date
from finsense.live.brokers.errors import RateLimited, TransientRead
from finsense.live.feeds.yahoo_chart import YahooChart
warnings.simplefilter("error")
chart = YahooChart(timeout_s=2.0)
now_ns = int(sys.argv[3])
print(len(chart.since("SIMA", "5m", date(2024, 3, 14), now_ns)))
for kind in (RateLimited, TransientRead, TransientRead):
    try:
        chart.since("SIMA", "5m", date(2024, 3, 14), now_ns)
    except kind as error:
        print(type(error).__name__, "SIMA.NS 5m" in str(error))
chart.close()
"""


def test_the_session_of_our_own_reaches_the_server(stage: Stage, tmp_path: Path) -> None:
    """curl_cffi, as users have it; in a process of its own, since the client keeps one session for all."""
    stage.clock.sleep((at(10, 2) - stage.clock.now_ns()) / SECOND_NS)
    arguments = [str(stage.server.port), str(tmp_path), str(stage.clock.now_ns())]
    bare = {name: one for name, one in os.environ.items() if not name.lower().endswith("_proxy")}
    stage.server.fail("", "429", "429", "drop", "drop", "404", "404")
    done = subprocess.run(
        [sys.executable, "-c", _OWN_SESSION, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=bare,
    )
    assert done.stdout.splitlines() == ["11", "RateLimited True", "TransientRead True", "TransientRead True"], (
        done.stderr
    )
