"""Second series beside bars: never from a later bar, refused where they do not fit, named in the data of a config."""

import bisect
import datetime as dt
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from config_files import FROM_FILE, SIMULATED, Write, errors, write_file
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import MUHURAT, MUHURAT_DATE, SPLIT, bars_of, rough_bars, session_times, spliced
from numpy.typing import NDArray

from finsense.config import load_experiment
from finsense.market import references
from finsense.market.bars import Bars, BarsError
from finsense.market.calendar import MINUTE_NS, Calendar, SpecialDay, nse_calendar, session_date
from finsense.market.references import MisalignedError, aligned_closes, with_references
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import FileSource, load_bars
from finsense.market.sources.frames import bars_from_frame
from finsense.state.indicators import cross_asset  # noqa: F401  (registers what a state may read)

Floats = NDArray[np.float64]
INTERVALS = ("1m", "5m", "15m", "60m", "1d")
FIRST, LAST = dt.date(2024, 2, 19), dt.date(2024, 2, 29)


def walk(first: dt.date, last: dt.date, interval: str, seed: int = 0, symbol: str = "NIFTY 50") -> Bars:
    """A random walk on the sessions between two dates, whose every close is its own."""
    time_ns = session_times(first, last, interval)
    closes = 20_000 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.001, len(time_ns))))
    return bars_of(time_ns, closes, interval=interval, symbol=symbol)


def without(bars: Bars, rows: Any) -> Bars:
    """The bars but for some of them."""
    kept = np.setdiff1d(np.arange(len(bars)), np.arange(len(bars))[rows])
    columns = {name: getattr(bars, name)[kept] for name in ("time_ns", "open", "high", "low", "close", "volume")}
    return replace(bars, **columns, extra={})


def end_of(bars: Bars, row: int) -> int:
    """When the close of a bar is known, ns UTC, by the calendar: a daily bar's when its session is over."""
    start = int(bars.time_ns[row])
    session = nse_calendar().session(session_date(start), derivatives=False)
    assert session is not None
    if bars.interval == "1d":
        return session.close_ns
    return next(min(start + bars.interval_ns, end) for first, end in session.windows if first <= start < end)


def expected_closes(bars: Bars, reference: Bars) -> list[float]:
    """The reference's last close at the end of each bar; within the day, a daily one of a day before."""
    ends = [end_of(reference, row) for row in range(len(reference))]
    found = []
    for row in range(len(bars)):
        place = bisect.bisect_right(ends, end_of(bars, row)) - 1
        if reference.interval == "1d" and bars.interval != "1d":
            own = session_date(int(bars.time_ns[row]))
            place -= session_date(int(reference.time_ns[place])) == own
        found.append(float(reference.close[place]))
    return found


@pytest.mark.parametrize("other", INTERVALS)
@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("span", [SPLIT, MUHURAT])
def test_every_bar_has_the_last_close_that_is_known_at_its_end(
    interval: str, other: str, span: tuple[dt.date, dt.date]
) -> None:
    bars = walk(*span, interval, seed=1, symbol="SIM")
    reference = walk(span[0] - dt.timedelta(days=7), span[1], other)
    if reference.interval_ns < 60 * MINUTE_NS:
        # One bar in five is missing, but for a session's last.
        starts = np.random.default_rng(5).random(len(reference)) < 0.2
        starts[reference.session_offsets[1:] - 1] = False
        reference = without(reference, starts)
    assert aligned_closes(bars, reference).tolist() == expected_closes(bars, reference)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_later_bar_of_a_series_is_seen(data: st.DataObject) -> None:
    """Whatever the series does after a bar's end, and whether it does anything, the bar knows the same closes."""
    interval, other = data.draw(st.sampled_from(INTERVALS)), data.draw(st.sampled_from(INTERVALS))
    bars = walk(*MUHURAT, interval, seed=1, symbol="SIM")
    reference = walk(MUHURAT[0] - dt.timedelta(days=7), MUHURAT[1], other)
    seen = aligned_closes(bars, reference)
    rng = np.random.default_rng(data.draw(st.integers(1000, 1099)))
    row = data.draw(st.integers(0, len(bars) - 1))
    known = sum(end_of(reference, place) <= end_of(bars, row) for place in range(len(reference)))
    changed = reference.close.copy()
    changed[known:] *= np.exp(rng.normal(0, 0.1, len(changed) - known))
    later = bars_of(reference.time_ns, changed, interval=other, symbol="NIFTY 50")
    np.testing.assert_array_equal(aligned_closes(bars, later)[: row + 1], seen[: row + 1])
    cut = reference.take(0, max(known, 1))
    # The last session may have begun without a whole bar of the series yet.
    np.testing.assert_array_equal(aligned_closes(bars.take(0, row + 1), cut, missing_sessions=1), seen[: row + 1])


