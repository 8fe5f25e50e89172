"""The exact contract note of a trading day, convention FS-1, in integer paise.

FS-1, per scrip and trade date: the matched quantity m = min(bought, sold) is intraday whatever the product code, its
fills are the earliest of each side; the rest is delivery.

1. Brokerage per executed order on its intraday value, min(20 rupees, 0.03 %), to the paisa; delivery 0.
2. STT on the day-average price (buy value + sell value) / (bought + sold), when both sides traded: intraday on
   m x average, delivery on rest x average; when one side traded, on the value itself. Each leg to the rupee, half-up.
   Sources: NSE/CMTR/5588 of 10 Nov 2004; Zerodha's STT page.
3. Exchange charge, IPFT, SEBI fee and stamp duty on the scrip-day's totals, to the paisa.
4. GST on brokerage + exchange charge + SEBI fee, from the rounded parts, to the paisa.
5. The DP charge once per scrip-day of delivery sale; it is posted to the ledger, not on the note.

Not modelled: see `finsense.market.costs`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from finsense.market.calendar import session_date
from finsense.market.costs import MAX_ORDER_VALUE_PAISE, ChargeRules

_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_DATED_RATES = ChargeRules()
_NANO = 10**9
_RUPEE = 100


class ContractNoteError(ValueError):
    """Fills that no contract note can be written for."""


@dataclass(frozen=True, slots=True)
class NoteFill:
    """One execution.

    Attributes:
        time: An aware datetime, or int64 ns UTC.
        symbol: Trading symbol.
        side: "buy" or "sell".
        quantity: Shares, positive.
        price: Per share: an int is paise, a Decimal is rupees.
        product: "CNC" or "MIS". The note of a whole day does not look at it.
        order_id: Executions of one order share it; brokerage is per order.
    """

    time: datetime | int
    symbol: str
    side: str
    quantity: int
    price: int | Decimal
    product: str
    order_id: str

    def __post_init__(self) -> None:
        faults = []
        if isinstance(self.time, datetime) and self.time.utcoffset() is None:
            faults.append(f"time: expected a time with a zone, found {self.time}")
        if not self.symbol:
            faults.append("symbol: expected a trading symbol, found nothing")
        if self.side not in ("buy", "sell"):
            faults.append(f"side: expected buy or sell, found {self.side!r}")
        if self.quantity <= 0:
            faults.append(f"qty: expected a positive whole number of shares, found {self.quantity}")
        if not _is_price(self.price):
            faults.append(f"price: expected a positive price in whole paise, found {self.price}")
        elif not faults and self.value_paise > MAX_ORDER_VALUE_PAISE:
            faults.append(
                f"qty x price: expected a value of at most {MAX_ORDER_VALUE_PAISE} paise, found {self.value_paise}"
            )
        if self.product not in ("CNC", "MIS"):
            faults.append(f"product: expected CNC or MIS, found {self.product!r}")
        if not self.order_id:
            faults.append("order_id: expected the order's id, found nothing")
        if faults:
            raise ContractNoteError("; ".join(faults))

    @property
    def time_ns(self) -> int:
        """The instant, int64 ns UTC."""
        if isinstance(self.time, datetime):
            return (self.time - _EPOCH) // timedelta(microseconds=1) * 1_000
        return int(self.time)

    @property
    def price_paise(self) -> int:
        """Price per share in paise."""
        return int(Fraction(self.price) * _RUPEE) if isinstance(self.price, Decimal) else int(self.price)

    @property
    def value_paise(self) -> int:
        """What changed hands, in paise."""
        return int(self.quantity) * self.price_paise


@dataclass(frozen=True, slots=True)
class ScripNote:
    """The charges of one scrip on one trade date; every amount in paise."""

    symbol: str
    date: date
    brokerage_paise: int
    stt_paise: int
    exchange_txn_paise: int
    ipft_paise: int
    sebi_paise: int
    stamp_duty_paise: int
    gst_paise: int
    dp_charges_paise: int

    @property
    def lines_paise(self) -> tuple[int, ...]:
        """The seven lines of the note, in the order of `costs.LINES`."""
        taxes = (self.stt_paise, self.exchange_txn_paise, self.ipft_paise, self.sebi_paise)
        return (self.brokerage_paise, *taxes, self.stamp_duty_paise, self.gst_paise)

    @property
    def contract_note_total_paise(self) -> int:
        """What stands on the note: without the DP charge."""
        return sum(self.lines_paise)

    @property
    def total_paise(self) -> int:
        """What the day costs: with the DP charge."""
        return self.contract_note_total_paise + self.dp_charges_paise


@dataclass(frozen=True, slots=True)
class _Bases:
    """What the rates of one scrip-day apply to, in paise (exact)."""

    intraday_orders: Sequence[int]
    stt_intraday: Fraction
    stt_delivery: Fraction
    turnover: int
    stamp_intraday: int
    stamp_delivery: int
    delivery_sale: bool


def contract_note(fills: Iterable[NoteFill], rules: ChargeRules = _DATED_RATES) -> list[ScripNote]:
    """Write the note of every scrip-day among the fills, by convention FS-1.

    Args:
        fills: Any order; equal times keep the order given.
        rules: Which schedule prices the fills.

    Returns:
        One note per trade date and symbol, in that order.

    Raises:
        ContractNoteError: One order id stands on both sides of a scrip-day.
        costs.CostError: No schedule is known for a trade date.
    """
    scrip_days: dict[tuple[date, str], list[NoteFill]] = {}
    for fill in sorted(fills, key=lambda fill: fill.time_ns):
        scrip_days.setdefault((session_date(fill.time_ns), fill.symbol), []).append(fill)
    return [_price(symbol, day, _day_bases(scrip_days[day, symbol]), rules) for day, symbol in sorted(scrip_days)]


def order_note(fill: NoteFill, rules: ChargeRules = _DATED_RATES) -> ScripNote:
    """Write the note's figures of one order alone, where the product says what cannot yet be matched.

    A MIS order is priced as one leg of an intraday trade, a CNC order as delivery; STT is on its own value.

    Raises:
        costs.CostError: No schedule is known for the trade date.
    """
    value, sale, intraday = fill.value_paise, fill.side == "sell", fill.product == "MIS"
    bases = _Bases(
        intraday_orders=[value] if intraday else [],
        stt_intraday=Fraction(value if intraday and sale else 0),
        stt_delivery=Fraction(0 if intraday else value),
        turnover=value,
        stamp_intraday=0 if sale or not intraday else value,
        stamp_delivery=0 if sale or intraday else value,
        delivery_sale=sale and not intraday,
    )
    return _price(fill.symbol, session_date(fill.time_ns), bases, rules)


def _day_bases(fills: Sequence[NoteFill]) -> _Bases:
    """Match one scrip-day's fills (ascending in time)."""
    buys = [fill for fill in fills if fill.side == "buy"]
    sells = [fill for fill in fills if fill.side == "sell"]
    both = {fill.order_id for fill in buys} & {fill.order_id for fill in sells}
    if both:
        scrip_day = f"{fills[0].symbol} on {session_date(fills[0].time_ns)}"
        raise ContractNoteError(
            f"{scrip_day}: expected one side per order_id, found both under {len(both)} ids: {sorted(both)[:3]}"
        )
    bought, sold = (sum(fill.quantity for fill in side) for side in (buys, sells))
    matched = min(bought, sold)
    intraday_buys, intraday_sells = _earliest_by_order(buys, matched), _earliest_by_order(sells, matched)
    buy_value = sum(fill.value_paise for fill in buys)
    turnover = sum(fill.value_paise for fill in fills)
    average = Fraction(turnover, bought + sold)
    intraday_buy_value = sum(intraday_buys.values())
    return _Bases(
        intraday_orders=[*intraday_buys.values(), *intraday_sells.values()],
        stt_intraday=matched * average,
        stt_delivery=abs(bought - sold) * average,  # with one side only this is the value itself
        turnover=turnover,
        stamp_intraday=intraday_buy_value,
        stamp_delivery=buy_value - intraday_buy_value,
        delivery_sale=sold > bought,
    )


