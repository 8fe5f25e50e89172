"""The three parts of a moment of one account with several symbols: order by rank, fill, mark and see."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.claims import claim_all, share, share_fields, tell_claims, write_claim
from finsense.account.crowding import crowded
from finsense.account.exchange import fill_bar
from finsense.account.mask import place_order, reason_of
from finsense.account.orders import order_quantity, own_order_quantity
from finsense.account.reasons import CASH, EMPTY, FREE
from finsense.account.session import write_observation
from finsense.account.watch import mark_bar
from finsense.state.foreign import borrow


@njit(cache=True)
def close_moment(
    accounts: Any,
    claims: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    present: NDArray[np.bool_],
) -> None:
    """Mark the account at the closes of one moment; a symbol without a bar keeps its last close and its order.

    Args:
        accounts: (S,) of dtype ACCOUNT, one per symbol, in alphabetic order.
        claims: (S + 1,) of dtype CLAIM, the sum last.
        rules: (1,) of dtype RULES.
        markets: (n,) of dtype MARKET.
        bars: (S,) int64, the last bar of each symbol in `markets`; -1 where it had none yet.
        schedules: the charge schedules.
        present: (S,) bool, whether that bar is of this moment.
    """
    claim_all(accounts, claims, rules, markets, bars, schedules)
    purse, marked = claims[len(accounts)], 0
    for index in range(len(accounts)):
        account, claim = accounts[index], claims[index]
        tell_claims(account, claim, purse)
        account.others_paise = purse.value_paise - claim.value_paise
        if present[index]:
            mark_bar(account, rules[0], markets[bars[index]])
            marked = index
    for index in range(len(accounts)):
        if not present[index]:
            share_fields(accounts[marked], accounts[index])


@njit(cache=True)
def observe_moment(
    accounts: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    deciding: NDArray[np.bool_],
    cells: NDArray[np.float32],
    width: int,
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
    first: int,
) -> None:
    """Write what the symbols that decide now see, after `close_moment`, into the rows from `first` on.

    Args:
        accounts: see `close_moment`.
        rules: see `close_moment`.
        markets: see `close_moment`; `first_cell` is where a bar's stacked state begins in `cells`.
        bars: see `close_moment`.
        schedules: see `close_moment`.
        deciding: (S,) bool, which symbols decide; other rows are left alone.
        cells: float32, the stacked market states.
        width: cells of one stacked state.
        states: output, (N, F) float32.
        masks: output, (N, A) bool.
        first: the row of the first symbol.
    """
    schedules, cells, states, masks = borrow(schedules), borrow(cells), borrow(states), borrow(masks)
    for index in range(len(accounts)):
        if deciding[index]:
            market = markets[bars[index]]
            schedule = schedules[market.schedule]
            write_observation(
                accounts[index],
                rules[0],
                market,
                schedule,
                cells,
                market.first_cell,
                width,
                states,
                masks,
                first + index,
            )


@njit(cache=True)
def _decided(account: Any, rules: Any, market: Any, schedule: Any, action: int) -> int:
    """The signed shares that an action stands for; the account's own order goes first."""
    quantity = own_order_quantity(account, rules, market)
    return int(quantity if quantity != 0 else order_quantity(account, rules, market, schedule, action))


@njit(cache=True)
def _rank(
    accounts: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    deciding: NDArray[np.bool_],
    actions: NDArray[np.int64],
    scores: NDArray[np.float64],
    ranks: NDArray[np.int64],
) -> int:
    """Write who orders first into `ranks` and return how many order anything.

    Exits come first, by name; then the others, the highest score first, equals by name.
    """
    count = exits = 0
    for index in range(len(accounts)):
        if not deciding[index]:
            continue
        account, market = accounts[index], markets[bars[index]]
        account.order = 0
        quantity = _decided(account, rules, market, schedules[market.schedule], actions[index])
        if quantity == 0:
            continue
        place = count
        if account.position * quantity < 0 and abs(quantity) <= abs(account.position):
            first = exits
            exits += 1
        else:
            first = exits
            while first < count and scores[ranks[first]] >= scores[index]:
                first += 1
        while place > first:
            ranks[place] = ranks[place - 1]
            place -= 1
        ranks[place] = index
        count += 1
    return count


