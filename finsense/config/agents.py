"""The learners' settings, one model for each kind; which one it is, `kind` tells."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finsense.config.supervised import GruModel, LstmModel, TransformerModel
from finsense.config.xgboost import XgboostModel

Device = Literal["auto", "cpu", "cuda"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PpoAgent(_Section):
    """Maskable PPO; the names of the hyperparameters and, but for the rollout, their defaults are those of SB3.

    The rollout is `envs` x `n_steps` bars: many environments and few steps, for the environment is vectorised.
    """

    kind: Literal["ppo"]
    steps: int = Field(default=1_000_000, ge=1, description="environment steps in all")
    envs: int = Field(default=16, ge=1, le=65_536, description="environments in one batch")
    eval_every: int = Field(default=50_000, ge=1, description="environment steps between evaluations")
    checkpoint_every: int = Field(default=100_000, ge=1, description="environment steps between checkpoints")
    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="reached linearly at the end; null for no change"
    )
    n_steps: int = Field(default=256, ge=1, description="steps per environment and rollout")
    batch_size: int = Field(default=256, ge=2, description="rows of one gradient step")
    n_epochs: int = Field(default=10, ge=1, description="passes over a rollout")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per bar")
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    clip_range: float = Field(default=0.2, gt=0, le=1)
    ent_coef: float = Field(default=0.0, ge=0)
    vf_coef: float = Field(default=0.5, ge=0)
    max_grad_norm: float = Field(default=0.5, gt=0)
    target_kl: Annotated[float, Field(gt=0)] | None = Field(default=None, description="null for no early stop")
    net_arch: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(default=(64, 64), max_length=16)
    activation: Literal["tanh", "relu"] = "tanh"
    device: Device = Field(default="auto", description="auto takes a GPU only for a large network")

    @model_validator(mode="after")
    def _batches_fill_the_rollout(self) -> Self:
        rollout = self.n_steps * self.envs
        product = f"n_steps x envs = {self.n_steps} x {self.envs} = {rollout}"
        if self.batch_size > rollout:
            raise ValueError(f"batch_size must be at most one rollout ({product}), found {self.batch_size}")
        if rollout % self.batch_size:
            raise ValueError(f"batch_size must divide one rollout ({product}), found {self.batch_size}")
        return self

    @property
    def rollout_steps(self) -> int:
        """Environment steps between updates."""
        return self.envs * self.n_steps

    @property
    def report_steps(self) -> int:
        """Environment steps between two reports: every rollout."""
        return self.rollout_steps


# Of the masked DQN.
_REPORT_STEPS = 8192


class PrioritisedReplay(_Section):
    """Transitions with a large error are replayed more often (Schaul et al. 2016)."""

    alpha: float = Field(default=0.6, gt=0, le=1, description="chances in proportion to error^alpha")
    beta: float = Field(default=0.4, ge=0, le=1, description="how far the loss undoes them; rises to 1")


class DqnAgent(_Section):
    """Masked DQN: double, n-step, on request dueling and prioritised; names are SB3's where SB3 has them.

    `train_freq` steps of all environments are followed by `gradient_steps` updates.
    """

    kind: Literal["dqn"]
    steps: int = Field(default=1_000_000, ge=1, description="environment steps in all")
    envs: int = Field(default=16, ge=1, le=65_536, description="environments in one batch")
    eval_every: int = Field(default=50_000, ge=1, description="environment steps between evaluations")
    checkpoint_every: int = Field(default=100_000, ge=1, description="environment steps between checkpoints")
    learning_rate: float = Field(default=5e-4, gt=0, le=1)
    final_learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="reached linearly at the end; null for no change"
    )
    buffer_size: int = Field(default=200_000, ge=2, description="transitions that are kept, of all environments")
    learning_starts: int = Field(default=10_000, ge=0, description="environment steps before the first update")
    batch_size: int = Field(default=256, ge=1, description="transitions of one update")
    train_freq: int = Field(default=1, ge=1, description="steps of every environment between updates")
    gradient_steps: int = Field(default=1, ge=1, description="updates after each of these")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount per bar")
    n_steps: int = Field(default=1, ge=1, le=1_000, description="rewards summed before the next value is taken")
    double: bool = Field(default=True, description="the online network chooses what the target network values")
    dueling: bool = Field(default=False, description="separate streams for a state's value and its advantages")
    prioritised_replay: PrioritisedReplay | None = Field(default=None, description="null draws all alike")
    target_update_interval: int = Field(default=10_000, ge=1, description="environment steps")
    tau: float = Field(default=1.0, gt=0, le=1, description="how far the target network follows at each update of it")
    exploration_fraction: float = Field(default=0.3, ge=0, le=1, description="of the training, in which epsilon falls")
    exploration_initial_eps: float = Field(default=1.0, ge=0, le=1)
    exploration_final_eps: float = Field(default=0.05, ge=0, le=1)
    max_grad_norm: float = Field(default=10.0, gt=0)
    net_arch: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(default=(64, 64), max_length=16)
    activation: Literal["tanh", "relu"] = "relu"
    device: Device = Field(default="auto", description="auto takes a GPU only for a large network")

    @model_validator(mode="after")
    def _can_learn(self) -> Self:
        if self.buffer_size < self.envs:
            raise ValueError(f"buffer_size must hold a step of all {self.envs} envs, found {self.buffer_size}")
        if self.batch_size > self.buffer_size:
            raise ValueError(f"batch_size must be at most buffer_size ({self.buffer_size}), found {self.batch_size}")
        if self.learning_starts >= self.steps:
            raise ValueError(
                f"learning_starts must lie below steps ({self.steps}), or nothing is learned, "
                f"found {self.learning_starts}"
            )
        return self

    @property
    def rollout_steps(self) -> int:
        """Environment steps between updates."""
        return self.envs * self.train_freq

    @property
    def report_steps(self) -> int:
        """Environment steps between two reports: a rollout is too short to tell anything."""
        return max(self.rollout_steps, _REPORT_STEPS)


# What learns by trading; the others learn from labels.
TradingAgent = PpoAgent | DqnAgent
Agent = Annotated[
    PpoAgent | DqnAgent | LstmModel | GruModel | TransformerModel | XgboostModel, Field(discriminator="kind")
]
