"""`finsense capital`: what to close for a better signal when the cash is spent."""

import dataclasses
import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import typer
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rich.console import Console
from rich.table import Table

from finsense.account.capital import Capital, Change, Charges, Holding, Suggestion, Terms, liquidation_order, rebalance
from finsense.account.capital import suggest as suggest_steps
from finsense.account.ranking import CapitalError, Ranked, Signal, Weights, rank
from finsense.account.sizing import RoundTrip, SizingError, drawdown_scaled, fractional_kelly, three_month_performance
from finsense.cli.errors import DATA, refuse
from finsense.cli.options import AsJson, print_json
from finsense.config.loading import load
from finsense.evaluation.wording import rupees
from finsense.market.costs import MAX_ORDER_VALUE_PAISE, ChargeRules, order_charges

Rupees = Annotated[Decimal, Field(decimal_places=2, max_digits=13)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TripRow(_Part):
    """A round trip of the policy on the symbol: when it ended, what it earned after charges (fraction), on which days.

    A trip of the training span is refused: it says nothing about the policy.
    """

    exit_day: dt.date
    net_return: Annotated[float, Field(gt=-1)]
    out_of_sample: bool


class PositionRow(_Part):
    """A position: signed shares at the last price (rupees)."""

    symbol: Annotated[str, Field(min_length=1)]
    quantity: int
    price: Annotated[Rupees, Field(gt=0)]

    @model_validator(mode="after")
    def _not_flat(self) -> Self:
        if self.quantity == 0:
            raise ValueError(f"{self.symbol}: a position has one share or more, found 0: leave the line out")
        return self


class SignalRow(_Part):
    """What speaks for a symbol; the price (rupees) may be left out where it is held, momentum where trips are given."""

    symbol: Annotated[str, Field(min_length=1)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    momentum: Annotated[float, Field(gt=-1)] | None = None
    trips: tuple[TripRow, ...] = ()
    price: Annotated[Rupees, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.momentum is not None and self.trips:
            raise ValueError(f"{self.symbol}: give its momentum or the trips that tell it, not both")
        return self


class WeightRow(_Part):
    """See `ranking.Weights`."""

    confidence: Annotated[float, Field(ge=0)] = 0.5
    performance: Annotated[float, Field(ge=0)] = 0.5
    full_performance: Annotated[float, Field(gt=0)] = 0.10


class SizingRow(_Part):
    """How large a full position may be beside `max_position_fraction`.

    Attributes:
        kelly_fraction: of the growth-optimal share over a signal's `trips`; null leaves Kelly out.
        max_drawdown: from `peak`, at which a full position is 0 (fraction); null leaves the drawdown out.
        peak: highest equity so far, rupees.
    """

    kelly_fraction: Annotated[float, Field(ge=0, le=1)] | None = None
    max_drawdown: Annotated[float, Field(gt=0, le=1)] | None = None
    peak: Annotated[Rupees, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _a_peak_to_fall_from(self) -> Self:
        if (self.max_drawdown is None) != (self.peak is None):
            raise ValueError("max_drawdown and peak belong together: give both or none")
        return self


class CapitalFile(_Part):
    """Positions, signals and terms, as a YAML or JSON file has them; see `capital.Terms`.

    Attributes:
        date: whose charges count, and before which the three months of `trips` lie.
        product: how positions are held.
        cash: rupees.
    """

    date: dt.date
    product: Literal["delivery", "intraday"] = "delivery"
    cash: Rupees
    positions: tuple[PositionRow, ...] = ()
    signals: Annotated[tuple[SignalRow, ...], Field(min_length=1)]
    weights: WeightRow = WeightRow()
    sizing: SizingRow = SizingRow()
    cash_buffer: Annotated[float, Field(ge=0, lt=1)] = 0.10
    max_position_fraction: Annotated[float, Field(gt=0, le=1)] = 0.30
    min_position_fraction: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_positions: Annotated[int, Field(ge=1)] = 4
    better_by: Annotated[float, Field(ge=0)] = 0.10

    @property
    def terms(self) -> Terms:
        """What the account wants of a new position."""
        return Terms(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Terms)})

    @property
    def capital(self) -> Capital:
        """The account."""
        holdings = tuple(Holding(one.symbol, one.quantity, _paise(one.price)) for one in self.positions)
        return Capital(_paise(self.cash), holdings)

    def weighing(self) -> Weights:
        """How a score is made."""
        return Weights(**self.weights.model_dump())

    def shares(self) -> dict[str, float]:
        """Symbol -> share of the equity of a full position.

        Raises:
            SizingError: Kelly is asked for and a signal has too few trips, or trips of the training span.
        """
        shares = {row.symbol: self.max_position_fraction for row in self.signals}
        if self.sizing.kelly_fraction is not None:
            for row in self.signals:
                trips = _trips(row)
                shares[row.symbol] = fractional_kelly(trips, self.sizing.kelly_fraction, self.max_position_fraction)
        if self.sizing.max_drawdown is not None and self.sizing.peak is not None:
            peak_paise, most = _paise(self.sizing.peak), self.sizing.max_drawdown
            equity_paise = self.capital.equity_paise
            shares = {name: drawdown_scaled(one, equity_paise, peak_paise, most) for name, one in shares.items()}
        return shares

    def found_signals(self) -> list[Signal]:
        """The signals with price and momentum.

        Raises:
            CapitalError: a price is missing, or differs from the position's.
            SizingError: a trip lies in the training span.
        """
        held = {one.symbol: one.price for one in self.positions}
        signals = []
        for row in self.signals:
            price = row.price or held.get(row.symbol)
            if price is None or held.get(row.symbol, price) != price:
                raise CapitalError(f"{row.symbol}: expected one price, found {row.price} beside {held.get(row.symbol)}")
            momentum = three_month_performance(_trips(row), self.date) if row.trips else row.momentum
            signals.append(Signal(row.symbol, _paise(price), row.confidence, momentum))
        return signals


def capital(
    file: Annotated[
        Path, typer.Argument(help="YAML or JSON: cash, positions, signals (see below).", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Who deserves the cash: ranking, order of liquidation, what to close for a better signal, a rebalancing.

    The file (rupees; fractions, never percents; momentum is what the policy itself earned on the symbol in the last
    three months out of sample, and only a positive one may take cash):

        date: 2026-11-20
        cash: 12000.50
        positions: [{symbol: INFY, quantity: 30, price: 1501.25}]
        signals:
          - {symbol: INFY, confidence: 0.55, momentum: 0.01}
          - {symbol: TCS, confidence: 0.81, momentum: 0.06, price: 3120.00}

    Nothing is sent to any broker.
    """
    read = load(file, overrides or (), CapitalFile)
    try:
        account, terms, weights = read.capital, read.terms, read.weighing()
        signals = read.found_signals()
        charges = _charges(read)
        ranked = rank(signals, weights)
        order = liquidation_order(account, signals, weights)
        suggestion = suggest_steps(account, signals, charges, terms, weights, read.shares())
        changes = rebalance(account, signals, terms, weights)
    except (CapitalError, SizingError) as error:
        refuse("capital", f"{file}: {error}", DATA)
    if as_json:
        print_json(_document(account, ranked, order, suggestion, changes))
        return
    _show(Console(), account, ranked, order, suggestion, changes)


def _trips(row: SignalRow) -> list[RoundTrip]:
    return [RoundTrip(one.exit_day, one.net_return, one.out_of_sample) for one in row.trips]


def _charges(read: CapitalFile) -> Charges:
    rules = ChargeRules()
    schedule = rules.schedules()[rules.schedule_index(read.date)]
    intraday = read.product == "intraday"
    # A sale from the depository costs a fee of its own, once a day.
    fee_paise = 0 if intraday else int(schedule["dp_paise"])

    def charges(quantity: int, price_paise: int) -> int:
        if abs(quantity) * price_paise > MAX_ORDER_VALUE_PAISE:
            raise CapitalError(f"an order of {abs(quantity) * price_paise} paise is larger than can be priced")
        return int(order_charges(schedule, intraday, quantity, price_paise)) + (fee_paise if quantity < 0 else 0)

    return charges


def _paise(rupees: Decimal) -> int:
    return int(rupees * 100)


def _document(
    account: Capital, ranked: list[Ranked], order: list[Ranked], suggestion: Suggestion, changes: list[Change]
) -> dict[str, Any]:
    return {
        "equity_paise": account.equity_paise,
        "cash_paise": account.cash_paise,
        "free_paise": suggestion.free_paise,
        "free_after_paise": suggestion.free_after_paise,
        "positions_left": suggestion.positions_left,
        "depleted": suggestion.depleted,
        "ranking": [one._asdict() for one in ranked],
        "liquidation_order": [one._asdict() for one in order],
        "steps": [one._asdict() for one in suggestion.steps],
        "left_out": dict(suggestion.left_out),
        "rebalance": [one._asdict() for one in changes],
    }


def _show(
    console: Console,
    account: Capital,
    ranked: list[Ranked],
    order: list[Ranked],
    suggestion: Suggestion,
    changes: list[Change],
) -> None:
    left = f"pays for {suggestion.positions_left} more full position(s)" if not suggestion.depleted else "is spent"
    console.print(
        f"equity {_money(account.equity_paise)}, cash {_money(account.cash_paise)}, "
        f"free of the buffer {_money(suggestion.free_paise)}: the cash {left}"
    )
    _table(console, "Ranking", ("symbol", "score", "may take cash"), ranked, _rank_row)
    _table(
        console,
        "Close first",
        ("symbol", "score", ""),
        order,
        lambda one: (one.symbol, f"{one.score:.3f}", one.refused),
    )
    _table(console, "Suggestion", ("order", "shares", "value", "charges", "why"), suggestion.steps, _step_row)
    for symbol, reason in suggestion.left_out.items():
        console.print(f"{symbol}: left out, {reason}", highlight=False, markup=False)
    _table(console, "Rebalancing", ("symbol", "worth", "should be", "trade, shares"), changes, _change_row)


def _money(paise: int) -> str:
    return rupees(paise)


def _rank_row(one: Ranked) -> tuple[str, ...]:
    return one.symbol, f"{one.score:.3f}", f"no: {one.refused}" if one.refused else "yes"


def _step_row(one: Any) -> tuple[str, ...]:
    value_paise = abs(one.quantity) * one.price_paise
    side = "buy" if one.quantity > 0 else "sell"
    return f"{side} {one.symbol}", str(abs(one.quantity)), _money(value_paise), _money(one.charges_paise), one.reason


def _change_row(one: Change) -> tuple[str, ...]:
    return one.symbol, _money(one.value_paise), _money(one.target_paise), f"{one.quantity:+d}" if one.quantity else "-"


def _table(
    console: Console, title: str, header: tuple[str, ...], rows: Any, row_of: Callable[[Any], tuple[str, ...]]
) -> None:
    if not rows:
        return
    table = Table(title=title, box=None, padding=(0, 1), title_justify="left")
    for place, name in enumerate(header):
        table.add_column(name, justify="left" if place in (0, len(header) - 1) else "right", overflow="fold")
    for one in rows:
        table.add_row(*row_of(one))
    console.print(table)
