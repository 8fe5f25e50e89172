"""The crash law: killed at random instants under random faults, a loop loses nothing and doubles nothing.

`make soak` runs the slow part at its full size; docs/live.md has its result.
"""

import datetime as dt
import os
from collections import Counter
from pathlib import Path

import pytest
from bundles import make_bundle, setting
from crash_law import RATES, Life, as_json, crash_day
from rehearsals import MUHURAT, at, simulated

from finsense.live.rehearsal.faults import Fault
from finsense.market.calendar import nse_calendar

KILLS = int(os.environ.get("FINSENSE_SOAK_KILLS", "2000"))
# The seed of a random network that trades often on bars of a minute.
POLICY = 0
# Small enough that a minute's noise reaches the stops.
STOPS = {"stop_loss": 0.001, "trailing_stop": 0.002}


def _muhurat(folder: Path, kills: int, seed: int) -> Life:
    """The later part of an hour of evening trading in bars of a minute, with protective stops at the exchange."""
    terms = setting(exits=STOPS, entry_cutoff_minutes=6, square_off_minutes=4)
    bundle = make_bundle(folder / "bundle", terms, interval="1m", seed=POLICY)
    markets = simulated("SIMA", "SIMB", date=MUHURAT, days=9)
    return crash_day(
        folder,
        bundle.path,
        markets,
        MUHURAT,
        speed=30,
        kills=kills,
        until_ns=at("19:08", MUHURAT),
        seed=seed,
        start_ns=at("18:35", MUHURAT),
    )


def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    life = _muhurat(tmp_path, 50, seed=1)
    assert life.kills >= 25, as_json(life)
    assert life.orders > 10, as_json(life)
    assert len(life.struck) > 4, as_json(life)


@pytest.mark.slow
def test_two_thousand_kills_lose_nothing_and_double_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Day after day, until so many loops were killed; each day is checked as a whole."""
    date, kills, day = dt.date(2026, 7, 1), 0, 0
    total: Counter[Fault] = Counter()
    while kills < KILLS:
        date += dt.timedelta(1)
        if nse_calendar().session(date, derivatives=True) is None:
            continue
        folder = tmp_path / str(date)
        folder.mkdir()
        changes = {"exits": STOPS} if day % 2 else {}
        bundle = make_bundle(folder / "bundle", setting(**changes), seed=day)
        markets = simulated("SIMA", "SIMB", "SIMC", date=date, days=6, interval="5m", seed=day)
        until_ns = at("14:45", date)
        life = crash_day(folder, bundle.path, markets, date, speed=90, kills=KILLS - kills, until_ns=until_ns, seed=day)
        kills, day = kills + life.kills, day + 1
        total.update(life.struck)
        with capsys.disabled():
            print(f"{date} {as_json(life)}", flush=True)  # noqa: T201
    assert {fault for fault in RATES if total[fault]} >= set(RATES) - {Fault.STREAM_SILENT, Fault.TICK_GAP}, total
