"""A search for hyperparameters: trials side by side, hopeless ones pruned, the best on validation exported."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from finsense.agents.crew import Crew, News, Task, work_off
from finsense.agents.occupancy import is_occupied, occupied
from finsense.agents.progress import Progress
from finsense.agents.run_folder import BUNDLE, MANIFEST, RunError
from finsense.agents.run_record import FINISHED, PRUNED, RESULT, read_json, read_result, write_json
from finsense.agents.run_task import train_task
from finsense.agents.selection import compare_in_tensorboard, export_chosen
from finsense.agents.study import (
    DATA,
    ERROR,
    FIGURES,
    INFEASIBLE,
    KILLED,
    TuneError,
    latest,
    next_trial,
    open_study,
    take_up,
    trial_name,
    values_of,
)
from finsense.config import ConfigError, SearchPlan
from finsense.model.manifest import Candidate, Selection

LOGS = "logs"
# With fewer finished trials an importance is a guess.
_LEAST_FOR_IMPORTANCE = 5
_FIGURES = ("log_return", "sharpe")


@dataclass(frozen=True)
class TuneOutcome:
    """What a search found.

    Attributes:
        folder: of its trials.
        values: of the best trial, key of the space -> value.
        score: its metric on the validation span.
        selection: how it was chosen; it counts every trial.
        bundle: of the best trial.
        importance: key -> share of the metric's variation (PED-ANOVA, Watanabe et al. 2023); empty for few trials.
    """

    folder: Path
    values: Mapping[str, Any]
    score: float
    selection: Selection
    bundle: Path
    importance: Mapping[str, float]


def study_folder(storage: Path, name: str) -> Path:
    """Where the trials of a study are trained: beside its storage."""
    return storage.with_name(f"{storage.name}.runs") / name


def tune(
    plan: SearchPlan,
    storage: Path,
    name: str,
    *,
    trials: int,
    crew: Crew,
    tell: Callable[[News], None],
) -> TuneOutcome:
    """Search until there are so many trials, counting those that the storage has, and export the best.

    This process alone writes the storage; the crew trains. So a worker that is killed harms nothing: its trial is
    noted, and taken up again from its last checkpoint when the same search is started again. The same holds for all
    trials when this process is killed. The test span is never touched.

    Args:
        plan: what to search.
        storage: file of the trials.
        name: of the study in it.
        trials: how many, pruned and failed ones included.
        crew: trains them.
        tell: called with everything that a worker says and with the end of each trial, named `trial_<n>`.

    Raises:
        TuneError: the count is impossible, the storage belongs to another study, the data changed, or no trial
            finished.
        RunError: another process searches in the storage.
        TrainingInterrupted: Ctrl-C; all was saved.
    """
    if trials < 1:
        raise TuneError(f"expected one trial or more, found {trials}")
    folder = study_folder(storage, name)
    with occupied(folder.parent):
        study = open_study(storage, name, plan)
        _refuse_orphans(study, folder)
        take_up(study)
        hunt = _Hunt(plan, study, folder.absolute(), crew, tell)
        work_off(crew, hunt.tasks(trials), hunt.take)
        return _conclude(plan, study, folder)


class _Hunt:
    """The trials at work, and what is noted of them."""

    def __init__(self, plan: SearchPlan, study: Study, folder: Path, crew: Crew, tell: Callable[[News], None]) -> None:
        self.plan, self.study, self.folder = plan, study, folder
        self._crew, self._tell = crew, tell
        self._trials: dict[str, Trial] = {}
        self._evaluated: dict[str, int] = {}
        self._pruned: set[str] = set()

    def tasks(self, wanted: int) -> Iterator[Task]:
        """The trials as they come, until there are so many; one whose values do not go together is noted only."""
        while (trial := next_trial(self.study, self.plan, wanted)) is not None:
            task = self._task(trial)
            if task is not None:
                yield task

    def _task(self, trial: Trial) -> Task | None:
        name = trial_name(trial)
        try:
            experiment = self.plan.trial(values_of(self.plan, trial.params))
        except ConfigError as error:
            reasons = "; ".join(problem.message for problem in error.problems)
            trial.set_user_attr(INFEASIBLE, reasons)
            self.study.tell(trial, state=TrialState.PRUNED)
            self._tell(News(name, "failed", f"values that do not go together: {reasons}"))
            return None
        self._trials[name] = trial
        log = self.folder / LOGS / f"{name}.log"
        return Task(name, train_task, (experiment.resolved(), self.folder / name), log)

    def take(self, news: News) -> None:
        """Note what a worker said."""
        if news.kind == "said":
            self._evaluation(news.task, news.value)
        else:
            if news.task in self._pruned and news.kind in ("done", "stopped"):
                news = replace(news, kind="stopped", value="pruned: its evaluations lag behind those of other trials")
            self._end(news)
        self._tell(news)

    def _evaluation(self, name: str, progress: Progress) -> None:
        before = self._evaluated.setdefault(name, progress.evaluated)
        if progress.last_eval is None or progress.evaluated <= before:
            return
        self._evaluated[name] = progress.evaluated
        trial, figures = self._trials[name], progress.last_eval.as_dict()
        evaluation = progress.evaluated // self.plan.experiment.agent.eval_every
        if name in self._pruned or evaluation in self.study.trials[trial.number].intermediate_values:
            return
        trial.set_user_attr(FIGURES, {figure: figures[figure] for figure in _FIGURES})
        trial.report(getattr(progress.last_eval, self.plan.search.metric), evaluation)
        if trial.should_prune():
            self._pruned.add(name)
            self._crew.stop(name)

    def _end(self, news: News) -> None:
        name, trial = news.task, self._trials.pop(news.task)
        self._evaluated.pop(name, None)
        if name in self._pruned and news.kind == "stopped":
            self.study.tell(trial, state=TrialState.PRUNED)
            # A quick one may have finished before it heard of it, and says so itself.
            if read_result(self.folder / name).get("state") != FINISHED:
                write_json(self.folder / name / RESULT, {"state": PRUNED})
        elif news.kind == "done":
            self._finish(trial, news.value["validation"])
        elif news.kind != "stopped":
            # One that was stopped stays as it is, and is taken up the next time.
            trial.set_user_attr(ERROR, news.value)
            if news.kind == "killed":
                trial.set_user_attr(KILLED, True)
            self.study.tell(trial, state=TrialState.FAIL)

    def _finish(self, trial: Trial, validation: Mapping[str, Any]) -> None:
        trial.set_user_attr(FIGURES, {figure: validation[figure] for figure in _FIGURES})
        self._refuse_other_data(trial_name(trial))
        score = validation[self.plan.search.metric]
        if score is None:
            trial.set_user_attr(ERROR, f"{self.plan.search.metric} is undefined: the policy never traded")
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, score)

    def _refuse_other_data(self, name: str) -> None:
        found = read_json(self.folder / name / MANIFEST)["data_hash"]
        known = self.study.user_attrs.get(DATA)
        if known is None:
            self.study.set_user_attr(DATA, found)
        elif known != found:
            changed = ", ".join(symbol for symbol in found if found[symbol] != known.get(symbol))
            raise TuneError(
                f"the bars of {changed} changed since the first trial, so {name} cannot be compared with it; restore "
                "them, or begin another study"
            )


def _conclude(plan: SearchPlan, study: Study, folder: Path) -> TuneOutcome:
    trials, metric = latest(study), plan.search.metric
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not finished:
        reasons = dict.fromkeys(str(trial.user_attrs.get(ERROR, "pruned")) for trial in trials)
        raise TuneError(f"none of {len(trials)} trials finished: {'; '.join(reasons)}. Logs: {folder / LOGS}")
    best = max(finished, key=lambda trial: (trial.value, -trial.number))
    selection = Selection(
        among="trials",
        metric=metric,
        candidates=tuple(_candidate(trial) for trial in trials),
        chosen=trial_name(best),
        reason=f"the highest `{metric}` on the validation span",
    )
    values = values_of(plan, best.params)
    source = folder / trial_name(best) / BUNDLE
    bundle = export_chosen(source, folder / BUNDLE, plan.trial(values), selection)
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and FIGURES in trial.user_attrs:
            settings = {**values_of(plan, trial.params), "state": _candidate(trial).state}
            compare_in_tensorboard(folder, trial_name(trial), settings, trial.user_attrs[FIGURES])
    write_json(folder / RESULT, {"state": "finished", "values": values, **selection.model_dump(mode="json")})
    assert best.value is not None
    return TuneOutcome(folder, values, best.value, selection, bundle.path, _importance(study, len(finished)))


def _candidate(trial: FrozenTrial) -> Candidate:
    figures = trial.user_attrs.get(FIGURES, {})
    state: Any = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned"}.get(trial.state, "failed")
    if INFEASIBLE in trial.user_attrs:
        state = "infeasible"
    return Candidate(
        name=trial_name(trial), state=state, log_return=figures.get("log_return"), sharpe=figures.get("sharpe")
    )


def _importance(study: Study, finished: int) -> dict[str, float]:
    if finished < _LEAST_FOR_IMPORTANCE:
        return {}
    return {key: float(share) for key, share in optuna.importance.get_param_importances(study).items()}


def _refuse_orphans(study: Study, folder: Path) -> None:
    """The workers of a command that was killed save and end by themselves, but after their rollout."""
    names = [trial_name(trial) for trial in latest(study)]
    busy = [str(folder / name) for name in names if is_occupied(folder / name)]
    if busy:
        raise RunError(f"a process still trains in {', '.join(busy)}; wait until it has ended, or end it")
