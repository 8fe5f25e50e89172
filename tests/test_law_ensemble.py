"""The laws of the vote: nobody's place counts, up is as good as down, no weight is no voice, the same run twice."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import market, setting
from ensembles import ensemble, member, members, quick_recipe, turning_graph, with_history
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_law_journal import _run_until_crash

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.labels import label_bars
from finsense.cli.options import setting_of
from finsense.cli.paper import paper_trade
from finsense.cli.parity import digests
from finsense.config.labels import ForwardReturn
from finsense.evaluation.backtest import Setting, backtest
from finsense.evaluation.baselines import RandomLegal
from finsense.live.journal_format import JournalError
from finsense.market.bars import Bar, Bars
from finsense.market.costs import ChargeRules
from finsense.model.bundle import Bundle, load_bundle
from finsense.model.outcomes import Outcomes
from finsense.model.policy import Decision, Policy
from finsense.model.voting import (
    DOWN,
    FLAT,
    UP,
    VOTE,
    accuracies,
    directions,
    mean_probability,
    stacked,
    updated_record,
    weighted_vote,
)
from finsense.state.span import split_history

HOLD = 1
_WEIGHTS = st.one_of(st.just(0.0), st.floats(1e-6, 1.0), st.sampled_from([0.1, 0.2, 0.25, 0.5]))


@st.composite
def ballots(draw: st.DrawFn) -> tuple[list[int], list[float], NDArray[np.bool_], int]:
    """What up to seven members of a Discrete(3) voted, their weights, a mask and a consensus."""
    count = draw(st.integers(1, 7))
    actions = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    weights = draw(st.lists(_WEIGHTS, min_size=count, max_size=count))
    mask = np.array([draw(st.booleans()), True, draw(st.booleans())])
    return actions, weights, mask, draw(st.integers(1, count))


@given(ballots(), st.randoms(use_true_random=False))
def test_nobodys_place_counts(ballot: Any, shuffler: Any) -> None:
    """The same bytes whoever is asked first, however the weights would round when they are added in that order."""
    actions, weights, mask, consensus = ballot
    order = list(range(len(actions)))
    shuffler.shuffle(order)
    one = weighted_vote(actions, weights, mask, HOLD, consensus)
    two = weighted_vote([actions[i] for i in order], [weights[i] for i in order], mask, HOLD, consensus)
    assert one[0] == two[0]
    assert one[1].tobytes() == two[1].tobytes()


@given(ballots())
def test_up_and_down_may_change_their_names(ballot: Any) -> None:
    actions, weights, mask, consensus = ballot
    one, shares = weighted_vote(actions, weights, mask, HOLD, consensus)
    two, mirrored = weighted_vote([2 - action for action in actions], weights, mask[::-1], HOLD, consensus)
    assert two == 2 - one
    assert mirrored.tobytes() == shares[::-1].tobytes()


@given(ballots())
def test_no_weight_is_no_voice(ballot: Any) -> None:
    actions, weights, mask, consensus = ballot
    heard = [place for place, weight in enumerate(weights) if weight > 0]
    one = weighted_vote(actions, weights, mask, HOLD, consensus)
    two = weighted_vote([actions[i] for i in heard], [weights[i] for i in heard], mask, HOLD, consensus)
    assert (one[0], one[1].tobytes()) == (two[0], two[1].tobytes())


@given(ballots())
def test_the_winner_is_legal_ahead_and_has_its_consensus(ballot: Any) -> None:
    actions, weights, mask, consensus = ballot
    action, shares = weighted_vote(actions, weights, mask, HOLD, consensus)
    assert mask[action]
    assert not shares[~mask].any()
    assert shares.sum() == pytest.approx(1.0, abs=1e-6)
    assert shares.argmax() == action
    assert np.count_nonzero(shares == shares.max()) == 1
    behind = [weight for voted, weight in zip(actions, weights, strict=True) if voted == action and weight > 0]
    others = [weight for voted, weight in zip(actions, weights, strict=True) if voted != action]
    if action != HOLD:
        assert len(behind) >= consensus
        for rival in {0, 1, 2} - {action}:
            against = sum(weight for voted, weight in zip(actions, weights, strict=True) if voted == rival)
            assert sum(behind) > against * (1 - 1e-6)
    elif not others:
        assert action == HOLD


@given(ballots())
def test_a_consensus_that_is_lower_never_stops_an_order(ballot: Any) -> None:
    """Raising the consensus may only turn an order into HOLD, and never into another order."""
    actions, weights, mask, consensus = ballot
    strict, _ = weighted_vote(actions, weights, mask, HOLD, consensus)
    lax, _ = weighted_vote(actions, weights, mask, HOLD, 1)
    assert strict in (lax, HOLD)


def test_three_of_five_and_what_comes_of_a_tie() -> None:
    free, equal = np.ones(3, np.bool_), [0.2] * 5
    assert weighted_vote([0, 0, 0, 1, 2], equal, free, HOLD, 3)[0] == 0
    assert weighted_vote([0, 0, 1, 1, 2], equal, free, HOLD, 3)[0] == HOLD
    assert weighted_vote([0, 0, 2, 2, 1], equal, free, HOLD, 1)[0] == HOLD
    assert weighted_vote([0, 0, 1, 1, 2], equal, free, HOLD, 2)[0] == HOLD, "as many hold"
    assert weighted_vote([0, 0, 0, 1, 1], [0.1, 0.1, 0.1, 0.35, 0.35], free, HOLD, 3)[0] == HOLD, "the heavier hold"
    assert weighted_vote([0, 0, 0, 1, 2], equal, np.array([False, True, True]), HOLD, 3)[0] == HOLD
    assert weighted_vote([0, 0, 0, 0, 0], [0.0] * 5, free, HOLD, 1)[0] == HOLD
    assert weighted_vote([], [], free, HOLD, 1)[0] == HOLD


@given(ballots(), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_mean_probability_keeps_the_same_laws(ballot: Any, seed: int, shuffler: Any) -> None:
    _, weights, mask, consensus = ballot
    given_ = np.random.default_rng(seed).dirichlet(np.ones(3), len(weights)).astype(np.float32)
    one = mean_probability(given_, weights, mask, HOLD, consensus)
    order = list(range(len(weights)))
    shuffler.shuffle(order)
    two = mean_probability(given_[order], [weights[i] for i in order], mask, HOLD, consensus)
    heard = [place for place, weight in enumerate(weights) if weight > 0]
    three = mean_probability(given_[heard], [weights[i] for i in heard], mask, HOLD, consensus)
    mirrored = mean_probability(given_[:, ::-1], weights, mask[::-1], HOLD, consensus)
    assert one[1].tobytes() == two[1].tobytes() == three[1].tobytes() == mirrored[1][::-1].tobytes()
    assert one[0] == two[0] == three[0] == 2 - mirrored[0] == one[1].argmax()
    assert mask[one[0]]
    assert not one[1][~mask].any()
    assert one[0] == HOLD or len(heard) >= consensus


@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_a_stack_is_the_regression_and_keeps_the_mask(seed: int, up: bool, down: bool) -> None:
    dice = np.random.default_rng(seed)
    coefficients, intercepts, features = dice.normal(size=(3, 6)), dice.normal(size=3), dice.normal(size=6)
    mask = np.array([up, True, down])
    action, probabilities = stacked(features, coefficients, intercepts, (2, 1, 0), mask)
    scores = np.exp(coefficients @ features + intercepts)
    expected = scores / scores.sum()
    by_action = np.array([expected[UP] if up else 0.0, expected[FLAT], expected[DOWN] if down else 0.0])
    by_action[HOLD] = 1.0 - by_action[0] - by_action[2]
    np.testing.assert_allclose(probabilities, by_action, atol=1e-6)
    assert action == probabilities.argmax()
    assert mask[action]


@given(
    st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 1), st.floats(-0.1, 0.1)), max_size=60),
    st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    st.sampled_from([0.0, 0.01]),
)
def test_a_record_is_the_discounted_sum_of_what_was_right(
    outcomes: list[tuple[int, int, float]], forgetting: float, dead_zone: float
) -> None:
    """The running form against the sum over all outcomes so far."""
    hits, counts = np.zeros(2), np.zeros(2)
    for one, two, forward in outcomes:
        hits, counts = updated_record(hits, counts, np.array([one, two], np.int8), forward, dead_zone, forgetting)
    for place in range(2):
        age = [forgetting ** (len(outcomes) - 1 - number) for number in range(len(outcomes))]
        votes = [row[place] for row in outcomes]
        scored = sum(factor for factor, vote in zip(age, votes, strict=True) if vote)
        right = sum(
            factor
            for factor, vote, (_, _, forward) in zip(age, votes, outcomes, strict=True)
            if (vote == 1 and forward > dead_zone) or (vote == -1 and -forward > dead_zone)
        )
        assert hits[place] == pytest.approx(right)
        assert counts[place] == pytest.approx(scored)
    found = accuracies(np.array([0.5, 0.4]), np.array([10.0, 20.0]), hits, counts)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("horizon", [1, 6, 200])
@pytest.mark.parametrize("product", ["intraday", "delivery"])
def test_an_outcome_is_the_forward_return_of_the_label(product: str, horizon: int) -> None:
    """Bar by bar as it becomes known, it is what the labels know from all bars at once."""
    bars, terms = market(sessions=6), setting(product=product)
    labels = label_bars(bars, ForwardReturn(horizon=horizon), terms.account, ChargeRules())
    outcomes: Outcomes[int] = Outcomes(horizon, overnight=product == "delivery")
    known: dict[int, float] = {}
    for number, bar in enumerate(bars):
        for noted, forward in outcomes.follow(bar):
            known[noted] = forward
        outcomes.note(number)
    expected = dict(zip(labels.bar.tolist(), labels.forward.tolist(), strict=True))
    assert len(known) > 200 or horizon == 200
    assert known == pytest.approx({number: expected[number] for number in known}, abs=1e-15)
    # What is not known yet ends with the data, or in their last session.
    last_session = int(bars.session_offsets[-2])
    late = set(expected) - set(known)
    assert all(number >= (last_session if product == "intraday" else len(bars) - horizon - 1) for number in late)


def test_what_a_decision_becomes_is_not_known_before() -> None:
    """Horizon 2: the fill is the next open, the exit the open two bars on; at a session's end its last close."""
    day, minute = 24 * 3600 * 10**9, 60 * 10**9
    opens = [10.0, 11.0, 12.0, 13.0, 14.0, 20.0, 21.0]
    times = [place * 5 * minute for place in range(5)] + [day, day + 5 * minute]
    bars = [Bar(time, price, price, price, price + 0.5, 1) for time, price in zip(times, opens, strict=True)]
    outcomes: Outcomes[int] = Outcomes(2, overnight=False)
    known: list[Any] = []
    for number, bar in enumerate(bars):
        known.append([(noted, float(np.exp(forward))) for noted, forward in outcomes.follow(bar)])
        outcomes.note(number)
    assert known[:3] == [[], [], []]
    assert known[3] == [(0, pytest.approx(13 / 11))]
    assert known[4] == [(1, pytest.approx(14 / 12))]
    assert known[5] == [(2, pytest.approx(14.5 / 13)), (3, pytest.approx(14.5 / 14))], "decision 4 was never filled"
    assert known[6] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("ensemble")
    return ensemble(folder / "vote", members(folder, setting()), market(sessions=12), quick_recipe())


