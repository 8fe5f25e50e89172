"""The replay buffer: observations once, masks beside them, last states of cut episodes apart, priorities in a tree."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from finsense.agents.masked_dqn.ring import Batch, Law, Ring, fill_batch, new_batch
from finsense.agents.masked_dqn.sum_tree import new_tree, rebuild, reweigh, set_weights

_FIRST_FINALS = 16


class ReplaySamples(NamedTuple):
    """A minibatch as torch sees it; shapes as in `Batch`, observations in the environment's own shape."""

    observations: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    next_observations: Tensor
    next_masks: Tensor
    weights: Tensor


class MaskedReplayBuffer(ReplayBuffer):
    """SB3's replay buffer with action masks, n-step returns and, when wished, priorities.

    Args:
        buffer_size: transitions of all environments together; rounded down to whole steps of all of them.
        observation_space: a Box.
        action_space: a Discrete.
        device: of the minibatches.
        n_envs: N.
        optimize_memory_usage: taken for SB3's sake; every observation is kept once anyway.
        n_steps: rewards that are summed before the value of the next state is taken.
        gamma: discount per step.
        priority_exponent: alpha; 0 draws all transitions alike.

    Attributes:
        masks: (T, N, A) bool, legal in each observation.
        largest_weight: of all transitions so far; a new one gets it.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        gamma: float = 0.99,
        priority_exponent: float = 0.0,
    ) -> None:
        del optimize_memory_usage
        # One row more, for the present.
        rows = max(buffer_size // n_envs, 1) + 1
        super().__init__(
            rows * n_envs,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage=True,
            handle_timeout_termination=False,
        )
        count = int(action_space.n)
        self.n_steps, self.gamma, self.priority_exponent = n_steps, gamma, priority_exponent
        self.masks = np.ones((rows, n_envs, count), np.bool_)
        self.largest_weight = 1.0
        self._final_places = np.zeros((rows, n_envs), np.int64)
        self._finals = np.zeros((_FIRST_FINALS, *self.obs_shape), observation_space.dtype)
        self._final_masks = np.ones((_FIRST_FINALS, count), np.bool_)
        # Finals are numbered as they come and forgotten in that order.
        self._first_final = self._next_final = 0
        self._tree = new_tree(rows * n_envs if priority_exponent > 0 else 1)

    def size(self) -> int:
        """Steps (of all environments) that hold a transition."""
        return self.buffer_size - 1 if self.full else self.pos

    @property
    def ring(self) -> Ring:
        """The arrays as the kernels take them; it holds until the next `add`."""
        rows, envs = self.rewards.shape
        return Ring(
            self.observations.reshape(rows, envs, -1),
            self.masks,
            self.actions.reshape(rows, envs),
            self.rewards,
            self.dones,
            self.timeouts,
            self._final_places,
            self._finals.reshape(len(self._finals), -1),
            self._final_masks,
            self._tree,
        )

    def law(self, beta: float) -> Law:
        """How minibatches are drawn, with the loss undoing the priorities by `beta`."""
        return Law(self.n_steps, self.gamma, self.priority_exponent > 0, beta)

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
        masks: NDArray[np.bool_] | None = None,
        next_masks: NDArray[np.bool_] | None = None,
    ) -> None:
        """Store one step of all environments.

        Args:
            obs: (N, F), what was seen.
            next_obs: (N, F), what is seen now; of an ended episode the first observation of the next one.
            action: (N,) what was done.
            reward: (N,) what was paid.
            done: (N,) bool, whether the episode ended.
            infos: of each environment; of an episode that was cut short (`TimeLimit.truncated`) with its
                `terminal_observation` and, where masks are given, with the mask of that, `terminal_action_mask`.
            masks: (N, A) bool, legal in `obs`; all by default.
            next_masks: (N, A) bool, legal in `next_obs`.

        Raises:
            ValueError: an episode was cut short and its info lacks what its last state is valued with.
        """
        here, head = self.pos, (self.pos + 1) % self.buffer_size
        if self.full or head == 0:
            self._first_final += int(self.timeouts[head].sum())
        self.observations[here] = obs
        self.masks[here] = True if masks is None else masks
        self.actions[here, :, 0] = action
        self.rewards[here] = reward
        self.dones[here] = done
        self.timeouts[here] = 0.0
        self.observations[head] = next_obs
        self.masks[head] = True if next_masks is None else next_masks
        self.dones[head] = self.timeouts[head] = 0.0
        for env in np.flatnonzero(done).tolist():
            if infos[env].get("TimeLimit.truncated", False):
                self._cut(here, env, *_last_state(infos[env], masks is not None))
        if self.priority_exponent > 0:
            set_weights(self._tree, here * self.n_envs, self.n_envs, self.largest_weight)
            set_weights(self._tree, head * self.n_envs, self.n_envs, 0.0)
        self.pos, self.full = head, self.full or head == 0

    def cut_short(self) -> None:
        """Treat every running episode as cut short now: its environment is about to start another one."""
        if self.size():
            newest = (self.pos - 1) % self.buffer_size
            for env in np.flatnonzero(self.dones[newest] == 0.0).tolist():
                self.dones[newest, env] = 1.0
                self._cut(newest, env, self.observations[self.pos, env], self.masks[self.pos, env])

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._first_final = self._next_final
        self._tree[:] = 0.0

    def draw(self, batch_size: int, beta: float = 1.0) -> Batch:
        """Draw a minibatch with numpy's global generator, as SB3 does.

        Raises:
            ValueError: the buffer is empty.
        """
        if self.size() == 0:
            raise ValueError("expected transitions in the replay buffer, found none; collect some first")
        ring = self.ring
        batch = new_batch(batch_size, ring)
        uniforms = np.random.random_sample(batch_size)  # noqa: NPY002
        fill_batch(ring, self.pos, self.size(), self.law(beta), uniforms, batch)
        return batch

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """A minibatch as torch tensors on the buffer's device, `ReplaySamples`."""
        return self.tensors(self.draw(batch_size))

    def tensors(self, batch: Batch) -> ReplaySamples:
        """A minibatch as torch tensors on the buffer's device."""
        shape = (len(batch.leaves), *self.obs_shape)
        arrays = (
            batch.observations.reshape(shape),
            batch.actions,
            batch.returns,
            batch.discounts,
            batch.next_observations.reshape(shape),
            batch.next_masks,
            batch.weights,
        )
        return ReplaySamples(*(self.to_torch(array) for array in arrays))

    def reweigh(self, leaves: NDArray[np.int64], errors: NDArray[np.float64]) -> None:
        """Give drawn transitions the weight of their absolute errors, (n,) each; without priorities nothing happens."""
        if self.priority_exponent > 0:
            self.largest_weight = reweigh(self._tree, leaves, errors, self.priority_exponent, self.largest_weight)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What an exact resume needs, without the rows that were never filled; not copied."""
        rows = self.buffer_size if self.full else self.pos + 1
        chosen = np.arange(self._first_final, self._next_final) % len(self._finals)
        numbers = [self.pos, self.full, self._first_final, self._next_final]
        arrays = {name: array[:rows] for name, array in self._rows().items()}
        leaves = self._tree[len(self._tree) // 2 :][: rows * self.n_envs if self.priority_exponent > 0 else 0]
        return {
            **arrays,
            "finals": self._finals[chosen],
            "final_masks": self._final_masks[chosen],
            "weights": leaves,
            "numbers": np.array(numbers, np.int64),
            "largest_weight": np.array(self.largest_weight),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """The inverse of `arrays`, in a buffer made with the same arguments."""
        for name, array in self._rows().items():
            saved = arrays[name]
            array[: len(saved)] = saved
        pos, full, first, following = (int(one) for one in arrays["numbers"])
        self.pos, self.full = pos, bool(full)
        self.largest_weight = float(arrays["largest_weight"])
        self._first_final = self._next_final = first
        for observation, mask in zip(arrays["finals"], arrays["final_masks"], strict=True):
            self._keep(observation, mask)
        assert self._next_final == following
        weights, half = arrays["weights"], len(self._tree) // 2
        self._tree[half : half + len(weights)] = weights
        rebuild(self._tree)

    def _rows(self) -> dict[str, NDArray[Any]]:
        return {
            "observations": self.observations,
            "masks": self.masks,
            "actions": self.actions,
            "rewards": self.rewards,
            "dones": self.dones,
            "timeouts": self.timeouts,
            "final_places": self._final_places,
        }

    def _cut(self, row: int, env: int, observation: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
        self.timeouts[row, env] = 1.0
        self._final_places[row, env] = self._next_final
        self._keep(observation, mask)

    def _keep(self, observation: NDArray[Any], mask: NDArray[np.bool_] | None) -> None:
        """Put the last state of an episode behind those that are kept, with more room where there is none."""
        size = len(self._finals)
        if self._next_final - self._first_final == size:
            kept = np.arange(self._first_final, self._next_final)
            for name in ("_finals", "_final_masks"):
                old = getattr(self, name)
                grown = np.zeros((2 * size, *old.shape[1:]), old.dtype)
                grown[kept % len(grown)] = old[kept % size]
                setattr(self, name, grown)
        place = self._next_final % len(self._finals)
        self._finals[place] = observation
        self._final_masks[place] = True if mask is None else mask
        self._next_final += 1


def _last_state(info: dict[str, Any], masked: bool) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The last observation of an episode that was cut short, and its mask."""
    names = ("terminal_observation", "terminal_action_mask") if masked else ("terminal_observation",)
    lacking = [name for name in names if name not in info]
    if lacking:
        raise ValueError(
            f"an episode was cut short, and its info lacks {' and '.join(lacking)}: the value of its last state is "
            "taken over the actions that are legal there. Let the environment put it into the info of its last step"
        )
    return info["terminal_observation"], np.asarray(info["terminal_action_mask"], np.bool_) if masked else None
