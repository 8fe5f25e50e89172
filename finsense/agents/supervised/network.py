"""A network as a supervised model: the windows scaled and cut to their columns, and the way to a graph."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finsense.agents.checkpoint import write_arrays
from finsense.agents.graph import export_graph
from finsense.agents.network import weights_hash
from finsense.agents.supervised.dataset import Windows
from finsense.agents.supervised.decision import Decider
from finsense.agents.supervised.source import WarmStartError, with_source
from finsense.state.scaler import CLIP, Scaler

OUTPUTS = ("action", "probabilities", "forecast")
# Rows that are run at once without gradients: some megabytes of windows.
_ROWS_AT_ONCE = 4096
_COLUMNS = "columns"


class WindowNetwork(nn.Module):
    """Windows of raw market rows in, scores out: the frozen scaler, the chosen columns, the body.

    Args:
        body: scaled windows (N, T, c) to scores (N, K).
        scaler: of whole states; its first values are those of a market row.
        columns: (c,) int64, places of the market columns that the body reads.
        shift: mean of what is learned, added to the scores: 0 but for forward returns.
        unit: standard deviation of what is learned, which the scores are multiplied by: 1 but for forward returns.
    """

    mean: Tensor
    factor: Tensor
    columns: Tensor

    def __init__(
        self, body: nn.Module, scaler: Scaler, columns: NDArray[np.int64], shift: float = 0.0, unit: float = 1.0
    ) -> None:
        super().__init__()
        self.body = body
        self.shift = shift
        self.unit = unit
        self.register_buffer("columns", torch.from_numpy(columns.copy()))
        self.register_buffer("mean", torch.from_numpy(scaler.mean[columns]))
        self.register_buffer("factor", torch.from_numpy(scaler.factor[columns]))

    def forward(self, windows: Tensor) -> Tensor:
        """Raw scores (N, K) float32 of raw windows (N, T, C) float32."""
        return self.standardised(windows) * self.unit + self.shift

    def standardised(self, windows: Tensor) -> Tensor:
        """The body's own scores, in units of what is learned: what the loss is taken of."""
        if len(self.columns) < windows.shape[-1]:
            windows = windows.index_select(-1, self.columns)
        scores: Tensor = self.body(((windows - self.mean) * self.factor).clamp(-CLIP, CLIP))
        return scores


class ForecastPolicy(nn.Module):
    """The whole graph: state and mask in; action, probabilities and forecast out."""

    def __init__(self, network: WindowNetwork, decider: Decider, history: int, market_columns: int) -> None:
        super().__init__()
        self.network = network
        self.decider = decider
        self.window = (history, market_columns)

    def forward(self, state: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decide; arguments and result as those of `Decider`."""
        history, columns = self.window
        windows = state[:, : history * columns].reshape(-1, history, columns)
        decision: tuple[Tensor, Tensor, Tensor] = self.decider(self.network(windows), state, mask)
        return decision


@dataclass(frozen=True)
class FittedNetwork:
    """A fitted network with its best weights; a `FittedModel`.

    Attributes:
        network: raw windows (N, T, C) float32 to raw scores (N, K) float32.
        history: T.
        market_columns: C.
        steps: training rows seen in all.
        best_steps: of these, how many the best weights had seen.
        best_epoch: after which they were reached; 0 is before the first (of a warm start that nothing bettered).
    """

    network: WindowNetwork
    history: int
    market_columns: int
    steps: int
    best_steps: int
    best_epoch: int

    def outputs(self, windows: Windows) -> NDArray[np.float32]:
        """Scores before calibration, (n, K) float32."""
        return run_network(self.network, windows)

    def graph(self, decider: Decider, state_width: int, action_count: int) -> bytes:
        """The whole ONNX graph, the weights as they were trained in its metadata."""
        graph = export_graph(self._policy(decider), state_width, action_count, OUTPUTS)
        return with_source(graph, weights_to_bytes(self.network))

    def decide(
        self, decider: Decider, states: NDArray[np.float32], masks: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The network's own answer to whole states: action (N,) int64 and probabilities (N, A) float32."""
        with torch.inference_mode():
            action, probabilities, _ = self._policy(decider)(torch.from_numpy(states), torch.from_numpy(masks))
        return action.numpy(), probabilities.numpy()

    def weights_hash(self) -> str:
        """SHA-256 (hex) of weights and buffers."""
        return weights_hash(self.network)

    def _policy(self, decider: Decider) -> nn.Module:
        return ForecastPolicy(self.network, decider, self.history, self.market_columns).eval()


def run_network(network: nn.Module, windows: Windows) -> NDArray[np.float32]:
    """A network's answers, (n, K) float32, a few thousand rows at a time."""
    parts = []
    network.eval()
    with torch.inference_mode():
        for first in range(0, len(windows), _ROWS_AT_ONCE):
            index = np.arange(first, min(first + _ROWS_AT_ONCE, len(windows)))
            parts.append(network(torch.from_numpy(windows.gather(index))).numpy())
    return np.concatenate(parts)


def weights_to_bytes(network: WindowNetwork) -> bytes:
    """The body's weights and the columns it reads, npz."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in network.body.state_dict().items()}
    write_arrays(buffer, {**arrays, _COLUMNS: network.columns.numpy()})
    return buffer.getvalue()


def start_from(network: WindowNetwork, source: bytes) -> None:
    """Give the body the weights of an earlier one; its scaler stays that of this training span.

    Raises:
        WarmStartError: they are weights of another shape, or read other columns.
    """
    advice = "start from another bundle, give the network the earlier one's sizes, or set agent.warm_start to null"
    with np.load(io.BytesIO(source), allow_pickle=False) as file:
        arrays = dict(file)
    columns = arrays.pop(_COLUMNS)
    if not np.array_equal(columns, network.columns.numpy()):
        raise WarmStartError(
            f"the earlier network reads the columns {columns.tolist()}, this one {network.columns.tolist()}; {advice}"
        )
    own = {name: tuple(tensor.shape) for name, tensor in network.body.state_dict().items()}
    given = {name: array.shape for name, array in arrays.items()}
    if own != given:
        changed = [name for name in {**own, **given} if own.get(name) != given.get(name)]
        shown = ", ".join(
            f"{name} {given.get(name, 'missing')} against {own.get(name, 'none')}" for name in changed[:3]
        )
        raise WarmStartError(f"the earlier network has other weights ({len(changed)} differ: {shown}); {advice}")
    network.body.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
