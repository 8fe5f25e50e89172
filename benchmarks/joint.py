"""Ten symbols on one account: environment steps against ten accounts apart, and bars of the loop against one symbol."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.environments import random_legal
from benchmarks.markets import SESSION_BARS, account_rules, bars_of, setting, state_spec
from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate
from finsense.account.exchange import SimulatedExchange
from finsense.account.joint import Choice, JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.session import Session
from finsense.envs.core import EpisodeRules
from finsense.envs.joint import JointTradingVecEnv
from finsense.envs.joint_core import build_joint_tape
from finsense.envs.tape import build_tape
from finsense.envs.vector import TradingVecEnv
from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import Instrument, instrument
from finsense.market.moments import moments

_SYMBOLS = tuple(f"SIM{letter}" for letter in "ABCDEFGHIJ")
_ACCOUNTS = 100
_WEEKS = EpisodeRules(bars=5 * SESSION_BARS, random_start=True)
_HOLD = 1


def joint_env(effort: Effort) -> list[Measurement]:
    """Rows per second of 100 accounts with ten symbols each, against 1,000 accounts with one of the ten each."""
    markets = [(bars, instrument(bars.symbol)) for bars in bars_of(effort, 365, _SYMBOLS).values()]
    accounts, steps = effort.count(_ACCOUNTS), effort.count(1000)
    joint = JointTradingVecEnv(
        build_joint_tape(markets, state_spec(), ChargeRules()), account_rules(), accounts, _WEEKS
    )
    apart = TradingVecEnv(
        build_tape(markets, state_spec(), ChargeRules()), account_rules(), accounts * len(_SYMBOLS), _WEEKS
    )
    peer = Peer("as many accounts with one symbol each", _env_contender(apart, steps))
    return measure_rate("joint_env", "rows", _env_contender(joint, steps), effort, [peer])


def joint_loop(effort: Effort) -> list[Measurement]:
    """Bars per second of session and exchange without a policy: ten symbols together, and one of them alone."""
    markets = list(bars_of(effort, 60, _SYMBOLS).values())
    peer = Peer("one symbol in a Session", Contender(_alone(markets[0]), len(markets[0])))
    ours = Contender(_together(markets), sum(len(bars) for bars in markets))
    one = Contender(_together(markets[:1]), len(markets[0]))
    return [
        *measure_rate("joint_loop", "bars", ours, effort, [peer]),
        *measure_rate("joint_loop_one_symbol", "bars", one, effort, [peer]),
    ]


def _env_contender(envs: TradingVecEnv, steps: int) -> Contender:
    """The actions are drawn beforehand; the same seed meets the same masks again, so all of them are legal."""

    def prepare() -> None:
        envs.seed(0)
        envs.reset()

    prepare()
    actions = np.empty((steps, envs.num_envs), np.int64)
    rng = np.random.default_rng(0)
    for row in actions:
        row[:] = random_legal(envs.core, rng)
        envs.step(row)

    def work() -> None:
        for row in actions:
            envs.step(row)

    return Contender(work, actions.size, prepare)


def _stocks(markets: Sequence[Bars]) -> list[Instrument]:
    return [instrument(bars.symbol) for bars in markets]


def _together(markets: Sequence[Bars]) -> Callable[[], object]:
    terms, rounds = setting(), list(moments(markets))

    def work() -> None:
        stocks = _stocks(markets)
        session = JointSession(stocks, markets[0].interval, terms.state, terms.account, terms.costs)
        exchange = JointExchange(stocks, markets[0].interval, terms.account, terms.costs)
        for number, moment in enumerate(rounds):
            session.settle(exchange.fills(moment))
            choices = {
                symbol: Choice(_wish(number, seen.mask[0]), 0.5) for symbol, seen in session.observe(moment).items()
            }
            exchange.submit(session.order(choices))

    return work


def _alone(bars: Bars) -> Callable[[], object]:
    terms, rows = setting(), list(bars)

    def work() -> None:
        stock = instrument(bars.symbol)
        session = Session(stock, bars.interval, terms.state, terms.account, terms.costs)
        exchange = SimulatedExchange(stock, bars.interval, terms.account, terms.costs)
        for number, bar in enumerate(rows):
            session.settle(exchange.fills(bar))
            seen = session.observe(bar)
            if seen is None:
                continue
            order = session.order(_wish(number, seen.mask[0]))
            if order is not None:
                exchange.submit(order)

    return work


def _wish(number: int, mask: NDArray[np.bool_]) -> int:
    """Buy and sell in turn every tenth bar, where it is legal."""
    action = (0 if number % 20 else 2) if number % 10 == 0 else _HOLD
    return action if mask[action] else _HOLD
