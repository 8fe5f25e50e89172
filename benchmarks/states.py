"""Building states: a long history at once, and bar by bar as the live loop does."""

import statistics
import time

from benchmarks.markets import SYMBOL, bars_of, state_spec
from benchmarks.measurement import Contender, Effort, Measurement, measure_rate, remark
from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.timeline import Clock, timeline
from finsense.state.builder import StateBuilder, build_states

# Eleven symbols of five years (the dated charges begin in 2021): about a million 5-minute bars.
_SYMBOLS = tuple(f"SIM{number}" for number in range(11))
_FIVE_YEARS_DAYS = 1825


def build(effort: Effort) -> list[Measurement]:
    """classic29 over a million 5-minute bars of eleven symbols; then with the description of the bars before it."""
    markets = bars_of(effort, _FIVE_YEARS_DAYS, _SYMBOLS)
    spec, charges = state_spec(), ChargeRules()
    described = [timeline(bars, instrument(symbol), charges) for symbol, bars in markets.items()]
    count = sum(map(len, markets.values()))
    remark(f"build_states: {count:,} bars of {len(markets)} symbols")

    def states_alone() -> None:
        for one in described:
            build_states(one, spec)

    def from_bars() -> None:
        for symbol, bars in markets.items():
            build_states(timeline(bars, instrument(symbol), charges), spec)

    return [
        *measure_rate("build_states", "bars", Contender(states_alone, count), effort),
        *measure_rate("describe_and_build_states", "bars", Contender(from_bars, count), effort),
    ]


def live_update(effort: Effort) -> list[Measurement]:
    """One bar through Clock.advance and StateBuilder.update: the mean over all bars, and a session's first bar alone.

    A session's first bar folds the warm-up of 150 bars; every other bar takes one step of each kernel.
    """
    bars = bars_of(effort)[SYMBOL]
    rounds = [_update_times(bars) for _ in range(effort.rounds + 1)][1:]
    lines = []
    for clock, unit in enumerate(("us", "CPU us")):
        mean = statistics.median(found[clock] for found in rounds)
        lines.append(Measurement("live_update", mean, unit))
    opening = statistics.median(found[2] for found in rounds)
    return [*lines, Measurement("live_update_first_bar_of_session", opening, "us")]


def _update_times(bars: Bars) -> tuple[float, float, float]:
    """Microseconds per bar, wall and CPU, and of the median bar that opens a session, wall."""
    feed = list(bars)
    clock, builder = Clock(instrument(bars.symbol), bars.interval, ChargeRules()), StateBuilder(state_spec())
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for bar in feed:
        opens = clock.advance(bar)
        builder.update(clock.row, opens)
    spent = time.perf_counter() - wall_s, time.process_time() - cpu_s
    openings = []
    clock, builder = Clock(instrument(bars.symbol), bars.interval, ChargeRules()), StateBuilder(state_spec())
    for bar in feed:
        started_s = time.perf_counter()
        opens = clock.advance(bar)
        builder.update(clock.row, opens)
        if opens:
            openings.append(time.perf_counter() - started_s)
    return spent[0] / len(feed) * 1e6, spent[1] / len(feed) * 1e6, statistics.median(openings) * 1e6
