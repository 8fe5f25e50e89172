"""Fits a supervised model as a run does, without the run: data, scaler, a desk in a folder."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents import gru, lstm, transformer, xgboost
from finsense.agents.labels import DOWN, FLAT, UP
from finsense.agents.markets import Markets, load_markets
from finsense.agents.progress import Progress
from finsense.agents.supervised.dataset import Dataset, datasets, span_dataset
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.model import Fit, FittedModel
from finsense.config import Experiment
from finsense.state.scaler import Scaler, fit_scaler

# Every kind of supervised model, small: how it is fitted, and its settings.
FITS: dict[str, tuple[Fit, dict[str, Any]]] = {
    "lstm": (lstm.fit, {"hidden": 16, "epochs": 12, "patience": 4, "batch_size": 128}),
    "gru": (gru.fit, {"hidden": 16, "epochs": 12, "patience": 4, "batch_size": 128}),
    "transformer": (
        transformer.fit,
        {"width": 16, "heads": 2, "layers": 1, "feedforward": 32, "epochs": 12, "patience": 4, "batch_size": 128},
    ),
    "xgboost": (xgboost.fit, {"rounds": 300, "patience": 20, "max_depth": 3, "learning_rate": 0.1}),
}
NETWORKS = ("lstm", "gru", "transformer")


def settings_of(kind: str, **changes: Any) -> dict[str, Any]:
    """The section `agent` of a small model."""
    return {"kind": kind, **FITS[kind][1], **changes}


@dataclass(frozen=True)
class Data:
    """What a fitting is given."""

    experiment: Experiment
    markets: Markets
    train: Dataset
    validation: Dataset
    scaler: Scaler

    @classmethod
    def of(cls, experiment: Experiment) -> "Data":
        """Loaded and labelled."""
        markets = load_markets(experiment)
        train, validation = datasets(experiment, markets)
        scaler = fit_scaler(markets.train.training_rows(), experiment.state.history, len(ACCOUNT_FEATURES))
        return cls(experiment, markets, train, validation, scaler)

    def test(self) -> Dataset:
        """The examples of the test span."""
        span = self.experiment.split.test
        return span_dataset(self.experiment, self.markets.bars, span.first, span.last)


def fit(
    data: Data,
    folder: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
    columns: NDArray[np.int64] | None = None,
    warm_start: bytes | None = None,
) -> Any:
    """Fit a model in a folder, on one thread as a run does."""
    torch.set_num_threads(1)
    every = np.arange(len(data.experiment.state.columns))
    with SummaryWriter(str(folder / "tb")) as writer:
        desk = FittingDesk(
            folder / "checkpoints",
            resume,
            writer,
            stop or threading.Event(),
            report,
            every if columns is None else columns,
            warm_start,
        )
        return FITS[data.experiment.agent.kind][0](data.experiment, data.train, data.validation, data.scaler, desk)


def directional_accuracy(model: FittedModel, examples: Dataset) -> tuple[float, int]:
    """How often the more probable direction is the true one, and of how many examples: those that moved."""
    scores = model.outputs(examples.windows)
    moved = examples.target != FLAT
    right = (scores[:, UP] > scores[:, DOWN]) == (examples.target == UP)
    return float(right[moved].mean()), int(moved.sum())
