"""Law: a later bar changes no earlier state, mask or fill; history before the warm-up changes nothing at all."""

import datetime as dt
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import (
    ACCOUNTS,
    CHARGED,
    MUHURAT,
    SPLIT,
    Walk,
    bars_of,
    changed_after,
    make_env,
    random_legal,
    replay,
    rough_bars,
    rules,
    session_times,
    small_spec,
    spec_of,
    spliced,
    steady_bars,
    tape_of,
    walk_env,
)

from finsense.account.rules import AccountRules
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.state.builder import build_states
from finsense.state.spec import StateSpec

SEEDS = st.integers(0, 2**32 - 1)
SPANS = st.sampled_from([SPLIT, MUHURAT])


def upto(walk: Walk, bars: int) -> Walk:
    """What a walk had seen and done by its first `bars` bars."""
    return Walk(
        walk.states[:bars],
        walk.masks[:bars],
        walk.actions[: bars - 1],
        walk.rewards[: bars - 1],
        walk.books[:bars],
        walk.first_bar,
    )


@pytest.mark.parametrize("preset", ["classic29", "session_left"])
@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, cut=st.floats(0, 1), history=st.integers(1, 3), span=SPANS)
def test_a_later_bar_changes_no_earlier_market_state(
    preset: str, seed: int, cut: float, history: int, span: tuple[dt.date, dt.date]
) -> None:
    bars = rough_bars(seed, *span)
    spec = spec_of(preset, warmup=40, history=history)
    stock = instrument("SIM")
    before = build_states(timeline(bars, stock, CHARGED), spec)
    last = before.first_bar + round(cut * (len(bars) - 1 - before.first_bar))
    for market in (changed_after(bars, last, seed + 1), bars.take(0, last + 1)):
        after = build_states(timeline(market, stock, CHARGED), spec)
        for bar in range(before.first_bar, last + 1):
            assert before.window(bar).tobytes() == after.window(bar).tobytes()


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, cut=st.floats(0, 1), span=SPANS)
def test_a_later_bar_changes_no_earlier_state_mask_or_fill(
    name: str, seed: int, cut: float, span: tuple[dt.date, dt.date]
) -> None:
    bars = rough_bars(seed, *span)
    whole = walk_env(make_env(tape_of(bars), ACCOUNTS[name]), random_legal(seed))
    # The bar at which both worlds part; the walk needs one step at least, and a ruined account has no later bars.
    seen = 2 + round(cut * (len(whole.states) - 2))
    last = whole.first_bar + seen - 1
    for market in (changed_after(bars, last, seed + 1), bars.take(0, last + 1)):
        again = walk_env(make_env(tape_of(market), ACCOUNTS[name]), replay(whole.actions), steps=seen - 1)
        assert again.same_as(upto(whole, seen))
        assert again.rewards.tolist() == whole.rewards[: seen - 1].tolist()


@pytest.mark.parametrize("name", ACCOUNTS)
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, history=st.integers(1, 3), span=SPANS)
def test_history_before_the_warm_up_changes_nothing(
    name: str, seed: int, history: int, span: tuple[dt.date, dt.date]
) -> None:
    bars, spec = rough_bars(seed, *span), small_spec(history)
    opening = int(bars.session_offsets[-3])
    date = bars.take(opening, opening + 1).first_date
    long = make_env(tape_of(bars, spec=spec, first=date), ACCOUNTS[name])
    short = make_env(tape_of(bars.take(opening - spec.warmup, len(bars)), spec=spec, first=date), ACCOUNTS[name])
    walked = walk_env(long, random_legal(seed))
    assert walk_env(short, replay(walked.actions)).same_as(walked)


def one_day(
    closes: list[float], opens: list[float], account: AccountRules, spec: StateSpec, actions: Sequence[int] = (0, 1)
) -> Walk:
    """A quiet week, then the given bars of one session and the given actions: by default buy, then hold."""
    quiet = steady_bars(dt.date(2024, 1, 8), dt.date(2024, 1, 12))
    time_ns = session_times(dt.date(2024, 1, 15), dt.date(2024, 1, 15))[: len(closes)]
    day = bars_of(time_ns, closes, open_=opens)
    tape = tape_of(spliced(quiet, day), spec=spec, first=dt.date(2024, 1, 15))
    return walk_env(make_env(tape, account), replay(actions))


def test_an_order_fills_at_the_next_open_and_never_at_a_close_that_was_seen() -> None:
    account = rules(slippage_bps=10, participation=None)
    walk = one_day([100.0, 104.0, 103.0], [100.0, 102.0, 104.0], account, spec_of("session_left", warmup=30))
    assert walk.books["fill_quantity"].tolist() == [0, 10, 0]
    # The next open, 102 rupees, and ten basis points against the buyer.
    assert walk.books["fill_price_paise"].tolist() == [0, 10_211, 0]


@pytest.mark.parametrize(
    ("slippage_bps", "bought", "sold"), [(0, 10_203, 10_207), (10, 10_214, 10_196), (2.5, 10_206, 10_204)]
)
def test_slippage_is_always_against_the_order_and_rounds_against_it(
    slippage_bps: float, bought: int, sold: int
) -> None:
    account = rules(slippage_bps=slippage_bps, participation=None)
    walk = one_day([102.0] * 4, [102.0, 102.03, 102.07, 102.0], account, spec_of("session_left", warmup=30), [0, 2, 1])
    assert walk.books["fill_quantity"].tolist() == [0, 10, -10, 0]
    assert walk.books["fill_price_paise"].tolist() == [0, bought, sold, 0]


def test_the_state_at_a_decision_does_not_know_the_open_at_which_it_fills() -> None:
    account, spec = rules(participation=None), spec_of("classic29", warmup=60)
    one = one_day([100.0, 101.0, 103.0], [100.0, 100.0, 101.0], account, spec)
    two = one_day([100.0, 101.0, 103.0], [100.0, 99.0, 101.0], account, spec)
    assert one.states[0].tobytes() == two.states[0].tobytes()
    assert one.books["fill_price_paise"][1] != two.books["fill_price_paise"][1]
