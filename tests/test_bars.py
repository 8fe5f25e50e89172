"""Bars: whatever is wrong with them is refused by row, and what is right comes out as it went in."""

import datetime as dt
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsense.market.bars import INTERVAL_NS, Bar, Bars, BarsError, ist_text
from finsense.market.calendar import IST, MINUTE_NS, TradingSession, nse_calendar

PRICES = ("open", "high", "low", "close")
ARTICLE = {"open": "an", "high": "a", "low": "a", "close": "a"}
SYMBOL = "SIMONE"
# A Muhurat Sunday, a month with holidays, and both split Saturdays of 2024.
SESSIONS = [
    *nse_calendar().sessions(dt.date(2023, 11, 6), dt.date(2023, 11, 30), derivatives=False),
    *nse_calendar().sessions(dt.date(2024, 3, 1), dt.date(2024, 3, 12), derivatives=False),
]

# Arrays by name; Any lets them be unpacked into the arguments of Bars.
Columns = dict[str, Any]


def instant(text: str) -> int:
    """ns UTC of a time in India, written as in ISO 8601."""
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=IST).timestamp()) * 10**9


def grid(sessions: list[TradingSession], interval: str) -> npt.NDArray[np.int64]:
    if interval == "1d":
        return np.array([session.open_ns for session in sessions])
    step = INTERVAL_NS[interval]
    return np.concatenate([np.arange(*window, step) for session in sessions for window in session.windows])


def columns_on(time_ns: npt.NDArray[np.int64], seed: int = 0) -> Columns:
    """A random walk on given times, prices in whole paise."""
    rng = np.random.default_rng(seed)
    count = len(time_ns)
    close = np.maximum(100_000 + np.cumsum(rng.integers(-200, 201, count)), 1_000)
    open_ = np.maximum(close + rng.integers(-200, 201, count), 1_000)
    high = np.maximum(open_, close) + rng.integers(0, 100, count)
    low = np.minimum(open_, close) - rng.integers(0, 100, count)
    paise = {"open": open_, "high": high, "low": low, "close": close}
    prices = {name: np.round(values / 100, 2) for name, values in paise.items()}
    return {"time_ns": time_ns, **prices, "volume": rng.integers(0, 10**6, count)}


@st.composite
def valid_columns(draw: st.DrawFn) -> tuple[str, Columns]:
    interval = draw(st.sampled_from([*INTERVAL_NS]))
    first = draw(st.integers(0, len(SESSIONS) - 4))
    times = grid(SESSIONS[first : first + draw(st.integers(3, 4))], interval)
    kept = np.array(draw(st.lists(st.booleans(), min_size=len(times), max_size=len(times))))
    kept[[0, 1, -1]] = True
    return interval, columns_on(times[kept], draw(st.integers(0, 2**32)))


def bars_of(interval: str, columns: Columns, **changes: Any) -> Bars:
    return Bars(SYMBOL, interval, **{**columns, **changes})


@dataclass(frozen=True)
class Defect:
    """One way to spoil row `row` (never the first one), and what the refusal says of it."""

    spoil: Callable[[Columns, int], None]
    words: str


def put(name: str, value: float, words: str) -> Defect:
    def spoil(columns: Columns, row: int) -> None:
        columns[name][row] = value

    return Defect(spoil, words)


def put_prices(open_: float, high: float, low: float, close: float, words: str) -> Defect:
    def spoil(columns: Columns, row: int) -> None:
        for name, price in zip(PRICES, (open_, high, low, close), strict=True):
            columns[name][row] = price

    return Defect(spoil, words)


def repeat_time(columns: Columns, row: int) -> None:
    columns["time_ns"][row] = columns["time_ns"][row - 1]


def swap_times(columns: Columns, row: int) -> None:
    columns["time_ns"][[row - 1, row]] = columns["time_ns"][[row, row - 1]]


def shift_time(columns: Columns, row: int) -> None:
    columns["time_ns"][row] += 10**9


