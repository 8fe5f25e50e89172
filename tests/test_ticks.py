"""Ticks to bars, rule by rule: the calendar's grid, the disorder of real feeds, what each flow field is, tables."""

import datetime as dt
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tick_recordings import (
    DAY,
    MUHURAT,
    OUTAGE,
    SECOND_NS,
    SPLIT,
    aggregate,
    as_frame,
    assert_valid,
    at,
    book,
    counts,
    flow,
    starts,
    tick,
)

from finsense.market.bars import BarsError
from finsense.market.calendar import CalendarError, UnknownDerivativesError, nse_calendar
from finsense.market.extra_fields import FLOW_FIELDS, REFERENCE_FIELDS
from finsense.market.order_book import Depth, Level, view_book
from finsense.market.sources.files import load_bars
from finsense.market.sources.ticks import ticks_from_frame
from finsense.market.ticks import GRACE_NS, Tick, TickAggregator, bars_from_ticks

# What a day's ticks look like: (interval, day, clocks, starts of the bars, ticks outside the hours).
DAYS: dict[str, tuple[str, dt.date, str, str, int]] = {
    "a bar holds its first and not its last instant": ("5m", DAY, "09:15 09:19:59 09:20", "09:15 09:20", 0),
    "pre-open and post-close": ("5m", DAY, "09:00 09:14:59 09:15 15:29:59 15:30 15:45", "09:15 15:25", 4),
    "an hour is anchored at the opening": ("60m", DAY, "10:14:59 10:15 15:20", "09:15 10:15 15:15", 0),
    "Muhurat": ("15m", MUHURAT, "09:30 18:14 18:15 18:31 19:15", "18:15 18:30", 3),
    "split session": ("30m", SPLIT, "09:50 10:00 11:29 11:30 12:01 12:30", "09:45 11:30 12:00", 3),
    "outage": ("60m", OUTAGE, "10:00 13:00 15:44 15:45 16:50 17:00", "09:15 15:45 16:45", 3),
    "a day is one bar, pause and all": ("1d", SPLIT, "09:14 09:20 10:30 11:40", "09:15", 2),
}


@pytest.mark.parametrize("case", DAYS)
def test_bars_lie_on_the_grid_of_the_session(case: str) -> None:
    interval, day, clocks, expected, outside = DAYS[case]
    bars, report = aggregate([Tick(at(clock, day), 100.0) for clock in clocks.split()], interval)
    assert starts(bars) == expected.split()
    assert report.outside_hours == outside
    assert_valid(bars, interval)


@pytest.mark.parametrize(
    ("day", "closed"), [(dt.date(2021, 5, 1), True), (dt.date(2024, 1, 26), True), (dt.date(2024, 1, 20), False)]
)
def test_a_day_without_a_session_has_no_bars(day: dt.date, closed: bool) -> None:
    """Saturday 2021-05-01 was mock trading, 2024-01-26 a holiday; Saturday 2024-01-20 was a live session."""
    bars, report = aggregate([Tick(at("10:00", day), 100.0), Tick(at("10:01", day), 100.0)])
    assert len(bars) == (0 if closed else 2)
    assert counts(report) == ({"closed_day": 2} if closed else {"taken": 2})


def test_since_the_closing_auction_the_hours_depend_on_the_stock() -> None:
    day = dt.date(2026, 8, 5)
    for derivatives, expected in ((True, ["15:14"]), (False, ["15:14", "15:16"])):
        aggregator = TickAggregator("ANY", "1m", derivatives=derivatives)
        given_out = [aggregator.add(Tick(at(clock, day), 100.0)) for clock in ("15:14", "15:16")]
        assert starts(bar for bar in (*given_out, aggregator.flush()) if bar is not None) == expected
    with pytest.raises(UnknownDerivativesError, match="state derivatives"):
        TickAggregator("UNKNOWNSTOCK", "1m").add(Tick(at("15:14", day), 100.0))


