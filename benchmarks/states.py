"""Building states: a long history at once, beside TA-Lib and `ta`, and bar by bar as the live loop does."""

import statistics
import time
from collections import deque
from functools import partial

import numpy as np

from benchmarks.indicator_libraries import CALLS, TalibStreams, fields_of, ta_table, talib_columns
from benchmarks.markets import FULL_WARMUP, SYMBOL, bars_of, state_spec
from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate, remark
from finsense.market.bars import Bar, Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.timeline import Clock, timeline
from finsense.state.builder import StateBuilder, build_states
from finsense.state.kernels import Plan, fold_sessions
from finsense.state.spec import StateSpec

# Eleven symbols of five years (the dated charges begin in 2021): about a million 5-minute bars.
_SYMBOLS = tuple(f"SIM{number}" for number in range(11))
_FIVE_YEARS_DAYS = 1825
# One symbol's 100,000 bars.
_LONG_DAYS, _LONG_BARS = 2000, 100_000
# `ta` takes ten seconds a round.
_SLOW_ROUNDS = 3
_LIVE_SYMBOLS = 50
# What a live system that recomputes keeps of the past.
_RECOMPUTED_BARS = 500


def build(effort: Effort) -> list[Measurement]:
    """classic29 over a million 5-minute bars of eleven symbols; with the description of the bars before it; full.

    `full` with the warm-up that it needs, and with that of the others.
    """
    markets = bars_of(effort, _FIVE_YEARS_DAYS, _SYMBOLS)
    charges = ChargeRules()
    described = [timeline(bars, instrument(symbol), charges) for symbol, bars in markets.items()]
    count = sum(map(len, markets.values()))
    remark(f"build_states: {count:,} bars of {len(markets)} symbols")

    def states_alone(spec: StateSpec) -> None:
        for one in described:
            build_states(one, spec)

    def from_bars() -> None:
        for symbol, bars in markets.items():
            build_states(timeline(bars, instrument(symbol), charges), state_spec())

    return [
        *measure_rate("build_states", "bars", Contender(partial(states_alone, state_spec()), count), effort),
        *measure_rate("describe_and_build_states", "bars", Contender(from_bars, count), effort),
        *measure_rate("build_states_full", "bars", Contender(partial(states_alone, _full()), count), effort),
        *measure_rate(
            "build_states_full_warmup_150", "bars", Contender(partial(states_alone, _full(150)), count), effort
        ),
    ]


def against_ta(effort: Effort) -> list[Measurement]:
    """`full`, session by session, beside `ta.add_all_ta_features` over the same 100,000 bars."""
    whole = bars_of(effort, _LONG_DAYS)[SYMBOL]
    bars = whole.take(0, min(len(whole), _LONG_BARS))
    described, spec, fields = timeline(bars, instrument(SYMBOL), None), _full(), fields_of(bars)
    ours = Contender(lambda: build_states(described, spec), len(bars))
    theirs = Contender(lambda: ta_table(fields), len(bars))
    few = Effort(min(effort.rounds, _SLOW_ROUNDS), effort.scale)
    remark(f"build_states_against_ta: {len(bars):,} bars; {len(spec.columns)} columns, `ta` gives 86")
    return measure_rate("build_states_against_ta", "bars", ours, few, [Peer("ta.add_all_ta_features", theirs)])


def against_talib(effort: Effort) -> list[Measurement]:
    """The indicators that TA-Lib has too, anchored at the first bar of 100,000 as TA-Lib is; nothing is kept of either.

    Ours begin with the bars' fields in rows and end with rows of float32, TA-Lib's with and at arrays of float64.
    """
    whole = bars_of(effort, _LONG_DAYS)[SYMBOL]
    bars = whole.take(0, min(len(whole), _LONG_BARS))
    # The whole history is one session here, with nothing before it.
    plan = Plan(StateSpec.model_validate({"features": list(CALLS)}))
    rows, offsets = timeline(bars, instrument(SYMBOL), None).rows, np.array([0, len(bars)])
    memory, values = np.zeros(plan.memory_cells), np.zeros(plan.columns)
    states = np.empty((len(bars), plan.columns), np.float32)

    def fold() -> None:
        fold_sessions(plan.table, plan.parameters, memory, values, rows, offsets, 0, 1, states)

    fields = fields_of(bars)
    theirs = Contender(lambda: deque(talib_columns(fields), 0), len(bars))
    columns = sum(len(series) for _, series in talib_columns(fields))
    remark(f"fold_against_talib: {len(CALLS)} indicators; {plan.columns} columns, TA-Lib gives {columns}")
    return measure_rate("fold_against_talib", "bars", Contender(fold, len(bars)), effort, [Peer("TA-Lib", theirs)])