class _Noting(Policy):
    """The ensemble, with the votes of every decision kept."""

    def __init__(self, ensemble: Policy) -> None:
        self._ensemble = ensemble
        self.decisions: list[Decision] = []

    def begin(self) -> "_Noting":
        return _Noting(self._ensemble.begin())

    def learn(self, bar: Bar) -> None:
        self._ensemble.learn(bar)

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        self.decisions.append(self._ensemble.act(state, mask))
        return self.decisions[-1]


class _Given(_Noting):
    """Begins as itself, so that what it noted can be read after the run."""

    def begin(self) -> "_Given":
        self._ensemble = self._ensemble.begin()
        return self


def _votes(bundle: Bundle, bars: Bars) -> NDArray[Any]:
    """Every member's vote at every bar of a backtest, (bars, members) of dtype VOTE."""
    noting = _Given(bundle.policy)
    backtest("noting", noting, bars, setting_of(bundle))
    return np.array([decision.votes for decision in noting.decisions], VOTE)


def test_the_weights_learn_from_the_past_alone_and_each_run_anew(built: Bundle) -> None:
    bars = market(sessions=12)
    votes = _votes(built, bars)
    spec = built.manifest.ensemble
    assert spec is not None
    assert votes["weight"][0].tolist() == [one.weight for one in spec.members]
    assert len(np.unique(votes["weight"], axis=0)) > 100, "the law was not tested: the weights stood still"
    assert votes.tobytes() == _votes(built, bars).tobytes(), "a run knows nothing of the one before"
    cut = len(bars) - 200
    assert _votes(built, bars.take(0, cut)).tobytes() == votes[:-200].tobytes()


