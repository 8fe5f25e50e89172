"""The crash law: killed at random instants under random faults, a loop loses nothing and doubles nothing.

`make soak` runs the slow part at its full size; docs/live.md has its result.
"""

import datetime as dt
import os
from pathlib import Path

import pytest
from bundles import make_bundle, setting
from crash_law import Life, as_json, crash_day
from rehearsals import MUHURAT, at, simulated

from finsense.market.calendar import nse_calendar

KILLS = int(os.environ.get("FINSENSE_SOAK_KILLS", "2000"))
RECORD = Path(os.environ.get("FINSENSE_SOAK_RECORD", "runs/soak.jsonl"))
# Days that may run side by side.
LANES = 4
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
@pytest.mark.parametrize("lane", range(LANES))
def test_two_thousand_kills_lose_nothing_and_double_nothing(lane: int, tmp_path: Path) -> None:
    """Day after day, until so many loops were killed; each day is checked as a whole, and noted in `runs/`."""
    kills, day, date = 0, lane, dt.date(2026, 7, 1) + dt.timedelta(7 * lane)
    while kills < KILLS // LANES:
        date += dt.timedelta(1)
        if nse_calendar().session(date, derivatives=True) is None:
            continue
        folder = tmp_path / str(date)
        folder.mkdir()
        bundle = make_bundle(folder / "bundle", setting(**({"exits": STOPS} if day % 2 else {})), seed=day)
        life = crash_day(
            folder,
            bundle.path,
            simulated("SIMA", "SIMB", date=date, days=6, interval="5m", seed=day),
            date,
            speed=40,
            kills=KILLS // LANES - kills,
            until_ns=at("14:45", date),
            seed=day,
        )
        assert life.orders > 10, as_json(life)
        kills, day = kills + life.kills, day + 1
        RECORD.parent.mkdir(exist_ok=True)
        with RECORD.open("a") as record:
            record.write(f"{date} {as_json(life)}\n")
