"""Law: an order's charges are exact, half-up to the paisa, and rise with its value; and the command printing them."""

import datetime as dt
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from pydantic import ValidationError
from typer.testing import CliRunner

from finsense.cli.costs import costs
from finsense.market.costs import (
    LINES,
    MAX_ORDER_VALUE_PAISE,
    MAX_SCALE,
    ChargeRules,
    CostError,
    charge_lines,
    charges_bound,
    check_order_value,
    order_charges,
    schedule_index,
    schedules,
)

NOW = schedules()[schedule_index(dt.date(2026, 11, 20))]
# The first call compiles; a deadline would time the compiler.
LAW = settings(deadline=None, max_examples=200)

rows = st.integers(0, len(schedules()) - 1)
quantities = st.integers(1, 200_000)
prices = st.integers(1, 5_000_000)
sides = st.sampled_from((1, -1))


def half_up(amount: Fraction) -> int:
    return int((amount + Fraction(1, 2)).__floor__())


def reference(schedule: np.void, intraday: bool, quantity: int, price_paise: int) -> tuple[int, ...]:
    """The same order priced from the words of the table, in exact fractions."""
    rate = {name: Fraction(int(schedule[name]), 10**9) for name in schedules().dtype.names or ()}
    value = abs(quantity) * price_paise
    brokerage = stt = stamp = Fraction(0)
    if intraday:
        brokerage = min(value * rate["brokerage_rate_intraday_nano"], Fraction(int(schedule["brokerage_cap_paise"])))
    if not intraday:
        stt = value * rate["stt_delivery_nano"]
    elif quantity < 0:
        stt = value * rate["stt_intraday_sell_nano"]
    if quantity > 0:
        stamp = value * rate["stamp_intraday_buy_nano" if intraday else "stamp_delivery_buy_nano"]
    turnover = [half_up(value * rate[name]) for name in ("exchange_txn_nano", "ipft_nano", "sebi_nano")]
    gst = half_up((half_up(brokerage) + turnover[0] + turnover[2]) * rate["gst_nano"])
    return (half_up(brokerage), half_up(stt), *turnover, half_up(stamp), gst)


@LAW
@given(rows, st.booleans(), sides, quantities, prices)
def test_the_compiled_form_equals_exact_fractions(
    row: int, intraday: bool, side: int, quantity: int, price: int
) -> None:
    schedule = schedules()[row]
    lines = charge_lines(schedule, intraday, side * quantity, price)
    assert lines == reference(schedule, intraday, side * quantity, price)
    assert min(lines) >= 0
    assert order_charges(schedule, intraday, side * quantity, price) == sum(lines)


