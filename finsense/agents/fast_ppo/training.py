"""One update: from the rollout buffer and torch's Adam into the kernels, and back when every number is finite."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from torch import Tensor

from finsense.agents.fast_ppo.eligibility import Network
from finsense.agents.fast_ppo.loss import Samples, Terms
from finsense.agents.fast_ppo.update import FIGURES, NOT_FINITE, STOPPED, run_epoch
from finsense.agents.kernels.adam import State, new_state, numbers_of
from finsense.agents.kernels.faults import NotFinite
from finsense.agents.kernels.layout import Layout
from finsense.agents.kernels.passes import scale_rows

# What the buffer's `get` would bring into one dimension before it draws its first minibatch.
_FLATTENED = ("observations", "actions", "values", "log_probs", "advantages", "returns", "action_masks")


class Update:
    """The epochs of one update, on a copy of the weights and of Adam's state.

    Args:
        network: of the model.
        buffer: a full rollout; it is left as SB3's own update leaves it.
        optimiser: torch's Adam of the policy.

    Attributes:
        epochs: per epoch, the figures of its minibatches, (minibatches, FIGURES) float64.
    """

    def __init__(self, network: Network, buffer: MaskableRolloutBuffer, optimiser: torch.optim.Adam) -> None:
        self._layout, self._optimiser = network.layout, optimiser
        self._samples = samples_of(network, buffer)
        self._state = gathered_state(network.layout, optimiser)
        self._scratch = network.layout.scratch()
        self._step = next((int(state["step"]) for state in optimiser.state.values()), 0)
        self.epochs: list[NDArray[np.float64]] = []

    def run_epoch(self, size: int, terms: Terms, max_grad_norm: float, largest_divergence: float) -> bool:
        """Update once with every minibatch of `size`; False where the divergence ended it.

        The minibatches are those that SB3 would draw: from numpy's global generator.

        Raises:
            NotFinite: torch's weights and Adam's state are as they were before the update.
        """
        order = np.random.permutation(len(self._samples.actions))  # noqa: NPY002  (SB3's own draw)
        figures = np.zeros((len(order) // size, len(FIGURES)))
        adam = numbers_of(self._optimiser, max_grad_norm)
        ending, done, self._step = run_epoch(
            self._layout.table, self._samples, order, size, terms, adam, largest_divergence, self._state,
            self._scratch, self._step, figures,
        )  # fmt: skip
        self.epochs.append(figures[:done])
        if ending == NOT_FINITE:
            found = ", ".join(f"{name} {value:g}" for name, value in zip(FIGURES, figures[done - 1], strict=True))
            raise NotFinite(
                f"the loss or its gradient is not finite in minibatch {done} of {len(figures)}, epoch "
                f"{len(self.epochs)} of this update ({found}); the weights are those of before the update. Lower the "
                "learning rate, or the scale of the rewards"
            )
        return ending != STOPPED

    def commit(self) -> None:
        """Write weights and Adam's state into torch's own tensors.

        Raises:
            NotFinite: nothing was written.
        """
        state = self._state
        for name, vector in (
            ("weights", state.weights),
            ("Adam's first moment", state.first),
            ("Adam's second moment", state.second),
        ):
            if not np.isfinite(vector).all():
                raise NotFinite(
                    f"{name} would not be finite after this update; they are those of before it. Lower the learning "
                    "rate, or the scale of the rewards"
                )
        if self._step == 0:
            return
        adam = self._optimiser.state
        for parameter in self._layout.parameters():
            if parameter not in adam:
                adam[parameter] = {
                    "step": torch.tensor(0.0, dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
            adam[parameter]["step"].fill_(self._step)
        self._layout.scatter(state.weights, lambda parameter: parameter)
        self._layout.scatter(state.first, lambda parameter: adam[parameter]["exp_avg"])
        self._layout.scatter(state.second, lambda parameter: adam[parameter]["exp_avg_sq"])


def samples_of(network: Network, buffer: MaskableRolloutBuffer) -> Samples:
    """The buffer's samples, the observations scaled once for all epochs."""
    if not buffer.generator_ready:
        for name in _FLATTENED:
            setattr(buffer, name, buffer.swap_and_flatten(getattr(buffer, name)))
        buffer.generator_ready = True
    rows = np.ascontiguousarray(buffer.observations, np.float32).reshape(len(buffer.observations), -1)
    scaled = np.empty_like(rows)
    scale_rows(rows, *network.scaling, scaled)
    return Samples(
        scaled,
        buffer.action_masks != 0.0,
        buffer.actions.astype(np.int64).ravel(),
        buffer.log_probs.ravel(),
        buffer.values.ravel(),
        buffer.advantages.ravel(),
        buffer.returns.ravel(),
    )


def gathered_state(layout: Layout, optimiser: torch.optim.Adam) -> State:
    """Copies of the weights and of Adam's state, and room for a gradient."""
    state = new_state(layout.size)
    layout.gather(lambda parameter: parameter, state.weights)
    if optimiser.state:
        layout.gather(_part(optimiser, "exp_avg"), state.first)
        layout.gather(_part(optimiser, "exp_avg_sq"), state.second)
    return state


def _part(optimiser: torch.optim.Adam, name: str) -> Any:
    def part(parameter: Tensor) -> Tensor:
        found: Tensor = optimiser.state[parameter][name]
        return found

    return part
