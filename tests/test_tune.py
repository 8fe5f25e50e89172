"""A search: its space is checked before anything runs, killed trials are taken up again, every trial is counted."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_experiment import SETTINGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from finsense.agents.crew import News
from finsense.agents.learners import LEARNERS
from finsense.agents.local_crew import LocalCrew
from finsense.agents.occupancy import occupied
from finsense.agents.run_folder import RunError
from finsense.agents.run_record import read_result
from finsense.agents.runs_index import find_runs
from finsense.agents.study import TuneError, distributions, next_trial, open_study, take_up, trial_name, values_of
from finsense.agents.tuning import TuneOutcome, study_folder, tune
from finsense.cli.main import app
from finsense.config import ConfigError, SearchPlan, read_search
from finsense.model.bundle import load_bundle

SPACE: dict[str, Any] = {
    "agent.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "agent.n_epochs": {"low": 1, "high": 3},
    "agent.net_arch": {"choices": [[8], [8, 4]]},
}


def write(folder: Path, **tune_section: Any) -> Path:
    agent = {**SETTINGS["agent"], "steps": 1280, "eval_every": 256, "checkpoint_every": 250}
    path = folder / "search.yaml"
    path.write_text(json.dumps({**SETTINGS, "agent": agent, "tune": {"space": SPACE, **tune_section}}, indent=1))
    return path


def plan_in(folder: Path, **tune_section: Any) -> SearchPlan:
    return read_search(write(folder, **tune_section))


def problems(folder: Path, space: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_search(write(folder, space=space))
    return [problem.message for problem in caught.value.problems]


# --- the space --------------------------------------------------------------------------------------------------------


def test_a_space_is_checked_against_the_models_and_names_its_entry(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        space={"agent.gama": {"low": 0.5, "high": 0.9}, "agent.clip_range": {"low": 0.1, "high": 7}},
    )
    with pytest.raises(ConfigError) as caught:
        read_search(path)
    found = {problem.message: problem for problem in caught.value.problems}
    unknown = found["`tune.space.agent.gama`: unknown key `gama` under `agent`"]
    assert unknown.hint == "did you mean `gamma`?"
    assert unknown.place is not None
    assert '"agent.gama"' in unknown.place.text
    assert unknown.place.line == path.read_text().split('"agent.gama"')[0].count("\n") + 1
    assert "found `7.0`" in found["`tune.space.agent.clip_range`: bad value for `agent.clip_range`"].hint


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({}, "give either low and high, or choices"),
        ({"low": 1}, "high is missing: a range needs low and high"),
        ({"high": 1}, "low is missing: a range needs low and high"),
        ({"low": 2, "high": 1}, "low must lie below high, found 2 and 1"),
        ({"low": 0, "high": 1, "log": True}, "low must be above 0 with log, found 0"),
        ({"low": 1, "high": 2, "step": 0.1, "log": True}, "step and log exclude each other"),
        ({"low": 1, "high": 2, "step": 0.3}, "step must divide high - low = 1, found 0.3"),
        ({"choices": [1], "low": 1, "high": 2}, "give either low and high, or choices"),
        ({"choices": [1], "log": True}, "step and log belong to low and high, not to choices"),
        ({"low": 1, "high": 2, "lg": True}, "unknown key `lg` under `tune.space.agent.gamma`"),
    ],
)
def test_an_entry_that_says_nothing_clear_is_refused(tmp_path: Path, entry: dict[str, Any], complaint: str) -> None:
    (message,) = problems(tmp_path, {"agent.gamma": entry})
    assert complaint in message


@pytest.mark.parametrize(
    "key", ["split.test", "data.seed", "account.balance", "agent.kind", "agent.eval_every", "seed"]
)
def test_what_makes_trials_comparable_is_not_searched(tmp_path: Path, key: str) -> None:
    (message,) = problems(tmp_path, {key: {"choices": [1, 2]}})
    assert f"{key} cannot be searched: trials are compared on the same market" in message


def test_values_may_go_together_that_do_not_go_alone(tmp_path: Path) -> None:
    """A batch of 512 needs more steps than the file's 32 x 8; 96 divides no rollout of the space."""
    space = {"agent.n_steps": {"choices": [32, 64]}, "agent.batch_size": {"choices": [64, 512]}}
    assert plan_in(tmp_path, space=space).integers == frozenset()
    space["agent.batch_size"]["choices"].append(96)
    (message,) = problems(tmp_path, space)
    assert "`tune.space.agent.batch_size`" in message
    assert "found 96" in message


