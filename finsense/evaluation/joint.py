"""A policy over the history of several symbols on one account, through the session that paper trading uses."""

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np

from finsense.account.joint import Choice, JointError, JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.trace import Recorder, Trace
from finsense.evaluation.backtest import Setting
from finsense.evaluation.joint_performance import joint_performance, trades_of
from finsense.evaluation.metrics import Performance
from finsense.evaluation.trades import Trade
from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.moments import moments
from finsense.model.policy import Policy
from finsense.state.span import split_history


@dataclass(frozen=True)
class JointReport:
    """What came of it.

    Attributes:
        name: of the policy.
        traces: symbol -> everything, bar by bar, by name. The equity is that of the whole account.
        performance: the figures of the account.
        trades: symbol -> its round trips.
        dropped: reason -> how many choices ordered nothing because an earlier order of the same bar was in the way.
    """

    name: str
    traces: Mapping[str, Trace]
    performance: Performance
    trades: Mapping[str, tuple[Trade, ...]]
    dropped: Mapping[str, int]

    def digest(self) -> str:
        """One SHA-256 (hex) over the symbols and the digests of their traces."""
        text = "\n".join(f"{symbol} {trace.digest()}" for symbol, trace in self.traces.items())
        return hashlib.sha256(text.encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """The documented JSON: the account's figures, then one object per symbol; money in rupees as text."""
        figures = self.performance.as_dict()
        return {
            "moments": self.performance.bars,
            "orders": sum(int(np.count_nonzero(trace.orders)) for trace in self.traces.values()),
            "fills": self.performance.fills,
            "trades": self.performance.trades,
            "final_equity": figures["final_equity_rupees"],
            "metrics": figures,
            "dropped": dict(self.dropped),
            "symbols": {
                symbol: {
                    "bars": len(trace.time_ns),
                    "orders": int(np.count_nonzero(trace.orders)),
                    "trades": sum(not trade.open for trade in self.trades[symbol]),
                    "net_rupees": _in_rupees(sum(trade.net_paise for trade in self.trades[symbol])),
                    "charges_rupees": _in_rupees(sum(trade.charges_paise for trade in self.trades[symbol])),
                    "sha256": trace.hashes(),
                }
                for symbol, trace in self.traces.items()
            },
            "sha256": self.digest(),
        }


def backtest_joint(
    name: str,
    policy: Policy,
    markets: Sequence[Bars],
    setting: Setting,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> JointReport:
    """Run a policy over the bars of several symbols on one account, in a span of IST dates, both inclusive.

    Each symbol begins at its first session that has its warm-up (or at `first`); before, its policy is not asked.

    Args:
        name: of the policy.
        policy: decides for every symbol; one that learns while it trades learns each apart.
        markets: one per symbol, in any order.
        setting: the terms; the balance is that of the whole account.
        first: first date.
        last: last date.

    Raises:
        JointError: no market, or two of one symbol.
        HistoryError: a symbol has too few bars before the span for its warm-up.
        BarsError: a symbol is not in the span, or the intervals differ.
        CostError: no charge schedule is known for a date.
    """
    if not markets:
        raise JointError("expected the bars of at least one symbol, found none")
    stocks = [instrument(bars.symbol, derivatives=bars.derivatives) for bars in markets]
    interval = markets[0].interval
    session = JointSession(stocks, interval, setting.state, setting.account, setting.costs)
    exchange = JointExchange(stocks, interval, setting.account, setting.costs)
    trading = []
    for bars in markets:
        history, span = split_history(bars, setting.state, first, last)
        trading.append(span)
        for bar in history:
            session.warm(bars.symbol, bar)
            exchange.warm(bars.symbol, bar)
    policies = {symbol: policy.begin() for symbol in session.symbols}
    recorders = {symbol: Recorder() for symbol in session.symbols}
    dropped: Counter[str] = Counter()
    for moment in moments(trading):
        session.settle(exchange.fills(moment))
        seen = session.observe(moment)
        choices = {}
        for symbol, observation in seen.items():
            policies[symbol].learn(moment.bars[symbol])
            decision = policies[symbol].act(observation.state, observation.mask)
            choices[symbol] = Choice(decision.action, decision.confidence)
        orders = session.order(choices)
        dropped.update(session.dropped.values())
        for symbol, observation in seen.items():
            quantity = orders[symbol].quantity if symbol in orders else 0
            place = session.symbols.index(symbol)
            account = session.accounts[place : place + 1]
            recorders[symbol].append(moment.time_ns, observation, choices[symbol].action, quantity, account)
        if session.ruined:
            break
        exchange.submit(orders)
    traces = {symbol: recorder.trace() for symbol, recorder in recorders.items() if len(recorder)}
    return judge_joint(name, traces, setting, dropped)


def judge_joint(
    name: str, traces: Mapping[str, Trace], setting: Setting, dropped: Mapping[str, int] | None = None
) -> JointReport:
    """The report of the traces of an account's symbols, wherever they were recorded."""
    by_name = dict(sorted(traces.items()))
    trades = {symbol: trades_of(trace) for symbol, trace in by_name.items()}
    figures = joint_performance(by_name, trades, setting.account.balance_paise, setting.sessions_per_year)
    return JointReport(name, by_name, figures, trades, dict(sorted((dropped or {}).items())))


def _in_rupees(paise: int) -> str:
    return str(Decimal(paise).scaleb(-2))
