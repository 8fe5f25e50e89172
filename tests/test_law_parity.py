"""The crown law: one session, driven four ways, is the same session to the bit."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, market, setting
from joint_markets import kept
from typer.testing import CliRunner

from finsense.cli.environments import drive_single, drive_vector
from finsense.cli.main import app
from finsense.cli.paper import paper_trade
from finsense.cli.parity import digests
from finsense.evaluation.backtest import backtest, days_of
from finsense.market.bars import Bars
from finsense.market.sources.files import load_bars
from finsense.state.span import split_history
from finsense.state.spec import StateSpec

_TERMS: dict[str, dict[str, Any]] = {
    "intraday orders": {},
    "short selling": {"allow_short": True},
    "fraction of equity": {"actions": {"scheme": "orders", "size": {"kind": "fraction", "fraction": 0.4}}},
    "risk per trade": {"actions": {"scheme": "orders", "size": {"kind": "risk", "risk": 0.01, "stop": 0.02}}},
    "targets, all ways": {"actions": {"scheme": "targets", "targets": [-1, 0, 0.5, 1]}, "allow_short": True},
    "delivery, all in": {
        "product": "delivery",
        "actions": {"scheme": "orders", "size": {"kind": "all_in"}},
        "max_position": None,
    },
    "thin volume": {"participation": 0.0005},
    "ruined": {"balance": 20_000, "ruin_fraction": 0.999},
}


@pytest.mark.parametrize("name", _TERMS)
def test_four_drivers_give_the_same_bits(name: str, tmp_path: Path) -> None:
    """States, masks, actions, fills, charges and equity, under every kind of account."""
    terms = setting(**_TERMS[name])
    bundle = make_bundle(tmp_path / "bundle", terms)
    bars = market(sessions=8)
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found
    trace = backtest("random", bundle.policy, bars, terms).trace
    assert np.count_nonzero(trace.fills[:, 0]) > 0, "the law was not tested: nothing was traded"


def test_daily_bars_and_a_history_give_the_same_bits(tmp_path: Path) -> None:
    """Every daily bar is a session of its own; stacked rows come from the same fold."""
    plain = setting(product="delivery", actions={"scheme": "orders", "size": {"kind": "all_in"}})
    state = StateSpec.model_validate({"features": ["classic29"], "warmup": 60, "history": 4})
    terms = type(plain)(state, plain.account, plain.costs, plain.sessions_per_year)
    bundle = make_bundle(tmp_path / "bundle", terms, interval="1d")
    found = digests(bundle, market(interval="1d", sessions=120), None, None)
    assert len(set(found.values())) == 1, found


def test_every_array_is_equal_not_only_its_hash(tmp_path: Path) -> None:
    """The hashes compare what they claim to compare."""
    terms = setting()
    bundle = make_bundle(tmp_path / "bundle", terms)
    bars = market(sessions=8)
    history, trading = split_history(bars, terms.state)
    on_paper, _, _ = paper_trade(bundle, history, trading, tmp_path / "journal.db")
    traces = [
        on_paper,
        backtest("random", bundle.policy, bars, terms).trace,
        drive_single(bundle.policy, bars, terms, None, None),
        drive_vector(bundle.policy, bars, terms, None, None),
    ]
    for other in traces[1:]:
        for name in ("time_ns", "close_paise", "states", "fills", "equity_paise", "position"):
            one, two = getattr(traces[0], name), getattr(other, name)
            assert one.dtype == two.dtype
            assert one.tobytes() == two.tobytes(), name
        assert traces[0].masks[:-1].tobytes() == other.masks[:-1].tobytes()
        assert traces[0].actions[:-1].tobytes() == other.actions[:-1].tobytes()


def test_a_span_is_the_same_from_any_file_that_holds_its_warm_up(tmp_path: Path) -> None:
    """Dropping bars before the warm-up, or adding some, changes no bit of the span."""
    terms = setting()
    bundle = make_bundle(tmp_path / "bundle", terms)
    bars = market(sessions=12)
    first = bars.sessions[6].date
    whole = backtest("random", bundle.policy, bars, terms, first).trace.digest()
    start = int(np.searchsorted(bars.session_days, bars.session_days[bars.session_offsets[6]]))
    cut = bars.take(start - terms.state.warmup, len(bars))
    assert backtest("random", bundle.policy, cut, terms, first).trace.digest() == whole


def test_one_changed_charge_is_noticed(tmp_path: Path) -> None:
    """The digest covers the charges: with another schedule it differs although nothing else could be seen to."""
    terms = setting()
    bundle = make_bundle(tmp_path / "bundle", terms)
    bars = market(sessions=8)
    dearer = type(terms)(terms.state, terms.account, terms.costs.model_copy(update={"scale": 1.01}), 248)
    one = backtest("random", bundle.policy, bars, terms).trace
    two = backtest("random", bundle.policy, bars, dearer).trace
    assert one.digest() != two.digest()


def test_an_intraday_order_never_waits_into_another_session(tmp_path: Path) -> None:
    """The rest of every third session is missing, and with it the square-off; what was ordered there is cancelled."""
    terms = setting()
    bundle = make_bundle(tmp_path / "bundle", terms)
    whole = market(sessions=30)
    chosen = np.ones(len(whole), np.bool_)
    for start in whole.session_offsets[:-1].tolist()[::3]:
        chosen[start + 20 : start + 75] = False
    bars = kept(whole, chosen)
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found
    trace = backtest("random", bundle.policy, bars, terms).trace
    opens = np.flatnonzero(np.diff(days_of(trace))) + 1
    entries = trace.orders[opens - 1] * trace.position[opens - 1] >= 0
    assert np.count_nonzero(trace.orders[opens - 1][entries]) > 0, "the law was not tested: nothing waited"
    assert not trace.fills[opens[entries]].any()
    assert trace.fills[opens[~entries]].any(), "an exit that waits fills at the next open"


def test_the_command_prints_one_hash_per_driver(tmp_path: Path) -> None:
    """`finsense parity --json` has the documented shape and exits 0 when equal."""
    make_bundle(tmp_path / "bundle", setting())
    data = _write(market(sessions=8), tmp_path / "bars.parquet")
    answer = CliRunner().invoke(
        app, ["parity", str(tmp_path / "bundle"), "--data", str(data), "--symbol", "SIM", "--json"]
    )
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    assert set(document) == {"drivers", "equal"}
    assert list(document["drivers"]) == ["env", "vector", "backtest", "paper"]
    assert document["equal"] is True


def test_parity_on_real_bars(shared_nse: Path, tmp_path: Path) -> None:
    """RELIANCE, 5 minutes, November 2023, with its Muhurat session on a Sunday evening."""
    bars = load_bars(shared_nse / "intraday" / "nse_5min.parquet", "RELIANCE", "5m")
    terms = setting()
    bundle = make_bundle(tmp_path / "bundle", terms)
    found = digests(bundle, bars, dt.date(2023, 11, 6), dt.date(2023, 11, 17))
    assert len(set(found.values())) == 1, found


def _write(bars: Bars, path: Path) -> Path:
    import pandas as pd

    frame = pd.DataFrame({name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")})
    frame.insert(0, "symbol", bars.symbol)
    frame.insert(0, "ts", pd.to_datetime(bars.time_ns, unit="ns", utc=True).tz_convert("Asia/Kolkata"))
    frame.to_parquet(path, index=False)
    return path
