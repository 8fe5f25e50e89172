"""Law: the contract note is FS-1 to the paisa, and the account's per-order charges stay within a proven bound of it.

The bound, for a scrip-day of n orders (one fill each), B bought and S sold in paise, nb buys and ns sells: a line that
is rounded per order is within n/2 of its exact sum, a line of the note within 1/2 (STT within 50 per leg); so they
differ by

* brokerage 0; exchange charge, IPFT, SEBI fee (n + 1)/2 each; stamp duty (nb + 1)/2;
* GST 18 % of the two differences in its base, + (n + 1)/2;
* STT, intraday: ns/2 + 50 + rate x |S - m x average| = ns/2 + 50 + 0.025 % x |B - S|/2: an eighth of a thousandth of
  the day's gross profit; STT, delivery: n/2 + 50.
"""

import datetime as dt
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsense.market.calendar import IST
from finsense.market.contract_note import ContractNoteError, NoteFill, ScripNote, contract_note, order_note
from finsense.market.costs import LINES, ChargeRules, CostError, charge_lines, order_charges, schedule_index, schedules

NOV = dt.date(2026, 11, 20)
LAW = settings(deadline=None, max_examples=150)
trade_dates = st.sampled_from([dt.date(2021, 1, 1), dt.date(2023, 4, 3), dt.date(2024, 5, 2), dt.date(2025, 6, 2), NOV])


def fill(
    side: str,
    quantity: int,
    rupees: str | int,
    minute: int = 0,
    *,
    day: dt.date = NOV,
    order: str = "",
    symbol: str = "S",
) -> NoteFill:
    time = dt.datetime.combine(day, dt.time(9, 15), IST) + dt.timedelta(minutes=minute)
    return NoteFill(time, symbol, side, quantity, Decimal(rupees), "CNC", order or f"{side}{minute}{rupees}")


def lines(note: ScripNote) -> dict[str, str]:
    return {name: f"{paise / 100:.2f}" for name, paise in zip(LINES, note.lines_paise, strict=True)}


def one(*fills: NoteFill) -> ScripNote:
    (note,) = contract_note(fills)
    return note


def test_example_a_small_intraday_round_trip() -> None:
    note = one(fill("buy", 100, 500), fill("sell", 100, 505, 1))
    expected = ("30.15", "13.00", "3.09", "0.00", "0.10", "1.50", "6.00")
    assert lines(note) == dict(zip(LINES, expected, strict=True))
    assert (note.contract_note_total_paise, note.dp_charges_paise) == (5_384, 0)


def test_example_b_capped_brokerage_and_average_price_stt() -> None:
    note = one(fill("buy", 1000, "1500.10"), fill("sell", 1000, "1512.40", 1))
    expected = ("40.00", "377.00", "92.48", "0.00", "3.01", "45.00", "24.39")
    assert {**lines(note), "ipft": "0.00"} == dict(zip(LINES, expected, strict=True))
    assert note.contract_note_total_paise == 58_188


def test_example_c_wide_move() -> None:
    note = one(fill("buy", 1000, 100), fill("sell", 1000, 120, 1))
    assert (note.stt_paise, note.contract_note_total_paise) == (2_800, 8_642)


def test_example_d_delivery_over_two_days() -> None:
    later = dt.date(2026, 11, 23)
    bought, sold = contract_note([fill("sell", 10, "2955.80", day=later), fill("buy", 10, "2901.30")])
    assert (bought.date, sold.date) == (NOV, later)
    assert lines(bought) == dict(zip(LINES, ("0.00", "29.00", "0.89", "0.00", "0.03", "4.35", "0.17"), strict=True))
    assert (bought.contract_note_total_paise, bought.total_paise) == (3_444, 3_444)
    assert lines(sold) == dict(zip(LINES, ("0.00", "30.00", "0.91", "0.00", "0.03", "0.00", "0.17"), strict=True))
    assert (sold.contract_note_total_paise, sold.dp_charges_paise, sold.total_paise) == (3_111, 1_534, 4_645)


def test_example_e_published_mixed_day() -> None:
    note = one(fill("buy", 500, 100), fill("sell", 500, 105, 1), fill("buy", 200, 110, 2))
    assert note.stt_paise == 1_300 + 2_100
    # Intraday buy value 50,000 at 0.003 %, delivery 22,000 at 0.015 %.
    assert note.stamp_duty_paise == 150 + 330
    assert note.brokerage_paise == 1_500 + 1_575
    assert note.dp_charges_paise == 0