@njit(cache=True)
def _place(
    accounts: Any,
    claims: Any,
    near: Any,
    index: int,
    rules: Any,
    market: Any,
    schedule: Any,
    action: int,
    ranked: int,
) -> int:
    """Place one symbol's order with what those before it left; returns a code of REASONS, FREE when it was placed.

    `ranked` tells how many they are; the first one's mask still holds.
    """
    account, claim, purse = accounts[index], claims[index], claims[len(accounts)]
    if ranked > 0:
        tell_claims(account, claim, purse)
        if (rules.max_per_sector > 0 or rules.max_correlation > 0.0) and account.unsettled == FREE:
            account.unsettled = crowded(accounts, claims, near, rules, index)
        code = reason_of(account, rules, market, schedule, action)
        if code != FREE:
            # What shrank to nothing since it was seen shrank for want of cash.
            return CASH if code == EMPTY else code
    tied_paise, gross_paise, opened = claim.tied_paise, claim.gross_paise, claim.open
    place_order(account, rules, market, schedule, action)
    write_claim(claim, account, rules, market, schedule)
    purse.tied_paise += claim.tied_paise - tied_paise
    purse.gross_paise += claim.gross_paise - gross_paise
    purse.open += claim.open - opened
    return FREE


@njit(cache=True)
def place_moment(
    accounts: Any,
    claims: Any,
    near: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    deciding: NDArray[np.bool_],
    actions: NDArray[np.int64],
    scores: NDArray[np.float64],
    ranks: NDArray[np.int64],
    dropped: NDArray[np.int64],
) -> int:
    """Turn the choices of one moment into waiting orders; returns how many would order something.

    Exits and the account's own orders come first, then the other choices, the highest score first (equals by name).
    Each order that is placed takes its cash and its place from those after it. A choice that is not legal any more
    orders nothing.

    Args:
        accounts: see `close_moment`, as it left them.
        claims: see `close_moment`.
        near: see `crowded`.
        rules: see `close_moment`.
        markets: see `close_moment`.
        bars: see `close_moment`.
        schedules: see `close_moment`.
        deciding: (S,) bool, whose choices count; the others keep the order that waits.
        actions: (S,) int64, legal ones.
        scores: (S,) float64, finite.
        ranks: scratch, (S,) int64.
        dropped: output, (S,) int64, a code of REASONS: why nothing is ordered, FREE otherwise.
    """
    count = _rank(accounts, rules[0], markets, bars, schedules, deciding, actions, scores, ranks)
    for index in range(len(dropped)):
        dropped[index] = FREE
    for rank in range(count):
        index = ranks[rank]
        market = markets[bars[index]]
        schedule = schedules[market.schedule]
        action = actions[index]
        if rank > 0:
            share_fields(accounts[ranks[rank - 1]], accounts[index])
        dropped[index] = _place(accounts, claims, near, index, rules[0], market, schedule, action, rank)
    if count > 0:
        share(accounts, ranks[count - 1])
    return count


@njit(cache=True)
def fill_moment(
    accounts: Any,
    claims: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    schedules: Any,
    present: NDArray[np.bool_],
) -> None:
    """Fill the waiting orders of one moment at its opens and the stops inside it, by name; the rest is cancelled.

    An order may spend its own claim and what nobody claims. So the cash of an order that fills at its worst price or
    better is there, whatever the others' opens were; one that opened beyond it may be cut, and so may a sale that
    brings less than its own charges.

    Args:
        accounts: see `close_moment`.
        claims: (S + 1,) of dtype CLAIM, as they were after the orders were placed.
        rules: see `close_moment`.
        markets: see `close_moment`.
        bars: see `close_moment`.
        schedules: see `close_moment`.
        present: (S,) bool, which symbols have a bar; the others' orders go on waiting.
    """
    rule, purse, holder = rules[0], claims[len(accounts)], -1
    for index in range(len(accounts)):
        if not present[index]:
            continue
        account, claim, market = accounts[index], claims[index], markets[bars[index]]
        if holder >= 0:
            share_fields(accounts[holder], account)
        holder = index
        account.reserved_paise = purse.tied_paise - claim.tied_paise
        fill_bar(account, rule, market, schedules[market.schedule], claim.day, claim.tick_paise)
        # What is still owed short; until the mark at the price at which it was sold.
        price = account.fill_price_paise if account.fill_quantity < 0 else claim.close_paise
        tied_paise = 2 * max(-account.position, 0) * price
        purse.tied_paise += tied_paise - claim.tied_paise
        claim.tied_paise = tied_paise
    if holder >= 0:
        share(accounts, holder)