DEFECTS = {
    **{f"{name} nan": put(name, np.nan, f"{ARTICLE[name]} {name} that is not a finite number") for name in PRICES},
    **{f"{name} inf": put(name, np.inf, f"{ARTICLE[name]} {name} that is not a finite number") for name in PRICES},
    **{f"{name} zero": put(name, 0.0, f"{ARTICLE[name]} {name} below one paisa") for name in PRICES},
    **{f"{name} negative": put(name, -3.5, f"{ARTICLE[name]} {name} below one paisa") for name in PRICES},
    **{f"{name} crore": put(name, 1e7, f"{ARTICLE[name]} {name} of 10,000,000 rupees or more") for name in PRICES},
    "high below low": put_prices(10.0, 9.0, 10.0, 10.0, "a high below the low"),
    "high below open": put_prices(10.0, 9.9, 9.0, 9.5, "a high below the open or the close"),
    "high below close": put_prices(9.5, 9.9, 9.0, 10.0, "a high below the open or the close"),
    "low above open": put_prices(9.0, 11.0, 9.5, 10.0, "a low above the open or the close"),
    "low above close": put_prices(10.0, 11.0, 9.5, 9.0, "a low above the open or the close"),
    "negative volume": put("volume", -1, "a negative volume"),
    "repeated time": Defect(repeat_time, "repeat the time of the bar before"),
    "backward time": Defect(swap_times, "go back in time"),
    "off grid": Defect(shift_time, "grid|do not start at their session's opening"),
}


@pytest.mark.parametrize("name", DEFECTS)
@settings(max_examples=12, deadline=None)
@given(valid=valid_columns(), data=st.data())
def test_one_defect_is_refused_by_row_and_time(name: str, valid: tuple[str, Columns], data: st.DataObject) -> None:
    interval, columns = valid
    row = data.draw(st.integers(1, len(columns["time_ns"]) - 1))
    DEFECTS[name].spoil(columns, row)
    with pytest.raises(BarsError, match=DEFECTS[name].words) as refusal:
        bars_of(interval, columns)
    assert f"{SYMBOL} {interval}: 1 of {len(columns['time_ns'])} bars" in str(refusal.value)
    assert f"row {row}: {ist_text(int(columns['time_ns'][row]))} open" in str(refusal.value)


@settings(max_examples=30, deadline=None)
@given(valid=valid_columns())
def test_valid_bars_come_out_as_they_went_in(valid: tuple[str, Columns]) -> None:
    interval, columns = valid
    bars = bars_of(interval, columns)
    rows = [Bar(*row) for row in zip(*(columns[name].tolist() for name in ("time_ns", *PRICES, "volume")), strict=True)]
    assert list(bars) == rows
    assert all(type(value) in (int, float) for value in next(iter(bars))[:6])
    assert [session.date for session in bars.sessions] == sorted({instant_date(bar.time_ns) for bar in rows})
    for place, session in enumerate(bars.sessions):
        part = bars.time_ns[bars.session_offsets[place] : bars.session_offsets[place + 1]]
        assert session.open_ns <= part[0] <= part[-1] < session.close_ns
    assert replace(bars).data_hash == bars.data_hash


def instant_date(time_ns: int) -> dt.date:
    return dt.datetime.fromtimestamp(time_ns / 1e9, IST).date()


@settings(max_examples=30, deadline=None)
@given(valid=valid_columns(), data=st.data())
def test_the_hash_sees_every_change(valid: tuple[str, Columns], data: st.DataObject) -> None:
    interval, columns = valid
    bars = bars_of(interval, columns)
    row = data.draw(st.integers(0, len(bars) - 1))
    widened = bars.high.copy()
    widened[row] = np.nextafter(widened[row], np.inf)
    more = bars.volume.copy()
    more[row] += 1
    others = [
        replace(bars, high=widened),
        replace(bars, volume=more),
        replace(bars, symbol="SIMTWO"),
        bars.take(0, len(bars) - 1),
    ]
    assert len({bars.data_hash, *(other.data_hash for other in others)}) == 5


@settings(max_examples=30, deadline=None)
@given(valid=valid_columns(), data=st.data())
def test_between_cuts_by_date_and_loses_nothing(valid: tuple[str, Columns], data: st.DataObject) -> None:
    bars = bars_of(*valid)
    cut = bars.sessions[data.draw(st.integers(0, len(bars.sessions) - 2))].date
    early, late = bars.between(last=cut), bars.between(first=cut + dt.timedelta(days=1))
    assert [*early, *late] == [*bars]
    assert early.last_date == cut
    assert late.first_date > cut
    assert bars.between().data_hash == bars.data_hash


