"""Who is served first: the policy's confidence, and what it gained on the symbol over its last three months."""

from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle, market, setting
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_markets import Step, joint_env, joint_tape, random_choices, rough_markets, walk_joint
from markets import orders_of, rules
from numpy.typing import NDArray
from pydantic import ValidationError

from finsense.account.ranking import Ranking, Signal, blend, score
from finsense.account.rules import AccountRules
from finsense.account.track_record import SESSIONS, TRACK, follow_gains, gained, open_tracks
from finsense.evaluation.joint import backtest_joint, judge_joint
from finsense.live.paper_session import trade_on_paper
from finsense.market.calendar import session_date
from finsense.state.span import split_history

RANKING = {"confidence": 0.5, "performance": 0.5, "full_performance": 0.02}
FRACTIONS = st.floats(0, 1)


def ranked(**changes: object) -> AccountRules:
    """An account that its symbols compete for."""
    return rules("delivery", **{"actions": orders_of("fraction", fraction=0.4), "ranking": RANKING, **changes})


def told_again(steps: list[Step], symbols: list[str], balance_paise: int) -> list[NDArray[np.float64]]:
    """What each symbol gained in its last sessions at each moment, from fills, charges and closes alone."""
    brought, charged = dict.fromkeys(symbols, 0), dict.fromkeys(symbols, 0)
    # Of each symbol: one line per session, its gain and the account's equity at its last bar so far.
    lines: dict[str, list[tuple[object, int, int]]] = {symbol: [(None, 0, balance_paise)] for symbol in symbols}
    told = []
    for step in steps:
        for place, symbol in enumerate(symbols):
            paid = int(step.accounts["charges_paise"][place])
            brought[symbol] -= paid - charged[symbol]
            charged[symbol] = paid
            brought[symbol] -= sum(fill.quantity * fill.price_paise for fill in step.fills.get(symbol, []))
            if symbol in step.moment.bars:
                day = session_date(step.moment.time_ns)
                close = int(np.floor(step.moment.bars[symbol].close * 100 + 0.5))
                gain = brought[symbol] + int(step.accounts["position"][place]) * close
                if lines[symbol][-1][0] == day:
                    lines[symbol].pop()
                lines[symbol].append((day, gain, int(step.accounts["equity_paise"][place])))
        row = []
        for symbol in symbols:
            _, before, equity = lines[symbol][max(len(lines[symbol]) - 1 - SESSIONS, 0)]
            row.append((lines[symbol][-1][1] - before) / equity)
        told.append(np.array(row))
    return told


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_what_was_gained_is_what_fills_and_closes_tell(seed: int) -> None:
    markets = rough_markets(seed)
    account = ranked()
    steps = walk_joint(markets, account, random_choices(seed))
    symbols = sorted(bars.symbol for bars in markets)
    for step, expected in zip(steps, told_again(steps, symbols, account.balance_paise), strict=True):
        np.testing.assert_array_equal(step.gained, expected)
        for symbol, found in step.scores.items():
            place = symbols.index(symbol)
            counted = min(max(expected[place], 0.0) / 0.02, 1.0)
            assert found == pytest.approx(0.5 * step.confidences[place] + 0.5 * counted, abs=1e-12)
    assert any((step.gained > 0).any() and (step.gained < 0).any() for step in steps)


def test_only_the_last_sessions_count() -> None:
    """One symbol that gains one rupee on each of 100 days, of an account of 1,000: 63 days count, then no more."""
    record = rules("delivery", balance=1000, ranking=RANKING).record("1d")
    accounts = walk_joint(rough_markets(0), ranked(), random_choices(0))[0].accounts[:1].copy()
    tracks, found = np.zeros(1, TRACK), []
    markets = np.zeros(1, joint_tape(rough_markets(0)).tape.markets.dtype)
    open_tracks(tracks, record[0])
    accounts["position"], accounts["equity_paise"] = 0, 100_000
    for day in range(100):
        accounts["brought_paise"], markets["day"] = 100 * (day + 1), day
        for _ in range(2):
            follow_gains(accounts, tracks, record, markets, np.zeros(1, np.int64), np.ones(1, np.bool_))
        found.append(gained(tracks[0]))
    assert found == [min(day + 1, SESSIONS) * 100 / 100_000 for day in range(100)]


@given(confidence=FRACTIONS, better=FRACTIONS, past=st.floats(-1, 1), later=st.floats(-1, 1), weights=st.tuples(
    st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1)))  # fmt: skip
def test_a_score_rises_with_both_and_a_loss_counts_as_nothing(
    confidence: float, better: float, past: float, later: float, weights: tuple[float, float, float]
) -> None:
    low, high = sorted((confidence, better))
    worse, more = sorted((past, later))
    assert blend(low, worse, *weights) <= blend(high, more, *weights)
    assert blend(low, min(worse, 0.0), *weights) == blend(low, 0.0, *weights)
    assert 0.0 <= blend(high, more, *weights) <= 1.0 + 1e-12


@given(confidence=FRACTIONS, past=st.floats(-0.9, 1))
def test_the_command_and_the_account_rank_by_one_score(confidence: float, past: float) -> None:
    ranking = Ranking(**RANKING)
    assert score(Signal("A", 100, confidence, past), ranking.weights) == min(blend(confidence, past, 0.5, 0.5, 0.02), 1)


@given(confidence=FRACTIONS)
def test_without_weights_of_its_own_the_confidence_alone_ranks(confidence: float) -> None:
    assert blend(confidence, 0.5, 1.0, 0.0, 0.1) == confidence


def test_a_ranking_by_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="both 0, so nothing would rank"):
        Ranking(confidence=0, performance=0)
    with pytest.raises(ValidationError, match="momentum"):
        rules(ranking={"momentum": 1})


def test_a_journal_that_goes_on_ranks_as_one_that_was_never_stopped(tmp_path: Path) -> None:
    terms = setting(product="delivery", actions=orders_of("fraction", fraction=0.3), max_position=None, ranking=RANKING)
    bundle = make_bundle(tmp_path / "bundle", terms)
    markets = [market(f"SIM{letter}", sessions=6, seed=number) for number, letter in enumerate("DACB")]
    histories, trading = zip(*(split_history(bars, terms.state) for bars in markets), strict=True)
    report = backtest_joint("random", bundle.policy, markets, terms)
    left = iter(range(150))
    journal = tmp_path / "journal.db"
    first = trade_on_paper(bundle, terms, histories, trading, journal, stop=lambda: next(left, None) is None)
    assert not first.complete
    run = trade_on_paper(bundle, terms, histories, trading, journal)
    assert (run.recovered, run.complete) == (150, True)
    assert judge_joint("random", run.traces, terms).digest() == report.digest()
    assert run.dropped == report.dropped
    assert sum(run.dropped.values()) > 0


def test_an_episode_begins_without_a_past() -> None:
    env = joint_env(joint_tape(rough_markets(4)), ranked(), accounts=2, bars=20)
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    began = False
    for _ in range(60):
        scores = rng.random(env.action_masks().shape)
        scores[~env.action_masks()] = -1
        _, _, terminated, truncated, _ = env.step(scores.argmax(axis=1))
        if (terminated | truncated).all():
            began = True
            assert not env.core.tracks["gain_paise"].any()
            assert (env.core.tracks["equity_paise"] == ranked().balance_paise).all()
    assert began
