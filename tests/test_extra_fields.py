"""What a bar knows beyond its prices goes with it everywhere; bars that lack what a feature reads are refused."""

import datetime as dt
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markets import SPLIT, rough_bars, spec_of
from numpy.typing import NDArray

from finsense.live.journal import Journal
from finsense.market.bars import Bar, Bars, BarsError
from finsense.market.extra_fields import EXTRA_FIELDS, FLOW_FIELDS, NEVER_ZERO
from finsense.market.instruments import instrument
from finsense.market.sources.frames import bars_from_frame
from finsense.market.timeline import BAR_FIELDS, INDEX_CLOSE, TICKS, Clock, timeline
from finsense.state import builder
from finsense.state.builder import MissingFieldsError, StateBuilder, build_states
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import INDICATORS, indicator

SIM = instrument("SIM", derivatives=False)


def extra_of(bars: Bars, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(1.0, 2.0, len(bars)) for name in EXTRA_FIELDS}


def full_bars(seed: int = 3) -> Bars:
    bars = rough_bars(seed, *SPLIT, "15m", derivatives=False)
    return replace(bars, extra=extra_of(bars, seed))


def test_the_fields_of_a_row_stand_in_the_order_of_their_names() -> None:
    assert len(EXTRA_FIELDS) == BAR_FIELDS - INDEX_CLOSE
    assert EXTRA_FIELDS.index("ticks") == TICKS - INDEX_CLOSE


def test_extra_goes_with_the_bars() -> None:
    bars = full_bars()
    part = bars.take(5, 9)
    for name in EXTRA_FIELDS:
        assert part.extra[name].tolist() == bars.extra[name][5:9].tolist()
    assert next(iter(part)).extra == tuple(bars.extra[name][5] for name in EXTRA_FIELDS)
    again = pickle.loads(pickle.dumps(bars))
    assert again.data_hash == bars.data_hash
    assert list(again) == list(bars)
    bare = replace(bars, extra={})
    changed = replace(bars, extra={**bars.extra, "spread": bars.extra["spread"] + 1})
    assert len({bars.data_hash, bare.data_hash, changed.data_hash}) == 3
    with pytest.raises(ValueError, match="read-only"):
        bars.extra["spread"][0] = 9.0


def test_what_is_not_known_reads_zero_in_a_bar() -> None:
    bars = replace(full_bars(), extra={"vix_close": full_bars().extra["vix_close"]})
    values = dict(zip(EXTRA_FIELDS, next(iter(bars)).extra, strict=True))
    assert values.pop("vix_close") == bars.extra["vix_close"][0]
    assert set(values.values()) == {0.0}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("index_clse", 1.0, "unknown extra index_clse; known are index_close"),
        ("index_close", np.nan, "1 of .* bars have index_close that is not a finite number"),
        *((name, 0.0, f"have {name} of zero or less") for name in NEVER_ZERO),
    ],
)
def test_bad_extra_is_refused(name: str, value: float, message: str) -> None:
    bars = full_bars()
    values = np.full(len(bars), 1.0)
    values[4] = value
    with pytest.raises(BarsError, match=message):
        replace(bars, extra={**bars.extra, name: values})


def test_extra_of_another_length_and_flow_without_ticks_are_refused() -> None:
    bars = full_bars()
    with pytest.raises(BarsError, match=r"spread must hold one number per bar, found shape \(3,\)"):
        replace(bars, extra={**bars.extra, "spread": np.ones(3)})
    with pytest.raises(BarsError, match="spread come from ticks; give their number as `ticks`"):
        replace(bars, extra={"spread": np.ones(len(bars))})


def test_a_table_may_have_extra_by_its_exact_name() -> None:
    bars = full_bars()
    columns = {"ts": pd.to_datetime(bars.time_ns, utc=True), **{n: getattr(bars, n) for n in ("open", "high", "low")}}
    table = pd.DataFrame({**columns, "close": bars.close, "volume": bars.volume, **bars.extra})
    found = bars_from_frame(table, symbol=bars.symbol, interval="15m", derivatives=False)
    assert found.data_hash == bars.data_hash
    # Without `ticks` a column named trades is a vendor's own.
    vendor = table.drop(columns="ticks")
    assert set(bars_from_frame(vendor, symbol="SIM", interval="15m").extra) == set(EXTRA_FIELDS) - set(FLOW_FIELDS)
    with pytest.raises(BarsError, match="vix_close must hold numbers"):
        bars_from_frame(table.assign(vix_close="high"), symbol="SIM", interval="15m")


def test_clock_and_batch_agree_also_where_extra_comes_and_goes() -> None:
    bars = full_bars()
    rows = timeline(bars, SIM, None).rows
    clock = Clock(SIM, "15m", None)
    for place, bar in enumerate(bars):
        known = place % 3 != 0
        clock.advance(bar if known else Bar(*bar[:6]))
        assert clock.row[INDEX_CLOSE:].tolist() == (rows[place, INDEX_CLOSE:].tolist() if known else [0.0] * 11)


def test_the_parts_of_a_timeline_are_the_rows_of_the_whole() -> None:
    described = timeline(full_bars(), SIM, None)
    count = len(described.bars)
    for start in range(0, count, 7):
        for stop in (start + 1, min(start + 30, count), count):
            assert described.rows_between(start, stop).tobytes() == described.rows[start:stop].tobytes()


@pytest.mark.parametrize("chunk", [1, 7, 26, 40, 10_000])
def test_the_states_do_not_depend_on_how_the_bars_are_cut(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    described = timeline(rough_bars(5, dt.date(2024, 2, 1), dt.date(2024, 3, 8)), SIM, None)
    spec = spec_of("core", warmup=100, history=3)
    expected = build_states(described, spec).rows
    monkeypatch.setattr(builder, "_CHUNK_BARS", chunk)
    assert build_states(described, spec).rows.tobytes() == expected.tobytes()


def test_bars_without_what_a_feature_reads_are_refused() -> None:
    # An indicator of its own, so that this does not hang on another family.
    @indicator(defaults={}, columns=columns_named("probe"), memory=lambda p: 0, lookback=lambda p: 1, needs=("spread",))
    def spread_probe(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        """The spread itself."""
        out[0] = bar[26]

    try:
        bars, spec = full_bars(), spec_of("spread_probe", warmup=10)
        assert np.isin(build_states(timeline(bars, SIM, None), spec).rows, bars.extra["spread"].astype("f4")).all()
        message = "`spread_probe` read spread, which these bars do not have; make the bars of ticks that carry"
        with pytest.raises(MissingFieldsError, match=f"SIM: {message}"):
            build_states(timeline(replace(bars, extra={}), SIM, None), spec)
        live, clock = StateBuilder(spec), Clock(SIM, "15m", None)
        first, second, *_ = bars
        live.update(clock.row, clock.advance(first) or True)
        clock.advance(Bar(*second[:6]))
        with pytest.raises(MissingFieldsError, match=f"the bar: {message}"):
            live.update(clock.row, False)
    finally:
        del INDICATORS["spread_probe"]


def test_the_journal_keeps_extra_to_the_bit(tmp_path: Path) -> None:
    bars = list(full_bars())
    with Journal(tmp_path / "journal.db", {"session": "one"}) as journal:
        assert journal.begin({"SIM": bars}) == {"SIM": bars}
    with Journal(tmp_path / "journal.db", {"session": "one"}) as journal:
        assert journal.begin({}) == {"SIM": bars}
