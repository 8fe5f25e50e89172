"""Law: metrics agree with empyrical, and trades explain the equity to the paisa."""

import json
import math
import warnings
from dataclasses import replace
from typing import Any

import empyrical
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from finsense.evaluation.metrics import (
    SESSIONS_PER_YEAR,
    MetricsError,
    Performance,
    annual_return,
    max_drawdown_sessions,
    performance,
    session_equity,
    session_returns,
)
from finsense.evaluation.trades import TradesError, profit_factor, round_trips

BALANCE = 5_000_000
BAR_NS = 300_000_000_000


def ledger(
    close: list[int], fills: list[tuple[int, int, int, int]], bars_per_session: int = 3, balance: int = BALANCE
) -> dict[str, Any]:
    """The arguments of `performance`, kept by a plain cash book that knows nothing of trades."""
    cash, held, equity, position = balance, 0, [], []
    for bar, price in enumerate(close):
        for at, quantity, fill_price, charges in fills:
            if at == bar:
                cash -= quantity * fill_price + charges
                held += quantity
        equity.append(cash + held * price)
        position.append(held)
    columns = np.array(fills, dtype=np.int64).reshape(-1, 4).T
    return {
        "time_ns": np.arange(len(close), dtype=np.int64) * BAR_NS,
        "day": np.arange(len(close), dtype=np.int64) // bars_per_session,
        "equity_paise": np.array(equity, dtype=np.int64),
        "position": np.array(position, dtype=np.int64),
        "close_paise": np.array(close, dtype=np.int64),
        "fill_bar": columns[0],
        "fill_quantity": columns[1],
        "fill_price_paise": columns[2],
        "fill_charges_paise": columns[3],
        "balance_paise": balance,
    }


def marked(equity: list[int], balance: int = BALANCE, bars_per_session: int = 1) -> Performance:
    """Performance of an account that holds one share which is worth its whole equity, bought at the balance."""
    return performance(**ledger(equity, [(0, 1, balance, 0)], bars_per_session, balance))


@st.composite
def accounts(draw: st.DrawFn) -> dict[str, Any]:
    close = draw(st.lists(st.integers(100, 500_000), min_size=1, max_size=30))
    fill = st.tuples(
        st.integers(0, len(close) - 1),
        st.integers(-50, 50).filter(bool),
        st.integers(100, 500_000),
        st.integers(0, 20_000),
    )
    fills = sorted(draw(st.lists(fill, max_size=20)), key=lambda one: one[0])
    return ledger(close, fills, draw(st.integers(1, 4)))


@settings(max_examples=150, deadline=None)
@given(accounts())
def test_the_trades_gain_exactly_what_the_equity_gains(account: dict[str, Any]) -> None:
    result = performance(**account)
    trades = trips(account)
    gained = int(account["equity_paise"][-1]) - BALANCE
    assert sum(trade.net_paise for trade in trades) == gained == result.net_paise
    assert result.gross_paise - result.charges_paise == gained
    assert sum(trade.charges_paise for trade in trades) == int(account["fill_charges_paise"].sum())
    assert sum(trade.open for trade in trades) == int(account["position"][-1] != 0) == result.open_trades
    for trade in trades:
        spread = trade.direction * (trade.exit_price_paise - trade.entry_price_paise)
        assert trade.quantity_max > 0
        assert trade.bars_held >= 0
        assert math.copysign(1, spread) == math.copysign(1, trade.gross_paise) or abs(spread) < 1e-6


def trips(account: dict[str, Any]) -> tuple[Any, ...]:
    names = ("time_ns", "close_paise", "fill_bar", "fill_quantity", "fill_price_paise", "fill_charges_paise")
    return round_trips(**{name: account[name] for name in names})


equity_paths = st.lists(st.integers(4_000_000, 6_000_000), min_size=2, max_size=40)


