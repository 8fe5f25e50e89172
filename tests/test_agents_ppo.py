"""Training is reproducible to the bit, resumable to the bit, blind to the future, and never picks a masked action."""

import io
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sb3_contrib import MaskablePPO
from small_experiment import experiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finsense.agents.checkpoint import CheckpointError
from finsense.agents.markets import episode_rules, load_markets, span_tape
from finsense.agents.network import MaskedActor, weights_hash
from finsense.agents.ppo import Trained, masked_ppo, train
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.run_folder import RunError
from finsense.agents.validation import Judge, actor_choice, random_choice
from finsense.agents.watch import TrainingError
from finsense.envs.vector import TradingVecEnv
from finsense.evaluation.backtest import Setting, backtest
from finsense.market.bars import BarsError
from finsense.model.bundle import load_bundle
from finsense.state.builder import HistoryError


class StopAt:
    """Presses Ctrl-C once a rollout has passed so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seen = steps, list[Progress]()

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if progress.steps == self.steps:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(experiment(), tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped with Ctrl-C, in the middle between two regular checkpoints."""
    run_dir = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(TrainingInterrupted, match="1024 steps"):
        train(experiment(), run_dir, report=StopAt(1024))
    return run_dir


def exported(trained: Trained) -> str:
    return load_bundle(trained.bundle).manifest.provenance.weights_hash


def test_one_seed_gives_one_policy(whole: Trained, tmp_path: Path) -> None:
    again = train(experiment(), tmp_path / "again")
    assert again.weights_hash == whole.weights_hash
    assert exported(again) == exported(whole)
    assert (again.steps, again.validation) == (whole.steps, whole.validation)
    assert train(experiment(seed=4), tmp_path / "other").weights_hash != whole.weights_hash


