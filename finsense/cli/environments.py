"""Drives the environments through a span with a policy's decisions, for the proof of parity."""

import datetime as dt
from collections.abc import Sequence

import numpy as np

from finsense.account.session import Observation
from finsense.account.trace import Recorder, Trace
from finsense.envs.core import EpisodeRules, TradingCore
from finsense.envs.joint import JointVectorTradingEnv
from finsense.envs.joint_core import build_joint_tape
from finsense.envs.tape import build_tape
from finsense.envs.trading import TradingEnv
from finsense.envs.vector import VectorTradingEnv
from finsense.evaluation.backtest import Setting
from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.model.policy import Policy

# The vector environments are driven with this many accounts; the one in the middle is recorded.
_VECTOR_WIDTH = 3


def _note(recorder: Recorder, core: TradingCore, index: int, seen: Observation, action: int) -> None:
    time_ns = int(core.tape.times[core.envs["bar"][index]])
    recorder.append(time_ns, seen, action, 0, core.accounts[index : index + 1])


def drive_single(policy: Policy, bars: Bars, setting: Setting, first: dt.date | None, last: dt.date | None) -> Trace:
    """The policy in a TradingEnv over the whole span; errors as in `build_tape`."""
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    tape = build_tape([(bars, stock)], setting.state, setting.costs, first, last)
    env = TradingEnv(tape, setting.account, EpisodeRules(random_start=False))
    recorder, policy, rows = Recorder(), policy.begin(), list(bars)
    state, _ = env.reset(seed=0)
    over = False
    while True:
        seen = Observation(state[None, :], env.action_masks()[None, :])
        policy.learn(rows[int(env.core.envs["bar"][0])])
        action = policy.act(seen.state, seen.mask).action
        _note(recorder, env.core, 0, seen, action)
        if over:
            return recorder.trace()
        state, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated


def drive_vector(policy: Policy, bars: Bars, setting: Setting, first: dt.date | None, last: dt.date | None) -> Trace:
    """The policy in a VectorTradingEnv over the whole span, decided row by row; errors as in `build_tape`."""
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    tape = build_tape([(bars, stock)], setting.state, setting.costs, first, last)
    env = VectorTradingEnv(tape, setting.account, _VECTOR_WIDTH, EpisodeRules(random_start=False))
    middle = _VECTOR_WIDTH // 2
    recorder, policy, rows = Recorder(), policy.begin(), list(bars)
    states, _ = env.reset(seed=0)
    while True:
        seen = Observation(states[middle : middle + 1].copy(), env.action_masks()[middle : middle + 1])
        policy.learn(rows[int(env.core.envs["bar"][middle])])
        action = policy.act(seen.state, seen.mask).action
        _note(recorder, env.core, middle, seen, action)
        next_bar = int(env.core.envs["bar"][middle]) + 1
        states, _, terminated, truncated, info = env.step(np.full(_VECTOR_WIDTH, action))
        if terminated[middle] or truncated[middle]:
            # The next episode has begun; what is left of this one is its last state and its books.
            ended = Observation(info["final_obs"][middle][None, :], seen.mask)
            account = env.core.final_accounts[middle : middle + 1]
            recorder.append(int(tape.times[next_bar]), ended, action, 0, account)
            return recorder.trace()


def drive_joint(
    policy: Policy, markets: Sequence[Bars], setting: Setting, first: dt.date | None, last: dt.date | None
) -> dict[str, Trace]:
    """The policy in a JointVectorTradingEnv over the whole span, decided row by row; errors as in `build_joint_tape`.

    Returns:
        Symbol -> its trace, by name.
    """
    stocks = [(bars, instrument(bars.symbol, derivatives=bars.derivatives)) for bars in markets]
    tape = build_joint_tape(stocks, setting.state, setting.costs, first, last)
    env = JointVectorTradingEnv(tape, setting.account, _VECTOR_WIDTH, EpisodeRules(random_start=False))
    symbols, middle = sorted(bars.symbol for bars in markets), _VECTOR_WIDTH // 2
    rows = slice(middle * len(symbols), (middle + 1) * len(symbols))
    policies, recorders = [policy.begin() for _ in symbols], [Recorder() for _ in symbols]
    bars_at = {bars.symbol: {bar.time_ns: bar for bar in bars} for bars in markets}
    found, _ = env.reset(seed=0)
    states, masks, books, moment, over = found[rows], env.action_masks()[rows], env.core.accounts[middle], 0, False
    while True:
        actions = np.full(len(symbols), setting.account.hold_action)
        time_ns = int(tape.times[moment])
        for place in np.flatnonzero(tape.present[moment]).tolist():
            seen = Observation(states[place : place + 1].copy(), masks[place : place + 1].copy())
            policies[place].learn(bars_at[symbols[place]][time_ns])
            decision = policies[place].act(seen.state, seen.mask)
            actions[place] = decision.action
            env.core.confidences[place :: len(symbols)] = decision.confidence
            recorders[place].append(time_ns, seen, decision.action, 0, books[place : place + 1])
        if over:
            return {symbol: one.trace() for symbol, one in zip(symbols, recorders, strict=True) if len(one)}
        found, _, terminated, truncated, info = env.step(np.tile(actions, _VECTOR_WIDTH))
        moment, over = moment + 1, bool(terminated[rows][0] or truncated[rows][0])
        states, masks = found[rows], env.action_masks()[rows]
        if over:
            # The next episode has begun; what is left of this one is its last states and its books.
            states, books = np.stack(info["final_obs"][rows]), env.core.final_accounts[rows]