def test_a_file_without_a_search_says_how_to_begin_one(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(json.dumps(SETTINGS))
    with pytest.raises(ConfigError, match="there is nothing to tune"):
        read_search(tmp_path / "plain.yaml")


def test_the_search_is_no_part_of_what_is_trained(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    trial = plan.trial({"agent.n_epochs": 2, "agent.net_arch": [8, 4]})
    assert (trial.agent.n_epochs, trial.agent.net_arch, trial.tune) == (2, (8, 4), None)  # type: ignore[union-attr]
    assert "tune" not in trial.resolved()
    assert plan.experiment.hash() == plan.trial({}).hash()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_draw_lies_in_the_space_and_makes_an_experiment(seed: int) -> None:
    plan = _PLANS.setdefault("plan", _plan_anywhere())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = values_of(plan, study.ask(distributions(plan)).params)
    assert list(values) == list(SPACE)
    assert 1e-4 <= values["agent.learning_rate"] <= 1e-2
    assert type(values["agent.n_epochs"]) is int
    assert values["agent.net_arch"] in ([8], [8, 4])
    agent = plan.trial(values).agent
    assert agent.learning_rate == values["agent.learning_rate"]


_PLANS: dict[str, SearchPlan] = {}


def _plan_anywhere() -> SearchPlan:
    import tempfile

    return plan_in(Path(tempfile.mkdtemp(prefix="finsense-test-")))


# --- the trials that come next ----------------------------------------------------------------------------------------


def ask_all(storage: Path, plan: SearchPlan, wanted: int, crash_after: int | None = None) -> list[dict[str, Any]]:
    """Ask for trials and score them by their learning rate; a crash leaves the last one running."""
    study = open_study(storage, "s", plan)
    take_up(study)
    asked = []
    while (trial := next_trial(study, plan, wanted)) is not None:
        asked.append(values_of(plan, trial.params))
        if crash_after is not None and len(asked) > crash_after:
            return asked
        study.tell(trial, values_of(plan, trial.params)["agent.learning_rate"])
    return asked


def test_a_search_that_was_killed_tries_the_same_values_as_one_that_was_not(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, startup_trials=3)
    whole = ask_all(tmp_path / "whole", plan, 8)
    before = ask_all(tmp_path / "killed", plan, 8, crash_after=4)
    after = ask_all(tmp_path / "killed", plan, 8)
    assert len({json.dumps(values) for values in whole}) == 8
    assert before == whole[:5]
    assert after == whole[4:], "the trial that was running comes first, and then those that would have come"
    assert ask_all(tmp_path / "killed", plan, 8) == []
    assert ask_all(tmp_path / "other", plan_in(tmp_path, startup_trials=3, seed=1), 8) != whole


def test_a_torn_last_line_loses_one_entry_and_no_more(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    ask_all(tmp_path / "journal", plan, 2)
    with (tmp_path / "journal").open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id"')
    assert len(ask_all(tmp_path / "journal", plan, 4)) == 2


def test_a_storage_of_another_study_is_refused(tmp_path: Path) -> None:
    ask_all(tmp_path / "journal", plan_in(tmp_path), 1)
    space = {**SPACE, "agent.n_epochs": {"low": 1, "high": 4}}
    with pytest.raises(TuneError, match=r"(?s)in use by another study 's'.*tune.space.agent.n_epochs.high: 3.* -> 4"):
        open_study(tmp_path / "journal", "s", plan_in(tmp_path, space=space))
    other = read_search(write(tmp_path), ["account.balance=70000"])
    with pytest.raises(TuneError, match=r"(?s)another study.*account.balance: 50000 -> 70000"):
        open_study(tmp_path / "journal", "s", other)
    # Under another name it finds room in the same file.
    assert open_study(tmp_path / "journal", "t", other).user_attrs["definition"]["account"]["balance"] == 70000


@pytest.mark.parametrize("content", [b"not a journal", b"not a journal\n", b"[1]\n{}\n", b"\xff\xfe\n"])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(TuneError, match="is no journal of a search"):
        open_study(tmp_path / "file", "s", plan_in(tmp_path))
    assert (tmp_path / "file").read_bytes() == content


# --- a search ---------------------------------------------------------------------------------------------------------


class Listener:
    """Kills the worker of one trial once it has passed so many steps."""

    def __init__(self, task: str = "", steps: int = 0) -> None:
        self.task, self.steps, self.heard = task, steps, list[News]()

    def __call__(self, news: News) -> None:
        self.heard.append(news)
        if news.kind == "said" and news.task == self.task and news.value.steps >= self.steps:
            self.task = ""
            assert news.pid is not None
            os.kill(news.pid, signal.SIGKILL)

    def ends(self) -> dict[str, str]:
        return {news.task: news.kind for news in self.heard if news.kind != "said"}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three trials of which the second is killed, and the same command again."""
    folder = tmp_path_factory.mktemp("tune")
    plan = plan_in(folder, pruner={"kind": "median", "startup_trials": 1, "warmup_evaluations": 0}, seed=2)
    storage = folder / "s.journal"
    killing, second = Listener("trial_0001", 768), Listener()
    with LocalCrew(1) as crew:
        early = tune(plan, storage, "small", trials=3, crew=crew, tell=killing)
        outcome = tune(plan, storage, "small", trials=3, crew=crew, tell=second)
    return {"plan": plan, "storage": storage, "killing": killing, "early": early, "second": second, "outcome": outcome}


def test_a_killed_trial_harms_no_other_and_is_taken_up_again(story: dict[str, Any]) -> None:
    assert story["killing"].ends()["trial_0001"] == "killed"
    early: TuneOutcome = story["early"]
    assert [one.state for one in early.selection.candidates][1] == "failed"
    assert set(story["second"].ends()) == {"trial_0001"}
    first = next(news for news in story["second"].heard if news.kind == "said")
    assert first.value.steps > 512, "it began anew instead of from the checkpoint"


def test_a_trial_that_was_killed_ends_as_if_it_had_not_been(story: dict[str, Any], tmp_path: Path) -> None:
    outcome: TuneOutcome = story["outcome"]
    plan: SearchPlan = story["plan"]
    finished = [one.name for one in outcome.selection.candidates if one.state == "finished"]
    name = "trial_0001" if "trial_0001" in finished else outcome.selection.chosen
    study = optuna.load_study(study_name="small", storage=_journal(story["storage"]))
    trial = [one for one in study.get_trials() if trial_name(one) == name][-1]
    alone = LEARNERS["ppo"](plan.trial(values_of(plan, trial.params)), tmp_path / "run")
    assert read_result(outcome.folder / name)["weights_hash"] == alone.weights_hash
    assert trial.value == alone.validation["log_return"]


def test_the_winners_bundle_counts_every_trial(story: dict[str, Any]) -> None:
    outcome: TuneOutcome = story["outcome"]
    selection = load_bundle(outcome.bundle).manifest.provenance.selection
    assert selection is not None
    assert [one.name for one in selection.candidates] == ["trial_0000", "trial_0001", "trial_0002"]
    assert selection.count("finished") + selection.count("pruned") == 3
    assert selection.test is None
    best = max((one for one in selection.candidates if one.state == "finished"), key=lambda one: one.log_return or -9)
    assert (selection.chosen, outcome.score) == (best.name, best.log_return)
    assert all(one.log_return is not None for one in selection.candidates)
    manifest = load_bundle(outcome.bundle).manifest
    assert manifest.provenance.config_hash == story["plan"].trial(outcome.values).hash()
    assert f"`{best.name}` of 3 trials" in (outcome.bundle / "model_card.md").read_text()


def test_a_pruned_trial_stopped_early_and_is_listed_so(story: dict[str, Any]) -> None:
    """The pruner saw evaluations of the validation span only; the test span was not even prepared."""
    states = {run.label.rsplit("/")[-1]: run.state for run in find_runs(study_folder(story["storage"], "small"))}
    selection = story["outcome"].selection
    assert set(states) == {one.name for one in selection.candidates}
    for one in selection.candidates:
        if one.state == "finished":
            assert states[one.name] == "finished"
        else:
            assert states[one.name] in ("pruned", "finished")


def test_tensorboard_compares_the_trials(story: dict[str, Any]) -> None:
    outcome: TuneOutcome = story["outcome"]
    events = EventAccumulator(str(outcome.folder / "hparams" / outcome.selection.chosen))
    events.Reload()
    assert b"agent.learning_rate" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert events.Scalars("validation/log_return")[0].value == pytest.approx(outcome.score, rel=1e-6)


def test_the_command_tells_the_best_values(story: dict[str, Any], tmp_path: Path) -> None:
    """As many trials as there are: nothing is trained, and the result is told again."""
    config = str(Path(story["plan"].path))
    arguments = ["tune", config, "--trials", "3", "--storage", str(story["storage"]), "--quiet", "--study", "small"]
    result = CliRunner().invoke(app, [*arguments, "--json", "--out", str(tmp_path / "best")])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["values"] == dict(story["outcome"].values)
    assert document["set"][1] == f"agent.n_epochs={document['values']['agent.n_epochs']}"
    assert sum(document["counts"].values()) == 3
    assert load_bundle(tmp_path / "best").manifest.provenance.selection is not None
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.stderr
    assert "the test span was not touched" in shown.stdout
    assert f"--set 'agent.n_epochs={document['values']['agent.n_epochs']}'" in shown.stdout


def test_changed_bars_are_refused(story: dict[str, Any]) -> None:
    study = open_study(story["storage"], "small", story["plan"])
    assert set(study.user_attrs["data_hash"]) == {"SIMA", "SIMB"}


def test_values_that_do_not_go_together_are_counted(tmp_path: Path) -> None:
    """Between the ends of a range lies what no rollout can be divided by; no process is started for it."""
    space = {"agent.batch_size": {"low": 64, "high": 256, "step": 64}, "agent.n_steps": {"choices": [32]}}
    plan = plan_in(tmp_path, space=space, sampler="random", seed=_seed_that_draws_192(tmp_path, space))
    listener = Listener()
    with pytest.raises(TuneError, match=r"none of 1 trials finished"):
        tune(plan, tmp_path / "j", "s", trials=1, crew=LocalCrew(1), tell=listener)
    (news,) = listener.heard
    assert "batch_size must divide one rollout" in news.value
    assert news.pid is None


def _seed_that_draws_192(folder: Path, space: dict[str, Any]) -> int:
    for seed in range(50):
        plan = plan_in(folder, space=space, sampler="random", seed=seed)
        (drawn,) = ask_first(folder / f"draw_{seed}", plan)
        if drawn["agent.batch_size"] == 192:
            return seed
    raise AssertionError("no seed draws it")


def ask_first(storage: Path, plan: SearchPlan) -> list[dict[str, Any]]:
    study = open_study(storage, "s", plan)
    trial = next_trial(study, plan, 1)
    assert trial is not None
    return [values_of(plan, trial.params)]


def test_an_impossible_count_and_a_storage_in_use_are_refused(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    with pytest.raises(TuneError, match="expected one trial or more, found 0"):
        tune(plan, tmp_path / "j", "s", trials=0, crew=LocalCrew(1), tell=Listener())
    with occupied(tmp_path / "j.runs"), pytest.raises(RunError, match="in use by another process"):
        tune(plan, tmp_path / "j", "s", trials=1, crew=LocalCrew(1), tell=Listener())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--trials", "0", "--storage", "j"], "Invalid value for '--trials'"),
        (["--trials", "1", "--storage", "j", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["--trials", "1", "--storage", "missing/j"], "the folder of --storage missing/j does not exist"),
        (["--trials", "1", "--storage", "j", "--study", "a/b"], "so it has no slashes"),
    ],
)
def test_wrong_options_are_wrong_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["tune", str(write(tmp_path)), *options], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["search.yaml"]


def test_a_wrong_space_is_a_wrong_configuration(tmp_path: Path) -> None:
    path = write(tmp_path, space={"agent.gama": {"low": 0.1, "high": 0.9}})
    result = CliRunner().invoke(app, ["tune", str(path), "--trials", "1", "--storage", str(tmp_path / "j")])
    assert result.exit_code == 3
    assert "did you mean `gamma`?" in result.stderr


def _journal(storage: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(storage)))
