"""Steps per second of the environments, and the memory of the vector environment."""

import tracemalloc
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.markets import SESSION_BARS, SYMBOL, account_rules, bars_of, tape_of
from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate, remark
from finsense.account.rules import AccountRules
from finsense.envs.core import EpisodeRules, TradingCore
from finsense.envs.tape import Tape
from finsense.envs.trading import TradingEnv
from finsense.envs.vector import TradingVecEnv

# The peer comes with the extra [bench]; without it ours is measured alone.
_PEER_IS_HERE = find_spec("gym_anytrading") is not None
if _PEER_IS_HERE:
    from benchmarks import anytrading

_ENVS = 1024
_PEER_STEPS = 40
_HISTORY = 20
_YEARS = (1, 5)
# Random starts put the envs at unrelated bars, which is how training runs and what memory likes least.
_WEEKS = EpisodeRules(bars=5 * SESSION_BARS, random_start=True)
# Wide enough that the account goes on trading, so that every one of them is asked at every bar.
_EVERYTHING: dict[str, Any] = {
    "limits": {
        "max_order_value": 1_000_000,
        "max_order_quantity": 1_000,
        "max_position_fraction": 0.7,
        "min_position_fraction": 0.001,
        "max_gross_exposure": 0.9,
        "max_net_exposure": 0.8,
        "max_positions": 4,
        "cash_buffer": 0.1,
        "max_orders_per_day": 60,
        "max_orders_per_bar": 5,
        "max_price_jump": 0.05,
        "max_daily_loss": 0.1,
        "max_drawdown": 0.15,
        "max_consecutive_losses": 20,
        "max_volatility_spike": 6.0,
        "no_entry_before_close_minutes": 15,
    },
    "exits": {"stop_loss": 0.01, "trailing_stop": 0.01, "take_profit": 0.02, "time_exit_bars": 50},
}


def vector_env(effort: Effort) -> list[Measurement]:
    """1024 envs through the VecEnv of Stable-Baselines3, states of 34 values, episodes of a week at random bars."""
    bars = bars_of(effort)[SYMBOL]
    ours = _vector_contender(_vec_env(tape_of(bars), effort.count(_ENVS)), effort.count(2000))
    peers = []
    if _PEER_IS_HERE:
        envs = DummyVecEnv([lambda: anytrading.stocks_env(bars)] * effort.count(_ENVS))
        theirs = anytrading.vector_contender(envs, effort.count(_PEER_STEPS))
        peers.append(Peer(f"{anytrading.NAME} StocksEnv in DummyVecEnv, 30x2", theirs))
    return measure_rate("vector_env", "steps", ours, effort, peers)


def limits(effort: Effort) -> list[Measurement]:
    """The vector environment with every limit and exit switched on, against the same without any."""
    tape, count, steps = tape_of(bars_of(effort)[SYMBOL]), effort.count(_ENVS), effort.count(1000)
    plain = account_rules()
    rules = AccountRules.model_validate({**plain.model_dump(exclude={"limits", "exits"}), **_EVERYTHING})
    ours = _vector_contender(TradingVecEnv(tape, rules, count, _WEEKS), steps)
    peer = Peer("without limits and exits", _vector_contender(TradingVecEnv(tape, plain, count, _WEEKS), steps))
    return measure_rate("limits", "steps", ours, effort, [peer])


def vector_env_equal_observation(effort: Effort) -> list[Measurement]:
    """The same with 20 stacked rows of classic29 (and the account's five values) against an observation of 20x29."""
    bars = bars_of(effort)[SYMBOL]
    tape = tape_of(bars, _HISTORY)
    ours = _vector_contender(_vec_env(tape, effort.count(_ENVS)), effort.count(400))
    peers = []
    if _PEER_IS_HERE:
        columns = tape.states[np.maximum(tape.state_of_bar, 0)]
        envs = DummyVecEnv([lambda: anytrading.wide_stocks_env(bars, _HISTORY, columns)] * effort.count(_ENVS))
        theirs = anytrading.vector_contender(envs, effort.count(_PEER_STEPS))
        peers.append(Peer(f"{anytrading.NAME} in DummyVecEnv, 20x29", theirs))
    return measure_rate("vector_env_equal_observation", "steps", ours, effort, peers)