@pytest.mark.parametrize(
    ("day", "txn", "ipft", "gst", "total"),
    [(dt.date(2026, 2, 27), 1_485, 50, 276, 59_361), (dt.date(2026, 3, 2), 1_535, 0, 285, 59_370)],
)
def test_example_f_before_and_after_march_2026(day: dt.date, txn: int, ipft: int, gst: int, total: int) -> None:
    note = one(fill("buy", 100, 5000, day=day))
    assert (note.exchange_txn_paise, note.ipft_paise, note.gst_paise) == (txn, ipft, gst)
    assert note.contract_note_total_paise == total


def test_the_earliest_fills_are_the_matched_ones() -> None:
    # 100 sold against the first 100 of 150 bought; the second order is intraday for 40 of its 90 shares.
    buys = [fill("buy", 60, 100, 1), fill("buy", 90, 200, 2)]
    sell = fill("sell", 100, 150, 3)
    note = one(sell, *reversed(buys))
    intraday_buy = 60 * 10_000 + 40 * 20_000
    assert note.brokerage_paise == 180 + 240 + 450
    assert note.stamp_duty_paise == (intraday_buy * 30 + 50 * 20_000 * 150 + 500_000) // 1_000_000
    assert note.dp_charges_paise == 0


def test_brokerage_is_capped_per_order_not_per_fill() -> None:
    split = [fill("buy", 400, 1000, minute, order="b") for minute in range(5)]
    exits = [fill("sell", 1000, 1000, 6, order="s1"), fill("sell", 1000, 1000, 7, order="s2")]
    assert one(*split, *exits).brokerage_paise == 3 * 2_000


def test_the_dp_charge_is_once_per_scrip_day_of_delivery_sale() -> None:
    sales = [fill("sell", 10, 500, minute, symbol=symbol) for minute in range(3) for symbol in ("ITC", "TCS")]
    assert [(note.symbol, note.dp_charges_paise) for note in contract_note(sales)] == [("ITC", 1_534), ("TCS", 1_534)]


def test_the_trade_date_is_the_date_in_india() -> None:
    early = dt.datetime(2026, 11, 19, 18, 45, tzinfo=dt.UTC)
    as_datetime = NoteFill(early, "S", "buy", 1, 50_000, "CNC", "1")
    as_nanoseconds = NoteFill(as_datetime.time_ns, "S", "buy", 1, Decimal("500.00"), "CNC", "1")
    assert contract_note([as_datetime]) == contract_note([as_nanoseconds])
    assert one(as_datetime).date == NOV


def test_no_fills_no_notes() -> None:
    assert contract_note([]) == []


def test_rules_price_old_fills_with_todays_rates() -> None:
    old = fill("buy", 100, 5000, day=dt.date(2015, 6, 1))
    with pytest.raises(CostError, match="as_of"):
        contract_note([old])
    (note,) = contract_note([old], ChargeRules(as_of=NOV))
    assert note.contract_note_total_paise == 59_370
    (doubled,) = contract_note([old], ChargeRules(as_of=NOV, scale=2.0))
    assert abs(doubled.contract_note_total_paise - 2 * note.contract_note_total_paise) <= 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"time": dt.datetime(2026, 11, 20, 9, 15)},
        {"symbol": ""},
        {"side": "BUY"},
        {"quantity": 0},
        {"quantity": -5},
        {"price": 0},
        {"price": Decimal("NaN")},
        {"price": Decimal("1.005")},
        {"price": Decimal("1e20")},
        {"product": "NRML"},
        {"order_id": ""},
    ],
)
def test_an_impossible_fill_is_refused(wrong: dict[str, object]) -> None:
    good = {"time": 0, "symbol": "S", "side": "buy", "quantity": 1, "price": 100, "product": "CNC", "order_id": "1"}
    NoteFill(**good)  # type: ignore[arg-type]
    with pytest.raises(ContractNoteError, match="expected"):
        NoteFill(**{**good, **wrong})  # type: ignore[arg-type]


def test_an_order_has_one_side() -> None:
    with pytest.raises(ContractNoteError, match="one side per order_id"):
        contract_note([fill("buy", 1, 100, order="x"), fill("sell", 1, 100, 1, order="x")])


# --- against a second implementation that shares no idea with the first: share by share, in Decimal -----------------


