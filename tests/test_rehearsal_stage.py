"""A rehearsed day: its trades make the bars again, its candles tell no future, and the command says what is wrong."""

import datetime as dt
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("aiohttp")
from kiteconnect import KiteConnect
from kiteconnect.exceptions import InputException
from rehearsals import DAY as REGULAR
from rehearsals import asked, at, simulated
from typer.testing import CliRunner

from finsense.cli.main import app
from finsense.live.rehearsal.server import API_KEY
from finsense.live.rehearsal.stage import StageError, stage
from finsense.live.rehearsal.tape import trades_of_bar
from finsense.market.bars import INTERVAL_NS, Bar, Bars
from finsense.market.calendar import MINUTE_NS, CalendarError
from finsense.market.simulate import SimulatedMarket
from finsense.market.ticks import Tick, TickAggregator

DAY = dt.date(2026, 10, 14)


@pytest.fixture(scope="module")
def bars() -> Bars:
    market = SimulatedMarket.model_validate(
        {"model": "random_walk", "symbols": ("SIMA",), "interval": "1m", "first": "2026-10-12", "last": DAY, "seed": 5}
    )
    return market.load()["SIMA"]


@pytest.mark.parametrize("count", [4, 5, 150])
@pytest.mark.parametrize("tick_paise", [1, 5])
def test_the_trades_of_a_bar_make_it_again(bars: Bars, count: int, tick_paise: int) -> None:
    aggregator = TickAggregator("SIMA", "1m", derivatives=False)
    generator = np.random.default_rng(3)
    traded, made, expected = 0, [], []
    for bar in bars.take(0, 200):
        rounded = [round(price * 100 / tick_paise) * tick_paise / 100 for price in bar[1:5]]
        expected.append((bar.time_ns, *rounded, bar.volume))
        trades = list(trades_of_bar("SIMA", bar, INTERVAL_NS["1m"], tick_paise, count, generator))
        assert count * 0.9 < len(trades) <= count
        assert all(earlier.time_ns < later.time_ns for earlier, later in itertools.pairwise(trades))
        for trade in trades:
            traded += trade.shares
            closed = aggregator.add(Tick(trade.time_ns, trade.price_paise / 100, traded))
            if closed is not None:
                made.append(tuple(closed[:6]))
    assert [one[:5] for one in made] == [one[:5] for one in expected[:-1]]
    # What the day's first tick had traded before it, a cumulative volume does not tell.
    assert [one[5] for one in made[1:]] == [one[5] for one in expected[1:-1]]


@given(
    st.integers(4, 40), st.integers(0, 30), st.lists(st.integers(900, 1100), min_size=2, max_size=4), st.integers(0, 99)
)
def test_a_bar_with_hardly_a_share_keeps_its_prices_and_its_volume(
    count: int, volume: int, prices: list[int], seed: int
) -> None:
    bar = Bar(0, prices[0] / 100, max(prices) / 100, min(prices) / 100, prices[-1] / 100, volume)
    trades = list(trades_of_bar("SIMA", bar, MINUTE_NS, 1, count, np.random.default_rng(seed)))
    found = [trade.price_paise for trade in trades]
    assert (found[0], max(found), min(found), found[-1]) == (prices[0], max(prices), min(prices), prices[-1])
    assert sum(trade.shares for trade in trades) == volume
    assert all(0 <= trade.time_ns < MINUTE_NS and trade.shares >= 0 for trade in trades)


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
        token, tick = listed["instrument_token"], listed["tick_size"]

        def candles(
            interval: str, first: str = f"{DAY} 09:15:00", last: str = f"{DAY} 15:30:00"
        ) -> list[dict[str, Any]]:
            return list(kite.historical_data(token, first, last, interval))

        found = candles("minute")
        on_grid = [round(round(price / tick) * tick, 2) for price in bars.close[-375 : -375 + 60].tolist()]
        assert [one["close"] for one in found] == on_grid
        assert [one["volume"] for one in found] == bars.volume[-375 : -375 + 60].tolist()
        assert found[0]["date"].isoformat() == f"{DAY}T09:15:00+05:30"
        before = f"{dt.date(2026, 10, 13)} 09:15:00"
        assert len(candles("minute", before)) == 435
        # Coarser ones are added up from 09:15 on, and only whole ones are told.
        sevenths = candles("15minute", before)
        assert len(sevenths) == 25 + 4
        assert sevenths[25]["open"] == found[0]["open"]
        assert sevenths[25]["high"] == max(one["high"] for one in found[:15])
        assert sevenths[25]["volume"] == sum(one["volume"] for one in found[:15])
        assert candles("60minute", before)[6]["date"].isoformat() == "2026-10-13T15:15:00+05:30"
        (yesterday,) = candles("day", "2026-10-13", f"{DAY} 15:30:00")
        assert yesterday["date"].isoformat() == "2026-10-13T00:00:00+05:30"
        assert yesterday["volume"] == int(bars.volume[-750:-375].sum())
        played.play_until(played.end_ns)
        assert len(candles("minute")) == 375
        assert candles("day")[-1]["close"] == found_close(bars, tick)
        for wrong in (
            lambda: candles("2minute"),
            lambda: candles("minute", "2026-01-01 09:15:00"),
            lambda: candles("minute", f"{DAY} 15:30:00", f"{DAY} 09:15:00"),
            lambda: kite.historical_data(1, f"{DAY} 09:15:00", f"{DAY} 15:30:00", "minute"),
        ):
            with pytest.raises(InputException):
                wrong()
        kite.reqsession.close()


