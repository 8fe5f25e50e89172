"""What a walk-forward says: the agent beside the baselines, how sure the difference is, and how results decay."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsense.evaluation.seed_statistics import interquartile_mean, stratified_interval
from finsense.evaluation.walkforward import Account, Track, rank_correlation, session_interval, track

AGENT, FLAT = "agent", "always flat"

# Of each test span the accounts of one policy, one per symbol.
Spans = Sequence[Sequence[Account]]


@dataclass(frozen=True)
class Terms:
    """What all series of one walk-forward share.

    Attributes:
        days: of each test span its sessions, (n,) int64, days since 1970-01-01.
        validation_sessions: of each fold, how many sessions its validation span has.
        sessions_per_year: for annual figures.
    """

    days: Sequence[NDArray[np.int64]]
    validation_sessions: Sequence[int]
    sessions_per_year: int


def compare(agents: Sequence[Spans], baselines: Mapping[str, Spans], terms: Terms) -> dict[str, Any]:
    """The agent beside the baselines, at one level of charges.

    Args:
        agents: of each seed the accounts of its policies.
        baselines: name -> accounts; one of them is always flat.
        terms: what the series share.

    Returns:
        policies: name -> figures of `Track.figures` over all symbols and test spans; of the agent their interquartile
            means over seeds, and the interval of the mean daily return.
        differences: baseline -> how the agent's mean daily return differs, see `difference`.
        verdict: in words.
        symbols: the same per symbol.
        folds: mean daily return per test span.
    """
    found = _side_by_side(agents, baselines, terms)
    symbols = [account.symbol for account in agents[0][0]]
    found["symbols"] = {
        symbol: _side_by_side(
            [_only(symbol, spans) for spans in agents],
            {name: _only(symbol, spans) for name, spans in baselines.items()},
            terms,
        )
        for symbol in symbols
    }
    found["folds"] = [_one_fold(agents, baselines, terms, fold) for fold in range(len(terms.days))]
    return found


def difference(agent: NDArray[np.float64], baseline: NDArray[np.float64]) -> dict[str, Any]:
    """How the agent's mean daily return differs from a baseline's.

    Args:
        agent: (S, D) float64, return of each seed in each session.
        baseline: (D,) float64.

    Returns:
        mean: over seeds and sessions.
        interquartile_mean: over the seeds' means.
        seeds: its 95 % interval, by the bootstrap over seeds: other trainings on the same market. None for one seed.
        sessions: 95 % interval of the mean, by the stationary block bootstrap over sessions: the same trainings on
            another draw of the same market.
    """
    by_seed = (agent - baseline).mean(axis=1)
    by_session = agent.mean(axis=0) - baseline
    return {
        "mean": float(by_session.mean()),
        "interquartile_mean": interquartile_mean(by_seed),
        "seeds": stratified_interval(by_seed[:, None], _generator()),
        "sessions": session_interval(by_session, _generator()),
    }


def verdict(found: Mapping[str, Any]) -> str:
    """What the difference to always flat allows to say."""
    intervals = [found["sessions"], *([found["seeds"]] if found["seeds"] else [])]
    if all(low > 0 for low, _ in intervals):
        words = "earns more than always flat: the difference lies above 0 over sessions"
        return f"{words} and over seeds" if found["seeds"] else f"{words} (one seed: nothing is known over seeds)"
    if all(high < 0 for _, high in intervals):
        return "no edge found: it earns less than always flat, over sessions and over seeds"
    if all(low == high == 0 for low, high in intervals):
        return "no edge found: it never trades"
    return "no edge found: the interval of the difference to always flat includes 0"


def decay(agents: Sequence[Spans], validation: NDArray[np.float64], terms: Terms) -> dict[str, Any]:
    """How the score by which checkpoints were chosen compares with the same score on the test span.

    The score is the mean over symbols of the account's log return, here per session.

    Args:
        agents: of each seed the accounts of its policies, with the charges that they were trained under.
        validation: (S, K) float64, log return of each seed's checkpoint on the validation span of each fold.
        terms: what the series share.

    Returns:
        folds: of each the interquartile means over seeds of both scores, and Spearman's correlation over seeds.
        rank_correlation: mean of those; None where no fold has one (fewer than 3 seeds, or all scores equal).
        scores: every pair.
    """
    sessions = np.array([len(days) for days in terms.days])
    test = np.array([[np.mean([one.log_return for one in accounts]) for accounts in spans] for spans in agents])
    test = test / sessions
    before = validation / np.array(terms.validation_sessions)
    folds = [
        {
            "validation": interquartile_mean(before[:, fold]),
            "test": interquartile_mean(test[:, fold]),
            "rank_correlation": rank_correlation(before[:, fold], test[:, fold]),
        }
        for fold in range(len(sessions))
    ]
    known = [one["rank_correlation"] for one in folds if math.isfinite(one["rank_correlation"])]
    return {
        "folds": folds,
        "rank_correlation": float(np.mean(known)) if known else math.nan,
        "scores": {"validation": before.tolist(), "test": test.tolist()},
    }


def json_safe(value: Any) -> Any:
    """The value with tuples as lists, and what is undefined as None."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _side_by_side(agents: Sequence[Spans], baselines: Mapping[str, Spans], terms: Terms) -> dict[str, Any]:
    seeds = [track(spans, terms.days) for spans in agents]
    others = {name: track(spans, terms.days) for name, spans in baselines.items()}
    returns = np.stack([one.returns for one in seeds])
    differences = {name: difference(returns, one.returns) for name, one in others.items()}
    return {
        "policies": {
            AGENT: _over_seeds(seeds, terms),
            **{name: one.figures(terms.sessions_per_year) for name, one in others.items()},
        },
        "differences": differences,
        "verdict": verdict(differences[FLAT]),
    }


def _over_seeds(seeds: Sequence[Track], terms: Terms) -> dict[str, Any]:
    """Interquartile mean of each figure over the seeds for which it is defined."""
    each = [one.figures(terms.sessions_per_year) for one in seeds]
    found: dict[str, Any] = {}
    for name in each[0]:
        defined = np.array([figures[name] for figures in each if math.isfinite(figures[name])])
        found[name] = interquartile_mean(defined) if len(defined) else math.nan
    means = np.array([[figures["mean_daily_return"]] for figures in each])
    return {**found, "mean_daily_return_seeds": stratified_interval(means, _generator())}


def _one_fold(
    agents: Sequence[Spans], baselines: Mapping[str, Spans], terms: Terms, fold: int
) -> dict[str, float | tuple[float, float] | None]:
    days = [terms.days[fold]]
    means = np.array([[track([spans[fold]], days).returns.mean()] for spans in agents])
    return {
        AGENT: interquartile_mean(means),
        f"{AGENT}_seeds": stratified_interval(means, _generator()),
        **{name: float(track([spans[fold]], days).returns.mean()) for name, spans in baselines.items()},
    }


def _only(symbol: str, spans: Spans) -> Spans:
    return [[account for account in accounts if account.symbol == symbol] for accounts in spans]


def _generator() -> np.random.Generator:
    """Every interval draws alike, so that none hangs on what was computed before it."""
    return np.random.default_rng(0)