@st.composite
def small_days(draw: st.DrawFn) -> list[NoteFill]:
    count = draw(st.integers(1, 6))
    minutes = draw(st.permutations(range(count)))
    day = draw(trade_dates)
    return [
        fill(
            draw(st.sampled_from(("buy", "sell"))),
            draw(st.integers(1, 30)),
            f"{draw(st.integers(1, 9_000_000)) / 100:.2f}",
            minute,
            day=day,
        )
        for minute in minutes
    ]


def share_by_share(fills: Sequence[NoteFill]) -> tuple[int, ...]:
    """FS-1 once more: every share is one row of (order, rupees)."""
    schedule = schedules()[schedule_index(fills[0].time.date() if isinstance(fills[0].time, dt.datetime) else NOV)]
    rate = {name: Decimal(int(schedule[name])) / 10**9 for name in schedules().dtype.names or ()}
    paisa, rupee = Decimal("0.01"), Decimal(1)
    shares: dict[str, list[tuple[str, Decimal]]] = {"buy": [], "sell": []}
    for one_fill in sorted(fills, key=lambda each: each.time_ns):
        shares[one_fill.side] += [(one_fill.order_id, Decimal(one_fill.price_paise) / 100)] * one_fill.quantity
    matched = min(len(shares["buy"]), len(shares["sell"]))
    everything = [price for side in shares.values() for _, price in side]
    turnover = sum(everything, Decimal(0))

    def to(unit: Decimal, amount: Decimal) -> Decimal:
        return amount.quantize(unit, ROUND_HALF_UP)

    brokerage = Decimal(0)
    intraday = shares["buy"][:matched] + shares["sell"][:matched]
    for order in {order for order, _ in intraday}:
        value = sum((price for each, price in intraday if each == order), Decimal(0))
        brokerage += to(paisa, min(Decimal(20), value * Decimal("0.0003")))
    rest = len(everything) - 2 * matched
    stt = to(rupee, matched * turnover * Decimal("0.00025") / len(everything))
    stt += to(rupee, rest * turnover * Decimal("0.001") / len(everything))
    txn, ipft, sebi = (to(paisa, turnover * rate[name]) for name in ("exchange_txn_nano", "ipft_nano", "sebi_nano"))
    stamp = sum((price for _, price in shares["buy"][:matched]), Decimal(0)) * Decimal("0.00003")
    stamp += sum((price for _, price in shares["buy"][matched:]), Decimal(0)) * Decimal("0.00015")
    gst = to(paisa, (brokerage + txn + sebi) * Decimal("0.18"))
    dp = Decimal("15.34") if len(shares["sell"]) > len(shares["buy"]) else Decimal(0)
    return tuple(int(100 * amount) for amount in (brokerage, stt, txn, ipft, sebi, to(paisa, stamp), gst, dp))


@LAW
@given(small_days())
def test_the_note_equals_a_share_by_share_count_in_decimals(fills: list[NoteFill]) -> None:
    note = one(*fills)
    with localcontext(prec=60):
        assert (*note.lines_paise, note.dp_charges_paise) == share_by_share(fills)


# --- the account's per-order form against the note ------------------------------------------------------------------

Order = tuple[str, int, int]


def notes_and_account(orders: Sequence[Order], day: dt.date, intraday: bool) -> tuple[int, int]:
    fills = [
        fill(side, quantity, f"{price_paise / 100:.2f}", minute, day=day)
        for minute, (side, quantity, price_paise) in enumerate(orders)
    ]
    schedule = schedules()[schedule_index(day)]
    account = sum(
        order_charges(schedule, intraday, quantity if side == "buy" else -quantity, price_paise)
        for side, quantity, price_paise in orders
    )
    return one(*fills).contract_note_total_paise, account


def value(orders: Sequence[Order], side: str) -> int:
    return sum(quantity * price for each, quantity, price in orders if each == side)


def rounding_paise(orders: Sequence[Order]) -> Fraction:
    """The part of the bound that rounding alone makes, without STT (module docstring)."""
    count, buys = len(orders), sum(side == "buy" for side, _, _ in orders)
    return Fraction(3 * (count + 1) + buys + 1, 2) + Fraction(18, 100) * (count + 1) + Fraction(count + 1, 2)


def split(draw: st.DrawFn, total: int, parts: int) -> list[int]:
    cuts = sorted(draw(st.sets(st.integers(1, total - 1), max_size=parts - 1))) if total > 1 else []
    return [after - before for before, after in zip([0, *cuts], [*cuts, total], strict=True)]


