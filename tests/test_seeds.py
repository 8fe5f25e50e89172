"""Several seeds: what they say together, and that killed, stopped and resumed ones end as if nothing had happened."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from small_experiment import SETTINGS, experiment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from finsense.agents.crew import CrewError, News
from finsense.agents.learners import LEARNERS
from finsense.agents.local_crew import LocalCrew
from finsense.agents.occupancy import is_occupied, occupied
from finsense.agents.progress import TrainingInterrupted
from finsense.agents.run_folder import RunError
from finsense.agents.seeds import (
    GroupOutcome,
    SeedOutcome,
    SeedsError,
    conclude,
    open_group,
    run_folder_of,
    seed_experiment,
    train_seeds,
)
from finsense.agents.selection import judge_on_test
from finsense.cli.main import app
from finsense.config import Experiment
from finsense.evaluation.seed_statistics import interquartile_mean, median_seed, stratified_interval
from finsense.model.bundle import load_bundle

scores = st.lists(st.floats(-1, 1), min_size=1, max_size=40)


# --- statistics -------------------------------------------------------------------------------------------------------


@given(scores)
def test_the_interquartile_mean_is_the_trimmed_mean(values: list[float]) -> None:
    """rliable, the reference implementation of Agarwal et al. 2021, takes scipy's trimmed mean of a quarter."""
    expected = scipy.stats.trim_mean(values, 0.25)
    assert interquartile_mean(np.array(values)) == pytest.approx(expected, abs=1e-12)


def test_one_wild_seed_moves_the_interquartile_mean_little() -> None:
    assert interquartile_mean(np.array([1.0, 2.0, 3.0, -1e9])) == 1.5
    assert interquartile_mean(np.array([[1.0, 2.0], [3.0, 1e9]])) == 2.5


