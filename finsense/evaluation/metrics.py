"""Performance of an account over bars: returns and risk per session, trades, turnover, charges."""

import math
from dataclasses import dataclass, fields
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.trades import closed_net_paise, expectancy_rupees, profit_factor, round_trips, win_rate

# Median number of NSE sessions in the years 2015 to 2026, special sessions included.
SESSIONS_PER_YEAR = 248


class MetricsError(ValueError):
    """Series that cannot be judged, or that contradict each other."""


def session_equity(equity_paise: NDArray[np.int64], day: NDArray[np.int64]) -> NDArray[np.int64]:
    """Equity at the last bar of each session: (s,) int64 paise, from (n,) equity and (n,) session day numbers."""
    last = np.append(np.flatnonzero(np.diff(day)), len(day) - 1)
    ends: NDArray[np.int64] = equity_paise[last]
    return ends


def session_returns(session_equity_paise: NDArray[np.int64], balance_paise: int) -> NDArray[np.float64]:
    """Simple return of each session, (s,) float64 fractions; the first counts from the starting capital.

    NaN for a session that began with nothing left: there is no capital to earn a return on.
    """
    before = np.concatenate(([balance_paise], session_equity_paise[:-1]))
    returns = np.full(len(before), math.nan)
    np.divide(session_equity_paise - before, before, out=returns, where=before > 0)
    return returns


def total_return(session_equity_paise: NDArray[np.int64], balance_paise: int) -> float:
    """Final equity over the starting capital, less 1."""
    return (int(session_equity_paise[-1]) - balance_paise) / balance_paise


def annual_return(total: float, sessions: int, sessions_per_year: int) -> float:
    """Compound annual growth rate of a total return earned in so many sessions.

    NaN where more than everything was lost, or where the rate is too large for a float.
    """
    if total < -1.0:
        return math.nan
    try:
        return float((1.0 + total) ** (sessions_per_year / sessions) - 1.0)
    except OverflowError:
        return math.nan


def annual_volatility(returns: NDArray[np.float64], sessions_per_year: int) -> float:
    """Standard deviation (ddof 1) of session returns x sqrt(sessions per year); NaN with fewer than 2 sessions."""
    return _deviation(returns) * math.sqrt(sessions_per_year)


def sharpe(returns: NDArray[np.float64], sessions_per_year: int) -> float:
    """Mean over standard deviation (ddof 1) of session returns x sqrt(sessions per year), risk-free rate 0.

    NaN at zero volatility (empyrical: inf, or NaN when the mean is 0 too) and with fewer than 2 sessions.
    """
    deviation = _deviation(returns)
    return float(returns.mean()) / deviation * math.sqrt(sessions_per_year) if deviation > 0.0 else math.nan


def sortino(returns: NDArray[np.float64], sessions_per_year: int) -> float:
    """Mean over downside deviation of session returns x sqrt(sessions per year), required return 0.

    The downside deviation is the root of the mean over ALL sessions of min(return, 0) squared.
    NaN where no session lost (empyrical: inf, or NaN when the mean is 0 too) and with fewer than 2 sessions.
    """
    if len(returns) < 2:
        return math.nan
    downside = math.sqrt(float(np.square(np.minimum(returns, 0.0)).mean()))
    return float(returns.mean()) / downside * math.sqrt(sessions_per_year) if downside > 0.0 else math.nan


def drawdowns(session_equity_paise: NDArray[np.int64], balance_paise: int) -> NDArray[np.float64]:
    """Equity at each session's end over the highest so far (starting capital included), less 1: (s,) float64 <= 0."""
    path = np.concatenate(([balance_paise], session_equity_paise))
    peak = np.maximum.accumulate(path)
    return ((path - peak) / peak)[1:]


def max_drawdown(session_equity_paise: NDArray[np.int64], balance_paise: int) -> float:
    """The deepest drawdown at a session's end, a fraction <= 0; the starting capital counts as the first peak."""
    return float(drawdowns(session_equity_paise, balance_paise).min())