def test_the_weights_are_those_of_the_outcomes_so_far(built: Bundle) -> None:
    """Recomputed from the journalled votes and the labels' forward returns, bar for bar."""
    bars, terms, spec = market(sessions=12), setting_of(built), built.manifest.ensemble
    assert spec is not None
    assert spec.forgetting is not None
    votes = _votes(built, bars)
    first = len(bars) - len(votes)
    labels = label_bars(bars, ForwardReturn(horizon=spec.horizon), terms.account, terms.costs)
    side = directions(terms.account)[votes["action"]]
    prior = np.array([one.accuracy for one in spec.members])
    known_at = np.where(
        labels.last_bar - labels.bar == spec.horizon + 1, labels.last_bar, labels.last_bar + 1
    )  # an exit at the session's close is told by the next session's first bar
    for row in (20, 150, 151, 400, len(votes) - 1):
        known = [n for n in range(len(labels)) if labels.bar[n] >= first and known_at[n] <= first + row]
        order = sorted(known, key=lambda n: (known_at[n], labels.bar[n]))
        ages = spec.forgetting ** np.arange(len(order))[::-1]
        voted = np.array([side[labels.bar[n] - first] for n in order])
        forward = labels.forward[order]
        right = (voted * forward[:, None] > spec.dead_zone) * ages[:, None]
        counted = (voted != 0) * ages[:, None]
        votes_before = np.array([one.prior_votes for one in spec.members])
        accuracy = (prior * votes_before + right.sum(axis=0)) / (votes_before + counted.sum(axis=0))
        expected = np.array([one.weight for one in spec.members]) * accuracy / prior
        np.testing.assert_allclose(votes["weight"][row], expected, rtol=1e-9)


