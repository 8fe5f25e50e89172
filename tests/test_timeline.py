"""What a bar means: its session's clock, its prices in paise, its charge schedule, its circuit locks."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import MUHURAT, MUHURAT_DATE, SPLIT, SPLIT_DATE, bars_of, rough_bars, session_times, steady_bars

from finsense.market.bars import Bar, Bars, session_day
from finsense.market.costs import ChargeRules, CostError, schedule_index
from finsense.market.instruments import Instrument, instrument
from finsense.market.timeline import (
    BAR_FIELDS,
    CLOSE,
    HIGH,
    LOW,
    OPEN,
    SESSION_LEFT,
    VOLUME,
    Clock,
    TimelineError,
    timeline,
    to_paise,
)

SIM = instrument("SIM")
RATES = ChargeRules()
SPANS = [
    (*SPLIT, "15m", False),
    (*MUHURAT, "5m", False),
    (dt.date(2021, 2, 23), dt.date(2021, 2, 25), "5m", False),  # the outage of 24 February
    (dt.date(2026, 7, 30), dt.date(2026, 8, 5), "15m", True),  # closing auction since 3 August
    (dt.date(2023, 11, 1), dt.date(2024, 3, 8), "1d", False),
]


@pytest.mark.parametrize(("first", "last", "interval", "derivatives"), SPANS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_clock_and_the_batch_are_one(
    first: dt.date, last: dt.date, interval: str, derivatives: bool, seed: int
) -> None:
    bars = rough_bars(seed, first, last, interval, derivatives=derivatives)
    stock = instrument("SIM", derivatives=derivatives)
    batch, clock = timeline(bars, stock, RATES), Clock(stock, interval, RATES)
    openings = set(batch.session_offsets[:-1].tolist())
    for place, bar in enumerate(bars):
        assert clock.advance(bar) == (place in openings)
        assert clock.row.tobytes() == batch.rows[place].tobytes()
        assert clock.record.tobytes() == batch.market[place : place + 1].tobytes()


def test_the_fields_are_those_of_the_bar() -> None:
    bars = rough_bars(3)
    rows = timeline(bars, SIM, RATES).rows
    assert rows.shape == (len(bars), BAR_FIELDS)
    for field, column in ((OPEN, "open"), (HIGH, "high"), (LOW, "low"), (CLOSE, "close"), (VOLUME, "volume")):
        assert (rows[:, field] == getattr(bars, column)).all()


@given(st.integers(1, 10**9 - 1))
def test_a_price_in_whole_paise_survives(price_paise: int) -> None:
    assert to_paise(price_paise / 100) == price_paise


@pytest.mark.parametrize(("price", "expected"), [(0.01, 1), (100.125, 10013), (100.1249, 10012), (2901.3, 290130)])
def test_prices_round_to_the_nearest_paisa(price: float, expected: int) -> None:
    assert to_paise(price) == expected


def day_clock(bars: Bars, stock: Instrument, date: dt.date) -> tuple[list[int], list[float]]:
    """Minutes left at the end of each bar of a day, and the share of the session left."""
    described = timeline(bars, stock, RATES)
    day = described.market["day"] == session_day(date)
    return (described.market["seconds_left"][day] // 60).tolist(), described.rows[day, SESSION_LEFT].tolist()


def test_the_clock_of_a_regular_session() -> None:
    date = dt.date(2024, 1, 8)
    minutes, share = day_clock(steady_bars(date, date, "5m"), SIM, date)
    assert minutes == list(range(370, -1, -5))
    assert share == [left / 375 for left in minutes]


def test_the_clock_of_an_hour_whose_last_bar_is_short() -> None:
    date = dt.date(2024, 1, 8)
    minutes, _ = day_clock(steady_bars(date, date, "60m"), SIM, date)
    assert minutes == [315, 255, 195, 135, 75, 15, 0]


def test_the_clock_of_the_muhurat_hour() -> None:
    minutes, share = day_clock(steady_bars(*MUHURAT), SIM, MUHURAT_DATE)
    assert minutes == [45, 30, 15, 0]
    assert share == [0.75, 0.5, 0.25, 0.0]


def test_the_clock_stands_still_in_the_pause_of_a_split_session() -> None:
    minutes, share = day_clock(steady_bars(*SPLIT), SIM, SPLIT_DATE)
    # 09:15 to 10:00, then 11:30 to 12:30.
    assert minutes == [90, 75, 60, 45, 30, 15, 0]
    assert share == [left / 105 for left in minutes]
    # A 60-minute bar is cut short by the pause: an hour is left after the first one.
    assert day_clock(steady_bars(*SPLIT, "60m"), SIM, SPLIT_DATE)[0] == [60, 0]


def test_an_outage_is_not_known_before_it_comes() -> None:
    """24 February 2021: halted at 11:40, trading again from 15:45 to 17:00; in the morning 15:30 was the close."""
    date = dt.date(2021, 2, 24)
    minutes, share = day_clock(steady_bars(date, date, "5m"), SIM, date)
    morning = 29
    assert minutes[:morning] == list(range(370, 370 - 5 * morning, -5))
    assert minutes[morning:] == list(range(70, -1, -5))
    assert share == [left / 375 for left in minutes]


def test_the_clock_ends_with_continuous_trading_where_an_auction_makes_the_close() -> None:
    date = dt.date(2026, 8, 4)
    time_ns = session_times(date, date, derivatives=True)
    bars = bars_of(time_ns, np.full(len(time_ns), 100.0), derivatives=True)
    minutes, _ = day_clock(bars, instrument("SIM", derivatives=True), date)
    assert minutes == list(range(345, -1, -15))


def test_a_daily_bar_has_no_session_left() -> None:
    bars = steady_bars(dt.date(2024, 1, 8), dt.date(2024, 1, 12), "1d")
    described = timeline(bars, SIM, RATES)
    assert not described.market["seconds_left"].any()
    assert not described.rows[:, SESSION_LEFT].any()
    assert described.session_offsets.tolist() == [0, 1, 2, 3, 4, 5]


def locks(close: list[float], low: list[float] | None = None, band: float | None = 0.2) -> list[int]:
    """The locks of daily bars of one price each, or down to `low`."""
    time_ns = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 31), "1d")[: len(close)]
    closes = np.array(close)
    lows = closes if low is None else np.array(low)
    bars = Bars("SIM", "1d", time_ns, closes, closes, lows, closes, np.full(len(close), 10), False)
    found: list[int] = timeline(bars, Instrument("SIM", False, price_band=band), RATES).market["locked"].tolist()
    return found


def test_a_bar_of_one_price_at_the_circuit_limit_is_locked() -> None:
    assert locks([100, 120, 144, 115.2, 100]) == [0, 1, 1, -1, 0]
    assert locks([100, 120, 144], low=[100, 119.95, 144]) == [0, 0, 1]
    assert locks([100, 105, 99.75], band=0.05) == [0, 1, -1]
    assert locks([100, 120, 60], band=None) == [0, 0, 0]
    # The limit is rounded to a tick: a permille of the reference inside it counts, more does not.
    assert locks([100, 119.95, 1]) == [0, 1, -1]
    assert locks([100, 119.85]) == [0, 0]


def test_a_lock_is_measured_from_the_close_before_the_session() -> None:
    time_ns = session_times(dt.date(2024, 1, 8), dt.date(2024, 1, 9))
    closes = np.full(len(time_ns), 100.0)
    closes[30:] = 120.0
    found = timeline(bars_of(time_ns, closes), SIM, RATES).market["locked"]
    # Bar 30 moved to the limit; from bar 31 on nothing traded below it.
    assert np.flatnonzero(found).tolist() == list(range(31, 50))


def test_every_bar_has_the_charges_of_its_date() -> None:
    first, last = dt.date(2024, 9, 26), dt.date(2024, 10, 4)
    market = timeline(steady_bars(first, last), SIM, RATES).market
    before, after = schedule_index(first), schedule_index(last)
    assert after == before + 1
    assert (market["schedule"] == np.where(market["day"] < session_day(dt.date(2024, 10, 1)), before, after)).all()
    fixed = timeline(steady_bars(first, last), SIM, ChargeRules(as_of=first)).market
    assert (fixed["schedule"] == before).all()
    with pytest.raises(CostError, match="no charges are known for 2020-12-31"):
        timeline(steady_bars(dt.date(2020, 12, 31), dt.date(2020, 12, 31)), SIM, RATES)


def bar_at(text: str) -> Bar:
    time_ns = int(dt.datetime.fromisoformat(text + "+05:30").timestamp()) * 1_000_000_000
    return Bar(time_ns, 100.0, 100.0, 100.0, 100.0, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2024-01-08T09:15", "expected a bar later than 2024-01-08 09:15 IST, found 2024-01-08 09:15 IST"),
        ("2024-01-05T09:15", "the feed went back in time"),
        ("2024-01-13T09:15", r"bar on 2024-01-13, when NSE is closed \(weekend\)"),
        ("2024-01-26T09:15", r"bar on 2024-01-26, when NSE is closed \(Republic Day\)"),
        ("2024-01-08T15:30", "the regular session trades from 2024-01-08 09:15 IST to 2024-01-08 15:30 IST"),
        ("2024-01-09T09:00", "bar at 2024-01-09 09:00 IST, but the regular session trades from 2024-01-09 09:15"),
    ],
)
def test_a_bar_that_cannot_follow_is_refused_and_changes_nothing(text: str, message: str) -> None:
    clock = Clock(SIM, "15m", RATES)
    clock.advance(bar_at("2024-01-08T09:15"))
    row, record = clock.row.tobytes(), clock.record.tobytes()
    with pytest.raises(TimelineError, match=message):
        clock.advance(bar_at(text))
    assert (clock.row.tobytes(), clock.record.tobytes()) == (row, record)
    assert clock.advance(bar_at("2024-01-08T09:30")) is False


def test_bars_of_another_clock_than_the_instrument_s_are_refused() -> None:
    bars = steady_bars(dt.date(2026, 8, 3), dt.date(2026, 8, 4))  # to 15:30
    auctioned = instrument("SIM", derivatives=True)  # to 15:15
    with pytest.raises(
        TimelineError, match=r"bar at 2026-08-03 15:15 IST.*to 2026-08-03 15:15 IST \(derivatives: True"
    ):
        timeline(bars, auctioned, RATES)
    clock = Clock(auctioned, "15m", RATES)
    *continuous, late = bars.take(0, 25)
    for bar in continuous:
        clock.advance(bar)
    with pytest.raises(TimelineError, match="bar at 2026-08-03 15:15 IST"):
        clock.advance(late)
