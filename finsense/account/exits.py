"""The exits of an account as a user writes them: what closes a position without the policy."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Distance = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class Exits(BaseModel):
    """When a position is closed without being asked; null switches an exit off.

    Attributes:
        stop_loss: distance of the protective stop from the fill, a fraction of its price. The stop rests at the
            exchange and fills inside a bar.
        trailing_stop: distance from a bar's close to which the stop is moved, never further from the market. Without
            `stop_loss` it is also the first distance.
        take_profit: gain of the position over its cost, before charges, at a close; it is sold at the next open.
        time_exit_bars: marks after which a position is closed at the next open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stop_loss: Distance | None = None
    trailing_stop: Distance | None = None
    take_profit: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    time_exit_bars: Annotated[int, Field(ge=1, le=10**6)] | None = None

    @property
    def stops(self) -> bool:
        """Whether a protective stop rests at the exchange while a position is open."""
        return self.stop_loss is not None or self.trailing_stop is not None
