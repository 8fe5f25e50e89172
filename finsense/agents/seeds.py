"""Several seeds of one experiment, trained side by side; the one in the middle is exported, never the best."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from finsense.agents.crew import Crew, News, Task, work_off
from finsense.agents.occupancy import is_occupied, occupied
from finsense.agents.provenance import git_commit, versions
from finsense.agents.run_folder import BUNDLE, CONFIG, RunError, differences
from finsense.agents.run_record import RESULT, finished_result, read_json, read_result, write_json
from finsense.agents.run_task import train_task
from finsense.agents.selection import compare_in_tensorboard, export_chosen, judge_on_test
from finsense.config import Experiment
from finsense.config.experiment import MAX_SEED
from finsense.evaluation.seed_statistics import interquartile_mean, median_seed, stratified_interval
from finsense.model.manifest import Candidate, Selection

GROUP, LOGS = "group.json", "logs"
# The figure by which the checkpoint of each seed was chosen, too.
METRIC = "log_return"
_REASON = "the median by `log_return` on the validation span (of an even number the lower of the middle two)"
_GENERATOR_SEED = 0


class SeedsError(ValueError):
    """A group of seeds that cannot be trained or gone on with."""


@dataclass(frozen=True)
class SeedOutcome:
    """How one seed ended.

    Attributes:
        seed: of the training.
        run_dir: its folder.
        state: `finished`; `failed` (it says why) or `killed` (its process died).
        result: what result.json holds; empty unless finished.
        error: why it did not finish.
    """

    seed: int
    run_dir: Path
    state: Literal["finished", "failed", "killed"]
    result: Mapping[str, Any]
    error: str = ""

    @property
    def score(self) -> float | None:
        """By which seeds are compared; None unless finished."""
        return float(self.result["validation"][METRIC]) if self.state == "finished" else None


@dataclass(frozen=True)
class GroupOutcome:
    """What the seeds say together.

    Attributes:
        folder: of the group.
        seeds: every one.
        selection: how the exported one was chosen; None where none has finished.
        bundle: of the exported one; None likewise.
    """

    folder: Path
    seeds: tuple[SeedOutcome, ...]
    selection: Selection | None
    bundle: Path | None


def seed_experiment(experiment: Experiment, seed: int) -> Experiment:
    """The experiment with another seed; it searches nothing."""
    return experiment.model_copy(update={"seed": seed, "tune": None})


def run_folder_of(folder: Path, seed: int) -> Path:
    """Where a seed of a group is trained."""
    return folder / f"seed_{seed}"


def open_group(folder: Path, experiment: Experiment, count: int | None, resume: bool) -> tuple[int, ...]:
    """Begin a group of seeds from the experiment's own on, or go on with one; gives its seeds.

    Args:
        folder: of the group.
        experiment: of every seed.
        count: how many seeds; None (resume): as many as it has.
        resume: go on with the group in the folder.

    Raises:
        SeedsError: the count is impossible or differs, or the group to resume was another experiment.
        RunError: the folder holds no group, or another one.
        OSError: the folder cannot be written.
    """
    if resume:
        return _continued(folder, experiment, count)
    if count is None or count < 1:
        raise SeedsError(f"expected one seed or more, found {count}")
    last = experiment.seed + count - 1
    if last > MAX_SEED:
        raise SeedsError(f"the seeds {experiment.seed} to {last} go beyond the largest one, {MAX_SEED}; lower `seed`")
    if (folder / GROUP).exists() or (folder / CONFIG).exists():
        raise RunError(f"{folder} holds a run already; resume it, or train into another folder")
    folder.mkdir(parents=True, exist_ok=True)
    seeds = tuple(range(experiment.seed, last + 1))
    facts = {"name": experiment.name, "config_hash": experiment.hash(), "seeds": seeds}
    (folder / CONFIG).write_text(experiment.resolved_yaml(), encoding="utf-8")
    write_json(folder / GROUP, {"kind": "seeds", **facts, "git_commit": git_commit(), "versions": versions()})
    return seeds


def train_seeds(
    folder: Path, experiment: Experiment, seeds: Sequence[int], *, crew: Crew, tell: Callable[[News], None]
) -> list[SeedOutcome]:
    """Train every seed that is not finished, as many at once as the crew can, each in a folder of its own.

    A seed that fails, or whose process is killed, leaves the others alone. The first Ctrl-C stops all of them where
    they can be resumed; what comes out in the end is the same as of seeds trained one by one.

    Args:
        folder: of the group.
        experiment: of every seed.
        seeds: all of the group.
        crew: trains them.
        tell: called with everything that a worker says, named `seed_<n>`.

    Raises:
        RunError: another process trains in the folder.
        TrainingInterrupted: Ctrl-C; all was saved.
    """
    with occupied(folder):
        _refuse_orphans(folder, seeds)
        ended = _finished(folder, seeds)

        def take(news: News) -> None:
            tell(news)
            if news.kind != "said":
                ended[news.task] = news

        missing = [seed for seed in seeds if run_folder_of(folder, seed).name not in ended]
        work_off(crew, _tasks(folder, experiment, missing), take)
    return [_outcome(run_folder_of(folder, seed), seed, ended) for seed in seeds]


def conclude(folder: Path, experiment: Experiment, outcomes: Sequence[SeedOutcome], *, test: bool) -> GroupOutcome:
    """Compare the finished seeds, export the one in the middle, and write the group's result.json.

    Args:
        folder: of the group.
        experiment: of every seed.
        outcomes: one per seed.
        test: judge the exported one on the test span, once; every seed must have finished.

    Raises:
        SeedsError: the test span is asked for too early.
        BundleError, BarsError, HistoryError, CostError, OSError: as `export_chosen` and `judge_on_test`.
    """
    missing = [one.seed for one in outcomes if one.state != "finished"]
    scores = [(one.seed, one.score) for one in outcomes if one.score is not None]
    if test and missing:
        raise SeedsError(
            f"the test span is touched once, when every seed has finished; missing: {', '.join(map(str, missing))}. "
            "Resume the group first"
        )
    selection, bundle = None, None
    if scores:
        median = median_seed(scores)
        chosen = run_folder_of(folder, median)
        figures = read_result(folder).get("test")
        if test and figures is None:
            figures = judge_on_test(chosen / BUNDLE, seed_experiment(experiment, median))
        selection = _selection(outcomes, np.array([score for _, score in scores]), chosen.name, figures)
        bundle = export_chosen(chosen / BUNDLE, folder / BUNDLE, seed_experiment(experiment, median), selection).path
        for one in outcomes:
            if one.state == "finished":
                settings = {"seed": one.seed, "name": experiment.name}
                compare_in_tensorboard(folder, one.run_dir.name, settings, one.result["validation"])
        write_json(folder / RESULT, {"state": "failed" if missing else "finished", **selection.model_dump(mode="json")})
    return GroupOutcome(folder, tuple(outcomes), selection, bundle)


def _selection(
    outcomes: Sequence[SeedOutcome], scores: np.ndarray, chosen: str, test: dict[str, Any] | None
) -> Selection:
    column = scores[:, None]
    return Selection(
        among="seeds",
        metric=METRIC,
        candidates=tuple(
            Candidate(
                name=one.run_dir.name,
                state="finished" if one.state == "finished" else "failed",
                log_return=one.score,
                sharpe=one.result.get("validation", {}).get("sharpe"),
            )
            for one in outcomes
        ),
        chosen=chosen,
        reason=_REASON,
        interquartile_mean=interquartile_mean(scores),
        interval=stratified_interval(column, np.random.default_rng(_GENERATOR_SEED)),
        test=test,
    )


def _tasks(folder: Path, experiment: Experiment, seeds: Sequence[int]) -> Iterator[Task]:
    for seed in seeds:
        run_dir = run_folder_of(folder.absolute(), seed)
        values = seed_experiment(experiment, seed).resolved()
        yield Task(run_dir.name, train_task, (values, run_dir), run_dir.parent / LOGS / f"{run_dir.name}.log")


def _finished(folder: Path, seeds: Sequence[int]) -> dict[str, News]:
    """What the seeds that finished before say again, without a worker."""
    results = {(run_dir := run_folder_of(folder, seed)).name: finished_result(run_dir) for seed in seeds}
    return {task: News(task, "done", result) for task, result in results.items() if result is not None}


def _outcome(run_dir: Path, seed: int, ended: Mapping[str, News]) -> SeedOutcome:
    news = ended[run_dir.name]
    if news.kind == "done":
        return SeedOutcome(seed, run_dir, "finished", news.value)
    return SeedOutcome(seed, run_dir, "killed" if news.kind == "killed" else "failed", {}, str(news.value))


def _continued(folder: Path, experiment: Experiment, count: int | None) -> tuple[int, ...]:
    group = read_json(folder / GROUP)
    if group["config_hash"] != experiment.hash():
        before = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
        changes = "\n".join(f"  {line}" for line in differences(before, experiment.resolved()))
        raise SeedsError(
            f"{folder} was another experiment; resume it with its own configuration ({folder / CONFIG}), or start "
            f"a new group. Changed since:\n{changes}"
        )
    seeds = tuple(int(seed) for seed in group["seeds"])
    if count is not None and count != len(seeds):
        raise SeedsError(f"{folder} has {len(seeds)} seeds, found --seeds {count}; leave it away, or start a new group")
    return seeds


def _refuse_orphans(folder: Path, seeds: Sequence[int]) -> None:
    """The workers of a command that was killed save and end by themselves, but after their rollout."""
    busy = [str(run_folder_of(folder, seed)) for seed in seeds if is_occupied(run_folder_of(folder, seed))]
    if busy:
        raise RunError(f"a process still trains in {', '.join(busy)}; wait until it has ended, or end it")
