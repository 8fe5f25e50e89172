"""The checkpoint of a network's fitting: all that an exact resume needs, after each epoch."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finsense.agents.checkpoint import keep_checkpoint, newest_checkpoint, write_arrays

_WEIGHTS, _BEST, _MOMENTS = "weights.npz", "best.npz", "moments.npz"


@dataclass
class Standing:
    """Where a fitting stands between two epochs.

    Attributes:
        best_weights: name -> tensor, those with the lowest loss on the validation span.
        epoch: epochs done.
        rows: training rows seen.
        best_loss: the lowest; infinite before the first look.
        best_epoch: after which it was reached.
        best_rows: training rows seen by then.
        waited: epochs since.
    """

    best_weights: dict[str, Tensor]
    epoch: int = 0
    rows: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    best_rows: int = 0
    waited: int = 0

    @classmethod
    def of(cls, body: nn.Module) -> Self:
        """Of a body before the first epoch."""
        return cls(_copied(body))

    def judged(self, loss: float, body: nn.Module) -> None:
        """Take note of the validation loss after an epoch."""
        self.waited += 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.best_rows, self.waited = loss, self.epoch, self.rows, 0
            self.best_weights = _copied(body)


def save(folder: Path, body: nn.Module, optimiser: torch.optim.AdamW, standing: Standing) -> None:
    """Write a checkpoint between two epochs; only the last ones are kept.

    Raises:
        OSError: it cannot be written; the checkpoints before it are untouched.
    """
    facts = {name: value for name, value in vars(standing).items() if name != "best_weights"}
    if math.isinf(standing.best_loss):
        facts["best_loss"] = None
    files = {_WEIGHTS: _arrays(body.state_dict()), _BEST: _arrays(standing.best_weights), _MOMENTS: _moments(optimiser)}
    keep_checkpoint(
        folder,
        standing.rows,
        {name: partial(write_arrays, arrays=arrays) for name, arrays in files.items()},
        {"steps": standing.rows, "best": None, "standing": facts},
    )


def restore(folder: Path, body: nn.Module, optimiser: torch.optim.AdamW) -> Standing:
    """Put a fresh body and a fresh optimiser where the newest checkpoint left them.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path, progress = newest_checkpoint(folder)
    body.load_state_dict(_tensors(path / _WEIGHTS))
    moments, parameters = _tensors(path / _MOMENTS), optimiser.param_groups[0]["params"]
    for name, tensor in moments.items():
        place, _, key = name.partition(".")
        optimiser.state[parameters[int(place)]][key] = tensor
    facts = progress["standing"]
    if facts["best_loss"] is None:
        facts["best_loss"] = math.inf
    return Standing(best_weights=_tensors(path / _BEST), **facts)


def _copied(body: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in body.state_dict().items()}


def _arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def _moments(optimiser: torch.optim.AdamW) -> dict[str, NDArray[Any]]:
    """Step and moments of each parameter, by its place among them; empty before the first step."""
    state = optimiser.state_dict()["state"]
    return {f"{place}.{key}": tensor.numpy() for place, kept in state.items() for key, tensor in kept.items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}
