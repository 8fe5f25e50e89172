"""The rules of an account, as a user writes them and as the compiled kernels read them."""

from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from finsense.account.exits import Exits
from finsense.account.limits import Limits
from finsense.account.ranking import Ranking
from finsense.account.rules_record import MAX_TARGETS, ppm, write_exits, write_limits, write_ranking
from finsense.account.rules_record import PPM as PPM
from finsense.account.rules_record import RULES as RULES
from finsense.market.bars import INTERVAL_NS
from finsense.market.calendar import DAY_NS

UNLIMITED_SHARES = 10**9

# How an order is sized, and which action scheme is in force: the codes the kernels branch on.
SHARES, FRACTION, ALL_IN, RISK = 0, 1, 2, 3
ORDERS, TARGETS = 0, 1
BUY, HOLD, SELL = 0, 1, 2


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShareSize(_Rule):
    """An order of a fixed number of shares."""

    kind: Literal["shares"] = "shares"
    shares: Annotated[int, Field(ge=1, le=UNLIMITED_SHARES)]


class FractionSize(_Rule):
    """An order worth a fraction of the equity at the decision's close."""

    kind: Literal["fraction"] = "fraction"
    fraction: Annotated[float, Field(gt=0, le=1)]


class AllInSize(_Rule):
    """An order of as many shares as the cash pays, or of the whole position."""

    kind: Literal["all_in"] = "all_in"


class RiskSize(_Rule):
    """An order of equity x risk / (entry - stop) shares, where the stop lies `stop` (a fraction) from the entry."""

    kind: Literal["risk"] = "risk"
    risk: Annotated[float, Field(gt=0, le=1)]
    stop: Annotated[float, Field(gt=0, lt=1)]


OrderSize = Annotated[ShareSize | FractionSize | AllInSize | RiskSize, Field(discriminator="kind")]


class OrderActions(_Rule):
    """Discrete(3): 0 BUY, 1 HOLD, 2 SELL, each order of the configured size."""

    scheme: Literal["orders"] = "orders"
    size: OrderSize


class TargetActions(_Rule):
    """Discrete(len(targets) + 1): an action sets the exposure to its fraction of the equity; the last one is HOLD."""

    scheme: Literal["targets"] = "targets"
    targets: Annotated[tuple[float, ...], Field(min_length=2, max_length=MAX_TARGETS)]

    @model_validator(mode="after")
    def _targets_make_sense(self) -> Self:
        if any(not -1 <= target <= 1 for target in self.targets):
            raise ValueError(f"targets are fractions of the equity between -1 and 1, found {list(self.targets)}")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"targets must differ from each other, found {list(self.targets)}")
        if 0.0 not in self.targets:
            raise ValueError(f"targets must contain 0 (the account starts flat), found {list(self.targets)}")
        return self


Actions = Annotated[OrderActions | TargetActions, Field(discriminator="scheme")]


