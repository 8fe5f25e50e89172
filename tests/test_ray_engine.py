"""Ray does what local processes do: the same bits, and killed, stopped and refused where those would be."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_experiment import SETTINGS, experiment
from typer.testing import CliRunner

# Ray reads it when it is imported: a cluster that listens to this machine only.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

from finsense.agents.crew import Crew, CrewError, Line, News, Task, work_off
from finsense.agents.learners import LEARNERS
from finsense.agents.local_crew import LocalCrew
from finsense.agents.occupancy import is_occupied
from finsense.agents.progress import TrainingInterrupted
from finsense.agents.provenance import versions
from finsense.agents.ray_crew import RayCrew
from finsense.agents.run_record import read_result
from finsense.agents.seeds import SeedOutcome, open_group, train_seeds
from finsense.agents.tuning import tune
from finsense.cli.main import app
from finsense.config import Experiment, read_search

FINSENSE = [sys.executable, "-c", "from finsense.cli.main import main; main()"]
# Long enough that what is heard at a fifth of it is heard before its end.
LONG = {"steps": 10_240, "n_epochs": 20, "eval_every": 2_000, "checkpoint_every": 1_000}


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Two machines of one CPU each, as far as Ray knows; the address of the first."""
    import ray
    from ray.cluster_utils import Cluster

    terminated = signal.getsignal(signal.SIGTERM)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    where: dict[str, Any] = {"node_ip_address": "127.0.0.1", "num_cpus": 1, "object_store_memory": 80 * 2**20}
    two = Cluster(initialize_head=True, head_node_args={**where, "include_dashboard": False})
    two.add_node(**where)
    ray.init(two.address, log_to_driver=False, logging_level=logging.CRITICAL)
    # The workers cannot import this module.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]
    yield two.address
    ray.shutdown()
    two.shutdown()  # type: ignore[no-untyped-call]
    del os.environ["RAY_AUTH_MODE"]
    signal.signal(signal.SIGTERM, terminated)


# --- tasks ------------------------------------------------------------------------------------------------------------


def say_and_return(line: Line, value: Any) -> dict[str, Any]:
    for word in ("one", "two"):
        line.say(word)
    sys.stdout.write("printed by the task\n")
    return {"value": value, "threads": os.environ["OMP_NUM_THREADS"]}


def fail(line: Line) -> None:
    raise OSError("no such bars")


def wait_to_be_stopped(line: Line) -> None:
    while not line.stop_asked():
        line.say("waiting")
        time.sleep(0.02)
    raise TrainingInterrupted("stopped between two steps")


def ends(heard: list[News]) -> dict[str, tuple[str, Any]]:
    return {news.task: (news.kind, news.value) for news in heard if news.kind != "said"}


def hear_the_end(crew: Crew) -> list[News]:
    heard: list[News] = []
    while crew.busy:
        heard.extend(crew.hear(0.2))
    return heard