def test_stamps_that_are_none_are_counted_and_those_beyond_the_calendar_refused() -> None:
    bars, report = aggregate([tick("10:00"), Tick(0, 99.0), Tick(-(10**18), 99.0), tick("10:00:01")])
    assert [(bar.low, flow(bar)["ticks"]) for bar in bars] == [(100.0, 2.0)]
    assert counts(report) == {"taken": 2, "unstamped": 2}
    with pytest.raises(CalendarError, match="newer calendar"):
        aggregate([Tick(at("10:00", nse_calendar().last_date + dt.timedelta(days=1)), 100.0)])


@pytest.mark.parametrize("price", [0.0, -1.0, 0.009, 1e7, math.inf, math.nan])
def test_what_is_no_price_is_left_out(price: float) -> None:
    bars, report = aggregate([tick("10:00", price), tick("10:00:01", 100.0, 10), tick("10:00:02", 100.0, -1)])
    assert [(bar.open, bar.low, bar.volume) for bar in bars] == [(100.0, 100.0, 0)]
    assert counts(report) == {"taken": 1, "invalid": 2}


def test_a_repeated_tick_counts_once() -> None:
    once = [tick("10:00:00", 100.0, 10), tick("10:00:01", 101.0, 30), tick("10:00:01", 100.0, 40)]
    bars, report = aggregate(itertools.chain.from_iterable((each, each) for each in once))
    assert bars == aggregate(once)[0]
    assert counts(report) == {"taken": 3, "repeated": 3}


def test_a_tick_out_of_order_widens_the_open_bar_and_is_no_close() -> None:
    ticks = [
        tick("10:00:05", 100.0, 1000),
        tick("10:00:03", 99.0, 900),
        tick("10:00:08", 101.0, 1300),
        tick("10:00:07", 103.0, 1200),
        tick("10:00:06", 98.0, 1400),
    ]
    (bar,), report = aggregate(ticks)
    assert bar[1:6] == (99.0, 103.0, 98.0, 101.0, 400)
    assert counts(report) == {"taken": 2, "out_of_order": 3, "volume_fell": 2}
    found = flow(bar)
    assert (found["ticks"], found["trades"], found["signed_volume"]) == (2, 2, 400)
    assert found["realised_variance"] == pytest.approx(math.log(1.01) ** 2)
    (ordered,), _ = aggregate(sorted(ticks, key=lambda each: each.time_ns))
    assert bar[1:5] == ordered[1:5]


def test_a_late_tick_is_left_out_and_its_shares_come_with_the_next() -> None:
    before, late = tick("10:00:58", 100.0, 1000), tick("10:00:59", 90.0, 1500)
    bars, report = aggregate([before, tick("10:01:00", 101.0, 1100), late, tick("10:01:01", 101.0, 1600)])
    assert [(bar.low, bar.volume) for bar in bars] == [(100.0, 0), (101.0, 600)]
    assert counts(report) == {"taken": 3, "late": 1}


def test_the_volume_of_a_bar_is_the_rise_of_its_highest() -> None:
    volumes = [1000, 1500, 1400, 1450, 1600, 1600]
    bars, report = aggregate([tick(f"10:{minute:02}:00", 100.0, volume) for minute, volume in enumerate(volumes)])
    assert [bar.volume for bar in bars] == [0, 500, 0, 0, 100, 0]
    assert report.volume_fell == 2


def test_each_day_begins_from_nothing() -> None:
    """No volume, no price to compare with and no book come over from the day before; what the day had is unknown."""
    book = Depth((Level(99.0, 1),), (Level(101.0, 1),))
    monday = [tick("15:28", 90.0, 9000, book), tick("15:29", 95.0, 10_000, book)]
    tuesday = [
        Tick(at("09:15:01", DAY + dt.timedelta(days=1)), 100.0, 50),
        Tick(at("09:16:00", DAY + dt.timedelta(days=1)), 100.0, 80),
    ]
    bars, _ = aggregate(monday + tuesday)
    assert [(bar.volume, flow(bar)["signed_volume"]) for bar in bars] == [(0, 0), (1000, -1000), (0, 0), (30, 0)]
    assert aggregate(tuesday)[0] == bars[2:]


