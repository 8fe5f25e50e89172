"""The rules of an account as the compiled kernels read them, and how limits, exits and ranking are written there."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.exits import Exits
from finsense.account.limits import Limits
from finsense.account.ranking import Weights
from finsense.account.reasons import DAILY_LOSS, DRAWDOWN

MAX_TARGETS = 8
PPM = 1_000_000
OFF = -1

# Fractions are integers in parts per million, so that a size is computed without a float.
RULES = np.dtype(
    [
        ("balance_paise", np.int64),
        ("intraday", np.int64),
        ("scheme", np.int64),
        ("actions", np.int64),  # how many there are
        ("size_kind", np.int64),
        ("size_shares", np.int64),
        ("size_ppm", np.int64),
        ("stop_ppm", np.int64),
        ("targets_ppm", np.int64, (MAX_TARGETS,)),
        ("hold", np.int64),
        ("max_position", np.int64),
        ("min_position", np.int64),
        ("slippage_ppm", np.int64),
        ("price_buffer_ppm", np.int64),
        ("participation_ppm", np.int64),
        ("entry_cutoff_s", np.int64),
        ("square_off_s", np.int64),
        ("ruin_paise", np.int64),
        # Of the limits; -1 where one is off.
        ("limited", np.int64),  # 1 where one of them is on
        ("max_order_paise", np.int64),
        ("max_order_shares", np.int64),
        ("max_position_ppm", np.int64),
        ("min_position_ppm", np.int64),
        ("max_gross_ppm", np.int64),
        ("max_net_ppm", np.int64),
        ("max_positions", np.int64),
        ("max_per_sector", np.int64),
        ("max_correlation", np.float64),
        ("cash_buffer_ppm", np.int64),
        ("day_orders", np.int64),
        ("bar_orders", np.int64),
        ("price_jump_ppm", np.int64),
        ("daily_loss_ppm", np.int64),
        ("drawdown_ppm", np.int64),
        ("losses", np.int64),
        ("spike_permille", np.int64),
        ("range_bars", np.int64),
        ("near_close_s", np.int64),
        ("flatten_from", np.int64),  # the least grave halt at which the account closes what it holds
        # Of the exits; -1 where one is off.
        ("exits", np.int64),  # 1 where one of them is on
        ("exit_stop_ppm", np.int64),  # first distance of the protective stop
        ("exit_trail_ppm", np.int64),
        ("exit_profit_ppm", np.int64),
        ("exit_bars", np.int64),
        # Of the ranking of several symbols; fractions.
        ("rank_confidence", np.float64),
        ("rank_performance", np.float64),
        ("rank_full", np.float64),
    ]
)


def write_limits(rules: NDArray[Any], limits: Limits, *, daily: bool) -> None:
    """Write the limits into a record of dtype RULES, (1,); `daily`: the bars are days."""
    rules["limited"] = limits.on
    rules["max_order_paise"] = OFF if limits.max_order_value is None else int(limits.max_order_value * 100)
    rules["max_order_shares"] = limits.max_order_quantity or OFF
    rules["max_positions"] = limits.max_positions or OFF
    rules["max_per_sector"] = limits.max_per_sector or OFF
    rules["max_correlation"] = OFF if limits.max_correlation is None else limits.max_correlation
    rules["day_orders"] = limits.max_orders_per_day or OFF
    rules["bar_orders"] = limits.max_orders_per_bar or OFF
    rules["losses"] = limits.max_consecutive_losses or OFF
    for field, fraction in (
        ("max_position_ppm", limits.max_position_fraction),
        ("min_position_ppm", limits.min_position_fraction),
        ("max_gross_ppm", limits.max_gross_exposure),
        ("max_net_ppm", limits.max_net_exposure),
        ("cash_buffer_ppm", limits.cash_buffer),
        ("price_jump_ppm", limits.max_price_jump),
        ("daily_loss_ppm", limits.max_daily_loss),
        ("drawdown_ppm", limits.max_drawdown),
    ):
        rules[field] = _ppm_or_off(fraction)
    spike, minutes = limits.max_volatility_spike, limits.no_entry_before_close_minutes
    rules["spike_permille"] = OFF if spike is None else round(spike * 1000)
    rules["range_bars"] = limits.volatility_bars
    rules["near_close_s"] = OFF if minutes is None or daily else minutes * 60
    rules["flatten_from"] = DRAWDOWN + 1
    if limits.on_drawdown == "flatten":
        rules["flatten_from"] = DRAWDOWN
    if limits.on_daily_loss == "flatten":
        rules["flatten_from"] = DAILY_LOSS


def write_exits(rules: NDArray[Any], exits: Exits) -> None:
    """Write the exits into a record of dtype RULES, (1,)."""
    first = exits.trailing_stop if exits.stop_loss is None else exits.stop_loss
    rules["exits"] = exits != Exits()
    rules["exit_stop_ppm"] = _ppm_or_off(first)
    rules["exit_trail_ppm"] = _ppm_or_off(exits.trailing_stop)
    rules["exit_profit_ppm"] = _ppm_or_off(exits.take_profit)
    rules["exit_bars"] = exits.time_exit_bars or OFF


def write_ranking(rules: NDArray[Any], weights: Weights) -> None:
    """Write how the symbols of one account are ranked into a record of dtype RULES, (1,)."""
    rules["rank_confidence"] = weights.confidence
    rules["rank_performance"] = weights.performance
    rules["rank_full"] = weights.full_performance


def _ppm_or_off(fraction: float | None) -> int:
    """Parts per million; a fraction that is on stays on, however small."""
    return OFF if fraction is None else max(1, ppm(fraction))


def ppm(fraction: float) -> int:
    """A fraction in parts per million."""
    return round(fraction * PPM)
