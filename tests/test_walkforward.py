"""Walk-forward: folds share no session, an edge is found where there is one and only there, and resuming is exact."""

import datetime as dt
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from finsense.agents.crew import News
from finsense.agents.local_crew import LocalCrew
from finsense.agents.progress import Progress
from finsense.agents.run_folder import RunError
from finsense.agents.run_record import read_json
from finsense.agents.walkforward import (
    WalkForward,
    WalkForwardError,
    open_walkforward,
    plan_walkforward,
    report,
    run_walkforward,
)
from finsense.agents.walkforward_tasks import agent_task, baselines_task
from finsense.cli.main import app
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Setting, backtest
from finsense.evaluation.baselines import BuyAndHold
from finsense.evaluation.walkforward import (
    Account,
    Fold,
    FoldError,
    block_length,
    rank_correlation,
    roll,
    session_interval,
    stationary_draws,
    track,
)
from finsense.evaluation.walkforward_report import Terms, decay, difference, json_safe, verdict

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SETTINGS: dict[str, Any] = {
    "name": "walked",
    "seed": 5,
    "data": {
        "kind": "simulated",
        "model": "mean_reversion",
        "symbols": ["SIMA", "SIMB"],
        "interval": "15m",
        "first": "2023-01-02",
        "last": "2023-05-31",
        "seed": 1,
        "reversion": 0.8,
        "shock": 0.008,
        "overnight_gap": 0,
    },
    "split": {
        "train": {"from": "2023-02-01", "to": "2023-04-13"},
        "validation": {"from": "2023-04-17", "to": "2023-04-28"},
        "test": {"from": "2023-05-02", "to": "2023-05-31"},
    },
    "state": {"features": [{"level_distance": {"level": 1000}}], "warmup": 5},
    "account": {
        "balance": 1000000,
        "product": "intraday",
        "actions": {"scheme": "orders", "size": {"kind": "all_in"}},
        "participation": None,
    },
    "reward": {"kind": "log_equity", "scale": 100},
    "episode": {"bars": 50},
    "agent": {
        "kind": "ppo",
        "steps": 8192,
        "envs": 32,
        "n_steps": 32,
        "batch_size": 256,
        "n_epochs": 6,
        "gamma": 0.8,
        "learning_rate": 5e-3,
        "net_arch": [16],
        "eval_every": 4096,
        "checkpoint_every": 2048,
    },
}
WALK = {**SETTINGS["data"], "model": "random_walk", "volatility": 0.004}
WALK = {name: value for name, value in WALK.items() if name not in ("reversion", "shock")}


def walked(**changes: Any) -> Experiment:
    return Experiment.model_validate_json(json.dumps({**SETTINGS, **changes}))


class Here:
    """The line of a task that is done in this process."""

    def say(self, value: Any) -> None:
        assert isinstance(value, Progress)

    def stop_asked(self) -> bool:
        return False


def train_here(plan: WalkForward, run_dir: Path) -> None:
    """The first training of a walk-forward, and its judgement, without a worker."""
    agent_task(Here(), plan.experiment_of(0, plan.seeds[0]).resolved(), run_dir)


def baselines_here(plan: WalkForward, path: Path) -> None:
    baselines_task(Here(), plan.experiment_of(0, plan.seeds[0]).resolved(), path)


# --- folds ------------------------------------------------------------------------------------------------------------


@st.composite
def rolled(draw: st.DrawFn) -> tuple[list[dt.date], Fold, int, str, tuple[Fold, ...]]:
    steps = draw(st.lists(st.integers(1, 4), min_size=10, max_size=80))
    sessions = list(np.datetime64("2021-01-01") + np.cumsum(steps))
    days = [day.astype(object) for day in sessions]
    ends = draw(st.lists(st.integers(0, len(days) - 1), min_size=6, max_size=6, unique=True))
    places = sorted(ends)
    newest = Fold(*((days[one], days[two]) for one, two in zip(places[::2], places[1::2], strict=True)))
    count = draw(st.integers(1, 6))
    window = draw(st.sampled_from(["rolling", "expanding"]))
    try:
        folds = roll(days, newest, count, window)  # type: ignore[arg-type]
    except FoldError:
        assume(False)
        raise
    return days, newest, count, window, folds


