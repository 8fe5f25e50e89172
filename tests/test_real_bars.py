"""Real NSE files: every one is read or refused as its known defects demand (S01.. in the list that comes with them)."""

import csv
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from structlog.testing import capture_logs

from finsense.market.bars import Bars, BarsError, ist_text
from finsense.market.sanity import inspect
from finsense.market.sources.files import FileSource, load_bars, read_table
from finsense.market.sources.frames import bars_from_frame

SYMBOLS = ("RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK", "SBIN", "ITC", "HINDUNILVR", "MARUTI", "TATASTEEL")
INDEX_COLUMNS = ("symbol", "date", "time", "open", "high", "low", "close", "volume", "oi")
IST_ZONE = "Asia/Kolkata"
LATE_FILES = {"INFY": 1859, "HINDUNILVR": 2836, "TATASTEEL": 3274}  # S06: rows under the present ticker


def kinds(bars: Bars) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in inspect(bars):
        found.setdefault(finding.kind, []).append(str(finding.date))
    return found


@pytest.mark.parametrize(
    ("name", "interval", "rows"),
    [
        ("daily/nse_daily_unadjusted.parquet", "1d", 45_244),
        ("daily/zerodha_daily_adjusted.parquet", "1d", 9_243),
        ("intraday/nse_5min.parquet", "5m", 92_361),
    ],
)
def test_the_cleaned_files_load_whole(shared_nse: Path, name: str, interval: str, rows: int) -> None:
    loaded = FileSource(path=shared_nse / name, symbols=SYMBOLS).load()
    assert sum(map(len, loaded.values())) == rows
    assert {bars.interval for bars in loaded.values()} == {interval}


def test_index_and_tick_bars_load(shared_nse: Path) -> None:
    for symbol in ("NIFTY 50", "NIFTY BANK"):
        assert len(load_bars(shared_nse / "intraday/index_1min_2021.parquet", symbol)) == 92_393
    ticks = FileSource(path=shared_nse / "ticks/bars_1min_from_ticks.parquet", symbols=("RELIANCE", "INFY", "SBIN"))
    assert sum(map(len, ticks.load().values())) == 25_696
    assert len(load_bars(shared_nse / "daily/dhan_daily_2023.parquet", "RELIANCE")) == 246
    assert len(load_bars(shared_nse / "daily/index_daily.parquet", "INDIA VIX")) == 2437


def test_dates_before_the_calendar_and_empty_volumes_are_refused(shared_nse: Path) -> None:
    with pytest.raises(BarsError, match="expected a date from 2000-01-01"):
        load_bars(shared_nse / "daily/index_daily.parquet", "NIFTY 50")
    table = pd.read_parquet(shared_nse / "daily/index_daily.parquet")
    table = table[table["ts"] >= dt.date(2000, 1, 1)]
    with pytest.raises(BarsError, match="rows have an empty volume"):
        bars_from_frame(table, symbol="NIFTY 50")
    assert bars_from_frame(table, symbol="NIFTY 50", volume_missing=0).first_date == dt.date(2000, 1, 3)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_raw_files_give_the_cleaned_bars(shared_nse: Path, symbol: str) -> None:
    with capture_logs() as logs:  # S19: a whole day stands twice
        raw = load_bars(shared_nse / f"intraday/raw_5min/{symbol}.csv.gz", symbol, "5m")
    assert raw.data_hash == load_bars(shared_nse / "intraday/nse_5min.parquet", symbol).data_hash
    assert [(log["rows"], log["first"]) for log in logs] == [(75, "2023-10-09 09:15 IST")]
    bhav = load_bars(shared_nse / f"daily/raw_nse_bhav/{symbol}.csv.gz", symbol)
    clean = load_bars(shared_nse / "daily/nse_daily_unadjusted.parquet", symbol)
    assert len(bhav) == LATE_FILES.get(symbol, len(clean))
    assert bhav.data_hash == clean.between(bhav.first_date).data_hash