def test_within_the_day_a_daily_close_is_that_of_the_session_before() -> None:
    bars = walk(dt.date(2023, 11, 10), MUHURAT[1], "5m", symbol="SIM")
    daily = walk(dt.date(2023, 11, 9), MUHURAT[1], "1d")
    closes = aligned_closes(bars, daily)
    # Friday 10 November, the Muhurat hour of Sunday 12 November, and 13 and 15 November about the holiday of the 14th.
    for place, (start, stop) in enumerate(zip(bars.session_offsets[:-1], bars.session_offsets[1:], strict=True)):
        assert (closes[start:stop] == daily.close[place]).all()
    todays = daily.close.copy()
    todays[-1] *= 2
    np.testing.assert_array_equal(aligned_closes(bars, bars_of(daily.time_ns, todays, interval="1d")), closes)


def test_finer_bars_are_folded_and_daily_bars_take_the_close_of_the_session() -> None:
    minutes = walk(FIRST, LAST, "1m")
    fives = walk(FIRST, LAST, "5m", symbol="SIM")
    np.testing.assert_array_equal(aligned_closes(fives, minutes), minutes.close[4::5])
    days = walk(FIRST, LAST, "1d", symbol="SIM")
    np.testing.assert_array_equal(aligned_closes(days, minutes), minutes.close[minutes.session_offsets[1:] - 1])
    hours = walk(FIRST, LAST, "60m", symbol="SIM")
    # The last hour of a day lasts fifteen minutes.
    assert aligned_closes(hours, minutes)[[5, 6]].tolist() == minutes.close[[359, 374]].tolist()


def test_what_the_bars_know_already_is_kept_and_replaced_where_given_anew() -> None:
    bars = rough_bars(4, *SPLIT)
    index, sector, vix = (walk(*SPLIT, "15m", seed) for seed in range(3))
    found = with_references(bars, index=index, sector=sector, vix=vix)
    for name, series in (("index", index), ("sector", sector), ("vix", vix)):
        np.testing.assert_array_equal(found.extra[f"{name}_close"], series.close)
    assert found.extra["ticks"].tolist() == bars.extra["ticks"].tolist()
    assert found.data_hash != bars.data_hash
    assert with_references(bars).data_hash == bars.data_hash
    alone = with_references(replace(bars, extra={}), vix=vix)
    assert list(alone.extra) == ["vix_close"]


