"""Law: repeating a tick, a restart, a later tick and the way ticks are read change no bar; volumes add up."""

import datetime as dt
import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tick_recordings import Recording, aggregate, as_frame, assert_valid, at, counts, day_of, flow, recordings

from finsense.market.bars import Bar
from finsense.market.calendar import MINUTE_NS, nse_calendar
from finsense.market.sources.files import read_table
from finsense.market.sources.ticks import ticks_from_frame
from finsense.market.ticks import Tick, TickAggregator, bars_from_ticks


@settings(max_examples=40, deadline=None)
@given(recordings(), st.sampled_from(["1m", "5m", "60m", "1d"]))
def test_law_bars_are_valid_and_their_flow_keeps_its_bounds(recording: Recording, interval: str) -> None:
    ticks = recording.ticks()
    bars, report = aggregate(ticks, interval)
    assert sum(counts(report).values()) - report.volume_fell == len(ticks)
    for bar in bars:
        found = flow(bar)
        assert bar.low <= min(bar.open, bar.close, found["tick_vwap"])
        assert bar.high >= max(bar.open, bar.close, found["tick_vwap"])
        assert bar.volume >= found["trades"] >= 0
        assert abs(found["signed_volume"]) <= bar.volume
        assert found["ticks"] >= 1
        assert found["realised_variance"] >= 0
        assert -1 <= found["book_imbalance"] <= 1
        assert 0 <= found["spread"] < 2
        assert abs(found["microprice_offset"]) < 0.01
    if bars:
        assert_valid(bars, interval)


@settings(max_examples=40, deadline=None)
@given(recordings(), st.integers(0, 2**32 - 1))
def test_law_a_tick_that_is_sent_again_changes_nothing(recording: Recording, seed: int) -> None:
    """At once any number of times; and, as after a reconnect, once more when newer ones have come."""
    rng = np.random.default_rng(seed)
    ticks = recording.ticks()
    bars, _ = aggregate(ticks)
    repeated = [[each] * int(rng.integers(1, 4)) for each in ticks]
    assert aggregate(itertools.chain.from_iterable(repeated))[0] == bars

    follower = TickAggregator("SIM", "1m")
    again: list[Tick] = []
    newest_ns = 0
    for each in ticks:
        taken = follower.report.taken
        follower.add(each)
        newest_ns = each.time_ns if follower.report.taken > taken else newest_ns
        again.append(each)
        earlier = again[int(rng.integers(0, len(again)))]
        if earlier.time_ns < newest_ns:
            again.append(earlier)
    assert aggregate(again)[0] == bars


@settings(max_examples=40, deadline=None)
@given(recordings(), st.data())
def test_law_a_restart_in_the_middle_of_a_bar_changes_nothing(recording: Recording, data: st.DataObject) -> None:
    """The aggregator as it was pickled, and a new one that is fed with the day so far."""
    first, second = recording.days()
    ticks = first + second
    whole, report = aggregate(ticks, "5m")
    cut = data.draw(st.integers(0, len(ticks)))
    aggregator = TickAggregator("SIM", "5m")
    before = [aggregator.add(each) for each in ticks[:cut]]
    restored = pickle.loads(pickle.dumps(aggregator))
    after = [*(restored.add(each) for each in ticks[cut:]), restored.flush()]
    assert [bar for bar in (*before, *after) if bar is not None] == whole
    assert restored.report == report

    day = second if cut >= len(first) else ticks
    known = len(day) - (len(ticks) - cut)
    rebuilt = TickAggregator("SIM", "5m")
    so_far = [rebuilt.add(each) for each in day[:known]]
    rest = [*(rebuilt.add(each) for each in day[known:]), rebuilt.flush()]
    found = [bar for bar in (*so_far, *rest) if bar is not None]
    midnight_ns = at("00:00", recording.first_day + dt.timedelta(days=1))
    assert found == (whole if day is ticks else [bar for bar in whole if bar.time_ns >= midnight_ns])


@settings(max_examples=40, deadline=None)
@given(recordings(), recordings(), st.data())
def test_law_a_bar_depends_on_no_tick_after_it_was_given_out(
    recording: Recording, other: Recording, data: st.DataObject
) -> None:
    ticks, others = recording.ticks(), other.ticks()
    cut = data.draw(st.integers(0, len(ticks)))
    aggregator = TickAggregator("SIM", "1m")
    known = [bar for bar in map(aggregator.add, ticks[:cut]) if bar is not None]
    for future in (ticks[cut:], others, []):
        assert aggregate([*ticks[:cut], *future])[0][: len(known)] == known