def trading_env(effort: Effort) -> list[Measurement]:
    """One TradingEnv, states of 34 values, episodes of a week; resets are part of the time."""
    bars = bars_of(effort)[SYMBOL]
    ours = _single_contender(TradingEnv(tape_of(bars), account_rules(), _WEEKS), effort.count(100_000))
    peers = []
    if _PEER_IS_HERE:
        theirs = anytrading.single_contender(anytrading.stocks_env(bars), effort.count(20_000))
        peers.append(Peer(f"{anytrading.NAME} StocksEnv, 30x2", theirs))
    return measure_rate("trading_env", "steps", ours, effort, peers)


def vector_env_memory(effort: Effort) -> list[Measurement]:
    """Bytes per env of the vector environment after some steps, on two lengths of data; the data itself is shared."""
    count = effort.count(_ENVS, 64)
    short, long = (bars_of(effort, 365 * years)[SYMBOL] for years in _YEARS)
    found = [_bytes_per_env(partial(_stepped, tape_of(bars), count), count) for bars in (short, long)]
    remark(f"vector_env_memory: {found[0]:,.0f} bytes per env on {len(short):,} bars, {found[1]:,.0f} on {len(long):,}")
    compared = {f"itself on {len(short)} instead of {len(long)} bars": found[0]}
    if _PEER_IS_HERE:
        theirs = _bytes_per_env(lambda: [anytrading.stocks_env(long) for _ in range(8)], 8)
        compared[f"{anytrading.NAME} StocksEnv on {len(long)} bars"] = theirs
    return [
        Measurement("vector_env_memory", found[1], "bytes/env", peer, value, value / found[1])
        for peer, value in compared.items()
    ]


def _vec_env(tape: Tape, count: int) -> TradingVecEnv:
    return TradingVecEnv(tape, account_rules(), count, _WEEKS)


def _vector_contender(envs: TradingVecEnv, steps: int) -> Contender:
    """The actions are drawn beforehand; the same seed meets the same masks again, so all of them are legal."""

    def prepare() -> None:
        envs.seed(0)
        envs.reset()

    prepare()
    actions = np.empty((steps, envs.num_envs), np.int64)
    rng = np.random.default_rng(0)
    for row in actions:
        row[:] = random_legal(envs.core, rng)
        envs.step(row)

    def work() -> None:
        for row in actions:
            envs.step(row)

    return Contender(work, actions.size, prepare)


def _single_contender(env: TradingEnv, steps: int) -> Contender:
    actions: list[int] = []
    rng = np.random.default_rng(0)

    def step(action: int) -> None:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()

    def work() -> None:
        for action in actions:
            step(action)

    env.reset(seed=0)
    for _ in range(steps):
        actions.append(int(random_legal(env.core, rng)[0]))
        step(actions[-1])
    return Contender(work, steps, lambda: env.reset(seed=0))


def random_legal(core: TradingCore, rng: np.random.Generator) -> NDArray[np.int64]:
    """One legal action for each env, all equally likely."""
    scores = rng.random(core.masks.shape)
    scores[~core.masks] = -1.0
    chosen: NDArray[np.int64] = scores.argmax(axis=1)
    return chosen


def _stepped(tape: Tape, count: int) -> TradingVecEnv:
    envs = _vec_env(tape, count)
    contender = _vector_contender(envs, 20)
    contender.prepare()
    contender.work()
    return envs


def _bytes_per_env(make: Callable[[], object], count: int) -> float:
    make()  # what is made once and kept (compiled code, caches) is not the envs'
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    made = make()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return (after - before) / count