def test_every_decision_is_its_votes(built: Bundle) -> None:
    bars = market(sessions=12)
    noting = _Given(built.policy)
    trace = backtest("noting", noting, bars, setting_of(built)).trace
    spec = built.manifest.ensemble
    assert spec is not None
    assert set(trace.actions.tolist()) == {0, 1, 2}
    for decision, mask in zip(noting.decisions, trace.masks, strict=True):
        assert decision.votes is not None
        votes = decision.votes
        again = weighted_vote(votes["action"].tolist(), votes["weight"].tolist(), mask, HOLD, spec.consensus)
        assert (decision.action, decision.probabilities.tobytes()) == (again[0], again[1].tobytes())


_DAILY = {"product": "delivery", "actions": {"scheme": "orders", "size": {"kind": "all_in"}}}
_ACCOUNTS: dict[str, tuple[str, dict[str, Any]]] = {
    "intraday": ("5m", {}),
    "short targets": ("5m", {"actions": {"scheme": "targets", "targets": [-1, 0, 0.5, 1]}, "allow_short": True}),
    "daily": ("1d", _DAILY),
}


@pytest.mark.parametrize(
    ("account", "method"),
    [
        ("intraday", "vote"),
        ("intraday", "mean"),
        ("short targets", "stacking"),
        ("short targets", "vote"),
        ("daily", "vote"),
    ],
)
def test_four_drivers_give_the_same_bits(account: str, method: str, tmp_path: Path) -> None:
    """With weights that learn, of every kind of account and every way to decide."""
    interval, changes = _ACCOUNTS[account]
    sessions = 140 if interval == "1d" else 6
    bars = market(interval=interval, sessions=sessions)
    paths = members(tmp_path, setting(**changes), 3, interval)
    bundle = ensemble(
        tmp_path / "out", paths, bars, quick_recipe(method=method), sessions=60 if interval == "1d" else 4
    )
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found
    trace = backtest("ensemble", bundle.policy, bars, setting_of(bundle)).trace
    assert np.count_nonzero(trace.fills[:, 0]) > 0, "the law was not tested: nothing was traded"


def _rows(journal: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(journal)) as database:
        return list(database.execute("SELECT * FROM bars ORDER BY time_ns"))


def _check_restarts(bundle: Bundle, bars: Bars, cuts: list[int], folder: Path) -> None:
    """A session that is stopped after so many bars, each time, against one that is not, and against a backtest."""
    history, trading = split_history(bars, bundle.manifest.state)
    whole, _, _ = paper_trade(bundle, history, trading, folder / "whole.db")
    for cut in cuts:
        paper_trade(bundle, history, trading.take(0, cut), folder / "cut.db")
    again, recovered, _ = paper_trade(bundle, history, trading, folder / "cut.db")
    assert recovered == cuts[-1]
    assert again.digest() == whole.digest()
    assert _rows(folder / "cut.db") == _rows(folder / "whole.db"), "votes and weights too, to the bit"
    assert whole.digest() == backtest("ensemble", bundle.policy, bars, setting_of(bundle)).trace.digest()