def live_update(effort: Effort) -> list[Measurement]:
    """One bar through Clock.advance and StateBuilder.update: the mean over all bars, and a session's first bar alone.

    A session's first bar folds the warm-up (150 bars, or as many as a window needs); every other takes one step.
    """
    bars = bars_of(effort)[SYMBOL]
    spec = state_spec()
    found = [_update_times([bars], spec) for _ in range(effort.rounds + 1)][1:]
    return _live_lines("live_update", found)


def live_update_full(effort: Effort) -> list[Measurement]:
    """The same with `full` and its warm-up of 350 bars, one symbol and fifty.

    Beside it TA-Lib's streams, which cannot be restored, and `ta` recomputed over the last 500 bars.
    """
    symbols = tuple(f"SIM{number}" for number in range(_LIVE_SYMBOLS))
    markets = list(bars_of(effort, 60, symbols).values())
    one, all_of_them, streams, recomputed = [], [], [], []
    for _ in range(effort.rounds + 1):
        one.append(_update_times(markets[:1], _full()))
        all_of_them.append(_update_times(markets, _full()))
        streams.append(_stream_time(markets[0]))
        recomputed.append(_recompute_time(markets[0]))
    ours = _live_lines("live_update_full", one[1:])
    cpu_us = ours[1].value
    peers = {"TA-Lib's streams": streams, f"ta over the last {_RECOMPUTED_BARS} bars": recomputed}
    compared = [
        Measurement("live_update_full", cpu_us, "CPU us", name, value, value / cpu_us)
        for name, value in ((name, statistics.median(times[1:])) for name, times in peers.items())
    ]
    return [ours[0], *compared, *ours[2:], *_live_lines(f"live_update_full_{_LIVE_SYMBOLS}_symbols", all_of_them[1:])]


def _full(warmup: int = FULL_WARMUP) -> StateSpec:
    return StateSpec.model_validate({"features": ["full"], "warmup": warmup})


def _live_lines(name: str, rounds: list[tuple[float, float, float]]) -> list[Measurement]:
    """Wall and CPU time of a bar, and of a session's first bar, from the rounds' figures."""
    wall, cpu, opening = (statistics.median(column) for column in zip(*rounds, strict=True))
    return [
        Measurement(name, wall, "us"),
        Measurement(name, cpu, "CPU us"),
        Measurement(f"{name}_first_bar_of_session", opening, "us"),
    ]


def _update_times(markets: list[Bars], spec: StateSpec) -> tuple[float, float, float]:
    """Microseconds for one bar of every symbol, wall and CPU, and for the median one that opens a session, wall."""
    feed: list[tuple[Bar, ...]] = list(zip(*markets, strict=True))

    def drivers() -> list[tuple[Clock, StateBuilder]]:
        return [(Clock(instrument(bars.symbol), bars.interval, ChargeRules()), StateBuilder(spec)) for bars in markets]

    live = drivers()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for moment in feed:
        for bar, (clock, builder) in zip(moment, live, strict=True):
            opens = clock.advance(bar)
            builder.update(clock.row, opens)
    spent = time.perf_counter() - wall_s, time.process_time() - cpu_s
    openings = []
    live = drivers()
    for moment in feed:
        started_s = time.perf_counter()
        for bar, (clock, builder) in zip(moment, live, strict=True):
            opens = clock.advance(bar)
            builder.update(clock.row, opens)
        if opens:
            openings.append(time.perf_counter() - started_s)
    return spent[0] / len(feed) * 1e6, spent[1] / len(feed) * 1e6, statistics.median(openings) * 1e6


def _stream_time(bars: Bars) -> float:
    """CPU microseconds for one bar of TA-Lib's streams, filled with the first 150 bars."""
    fields = fields_of(bars)
    fields["log_close"] = np.log(fields["close"])
    first = min(150, len(bars) // 2)
    streams = TalibStreams({name: values[:first] for name, values in fields.items()})
    later = np.stack(list(fields.values()), axis=1)[first:].tolist()
    feed = [dict(zip(fields, row, strict=True)) for row in later]
    started_s = time.process_time()
    for bar in feed:
        streams.update(bar)
    return (time.process_time() - started_s) / len(feed) * 1e6


def _recompute_time(bars: Bars) -> float:
    """CPU microseconds of `ta` over the last bars, which is one update of a system that recomputes."""
    last = {name: values[-_RECOMPUTED_BARS:] for name, values in fields_of(bars).items()}
    started_s = time.process_time()
    ta_table(last)
    return (time.process_time() - started_s) * 1e6
