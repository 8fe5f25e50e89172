"""By how much each column lowers the loss on rows that a model has not seen: by permutation, by splits, by gradients.

All three speak in the loss itself (nats of log-loss; for a forecast return, squared error over the variance), with its
sign: a column that a model fitted to noise costs as much as it gains. How much a model *uses* a column would say
nothing of that, and would look the same from fold to fold because the folds' training rows are mostly the same.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xgboost
from numpy.typing import NDArray
from torch import Tensor

from finsense.agents.supervised.dataset import Dataset, Windows
from finsense.agents.supervised.network import WindowNetwork

REPEATS = 3
# Rows judged at once, and at most; spread evenly over the fold.
_ROWS_AT_ONCE, _MOST_ROWS = 2048, 8192
_MOST_GRADIENT_ROWS = 4096
_LEAST_BLOCKS = 5
# Nodes on the way from the baseline to the row; the integrand is smooth but for the scaler's clip and the branches.
_NODES = 16


class AttributionError(ValueError):
    """A fold in which nothing can be permuted, or a model without such an attribution."""


class Scoring(Protocol):
    """The part of a fitted model that permutation needs."""

    def outputs(self, windows: Windows) -> NDArray[np.float32]:
        """Scores (n, K) float32."""
        ...


@runtime_checkable
class Trees(Protocol):
    """Boosted trees (`finsense.agents.xgboost.FittedTrees`).

    Attributes:
        booster: the trees.
        columns: (c,) int64, the market columns that they read, of each row of history.
        unit: what their margins are multiplied by.
    """

    @property
    def booster(self) -> xgboost.Booster: ...  # noqa: D102

    @property
    def columns(self) -> NDArray[np.int64]: ...  # noqa: D102

    @property
    def unit(self) -> float: ...  # noqa: D102

    def gains(self) -> NDArray[np.float64]:
        """XGBoost's own gain on the rows it was fitted on, (C,) float64, share of the total."""
        ...


def losses(outputs: NDArray[np.floating[Any]], judged: Dataset, variance: float) -> NDArray[np.float64]:
    """The loss of every row, (n,) float64.

    Args:
        outputs: (n, 3) logits of down, flat, up: log-loss, nats; or (n, 1) forward returns: squared error over the
            variance.
        judged: n rows.
        variance: of the forward returns of the whole fold.
    """
    scores = outputs.astype(np.float64)
    if scores.shape[1] == 1:
        squared: NDArray[np.float64] = np.square(scores[:, 0] - judged.forward) / variance
        return squared
    highest = scores.max(axis=1)
    total = np.log(np.exp(scores - highest[:, None]).sum(axis=1)) + highest
    lost: NDArray[np.float64] = total - scores[np.arange(len(scores)), judged.target]
    return lost


def permutation_importance(model: Scoring, judged: Dataset, generator: np.random.Generator) -> NDArray[np.float64]:
    """Loss with a column permuted less loss without, (C,) float64, mean over rows and repeats.

    Blocks of rows change places, each at least as long as a label looks ahead, within their symbol: the column keeps
    its course within a block and within each window, and loses its tie to the label (Breiman 2001; blocks, because
    neighbouring rows are almost the same).

    Raises:
        AttributionError: a symbol has fewer than five blocks.
    """
    windows = judged.windows
    rows = _spread(len(judged), _MOST_ROWS)
    found = np.zeros(windows.columns)
    orders = [_block_order(judged, generator)[rows] for _ in range(REPEATS)]
    kept = judged.take(rows)
    variance = float(judged.forward.var())
    whole = losses(model.outputs(kept.windows), kept, variance)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = np.arange(first, min(first + _ROWS_AT_ONCE, len(rows)))
        own, examples = windows.gather(rows[part]), kept.take(part)
        for order in orders:
            strange = windows.gather(order[part])
            for column in range(windows.columns):
                values = own[:, :, column].copy()
                own[:, :, column] = strange[:, :, column]
                changed = losses(model.outputs(_as_windows(own)), examples, variance)
                own[:, :, column] = values
                found[column] += (changed - whole[part]).sum()
    return found / (len(rows) * REPEATS)


def gain_importance(trees: Trees, judged: Dataset) -> NDArray[np.float64]:
    """What the splits on a column gain on unseen rows, (C,) float64, summed over the rows of history.

    On its way down a tree a row's margin moves at every split from the mean of the node to the mean of its child
    (Saabas 2014). The loss is integrated along the straight line from the mean of the roots to the whole margin, and
    each split has the part that its move makes: the parts of all columns sum to the loss that the splits save.
    XGBoost's own `gain` takes the rows that the split was chosen on, where a split on noise gains as well (Li et al.
    2019).
    """
    windows = judged.windows
    places = (np.arange(windows.history)[:, None] * windows.columns + trees.columns).ravel()
    rows = _spread(len(judged), _MOST_ROWS)
    saved = np.zeros(len(trees.columns))
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        index = rows[first : first + _ROWS_AT_ONCE]
        values = xgboost.DMatrix(windows.flat(index)[:, places], nthread=1)
        moves = trees.booster.predict(values, pred_contribs=True, approx_contribs=True, validate_features=False)
        moves = moves.reshape(len(index), -1, moves.shape[-1]).astype(np.float64) * trees.unit
        by_column = moves[:, :, :-1].reshape(len(index), moves.shape[1], windows.history, -1).sum(axis=2)
        saved -= _line_integral(moves[:, :, -1], by_column, judged.take(index), judged.forward.var()).sum(axis=0)
    found = np.zeros(windows.columns)
    found[trees.columns] = saved / len(rows)
    return found


