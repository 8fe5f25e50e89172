"""A rehearsed day: its trades make the bars again, its candles tell no future, and the command says what is wrong."""

import datetime as dt
import time

import pytest

pytest.importorskip("aiohttp")
from kiteconnect import KiteConnect
from typer.testing import CliRunner

from finsense.cli.main import app
from finsense.live.rehearsal.server import API_KEY, trades_of_bar
from finsense.live.rehearsal.stage import StageError, stage
from finsense.market.bars import INTERVAL_NS, Bar, Bars
from finsense.market.calendar import CalendarError
from finsense.market.simulate import SimulatedMarket
from finsense.market.ticks import Tick, TickAggregator

DAY = dt.date(2026, 10, 14)


@pytest.fixture(scope="module")
def bars() -> Bars:
    market = SimulatedMarket.model_validate(
        {"model": "random_walk", "symbols": ("SIMA",), "interval": "1m", "first": "2026-10-12", "last": DAY, "seed": 5}
    )
    return market.load()["SIMA"]


def test_the_trades_of_a_bar_make_it_again(bars: Bars) -> None:
    aggregator = TickAggregator("SIMA", "1m", derivatives=False)
    traded, made, expected = 0, [], []
    for bar in bars.take(0, 300):
        expected.append(bar[:6])
        for trade in trades_of_bar("SIMA", bar, INTERVAL_NS["1m"], 1):
            traded += trade.shares
            closed = aggregator.add(Tick(trade.time_ns, trade.price_paise / 100, traded))
            if closed is not None:
                made.append(Bar(*closed[:6]))
    assert [one[:5] for one in made] == [one[:5] for one in expected[:-1]]
    # What the day's first tick had traded before it, a cumulative volume does not tell.
    assert [one.volume for one in made[1:]] == [one[5] for one in expected[1:-1]]


def test_a_day_plays_by_its_clock(bars: Bars) -> None:
    with stage([bars], DAY, speed=50_000, balance_paise=10**8) as played:
        street = played.exchange.streets["SIMA"]
        total = int(bars.volume[-375:].sum())
        for _ in range(600):
            if street.volume == total:
                break
            time.sleep(0.05)
        assert street.volume == total
        tick = street.listing.tick_paise
        for played_paise, rupees in ((street.open_paise, bars.open[-375]), (street.last_paise, bars.close[-1])):
            assert played_paise == round(rupees * 100 / tick) * tick


def test_candles_tell_nothing_that_has_not_ended(bars: Bars) -> None:
    with stage([bars], DAY, speed=0, balance_paise=10**8) as played:
        played.play(4 * 60 + 1)
        kite = KiteConnect(API_KEY, played.log_in(), root=played.root)
        kite.reqsession.trust_env = False
        (listed,) = kite.instruments("NSE")
        token = listed["instrument_token"]
        found = kite.historical_data(token, f"{DAY} 09:15:00", f"{DAY} 15:30:00", "minute")
        assert [one["close"] for one in found] == bars.close[-375 : -375 + 60].tolist()
        assert found[0]["date"].isoformat() == f"{DAY}T09:15:00+05:30"
        assert len(kite.historical_data(token, f"{dt.date(2026, 10, 13)} 09:15:00", f"{DAY} 15:30:00", "minute")) == 435
        assert kite.historical_data(token, f"{DAY} 09:15:00", f"{DAY} 15:30:00", "5minute") == []
        kite.reqsession.close()


def test_bars_that_no_day_can_be_rehearsed_with(bars: Bars) -> None:
    with pytest.raises(StageError, match="expected bars on 2026-10-16 and before it"):
        stage([bars], dt.date(2026, 10, 16), speed=1, balance_paise=1)
    with pytest.raises(StageError, match="expected bars on 2026-10-12 and before it"):
        stage([bars], dt.date(2026, 10, 12), speed=1, balance_paise=1)
    with pytest.raises((StageError, CalendarError)):
        stage([bars], dt.date(2026, 10, 17), speed=1, balance_paise=1)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--fault", "nope=1"], 2, "expected --fault NAME=RATE"),
        (["--fault", "answer_lost=2"], 2, "a rate from 0 to 1"),
        (["--date", "tomorrow"], 2, "expected --date like"),
        (["--date", "2026-10-17"], 4, "2026-10-17"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], code: int, told: str) -> None:
    result = CliRunner().invoke(app, ["rehearse", "--port", "0", *arguments])
    assert result.exit_code == code
    assert told in result.stderr
