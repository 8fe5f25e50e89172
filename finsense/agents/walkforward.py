"""Trains and judges an experiment fold by fold and seed by seed, with a crew, and goes on where it stopped."""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.agents.crew import Crew, News, Task, work_off
from finsense.agents.occupancy import occupied
from finsense.agents.provenance import git_commit, versions
from finsense.agents.run_folder import CONFIG, RunError, differences
from finsense.agents.run_record import FAILED, read_json, read_result, write_json
from finsense.agents.seeds import run_folder_of, seed_experiment
from finsense.agents.walkforward_tasks import (
    BASELINES,
    CHARGE_LEVELS,
    TEST,
    agent_task,
    baselines_task,
    read_agent,
    read_baselines,
)
from finsense.config import Experiment, Split
from finsense.config.experiment import MAX_SEED
from finsense.evaluation.walkforward import RESAMPLES, Fold, Window, block_length, roll
from finsense.evaluation.walkforward_report import Spans, Terms, compare, decay, json_safe
from finsense.market.bars import day_date
from finsense.market.costs import MAX_SCALE
from finsense.state.span import tradable_range

PLAN, LOGS = "walkforward.json", "logs"


class WalkForwardError(ValueError):
    """A walk-forward that cannot be begun or gone on with."""


@dataclass(frozen=True)
class WalkForward:
    """What is trained and judged.

    Attributes:
        experiment: of every training but for its spans and its seed; its own spans are the newest fold's.
        folds: oldest first.
        window: how the training span moves.
        seeds: of the trainings of every fold.
        sessions: all days of the data on which any symbol traded, (n,) int64, days since 1970-01-01.
        data_hash: symbol -> SHA-256 (hex) of its bars.
    """

    experiment: Experiment
    folds: tuple[Fold, ...]
    window: Window
    seeds: tuple[int, ...]
    sessions: NDArray[np.int64]
    data_hash: Mapping[str, str]

    def described(self) -> dict[str, Any]:
        """JSON-safe; two that are equal here give equal results."""
        names = ("train", "validation", "test")
        spans = [
            {name: [day.isoformat() for day in span] for name, span in zip(names, fold.spans, strict=True)}
            for fold in self.folds
        ]
        return {
            "name": self.experiment.name,
            "config_hash": self.experiment.hash(),
            "data_hash": dict(self.data_hash),
            "window": self.window,
            "folds": spans,
            "seeds": list(self.seeds),
        }

    def days(self, first: dt.date, last: dt.date) -> NDArray[np.int64]:
        """The sessions of a span, (n,) int64, days since 1970-01-01."""
        begin, end = (np.datetime64(day, "D").astype(np.int64) for day in (first, last))
        return self.sessions[(self.sessions >= begin) & (self.sessions <= end)]

    def experiment_of(self, fold: int, seed: int) -> Experiment:
        """The ordinary experiment that trains one seed of one fold."""
        split = {
            name: {"from": span[0], "to": span[1]}
            for name, span in zip(("train", "validation", "test"), self.folds[fold].spans, strict=True)
        }
        rolled = self.experiment.model_copy(update={"split": Split.model_validate(split)})
        return seed_experiment(rolled, seed)


def plan_walkforward(experiment: Experiment, folds: int, seeds: int, window: Window) -> WalkForward:
    """Roll the experiment's spans back over its data.

    Args:
        experiment: its split is the newest fold.
        folds: how many.
        seeds: trainings per fold; they count up from the experiment's seed.
        window: of the training spans.

    Raises:
        WalkForwardError: the seeds or the charges are impossible.
        FoldError: the spans hold no session, or there are too few for so many folds.
        BarsError, HistoryError: the data cannot be read, or do not give a fold's spans their warm-up.
    """
    last = experiment.seed + seeds - 1
    if seeds < 1 or last > MAX_SEED:
        raise WalkForwardError(f"expected one seed or more, none above {MAX_SEED}, found {experiment.seed} to {last}")
    if experiment.costs.scale * max(CHARGE_LEVELS) > MAX_SCALE:
        raise WalkForwardError(
            f"charges are judged doubled too, and a scale may be {MAX_SCALE} at most: lower costs.scale to "
            f"{MAX_SCALE / max(CHARGE_LEVELS)}, found {experiment.costs.scale}"
        )
    bars = experiment.data.load()
    sessions = np.unique(np.concatenate([one.session_days for one in bars.values()]))
    split = experiment.split
    newest = Fold(*((span.first, span.last) for span in (split.train, split.validation, split.test)))
    rolled = roll([day_date(int(day)) for day in sessions], newest, folds, window)
    for one in bars.values():
        for fold in rolled:
            for span in (fold.validation, fold.test):
                tradable_range(one, experiment.state, *span)
    hashes = {symbol: one.data_hash for symbol, one in bars.items()}
    numbers = tuple(range(experiment.seed, last + 1))
    return WalkForward(experiment, rolled, window, numbers, sessions, hashes)