def test_tasks_end_as_they_would_here(cluster: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What a worker says comes before its end; a death is one task's own; Ray prints nothing."""
    work: dict[str, tuple[Any, ...]] = {
        "good": (say_and_return, 7),
        "bad": (fail,),
        "dead": (wait_to_be_stopped,),
        "last": (say_and_return, 8),
    }
    tasks = [Task(name, one[0], one[1:], tmp_path / "logs" / f"{name}.log") for name, one in work.items()]
    heard: list[News] = []

    def take(news: News) -> None:
        heard.append(news)
        if (news.task, news.kind) == ("dead", "said") and not any(one.value == "killed" for one in heard):
            assert news.pid is not None
            os.kill(news.pid, signal.SIGKILL)
            heard.append(News("test", "said", "killed", news.pid))

    with RayCrew(tmp_path, jobs=2) as crew:
        work_off(crew, iter(tasks), take)
    found = ends(heard)
    assert found["good"] == ("done", {"value": 7, "threads": "1"})
    assert found["last"] == ("done", {"value": 8, "threads": "1"})
    assert found["bad"][0] == "failed"
    assert found["bad"][1].endswith("(127.0.0.1): OSError: no such bars")
    assert found["dead"][0] == "killed"
    assert "(127.0.0.1) died: The worker died unexpectedly" in found["dead"][1]
    assert [news.value for news in heard if news.task == "good"] == ["one", "two", found["good"][1]]
    assert all(news.pid not in (None, os.getpid()) for news in heard)
    assert (tmp_path / "logs" / "good.log").read_text() == "printed by the task\n"
    assert "OSError: no such bars" in (tmp_path / "logs" / "bad.log").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    time.sleep(0.5)
    assert capfd.readouterr() == ("", "")


def test_a_task_is_stopped_at_work_and_before_it_begins(cluster: str, tmp_path: Path) -> None:
    """The cluster has two CPUs, so the third waits for one."""
    with RayCrew(tmp_path, jobs=3) as crew:
        for name in ("first", "second", "third"):
            assert crew.free
            crew.start(Task(name, wait_to_be_stopped, (), tmp_path / f"{name}.log"))
        assert not crew.free
        at_work: set[str] = set()
        while len(at_work) < 2:
            at_work |= {news.task for news in crew.hear(0.2)}
        waiting = {"first", "second", "third"} - at_work
        assert crew.busy == ["first", "second", "third"]
        for name in 2 * [*waiting, *at_work]:
            crew.stop(name)
        found = ends(hear_the_end(crew))
    assert {found[name] for name in at_work} == {("stopped", "stopped between two steps")}
    assert {found[name] for name in waiting} == {("stopped", "stopped before it began")}


def test_leaving_ends_what_is_at_work(cluster: str, tmp_path: Path) -> None:
    with RayCrew(tmp_path) as crew:
        crew.start(Task("one", wait_to_be_stopped, (), tmp_path / "one.log"))
        while not (heard := crew.hear(0.2)):
            pass
    pid = heard[0].pid
    assert pid is not None
    assert crew.busy == []
    # Ray calls a task ended as soon as its process is told to go.
    for _ in range(200):
        if _lives(pid):
            time.sleep(0.05)
    assert not _lives(pid)


# --- machines that cannot work here -----------------------------------------------------------------------------------


def test_a_machine_that_shares_no_folder_is_named(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `/proc/self/cwd` names depends on who asks, as an unshared folder depends on the machine."""
    monkeypatch.chdir(tmp_path)
    folder = Path("/proc/self/cwd/runs")
    with (
        pytest.raises(
            CrewError, match=r"(?s)cannot work here:\n.*\(127.0.0.1\): /proc/self/cwd/runs is not the folder"
        ),
        RayCrew(folder),
    ):
        raise AssertionError("it must not begin")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_machine_that_comes_later_is_asked_too(cluster: str, tmp_path: Path) -> None:
    """As if it were another folder there: the mark of the crew is gone when the task begins."""
    with RayCrew(tmp_path) as crew:
        (mark,) = tmp_path.glob(".ray_*")
        mark.unlink()
        crew.start(Task("late", say_and_return, (1,), tmp_path / "logs" / "late.log"))
        (kind, text) = ends(hear_the_end(crew))["late"]
    assert kind == "failed"
    assert f"(127.0.0.1): {tmp_path} is not the folder" in text


def test_missing_files_and_other_versions_are_told_of_every_machine(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here.csv"
    here.touch()
    with pytest.raises(CrewError) as caught, RayCrew(tmp_path, files=(here, tmp_path / "bars.parquet")):
        raise AssertionError("it must not begin")
    assert str(caught.value).count(f"(127.0.0.1): {tmp_path / 'bars.parquet'} is missing; put it on every machine") == 2
    found = versions()
    monkeypatch.setattr("finsense.agents.ray_crew.versions", lambda: {**found, "numpy": "0.1"})
    with (
        pytest.raises(CrewError, match=f"other versions are installed: numpy {found['numpy']}, not 0.1"),
        RayCrew(tmp_path),
    ):
        raise AssertionError("it must not begin")


# --- trainings --------------------------------------------------------------------------------------------------------


def long(**changes: Any) -> Experiment:
    return experiment(**{f"agent__{key}": value for key, value in (LONG | changes).items()})


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


@pytest.fixture(scope="module")
def story(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """On Ray seed 3 is killed and 4 stopped by Ctrl-C, and both are resumed; locally nothing happens to them."""
    folder, chosen = tmp_path_factory.mktemp("ray") / "group", long()
    seeds = open_group(folder, chosen, 2, resume=False)
    first, second = Listener({"seed_3": (2_048, signal.SIGKILL), "seed_4": (3_072, signal.SIGINT)}), Listener({})
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(TrainingInterrupted), RayCrew(folder) as crew:
            train_seeds(folder, chosen, seeds, crew=crew, tell=first)
    finally:
        signal.signal(signal.SIGINT, previous)
    stopped_at = {path.parent.parent.name: path.name for path in sorted(folder.glob("seed_*/checkpoints/step_*"))}
    with RayCrew(folder) as crew:
        onray = train_seeds(folder, chosen, open_group(folder, chosen, None, resume=True), crew=crew, tell=second)
    here = folder.with_name("local")
    open_group(here, chosen, 2, resume=False)
    with LocalCrew(2) as local:
        onhere = train_seeds(here, chosen, seeds, crew=local, tell=lambda news: None)
    return {"first": first, "second": second, "ray": onray, "local": onhere, "stopped_at": stopped_at}


def test_both_engines_train_the_same_bits(story: dict[str, Any]) -> None:
    def bits(outcomes: list[SeedOutcome]) -> list[Any]:
        return [{key: value for key, value in one.result.items() if key != "seconds"} for one in outcomes]

    assert [one.state for one in story["ray"]] == ["finished", "finished"]
    assert bits(story["ray"]) == bits(story["local"])
    assert len({one["weights_hash"] for one in bits(story["ray"])}) == 2


def test_a_killed_seed_fails_alone_and_ctrl_c_stops_the_others_where_they_go_on(story: dict[str, Any]) -> None:
    found = ends(story["first"].heard)
    assert found["seed_3"][0] == "killed"
    assert found["seed_4"][0] == "stopped"
    assert ends(story["second"].heard).keys() == {"seed_3", "seed_4"}
    for seed in ("seed_3", "seed_4"):
        begun = next(news.value.steps for news in story["second"].heard if news.task == seed and news.kind == "said")
        assert begun > int(story["stopped_at"][seed].removeprefix("step_")) > 1_000
        assert not is_occupied(story["ray"][0].run_dir.parent / seed)


def test_a_search_on_ray_finds_what_a_local_one_does(cluster: str, tmp_path: Path) -> None:
    """One job at a time, so that what is tried does not depend on which trial ends first."""
    space = {
        "agent.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "agent.net_arch": {"choices": [[8], [8, 4]]},
    }
    agent = {**SETTINGS["agent"], "steps": 1_024, "eval_every": 256}
    path = tmp_path / "search.yaml"
    path.write_text(json.dumps({**SETTINGS, "agent": agent, "tune": {"space": space}}))
    plan, heard = read_search(path), list[News]()
    storage = tmp_path / "journal"
    with RayCrew(tmp_path / "journal.runs", jobs=1) as crew:
        outcome = tune(plan, storage, "small", trials=2, crew=crew, tell=heard.append)
    assert {task: end[0] for task, end in ends(heard).items()} == {"trial_0000": "done", "trial_0001": "done"}
    alone = LEARNERS["ppo"](plan.trial(outcome.values), tmp_path / "alone")
    assert read_result(outcome.folder / outcome.selection.chosen)["weights_hash"] == alone.weights_hash
    assert outcome.score == alone.validation["log_return"]
    assert [one.state for one in outcome.selection.candidates] == ["finished", "finished"]


# --- the command ------------------------------------------------------------------------------------------------------


def _lives(pid: int) -> bool:
    """A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def _of_command(mark: str) -> list[int]:
    """Processes that inherited the mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes() and _lives(int(path.parent.name)):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_the_command_has_a_cluster_of_its_own_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    """Ctrl-C reaches all processes of a terminal's group at once; here they are stopped by it, with checkpoints."""
    (tmp_path / "small.yaml").write_text(long(steps=1_000_000).resolved_yaml())
    mark = f"FINSENSE_TEST={tmp_path}"
    words = ["train", "small.yaml", "--seeds", "2", "--engine", "ray", "--jobs", "2", "--out", "group", "--quiet"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"FINSENSE_TEST": str(tmp_path), "HOME": str(tmp_path / "home")}
    command = subprocess.Popen(
        [*FINSENSE, *words],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while command.poll() is None and not all(
            any(tmp_path.glob(f"group/seed_{seed}/checkpoints/step_*/")) for seed in (3, 4)
        ):
            time.sleep(0.1)
        listening = _listening(_of_command(mark))
        os.killpg(command.pid, signal.SIGINT)
        out, error = command.communicate()
    finally:
        command.kill()
    assert command.returncode == 130, error
    assert out == ""
    lines = [line for line in error.splitlines() if "interrupted: stopping" not in line]
    assert [line.split(":")[0] for line in sorted(lines)] == ["interrupted", "seed_3", "seed_4"]
    assert lines[-1] == "interrupted: what was done so far is saved"
    assert _of_command(mark) == []
    assert listening == {"127.0.0.1"}
    assert {path.name for path in tmp_path.iterdir()} <= {"small.yaml", "group", "home"}
    assert read_result(tmp_path / "group" / "seed_3") == {}


def _listening(pids: list[int]) -> set[str]:
    """Addresses at which any of the processes takes connections."""
    sockets = set()
    for pid in pids:
        try:
            sockets |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                word = bytes.fromhex(fields[1].split(":")[0][-8:])[::-1]
                found.add(".".join(map(str, word)))
    return found


@pytest.mark.slow
def test_the_command_goes_on_with_a_group_on_a_running_cluster(
    cluster: str, story: dict[str, Any], tmp_path: Path
) -> None:
    """All seeds have finished: the cluster is joined, nothing is trained, and stdout holds the document alone."""
    (tmp_path / "small.yaml").write_text(long().resolved_yaml())
    group = story["ray"][0].run_dir.parent
    words = ["train", "small.yaml", "--resume", str(group), "--engine", "ray", "--ray-address", cluster, "--json"]
    done = subprocess.run([*FINSENSE, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = {one["seed"]: one["weights_hash"] for one in json.loads(done.stdout)["seeds"]}
    assert found == {one.seed: one.result["weights_hash"] for one in story["local"]}


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("head", "expected `auto` or HOST:PORT of the cluster's head, as `ray start` tells it, found 'head'"),
        ("ray://head:10001", "run the command on a machine of the cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path, address: str, complaint: str) -> None:
    with pytest.raises(CrewError) as caught, RayCrew(tmp_path, address=address):
        raise AssertionError("it must not begin")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("command", ["train", "tune", "walkforward"])
def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "finsense.agents.ray_crew")
    space = {"agent.n_epochs": {"low": 1, "high": 3}}
    Path("small.yaml").write_text(json.dumps({**SETTINGS, "tune": {"space": space}}))
    words = {"train": ["--seeds", "2"], "tune": ["--trials", "2", "--storage", "j"], "walkforward": ["--folds", "1"]}
    result = CliRunner().invoke(app, [command, "small.yaml", *words[command], "--engine", "ray"])
    assert result.exit_code == 2
    assert "pip install 'finsense[scale]'" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]
