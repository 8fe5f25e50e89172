"""What a supervised model forecasts: the label of a bar."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Label(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    horizon: int = Field(ge=1, le=1_000_000, description="bars from the purchase to the sale, both at an open")


class ForwardReturn(_Label):
    """The logarithm of the exit price over the entry price: the model forecasts a number."""

    kind: Literal["forward_return"] = "forward_return"


class Direction(_Label):
    """Whether that return is up, down, or too small to pay for the trade."""

    kind: Literal["direction"] = "direction"
    dead_zone: float = Field(
        default=1.0, ge=0, le=1000, description="flat up to so many round trips of charges and slippage"
    )


class TripleBarrier(_Label):
    """Which comes first: a profit, a stop, or the horizon (Lopez de Prado 2018, chapter 3)."""

    kind: Literal["triple_barrier"] = "triple_barrier"
    profit: float = Field(gt=0, le=1000, description="distance of the upper barrier, volatilities of one bar")
    stop: float = Field(gt=0, le=1000, description="distance of the lower barrier, volatilities of one bar")
    volatility_window: int = Field(ge=2, le=10_000, description="bars whose returns give the volatility")


Label = Annotated[ForwardReturn | Direction | TripleBarrier, Field(discriminator="kind")]
