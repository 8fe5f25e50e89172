"""The calendar's indicators and the price band, on ordinary and on special sessions."""

import dataclasses
import datetime as dt
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indicator_oracles import Floats, fold
from markets import MUHURAT, MUHURAT_DATE, SPLIT, SPLIT_DATE, bars_of, rough_bars, session_times, spec_of
from test_law_kernels import assert_one_state

from finsense.market.bars import Bars
from finsense.market.calendar import session_date
from finsense.market.instruments import instrument
from finsense.market.session_context import session_context
from finsense.market.timeline import CLOSE, HIGH, LOW, OPEN, PREVIOUS_CLOSE, PRICE_BAND, WEEKDAY, timeline
from finsense.state.indicators import calendar_context

NAMES = ["session_minute", "bars_to_close", "weekday", "holiday", "month_end", "expiry", "price_band"]
SIM = instrument("SIM")
OUTAGE = (dt.date(2021, 2, 22), dt.date(2021, 2, 25))
OUTAGE_DATE = dt.date(2021, 2, 24)
WEEKEND = (dt.date(2024, 1, 18), dt.date(2024, 1, 23))
LATE_HOLIDAY = (dt.date(2023, 6, 26), dt.date(2023, 7, 3))
CLOSING_AUCTION = (dt.date(2026, 7, 30), dt.date(2026, 8, 4))
SPANS = [SPLIT, MUHURAT, OUTAGE, WEEKEND, LATE_HOLIDAY, CLOSING_AUCTION]


def rows_on(date: dt.date, interval: str = "15m") -> Floats:
    """The rows of one session's bars."""
    time_ns = session_times(date, date, interval)
    return timeline(bars_of(time_ns, np.full(len(time_ns), 100.0), interval=interval), SIM, None).rows


def column(rows: Floats, name: str, place: int = 0) -> Floats:
    return fold(rows, name)[:, place]


def test_every_indicator_of_the_file_is_tested_here() -> None:
    found = [name for name, value in vars(calendar_context).items() if hasattr(value, "kernel")]
    assert found == NAMES


@pytest.mark.parametrize(
    ("date", "interval", "minutes"),
    [
        (dt.date(2024, 1, 17), "15m", range(0, 375, 15)),
        (dt.date(2009, 6, 1), "5m", range(0, 335, 5)),
        (SPLIT_DATE, "15m", range(0, 105, 15)),  # the pause from 10:00 to 11:30 is no trading
        (MUHURAT_DATE, "5m", range(0, 60, 5)),
        (OUTAGE_DATE, "5m", range(0, 220, 5)),  # 145 minutes, then 75 from 15:45 on
        (dt.date(2024, 1, 20), "60m", range(0, 375, 60)),
        (MUHURAT_DATE, "1d", [0]),
    ],
)
def test_the_minute_runs_along_half_a_circle(date: dt.date, interval: str, minutes: range) -> None:
    rows = rows_on(date, interval)
    angle = np.pi * np.asarray(minutes) / 375
    np.testing.assert_allclose(fold(rows, "session_minute"), np.stack([np.sin(angle), np.cos(angle)], 1), atol=1e-12)


@pytest.mark.parametrize(
    ("date", "interval", "left"),
    [
        (dt.date(2024, 1, 17), "5m", range(74, -1, -1)),
        (SPLIT_DATE, "15m", range(6, -1, -1)),
        (MUHURAT_DATE, "15m", range(3, -1, -1)),
        # Until it came, nobody knew of the outage at 11:40: the bars ran towards 15:30, then from 15:45 towards 17:00.
        (OUTAGE_DATE, "5m", [*range(74, 45, -1), *range(14, -1, -1)]),
        (OUTAGE_DATE, "1d", [0]),
    ],
)
def test_the_close_comes_nearer_bar_by_bar(date: dt.date, interval: str, left: range) -> None:
    np.testing.assert_array_equal(column(rows_on(date, interval), "bars_to_close"), 1 / (1 + np.asarray(left)))


def test_weekdays_are_five_points_of_a_circle_and_weekends_its_middle() -> None:
    monday = dt.date(2024, 1, 15)
    points = [fold(rows_on(monday + dt.timedelta(days=ahead), "1d"), "weekday")[0] for ahead in range(6)]
    distances = [math.dist(one, other) for one, other in pairwise([*points[:5], points[0]])]
    np.testing.assert_allclose(distances, 2 * math.sin(math.pi / 5))
    assert points[0].tolist() == [0, 1]
    assert points[5].tolist() == [0, 0]  # the full session of Saturday 20 January
    assert fold(rows_on(MUHURAT_DATE), "weekday").tolist() == [[0, 0]] * 4  # Sunday 12 November 2023


