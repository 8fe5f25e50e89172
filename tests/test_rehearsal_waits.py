"""A rehearsal that waits for a listener: who logs in first misses no bar, and no two days share an order's name."""

import datetime as dt
from pathlib import Path

from rehearsals import AUCTION_DAY, SECOND_NS, at, buy, rehearsal, rest_of, simulated

from finsense.live.clock import FastClock, StandingClock, clock_of
from finsense.live.feeds.kite_stream import Connected, KiteStream, Ticks
from finsense.live.rehearsal.server import API_KEY, Rehearsal
from finsense.live.rehearsal.stage import stage


def _stream(played: Rehearsal) -> KiteStream:
    tokens = [street.listing.token for street in played.exchange.streets.values()]
    return KiteStream(API_KEY, played.log_in(), tokens, root=played.stream_root)


def test_the_day_waits_for_a_listener_and_loses_nothing() -> None:
    with rehearsal(speed=50.0, waits=True) as played:
        clock = clock_of(played.root)
        assert isinstance(clock, StandingClock)
        start_ns = clock.now_ns()
        # A login and a preflight that looks in: the day still stands.
        stream = _stream(played)
        for event in stream.events():
            if isinstance(event, Connected):
                stream.close()
                break
        clock.sleep(0.5)
        assert clock.now_ns() == start_ns == played.clock.start_ns
        first: dict[int, int] = {}
        stream = _stream(played)
        for event in stream.events():
            for token, tick in event.ticks if isinstance(event, Ticks) else ():
                # On subscribing a client is told how things stand; trades come with volume.
                if tick.volume:
                    first.setdefault(token, tick.time_ns)
            if len(first) == len(played.exchange.streets):
                stream.close()
                break
        assert all(time_ns - start_ns < SECOND_NS for time_ns in first.values())
        assert clock.now_ns() > start_ns
        assert isinstance(clock_of(played.root), FastClock)


def test_a_clock_played_by_hand_is_asked_and_one_that_cannot_be_asked_stands() -> None:
    with rehearsal() as played:
        clock = clock_of(played.root)
        played.play_until(played.clock.start_ns + 7 * SECOND_NS)
        clock.sleep(0.2)
        assert clock.now_ns() == played.clock.start_ns + 7 * SECOND_NS
    clock.sleep(0.2)
    assert clock.now_ns() == played.clock.start_ns + 7 * SECOND_NS


def test_orders_of_two_days_never_share_a_name(tmp_path: Path) -> None:
    names = []
    for day in (AUCTION_DAY, AUCTION_DAY + dt.timedelta(1)):
        markets = simulated("SIMA", date=AUCTION_DAY + dt.timedelta(1))
        with stage(markets, day, speed=0.0, balance_paise=10**9) as played:
            played.play_until(at("09:16", day))
            rest = rest_of(played, tmp_path, played.log_in())
            names.append(rest.place(buy(symbol="SIMA")))
            rest.close()
    assert len(set(names)) == 2
    assert [name[:6] for name in names] == ["261014", "261015"]
