"""How important each column is to a supervised model, fold by fold over its training span, and which ones stay so."""

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.attribution import (
    Trees,
    gain_importance,
    gradient_importance,
    losses,
    permutation_importance,
)
from finsense.agents.markets import load_markets
from finsense.agents.progress import first_interrupt
from finsense.agents.run_record import read_json, write_json
from finsense.agents.splits import purged_before, purged_kfold
from finsense.agents.supervised.dataset import Dataset, datasets, supervised
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.model import Fit, FittedModel
from finsense.agents.supervised.network import FittedNetwork
from finsense.agents.training import one_thread
from finsense.config import Experiment
from finsense.config.feature_selection import FeatureSelection
from finsense.evaluation.persistence import Persistence, persistence
from finsense.market.calendar import session_date
from finsense.state.scaler import Scaler, fit_scaler

log = structlog.get_logger()

IMPORTANCE = "importance.json"
# Share of a fold's training rows, the latest ones, on which its fitting stops.
_STOPPING = 0.15


class AnalysisError(ValueError):
    """An analysis that the model or its training span does not allow."""


@dataclass(frozen=True)
class FoldOutcome:
    """One fold.

    Attributes:
        first: first date of the judged rows (IST, ISO).
        last: last one.
        trained: rows that the model was fitted on.
        judged: rows judged.
        loss: of the model on the judged rows (nats, or squared error over the variance).
        loss_without: of the constant forecast of the fitted rows' classes (or mean return).
    """

    first: str
    last: str
    trained: int
    judged: int
    loss: float
    loss_without: float


