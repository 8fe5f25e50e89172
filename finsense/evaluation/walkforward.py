"""Folds that roll forward in time, the accounts of their test spans as one series, and how sure its mean is."""

import datetime as dt
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.backtest import Report, days_of
from finsense.evaluation.dependence import ranks, standardised
from finsense.evaluation.metrics import session_equity, session_returns, sharpe
from finsense.evaluation.seed_statistics import CONFIDENCE

Window = Literal["rolling", "expanding"]
Dates = tuple[dt.date, dt.date]

RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 500


class FoldError(ValueError):
    """Spans that cannot be rolled over these sessions."""


@dataclass(frozen=True)
class Fold:
    """Three spans of IST dates, both ends included, in the order of time; no two share a session.

    Attributes:
        train: a policy is fitted here.
        validation: its checkpoint is chosen here.
        test: the chosen one is judged here, once.
    """

    train: Dates
    validation: Dates
    test: Dates

    @property
    def spans(self) -> tuple[Dates, Dates, Dates]:
        """In the order of time."""
        return self.train, self.validation, self.test


def roll(sessions: Sequence[dt.date], newest: Fold, count: int, window: Window) -> tuple[Fold, ...]:
    """Folds up to the newest one, each earlier one moved back by the length of the test span.

    Lengths are counted in sessions, so the test spans follow each other without a gap or an overlap. A gap that the
    newest fold leaves between two of its spans (an embargo) is left in every fold.

    Args:
        sessions: the dates of all sessions, ascending.
        newest: the last fold; its ends need not be sessions.
        count: how many folds.
        window: `rolling` trains on as many sessions in every fold; `expanding` always begins where the newest begins.

    Returns:
        The folds, oldest first; their ends are sessions.

    Raises:
        FoldError: a span holds no session, or there is too little history for so many folds.
    """
    if count < 1:
        raise FoldError(f"expected one fold or more, found {count}")
    places = [(bisect_left(sessions, first), bisect_right(sessions, last)) for first, last in newest.spans]
    for name, (first, last), (begin, end) in zip(("train", "validation", "test"), newest.spans, places, strict=True):
        if begin >= end:
            raise FoldError(f"the {name} span from {first} to {last} holds no session of the data; move it")
    (train_begin, train_end), _, (test_begin, test_end) = places
    step = test_end - test_begin
    most = 1 + (train_begin if window == "rolling" else train_end - train_begin - 1) // step
    if count > most:
        need = "sessions before the train span" if window == "rolling" else "sessions in the train span"
        raise FoldError(
            f"{count} folds need {step * (count - 1)} {need} (test spans of {step}), so at most {most} fit, {window}; "
            "choose fewer folds, a shorter test span, or the other window"
        )
    return tuple(_moved(sessions, places, step * back, window) for back in reversed(range(count)))


def _moved(sessions: Sequence[dt.date], places: Sequence[tuple[int, int]], back: int, window: Window) -> Fold:
    spans = [(begin - back, end - back) for begin, end in places]
    if window == "expanding":
        spans[0] = (places[0][0], spans[0][1])
    train, validation, test = ((sessions[begin], sessions[end - 1]) for begin, end in spans)
    return Fold(train, validation, test)