@st.composite
def flat_days(draw: st.DrawFn, low_paise: int = 1, high_paise: int = 9_000_000, shares: int = 20_000) -> list[Order]:
    """As much bought as sold, in up to ten orders a side, in any order of time."""
    total = draw(st.integers(1, shares))
    legs = [(side, quantity) for side in ("buy", "sell") for quantity in split(draw, total, 10)]
    return [
        (side, quantity, draw(st.integers(low_paise, high_paise))) for side, quantity in draw(st.permutations(legs))
    ]


@LAW
@given(flat_days(), trade_dates)
def test_an_intraday_day_is_within_rounding_and_an_eighth_of_a_thousandth_of_its_profit(
    orders: list[Order], day: dt.date
) -> None:
    note, account = notes_and_account(orders, day, intraday=True)
    sells = sum(side == "sell" for side, _, _ in orders)
    profit = abs(value(orders, "sell") - value(orders, "buy"))
    bound = rounding_paise(orders) + Fraction(sells, 2) + 50 + Fraction(25, 100_000) * profit / 2
    assert abs(account - note) <= bound


@st.composite
def typical_days(draw: st.DrawFn) -> list[Order]:
    """Prices within 2 % of each other, at most 20 orders of 1,000 rupees or more, up to 3.5 lakh rupees a side."""
    low = draw(st.integers(5_000, 500_000))
    least = -(-100_000 // low)
    orders = draw(st.integers(1, 10)), draw(st.integers(1, 10))
    total = draw(st.integers(least * max(orders), max(least * max(orders), 34_000_000 // low)))
    legs = []
    for side, count in zip(("buy", "sell"), orders, strict=True):
        spare = draw(st.integers(0, total - least * count))
        sizes = [least] * (count - 1)
        if sizes:
            sizes[0] += spare
        legs += [(side, quantity) for quantity in [*sizes, total - sum(sizes)]]
    high = low + low * 2 // 100
    return [(side, quantity, draw(st.integers(low, high))) for side, quantity in draw(st.permutations(legs))]


@LAW
@given(typical_days(), trade_dates)
def test_a_typical_intraday_day_differs_by_less_than_two_rupees(orders: list[Order], day: dt.date) -> None:
    assert len(orders) <= 20
    assert all(quantity * price >= 100_000 for _, quantity, price in orders)
    note, account = notes_and_account(orders, day, intraday=True)
    assert abs(account - note) < 200


@LAW
@given(
    st.sampled_from(("buy", "sell")),
    st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 9_000_000)), min_size=1, max_size=20),
    trade_dates,
)
def test_a_delivery_day_differs_by_rounding_alone(side: str, legs: list[tuple[int, int]], day: dt.date) -> None:
    orders = [(side, quantity, price) for quantity, price in legs]
    note, account = notes_and_account(orders, day, intraday=False)
    difference = abs(account - note)
    assert difference <= rounding_paise(orders) + Fraction(len(orders), 2) + 50
    assert difference < 200


@LAW
@given(flat_days(low_paise=10_000, high_paise=20_000), st.integers(0, 500), trade_dates)
def test_a_same_day_cnc_round_trip_costs_the_account_no_less_than_the_note(
    orders: list[Order], kept: int, day: dt.date
) -> None:
    # Delivery STT and stamp duty on everything exceed brokerage and intraday STT on the matched part as long as the
    # day's prices stay within a factor of 2.4 (0.0354 % of twice the highest against 0.175 % of the lowest).
    if kept:
        orders = [*orders, ("buy", kept, 15_000)]
    note, account = notes_and_account(orders, day, intraday=False)
    assert account >= note - (rounding_paise(orders) + Fraction(len(orders), 2) + 100)
    if not kept and value(orders, "buy") >= 1_000_000:
        assert account >= note


@LAW
@given(
    st.sampled_from(("buy", "sell")),
    st.sampled_from(("CNC", "MIS")),
    st.integers(1, 20_000),
    st.integers(1, 900_000),
    trade_dates,
)
def test_one_order_alone_differs_from_the_account_only_in_the_rupee_of_stt(
    side: str, product: str, quantity: int, price_paise: int, day: dt.date
) -> None:
    time = dt.datetime.combine(day, dt.time(12), IST)
    note = order_note(NoteFill(time, "S", side, quantity, price_paise, product, "1"))
    signed = quantity if side == "buy" else -quantity
    account = charge_lines(schedules()[schedule_index(day)], product == "MIS", signed, price_paise)
    for name, exact, paise in zip(LINES, note.lines_paise, account, strict=True):
        assert abs(exact - paise) <= (51 if name == "stt" else 0)
    assert (note.dp_charges_paise > 0) == (side == "sell" and product == "CNC")
