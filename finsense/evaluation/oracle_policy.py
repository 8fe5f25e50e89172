"""Runs the best policy of a simulated market through the ordinary backtest, and puts an agent's decisions beside it."""

import datetime as dt
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import AccountRules, TargetActions
from finsense.account.trace import Trace
from finsense.evaluation.backtest import Report, Setting, backtest
from finsense.evaluation.baselines import action_codes
from finsense.evaluation.oracle import OracleError, Solution
from finsense.market.bars import Bars
from finsense.market.simulate import SimulatedMarket
from finsense.model.policy import Decision, Policy
from finsense.state.span import tradable_range

Floats = NDArray[np.float64]


class OraclePolicy(Policy):
    """Decides by the hidden signal as the solution says, as far as the mask allows.

    It follows the bars by counting its own decisions, one per bar.

    Args:
        solution: the best policy.
        rules: the account's rules.
        signal: (n,) float64, the hidden signal at the close of each traded bar.
        bars_left: (n,) int64, bars of the session after each traded bar.
    """

    def __init__(self, solution: Solution, rules: AccountRules, signal: Floats, bars_left: NDArray[np.int64]) -> None:
        values = solution.chain.values
        self._state = np.abs(values[None, :] - signal[:, None]).argmin(axis=1)
        endless = solution.bars_left[0] < 0
        # A session longer than the ordinary one, or one cut by a pause, has the choices of the bars before its end.
        longest = int(solution.bars_left[0])
        self._place = np.zeros_like(bars_left) if endless else longest - np.minimum(bars_left, longest)
        self._choice = solution.choice
        self._exposures = solution.exposures
        self._hold = action_codes(rules)[1]
        self._actions = _action_table(solution.exposures, rules)
        self._bar = 0

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        """Go to the best exposure if one legal action leads there, else hold."""
        # The account's features end the state; the first of them is the value of the position over the equity.
        held = int(np.abs(self._exposures - state[0, -len(ACCOUNT_FEATURES)]).argmin())
        wanted = int(self._choice[self._place[self._bar], self._state[self._bar], held])
        self._bar += 1
        action = int(self._actions[held, wanted])
        action = action if mask[0, action] else self._hold
        probabilities = np.zeros(mask.shape[1], np.float32)
        probabilities[action] = 1.0
        return Decision(action, probabilities)


def _action_table(exposures: Floats, rules: AccountRules) -> NDArray[np.int64]:
    """(E, E) the action that goes from an exposure to another."""
    count = len(exposures)
    buy, hold, sell = action_codes(rules)
    table = np.full((count, count), hold)
    for held in range(count):
        for wanted in range(count):
            if wanted != held and isinstance(rules.actions, TargetActions):
                targets = rules.actions.targets
                table[held, wanted] = targets.index(sorted(targets)[wanted])
            elif wanted != held:
                table[held, wanted] = buy if wanted > held else sell
    return table


@dataclass(frozen=True)
class OracleRun:
    """The best policy on one symbol's bars of a span.

    Attributes:
        report: what came of it.
        signal: (n,) float64, the hidden signal at the close of each traded bar.
        bars_left: (n,) int64, bars of the session after each.
    """

    report: Report
    signal: Floats
    bars_left: NDArray[np.int64]


def run_oracle(
    market: SimulatedMarket,
    symbol: str,
    solution: Solution,
    setting: Setting,
    first: dt.date | None,
    last: dt.date | None,
) -> OracleRun:
    """Backtest the best policy on a simulated symbol under the terms of an agent.

    Raises:
        OracleError: the symbol is not one of the market's.
        HistoryError: too few bars before the span for the warm-up.
        BarsError: the span is not in the data.
    """
    if symbol not in market.symbols:
        raise OracleError(f"expected one of {', '.join(market.symbols)}, found {symbol!r}")
    bars, signal = market.simulate_with_signal(symbol)
    begin, end = tradable_range(bars, setting.state, first, last)
    seen, left = signal[begin : end + 1], bars_left_of(bars)[begin : end + 1]
    policy = OraclePolicy(solution, setting.account, seen, left)
    return OracleRun(backtest("oracle", policy, bars, setting, first, last), seen, left)


def bars_left_of(bars: Bars) -> NDArray[np.int64]:
    """(n,) int64, how many bars of its session follow each bar."""
    lengths = np.diff(bars.session_offsets)
    ends: NDArray[np.int64] = np.repeat(bars.session_offsets[1:], lengths) - 1 - np.arange(len(bars))
    return ends


def mean_growth(trace: Trace, balance_paise: int) -> float:
    """Change of the log equity per bar, over the bars of a trace."""
    return float(np.log(max(int(trace.equity_paise[-1]), 1) / balance_paise) / len(trace.equity_paise))


def long_shares(trace: Trace, signal: Floats, edges: Floats) -> dict[str, Floats]:
    """How often a policy wants to hold shares after its decision, by signal and by what it held before.

    Only bars count at which the other choice was legal too, so a closed session does not look like a decision.

    Args:
        trace: of the policy.
        signal: (n,) float64, the hidden signal at each bar of the trace.
        edges: (k + 1,) float64, rising, of the bins of the signal.

    Returns:
        "flat" and "long" -> (k,) float64 shares in [0, 1], NaN where no bar fell into the bin.
    """
    free = trace.masks.sum(axis=1) > 1
    return shares_by_signal(trace.position, trace.position + trace.orders, free, signal[: len(free)], edges)


def shares_by_signal(
    held: NDArray[np.int64], after: NDArray[np.int64], free: NDArray[np.bool_], signal: Floats, edges: Floats
) -> dict[str, Floats]:
    """`long_shares` from what is held, (n,), what the decision is to hold, (n,), and where there is a choice, (n,)."""
    place = np.digitize(signal, edges) - 1
    found = {}
    for name, chosen in (("flat", held == 0), ("long", held > 0)):
        share = np.full(len(edges) - 1, np.nan)
        for index in range(len(share)):
            rows = chosen & free & (place == index)
            if rows.any():
                share[index] = float((after[rows] > 0).mean())
        found[name] = share
    return found