def inside(days: list[dt.date], span: tuple[dt.date, dt.date]) -> list[dt.date]:
    return [day for day in days if span[0] <= day <= span[1]]


@given(rolled())
def test_no_session_is_in_two_spans_of_a_fold_and_none_is_tested_twice(found: Any) -> None:
    days, newest, count, window, folds = found
    assert len(folds) == count
    assert folds[-1] == newest
    for fold in folds:
        train, validation, test = (inside(days, span) for span in fold.spans)
        # Whole sessions in the order of time, so what comes first knows nothing of what comes later.
        assert train[-1] < validation[0] <= validation[-1] < test[0]
        assert len(validation) == len(inside(days, newest.validation))
        assert len(test) == len(inside(days, newest.test))
        # The embargo of the newest fold is the embargo of each.
        for before, after in (("train", "validation"), ("validation", "test")):
            gaps = [days.index(getattr(one, after)[0]) - days.index(getattr(one, before)[1]) for one in (fold, newest)]
            assert gaps[0] == gaps[1]
        if window == "rolling":
            assert len(train) == len(inside(days, newest.train))
        else:
            assert train[0] == newest.train[0]
    # The test spans follow each other and leave nothing out.
    tested = [day for fold in folds for day in inside(days, fold.test)]
    assert tested == inside(days, (folds[0].test[0], newest.test[1]))


def test_spans_that_do_not_fit_are_refused() -> None:
    days = [dt.date(2021, 1, 1) + dt.timedelta(days=number) for number in range(30)]
    newest = Fold((days[10], days[14]), (days[15], days[19]), (days[20], days[24]))
    assert len(roll(days, newest, 3, "rolling")) == 3
    with pytest.raises(FoldError, match=r"4 folds need 15 sessions before the train span.* so at most 3 fit, rolling"):
        roll(days, newest, 4, "rolling")
    with pytest.raises(FoldError, match=r"2 folds need 5 sessions in the train span.* so at most 1 fit, expanding"):
        roll(days, newest, 2, "expanding")
    with pytest.raises(FoldError, match="the test span from 2022-01-01 to 2022-02-01 holds no session"):
        roll(days, replace(newest, test=(dt.date(2022, 1, 1), dt.date(2022, 2, 1))), 1, "rolling")
    with pytest.raises(FoldError, match="expected one fold or more, found 0"):
        roll(days, newest, 0, "rolling")


# --- series and their statistics --------------------------------------------------------------------------------------


def account(symbol: str, days: list[int], equity: list[int], balance: int = 1000) -> Account:
    return Account(symbol, balance, np.array(days), np.array(equity), trades=2, turnover=0.5, charges_paise=30)


def test_accounts_are_added_up_and_one_without_a_session_stays_as_it_is() -> None:
    spans = [
        [account("A", [1, 2, 3], [1100, 1100, 990]), account("B", [1, 3], [900, 1010])],
        [account("A", [7], [1000]), account("B", [7], [1200])],
    ]
    found = track(spans, [np.array([1, 2, 3]), np.array([7])])
    assert found.returns == pytest.approx([0.0, 0.0, 0.0, 0.1])
    assert (found.trades, found.turnover, found.charges) == (8, 0.5, 120 / 2000)
    # B was ruined after the first session and lost nothing afterwards.
    ruined = track([[account("A", [1, 2], [1000, 1000]), account("B", [1], [0])]], [np.array([1, 2])])
    assert ruined.returns == pytest.approx([-0.5, 0.0])
    nothing_left = track([[account("B", [1], [0])]], [np.array([1, 2])])
    assert nothing_left.returns.tolist() == [-1.0, 0.0]


def test_a_track_of_one_account_has_the_figures_of_its_backtest() -> None:
    experiment = walked()
    bars, span = experiment.data.load()["SIMA"], experiment.split.test
    setting = Setting(experiment.state, experiment.account, experiment.costs, 248)
    judged = backtest("held", BuyAndHold(experiment.account), bars, setting, span.first, span.last)
    one = Account.of(judged, experiment.account.balance_paise)
    assert json_safe(Account.from_dict(json.loads(json.dumps(one.as_dict()))).as_dict()) == one.as_dict()
    found, expected = track([[one]], [one.days]).figures(248), judged.performance
    for name in ("total_return", "sharpe", "max_drawdown", "trades", "turnover"):
        assert found[name] == pytest.approx(getattr(expected, name)), name
    assert found["charges"] == expected.charges_paise / experiment.account.balance_paise
    assert one.log_return == pytest.approx(math.log1p(expected.total_return))