def test_a_session_that_the_series_lacks_is_an_error_unless_allowed() -> None:
    bars, whole = walk(FIRST, LAST, "5m", symbol="SIM"), walk(FIRST, LAST, "5m", seed=2)
    days = [dt.date(2024, 2, 21), dt.date(2024, 2, 23), dt.date(2024, 2, 26), dt.date(2024, 2, 28)]
    lacks = np.isin(whole.session_days, [(day - dt.date(1970, 1, 1)).days for day in days])
    reference = without(whole, lacks)
    expected = r"SIM 5m beside NIFTY 50 5m: NIFTY 50 lacks 4 of the 9 sessions .* first 2024-02-21, 2024-02-23, 2024-02"
    with pytest.raises(MisalignedError, match=expected) as caught:
        with_references(bars, index=reference, missing_sessions=3)
    assert "missing_sessions: 4" in str(caught.value)
    held = with_references(bars, index=reference, missing_sessions=4).extra["index_close"]
    np.testing.assert_array_equal(held[~lacks], whole.close[~lacks])
    assert (held[150:225] == whole.close[149]).all()  # 21 February is the third session
    with pytest.raises(MisalignedError, match="lacks 4 of the 9 sessions it is needed on, first 2024-02-21"):
        with_references(walk(FIRST, LAST, "1d"), index=reference)
    last_year = walk(dt.date(2023, 2, 20), dt.date(2023, 2, 24), "5m", seed=2)
    with pytest.raises(MisalignedError, match=r"lacks 9 of the 9 .*its bars run from 2023-02-20 to 2023-02-24$"):
        with_references(bars, index=last_year)


def test_a_daily_series_needs_the_sessions_before() -> None:
    bars, daily = walk(FIRST, LAST, "5m", symbol="SIM"), walk(dt.date(2024, 2, 16), LAST, "1d", seed=2)
    assert len(daily) == 10
    # The last close is never needed within the day.
    assert len(with_references(bars, vix=daily.take(0, 9))) == len(bars)
    with pytest.raises(MisalignedError, match="lacks 1 of the 9 sessions it is needed on, first 2024-02-20"):
        with_references(bars, vix=without(daily, [2]))
    with pytest.raises(MisalignedError, match="today's is not known yet"):
        with_references(bars, vix=daily.take(1, 10))


