"""Boosted trees that were fitted, as a supervised model: what they answer, their graph, which columns they use."""

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
import torch
import xgboost
from numpy.typing import NDArray

from finsense.agents.graph import export_module
from finsense.agents.supervised.dataset import Windows
from finsense.agents.supervised.decision import Decider
from finsense.agents.supervised.network import OUTPUTS
from finsense.agents.supervised.source import WarmStartError, with_source
from finsense.agents.tree_graph import with_trees

# A gathered batch of windows holds so many values: some megabytes.
_VALUES_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class FittedTrees:
    """Fitted trees; a `FittedModel`.

    Attributes:
        booster: of the best round, one thread.
        columns: (c,) int64, the market columns that it reads.
        history: T, market rows in a state.
        market_columns: C, of one row.
        targets: K, margins that it gives.
        unit: a power of two by which its margins are multiplied; 1 for classes.
        steps: training rows seen in all.
        best_steps: of these, how many until the best round.
        best_epoch: the best round; 0: none was better than the trees that it started from.
    """

    booster: xgboost.Booster
    columns: NDArray[np.int64]
    history: int
    market_columns: int
    targets: int
    unit: float
    steps: int
    best_steps: int
    best_epoch: int

    def outputs(self, windows: Windows) -> NDArray[np.float32]:
        """Margins of the classes, (n, 3) float32, or the expected forward return, (n, 1)."""
        return np.concatenate([self._margins(windows.flat(index)) for index in batches(windows)])

    def graph(self, decider: Decider, state_width: int, action_count: int) -> bytes:
        """The whole ONNX graph, its source in the metadata."""
        rows = torch.export.Dim("N")
        example = {
            "outputs": torch.zeros(2, self.targets),
            "state": torch.zeros(2, state_width),
            "mask": torch.ones(2, action_count, dtype=torch.bool),
        }
        head = export_module(decider, example, OUTPUTS, {name: {0: rows} for name in example})
        graph = with_trees(head, self.booster, self._places, self.unit)
        return with_source(graph, self.source())

    def source(self) -> bytes:
        """XGBoost's own model (UBJSON, deflated), to which another training can add trees."""
        return zlib.compress(self.booster.save_raw("ubj"), level=9)

    def decide(
        self, decider: Decider, states: NDArray[np.float32], masks: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The trees' own answer to whole states: action (N,) int64 and probabilities (N, A) float32."""
        margins = torch.from_numpy(self._margins(states))
        with torch.inference_mode():
            action, probabilities, _ = decider(margins, torch.from_numpy(states), torch.from_numpy(masks))
        return action.numpy(), probabilities.numpy()

    def weights_hash(self) -> str:
        """SHA-256 (hex) of XGBoost's model."""
        return hashlib.sha256(self.booster.save_raw("ubj")).hexdigest()

    def gains(self) -> NDArray[np.float64]:
        """(C,) float64, how much of what all splits lowered the loss by each market column did; over all its rows."""
        found = self.booster.get_score(importance_type="total_gain")
        names = self.booster.feature_names or []
        gains = np.array([found.get(name, 0.0) for name in names], np.float64)
        by_column = np.bincount(self._places % self.market_columns, gains, self.market_columns)
        shares: NDArray[np.float64] = by_column / (by_column.sum() or 1.0)
        return shares

    def _margins(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the trees give, (N, K) float32, for states or the market part of them."""
        rows = states.take(self._places, axis=1)
        margins = self.booster.inplace_predict(rows, predict_type="margin", validate_features=False)
        answers: NDArray[np.float32] = margins.reshape(len(states), self.targets) * np.float32(self.unit)
        return answers

    @property
    def _places(self) -> NDArray[np.int64]:
        return state_places(self.columns, self.history, self.market_columns)


def state_places(columns: NDArray[np.int64], history: int, market_columns: int) -> NDArray[np.int64]:
    """Where the chosen columns of each row lie in a state, oldest row first, (history x c,) int64."""
    rows = np.arange(history)[:, None] * market_columns
    return (rows + columns).ravel()


def batches(windows: Windows) -> list[NDArray[np.int64]]:
    """The numbers of all windows, in pieces of a few megabytes."""
    size = max(_VALUES_AT_ONCE // (windows.history * windows.columns), 1)
    return [np.arange(first, min(first + size, len(windows))) for first in range(0, len(windows), size)]


def earlier_trees(source: bytes, names: list[str], objective: str) -> bytearray:
    """XGBoost's model out of the source of an earlier bundle.

    Args:
        source: of `FittedTrees`.
        names: of the columns that the new trees read.
        objective: of the new trees.

    Raises:
        WarmStartError: it reads other columns or has another objective.
    """
    advice = "start from another bundle, or set agent.warm_start to null"
    try:
        raw = bytearray(zlib.decompress(source))
        booster = xgboost.Booster(model_file=raw)
    except (zlib.error, xgboost.core.XGBoostError) as error:
        raise WarmStartError(f"the earlier trees cannot be read ({error}); {advice}") from error
    found = booster.feature_names or []
    if found != names:
        changed = sorted({*found} ^ {*names})
        raise WarmStartError(
            f"the earlier trees read {len(found)} columns, these would read {len(names)}; only one of them reads "
            f"{', '.join(changed[:3])}; {advice}"
        )
    if booster.attr("objective") != objective:
        raise WarmStartError(
            f"expected earlier trees of the objective {objective}, found {booster.attr('objective')}; {advice}"
        )
    return raw
