"""Accounts under every limit and exit, and why their actions are masked."""

from typing import Any

from markets import orders_of, rules
from numba import njit

from finsense.account.mask import reason_of
from finsense.account.orders import order_quantity, own_order_quantity
from finsense.account.rules import AccountRules

ALL_LIMITS: dict[str, Any] = {
    "max_order_value": 40_000,
    "max_order_quantity": 120,
    "max_position_fraction": 0.6,
    "min_position_fraction": 0.02,
    "max_gross_exposure": 0.8,
    "max_net_exposure": 0.7,
    "max_positions": 2,
    "cash_buffer": 0.05,
    "max_orders_per_day": 9,
    "max_orders_per_bar": 1,
    "max_price_jump": 0.03,
    "max_daily_loss": 0.04,
    "max_drawdown": 0.3,
    "max_consecutive_losses": 4,
    "max_volatility_spike": 2.0,
    "volatility_bars": 5,
    "no_entry_before_close_minutes": 45,
}
ALL_EXITS = {"stop_loss": 0.01, "trailing_stop": 0.015, "take_profit": 0.03, "time_exit_bars": 9}
SHORT_TARGETS = {"scheme": "targets", "targets": [-1, -0.5, 0, 0.5, 1]}
LIMITED: dict[str, AccountRules] = {
    "shares": rules("delivery", limits=ALL_LIMITS, exits=ALL_EXITS),
    "fraction": rules("delivery", orders_of("fraction", fraction=0.4), limits=ALL_LIMITS, exits={"stop_loss": 0.02}),
    "short targets": rules(actions=SHORT_TARGETS, allow_short=True, limits=ALL_LIMITS, exits=ALL_EXITS),
    "all in, flattened": rules(
        actions=orders_of("all_in"),
        allow_short=True,
        participation=0.05,
        limits={"preset": "cautious", "on_daily_loss": "flatten", "on_drawdown": "flatten"},
        exits={"trailing_stop": 0.01},
    ),
    "small account": rules("delivery", orders_of("all_in"), limits={"preset": "small_account"}, exits=ALL_EXITS),
}


@njit(cache=True)
def decided(
    envs: Any, accounts: Any, records: Any, markets: Any, schedules: Any, actions: Any, quantities: Any, codes: Any
) -> None:
    """The order of each env's action, (N,) signed shares, and why each action is masked, (N, A)."""
    for index in range(len(envs)):
        account, rule, bar = accounts[index], records[0], markets[envs[index].bar]
        schedule = schedules[bar.schedule]
        quantity = own_order_quantity(account, rule, bar)
        if quantity == 0:
            quantity = order_quantity(account, rule, bar, schedule, actions[index])
        quantities[index] = quantity
        for action in range(codes.shape[1]):
            codes[index, action] = reason_of(account, rule, bar, schedule, action)