def test_a_session_whose_hours_are_not_announced_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the next Muhurat session may be: neither the stock nor VIX can have a bar then."""
    friday, monday = (walk(day, day, "1d", day.day) for day in (dt.date(2023, 11, 10), dt.date(2023, 11, 13)))
    bars, daily = walk(dt.date(2023, 11, 13), dt.date(2023, 11, 13), "5m", symbol="SIM"), spliced(friday, monday)
    with pytest.raises(MisalignedError, match="lacks 1 of the 1 sessions it is needed on, first 2023-11-12"):
        aligned_closes(bars, daily)
    unknown = {MUHURAT_DATE: SpecialDay("muhurat", "unknown", "Diwali", "to be announced")}
    calendar = Calendar(unknown, dt.date(2023, 1, 1), dt.date(2023, 12, 31))
    monkeypatch.setattr(references, "nse_calendar", lambda: calendar)
    assert (aligned_closes(bars, daily) == friday.close[0]).all()


def test_bars_before_the_series_begins_are_refused() -> None:
    bars = walk(FIRST, LAST, "5m", symbol="SIM")
    reference = without(walk(FIRST, LAST, "5m"), slice(0, 3))
    expected = r"the first 3 of 675 bars, from 2024-02-19 09:15 IST, .* begin at 2024-02-19 09:30 IST"
    with pytest.raises(MisalignedError, match=expected):
        with_references(bars, index=reference, missing_sessions=9)


@pytest.mark.parametrize(("interval", "missing"), [("1m", 120), ("5m", 24), ("30m", 4)])
def test_a_hole_is_filled_for_two_hours_of_trading_and_no_longer(interval: str, missing: int) -> None:
    bars, whole = walk(FIRST, LAST, interval, symbol="SIM"), walk(FIRST, LAST, interval, seed=2)
    start = int(whole.session_offsets[3])
    # In the middle of a session, and at its opening: yesterday's last close stands.
    for first in (start + missing // 4, start):
        hole = without(whole, slice(first, first + missing))
        held = aligned_closes(bars, hole)
        assert (held[first : first + missing] == whole.close[first - 1]).all()
        assert held[first + missing] == whole.close[first + missing]
        longer = without(whole, slice(first, first + missing + 1))
        expected = rf"no bar for more than 120 minutes of trading before the end of 1 of {len(bars)} bars"
        with pytest.raises(MisalignedError, match=expected) as caught:
            aligned_closes(bars, longer)
        assert str(caught.value).endswith(f"{120 + whole.interval_ns // MINUTE_NS} minutes")
    with pytest.raises(MisalignedError, match="until the end of its bars"):
        aligned_closes(bars, whole.take(0, len(whole) - missing - 1))


def test_an_allowed_session_does_not_age_the_close_of_the_next_morning() -> None:
    bars, whole = walk(FIRST, LAST, "5m", symbol="SIM"), walk(FIRST, LAST, "5m", seed=2)
    # Of the third session nothing, of the fourth not the first two hours.
    held = aligned_closes(bars, without(whole, slice(150, 225 + 24)), missing_sessions=1)
    assert (held[150 : 225 + 24] == whole.close[149]).all()


def test_a_pause_of_the_session_does_not_age_a_close() -> None:
    bars, whole = walk(*SPLIT, "15m", symbol="SIM"), walk(*SPLIT, "15m", seed=2)
    pause = int(np.flatnonzero(np.diff(whole.time_ns) > 60 * MINUTE_NS)[2])
    assert aligned_closes(bars, without(whole, [pause + 1]))[pause + 1] == whole.close[pause]


class TestShiftedStamps:
    @pytest.fixture
    def market(self) -> tuple[Bars, Bars]:
        """A stock and an index that it goes along with."""
        drawn = SimulatedMarket.model_validate(
            {
                "model": "random_walk",
                "first": dt.date(2023, 11, 1),
                "last": dt.date(2023, 11, 30),
                "seed": 3,
                "index": {},
            }
        )
        bars = drawn.load()["SIM"]
        index = bars_of(bars.time_ns, bars.extra["index_close"], interval="5m", symbol="NIFTY 50")
        return replace(bars, extra={}), index

    def test_an_index_in_its_place_is_taken(self, market: tuple[Bars, Bars]) -> None:
        bars, index = market
        np.testing.assert_array_equal(with_references(bars, index=index).extra["index_close"], index.close)

    @pytest.mark.parametrize(
        ("places", "when", "meant"), [(1, "after", "stamps: end"), (-1, "before", "stamps: start")]
    )
    def test_an_index_that_is_shifted_by_a_bar_is_refused(
        self, market: tuple[Bars, Bars], places: int, when: str, meant: str
    ) -> None:
        bars, index = market
        shifted = bars_of(index.time_ns, np.roll(index.close, places), interval="5m", symbol="NIFTY 50")
        expected = rf"moves one bar {when} the bars do \(correlation 0\.[45]\d, in the same bar 0\.0\d\).*{meant}; if"
        with pytest.raises(MisalignedError, match=expected):
            with_references(bars, index=shifted)

    def test_series_that_do_not_go_together_are_no_fault(self, market: tuple[Bars, Bars]) -> None:
        bars, index = market
        for seed in range(20):
            aligned_closes(rough_bars(seed, bars.first_date, bars.last_date, "5m"), index)
        still = bars_of(bars.time_ns, np.full(len(bars), 100.0), interval="5m")
        aligned_closes(still, index)
        aligned_closes(index, replace(still, symbol="NIFTY 50"))
        aligned_closes(bars.take(0, 2), index)

    def test_a_stock_that_follows_its_index_late_is_no_fault(self, market: tuple[Bars, Bars]) -> None:
        """Seldom traded: a third of the index's move at once, the rest in the next bar."""
        bars, index = market
        moves = np.diff(np.log(index.close), prepend=np.log(index.close[0]))
        late = 100 * np.exp(np.cumsum(moves / 3 + 2 / 3 * np.append(0, moves[:-1])))
        own = np.diff(np.log(late))
        same, before = np.corrcoef(own[1:], moves[2:])[0, 1], np.corrcoef(own[1:], moves[1:-1])[0, 1]
        assert before > same + 0.3
        assert len(aligned_closes(bars_of(bars.time_ns, late, interval="5m"), index)) == len(bars)


