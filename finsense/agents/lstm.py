"""Long short-term memory (Hochreiter and Schmidhuber 1997): from an experiment to a verified bundle."""

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
from finsense.config.supervised import LstmModel, NetworkModel
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
    return fit_network(Lstm, experiment, train, validation, scaler, desk)


class Lstm(nn.Module):
    """Row after row each memory cell forgets a part, takes in a part, and shows a part.

    With x_t the row and h_(t-1) what the cells showed before (Hochreiter and Schmidhuber 1997; the forget gate is of
    Gers et al. 2000):

        i, f, o = sigmoid(W x_t + U h_(t-1) + b)     input, forget and output gate
        g       = tanh(W_g x_t + U_g h_(t-1) + b_g)
        c_t     = f c_(t-1) + i g                    the error flows back through this sum undiminished
        h_t     = o tanh(c_t)

    Cells are empty before the window's oldest row; the scores are linear in what they show after its newest.
    """

    def __init__(self, sizes: Sizes, settings: NetworkModel) -> None:
        super().__init__()
        assert isinstance(settings, LstmModel)
        between = settings.dropout if settings.layers > 1 else 0.0
        self.lstm = nn.LSTM(sizes.columns, settings.hidden, settings.layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(settings.hidden, sizes.outputs)
        for name, bias in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                # Torch has the gates in the order i, f, g, o. A cell that starts by remembering learns long spans
                # (Jozefowicz et al. 2015).
                nn.init.ones_(bias.data[settings.hidden : 2 * settings.hidden])

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (N, outputs) of windows (N, history, columns)."""
        shown, _ = self.lstm(rows)
        scores: Tensor = self.head(self.dropout(shown[:, -1]))
        return scores