@settings(max_examples=150, deadline=None)
@given(equity_paths, st.sampled_from([248, 252, 365]))
def test_figures_agree_with_empyrical(equity: list[int], sessions_per_year: int) -> None:
    result = performance(**ledger(equity, [(0, 1, BALANCE, 0)], 1), sessions_per_year=sessions_per_year)
    returns = session_returns(np.array(equity, dtype=np.int64), BALANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected = {
            "total_return": empyrical.cum_returns_final(returns),
            "annual_return": empyrical.annual_return(returns, annualization=sessions_per_year),
            "annual_volatility": empyrical.annual_volatility(returns, annualization=sessions_per_year),
            "sharpe": empyrical.sharpe_ratio(returns, annualization=sessions_per_year),
            "sortino": empyrical.sortino_ratio(returns, annualization=sessions_per_year),
            "calmar": empyrical.calmar_ratio(returns, annualization=sessions_per_year),
            "max_drawdown": empyrical.max_drawdown(returns),
        }
    for name, value in expected.items():
        # The one difference: where empyrical divides by a zero deviation and says inf, we say NaN.
        stated = math.nan if math.isinf(value) else value
        assert getattr(result, name) == pytest.approx(stated, rel=1e-12, abs=1e-12, nan_ok=True), name


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(90, 110), min_size=1, max_size=12))
def test_the_length_of_the_deepest_drawdown_by_its_definition(equity: list[int]) -> None:
    path = [100, *equity]
    depth = [1 - value / max(path[: at + 1]) for at, value in enumerate(path)]
    trough = depth.index(max(depth))
    peak = max(at for at in range(trough + 1) if path[at] == max(path[: trough + 1]))
    end = next((at for at in range(trough, len(path)) if path[at] >= path[peak]), len(path) - 1)
    expected = end - peak if depth[trough] > 0 else 0
    assert max_drawdown_sessions(np.array(equity, dtype=np.int64), 100) == expected


def test_the_starting_capital_is_a_peak_and_sessions_are_judged_at_their_last_bar() -> None:
    equity = np.array([1, 90, 120, 80, 70, 95], dtype=np.int64)
    day = np.array([3, 3, 7, 7, 7, 8], dtype=np.int64)
    assert session_equity(equity, day).tolist() == [90, 70, 95]
    assert session_returns(session_equity(equity, day), 100).tolist() == [-10 / 100, -20 / 90, 25 / 70]
    result = marked([90, 70, 95], balance=100)
    assert result.max_drawdown == -0.3
    assert result.max_drawdown_sessions == 3
    assert result.sessions == 3
    assert result.sessions_per_year == SESSIONS_PER_YEAR == 248


def test_zero_volatility_and_no_trades_are_undefined_and_json_null() -> None:
    result = performance(**ledger([1000] * 6, []))
    undefined = ("sharpe", "sortino", "calmar", "win_rate", "profit_factor", "mean_bars_held", "charge_share")
    for name in (*undefined, "expectancy_rupees", "median_bars_held"):
        assert math.isnan(getattr(result, name)), name
        assert result.as_dict()[name] is None
    assert (result.total_return, result.annual_volatility, result.max_drawdown, result.turnover) == (0.0, 0.0, 0.0, 0.0)
    # No session lost: the Sharpe ratio exists, the Sortino ratio has no downside to divide by.
    rising = marked([101, 103], balance=100)
    assert rising.sharpe > 0
    assert math.isnan(rising.sortino)
    assert math.isnan(rising.calmar)


def test_one_session_has_a_return_but_no_risk() -> None:
    result = marked([110], balance=100)
    assert result.total_return == 0.1
    assert math.isnan(result.annual_volatility)
    assert math.isnan(result.sharpe)


def test_ruin_is_not_annualised() -> None:
    assert math.isnan(annual_return(-1.2, 10, 248))
    assert annual_return(-1.0, 10, 248) == -1.0
    assert math.isnan(annual_return(40.0, 1, 248))
    result = marked([50, -10, -20], balance=100)
    assert result.total_return == -1.2
    assert math.isnan(result.annual_return)
    assert math.isnan(result.sharpe)