@dataclass(frozen=True)
class FeatureAnalysis:
    """What the columns are worth to the model.

    Attributes:
        selection: how it was judged.
        columns: (C,) names.
        folds: oldest first.
        by_fold: (folds, C) float64, by how much each column lowers the loss on the judged rows.
        gain_shares: (folds, C) float64, of trees: XGBoost's own gain on the fitted rows, share of the total; else None.
        lasting: of `by_fold`.
    """

    selection: FeatureSelection
    columns: tuple[str, ...]
    folds: tuple[FoldOutcome, ...]
    by_fold: NDArray[np.float64]
    gain_shares: NDArray[np.float64] | None
    lasting: Persistence

    @property
    def order(self) -> NDArray[np.int64]:
        """(C,) places, from the most important column to the least, by the mean over folds."""
        return np.argsort(-self.lasting.mean, kind="stable")

    @property
    def chosen(self) -> NDArray[np.int64]:
        """(c,) int64, ascending, places of the columns that a model shall read: the stable ones, and `at_least`."""
        stable = self.order[self.lasting.stable[self.order]]
        others = self.order[~self.lasting.stable[self.order]]
        missing = max(self.selection.at_least - len(stable), 0)
        return np.sort(np.concatenate([stable, others[:missing]]))

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe, the most important column first: importance.json, and `forecast.importance` of a manifest."""
        lasting, chosen = self.lasting, set(self.chosen.tolist())
        return {
            **self.selection.model_dump(mode="json"),
            "judged_folds": [vars(fold) for fold in self.folds],
            "tau": lasting.tau,
            "tau_chance": lasting.tau_chance,
            "stable_share": float(lasting.stable.mean()),
            "steady_rank_share": lasting.steady,
            "steady_rank_chance": lasting.steady_chance,
            "columns": [
                {
                    "column": self.columns[place],
                    "value": float(lasting.mean[place]),
                    "low": float(lasting.low[place]),
                    "high": float(lasting.high[place]),
                    "chance": float(lasting.chance[place]),
                    "by_fold": self.by_fold[:, place].tolist(),
                    "ranks": lasting.ranks[:, place].tolist(),
                    "rank_spread": float(lasting.spread[place]),
                    "in_front": float(lasting.in_front[place]),
                    "stable": bool(lasting.stable[place]),
                    "chosen": place in chosen,
                    "gain_share": None if self.gain_shares is None else float(self.gain_shares[:, place].mean()),
                }
                for place in self.order.tolist()
            ],
        }


def selected_columns(
    fit: Fit, experiment: Experiment, train: Dataset, run_dir: Path, asked_to_stop: threading.Event
) -> tuple[NDArray[np.int64], dict[str, Any] | None]:
    """The market columns that a model shall read, and what they were chosen by.

    Without `agent.select` these are all of them. With it the training span is analysed, the result is written to
    importance.json of the run, and a run that is resumed reads it there.

    Args:
        fit: of the experiment's kind of model.
        experiment: what is trained.
        train: its training examples; nothing else is looked at.
        run_dir: the run's folder.
        asked_to_stop: as in `FittingDesk`.

    Returns:
        (c,) int64, ascending, and `FeatureAnalysis.as_dict` or None.

    Raises:
        AnalysisError, AttributionError, SplitError: the training span or the model does not allow it.
        TrainingInterrupted: it was asked to stop.
        RunError: importance.json of a resumed run is damaged.
    """
    columns = experiment.state.columns
    if supervised(experiment).select is None:
        return np.arange(len(columns)), None
    path = run_dir / IMPORTANCE
    if path.exists():
        found = read_json(path)
        names = {one["column"] for one in found["columns"] if one["chosen"]}
        return np.flatnonzero([name in names for name in columns]), found
    analysis = analyse_features(fit, experiment, train, asked_to_stop)
    found = analysis.as_dict()
    write_json(path, found)
    return analysis.chosen, found


def analyse_experiment(fit: Fit, experiment: Experiment) -> FeatureAnalysis:
    """Load the experiment's markets and analyse its training span; Ctrl-C stops it after the epoch.

    Args and errors as in `analyse_features`, and those of `load_markets` and `datasets`.
    """
    train, _ = datasets(experiment, load_markets(experiment))
    with one_thread(), first_interrupt() as asked_to_stop:
        return analyse_features(fit, experiment, train, asked_to_stop)


def analyse_features(
    fit: Fit, experiment: Experiment, train: Dataset, asked_to_stop: threading.Event
) -> FeatureAnalysis:
    """Fit the model once per purged fold of its training span, and judge every column on the rows left out.

    Each fitting stops on the latest rows of its own fold; neither these nor the scaler see the judged rows. It starts
    afresh, for an earlier bundle may have seen them.

    Args:
        fit: of the experiment's kind of model.
        experiment: what would be trained; its `agent.select` says how to judge, and where it is null the defaults do.
        train: its training examples.
        asked_to_stop: as in `FittingDesk`.

    Raises:
        AnalysisError: the method is not one of this kind of model.
        AttributionError, SplitError: the training span is too short.
        TrainingInterrupted: it was asked to stop.
    """
    agent = supervised(experiment)
    selection = agent.select or FeatureSelection()
    _check_method(selection.method, experiment.agent.kind)
    plain = agent.model_copy(update={"select": None, "warm_start": None})
    plainly = experiment.model_copy(update={"agent": plain})
    embargo = round(selection.embargo * len(np.unique(train.start_ns)))
    folds = purged_kfold(train.start_ns, train.end_ns, selection.folds, embargo)
    outcomes, importance, gains = [], [], []
    for number, fold in enumerate(folds):
        log.info("judging the columns", fold=number + 1, of=len(folds), method=selection.method)
        fitted, stopping = _stopping_rows(train.take(fold.train))
        model = _fitted(fit, plainly, fitted, stopping, asked_to_stop)
        judged = train.take(fold.test)
        importance.append(
            _importance(selection.method, model, judged, np.random.default_rng((experiment.seed, number)))
        )
        if isinstance(model, Trees):
            gains.append(model.gains())
        outcomes.append(_outcome(model, fitted, judged))
    by_fold = np.stack(importance)
    return FeatureAnalysis(
        selection=selection,
        columns=experiment.state.columns,
        folds=tuple(outcomes),
        by_fold=by_fold,
        gain_shares=np.stack(gains) if gains else None,
        lasting=persistence(by_fold, top=selection.top, share=selection.share),
    )


def _check_method(method: str, kind: str) -> None:
    trees = kind == "xgboost"
    if (method == "gain" and not trees) or (method == "gradients" and trees):
        raise AnalysisError(
            f"expected a method that agent.kind {kind} has, found agent.select.method {method}: choose permutation"
            f"{' or gain' if trees else ' or gradients'}"
        )


def _stopping_rows(examples: Dataset) -> tuple[Dataset, Dataset]:
    """The rows to fit on, and the latest ones to stop on; no label of the first reaches into the second."""
    times = np.unique(examples.start_ns)
    boundary = int(times[round(len(times) * (1 - _STOPPING))])
    early = np.flatnonzero(purged_before(examples.end_ns, boundary))
    late = np.flatnonzero(examples.start_ns >= boundary)
    if not len(early):
        raise AnalysisError(
            f"expected rows to fit on before those to stop on, found none among {len(examples)}: the labels look "
            "too far ahead for folds so short; choose fewer folds or a shorter horizon"
        )
    return examples.take(early), examples.take(late)


def _fitted(
    fit: Fit, experiment: Experiment, train: Dataset, stopping: Dataset, asked_to_stop: threading.Event
) -> FittedModel:
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        desk = FittingDesk(
            checkpoints=Path(folder),
            resume=False,
            writer=writer,
            asked_to_stop=asked_to_stop,
            report=None,
            columns=np.arange(len(experiment.state.columns)),
        )
        return fit(experiment, train, stopping, _scaler(train), desk)


def _scaler(train: Dataset) -> Scaler:
    newest = train.windows.first_row + train.windows.history - 1
    return fit_scaler(train.windows.rows[newest], train.windows.history, len(ACCOUNT_FEATURES))


def _importance(
    method: str, model: FittedModel, judged: Dataset, generator: np.random.Generator
) -> NDArray[np.float64]:
    if method == "gain":
        assert isinstance(model, Trees)
        return gain_importance(model, judged)
    if method == "gradients":
        assert isinstance(model, FittedNetwork)
        return gradient_importance(model.network, judged)
    return permutation_importance(model, judged, generator)


def _outcome(model: FittedModel, fitted: Dataset, judged: Dataset) -> FoldOutcome:
    variance = float(judged.forward.var())
    outputs = model.outputs(judged.windows)
    if outputs.shape[1] == 1:
        constant = np.full((len(judged), 1), fitted.forward.mean())
    else:
        # A class that the fitted rows lack counts as one row of them.
        counts = np.maximum(np.bincount(fitted.target, minlength=outputs.shape[1]), 1)
        constant = np.tile(np.log(counts / counts.sum()), (len(judged), 1))
    return FoldOutcome(
        first=session_date(int(judged.start_ns.min())).isoformat(),
        last=session_date(int(judged.start_ns.max())).isoformat(),
        trained=len(fitted),
        judged=len(judged),
        loss=float(losses(outputs, judged, variance).mean()),
        loss_without=float(losses(constant, judged, variance).mean()),
    )
