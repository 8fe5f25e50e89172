"""Whole simulated days under every fault: no exception, no lost paisa, memory flat, every alarm that should be raised."""

import datetime as dt
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from bundles import make_bundle, setting
from rehearsals import MUHURAT, simulated
from whole_days import GROWTH_BYTES, Plan, Report, live_through

from finsense.live.rehearsal.faults import Fault

STOPS = {"stop_loss": 0.001, "trailing_stop": 0.002}


def test_a_muhurat_evening(tmp_path: Path) -> None:
    """Its second half: a lost answer, a partial fill, a late rejection, a dropped stream, a dead token and a restart."""
    terms = setting(exits=STOPS, entry_cutoff_minutes=6, square_off_minutes=4)
    bundle = make_bundle(tmp_path / "bundle", terms, interval="1m", seed=0)
    plan = Plan(
        MUHURAT,
        simulated("SIMA", "SIMB", date=MUHURAT, days=9),
        speed=60,
        start="18:35",
        faults=(
            ("18:38", Fault.ANSWER_LOST),
            ("18:40", Fault.PARTIAL_THEN_CANCEL),
            ("18:42", Fault.LATE_REJECTION),
            ("18:44", Fault.STREAM_DROPPED),
            ("18:48", Fault.TOKEN_EXPIRED),
            ("18:54", Fault.SERVER_RESTART),
            ("18:58", Fault.TOO_MANY_HTML),
        ),
    )
    report = live_through(tmp_path, bundle.path, plan, seed=1)
    print(report.text())
