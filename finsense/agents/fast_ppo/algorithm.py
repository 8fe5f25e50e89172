"""MaskablePPO whose rollouts and updates run in compiled kernels; everything else is sb3-contrib's own."""

import math

import numpy as np
import structlog
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv

from finsense.agents.fast_ppo.collecting import collect
from finsense.agents.fast_ppo.eligibility import Network, network_of
from finsense.agents.fast_ppo.loss import Terms
from finsense.agents.fast_ppo.training import Update
from finsense.agents.fast_ppo.update import FIGURES
from finsense.agents.kernels.faults import NotTaken

log = structlog.get_logger()

_LAST_EPOCH, _LAST_MINIBATCH = "approx_kl", "loss"


class FastMaskablePPO(MaskablePPO):
    """`MaskablePPO` of sb3-contrib, many times faster on a CPU; same arguments, same files, same tags.

    Weights and Adam's state are torch's own tensors between two rollouts. A model that the kernels do not take (another
    policy, space, optimiser or device) trains on sb3-contrib's path, and one log line says why.

    Raises:
        ValueError: the rollout does not divide into minibatches, or another number that cannot work.
        NotFinite: (learn) a loss, weight or output is not finite; the weights are those of before the update.
    """

    # Why the kernels do not take the model, as it was last told.
    _told: str | None = None

    def _setup_model(self) -> None:
        self._check_numbers()
        super()._setup_model()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_told"]

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
        use_masking: bool = True,
    ) -> bool:
        """Fill the buffer; False where the callback ended the training."""
        network = self._network()
        if network is None or type(rollout_buffer) is not MaskableRolloutBuffer:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps, use_masking)
        return collect(self, network, env, callback, rollout_buffer, n_rollout_steps, use_masking)

    def train(self) -> None:
        """Update the policy with the rollout; on NotFinite it is as it was."""
        self._check_numbers()
        network = self._network()
        if network is None:
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = None
        if self.clip_range_vf is not None:
            clip_range_vf = self.clip_range_vf(self._current_progress_remaining)  # type: ignore[operator]
        terms = Terms(
            float(clip_range),
            -1.0 if clip_range_vf is None else float(clip_range_vf),
            float(self.ent_coef),
            float(self.vf_coef),
            bool(self.normalize_advantage),
        )
        update = Update(network, self.rollout_buffer, self.policy.optimizer)  # type: ignore[arg-type]
        largest_divergence = math.inf if self.target_kl is None else 1.5 * self.target_kl
        size = self.batch_size or self.n_steps * self.n_envs
        for epoch in range(self.n_epochs):
            going = update.run_epoch(size, terms, self.max_grad_norm, largest_divergence)
            self._n_updates += 1
            if not going:
                log.debug("the update ended early: the KL divergence is past 1.5 x target_kl", epoch=epoch)
                break
        update.commit()
        self._record(update, clip_range, clip_range_vf)

    def _record(self, update: Update, clip_range: float, clip_range_vf: float | None) -> None:
        """SB3's train/ tags."""
        means, last = np.concatenate(update.epochs).mean(axis=0), update.epochs[-1]
        for index, name in enumerate(FIGURES):
            value = means[index]
            if name == _LAST_EPOCH:
                value = last[:, index].mean()
            elif name == _LAST_MINIBATCH:
                value = last[-1, index]
            self.logger.record(f"train/{name}", float(value))
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)

    def _network(self) -> Network | None:
        """The policy as it is now, laid out for the kernels; None where they do not take it."""
        try:
            return network_of(self)
        except NotTaken as refusal:
            if self._told != str(refusal):
                self._told = str(refusal)
                log.warning(
                    "the fast kernels do not take this model; sb3-contrib's own path trains it", reason=self._told
                )
            return None

    def _check_numbers(self) -> None:
        """Refuse what cannot work.

        Raises:
            ValueError: says what was expected, found, and what to do.
        """
        for name in ("n_steps", "n_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, found {getattr(self, name)}")
        rollout, size = self.n_steps * self.n_envs, self.batch_size
        if size is None:
            size = rollout
        if size < 1 or rollout % size:
            below = next((d for d in range(min(max(size, 1), rollout), 0, -1) if rollout % d == 0), 1)
            raise ValueError(
                f"expected a batch_size that divides the rollout of {self.n_steps} steps x {self.n_envs} environments "
                f"= {rollout}, found {size}; the nearest below is {below}"
            )
        if size == 1 and self.normalize_advantage:
            raise ValueError(
                "one sample has no spread to normalise its advantage by: raise batch_size above 1, or set "
                "normalize_advantage=False"
            )
        if not self.max_grad_norm > 0:
            raise ValueError(f"expected a max_grad_norm above 0, found {self.max_grad_norm}")