def max_drawdown_sessions(session_equity_paise: NDArray[np.int64], balance_paise: int) -> int:
    """Sessions from the peak before the deepest drawdown to its recovery, or to the end without one; 0: none."""
    depth = drawdowns(session_equity_paise, balance_paise)
    trough = int(depth.argmin()) + 1
    if depth[trough - 1] == 0.0:
        return 0
    path = np.concatenate(([balance_paise], session_equity_paise))
    level = path[:trough].max()
    peak = int(np.flatnonzero(path[:trough] == level)[-1])
    recovered = np.flatnonzero(path[trough:] >= level)
    end = trough + int(recovered[0]) if len(recovered) else len(path) - 1
    return end - peak


def calmar(annual: float, deepest: float) -> float:
    """Annual return over the depth of the deepest drawdown; NaN without one."""
    return annual / abs(deepest) if deepest < 0.0 else math.nan


def charge_share(gross_paise: int, charges_paise: int) -> float:
    """Charges over the gain before charges; above 1 they ate all of it. NaN where there was no gain to share."""
    return charges_paise / gross_paise if gross_paise > 0 else math.nan


def _deviation(returns: NDArray[np.float64]) -> float:
    """Sample standard deviation; exactly 0 for equal returns, where rounding would leave some dust."""
    if len(returns) < 2:
        return math.nan
    return 0.0 if returns.min() == returns.max() else float(returns.std(ddof=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """What an account did over a span of bars; fractions, never percents; NaN where a figure is undefined.

    Risk figures stand on session returns (equity at each session's last bar, the first session measured from the
    starting capital) and are annualised with `sessions_per_year`. Trade figures count closed round trips only, net of
    charges; the amounts in paise include the open one, marked at the last close. net = gross - charges = final
    equity - starting capital, exactly.

    Attributes:
        turnover: traded value over the average equity, per session.
        exposure: share of bars with a position at their close.
        charge_share: charges over the gain before charges; NaN where there was none.
        max_drawdown_sessions: from the peak before the deepest drawdown to its recovery or to the end.
    """

    sessions_per_year: int
    sessions: int
    bars: int
    final_equity_paise: int
    total_return: float
    annual_return: float
    annual_volatility: float
    sharpe: float
    sortino: float
    calmar: float
    max_drawdown: float
    max_drawdown_sessions: int
    fills: int
    trades: int
    open_trades: int
    win_rate: float
    profit_factor: float
    expectancy_rupees: float
    mean_bars_held: float
    median_bars_held: float
    turnover: float
    exposure: float
    charge_share: float
    traded_value_paise: int
    gross_paise: int
    charges_paise: int
    net_paise: int

    def as_dict(self) -> dict[str, int | float | str | None]:
        """JSON-safe: money as decimal strings in rupees (names end in `_rupees`), undefined and infinite as None."""
        plain: dict[str, int | float | str | None] = {}
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if not math.isfinite(value):
                plain[name.replace("_paise", "_rupees")] = None
            elif name.endswith("_paise"):
                plain[name.replace("_paise", "_rupees")] = str(Decimal(value).scaleb(-2))
            elif name.endswith("_rupees"):
                plain[name] = str(Decimal(value).quantize(Decimal("0.01"), ROUND_HALF_UP))
            else:
                plain[name] = value
        return plain


def performance(
    *,
    time_ns: NDArray[np.int64],
    day: NDArray[np.int64],
    equity_paise: NDArray[np.int64],
    position: NDArray[np.int64],
    close_paise: NDArray[np.int64],
    fill_bar: NDArray[np.int64],
    fill_quantity: NDArray[np.int64],
    fill_price_paise: NDArray[np.int64],
    fill_charges_paise: NDArray[np.int64],
    balance_paise: int,
    sessions_per_year: int = SESSIONS_PER_YEAR,
) -> Performance:
    """Judge an account that started flat with `balance_paise`.

    Args:
        time_ns: (n,) int64, start of each bar, ns UTC.
        day: (n,) int64, number of the session each bar belongs to, never falling.
        equity_paise: (n,) int64, marked at each bar's close.
        position: (n,) int64, shares at each bar's close, negative when short.
        close_paise: (n,) int64, the price of that mark.
        fill_bar: (m,) int64, the bar at whose open each fill happened.
        fill_quantity: (m,) int64, shares, negative for a sale.
        fill_price_paise: (m,) int64.
        fill_charges_paise: (m,) int64, all charges of the fill.
        balance_paise: starting capital.
        sessions_per_year: for annual figures.

    Raises:
        MetricsError: no bars, series of different length, or an equity or a position that the fills do not explain.
        TradesError: fills that are not in order.
    """
    _check_series(time_ns, day, equity_paise, position, close_paise, balance_paise, sessions_per_year)
    trades = round_trips(
        time_ns=time_ns,
        close_paise=close_paise,
        fill_bar=fill_bar,
        fill_quantity=fill_quantity,
        fill_price_paise=fill_price_paise,
        fill_charges_paise=fill_charges_paise,
    )
    final = int(equity_paise[-1])
    net = sum(trade.net_paise for trade in trades)
    _check_books(position, fill_bar, fill_quantity, net, final - balance_paise)
    ends = session_equity(equity_paise, day)
    returns = session_returns(ends, balance_paise)
    total = total_return(ends, balance_paise)
    annual = annual_return(total, len(ends), sessions_per_year)
    deepest = max_drawdown(ends, balance_paise)
    charges = int(fill_charges_paise.sum())
    traded = int((np.abs(fill_quantity) * fill_price_paise).sum())
    average_equity = float(equity_paise.mean())
    closed = closed_net_paise(trades)
    held = [trade.bars_held for trade in trades if not trade.open]
    return Performance(
        sessions_per_year=sessions_per_year,
        sessions=len(ends),
        bars=len(equity_paise),
        final_equity_paise=final,
        total_return=total,
        annual_return=annual,
        annual_volatility=annual_volatility(returns, sessions_per_year),
        sharpe=sharpe(returns, sessions_per_year),
        sortino=sortino(returns, sessions_per_year),
        calmar=calmar(annual, deepest),
        max_drawdown=deepest,
        max_drawdown_sessions=max_drawdown_sessions(ends, balance_paise),
        fills=len(fill_bar),
        trades=len(closed),
        open_trades=len(trades) - len(closed),
        win_rate=win_rate(closed),
        profit_factor=profit_factor(closed),
        expectancy_rupees=expectancy_rupees(closed),
        mean_bars_held=float(np.mean(held)) if held else math.nan,
        median_bars_held=float(np.median(held)) if held else math.nan,
        turnover=traded / average_equity / len(ends) if average_equity > 0.0 else math.nan,
        exposure=float(np.mean(position != 0)),
        charge_share=charge_share(net + charges, charges),
        traded_value_paise=traded,
        gross_paise=net + charges,
        charges_paise=charges,
        net_paise=net,
    )


def _check_series(
    time_ns: NDArray[np.int64],
    day: NDArray[np.int64],
    equity_paise: NDArray[np.int64],
    position: NDArray[np.int64],
    close_paise: NDArray[np.int64],
    balance_paise: int,
    sessions_per_year: int,
) -> None:
    lengths = [len(series) for series in (time_ns, day, equity_paise, position, close_paise)]
    if lengths[0] == 0 or len(set(lengths)) != 1:
        raise MetricsError(f"time, day, equity, position and close need one length above 0, found {lengths}")
    if balance_paise <= 0 or sessions_per_year <= 0:
        raise MetricsError(
            f"the starting capital and the sessions per year must be positive, found {balance_paise} paise "
            f"and {sessions_per_year}"
        )
    falling = np.flatnonzero(np.diff(day) < 0)
    if len(falling):
        first = [int(row) + 1 for row in falling[:3]]
        raise MetricsError(f"session days must never fall, found {len(falling)} bars before their time (bars {first})")


def _check_books(
    position: NDArray[np.int64], fill_bar: NDArray[np.int64], fill_quantity: NDArray[np.int64], net: int, gained: int
) -> None:
    """Refuse statistics about trades that are not the trades of this equity curve."""
    moved = np.zeros(len(position), dtype=np.int64)
    np.add.at(moved, fill_bar, fill_quantity)
    wrong = np.flatnonzero(np.cumsum(moved) != position)
    if len(wrong):
        raise MetricsError(
            f"the fills do not explain the position at {len(wrong)} bars (first {wrong[:3].tolist()}); "
            "pass every fill with the bar at whose open it happened"
        )
    if net != gained:
        raise MetricsError(
            f"the trades gained {net} paise but the equity {gained}: pass the price of every mark in close_paise "
            "and every charge with its fill"
        )
