"""Readers: every known spelling gives the same Bars, and nothing is guessed."""

import datetime as dt
import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from finsense.market.bars import INTERVAL_NS, Bars, BarsError, ist_text
from finsense.market.calendar import IST, MINUTE_NS, nse_calendar
from finsense.market.sources.files import FileSource, load_bars
from finsense.market.sources.frames import bars_from_frame

SYMBOL = "SIMONE"
OHLCV = ["open", "high", "low", "close", "volume"]


def made_bars(first: str, last: str, interval: str, seed: int = 1) -> Bars:
    """A random walk on every bar of a span, prices in whole paise."""
    days = nse_calendar().sessions(dt.date.fromisoformat(first), dt.date.fromisoformat(last), derivatives=False)
    step = INTERVAL_NS[interval]
    if interval == "1d":
        time_ns = np.array([day.open_ns for day in days])
    else:
        time_ns = np.concatenate([np.arange(*window, step) for day in days for window in day.windows])
    rng = np.random.default_rng(seed)
    close = 121_500 + np.cumsum(rng.integers(-90, 91, len(time_ns)))
    open_ = close + rng.integers(-50, 51, len(time_ns))
    high, low = np.maximum(open_, close) + 35, np.minimum(open_, close) - 45
    paise = {"open": open_, "high": high, "low": low, "close": close}
    prices: dict[str, Any] = {name: np.round(values / 100, 2) for name, values in paise.items()}
    return Bars(SYMBOL, interval, time_ns, **prices, volume=rng.integers(0, 10**6, len(time_ns)))


INTRADAY = made_bars("2023-11-09", "2023-11-15", "5m")  # with the Muhurat Sunday
DAILY = made_bars("2023-01-02", "2023-03-31", "1d")


def frame_of(bars: Bars) -> pd.DataFrame:
    """The cleaned Parquet schema of a Bars."""
    stamps = pd.to_datetime(bars.time_ns, utc=True).tz_convert("Asia/Kolkata").as_unit("us")
    ts = pd.Series(stamps) if bars.interval != "1d" else pd.Series(stamps).dt.date
    return pd.DataFrame({"ts": ts, "symbol": bars.symbol, **{name: getattr(bars, name) for name in OHLCV}})


def clean(interval: str) -> pd.DataFrame:
    return frame_of(DAILY if interval == "1d" else INTRADAY)


def as_nse_bhavcopy() -> pd.DataFrame:
    rows = clean("1d").rename(columns=str.title).rename(columns={"Ts": "Date"})
    names = "Date,Symbol,Series,Prev Close,Open,High,Low,Last,Close,VWAP,Volume,Turnover,Trades,Deliverable Volume"
    return rows.assign(Series="EQ", Last=1.0, VWAP=2.0, Turnover=3e14, Trades=np.nan).reindex(columns=names.split(","))


def as_old_bhavcopy() -> pd.DataFrame:
    stamp = pd.to_datetime(clean("1d")["ts"]).dt.strftime("%d-%b-%Y").str.upper()
    rows = clean("1d").rename(columns={"volume": "TOTTRDQTY"}).rename(columns=str.upper)
    return rows.drop(columns="TS").assign(TIMESTAMP=stamp, LAST=1.0, PREVCLOSE=2.0)


def as_zerodha() -> pd.DataFrame:
    return (
        clean("1d")
        .drop(columns="symbol")
        .rename(columns=str.title)
        .rename(columns={"Ts": "Date"})
        .assign(Timestamp="00:00:00")
    )


def as_investing() -> pd.DataFrame:
    rows = clean("1d").drop(columns="symbol")
    stamp = pd.to_datetime(rows["ts"]).map(lambda day: f"{day.month}/{day.day}/{day.year}")
    text = {name.title(): rows[name].map("{:,.2f}".format) for name in OHLCV[:4]}
    volume = (rows["volume"] / 1e3).map("{:.3f}K".format)
    return pd.DataFrame({"Date": stamp, **text, "Vol.": volume, "Change %": "-0.06%"})[::-1]


def as_kite() -> pd.DataFrame:
    return clean("5m").drop(columns="symbol").rename(columns={"ts": "date"}).assign(oi=0)


def as_kite_list() -> list[dict[str, Any]]:
    rows = as_kite()
    stamps = [stamp.to_pydatetime() for stamp in rows["date"]]
    return [
        dict(zip(rows.columns, (stamp, *row[1:]), strict=True)) for stamp, row in zip(stamps, rows.values, strict=True)
    ]