def open_walkforward(folder: Path, plan: WalkForward) -> None:
    """Begin in a folder, or go on with the same walk-forward there.

    Raises:
        WalkForwardError: the folder holds another walk-forward, or its data have changed.
        RunError: the folder holds a run of another kind.
        OSError: the folder cannot be written.
    """
    wanted = plan.described()
    if (folder / PLAN).exists():
        before = {name: value for name, value in read_json(folder / PLAN).items() if name in wanted}
        if before != wanted:
            changes = "\n".join(f"  {line}" for line in differences(before, wanted))
            raise WalkForwardError(
                f"{folder} holds another walk-forward; choose another folder. It differs:\n{changes}"
            )
        return
    if (folder / CONFIG).exists():
        raise RunError(f"{folder} holds a run of another kind; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(plan.experiment.resolved_yaml(), encoding="utf-8")
    write_json(folder / PLAN, {**wanted, "git_commit": git_commit(), "versions": versions()})


def run_walkforward(folder: Path, plan: WalkForward, *, crew: Crew, tell: Callable[[News], None]) -> None:
    """Train and judge whatever is missing; one that fails or is killed leaves the others alone.

    The seeds come one after the other, each through all folds, so that what is finished early can be read.

    Args:
        folder: opened for this plan.
        plan: what to do.
        crew: does it.
        tell: called with everything that a worker says.

    Raises:
        RunError: another process works in the folder.
        TrainingInterrupted: Ctrl-C; all was saved.
    """
    with occupied(folder):
        work_off(crew, _missing(folder.absolute(), plan), tell)


def report(folder: Path, plan: WalkForward) -> dict[str, Any]:
    """What is finished says; the statistics need one seed that has gone through all folds, and the baselines.

    Returns:
        The plan; `finished_seeds`; `unfinished`: task -> why (empty where it did not fail); `trials`; and as soon as
        there is something to compare `charges`: level -> `compare`, and `decay`.

    Raises:
        RunError: a record is damaged.
    """
    missing = list(_trainings(folder, plan))
    baselines = [fold for fold in range(len(plan.folds)) if not _baselines(folder, fold).exists()]
    seeds = [seed for seed in plan.seeds if seed not in {seed for seed, _ in missing}]
    found: dict[str, Any] = {
        **plan.described(),
        "finished_seeds": seeds,
        "unfinished": {
            **{_name(fold, seed): _why(_run_dir(folder, fold, seed)) for seed, fold in missing},
            **{f"fold_{fold + 1}_baselines": "" for fold in baselines},
        },
        "trials": _trials(plan, len(plan.folds) * len(plan.seeds) - len(missing)),
    }
    if not seeds or baselines:
        return found
    terms = Terms(
        days=[plan.days(*fold.test) for fold in plan.folds],
        validation_sessions=[len(plan.days(*fold.validation)) for fold in plan.folds],
        sessions_per_year=plan.experiment.evaluation.sessions_per_year,
    )
    found["bootstrap"] = {"resamples": RESAMPLES, "block_sessions": block_length(sum(map(len, terms.days)))}
    found["charges"] = {
        level: compare(
            [_agent_spans(folder, plan, seed, level) for seed in seeds], _baseline_spans(folder, plan, level), terms
        )
        for level in CHARGE_LEVELS
    }
    folds = range(len(plan.folds))
    scores = [[_score(_run_dir(folder, fold, seed)) for fold in folds] for seed in seeds]
    found["decay"] = decay([_agent_spans(folder, plan, seed, 1) for seed in seeds], np.array(scores), terms)
    return dict(json_safe(found))


def _missing(folder: Path, plan: WalkForward) -> Iterator[Task]:
    def task(name: str, work: Callable[..., Any], *arguments: Any) -> Task:
        return Task(name, work, arguments, folder / LOGS / f"{name}.log")

    for fold in range(len(plan.folds)):
        if not _baselines(folder, fold).exists():
            values = plan.experiment_of(fold, plan.seeds[0]).resolved()
            yield task(f"fold_{fold + 1}_baselines", baselines_task, values, _baselines(folder, fold))
    for seed, fold in _trainings(folder, plan):
        values = plan.experiment_of(fold, seed).resolved()
        yield task(_name(fold, seed), agent_task, values, _run_dir(folder, fold, seed))


def _trainings(folder: Path, plan: WalkForward) -> Iterator[tuple[int, int]]:
    """Seed and fold of every training that is not finished and judged."""
    for seed in plan.seeds:
        for fold in range(len(plan.folds)):
            if not (_run_dir(folder, fold, seed) / TEST).exists():
                yield seed, fold


def _agent_spans(folder: Path, plan: WalkForward, seed: int, level: int) -> Spans:
    return [read_agent(_run_dir(folder, fold, seed), level) for fold in range(len(plan.folds))]


def _baseline_spans(folder: Path, plan: WalkForward, level: int) -> dict[str, Spans]:
    folds = [read_baselines(_baselines(folder, fold), level) for fold in range(len(plan.folds))]
    return {name: [fold[name] for fold in folds] for name in folds[0]}


def _trials(plan: WalkForward, trainings: int) -> dict[str, int]:
    """How often anything was tried or looked at, which a later statistic of this result needs."""
    agent = plan.experiment.agent
    rollouts = -(-agent.steps // agent.rollout_steps)
    seen = {rollout * agent.rollout_steps // agent.eval_every for rollout in range(1, rollouts)} - {0}
    return {
        "configurations": 1,
        "trainings": trainings,
        "checkpoints_per_training": len(seen) + 1,
        "test_judgements_per_training": 1,
    }


def _why(run_dir: Path) -> str:
    record = read_result(run_dir)
    return str(record.get("error", "")) if record.get("state") == FAILED else ""


def _score(run_dir: Path) -> float:
    return float(read_result(run_dir)["validation"]["log_return"])


def _name(fold: int, seed: int) -> str:
    return f"fold_{fold + 1}_seed_{seed}"


def _run_dir(folder: Path, fold: int, seed: int) -> Path:
    return run_folder_of(folder / f"fold_{fold + 1}", seed)


def _baselines(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold + 1}" / BASELINES
