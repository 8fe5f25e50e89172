"""Figures of the last decisions, read from the buffer that the learner fills anyway: nothing is counted by step."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.learner import Decisions

_POSITION = ACCOUNT_FEATURES.index("position")
_DRAWDOWN = ACCOUNT_FEATURES.index("drawdown")


def decision_figures(decisions: Decisions, names: Sequence[str], hold: int) -> dict[str, float]:
    """Shares of the actions and how often each was masked.

    Args:
        decisions: what was done.
        names: one per action.
        hold: the action that is always legal.
    """
    counts = np.bincount(decisions.actions.ravel(), minlength=len(names))
    legal = decisions.masks.mean(axis=(0, 1))
    tags = [name.replace(" ", "_") for name in names]
    figures = {f"actions/{tag}_share": count / counts.sum() for tag, count in zip(tags, counts, strict=True)}
    figures["mask/valid_mean"] = float(legal.sum())
    for action, tag in enumerate(tags):
        if action != hold:
            figures[f"mask/{tag}_blocked"] = 1.0 - float(legal[action])
    return figures


def exposure_figures(decisions: Decisions, bars_per_session: float) -> dict[str, float]:
    """Exposure, turnover, drawdown and holding time, from the account's part of the observations.

    `turnover` is the change of the position's share of the equity, summed over a session; the price's own drift is in
    it. `max_dd` is the deepest drawdown of each environment in these steps, averaged, a fraction <= 0.
    """
    account = decisions.states[:, :, -len(ACCOUNT_FEATURES) :]
    position, drawdown = account[:, :, _POSITION], account[:, :, _DRAWDOWN]
    same_episode = decisions.starts[1:] == 0
    moved = np.abs(np.diff(position, axis=0)) * same_episode
    held = position != 0
    entries = int((held[1:] & ~held[:-1] & same_episode).sum() + held[0].sum())
    figures = {
        "portfolio/exposure": float(np.abs(position).mean()),
        "portfolio/turnover": float(moved.mean()) * bars_per_session,
        "portfolio/max_dd": -float(drawdown.max(axis=0).mean()),
    }
    if entries:
        figures["trades/avg_hold_bars"] = int(held.sum()) / entries
    return figures


def episode_figures(
    accounts: Sequence[NDArray[Any]], bars: Sequence[int], balance_paise: int, bars_per_session: float
) -> dict[str, float]:
    """What ended episodes left in the books; nothing where none has ended.

    Two fills count as a trade. `fee_share` is charges over the gain before charges, where there is one.

    Args:
        accounts: records of dtype ACCOUNT, one per episode.
        bars: length of each episode.
        balance_paise: starting capital.
        bars_per_session: for figures per session.
    """
    if not accounts:
        return {}
    equity = np.array([int(account["equity_paise"]) for account in accounts])
    charges = np.array([int(account["charges_paise"]) for account in accounts])
    fills = np.array([int(account["fills"]) for account in accounts])
    gross = int((equity + charges - balance_paise).sum())
    figures = {
        "portfolio/net_return": float((equity / balance_paise - 1.0).mean()),
        "trades/per_day": float(fills.sum() / 2 / (sum(bars) / bars_per_session)),
        "trades/per_episode": float(fills.mean() / 2),
    }
    if gross > 0:
        figures["portfolio/fee_share"] = float(charges.sum() / gross)
    return figures
