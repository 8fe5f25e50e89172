"""Every feed holds one contract: whole bars in time order, on the grid, nothing lost and nothing made up."""

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from feed_contract import FeedCase, check_feed
from numpy.typing import NDArray
from yahoo_server import StepClock, YahooServer, ist, loopback_session, yahoo_server

from finsense.live.feeds.replay import ReplayFeed
from finsense.market.bars import Bar, Bars
from finsense.market.moments import Moment, moments
from finsense.market.simulate import SimulatedMarket

FIRST, LAST = dt.date(2024, 3, 14), dt.date(2024, 3, 15)


def market(interval: str = "5m", first: dt.date = FIRST, last: dt.date = LAST, *symbols: str) -> dict[str, Bars]:
    """A simulated market with holes: bars in which a symbol did not trade, and one in which nobody did."""
    drawn = SimulatedMarket(
        model="random_walk",
        symbols=symbols or ("SIMB", "SIMA", "SIMC"),
        interval=interval,
        first=first,
        last=last,
        seed=6,
    ).load()
    rng = np.random.default_rng(6)
    found = {}
    for symbol, bars in drawn.items():
        there = rng.random(len(bars)) > (0.1 if symbol == "SIMC" else 0.0)
        if interval == "5m":
            there[[20, 72]] = False
            # A day, a night and an hour.
            there[75 + 12 :] = False
        there[0] = True
        found[symbol] = thinned(bars, there)
    return found


def thinned(bars: Bars, there: NDArray[np.bool_]) -> Bars:
    names = ("time_ns", "open", "high", "low", "close", "volume")
    return replace(bars, **{name: getattr(bars, name)[there] for name in names}, extra={})


@pytest.mark.parametrize("interval", ["5m", "1d"])
@pytest.mark.parametrize("speed", [None, 1e9])
def test_replay(interval: str, speed: float | None) -> None:
    source = list(market(interval, dt.date(2024, 3, 1), LAST).values())
    check_feed(FeedCase(ReplayFeed(source, speed), source))


@pytest.mark.parametrize(
    ("interval", "first", "hour"), [("5m", FIRST, 14), ("5m", FIRST, 9), ("1d", dt.date(2024, 3, 1), 9)]
)
def test_yahoo(interval: str, first: dt.date, hour: int, tmp_path: Path) -> None:
    """From the opening, and from the middle of a session, whose first bars then come at once."""
    yfinance = pytest.importorskip("yfinance")
    from finsense.live.feeds.yahoo import YahooFeed
    from finsense.live.feeds.yahoo_chart import YahooChart

    yfinance.set_tz_cache_location(str(tmp_path))
    source = market(interval, first)
    if hour == 9 and interval == "5m":
        source = {symbol: bars.take(0, 20) for symbol, bars in source.items()}
    clock = StepClock(ist(first.year, first.month, first.day, hour, 3))
    served = YahooServer({symbol: {interval: bars} for symbol, bars in source.items()}, clock)
    with yahoo_server(served), loopback_session(served.port) as session:
        feed = YahooFeed(list(source), interval, clock, chart=YahooChart(session))
        check_feed(FeedCase(feed, list(source.values()), clock.now_ns))


def test_kite(tmp_path: Path) -> None:
    """Ticks of the rehearsal, made into bars; its second iteration goes on from candles."""
    pytest.importorskip("aiohttp")
    pytest.importorskip("kiteconnect")
    from test_kite_feed import DAY, MARKETS, Session

    from finsense.live.rehearsal.stage import stage

    with stage(MARKETS, DAY, speed=0, balance_paise=10**9) as played:
        session = Session(played, tmp_path)
        source = [bars.between(DAY, DAY) for bars in MARKETS]
        feed = Played(session)
        check_feed(FeedCase(feed, source[::-1], played.clock.now_ns, restart="goes on"))
        assert feed.player is not None
        feed.player.join()


class Played:
    """A feed of a rehearsal, whose market is played from the moment when the first stream is open."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.player: Any = None

    def __iter__(self) -> Iterator[Moment | None]:
        feed = iter(self._session.feed)
        if self.player is None:
            self._session.connect(feed)
            self.player = self._session.play()
            yield None
        try:
            yield from feed
        finally:
            feed.close()


class Wrong(NamedTuple):
    """A feed that breaks one law, and the words of the law that finds it."""

    name: str
    given: Sequence[Moment | None]


def broken_feeds() -> Iterator[Wrong]:
    """The moments of a good feed, spoilt in one way each."""
    whole: list[Moment | None] = [None, *moments(list(market().values()))]
    first, second = whole[1], whole[2]
    assert first is not None
    assert second is not None
    bar = first.bars["SIMA"]

    def with_first(**changes: Any) -> list[Moment | None]:
        return [None, Moment(first.time_ns, {**first.bars, "SIMA": bar._replace(**changes)}), *whole[2:]]

    yield Wrong("back in time", [None, second, first, *whole[3:]])
    yield Wrong("twice", [None, first, first, *whole[2:-1]])
    yield Wrong("one lost", [None, *whole[2:]])
    yield Wrong("one symbol lost", [None, Moment(first.time_ns, {"SIMA": bar}), *whole[2:]])
    yield Wrong("order of symbols", [None, Moment(first.time_ns, dict(reversed(list(first.bars.items())))), *whole[2:]])
    yield Wrong("other price", with_first(close=np.nextafter(bar.close, 0)))
    yield Wrong("other volume", with_first(volume=bar.volume + 1))
    yield Wrong("off the grid", with_first(time_ns=bar.time_ns + 1))
    yield Wrong("empty moment", [None, Moment(first.time_ns, {}), *whole[2:]])
    place, hole = next((place, one) for place, one in enumerate(whole) if one is not None and len(one.bars) == 2)
    made_up = Moment(hole.time_ns, {**hole.bars, "SIMC": Bar(hole.time_ns, *(bar.close,) * 4, 0)})
    filled = [*whole[:place], made_up, *whole[place + 1 :]]
    yield Wrong("gap filled", filled)
    yield Wrong("never waits", whole[1:])


@pytest.mark.parametrize("wrong", list(broken_feeds()), ids=lambda wrong: wrong.name)
def test_the_contract_finds_what_is_wrong(wrong: Wrong) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check_feed(FeedCase(list(wrong.given), list(market().values()), lambda: 2**62))


def test_the_contract_finds_a_bar_before_its_end() -> None:
    source = list(market().values())
    given: list[Moment | None] = [None, *moments(source)]
    check_feed(FeedCase(given, source, lambda: 2**62))
    last_ns = int(source[0].time_ns[-1])
    with pytest.raises(AssertionError, match="before it was over"):
        check_feed(FeedCase(given, source, lambda: last_ns))


def test_the_contract_finds_a_feed_that_begins_elsewhere() -> None:
    source = list(market().values())
    with pytest.raises((AssertionError, StopIteration)):
        check_feed(FeedCase(iter(list(moments(source))), source))