def test_the_auction_before_the_opening_is_no_volume_to_count_from() -> None:
    """Until it is matched the feed sends what it would match, which may be more than what the session begins with."""
    bars, _ = aggregate([tick("09:07", 100.0, 5_000), tick("09:15:01", 100.0, 4_000), tick("09:15:02", 100.0, 4_500)])
    assert [bar.volume for bar in bars] == [500]


def test_a_bar_is_given_out_by_the_next_one_or_by_the_clock_and_minutes_without_ticks_have_none() -> None:
    aggregator = TickAggregator("SIM", "1m", grace_ns=2 * SECOND_NS)
    assert aggregator.advance(at("09:59")) is None
    assert aggregator.add(tick("10:00:30")) is None
    assert aggregator.advance(at("10:01:01")) is None
    assert aggregator.add(tick("10:00:59", 101.0)) is None  # within the grace
    given_out = aggregator.advance(at("10:01:02"))
    assert given_out is not None
    assert (starts([given_out]), given_out.close) == (["10:00"], 101.0)
    assert aggregator.advance(at("10:03:00")) is None
    assert aggregator.flush() is None
    assert aggregator.add(tick("10:00:59", 102.0)) is None
    assert aggregator.add(tick("10:01:59", 102.0)) is None  # the clock has said that this minute had no tick
    assert aggregator.report.late == 2
    assert aggregator.add(tick("10:03:00", 103.0)) is None
    jumped = aggregator.add(tick("11:00:00", 104.0))
    assert jumped is not None
    assert starts([jumped]) == ["10:03"]


def test_the_clock_may_stand_still_or_run_back() -> None:
    aggregator = TickAggregator("SIM", "1m")
    aggregator.advance(at("10:05"))
    aggregator.advance(at("09:00"))
    aggregator.add(tick("10:03:59"))
    aggregator.add(tick("10:04:00"))
    assert counts(aggregator.report) == {"taken": 1, "late": 1}


def test_a_bar_that_was_asked_for_early_is_closed() -> None:
    aggregator = TickAggregator("SIM", "5m")
    aggregator.add(tick("10:00:00"))
    assert aggregator.flush() is not None
    aggregator.add(tick("10:01:00", 101.0))
    assert (aggregator.flush(), aggregator.report.late) == (None, 1)


def test_the_last_bar_of_a_window_ends_with_it() -> None:
    aggregator = TickAggregator("SIM", "60m")
    aggregator.add(tick("15:20"))
    assert aggregator.advance(at("15:30")) is None
    last = aggregator.advance(at("15:30") + GRACE_NS)
    assert last is not None
    assert starts([last]) == ["15:15"]


def test_bars_of_ticks_go_into_a_file_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = (Path(__file__).resolve().parents[1] / "docs" / "ticks.md").read_text().split("```python\n")
    (shown,) = (block.partition("```")[0] for block in blocks if "to_parquet" in block)
    clocks = ("09:15", "09:17", "09:21", "09:26", "15:29")
    ticks = [tick(clock, 100.0 + place, 10 * place, book(99.0, 1, 110.0, 2)) for place, clock in enumerate(clocks)]
    bars, _ = bars_from_ticks(ticks, "SIM", "5m")
    assert set(bars.extra) == set(FLOW_FIELDS)
    exec(shown, {"bars": bars})
    assert load_bars("bars.parquet", "SIM", "5m", derivatives=bars.derivatives).data_hash == bars.data_hash


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(BarsError, match="unknown interval '7m'"):
        TickAggregator("SIM", "7m")
    with pytest.raises(BarsError, match="grace of 0 ns or more"):
        TickAggregator("SIM", "1m", grace_ns=-1)
    with pytest.raises(BarsError, match=r"no tick fell into a trading session.*unstamped=1"):
        bars_from_ticks([Tick(0, 100.0)], "SIM", "1m")


