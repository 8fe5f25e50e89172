"""What is traded in the benchmarks: simulated NSE bars, one account, classic29."""

import datetime as dt
from typing import Any

from benchmarks.measurement import Effort
from finsense.account.rules import AccountRules
from finsense.envs.tape import Tape, build_tape
from finsense.evaluation.backtest import Setting
from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.simulate import SimulatedMarket
from finsense.state.spec import StateSpec

SYMBOL = "SIM"
LAST = dt.date(2025, 12, 31)
TWO_YEARS_DAYS = 731
# A session of 5-minute bars, and as many as the default warm-up is made of with one to trade after it.
SESSION_BARS = 75
# Of the preset `full`: docs/warmup.md.
FULL_WARMUP = 350
_SHORTEST_DAYS = 14


def bars_of(effort: Effort, days: int = TWO_YEARS_DAYS, symbols: tuple[str, ...] = (SYMBOL,)) -> dict[str, Bars]:
    """Five-minute bars of so many calendar days up to the end of 2025."""
    simulated = {
        "model": "mean_reversion",
        "symbols": symbols,
        "first": LAST - dt.timedelta(days=effort.count(days, _SHORTEST_DAYS)),
        "last": LAST,
        "seed": 1,
    }
    return SimulatedMarket.model_validate(simulated).load()


def state_spec(history: int = 1) -> StateSpec:
    """classic29, stacked over so many bars."""
    return StateSpec.model_validate({"features": ["classic29"], "history": history})


def account_rules() -> AccountRules:
    """An intraday account of 50,000 rupees that orders ten shares at a time and holds at most forty."""
    rules: dict[str, Any] = {
        "balance": 50_000,
        "product": "intraday",
        "actions": {"scheme": "orders", "size": {"kind": "shares", "shares": 10}},
        "max_position": 40,
    }
    return AccountRules.model_validate(rules)


def setting() -> Setting:
    """The terms under which a policy is judged here."""
    return Setting(state_spec(), account_rules(), ChargeRules(), sessions_per_year=248)


def tape_of(bars: Bars, history: int = 1) -> Tape:
    """The bars prepared for an environment."""
    return build_tape([(bars, instrument(bars.symbol))], state_spec(history), ChargeRules())