class TestRealSeries:
    def test_an_index_with_its_holes_beside_another(self, shared_nse: Path) -> None:
        """2021-02-24: frozen for 92 minutes before the halt; 2021-07-23: minutes missing (S25, S26)."""
        path = shared_nse / "intraday/index_1min_2021.parquet"
        index, bank = (load_bars(path, name, "1m") for name in ("NIFTY 50", "NIFTY BANK"))
        assert with_references(bank, index=index).extra["index_close"].tolist() == index.close.tolist()
        for day, count in ((dt.date(2021, 2, 24), 220), (dt.date(2021, 7, 23), 375)):
            before = day - dt.timedelta(days=1)
            every = walk(before, day, "1m", symbol="SIM")
            held = aligned_closes(every, index)[-count:]
            known = index.between(day, day)
            here = np.isin(every.time_ns[-count:], known.time_ns)
            np.testing.assert_array_equal(held[here], known.close)
            assert held[~here].tolist() == pd.Series(np.where(here, held, np.nan)).ffill()[~here].tolist()

    def test_stamps_at_the_end_of_the_bars_are_found_out(self, shared_nse: Path) -> None:
        """S23, read as if a stamp were the start; `drop_outside_session`, which S24 needs, hides the last one."""
        raw = shared_nse / "intraday/raw_1min_index/2021_MAY_NIFTY.txt.gz"
        columns = ("Ticker", "date", "time", "open", "high", "low", "close", "volume", "oi")
        ticks = shared_nse / "ticks/bars_1min_from_ticks.parquet"
        bank = load_bars(shared_nse / "intraday/index_1min_2021.parquet", "NIFTY BANK", "1m")
        bank = bank.between(dt.date(2021, 5, 3), dt.date(2021, 5, 31))
        reading: dict[str, Any] = {"columns": columns, "timezone": "Asia/Kolkata", "drop_outside_session": True}
        ends = load_bars(raw, "NIFTY", "1m", **reading, stamps="end")
        starts = load_bars(raw, "NIFTY", "1m", **reading)
        with_references(bank, index=ends)
        stock = load_bars(ticks, "SBIN", "1m", volume_missing=0).between(dt.date(2021, 5, 3), dt.date(2021, 5, 7))
        with_references(stock, index=ends)
        for bars in (bank, stock):
            with pytest.raises(MisalignedError, match=r"moves one bar after the bars do .* say so with stamps: end"):
                with_references(bars, index=starts)

    def test_a_stock_that_opens_late_and_a_session_that_an_index_lacks(self, shared_nse: Path) -> None:
        fives = shared_nse / "intraday/nse_5min.parquet"
        reliance, infosys = load_bars(fives, "RELIANCE", "5m"), load_bars(fives, "INFY", "5m")
        # RELIANCE opens at 10:00 on 2023-07-20 (S20): it has fewer bars, and beside it yesterday's close stands.
        assert len(with_references(reliance, sector=infosys)) == len(reliance)
        held = aligned_closes(infosys, reliance)
        late = np.flatnonzero(~np.isin(infosys.time_ns, reliance.time_ns))
        assert len(late) == 9
        assert (held[late] == held[late[0] - 1]).all()
        daily = shared_nse / "daily/index_daily.parquet"
        table = pd.read_parquet(daily)
        known = table[pd.to_datetime(table["ts"]).dt.year >= 2009]
        nifty = bars_from_frame(known, symbol="NIFTY 50", interval="1d", volume_missing=0)
        vix = load_bars(daily, "INDIA VIX", "1d")
        stock = load_bars(shared_nse / "daily/nse_daily_unadjusted.parquet", "RELIANCE", "1d").between(vix.first_date)
        with pytest.raises(MisalignedError, match="lacks 1 of the 2437 sessions it is needed on, first 2012-04-28"):
            with_references(stock, index=nifty, vix=vix)
        found = with_references(stock, index=nifty, vix=vix, missing_sessions=1).extra
        np.testing.assert_array_equal(found["vix_close"], vix.close)
        lacking = int(np.searchsorted(stock.session_days, (dt.date(2012, 4, 28) - dt.date(1970, 1, 1)).days))
        assert found["index_close"][lacking] == found["index_close"][lacking - 1]


