"""The figures of the report that run over time, each a function from plain arrays to a finished chart."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.charts import Chart, Figure, Shape, decimate, padded
from finsense.evaluation.metrics import drawdowns, session_returns
from finsense.evaluation.wording import (
    MONTHS,
    day_text,
    grouped,
    moment_text,
    month_text,
    percent,
    rupees,
    short_day_text,
    whole_rupees,
)

Times = NDArray[np.datetime64]

# Margins (top, right, bottom, left) with room for a legend above.
_KEYED = (38, 14, 26, 92)
_MARK_WIDTH = 8
_READOUTS = 300
_BARS_OF_SESSIONS = 70
_TICK_NAMES: dict[str, Callable[[np.datetime64], str]] = {
    "Y": lambda moment: str(moment)[:4],
    "M": month_text,
    "D": short_day_text,
    "h": moment_text,
}


def time_ticks(times: Times) -> list[tuple[float, str]]:
    """Where a year, month, day or hour begins, whichever gives a handful of ticks, with its name.

    Args:
        times: (n,) datetime64, wall-clock times of the points, which stand one unit apart on the axis.
    """
    for unit in _TICK_NAMES:
        starts = np.flatnonzero(np.diff(times.astype(f"datetime64[{unit}]").astype(np.int64))) + 1
        if unit in "Dh":
            starts = np.concatenate(([0], starts))
        if len(starts) >= 4:
            break
    stride = -(-len(starts) // 9)
    return [(float(start), _TICK_NAMES[unit](times[start])) for start in starts[::stride].tolist()]


def equity_figure(times: Times, curves: Mapping[str, NDArray[np.int64]], balance_paise: int, *, log: bool) -> Figure:
    """Equity of the policy (the first curve) and the baselines at each bar's close, from one starting capital.

    Args:
        times: (n,) datetime64, wall clock.
        curves: name -> (n,) int64 equity in paise.
        balance_paise: starting capital.
        log: logarithmic axis, where every curve stays above 0.
    """
    paths = {name: np.concatenate(([balance_paise], equity)) / 100.0 for name, equity in curves.items()}
    every = np.concatenate(list(paths.values()))
    log = log and bool(every.min() > 0.0)
    span = (every.min() * 0.98, every.max() * 1.02) if log else padded(every)
    chart = Chart(
        "Equity of the policy and the baselines", x=(-1, len(times) - 1), y=span, height=330, log=log, margins=_KEYED
    )
    chart.y_axis(whole_rupees)
    chart.x_axis(time_ticks(times))
    for index, path in reversed(list(enumerate(paths.values()))):
        kept = decimate(path, chart.columns)
        chart.line(kept - 1, path[kept], f"line s{index % 6}")
    for index, name in enumerate(paths):
        chart.legend(name, f"line s{index % 6}")
    shown = _readouts(len(times))
    series = [[name, [whole_rupees(value) for value in path[shown + 1].tolist()]] for name, path in paths.items()]
    note = f"marked at each bar's close, after charges{'; logarithmic axis' if log else ''}"
    return Figure("Equity", note, chart.svg(), _hover(chart, times, shown, series))


def underwater_figure(times: Times, curves: Mapping[str, NDArray[np.int64]], balance_paise: int) -> Figure:
    """Distance below the highest equity so far at each session's end; the first curve is the policy.

    Args:
        times: (s,) datetime64, one moment in each session.
        curves: name -> (s,) int64 equity in paise at the session's end.
        balance_paise: starting capital, the first peak.
    """
    depths = {name: np.concatenate(([0.0], drawdowns(equity, balance_paise))) for name, equity in curves.items()}
    low = min(float(depth.min()) for depth in depths.values())
    chart = Chart(
        "Drawdown at session ends", x=(-1, len(times) - 1), y=(min(low * 1.08, -0.001), 0.0), height=190, margins=_KEYED
    )
    chart.y_axis(_axis_percent(low))
    chart.x_axis(time_ticks(times))
    xs = np.arange(-1, len(times))
    for index, depth in reversed(list(enumerate(depths.values()))):
        kept = decimate(depth, chart.columns)
        if index == 0:
            chart.area(xs[kept], depth[kept], "fill s0")
        chart.line(xs[kept], depth[kept], f"line s{index % 6}")
    for index, name in enumerate(depths):
        chart.legend(name, f"line s{index % 6}")
    shown = _readouts(len(times))
    series = [[name, [percent(value) for value in depth[shown + 1].tolist()]] for name, depth in depths.items()]
    return Figure(
        "Drawdown",
        "at session ends, below the highest so far",
        chart.svg(),
        _hover(chart, times, shown, series, day_text),
    )


def price_figure(
    times: Times,
    close_paise: NDArray[np.int64],
    fill_bar: NDArray[np.int64],
    fill_quantity: NDArray[np.int64],
    fill_price_paise: NDArray[np.int64],
) -> Figure:
    """Price with buys and sells; at most one mark per side and width of a mark.

    Args:
        times: (n,) datetime64, wall clock.
        close_paise: (n,) int64.
        fill_bar: (m,) int64, rising.
        fill_quantity: (m,) int64 shares, negative for a sale.
        fill_price_paise: (m,) int64.
    """
    price = close_paise / 100.0
    span = padded(np.concatenate((price, fill_price_paise / 100.0)))
    chart = Chart("Price with buys and sells", x=(-1, len(times) - 1), y=span, height=300, margins=_KEYED)
    chart.y_axis(whole_rupees)
    chart.x_axis(time_ticks(times))
    chart.legend("close", "line price")
    drawn = 0
    sides: tuple[tuple[str, Shape, NDArray[np.bool_]], ...] = (
        ("buy", "up", fill_quantity > 0),
        ("sell", "down", fill_quantity < 0),
    )
    for side, shape, mine in sides:
        rows = np.flatnonzero(mine)
        columns = fill_bar[rows] * chart.columns // (_MARK_WIDTH * len(times))
        rows = rows[np.unique(columns, return_index=True)[1]]
        drawn += len(rows)
        chart.markers(fill_bar[rows], fill_price_paise[rows] / 100.0, shape, side)
        chart.legend(f"{side} ({grouped(int(mine.sum()))})", side, shape)
    kept = decimate(price, chart.columns)
    chart.line(kept, price[kept], "line price")
    shown = _readouts(len(times))
    thinned = f"{grouped(drawn)} of {grouped(len(fill_bar))} fills drawn, thinned to what the width can show"
    note = thinned if drawn < len(fill_bar) else ""
    series = [["close", [rupees(value) for value in close_paise[shown].tolist()]]]
    return Figure("Price and fills", note, chart.svg(), _hover(chart, times, shown, series))


def returns_figure(times: Times, session_equity_paise: NDArray[np.int64], balance_paise: int) -> Figure:
    """Returns of each session as bars, or of each month as a heat map where there are many sessions.

    Args:
        times: (s,) datetime64, one moment in each session.
        session_equity_paise: (s,) int64.
        balance_paise: starting capital.
    """
    if len(times) > _BARS_OF_SESSIONS:
        return _month_map(times, session_equity_paise, balance_paise)
    returns = session_returns(session_equity_paise, balance_paise)
    finite = returns[np.isfinite(returns)]
    chart = Chart(
        "Return of each session", x=(-0.6, len(times) - 0.4), y=padded(finite, zero=True, least=0.01), height=210
    )
    chart.y_axis(_axis_percent(float(np.abs(finite).max())))
    chart.x_axis(time_ticks(times))
    for index, value in enumerate(returns.tolist()):
        chart.bar(
            (index - 0.36, index + 0.36), (0.0, 0.0 if math.isnan(value) else value), "gain" if value >= 0 else "loss"
        )
    series = [["return", [percent(value, signed=True) for value in returns.tolist()]]]
    hover = _hover(chart, times, np.arange(len(times)), series, day_text)
    return Figure("Return of each session", "after charges", chart.svg(), hover)


def _month_map(times: Times, session_equity_paise: NDArray[np.int64], balance_paise: int) -> Figure:
    months = times.astype("datetime64[M]").astype(np.int64)
    ends = np.append(np.flatnonzero(np.diff(months)), len(months) - 1)
    monthly = session_returns(session_equity_paise[ends], balance_paise)
    years = months[ends] // 12
    year_ends = np.append(np.flatnonzero(np.diff(years)), len(years) - 1)
    yearly = session_returns(session_equity_paise[ends][year_ends], balance_paise)
    rows = int(years[-1] - years[0]) + 1
    chart = Chart("Return of each month", x=(0, 13.2), y=(0, rows), height=30 + 27 * rows, margins=(24, 10, 6, 56))
    middles = [index + 0.5 + 0.2 * (index == 12) for index in range(13)]
    for middle, name in zip(middles, (*MONTHS, "Year"), strict=True):
        chart.text(chart.x_at(middle), 16, name, "tick", "middle")
    for row in range(rows):
        chart.text(46, chart.y_at(rows - row - 0.5) + 4, str(1970 + int(years[0]) + row), "tick", "end")
    strongest = float(np.nanmax(np.abs(monthly))) or 1.0
    cells = [(int(m) % 12, int(y), r) for m, y, r in zip(months[ends], years, monthly, strict=True)]
    cells += [(12, int(y), r) for y, r in zip(years[year_ends], yearly, strict=True)]
    for column, year, value in cells:
        middle, y = middles[column], rows - (year - int(years[0])) - 0.5
        opacity = 0.0 if math.isnan(value) else 0.08 + 0.47 * min(abs(value) / strongest, 1.0)
        chart.bar((middle - 0.47, middle + 0.47), (y - 0.44, y + 0.44), "gain" if value >= 0 else "loss", opacity)
        chart.text(chart.x_at(middle), chart.y_at(y) + 4, percent(value, places=1, signed=True), "cell", "middle")
    return Figure(
        "Return of each month", "after charges, in percent of the equity at the end of the month before", chart.svg()
    )


def _readouts(points: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, points - 1, min(points, _READOUTS)).astype(np.int64))


def _hover(
    chart: Chart,
    times: Times,
    shown: NDArray[np.int64],
    series: list[list[Any]],
    label: Callable[[np.datetime64], str] = moment_text,
) -> dict[str, Any]:
    return {
        "x": [round(chart.x_at(index), 1) for index in shown.tolist()],
        "labels": [label(times[index]) for index in shown.tolist()],
        "series": series,
    }


def _axis_percent(size: float) -> Callable[[float], str]:
    places = 0 if abs(size) >= 0.05 else 1 if abs(size) >= 0.005 else 2
    return lambda value: percent(value, places=places)
