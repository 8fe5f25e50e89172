"""The experiment: what is traded, with which rules, by which learner, judged how."""

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from finsense.account.rules import AccountRules
from finsense.config.agents import Agent
from finsense.config.diagnosis import CONTRADICTION
from finsense.config.rendering import to_plain, to_yaml
from finsense.config.search import Search
from finsense.config.xgboost import XgboostModel, unknown_columns
from finsense.market.costs import ChargeRules
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import FileSource
from finsense.state.spec import StateSpec

MAX_SEED = 2**32 - 1
# How a simulated market comes to know a series that an indicator needs.
_ADVICE = {"index_close": "index: {beta: 1, correlation: 0.5}", "vix_close": "vix: true"}


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
_Bps = Annotated[float, Field(ge=0, le=1000)]
DataSource = Annotated[SimulatedMarket | FileSource, Field(discriminator="kind")]


class Curriculum(_Section):
    """Charges that rise linearly over the first part of a training; in YAML `{from: 0, until: 0.3}`."""

    first: float = Field(default=0.0, alias="from", ge=0, le=1, description="fraction of the charges at first")
    until: float = Field(default=0.3, gt=0, le=1, description="after this fraction of the steps they are whole")

    def fraction(self, done: float) -> float:
        """The fraction of the charges that is taken after a fraction of the training's steps."""
        return min(self.first + (1.0 - self.first) * done / self.until, 1.0)


class Episode(_Section):
    """How one training episode is played; validation and test are played whole, at the account's slippage and costs."""

    bars: Annotated[int, Field(ge=2)] | None = Field(default=None, description="length; null for the whole span")
    start: Literal["random", "fixed"] = "random"
    slippage_bps: tuple[_Bps, _Bps] | None = Field(
        default=None, description="lowest and highest; each episode draws its own; null for the account's"
    )
    charges: Curriculum | None = Field(default=None, description="null for whole charges from the first step on")

    @model_validator(mode="after")
    def _slippage_in_order(self) -> Self:
        if self.slippage_bps is not None and self.slippage_bps[0] > self.slippage_bps[1]:
            raise ValueError(f"slippage_bps must not fall, found {list(self.slippage_bps)}")
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
    agent: Agent
    evaluation: Evaluation = Evaluation()
    tune: Search | None = Field(default=None, description="of `finsense tune`; null for no search")

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
        if self.tune is None:
            del values["tune"]
        return values

    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the resolved values.

        A path counts by its last name only: where a checkout lies does not change the experiment, and what the file
        holds is named by the hash of the bars. How better values would be searched for (`tune`) does not count.
        """
        values = to_plain(self.model_dump(by_alias=True, exclude={"tune"}), path=lambda path: path.name)
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
    agent = sections.get("agent")
    if isinstance(agent, XgboostModel) and isinstance(state, StateSpec):
        unknown = unknown_columns(agent, state)
        if unknown is not None:
            found["agent", "monotone"] = unknown
    if isinstance(data, SimulatedMarket) and isinstance(state, StateSpec):
        known = [name for name, there in (("index_close", data.index is not None), ("vix_close", data.vix)) if there]
        for feature in state.features:
            lacking = [name for name in feature.indicator.needs if name not in known]
            if lacking:
                keys = [_ADVICE[name] for name in lacking if name in _ADVICE]
                advice = f"add `{'`, `'.join(keys)}` to it, or " if len(keys) == len(lacking) else ""
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