TWO_YEARS: dict[str, Any] = {"first": dt.date(2022, 1, 3), "last": dt.date(2023, 12, 29), "seed": 7}


class TestSimulatedIndex:
    @staticmethod
    def drawn(**settings: Any) -> dict[str, Bars]:
        return SimulatedMarket.model_validate({**TWO_YEARS, **settings}).load()

    @pytest.mark.parametrize("model", ["random_walk", "mean_reversion", "regime_switching"])
    def test_the_stock_stays_the_same_bits(self, model: str) -> None:
        span = {"first": dt.date(2023, 11, 1), "last": dt.date(2023, 11, 30), "model": model}
        plain, beside = self.drawn(**span), self.drawn(**span, index={"beta": 0.7, "correlation": 0.9})
        assert plain["SIM"].data_hash == replace(beside["SIM"], extra={}).data_hash
        more = self.drawn(
            **{**span, "last": dt.date(2023, 12, 20)}, symbols=("A", "SIM"), index={"beta": 0.7, "correlation": 0.9}
        )
        count = len(plain["SIM"])
        assert more["SIM"].extra["index_close"][:count].tolist() == beside["SIM"].extra["index_close"].tolist()
        assert more["A"].extra["index_close"][:count].tolist() != beside["SIM"].extra["index_close"].tolist()

    @pytest.mark.parametrize(("beta", "correlation"), [(1.0, 0.5), (0.5, 0.9), (2.0, 0.2)])
    @pytest.mark.parametrize("interval", ["15m", "1d"])
    def test_beta_and_correlation_are_as_stated(self, beta: float, correlation: float, interval: str) -> None:
        span: dict[str, Any] = {} if interval == "15m" else {"first": dt.date(2004, 1, 1)}
        index = {"beta": beta, "correlation": correlation}
        bars = self.drawn(model="random_walk", interval=interval, index=index, open_noise=0, **span)["SIM"]
        own, market = np.diff(np.log(bars.close)), np.diff(np.log(bars.extra["index_close"]))
        # The volatility clusters, so the common errors are some wider than those of equal variances.
        error = 1.5 * np.sqrt((1 - correlation**2) / len(own))
        assert abs(np.corrcoef(own, market)[0, 1] - correlation) < 5 * error
        slope = np.cov(own, market)[0, 1] / market.var(ddof=1)
        assert abs(slope / beta - 1) < 5 * error / correlation
        # A gap and a bar are two surprises of one session.
        assert abs(market.std() / (correlation / beta * own.std()) - 1) < 5 * 2 / np.sqrt(2 * len(own))

    def test_the_index_tells_nothing_of_the_next_bar(self) -> None:
        market = SimulatedMarket.model_validate({**TWO_YEARS, "model": "mean_reversion", "index": {"correlation": 0.8}})
        bars, signal = market.simulate_with_signal()
        assert market.reversion is not None
        inside = np.diff(bars.session_days) == 0
        surprise = (signal[1:] - market.reversion * signal[:-1])[inside]
        moves = np.diff(np.log(bars.extra["index_close"]), prepend=np.log(20_000))
        assert np.corrcoef(moves[1:][inside], surprise)[0, 1] > 0.7
        assert abs(np.corrcoef(moves[:-1][inside], surprise)[0, 1]) < 5 / np.sqrt(len(surprise))
        assert abs(np.corrcoef(moves[1:][inside], signal[:-1][inside])[0, 1]) < 5 / np.sqrt(len(surprise))

    def test_the_index_is_a_martingale(self) -> None:
        """Moves so large that the mean of a log return would show at ten standard errors if it were missing."""
        wide: dict[str, Any] = {"volatility": 0.2, "overnight_gap": 0.2, "interval": "1d", "start_price": 20_000}
        span = {"first": dt.date(2023, 1, 1), "last": dt.date(2023, 3, 31)}
        symbols = tuple(f"S{number}" for number in range(100))
        index = {"beta": 0.8, "correlation": 0.9}
        drawn = self.drawn(model="random_walk", symbols=symbols, index=index, **wide, **span)
        closes = [bars.extra["index_close"] for bars in drawn.values()]
        moves = np.concatenate([close[1:] / close[:-1] - 1 for close in closes])
        assert abs(moves.mean()) < 5 * moves.std() / np.sqrt(len(moves))

    @pytest.mark.parametrize("wrong", [{"beta": 0}, {"correlation": 1}, {"correlation": 0}, {"betta": 1}])
    def test_an_index_that_cannot_be_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            self.drawn(model="random_walk", index=wrong)


