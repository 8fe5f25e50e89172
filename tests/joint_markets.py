"""Several rough markets with holes, and the walks of one account through them, by the loop and by the environment."""

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from markets import CHARGED, SPLIT, rough_bars, small_spec
from numpy.typing import NDArray

from finsense.account.joint import Choice, JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, Order
from finsense.envs.core import EpisodeRules
from finsense.envs.joint import JointVectorTradingEnv
from finsense.envs.joint_core import JointTape, build_joint_tape
from finsense.market.bars import Bars
from finsense.market.instruments import Instrument, instrument
from finsense.market.moments import Moment, moments
from finsense.state.span import split_history
from finsense.state.spec import StateSpec

# A session more than `markets.SPLIT`, so that one symbol can begin later.
FIRST, LAST = dt.date(2024, 2, 27), SPLIT[1]
SYMBOLS = ("SIMA", "SIMB", "SIMC", "SIMD")


def kept(bars: Bars, chosen: NDArray[np.bool_]) -> Bars:
    """The chosen bars alone, (n,) bool."""
    names = ("time_ns", "open", "high", "low", "close", "volume")
    columns = {name: getattr(bars, name)[chosen] for name in names}
    extra = {name: values[chosen] for name, values in bars.extra.items()}
    return replace(bars, **columns, extra=extra)


def with_holes(bars: Bars, seed: int, share: float = 0.1) -> Bars:
    """The bars without a share of them, drawn at random: single ones, and now and then the rest of a session."""
    rng = np.random.default_rng(seed)
    chosen = rng.random(len(bars)) >= share
    for start, stop in zip(bars.session_offsets[:-1].tolist(), bars.session_offsets[1:].tolist(), strict=True):
        if rng.random() < share:
            chosen[int(rng.integers(start, stop)) : stop] = False
        chosen[start] = True
    return kept(bars, chosen)


def rough_markets(seed: int, symbols: Sequence[str] = SYMBOLS, share: float = 0.1, **rest: Any) -> list[Bars]:
    """One rough market per symbol, each with holes and prices of its own; with odd seeds the last one begins later."""
    prices = np.random.default_rng(seed).permutation(np.resize([12.0, 300.0, 4000.0], len(symbols)))
    markets = [
        with_holes(
            rough_bars(100 * seed + place, FIRST, LAST, symbol=symbol, price=float(price), **rest), seed + place, share
        )
        for place, (symbol, price) in enumerate(zip(symbols, prices, strict=True))
    ]
    if seed % 2:
        late = markets[-1]
        markets[-1] = late.take(int(late.session_offsets[1]), len(late))
    return markets


def stocks_of(markets: Sequence[Bars]) -> list[Instrument]:
    """The instruments of the markets."""
    return [instrument(bars.symbol, derivatives=bars.derivatives) for bars in markets]


class Step(NamedTuple):
    """One moment of a walk.

    Attributes:
        moment: its bars.
        fills: symbol -> what filled.
        states: (S, F) float32, zeros in the rows of symbols that did not decide.
        masks: (S, A) bool, holding alone in those rows.
        deciding: (S,) bool.
        actions: (S,) int64.
        confidences: (S,) float64.
        orders: symbol -> its order.
        dropped: symbol -> why it sent none.
        accounts: (S,) of dtype ACCOUNT, after the orders were placed.
        scores: symbol -> what ranked its choice.
        gained: (S,) float64, what each symbol gained in its last sessions.
    """

    moment: Moment
    fills: dict[str, list[Fill]]
    states: NDArray[np.float32]
    masks: NDArray[np.bool_]
    deciding: NDArray[np.bool_]
    actions: NDArray[np.int64]
    confidences: NDArray[np.float64]
    orders: dict[str, Order]
    dropped: dict[str, str]
    accounts: NDArray[Any]
    scores: dict[str, float]
    gained: NDArray[np.float64]


Decide = Callable[[int, str, NDArray[np.bool_]], Choice]


def random_choices(seed: int, hold: float = 0.3) -> Decide:
    """Legal actions and confidences that depend on moment and symbol alone; of the latter many are equal."""
    offsets = {symbol: place for place, symbol in enumerate(sorted(SYMBOLS))}

    def decide(time_ns: int, symbol: str, mask: NDArray[np.bool_]) -> Choice:
        rng = np.random.default_rng([seed, time_ns // 10**9, offsets.get(symbol, 99), *map(ord, symbol)])
        legal = np.flatnonzero(mask)
        action = int(rng.choice(legal)) if rng.random() > hold else int(legal[len(legal) // 2])
        return Choice(action, float(rng.integers(0, 4)) / 4)

    return decide


def walk_joint(
    markets: Sequence[Bars],
    rules: AccountRules,
    decide: Decide,
    spec: StateSpec | None = None,
    charges: Any = CHARGED,
) -> list[Step]:
    """Drive a joint session and the joint exchange over the markets, as a loop does; they must agree all the way."""
    spec = spec or small_spec()
    stocks = stocks_of(markets)
    session = JointSession(stocks, markets[0].interval, spec, rules, charges)
    exchange = JointExchange(stocks, markets[0].interval, rules, charges)
    trading = []
    for bars in markets:
        history, span = split_history(bars, spec)
        trading.append(span)
        for bar in history:
            session.warm(bars.symbol, bar)
            exchange.warm(bars.symbol, bar)
    steps: list[Step] = []
    count, hold = len(session.symbols), rules.hold_action
    for moment in moments(trading):
        fills = exchange.fills(moment)
        session.settle(fills)
        for name in ("cash_paise", "position", "charges_paise", "cost_paise"):
            assert (session.accounts[name] == exchange.accounts[name]).all(), name
        seen = session.observe(moment)
        assert session.books() == exchange.books()
        assert session.stops() == exchange.stops()
        states = np.zeros((count, session.state_width), np.float32)
        masks = np.zeros((count, session.action_count), np.bool_)
        masks[:, hold] = True
        deciding, actions = np.zeros(count, np.bool_), np.full(count, hold)
        confidences = np.zeros(count)
        choices = {}
        for symbol, one in seen.items():
            place = session.symbols.index(symbol)
            states[place], masks[place], deciding[place] = one.state[0], one.mask[0], True
            choices[symbol] = decide(moment.time_ns, symbol, one.mask[0])
            actions[place], confidences[place] = choices[symbol]
        orders = session.order(choices)
        shown = masks, deciding, actions, confidences, orders, session.dropped, session.accounts.copy(), session.scores
        gained = np.array([session.gained(symbol) for symbol in session.symbols])
        steps.append(Step(moment, fills, states, *shown, gained))
        if session.ruined:
            break
        exchange.submit(orders)
    return steps


def joint_tape(markets: Sequence[Bars], spec: StateSpec | None = None, charges: Any = CHARGED) -> JointTape:
    """The tape of the markets."""
    return build_joint_tape(list(zip(markets, stocks_of(markets), strict=True)), spec or small_spec(), charges)


def joint_env(tape: JointTape, rules: AccountRules, accounts: int = 1, **episode: Any) -> JointVectorTradingEnv:
    """An environment that plays the whole span from its first moment unless told otherwise."""
    return JointVectorTradingEnv(tape, rules, accounts, EpisodeRules(**{"random_start": False, **episode}))
