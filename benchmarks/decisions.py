"""From a bar to an order: one decision, a backtest, a paper session with its journal."""

import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import policies
from benchmarks.markets import SYMBOL, bars_of, setting
from benchmarks.measurement import Contender, Effort, Measurement, measure_rate, remark
from finsense.account.exchange import SimulatedExchange
from finsense.account.session import Session
from finsense.cli.paper import paper_trade
from finsense.evaluation.backtest import backtest as run_backtest
from finsense.market.instruments import instrument
from finsense.model.policy import Policy
from finsense.state.span import split_history

_PEER = "the same with MaskablePPO.predict as the policy"
_PEER_BARS = 2000
_BARS = 20_000


def decision(effort: Effort) -> list[Measurement]:
    """Bar -> state -> mask -> policy -> action -> order, timed bar by bar: Session, and the policy of 64 x 64.

    The ratio of the p99 is the peer's over ours, each over all rounds.
    """
    contenders: dict[str, tuple[Policy, int]] = {
        "": (policies.onnx_policy(), effort.count(_BARS, 20)),
        _PEER: (policies.PredictPolicy(), effort.count(_PEER_BARS, 20)),
    }
    days = effort.count(731, 30)
    wall: dict[str, list[float]] = {name: [] for name in contenders}
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(effort.rounds + 1):
        for name, (policy, count) in contenders.items():
            found = _decision_times(policy, days, count)
            if turn > 0:
                wall[name].extend(found[0])
                cpu[name].extend(found[1])
    lines = []
    for unit, times in (("us", wall), ("CPU us", cpu)):
        for label, share in (("decision_p50", 50), ("decision_p99", 99)):
            ours, theirs = (float(np.percentile(times[name], share)) for name in contenders)
            lines.append(Measurement(label, ours, unit, _PEER, theirs, theirs / ours))
    return lines


def _decision_times(policy: Policy, days: int, count: int) -> tuple[list[float], list[float]]:
    """Microseconds of each decision, wall and CPU of this thread; an exchange fills the orders in between."""
    terms, bars = setting(), bars_of(Effort(), days)[SYMBOL]
    history, trading = split_history(bars, terms.state)
    stock = instrument(SYMBOL)
    session = Session(stock, bars.interval, terms.state, terms.account, terms.costs)
    exchange = SimulatedExchange(stock, bars.interval, terms.account, terms.costs)
    for bar in history:
        session.warm(bar)
        exchange.warm(bar)
    wall, cpu = [], []
    for bar in list(trading)[:count]:
        fills = exchange.fills(bar)
        cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
        session.settle(fills)
        seen = session.observe(bar)
        assert seen is not None
        order = session.order(policy.act(seen.state, seen.mask).action)
        wall.append((time.perf_counter_ns() - wall_ns) / 1000)
        cpu.append((time.thread_time_ns() - cpu_ns) / 1000)
        if order:
            exchange.submit(order)
    return wall, cpu


def backtest(effort: Effort) -> list[Measurement]:
    """`backtest` of the exported policy over two years of 5-minute bars of one symbol, report included."""
    bars = bars_of(effort)[SYMBOL]
    policy, terms = policies.onnx_policy(), setting()
    # An untrained policy may ruin the account, and then the rest is not traded.
    traded = len(run_backtest("untrained", policy, bars, terms).trace.actions)
    ours = Contender(lambda: run_backtest("untrained", policy, bars, terms), traded)
    remark(f"backtest: {traded:,} of {len(bars):,} bars were traded")
    return measure_rate("backtest", "bars", ours, effort)


def paper(effort: Effort) -> list[Measurement]:
    """`paper_trade` of a bundle over the same bars with a journal on this disk, flushed before every order leaves."""
    bars = bars_of(effort)[SYMBOL]
    history, trading = split_history(bars, setting().state)
    with tempfile.TemporaryDirectory() as folder:
        loaded = policies.bundle(Path(folder) / "bundle")
        journal = Path(folder) / "journal.db"

        def clear() -> None:
            for file in journal.parent.glob("journal.db*"):
                file.unlink()

        trace, _, _ = paper_trade(loaded, history, trading, journal)
        orders, traded = np.count_nonzero(trace.orders), len(trace.orders)
        remark(f"paper: {orders:,} of {traded:,} bars sent an order, each after a flush; {len(trading):,} were given")
        ours = Contender(lambda: paper_trade(loaded, history, trading, journal), traded, clear)
        return measure_rate("paper", "bars", ours, effort)
