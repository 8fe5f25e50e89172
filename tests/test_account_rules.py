"""The rules of an account as a user writes them, the sizes of its orders, and what it can pay."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import CHARGED, orders_of, rules, small_spec
from numba import njit
from pydantic import ValidationError

from finsense.account.orders import affordable_quantity, order_quantity, shortfall_paise
from finsense.account.portfolio import ACCOUNT
from finsense.account.rules import PPM, RULES, UNLIMITED_SHARES, AccountRules
from finsense.account.session import Session
from finsense.market.costs import MAX_ORDER_VALUE_PAISE
from finsense.market.instruments import instrument
from finsense.market.timeline import MARKET


@pytest.mark.parametrize(
    ("given_rules", "message"),
    [
        ({"balance": 0}, "greater than 0"),
        ({"balance": -5}, "greater than 0"),
        ({"balance": "100.005"}, "balance must be whole paise, found 100.005"),
        ({"balance": 10**10}, "less than or equal to 1000000000"),
        ({"slippage_bps": -1}, "greater than or equal to 0"),
        ({"participation": 0}, "greater than 0"),
        ({"participation": 1.5}, "less than or equal to 1"),
        ({"max_position": 0}, "greater than or equal to 1"),
        ({"ruin_fraction": 1}, "less than 1"),
        ({"price_bufer": 0.1}, "Extra inputs are not permitted"),
        ({"product": "mis"}, "'intraday' or 'delivery'"),
        ({"product": "delivery", "allow_short": True}, "allow_short needs product: intraday"),
        ({"entry_cutoff_minutes": 5, "square_off_minutes": 15}, "would never be closed"),
        ({"actions": orders_of("shares", shares=0)}, "greater than or equal to 1"),
        ({"actions": orders_of("fraction", fraction=1.5)}, "less than or equal to 1"),
        ({"actions": orders_of("risk", risk=0.01)}, "stop"),
        ({"actions": orders_of("martingale")}, "does not match any of the expected tags"),
        ({"actions": {"scheme": "targets", "targets": [0.5, 1]}}, "must contain 0"),
        ({"actions": {"scheme": "targets", "targets": [0, 0.5, 0.5]}}, "must differ"),
        ({"actions": {"scheme": "targets", "targets": [0, 1.5]}}, "between -1 and 1"),
        ({"actions": {"scheme": "targets", "targets": [0]}}, "at least 2 items"),
        ({"actions": {"scheme": "targets", "targets": [0, -0.5]}}, "a negative target needs allow_short: true"),
    ],
)
def test_impossible_rules_are_refused(given_rules: dict[str, Any], message: str) -> None:
    whole = {"balance": 50_000, "product": "intraday", "actions": orders_of("all_in"), **given_rules}
    with pytest.raises(ValidationError) as caught:
        AccountRules.model_validate(whole)
    assert message in str(caught.value)


def test_the_record_is_the_rules_in_integers() -> None:
    record = rules(
        actions=orders_of("risk", risk=0.015, stop=0.0275),
        max_position=40,
        allow_short=True,
        slippage_bps=2.5,
        participation=0.05,
        price_buffer=0.0075,
        ruin_fraction=0.35,
    ).record("5m")
    assert record.dtype == RULES
    expected = {
        "balance_paise": 5_000_000,
        "intraday": 1,
        "actions": 3,
        "size_ppm": 15_000,
        "stop_ppm": 27_500,
        "hold": 1,
        "max_position": 40,
        "min_position": -40,
        "slippage_ppm": 250,
        "price_buffer_ppm": 7_500,
        "participation_ppm": 50_000,
        "entry_cutoff_s": 1800,
        "square_off_s": 900,
        "ruin_paise": 1_750_000,
    }
    assert {name: int(record[name][0]) for name in expected} == expected


def test_without_limits_the_cash_is_the_limit() -> None:
    record = rules("delivery", max_position=None, participation=None).record("1d")
    assert record["max_position"] == UNLIMITED_SHARES
    assert record["min_position"] == 0
    assert record["participation_ppm"] == -1


@pytest.mark.parametrize(
    ("interval", "square_off_s", "entry_s"), [("1m", 300, 600), ("15m", 900, 900), ("60m", 3600, 3600)]
)
def test_the_square_off_comes_while_a_bar_is_left_to_fill_it(interval: str, square_off_s: int, entry_s: int) -> None:
    record = rules(square_off_minutes=5, entry_cutoff_minutes=10).record(interval)
    assert (int(record["square_off_s"][0]), int(record["entry_cutoff_s"][0])) == (square_off_s, entry_s)


def test_an_intraday_product_on_daily_bars_is_refused() -> None:
    with pytest.raises(
        ValueError, match="product intraday needs bars within the day, found 1d: choose product delivery"
    ):
        rules().record("1d")
    with pytest.raises(ValueError, match="choose product delivery"):
        Session(instrument("SIM"), "1d", small_spec(), rules(), CHARGED)


def test_actions_have_names_and_one_of_them_holds() -> None:
    assert rules().action_names == ("buy", "hold", "sell")
    assert rules().hold_action == 1
    targets = rules(allow_short=True, actions={"scheme": "targets", "targets": [-1, 0, 0.25]})
    assert targets.action_names == ("target -1", "target 0", "target 0.25", "hold")
    assert targets.hold_action == targets.record("5m")["hold"] == 3


@njit
def _affordable(accounts: Any, rules: Any, schedules: Any, day: int, quantity: int, price_paise: int) -> int:
    return affordable_quantity(accounts[0], rules[0], schedules[0], day, quantity, price_paise)


@njit
def _shortfall(accounts: Any, rules: Any, schedules: Any, day: int, quantity: int, price_paise: int) -> int:
    return shortfall_paise(accounts[0], rules[0], schedules[0], day, quantity, price_paise)


def holding(cash_paise: int, position: int) -> np.ndarray[Any, Any]:
    account = np.zeros(1, ACCOUNT)
    account["cash_paise"], account["position"], account["dp_day"] = cash_paise, position, -1
    return account


@settings(max_examples=300, deadline=None)
@given(
    cash=st.integers(0, 10**9),
    position=st.integers(-5_000, 5_000),
    wanted=st.integers(-(10**7), 10**7),
    price=st.one_of(st.integers(1, 50), st.integers(51, 10**6)),
    scale=st.sampled_from([0.0, 1.0, 10.0]),
    intraday=st.booleans(),
)
def test_an_order_is_cut_to_the_last_share_that_can_be_paid(
    cash: int, position: int, wanted: int, price: int, scale: float, intraday: bool
) -> None:
    position = position if intraday else max(position, 0)
    wanted = max(wanted, -UNLIMITED_SHARES if intraday else -position)
    record = rules("intraday" if intraday else "delivery", allow_short=intraday).record("5m")
    account, rates = holding(cash, position), CHARGED.model_copy(update={"scale": scale}).schedules()
    found = int(_affordable(account, record, rates, 7, wanted, price))
    assert np.sign(found) in (0, np.sign(wanted))
    assert abs(found) <= abs(wanted)
    assert abs(found) * price <= MAX_ORDER_VALUE_PAISE
    if found:
        assert _shortfall(account, record, rates, 7, found, price) <= 0
    further = found + (1 if wanted > 0 else -1)
    if found != wanted and abs(further) * price <= MAX_ORDER_VALUE_PAISE:
        assert _shortfall(account, record, rates, 7, further, price) > 0


def sized(size: dict[str, Any], action: int, *, position: int = 0, close_paise: int = 10_000, **changes: Any) -> int:
    """The shares that an action orders with 50,000 rupees of equity, in a market that charges nothing."""
    market = np.zeros(1, MARKET)
    market["close_paise"] = close_paise
    account = holding(5_000_000 - position * close_paise, position)
    account["equity_paise"] = 5_000_000
    account["position_day"] = 0
    record = rules(actions=size, **{"slippage_bps": 0, "price_buffer": 0, **changes}).record("5m")
    free = CHARGED.model_copy(update={"scale": 0.0}).schedules()
    return int(_ordered(account, record, market, free, action))


@njit
def _ordered(accounts: Any, rules: Any, markets: Any, schedules: Any, action: int) -> int:
    return order_quantity(accounts[0], rules[0], markets[0], schedules[0], action)


BUY, HOLD, SELL = 0, 1, 2


def test_the_sizes_of_an_order() -> None:
    assert sized(orders_of("shares", shares=12), BUY) == 12
    assert sized(orders_of("shares", shares=12), SELL, position=30) == -12
    assert sized(orders_of("shares", shares=12), SELL, position=5) == -5
    assert sized(orders_of("shares", shares=12), HOLD, position=5) == 0
    # A fixed number of shares is all or nothing.
    assert sized(orders_of("shares", shares=501), BUY) == 0
    assert sized(orders_of("fraction", fraction=0.25), BUY) == 125
    assert sized(orders_of("fraction", fraction=0.25), SELL, position=400) == -125
    # The fill may be a paisa worse than the close, so the last share of all the cash is not payable.
    assert sized(orders_of("fraction", fraction=1), BUY, position=300) == 199
    assert sized(orders_of("all_in"), BUY) == 499
    assert sized(orders_of("all_in"), SELL, position=123) == -123
    assert sized(orders_of("all_in"), SELL, allow_short=True) == -500
    assert sized(orders_of("all_in"), BUY, position=-40, allow_short=True) == 40


def test_risk_per_trade_is_equity_times_risk_over_the_distance_to_the_stop() -> None:
    # 50,000 x 0.01 / (100 x 0.02) = 250 shares: the stop, two rupees away, would lose 500 rupees.
    assert sized(orders_of("risk", risk=0.01, stop=0.02), BUY) == 250
    assert sized(orders_of("risk", risk=0.01, stop=0.04), BUY) == 125
    assert sized(orders_of("risk", risk=0.01, stop=0.02), BUY, close_paise=20_000) == 125
    # More than the cash pays is cut to it.
    assert sized(orders_of("risk", risk=0.1, stop=0.02), BUY) == 499


@pytest.mark.parametrize(
    ("target", "position", "expected"),
    [
        (0, 0, 0),
        (0, 70, -70),
        (1, 0, 250),
        (1, 250, 0),
        (1, 300, -50),
        (2, 0, 499),
        (3, 0, -250),
        (3, 100, -350),
        (0, -9, 9),
    ],
)
def test_targets_order_the_difference_to_their_exposure(target: int, position: int, expected: int) -> None:
    scheme = {"scheme": "targets", "targets": [0, 0.5, 1, -0.5]}
    assert sized(scheme, target, position=position, allow_short=True) == expected


@pytest.mark.parametrize("target", [-1.0, -0.7, -0.5, 0.5, 0.7, 1.0])
@given(price=st.integers(1, 5_000_000))
def test_an_exposure_never_exceeds_its_target(target: float, price: int) -> None:
    scheme = {"scheme": "targets", "targets": [0, target]}
    shares = sized(scheme, 1, close_paise=price, allow_short=True)
    assert abs(shares) * price <= 5_000_000 * round(abs(target) * PPM) // PPM
    assert shares * target >= 0


def test_limits_bound_every_size() -> None:
    for size in (orders_of("all_in"), orders_of("fraction", fraction=1), orders_of("shares", shares=100)):
        assert sized(size, BUY, position=25, max_position=40) == 15
        assert sized(size, BUY, position=40, max_position=40) == 0
        assert sized(size, SELL, position=0, max_position=40, allow_short=True) == -40