def _line_integral(
    start: NDArray[np.float64], moves: NDArray[np.float64], judged: Dataset, variance: float
) -> NDArray[np.float64]:
    """(n, C): the change of the loss as all moves (n, K, C) are made from `start` (n, K) together, shared out."""
    whole = moves.sum(axis=2)
    slope = np.zeros_like(start)
    for place, weight in zip(*_nodes(), strict=True):
        scores = start + place * whole
        if scores.shape[1] == 1:
            slope += weight * 2 * (scores - judged.forward[:, None]) / variance
            continue
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        slope += weight * (shares - np.eye(3)[judged.target])
    shared: NDArray[np.float64] = np.einsum("nk,nkc->nc", slope, moves)
    return shared


def gradient_importance(network: WindowNetwork, judged: Dataset) -> NDArray[np.float64]:
    """What a column saves of the loss by integrated gradients, (C,) float64, summed over the rows of history.

    The baseline is the mean of the training rows, which says nothing of the bar. The values of all columns sum to the
    loss at the baseline less the loss at the row.
    """
    rows = _spread(len(judged), _MOST_GRADIENT_ROWS)
    found, variance = np.zeros(judged.windows.columns), float(judged.forward.var())
    network.eval()
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        index = rows[first : first + _ROWS_AT_ONCE]
        examples = judged.take(index)
        windows = torch.from_numpy(judged.windows.gather(index))
        baseline = windows.clone()
        baseline[:, :, network.columns] = network.mean
        target, forward = torch.from_numpy(examples.target), torch.from_numpy(examples.forward.astype(np.float32))
        loss = partial(_network_loss, network, target, forward, variance)
        found -= integrated_gradients(loss, windows, baseline).double().sum(dim=(0, 1)).numpy()
    return found / len(rows)


def _network_loss(network: WindowNetwork, target: Tensor, forward: Tensor, variance: float, inputs: Tensor) -> Tensor:
    """What `losses` gives, (n,), with a gradient."""
    scores: Tensor = network(inputs)
    if scores.shape[1] == 1:
        return torch.square(scores[:, 0] - forward) / variance
    return torch.nn.functional.cross_entropy(scores, target, reduction="none")


def integrated_gradients(function: Callable[[Tensor], Tensor], inputs: Tensor, baseline: Tensor) -> Tensor:
    """Attributions of `function` (n, ...) -> (n,) to its inputs, of their shape (Sundararajan, Taly and Yan 2017).

    The gradient is integrated along the straight line from the baseline by Gauss and Legendre's rule. The attributions
    of a row sum to the difference of the function at the input and at the baseline (their completeness).
    """
    total = torch.zeros_like(inputs)
    way = inputs - baseline
    for place, weight in zip(*_nodes(), strict=True):
        point = (baseline + float(place) * way).requires_grad_(True)
        (gradient,) = torch.autograd.grad(function(point).sum(), point)
        total += float(weight) * gradient
    return total * way


def _nodes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Places in (0, 1) and weights that sum to 1."""
    places, weights = np.polynomial.legendre.leggauss(_NODES)
    return (places + 1) / 2, weights / 2


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """All of `count` rows, or so many of them, spread evenly."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _as_windows(gathered: NDArray[np.float32]) -> Windows:
    """Windows over copied rows (k, T, C)."""
    count, history, columns = gathered.shape
    return Windows(gathered.reshape(count * history, columns), np.arange(count) * history, history)


def _block_order(judged: Dataset, generator: np.random.Generator) -> NDArray[np.int64]:
    """For every row the row it changes places with, (n,): blocks in another order, symbol by symbol."""
    order = np.empty(len(judged), np.int64)
    for symbol in np.unique(judged.symbol):
        rows = np.flatnonzero(judged.symbol == symbol)
        starts = judged.start_ns[rows]
        reach = np.searchsorted(starts, judged.end_ns[rows], side="right") - np.arange(len(rows))
        block = int(reach.max())
        if len(rows) < _LEAST_BLOCKS * block:
            raise AttributionError(
                f"expected at least {_LEAST_BLOCKS} blocks of {block} rows (a label's span) of each symbol in a judged "
                f"fold, found {len(rows)} rows; choose fewer folds, a shorter horizon or a longer training span"
            )
        # Blocks begin at a random row, so that none stays in its place in all repeats.
        turned = np.roll(rows, int(generator.integers(len(rows))))
        blocks = np.array_split(turned, len(rows) // block)
        shuffled = np.concatenate([blocks[place] for place in generator.permutation(len(blocks))])
        order[turned] = shuffled
    return order
