"""How long a warm-up must be: the measure itself, and what it says of the presets on real bars."""

import datetime as dt
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from indicator_oracles import fold
from markets import rough_bars, spec_of

from finsense.evaluation.warmup import SUFFICIENT_CHANGE, warmup_changes
from finsense.market.instruments import instrument
from finsense.market.sources.files import load_bars
from finsense.market.timeline import timeline
from finsense.state.builder import HistoryError
from finsense.state.registry import INDICATORS, indicator

SIM = instrument("SIM")
BARS = rough_bars(8, dt.date(2024, 1, 1), dt.date(2024, 1, 31))
COUNT = "bars_of_test"
LAST_BARS = 3500  # some 46 sessions of 5 minutes; the page was made of all of them
FIVE_MINUTES, DAYS = "intraday/nse_5min.parquet", "daily/zerodha_daily_adjusted.parquet"


@pytest.fixture(scope="module", autouse=True)
def _counting_indicator() -> Iterator[None]:
    """An indicator that never forgets how long its warm-up was."""

    @indicator(defaults={}, columns=lambda p: (COUNT,), memory=lambda p: 1, lookback=lambda p: 1)
    def bars_of_test(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        """Bars since the anchor."""
        memory[0] += 1.0
        out[0] = memory[0]

    yield
    del INDICATORS[COUNT]


@pytest.mark.parametrize(("name", "warmup"), [("ema", 20), ("rsi", 31), (COUNT, 12)])
def test_the_change_is_that_of_folds_of_both_lengths(name: str, warmup: int) -> None:
    """Folded session by session, once from each anchor."""
    rows = timeline(BARS, SIM, None).rows
    offsets = BARS.session_offsets.tolist()
    sessions = [(first, last) for first, last in pairwise(offsets) if first >= 2 * warmup]
    once = np.concatenate([fold(rows[first - warmup : last], name)[warmup:] for first, last in sessions])
    twice = np.concatenate([fold(rows[first - 2 * warmup : last], name)[2 * warmup :] for first, last in sessions])
    expected = np.abs(once - twice).max() / twice.std()
    ((_, found),) = warmup_changes(BARS, SIM, spec_of(name, warmup=warmup))
    assert expected > SUFFICIENT_CHANGE
    assert found == pytest.approx(expected, rel=1e-3)


def test_windows_need_no_more_than_their_lookback_and_averages_fade() -> None:
    columns = ["bollinger", "realised_volatility", "session_range", "session_left"]
    assert {change for _, change in warmup_changes(BARS, SIM, spec_of(*columns, warmup=61))} == {0.0}
    changes = [dict(warmup_changes(BARS, SIM, spec_of("ema", warmup=warmup)))["ema_14"] for warmup in (14, 40, 80)]
    assert changes[0] > 0.1 > changes[1] > SUFFICIENT_CHANGE > changes[2]


def test_a_constant_column_changes_not_at_all_or_without_measure() -> None:
    daily = rough_bars(8, dt.date(2023, 1, 2), dt.date(2023, 3, 31), "1d")
    changes = dict(warmup_changes(daily, SIM, spec_of("session_left", COUNT, warmup=10)))
    assert changes == {"session_left": 0.0, COUNT: math.inf}


def test_too_little_history_for_the_doubled_warm_up_is_said() -> None:
    with pytest.raises(HistoryError, match="the warm-up needs 600 bars"):
        warmup_changes(BARS, SIM, spec_of("ema", warmup=300))


# The warm-ups that docs/warmup.md gives, on the symbols that need them most.
@pytest.mark.parametrize(
    ("preset", "path", "interval", "symbol", "warmup"),
    [
        ("classic29", FIVE_MINUTES, "5m", "INFY", 150),
        ("core", FIVE_MINUTES, "5m", "HDFCBANK", 200),
        ("full", FIVE_MINUTES, "5m", "SBIN", 350),
        ("classic29", DAYS, "1d", "HDFCBANK", 150),
        ("core", DAYS, "1d", "SBIN", 200),
        ("full", DAYS, "1d", "SBIN", 350),
    ],
)
def test_the_presets_are_warm_on_real_bars(
    preset: str, path: str, interval: str, symbol: str, warmup: int, shared_nse: Path
) -> None:
    bars = load_bars(shared_nse / path, symbol, interval)
    bars = bars.take(max(len(bars) - LAST_BARS, 0), len(bars))
    stock = instrument(symbol, derivatives=bars.derivatives)
    changes = dict(warmup_changes(bars, stock, spec_of(preset, warmup=warmup)))
    assert {column: change for column, change in changes.items() if change >= SUFFICIENT_CHANGE} == {}
    short = dict(warmup_changes(bars, stock, spec_of(preset, warmup=75)))
    assert max(short.values()) > SUFFICIENT_CHANGE
