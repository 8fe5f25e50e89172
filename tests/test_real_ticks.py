"""Real ticks of three stocks: the minute bars that others made of them, and every defect known of the files."""

import datetime as dt
import itertools
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finsense.market.bars import Bars, ist_text
from finsense.market.sanity import inspect
from finsense.market.sources.files import load_bars, read_table
from finsense.market.sources.ticks import ticks_from_frame
from finsense.market.ticks import Tick, bars_from_ticks


@lru_cache(maxsize=1)  # one symbol takes 90 MB
def real_files(folder: Path, symbol: str) -> list[list[Tick]]:
    """The recorded ticks of a symbol, file by file, in the order of the folders."""
    files = sorted((folder / "ticks" / "raw").glob(f"*/{symbol}_*"))
    return [list(ticks_from_frame(read_table(file), symbol, timezone="Asia/Kolkata")) for file in files]


def real_ticks(folder: Path, symbol: str) -> list[Tick]:
    """All recorded ticks of a symbol in the order of their arrival."""
    return list(itertools.chain.from_iterable(real_files(folder, symbol)))


def reference_bars(folder: Path, symbol: str) -> Bars:
    """Minute bars that others made of the same ticks."""
    return load_bars(folder / "ticks" / "bars_1min_from_ticks.parquet", symbol, "1m")


def differing(bars: Bars, reference: Bars, names: tuple[str, ...]) -> set[str]:
    """The bars that differ in one of the columns."""
    np.testing.assert_array_equal(bars.time_ns, reference.time_ns)
    unequal = [getattr(bars, name) != getattr(reference, name) for name in names]
    return {ist_text(int(time_ns))[:16] for time_ns in bars.time_ns[np.any(unequal, axis=0)]}


PRICES = ("open", "high", "low", "close")


@pytest.mark.parametrize("symbol", ["INFY", "SBIN", "RELIANCE"])
def test_real_ticks_give_the_minute_bars_that_others_made_of_them(symbol: str, shared_nse: Path) -> None:
    """Sorted by stamp as theirs. They leave the first bar of a day without volume; ours has what was seen of it.

    Two files hold ticks of 2021-04-19 09:15 (S41): we take both, they took the file of that day, and so do we when
    given that file alone.
    """
    reference = reference_bars(shared_nse, symbol)
    ordered = sorted(real_ticks(shared_nse, symbol), key=lambda each: each.time_ns)
    bars, report = bars_from_ticks(ordered, symbol, "1m")
    assert differing(bars, reference, PRICES) == {"2021-04-19 09:15"}
    first = set(bars.time_ns[bars.session_offsets[:-1]].tolist())
    assert set(bars.time_ns[bars.volume != reference.volume].tolist()) <= first
    assert (bars.volume >= reference.volume).all()
    assert report.late == report.out_of_order == report.invalid == 0
    (own,) = (file for file in real_files(shared_nse, symbol) if ist_text(file[0].time_ns)[:10] == "2021-04-19")
    alone, _ = bars_from_ticks(sorted(own, key=lambda each: each.time_ns), symbol, "1m")
    assert not differing(alone, reference.between(alone.first_date, alone.last_date), PRICES)


def test_real_ticks_as_they_arrived_differ_only_by_their_stragglers(shared_nse: Path) -> None:
    """A late tick is missing in its own bar, and its shares are in the next: at most two bars each."""
    bars, report = bars_from_ticks(real_ticks(shared_nse, "RELIANCE"), "RELIANCE", "1m")
    changed = differing(bars, reference_bars(shared_nse, "RELIANCE"), (*PRICES, "volume"))
    sessions = {ist_text(int(time_ns))[:16] for time_ns in bars.time_ns[bars.session_offsets[:-1]]}
    assert 0 < report.late < 0.01 * len(bars)
    assert len(changed - sessions) <= 2 * report.late


def test_every_defect_of_the_real_ticks_is_counted(shared_nse: Path) -> None:
    ticks = real_ticks(shared_nse, "RELIANCE")
    bars, report = bars_from_ticks(ticks, "RELIANCE", "1m")
    times = np.array([each.time_ns for each in ticks])
    stamps = pd.to_datetime(times).tz_localize("UTC").tz_convert("Asia/Kolkata")
    mocked = stamps.strftime("%Y-%m-%d") == "2021-05-01"
    minute = np.asarray(stamps.hour * 60 + stamps.minute)
    assert report.unstamped == (times == 0).sum() > 1000  # S34
    assert report.closed_day == mocked.sum() > 1000  # S42
    outside = (minute < 555) | (minute >= 930)
    assert report.outside_hours == ((times > 0) & ~mocked & outside).sum() > 0  # S41
    assert min(report.out_of_order, report.repeated, report.volume_fell) > 1000  # S35
    reference = reference_bars(shared_nse, "RELIANCE")
    assert bars.session_days.tolist() == reference.session_days.tolist()  # S33: by stamp, not by the file's name
    holes = {finding.date for finding in inspect(bars) if finding.kind == "missing_bars"}
    assert {dt.date(2021, 3, 31), dt.date(2021, 4, 7)} <= holes  # S36, S44
    np.testing.assert_allclose(bars.extra["tick_vwap"], bars.close, rtol=0.02)
    assert (np.abs(bars.extra["signed_volume"]) <= bars.volume).all()