@given(st.integers(2, 60), st.integers(1, 10), st.integers(0, 2**32 - 1))
def test_blocks_keep_the_order_of_sessions(sessions: int, length: int, seed: int) -> None:
    drawn = stationary_draws(sessions, length, 50, np.random.default_rng(seed))
    assert drawn.shape == (50, sessions)
    assert ((drawn >= 0) & (drawn < sessions)).all()
    if length == 1:
        return
    follows = (np.diff(drawn, axis=1) % sessions) == 1
    assert follows.mean() > 1 - 1 / length - 0.2


def test_blocks_are_as_long_as_asked_and_every_session_is_drawn_alike() -> None:
    drawn = stationary_draws(100, 5, 20_000, np.random.default_rng(0))
    ends = (np.diff(drawn, axis=1) % 100) != 1
    # A fresh start follows its predecessor by chance once in a hundred.
    assert ends.mean() == pytest.approx(0.2 * 0.99, rel=0.01)
    assert np.bincount(drawn.ravel(), minlength=100) / drawn.size == pytest.approx(np.full(100, 0.01), rel=0.05)
    assert [block_length(count) for count in (1, 8, 27, 28, 60, 488)] == [1, 2, 3, 4, 4, 8]


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    """Sessions that hang together (AR(1), 0.3): independent draws would be too sure."""
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(40):
        noise = generator.normal(size=100)
        values = np.zeros(100)
        for place in range(1, 100):
            values[place] = 0.3 * values[place - 1] + noise[place]
        low, high = session_interval(values, generator)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.8
    assert session_interval(np.full(20, 0.01), generator) == pytest.approx((0.01, 0.01))


def test_the_words_follow_the_intervals() -> None:
    generator = np.random.default_rng(2)
    seeds = generator.normal(0, 0.0001, (10, 1))
    sessions = generator.normal(0, 0.01, (1, 100))
    nothing = np.zeros(100)
    sessions -= sessions.mean()
    assert "no edge found: the interval" in verdict(difference(seeds + sessions, nothing))
    assert verdict(difference(seeds + sessions + 0.01, nothing)).startswith("earns more than always flat")
    # Sure over sessions, not over seeds, and the other way round.
    assert "no edge found: the interval" in verdict(difference(200 * seeds + sessions / 100 + 0.001, nothing))
    assert "no edge found: the interval" in verdict(difference(seeds + sessions + 0.0009, nothing))
    assert "no edge found: it earns less" in verdict(difference(seeds + sessions - 0.01, nothing))
    assert "no edge found: it never trades" in verdict(difference(np.zeros((10, 100)), nothing))
    alone = difference(sessions + 0.01, nothing)
    assert alone["seeds"] is None
    assert "one seed" in verdict(alone)
    assert difference(seeds + sessions, nothing)["mean"] == pytest.approx((seeds + sessions).mean())


def test_decay_ranks_the_seeds_of_each_fold() -> None:
    finals = [[1010, 1020], [1020, 1010], [1030, 1000]]
    agents = [[[account("A", [1, 2], [1000, final])] for final in by_fold] for by_fold in finals]
    terms = Terms([np.array([1, 2]), np.array([1, 2])], [4, 4], 248)
    found = decay(agents, np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]]), terms)
    assert [fold["rank_correlation"] for fold in found["folds"]] == pytest.approx([1.0, -1.0])
    assert found["rank_correlation"] == pytest.approx(0.0)
    assert found["folds"][0]["validation"] == pytest.approx(0.2 / 4)
    assert found["scores"]["test"][2] == pytest.approx([math.log(1.03) / 2, 0.0])
    assert math.isnan(rank_correlation(np.zeros(5), np.arange(5.0)))


# --- trainings --------------------------------------------------------------------------------------------------------


