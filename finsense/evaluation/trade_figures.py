"""The figures of the report about trades, charges and actions, each a function from plain data to a finished chart."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.charts import Chart, Figure, nice_ticks, padded
from finsense.evaluation.trades import Trade
from finsense.evaluation.wording import grouped, percent, rupees, whole_rupees

# Margins (top, right, bottom, left) of a chart half as wide as the page.
_HALF = (10, 12, 26, 78)
_CHARGE_NAMES = {
    "brokerage": "Brokerage",
    "stt": "STT",
    "exchange_txn": "Exchange charge",
    "ipft": "IPFT",
    "sebi": "SEBI fee",
    "stamp_duty": "Stamp duty",
    "gst": "GST",
    "dp": "Depository (DP)",
    "dp_charges": "Depository (DP)",
}


def trade_histogram(net_paise: NDArray[np.int64]) -> Figure:
    """How often which net result, over closed trades; zero is always an edge. `net_paise`: (k,) int64, k > 0."""
    net = net_paise / 100.0
    low, high = min(float(net.min()), 0.0), max(float(net.max()), 0.0)
    ticks = nice_ticks(low, high if high > low else low + 1.0, 24)
    step = ticks[1] - ticks[0]
    bins = np.floor(net / step).astype(np.int64)
    first, last = min(int(bins.min()), -1), max(int(bins.max()), 0)
    counts = np.bincount(bins - first, minlength=last - first + 1)
    chart = Chart(
        "Trades by net result",
        x=(first * step, (last + 1) * step),
        y=(0, counts.max() * 1.08),
        width=450,
        height=230,
        margins=_HALF,
    )
    chart.y_axis(
        lambda value: grouped(round(value)), [tick for tick in nice_ticks(0, counts.max() * 1.08) if tick == int(tick)]
    )
    chart.x_axis([(tick, whole_rupees(tick)) for tick in nice_ticks(first * step, (last + 1) * step, 4)])
    for offset, count in enumerate(counts.tolist()):
        left = (first + offset) * step
        if count:
            chart.bar((left + step * 0.04, left + step * 0.96), (0, count), "gain" if left >= 0 else "loss")
    return Figure("Trades by net result", f"{grouped(len(net))} closed trades, after charges", chart.svg())


def trade_scatter(trades: Sequence[Trade]) -> Figure:
    """Net result over holding time of closed trades; at most one dot per three pixels."""
    held = np.array([trade.bars_held for trade in trades], dtype=np.int64)
    net = np.array([trade.net_paise for trade in trades], dtype=np.int64) / 100.0
    chart = Chart(
        "Net result over holding time",
        x=padded(held.astype(np.float64), zero=True),
        y=padded(net, zero=True),
        width=450,
        height=230,
        margins=_HALF,
    )
    chart.y_axis(whole_rupees)
    ticks = [tick for tick in nice_ticks(0, max(float(held.max()), 1.0)) if tick == int(tick)]
    chart.x_axis([(tick, f"{grouped(round(tick))}") for tick in ticks])
    places = np.array([(chart.x_at(x) // 3, chart.y_at(y) // 3) for x, y in zip(held, net, strict=True)])
    kept = np.unique(places, axis=0, return_index=True)[1]
    for mine, style in ((net[kept] > 0, "gain dot"), (net[kept] <= 0, "loss dot")):
        chart.markers(held[kept][mine], net[kept][mine], "dot", style)
    return Figure("Net result over holding time", "bars held, closed trades", chart.svg())


def charges_figure(gross_paise: int, charge_lines: Mapping[str, int], net_paise: int) -> Figure:
    """From the gain before charges, line by line, to the gain after them."""
    steps: list[tuple[str, int, int, str]] = [
        ("Gain before charges", 0, gross_paise, "gain" if gross_paise >= 0 else "loss")
    ]
    level = gross_paise
    for line, amount in charge_lines.items():
        steps.append((_CHARGE_NAMES.get(line, line), level, level - amount, "cost"))
        level -= amount
    steps.append(("Gain after charges", 0, net_paise, "gain" if net_paise >= 0 else "loss"))
    reach = np.array([edge for _, start, stop, _ in steps for edge in (start, stop)]) / 100.0
    rows = len(steps)
    chart = Chart("Charges", x=padded(reach, zero=True), y=(0, rows), height=26 * rows + 12, margins=(4, 150, 8, 170))
    chart.x_axis([(0.0, "")], grid=True)
    for row, (name, start, stop, style) in enumerate(steps):
        middle = rows - row - 0.5
        chart.bar((start / 100.0, stop / 100.0), (middle - 0.32, middle + 0.32), style)
        chart.text(160, chart.y_at(middle) + 4, name, "label", "end")
        chart.text(912, chart.y_at(middle) + 4, rupees(stop - start, signed=True), "value", "end")
    return Figure("From gross to net", "where the charges went", chart.svg())


def actions_figure(counts: Mapping[str, int]) -> Figure:
    """How often each action was chosen."""
    total = max(sum(counts.values()), 1)
    chart = Chart("Actions", x=(0, total), y=(0, 1), height=74, margins=(38, 10, 8, 10))
    start = 0
    for index, (name, count) in enumerate(counts.items()):
        chart.bar((start, start + count), (0, 1), f"bar s{index % 6}")
        chart.legend(f"{name} {percent(count / total, places=1)} ({grouped(count)})", f"bar s{index % 6}", "bar")
        start += count
    return Figure("Actions", f"{grouped(sum(counts.values()))} decisions", chart.svg())
