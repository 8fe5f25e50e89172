"""Whole simulated days under every fault: no exception, no lost paisa, memory flat, every alarm that should be raised.

`make soak` runs the slow part; docs/live.md has its result.
"""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from bundles import make_bundle, setting
from crash_law import RATES, as_json
from rehearsals import AUCTION_DAY, MUHURAT, simulated
from whole_days import GROWTH_BYTES, Plan, live_through, paper_day

from finsense.live.rehearsal.faults import Fault
from finsense.market.bars import Bars
from finsense.model.bundle import write_bundle

# Small enough that a bar's noise reaches the stops.
STOPS = {"stop_loss": 0.001, "trailing_stop": 0.002}
ORDINARY = dt.date(2026, 7, 15)
SPEED = 120.0
# Chances of what is drawn at random beside what is ordered: a third of the crash law's, for nobody restarts the loop.
_RARE: dict[Fault, float] = {fault: rate / 3 for fault, rate in RATES.items()}


@pytest.mark.slow
def test_a_muhurat_evening(tmp_path: Path) -> None:
    """Its second half: a lost answer, a partial fill, a late rejection, a dropped stream, a dead token, a restart."""
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
    assert report.life.fills > 10
    assert not report.refused


def _bundle(folder: Path, seed: int, *, derivatives: bool | None = None, **changes: Any) -> Path:
    """A random policy on bars of five minutes that trades often."""
    made = make_bundle(folder / "drawn", setting(exits=STOPS, **changes), seed=seed)
    manifest = made.manifest.model_copy(update={"derivatives": derivatives})
    graph = (made.path / "policy.onnx").read_bytes()
    return write_bundle(folder / "bundle", graph, manifest, made.golden, made.config, "# A random policy\n").path


def _markets(date: dt.date, *, derivatives: bool = False) -> list[Bars]:
    found = simulated("SIMA", "SIMB", date=date, days=6, interval="5m", seed=date.day)
    return [_with_an_auction(bars) for bars in found] if derivatives else found


