"""Five models that vote: from a bar to an action, beside the same five that each trade on their own."""

import datetime as dt
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measurement import Effort, Measurement, remark
from finsense.account.exchange import SimulatedExchange
from finsense.account.session import Session
from finsense.agents.ensemble import Recipe, build_ensemble
from finsense.agents.ensemble_members import load_members
from finsense.agents.learners import LEARNERS
from finsense.cli.options import setting_of
from finsense.config import load_experiment
from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.model.bundle import Bundle
from finsense.state.span import split_history

_ROOT = Path(__file__).resolve().parents[1]
_DEMO = _ROOT / "configs" / "ppo_demo.yaml"
_PEER = "the five, each with a session of its own"
_BARS, _HISTORY, _ROUNDS = 20_000, 20, 100
_VALIDATION = dt.date(2025, 10, 1), dt.date(2025, 11, 28)
_FORECASTS: dict[str, Any] = {"label": {"kind": "direction", "horizon": 6}}
_PASS: dict[str, Any] = {**_FORECASTS, "epochs": 1}
# Of their usual sizes, hardly trained: what they have learned does not change how long they take. 32 columns.
_KINDS: dict[str, tuple[int, dict[str, Any]]] = {
    "ppo": (1, {"steps": 4096, "envs": 8, "n_steps": 256, "eval_every": 4096}),
    "dqn": (1, {"steps": 2000, "learning_starts": 500, "buffer_size": 2000, "eval_every": 2000}),
    "lstm": (_HISTORY, {**_PASS, "hidden": 64}),
    "transformer": (_HISTORY, _PASS),
    "xgboost": (1, {**_FORECASTS, "rounds": _ROUNDS, "patience": _ROUNDS}),
}


@dataclass(frozen=True)
class _Case:
    """The ensemble, its members, and the bars that they trade."""

    ensemble: Bundle
    members: tuple[Bundle, ...]
    bars: Bars


def decision(effort: Effort) -> list[Measurement]:
    """Bar -> state -> mask -> five answers -> vote -> action -> order, timed bar by bar; weights are learned.

    The peer builds every state five times and does not vote. The ratio of the p99 is the peer's over ours.
    """
    case, count = _case(effort.count(_ROUNDS)), effort.count(_BARS, 20)
    contenders = {"": (case.ensemble,), _PEER: case.members}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for turn in range(effort.rounds + 1):
        for name, bundles in contenders.items():
            times = _times(bundles, case.bars, count)
            if turn > 0:
                found[name] += times
    lines = []
    for column, unit in enumerate(("us", "CPU us")):
        for label, share in (("ensemble_decision_p50", 50), ("ensemble_decision_p99", 99)):
            ours, theirs = (float(np.percentile([row[column] for row in found[name]], share)) for name in contenders)
            remark(f"{label}: {ours:.0f} {unit}; {_PEER}: {theirs:.0f} {unit}")
            lines.append(Measurement(label, ours, unit, _PEER, theirs, theirs / ours))
    return lines


def _times(bundles: tuple[Bundle, ...], bars: Bars, count: int) -> list[tuple[float, float]]:
    """Microseconds of each decision, wall and CPU of this thread, of all bundles together."""
    parts = []
    for bundle in bundles:
        terms = setting_of(bundle)
        history, trading = split_history(bars, terms.state)
        arguments = (instrument(bars.symbol), bars.interval)
        session = Session(*arguments, terms.state, terms.account, terms.costs)
        exchange = SimulatedExchange(*arguments, terms.account, terms.costs)
        for bar in history:
            session.warm(bar)
            exchange.warm(bar)
        parts.append((session, exchange, bundle.policy.begin()))
    found = []
    for bar in list(trading)[:count]:
        wall = cpu = 0.0
        for session, exchange, policy in parts:
            fills = exchange.fills(bar)
            cpu_ns, wall_ns = time.thread_time_ns(), time.perf_counter_ns()
            session.settle(fills)
            seen = session.observe(bar)
            assert seen is not None
            policy.learn(bar)
            order = session.order(policy.act(seen.state, seen.mask).action)
            wall += (time.perf_counter_ns() - wall_ns) / 1000
            cpu += (time.thread_time_ns() - cpu_ns) / 1000
            if order:
                exchange.submit(order)
        found.append((wall, cpu))
    return found


@cache
def _case(rounds: int) -> _Case:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [_trained(folder, kind, rounds) for kind in _KINDS]
        loaded = load_members(paths)
        markets = load_experiment(folder / "ppo.yaml").data.load()
        built = build_ensemble(loaded, folder / "vote", Recipe(), markets, *_VALIDATION)
        (bars,) = markets.values()
        return _Case(built.bundle, tuple(loaded.values()), bars)


def _trained(folder: Path, kind: str, rounds: int) -> Path:
    """A bundle of one kind, on the demo's market and account."""
    history, agent = _KINDS[kind]
    if kind == "xgboost":
        agent = {**agent, "rounds": rounds, "patience": rounds}
    values = {
        "extends": str(_DEMO),
        "name": kind,
        "data": {"first": "2025-07-01", "last": "2025-12-31"},
        "split": {
            "train": {"from": "2025-08-01", "to": "2025-09-30"},
            "validation": dict(zip(("from", "to"), _VALIDATION, strict=True)),
            "test": {"from": "2025-12-01", "to": "2025-12-31"},
        },
        "state": {"features": ["classic29", "stoch", "session_left"], "warmup": 150, "history": history},
        "agent": {"kind": kind, **agent},
    }
    config = folder / f"{kind}.yaml"
    config.write_text(yaml.safe_dump(values))
    return LEARNERS[kind](load_experiment(config), folder / kind).bundle
