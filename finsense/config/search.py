"""What a search for hyperparameters may try, and how: the section `tune` of an experiment."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# The market, its account and its charges stay the same for every trial, or their scores could not be compared.
SEARCHED = ("agent", "state", "reward", "episode", "account.actions")
_FIXED = ("agent.kind", "agent.eval_every")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Dimension(_Part):
    """The values that one key may take: from `low` to `high`, both included, or one of `choices`."""

    low: float | None = None
    high: float | None = None
    step: Annotated[float, Field(gt=0)] | None = Field(default=None, description="grid from low; null for all values")
    log: bool = Field(default=False, description="draw the logarithm evenly")
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.choices is None) == (self.low is None and self.high is None):
            raise ValueError("give either low and high, or choices")
        if self.choices is not None:
            if self.step is not None or self.log:
                raise ValueError("step and log belong to low and high, not to choices")
            return self
        if self.low is None or self.high is None:
            raise ValueError(f"{'low' if self.low is None else 'high'} is missing: a range needs low and high")
        if self.low >= self.high:
            raise ValueError(f"low must lie below high, found {self.low:g} and {self.high:g}")
        if self.log and self.step is not None:
            raise ValueError("step and log exclude each other")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 with log, found {self.low:g}")
        if self.step is not None and not math.isclose((self.high - self.low) / self.step % 1, 0, abs_tol=1e-9):
            remainder = (self.high - self.low) / self.step % 1
            if not math.isclose(remainder, 1, abs_tol=1e-9):
                raise ValueError(f"step must divide high - low = {self.high - self.low:g}, found {self.step:g}")
        return self


class NoPruner(_Part):
    """Every trial is trained to its end."""

    kind: Literal["none"]


class MedianPruner(_Part):
    """Stops a trial whose best evaluation so far lies below the median of the others at the same evaluation."""

    kind: Literal["median"] = "median"
    startup_trials: int = Field(default=5, ge=0, description="finished trials before the first is pruned")
    warmup_evaluations: int = Field(default=1, ge=0, description="evaluations that no trial is pruned at")


class HalvingPruner(_Part):
    """Asynchronous successive halving (Li et al. 2020): of each rung the best 1/reduction go on."""

    kind: Literal["halving"]
    min_evaluations: int = Field(default=1, ge=1, description="evaluations before the first rung")
    reduction: int = Field(default=3, ge=2)


Pruner = Annotated[NoPruner | MedianPruner | HalvingPruner, Field(discriminator="kind")]


class Search(_Part):
    """A search over hyperparameters; every trial is this experiment with a few values replaced.

    `space` maps a key such as `agent.learning_rate` to the values it may take.
    """

    metric: Literal["log_return", "sharpe"] = Field(
        default="log_return", description="figure of the validation span that is maximised"
    )
    space: dict[str, Dimension]
    sampler: Literal["tpe", "random"] = "tpe"
    startup_trials: int = Field(default=10, ge=1, description="random trials before the sampler learns from them")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="of the sampler")
    pruner: Pruner = MedianPruner()

    @field_validator("space")
    @classmethod
    def _searches_what_may_differ(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        if not space:
            raise ValueError("name at least one key to search, such as agent.learning_rate: {low: 1e-4, high: 1e-2}")
        for key in space:
            inside = any(key.startswith(f"{section}.") for section in SEARCHED)
            if not inside or key in _FIXED:
                raise ValueError(
                    f"{key} cannot be searched: trials are compared on the same market, account and evaluations; "
                    f"allowed are keys under {', '.join(SEARCHED)}, but for {' and '.join(_FIXED)}"
                )
        return space
