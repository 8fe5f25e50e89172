"""The compiled steps of an account with several symbols: open, settle, mark, observe, order."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.claims import share
from finsense.account.crowding import crowd_moment
from finsense.account.portfolio import apply_fill, open_account
from finsense.account.purse import close_moment, observe_moment, place_moment
from finsense.account.session import settle_fill
from finsense.account.track_record import follow_gains, score_moment


@njit(cache=True)
def open_accounts(accounts: Any, rules: Any) -> None:
    """Start with the balance and nothing else."""
    for index in range(len(accounts)):
        open_account(accounts[index], rules[0])


@njit(cache=True)
def settle_symbol(
    accounts: Any, rules: Any, markets: Any, schedules: Any, row: int, index: int, fill: Any, stop: bool
) -> None:
    """Book a fill of symbol `index`; `row`: of the charge schedules; fill: day, shares, price, value filled before."""
    # The step of the bar at whose close the order was decided: that of the fill's own bar is not known yet.
    tick_paise = markets[index].tick_paise
    day, quantity, price_paise, before_paise = fill
    settle_fill(accounts[index], rules[0], schedules[row], day, quantity, price_paise, before_paise, tick_paise, stop)
    share(accounts, index)


@njit(cache=True)
def order_symbols(
    accounts: Any,
    claims: Any,
    near: Any,
    tracks: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    deciding: NDArray[np.bool_],
    actions: NDArray[np.int64],
    confidences: NDArray[np.float64],
    scratch: Any,
) -> int:
    """Rank the choices and place them; arguments as in `place_moment`, `scratch`: scores, ranks, dropped."""
    scores, ranks, dropped = scratch
    score_moment(tracks, rules, deciding, confidences, scores)
    return int(
        place_moment(accounts, claims, near, rules, markets, bars, schedules, deciding, actions, scores, ranks, dropped)
    )


@njit(cache=True)
def mark_symbols(
    accounts: Any,
    claims: Any,
    near: Any,
    tracks: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    present: NDArray[np.bool_],
) -> None:
    """Mark the account at the closes of one moment and note what limits and ranking ask for.

    Args:
        accounts: see `close_moment`.
        claims: see `close_moment`.
        near: see `crowded`.
        tracks: (S,) of dtype TRACK.
        rules: see `close_moment`.
        markets: see `close_moment`.
        bars: see `close_moment`.
        schedules: see `close_moment`.
        present: see `close_moment`.
    """
    close_moment(accounts, claims, rules, markets, bars, schedules, present)
    crowd_moment(accounts, claims, near, rules, markets, bars, present)
    follow_gains(accounts, tracks, rules, markets, bars, present)


@njit(cache=True)
def observe_symbols(
    accounts: Any,
    claims: Any,
    near: Any,
    tracks: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    flags: NDArray[np.bool_],
    cells: NDArray[np.float32],
    width: int,
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
) -> None:
    """Cancel what did not fill, mark and see; arguments as in `observe_moment`.

    `flags`: (3, S) bool, which symbols have a bar, decide, were settled since the last moment.
    """
    present, deciding, settled = flags[0], flags[1], flags[2]
    for index in range(len(accounts)):
        if present[index] and not settled[index]:
            apply_fill(accounts[index], rules[0], schedules[0], 0, 0, 0)
        settled[index] = False
    mark_symbols(accounts, claims, near, tracks, rules, markets, bars, schedules, present)
    observe_moment(accounts, rules, markets, bars, schedules, deciding, cells, width, states, masks, 0)