def save(bars: Bars, path: Path, volume: float = 0) -> Path:
    """Write bars as our own files have them."""
    stamps = pd.to_datetime(bars.time_ns, unit="ns", utc=True).tz_convert("Asia/Kolkata")
    columns = {name: getattr(bars, name) for name in ("open", "high", "low", "close")}
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"ts": stamps, "symbol": bars.symbol, **columns, "volume": volume}).to_parquet(path)
    return path


class TestConfig:
    def test_every_symbol_gets_its_series(self, tmp_path: Path) -> None:
        stocks = [walk(FIRST, LAST, "5m", seed, symbol) for seed, symbol in enumerate(("AAA", "BBB"))]
        series = {name: walk(FIRST, LAST, "5m", 7 + len(name), name) for name in ("NIFTY 50", "NIFTY BANK", "IT")}
        vix = walk(dt.date(2024, 2, 16), LAST, "1d", 9, "INDIA VIX")
        # An index has no volume, and its file may say so by an empty one.
        paths = {
            bars.symbol: save(bars, tmp_path / f"{bars.symbol}.parquet", np.nan) for bars in (*series.values(), vix)
        }
        both = tmp_path / "both.parquet"
        pd.concat([pd.read_parquet(save(bars, tmp_path / bars.symbol)) for bars in stocks]).to_parquet(both)
        source = FileSource.model_validate(
            {
                "path": both,
                "symbols": ["AAA", "BBB"],
                "derivatives": False,
                "references": {
                    "index": {"path": paths["NIFTY 50"]},
                    "sector": {"AAA": {"path": paths["NIFTY BANK"]}, "BBB": {"path": paths["IT"], "symbol": "IT"}},
                    "vix": {"path": paths["INDIA VIX"], "interval": "1d"},
                },
            }
        )
        found = source.load()
        for symbol, sector in (("AAA", "NIFTY BANK"), ("BBB", "IT")):
            extra = found[symbol].extra
            assert list(extra) == ["index_close", "sector_close", "vix_close"]
            np.testing.assert_array_equal(extra["index_close"], np.round(series["NIFTY 50"].close, 2))
            np.testing.assert_array_equal(extra["sector_close"], np.round(series[sector].close, 2))
            np.testing.assert_array_equal(extra["vix_close"], np.round(np.repeat(vix.close[:-1], 75), 2))
        with pytest.raises(BarsError, match="no such file"):
            FileSource.model_validate(
                {"path": both, "symbols": ["AAA"], "references": {"vix": {"path": tmp_path / "none.csv"}}}
            ).load()

    @pytest.fixture
    def write(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
        monkeypatch.chdir(tmp_path)
        return write_file

    @staticmethod
    def with_data(lines: str) -> str:
        """The experiment on a file, with more lines in its data section."""
        inline = next(line for line in FROM_FILE.splitlines() if line.startswith("data:"))
        return FROM_FILE.replace(
            inline, f"data:\n  kind: file\n  path: bars/reliance.parquet\n  symbols: [RELIANCE, TCS]\n{lines}"
        )

    def test_paths_are_relative_to_the_file(self, write: Write, tmp_path: Path) -> None:
        path = write(
            self.with_data(
                "  references:\n"
                "    index: {path: ../nifty.parquet, symbol: NIFTY 50}\n"
                "    sector: {RELIANCE: {path: energy.csv, stamps: end}, TCS: {path: it.csv}}\n"
                "    missing_sessions: 1\n"
            ),
            "configs/a.yaml",
        )
        experiment = load_experiment(path)
        assert isinstance(experiment.data, FileSource)
        beside = experiment.data.references
        assert beside is not None
        assert beside.index is not None
        assert beside.sector is not None
        assert beside.index.path == tmp_path / "nifty.parquet"
        assert beside.sector["RELIANCE"].path == tmp_path / "configs/energy.csv"
        assert beside.sector["RELIANCE"].stamps == "end"
        assert beside.vix is None
        write(experiment.resolved_yaml(), "configs/b.yaml")
        assert load_experiment("configs/b.yaml") == experiment

    @pytest.mark.parametrize(
        ("lines", "message", "place", "hint"),
        [
            ("  references: {indx: {path: a.csv}}", "unknown key `indx` under `data.references`", "indx", "`index`"),
            (
                "  references: {index: {path: a.csv, stamp: end}}",
                "unknown key `stamp` under `data.references.index`",
                "stamp",
                "did you mean `stamps`?",
            ),
            (
                "  references: {vix: {symbol: X}}",
                "missing required key `path` under `data.references.vix`",
                "vix",
                "path",
            ),
            (
                "  references: {index: {path: a.csv, stamps: last}}",
                "bad value for `data.references.index.stamps`",
                "last",
                "last",
            ),
            (
                "  references: {sector: {RELIANCE: {path: a.csv}, SBIN: {path: b.csv}}}",
                "references.sector names one series for each symbol, but lists SBIN",
                "SBIN: {path: b.csv}",
                "",
            ),
            (
                "  references: {sector: {RELIANCE: {path: a.csv}}}",
                "references.sector names one series for each symbol, but lacks TCS",
                "",
                "",
            ),
            ("  references: {missing_sessions: -1}", "bad value for `data.references.missing_sessions`", "-1", ">= 0"),
        ],
    )
    def test_mistakes_are_named_at_their_place(
        self, write: Write, lines: str, message: str, place: str, hint: str
    ) -> None:
        (problem,) = errors(write(self.with_data(lines + "\n"))).problems
        assert message in problem.message
        assert problem.place is not None
        assert problem.place.line == 6
        assert hint in problem.hint
        assert lines[problem.place.column - 1 :].startswith(place)

    def test_a_simulated_market_without_what_the_state_reads_is_refused(self, write: Write) -> None:
        state = SIMULATED.replace("[classic29]", "[classic29, index_beta]")
        (problem,) = errors(write(state)).problems
        assert "index_beta reads index_close, which the simulated market does not have" in problem.message
        assert "index: {beta: 1, correlation: 0.5}" in problem.message
        assert problem.place is not None
        assert problem.place.text.strip() == "features: [classic29, index_beta]"
        assert problem.place.text[problem.place.column - 1 :].startswith("index_beta")
        given_one = state.replace("  seed: 1\n", "  seed: 1\n  index: {beta: 1.2}\n")
        experiment = load_experiment(write(given_one))
        assert set(experiment.data.load()["AAA"].extra) == {"index_close"}
        (problem,) = errors(write(given_one.replace("index_beta", "vix_level"))).problems
        assert "vix_level reads vix_close, which the simulated market does not have: add `vix: true`" in problem.message
        (problem,) = errors(write(given_one.replace("index_beta", "sector_relative_strength"))).problems
        assert (
            "sector_relative_strength reads sector_close, which the simulated market does not have: leave"
            in problem.message
        )
