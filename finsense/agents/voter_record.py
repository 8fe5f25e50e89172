"""What a policy's votes were worth over a span: how often the direction it chose came true beyond the charges."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsense.agents.round_trip import round_trips
from finsense.evaluation.backtest import Setting, backtest
from finsense.market.bars import Bars
from finsense.model.bundle import Bundle
from finsense.model.outcomes import Outcomes
from finsense.model.policy import Policy
from finsense.model.voting import directions, is_right
from finsense.state.span import split_history, tradable_range


class VoterRecordError(ValueError):
    """A span on which nothing can be measured."""


@dataclass(frozen=True)
class Trial:
    """A span on which members are tried.

    Attributes:
        markets: symbol -> its bars, those before the span included.
        first: first date, inclusive.
        last: last date, inclusive.
        horizon: bars from the fill to the exit.
        dead_zone: a direction is right when the log return has its sign and is larger.
    """

    markets: Mapping[str, Bars]
    first: dt.date
    last: dt.date
    horizon: int
    dead_zone: float


@dataclass(frozen=True)
class VoterRecord:
    """What came of a policy's actions on a trial.

    Attributes:
        bars: decisions whose forward return became known.
        votes: of these, the ones for a direction.
        right: of those, the ones that were right.
        chance: how many would have been right had the same directions been chosen at random bars.
        log_return: of the account, the mean over the symbols.
    """

    bars: int
    votes: int
    right: int
    chance: float
    log_return: float


def setting_of(bundle: Bundle) -> Setting:
    """The terms that a bundle was trained under."""
    manifest = bundle.manifest
    return Setting(manifest.state, manifest.account, manifest.costs, manifest.sessions_per_year)


def usual_round_trip(bundle: Bundle, markets: Mapping[str, Bars], first: dt.date, last: dt.date) -> float:
    """Charges and slippage of buying and selling the account's usual order: the median over a span, fraction."""
    manifest = bundle.manifest
    found = []
    for bars in markets.values():
        begin, end = tradable_range(bars, manifest.state, first, last)
        found.append(round_trips(bars, np.arange(begin, end + 1), manifest.account, manifest.costs))
    return float(np.median(np.concatenate(found)))


def record_of(bundle: Bundle, trial: Trial) -> VoterRecord:
    """Backtest a bundle on every market of a trial, and score what it chose; errors as in `backtest`.

    Raises:
        VoterRecordError: the span is shorter than the horizon.
    """
    setting, direction_of = setting_of(bundle), directions(bundle.manifest.account)
    chosen, forwards, returns = [], [], []
    for bars in trial.markets.values():
        report = backtest(bundle.manifest.name, bundle.policy, bars, setting, trial.first, trial.last)
        rows, forward = known_returns(bars, setting, trial, len(report.trace.actions))
        chosen.append(direction_of[report.trace.actions[rows]])
        forwards.append(forward)
        returns.append(np.log(max(report.performance.final_equity_paise, 1) / setting.account.balance_paise))
    if not sum(map(len, forwards)):
        raise VoterRecordError(
            f"no forward return over {trial.horizon} bars is known within {trial.first} to {trial.last}; give a longer "
            "span or a shorter horizon"
        )
    return _scored(np.concatenate(chosen), np.concatenate(forwards), trial.dead_zone, float(np.mean(returns)))


def known_returns(
    bars: Bars, setting: Setting, trial: Trial, decisions: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The first decisions of a span whose forward return becomes known within it.

    Args:
        bars: of one symbol.
        setting: of the policy.
        trial: the span.
        decisions: how many were taken; a ruined account takes none.

    Returns:
        Number of the decision in the span, (n,) int64, and its log return, (n,) float64.
    """
    outcomes: Outcomes[int] = Outcomes(trial.horizon, overnight=setting.account.product == "delivery")
    known: list[tuple[int, float]] = []
    for number, bar in enumerate(split_history(bars, setting.state, trial.first, trial.last)[1]):
        known += outcomes.follow(bar)
        if number < decisions:
            outcomes.note(number)
    return np.array([number for number, _ in known], np.int64), np.array([value for _, value in known], np.float64)


def ran(policy: Policy, trial: Trial, setting: Setting) -> float:
    """The log return of a policy's account, the mean over the markets of a trial; errors as in `backtest`."""
    finals = [
        backtest("ensemble", policy, bars, setting, trial.first, trial.last).performance.final_equity_paise
        for bars in trial.markets.values()
    ]
    return float(np.log(np.maximum(finals, 1) / setting.account.balance_paise).mean())


def _scored(
    direction: NDArray[np.int8], forward: NDArray[np.float64], dead_zone: float, log_return: float
) -> VoterRecord:
    voted = direction != 0
    right = int(is_right(direction, forward, dead_zone).sum())
    rises, falls = (forward > dead_zone).mean(), (forward < -dead_zone).mean()
    chance = np.count_nonzero(direction > 0) * rises + np.count_nonzero(direction < 0) * falls
    return VoterRecord(len(forward), int(voted.sum()), right, float(chance), log_return)