def test_a_day_that_stands_twice_is_kept_once_if_the_rows_agree(shared_nse: Path) -> None:
    folder = shared_nse / "daily/raw_zerodha_adj"
    with capture_logs() as logs:  # S12
        tcs = load_bars(folder / "0002_TCS.csv.gz", "TCS", "1d")
    assert tcs.data_hash == load_bars(shared_nse / "daily/zerodha_daily_adjusted.parquet", "TCS").data_hash
    assert [(log["rows"], log["first"]) for log in logs] == [(1, "2015-12-31 09:15 IST")]
    # In this file the two rows differ by a paisa, so neither may be chosen silently.
    with pytest.raises(BarsError, match=r"2 of 925 rows share their time[^:]*:\n  row 185: stamp 2015-12-31"):
        load_bars(folder / "0005_ICICIBANK.csv.gz", "ICICIBANK")


def test_day_first_dates_and_a_close_below_the_low(shared_nse: Path) -> None:
    path = shared_nse / "daily/raw_index/INDIAVIX_2009.csv.gz"
    with pytest.raises(BarsError, match=r"1 of 2437 bars have a low above .*\n  row 1115: 2013-08-22"):  # S15
        load_bars(path, "INDIA VIX")
    table = read_table(path)
    bars = bars_from_frame(table[table["Date"] != "22-08-2013"], symbol="INDIA VIX")
    assert bars.first_date == dt.date(2009, 3, 2)  # S16
    investing = read_table(shared_nse / "daily/raw_index/NIFTY50_investing.csv.gz")
    recent = investing[investing["Date"].str.endswith(tuple(str(year) for year in range(2010, 2019)))]
    nifty = bars_from_frame(recent, symbol="NIFTY 50", volume_missing=0)  # S14
    assert nifty.volume[-1] == 186_500_000
    assert "2012-04-28" in kinds(nifty)["missing_session"]


def test_utc_evenings_are_the_next_indian_day(shared_nse: Path) -> None:
    path = shared_nse / "daily/raw_dhan_utc/nifty50_reliance_daily_2023.csv.gz"
    with pytest.raises(BarsError, match="carry no zone"):
        load_bars(path, "RELIANCE")
    bars = load_bars(path, "RELIANCE", timezone="UTC")  # S17
    assert bars.data_hash == load_bars(shared_nse / "daily/dhan_daily_2023.parquet", "RELIANCE").data_hash
    assert "off_tick" in kinds(bars)  # S18


def test_minutes_stamped_at_their_end(shared_nse: Path) -> None:
    clean = load_bars(shared_nse / "intraday/index_1min_2021.parquet", "NIFTY 50")
    folder = shared_nse / "intraday/raw_1min_index"
    options: dict[str, Any] = {"columns": INDEX_COLUMNS, "timezone": IST_ZONE}
    with pytest.raises(BarsError, match=r"79 of 7312 rows lie outside .*\n  row 0: stamp 20210201 clock 09:08"):
        load_bars(folder / "2021_FEB_NIFTY.txt.gz", **options)
    for month, number, last in (("FEB", 2, 28), ("JULY", 7, 31), ("NOV", 11, 30)):  # S23..S27
        path = folder / f"2021_{month}_NIFTY.txt.gz"
        raw = load_bars(path, **options, stamps="end", drop_outside_session=True)
        wanted = clean.between(dt.date(2021, number, 1), dt.date(2021, number, last))
        assert [*raw] == [*wanted]
    outage = clean.between(dt.date(2021, 2, 24), dt.date(2021, 2, 24))  # S25
    assert ist_text(int(outage.time_ns[-1])) == "2021-02-24 16:59 IST"
    found = {str(finding.date): finding.detail for finding in inspect(clean) if finding.kind == "missing_bars"}
    assert "starts 11:42-11:57, 12:47-12:47, 12:49-12:49, 13:01-13:08" in found["2021-07-23"]  # S26
    assert len(clean.between(dt.date(2021, 11, 4), dt.date(2021, 11, 4))) == 60  # S27


def test_the_hours_of_2009(shared_nse: Path) -> None:
    path = shared_nse / "intraday/index_1min_2009.parquet"
    with pytest.raises(BarsError, match=r"227 of 76897 rows lie outside .*2009-01-01 trades 09:55-15:30"):
        load_bars(path)
    bars = load_bars(path, drop_outside_session=True)
    assert len(bars) == 76_670
    assert len(kinds(bars)["missing_session"]) == 13  # S28


