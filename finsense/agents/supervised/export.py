"""From a fitted supervised model to its verified bundle: the graph with its decision rule, and what is told of it."""

import datetime as dt
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.agents.export import Lineage, write_policy_bundle
from finsense.agents.labels import CLASSES
from finsense.agents.markets import Markets
from finsense.agents.supervised.dataset import Dataset, supervised
from finsense.agents.supervised.decision import FittedDecider
from finsense.agents.supervised.model import FittedModel
from finsense.agents.validation import Judge
from finsense.config import Experiment
from finsense.model.bundle import Bundle
from finsense.model.golden import PROBABILITY_TOLERANCE
from finsense.model.manifest import Forecast

# Trees compare and add, which every processor does alike.
_TOLERANCES = {"xgboost": 1e-6}


def export_fitted(
    path: Path,
    fitted: FittedModel,
    decision: FittedDecider,
    experiment: Experiment,
    markets: Markets,
    train: Dataset,
    columns: NDArray[np.int64],
    importance: dict[str, Any] | None,
    judge: Judge,
    run: dict[str, Any],
    inherited: tuple[dt.date, dt.date] | None = None,
) -> Bundle:
    """Write the bundle of a fitted model; errors as in `write_policy_bundle`.

    Args:
        path: of the bundle.
        fitted: the model.
        decision: its decision rule.
        experiment: what was fitted.
        markets: its markets.
        train: its training examples.
        columns: (c,) int64, places of the market columns that it reads.
        importance: what each column told; None where that was not asked for.
        judge: of its validation span.
        run: the run's manifest.
        inherited: the days that the models before it were made of, if it was started from one.
    """
    names = experiment.state.columns
    forecast = Forecast(
        label=supervised(experiment).label.model_dump(mode="json"),
        classes=CLASSES,
        columns=tuple(names[place] for place in columns.tolist()),
        calibration={"trained": _trained(fitted, train), **decision.calibration},
        decision=decision.decision,
        importance=importance,
    )
    lineage = Lineage(fitted.steps, fitted.best_steps, fitted.weights_hash(), forecast, inherited)
    return write_policy_bundle(
        path,
        fitted.graph(decision.decider, judge.state_width, judge.action_count),
        partial(fitted.decide, decision.decider),
        experiment,
        markets,
        judge,
        lineage,
        run,
        _TOLERANCES.get(experiment.agent.kind, PROBABILITY_TOLERANCE),
    )


def _trained(fitted: FittedModel, train: Dataset) -> dict[str, Any]:
    counts = np.bincount(train.target, minlength=len(CLASSES))
    return {
        "rows": len(train),
        "best_epoch": fitted.best_epoch,
        "class_shares": dict(zip(CLASSES, (counts / len(train)).tolist(), strict=True)),
    }
