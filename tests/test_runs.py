"""Runs on disk: each state is told apart, two are compared, and one that is trained again has the same weights."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_experiment import experiment
from typer.testing import CliRunner

from finsense.agents.occupancy import occupied
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.recorded_training import train_missing, train_recorded
from finsense.agents.reproduction import Reproduction
from finsense.agents.run_folder import RunError
from finsense.agents.run_record import read_json, read_result
from finsense.agents.runs_index import RunRecord, evaluations, find_runs, named_run
from finsense.agents.training import Trained
from finsense.agents.watch import TrainingError
from finsense.cli.main import app
from finsense.cli.runs import sparkline


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_recorded(experiment(agent__steps=1024), tmp_path_factory.mktemp("runs") / "one")


def finsense(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["runs", *arguments], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def states(root: Path) -> dict[str, str]:
    return {run.label: run.state for run in find_runs(root)}


def test_a_finished_run_is_recorded(trained: Trained) -> None:
    result = read_result(trained.run_dir)
    assert (result["state"], result["kind"], result["seed"], result["steps"]) == ("finished", "ppo", 3, 1024)
    assert result["weights_hash"] == trained.weights_hash
    assert result["validation"] == trained.validation
    (run,) = find_runs(trained.run_dir.parent)
    assert (run.label, run.name, run.kind, run.seed, run.state) == ("one", "small", "ppo", 3, "finished")
    assert (run.steps, run.total, run.bundle) == (1024, 1024, trained.bundle)
    assert run.score == trained.validation["log_return"]


def test_each_state_is_told_apart(trained: Trained, tmp_path: Path) -> None:
    whole = trained.run_dir
    for name in ("stopped", "old", "damaged", "lacking", "group/seed_3"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "group" / "group.json").write_text("{}")
    (tmp_path / "group" / "config.resolved.yaml").write_text("{}")
    (tmp_path / "stopped" / "result.json").unlink()
    shutil.rmtree(tmp_path / "stopped" / "bundle")
    # Trained before results were recorded.
    (tmp_path / "old" / "result.json").unlink()
    (tmp_path / "damaged" / "config.resolved.yaml").write_text("agent: [")
    (tmp_path / "lacking" / "manifest.json").unlink()
    found = {run.label: run for run in find_runs(tmp_path)}
    assert {name: run.state for name, run in found.items()} == {
        "stopped": "stopped",
        "old": "finished",
        "damaged": "damaged",
        "lacking": "damaged",
        "group/seed_3": "finished",
    }
    assert found["lacking"].error.endswith("lacking holds no run: manifest.json is missing")
    scores = {run.score for name, run in found.items() if name not in ("damaged", "lacking")}
    assert scores == {trained.validation["log_return"]}
    with occupied(tmp_path / "stopped"):
        assert states(tmp_path)["stopped"] == "running"
    assert states(tmp_path)["stopped"] == "stopped"


def test_a_failure_is_recorded_and_gone_when_the_run_goes_on(tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        train_recorded(experiment(reward__scale=1e37), tmp_path / "run")
    (run,) = find_runs(tmp_path)
    assert run.state == "failed"
    assert "no longer finite" in run.error

    def stop(progress: Progress) -> None:
        raise TrainingInterrupted("enough")

    with pytest.raises(TrainingInterrupted):
        train_missing(experiment(reward__scale=1e37), tmp_path / "run", report=stop)
    assert states(tmp_path) == {"run": "stopped"}


def test_a_command_that_is_refused_leaves_the_record_of_a_finished_run(trained: Trained, tmp_path: Path) -> None:
    run_dir = shutil.copytree(trained.run_dir, tmp_path / "run")
    before = read_result(run_dir)
    with pytest.raises(RunError, match="holds a run already"):
        train_recorded(experiment(agent__steps=1024), run_dir)
    with pytest.raises(RunError, match="another experiment"):
        train_recorded(experiment(agent__gamma=0.5), run_dir, resume=True)
    assert read_result(run_dir) == before
    assert train_missing(experiment(agent__steps=1024), run_dir) == before


def test_one_folder_takes_one_training_at_a_time(tmp_path: Path) -> None:
    with occupied(tmp_path), pytest.raises(RunError, match="in use by another process; wait until it has ended"):
        train_recorded(experiment(), tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_the_list_is_sorted_and_filtered(trained: Trained, tmp_path: Path) -> None:
    for name, score, seconds in (("a", 0.5, 30), ("b", 0.9, 10), ("c", 0.1, 20)):
        run_dir = shutil.copytree(trained.run_dir, tmp_path / name)
        result = read_result(run_dir)
        result["validation"]["log_return"] = score
        (run_dir / "result.json").write_text(json.dumps(result))
        for file in ("manifest.json", "config.resolved.yaml"):
            os.utime(run_dir / file, (1_700_000_000 - seconds, 1_700_000_000 - seconds))
    (tmp_path / "c" / "result.json").unlink()
    shutil.rmtree(tmp_path / "c" / "bundle")

    def listed(*options: str) -> list[str]:
        code, out, err = finsense("list", "--root", str(tmp_path), "--json", *options)
        assert code == 0, err
        return [run["run"] for run in json.loads(out)["runs"]]

    assert listed() == ["b", "c", "a"]
    assert listed("--sort", "name") == ["a", "b", "c"]
    assert listed("--sort", "score") == ["b", "a", "c"]
    assert listed("--state", "stopped") == ["c"]
    assert listed("--name", "small", "--kind", "ppo", "--sort", "steps") == ["b", "c", "a"]
    assert listed("--kind", "dqn") == []
    code, out, _ = finsense("list", "--root", str(tmp_path))
    assert code == 0
    assert "runs: 3" in out
    assert "stopped" in out


def test_no_runs_are_no_error(tmp_path: Path) -> None:
    assert finsense("list", "--root", str(tmp_path))[:2] == (0, f"no runs under {tmp_path}\n")
    code, out, _ = finsense("list", "--root", str(tmp_path / "nowhere"), "--json")
    assert (code, json.loads(out)["runs"]) == (0, [])


@pytest.mark.parametrize("options", [["--sort", "luck"], ["--state", "sleeping"]])
def test_wrong_options_are_wrong_usage(options: list[str]) -> None:
    code, out, err = finsense("list", *options)
    assert (code, out) == (2, "")
    assert f"found '{options[1]}'" in err


def test_a_run_is_named_by_its_beginning(trained: Trained, tmp_path: Path) -> None:
    for name in ("2026_a", "2026_b", "group/seed_3"):
        shutil.copytree(trained.run_dir, tmp_path / name)
    (tmp_path / "group" / "group.json").write_text("{}")
    assert named_run(tmp_path, "2026_b").path == tmp_path / "2026_b"
    assert named_run(tmp_path, str(tmp_path / "2026_a")).label == "2026_a"
    assert named_run(tmp_path, "group/s").label == "group/seed_3"
    with pytest.raises(RunError, match="begins with '2026', found 2: 2026_a, 2026_b"):
        named_run(tmp_path, "2026")
    with pytest.raises(RunError, match="begins with '2027', found none"):
        named_run(tmp_path, "2027")
    with pytest.raises(RunError, match=r"is a group of seeds; name one of them, such as group/seed_3"):
        named_run(tmp_path, "group")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"holds no run: manifest.json is missing"):
        named_run(tmp_path, "empty")


def test_one_run_is_shown_with_the_curve_of_its_evaluations(trained: Trained) -> None:
    run: RunRecord = named_run(trained.run_dir.parent, "one")
    curve = evaluations(run)
    # Made after 512 steps, logged after the next rollout.
    assert [steps for steps, _ in curve] == [768, 1024]
    assert max(value for _, value in curve) == pytest.approx(trained.validation["log_return"], rel=1e-6)
    code, out, err = finsense("show", "one", "--root", str(trained.run_dir.parent), "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["weights_hash"] == trained.weights_hash
    assert document["settings"]["agent.net_arch"] == [8]
    assert document["validation"] == trained.validation
    assert list(document["data_hash"]) == ["SIMA", "SIMB"]
    assert [one["steps"] for one in document["evaluations"]] == [768, 1024]
    code, out, _ = finsense("show", "one", "--root", str(trained.run_dir.parent))
    assert code == 0
    assert sparkline([value for _, value in curve]) in out


def test_the_sparkline_spans_its_values() -> None:
    assert sparkline([0.0, 1.0, 2.0, 7.0]) == "▁▂▃█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    long = sparkline([float(value) for value in range(1000)])
    assert len(long) == 60
    assert (long[0], long[-1]) == ("▁", "█")


def test_two_runs_are_compared(trained: Trained, tmp_path: Path) -> None:
    one, two = (shutil.copytree(trained.run_dir, tmp_path / name) for name in ("one", "two"))
    config = two / "config.resolved.yaml"
    config.write_text(config.read_text().replace("gamma: 0.99", "gamma: 0.5").replace("seed: 3", "seed: 4", 1))
    code, out, err = finsense("compare", "one", "two", "--root", str(tmp_path), "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["settings"] == {"seed": [3, 4], "agent.gamma": [0.99, 0.5]}
    assert document["results"]["log_return"] == [trained.validation["log_return"]] * 2
    code, out, _ = finsense("compare", str(one), str(one), "--root", str(tmp_path))
    assert code == 0
    assert "their settings are the same" in out
    assert finsense("compare", "one", "--root", str(tmp_path))[0] == 2


def changed(trained: Trained, path: Path, name: str, **changes: Any) -> Path:
    run_dir = shutil.copytree(trained.run_dir, path)
    document = {**read_json(run_dir / name), **changes}
    (run_dir / name).write_text(json.dumps(document))
    return run_dir


def test_a_run_is_reproduced_to_the_bit(trained: Trained, tmp_path: Path) -> None:
    """The record says another hash and another version; what comes out is the hash that was trained."""
    run_dir = changed(trained, tmp_path / "run", "result.json", weights_hash="0" * 64)
    manifest = read_json(run_dir / "manifest.json")
    manifest["versions"]["numba"] = "0.1"
    manifest["git_commit"] = "abc"
    (run_dir / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = finsense("reproduce", str(run_dir), "--json", "--quiet")
    assert code == 5, err
    # A test's logs go to stdout; the command's own process sends them to stderr.
    document = json.loads(out[out.index("{\n") :])
    assert document["found"] == trained.weights_hash
    assert (document["expected"], document["same"]) == ("0" * 64, False)
    assert document["differs"][0].startswith("version of numba: 0.1 -> ")
    assert document["differs"][1].startswith("git commit: abc -> ")
    assert Reproduction(trained.weights_hash, document["found"], ()).same


def test_other_data_or_settings_cannot_be_reproduced(trained: Trained, tmp_path: Path) -> None:
    data = {**read_json(trained.run_dir / "manifest.json")["data_hash"], "SIMB": "0" * 64}
    run_dir = changed(trained, tmp_path / "data", "manifest.json", data_hash=data, config_hash="f" * 64)
    code, out, _ = finsense("reproduce", str(run_dir), "--quiet")
    assert code == 5
    assert "configuration: config.resolved.yaml is not what was trained" in out
    assert f"data of SIMB: {'0' * 64} -> " in out
    assert "not trained, for it cannot come out the same" in out
    assert "SIMA" not in out


def test_an_unfinished_run_cannot_be_reproduced(trained: Trained, tmp_path: Path) -> None:
    run_dir = changed(trained, tmp_path / "run", "result.json", state="failed")
    code, _, err = finsense("reproduce", str(run_dir), "--quiet")
    assert code == 1
    assert "has not recorded the hash of its last weights" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert finsense("reproduce", str(trained.run_dir), "--scratch", str(tmp_path / "full"))[0] == 2