def test_restarted_again_and_again_it_is_the_same_session(built: Bundle, tmp_path: Path) -> None:
    """Stopped in mid-session and between sessions, with votes whose outcome is not known yet."""
    _check_restarts(built, market(sessions=6), [1, 3, 57, 75, 150, 151, 224], tmp_path)


def test_killed_at_any_call_and_restarted_it_is_the_same_session(built: Bundle, tmp_path: Path) -> None:
    """Dies again and again between two lines of the loop; votes and weights in the journal are the undisturbed ones."""
    bars, dice, lives = market(sessions=4), random.Random(3), 1
    while not _run_until_crash(built, bars, tmp_path / "journal.db", dice.randint(1, 60), dice.random() < 0.5):
        lives += 1
    assert lives > 5
    history, trading = split_history(bars, built.manifest.state)
    paper_trade(built, history, trading, tmp_path / "whole.db")
    assert _rows(tmp_path / "journal.db") == _rows(tmp_path / "whole.db")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vote", "mean", "stacking"])
def test_ten_thousand_bars_replay_to_the_bit(method: str, tmp_path: Path) -> None:
    """Four drivers and a session that is restarted, over more than 10,000 bars with weights that learn."""
    bars = market(sessions=140)
    assert len(bars) > 10_000
    bundle = ensemble(tmp_path / "out", members(tmp_path, setting()), bars, quick_recipe(method=method))
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found
    _check_restarts(bundle, bars, [1, 777, 5000, 9999], tmp_path)
    assert len(np.unique(_votes(bundle, bars)["weight"], axis=0)) > 5000


def _tampered(journal: Path, change: Any) -> None:
    """Change the votes of one bar in the middle of a journal."""
    with closing(sqlite3.connect(journal, isolation_level=None)) as database:
        database.execute("DROP TRIGGER bars_no_update")
        times = [row[0] for row in database.execute("SELECT time_ns FROM bars ORDER BY time_ns")]
        for time_ns in times[30:60]:
            ((blob,),) = database.execute("SELECT votes FROM bars WHERE time_ns = ?", (time_ns,))
            votes = np.frombuffer(blob, VOTE).copy()
            database.execute("UPDATE bars SET votes = ? WHERE time_ns = ?", (change(votes), time_ns))


def _other_weight(votes: NDArray[Any]) -> bytes:
    votes["weight"][0] = np.nextafter(votes["weight"][0], 1.0)
    return votes.tobytes()


def _other_action(votes: NDArray[Any]) -> bytes:
    votes["action"][0] = 2 - votes["action"][0] if votes["action"][0] != HOLD else 0
    return votes.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        _other_weight,
        _other_action,
        lambda votes: votes.tobytes()[:-1],
        lambda votes: b"",
        lambda votes: b"\x7f" * len(votes.tobytes()),
    ],
    ids=["weight", "action", "short", "empty", "garbage"],
)
def test_a_journal_with_other_votes_does_not_replay(built: Bundle, tmp_path: Path, change: Any) -> None:
    """A weight by one bit; an action, by what the weights become of it; bytes that are no votes."""
    bars = market(sessions=6)
    history, trading = split_history(bars, built.manifest.state)
    paper_trade(built, history, trading.take(0, 120), tmp_path / "journal.db")
    _tampered(tmp_path / "journal.db", change)
    with pytest.raises(JournalError, match="other votes"):
        paper_trade(built, history, trading, tmp_path / "journal.db")


class _Script(Policy):
    """Takes the actions that it is given, one per bar."""

    def __init__(self, actions: NDArray[np.int64]) -> None:
        self._actions = iter(actions.tolist())

    def act(self, state: NDArray[np.float32], mask: NDArray[np.bool_]) -> Decision:
        return Decision(next(self._actions), np.zeros(mask.shape[1], np.float32))


