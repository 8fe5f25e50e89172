"""The best policy of a simulated market: the ordinary backtest delivers what the program promises; nothing beats it."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from finsense.account.rules import AccountRules
from finsense.cli.main import app
from finsense.evaluation.backtest import Setting, backtest
from finsense.evaluation.baselines import BuyAndHold, run_baselines
from finsense.evaluation.oracle import OracleError, Solution, solve
from finsense.evaluation.oracle_policy import long_shares, mean_growth, run_oracle
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.simulate import SimulatedMarket
from finsense.market.timeline import timeline
from finsense.state.builder import build_states
from finsense.state.spec import StateSpec

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "ppo_oracle.yaml"
PURE = {"overnight_gap": 0, "volatility_shape": 0, "clustering_reaction": 0, "clustering_memory": 0}
SPEC = StateSpec.model_validate({"features": [{"level_distance": {"level": 1000}}], "warmup": 5})
REGIMES = [
    {"drift": 0.002, "volatility": 0.002, "persistence": 0.98},
    {"drift": -0.002, "volatility": 0.004, "persistence": 0.95},
]


def market(model: str = "mean_reversion", **rest: Any) -> SimulatedMarket:
    law: dict[str, dict[str, Any]] = {
        "mean_reversion": {"reversion": 0.95, "shock": 0.004},
        "regime_switching": {"regimes": REGIMES},
    }
    values = {"model": model, "first": "2024-01-01", "last": "2024-06-30", "seed": 3, **PURE, **law.get(model, {})}
    return SimulatedMarket.model_validate({**values, **rest})


def account(product: str = "intraday", **rest: Any) -> AccountRules:
    actions = {"scheme": "orders", "size": {"kind": "all_in"}}
    values = {"balance": 100_000, "product": product, "actions": actions, "slippage_bps": 1, "participation": None}
    return AccountRules.model_validate({**values, **rest})


def run(one: SimulatedMarket, rules: AccountRules, costs: ChargeRules, solution: Solution) -> float:
    report = run_oracle(one, "SIM", solution, Setting(SPEC, rules, costs, 248), None, None).report
    return mean_growth(report.trace, rules.balance_paise)


@pytest.mark.parametrize("product", ["intraday", "delivery"])
def test_the_no_trade_band_is_symmetric_and_widens_with_the_charges(product: str) -> None:
    found = [solve(market(), account(product), ChargeRules(scale=scale)) for scale in (0, 1, 2)]
    bands = [band for one in found if (band := one.band()) is not None]
    assert len(bands) == 3
    widths = [high - low for low, high in bands]
    assert widths == sorted(widths)
    assert widths[1] > 1.5 * widths[0]
    assert [one.growth_per_bar for one in found] == sorted((one.growth_per_bar for one in found), reverse=True)
    for low, high in bands:
        assert low == pytest.approx(-high, abs=2e-4)


def test_no_other_band_does_better_on_the_chain_itself() -> None:
    """A straight simulation of x' = a x + s e, with the same noise for every band, without any code of the oracle."""
    one, rules = market(), account("delivery")
    solution = solve(one, rules, ChargeRules())
    band = solution.band()
    assert band is not None
    paths, steps, exposure = 400, 4000, float(solution.exposures[1])
    buy_cost, sell_cost = _delivery_costs(rules)

    def mean(low: float, high: float) -> float:
        draws = np.random.default_rng(0)
        signal = one.stationary_deviation * draws.standard_normal(paths)
        held = np.zeros(paths, bool)
        total = 0.0
        for _ in range(steps):
            buys, sells = ~held & (signal <= low), held & (signal >= high)
            held = (held | buys) & ~sells
            after = 0.95 * signal + 0.004 * draws.standard_normal(paths)
            total += np.log1p(exposure * np.expm1(after - signal))[held].sum()
            total -= buys.sum() * buy_cost + sells.sum() * sell_cost
            signal = after
        return total / (paths * steps)

    best = mean(*band)
    assert best == pytest.approx(solution.growth_per_bar, rel=0.02)
    for low, high in ((0.7, 0.7), (1.4, 1.4), (0.5, 1.0), (1.0, 0.5), (0.0, 0.0), (2.0, 2.0)):
        assert mean(low * band[0], high * band[1]) < best


def _delivery_costs(rules: AccountRules) -> tuple[float, float]:
    """Costs of buying and of selling for the whole balance, fractions of it: published rates, by hand.

    STT 0.1 % a side, exchange 0.00307 %, IPFT and SEBI 0.0001 % each, stamp duty 0.015 % on the purchase, GST 18 % on
    exchange and SEBI, one depository charge of 15.34 rupees a sale, a basis point of slippage.
    """
    both = 0.001 + 0.0000307 * 1.18 + 0.000001 * 1.18 + 0.000001 + 0.0001
    return both + 0.00015, both + 15.34 / float(rules.balance)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_backtest_delivers_what_the_program_promises(scale: int) -> None:
    one = market(first="2022-01-01", last="2025-12-31")
    rules, costs = account(), ChargeRules(scale=scale)
    solution = solve(one, rules, costs)
    # Three standard errors: half of the bars are held at 0.4 % a bar, over 74,000 bars.
    assert run(one, rules, costs, solution) == pytest.approx(solution.growth_per_bar, abs=3.5e-5)


