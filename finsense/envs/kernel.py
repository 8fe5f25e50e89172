"""The compiled step of N accounts: the same scalar functions that a Session calls, fused into one loop."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.exchange import fill_bar
from finsense.account.mask import place_order, write_legal_actions
from finsense.account.portfolio import open_account
from finsense.account.session import write_observation
from finsense.account.watch import mark_bar
from finsense.envs.rewards import EQUITY_AFTER, EQUITY_BEFORE, PEAK_AFTER, PEAK_BEFORE, REWARD_INPUTS
from finsense.state.foreign import borrow, call_kernel, prefetch

ENV = np.dtype(
    [
        ("random", np.uint64),  # state of the env's own generator
        ("symbol", np.int64),
        ("bar", np.int64),
        ("first_bar", np.int64),
        ("last_bar", np.int64),
        ("reward_sum", np.float64),
        ("slippage_ppm", np.int64),  # of this episode
    ]
)
_CELL_BYTES = 8
_FLOAT_BYTES = 4
_LINE_BYTES = 64
_NO_FAULT = -1


@njit(cache=True)
def draw(env: Any, count: int) -> int:
    """The next number below `count` of the env's generator (SplitMix64, Steele et al. 2014)."""
    env.random = env.random + np.uint64(0x9E3779B97F4A7C15)
    mixed = env.random
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return int(np.int64(mixed % np.uint64(count)))


@njit(cache=True)
def choose_window(env: Any, index: int, spans: NDArray[np.int64], episode_bars: int, random_start: bool) -> None:
    """Set the episode's first and last bar: random symbol and start, or env i on symbol i from its first bar.

    Without a length (0) the episode is the whole span, which leaves only the symbol to chance.
    """
    symbols = spans.shape[0]
    env.symbol = draw(env, symbols) if random_start else index % symbols
    first, last = spans[env.symbol, 0], spans[env.symbol, 1]
    length = episode_bars if episode_bars > 0 else last - first
    spare = last - first - length
    env.first_bar = first + (draw(env, spare + 1) if random_start and spare > 0 else 0)
    env.last_bar = env.first_bar + length


@njit(cache=True)
def _restart(
    index: int,
    rules: Any,
    markets: Any,
    spans: NDArray[np.int64],
    episode_bars: int,
    random_start: bool,
    slippage: tuple[int, int],
    env: Any,
    account: Any,
    memory: NDArray[np.float64],
) -> None:
    """Start the next episode of one env; the caller writes its observation. The rules take the episode's slippage."""
    choose_window(env, index, spans, episode_bars, random_start)
    lowest, highest = slippage
    env.slippage_ppm = lowest + (draw(env, highest - lowest + 1) if highest > lowest else 0)
    rules.slippage_ppm = env.slippage_ppm
    env.bar = env.first_bar
    env.reward_sum = 0.0
    for cell in range(memory.shape[1]):
        memory[index, cell] = 0.0
    open_account(account, rules)
    mark_bar(account, rules, markets[env.bar])


@njit(cache=True)
def reset_envs(
    chosen: NDArray[np.bool_],
    world: Any,
    window: Any,
    envs: Any,
    accounts: Any,
    memory: NDArray[np.float64],
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
) -> None:
    """Start a new episode in every chosen env; arguments as in `step_envs`."""
    rules, markets, schedules, cells, width, _ = world
    spans, episode_bars, random_start, slippage = window
    for index in range(len(envs)):
        if chosen[index]:
            env, account = envs[index], accounts[index]
            _restart(index, rules[0], markets, spans, episode_bars, random_start, slippage, env, account, memory)
            market = markets[env.bar]
            schedule = schedules[market.schedule]
            write_observation(
                account, rules[0], market, schedule, cells, market.first_cell, width, states, masks, index
            )


@njit(cache=True)
def refresh_masks(world: Any, envs: Any, accounts: Any, masks: NDArray[np.bool_]) -> None:
    """Write the legal actions of every env anew, after the charges have changed; arguments as in `step_envs`."""
    rules, markets, schedules, _, _, _ = world
    for index in range(len(envs)):
        market = markets[envs[index].bar]
        rules[0].slippage_ppm = envs[index].slippage_ppm
        write_legal_actions(accounts[index], rules[0], market, schedules[market.schedule], masks, index)


@njit(cache=True, forceinline=True)  # as write_observation is
def _trade(
    account: Any, rules: Any, decided: Any, filled: Any, schedules: Any, action: int, inputs: NDArray[np.float64]
) -> None:
    """Order at the close of the bar `decided`, fill in the next one, `filled`, and mark at its close."""
    place_order(account, rules, decided, schedules[decided.schedule], action)
    inputs[EQUITY_BEFORE] = account.equity_paise
    inputs[PEAK_BEFORE] = account.peak_paise
    fill_bar(account, rules, filled, schedules[filled.schedule], decided.day, decided.tick_paise)
    mark_bar(account, rules, filled)
    inputs[EQUITY_AFTER] = account.equity_paise
    inputs[PEAK_AFTER] = account.peak_paise