@pytest.mark.parametrize("interval", ["5m", "1d"])
@pytest.mark.parametrize("short", [1, 3])
def test_a_shorter_history_is_the_tail_of_a_longer_one(interval: str, short: int) -> None:
    """Bit for bit what a builder of that history gives, along a path that trades."""
    plain = setting() if interval == "5m" else setting(**_DAILY)
    long_terms, short_terms = with_history(plain, 20), with_history(plain, short)
    bars = market(interval=interval, sessions=4 if interval == "5m" else 120)
    trace = backtest("random", RandomLegal(np.random.default_rng(1)), bars, long_terms).trace
    own = backtest("script", _Script(trace.actions), bars, short_terms).trace
    first_cell = long_terms.state.width - short_terms.state.width
    assert np.count_nonzero(trace.fills[:, 0]) > 10
    assert own.states.shape[1] == short_terms.state.width + len(ACCOUNT_FEATURES)
    assert trace.states[:, first_cell:].tobytes() == own.states.tobytes()
    assert trace.masks.tobytes() == own.masks.tobytes()


def test_members_of_different_histories_vote_on_one_state(tmp_path: Path) -> None:
    """Histories 1, 4 and 20: each member's vote is what it answers to its own builder's state."""
    bars, terms = market(sessions=8), setting()
    paths = [member(tmp_path / f"h{history}", with_history(terms, history), history) for history in (4, 1, 20)]
    bundle = ensemble(tmp_path / "out", paths, bars, quick_recipe(), sessions=2)
    assert bundle.manifest.state.history == 20
    noting = _Given(bundle.policy)
    trace = backtest("noting", noting, bars, setting_of(bundle)).trace
    for place, history in enumerate((4, 1, 20)):
        from_own: Setting = with_history(terms, history)
        states = backtest("script", _Script(trace.actions), bars, from_own).trace.states
        alone = load_bundle(tmp_path / f"h{history}").policy
        for row in range(0, len(states), 17):
            answer = alone.act(states[row : row + 1], trace.masks[row : row + 1])
            votes = noting.decisions[row].votes
            assert votes is not None
            assert votes["action"][place] == answer.action
            assert votes["confidence"][place] == answer.probabilities[answer.action]
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found


@pytest.mark.parametrize("into", ["nan", "masked"])
def test_a_member_that_turns_to_nonsense_is_out_for_the_run(
    into: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From that bar on, loudly; a restart and a replay know it; the next run hears it again until then."""
    bars, terms = market(sessions=6), setting()
    paths = members(tmp_path, terms, 4)
    width = terms.state.width + len(ACCOUNT_FEATURES)
    paths.append(member(tmp_path / "mad", terms, 9, turning_graph(width, 3, 9, into=into)))
    bundle = ensemble(tmp_path / "out", paths, bars, quick_recipe(), sessions=1)
    capsys.readouterr()
    votes = _votes(bundle, bars)
    said = capsys.readouterr().out
    assert said.count("a member of the ensemble was dropped; the others go on without it") == 1
    assert "mad" in said
    out = votes["dropped"][:, 4]
    turned = int(out.argmax())
    assert 0 < turned < len(votes) - 50
    assert out[turned:].all(), "it is out until the end"
    assert not votes["dropped"][:, :4].any()
    assert (votes["action"][turned:, 4] == -1).all()
    assert not votes["confidence"][turned:, 4].any()
    assert votes.tobytes() == _votes(bundle, bars).tobytes(), "each run begins with every member"
    _check_restarts(bundle, bars, [turned - 1, turned + 1, turned + 40], tmp_path)
    found = digests(bundle, bars, None, None)
    assert len(set(found.values())) == 1, found


def test_below_the_consensus_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of two must agree; when one turns to nonsense the other trades no more."""
    bars, terms = market(sessions=6), setting()
    width = terms.state.width + len(ACCOUNT_FEATURES)
    paths = [
        member(tmp_path / "sane", terms, 10),
        member(tmp_path / "mad", terms, 9, turning_graph(width, 3, 9, into="nan")),
    ]
    bundle = ensemble(tmp_path / "out", paths, bars, quick_recipe(weights=(0.6, 0.4)), sessions=1)
    capsys.readouterr()
    votes = _votes(bundle, bars)
    assert "too few are left, so it holds from now on" in capsys.readouterr().out
    turned = int(votes["dropped"][:, 1].argmax())
    actions = backtest("ensemble", bundle.policy, bars, setting_of(bundle)).trace.actions
    assert set(actions[:turned].tolist()) > {HOLD}
    assert set(actions[turned:].tolist()) == {HOLD}