def test_a_resumed_run_ends_as_if_never_interrupted(whole: Trained, interrupted: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    resumed = train(experiment(), run_dir, resume=True)
    assert resumed.weights_hash == whole.weights_hash
    assert exported(resumed) == exported(whole)
    assert resumed.validation == whole.validation


def test_a_reward_with_a_memory_is_resumed_exactly(tmp_path: Path) -> None:
    chosen = experiment(reward={"kind": "differential_sharpe", "rate": 0.05}, agent__steps=1024)
    whole = train(chosen, tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        train(chosen, tmp_path / "run", report=StopAt(512))
    assert train(chosen, tmp_path / "run", resume=True).weights_hash == whole.weights_hash


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole: Trained, interrupted: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    newest = sorted((run_dir / "checkpoints").iterdir())[-1]
    assert newest.name == "step_000000001024"
    shutil.rmtree(newest)
    # What a write that was cut off leaves behind.
    (run_dir / "checkpoints" / ".step_000000001024.new-1").mkdir()
    assert train(experiment(), run_dir, resume=True).weights_hash == whole.weights_hash


def test_resuming_a_finished_run_only_exports_again(whole: Trained, tmp_path: Path) -> None:
    run_dir = shutil.copytree(whole.run_dir, tmp_path / "run")
    shutil.rmtree(run_dir / "bundle")
    again = train(experiment(), run_dir, resume=True)
    assert (again.weights_hash, again.validation) == (whole.weights_hash, whole.validation)


def test_another_experiment_is_not_resumed(interrupted: Path) -> None:
    with pytest.raises(
        RunError, match=r"(?s)another experiment.*account.balance: 50000 -> 60000.*agent.gamma: 0.99 -> 0.5"
    ) as e:
        train(experiment(agent__gamma=0.5, account__balance=60000), interrupted, resume=True)
    assert "n_steps" not in str(e.value)


def test_other_bars_are_not_resumed(interrupted: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    manifest = json.loads((run_dir / "manifest.json").read_text())
    manifest["data_hash"]["SIMB"] = "0" * 64
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="other bars of SIMB"):
        train(experiment(), run_dir, resume=True)


@pytest.mark.parametrize("name", ["model.zip", "best.zip", "arrays.npz", "progress.json"])
def test_a_damaged_checkpoint_is_refused(interrupted: Path, tmp_path: Path, name: str) -> None:
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    file = sorted((run_dir / "checkpoints").iterdir())[-1] / name
    file.write_bytes(file.read_bytes()[:-30] + b"x")
    with pytest.raises(CheckpointError, match=r"remove .* to go on from the checkpoint before it"):
        train(experiment(), run_dir, resume=True)


def test_a_folder_takes_one_run(whole: Trained, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds a run already"):
        train(experiment(), whole.run_dir)
    with pytest.raises(RunError, match="no run to resume"):
        train(experiment(), tmp_path / "nothing", resume=True)


def test_a_run_without_a_checkpoint_is_not_resumed(whole: Trained, tmp_path: Path) -> None:
    run_dir = shutil.copytree(whole.run_dir, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(CheckpointError, match="found none"):
        train(experiment(), run_dir, resume=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy sees the overflow first, and only warns
def test_rewards_beyond_every_number_stop_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no longer finite after 256 steps.*Lower agent.learning_rate or reward"):
        train(experiment(reward__scale=1e37), tmp_path / "run")


def test_the_last_good_checkpoint_survives_a_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []

    def remembered(*arguments: Any) -> MaskablePPO:
        models.append(masked_ppo(*arguments))
        return models[-1]

    def poison(progress: Progress) -> None:
        if progress.steps == 1280:
            models[0].rollout_buffer.advantages[3, 2] = np.nan

    monkeypatch.setattr("finsense.agents.ppo.masked_ppo", remembered)
    with pytest.raises(TrainingError, match=r"after 1280 steps \(update \d+\).*last good checkpoint was kept"):
        train(experiment(), tmp_path / "run", report=poison)
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["step_000000000768"]
    loaded = MaskablePPO.load(saved[0] / "model.zip", device="cpu")
    assert all(torch.isfinite(parameter).all() for parameter in loaded.policy.parameters())


def test_the_second_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    def press_twice(progress: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    # A shell that starts the tests in the background has them ignore Ctrl-C; a person's terminal does not.
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            train(experiment(), tmp_path / "run", report=press_twice)
        assert not isinstance(caught.value, TrainingInterrupted)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_weights_do_not_depend_on_later_bars(tmp_path: Path) -> None:
    """Everything after the training span doubles: the learner must end with the same weights and scaler."""
    bars = experiment().data.load()
    columns = ("time_ns", "open", "high", "low", "close", "volume")
    hashes = []
    for factor in (1.0, 2.0):
        frames = []
        for symbol, one in bars.items():
            frame = pd.DataFrame({name: getattr(one, name) for name in columns})
            stamps = pd.to_datetime(frame.pop("time_ns"), utc=True).dt.tz_convert("Asia/Kolkata")
            later = stamps >= pd.Timestamp("2023-02-01", tz="Asia/Kolkata")
            frame.loc[later, ["open", "high", "low", "close"]] *= factor
            frames.append(frame.assign(ts=stamps, symbol=symbol))
        path = tmp_path / f"bars_{factor:g}.parquet"
        pd.concat(frames).to_parquet(path)
        data = {"kind": "file", "path": str(path), "symbols": ["SIMA", "SIMB"], "interval": "5m"}
        changed = experiment(data=data)
        markets = load_markets(changed)
        envs = TradingVecEnv(markets.train, changed.account, 8, episode_rules(changed))
        model = masked_ppo(changed, markets, envs)
        model.learn(512)
        hashes.append((weights_hash(model.policy), markets.data_hash["SIMA"]))
    assert hashes[0][0] == hashes[1][0]
    assert hashes[0][1] != hashes[1][1]


def test_training_that_begins_with_the_data_starts_after_its_warmup() -> None:
    markets = load_markets(experiment(state__warmup=160))
    assert [day.isoformat() for day in markets.trained] == ["2023-01-05", "2023-01-31"]
    # Three sessions of 75 bars cover a warm-up of 160.
    assert markets.train.spans[0, 0] == 225


def test_too_little_history_is_refused() -> None:
    with pytest.raises(BarsError, match="no session from 2023-01-02 to 2023-01-31 has the warm-up of 5000 bars"):
        load_markets(experiment(state__warmup=5000))
    early = experiment(
        data__first="2023-02-01",
        split={
            "train": {"from": "2023-02-01", "to": "2023-02-02"},
            "validation": {"from": "2023-02-03", "to": "2023-02-06"},
            "test": {"from": "2023-02-09", "to": "2023-02-28"},
        },
    )
    with pytest.raises(HistoryError, match="the warm-up needs 40 bars before 2023-02-01, found 0"):
        span_tape(early, early.data.load(), early.split.train.first, early.split.train.last)


def test_a_trained_policy_never_picks_a_masked_action(whole: Trained) -> None:
    """On the path of the policy itself, of its samples, and under every other mask."""
    chosen = experiment()
    model = MaskablePPO.load(sorted((whole.run_dir / "checkpoints").iterdir())[-1] / "best.zip", device="cpu")
    tape = load_markets(chosen).validation
    for deterministic in (True, False):
        envs = TradingVecEnv(tape, chosen.account, 16, episode_rules(chosen))
        envs.seed(5)
        states = envs.reset()
        blocked = 0
        for _ in range(200):
            masks = envs.action_masks()
            actions, _ = model.predict(states, action_masks=masks, deterministic=deterministic)  # type: ignore[arg-type]
            assert masks[np.arange(16), actions].all()
            blocked += int((~masks).sum())
            states = envs.step(actions)[0]
        assert blocked > 0, "the mask never forbade anything, so nothing was shown"


def test_the_actor_is_the_policy(whole: Trained) -> None:
    chosen = experiment()
    model = MaskablePPO.load(sorted((whole.run_dir / "checkpoints").iterdir())[-1] / "best.zip", device="cpu")
    assert weights_hash(model.policy) == exported(whole)
    judge = Judge(load_markets(chosen).validation, chosen.account, episode_rules(chosen), 248)
    actor = MaskedActor(model.policy)
    path = judge.paths(actor_choice(actor))[0]
    actions, _ = model.predict(path.states, action_masks=path.masks, deterministic=True)
    assert np.array_equal(actions, path.actions)


def test_validation_is_a_backtest(whole: Trained) -> None:
    """What the environment says of the exported policy is what the backtest says, to the paisa."""
    chosen, bundle = experiment(), load_bundle(whole.bundle)
    markets = load_markets(chosen)
    judge = Judge(markets.validation, chosen.account, episode_rules(chosen), chosen.evaluation.sessions_per_year)
    walked = judge.paths(lambda state, mask: bundle.policy.act(state[None], mask[None]).action)
    setting = Setting(chosen.state, chosen.account, chosen.costs, chosen.evaluation.sessions_per_year)
    span = chosen.split.validation
    for path, bars in zip(walked, markets.bars.values(), strict=True):
        report = backtest("policy", bundle.policy, bars, setting, span.first, span.last)
        assert report.performance.as_dict() == path.performance.as_dict()
        assert path.performance.fills > 0
    assert whole.validation["log_return"] == judge.verdict(walked).log_return
    mean_reward = np.mean([math.log(path.performance.final_equity_paise / 5_000_000) * 100 for path in walked])
    assert whole.validation["mean_reward"] == pytest.approx(mean_reward, rel=1e-4)


def test_random_paths_meet_every_mask() -> None:
    chosen = experiment()
    judge = Judge(load_markets(chosen).validation, chosen.account, episode_rules(chosen), 248)
    masks = np.concatenate([path.masks for path in judge.paths(random_choice(np.random.default_rng(0)))])
    assert len(np.unique(masks, axis=0)) == 4


def test_the_best_weights_are_exported(whole: Trained) -> None:
    newest = sorted((whole.run_dir / "checkpoints").iterdir())[-1]
    scalars = tensorboard(whole.run_dir)
    returns = {event.step: event.value for event in scalars.Scalars("eval/log_return")}
    assert whole.validation["log_return"] == pytest.approx(max(returns.values()), rel=1e-6)
    assert json.loads((newest / "progress.json").read_text())["best"]["steps"] == whole.validation["best_steps"]


def test_a_saved_zip_loads_in_plain_sb3(whole: Trained) -> None:
    newest = sorted((whole.run_dir / "checkpoints").iterdir())[-1]
    loaded = MaskablePPO.load(io.BytesIO((newest / "model.zip").read_bytes()), device="cpu")
    assert weights_hash(loaded.policy) == whole.weights_hash


def tensorboard(run_dir: Path) -> EventAccumulator:
    events = EventAccumulator(str(run_dir / "tb"))
    events.Reload()
    return events


def test_tensorboard_has_the_documented_tags(whole: Trained) -> None:
    tags = tensorboard(whole.run_dir).Tags()
    assert set(tags["scalars"]) >= {
        "rollout/ep_rew_mean",
        "rollout/ep_len_mean",
        "time/fps",
        "train/approx_kl",
        "train/clip_fraction",
        "train/entropy_loss",
        "train/explained_variance",
        "train/loss",
        "train/policy_gradient_loss",
        "train/value_loss",
        "portfolio/net_return",
        "portfolio/max_dd",
        "portfolio/turnover",
        "portfolio/exposure",
        "trades/per_day",
        "trades/avg_hold_bars",
        "actions/buy_share",
        "actions/hold_share",
        "actions/sell_share",
        "mask/valid_mean",
        "mask/buy_blocked",
        "mask/sell_blocked",
        "eval/mean_reward",
        "eval/mean_ep_length",
        "eval/log_return",
        "eval/sharpe",
    }
    assert {"run/config/text_summary", "run/git/text_summary", "run/data/text_summary"} <= set(tags["tensors"])


def test_the_hparams_tab_is_filled(whole: Trained) -> None:
    events = tensorboard(whole.run_dir)
    content = {name: events.summary_metadata[name].plugin_data.content for name in events.summary_metadata}
    assert {"_hparams_/experiment", "_hparams_/session_start_info"} <= set(content)
    assert b"learning_rate" in content["_hparams_/session_start_info"]
    for metric in ("eval/log_return", "eval/sharpe", "rollout/ep_rew_mean"):
        assert metric.encode() in content["_hparams_/experiment"]
        assert metric in events.Tags()["scalars"]


def test_progress_is_reported_after_each_rollout(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(experiment(agent__steps=1024), tmp_path / "run", report=seen.append)
    assert [progress.steps for progress in seen] == [256, 512, 768, 1024]
    assert {progress.total for progress in seen} == {1024}
    last = seen[-1]
    assert last.steps_per_s > 0
    assert last.seconds_left == 0
    assert last.trades_per_episode > 0
    assert 0 < last.hold_share < 1
    assert math.isfinite(last.reward_mean)
    assert seen[0].last_eval is None
    assert last.last_eval is not None


def test_target_exposures_train_too(tmp_path: Path) -> None:
    actions = {"scheme": "targets", "targets": [0, 0.5, 1]}
    trained = train(experiment(agent__steps=512, account__actions=actions), tmp_path / "run")
    assert load_bundle(trained.bundle).manifest.actions == ("target 0", "target 0.5", "target 1", "hold")
    tags = tensorboard(trained.run_dir).Tags()["scalars"]
    assert {"actions/target_0.5_share", "mask/target_1_blocked"} <= set(tags)


@pytest.mark.parametrize(
    "reward", [{"kind": "differential_sharpe", "rate": 0.05}, {"kind": "drawdown", "penalty": 0.5}]
)
def test_every_reward_of_a_configuration_is_paid(reward: dict[str, Any]) -> None:
    chosen = experiment(reward=reward)
    rules = episode_rules(chosen)
    assert rules.reward == reward["kind"]
    assert list(rules.reward_parameters.values()) == [list(reward.values())[1]]
    envs = TradingVecEnv(load_markets(chosen).train, chosen.account, 4, rules)
    envs.seed(0)
    envs.reset()
    paid = sum(np.abs(envs.step(envs.action_masks().argmax(axis=1))[1]).sum() for _ in range(30))
    assert paid > 0