@dataclass(frozen=True)
class Account:
    """What one account did on one test span.

    Attributes:
        symbol: what it traded.
        balance_paise: starting capital.
        days: (n,) int64, its sessions, days since 1970-01-01.
        equity_paise: (n,) int64, at the last close of each.
        trades: closed round trips.
        turnover: traded value over the average equity, per session; NaN where undefined.
        charges_paise: all it paid.
    """

    symbol: str
    balance_paise: int
    days: NDArray[np.int64]
    equity_paise: NDArray[np.int64]
    trades: int
    turnover: float
    charges_paise: int

    @classmethod
    def of(cls, report: Report, balance_paise: int) -> "Account":
        """The account of a backtest."""
        day, figures = days_of(report.trace), report.performance
        ends = session_equity(report.trace.equity_paise, day)
        return cls(
            report.symbol, balance_paise, np.unique(day), ends, figures.trades, figures.turnover, figures.charges_paise
        )

    @property
    def log_return(self) -> float:
        """Of the final over the starting equity, as validation scores a policy (at least a paisa is left)."""
        return math.log(max(int(self.equity_paise[-1]), 1) / self.balance_paise)

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        turnover = self.turnover if math.isfinite(self.turnover) else None
        return {**vars(self), "days": self.days.tolist(), "equity_paise": self.equity_paise.tolist()} | {
            "turnover": turnover
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Account":
        """The inverse of `as_dict`."""
        arrays = {name: np.array(values[name], np.int64) for name in ("days", "equity_paise")}
        turnover = math.nan if values["turnover"] is None else values["turnover"]
        return cls(**{**values, **arrays, "turnover": turnover})


@dataclass(frozen=True)
class Track:
    """One policy over all test spans, one after the other, its symbols taken as one account.

    Attributes:
        returns: (D,) float64, return of each session; every test span begins with the starting capital.
        trades: closed round trips.
        turnover: traded value over the average equity, per session; the mean of the accounts.
        charges: all that was paid, over the starting capital of a test span.
    """

    returns: NDArray[np.float64]
    trades: int
    turnover: float
    charges: float

    def figures(self, sessions_per_year: int) -> dict[str, float]:
        """Name -> figure, fractions; NaN where undefined. The total and the drawdown reinvest from span to span."""
        growth = np.concatenate(([1.0], np.cumprod(1.0 + self.returns)))
        return {
            "mean_daily_return": float(self.returns.mean()),
            "total_return": float(growth[-1] - 1.0),
            "sharpe": sharpe(self.returns, sessions_per_year),
            "max_drawdown": float((growth / np.maximum.accumulate(growth) - 1.0).min()),
            "trades": float(self.trades),
            "turnover": self.turnover,
            "charges": self.charges,
            "positive_share": float((self.returns > 0.0).mean()),
        }


def track(spans: Sequence[Sequence[Account]], days: Sequence[NDArray[np.int64]]) -> Track:
    """Join the accounts of several test spans.

    Args:
        spans: of each test span one account per symbol.
        days: of each test span its sessions, (n,) int64. Where an account has none (its symbol did not trade, or it
            was ruined before), its equity stays.
    """
    everyone = [account for accounts in spans for account in accounts]
    turnovers = [account.turnover for account in everyone if math.isfinite(account.turnover)]
    capital = sum(account.balance_paise for account in spans[0])
    return Track(
        returns=np.concatenate([_returns(accounts, own) for accounts, own in zip(spans, days, strict=True)]),
        trades=sum(account.trades for account in everyone),
        turnover=float(np.mean(turnovers)) if turnovers else math.nan,
        charges=sum(account.charges_paise for account in everyone) / capital,
    )


def _returns(accounts: Sequence[Account], days: NDArray[np.int64]) -> NDArray[np.float64]:
    pooled = np.zeros(len(days), np.int64)
    for account in accounts:
        path = np.concatenate(([account.balance_paise], account.equity_paise))
        pooled += path[np.searchsorted(account.days, days, side="right")]
    # Where nothing was left, nothing can be lost.
    return np.nan_to_num(session_returns(pooled, sum(account.balance_paise for account in accounts)), nan=0.0)


def block_length(sessions: int) -> int:
    """Expected length of a block: the cube root of the number of sessions, rounded up.

    The best length grows with the cube root (Politis and White 2004); its factor hangs on the dependence, which is
    weak for returns of sessions.
    """
    root = round(sessions ** (1 / 3))
    return int(root if root**3 >= sessions else root + 1)


def stationary_draws(sessions: int, length: int, resamples: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Sessions drawn in blocks of random length that keep their order, (resamples, sessions) int64.

    Each draw is the session after the one before it (the first follows the last), but with probability 1 / `length` any
    session. Source: Politis and Romano 1994, "The Stationary Bootstrap", J. American Statistical Association 89.
    """
    fresh = generator.random((resamples, sessions)) < 1.0 / length
    fresh[:, 0] = True
    starts = generator.integers(0, sessions, (resamples, sessions))
    place = np.arange(sessions)
    begun = np.maximum.accumulate(np.where(fresh, place, 0), axis=1)
    drawn: NDArray[np.int64] = (np.take_along_axis(starts, begun, axis=1) + place - begun) % sessions
    return drawn


def session_interval(values: NDArray[np.float64], generator: np.random.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean of (D,) values, one per session, by the stationary block bootstrap."""
    length = block_length(len(values))
    means = [
        values[stationary_draws(len(values), length, _RESAMPLES_AT_ONCE, generator)].mean(axis=1)
        for _ in range(RESAMPLES // _RESAMPLES_AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Spearman's correlation of two (n,) series; NaN where one is constant, and with fewer than 3."""
    if len(one) < 3 or one.min() == one.max() or other.min() == other.max():
        return math.nan
    return float((standardised(ranks(one)) * standardised(ranks(other))).mean())
