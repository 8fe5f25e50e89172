"""Performance of one account over several symbols, out of the traces of each."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from finsense.account.trace import Trace
from finsense.evaluation.metrics import (
    MetricsError,
    Performance,
    annual_return,
    annual_volatility,
    calmar,
    charge_share,
    max_drawdown,
    max_drawdown_sessions,
    session_equity,
    session_returns,
    sharpe,
    sortino,
    total_return,
)
from finsense.evaluation.trades import Trade, closed_net_paise, expectancy_rupees, profit_factor, round_trips, win_rate
from finsense.market.bars import IST_OFFSET_NS
from finsense.market.calendar import DAY_NS


def trades_of(trace: Trace) -> tuple[Trade, ...]:
    """The round trips of one symbol."""
    bars, fills = trace.all_fills()
    return round_trips(
        time_ns=trace.time_ns,
        close_paise=trace.close_paise,
        fill_bar=bars,
        fill_quantity=fills[:, 0],
        fill_price_paise=fills[:, 1],
        fill_charges_paise=fills[:, 2],
    )


def equity_curve(traces: Mapping[str, Trace]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start of each moment, (n,) int64, ns UTC, and the equity of the account at its closes, (n,) int64, paise.

    Raises:
        MetricsError: two symbols tell another equity of the same moment.
    """
    times = np.concatenate([trace.time_ns for trace in traces.values()])
    equity = np.concatenate([trace.equity_paise for trace in traces.values()])
    starts, first, place = np.unique(times, return_index=True, return_inverse=True)
    differing = int(np.count_nonzero(equity[first][place] != equity))
    if differing:
        raise MetricsError(
            f"the symbols of one account must tell one equity of each moment, found {differing} bars that differ: "
            "pass traces of one run on one account"
        )
    return starts, equity[first]


def joint_performance(
    traces: Mapping[str, Trace],
    trades: Mapping[str, tuple[Trade, ...]],
    balance_paise: int,
    sessions_per_year: int,
) -> Performance:
    """Judge an account over all its symbols; with one symbol it is `metrics.performance`.

    `bars` are moments, `exposure` is the share of moments with a position in any symbol, trades are those of all.

    Args:
        traces: symbol -> its trace; the equity in each is that of the whole account.
        trades: symbol -> its round trips.
        balance_paise: starting capital.
        sessions_per_year: for annual figures.

    Raises:
        MetricsError: no trace, traces of more than one account, or an equity that the fills do not explain.
    """
    if not traces:
        raise MetricsError("no symbol was traded, so there is nothing to judge")
    times, equity = equity_curve(traces)
    every = [trade for symbol in traces for trade in trades[symbol]]
    net = sum(trade.net_paise for trade in every)
    if net != int(equity[-1]) - balance_paise:
        raise MetricsError(
            f"the trades of all symbols gained {net} paise but the equity {int(equity[-1]) - balance_paise}: "
            "pass the trace of every symbol that the account traded"
        )
    fills = np.concatenate([trace.all_fills()[1] for trace in traces.values()])
    charges, traded = int(fills[:, 2].sum()), int((np.abs(fills[:, 0]) * fills[:, 1]).sum())
    ends = session_equity(equity, (times + IST_OFFSET_NS) // DAY_NS)
    returns = session_returns(ends, balance_paise)
    total = total_return(ends, balance_paise)
    annual = annual_return(total, len(ends), sessions_per_year)
    deepest = max_drawdown(ends, balance_paise)
    average_equity = float(equity.mean())
    closed = closed_net_paise(every)
    held = [trade.bars_held for trade in every if not trade.open]
    return Performance(
        sessions_per_year=sessions_per_year,
        sessions=len(ends),
        bars=len(equity),
        final_equity_paise=int(equity[-1]),
        total_return=total,
        annual_return=annual,
        annual_volatility=annual_volatility(returns, sessions_per_year),
        sharpe=sharpe(returns, sessions_per_year),
        sortino=sortino(returns, sessions_per_year),
        calmar=calmar(annual, deepest),
        max_drawdown=deepest,
        max_drawdown_sessions=max_drawdown_sessions(ends, balance_paise),
        fills=len(fills),
        trades=len(closed),
        open_trades=len(every) - len(closed),
        win_rate=win_rate(closed),
        profit_factor=profit_factor(closed),
        expectancy_rupees=expectancy_rupees(closed),
        mean_bars_held=float(np.mean(held)) if held else math.nan,
        median_bars_held=float(np.median(held)) if held else math.nan,
        turnover=traded / average_equity / len(ends) if average_equity > 0.0 else math.nan,
        exposure=float(np.mean(_exposed(traces, times))),
        charge_share=charge_share(net + charges, charges),
        traded_value_paise=traded,
        gross_paise=net + charges,
        charges_paise=charges,
        net_paise=net,
    )


def _exposed(traces: Mapping[str, Trace], times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) bool, whether any symbol has a position at each moment; between its bars a symbol keeps its position."""
    exposed = np.zeros(len(times), np.bool_)
    for trace in traces.values():
        last = np.searchsorted(trace.time_ns, times, side="right") - 1
        exposed |= (last >= 0) & (trace.position[np.maximum(last, 0)] != 0)
    return exposed
