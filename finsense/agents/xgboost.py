"""XGBoost: boosted trees (Chen and Guestrin 2016) on the market columns of a state, resumable to the bit."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import xgboost
from numpy.typing import NDArray

from finsense.agents.checkpoint import keep_checkpoint, newest_checkpoint
from finsense.agents.fitted_trees import FittedTrees, batches, earlier_trees, state_places
from finsense.agents.progress import FitFigures, Progress, TrainingInterrupted
from finsense.agents.supervised.dataset import Dataset, Windows, supervised
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.run import run_fit
from finsense.agents.training import Trained
from finsense.agents.watch import TrainingError
from finsense.config import Experiment
from finsense.config.labels import ForwardReturn
from finsense.config.xgboost import XgboostModel
from finsense.state.scaler import Scaler

log = structlog.get_logger()

_CLASSES = 3
_TREES = "trees.ubj"
# The borders of the bins are taken from so many training rows: each of 256 bins has some 40 of them. A sketch of all
# rows would take as long, and with a long history more memory, than all that follows.
_BORDER_ROWS = 10_000
# Objective and metric for three classes, and for a forward return.
_SOFTMAX = ("multi:softprob", "mlogloss")
_LOSSES = {"squared": ("reg:squarederror", "rmse"), "pseudo_huber": ("reg:pseudohubererror", "mphe")}


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Fit boosted trees and export them; arguments and errors are those of `run_fit`."""
    return run_fit(fit, experiment, run_dir, resume=resume, report=report)


def fit(experiment: Experiment, train: Dataset, validation: Dataset, scaler: Scaler, desk: FittingDesk) -> FittedTrees:
    """Boost until the loss on the validation span has not fallen for `patience` rounds; the best round is kept.

    One thread, and what a round draws hangs on the seed and the round's number alone: a run that was resumed ends with
    the same trees, bit for bit.

    Args:
        experiment: its agent is an `XgboostModel`.
        train: the examples to learn from.
        validation: the examples that tell when to stop.
        scaler: not used: a split asks whether a value lies below a threshold, which no scale changes.
        desk: where to write and whom to tell.

    Raises:
        TrainingInterrupted: it was asked to stop; a checkpoint was saved.
        CheckpointError: the checkpoint to resume is missing or damaged.
        WarmStartError: the earlier trees are of another kind.
        TrainingError: the loss is not finite.
    """
    del scaler
    boosting = Boosting(experiment, train, validation, desk)
    boosting.run()
    return boosting.fitted()


@dataclass(frozen=True)
class Standing:
    """Where a boosting stands between two rounds.

    Attributes:
        earlier: rounds of the trees that it started from.
        done: rounds since.
        best: of these, the one after which the loss on the validation span was lowest.
        best_loss: that loss; None before the first.
    """

    earlier: int = 0
    done: int = 0
    best: int = 0
    best_loss: float | None = None

    def after(self, loss: float) -> "Standing":
        """One round later, which ended with this loss."""
        after = replace(self, done=self.done + 1)
        better = self.best_loss is None or loss < self.best_loss
        return replace(after, best=after.done, best_loss=loss) if better else after