class Listener:
    """Notes how tasks end, and kills the worker of one of them once it has passed so many steps."""

    def __init__(self, task: str = "", steps: int = 0) -> None:
        self.task, self.steps, self.ends = task, steps, dict[str, str]()

    def __call__(self, news: News) -> None:
        if news.kind != "said":
            self.ends[news.task] = news.kind
        elif news.task == self.task and news.value.steps > self.steps:
            self.task = ""
            assert news.pid is not None
            os.kill(news.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def plan() -> WalkForward:
    return plan_walkforward(walked(), 2, 2, "expanding")


@pytest.fixture(scope="module")
def story(plan: WalkForward, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One training is killed in its middle; the same command goes on; then there is nothing left to do."""
    folder = tmp_path_factory.mktemp("walks") / "walk"
    told = [Listener("fold_1_seed_5", 4096), Listener(), Listener()]
    reports, judged = [], []
    for listener in told:
        open_walkforward(folder, plan)
        with LocalCrew(2) as crew:
            run_walkforward(folder, plan, crew=crew, tell=listener)
        reports.append(report(folder, plan))
        judged.append({path: path.stat().st_mtime_ns for path in folder.glob("fold_*/**/test.json")})
    return {"folder": folder, "ends": [one.ends for one in told], "reports": reports, "judged": judged}


def test_a_killed_worker_leaves_the_others_alone_and_the_same_command_goes_on(story: dict[str, Any]) -> None:
    assert story["ends"] == [
        {
            "fold_1_baselines": "done",
            "fold_2_baselines": "done",
            "fold_1_seed_5": "killed",
            "fold_2_seed_5": "done",
            "fold_1_seed_6": "done",
            "fold_2_seed_6": "done",
        },
        {"fold_1_seed_5": "done"},
        {},
    ]
    early = story["reports"][0]
    assert early["finished_seeds"] == [6]
    assert early["unfinished"] == {"fold_1_seed_5": ""}
    assert early["trials"]["trainings"] == 3
    # One seed tells nothing of the others.
    assert early["charges"]["1"]["differences"]["always flat"]["seeds"] is None
    # No test span is judged twice.
    first, second, third = story["judged"]
    assert (len(first), len(second)) == (3, 4)
    assert {path: second[path] for path in first} == first
    assert third == second


def test_a_planted_edge_is_found(story: dict[str, Any]) -> None:
    found = story["reports"][-1]
    assert found["finished_seeds"] == [5, 6]
    assert found["unfinished"] == {}
    for level in ("1", "2"):
        judged = found["charges"][level]
        assert judged["verdict"].startswith("earns more than always flat")
        for one in judged["differences"].values():
            assert one["sessions"][0] > 0
            assert one["seeds"][0] > 0
    once, twice = (found["charges"][level]["policies"] for level in ("1", "2"))
    assert once["always flat"]["mean_daily_return"] == once["always flat"]["charges"] == 0
    for name in ("agent", "buy and hold", "random legal"):
        assert once[name]["mean_daily_return"] > twice[name]["mean_daily_return"]
        assert twice[name]["charges"] > 1.5 * once[name]["charges"]
    assert found["trials"] == {
        "configurations": 1,
        "trainings": 4,
        "checkpoints_per_training": 2,
        "test_judgements_per_training": 1,
    }


def test_nothing_is_found_on_a_random_walk(tmp_path: Path) -> None:
    plan = plan_walkforward(walked(data=WALK), 1, 1, "rolling")
    open_walkforward(tmp_path / "walk", plan)
    train_here(plan, tmp_path / "walk" / "fold_1" / "seed_5")
    baselines_here(plan, tmp_path / "walk" / "fold_1" / "baselines.json")
    found = report(tmp_path / "walk", plan)
    for level in ("1", "2"):
        assert found["charges"][level]["verdict"].startswith("no edge found")


def test_neither_a_kill_nor_what_comes_later_changes_the_table(
    plan: WalkForward, story: dict[str, Any], tmp_path: Path
) -> None:
    """The killed training of fold 1, trained again in one go on a market that ends with the test span of that fold."""
    train, validation, test = ({"from": str(span[0]), "to": str(span[1])} for span in plan.folds[0].spans)
    short = walked(
        data={**SETTINGS["data"], "last": test["to"]},
        split={"train": train, "validation": validation, "test": test},
    )
    alone = plan_walkforward(short, 1, 1, "rolling")
    copy = tmp_path / "walk"
    shutil.copytree(story["folder"], copy)
    shutil.rmtree(copy / "fold_1" / "seed_5")
    (copy / "fold_1" / "baselines.json").unlink()
    assert report(copy, plan)["unfinished"] == {"fold_1_seed_5": "", "fold_1_baselines": ""}
    train_here(alone, copy / "fold_1" / "seed_5")
    baselines_here(alone, copy / "fold_1" / "baselines.json")
    runs = [path / "fold_1" / "seed_5" / "result.json" for path in (story["folder"], copy)]
    assert read_json(runs[0])["weights_hash"] == read_json(runs[1])["weights_hash"]
    assert report(copy, plan) == story["reports"][-1]


def test_another_walk_forward_in_the_folder_is_refused(plan: WalkForward, story: dict[str, Any]) -> None:
    folder = story["folder"]
    with pytest.raises(WalkForwardError, match=r"another walk-forward(.|\n)*seeds: \[5, 6\] -> \[5, 6, 7\]"):
        open_walkforward(folder, replace(plan, seeds=(5, 6, 7)))
    changed = {**plan.data_hash, "SIMB": "0" * 64}
    with pytest.raises(WalkForwardError, match=r"data_hash\.SIMB"):
        open_walkforward(folder, replace(plan, data_hash=changed))
    with pytest.raises(RunError, match="a run of another kind"):
        open_walkforward(folder / "fold_1" / "seed_5", plan)
    with pytest.raises(WalkForwardError, match="one seed or more"):
        plan_walkforward(walked(), 2, 0, "rolling")
    with pytest.raises(WalkForwardError, match=r"lower costs.scale to 5"):
        plan_walkforward(walked(costs={"scale": 6}), 2, 2, "rolling")


def test_the_command_shows_what_is_finished(story: dict[str, Any], tmp_path: Path) -> None:
    folder, found = story["folder"], story["reports"][-1]
    config = tmp_path / "walked.yaml"
    config.write_text(json.dumps(SETTINGS))
    command = ["walkforward", str(config), "--seeds", "2", "--window", "expanding"]
    shown = CliRunner().invoke(app, [*command, "--folds", "2", "--show", "--json", "--out", str(folder)])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout) == {"folder": str(folder), **found}
    # Everything is finished, so the command trains nothing and prints the table.
    again = CliRunner().invoke(app, [*command, "--folds", "2", "--out", str(folder)])
    assert again.exit_code == 0, again.output
    assert again.stdout == (folder / "report.md").read_text()
    assert "| **agent**, 2 seeds | +" in again.stdout
    assert "**Earns more than always flat" in again.stdout
    too_many = CliRunner().invoke(app, [*command, "--folds", "9", "--out", str(folder)])
    assert too_many.exit_code == 3
    assert "so at most" in too_many.stderr
    nothing = CliRunner().invoke(app, [*command, "--folds", "2", "--show", "--out", str(tmp_path / "none")])
    assert nothing.exit_code == 2
    assert "holds no walk-forward" in nothing.stderr
    assert not (tmp_path / "none").exists()


def test_the_configs_roll_over_the_real_bars_as_the_results_say(shared_nse: Path) -> None:
    """The spans that docs/results.md names."""
    within = plan_walkforward(load_experiment(CONFIGS / "walkforward_5m.yaml"), 3, 10, "rolling")
    assert [tuple(map(str, fold.test)) for fold in within.folds] == [
        ("2023-10-04", "2023-11-01"),
        ("2023-11-02", "2023-11-30"),
        ("2023-12-01", "2023-12-29"),
    ]
    assert [[len(within.days(*span)) for span in fold.spans] for fold in within.folds] == [[50, 10, 20]] * 3
    daily = plan_walkforward(load_experiment(CONFIGS / "walkforward_daily.yaml"), 4, 10, "expanding")
    assert [len(daily.days(*fold.test)) for fold in daily.folds] == [122] * 4
    assert [str(day) for day in (daily.folds[0].test[0], daily.folds[-1].test[1])] == ["2017-01-10", "2018-12-31"]
