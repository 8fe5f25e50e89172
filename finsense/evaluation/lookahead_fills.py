"""Looks at every fill: at the open of the bar after the decision, with the slippage against it, and never before."""

from collections.abc import Iterator

import numpy as np

from finsense.account.rules import PPM
from finsense.account.trace import Trace
from finsense.evaluation.lookahead_market import Leak, Market, Outcome
from finsense.market.bars import Bars, ist_text
from finsense.market.timeline import to_paise

FILLS = "fills"


def check_fills(market: Market) -> Outcome:
    """The fills of every driver's runs."""
    leaks: list[Leak] = []
    fills = 0
    for run in market.runs:
        fills += int(np.count_nonzero(run.trace.fills[:, 0]))
        leaks += wrong_fills(market, run.driver, run.bars, run.trace)
    reason = "" if fills else "no order was filled in the runs; give more bars, or rules under which something trades"
    return Outcome(fills, "fills", tuple(leaks), reason)


def wrong_fills(market: Market, driver: str, bars: Bars, trace: Trace) -> Iterator[Leak]:
    """The first fill of a trace, over `bars`, that is not at the next open after its decision; bars are the symbol's.

    Args:
        market: the symbol and its rules.
        driver: whose trace it is.
        bars: the bars that were driven, with those of the trace among them.
        trace: what came of it.
    """
    slippage_ppm = int(market.setting.account.record(bars.interval)["slippage_ppm"][0])
    places = np.searchsorted(bars.time_ns, trace.time_ns)
    for row in np.flatnonzero(trace.fills[:, 0]).tolist():
        quantity, price_paise = int(trace.fills[row, 0]), int(trace.fills[row, 1])
        place = int(places[row])
        expected = _slipped(float(bars.open[place]), quantity, slippage_ppm)
        if row == 0:
            problem = "it fills on the first bar, before anything was decided"
        elif price_paise != expected:
            decided = float(bars.close[place - 1])
            own = float(bars.close[place])
            if price_paise in (_slipped(decided, quantity, slippage_ppm), to_paise(decided)):
                seen = f"the close of {ist_text(int(bars.time_ns[place - 1]))}, at which it was decided"
            elif price_paise in (_slipped(own, quantity, slippage_ppm), to_paise(own)):
                seen = "the close of its own bar, which nobody knew at its open"
            else:
                seen = "neither that nor a close"
            problem = (
                f"{quantity:+d} shares fill at {price_paise / 100:.2f}, expected the next open with slippage, "
                f"{expected / 100:.2f}; found {seen}"
            )
        else:
            continue
        bar = int(np.searchsorted(market.bars.time_ns, trace.time_ns[row]))
        yield market.leak(FILLS, "fill", "price_paise", bar, f"{driver}: {problem}")
        return
    yield from _wrong_stop_fills(market, driver, bars, trace, slippage_ppm)


def _wrong_stop_fills(market: Market, driver: str, bars: Bars, trace: Trace, slippage_ppm: int) -> Iterator[Leak]:
    """The first fill of a protective stop at a price that its bar never had, slippage apart."""
    places = np.searchsorted(bars.time_ns, trace.time_ns)
    for row in np.flatnonzero(trace.stop_fills[:, 0]).tolist():
        quantity, price_paise = int(trace.stop_fills[row, 0]), int(trace.stop_fills[row, 1])
        low, high = (_slipped(float(side[int(places[row])]), quantity, slippage_ppm) for side in (bars.low, bars.high))
        if not low <= price_paise <= high:
            bar = int(np.searchsorted(market.bars.time_ns, trace.time_ns[row]))
            problem = (
                f"a stop of {quantity:+d} shares fills at {price_paise / 100:.2f}, expected {low / 100:.2f} to "
                f"{high / 100:.2f}, what its bar had"
            )
            yield market.leak(FILLS, "stop fill", "price_paise", bar, f"{driver}: {problem}")
            return


def _slipped(price: float, quantity: int, slippage_ppm: int) -> int:
    """A price in rupees as a fill's price in paise: moved against the order by the slippage, and rounded against it.

    Written out anew, for this is the one place that must not trust the code that fills.
    """
    paise = int(to_paise(price))
    if quantity > 0:
        return -(-paise * (PPM + slippage_ppm) // PPM)
    return max(paise * (PPM - slippage_ppm) // PPM, 1)
