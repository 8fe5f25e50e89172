"""The trials of a search in Optuna's journal: who may go on with them, what comes next, what became of each."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from finsense.agents.run_folder import differences
from finsense.config import Dimension, Search, SearchPlan

# Names of what is noted at a study and at its trials.
DEFINITION, HASH, DATA = "definition", "definition_hash", "data_hash"
PLACE, CONTINUES, KILLED, INFEASIBLE, ERROR, FIGURES = "place", "continues", "killed", "infeasible", "error", "figures"
_WAITING, _RUNNING, _FAILED = TrialState.WAITING, TrialState.RUNNING, TrialState.FAIL


class TuneError(ValueError):
    """A search that cannot be begun, gone on with, or ended."""


def open_study(storage: Path, name: str, plan: SearchPlan) -> Study:
    """The study of that name, made if the storage has none; the caller holds the storage for itself.

    Raises:
        TuneError: the file is no journal, or its study of this name searches something else.
        OSError: it cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drop_torn_line(storage)
    try:
        journal = JournalStorage(JournalFileBackend(str(storage)))
        study = optuna.create_study(
            storage=journal, study_name=name, direction="maximize", load_if_exists=True, pruner=_pruner(plan.search)
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TuneError(f"{storage} is no journal of a search ({error}); choose another file") from error
    definition, digest = plan.experiment.resolved(), _digest(plan)
    found = study.user_attrs
    if not found and not study.get_trials(deepcopy=False):
        study.set_user_attr(DEFINITION, definition)
        study.set_user_attr(HASH, digest)
    elif found.get(HASH) != digest:
        changes = "\n".join(f"  {line}" for line in differences(found.get(DEFINITION, {}), definition))
        raise TuneError(
            f"{storage} is in use by another study {name!r}; go on with its own configuration, or give this one "
            f"another --study or --storage. Changed since:\n{changes}"
        )
    return study


def take_up(study: Study) -> int:
    """Put trials that nobody trains any more, because their process was killed or stopped, in line again.

    Returns:
        How many.
    """
    trials = study.get_trials(deepcopy=False)
    continued = {trial.user_attrs.get(CONTINUES) for trial in trials}
    left = [trial for trial in trials if trial.state == _RUNNING or trial.user_attrs.get(KILLED)]
    taken = 0
    for trial in left:
        if trial.number not in continued and PLACE in trial.user_attrs:
            attributes = {PLACE: trial.user_attrs[PLACE], CONTINUES: trial.number}
            study.enqueue_trial(trial.params, user_attrs=attributes)
            taken += 1
        if trial.state == _RUNNING:
            study.tell(trial.number, state=_FAILED)
    return taken


def next_trial(study: Study, plan: SearchPlan, wanted: int) -> Trial | None:
    """The trial to train next: one that was left unfinished, or a new one; None when there are as many as wanted.

    What a new trial tries is a function of the search's seed, its place, and the trials that ended before it, so that
    a search of one job that is killed and gone on with tries the same values as one that was not.
    """
    trials = study.get_trials(deepcopy=False)
    places = sum(PLACE in trial.user_attrs and CONTINUES not in trial.user_attrs for trial in trials)
    if places >= wanted and not any(trial.state == _WAITING for trial in trials):
        return None
    study.sampler = _sampler(plan.search, places)
    trial = study.ask(distributions(plan))
    if PLACE not in trial.user_attrs:
        trial.set_user_attr(PLACE, places)
    elif CONTINUES in trial.user_attrs:
        before = trials[trial.user_attrs[CONTINUES]]
        for evaluation, value in before.intermediate_values.items():
            trial.report(value, evaluation)
        if FIGURES in before.user_attrs:
            trial.set_user_attr(FIGURES, before.user_attrs[FIGURES])
    return trial


def trial_name(trial: Trial | FrozenTrial) -> str:
    """Names the trial's folder; one that is taken up again keeps it."""
    return f"trial_{trial.user_attrs[PLACE]:04d}"


def latest(study: Study) -> list[FrozenTrial]:
    """Of each place the trial that was begun last, in the order of the places."""
    found = {trial.user_attrs[PLACE]: trial for trial in study.get_trials() if PLACE in trial.user_attrs}
    return [found[place] for place in sorted(found)]


def distributions(plan: SearchPlan) -> dict[str, BaseDistribution]:
    """The space as Optuna has it; a choice is its JSON text, for a journal takes no lists."""
    return {key: _distribution(one, key in plan.integers) for key, one in plan.search.space.items()}


def values_of(plan: SearchPlan, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a trial, as the experiment takes them, in the order of the space."""
    space = plan.search.space
    return {
        key: parameters[key] if space[key].choices is None else json.loads(parameters[key])
        for key in space
        if key in parameters
    }


def _distribution(dimension: Dimension, integer: bool) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution([json.dumps(choice) for choice in dimension.choices])
    assert dimension.low is not None
    assert dimension.high is not None
    if integer:
        step = 1 if dimension.step is None else int(dimension.step)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _sampler(search: Search, place: int) -> BaseSampler:
    seed = int(np.random.SeedSequence([search.seed, place]).generate_state(1)[0])
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=search.startup_trials)


def _pruner(search: Search) -> BasePruner:
    chosen = search.pruner
    if chosen.kind == "median":
        # Evaluations count from 1, and Optuna prunes from the warm-up's last step on.
        return MedianPruner(n_startup_trials=chosen.startup_trials, n_warmup_steps=chosen.warmup_evaluations + 1)
    if chosen.kind == "halving":
        return SuccessiveHalvingPruner(min_resource=chosen.min_evaluations, reduction_factor=chosen.reduction)
    return NopPruner()


def _digest(plan: SearchPlan) -> str:
    search = plan.search.model_dump(mode="json")
    text = json.dumps([plan.experiment.hash(), search], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _drop_torn_line(storage: Path) -> None:
    """A write that was cut off (a full disk, a lost machine) leaves half a line, which would spoil the next one."""
    content = storage.read_bytes() if storage.exists() else b""
    if not content:
        return
    kept = content.rfind(b"\n") + 1
    # Optuna forgives one line that it cannot read, and would write on below it, whatever the file is.
    try:
        begun = "op_code" in json.loads(content[:kept].splitlines()[0])
    except (IndexError, TypeError, ValueError):
        begun = False
    if not begun:
        raise TuneError(f"{storage} is no journal of a search; choose another file")
    if kept < len(content):
        with storage.open("rb+") as file:
            file.truncate(kept)