class Boosting:
    """One boosting under way; arguments as in `fit`."""

    def __init__(self, experiment: Experiment, train: Dataset, validation: Dataset, desk: FittingDesk) -> None:
        settings = supervised(experiment)
        assert isinstance(settings, XgboostModel)
        self.settings, self.desk, self.windows = settings, desk, train.windows
        self._returns = isinstance(settings.label, ForwardReturn)
        self._objective, self._metric = _LOSSES[settings.loss] if self._returns else _SOFTMAX
        self._names = feature_names([experiment.state.columns[place] for place in desk.columns], train.windows.history)
        raw, self.standing = self._start()
        self.unit = self._unit(train, raw)
        some = np.linspace(0, len(train) - 1, min(_BORDER_ROWS, len(train))).astype(np.int64)
        borders = self._matrix(train.take(some))
        self._train, self._validation = self._matrix(train, borders), self._matrix(validation, borders)
        parameters = self._parameters(experiment.seed)
        self.booster = xgboost.Booster(parameters, [self._train, self._validation], model_file=raw)
        self.booster.set_attr(objective=self._objective, unit=repr(self.unit))
        if self.standing.earlier and self.standing.best_loss is None:
            # Rounds that only make it worse shall not replace what it started from.
            self.standing = replace(self.standing, best_loss=self._losses()[1])
        self._started_s, self._done_before = time.monotonic(), self.standing.done

    def run(self) -> None:
        """Round after round, to the last one or until the validation loss has long stopped falling."""
        while self._goes_on():
            self.round()
            # Looked at once: a Ctrl-C while the checkpoint is written waits for the next round.
            stop = self.desk.asked_to_stop.is_set()
            if stop or not self._goes_on() or self.standing.done % self.settings.checkpoint_every == 0:
                self._save()
            if stop:
                raise TrainingInterrupted(f"interrupted after round {self.standing.done}; the run can be resumed")
        standing = self.standing
        log.info("boosted", rounds=standing.done, best=standing.best, loss=standing.best_loss)

    def round(self) -> None:
        """One tree for each class, or one for a forward return."""
        # XGBoost keeps the generator that draws columns in the method that grows trees and seeds it when that is made.
        # With the method changed and back it is made anew, so that a resumed booster draws as if it had never stopped.
        self.booster.set_param({"tree_method": "approx"})
        self.booster.save_config()
        self.booster.set_param({"tree_method": "hist"})
        self.booster.update(self._train, self.standing.earlier + self.standing.done)
        train_loss, loss = self._losses()
        if not (math.isfinite(train_loss) and math.isfinite(loss)):
            raise TrainingError(
                f"the loss is no longer finite after round {self.standing.done + 1}: {train_loss} on the training "
                f"span, {loss} on the validation span; lower agent.learning_rate or raise agent.reg_lambda"
            )
        self.standing = self.standing.after(loss)
        self._tell(train_loss, loss, self._accuracy())

    def fitted(self) -> FittedTrees:
        """The trees up to the best round."""
        standing, rows = self.standing, self._train.num_row()
        booster = self.booster[: standing.earlier + standing.best]
        booster.set_param({"nthread": 1})
        return FittedTrees(
            booster=booster,
            columns=self.desk.columns,
            history=self.windows.history,
            market_columns=self.windows.columns,
            targets=1 if self._returns else _CLASSES,
            unit=self.unit,
            steps=standing.done * rows,
            best_steps=standing.best * rows,
            best_epoch=standing.best,
        )

    def _goes_on(self) -> bool:
        standing = self.standing
        return standing.done < self.settings.rounds and standing.done - standing.best < self.settings.patience

    def _parameters(self, seed: int) -> dict[str, Any]:
        settings = self.settings
        return {
            "objective": self._objective,
            "eval_metric": self._metric,
            **({} if self._returns else {"num_class": _CLASSES}),
            "nthread": 1,
            "seed": seed,
            "seed_per_iteration": True,
            "max_depth": settings.max_depth,
            "max_bin": settings.max_bin,
            "learning_rate": settings.learning_rate,
            "subsample": settings.subsample,
            "colsample_bytree": settings.colsample,
            "min_child_weight": settings.min_child_weight,
            "reg_lambda": settings.reg_lambda,
            # Older rows of the history have names of their own, and are free.
            "monotone_constraints": tuple(settings.monotone.get(name, 0) for name in self._names),
        }

    def _start(self) -> tuple[bytearray | None, Standing]:
        """The trees that it begins with: none, those of an earlier bundle, or those of the newest checkpoint."""
        if self.desk.resume:
            path, progress = newest_checkpoint(self.desk.checkpoints)
            return bytearray((path / _TREES).read_bytes()), Standing(**progress["standing"])
        if self.desk.warm_start is None:
            return None, Standing()
        raw = earlier_trees(self.desk.warm_start, self._names, self._objective)
        return raw, Standing(earlier=xgboost.Booster(model_file=raw).num_boosted_rounds())

    def _unit(self, train: Dataset, raw: bytearray | None) -> float:
        """What forward returns are divided by, so that they are near one; that of the trees that it begins with.

        XGBoost makes no split that lowers the loss by less than 1e-6, however small the numbers are that it learns. A
        power of two rounds nothing.
        """
        if raw is not None:
            return float(str(xgboost.Booster(model_file=raw).attr("unit")))
        return 2.0 ** round(math.log2(train.forward.std())) if self._returns else 1.0

    def _matrix(self, examples: Dataset, borders: xgboost.QuantileDMatrix | None = None) -> xgboost.QuantileDMatrix:
        """The examples, each value as the number of its bin between the borders of another matrix, or its own."""
        source = _Batches(examples.windows, self._places)
        matrix = xgboost.QuantileDMatrix(source, max_bin=self.settings.max_bin, ref=borders, nthread=1)
        # Not batch by batch: XGBoost calls all threads together for each, which takes longer than the batch itself.
        label = examples.forward / self.unit if self._returns else examples.target
        matrix.set_info(label=label, weight=examples.weight, feature_names=self._names)
        return matrix

    @property
    def _places(self) -> NDArray[np.int64]:
        return state_places(self.desk.columns, self.windows.history, self.windows.columns)

    def _losses(self) -> tuple[float, float]:
        """The weighted losses on the training and the validation span."""
        matrices = [(self._train, "train"), (self._validation, "val")]
        text = self.booster.eval_set(matrices, self.standing.earlier + self.standing.done)
        # [12]<tab>train-mlogloss:0.69<tab>val-mlogloss:0.7
        train, validation = (float(part.rpartition(":")[2]) for part in text.split("\t")[1:])
        return train, validation

    def _accuracy(self) -> float:
        """Share of the validation examples whose class it names; of forward returns, whose sign among those not 0."""
        margins, label = self.booster.predict(self._validation, output_margin=True), self._validation.get_label()
        if self._returns:
            return float((np.sign(margins) == np.sign(label))[label != 0].mean())
        return float((margins.argmax(axis=1) == label).mean())

    def _tell(self, train_loss: float, loss: float, accuracy: float) -> None:
        settings, standing, rows = self.settings, self.standing, self._train.num_row()
        for name, value in {"train/loss": train_loss, "val/loss": loss, "val/accuracy": accuracy}.items():
            self.desk.writer.add_scalar(name, value, standing.done)
        if self.desk.report is None:
            return
        pace = (standing.done - self._done_before) * rows / max(time.monotonic() - self._started_s, 1e-9)
        assert standing.best_loss is not None
        figures = FitFigures(standing.done, settings.rounds, train_loss, loss, accuracy, standing.best_loss)
        left = (settings.rounds - standing.done) * rows
        self.desk.report(Progress(standing.done * rows, settings.rounds * rows, pace, left / pace, fit=figures))

    def _save(self) -> None:
        rows, trees = self.standing.done * self._train.num_row(), self.booster.save_raw("ubj")
        keep_checkpoint(
            self.desk.checkpoints,
            rows,
            {_TREES: lambda file: file.write(trees)},
            {"steps": rows, "best": None, "standing": asdict(self.standing)},
        )


def feature_names(columns: list[str], history: int) -> list[str]:
    """What the trees' columns are called, oldest row first: `rsi@-2`, `rsi@-1`, `rsi`."""
    return [f"{column}@-{age}" if age else column for age in reversed(range(history)) for column in columns]


class _Batches(xgboost.DataIter):
    """Hands the windows to XGBoost batch by batch, so that they never lie beside each other; it asks several times."""

    def __init__(self, windows: Windows, places: NDArray[np.int64]) -> None:
        super().__init__()
        self._windows, self._places = windows, places
        self.reset()

    def next(self, input_data: Callable[..., None]) -> bool:
        index = next(self._left, None)
        if index is None:
            return False
        input_data(data=self._windows.flat(index).take(self._places, axis=1))
        return True

    def reset(self) -> None:
        self._left: Iterator[NDArray[np.int64]] = iter(batches(self._windows))