def as_yfinance(ticker: str = f"{SYMBOL}.NS") -> pd.DataFrame:
    rows = clean("5m").set_index("ts")[["close", "high", "low", "open", "volume"]].rename(columns=str.title)
    rows = rows.tz_convert("UTC").rename_axis("Datetime")
    return rows.set_axis(pd.MultiIndex.from_product([rows.columns, [ticker]], names=["Price", "Ticker"]), axis=1)


def as_yfinance_of_two() -> pd.DataFrame:
    return pd.concat([as_yfinance("SIMTWO.NS") * 2, as_yfinance()], axis=1)


def as_epoch_seconds() -> pd.DataFrame:
    return clean("5m").assign(ts=INTRADAY.time_ns // 10**9).rename(columns={"ts": "timestamp"})


SPELLINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cleaned daily": (clean("1d"), {}),
    "cleaned 5m": (clean("5m"), {}),
    "bhavcopy": (as_nse_bhavcopy(), {}),
    "old bhavcopy": (as_old_bhavcopy(), {}),
    "zerodha": (as_zerodha(), {}),
    "investing.com, newest first": (as_investing(), {}),
    "kite frame": (as_kite(), {}),
    "kite list": (as_kite_list(), {}),
    "yfinance": (as_yfinance(), {}),
    "yfinance of two": (as_yfinance_of_two(), {}),
    "yfinance by ticker": (as_yfinance_of_two().swaplevel(axis=1), {}),
    "zoned index": (clean("5m").set_index("ts"), {}),
    "naive index": (
        clean("5m").assign(ts=clean("5m")["ts"].dt.tz_localize(None)).set_index("ts"),
        {"timezone": "Asia/Kolkata"},
    ),
    "dhan, naive UTC": (clean("5m").assign(ts=pd.to_datetime(INTRADAY.time_ns).astype(str)), {"timezone": "UTC"}),
    "epoch seconds": (as_epoch_seconds(), {}),
    "decimals of a 32-bit float": (clean("5m").astype({name: np.float32 for name in OHLCV[:4]}), {}),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_gives_the_same_bars(spelling: str) -> None:
    frame, options = SPELLINGS[spelling]
    bars = bars_from_frame(frame, symbol=SYMBOL, **options)
    wanted = DAILY if bars.interval == "1d" else INTRADAY
    assert bars.data_hash == wanted.data_hash


def test_utc_dates_of_the_evening_before_become_the_indian_date() -> None:
    # S17: the daily bar of Monday 2 January 2023 is stamped 2023-01-01 18:30 UTC.
    stamps = [f"{dt.date.fromordinal(day.date.toordinal() - 1)} 18:30:00" for day in DAILY.sessions]
    frame = clean("1d").assign(ts=stamps)
    assert bars_from_frame(frame, timezone="UTC", interval="1d").data_hash == DAILY.data_hash
    with pytest.raises(BarsError, match=r'times such as 2023-01-01 18:30:00 carry no zone.*timezone="Asia/Kolkata"'):
        bars_from_frame(frame)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
@pytest.mark.parametrize("interval", ["5m", "1d"])
def test_files_give_the_same_bars(tmp_path: Path, suffix: str, interval: str) -> None:
    path = tmp_path / f"bars{suffix}"
    clean(interval).to_parquet(path) if suffix == ".parquet" else clean(interval).to_csv(path, index=False)
    with capture_logs() as logs:
        bars = load_bars(path)
    assert bars.data_hash == (DAILY if interval == "1d" else INTRADAY).data_hash
    assert [(log["event"], log["interval"]) for log in logs] == [("interval told from the stamps", interval)]


def test_the_three_header_lines_of_yfinance_are_read(tmp_path: Path) -> None:
    as_yfinance().to_csv(tmp_path / "yf.csv")
    assert (tmp_path / "yf.csv").read_text().splitlines()[2].startswith("Datetime,,")
    assert load_bars(tmp_path / "yf.csv").data_hash == INTRADAY.data_hash


@settings(max_examples=25, deadline=None)
@given(
    places=st.lists(st.integers(0, len(INTRADAY) - 1), min_size=1, max_size=8, unique=True),
    data=st.data(),
)
def test_repeated_rows_are_dropped_and_clashing_ones_refused(places: list[int], data: st.DataObject) -> None:
    frame = clean("5m")
    doubled = pd.concat([frame, frame.iloc[sorted(places)]])
    with capture_logs() as logs:
        assert bars_from_frame(doubled, interval="5m").data_hash == INTRADAY.data_hash
    assert logs[0]["event"] == "rows that repeat another one dropped"
    assert logs[0]["rows"] == len(places)
    spoilt = data.draw(st.integers(0, len(places) - 1))
    doubled["volume"] = np.where(np.arange(len(doubled)) == len(frame) + spoilt, 1_234_567, doubled["volume"])
    with pytest.raises(BarsError, match=r"2 of \d+ rows share their time with a row that says otherwise") as refusal:
        bars_from_frame(doubled, interval="5m")
    assert f"row {sorted(places)[spoilt]}: " in str(refusal.value)


@settings(max_examples=25, deadline=None)
@given(interval=st.sampled_from(["1m", "3m", "5m", "10m", "15m", "30m", "60m"]))
def test_stamps_at_the_end_are_moved_to_the_start(interval: str) -> None:
    bars = made_bars("2023-11-10", "2023-11-13", interval)
    ends = np.append(bars.time_ns[1:], 0)
    closing = np.append(np.diff(bars.time_ns) != bars.interval_ns, True)
    closes = np.concatenate([[end for _, end in day.windows] for day in bars.sessions])
    ends[closing] = closes
    frame = frame_of(bars).assign(ts=pd.to_datetime(ends, utc=True))
    assert bars_from_frame(frame, interval=interval, stamps="end").data_hash == bars.data_hash
    with pytest.raises(BarsError, match="set stamps: end"):
        bars_from_frame(frame, interval=interval)


def test_rows_outside_the_session_are_refused_or_dropped_on_request() -> None:
    frame = clean("5m")
    stamps = ["2023-11-09 09:07", "2023-11-09 15:30", "2023-11-11 11:00"]
    extra = frame.iloc[:3].assign(ts=pd.to_datetime(stamps).tz_localize(IST).astype(frame["ts"].dtype))
    mixed = pd.concat([frame, extra]).sort_values("ts", ignore_index=True)
    with pytest.raises(BarsError, match=r"3 of 315 rows lie outside .*2023-11-09 trades 09:15-15:30") as refusal:
        bars_from_frame(mixed, interval="5m")
    assert "row 0: stamp 2023-11-09 09:07:00+05:30" in str(refusal.value)
    assert "drop_outside_session: true" in str(refusal.value)
    with capture_logs() as logs:
        kept = bars_from_frame(mixed, interval="5m", drop_outside_session=True)
    assert kept.data_hash == INTRADAY.data_hash
    assert logs[0]["rows"] == 3
    saturday = extra.iloc[2:]
    with pytest.raises(BarsError, match="Saturday 2023-11-11 is no trading day: weekend"):
        bars_from_frame(saturday, interval="5m")
    with pytest.raises(BarsError, match="all 1 rows lie outside"):
        bars_from_frame(saturday, interval="5m", drop_outside_session=True)


def test_rows_before_the_calendar_begins_are_refused_or_dropped_on_request() -> None:
    """Vendors give an index from its base date on; NIFTY's is 1995."""
    dates = pd.to_datetime(["1999-12-30", "1999-12-31", "2000-01-03", "2000-01-04"])
    frame = pd.DataFrame({"date": dates, **dict.fromkeys(("open", "high", "low", "close"), 1480.0)})
    reading: dict[str, Any] = {"symbol": "NIFTY 50", "interval": "1d"}
    with pytest.raises(BarsError, match=r"found 1999-12-30.*drop_outside_session: true leaves out what lies before"):
        bars_from_frame(frame, **reading)
    with capture_logs() as logs:
        kept = bars_from_frame(frame, **reading, drop_outside_session=True)
    assert (len(kept), kept.first_date) == (2, dt.date(2000, 1, 3))
    assert (logs[0]["event"], logs[0]["rows"]) == ("rows before the calendar begins dropped", 2)
    assert any("no volume column" in log["event"] for log in logs)
    with pytest.raises(BarsError, match="all 2 rows lie before 2000-01-01, where the calendar begins"):
        bars_from_frame(frame[:2], **reading, drop_outside_session=True)


def test_the_volume_is_zero_without_a_column_and_refused_when_empty() -> None:
    frame = clean("5m").astype({"volume": "Int64"})
    assert not bars_from_frame(frame.drop(columns="volume")).volume.any()
    frame.loc[[4, 6], "volume"] = pd.NA
    with pytest.raises(BarsError, match=r"2 of 312 rows have an empty volume; set volume_missing: 0") as refusal:
        bars_from_frame(frame)
    assert "row 4: stamp 2023-11-09 09:35:00+05:30" in str(refusal.value)
    filled = bars_from_frame(frame, volume_missing=0).volume
    assert filled[[4, 6]].tolist() == [0, 0]
    assert np.delete(filled, [4, 6]).tolist() == np.delete(INTRADAY.volume, [4, 6]).tolist()
    with pytest.raises(BarsError, match="no whole number"):
        bars_from_frame(clean("5m").astype({"volume": float}).replace({"volume": {INTRADAY.volume[3]: 0.5}}))


def test_prices_are_rounded_to_the_paisa_and_real_losses_are_logged() -> None:
    finer = clean("5m").assign(close=INTRADAY.close + 0.003)
    with capture_logs() as logs:
        assert bars_from_frame(finer, interval="5m").data_hash == INTRADAY.data_hash
    assert logs[0]["event"] == "prices finer than a paisa were rounded"
    assert logs[0]["prices"] == len(INTRADAY)
    text = clean("5m").astype({"open": str})
    text.loc[7, "open"] = "12o1.5"
    with pytest.raises(BarsError, match=r"1 of 312 rows have an open that is not a number"):
        bars_from_frame(text)
    empty = clean("5m")
    empty.loc[7, "low"] = np.nan
    with pytest.raises(BarsError, match=r"1 of 312 bars have a low that is not a finite number") as refusal:
        bars_from_frame(empty)
    assert "row 7: 2023-11-09 09:50 IST" in str(refusal.value)


def test_dates_that_read_two_ways_are_refused_until_declared() -> None:
    # S16: 02-03-2009 is 2 March. With a day above 12 in the file the data tell it themselves.
    march = DAILY.between(dt.date(2023, 3, 2), dt.date(2023, 3, 10))
    text = [day.date.strftime("%d-%m-%Y") for day in march.sessions]
    with pytest.raises(BarsError, match=r"02-03-2023 can be read as %d-%m-%Y or as %m-%d-%Y"):
        bars_from_frame(frame_of(march).assign(ts=text))
    assert bars_from_frame(frame_of(march).assign(ts=text), date_format="%d-%m-%Y").data_hash == march.data_hash
    longer = [day.date.strftime("%d-%m-%Y") for day in DAILY.sessions]
    assert bars_from_frame(clean("1d").assign(ts=longer)).data_hash == DAILY.data_hash
    with pytest.raises(BarsError, match=r"1 of 62 rows have a time that cannot be read.*\n  row 2: stamp 31-02-2023"):
        bars_from_frame(clean("1d").assign(ts=[*longer[:2], "31-02-2023", *longer[3:]]))


def test_zones_are_never_guessed() -> None:
    naive = clean("5m").assign(ts=clean("5m")["ts"].dt.tz_localize(None).astype(str))
    with pytest.raises(BarsError, match="carry no zone"):
        bars_from_frame(naive)
    with pytest.raises(BarsError, match="cannot read the times in the zone 'Asia/Mumbai'"):
        bars_from_frame(naive, timezone="Asia/Mumbai")
    mixed = naive.assign(ts=[*naive["ts"].iloc[:-1], naive["ts"].iloc[-1] + "+05:30"])
    with pytest.raises(BarsError, match="1 of 312 rows mix times with and without a zone"):
        bars_from_frame(mixed, timezone="Asia/Kolkata")


def test_the_interval_is_told_from_the_stamps_and_never_contradicted() -> None:
    with pytest.raises(BarsError, match=r"declared 1m, but no two bars are closer than 5m"):
        bars_from_frame(clean("5m"), interval="1m")
    with pytest.raises(BarsError, match=r"dates without a time of day, the interval is declared 5m"):
        bars_from_frame(clean("1d"), interval="5m")
    with pytest.raises(BarsError, match=r"rows share their time.*daily bars have one row per date"):
        bars_from_frame(clean("5m"), interval="1d")
    with pytest.raises(BarsError, match=r"cannot tell the interval \(median gap inside a day: 0 minutes\)"):
        bars_from_frame(clean("5m").iloc[:1])
    with pytest.raises(BarsError, match=r"unknown interval '2m'"):
        bars_from_frame(clean("5m"), interval="2m")
    sparse = clean("5m").iloc[[0, 3, 9, 11, 40, 41]]
    assert len(bars_from_frame(sparse, interval="1m")) == 6  # too few to judge, all on the grid


def test_a_missing_symbol_is_named_with_the_nearest(tmp_path: Path) -> None:
    two = pd.concat([clean("1d"), clean("1d").assign(symbol="RELIANCE")])
    with pytest.raises(
        BarsError, match=r"no symbol RELIENCE in the data \(did you mean RELIANCE\?\); they hold RELIANCE, SIMONE"
    ):
        bars_from_frame(two, symbol="RELIENCE")
    with pytest.raises(BarsError, match="the data hold 2 symbols, choose one"):
        bars_from_frame(two)
    with pytest.raises(BarsError, match="the data name no symbol"):
        bars_from_frame(as_kite())
    with pytest.raises(BarsError, match="no symbol RELIANCE in the data; they hold SIMONE"):
        bars_from_frame(as_yfinance(), symbol="RELIANCE")
    assert bars_from_frame(two, symbol="RELIANCE").symbol == "RELIANCE"


def test_missing_and_doubled_columns_are_named() -> None:
    with pytest.raises(BarsError, match=r"no column for low among \['ts', 'symbol', 'open', 'high', 'close'"):
        bars_from_frame(clean("5m").drop(columns="low"))
    with pytest.raises(BarsError, match=r"two columns are called open: \['open', 'Open'\]"):
        bars_from_frame(clean("5m").assign(Open=1.0))
    with pytest.raises(BarsError, match="no rows"):
        bars_from_frame(clean("5m").iloc[:0])
    with pytest.raises(BarsError, match="no rows"):
        bars_from_frame([], symbol=SYMBOL)


def test_unreadable_files_are_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(BarsError, match=r"nothing\.csv: no such file"):
        load_bars(tmp_path / "nothing.csv")
    with pytest.raises(BarsError, match=r"bars\.xlsx: cannot read this kind of file; known are \.csv"):
        load_bars(tmp_path / "bars.xlsx")
    broken = {
        "empty.csv": b"",
        "cut.csv.gz": gzip.compress(b"date,open\n" * 99)[:-9],
        "not.parquet": b"PAR1",
        "bytes.csv": b"\xff\xfe\x00",
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BarsError, match=f"{name}: the file cannot be read"):
            load_bars(tmp_path / name)
    clean("1d").drop(columns="close").to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(BarsError, match=r"short\.csv: .*no column for close"):
        load_bars(tmp_path / "short.csv")


def test_a_file_without_a_header_line_needs_its_columns_named(tmp_path: Path) -> None:
    text = io.StringIO()
    stamp = clean("5m")["ts"]
    rows = clean("5m").assign(ts=stamp.dt.strftime("%Y%m%d"), clock=stamp.dt.strftime("%H:%M"))
    rows[["symbol", "ts", "clock", *OHLCV]].to_csv(text, header=False, index=False)
    (tmp_path / "plain.txt").write_text(text.getvalue())
    columns = ("symbol", "date", "time", *OHLCV)
    bars = load_bars(tmp_path / "plain.txt", columns=columns, timezone="Asia/Kolkata")
    assert bars.data_hash == INTRADAY.data_hash
    with pytest.raises(BarsError, match=r"a file without a header line needs columns=\[...\]"):
        load_bars(tmp_path / "plain.txt", timezone="Asia/Kolkata")


def test_a_file_source_loads_its_symbols_in_order(tmp_path: Path) -> None:
    two = pd.concat([clean("5m"), clean("5m").assign(symbol="SIMTWO", volume=7)])
    two.to_parquet(tmp_path / "two.parquet")
    source = FileSource(path=tmp_path / "two.parquet", symbols=("SIMTWO", SYMBOL), interval="5m")
    loaded = source.load()
    assert list(loaded) == ["SIMTWO", SYMBOL]
    assert loaded[SYMBOL].data_hash == INTRADAY.data_hash
    assert set(loaded["SIMTWO"].volume.tolist()) == {7}
    assert FileSource.model_validate_json(source.model_dump_json()) == source
    as_kite().to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(BarsError, match="the file names no symbols, so it holds one; found 2 asked for"):
        FileSource(path=tmp_path / "one.csv", symbols=("A", "B")).load()
    assert FileSource(path=tmp_path / "one.csv", symbols=(SYMBOL,)).load()[SYMBOL].data_hash == INTRADAY.data_hash


@pytest.mark.parametrize(
    "settings_given",
    [
        {"symbols": []},
        {"symbols": ["A", "A"]},
        {"interval": "7m"},
        {"stamps": "middle"},
        {"volume_missing": -1},
        {"pathh": "x"},
    ],
)
def test_a_file_source_refuses_impossible_settings(settings_given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FileSource.model_validate({"path": "x.csv", "symbols": ["A"], **settings_given})


def test_stamps_of_a_made_day_read_as_expected() -> None:
    assert ist_text(int(INTRADAY.time_ns[0])) == "2023-11-09 09:15 IST"
    assert ist_text(int(INTRADAY.time_ns[0]) + MINUTE_NS // 2) == "2023-11-09 09:15:30.000000 IST"