def found_close(bars: Bars, tick: float) -> float:
    return round(round(float(bars.close[-1]) / tick) * tick, 2)


def test_coarse_bars_give_coarse_candles() -> None:
    (coarse,) = simulated("SIMA", date=DAY, interval="5m")
    with stage([coarse], DAY, speed=0, balance_paise=10**8, ticks_per_bar=20) as played:
        played.play_until(at("10:00", DAY))
        kite = KiteConnect(API_KEY, played.log_in(), root=played.root)
        kite.reqsession.trust_env = False
        token = kite.instruments("NSE")[0]["instrument_token"]
        with pytest.raises(InputException, match="has bars of 5m, so none of 1m"):
            kite.historical_data(token, f"{DAY} 09:15:00", f"{DAY} 15:30:00", "minute")
        assert len(kite.historical_data(token, f"{DAY} 09:15:00", f"{DAY} 15:30:00", "5minute")) == 9
        kite.reqsession.close()


def test_recorded_ticks_are_played_as_they_came(bars: Bars) -> None:
    opening = at("09:15", DAY)
    recorded = [
        Tick(opening - 1, 1000.0, 5),
        Tick(opening, 1000.0, 100),
        Tick(opening + 10**9, 1001.0, 130),
        Tick(opening + 2 * 10**9, 1001.5, 120),
        Tick(opening + 10**9, 999.0, 140),
    ]
    with stage([bars], DAY, speed=0, balance_paise=10**8, ticks={"SIMA": recorded}) as played:
        played.play_until(at("09:16", DAY))
        (minute,) = played.tapes["SIMA"].minutes
        assert (minute.open, minute.high, minute.close, minute.shares) == (100_000, 100_150, 100_150, 30)


def test_the_order_of_the_markets_changes_nothing() -> None:
    markets = simulated("SIMA", "SIMB")

    def tape(some: list[Bars]) -> Any:
        with stage(some, REGULAR, speed=0, balance_paise=1) as played:
            played.play(500)
            return {symbol: tuple(tape.minutes) for symbol, tape in played.tapes.items()}

    assert tape(markets) == tape(markets[::-1])


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
        (["--from", "soon"], 2, "expected --from with an hour of India like 09:15"),
        (["--halt", "11:00"], 2, "expected --halt with an hour of India"),
        (["--outage", "11:45-11:00"], 2, "expected --outage like 11:00-11:45"),
        (["--data", "nowhere.parquet"], 4, "no such file"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], code: int, told: str) -> None:
    result = CliRunner().invoke(app, ["rehearse", "--port", "0", *arguments])
    assert result.exit_code == code
    assert told in result.stderr


def test_the_command_says_that_its_port_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["rehearse", "--port", str(port)])
    assert result.exit_code == 2
    assert f"port {port} cannot be had" in result.stderr
    assert "give another --port" in result.stderr


def test_the_command_tells_scripts_where_it_is_and_ends_on_a_signal(tmp_path: Path) -> None:
    told = tmp_path / "rehearsal.json"
    command = "from finsense.cli.main import app; app()"
    arguments = ["rehearse", "--port", "0", "--state-file", str(told), "--from", "10:00", "--no-wait", "--speed", "20"]
    with subprocess.Popen([sys.executable, "-c", command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            said = _use_and_end(process, told)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "0 orders, 0 fills" in said
    assert not told.exists()


def _use_and_end(process: subprocess.Popen[str], told: Path) -> str:
    for _ in range(600):
        if told.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    found = json.loads(told.read_text())
    assert told.stat().st_mode & 0o077 == 0
    assert found["pid"] == process.pid
    clock = asked(found["root"], "clock")
    assert clock["speed"] == 20
    assert at("10:00", DAY) <= clock["now_ns"] < at("15:00", DAY)
    kite = KiteConnect(found["api_key"], found["access_token"], root=found["root"])
    kite.reqsession.trust_env = False
    assert kite.ltp("NSE:SIMA")["NSE:SIMA"]["last_price"] > 0
    kite.reqsession.close()
    os.kill(process.pid, signal.SIGTERM)
    return process.communicate(timeout=30)[0]
