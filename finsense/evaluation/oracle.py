"""The best policy of a simulated market by dynamic programming: what can be earned at most, and when not to trade.

A market whose law is known is a Markov chain of its signal. With what the account holds and the bars left in the
session it is a Markov decision process, which backward induction solves (Puterman 1994, 4.5 and 8.5). The optimum
maximises the expected change of the log equity after charges and slippage, under the account's actions and rules.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsense.account.exits import Exits
from finsense.account.rules import PPM, AccountRules, AllInSize, OrderActions
from finsense.market.bars import INTERVAL_NS
from finsense.market.calendar import MINUTE_NS
from finsense.market.costs import ChargeRules, order_charges
from finsense.market.simulate import SimulatedMarket

Floats = NDArray[np.float64]

_SESSION_MINUTES = 375
# Nodes and reach of the grid of a mean-reverting signal: 10 standard deviations in steps of a fortieth of one.
_NODES, _REACH = 401, 5.0
_QUADRATURE_NODES = 21
# Average-reward iteration stops when a sweep changes the values of all states alike to this (log equity per bar).
_TOLERANCE, _SWEEPS = 1e-12, 20_000


class OracleError(ValueError):
    """A market or an account whose best policy this program cannot compute."""


@dataclass(frozen=True)
class SignalChain:
    """What the hidden law of a market does from one close to the next, as a Markov chain.

    Attributes:
        name: what the signal is.
        values: (S,) float64, rising: the log deviation, or the index of the regime.
        transition: (S, S) float64, rows sum to one.
        returns: (S', Q) float64, log returns that a bar may have, by the signal before or after it; see `by_both`.
        weights: (Q,) float64, their probabilities.
        by_both: whether the return is the difference of the two signals; else it belongs to the later one.
    """

    name: str
    values: Floats
    transition: Floats
    returns: Floats
    weights: Floats
    by_both: bool

    def growth(self, exposure: float) -> Floats:
        """(S,) expected change of the log equity over the next bar, with `exposure` of it in shares, by the signal now.

        The return is simple on the shares and logarithmic on the equity: E ln(1 + exposure (e^r - 1)).
        """
        if self.by_both:
            moves = self.values[None, :] - self.values[:, None]
            gains: Floats = (self.transition * np.log1p(exposure * np.expm1(moves))).sum(axis=1)
            return gains
        by_later = np.log1p(exposure * np.expm1(self.returns)) @ self.weights
        expected: Floats = self.transition @ by_later
        return expected


@dataclass(frozen=True)
class Solution:
    """The best policy.

    Attributes:
        chain: the signal.
        exposures: (E,) float64, fractions of the equity in shares that the account may choose between, rising.
        choice: (B, S, E) int64, the exposure to go to, by bar of the session, signal and exposure held; B = 1 where the
            account carries positions on without end.
        bars_left: (B,) int64, bars of the session after each; -1 where sessions do not matter.
        growth_per_bar: expected change of the log equity per bar under the best policy, from the signal's own long-run
            law; the sessions' last bars, when nothing may be held, included.
    """

    chain: SignalChain
    exposures: Floats
    choice: NDArray[np.int64]
    bars_left: NDArray[np.int64]
    growth_per_bar: float

    def band(self) -> tuple[float, float] | None:
        """The signals between which a flat and a fully long account both do nothing, early in a session.

        Returns:
            (highest signal at which it buys, lowest at which it sells): a mean-reverting market; None for regimes.
        """
        if not self.chain.by_both:
            return None
        flat, full = int(np.flatnonzero(self.exposures == 0.0)[0]), len(self.exposures) - 1
        early = self.choice[0]
        buys, sells = np.flatnonzero(early[:, flat] > flat), np.flatnonzero(early[:, full] < full)
        lowest, highest = self.chain.values[0], self.chain.values[-1]
        buy = self.chain.values[buys[-1]] if len(buys) else lowest
        sell = self.chain.values[sells[0]] if len(sells) else highest
        return float(buy), float(sell)


def signal_chain(market: SimulatedMarket) -> SignalChain:
    """The signal of a simulated market as a chain; a random walk has a signal of one value.

    The volatility's shape over the session and its clustering are left out: they leave the expected return as it is.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(_QUADRATURE_NODES)
    weights = weights / weights.sum()
    if market.model == "mean_reversion":
        assert market.reversion is not None
        assert market.shock is not None
        deviation = market.stationary_deviation
        values = np.linspace(-_REACH * deviation, _REACH * deviation, _NODES)
        steps = (values[None, :] - market.reversion * values[:, None]) / market.shock
        density = np.exp(-0.5 * steps**2)
        transition = density / density.sum(axis=1, keepdims=True)
        return SignalChain("deviation", values, transition, np.zeros((1, 1)), np.ones(1), by_both=True)
    if market.volatility is not None:
        table = np.array([(0.0, market.volatility, 1.0)])
    else:
        table = np.array([(one.drift, one.volatility, one.persistence) for one in market.regimes or ()])
    stay = table[:, 2]
    others = max(len(table) - 1, 1)
    transition = np.repeat(((1 - stay) / others)[:, None], len(table), axis=1)
    np.fill_diagonal(transition, stay)
    returns = table[:, :1] - table[:, 1:2] ** 2 / 2 + table[:, 1:2] * nodes[None, :]
    return SignalChain("regime", np.arange(len(table), dtype=np.float64), transition, returns, weights, by_both=False)


def solve(market: SimulatedMarket, rules: AccountRules, costs: ChargeRules) -> Solution:
    """Compute the best policy of an account on a simulated market.

    Charges are those of an order of the account's first balance at the market's first price.

    Raises:
        OracleError: orders of another size than all_in, or a delivery account on a market with gaps over night.
        CostError: no charge schedule is known for the market's last day.
    """
    if rules.limits.on or rules.exits != Exits():
        raise OracleError("the oracle knows neither limits nor exits: leave account.limits and account.exits out")
    if isinstance(rules.actions, OrderActions) and not isinstance(rules.actions.size, AllInSize):
        kind = rules.actions.size.kind
        raise OracleError(f"the oracle knows targets and orders of size all_in, found size {kind}: choose one of them")
    chain = signal_chain(market)
    exposures = _exposures(rules)
    allowed = _allowed(rules, exposures)
    losses = _losses(market, rules, costs, exposures)
    growth = np.stack([chain.growth(exposure) for exposure in exposures], axis=1)
    if rules.product == "delivery":
        if market.overnight_gap > 0:
            raise OracleError(
                "the oracle of a delivery account needs a market without gaps over night, found overnight_gap "
                f"{market.overnight_gap}: set data.overnight_gap to 0, or product intraday"
            )
        return _without_end(chain, exposures, allowed, losses, growth)
    return _by_session(chain, exposures, allowed, losses, growth, market, rules)


def _exposures(rules: AccountRules) -> Floats:
    """The fractions of the equity that the account can hold; a full one leaves room for the price buffer."""
    full = 1.0 / (1.0 + rules.price_buffer + rules.slippage_bps / 1e4)
    if isinstance(rules.actions, OrderActions):
        wanted = [-1.0, 0.0, 1.0] if rules.allow_short else [0.0, 1.0]
    else:
        wanted = sorted(rules.actions.targets)
    return np.array([min(full, exposure) for exposure in wanted])


def _allowed(rules: AccountRules, exposures: Floats) -> NDArray[np.bool_]:
    """(E, E): whether one action leads from an exposure to another; an all-in order closes before it turns."""
    count = len(exposures)
    allowed = np.ones((count, count), np.bool_)
    if isinstance(rules.actions, OrderActions) and count == 3:
        allowed[0, 2] = allowed[2, 0] = False
    return allowed


def _losses(market: SimulatedMarket, rules: AccountRules, costs: ChargeRules, exposures: Floats) -> Floats:
    """(E, E) change of the log equity, never above 0, that going from one exposure to another costs."""
    schedule = costs.schedules()[costs.schedule_index(market.last)]
    price_paise = round(market.start_price * 100)
    losses = np.zeros((len(exposures), len(exposures)))
    for held, before in enumerate(exposures):
        for chosen, after in enumerate(exposures):
            quantity = int((after - before) * rules.balance_paise / price_paise)
            if quantity:
                paid = int(order_charges(schedule, rules.product == "intraday", quantity, price_paise))
                paid += int(schedule["dp_paise"]) if rules.product == "delivery" and quantity < 0 else 0
                slipped = abs(after - before) * round(rules.slippage_bps * 100) / PPM
                losses[held, chosen] = np.log1p(-paid / rules.balance_paise - slipped)
    return losses


def _by_session(
    chain: SignalChain,
    exposures: Floats,
    allowed: NDArray[np.bool_],
    losses: Floats,
    growth: Floats,
    market: SimulatedMarket,
    rules: AccountRules,
) -> Solution:
    """Backward over the bars of an ordinary session that begins and ends flat."""
    minutes = INTERVAL_NS[market.interval] // MINUTE_NS
    bars = -(-_SESSION_MINUTES // minutes)
    flat = int(np.flatnonzero(exposures == 0.0)[0])
    left = np.arange(bars - 1, -1, -1)
    record = rules.record(market.interval)
    values = np.zeros((len(chain.values), len(exposures)))
    choice = np.tile(np.arange(len(exposures)), (bars, len(chain.values), 1))
    adds = np.abs(exposures)[None, :] > np.abs(exposures)[:, None]
    adds |= exposures[None, :] * exposures[:, None] < 0
    for bar in range(bars - 2, -1, -1):
        seconds = int(left[bar]) * minutes * 60
        ahead = growth + chain.transition @ values
        if seconds <= record["square_off_s"][0]:
            choice[bar] = flat
            values = losses[:, flat][None, :] + ahead[:, [flat]]
            continue
        open_ways = allowed & ~adds if seconds <= record["entry_cutoff_s"][0] else allowed
        choice[bar], values = _best(ahead, losses, open_ways)
    mean = float(_stationary(chain.transition) @ values[:, flat]) / bars
    return Solution(chain, exposures, choice, left, mean)


def _without_end(
    chain: SignalChain, exposures: Floats, allowed: NDArray[np.bool_], losses: Floats, growth: Floats
) -> Solution:
    """Relative value iteration for the mean reward per bar (Puterman 1994, 8.5.1)."""
    values = np.zeros((len(chain.values), len(exposures)))
    for _ in range(_SWEEPS):
        choice, updated = _best(growth + chain.transition @ values, losses, allowed)
        change = updated - values
        values = updated - updated[0, 0]
        if np.ptp(change) < _TOLERANCE:
            return Solution(chain, exposures, choice[None], np.array([-1]), float(change.mean()))
    raise OracleError(f"the mean reward did not settle within {_SWEEPS} sweeps; the signal hardly ever changes")


def _best(ahead: Floats, losses: Floats, allowed: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Floats]:
    """The best exposure to go to and its value, (S, E) each, by signal and exposure held; a tie stays where it is."""
    worth = ahead[:, None, :] + np.where(allowed, losses, -np.inf)[None, :, :]
    stay = np.einsum("see->se", worth)
    choice = worth.argmax(axis=2)
    values = np.take_along_axis(worth, choice[:, :, None], 2)[:, :, 0]
    held = np.broadcast_to(np.arange(losses.shape[0]), choice.shape)
    keeps = stay >= values
    return np.where(keeps, held, choice), np.where(keeps, stay, values)


def _stationary(transition: Floats) -> Floats:
    """(S,) the long-run law of a chain."""
    count = len(transition)
    equations = np.vstack([transition.T - np.eye(count), np.ones(count)])
    law: Floats = np.linalg.lstsq(equations, np.append(np.zeros(count), 1.0), rcond=None)[0]
    return law