def _with_an_auction(bars: Bars) -> Bars:
    """The same share with derivatives: continuous trading ends at 15:15."""
    minute = (bars.time_ns // 60_000_000_000 + 330) % 1440
    kept = minute < 15 * 60 + 15
    columns = {name: getattr(bars, name)[kept] for name in ("time_ns", "open", "high", "low", "close", "volume")}
    return Bars(bars.symbol, bars.interval, **columns, derivatives=True)


def ordinary() -> Plan:
    """09:15 to 15:30, what befalls orders before noon and what befalls the stream after it; orders outlast bars."""
    return Plan(
        ORDINARY,
        _markets(ORDINARY),
        speed=SPEED,
        ticks_per_bar=4,
        rates=_RARE,
        faults=(
            ("09:32", Fault.ANSWER_LOST),
            ("09:50", Fault.ANSWER_IS_GATEWAY_PAGE),
            ("10:10", Fault.HANG_AFTER_ACCEPTING),
            ("10:30", Fault.PARTIAL_THEN_CANCEL),
            ("10:50", Fault.LATE_REJECTION),
            ("11:10", Fault.CANCEL_LOSES_TO_FILL),
            ("12:10", Fault.STREAM_SILENT),
            ("12:40", Fault.STREAM_DROPPED),
            ("13:00", Fault.STREAM_REFUSED),
            ("13:00", Fault.STREAM_DROPPED),
            ("13:20", Fault.TICKS_REPEATED),
            ("13:25", Fault.TICKS_OUT_OF_ORDER),
            ("13:30", Fault.ODD_PACKET),
            ("13:35", Fault.UPDATE_LOST),
            ("13:40", Fault.SERVER_RESTART),
        ),
        on_orders=(("11:30", Fault.TOO_MANY_JSON), ("11:40", Fault.TOO_MANY_HTML)),
    )


def with_an_auction() -> Plan:
    """A share with derivatives: the day ends at 15:15, an auction follows; refusals and dead logins."""
    return Plan(
        AUCTION_DAY,
        _markets(AUCTION_DAY, derivatives=True),
        speed=SPEED,
        rates=_RARE,
        faults=(
            ("10:00", Fault.TOKEN_EXPIRED),
            ("10:40", Fault.GATEWAY_PAGE),
            ("11:00", Fault.TOO_MANY_JSON),
            ("11:30", Fault.TICK_GAP),
            ("14:00", Fault.TOKEN_EXPIRED),
        ),
        on_orders=(("12:00", Fault.ADDRESS_REFUSED), ("13:00", Fault.GATEWAY_PAGE)),
    )


def with_a_halt() -> Plan:
    """The whole market stands still for 45 minutes; before that the exchange's clock is wrong."""
    return Plan(
        ORDINARY + dt.timedelta(1),
        _markets(ORDINARY + dt.timedelta(1)),
        speed=SPEED,
        rates=_RARE,
        faults=(("10:00", Fault.CLOCK_SKEW),),
        halts=(("11:02", "11:47"),),
        gate={"gap_bars": 3, "skew_s": 5.0},
    )


def with_an_outage() -> Plan:
    """The exchange cannot be reached for 40 minutes, in which the login dies and the server restarts."""
    return Plan(
        ORDINARY + dt.timedelta(2),
        _markets(ORDINARY + dt.timedelta(2)),
        speed=SPEED,
        rates=_RARE,
        faults=(("11:15", Fault.TOKEN_EXPIRED), ("11:25", Fault.SERVER_RESTART)),
        outages=(("11:02", "11:42"),),
        gate={"gap_bars": 3},
    )


# More shares than the order book shows in the four trades of a bar.
_LARGE = {
    "balance": 100_000_000,
    "actions": {"scheme": "orders", "size": {"kind": "shares", "shares": 12_000}},
    "max_position": 24_000,
}
# Why the gate may have stopped orders on a day: bars were missing.
_REFUSED = {"halt": {"gapped data"}, "outage": {"gapped data"}}
_DAYS: dict[str, Callable[[], Plan]] = {
    "ordinary": ordinary,
    "closing auction": with_an_auction,
    "halt": with_a_halt,
    "outage": with_an_outage,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _DAYS)
def test_a_whole_day(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = _DAYS[name]()
    derivatives = True if name == "closing auction" else None
    bundle = _bundle(tmp_path, 0, derivatives=derivatives, **(_LARGE if name == "ordinary" else {}))
    report = live_through(tmp_path, bundle, plan, seed=plan.date.day)
    with capsys.disabled():
        print(f"{name}: {report.text()}", flush=True)  # noqa: T201
    assert report.life.fills > 20
    assert report.growth_bytes < GROWTH_BYTES
    assert set(report.refused) <= _REFUSED.get(name, set())


# What may befall a paper session: its readings and its ticks.
_ON_PAPER: dict[Fault, float] = {
    fault: RATES[fault]
    for fault in (
        Fault.TOO_MANY_JSON,
        Fault.GATEWAY_PAGE,
        Fault.STREAM_DROPPED,
        Fault.TICKS_REPEATED,
        Fault.TICKS_OUT_OF_ORDER,
        Fault.ODD_PACKET,
    )
}


def test_paper_over_live_ticks_is_the_backtest_of_the_days_candles(tmp_path: Path) -> None:
    """A whole Muhurat hour, with two restarts."""
    terms = setting(exits=STOPS, entry_cutoff_minutes=6, square_off_minutes=4)
    bundle = make_bundle(tmp_path / "bundle", terms, interval="1m", seed=0)
    markets = simulated("SIMA", date=MUHURAT, days=9)
    plan = Plan(MUHURAT, markets, speed=120, rates=_ON_PAPER)
    life = paper_day(tmp_path, bundle.path, plan, kills=2, until="19:00", seed=2)
    assert life.kills > 0
    assert life.fills > 10


@pytest.mark.slow
def test_paper_is_the_backtest_after_a_hundred_restarts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (market, _) = _markets(ORDINARY)
    plan = Plan(ORDINARY, [market], speed=60, rates=_ON_PAPER)
    life = paper_day(tmp_path, _bundle(tmp_path, 0), plan, kills=100, until="15:20", seed=3)
    with capsys.disabled():
        print(f"paper: {as_json(life)}", flush=True)  # noqa: T201
    assert life.kills == 100
    assert life.fills > 20