def regular_bars(first: str, last: str, interval: str = "5m", symbol: str = SYMBOL, **changes: Any) -> Bars:
    derivatives = changes.get("derivatives", False)
    days = nse_calendar().sessions(dt.date.fromisoformat(first), dt.date.fromisoformat(last), derivatives=derivatives)
    return Bars(symbol, interval, **{**columns_on(grid(days, interval)), **changes})


def test_between_refuses_what_the_data_do_not_reach() -> None:
    bars = regular_bars("2023-07-03", "2023-07-14")
    # 1 and 2 July 2023 are a weekend: nothing is missing.
    assert bars.between(dt.date(2023, 7, 1), dt.date(2023, 7, 16)).data_hash == bars.data_hash
    with pytest.raises(BarsError, match="2023-06-30 to 2023-07-14 reaches outside the data; the data cover 2023-07-03"):
        bars.between(dt.date(2023, 6, 30))
    with pytest.raises(BarsError, match="reaches outside the data"):
        bars.between(last=dt.date(2023, 7, 17))
    with pytest.raises(BarsError, match="reaches outside the data"):
        bars.between(last=dt.date(2031, 1, 1))
    with pytest.raises(BarsError, match="no bars from 2023-07-08 to 2023-07-09"):
        bars.between(dt.date(2023, 7, 8), dt.date(2023, 7, 9))
    with pytest.raises(BarsError, match="ends before it begins"):
        bars.between(dt.date(2023, 7, 10), dt.date(2023, 7, 7))


def test_take_refuses_rows_that_are_not_there() -> None:
    bars = regular_bars("2023-07-03", "2023-07-03")
    assert [*bars.take(2, 5)] == [*bars][2:5]
    for start, stop in ((0, 0), (5, 2), (-1, 3), (0, 76)):
        with pytest.raises(BarsError, match=f"rows {start} to {stop} of 75 bars hold none"):
            bars.take(start, stop)


def test_the_arrays_are_copies_and_read_only() -> None:
    columns = columns_on(grid(SESSIONS[:2], "5m"))
    bars = bars_of("5m", columns)
    before = bars.close[0]
    columns["close"][0] = 1.0
    assert bars.close[0] == before
    for name in (*columns, "session_days", "session_offsets"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(bars, name)[0] = 1
        assert getattr(bars, name).dtype == (np.float64 if name in PRICES else np.int64)


def test_a_pickle_comes_back_checked_and_read_only() -> None:
    bars = bars_of("5m", columns_on(grid(SESSIONS[:2], "5m")), derivatives=True)
    back = pickle.loads(pickle.dumps(bars))
    assert (back.data_hash, back.derivatives, [*back]) == (bars.data_hash, True, [*bars])
    assert not back.close.flags.writeable


def test_shapes_and_types_are_refused() -> None:
    columns = columns_on(grid(SESSIONS[:1], "5m"))
    with pytest.raises(BarsError, match=r"columns differ in length: .*'close': 74"):
        bars_of("5m", columns, close=columns["close"][1:])
    with pytest.raises(BarsError, match="no bars"):
        bars_of("5m", {name: values[:0] for name, values in columns.items()})
    with pytest.raises(BarsError, match=r"volume must be a 1-D array of integers, found 1-D float64"):
        bars_of("5m", columns, volume=columns["volume"].astype(float))
    with pytest.raises(BarsError, match=r"time_ns must be a 1-D array of integers, found 1-D datetime64"):
        bars_of("5m", columns, time_ns=columns["time_ns"].astype("datetime64[ns]"))
    with pytest.raises(BarsError, match=r"open must be a 1-D array of numbers, found 2-D float64"):
        bars_of("5m", columns, open=columns["open"][:, None])
    with pytest.raises(BarsError, match=r"unknown interval '7m'; known are 1m, 3m, 5m"):
        bars_of("7m", columns)
    with pytest.raises(BarsError, match="without blanks around it, found ' SIM'"):
        Bars(" SIM", "5m", **columns)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2021-05-01T09:15", r"days without a session: Saturday 2021-05-01 \(weekend\)"),  # S42, mock trading
        ("2023-08-15T09:15", r"days without a session: Tuesday 2023-08-15 \(.*Independence"),
        ("1970-01-01T05:30", r"outside the known NSE calendar \(2000-01-01 to"),  # S34, epoch zero
        ("2027-01-04T09:15", "outside the known NSE calendar"),
        ("2023-07-03T09:10", "start outside the session's hours .*trades 09:15-15:30"),
        ("2023-07-03T15:30", "start outside the session's hours .*stamped at its start"),
        ("2023-11-12T09:15", "muhurat session of 2023-11-12 trades 18:15-19:15"),  # S21
        ("2024-03-02T10:30", "split session of 2024-03-02 trades 09:15-10:00, 11:30-12:30"),
        ("2021-02-24T13:00", "outage session of 2021-02-24"),  # S25
        ("2009-01-05T09:15", "trades 09:55-15:30"),  # S28, the hours of that time
        ("2023-07-03T09:17", "off the 5m grid"),
    ],
)
def test_a_stamp_off_the_calendar_is_refused_by_name(text: str, words: str) -> None:
    time_ns = np.array([instant(text)])
    with pytest.raises(BarsError, match=words) as refusal:
        bars_of("5m", columns_on(time_ns))
    assert text.replace("T", " ") + " IST" in str(refusal.value)