def test_a_trade_is_signed_by_the_book_before_it_and_else_by_the_last_change() -> None:
    """Lee and Ready: above the middle bought, below sold; at the middle, or without a book, as the price last moved."""
    quotes = book(99.0, 10, 101.0, 10)
    ticks = [
        tick("10:00:00", 100.0, 0),  # nothing known yet
        tick("10:00:01", 100.0, 1),  # no change yet: 0
        tick("10:00:02", 101.0, 11, quotes),  # risen: +10, by the last change
        tick("10:00:03", 101.0, 111, quotes),  # above the middle of the book before: +100
        tick("10:00:04", 99.5, 1111, quotes),  # below it: -1000
        tick("10:00:05", 100.0, 11_111, quotes),  # at it, risen: +10,000
        tick("10:00:06", 100.0, 111_111),  # at it, unchanged since the rise: +100,000
        tick("10:00:07", 99.0, 1_111_111, quotes),  # no book before, fallen: -1,000,000
    ]
    signed = []
    for end in range(1, len(ticks) + 1):
        (bar,), _ = aggregate(ticks[:end])
        signed.append(flow(bar)["signed_volume"])
    assert np.diff(signed, prepend=0.0).tolist() == [0, 0, 10, 100, -1000, 10_000, 100_000, -1_000_000]


def test_the_flow_fields_of_a_bar_by_hand() -> None:
    ticks = [
        tick("10:00:00", 100.0, 1000, book(99.0, 30, 101.0, 10)),
        tick("10:00:20", 102.0, 1300, book(100.0, 10, 104.0, 30)),
        tick("10:00:40", 102.0, 1300, Depth((Level(102.0, 500),), ())),
        tick("10:00:50", 101.0, 1400, None),
    ]
    (bar,), _ = aggregate(ticks)
    found = flow(bar)
    assert [found[name] for name in REFERENCE_FIELDS] == [0.0] * len(REFERENCE_FIELDS)
    assert (found["ticks"], found["trades"], found["signed_volume"]) == (4, 2, 300 - 100)
    assert found["realised_variance"] == pytest.approx(math.log(1.02) ** 2 + math.log(101 / 102) ** 2)
    assert found["tick_vwap"] == pytest.approx((300 * 102 + 100 * 101) / 400)
    assert found["book_imbalance"] == pytest.approx((0.5 - 0.5 + 1.0) / 3)
    assert found["spread"] == pytest.approx((2 / 100 + 4 / 102) / 2)
    assert found["microprice_offset"] == 0.0  # the last tick has no book
    (bar,), _ = aggregate([*ticks[:2], ticks[3]])
    assert flow(bar)["microprice_offset"] == 0.0
    (bar,), _ = aggregate(ticks[:2])
    assert flow(bar)["microprice_offset"] == pytest.approx((100 * 30 + 104 * 10) / 40 / 102 - 1)


def test_without_volume_and_book_the_flow_is_neutral_and_left_out_of_recordings() -> None:
    ticks = [tick("10:00:00", 100.0), tick("10:00:30", 102.0)]
    (bar,), _ = aggregate(ticks)
    assert bar.volume == 0
    assert [flow(bar)[name] for name in FLOW_FIELDS] == [2, 0, 0, math.log(1.02) ** 2, 102.0, 0, 0, 0]
    assert set(bars_from_ticks(ticks, "SIM", "1m")[0].extra) == {"ticks", "realised_variance"}
    ticks.append(tick("10:00:40", 102.0, 7))
    known = {"ticks", "realised_variance", "trades", "signed_volume", "tick_vwap"}
    assert set(bars_from_ticks(ticks, "SIM", "1m")[0].extra) == known
    ticks.append(tick("10:00:50", 102.0, 7, book(1.0, 1, 2.0, 1)))
    assert set(bars_from_ticks(ticks, "SIM", "1m")[0].extra) == set(FLOW_FIELDS)