class AccountRules(_Rule):
    """What an account may do, and how its orders fill.

    Attributes:
        balance: starting cash, rupees.
        product: `intraday` (MIS: flat by the end of each session) or `delivery` (CNC: carried over night).
        actions: the action scheme.
        max_position: the largest position, shares; null for no limit but the cash.
        allow_short: whether the position may go below zero (intraday only), fully margined.
        slippage_bps: how much worse than the next bar's open an order fills, basis points.
        participation: the largest share of the fill bar's volume an order may take; null ignores volume.
        price_buffer: how far above the close a purchase must still be payable at the decision, fraction.
        entry_cutoff_minutes: intraday: no order that opens or adds so close to the session's end.
        square_off_minutes: intraday: the account closes its position so long before the session's end, and never later
            than one bar before it, for the next open is the last chance to trade.
        ruin_fraction: an episode ends when the equity falls to this fraction of the balance.
        limits: what the account may not do.
        exits: what closes a position without the policy.
        ranking: who is served first where several symbols compete for cash and places.
    """

    balance: Annotated[Decimal, Field(gt=0, le=Decimal(10) ** 9)]
    product: Literal["intraday", "delivery"]
    actions: Actions
    max_position: Annotated[int, Field(ge=1, le=UNLIMITED_SHARES)] | None = None
    allow_short: bool = False
    slippage_bps: Annotated[float, Field(ge=0, le=1000)] = 2.0
    participation: Annotated[float, Field(gt=0, le=1)] | None = 0.1
    price_buffer: Annotated[float, Field(ge=0, lt=1)] = 0.005
    entry_cutoff_minutes: Annotated[int, Field(ge=0, le=375)] = 30
    square_off_minutes: Annotated[int, Field(ge=0, le=375)] = 15
    ruin_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    limits: Limits = Limits()
    exits: Exits = Exits()
    ranking: Ranking = Ranking()

    @model_validator(mode="after")
    def _rules_agree(self) -> Self:
        if self.allow_short and self.product == "delivery":
            raise ValueError("allow_short needs product: intraday; shares cannot be sold short for delivery on NSE")
        shorting = isinstance(self.actions, TargetActions) and min(self.actions.targets) < 0
        if shorting and not self.allow_short:
            raise ValueError("a negative target needs allow_short: true")
        if self.entry_cutoff_minutes < self.square_off_minutes:
            raise ValueError(
                f"entry_cutoff_minutes ({self.entry_cutoff_minutes}) must be at least square_off_minutes "
                f"({self.square_off_minutes}): a position opened after the square-off would never be closed"
            )
        if (self.balance * 100) % 1 != 0:
            raise ValueError(f"balance must be whole paise, found {self.balance}")
        return self

    @model_validator(mode="after")
    def _limits_leave_room(self) -> Self:
        least, size = self.limits.min_position_fraction, getattr(self.actions, "size", None)
        largest = size.fraction if isinstance(size, FractionSize) else None
        if isinstance(self.actions, TargetActions):
            largest = max(abs(target) for target in self.actions.targets)
        if least is not None and largest is not None and largest <= least:
            raise ValueError(
                f"limits.min_position_fraction ({least}) is not below the largest position that the actions can open "
                f"({largest}), so nothing would ever be bought: lower it or raise the size"
            )
        stop = self.exits.stop_loss
        if isinstance(size, RiskSize) and stop is not None and stop != size.stop:
            raise ValueError(
                f"actions.size.stop ({size.stop}) sizes an order for a stop that exits.stop_loss ({stop}) would put "
                "elsewhere: give both the same distance"
            )
        return self

    @property
    def balance_paise(self) -> int:
        """Starting cash in paise."""
        return int(self.balance * 100)

    @property
    def action_names(self) -> tuple[str, ...]:
        """One name per action, in action order."""
        if isinstance(self.actions, TargetActions):
            return (*(f"target {target:g}" for target in self.actions.targets), "hold")
        return ("buy", "hold", "sell")

    @property
    def hold_action(self) -> int:
        """The action that holds."""
        return self.action_names.index("hold")

    def record(self, interval: str) -> NDArray[Any]:
        """The rules as the kernels read them for bars of this interval: one record of dtype RULES, shape (1,).

        Raises:
            ValueError: an intraday product on daily bars, which could never trade.
        """
        bar_ns = INTERVAL_NS[interval]
        if self.product == "intraday" and bar_ns >= DAY_NS:
            raise ValueError(f"product intraday needs bars within the day, found {interval}: choose product delivery")
        rules = np.zeros(1, RULES)
        rules["balance_paise"] = self.balance_paise
        rules["intraday"] = self.product == "intraday"
        rules["actions"] = len(self.action_names)
        rules["hold"] = self.hold_action
        rules["max_position"] = self.max_position or UNLIMITED_SHARES
        rules["min_position"] = -int(rules["max_position"][0]) if self.allow_short else 0
        rules["slippage_ppm"] = round(self.slippage_bps * 100)
        rules["price_buffer_ppm"] = ppm(self.price_buffer)
        rules["participation_ppm"] = -1 if self.participation is None else ppm(self.participation)
        rules["square_off_s"] = max(self.square_off_minutes * 60, bar_ns // 1_000_000_000)
        rules["entry_cutoff_s"] = max(self.entry_cutoff_minutes * 60, int(rules["square_off_s"][0]))
        rules["ruin_paise"] = self.balance_paise * ppm(self.ruin_fraction) // PPM
        if isinstance(self.actions, TargetActions):
            rules["scheme"] = TARGETS
            rules["targets_ppm"][0, : len(self.actions.targets)] = [ppm(target) for target in self.actions.targets]
        else:
            _fill_size(rules, self.actions.size)
        write_limits(rules, self.limits, daily=bar_ns >= DAY_NS)
        write_exits(rules, self.exits)
        write_ranking(rules, self.ranking.weights)
        return rules


def _fill_size(rules: NDArray[Any], size: ShareSize | FractionSize | AllInSize | RiskSize) -> None:
    rules["scheme"] = ORDERS
    if isinstance(size, ShareSize):
        rules["size_kind"], rules["size_shares"] = SHARES, size.shares
    elif isinstance(size, FractionSize):
        rules["size_kind"], rules["size_ppm"] = FRACTION, ppm(size.fraction)
    elif isinstance(size, RiskSize):
        rules["size_kind"], rules["size_ppm"], rules["stop_ppm"] = RISK, ppm(size.risk), max(1, ppm(size.stop))
    else:
        rules["size_kind"] = ALL_IN