@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("interval", ["15m", "1d"])
def test_the_session_columns_say_what_the_calendar_says(span: tuple[dt.date, dt.date], interval: str) -> None:
    bars = rough_bars(3, *span, interval)
    rows = timeline(bars, SIM, None).rows
    for start, stop in pairwise(bars.session_offsets.tolist()):
        date = session_date(int(bars.time_ns[start]))
        _, since, ahead, month, weekly, monthly = session_context(date)
        session = rows[start:stop]
        assert (session[:, WEEKDAY] == date.weekday()).all()
        assert (fold(session, "holiday") == (1 / (1 + since), 1 / (1 + ahead))).all()
        assert (fold(session, "month_end") == 1 / (1 + month)).all()
        assert (fold(session, "expiry") == (1 / (1 + weekly), 1 / (1 + monthly), weekly == 0, monthly == 0)).all()


def test_there_is_no_expiry_before_there_were_contracts() -> None:
    assert fold(rows_on(dt.date(2000, 6, 1)), "expiry")[0].tolist() == [0, 0, 0, 0]
    assert fold(rows_on(dt.date(2018, 6, 28)), "expiry")[0].tolist() == [0, 1, 0, 1]
    assert fold(rows_on(dt.date(2019, 2, 14)), "expiry")[0].tolist() == [1, 1 / 11, 1, 0]


def two_sessions(closes: list[float], stock_band: float | None = 0.2) -> Floats:
    """Two bars in one session that close at 100, then bars of the next that close as told: the band's columns there."""
    time_ns = session_times(dt.date(2024, 1, 16), dt.date(2024, 1, 17), "60m")
    first = 7
    bars = bars_of(time_ns[first - 2 : first + len(closes)], [100.0, 100.0, *closes], interval="60m")
    stock = dataclasses.replace(SIM, price_band=stock_band)
    found = fold(timeline(bars, stock, None).rows, "price_band")
    assert (found[:2] == 1).all()
    return found[2:]


def test_the_band_is_used_up_towards_each_limit() -> None:
    found = two_sessions([100.0, 110.0, 120.0, 95.0, 80.0])
    np.testing.assert_allclose(found, [(1, 1), (0.5, 1), (0, 1), (1, 0.75), (1, 0)], atol=1e-12)
    outside = two_sessions([125.0, 50.0, 10.0])  # a band that widened, an unadjusted split
    assert outside.tolist() == [[0, 1], [1, 0], [1, 0]]
    np.testing.assert_allclose(two_sessions([101.0, 99.0], 0.02), [(0.5, 1), (1, 0.5)], atol=1e-9)
    assert (two_sessions([120.0, 80.0], None) == 1).all()


def test_a_locked_bar_has_no_room_on_its_side() -> None:
    bars = rough_bars(4, dt.date(2023, 9, 1), dt.date(2023, 11, 15))
    market = timeline(bars, SIM, None)
    room = fold(market.rows, "price_band")
    locked = market.market["locked"]
    assert (locked == 1).any()
    assert (locked == -1).any()
    assert room[locked == 1, 0].max() < 0.01
    assert room[locked == -1, 1].max() < 0.01
    assert ((room >= 0) & (room <= 1)).all()
    assert (room.max(axis=1) == 1).all()


def test_the_scale_of_prices_is_not_in_the_band() -> None:
    rows = timeline(rough_bars(5, *SPLIT), SIM, None).rows
    scaled = rows.copy()
    scaled[:, [OPEN, HIGH, LOW, CLOSE, PREVIOUS_CLOSE]] *= 8
    np.testing.assert_array_equal(fold(scaled, "price_band"), fold(rows, "price_band"))
    assert (rows[:, PRICE_BAND] == 0.2).all()


@st.composite
def special_bars(draw: st.DrawFn) -> Bars:
    interval = draw(st.sampled_from(["15m", "30m", "1d"]))
    first, last = draw(st.sampled_from(SPANS))
    if interval == "1d":
        first -= dt.timedelta(days=20)
    return rough_bars(draw(st.integers(0, 2**32 - 1)), first, last, interval)


@settings(max_examples=25, deadline=None)
@given(bars=special_bars(), data=st.data())
def test_the_laws_hold_on_special_sessions(bars: Bars, data: st.DataObject) -> None:
    """Live, batch, restart and less history: the same bytes, also of the rows of the warm-up that `history` shows."""
    history = data.draw(st.integers(1, 4))
    warmup = data.draw(st.integers(history + 1, 12))
    spec = spec_of(*NAMES, warmup=warmup, history=history)
    assert_one_state(bars, spec, data.draw(st.integers(0, len(bars) - 1)), data.draw(st.floats(0, 1)))
