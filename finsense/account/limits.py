"""The limits of an account as a user writes them: presets, what contradicts, what loosens."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**6)]
OnBreach = Literal["no_entries", "flatten"]
Preset = Literal["none", "small_account", "cautious"]

# Of a share of the account, of the account's orders, and of its losses: what the presets say.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "small_account": {
        "max_position_fraction": 0.30,
        "min_position_fraction": 0.05,
        "max_positions": 4,
        "cash_buffer": 0.10,
        "max_daily_loss": 0.10,
        "max_drawdown": 0.15,
    },
    "cautious": {
        "max_position_fraction": 0.20,
        "min_position_fraction": 0.02,
        "max_gross_exposure": 0.80,
        "max_positions": 5,
        "cash_buffer": 0.20,
        "max_orders_per_day": 40,
        "max_price_jump": 0.05,
        "max_daily_loss": 0.03,
        "max_drawdown": 0.10,
        "max_consecutive_losses": 4,
        "max_volatility_spike": 4.0,
        "no_entry_before_close_minutes": 15,
    },
}

# Below these, smaller is looser; for every other number larger is.
_FLOORS = ("min_position_fraction", "cash_buffer", "no_entry_before_close_minutes")
# Tell how a limit works; neither looser nor tighter by themselves.
_MANNERS = ("preset", "volatility_bars", "sectors", "correlation_bars")


class Limits(BaseModel):
    """What an account may not do; null switches a limit off. Orders that only reduce a position are never limited.

    Attributes:
        preset: where the limits start that are not named; a limit beside it replaces the preset's.
        max_order_value: rupees, of one order at the decision's close.
        max_order_quantity: shares of one order.
        max_position_fraction: of the equity, in one symbol.
        min_position_fraction: of the equity; a position that would be smaller is not opened.
        max_gross_exposure: positions without their signs, over the equity.
        max_net_exposure: long less short positions, over the equity, in either direction.
        max_positions: symbols with a position at a time.
        max_per_sector: symbols of one sector with a position at a time.
        sectors: symbol -> sector, of every symbol of an account with such a limit.
        max_correlation: of the returns of a symbol with those of each symbol that has a position; beyond it no position
            is opened in it. Where the account may sell short, in either direction.
        correlation_bars: returns of which it is told, from close to close of the account's bars (a symbol without a bar
            did not move); the limit rests until so many were seen.
        cash_buffer: of the equity, cash that no order may spend.
        max_orders_per_day: orders of all symbols after which nothing is opened that day.
        max_orders_per_bar: orders of all symbols at one bar after which nothing more is opened at it.
        max_price_jump: move of the close from the bar before, as a fraction; beyond it nothing is opened at this bar.
        max_daily_loss: of the equity before the day's first bar; nothing is opened until the next session.
        on_daily_loss: whether the account also closes what it holds.
        max_drawdown: from the highest equity; nothing is opened ever after.
        on_drawdown: whether the account also closes what it holds.
        max_consecutive_losses: losing round trips in a row, after which nothing is opened for the rest of the session.
        max_volatility_spike: true range of a bar over its average; beyond it nothing is opened at this bar.
        volatility_bars: bars of that average (Wilder 1978); the limit rests until so many were seen.
        no_entry_before_close_minutes: nothing is opened so close to the end of continuous trading, where the closing
            auction begins; on daily bars it says nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: Preset = "none"
    max_order_value: Annotated[Decimal, Field(gt=0, le=Decimal(10) ** 10)] | None = None
    max_order_quantity: Annotated[int, Field(ge=1, le=10**9)] | None = None
    max_position_fraction: Fraction | None = None
    min_position_fraction: Fraction | None = None
    max_gross_exposure: Fraction | None = None
    max_net_exposure: Fraction | None = None
    max_positions: Count | None = None
    max_per_sector: Count | None = None
    sectors: Mapping[Annotated[str, Field(min_length=1)], Annotated[str, Field(min_length=1)]] = {}
    max_correlation: Annotated[float, Field(gt=0, lt=1)] | None = None
    correlation_bars: Annotated[int, Field(ge=10, le=1000)] = 60
    cash_buffer: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_orders_per_day: Count | None = None
    max_orders_per_bar: Count | None = None
    max_price_jump: Fraction | None = None
    max_daily_loss: Fraction | None = None
    on_daily_loss: OnBreach = "no_entries"
    max_drawdown: Fraction | None = None
    on_drawdown: OnBreach = "no_entries"
    max_consecutive_losses: Count | None = None
    max_volatility_spike: Annotated[float, Field(gt=1, le=1000)] | None = None
    volatility_bars: Annotated[int, Field(ge=2, le=1000)] = 20
    no_entry_before_close_minutes: Annotated[int, Field(ge=1, le=375)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {**PRESETS.get(str(values.get("preset", "none")), {}), **values}

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        self._expect_order("min_position_fraction", "max_position_fraction", "no position could be opened")
        self._expect_order("max_position_fraction", "max_gross_exposure", "one position may exceed all of them")
        self._expect_order("max_net_exposure", "max_gross_exposure", "the net can never exceed the gross")
        self._expect_order("min_position_fraction", "max_gross_exposure", "no position could be opened")
        self._expect_order("max_orders_per_bar", "max_orders_per_day", "a bar is part of its day")
        self._expect_order("max_per_sector", "max_positions", "a sector is part of the account")
        self._expect_order("max_daily_loss", "max_drawdown", "the drawdown would always be reached first")
        if self.min_position_fraction is not None and self.min_position_fraction + (self.cash_buffer or 0) > 1:
            raise ValueError(
                f"min_position_fraction ({self.min_position_fraction}) and cash_buffer ({self.cash_buffer}) together "
                "exceed the account, so no position could be opened: lower one of them"
            )
        if self.max_order_value is not None and (self.max_order_value * 100) % 1 != 0:
            raise ValueError(f"max_order_value must be whole paise, found {self.max_order_value}")
        if self.max_per_sector is not None and not self.sectors:
            raise ValueError("max_per_sector needs the sector of each symbol: name them under sectors, like {INFY: IT}")
        for reaction, limit in (("on_daily_loss", "max_daily_loss"), ("on_drawdown", "max_drawdown")):
            if getattr(self, reaction) == "flatten" and getattr(self, limit) is None:
                raise ValueError(f"{reaction}: flatten needs {limit}, which is off")
        return self

    def _expect_order(self, smaller: str, larger: str, why: str) -> None:
        low, high = getattr(self, smaller), getattr(self, larger)
        if low is not None and high is not None and low > high:
            raise ValueError(f"{smaller} ({low}) must not exceed {larger} ({high}): {why}")

    @property
    def on(self) -> bool:
        """Whether a limit is on."""
        return any(getattr(self, name) is not None for name in _LIMITS)


_LIMITS = tuple(name for name in Limits.model_fields if name not in (*_MANNERS, "on_daily_loss", "on_drawdown"))


def loosened(limits: Limits) -> list[str]:
    """One line for each limit that is looser than its preset says: `max_positions: 6 instead of 4`."""
    preset = Limits(preset=limits.preset)
    found = []
    for name in Limits.model_fields:
        mine, its = getattr(limits, name), getattr(preset, name)
        if name not in _MANNERS and _is_looser(name, mine, its):
            found.append(f"{name}: {'off' if mine is None else mine} instead of {its}")
    return found


def _is_looser(name: str, mine: Any, preset: Any) -> bool:
    if name in ("on_daily_loss", "on_drawdown"):
        return bool(preset == "flatten" and mine != preset)
    if preset is None:
        return False
    if mine is None:
        return True
    return bool(mine < preset if name in _FLOORS else mine > preset)