def test_an_oracle_earns_more_than_every_baseline() -> None:
    one, rules, costs = market(), account(), ChargeRules()
    best = run(one, rules, costs, solve(one, rules, costs))
    others = run_baselines(one.load()["SIM"], Setting(SPEC, rules, costs, 248))
    assert best > 1e-4
    assert best > 2 * max(mean_growth(other.trace, rules.balance_paise) for other in others)


@pytest.mark.parametrize("product", ["intraday", "delivery"])
def test_on_a_random_walk_the_best_is_not_to_trade(product: str) -> None:
    one, rules, costs = market("random_walk"), account(product), ChargeRules()
    solution = solve(one, rules, costs)
    assert solution.growth_per_bar == 0.0
    assert run(one, rules, costs, solution) == 0.0


def test_regimes_without_charges_are_held_exactly_while_they_rise() -> None:
    one, rules = market("regime_switching"), account("delivery", slippage_bps=0)
    solution = solve(one, rules, ChargeRules(scale=0))
    assert solution.band() is None
    assert solution.choice[0].tolist() == [[1, 1], [0, 0]]
    stay, other = 0.98, 0.05
    rising = other / (other + 1 - stay)
    expected = rising * (stay * (0.002 - 2e-6) + (1 - stay) * (-0.002 - 8e-6))
    assert solution.growth_per_bar == pytest.approx(expected * solution.exposures[1], rel=0.01)
    charged = solve(one, account("delivery"), ChargeRules())
    assert 0 < charged.growth_per_bar < solution.growth_per_bar


def test_targets_and_short_positions() -> None:
    one, costs = market(), ChargeRules()
    targets = {"scheme": "targets", "targets": [0, 0.5, 1]}
    halves = solve(one, account(actions=targets), costs)
    whole = solve(one, account(), costs)
    assert halves.exposures.tolist() == [0.0, 0.5, whole.exposures[1]]
    # A third choice cannot make the best policy worse; brokerage is capped by order, so it hardly makes it better.
    assert whole.growth_per_bar <= halves.growth_per_bar < 1.05 * whole.growth_per_bar
    both = solve(one, account(allow_short=True), costs)
    assert both.growth_per_bar > 1.7 * whole.growth_per_bar
    # An all-in order closes before it turns: long does not become short in one step.
    assert set(both.choice[0, :, 2].tolist()) == {1, 2}
    assert run(one, account(allow_short=True), costs, both) > 1.4 * run(one, account(), costs, whole)
    assert run(one, account(actions=targets), costs, halves) > 0.9 * run(one, account(), costs, whole)


def test_nothing_is_held_at_the_end_of_a_session() -> None:
    solution = solve(market(), account(), ChargeRules())
    # 15 minutes before the end the account squares off, 30 minutes before it nothing new is bought.
    assert (solution.choice[solution.bars_left == 3] == 0).all()
    assert (solution.choice[solution.bars_left == 6][0, :, 0] == 0).all()
    assert (solution.choice[solution.bars_left == 7][0, :, 0] == 1).any()


def test_the_feature_is_the_signal() -> None:
    bars, signal = market().simulate_with_signal()
    matrix = build_states(timeline(bars, instrument("SIM"), None), SPEC)
    seen: NDArray[np.float32] = matrix.rows[matrix.row_of_bar[matrix.first_bar :], 0]
    # Prices are rounded to the paisa.
    np.testing.assert_allclose(seen, signal[matrix.first_bar :], atol=6e-6)


def test_the_shares_of_a_policy_that_always_buys() -> None:
    one, rules = market(), account()
    bars, signal = one.simulate_with_signal()
    report = backtest("hold", BuyAndHold(rules), bars, Setting(SPEC, rules, ChargeRules(), 248))
    shares = long_shares(report.trace, signal[len(bars) - len(report.trace.actions) :], np.linspace(-0.03, 0.03, 4))
    assert shares["flat"].tolist() == [1.0, 1.0, 1.0]
    assert shares["long"].tolist() == [1.0, 1.0, 1.0]


def test_what_it_cannot_solve_is_refused() -> None:
    shares = {"scheme": "orders", "size": {"kind": "shares", "shares": 5}}
    with pytest.raises(OracleError, match="knows targets and orders of size all_in, found size shares"):
        solve(market(), account(actions=shares), ChargeRules())
    with pytest.raises(OracleError, match=r"needs a market without gaps over night, found overnight_gap 0\.005"):
        solve(market(overnight_gap=0.005), account("delivery"), ChargeRules())


def test_the_command_says_what_is_best_and_draws_it(tmp_path: Path) -> None:
    picture = tmp_path / "policy.svg"
    short = ["--set", "split.test.to=2025-12-31", "--plot", str(picture)]
    done = CliRunner().invoke(app, ["oracle", str(CONFIG), *short, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["band"]["buy_at_or_below"] == pytest.approx(-found["band"]["sell_at_or_above"])
    assert found["oracle"]["log_growth_per_bar"] > 1e-4
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    text = CliRunner().invoke(app, ["oracle", str(CONFIG), *short])
    assert "no-trade band early in a session" in text.stdout
    wrong = CliRunner().invoke(app, ["oracle", str(CONFIG), "--symbol", "NONE"])
    assert (wrong.exit_code, "SIM8, found 'NONE'" in wrong.stderr) == (3, True)
