"""What a policy gained on each symbol of an account over the last three months, kept bar by bar."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from finsense.account.ranking import blend

# Three months of trading: 248 sessions a year.
SESSIONS = 63

TRACK = np.dtype(
    [
        ("day", np.int64),  # of the last bar; -1 before the first
        ("sessions", np.int64),  # begun so far
        ("gain_paise", np.int64),  # realised and marked, after charges, from the opening to the last bar
        ("equity_paise", np.int64),  # of the account at the last bar
        # Both as they were before each of the last sessions began; session n at place n % SESSIONS.
        ("gains_paise", np.int64, (SESSIONS,)),
        ("equities_paise", np.int64, (SESSIONS,)),
    ]
)


@njit(cache=True)
def open_tracks(tracks: Any, rules: Any) -> None:
    """Begin with nothing gained; tracks: (S,) of dtype TRACK, rules: one RULES record."""
    for index in range(len(tracks)):
        track = tracks[index]
        track.day = -1
        track.sessions = 0
        track.gain_paise = 0
        track.equity_paise = rules.balance_paise


@njit(cache=True)
def follow_gains(
    accounts: Any, tracks: Any, rules: Any, markets: Any, bars: NDArray[np.int64], present: NDArray[np.bool_]
) -> None:
    """Take in the closes of one moment, after `close_moment`; arguments as there. Nothing where nobody asks for it."""
    if rules[0].rank_performance == 0.0:
        return
    for index in range(len(accounts)):
        if not present[index]:
            continue
        account, track, market = accounts[index], tracks[index], markets[bars[index]]
        if track.day != market.day:
            place = track.sessions % SESSIONS
            track.gains_paise[place] = track.gain_paise
            track.equities_paise[place] = track.equity_paise
            track.sessions += 1
            track.day = market.day
        track.gain_paise = account.brought_paise + account.position * market.close_paise
        track.equity_paise = account.equity_paise


@njit(cache=True)
def gained(track: Any) -> float:
    """The gain of the last SESSIONS sessions, the running one included, over the equity before them; 0 before any."""
    if track.sessions == 0:
        return 0.0
    first = track.sessions % SESSIONS if track.sessions > SESSIONS else 0
    equity_paise = track.equities_paise[first]
    return (track.gain_paise - track.gains_paise[first]) / float(equity_paise) if equity_paise > 0 else 0.0


@njit(cache=True)
def score_moment(
    tracks: Any, rules: Any, deciding: NDArray[np.bool_], confidences: NDArray[np.float64], scores: NDArray[np.float64]
) -> None:
    """Write the scores of the symbols that decide, (S,) float64: the higher one is served first.

    The confidence is the policy's; what it gained on the symbol is the account's own record of this run, so that no
    score knows a bar that the policy had not traded yet.
    """
    rule = rules[0]
    for index in range(len(scores)):
        if deciding[index]:
            past = gained(tracks[index]) if rule.rank_performance != 0.0 else 0.0
            scores[index] = blend(confidences[index], past, rule.rank_confidence, rule.rank_performance, rule.rank_full)
