"""The report of a backtest as one HTML file that needs nothing else: no network, no library, print-ready."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from finsense.evaluation import figures, trade_figures
from finsense.evaluation.charts import Figure
from finsense.evaluation.metrics import Performance, session_equity, session_returns
from finsense.evaluation.tearsheet_section import Section
from finsense.evaluation.trades import Trade, closed_net_paise
from finsense.evaluation.wording import MISSING, TIMES, day_text, decimal, grouped, ist, moment_text, percent, rupees

_LAST_TRADES = 50
# Below this the difference to the best baseline may well be chance (two standard errors).
_TELLING_T = 2.0
_TIMING = "decide at the close, fill at the next open, mark at its close"

_ROWS: tuple[tuple[str, Callable[[Performance], str]], ...] = (
    ("Final equity", lambda p: rupees(p.final_equity_paise)),
    ("Total return", lambda p: percent(p.total_return, signed=True)),
    ("Annual return (CAGR)", lambda p: percent(p.annual_return, signed=True)),
    ("Annual volatility", lambda p: percent(p.annual_volatility)),
    ("Sharpe", lambda p: decimal(p.sharpe)),
    ("Sortino", lambda p: decimal(p.sortino)),
    ("Calmar", lambda p: decimal(p.calmar)),
    ("Max drawdown", lambda p: percent(p.max_drawdown)),
    ("Its length, sessions", lambda p: grouped(p.max_drawdown_sessions)),
    ("Closed trades", lambda p: grouped(p.trades)),
    ("Win rate", lambda p: percent(p.win_rate, places=1)),
    ("Profit factor", lambda p: decimal(p.profit_factor)),
    ("Expectancy per trade", lambda p: _rupees_or_dash(p.expectancy_rupees)),
    ("Bars held, mean", lambda p: decimal(p.mean_bars_held, 1)),
    ("Turnover per session", lambda p: decimal(p.turnover) + TIMES if math.isfinite(p.turnover) else MISSING),
    ("Exposure", lambda p: percent(p.exposure, places=1)),
    ("Gain before charges", lambda p: rupees(p.gross_paise, signed=True)),
    ("Charges", lambda p: rupees(p.charges_paise)),
    ("Charges / gain before", lambda p: percent(p.charge_share, places=1)),
    ("Gain after charges", lambda p: rupees(p.net_paise, signed=True)),
)


class TearsheetError(ValueError):
    """A report that would contradict itself."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One policy over the span of the report.

    Attributes:
        name: as the report calls it.
        equity_paise: (n,) int64, marked at each bar's close.
        performance: the figures of this curve.
    """

    name: str
    equity_paise: NDArray[np.int64]
    performance: Performance


@dataclass(frozen=True, slots=True, kw_only=True)
class TearsheetData:
    """Everything a report shows; parts that are None or empty are left out.

    Attributes:
        symbol: what was traded.
        interval: of the bars, "5m".
        time_ns: (n,) int64, start of each bar, ns UTC.
        day: (n,) int64, number of the session each bar belongs to.
        balance_paise: starting capital of every contender.
        policy: the one that is judged.
        baselines: what it is judged against.
        bundle_id: of the deployed model.
        close_paise: (n,) int64, for the price figure (together with the fills).
        fill_bar: (m,) int64, rising; fill_quantity (m,) int64 shares, negative for a sale; fill_price_paise (m,) int64.
        trades: the policy's round trips.
        charge_lines: line (brokerage, stt, exchange_txn, ipft, sebi, stamp_duty, gst, dp) -> paise; they sum to the
            charges of the policy's performance.
        actions: action -> how often it was chosen.
        parity: driver -> sha256 of its session.
        config_text: the resolved YAML.
        facts: further facts about the run, label -> text.
        verdict: replaces the sentence that compares the policy with the best baseline.
        log_equity: logarithmic equity axis.
        sections: what else was judged; they stand before the key figures.

    Raises:
        TearsheetError: series of different length, or charge lines that do not sum to the charges.
    """

    symbol: str
    interval: str
    time_ns: NDArray[np.int64]
    day: NDArray[np.int64]
    balance_paise: int
    policy: Contender
    baselines: tuple[Contender, ...] = ()
    bundle_id: str | None = None
    close_paise: NDArray[np.int64] | None = None
    fill_bar: NDArray[np.int64] | None = None
    fill_quantity: NDArray[np.int64] | None = None
    fill_price_paise: NDArray[np.int64] | None = None
    trades: tuple[Trade, ...] | None = None
    charge_lines: Mapping[str, int] | None = None
    actions: Mapping[str, int] | None = None
    parity: Mapping[str, str] | None = None
    config_text: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    verdict: str | None = None
    log_equity: bool = False
    sections: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        bars = len(self.time_ns)
        lengths = {"day": len(self.day), **{one.name: len(one.equity_paise) for one in self.contenders}}
        if self.close_paise is not None:
            lengths["close"] = len(self.close_paise)
        wrong = {name: length for name, length in lengths.items() if length != bars}
        if wrong or not bars:
            raise TearsheetError(f"every series needs one value per bar ({bars} bars), found {wrong or 'no bars'}")
        names = [one.name for one in self.contenders]
        if len(set(names)) != len(names):
            raise TearsheetError(f"the policy and the baselines need different names, found {names}")
        if self.charge_lines is not None:
            total, charges = sum(self.charge_lines.values()), self.policy.performance.charges_paise
            if total != charges:
                raise TearsheetError(f"the charge lines sum to {total} paise, but the policy paid {charges}")

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The policy first, then the baselines."""
        return (self.policy, *self.baselines)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence in plain words and where the policy stands: "ahead", "behind", "level" or "alone"."""

    text: str
    standing: str


def verdict(data: TearsheetData) -> Verdict:
    """Compare the policy with the baseline of the highest total return, and say whether chance explains it."""
    mine = data.policy.performance
    earned = f"{data.policy.name} returned {percent(mine.total_return, signed=True)} after charges"
    if not data.baselines:
        return Verdict(data.verdict or f"{earned}; there is no baseline to compare it with.", "alone")
    best = max(data.baselines, key=lambda one: one.performance.total_return)
    theirs = best.performance
    lead = mine.total_return - theirs.total_return
    standing = "ahead" if lead > 0 else "behind" if lead < 0 else "level"
    if data.verdict:
        return Verdict(data.verdict, standing)
    distance = f"{standing} by {decimal(abs(lead) * 100)} percentage points" if lead else "level"
    text = (
        f"{earned}; the best baseline, {best.name}, returned {percent(theirs.total_return, signed=True)}: {distance}. "
        f"Worst drawdown {percent(mine.max_drawdown)} against {percent(theirs.max_drawdown)}."
    )
    return Verdict(f"{text} {_chance(data, best)}".strip(), standing)


def _chance(data: TearsheetData, rival: Contender) -> str:
    """Paired t statistic of the session returns, in words; empty where it is undefined."""
    ends = [session_equity(one.equity_paise, data.day) for one in (data.policy, rival)]
    lead = session_returns(ends[0], data.balance_paise) - session_returns(ends[1], data.balance_paise)
    if len(lead) < 2 or not np.isfinite(lead).all() or lead.min() == lead.max():
        return ""
    t = float(lead.mean() / (lead.std(ddof=1) / math.sqrt(len(lead))))
    words = (
        "more than chance alone would explain" if abs(t) >= _TELLING_T else "chance alone could explain the difference"
    )
    return f"Session by session t = {decimal(t)} over {grouped(len(lead))} sessions: {words}."


def write_report(path: Path, report: TearsheetData) -> Path:
    """Write the report as one self-contained HTML file; an older one is replaced only when the new one is whole.

    Raises:
        OSError: the file cannot be written.
    """
    text = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def render(report: TearsheetData) -> str:
    """The report as HTML."""
    environment = Environment(
        loader=PackageLoader("finsense", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    times = ist(report.time_ns)
    one_day = str(times[0])[:10] == str(times[-1])[:10]
    page = environment.get_template("tearsheet.html.j2")
    return page.render(
        report=report,
        verdict=verdict(report),
        span=day_text(times[0]) if one_day else f"{day_text(times[0])} to {day_text(times[-1])}",
        sessions=grouped(report.policy.performance.sessions),
        bars=grouped(report.policy.performance.bars),
        rows=[(label, [text(one.performance) for one in report.contenders]) for label, text in _ROWS],
        wide=_wide_figures(report, times),
        halves=_trade_figures(report),
        closing=_closing_figures(report),
        trades=_trade_rows(report),
        facts=_facts(report),
        parity_equal=len(set((report.parity or {}).values())) == 1,
        numbers={one.name: one.performance.as_dict() for one in report.contenders},
    )


def _wide_figures(report: TearsheetData, times: figures.Times) -> list[Figure]:
    curves = {one.name: one.equity_paise for one in report.contenders}
    sessions = times[np.append(np.flatnonzero(np.diff(report.day)), len(times) - 1)]
    ends = {name: session_equity(equity, report.day) for name, equity in curves.items()}
    drawn = [
        figures.equity_figure(times, curves, report.balance_paise, log=report.log_equity),
        figures.underwater_figure(sessions, ends, report.balance_paise),
    ]
    fills = (report.close_paise, report.fill_bar, report.fill_quantity, report.fill_price_paise)
    close, bar, quantity, price = fills
    if close is not None and bar is not None and quantity is not None and price is not None:
        drawn.append(figures.price_figure(times, close, bar, quantity, price))
    drawn.append(figures.returns_figure(sessions, ends[report.policy.name], report.balance_paise))
    return drawn


def _trade_figures(report: TearsheetData) -> list[Figure]:
    closed = [trade for trade in report.trades or () if not trade.open]
    if not closed:
        return []
    return [trade_figures.trade_histogram(closed_net_paise(closed)), trade_figures.trade_scatter(closed)]


def _closing_figures(report: TearsheetData) -> list[Figure]:
    drawn = []
    result = report.policy.performance
    if report.charge_lines is not None:
        drawn.append(trade_figures.charges_figure(result.gross_paise, report.charge_lines, result.net_paise))
    if report.actions:
        drawn.append(trade_figures.actions_figure(report.actions))
    return drawn


def _trade_rows(report: TearsheetData) -> list[dict[str, Any]]:
    """The last trades, newest first, as text."""
    rows = []
    for trade in reversed((report.trades or ())[-_LAST_TRADES:]):
        entered, left = ist(np.array([trade.entry_time_ns, trade.exit_time_ns]))
        rows.append(
            {
                "entry": moment_text(entered),
                "exit": "open" if trade.open else moment_text(left),
                "side": "long" if trade.direction > 0 else "short",
                "quantity": grouped(trade.quantity_max),
                "entry_price": rupees(round(trade.entry_price_paise)),
                "exit_price": rupees(round(trade.exit_price_paise)),
                "bars": grouped(trade.bars_held),
                "gross": rupees(trade.gross_paise, signed=True),
                "charges": rupees(trade.charges_paise),
                "net": rupees(trade.net_paise, signed=True),
                "won": trade.net_paise > 0,
            }
        )
    return rows


def _facts(report: TearsheetData) -> dict[str, str]:
    result = report.policy.performance
    return {
        "Starting capital": rupees(report.balance_paise),
        "Timing": _TIMING,
        "Risk figures": (
            f"from session returns, first session from the starting capital; annualised with "
            f"{result.sessions_per_year} sessions per year, sample deviation (ddof 1), risk-free rate 0"
        ),
        "Trades": "flat to flat, net of charges; an open trade counts in the gains, not in the trade figures",
        **report.facts,
    }


def _rupees_or_dash(amount: float) -> str:
    return rupees(round(amount * 100), signed=True) if math.isfinite(amount) else MISSING
