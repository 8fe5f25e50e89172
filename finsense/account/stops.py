"""Where a protective stop lies: the one arithmetic of the account's kernels and of a broker that places it."""

from typing import Any

from numba import njit

from finsense.account.rules_record import PPM


@njit(cache=True)
def protective_stop_paise(position: int, fill_price_paise: int, stop_ppm: int, tick_paise: int) -> int:
    """The trigger of the stop that protects a position, paise: rounded to the tick, away from the fill.

    Args:
        position: signed shares, not 0.
        fill_price_paise: of the order that opened it, or of the part that filled.
        stop_ppm: distance from that price, parts per million.
        tick_paise: the smallest price step.
    """
    step = max(tick_paise, 1)
    if position > 0:
        level = fill_price_paise * (PPM - stop_ppm) // PPM
        return int(max(level // step * step, step))
    level = (fill_price_paise * (PPM + stop_ppm) + PPM - 1) // PPM
    return int((level + step - 1) // step * step)


@njit(cache=True)
def tighter_stop_paise(position: int, stop_paise: int, level_paise: int) -> int:
    """The nearer to the market of a resting stop (0: none) and of a new level; one that was hit (negative) stays."""
    if stop_paise < 0:
        return stop_paise
    if stop_paise == 0:
        return level_paise
    return max(stop_paise, level_paise) if position > 0 else min(stop_paise, level_paise)


@njit(cache=True)
def set_entry_stop(account: Any, rules: Any, before: int, price_paise: int, tick_paise: int) -> None:
    """Set the stop after a fill that took the position from `before` to the account's: new, moved nearer, or none."""
    after = account.position
    if after == 0:
        account.stop_paise = 0
    elif before == 0 or (before > 0) != (after > 0):
        account.stop_paise = protective_stop_paise(after, price_paise, rules.exit_stop_ppm, tick_paise)
    elif abs(after) > abs(before):
        level = protective_stop_paise(after, price_paise, rules.exit_stop_ppm, tick_paise)
        account.stop_paise = tighter_stop_paise(after, account.stop_paise, level)


@njit(cache=True)
def trail_stop(account: Any, rules: Any, market: Any) -> None:
    """Move a resting stop after the close of a bar; it never moves away from the market."""
    position = account.position
    level = protective_stop_paise(position, market.close_paise, rules.exit_trail_ppm, market.tick_paise)
    account.stop_paise = tighter_stop_paise(position, account.stop_paise, level)
