"""The backtest and its baselines: what they must do on markets where the answer is known."""

import datetime as dt

import numpy as np
import pytest
from bundles import market, rules, setting

from finsense.account.rules import BUY, HOLD, SELL
from finsense.evaluation.backtest import Setting, backtest, charge_totals
from finsense.evaluation.baselines import AlwaysFlat, BuyAndHold, RandomLegal, run_baselines, sma_above
from finsense.market.bars import Bars, BarsError
from finsense.market.costs import ChargeRules, CostError
from finsense.market.simulate import SimulatedMarket
from finsense.model.policy import Decision, Policy
from finsense.state.builder import HistoryError
from finsense.state.spec import StateSpec


@pytest.fixture(scope="module")
def bars() -> Bars:
    return market(sessions=8)


class _Script(Policy):
    """Buys at the first bar, sells at the fifth."""

    def __init__(self) -> None:
        self._bar = 0

    def act(self, state: np.ndarray, mask: np.ndarray) -> Decision:
        action = {0: BUY, 4: SELL}.get(self._bar, HOLD)
        self._bar += 1
        return Decision(action, np.zeros(3, np.float32))


def test_a_round_trip_is_booked_to_the_paisa(bars: Bars) -> None:
    """Fills at the next opens with slippage, charges of the schedule, and nothing else moves the equity."""
    terms = setting(slippage_bps=2)
    report = backtest("script", _Script(), bars, terms)
    first = int(np.flatnonzero(bars.time_ns == report.trace.time_ns[0])[0])
    bought, sold = report.trace.fills[1], report.trace.fills[5]
    assert bought[0] == 10
    assert sold[0] == -10
    open_in, open_out = round(bars.open[first + 1] * 100), round(bars.open[first + 5] * 100)
    assert bought[1] == -(-open_in * 1_000_200 // 1_000_000)
    assert sold[1] == open_out * 999_800 // 1_000_000
    net = 10 * (sold[1] - bought[1]) - bought[2] - sold[2]
    assert report.trace.equity_paise[-1] == 10_000_000 + net
    assert report.performance.trades == 1
    assert sum(charge_totals(report.trace, terms).values()) == bought[2] + sold[2]


def test_no_fill_at_the_bar_that_was_seen(bars: Bars) -> None:
    """Random trading over the whole span: an order is never filled in the bar of its decision."""
    report = backtest("random", RandomLegal(np.random.default_rng(0)), bars, setting())
    filled = np.flatnonzero(report.trace.fills[:, 0])
    assert len(filled) > 20
    assert (report.trace.orders[filled - 1] != 0).all()
    assert (np.sign(report.trace.orders[filled - 1]) == np.sign(report.trace.fills[filled, 0])).all()


def test_always_flat_earns_nothing_and_buy_and_hold_earns_the_price(bars: Bars) -> None:
    """Held for delivery without charges and slippage, the equity follows the price to the paisa."""
    terms = setting(product="delivery", slippage_bps=0, max_position=10, participation=None)
    free = Setting(terms.state, terms.account, ChargeRules(scale=0.0), 248)
    flat = backtest("flat", AlwaysFlat(free.account), bars, free)
    assert (flat.trace.equity_paise == 10_000_000).all()
    held = backtest("held", BuyAndHold(free.account), bars, free)
    entry = held.trace.fills[1]
    assert entry[0] == 10
    assert held.trace.equity_paise[-1] - 10_000_000 == 10 * (held.trace.close_paise[-1] - entry[1])


def test_an_intraday_account_is_flat_after_every_session(bars: Bars) -> None:
    report = backtest("held", BuyAndHold(rules()), bars, setting())
    days = (report.trace.time_ns // 86_400_000_000_000)[1:]
    ends = np.flatnonzero(np.diff(report.trace.time_ns // 86_400_000_000_000))
    assert len(ends) > 4
    assert (report.trace.position[ends] == 0).all()
    assert len(days)


def test_every_baseline_stands_in_the_table(bars: Bars) -> None:
    names = [report.name for report in run_baselines(bars, setting())]
    assert names == ["always flat", "buy and hold", "random legal", "SMA cross 10/30"]


def test_the_random_baseline_is_fixed_by_its_seed(bars: Bars) -> None:
    one, two, other = (run_baselines(bars, setting(), seed=seed)[2].trace.digest() for seed in (1, 1, 2))
    assert one == two != other


def test_sma_above_is_causal_and_right() -> None:
    close = np.cumsum(np.random.default_rng(3).normal(size=200)) + 500.0
    above = sma_above(close, 5, 20)
    for bar in range(200):
        expected = bar >= 19 and close[bar - 4 : bar + 1].mean() > close[bar - 19 : bar + 1].mean()
        assert above[bar] == expected
    assert (sma_above(np.append(close, 1e6), 5, 20)[:200] == above).all()


def test_a_rising_market_is_followed_by_the_sma_cross() -> None:
    """On a daily random walk with a strong drift the cross is long most of the time and earns."""
    regimes = [{"drift": 0.01, "volatility": 0.002, "persistence": 0.999}] * 2
    rising = SimulatedMarket.model_validate(
        {
            "model": "regime_switching",
            "interval": "1d",
            "first": "2024-01-01",
            "last": "2025-06-30",
            "seed": 1,
            "regimes": regimes,
        }
    ).load()["SIM"]
    terms = Setting(
        StateSpec.model_validate({"features": ["classic29"], "warmup": 60}),
        rules(product="delivery", actions={"scheme": "orders", "size": {"kind": "all_in"}}, max_position=None),
        ChargeRules(),
        248,
    )
    by_name = {report.name: report for report in run_baselines(rising, terms)}
    assert by_name["SMA cross 10/30"].performance.exposure > 0.9
    assert by_name["SMA cross 10/30"].performance.total_return > 1.0


def test_bad_spans_are_refused_with_what_is_there(bars: Bars) -> None:
    terms = setting()
    flat = AlwaysFlat(terms.account)
    with pytest.raises(HistoryError, match="needs 60 bars before 2025-01-01, found 0"):
        backtest("flat", flat, bars, terms, dt.date(2025, 1, 1))
    with pytest.raises(BarsError, match="the data cover 2025-01-01 to"):
        backtest("flat", flat, bars, terms, dt.date(2025, 3, 3))
    with pytest.raises(BarsError, match="ends before it begins"):
        backtest("flat", flat, bars, terms, dt.date(2025, 1, 8), dt.date(2025, 1, 6))
    with pytest.raises(HistoryError, match="give more history"):
        backtest("flat", flat, bars.take(0, 70), terms)


def test_dates_before_the_charges_are_refused_unless_priced_as_of() -> None:
    old = SimulatedMarket.model_validate(
        {"model": "random_walk", "interval": "1d", "first": "2018-01-01", "last": "2018-12-31", "seed": 1}
    ).load()["SIM"]
    terms = setting(product="delivery")
    with pytest.raises(CostError, match=r"costs\.as_of"):
        backtest("flat", AlwaysFlat(terms.account), old, terms)
    priced = Setting(terms.state, terms.account, ChargeRules(as_of=dt.date(2026, 3, 2)), 248)
    assert backtest("held", BuyAndHold(terms.account), old, priced).performance.charges_paise > 0
