"""What an account notes at a bar's close: its value, its halts, an unquiet market, its trailing stop."""

from typing import Any

from numba import njit

from finsense.account.portfolio import begin_day, mark
from finsense.account.reasons import CONSECUTIVE_LOSSES, DAILY_LOSS, DRAWDOWN, FREE, PRICE_JUMP, VOLATILITY_SPIKE
from finsense.account.rules_record import PPM
from finsense.account.stops import trail_stop


@njit(cache=True)
def _is_spike(account: Any, rules: Any, market: Any, before_paise: int) -> bool:
    """Whether the bar's true range is too many times its average, which then takes the range in.

    The average is Wilder's (New Concepts in Technical Trading Systems, 1978), kept as a sum of whole paise.
    """
    high, low = market.high_paise, market.low_paise
    if before_paise > 0:
        high, low = max(high, before_paise), min(low, before_paise)
    true_range = high - low
    if account.range_bars < rules.range_bars:
        account.range_bars += 1
        account.range_paise += true_range
        return False
    spike = true_range * rules.range_bars * 1000 > account.range_paise * rules.spike_permille
    account.range_paise += true_range - account.range_paise // rules.range_bars
    return bool(spike)


@njit(cache=True)
def _unsettled(account: Any, rules: Any, market: Any, before_paise: int) -> int:
    """Why this bar is no time to open a position: a code of REASONS; `before_paise` is the last close, 0 unknown."""
    spike = rules.spike_permille >= 0 and _is_spike(account, rules, market, before_paise)
    if rules.price_jump_ppm >= 0 and before_paise > 0:
        move = abs(market.close_paise - before_paise)
        if move > before_paise * rules.price_jump_ppm // PPM:
            return PRICE_JUMP
    return VOLATILITY_SPIKE if spike else FREE


@njit(cache=True)
def _halt(account: Any, rules: Any) -> None:
    """Latch the gravest breach: losses and the daily loss until the next day, the drawdown for good."""
    equity = account.equity_paise
    if rules.losses > 0 and account.losses >= rules.losses:
        account.halted = max(account.halted, CONSECUTIVE_LOSSES)
    if rules.daily_loss_ppm >= 0:
        start = account.day_equity_paise
        if start - equity >= start * rules.daily_loss_ppm // PPM:
            account.halted = max(account.halted, DAILY_LOSS)
    if rules.drawdown_ppm >= 0:
        peak = account.peak_paise
        if peak - equity >= peak * rules.drawdown_ppm // PPM:
            account.halted = DRAWDOWN


@njit(cache=True)
def mark_bar(account: Any, rules: Any, market: Any) -> None:
    """Value the account at a bar's close and see what its limits and exits make of it.

    Args:
        account: one ACCOUNT record.
        rules: one RULES record.
        market: the bar's MARKET record.
    """
    if rules.limited != 0:
        before_paise = account.close_paise
        begin_day(account, market.day)
        mark(account, market.close_paise)
        account.bar_orders = 0
        account.unsettled = _unsettled(account, rules, market, before_paise)
        _halt(account, rules)
    else:
        mark(account, market.close_paise)
    if rules.exit_trail_ppm > 0 and account.stop_paise != 0:
        trail_stop(account, rules, market)