@pytest.mark.parametrize("intraday", [True, False])
@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("scale", [1.0, float(MAX_SCALE)])
def test_the_largest_order_does_not_overflow(intraday: bool, side: int, scale: float) -> None:
    schedule = ChargeRules(scale=scale).schedules()[-1]
    check_order_value(MAX_ORDER_VALUE_PAISE // 1000, 1000)
    quantity = side * MAX_ORDER_VALUE_PAISE // 1000
    assert charge_lines(schedule, intraday, quantity, 1000) == reference(schedule, intraday, quantity, 1000)


@pytest.mark.parametrize(("quantity", "price"), [(10**10 + 1, 100), (1, MAX_ORDER_VALUE_PAISE + 1), (1, 0), (1, -5)])
def test_what_cannot_be_priced_exactly_is_refused_at_the_edge(quantity: int, price: int) -> None:
    with pytest.raises(CostError, match="expected"):
        check_order_value(quantity, price)


@pytest.mark.parametrize("intraday", [True, False])
def test_no_shares_no_charges(intraday: bool) -> None:
    assert charge_lines(NOW, intraday, 0, 290_130) == (0,) * 7


@LAW
@given(rows, st.floats(0, MAX_SCALE), st.booleans(), sides, st.one_of(st.just(1), quantities), prices)
def test_no_charges_exceed_their_bound(
    row: int, scale: float, intraday: bool, side: int, quantity: int, price: int
) -> None:
    schedule = ChargeRules(scale=scale).schedules()[row]
    charges = order_charges(schedule, intraday, side * quantity, price) + schedule["dp_paise"]
    assert charges <= charges_bound(schedule, side * quantity, price)


@pytest.mark.parametrize("row", range(len(schedules())))
def test_the_rates_sum_to_less_than_the_bound_allows(row: int) -> None:
    """Where an order is so large that no rounding counts: the bound is a 1/32 of the value."""
    schedule = ChargeRules(scale=MAX_SCALE).schedules()[row]
    for intraday in (True, False):
        for quantity in (MAX_ORDER_VALUE_PAISE // 100, -MAX_ORDER_VALUE_PAISE // 100):
            assert order_charges(schedule, intraday, quantity, 100) < MAX_ORDER_VALUE_PAISE // 32


@LAW
@given(st.booleans(), sides, quantities, prices, st.integers(0, 100_000))
def test_charges_rise_with_value(intraday: bool, side: int, quantity: int, price: int, rise: int) -> None:
    low = charge_lines(NOW, intraday, side * quantity, price)
    high = charge_lines(NOW, intraday, side * quantity, price + rise)
    assert all(a <= b for a, b in zip(low, high, strict=True))
    more = charge_lines(NOW, intraday, side * (quantity + rise), price)
    assert all(a <= b for a, b in zip(low, more, strict=True))


@LAW
@given(st.booleans(), sides, quantities, prices)
def test_doubling_the_price_doubles_what_is_not_capped(intraday: bool, side: int, quantity: int, price: int) -> None:
    once = dict(zip(LINES, charge_lines(NOW, intraday, side * quantity, price), strict=True))
    twice = dict(zip(LINES, charge_lines(NOW, intraday, side * quantity, 2 * price), strict=True))
    for line in ("stt", "exchange_txn", "ipft", "sebi", "stamp_duty"):
        assert abs(twice[line] - 2 * once[line]) <= 1  # one paisa: half of one here, twice a half there
    assert once["brokerage"] <= twice["brokerage"] <= 2_000
    assert twice["gst"] <= 2 * once["gst"] + 2


@LAW
@given(st.booleans(), sides, quantities, prices, st.sampled_from((0.0, 0.5, 1.5, 2.0, 3.0)))
def test_scale_multiplies_every_charge(intraday: bool, side: int, quantity: int, price: int, scale: float) -> None:
    plain = charge_lines(NOW, intraday, side * quantity, price)
    scaled = charge_lines(ChargeRules(scale=scale).schedules()[-1], intraday, side * quantity, price)
    # A rate is rounded to 1e-9 of value too: half a unit of it on this value.
    slack = (scale + 1) / 2 + quantity * price * 0.5e-9
    for line in (0, 1, 2, 3, 4, 5):
        assert abs(scaled[line] - scale * plain[line]) <= slack + 1e-6
    if scale >= 1.0:
        assert sum(scaled) >= sum(plain)
    if scale == 0.0:
        assert scaled == (0,) * 7


def test_scale_reaches_the_dp_charge_and_the_cap_but_not_the_gst_rate() -> None:
    doubled = ChargeRules(scale=2.0).schedules()
    assert (doubled["dp_paise"] == 3_068).all()
    assert (doubled["brokerage_cap_paise"] == 4_000).all()
    assert (doubled["gst_nano"] == 180_000_000).all()


@pytest.mark.parametrize(
    ("day", "txn", "ipft"),
    [
        ("2021-01-01", 34_500, 1),
        ("2023-03-31", 34_500, 1),
        ("2023-04-01", 32_500, 1_000),
        ("2024-03-31", 32_500, 1_000),
        ("2024-04-01", 32_200, 1_000),
        ("2024-09-30", 32_200, 1_000),
        ("2024-10-01", 29_700, 1_000),
        ("2026-02-28", 29_700, 1_000),
        ("2026-03-01", 30_699, 1),
        ("2030-01-01", 30_699, 1),
    ],
)
def test_the_schedule_of_a_day(day: str, txn: int, ipft: int) -> None:
    schedule = schedules()[schedule_index(dt.date.fromisoformat(day))]
    assert (schedule["exchange_txn_nano"], schedule["ipft_nano"]) == (txn, ipft)


def test_a_date_before_the_table_is_refused_and_as_of_is_the_way_on() -> None:
    with pytest.raises(CostError, match=r"starts on 2021-01-01.*costs\.as_of"):
        schedule_index(dt.date(2020, 12, 31))
    today = ChargeRules(as_of=dt.date(2026, 11, 20))
    assert today.schedule_index(dt.date(2003, 1, 1)) == len(schedules()) - 1
    with pytest.raises(CostError):
        ChargeRules(as_of=dt.date(2003, 1, 1)).schedule_index(dt.date(2026, 11, 20))


def test_the_published_table_cannot_be_changed_by_a_reader() -> None:
    with pytest.raises(ValueError, match="read-only"):
        schedules()["dp_paise"][0] = 0
    with pytest.raises(ValueError, match="read-only"):
        ChargeRules(scale=2.0).schedules()["dp_paise"][0] = 0


@pytest.mark.parametrize(
    "wrong", [{"scale": -0.1}, {"scale": float("nan")}, {"scale": float("inf")}, {"scale": 10.1}, {"asof": None}]
)
def test_impossible_rules_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ChargeRules.model_validate(wrong)


def test_it_runs_inside_another_compiled_loop() -> None:
    @njit
    def total(table, row, quantity, price_paise):  # type: ignore[no-untyped-def]
        paise = 0
        for i in range(row.size):
            paise += order_charges(table[row[i]], i % 2 == 0, quantity[i], price_paise[i])
        return paise

    row, quantity, price = np.array([0, 4, 3]), np.array([100, -7, 0]), np.array([50_000, 290_130, 1])
    expected = sum(
        sum(reference(schedules()[row[i]], i % 2 == 0, int(quantity[i]), int(price[i]))) for i in range(row.size)
    )
    assert total(schedules(), row, quantity, price) == expected


app = typer.Typer()
app.command()(costs)
ORDER = ["--side", "buy", "--qty", "10", "--price", "2901.30", "--product", "CNC", "--date", "2026-11-20"]
HEADER = "time,symbol,side,qty,price,product,order_id\n"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result.exit_code, result.stdout, result.stderr


def money(
    *amounts: str, names: tuple[str, ...] = (*LINES, "contract_note_total", "dp_charges", "total")
) -> dict[str, str]:
    return dict(zip(names, amounts, strict=True))


def test_one_order_prints_the_note_and_the_account_s_form() -> None:
    code, out, _ = run(*ORDER, "--json")
    assert code == 0
    order = {"side": "buy", "qty": 10, "price": "2901.30", "product": "CNC", "date": "2026-11-20", "value": "29013.00"}
    note = money("0.00", "29.00", "0.89", "0.00", "0.03", "4.35", "0.17", "34.44", "0.00", "34.44")
    account = money("0.00", "29.01", "0.89", "0.00", "0.03", "4.35", "0.17", "34.45", names=(*LINES, "total"))
    assert json.loads(out) == {**order, **note, "per_order": account}
    code, out, _ = run(*ORDER)
    assert code == 0
    assert "34.44" in out
    assert "34.45" in out


def test_an_intraday_order_alone_is_one_leg_of_an_intraday_trade() -> None:
    out = json.loads(
        run("--side", "SELL", "--qty", "100", "--price", "505", "--product", "mis", *ORDER[-2:], "--json")[1]
    )
    assert (out["brokerage"], out["stt"], out["stamp_duty"], out["dp_charges"]) == ("15.15", "13.00", "0.00", "0.00")


def test_a_file_of_fills_prints_the_documented_shape(tmp_path: Path) -> None:
    csv = tmp_path / "fills.csv"
    csv.write_text(
        HEADER + "2026-11-20T09:15:00+05:30,TCS,SELL,10,2955.80,cnc,s1\n2026-11-20 09:20:00,ITC,buy,100,500,MIS,b1\n"
        "2026-11-20 10:20:00,ITC,sell,100,505.00,MIS,s2\n"
    )
    code, out, _ = run("--contract-note", str(csv), "--json")
    assert code == 0
    itc = money("30.15", "13.00", "3.09", "0.00", "0.10", "1.50", "6.00", "53.84", "0.00", "53.84")
    tcs = money("0.00", "30.00", "0.91", "0.00", "0.03", "0.00", "0.17", "31.11", "15.34", "46.45")
    assert json.loads(out) == {
        "scrips": [
            {"symbol": "ITC", "date": "2026-11-20", **itc},
            {"symbol": "TCS", "date": "2026-11-20", **tcs},
        ]
    }
    code, out, _ = run("--contract-note", str(csv))
    assert code == 0
    assert "100.29" in out  # 53.84 + 46.45


GOOD = "2026-11-20 09:15:00,ITC,buy,10,500,MIS,1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,symbol,side,qty,price,product\n2026-11-20,ITC,buy,1,1,MIS\n", "missing order_id"),
        (HEADER, "only the header"),
        ("", "missing time"),
        (HEADER + GOOD + "2026-11-20 09:16:00,ITC,hold,10,500,MIS,2\n", "line 3: side: expected buy or sell"),
        (HEADER + GOOD.replace("10,500", "ten,500"), "qty: expected a positive whole number of shares, found 'ten'"),
        (HEADER + GOOD.replace("10,500", "-10,500"), "found -10"),
        (HEADER + GOOD.replace("10,500", "1.5,500"), "found '1.5'"),
        (HEADER + GOOD.replace("10,500", "1e999999999,500"), "qty: expected"),
        (HEADER + GOOD.replace("500", "nan"), "price: expected a positive price"),
        (HEADER + GOOD.replace("500", "500.005"), "whole paise"),
        (HEADER + GOOD.replace("500", "1e-999999999"), "price: expected"),
        (HEADER + GOOD.replace("500", "1e11"), "at most"),
        (HEADER + GOOD.replace("500", "2,901.30"), "more"),
        (HEADER + GOOD.replace("MIS", "NRML"), "expected CNC or MIS, found 'NRML'"),
        (HEADER + GOOD.replace("2026-11-20", "20/11/2026"), "expected an ISO 8601 time"),
        (HEADER + "2026-11-20,ITC\n", "line 2: qty: expected"),
        (HEADER + 5 * GOOD.replace("buy", "B"), "5 of 5 rows"),
        (HEADER + GOOD + GOOD.replace("buy", "sell"), "one side per order_id"),
        (HEADER + GOOD.replace("2026", "2019"), "no charges are known for 2019-11-20"),
    ],
)
def test_a_bad_file_is_refused_with_the_rows_at_fault(tmp_path: Path, text: str, message: str) -> None:
    csv = tmp_path / "fills.csv"
    csv.write_text(text)
    code, out, err = run("--contract-note", str(csv), "--json")
    assert code == 4
    assert out == ""
    assert err.startswith("error[costs]: ")
    assert message in err
    assert err.count("  line ") <= 3


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    binary = tmp_path / "fills.csv"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path / "absent.csv", tmp_path):
        code, _, err = run("--contract-note", str(path))
        assert (code, err[:14]) == (4, "error[costs]: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--side", "buy"],
        [*ORDER, "--qty", "0"],
        [*ORDER, "--price", "abc"],
        [*ORDER, "--price", "-1"],
        [*ORDER, "--price", "1.005"],
        [*ORDER, "--price", "inf"],
        [*ORDER, "--price", "1e12"],
        [*ORDER, "--side", "hold"],
        [*ORDER, "--product", "NRML"],
        [*ORDER, "--date", "20-11-2026"],
        [*ORDER, "--contract-note", "fills.csv"],
    ],
)
def test_bad_flags_are_a_usage_error(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_a_date_outside_the_schedule_is_a_data_error() -> None:
    code, out, err = run(*ORDER, "--date", "2020-12-31", "--json")
    assert (code, out) == (4, "")
    assert err.startswith("error[costs]: no charges are known for 2020-12-31")


def test_the_help_holds_a_command_to_copy() -> None:
    assert "finsense costs --side buy --qty 10 --price 2901.30 --date 2026-11-20" in run("--help")[1]
