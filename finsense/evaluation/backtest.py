"""A policy over history, one bar after the other, through the session and the exchange that paper trading uses."""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.exchange import SimulatedExchange
from finsense.account.rules import AccountRules
from finsense.account.session import Session
from finsense.account.trace import Recorder, Trace
from finsense.evaluation.metrics import Performance, performance
from finsense.evaluation.trades import Trade, round_trips
from finsense.market.bars import IST_OFFSET_NS, Bars
from finsense.market.calendar import DAY_NS, session_date
from finsense.market.costs import LINES, ChargeRules, charge_lines
from finsense.market.instruments import instrument
from finsense.model.policy import Policy
from finsense.state.span import split_history
from finsense.state.spec import StateSpec


@dataclass(frozen=True)
class Setting:
    """Under which terms a policy trades.

    Attributes:
        state: what it sees.
        account: what it may do.
        costs: what it pays.
        sessions_per_year: for annual figures.
    """

    state: StateSpec
    account: AccountRules
    costs: ChargeRules
    sessions_per_year: int


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        name: of the policy.
        symbol: what was traded.
        trace: everything, bar by bar.
        performance: the figures.
        trades: the round trips.
    """

    name: str
    symbol: str
    trace: Trace
    performance: Performance
    trades: tuple[Trade, ...]

    def summary(self) -> dict[str, Any]:
        """The documented JSON: counts, money as decimal strings in rupees, metrics, hashes."""
        figures = self.performance.as_dict()
        return {
            "bars": len(self.trace.time_ns),
            "decisions": len(self.trace.actions),
            "orders": int(np.count_nonzero(self.trace.orders)),
            "fills": self.performance.fills,
            "trades": self.performance.trades,
            "final_equity": figures["final_equity_rupees"],
            "metrics": figures,
            "sha256": self.trace.hashes(),
        }


def backtest(
    name: str,
    policy: Policy,
    bars: Bars,
    setting: Setting,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> Report:
    """Run a policy over the bars of a span of IST dates, both inclusive; bars before it are the warm-up.

    Raises:
        HistoryError: too few bars before the span for the warm-up.
        BarsError: the span is not in the data.
        CostError: no charge schedule is known for a date.
    """
    history, trading = split_history(bars, setting.state, first, last)
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    session = Session(stock, bars.interval, setting.state, setting.account, setting.costs)
    exchange = SimulatedExchange(stock, bars.interval, setting.account, setting.costs)
    recorder, policy = Recorder(), policy.begin()
    for bar in history:
        session.warm(bar)
        exchange.warm(bar)
    for bar in trading:
        session.settle(exchange.fills(bar))
        seen = session.observe(bar)
        if seen is None:
            continue
        policy.learn(bar)
        decision = policy.act(seen.state, seen.mask)
        order = session.order(decision.action)
        recorder.append(bar.time_ns, seen, decision.action, order.quantity if order else 0, session.account)
        if session.ruined:
            break
        if order:
            exchange.submit(order)
    return judge(name, bars.symbol, recorder.trace(), setting)


def judge(name: str, symbol: str, trace: Trace, setting: Setting) -> Report:
    """The report of a trace, wherever it was recorded."""
    filled, fills = trace.all_fills()
    books = {
        "time_ns": trace.time_ns,
        "close_paise": trace.close_paise,
        "fill_bar": filled,
        "fill_quantity": fills[:, 0],
        "fill_price_paise": fills[:, 1],
        "fill_charges_paise": fills[:, 2],
    }
    figures = performance(
        **books,
        day=days_of(trace),
        equity_paise=trace.equity_paise,
        position=trace.position,
        balance_paise=setting.account.balance_paise,
        sessions_per_year=setting.sessions_per_year,
    )
    return Report(name, symbol, trace, figures, round_trips(**books))


def days_of(trace: Trace) -> NDArray[np.int64]:
    """(n,) int64, IST day number of each bar of a trace."""
    days: NDArray[np.int64] = (trace.time_ns + IST_OFFSET_NS) // DAY_NS
    return days


def charge_totals(trace: Trace, setting: Setting) -> dict[str, int]:
    """What each line of the charges came to, paise; they sum to the charges of the fills, to the paisa."""
    intraday = setting.account.product == "intraday"
    schedules = setting.costs.schedules()
    totals = dict.fromkeys((*LINES, "dp"), 0)
    for row, fill in zip(*trace.all_fills(), strict=True):
        quantity, price_paise, charges_paise = (int(value) for value in fill)
        schedule = schedules[setting.costs.schedule_index(session_date(int(trace.time_ns[row])))]
        lines = charge_lines(schedule, intraday, quantity, price_paise)
        for line, paise in zip(LINES, lines, strict=True):
            totals[line] += int(paise)
        totals["dp"] += charges_paise - int(sum(lines))
    return totals
