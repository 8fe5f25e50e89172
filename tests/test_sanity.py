"""Findings: what is planted is found, what is clean stays clean."""

import datetime as dt
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsense.market.bars import Bars
from finsense.market.calendar import nse_calendar
from finsense.market.sanity import Finding, inspect, summary

SPAN = (dt.date(2023, 11, 1), dt.date(2023, 11, 30))


def quiet_bars(interval_minutes: int | None) -> Bars:
    """Bars that give no reason to wonder: on the tick grid, complete, calm."""
    days = nse_calendar().sessions(*SPAN, derivatives=False)
    if interval_minutes is None:
        time_ns = np.array([day.open_ns for day in days])
    else:
        step = interval_minutes * 60 * 10**9
        time_ns = np.concatenate([np.arange(*window, step) for day in days for window in day.windows])
    close = np.round(100.0 + 0.05 * np.random.default_rng(3).integers(-20, 21, len(time_ns)), 2)
    prices: dict[str, Any] = {
        "open": close,
        "high": np.round(close + 0.1, 2),
        "low": np.round(close - 0.1, 2),
        "close": close,
    }
    interval = "1d" if interval_minutes is None else f"{interval_minutes}m"
    return Bars("SIMONE", interval, time_ns, **prices, volume=np.full(len(time_ns), 900))


DAILY, INTRADAY = quiet_bars(None), quiet_bars(15)


def scaled(bars: Bars, start: int, factor: float) -> Bars:
    """The bars with every price from row `start` on multiplied, on the tick grid."""
    changed: dict[str, Any] = {}
    for name in ("open", "high", "low", "close"):
        prices = getattr(bars, name).copy()
        prices[start:] = np.round(np.round(prices[start:] * factor / 0.05) * 0.05, 2)
        changed[name] = prices
    return replace(bars, **changed)


def without(bars: Bars, rows: list[int]) -> Bars:
    kept = np.setdiff1d(np.arange(len(bars)), rows)
    names = ("time_ns", "open", "high", "low", "close", "volume")
    return replace(bars, **{name: getattr(bars, name)[kept] for name in names})


@pytest.mark.parametrize("bars", [DAILY, INTRADAY], ids=["1d", "15m"])
def test_clean_bars_give_no_finding(bars: Bars) -> None:
    assert inspect(bars) == []
    assert summary(bars, []).endswith("nothing suspicious")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([DAILY, INTRADAY]), st.sampled_from([1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 15.0, 20.0]), st.data())
def test_a_planted_split_is_found_with_its_factor(bars: Bars, factor: float, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(bars.sessions) - 1))
    # Scaled up before the day instead of down after it, so that the tick grid stays fine enough.
    split = scaled(scaled(bars, 0, factor), int(bars.session_offsets[place]), 1 / factor)
    (finding,) = inspect(split)
    assert (finding.kind, finding.date) == ("split_or_bonus", bars.sessions[place].date)
    assert finding.detail.endswith(f"of {factor:g}")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([DAILY, INTRADAY]), st.sampled_from([0.1, 0.5, 1.4, 3.0]), st.data())
def test_a_gap_that_is_no_split_is_found_as_such(bars: Bars, factor: float, data: st.DataObject) -> None:
    place = data.draw(st.integers(1, len(bars.sessions) - 1))
    up = scaled(scaled(bars, 0, 10.0), int(bars.session_offsets[place]), 1 / factor if factor < 1 else factor)
    (finding,) = inspect(up)
    assert (finding.kind, finding.date) == ("price_gap", bars.sessions[place].date)


@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(1, len(INTRADAY) - 2), min_size=1, max_size=60))
def test_every_missing_bar_is_counted(rows: set[int]) -> None:
    thinned = without(INTRADAY, sorted(rows))
    findings = inspect(thinned)
    missing = [finding for finding in findings if finding.kind == "missing_bars"]
    lost_days = {finding.date for finding in findings if finding.kind == "missing_session"}
    whole = sum(
        int(INTRADAY.session_offsets[place + 1] - INTRADAY.session_offsets[place])
        for place, session in enumerate(INTRADAY.sessions)
        if session.date in lost_days
    )
    assert sum(int(finding.detail.split(" of ")[0]) for finding in missing) + whole == len(rows)


def test_missing_starts_are_listed_in_runs() -> None:
    (finding,) = inspect(without(INTRADAY, [2, 3, 4, 9]))
    assert finding == Finding("missing_bars", SPAN[0], "4 of 25 bars missing, starts 09:45-10:15, 11:30-11:30")
    assert str(finding).startswith("2023-11-01 missing_bars: 4 of 25")


def test_a_missing_session_is_named() -> None:
    muhurat = next(place for place, day in enumerate(DAILY.sessions) if day.kind == "muhurat")
    (finding,) = inspect(without(DAILY, [muhurat]))
    assert finding.kind == "missing_session"
    assert finding.date == dt.date(2023, 11, 12)
    assert "muhurat session (Diwali" in finding.detail


def test_an_outlier_inside_a_session_is_found() -> None:
    high = INTRADAY.high.copy()
    high[40] = 131.0
    (finding,) = inspect(replace(INTRADAY, high=high))
    assert (finding.kind, finding.date) == ("outlier", dt.date(2023, 11, 2))
    assert finding.detail.startswith("high 131.00 is +")


def test_volume_that_is_absent_or_zero_at_the_opening() -> None:
    none = replace(INTRADAY, volume=np.zeros(len(INTRADAY), dtype=np.int64))
    assert [finding.kind for finding in inspect(none)] == ["no_volume"]
    volume = INTRADAY.volume.copy()
    volume[INTRADAY.session_offsets[2:-1]] = 0
    (finding,) = inspect(replace(INTRADAY, volume=volume))
    sessions = len(INTRADAY.sessions)
    assert finding.date == INTRADAY.sessions[2].date
    assert (
        f"{sessions - 2} of {len(INTRADAY)} bars have volume 0, {sessions - 2} of them are the first" in finding.detail
    )


def test_prices_off_the_tick_grid_are_counted() -> None:
    close = np.round(DAILY.close + 0.01, 2)
    (finding,) = inspect(replace(DAILY, close=close))
    assert finding.kind == "off_tick"
    assert finding.detail.startswith("25.0% of the prices")


def test_the_summary_counts_by_kind() -> None:
    bars = without(DAILY, [3, 5, 7, 9])
    assert summary(bars, inspect(bars)).endswith("4 missing_session (2023-11-06, 2023-11-08, 2023-11-10, ...)")
