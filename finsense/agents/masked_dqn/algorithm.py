"""Masked DQN: SB3's `DQN` whose exploration, choices, targets and evaluation never touch a masked action."""

from typing import Any, ClassVar

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, RolloutReturn, TrainFreq
from stable_baselines3.common.vec_env import VecEnv

from finsense.agents.kernels.adam import numbers_of
from finsense.agents.kernels.eligibility import check_device
from finsense.agents.kernels.faults import NotFinite, NotTaken
from finsense.agents.masked_dqn.choosing import Choose, choose_in_kernels, choose_in_torch, explored
from finsense.agents.masked_dqn.collecting import collect
from finsense.agents.masked_dqn.memory import SharedMemory
from finsense.agents.masked_dqn.policies import DuelingPolicy
from finsense.agents.masked_dqn.replay import MaskedReplayBuffer
from finsense.agents.masked_dqn.ring import new_batch
from finsense.agents.masked_dqn.settings import check_settings
from finsense.agents.masked_dqn.torch_update import masked_loss
from finsense.agents.masked_dqn.update import ERROR_MEAN, FIGURES, LOSS, Q_MEAN, Target, run_updates

log = structlog.get_logger()


class MaskedDQN(DQN):
    """`DQN` of Stable-Baselines3 with action masks; same arguments, same files, same tags, and more of each.

    An MLP with Tanh or ReLU on a CPU is trained by compiled kernels in torch's own memory; another network is trained
    by torch, and one log line says why. Every environment explores by itself: SB3's explores with all or with none.

    Args:
        policy: as DQN's; "DuelingMlpPolicy" besides.
        env: tells its `action_masks`, as sb3-contrib's MaskablePPO wants it; an episode that is cut short puts the mask
            of its last state into the info as `terminal_action_mask`.
        *arguments: DQN's.
        double: whether the online network chooses the next action that the target network values.
        priority_exponent: alpha of the prioritised replay (0.6 is usual); 0 draws all transitions alike.
        importance_exponent: beta at the start, how far the loss undoes the priorities; it rises to 1 over the training.
        **keywords: DQN's.

    Raises:
        ValueError: numbers that cannot work.
        NotFinite: (learn) a loss or a Q value is not finite; the weights are those of the last good update.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **DQN.policy_aliases,
        "DuelingMlpPolicy": DuelingPolicy,
    }
    replay_buffer: MaskedReplayBuffer | None
    # Whether the environment is asked for masks.
    use_masking = True
    _memory: SharedMemory | None = None
    _told: str | None = None

    def __init__(
        self,
        policy: Any,
        env: Any,
        *arguments: Any,
        double: bool = True,
        priority_exponent: float = 0.0,
        importance_exponent: float = 0.4,
        **keywords: Any,
    ) -> None:
        self.double = double
        self.priority_exponent = priority_exponent
        self.importance_exponent = importance_exponent
        super().__init__(policy, env, *arguments, **keywords)

    def _setup_model(self) -> None:
        check_settings(self)
        self._memory = None
        # Made here, for SB3 would warn that it leaves n_steps to us.
        self.replay_buffer = MaskedReplayBuffer(
            self.buffer_size,
            self.observation_space,
            self.action_space,  # type: ignore[arg-type]
            device=self.device,
            n_envs=self.n_envs,
            n_steps=self.n_steps,
            gamma=self.gamma,
            priority_exponent=self.priority_exponent,
        )
        super()._setup_model()
        # SB3 notes the classes that it would have taken, and would not take them again when the model is loaded.
        self.replay_buffer_class, self.replay_buffer_kwargs = None, {}

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str = "MaskedDQN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool = True,
    ) -> "MaskedDQN":
        """As DQN's; `use_masking=False` treats every action as legal.

        Raises:
            ValueError: the environment does not tell its masks, or no update would ever be made.
        """
        self.use_masking = use_masking
        last = total_timesteps + (0 if reset_num_timesteps else self.num_timesteps)
        if total_timesteps > 0 and self.learning_starts >= last:
            raise ValueError(
                f"expected learning_starts below the {last} steps of this training, found {self.learning_starts}: not "
                "one update would be made; lower it, or train longer"
            )
        arguments: dict[str, Any] = {"log_interval": log_interval, "tb_log_name": tb_log_name}
        return super().learn(
            total_timesteps, callback, reset_num_timesteps=reset_num_timesteps, progress_bar=progress_bar, **arguments
        )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        assert self.replay_buffer is not None
        if reset_num_timesteps or self._last_obs is None:
            # The environments are about to be reset in the middle of their episodes.
            self.replay_buffer.cut_short()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: Any,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Collect experience into the buffer, all environments at once."""
        return collect(self, env, callback, train_freq, replay_buffer, learning_starts, log_interval)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update with as many minibatches.

        Raises:
            NotFinite: says which update; the weights are those of the update before it.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        beta = 1.0 - (1.0 - self.importance_exponent) * max(self._current_progress_remaining, 0.0)
        memory = self._shared_memory()
        if memory is None:
            figures = self._train_in_torch(gradient_steps, batch_size, beta)
        else:
            figures = self._train_in_kernels(memory, gradient_steps, batch_size, beta)
        self._n_updates += gradient_steps
        means = figures.mean(axis=0)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", float(means[LOSS]))
        self.logger.record("train/q_mean", float(means[Q_MEAN]))
        self.logger.record("train/error_mean", float(means[ERROR_MEAN]))

    def _train_in_kernels(self, memory: SharedMemory, steps: int, size: int, beta: float) -> NDArray[np.float64]:
        buffer = self.replay_buffer
        assert buffer is not None
        ring = buffer.ring
        uniforms = np.random.random_sample((steps, size))  # noqa: NPY002  (SB3's generator, and what `draw` takes)
        figures = np.zeros((steps, FIGURES))
        done, buffer.largest_weight = run_updates(
            memory.layout.table, memory.dueling, ring, buffer.pos, buffer.size(), buffer.law(beta),
            buffer.priority_exponent, uniforms, new_batch(size, ring), Target(memory.target, self.double),
            memory.scaling, numbers_of(self.policy.optimizer, self.max_grad_norm), memory.state, memory.scratch,
            memory.step, buffer.largest_weight, figures,
        )  # fmt: skip
        memory.step += done
        self._refuse(done, steps, figures)
        return figures

    def _train_in_torch(self, steps: int, size: int, beta: float) -> NDArray[np.float64]:
        buffer, optimiser = self.replay_buffer, self.policy.optimizer
        assert buffer is not None
        figures = np.zeros((steps, FIGURES))
        for step in range(steps):
            batch = buffer.draw(size, beta)
            found = masked_loss(self.q_net, self.q_net_target, buffer.tensors(batch), self.double)
            figures[step] = float(found.loss.detach()), found.q_values.mean(), found.errors.mean()
            optimiser.zero_grad()
            found.loss.backward()  # type: ignore[no-untyped-call]
            norm = float(torch.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm))
            if not (np.isfinite(figures[step]).all() and np.isfinite(norm)):
                self._refuse(step, steps, figures)
            optimiser.step()
            buffer.reweigh(batch.leaves, found.errors)
        return figures

    def _refuse(self, done: int, asked: int, figures: NDArray[np.float64]) -> None:
        if done < asked:
            self._n_updates += done
            raise NotFinite(
                f"the loss or its gradient is not finite in update {self._n_updates + 1} (loss "
                f"{figures[done, LOSS]:g}, mean Q {figures[done, Q_MEAN]:g}); the weights are those of the update "
                "before it. Lower the learning rate, or the scale of the rewards"
            )

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int64], tuple[NDArray[Any], ...] | None]:
        """Choose a legal action for an observation or for each of several.

        Args:
            observation: (F,) or (N, F).
            state: passed through.
            episode_start: not used.
            deterministic: the best action always; else any legal one with a chance of `exploration_rate`.
            action_masks: (A,) or (N, A) bool; every action is legal by default.

        Raises:
            ValueError: no action is legal, or a Q value is not finite.
        """
        self.policy.set_training_mode(False)
        tensor, several = self.policy.obs_to_tensor(observation)
        with torch.no_grad():
            scores = self.q_net(tensor).cpu().numpy()
        epsilon = 0.0 if deterministic else self.exploration_rate
        actions = explored(scores, action_masks, epsilon)
        return (actions if several else actions[0]), state

    def chooser(self) -> Choose:
        """Chooses for all environments at once, with the weights as they are now; valid until the next update."""
        memory = self._shared_memory()
        return choose_in_torch(self) if memory is None else choose_in_kernels(memory)

    def memory_arrays(self) -> dict[str, NDArray[Any]]:
        """What an exact resume needs besides the weights and Adam's state: the buffer and the counters; not copied."""
        assert self.replay_buffer is not None
        counters = [self._n_calls, self._episode_num, self.exploration_rate, self._current_progress_remaining]
        return {**self.replay_buffer.arrays(), "counters": np.array(counters, np.float64)}

    def restore_memory(self, arrays: Any) -> None:
        """The inverse of `memory_arrays`, in a model made with the same arguments."""
        assert self.replay_buffer is not None
        self.replay_buffer.restore(arrays)
        calls, episodes, self.exploration_rate, self._current_progress_remaining = arrays["counters"].tolist()
        self._n_calls, self._episode_num = int(calls), int(episodes)

    def _shared_memory(self) -> SharedMemory | None:
        """The networks and Adam's state as the kernels see them; None where they do not take them."""
        if self._memory is None or not self._memory.holds():
            try:
                check_device(self.device)
                self._memory = SharedMemory(self.q_net, self.q_net_target, self.policy.optimizer)
            except NotTaken as refusal:
                self._memory = None
                if self._told != str(refusal):
                    self._told = str(refusal)
                    log.warning("the kernels do not take this model; torch trains it", reason=self._told)
        return self._memory

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_memory", "_told"]