@settings(max_examples=40, deadline=None)
@given(recordings(), st.sampled_from(["1m", "5m", "1d"]))
def test_law_the_volume_of_a_day_is_its_highest_less_its_first(recording: Recording, interval: str) -> None:
    """Over the ticks that went into bars, which are those that the calendar and the order of arrival let in."""
    aggregator = TickAggregator("SIM", interval)
    bars: list[Bar] = []
    volumes: dict[int, list[int]] = {}
    for each in recording.ticks():
        before = aggregator.report.taken + aggregator.report.out_of_order
        bars += [bar for bar in [aggregator.add(each)] if bar is not None]
        if aggregator.report.taken + aggregator.report.out_of_order > before:
            assert each.volume is not None
            volumes.setdefault(day_of(each.time_ns), []).append(each.volume)
    bars += [bar for bar in [aggregator.flush()] if bar is not None]
    summed: dict[int, int] = {}
    for bar in bars:
        summed[day_of(bar.time_ns)] = summed.get(day_of(bar.time_ns), 0) + bar.volume
    assert summed == {day: max(seen) - seen[0] for day, seen in volumes.items()}


@settings(max_examples=40, deadline=None)
@given(recordings(ordered=True), st.sampled_from(["1m", "3m", "15m"]))
def test_law_ordered_ticks_give_what_a_group_by_gives(recording: Recording, interval: str) -> None:
    """An independent reading of the rules for a feed in order, on frames."""
    ticks = recording.ticks()
    bars, _ = aggregate(ticks, interval)
    frame = pd.DataFrame([each[:3] for each in ticks], columns=["time_ns", "price", "volume"])
    inside = []
    for time_ns in frame["time_ns"]:
        session = nse_calendar().session(dt.date(1970, 1, 1) + dt.timedelta(days=day_of(time_ns)), derivatives=False)
        window = [start for start, end in (session.windows if session else ()) if start <= time_ns < end]
        inside.append(window[0] if window else -1)
    frame = frame.assign(window=inside).query("window >= 0")
    length_ns = int(interval[:-1]) * MINUTE_NS
    frame["start"] = frame["window"] + (frame["time_ns"] - frame["window"]) // length_ns * length_ns
    frame["day"] = frame["time_ns"].map(day_of)
    frame["highest"] = frame.groupby("day")["volume"].cummax()
    frame["traded"] = frame.groupby("day")["highest"].diff().fillna(0)
    frame["paid"] = frame["traded"] * frame["price"]
    change = np.log(frame["price"]) - np.log(frame.groupby("start")["price"].shift())
    frame["squared"] = change.fillna(0.0) ** 2
    groups = frame.groupby("start")
    prices = groups["price"].agg(["first", "max", "min", "last"])
    assert [bar[:5] for bar in bars] == list(prices.itertuples(name=None))
    assert [bar.volume for bar in bars] == groups["traded"].sum().tolist()
    assert [flow(bar)["trades"] for bar in bars] == groups["traded"].agg(lambda shares: (shares > 0).sum()).tolist()
    paid, shares = groups["paid"].sum().to_numpy(), groups["traded"].sum().to_numpy()
    vwap = np.where(shares > 0, paid / np.where(shares > 0, shares, 1), prices["last"])
    np.testing.assert_allclose([flow(bar)["tick_vwap"] for bar in bars], vwap, rtol=1e-12)
    variance = groups["squared"].sum()
    np.testing.assert_allclose([flow(bar)["realised_variance"] for bar in bars], variance, rtol=1e-9, atol=1e-15)


@settings(max_examples=15, deadline=None)
@given(recordings())
def test_a_recording_gives_the_bars_that_the_feed_gave(
    tmp_path_factory: pytest.TempPathFactory, recording: Recording
) -> None:
    ticks = recording.ticks()
    bars, report = aggregate(ticks)
    if not bars:
        return
    path = tmp_path_factory.mktemp("ticks") / "ticks.csv"
    as_frame(ticks).to_csv(path, index=False)
    found, found_report = bars_from_ticks(ticks_from_frame(read_table(path), "SIM"), "SIM", "1m")
    assert found_report.taken == report.taken
    assert [bar[:6] for bar in found] == [bar[:6] for bar in bars]
    for name, values in found.extra.items():
        np.testing.assert_array_equal(values, [flow(bar)[name] for bar in bars])
