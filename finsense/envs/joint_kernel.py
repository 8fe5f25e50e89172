"""The compiled step of M accounts with several symbols each: the functions that a JointSession calls, in one loop."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.crowding import forget_closes
from finsense.account.joint_step import mark_symbols, order_symbols
from finsense.account.portfolio import open_account
from finsense.account.purse import fill_moment, observe_moment
from finsense.account.session import write_observation
from finsense.account.track_record import open_tracks
from finsense.envs.kernel import choose_window, draw
from finsense.envs.rewards import EQUITY_AFTER, EQUITY_BEFORE, PEAK_AFTER, PEAK_BEFORE, REWARD_INPUTS, REWARD_MEMORY
from finsense.state.foreign import borrow, call_kernel, prefetch

_CELL_BYTES = 8
_FLOAT_BYTES = 4
_LINE_BYTES = 64
_NO_FAULT = -1


@njit(cache=True)
def _begin(
    index: int,
    world: Any,
    spans: NDArray[np.int64],
    episode_bars: int,
    random_start: bool,
    slippage: tuple[int, int],
    env: Any,
    accounts: Any,
    claims: Any,
    near: Any,
    tracks: Any,
    memory: NDArray[np.float64],
) -> None:
    """Start the next episode of one account; the caller writes its observations."""
    rules, markets, schedules, _, _, _, bars, present = world
    choose_window(env, index, spans, episode_bars, random_start)
    lowest, highest = slippage
    env.slippage_ppm = lowest + (draw(env, highest - lowest + 1) if highest > lowest else 0)
    rules[0].slippage_ppm = env.slippage_ppm
    env.bar = env.first_bar
    env.reward_sum = 0.0
    memory[:] = 0.0
    for symbol in range(len(accounts)):
        open_account(accounts[symbol], rules[0])
    for symbol in range(len(claims)):
        claim = claims[symbol]
        claim.tied_paise = 0
        claim.gross_paise = 0
        claim.open = 0
        claim.value_paise = 0
        claim.close_paise = 0
        claim.day = 0
        claim.tick_paise = 0
    forget_closes(near[1], rules[0])
    open_tracks(tracks, rules[0])
    mark_symbols(accounts, claims, near, tracks, rules, markets, bars[env.bar], schedules, present[env.bar])


@njit(cache=True)
def _write_absent(
    world: Any, last: int, account: Any, row: int, states: NDArray[np.float32], masks: NDArray[np.bool_]
) -> None:
    """Write the row of a symbol without a bar, which may only hold; `last`: its last bar, -1 before its first."""
    rules, markets, schedules, cells, width, _, _, _ = world
    if last < 0:
        states[row, :] = 0.0
    else:
        market = markets[last]
        schedule, start = schedules[market.schedule], market.first_cell
        write_observation(account, rules[0], market, schedule, cells, start, width, states, masks, row)
    masks[row, :] = False
    masks[row, rules[0].hold] = True


@njit(cache=True)
def _write_rows(
    world: Any, env: Any, accounts: Any, first: int, states: NDArray[np.float32], masks: NDArray[np.bool_]
) -> None:
    """Write the rows of one account, from `first` on.

    A symbol without a bar may only hold. Its state is that of its last bar with the account of now, zeros before its
    first one.
    """
    rules, markets, schedules, cells, width, _, bars, present = world
    last, deciding = bars[env.bar], present[env.bar]
    observe_moment(accounts, rules, markets, last, schedules, deciding, cells, width, states, masks, first)
    for symbol in range(len(accounts)):
        if not deciding[symbol]:
            _write_absent(world, last[symbol], accounts[symbol], first + symbol, states, masks)


@njit(cache=True)
def reset_joint(
    chosen: NDArray[np.bool_],
    world: Any,
    window: Any,
    envs: Any,
    accounts: Any,
    claims: Any,
    near: Any,
    tracks: Any,
    memory: NDArray[np.float64],
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
) -> None:
    """Start a new episode in every chosen account; arguments as in `step_joint`, `chosen` is (M,) bool."""
    spans, episode_bars, random_start, slippage = window
    sectors, pasts = near
    count = accounts.shape[1]
    for index in range(len(envs)):
        if chosen[index]:
            first = index * count
            cells = memory[first : first + count]
            env = envs[index]
            books, claimed, others, record = accounts[index], claims[index], (sectors, pasts[index]), tracks[index]
            _begin(
                index, world, spans, episode_bars, random_start, slippage, env, books, claimed, others, record, cells
            )
            _write_rows(world, env, accounts[index], first, states, masks)


@njit(cache=True)
def refresh_joint(
    world: Any,
    envs: Any,
    accounts: Any,
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
) -> None:
    """Write the masks of every account anew, after the charges have changed; `states` is scratch."""
    for index in range(len(envs)):
        world[0][0].slippage_ppm = envs[index].slippage_ppm
        _write_rows(world, envs[index], accounts[index], index * accounts.shape[1], states, masks)


@njit(cache=True)
def _pay(
    before: Any,
    accounts: Any,
    claims: Any,
    deciding: NDArray[np.bool_],
    reward: Any,
    memory_address: int,
    first: int,
    rewards: NDArray[np.float32],
) -> float:
    """Write the rewards of one account's rows, from `first` on, and return their sum; 0 without a bar.

    `before` is the account's equity and peak at the moment before, and the value of each position (S,) int64, paise.
    """
    equity_before, peak_before, values = before
    address, parameters, scale, inputs = reward
    inputs_address = inputs.ctypes.data
    total = 0.0
    for symbol in range(len(accounts)):
        row = first + symbol
        rewards[row] = 0.0
        if not deciding[symbol]:
            continue
        after = equity_before + _gain_paise(accounts[symbol], values[symbol], claims[symbol].value_paise)
        inputs[EQUITY_BEFORE], inputs[EQUITY_AFTER] = equity_before, after
        inputs[PEAK_BEFORE], inputs[PEAK_AFTER] = peak_before, max(peak_before, after)
        memory = memory_address + _CELL_BYTES * REWARD_MEMORY * row
        call_kernel(
            address, inputs_address, parameters.ctypes.data, memory, inputs_address + _CELL_BYTES * REWARD_INPUTS
        )
        rewards[row] = scale * inputs[REWARD_INPUTS]
        total += rewards[row]
    return total


@njit(cache=True)
def _prefetch_next(world: Any, moment: int, markets_address: int, cells_address: int) -> None:
    """Ask for what the next step reads, as `step_envs` does: the accounts stand at unrelated moments."""
    _, markets, _, _, width, columns, bars, _ = world
    last = len(bars) - 1
    following, after = bars[min(moment + 1, last)], bars[min(moment + 2, last)]
    for symbol in range(len(following)):
        prefetch(markets_address + markets.itemsize * max(after[symbol], 0))
        newest_cell = markets[max(following[symbol], 0)].first_cell + width - columns
        for line in range(0, _FLOAT_BYTES * columns, _LINE_BYTES):
            prefetch(cells_address + _FLOAT_BYTES * newest_cell + line)


@njit(cache=True)
def _gain_paise(account: Any, before_paise: int, after_paise: int) -> int:
    """What one symbol added to the equity from one moment to the next: its value's change and its fills' cash."""
    paid = account.fill_quantity * account.fill_price_paise + account.fill_charges_paise
    paid += account.stop_fill_quantity * account.stop_fill_price_paise + account.stop_fill_charges_paise
    return int(after_paise - before_paise - paid)


@njit(cache=True)
def step_joint(
    actions: NDArray[np.int64],
    confidences: NDArray[np.float64],
    world: Any,
    window: Any,
    reward: Any,
    envs: Any,
    accounts: Any,
    claims: Any,
    near: Any,
    tracks: Any,
    memory: NDArray[np.float64],
    masks: NDArray[np.bool_],
    autoreset: bool,
    scratch: Any,
    states: NDArray[np.float32],
    rewards: NDArray[np.float32],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    finals: NDArray[np.float32],
    final_masks: NDArray[np.bool_],
    summaries: Any,
) -> int:
    """One step of every account; returns the first row whose action is illegal (then nothing was changed), or -1.

    Row m x S + s is symbol s of account m.

    Args:
        actions: (M x S,) int64.
        confidences: (M x S,) float64, finite: with what was gained on each symbol, who is served first when cash or
            places are short.
        world: rules (they take the slippage of each account as its turn comes), markets, schedules, the market states'
            cells, cells of one stacked state, cells of one row of it, the last bar of each symbol at each moment (T, S)
            int64 (-1: none yet), whether that bar is of the moment (T, S) bool.
        window: span of moments (1, 2) int64, moments of an episode (0: all), whether episodes start at random, lowest
            and highest slippage of an episode (parts per million).
        reward: kernel address, parameters (float64), scale, scratch (float64) for its inputs and its output.
        envs: (M,) of dtype ENV; `bar` is the moment.
        accounts: (M, S) of dtype ACCOUNT.
        claims: (M, S + 1) of dtype CLAIM.
        near: sectors (S,) int64, what is remembered of the closes (M, S, n) int64.
        tracks: (M, S) of dtype TRACK.
        memory: (M x S, REWARD_MEMORY) float64.
        masks: (M x S, A) bool, of the last observation; overwritten with the next ones.
        autoreset: whether a finished account starts its next episode within this step.
        scratch: ranks, reasons of what was dropped (S,) int64 each, values before the fills (S,) int64, scores (S,)
            float64.
        states: output, (M x S, F) float32.
        rewards: output, (M x S,) float32, of what each symbol added to the account.
        terminated: output, (M x S,) bool, equal in the rows of one account.
        truncated: output, the same.
        finals: output, (M x S, F) float32, the last states of the episodes that ended; other rows are left alone.
        final_masks: output, (M x S, A) bool, the legal actions in those states; other rows are left alone.
        summaries: output, (M, S) of dtype ACCOUNT, as an ended episode left them; other rows are left alone.
    """
    for row in range(len(actions)):
        action = actions[row]
        if action < 0 or action >= masks.shape[1] or not masks[row, action]:
            return row
    rules, markets, schedules, cells, width, columns, bars, present = world
    spans, episode_bars, random_start, slippage = window
    ranks, dropped, values, scores = scratch
    # As in `step_envs`: inside the loop, counting references would cost more than the work.
    rules, markets, schedules, cells = borrow(rules), borrow(markets), borrow(schedules), borrow(cells)
    bars, present, actions, confidences = borrow(bars), borrow(present), borrow(actions), borrow(confidences)
    rankings = borrow(scores), borrow(ranks), borrow(dropped)
    accounts, claims, tracks, values = borrow(accounts), borrow(claims), borrow(tracks), borrow(values)
    masks, states, finals, final_masks = borrow(masks), borrow(states), borrow(finals), borrow(final_masks)
    sectors, pasts = borrow(near[0]), borrow(near[1])
    world = (rules, markets, schedules, cells, width, columns, bars, present)
    markets_address, cells_address = markets.ctypes.data, cells.ctypes.data
    memory_address = memory.ctypes.data
    count = accounts.shape[1]
    for index in range(len(envs)):
        env, books, claimed, record = envs[index], accounts[index], claims[index], tracks[index]
        first, others = index * count, (sectors, pasts[index])
        rules[0].slippage_ppm = env.slippage_ppm
        mine = slice(first, first + count)
        order_symbols(
            books,
            claimed,
            others,
            record,
            rules,
            markets,
            bars[env.bar],
            schedules,
            present[env.bar],
            actions[mine],
            confidences[mine],
            rankings,
        )
        equity_before, peak_before = books[0].equity_paise, books[0].peak_paise
        for symbol in range(count):
            values[symbol] = claimed[symbol].value_paise
        env.bar += 1
        last, deciding = bars[env.bar], present[env.bar]
        fill_moment(books, claimed, rules, markets, last, schedules, deciding)
        mark_symbols(books, claimed, others, record, rules, markets, last, schedules, deciding)
        ruined = books[0].equity_paise <= rules[0].ruin_paise
        over = env.bar >= env.last_bar and not ruined
        for row in range(first, first + count):
            terminated[row], truncated[row] = ruined, over
        before = (equity_before, peak_before, values)
        env.reward_sum += _pay(before, books, claimed, deciding, reward, memory_address, first, rewards)
        if (ruined or over) and autoreset:
            _write_rows(world, env, books, first, finals, final_masks)
            for symbol in range(count):
                summaries[index, symbol] = books[symbol]
            past = memory[mine]
            _begin(index, world, spans, episode_bars, random_start, slippage, env, books, claimed, others, record, past)
        _write_rows(world, env, books, first, states, masks)
        _prefetch_next(world, env.bar, markets_address, cells_address)
    return _NO_FAULT
