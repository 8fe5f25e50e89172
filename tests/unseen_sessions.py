"""Policies side by side over many unseen sessions of a simulated market at once, each with a fresh account."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import BUY, HOLD, SELL, AccountRules
from finsense.agents.markets import span_tape
from finsense.config import Experiment
from finsense.envs.core import EpisodeRules, TradingCore
from finsense.envs.tape import Tape
from finsense.evaluation.oracle import Solution
from finsense.evaluation.oracle_policy import bars_left_of
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import Bundle

Floats = NDArray[np.float64]
# Bars (N,) of the tape, states (N, F) and masks (N, A) to actions (N,).
Choose = Callable[[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]], NDArray[np.int64]]

# Bars of a session at which a policy is asked for its band.
_ASKED_AT = (0, 15, 30, 45)


@dataclass(frozen=True)
class Unseen:
    """The test span of markets that share nothing with an experiment's own but the law.

    Attributes:
        tape: one span per session, all of the ordinary length.
        signal: (n,) float64, the hidden signal at each bar of the tape.
        bars_left: (n,) int64, bars of the session after each.
    """

    tape: Tape
    signal: Floats
    bars_left: NDArray[np.int64]


@dataclass(frozen=True)
class Walk:
    """What a policy did with N accounts.

    Attributes:
        growth: (N,) float64, change of the log equity of each account per bar of its session.
        bars: of all sessions together.
        fills: of all accounts.
    """

    growth: Floats
    bars: int
    fills: int

    @property
    def fills_per_bar(self) -> float:
        """Share of the bars, a session's first included, at whose open an order filled."""
        return self.fills / self.bars


def unseen(experiment: Experiment, seeds: range) -> Unseen:
    """Draw markets with other seeds, from the experiment's first training day to its last test day."""
    market, split = experiment.data, experiment.split
    assert isinstance(market, SimulatedMarket)
    drawn = [market.model_copy(update={"seed": seed}).simulate_with_signal() for seed in seeds]
    bars = {f"seed {seed}": one.between(None, split.test.last) for seed, (one, _) in zip(seeds, drawn, strict=True)}
    first = max(split.train.first, market.first + dt.timedelta(days=10 + experiment.state.warmup // 40))
    tape = span_tape(experiment, bars, first, split.test.last)
    bars_left = np.concatenate([bars_left_of(one) for one in bars.values()])
    signal = np.concatenate([signal[: len(one)] for one, (_, signal) in zip(bars.values(), drawn, strict=True)])
    tradable = np.zeros(len(bars_left), bool)
    for begin, end in tape.spans:
        tradable[begin : end + 1] = True
    # Special sessions are shorter; without them all accounts step together.
    ordinary = int(bars_left.max())
    starts = np.flatnonzero(tradable & (bars_left == ordinary))
    spans = np.stack([starts, starts + ordinary], axis=1)
    return Unseen(replace(tape, spans=spans, symbols=tuple(map(str, starts))), signal, bars_left)


def walk(markets: Unseen, rules: AccountRules, choose: Choose) -> Walk:
    """Run a policy over every session from its first bar to its last."""
    spans = markets.tape.spans
    core = TradingCore(markets.tape, rules, EpisodeRules(random_start=False), len(spans), autoreset=False)
    core.seed(0)
    states = core.reset()
    steps = int(spans[0, 1] - spans[0, 0])
    for step in range(steps):
        states = core.step(choose(spans[:, 0] + step, states, core.masks.copy())).states
    growth = np.log(core.accounts["equity_paise"] / rules.balance_paise) / (steps + 1)
    return Walk(growth, bars=len(spans) * (steps + 1), fills=int(core.accounts["fills"].sum()))


def band(markets: Unseen, rules: AccountRules, choose: Choose, edges: Floats) -> tuple[float, float]:
    """The signals at which a flat account buys, and a long one sells, in half of the cases, by day.

    It is asked where the signal is independent of what the account holds: of a fresh account at some bar of a session,
    and one bar later of the same account that was made to buy. (Elsewhere, accounts that still are flat at a low signal
    are those which the policy keeps flat, and a band counted there is too wide.)

    Args:
        markets: the sessions.
        rules: the account's.
        choose: the policy, long or flat.
        edges: (k + 1,) float64, of the bins in which the shares are counted; between their middles they are linear.
    """
    flat, long, signals, later = [], [], [], []
    for start in _ASKED_AT:
        spans = markets.tape.spans + np.array([start, 0])
        tape, first = replace(markets.tape, spans=spans), spans[:, 0]
        core = TradingCore(tape, rules, EpisodeRules(random_start=False), len(first), autoreset=False)
        core.seed(0)
        flat.append(choose(first, core.reset(), core.masks.copy()) == BUY)
        states = core.step(np.full(len(first), BUY)).states
        assert (core.accounts["position"] > 0).all()
        long.append(choose(first + 1, states, core.masks.copy()) != SELL)
        signals.append(markets.signal[first])
        later.append(markets.signal[first + 1])
    buys = _crossing(np.concatenate(signals), np.concatenate(flat), edges)
    return buys, _crossing(np.concatenate(later), np.concatenate(long), edges)


def _crossing(signal: Floats, wants: NDArray[np.bool_], edges: Floats) -> float:
    """Where a share that falls with the signal passes one half."""
    place = np.digitize(signal, edges) - 1
    inside = (place >= 0) & (place < len(edges) - 1)
    counts = np.bincount(place[inside], minlength=len(edges) - 1)
    known = counts > 0
    shares = np.bincount(place[inside], wants[inside].astype(np.float64), minlength=len(counts))[known] / counts[known]
    middles = ((edges[1:] + edges[:-1]) / 2)[known]
    # Reversed, the share rises, as `interp` needs.
    return float(np.interp(0.5, np.minimum.accumulate(shares)[::-1], middles[::-1]))


def oracle_choice(markets: Unseen, solution: Solution) -> Choose:
    """The best policy of an account that is flat or long, as far as the mask allows."""
    values, longest = solution.chain.values, int(solution.bars_left[0])
    places = np.clip(longest - markets.bars_left, 0, len(solution.choice) - 1)

    def choose(bars: NDArray[np.int64], states: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        nearest = np.searchsorted((values[1:] + values[:-1]) / 2, markets.signal[bars])
        held = (states[:, -len(ACCOUNT_FEATURES)] > 0.5).astype(np.int64)
        after = solution.choice[places[bars], nearest, held]
        wanted = np.where(after == held, HOLD, np.where(after == 1, BUY, SELL))
        return np.where(masks[np.arange(len(masks)), wanted], wanted, HOLD)

    return choose


def bundle_choice(bundle: Bundle) -> Choose:
    """An exported policy, many rows at once."""
    graph = ort.InferenceSession((bundle.path / "policy.onnx").read_bytes(), providers=["CPUExecutionProvider"])

    def choose(bars: NDArray[np.int64], states: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        (actions,) = graph.run(["action"], {"state": states, "mask": masks})
        chosen: NDArray[np.int64] = actions
        return chosen

    return choose


def random_choice(random: np.random.Generator) -> Choose:
    """Any legal action, all with the same chance."""

    def choose(bars: NDArray[np.int64], states: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        draws = np.where(masks, random.random(masks.shape), -1.0)
        chosen: NDArray[np.int64] = draws.argmax(axis=1)
        return chosen

    return choose