@njit(cache=True)
def step_envs(
    actions: NDArray[np.int64],
    world: Any,
    window: Any,
    reward: Any,
    envs: Any,
    accounts: Any,
    memory: NDArray[np.float64],
    masks: NDArray[np.bool_],
    autoreset: bool,
    states: NDArray[np.float32],
    rewards: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    finals: NDArray[np.float32],
    final_masks: NDArray[np.bool_],
    summaries: Any,
) -> int:
    """One step of every env; returns the first env whose action is illegal (then nothing was changed), or -1.

    Args:
        actions: (N,) int64.
        world: rules (they take the slippage of each env as its turn comes), markets, schedules, the market states'
            cells, cells of one stacked state, cells of one row of it.
        window: spans (symbols, 2) int64, bars of an episode (0: the whole span), whether episodes start at random,
            lowest and highest slippage of an episode (parts per million).
        reward: kernel address, parameters (float64), scale, scratch (float64) for its inputs and its output.
        envs: (N,) of dtype ENV.
        accounts: (N,) of dtype ACCOUNT.
        memory: (N, REWARD_MEMORY) float64.
        masks: (N, A) bool, the masks of the last observation; overwritten with the next ones.
        autoreset: whether a finished env starts its next episode within this step.
        states: output, (N, F) float32.
        rewards: output, (N,) float32.
        terminated: output, (N,) bool.
        truncated: output, (N,) bool.
        finals: output, (N, F) float32, the last state of the episodes that ended; other rows are left alone.
        final_masks: output, (N, A) bool, the legal actions in that state; other rows are left alone.
        summaries: output, (N,) of dtype ACCOUNT, the account as an ended episode left it; other rows are left alone.
    """
    for index in range(len(envs)):
        action = actions[index]
        if action < 0 or action >= masks.shape[1] or not masks[index, action]:
            return index
    # Everything is unpacked once and borrowed: inside the loop, taking an array out of a tuple or counting its
    # references costs more than the work done with it.
    address, parameters, scale, scratch = reward
    rules, markets, schedules, cells, width, columns = world
    spans, episode_bars, random_start, slippage = window
    rule = rules[0]
    schedules, cells, scratch = borrow(schedules), borrow(cells), borrow(scratch)
    states, masks, finals, final_masks = borrow(states), borrow(masks), borrow(finals), borrow(final_masks)
    last_market = len(markets) - 1
    markets_address, cells_address = markets.ctypes.data, cells.ctypes.data
    memory_address, memory_bytes = memory.ctypes.data, _CELL_BYTES * memory.shape[1]
    inputs_address, parameters_address = scratch.ctypes.data, parameters.ctypes.data
    output_address = inputs_address + _CELL_BYTES * REWARD_INPUTS
    for index in range(len(envs)):
        env, account = envs[index], accounts[index]
        rule.slippage_ppm = env.slippage_ppm
        _trade(account, rule, markets[env.bar], markets[env.bar + 1], schedules, actions[index], scratch)
        env.bar += 1
        call_kernel(address, inputs_address, parameters_address, memory_address + memory_bytes * index, output_address)
        rewards[index] = scale * scratch[REWARD_INPUTS]
        env.reward_sum += rewards[index]
        terminated[index] = account.equity_paise <= rule.ruin_paise
        truncated[index] = env.bar >= env.last_bar and not terminated[index]
        if (terminated[index] or truncated[index]) and autoreset:
            market = markets[env.bar]
            schedule = schedules[market.schedule]
            first = market.first_cell
            write_observation(account, rule, market, schedule, cells, first, width, finals, final_masks, index)
            summaries[index] = account
            _restart(index, rule, markets, spans, episode_bars, random_start, slippage, env, account, memory)
        market = markets[env.bar]
        schedule = schedules[market.schedule]
        write_observation(account, rule, market, schedule, cells, market.first_cell, width, states, masks, index)
        # The envs stand at N unrelated bars: on a tape that no cache holds, a tenth of a step would be spent waiting.
        following = min(env.bar + 1, last_market)
        prefetch(markets_address + markets.itemsize * min(following + 1, last_market))
        newest_row = cells_address + _FLOAT_BYTES * (markets[following].first_cell + width - columns)
        for line in range(0, _FLOAT_BYTES * columns, _LINE_BYTES):
            prefetch(newest_row + line)
    return _NO_FAULT
