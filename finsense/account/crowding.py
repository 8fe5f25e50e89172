"""Which symbols are too much alike what an account holds: of one sector, or with returns that run together."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.limits import Limits
from finsense.account.reasons import CORRELATION, FREE, SECTOR

# What is kept of each symbol, in whole hundred-millionths, so that sums stay exact however long they run: the logarithm
# of its last close, how many changes of it are known, the moments of the account, the newest change, the sum of the
# last changes, then the sums of their products with those of each symbol, then the changes themselves.
_LEVEL, _KNOWN, _MOMENTS, _NEWEST, _TOTAL, _PRODUCTS = range(6)
_UNITS = 1e8
_UNSEEN = -1


class SectorError(ValueError):
    """A symbol of an account with a limit per sector that has no sector."""


def sector_codes(symbols: Sequence[str], limits: Limits) -> NDArray[np.int64]:
    """(S,) int64, one number per sector; zeros without a limit per sector.

    Raises:
        SectorError: a symbol's sector is not known although its limit is on.
    """
    if limits.max_per_sector is None:
        return np.zeros(len(symbols), np.int64)
    unknown = [symbol for symbol in symbols if symbol not in limits.sectors]
    if unknown:
        raise SectorError(
            f"limits.max_per_sector needs the sector of each symbol; {len(unknown)} have none: "
            f"{', '.join(unknown[:3])}{' ...' if len(unknown) > 3 else ''}. Name them under limits.sectors, such as "
            f"{{{unknown[0]}: IT}}"
        )
    names = sorted(set(limits.sectors.values()))
    return np.array([names.index(limits.sectors[symbol]) for symbol in symbols], np.int64)


def new_pasts(accounts: int, symbols: int, limits: Limits) -> NDArray[np.int64]:
    """(M, S, n) int64, what is remembered of each symbol's closes; little without a limit of correlation."""
    kept = symbols + limits.correlation_bars if limits.max_correlation is not None else 0
    pasts = np.zeros((accounts, symbols, _PRODUCTS + kept), np.int64)
    pasts[:, :, _KNOWN] = _UNSEEN
    return pasts


@njit(cache=True)
def forget_closes(pasts: NDArray[np.int64], rules: Any) -> None:
    """Begin with no close known; pasts: (S, n) int64, rules: one RULES record."""
    if rules.max_correlation > 0.0:
        pasts[:] = 0
        pasts[:, _KNOWN] = _UNSEEN


@njit(cache=True)
def follow_closes(pasts: NDArray[np.int64], markets: Any, bars: NDArray[np.int64], present: NDArray[np.bool_]) -> None:
    """Take in the closes of one moment; a symbol without a bar did not move. Arguments as in `close_moment`."""
    count = len(pasts)
    first = _PRODUCTS + count
    slot = first + pasts[0, _MOMENTS] % (pasts.shape[1] - first)
    pasts[0, _MOMENTS] += 1
    for index in range(count):
        past = pasts[index]
        past[_NEWEST] = 0
        if present[index]:
            level = math.floor(math.log(markets[bars[index]].close_paise) * _UNITS + 0.5)
            if past[_KNOWN] >= 0:
                past[_NEWEST] = level - past[_LEVEL]
            past[_LEVEL] = level
        if present[index] or past[_KNOWN] >= 0:
            past[_KNOWN] += 1
        past[_TOTAL] += past[_NEWEST] - past[slot]
    for one in range(count):
        newest, oldest = pasts[one, _NEWEST], pasts[one, slot]
        for other in range(one, count):
            pasts[one, _PRODUCTS + other] += newest * pasts[other, _NEWEST] - oldest * pasts[other, slot]
    for index in range(count):
        pasts[index, slot] = pasts[index, _NEWEST]


@njit(cache=True)
def correlation(pasts: NDArray[np.int64], one: int, other: int) -> float:
    """Pearson's correlation of the last changes of two symbols' log closes; 0 where one has too few, or never moved."""
    one, other = min(one, other), max(one, other)
    kept = pasts.shape[1] - _PRODUCTS - len(pasts)
    if pasts[one, _KNOWN] < kept or pasts[other, _KNOWN] < kept:
        return 0.0
    mean, its_mean = pasts[one, _TOTAL] / kept, pasts[other, _TOTAL] / kept
    square = pasts[one, _PRODUCTS + one] - mean * pasts[one, _TOTAL]
    its_square = pasts[other, _PRODUCTS + other] - its_mean * pasts[other, _TOTAL]
    both = pasts[one, _PRODUCTS + other] - mean * pasts[other, _TOTAL]
    # Under half a unit squared nothing moved.
    return both / math.sqrt(square * its_square) if square > 0.5 and its_square > 0.5 else 0.0


@njit(cache=True)
def crowded(accounts: Any, claims: Any, near: Any, rules: Any, index: int) -> int:
    """Why a symbol may open no position beside those of the others, and their waiting orders: a code of REASONS.

    Args:
        accounts: (S,) of dtype ACCOUNT.
        claims: (S + 1,) of dtype CLAIM.
        near: sectors (S,) int64, and what is remembered of the closes (S, n) int64.
        rules: one RULES record.
        index: of the symbol.
    """
    sectors, pasts = near
    if accounts[index].position != 0:
        return FREE
    of_sector, code = 0, FREE
    for other in range(len(accounts)):
        if other == index or claims[other].open == 0:
            continue
        if sectors[other] == sectors[index]:
            of_sector += 1
        if rules.max_correlation > 0.0 and code == FREE:
            alike = correlation(pasts, index, other)
            # What may be sold short may also be held the other way round.
            if alike > rules.max_correlation or (rules.min_position < 0 and -alike > rules.max_correlation):
                code = CORRELATION
    return SECTOR if rules.max_per_sector > 0 and of_sector >= rules.max_per_sector else code


@njit(cache=True)
def crowd_moment(
    accounts: Any,
    claims: Any,
    near: Any,
    rules: Any,
    markets: Any,
    bars: NDArray[np.int64],
    present: NDArray[np.bool_],
) -> None:
    """After `close_moment`, whose arguments these are: note which symbols may open nothing at this bar, and why."""
    rule = rules[0]
    if rule.max_correlation > 0.0:
        follow_closes(near[1], markets, bars, present)
    if rule.max_per_sector > 0 or rule.max_correlation > 0.0:
        for index in range(len(accounts)):
            if present[index] and accounts[index].unsettled == FREE:
                accounts[index].unsettled = crowded(accounts, claims, near, rule, index)