def test_the_last_quarter_of_an_hour_belongs_to_the_closing_auction() -> None:
    stock = regular_bars("2026-07-31", "2026-08-04", symbol="RELIANCE", derivatives=True)
    assert np.diff(stock.session_offsets).tolist() == [75, 72, 72]
    assert regular_bars("2026-08-03", "2026-08-03").sessions[0].closing_auction is False
    late = columns_on(np.array([instant("2026-08-03T15:15")]))
    assert len(Bars("SIMONE", "5m", **late)) == 1
    with pytest.raises(BarsError, match="trades 09:15-15:15"):
        Bars("RELIANCE", "5m", **late)  # known to have derivatives
    with pytest.raises(BarsError, match="state derivatives as true or false"):
        Bars("NOBODYKNOWS", "5m", **late)


def test_a_daily_bar_of_an_unknown_stock_needs_no_closing_time() -> None:
    days = nse_calendar().sessions(dt.date(2026, 8, 3), dt.date(2026, 8, 7), derivatives=False)
    bars = Bars("NOBODYKNOWS", "1d", **columns_on(grid(days, "1d")))
    assert len(bars) == 5
    with pytest.raises(BarsError, match="state derivatives as true or false"):
        _ = bars.sessions


def test_three_rows_are_shown_however_many_are_at_fault() -> None:
    columns = columns_on(grid(SESSIONS[:1], "5m"))
    columns["close"][10:20] = np.nan
    with pytest.raises(BarsError) as refusal:
        bars_of("5m", columns)
    lines = str(refusal.value).splitlines()
    assert "10 of 75 bars" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["row 10", "row 11", "row 12"]


def test_a_short_last_bar_and_both_windows_of_a_split_day_lie_on_the_grid() -> None:
    hourly = regular_bars("2023-07-03", "2023-07-03", "60m")
    assert ist_text(int(hourly.time_ns[-1])) == "2023-07-03 15:15 IST"
    split = regular_bars("2024-03-02", "2024-03-02", "30m")
    assert [ist_text(bar.time_ns)[11:16] for bar in split] == ["09:15", "09:45", "11:30", "12:00"]


def test_a_zero_volume_index_is_welcome_and_minutes_may_be_missing() -> None:
    columns = columns_on(np.array([instant("2023-07-03T09:15"), instant("2023-07-03T11:00")]))
    bars = bars_of("5m", columns, volume=np.zeros(2, dtype=np.int64))
    assert bars.volume.tolist() == [0, 0]
    assert bars.interval_ns == 5 * MINUTE_NS
    assert repr(bars) == "Bars(SIMONE 5m, 2 bars, 2023-07-03 09:15 IST to 2023-07-03 11:00 IST)"