def test_the_interval_is_the_percentile_bootstrap() -> None:
    values = np.random.default_rng(5).normal(size=12)
    found = stratified_interval(values[:, None], np.random.default_rng(0))
    reference = scipy.stats.bootstrap(
        (values,),
        lambda drawn, axis: scipy.stats.trim_mean(drawn, 0.25, axis=axis),
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found == pytest.approx((reference.low, reference.high), abs=0.02)


def test_strata_are_drawn_apart() -> None:
    """Two tasks that cancel in every seed: drawn together the mean would be 0 in each sample."""
    values = np.array([[1.0, -1.0], [2.0, -2.0], [-3.0, 3.0]])
    found = stratified_interval(values, np.random.default_rng(0))
    assert found is not None
    assert found[0] < -0.5 < 0.5 < found[1]


def test_a_single_seed_has_no_interval() -> None:
    assert stratified_interval(np.array([[1.0]]), np.random.default_rng(0)) is None
    assert interquartile_mean(np.array([0.5])) == 0.5


@given(scores)
def test_the_median_seed_flatters_nobody(values: list[float]) -> None:
    pairs = list(enumerate(values, start=7))
    chosen = dict(pairs)[median_seed(pairs)]
    assert sum(value < chosen for value in values) <= len(values) // 2
    assert sum(value > chosen for value in values) >= 0
    assert chosen <= np.median(values) + 1e-12
    assert median_seed(pairs) == median_seed(pairs[::-1])


# --- a group ----------------------------------------------------------------------------------------------------------


def small(**changes: Any) -> Experiment:
    return experiment(agent__steps=1280, agent__checkpoint_every=250, **changes)


class Listener:
    """Kills the worker of a seed, or presses Ctrl-C, once the seed has passed so many steps."""

    def __init__(self, deeds: dict[str, tuple[int, int]]) -> None:
        self.deeds, self.heard = deeds, list[News]()

    def __call__(self, news: News) -> None:
        self.heard.append(news)
        steps, number = self.deeds.get(news.task, (0, 0))
        if number and news.kind == "said" and news.value.steps >= steps:
            del self.deeds[news.task]
            assert news.pid is not None
            os.kill(os.getpid() if number == signal.SIGINT else news.pid, number)

    def ends(self) -> dict[str, str]:
        return {news.task: news.kind for news in self.heard if news.kind != "said"}


def steps_said(listener: Listener, task: str) -> list[int]:
    return [news.value.steps for news in listener.heard if news.kind == "said" and news.task == task]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A group of three: seed 3 finds another run in its folder, 4 is killed, 5 is stopped by Ctrl-C; then resumed."""
    folder, chosen = tmp_path_factory.mktemp("seeds") / "group", small()
    seeds = open_group(folder, chosen, 3, resume=False)
    (folder / "seed_3" / "checkpoints" / "step_000000000256").mkdir(parents=True)
    (folder / "seed_3" / "config.resolved.yaml").write_text(seed_experiment(chosen, 3).resolved_yaml())
    (folder / "seed_3" / "manifest.json").write_text('{"config_hash": "another"}')
    first = Listener({"seed_4": (768, signal.SIGKILL), "seed_5": (1024, signal.SIGINT)})
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(TrainingInterrupted), LocalCrew(2) as crew:
            train_seeds(folder, chosen, seeds, crew=crew, tell=first)
    finally:
        signal.signal(signal.SIGINT, previous)
    second = Listener({})
    with LocalCrew(1) as crew:
        seeds = open_group(folder, chosen, None, resume=True)
        outcomes = train_seeds(folder, chosen, seeds, crew=crew, tell=second)
    outcome = conclude(folder, chosen, outcomes, test=False)
    return {"first": first, "second": second, "outcome": outcome}


def test_a_seed_that_fails_or_is_killed_is_reported_and_the_others_go_on(story: dict[str, Any]) -> None:
    assert story["first"].ends() == {"seed_3": "failed", "seed_4": "killed", "seed_5": "stopped"}
    said = {news.task: news.value for news in story["first"].heard if news.kind != "said"}
    assert said["seed_4"] == "its process was killed by SIGKILL"
    assert "seed_3 was another experiment" in said["seed_3"]
    outcome: GroupOutcome = story["outcome"]
    assert [one.state for one in outcome.seeds] == ["failed", "finished", "finished"]
    assert outcome.selection is not None
    assert [one.state for one in outcome.selection.candidates] == ["failed", "finished", "finished"]
    assert outcome.seeds[0].error.split(":")[0] in (outcome.folder / "logs" / "seed_3.log").read_text()


def test_a_resumed_group_goes_on_from_its_checkpoints(story: dict[str, Any]) -> None:
    """One was killed after the checkpoint of 512 steps or a later one, the other saved when it was stopped."""
    assert story["second"].ends() == {"seed_3": "failed", "seed_4": "done", "seed_5": "done"}
    assert steps_said(story["second"], "seed_4")[0] > 512
    assert steps_said(story["second"], "seed_5") in ([1280], [])


def test_finished_seeds_are_not_trained_again(story: dict[str, Any]) -> None:
    outcome: GroupOutcome = story["outcome"]
    listener = Listener({})
    again = train_seeds(outcome.folder, small(), (4, 5), crew=LocalCrew(1), tell=listener)
    assert again == list(outcome.seeds[1:])
    assert listener.heard == []


def test_every_seed_ends_as_if_it_were_trained_alone(story: dict[str, Any], tmp_path: Path) -> None:
    outcome: GroupOutcome = story["outcome"]
    alone = LEARNERS["ppo"](seed_experiment(small(), 4), tmp_path / "run")
    assert outcome.seeds[1].result["weights_hash"] == alone.weights_hash
    assert outcome.seeds[1].result["validation"] == alone.validation
    assert outcome.seeds[2].result["weights_hash"] != alone.weights_hash


def test_the_median_is_exported_with_the_record_of_the_choice(story: dict[str, Any]) -> None:
    outcome: GroupOutcome = story["outcome"]
    assert outcome.bundle is not None
    bundle = load_bundle(outcome.bundle)
    selection = bundle.manifest.provenance.selection
    assert selection is not None
    finished = outcome.seeds[1:]
    # Of two the lower one.
    worse = min(finished, key=lambda one: float(one.result["validation"]["log_return"]))
    assert selection.chosen == worse.run_dir.name
    assert bundle.manifest.provenance.seed == worse.seed
    assert bundle.manifest.validation == worse.result["validation"]
    found = {one.name: one.log_return for one in selection.candidates}
    assert found == {"seed_3": None, **{one.run_dir.name: one.score for one in finished}}
    values = np.array([one.score for one in finished], np.float64)
    assert selection.interquartile_mean == pytest.approx(values.mean())
    assert selection.interval == (values.min(), values.max())
    card = (outcome.bundle / "model_card.md").read_text()
    assert f"`{selection.chosen}` of 3 seeds (2 finished, 1 failed): the median" in card
    assert "the test span was not touched" in card


def test_the_test_span_is_touched_once_and_that_is_recorded(story: dict[str, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(story["outcome"].folder, tmp_path / "group")
    with pytest.raises(SeedsError, match="when every seed has finished; missing: 3"):
        conclude(folder, small(), story["outcome"].seeds, test=True)
    finished = story["outcome"].seeds[1:]
    outcome = conclude(folder, small(), finished, test=True)
    assert outcome.selection is not None
    chosen = run_folder_of(folder, int(outcome.selection.chosen.removeprefix("seed_")))
    assert outcome.selection.test == judge_on_test(chosen / "bundle", small())
    assert outcome.selection.test != outcome.seeds[0].result["validation"]
    # A second look gives what the first one found, whatever is in the data now.
    record = json.loads((folder / "result.json").read_text())
    record["test"]["log_return"] = 0.125
    (folder / "result.json").write_text(json.dumps(record))
    again = conclude(folder, small(), finished, test=True)
    assert again.selection is not None
    assert again.selection.test is not None
    assert again.selection.test["log_return"] == 0.125
    assert "the test span was touched once" in (folder / "bundle" / "model_card.md").read_text()


def test_tensorboard_compares_the_seeds(story: dict[str, Any]) -> None:
    outcome: GroupOutcome = story["outcome"]
    for one in outcome.seeds[1:]:
        events = EventAccumulator(str(outcome.folder / "hparams" / one.run_dir.name))
        events.Reload()
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        assert b"seed" in content
        (scalar,) = events.Scalars("validation/log_return")
        assert scalar.value == pytest.approx(one.score, rel=1e-6)


def test_nothing_is_exported_where_nothing_finished(tmp_path: Path) -> None:
    outcome = conclude(tmp_path, small(), [SeedOutcome(3, tmp_path / "seed_3", "killed", {}, "gone")], test=False)
    assert (outcome.selection, outcome.bundle) == (None, None)
    assert list(tmp_path.iterdir()) == []


# --- what is refused --------------------------------------------------------------------------------------------------


def test_impossible_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedsError, match="expected one seed or more, found 0"):
        open_group(tmp_path / "group", small(), 0, resume=False)
    with pytest.raises(SeedsError, match="go beyond the largest one, 4294967295; lower `seed`"):
        open_group(tmp_path / "group", small(seed=2**32 - 1), 2, resume=False)
    with pytest.raises(RunError, match=r"holds no run: group.json is missing"):
        open_group(tmp_path, small(), None, resume=True)
    seeds = open_group(tmp_path / "group", small(), 3, resume=False)
    assert seeds == (3, 4, 5)
    with pytest.raises(CrewError, match="expected one job or more, found 0"):
        LocalCrew(0)
    with pytest.raises(RunError, match="holds a run already"):
        open_group(tmp_path / "group", small(), 3, resume=False)
    with pytest.raises(SeedsError, match="has 3 seeds, found --seeds 4"):
        open_group(tmp_path / "group", small(), 4, resume=True)
    with pytest.raises(SeedsError, match=r"(?s)another experiment.*agent.gamma: 0.99 -> 0.5"):
        open_group(tmp_path / "group", small(agent__gamma=0.5), None, resume=True)


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    seeds = open_group(tmp_path / "group", small(), 1, resume=False)
    with occupied(run_folder_of(tmp_path / "group", 3)):
        assert is_occupied(run_folder_of(tmp_path / "group", 3))
        with pytest.raises(RunError, match=r"a process still trains in .*seed_3; wait until it has ended"):
            train_seeds(tmp_path / "group", small(), seeds, crew=LocalCrew(1), tell=lambda news: None)
    assert not is_occupied(run_folder_of(tmp_path / "group", 3))
    with occupied(tmp_path / "group"), pytest.raises(RunError, match="in use by another process"):
        train_seeds(tmp_path / "group", small(), seeds, crew=LocalCrew(1), tell=lambda news: None)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--seeds", "0"], "Invalid value for '--seeds'"),
        (["--seeds", "2", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["--jobs", "2"], "--jobs, --engine, --ray-address and --test belong to --seeds N"),
        (["--test"], "--jobs, --engine, --ray-address and --test belong to --seeds N"),
        (["--engine", "ray"], "--jobs, --engine, --ray-address and --test belong to --seeds N"),
        (["--seeds", "2", "--ray-address", "auto"], "--ray-address belongs to --engine ray"),
    ],
)
def test_wrong_options_are_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(json.dumps(SETTINGS))
    result = CliRunner().invoke(app, ["train", "small.yaml", *options], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not Path("runs").exists()


def test_the_command_shows_the_seeds(story: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resuming a group that has finished trains nothing and tells the same again."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(story["outcome"].folder, Path("runs") / "group")
    group = json.loads((folder / "group.json").read_text())
    (folder / "group.json").write_text(json.dumps({**group, "seeds": [4, 5]}))
    Path("small.yaml").write_text(small().resolved_yaml())
    arguments = ["train", "small.yaml", "--resume", str(folder), "--quiet"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [one["seed"] for one in document["seeds"]] == [4, 5]
    hashes = [one.result["weights_hash"] for one in story["outcome"].seeds[1:]]
    assert [one["weights_hash"] for one in document["seeds"]] == hashes
    assert document["bundle"] == "checkpoints/small"
    assert load_bundle(Path("checkpoints/small")).manifest.provenance.selection is not None
    table = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert table.exit_code == 0, table.stderr
    assert "interquartile mean of 2 seeds" in table.stdout
    assert f"{document['chosen']} is exported: the median" in table.stdout


def test_a_group_that_lacks_a_seed_exits_with_1(
    story: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here another process is still at the group, so nothing is trained, and the command says so."""
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(story["outcome"].folder, tmp_path / "group")
    Path("small.yaml").write_text(small().resolved_yaml())
    with occupied(folder):
        result = CliRunner().invoke(app, ["train", "small.yaml", "--resume", str(folder), "--quiet"])
    assert result.exit_code == 1
    assert "is in use by another process" in result.stderr
