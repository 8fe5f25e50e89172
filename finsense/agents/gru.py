"""Gated recurrent units (Cho et al. 2014): from an experiment to a verified bundle."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from finsense.agents.progress import Progress
from finsense.agents.supervised.dataset import Dataset
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.fitting import Sizes, fit_network
from finsense.agents.supervised.network import FittedNetwork
from finsense.agents.supervised.run import run_fit
from finsense.agents.training import Trained
from finsense.config import Experiment
from finsense.config.supervised import GruModel, NetworkModel
from finsense.state.scaler import Scaler


def train(
    experiment: Experiment,
    run_dir: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train it; arguments, result and errors are those of `run_fit`."""
    return run_fit(fit, experiment, run_dir, resume=resume, report=report)


def fit(
    experiment: Experiment, train: Dataset, validation: Dataset, scaler: Scaler, desk: FittingDesk
) -> FittedNetwork:
    """Fit it; arguments, result and errors are those of `fit_network`."""
    return fit_network(Gru, experiment, train, validation, scaler, desk)


class Gru(nn.Module):
    """Row after row each unit decides how much of what it knows it replaces.

    With x_t the row and h_(t-1) what was known (Cho et al. 2014):

        r, z = sigmoid(W x_t + U h_(t-1) + b)              reset and update gate
        n    = tanh(W_n x_t + b_n + r (U_n h_(t-1) + c_n)) what it would know; torch resets after the product with U_n
        h_t  = (1 - z) n + z h_(t-1)

    Nothing is known before the window's oldest row; the scores are linear in what is known after its newest.
    """

    def __init__(self, sizes: Sizes, settings: NetworkModel) -> None:
        super().__init__()
        assert isinstance(settings, GruModel)
        between = settings.dropout if settings.layers > 1 else 0.0
        self.gru = nn.GRU(sizes.columns, settings.hidden, settings.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.hidden, sizes.outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (N, outputs) of windows (N, history, columns)."""
        known, _ = self.gru(rows)
        scores: Tensor = self.head(self.dropout(known[:, -1]))
        return scores