def _earliest_by_order(fills: Sequence[NoteFill], quantity: int) -> dict[str, int]:
    """Value in paise, per order, of the first `quantity` shares of one side."""
    values: dict[str, int] = {}
    for fill in fills:
        taken = min(quantity, fill.quantity)
        values[fill.order_id] = values.get(fill.order_id, 0) + taken * fill.price_paise
        quantity -= taken
    return values


def _price(symbol: str, day: date, bases: _Bases, rules: ChargeRules) -> ScripNote:
    schedule = rules.schedules()[rules.schedule_index(day)]

    def part(base_paise: int | Fraction, rate: str, unit_paise: int = 1) -> int:
        return _half_up(Fraction(base_paise) * int(schedule[rate]) / (_NANO * unit_paise)) * unit_paise

    cap_paise = int(schedule["brokerage_cap_paise"])
    orders = bases.intraday_orders
    brokerage = sum(min(cap_paise, part(value, "brokerage_rate_intraday_nano")) for value in orders)
    stt_intraday = part(bases.stt_intraday, "stt_intraday_sell_nano", _RUPEE)
    stt_delivery = part(bases.stt_delivery, "stt_delivery_nano", _RUPEE)
    exchange_txn, sebi = part(bases.turnover, "exchange_txn_nano"), part(bases.turnover, "sebi_nano")
    stamp_nano_paise = bases.stamp_intraday * int(schedule["stamp_intraday_buy_nano"])
    stamp_nano_paise += bases.stamp_delivery * int(schedule["stamp_delivery_buy_nano"])
    return ScripNote(
        symbol=symbol,
        date=day,
        brokerage_paise=brokerage,
        stt_paise=stt_intraday + stt_delivery,
        exchange_txn_paise=exchange_txn,
        ipft_paise=part(bases.turnover, "ipft_nano"),
        sebi_paise=sebi,
        stamp_duty_paise=_half_up(Fraction(stamp_nano_paise, _NANO)),
        gst_paise=part(brokerage + exchange_txn + sebi, "gst_nano"),
        dp_charges_paise=int(schedule["dp_paise"]) if bases.delivery_sale else 0,
    )


def _is_price(price: int | Decimal) -> bool:
    if not isinstance(price, Decimal):
        return price > 0
    # The exponent is looked at first: a conversion of 1E+999999999 would never end.
    plausible = price.is_finite() and price > 0 and abs(price.adjusted()) <= 12
    return plausible and (Fraction(price) * _RUPEE).denominator == 1


def _half_up(amount: Fraction) -> int:
    return (2 * amount.numerator + amount.denominator) // (2 * amount.denominator)
