"""The experiment: what is traded, with which rules, by which learner, judged how."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from finsense.account.rules import AccountRules
from finsense.config.diagnosis import CONTRADICTION
from finsense.config.rendering import to_plain, to_yaml
from finsense.market.costs import ChargeRules
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import FileSource
from finsense.state.spec import StateSpec

MAX_SEED = 2**32 - 1


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Span(_Section):
    """A range of trading dates, IST, both ends included; in YAML `{from: 2023-07-03, to: 2023-10-31}`."""

    first: date = Field(alias="from")
    last: date = Field(alias="to")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first > self.last:
            raise ValueError(f"from must not lie after to, found {self.first} > {self.last}")
        return self


class Split(_Section):
    """Three spans in the order of time that share no day: a policy is fitted, chosen and judged on different days."""

    train: Span
    validation: Span
    test: Span

    @model_validator(mode="after")
    def _chronological(self) -> Self:
        spans = {"train": self.train, "validation": self.validation, "test": self.test}
        wrong = [
            (later, f"must begin after {earlier} ends ({spans[earlier].last}), found from {spans[later].first}")
            for earlier, later in (("train", "validation"), ("validation", "test"))
            if spans[later].first <= spans[earlier].last
        ]
        _refuse("Split", {(later, "from"): f"{later} {text}" for later, text in wrong})
        return self


class LogEquityReward(_Section):
    """Change of the logarithm of the equity after charges."""

    kind: Literal["log_equity"] = "log_equity"
    scale: float = Field(default=1.0, gt=0, description="multiplies the reward")


class DifferentialSharpeReward(_Section):
    """Influence of the last return on an exponentially weighted Sharpe ratio (Moody and Saffell 1998)."""

    kind: Literal["differential_sharpe"] = "differential_sharpe"
    scale: float = Field(default=1.0, gt=0, description="multiplies the reward")
    rate: float = Field(default=0.01, gt=0, lt=1, description="eta: weight of the last return in the moving moments")


class DrawdownReward(_Section):
    """Change of the logarithm of the equity, less a penalty on the drawdown."""

    kind: Literal["drawdown"] = "drawdown"
    scale: float = Field(default=1.0, gt=0, description="multiplies the reward")
    penalty: float = Field(default=0.1, ge=0, description="weight of the drawdown (fraction of the peak)")


Reward = Annotated[LogEquityReward | DifferentialSharpeReward | DrawdownReward, Field(discriminator="kind")]
DataSource = Annotated[SimulatedMarket | FileSource, Field(discriminator="kind")]


class Episode(_Section):
    """The window that one training episode covers."""

    bars: Annotated[int, Field(ge=2)] | None = Field(default=None, description="length; null for the whole span")
    start: Literal["random", "fixed"] = "random"


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

    @model_validator(mode="after")
    def _batches_fill_the_rollout(self) -> Self:
        rollout = self.n_steps * self.envs
        product = f"n_steps x envs = {self.n_steps} x {self.envs} = {rollout}"
        if self.batch_size > rollout:
            raise ValueError(f"batch_size must be at most one rollout ({product}), found {self.batch_size}")
        if rollout % self.batch_size:
            raise ValueError(f"batch_size must divide one rollout ({product}), found {self.batch_size}")
        return self


class SmaCross(_Section):
    """Windows of the moving-average baseline, bars."""

    fast: int = Field(default=10, ge=1)
    slow: int = Field(default=30, ge=2)

    @model_validator(mode="after")
    def _fast_is_faster(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"fast must be below slow, found {self.fast} and {self.slow}")
        return self


class Evaluation(_Section):
    """How a policy is judged and what it is compared with."""

    sessions_per_year: int = Field(default=248, ge=1, le=366, description="for annual figures")
    seed: int = Field(default=0, ge=0, le=MAX_SEED, description="of the random baseline")
    sma: SmaCross = SmaCross()


class Experiment(_Section):
    """Everything that decides what a run does; its hash names the run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="names the run's folder")
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    data: DataSource
    split: Split
    state: StateSpec
    account: AccountRules
    costs: ChargeRules = ChargeRules()
    reward: Reward = LogEquityReward()
    episode: Episode = Episode()
    agent: PpoAgent
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        _refuse("Experiment", contradictions(dict(self)))
        return self

    def resolved_yaml(self) -> str:
        """Every value with its default, as YAML that loads to an equal experiment from any place."""
        return to_yaml(self.resolved())

    def resolved(self) -> dict[str, Any]:
        """Every value with its default, as JSON values; paths are absolute."""
        values: dict[str, Any] = to_plain(self.model_dump(by_alias=True))
        return values

    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the resolved values.

        A path counts by its last name only: where a checkout lies does not change the experiment, and what the file
        holds is named by the hash of the bars.
        """
        values = to_plain(self.model_dump(by_alias=True), path=lambda path: path.name)
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def contradictions(sections: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Sections that are fine alone and not together: the key at fault and why.

    Args:
        sections: the validated sections by name; one that is not valid is left out.
    """
    found: dict[tuple[str, ...], str] = {}
    data, account, split = (sections.get(name) for name in ("data", "account", "split"))
    if data is not None and account is not None and account.product == "intraday" and data.interval == "1d":
        found["account", "product"] = (
            "product intraday needs bars within the day, but data.interval is 1d: choose product delivery"
        )
    if isinstance(data, SimulatedMarket) and isinstance(split, Split):
        simulated = f"the simulated market, which runs from {data.first} to {data.last}"
        for name, span in (("train", split.train), ("validation", split.validation), ("test", split.test)):
            if span.first < data.first:
                found["split", name, "from"] = f"{name} begins on {span.first}, before {simulated}"
            if span.last > data.last:
                found["split", name, "to"] = f"{name} ends on {span.last}, after {simulated}"
    state = sections.get("state")
    if isinstance(data, SimulatedMarket) and isinstance(state, StateSpec):
        known = () if data.index is None else ("index_close",)
        for feature in state.features:
            lacking = [name for name in feature.indicator.needs if name not in known]
            if lacking:
                advice = "add `index: {beta: 1, correlation: 0.5}` to it, or " if lacking == ["index_close"] else ""
                found["state", "features"] = (
                    f"{feature.name} reads {', '.join(lacking)}, which the simulated market does not have: {advice}"
                    f"leave {feature.name} out"
                )
    return found


def _refuse(title: str, reasons: Mapping[tuple[str, ...], str]) -> None:
    """Raise all reasons at once, each at its own key."""
    if reasons:
        details = [
            InitErrorDetails(
                type=PydanticCustomError(CONTRADICTION, "{reason}", {"reason": text}), loc=where, input=None
            )
            for where, text in reasons.items()
        ]
        raise ValidationError.from_exception_data(title, details)