def test_quirks_of_yfinance_and_dhan(shared_nse: Path) -> None:
    folder = shared_nse / "intraday/raw_quirks"
    reliance = load_bars(folder / "yf_RELIANCE_5min_2025-01.csv.gz", "RELIANCE", timezone=IST_ZONE)
    assert reliance.open[0] == 1215.85  # S29: 1215.8499755859375 in the file
    assert np.array_equal(np.flatnonzero(reliance.volume == 0), reliance.session_offsets[:-1])
    assert kinds(reliance) == {"zero_volume": ["2025-01-01"]}
    nifty = load_bars(folder / "yf_NIFTY_5min_2025-01.csv.gz", "NIFTY 50", timezone=IST_ZONE)
    assert kinds(nifty) == {"no_volume": ["2025-01-01"]}  # S30
    sbin = load_bars(folder / "yf_multiheader_SBIN_5min_2026-05.csv.gz")  # S31
    assert (sbin.symbol, sbin.interval, len(sbin)) == ("SBIN", "5m", 1650)
    assert (sbin.volume == 0).sum() == 21
    path = folder / "dhan_utc_NIFTY_5min_2026-07.csv.gz"  # S32
    with pytest.raises(BarsError, match=r"2 of 377 rows lie outside .*\n  row 75: stamp 2026-07-13 10:00:00"):
        load_bars(path, "NIFTY 50", timezone="UTC")
    assert len(load_bars(path, "NIFTY 50", timezone="UTC", drop_outside_session=True)) == 375


def test_candles_of_kite(shared_nse: Path) -> None:
    answer = json.loads((shared_nse / "ref/kite/mocks/historical_minute.json").read_text())
    # Kite's client hands the candles on as dicts with aware datetimes.
    names = ("date", "open", "high", "low", "close", "volume")
    candles = [
        dict(zip(names, (dt.datetime.strptime(row[0], "%Y-%m-%dT%H:%M:%S%z"), *row[1:]), strict=True))
        for row in answer["data"]["candles"]
    ]
    bars = bars_from_frame(candles, symbol="NIFTYFUT", interval="1m")
    assert len(bars) == 6
    assert next(iter(bars))[1:6] == (1704.5, 1705.0, 1699.25, 1702.8, 2499)
    assert ist_text(int(bars.time_ns[0])) == "2017-12-15 09:15 IST"


def test_all_splits_and_the_demerger_are_found_and_none_invented(shared_nse: Path) -> None:
    with (shared_nse / "ref/corporate_actions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["ex_date"] < "2019"]
    expected = {(row["symbol"], row["ex_date"], f"{float(row['factor']):g}" if row["factor"] else "") for row in rows}
    found = set()
    for symbol in SYMBOLS:  # S01..S05
        for finding in inspect(load_bars(shared_nse / "daily/nse_daily_unadjusted.parquet", symbol)):
            if finding.kind == "split_or_bonus":
                found.add((symbol, str(finding.date), finding.detail.rsplit(" ", 1)[1]))
            elif finding.kind == "price_gap":
                found.add((symbol, str(finding.date), ""))
    assert found == expected


def test_findings_in_the_daily_and_five_minute_files(shared_nse: Path) -> None:
    unadjusted = load_bars(shared_nse / "daily/nse_daily_unadjusted.parquet", "RELIANCE")
    seen = kinds(unadjusted)
    assert seen["outlier"] == ["2009-05-18"]  # S11
    assert "missing_session" not in seen  # S10: the weekend sessions are there
    assert {dt.date(2015, 2, 28), dt.date(2016, 10, 30)} <= {session.date for session in unadjusted.sessions}
    five = load_bars(shared_nse / "intraday/nse_5min.parquet", "RELIANCE")
    assert [str(finding) for finding in inspect(five)] == [
        "2023-07-20 missing_bars: 9 of 75 bars missing, starts 09:15-09:55"  # S20
    ]
    assert len(five.between(dt.date(2023, 11, 12), dt.date(2023, 11, 12))) == 12  # S21
    for symbol in SYMBOLS:  # S43
        bars = load_bars(shared_nse / "daily/zerodha_daily_adjusted.parquet", symbol)
        muhurat = [] if symbol == "RELIANCE" else ["2016-10-30", "2017-10-19", "2018-11-07"]
        assert kinds(bars).get("missing_session", []) == muhurat
