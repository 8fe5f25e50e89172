"""A live setup: what it takes, what it refuses with a line, and how it tightens what a policy was trained under."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsense.account.limits import PRESETS, Limits, loosened
from finsense.account.rules import AccountRules
from finsense.config import ConfigError
from finsense.config.live import LiveSetup, LiveSetupError, default_home, load_live, tightest

ROOT = Path(__file__).resolve().parents[1]
KITE = ROOT / "configs" / "live_kite.yaml"
REHEARSAL = ROOT / "configs" / "live_rehearsal.yaml"

WRONG: dict[str, tuple[list[str], str]] = {
    "a misspelt key": (["gate.stale=3"], "did you mean `stale_s`?"),
    "a name with a dot, which secrets use": (["account=a.b"], "bad value for `account`"),
    "no symbols": (["symbols=[]"], "bad value for `symbols`"),
    "a symbol twice": (["symbols=[INFY,INFY]"], "found INFY more than once"),
    "orders without protection": (["broker.market_protection=0"], "are refused since 1 April 2026"),
    "an order rate beyond the threshold": (["gate.orders_per_second=11"], "<= 10"),
    "rates that fall": (["gate.orders_per_minute=5"], "must not fall"),
    "a token in the clear": (["broker.root=http://10.0.0.9:1", "broker.stream_root=ws://10.0.0.9:1"], "https://host"),
    "a path that the client drops": (["broker.root=https://h/kite"], "without a path"),
    "half a rehearsal": (["broker.root=http://127.0.0.1:1"], "must be given together"),
    "a feed without its broker": (["broker={kind: paper}"], "needs broker kite"),
    "a limit of nothing": (["limits.max_positions=0"], "expected an integer >= 1"),
    "a negative limit": (["limits.max_daily_loss=-0.1"], "expected a number > 0"),
    "limits that contradict each other": (["limits.max_position_fraction=0.01"], "no position could be opened"),
    "an unknown preset": (["limits.preset=smal_account"], "small_account"),
    "an address that is none": (["alarms.webhooks=[ftp://x]"], "secret:NAME"),
    "an address of six bytes": (["broker.static_ip=1.2.3.4.5.6"], "bad value for `broker.static_ip`"),
    "a balance of half a paisa": (["balance=1000.005"], "whole paise"),
}


@pytest.mark.parametrize(("overrides", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_with_its_place(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_live(KITE, overrides)
    assert words in str(caught.value)
    assert all(problem.place is not None for problem in caught.value.problems)


def test_a_mistake_in_the_file_is_shown_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "live.yaml"
    path.write_text(KITE.read_text().replace("  stale_s: 60", "  stale_seconds: 60"))
    with pytest.raises(ConfigError) as caught:
        load_live(path)
    (problem,) = caught.value.problems
    assert problem.place is not None
    assert path.read_text().splitlines()[(problem.place.line or 0) - 1].strip().startswith("stale_seconds")


@pytest.mark.parametrize("path", [KITE, REHEARSAL], ids=["kite", "rehearsal"])
def test_the_examples_load_and_survive_their_own_yaml(path: Path, tmp_path: Path) -> None:
    setup = load_live(path)
    written = tmp_path / "again.yaml"
    written.write_text(setup.resolved_yaml())
    assert load_live(written) == setup
    assert load_live(written).hash() == setup.hash()
    assert LiveSetup.model_validate(setup.resolved()) == setup, "as `finsense kill --account` reads it"
    assert setup.limits == Limits(preset="small_account")


def test_the_home_is_a_state_folder_of_the_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert load_live(KITE).home == default_home("main") == tmp_path / "finsense" / "main"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_live(KITE).home == tmp_path / ".local" / "state" / "finsense" / "main"
    assert load_live(KITE, [f"home={tmp_path}/own"]).home == tmp_path / "own"


def test_paper_and_live_never_share_a_journal() -> None:
    setup = load_live(KITE)
    assert setup.journal("paper") != setup.journal("live")
    assert {setup.journal("paper").parent, setup.rates.parent} == {setup.home}


def test_the_order_of_symbols_changes_nothing_that_runs() -> None:
    one, other = load_live(KITE), load_live(KITE, ["symbols=[TCS,RELIANCE,INFY]"])
    assert one.ordered_symbols == other.ordered_symbols == ("INFY", "RELIANCE", "TCS")


RULES: dict[str, Any] = {"balance": 100_000, "product": "intraday", "actions": {"scheme": "orders"}}
RULES["actions"]["size"] = {"kind": "all_in"}


def test_the_account_runs_under_the_tighter_of_both_limits() -> None:
    trained = AccountRules.model_validate({**RULES, "limits": {"max_positions": 2, "max_daily_loss": 0.2}})
    rules = load_live(KITE, ["balance=50000"]).account_rules(trained)
    assert rules.balance_paise == 5_000_000
    assert (rules.limits.max_positions, rules.limits.max_daily_loss) == (2, 0.10)
    assert rules.limits.cash_buffer == 0.10
    assert load_live(KITE, ["limits={}"]).account_rules(trained).limits.max_daily_loss == 0.2


def test_limits_that_leave_no_room_together_are_refused() -> None:
    trained = AccountRules.model_validate({**RULES, "limits": {"max_position_fraction": 0.04}})
    with pytest.raises(LiveSetupError, match="do not go together"):
        load_live(KITE).account_rules(trained)


def test_a_loosened_preset_is_remarked() -> None:
    assert load_live(KITE).remarks() == []
    assert load_live(KITE, ["limits.max_positions=9", "limits.cash_buffer=0.02"]).remarks() == [
        "limits.max_positions: 9 instead of 4",
        "limits.cash_buffer: 0.02 instead of 0.1",
    ]


_VALUES: dict[str, Any] = {
    "max_position_fraction": st.floats(0.5, 1),
    "min_position_fraction": st.floats(0.01, 0.19),
    "max_positions": st.integers(1, 50),
    "cash_buffer": st.floats(0.01, 0.5),
    "max_daily_loss": st.floats(0.01, 0.1),
    "max_drawdown": st.floats(0.1, 1),
    "max_orders_per_day": st.integers(10, 100),
    "no_entry_before_close_minutes": st.integers(1, 60),
}


@given(
    preset=st.sampled_from([name for name in PRESETS if name != "none"]),
    live=st.fixed_dictionaries({}, optional=_VALUES),
)
def test_no_live_setup_loosens_what_was_trained(preset: Any, live: dict[str, Any]) -> None:
    """`loosened` is the other direction's own code: it knows which way each limit is loose."""
    both = tightest(Limits(preset=preset), Limits(**live))
    values = {name: getattr(both, name) for name in Limits.model_fields if name != "preset"}
    assert loosened(Limits(preset=preset, **values)) == []
