"""Laws: with limits and exits all drivers agree, later bars change nothing, and the books balance to the paisa."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, market, setting
from hypothesis import given, settings
from hypothesis import strategies as st
from limited_accounts import ALL_EXITS, ALL_LIMITS, LIMITED
from markets import (
    CHARGED,
    SPLIT,
    changed_after,
    make_env,
    random_legal,
    replay,
    rough_bars,
    small_spec,
    tape_of,
    walk_env,
    walk_session,
)

from finsense.cli.environments import drive_single, drive_vector
from finsense.cli.parity import digests
from finsense.evaluation.backtest import backtest, charge_totals

SEEDS = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("name", LIMITED)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, cut=st.floats(0, 1))
def test_a_session_agrees_and_a_later_bar_changes_nothing(name: str, seed: int, cut: float) -> None:
    bars = rough_bars(seed, *SPLIT, volume=20_000)
    whole = walk_env(make_env(tape_of(bars), LIMITED[name]), random_legal(seed))
    again = walk_session(bars, LIMITED[name], whole.actions, whole.first_bar, small_spec(), CHARGED)
    assert again.same_as(whole)
    seen = 2 + round(cut * (len(whole.states) - 2))
    for other in (changed_after(bars, whole.first_bar + seen - 1, seed + 1), bars.take(0, whole.first_bar + seen)):
        part = walk_env(make_env(tape_of(other), LIMITED[name]), replay(whole.actions), steps=seen - 1)
        assert part.states.tobytes() == whole.states[:seen].tobytes()
        assert part.masks.tobytes() == whole.masks[:seen].tobytes()
        assert part.books.tobytes() == whole.books[:seen].tobytes()


@pytest.mark.parametrize("name", LIMITED)
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_equity_moves_by_what_is_held_and_every_charge_is_paid(name: str, seed: int) -> None:
    """Accounting with two fills in a bar: the order's at the open, the stop's inside."""
    tape = tape_of(rough_bars(seed, *SPLIT, volume=20_000))
    walk = walk_env(make_env(tape, LIMITED[name]), random_legal(seed))
    closes = tape.markets["close_paise"][walk.first_bar :]
    fills = charges = 0
    for index in range(1, len(walk.books)):
        before, after = walk.books[index - 1], walk.books[index]
        held, price, gain = int(before["position"]), int(closes[index - 1]), 0
        for kind in ("fill", "stop_fill"):
            quantity, at, paid = (int(after[f"{kind}_{part}"]) for part in ("quantity", "price_paise", "charges_paise"))
            if quantity:
                gain += held * (at - price) - paid
                held, price = held + quantity, at
                fills, charges = fills + 1, charges + paid
        gain += held * (int(closes[index]) - price)
        assert int(after["position"]) == held
        assert int(after["equity_paise"]) - int(before["equity_paise"]) == gain
        assert (int(after["fills"]), int(after["charges_paise"])) == (fills, charges)
        assert (after["stop_paise"] != 0) == (held != 0 and LIMITED[name].exits.stops)


PARITY: dict[str, dict[str, Any]] = {
    "everything": {"limits": {**ALL_LIMITS, "max_order_quantity": 1000}, "exits": ALL_EXITS, "allow_short": True},
    "small account": {"limits": {"preset": "small_account"}, "exits": {"stop_loss": 0.002, "trailing_stop": 0.003}},
    "flattened": {"limits": {"max_daily_loss": 0.0005, "on_daily_loss": "flatten"}, "exits": {"take_profit": 0.001}},
}


@pytest.mark.parametrize("name", PARITY)
def test_training_backtest_and_paper_give_the_same_bits(name: str, tmp_path: Path) -> None:
    terms = setting(**PARITY[name], balance=50_000)
    bundle, bars = make_bundle(tmp_path / "bundle", terms), market(sessions=12)
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found
    report = backtest("random", bundle.policy, bars, terms)
    traces = [drive(bundle.policy, bars, terms, None, None) for drive in (drive_single, drive_vector)]
    assert {trace.digest() for trace in traces} == {report.trace.digest()}
    assert all(trace.stop_fills.tobytes() == report.trace.stop_fills.tobytes() for trace in traces)
    filled, fills = report.trace.all_fills()
    assert len(filled) == report.performance.fills > 0
    assert report.performance.charges_paise == fills[:, 2].sum() == sum(charge_totals(report.trace, terms).values())
    if "stop_loss" in PARITY[name]["exits"]:
        stopped = np.count_nonzero(report.trace.stop_fills[:, 0])
        assert 0 < stopped < len(filled)
        assert report.trace.digest() != replace(report.trace, stop_fills=0 * report.trace.stop_fills).digest()
