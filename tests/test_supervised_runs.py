"""A run of a supervised model: what it leaves, how it is stopped and gone on with, and what it refuses."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_experiment import SETTINGS, experiment
from supervised_fits import settings_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from finsense.agents.learners import LEARNERS
from finsense.agents.markets import load_markets
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.run_folder import RunError
from finsense.agents.runs_index import read_run
from finsense.agents.supervised.calibration import CalibrationError
from finsense.agents.supervised.conformal import ConformalError
from finsense.agents.supervised.dataset import DatasetError, datasets
from finsense.agents.supervised.source import WarmStartError
from finsense.agents.training import Trained
from finsense.cli.main import app
from finsense.config import Experiment, load_experiment
from finsense.model.bundle import load_bundle

LABEL = {"kind": "direction", "horizon": 4}
MARKET = {**SETTINGS["data"], "reversion": 0.8, "shock": 0.004}


def model(kind: str = "xgboost", **changes: Any) -> Experiment:
    """A small experiment; `state__history=9` changes one value, `agent__rounds=3` one of the model."""
    brief = {"rounds": 30} if kind == "xgboost" else {"epochs": 3}
    values: dict[str, Any] = {"agent": settings_of(kind, label={**LABEL}, **brief), "data": {**MARKET}, **changes}
    return experiment(**values)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return LEARNERS["xgboost"](model(), tmp_path_factory.mktemp("run") / "whole")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "xgboost.yaml"
    path.write_text(json.dumps(model().resolved(), indent=1))
    return path


def test_the_folder_has_what_every_run_has(run: Trained) -> None:
    names = {path.name for path in run.run_dir.iterdir()}
    assert {"config.resolved.yaml", "manifest.json", "checkpoints", "tb", "bundle"} <= names
    assert load_experiment(run.run_dir / "config.resolved.yaml").hash() == model().hash()
    forecast = load_bundle(run.bundle).manifest.forecast
    assert forecast is not None
    trained = forecast.calibration["trained"]
    train, _ = datasets(model(), load_markets(model()))
    assert trained["rows"] == len(train)
    assert list(trained["class_shares"].values()) == pytest.approx(np.bincount(train.target) / len(train))
    assert run.steps == 30 * len(train) >= run.validation["best_steps"] == trained["best_epoch"] * len(train)


def test_tensorboard_has_settings_and_figures(run: Trained) -> None:
    events = EventAccumulator(str(run.run_dir / "tb"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "eval/log_return", "eval/log_loss"} <= set(tags["scalars"])
    assert "run/config/text_summary" in tags["tensors"]
    assert any(name.startswith("_hparams_") for name in events.summary_metadata)


def test_the_alarms_are_those_of_the_bundle(run: Trained) -> None:
    manifest = load_bundle(run.bundle).manifest
    assert run.alarms == manifest.alarms
    assert run.validation == manifest.validation


def test_ctrl_c_and_resume_end_as_if_nothing_had_been(run: Trained, tmp_path: Path) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.fit is not None and progress.fit.epoch == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        LEARNERS["xgboost"](model(), tmp_path / "cut", report=interrupt)
    assert not (tmp_path / "cut" / "bundle").exists()
    resumed = LEARNERS["xgboost"](model(), tmp_path / "cut", resume=True)
    assert resumed.weights_hash == run.weights_hash
    assert resumed.steps == run.steps
    assert resumed.validation == run.validation
    first, second = (load_bundle(one.bundle).manifest for one in (run, resumed))
    assert first.forecast == second.forecast


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_anew(
    run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("finsense.agents.supervised.run.selected_columns", killed)
        with pytest.raises(KeyboardInterrupt):
            LEARNERS["xgboost"](model(), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert LEARNERS["xgboost"](model(), tmp_path / "run", resume=True).weights_hash == run.weights_hash


def test_the_threads_of_torch_are_left_as_they_were(run: Trained, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    with pytest.raises(DatasetError):
        LEARNERS["xgboost"](model(agent__label__dead_zone=900.0), tmp_path / "run")
    assert torch.get_num_threads() == before


# What is refused.


def test_another_configuration_is_no_resumption(run: Trained) -> None:
    with pytest.raises(RunError, match=r"another experiment.*\n.*agent\.rounds: 30 -> 31"):
        LEARNERS["xgboost"](model(agent__rounds=31), run.run_dir, resume=True)
    with pytest.raises(RunError, match="holds a run already"):
        LEARNERS["xgboost"](model(), run.run_dir)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        (
            {"agent__label__dead_zone": 900.0},
            DatasetError,
            r"at least two classes, found 2960 of class flat alone.*dead",
        ),
        ({"agent__label__horizon": 100_000, "account__product": "delivery"}, ValueError, r"horizon"),
        (
            {"split__validation__to": "2023-02-01", "agent__label__horizon": 30},
            CalibrationError,
            r"at least 50 labels in each half",
        ),
        ({"agent__abstain_error_rate": 1e-4}, ConformalError, r"at least 9999 labels of class down"),
        ({"state__history": 60}, ValueError, r"history"),
    ],
)
def test_what_cannot_be_learned_is_refused_and_says_why(
    changes: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=says):
        LEARNERS["xgboost"](model(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists(), "a run that cannot begin leaves no folder behind"


def test_an_earlier_model_that_saw_the_validation_span_is_refused(run: Trained, tmp_path: Path) -> None:
    later = {
        "train": {"from": "2023-01-02", "to": "2023-01-20"},
        "validation": {"from": "2023-01-23", "to": "2023-01-31"},
        "test": {"from": "2023-02-01", "to": "2023-02-08"},
    }
    with pytest.raises(WarmStartError, match=r"train span of .* ends on 2023-01-31, after split\.validation begins on"):
        LEARNERS["xgboost"](model(agent__warm_start=str(run.bundle), split=later), tmp_path / "run")
    with pytest.raises(WarmStartError, match=r"expected a bundle of kind gru at .*, found kind xgboost"):
        LEARNERS["gru"](model("gru", agent__warm_start=str(run.bundle)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_warm_start_goes_on_from_the_earlier_model(run: Trained, tmp_path: Path) -> None:
    warm = LEARNERS["xgboost"](model(agent__warm_start=str(run.bundle), agent__rounds=5), tmp_path / "run")
    # Another market of the same dates has nothing in common with the one it was trained on.
    elsewhere = model(agent__warm_start=str(run.bundle), agent__rounds=5, data={**MARKET, "seed": 5}, seed=4)
    assert LEARNERS["xgboost"](elsewhere, tmp_path / "elsewhere").weights_hash != warm.weights_hash
    # Its trees begin where the earlier ones ended, so the loss cannot be much worse.
    losses = [load_bundle(one.bundle).manifest.forecast for one in (run, warm)]
    found = [one.calibration["measured"]["after"]["log_loss"] for one in losses if one is not None]
    assert found[1] < found[0] + 0.02
    # What it was started from was made of days that it may not be judged on, either.
    spans = load_bundle(warm.bundle).manifest.provenance.spans
    first = load_bundle(run.bundle).manifest.provenance.spans
    assert spans["inherited"] == (first["train"][0], first["validation"][1])


def test_a_supervised_run_is_listed_as_any_other(run: Trained) -> None:
    record = read_run(run.run_dir, run.run_dir.parent)
    assert (record.state, record.kind) == ("finished", "xgboost"), record


def test_a_model_without_an_edge_holds_and_is_exported(tmp_path: Path) -> None:
    walk = {**SETTINGS["data"], "model": "random_walk", "volatility": 0.0005}
    chosen = model(data=walk, agent__label={"kind": "forward_return", "horizon": 4}, agent__rounds=5)
    trained = LEARNERS["xgboost"](chosen, tmp_path / "run")
    assert trained.validation["hold_share"] == 1.0
    assert trained.validation["log_return"] == 0.0
    assert set(trained.alarms) == {"never_trades"}
    assert load_bundle(trained.bundle).golden.actions.size > 0


# The commands.


def test_the_commands_train_and_refuse_as_with_agents(config: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    folder = tmp_path / "run"
    done = runner.invoke(app, ["train", str(config), "--out", str(folder), "--json", "--set", "agent.rounds=3"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout[done.stdout.index("{") :])
    assert told["steps"] == 3 * 2960
    assert load_bundle(Path(told["bundle"])).manifest.kind == "xgboost"
    assert json.loads((folder / "result.json").read_text())["state"] == "finished"
    for settings, code, says in (
        ("agent.label.dead_zone=900", 4, "error[data]: expected training labels of at least two classes"),
        ("agent.rounds=0", 3, "agent.rounds"),
        ("agent.epochs=3", 3, "agent.epochs"),
    ):
        refused = runner.invoke(app, ["train", str(config), "--out", str(tmp_path / "other"), "--set", settings])
        assert refused.exit_code == code, refused.output
        assert says in refused.stderr
    changed = runner.invoke(app, ["train", str(config), "--resume", str(folder)])
    assert changed.exit_code == 1
    assert "agent.rounds: 3 -> 30" in changed.stderr


@pytest.mark.slow
def test_seeds_and_a_search_take_supervised_models(config: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    group = tmp_path / "group"
    options = ["--seeds", "2", "--jobs", "2", "--out", str(group), "--json", "--set", "agent.rounds=5"]
    done = runner.invoke(app, ["train", str(config), *options])
    assert done.exit_code == 0, done.output
    selection = load_bundle(group / "bundle").manifest.provenance.selection
    assert selection is not None
    assert [one.state for one in selection.candidates] == ["finished", "finished"]
    space = {"agent.max_depth": {"low": 1, "high": 3}, "agent.learning_rate": {"low": 0.01, "high": 0.3, "log": True}}
    values = {**model(agent__rounds=5).resolved(), "tune": {"space": space}}
    search = tmp_path / "search.yaml"
    search.write_text(json.dumps(values))
    storage = tmp_path / "study.journal"
    done = runner.invoke(
        app, ["tune", str(search), "--trials", "3", "--jobs", "2", "--storage", str(storage), "--json"]
    )
    assert done.exit_code == 0, done.output
    bundle = next(iter(tmp_path.glob("study.journal.runs/*/bundle")))
    assert load_bundle(bundle).manifest.kind == "xgboost"
