"""Charges that rise over a training, and a slippage of each episode's own: alike on every face, exactly resumable."""

import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import (
    ACCOUNTS,
    CHARGED,
    make_env,
    orders_of,
    random_legal,
    rough_bars,
    rules,
    small_spec,
    tape_of,
    walk_env,
    walk_session,
)
from small_experiment import DQN_AGENT, experiment
from small_experiment import SETTINGS as SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finsense.agents.learners import LEARNERS
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.run_folder import TENSORBOARD
from finsense.agents.validation import Judge, random_choice
from finsense.config.experiment import Curriculum
from finsense.envs.core import EpisodeRules, TradingCore
from finsense.envs.trading import TradingEnv
from finsense.envs.vector import VectorTradingEnv

RANGE = (0.5, 30.0)


@pytest.mark.parametrize("name", ["intraday short all in", "delivery targets"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_episode_is_a_session_at_the_slippage_it_drew(name: str, seed: int) -> None:
    bars, spec = rough_bars(seed), small_spec()
    account = ACCOUNTS[name]
    env = make_env(tape_of(bars, spec=spec, charges=CHARGED), account, bars=20, random_start=True, slippage_bps=RANGE)
    walk = walk_env(env, random_legal(seed), seed=seed)
    drawn_ppm = int(env.core.envs["slippage_ppm"][0])
    assert RANGE[0] * 100 <= drawn_ppm <= RANGE[1] * 100
    at_that = account.model_copy(update={"slippage_bps": drawn_ppm / 100})
    assert walk_session(bars, at_that, walk.actions, walk.first_bar, spec, CHARGED).same_as(walk)


def test_every_env_draws_as_a_single_one_would_and_anew_for_each_episode() -> None:
    tape, account, count = tape_of(rough_bars(3)), ACCOUNTS["intraday shares"], 4
    episode = EpisodeRules(bars=7, slippage_bps=RANGE)
    vector = VectorTradingEnv(tape, account, count, episode)
    singles = [TradingEnv(tape, account, episode) for _ in range(count)]
    states, _ = vector.reset(seed=11)
    expected = np.stack([env.reset(seed=11 + place)[0] for place, env in enumerate(singles)])
    choose, seen = random_legal(5), set()
    for _ in range(40):
        assert states.tobytes() == expected.tobytes()
        drawn = vector.core.envs["slippage_ppm"]
        assert drawn.tolist() == [int(env.core.envs["slippage_ppm"][0]) for env in singles]
        seen |= set(drawn.tolist())
        masks = vector.action_masks()
        assert masks.tobytes() == np.stack([env.action_masks() for env in singles]).tobytes()
        actions = np.array([choose(mask) for mask in masks])
        states, rewards, *_ = vector.step(actions)
        for place, env in enumerate(singles):
            state, reward, ruined, over, _ = env.step(actions[place])
            assert np.float32(reward) == rewards[place]
            expected[place] = env.reset()[0] if ruined or over else state
    assert len(seen) > 15


def test_without_a_range_nothing_is_drawn() -> None:
    tape, account = tape_of(rough_bars(3)), ACCOUNTS["intraday shares"]
    fixed = (account.slippage_bps, account.slippage_bps)
    walks = [
        walk_env(make_env(tape, account, bars=20, random_start=True, slippage_bps=bps), random_legal(1), seed=2)
        for bps in (None, fixed)
    ]
    assert walks[0].same_as(walks[1])
    with pytest.raises(ValueError, match=r"slippage_bps must rise within 0 to 1000, found \(3, 1\)"):
        EpisodeRules(slippage_bps=(3, 1))


def test_charges_are_scaled_at_once_and_back_to_the_paisa() -> None:
    tape, account = tape_of(rough_bars(4), charges=CHARGED), ACCOUNTS["intraday shares"]
    walks = {}
    for fraction in (1.0, 0.0, 0.5):
        core = TradingCore(tape, account, EpisodeRules(random_start=False), 1, autoreset=False)
        core.seed(0)
        core.reset()
        core.charge(fraction)
        paid, choose = [], random_legal(0)
        for _ in range(int(tape.spans[0, 1] - tape.spans[0, 0])):
            core.step(np.array([choose(core.masks[0])]))
            paid.append(int(core.accounts["charges_paise"][0]))
        walks[fraction] = paid[-1]
    assert walks[0.0] == 0
    assert 0 < walks[0.5] < walks[1.0]
    whole = TradingCore(tape, account, EpisodeRules(random_start=False), 1, autoreset=False)
    whole.charge(0.0)
    whole.charge(1.0)
    assert whole._schedules.tobytes() == tape.schedules.tobytes()
    assert tape.schedules["stt_intraday_sell_nano"].max() > 0


def test_the_mask_follows_the_charges() -> None:
    """A purchase that the cash pays without charges, and not with them."""
    tape = tape_of(rough_bars(4), charges=CHARGED)
    first = int(tape.spans[0, 0])
    close_paise = int(tape.markets["close_paise"][first])
    # One paisa a share is the least by which an order is dearer than the close.
    cash = Decimal(10 * (close_paise + 1)) / 100
    account = rules(actions=orders_of("shares", shares=10), balance=cash, slippage_bps=0, price_buffer=0)
    core = TradingCore(tape, account, EpisodeRules(random_start=False), 1, autoreset=False)
    core.seed(0)
    core.reset()
    assert core.masks[0].tolist() == [False, True, False]
    core.charge(0.0)
    assert core.masks[0].tolist() == [True, True, False]
    core.charge(1.0)
    assert core.masks[0].tolist() == [False, True, False]


@given(first=st.floats(0, 1), until=st.floats(0.01, 1), done=st.floats(0, 1))
def test_the_fraction_rises_from_the_first_to_the_whole(first: float, until: float, done: float) -> None:
    rule = Curriculum.model_validate({"from": first, "until": until})
    assert rule.fraction(0.0) == first
    assert first <= rule.fraction(done) <= 1.0
    assert rule.fraction(done) <= rule.fraction(min(done + 0.1, 1.0))
    assert rule.fraction(1.0) == pytest.approx(1.0)


SETTINGS: dict[str, Any] = {"episode": {"bars": 40, "slippage_bps": [0.5, 8], "charges": {"from": 0.1, "until": 0.6}}}


@pytest.mark.parametrize("agent", [SMALL["agent"], DQN_AGENT], ids=["ppo", "dqn"])
def test_a_resumed_training_takes_the_charges_it_would_have_taken(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A DQN tells its progress every 8192 steps, and this one ends before.
    monkeypatch.setattr("finsense.config.agents._REPORT_STEPS", 256)
    setting = experiment(agent=agent, **SETTINGS)
    train = LEARNERS[agent["kind"]]
    whole = train(setting, tmp_path / "whole")
    events = EventAccumulator(str(tmp_path / "whole" / TENSORBOARD))
    events.Reload()
    taken = [one.value for one in events.Scalars("policy/charged_fraction")]
    assert taken[0] < 0.4
    assert taken == sorted(taken)
    assert taken[-1] == 1.0

    def interrupt(progress: Progress) -> None:
        if progress.steps >= 768:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train(setting, tmp_path / "parts", report=interrupt)
    resumed = train(setting, tmp_path / "parts", resume=True)
    assert resumed.weights_hash == whole.weights_hash
    assert resumed.validation == whole.validation


def test_validation_is_always_at_full_charges_and_the_accounts_slippage() -> None:
    verdicts = []
    for changes in ({}, SETTINGS):
        setting = experiment(**changes)
        judge = Judge(load_markets(setting).validation, setting.account, episode_rules(setting), 248)
        verdicts.append(judge.verdict(judge.paths(random_choice(np.random.default_rng(0)))).as_dict())
    assert verdicts[0] == verdicts[1]


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        ({"slippage_bps": [3, 1]}, "slippage_bps must not fall"),
        ({"slippage_bps": [-1, 1]}, "greater than or equal to 0"),
        ({"charges": {"from": 1.5}}, "less than or equal to 1"),
        ({"charges": {"until": 0}}, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(episode: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(episode=episode)
