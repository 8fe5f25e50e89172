"""A policy that never trades, churns, holds for ever or ignores its state is told from one that is well."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_experiment import experiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from typer.testing import CliRunner

from finsense.account.rules import BUY, HOLD, SELL
from finsense.agents.learner import Decisions
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.network import MaskedActor
from finsense.agents.pathologies import (
    ALARMS,
    CHURNS,
    COLLAPSED,
    HOLDS,
    NEVER_TRADES,
    alarms,
    conduct,
    judge_conduct,
    rollout_conduct,
)
from finsense.agents.ppo import masked_ppo
from finsense.agents.run_folder import TENSORBOARD
from finsense.agents.validation import Judge, actor_choice
from finsense.agents.validation import Path as Walk
from finsense.cli.main import app
from finsense.config import Experiment, PpoAgent
from finsense.envs.vector import TradingVecEnv
from finsense.model.bundle import load_bundle

NAMES = ("buy", "hold", "sell")
ALL_IN = {"scheme": "orders", "size": {"kind": "all_in"}}


def walked_with(logits: list[float], setting: Experiment) -> list[Walk]:
    """The validation walk of a network of the experiment whose last layer answers the same to every state."""
    markets = load_markets(setting)
    assert isinstance(setting.agent, PpoAgent)
    envs = TradingVecEnv(markets.train, setting.account, setting.agent.envs, episode_rules(setting))
    model = masked_ppo(setting, markets, envs)
    with torch.no_grad():
        last = model.policy.action_net
        assert isinstance(last, nn.Linear)
        last.weight.zero_()
        last.bias.copy_(torch.tensor(logits))
    judge = Judge(markets.validation, setting.account, episode_rules(setting), 248)
    return judge.paths(actor_choice(MaskedActor(model.policy)))


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([0.0, 9.0, 0.0], {NEVER_TRADES}),
        ([9.0, 0.0, 5.0], {CHURNS, COLLAPSED}),
        ([9.0, 5.0, 0.0], {HOLDS, COLLAPSED}),
    ],
)
def test_a_network_that_ignores_its_state_is_told(logits: list[float], expected: set[str]) -> None:
    setting = experiment(account__actions=ALL_IN, account__balance=1_000_000, account__price_buffer=0)
    figures, raised = judge_conduct(walked_with(logits, setting), setting.account)
    assert set(raised) == expected
    assert figures["told_by_mask"] == 1.0
    if CHURNS in expected:
        assert figures["order_rate"] > 0.95
        assert "gained nothing" in raised[CHURNS] or "of the gain before them" in raised[CHURNS]
        assert "buy rather than hold" in raised[COLLAPSED]
    if HOLDS in expected:
        assert figures["exposure"] > 0.9
        assert figures["exit_rate"] == 0.0


def test_a_network_that_always_wants_the_same_target_is_told() -> None:
    targets = {"scheme": "targets", "targets": [0.0, 0.5, 1.0]}
    setting = experiment(account__actions=targets, account__balance=1_000_000)
    figures, raised = judge_conduct(walked_with([0.0, 9.0, 0.0, 5.0], setting), setting.account)
    assert {HOLDS, COLLAPSED} <= set(raised)
    assert figures["entry_rate"] == 1.0
    assert figures["exit_rate"] == 0.0


def config_file(folder: Path, **changes: Any) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(experiment(**changes).resolved()))))
    return path


def last_tags(run: Path) -> dict[str, float]:
    events = EventAccumulator(str(run / TENSORBOARD))
    events.Reload()
    return {name: events.Scalars(name)[-1].value for name in events.Tags()["scalars"] if name.startswith("policy/")}


def test_a_training_that_gives_up_trading_says_so(tmp_path: Path) -> None:
    """Ten times the charges: even on a market that reverts nothing can be earned, and the learner finds out."""
    config = config_file(
        tmp_path,
        costs={"scale": 10.0},
        account__actions=ALL_IN,
        agent__steps=40_960,
        agent__eval_every=10_240,
        agent__learning_rate=3e-3,
    )
    run = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", str(config), "--out", str(run), "--quiet"])
    assert done.exit_code == 0, done.output
    assert "warning:    never trades: it ordered at 0.00% of" in done.stdout
    assert "that may be the right answer" in done.stdout
    manifest = load_bundle(run / "bundle").manifest
    assert set(manifest.alarms) == {NEVER_TRADES}
    assert "`never_trades`: never trades" in (run / "bundle" / "model_card.md").read_text()
    tags = last_tags(run)
    assert tags["policy/never_trades"] == 1.0
    assert tags["policy/order_rate"] == 0.0


def test_a_healthy_training_raises_no_alarm(tmp_path: Path) -> None:
    config = config_file(
        tmp_path,
        data__reversion=0.9,
        data__shock=0.006,
        account__actions=ALL_IN,
        agent__steps=40_960,
        agent__eval_every=10_240,
        agent__learning_rate=3e-3,
    )
    run = tmp_path / "run"
    done = CliRunner().invoke(app, ["train", str(config), "--out", str(run), "--quiet", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout[done.stdout.index("{\n") :])["alarms"] == {}
    assert load_bundle(run / "bundle").manifest.alarms == {}
    assert "No alarm: it trades" in (run / "bundle" / "model_card.md").read_text()
    tags = last_tags(run)
    assert [tags[f"policy/{name}"] for name in ALARMS] == [0.0] * len(ALARMS)
    assert 0.001 < tags["policy/order_rate"] < 0.3
    assert {f"policy/rollout_{name}" for name in (*ALARMS, "order_rate", "told_by_mask")} <= set(tags)


def rows(count: int, seed: int) -> dict[str, Any]:
    """Decisions of a policy that buys or sells now and then, where it may."""
    random = np.random.default_rng(seed)
    held = random.random(count) < 0.5
    masks = np.ones((count, 3), np.bool_)
    masks[~held, SELL] = masks[held, BUY] = False
    orders = random.random(count) < 0.1
    actions = np.where(orders, np.where(held, SELL, BUY), HOLD)
    return {"actions": actions, "masks": masks, "position": held.astype(np.float32)}


@given(seed=st.integers(0, 10**6), forced=st.integers(0, 500))
def test_bars_without_a_choice_do_not_count(seed: int, forced: int) -> None:
    rules = experiment().account
    free = rows(400, seed)
    random = np.random.default_rng(seed)
    blocked = np.zeros((forced, 3), np.bool_)
    blocked[:, HOLD] = True
    both = {
        "actions": np.concatenate([free["actions"], np.full(forced, HOLD)]),
        "masks": np.concatenate([free["masks"], blocked]),
        "position": np.concatenate([free["position"], (random.random(forced) < 0.5).astype(np.float32)]),
    }
    order = random.permutation(400 + forced)
    found = conduct(**{name: values[order] for name, values in both.items()}, rules=rules)
    assert found == conduct(**free, rules=rules)
    assert found.decisions == 400
    assert alarms(found, NAMES, charges=0.3) == {}


def test_charges_make_many_orders_a_fault() -> None:
    rules, free = experiment().account, rows(2000, 0)
    free["actions"] = np.where(np.random.default_rng(1).random(2000) < 0.5, HOLD, np.where(free["position"], SELL, BUY))
    often = conduct(**free, rules=rules)
    assert often.order_rate == pytest.approx(0.5, abs=0.05)
    assert set(alarms(often, NAMES, charges=None)) == {CHURNS}
    assert "charges took 40% of the gain" in alarms(often, NAMES, charges=0.4)[CHURNS]
    # Where trading costs next to nothing, a policy that gains by it may trade at every bar.
    assert alarms(often, NAMES, charges=0.05) == {}
    seldom = conduct(**rows(2000, 0), rules=rules)
    assert alarms(seldom, NAMES, charges=0.9) == {}
    assert set(alarms(seldom, NAMES, charges=1.2)) == {CHURNS}


def test_rare_orders_are_no_collapse_and_few_decisions_tell_nothing() -> None:
    rules, waiting = experiment().account, rows(4000, 0)
    waiting["actions"] = np.full(4000, HOLD)
    waiting["actions"][::500] = np.where(waiting["position"][::500] > 0, SELL, BUY)
    assert conduct(**waiting, rules=rules).told_by_mask > 0.995
    assert alarms(conduct(**waiting, rules=rules), NAMES, charges=0.1) == {}
    few = {name: values[:20] for name, values in rows(100, 0).items()}
    few["actions"] = np.full(20, HOLD)
    assert alarms(conduct(**few, rules=rules), NAMES, charges=None) == {}


def test_the_figures_of_a_rollout_are_those_of_its_rows() -> None:
    setting, free = experiment(), rows(60, 3)
    states = np.zeros((60, 9), np.float32)
    states[:, -5] = free["position"]
    decisions = Decisions(
        states.reshape(20, 3, 9),
        free["masks"].reshape(20, 3, 3).astype(np.float32),
        free["actions"].reshape(20, 3),
        np.zeros((20, 3)),
    )
    found = rollout_conduct(decisions, setting.account)
    expected = conduct(**free, rules=setting.account)
    assert found["policy/rollout_order_rate"] == expected.order_rate
    assert found["policy/rollout_exposure"] == expected.exposure
    assert [found[f"policy/rollout_{name}"] for name in ALARMS] == [0.0, 0.0, 0.0, 0.0]