@pytest.mark.parametrize(
    ("depth", "imbalance"),
    [
        (Depth((), ()), None),
        (Depth((Level(0.0, 0),) * 5, (Level(0.0, 0),) * 5), None),
        (Depth((Level(110.0, 7), Level(109.0, 3)), ()), 1.0),
        (Depth((Level(0.0, 0),), (Level(90.0, 7),)), -1.0),
        (book(101.0, 1, 100.0, 3), -0.5),
        (book(100.0, 1, 100.0, 1), 0.0),
        (book(math.nan, 1, 100.0, 1), 0.0),
        (book(100.0, 1, math.inf, 1), 0.0),
        (book(100.0, 0, 101.0, 1), -1.0),
    ],
)
def test_a_book_that_is_not_two_sided_has_no_middle(depth: Depth, imbalance: float | None) -> None:
    assert view_book(depth) == (imbalance, 0.0, 0.0, 0.0)


def test_a_book_is_read_five_levels_deep() -> None:
    bids = tuple(Level(100.0 - place, 10) for place in range(5))
    asks = tuple(Level(101.0 + place, 30) for place in range(5))
    beyond = (Level(50.0, 10**9),)
    assert view_book(Depth(bids + beyond, asks)) == view_book(Depth(bids, asks))
    assert view_book(Depth(bids, asks)).imbalance == -0.5


def test_the_book_of_a_full_tick_of_kite(shared_nse: Path) -> None:
    sent = json.loads((shared_nse / "ref" / "kite" / "mocks" / "ticker_full.json").read_text())
    sides = [tuple(Level(one["price"], one["quantity"]) for one in sent["depth"][side]) for side in ("buy", "sell")]
    moment = dt.datetime.fromisoformat(sent["timestamp"])
    full = Tick(int(moment.timestamp()) * SECOND_NS, sent["last_price"], sent["volume"], Depth(sides[0], sides[1]))
    (bar,), report = aggregate([full], "5m", "INFY")
    bid, ask = sent["depth"]["buy"], sent["depth"]["sell"]
    totals = [sum(one["quantity"] for one in side) for side in (bid, ask)]
    found, mid = flow(bar), (bid[0]["price"] + ask[0]["price"]) / 2
    assert found["book_imbalance"] == pytest.approx((totals[0] - totals[1]) / sum(totals))
    assert found["spread"] == pytest.approx((ask[0]["price"] - bid[0]["price"]) / mid)
    best = bid[0]["quantity"], ask[0]["quantity"]
    microprice = (bid[0]["price"] * best[1] + ask[0]["price"] * best[0]) / sum(best)
    assert found["microprice_offset"] == pytest.approx(microprice / mid - 1)
    assert (starts([bar]), counts(report)) == (["10:40"], {"taken": 1})


def test_a_table_of_text_stamps_is_read_in_its_zone() -> None:
    frame = pd.DataFrame({"timestamp": ["1970-01-01 05:30:00", "2024-01-15 09:15:01"], "ltp": [1.0, 100.5]})
    ticks = list(ticks_from_frame(frame, "SIM", timezone="Asia/Kolkata"))
    assert ticks == [Tick(0, 1.0), Tick(at("09:15:01"), 100.5)]
    with pytest.raises(BarsError, match="carry no zone"):
        ticks_from_frame(frame, "SIM")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"last_price": None}, "expected the columns time_ns or one of .*; one of last_price, ltp"),
        ({"time_ns": None}, "expected the columns"),
        ({"last_price": ["x", "1"]}, "1 of 2 rows have a last_price that is no number"),
        ({"volume": [1.5, 2.0]}, "1 of 2 rows have a volume that is no whole number"),
        ({"bid_quantity_1": [-1, 2]}, "1 of 2 rows have a bid_quantity_1 below 0"),
        ({"time_ns": [at("10:00"), np.nan]}, "1 of 2 rows have no time_ns"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(changes: dict[str, Any], what: str) -> None:
    frame = as_frame([tick("10:00", 100.0, 1, book(1.0, 1, 2.0, 1))] * 2).assign(**changes)
    frame = frame.drop(columns=[name for name, value in changes.items() if value is None])
    with pytest.raises(BarsError, match=what):
        list(ticks_from_frame(frame, "SIM"))
    with pytest.raises(BarsError, match="holds no ticks"):
        ticks_from_frame(as_frame([tick("10:00")]).iloc[:0], "SIM")
