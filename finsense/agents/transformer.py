"""The Transformer encoder (Vaswani et al. 2017): from an experiment to a verified bundle."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from finsense.agents.progress import Progress
from finsense.agents.supervised.dataset import Dataset
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.fitting import Sizes, fit_network
from finsense.agents.supervised.network import FittedNetwork
from finsense.agents.supervised.run import run_fit
from finsense.agents.training import Trained
from finsense.config import Experiment
from finsense.config.supervised import NetworkModel, TransformerModel
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
    return fit_network(Transformer, experiment, train, validation, scaler, desk)


class Transformer(nn.Module):
    """Every row of the window looks at all others, `layers` times; the newest row answers.

    The encoder of Vaswani et al. (2017) with the normalisation before each block instead of behind it, which needs no
    warm-up of the learning rate (Xiong et al. 2020). Nothing is hidden from a row: the window holds no future.
    """

    positions: Tensor

    def __init__(self, sizes: Sizes, settings: NetworkModel) -> None:
        super().__init__()
        assert isinstance(settings, TransformerModel)
        self.embedding = nn.Linear(sizes.columns, settings.width)
        if settings.positions == "learned":
            self.positions = nn.Parameter(torch.empty(sizes.history, settings.width))
            nn.init.normal_(self.positions, std=0.02)
        else:
            self.register_buffer("positions", sinusoids(sizes.history, settings.width))
        self.dropout = nn.Dropout(settings.dropout)
        self.layers = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.head = nn.Linear(settings.width, sizes.outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Scores (N, outputs) of windows (N, history, columns)."""
        x = self.dropout(self.embedding(rows) + self.positions)
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.head(self.norm(x[:, -1]))
        return scores


class EncoderLayer(nn.Module):
    """Attention, then a feed-forward block; each adds to what it was given."""

    def __init__(self, settings: TransformerModel) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(settings.width)
        self.attention = SelfAttention(settings.width, settings.heads)
        self.feedforward_norm = nn.LayerNorm(settings.width)
        self.feedforward = nn.Sequential(
            nn.Linear(settings.width, settings.feedforward), nn.ReLU(), nn.Linear(settings.feedforward, settings.width)
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, history, width) to the same."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        total: Tensor = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return total


class SelfAttention(nn.Module):
    """softmax(Q K' / sqrt(d)) V in several heads of d values each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, history, width) to the same."""
        history, width = x.shape[1], x.shape[2]
        each = self.queries_keys_values(x).view(-1, history, 3, self.heads, width // self.heads)
        queries, keys, values = each.permute(2, 0, 3, 1, 4).unbind()
        weights = torch.softmax(queries @ keys.transpose(-2, -1) / math.sqrt(width // self.heads), dim=-1)
        seen: Tensor = self.output((weights @ values).transpose(1, 2).reshape(-1, history, width))
        return seen


def sinusoids(length: int, width: int) -> Tensor:
    """Sines and cosines of the place, (length, width) float32, wavelengths from 2 pi to 10000 x 2 pi (section 3.5)."""
    place = torch.arange(length, dtype=torch.float64)[:, None]
    angle = place / 10_000.0 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=2).reshape(length, width).float()