def test_round_trips_by_hand() -> None:
    fills = [
        (0, 10, 1000, 30),  # long 10
        (1, 10, 1100, 30),  # long 20 at 1050
        (2, -5, 1200, 10),
        (4, -25, 1000, 50),  # closes 15, turns to short 10
        (5, 4, 900, 8),
        (6, 6, 950, 12),  # flat
        (7, 1, 800, 5),  # open
    ]
    account = ledger([1000, 1100, 1200, 1100, 1000, 900, 950, 850, 820], fills)
    first, second, third = trips(account)
    assert (first.direction, first.quantity_max, first.open, first.bars_held) == (1, 20, False, 4)
    assert (first.entry_time_ns, first.exit_time_ns) == (0, 4 * BAR_NS)
    assert (first.entry_price_paise, first.exit_price_paise) == (1050.0, 1050.0)
    assert (first.gross_paise, first.charges_paise) == (0, 100)
    assert (second.direction, second.quantity_max, second.bars_held, second.gross_paise) == (-1, 10, 2, 700)
    assert second.charges_paise == 20 + 8 + 12
    assert (third.open, third.gross_paise, third.net_paise, third.bars_held) == (True, 20, 15, 2)
    result = performance(**account)
    assert (result.trades, result.open_trades, result.fills) == (2, 1, 7)
    assert result.win_rate == 0.5
    assert result.profit_factor == 660 / 100
    assert result.expectancy_rupees == 2.8
    assert (result.mean_bars_held, result.median_bars_held) == (3.0, 3.0)
    assert result.exposure == 8 / 9
    assert result.charge_share == 145 / 720
    traded = 10 * 1000 + 10 * 1100 + 5 * 1200 + 25 * 1000 + 4 * 900 + 6 * 950 + 800
    assert result.traded_value_paise == traded
    assert result.turnover == pytest.approx(traded / account["equity_paise"].mean() / 3)


def test_profit_factor_without_losers_is_infinite_and_null_in_json() -> None:
    assert profit_factor(np.array([5, 0], dtype=np.int64)) == math.inf
    assert math.isnan(profit_factor(np.array([0, 0], dtype=np.int64)))
    assert profit_factor(np.array([-5], dtype=np.int64)) == 0.0
    result = performance(**ledger([1000, 1100], [(0, 1, 1000, 0), (1, -1, 1100, 0)]))
    assert result.profit_factor == math.inf
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["profit_factor"] is None


def test_charges_that_exceed_the_gain_have_no_share_in_a_loss() -> None:
    eaten = performance(**ledger([1000, 1010], [(0, 1, 1000, 8), (1, -1, 1010, 12)]))
    assert eaten.charge_share == 2.0
    assert eaten.net_paise == -10
    lost = performance(**ledger([1000, 990], [(0, 1, 1000, 8), (1, -1, 990, 12)]))
    assert math.isnan(lost.charge_share)


def test_money_in_json_is_rupees_to_the_paisa() -> None:
    plain = performance(**ledger([1000, 1005], [(0, 1, 1000, 0), (1, -1, 1005, 7)])).as_dict()
    assert plain["net_rupees"] == plain["expectancy_rupees"] == "-0.02"
    assert plain["final_equity_rupees"] == "49999.98"
    assert plain["traded_value_rupees"] == "20.05"
    assert plain["trades"] == 1
    assert not [name for name in plain if name.endswith("_paise")]


def test_large_amounts_stay_exact() -> None:
    price, balance = 9_000_000_000, 4_000_000_000_000_000_000
    account = ledger([price + 1], [(0, 400_000_000, price, 3)], balance=balance)
    result = performance(**account)
    assert result.net_paise == 400_000_000 - 3
    assert result.traded_value_paise == 400_000_000 * price


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("equity_paise", lambda values: values + np.array([0, 0, 1]), "the equity 2"),
        ("position", lambda values: values + 1, "3 bars"),
        ("day", lambda values: values[::-1].copy(), "never fall"),
        ("close_paise", lambda values: values[:-1], "one length"),
        ("balance_paise", lambda value: 0, "must be positive"),
    ],
)
def test_series_that_contradict_each_other_are_refused(name: str, change: Any, message: str) -> None:
    account = ledger([1000, 1001, 1001], [(0, 1, 1000, 0)], bars_per_session=1)
    account[name] = change(account[name])
    with pytest.raises(MetricsError, match=message):
        performance(**account)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("fill_bar", [1, 0], "1 fills are out of order"),
        ("fill_bar", [0, 9], "fill 1: bar 9"),
        ("fill_quantity", [0, 1], "of 0 shares"),
        ("fill_price_paise", [1], "one length"),
    ],
)
def test_fills_out_of_order_are_refused(column: str, values: list[int], message: str) -> None:
    account = ledger([1000, 1000], [(0, 1, 1000, 0), (1, 1, 1000, 0)])
    wrong: NDArray[np.int64] = np.array(values, dtype=np.int64)
    account[column] = wrong
    with pytest.raises(TradesError, match=message):
        trips(account)


def test_performance_is_frozen() -> None:
    result = marked([101, 102], balance=100)
    with pytest.raises(AttributeError):
        result.sharpe = 9.0  # type: ignore[misc]
    assert replace(result, sharpe=9.0) != result
