"""`finsense oracle`: the best policy of a simulated market, and how much of it an agent reaches."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from finsense.cli.config import ConfigFile, Overrides
from finsense.cli.errors import USAGE, refuse
from finsense.cli.options import AsJson, print_json, setting_of
from finsense.cli.tables import show_reports
from finsense.config import Experiment, load_experiment
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.evaluation.oracle import Solution, solve
from finsense.evaluation.oracle_figure import policy_picture
from finsense.evaluation.oracle_policy import OracleRun, long_shares, mean_growth, run_oracle
from finsense.evaluation.wording import percent
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import Bundle, load_bundle

# Bins of the picture over this many standard deviations of the signal to each side.
_BINS, _REACH = 24, 3.0


@dataclass(frozen=True)
class _Compared:
    """The best policy on the test span and, where a bundle was given, the agent's beside it."""

    solution: Solution
    oracle: OracleRun
    agent: Report | None


def oracle(
    config: ConfigFile,
    bundle: Annotated[Path | None, typer.Option(metavar="BUNDLE", help="An agent to put beside it.")] = None,
    symbol: Annotated[str | None, typer.Option(metavar="S", help="Which symbol of the market; the first one.")] = None,
    overrides: Overrides = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the policies by the signal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Solve the trading problem of a simulated market by dynamic programming and judge it on the test span."""
    experiment = load_experiment(config, overrides or [])
    market = experiment.data
    if not isinstance(market, SimulatedMarket):
        refuse("usage", "the best policy is known only on a simulated market; this config reads a file", USAGE)
    compared = _compare(experiment, market, symbol or market.symbols[0], load_bundle(bundle) if bundle else None)
    if plot is not None:
        plot.write_text(_picture(market, compared))
    if as_json:
        print_json(_document(experiment, compared))
        return
    _show(Console(), experiment, compared)
    if plot is not None:
        typer.echo(f"picture: {plot}")


def _compare(experiment: Experiment, market: SimulatedMarket, symbol: str, bundle: Bundle | None) -> _Compared:
    solution = solve(market, experiment.account, experiment.costs)
    span = experiment.split.test.first, experiment.split.test.last
    terms = experiment.state, experiment.account, experiment.costs, experiment.evaluation.sessions_per_year
    best = run_oracle(market, symbol, solution, Setting(*terms), *span)
    agent = None
    if bundle is not None:
        bars = market.load()[symbol]
        agent = backtest(bundle.manifest.name, bundle.policy, bars, setting_of(bundle), *span)
    return _Compared(solution, best, agent)


def _document(experiment: Experiment, compared: _Compared) -> dict[str, Any]:
    balance = experiment.account.balance_paise
    band = compared.solution.band()
    best = mean_growth(compared.oracle.report.trace, balance)
    found: dict[str, Any] = {
        "signal": compared.solution.chain.name,
        "expected_log_growth_per_bar": compared.solution.growth_per_bar,
        "band": None if band is None else {"buy_at_or_below": band[0], "sell_at_or_above": band[1]},
        "oracle": {"log_growth_per_bar": best, **compared.oracle.report.summary()},
    }
    if compared.agent is not None:
        reached = mean_growth(compared.agent.trace, balance)
        share = None if best <= 0 else reached / best
        found["agent"] = {"log_growth_per_bar": reached, "share_of_optimum": share, **compared.agent.summary()}
    return found


def _show(console: Console, experiment: Experiment, compared: _Compared) -> None:
    found = _document(experiment, compared)
    console.print(
        f"best policy of the {experiment.data.model if isinstance(experiment.data, SimulatedMarket) else ''} market: "
        f"{found['expected_log_growth_per_bar'] * 1e4:+.3f} bp of log equity a bar expected, "
        f"{found['oracle']['log_growth_per_bar'] * 1e4:+.3f} bp on the test span"
    )
    if found["band"]:
        low, high = found["band"].values()
        console.print(
            f"no-trade band early in a session: buys at a deviation of {percent(low, signed=True)} or below, sells at "
            f"{percent(high, signed=True)} or above"
        )
    show_reports(console, [one for one in (compared.agent, compared.oracle.report) if one is not None])
    if compared.agent is not None and found["agent"]["share_of_optimum"] is not None:
        console.print(f"the agent reaches {percent(found['agent']['share_of_optimum'])} of the oracle's log growth")
    if experiment.account.participation is not None:
        console.print("orders take at most a share of a bar's volume (participation), which the optimum does not know")


def _picture(market: SimulatedMarket, compared: _Compared) -> str:
    chain = compared.solution.chain
    if chain.by_both:
        edges = np.linspace(-_REACH, _REACH, _BINS + 1) * market.stationary_deviation
        scale, unit = 100.0, " %"
    else:
        edges, scale, unit = np.append(chain.values, len(chain.values)) - 0.5, 1.0, ""
    reports = {"oracle": compared.oracle.report, **({compared.agent.name: compared.agent} if compared.agent else {})}
    shares = {name: long_shares(one.trace, compared.oracle.signal, edges) for name, one in reports.items()}
    title = f"Share of decisions that want shares, by the {chain.name} of the market"
    return policy_picture(title, edges, shares, scale, unit)
