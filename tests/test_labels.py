"""Labels: what a slow reading of their definition gives, from the bars of their look-ahead span and no other."""

import datetime as dt
import math
import statistics
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import (
    ACCOUNTS,
    CHARGED,
    FREE,
    MUHURAT,
    SPLIT,
    bars_of,
    changed_after,
    orders_of,
    rough_bars,
    rules,
    session_times,
    small_spec,
    spliced,
    steady_bars,
)
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from finsense.account.exchange import SimulatedExchange
from finsense.account.rules import AccountRules, TargetActions
from finsense.account.session import Order, Session
from finsense.agents.labels import (
    DOWN,
    FLAT,
    UP,
    LabelError,
    Labels,
    label_bars,
    uniqueness,
)
from finsense.agents.round_trip import round_trips
from finsense.config.labels import Direction, ForwardReturn, Label, TripleBarrier
from finsense.market.bars import Bars, day_date
from finsense.market.calendar import nse_calendar
from finsense.market.costs import ChargeRules, CostError
from finsense.market.instruments import instrument
from finsense.market.sources.files import load_bars

INTRADAY, DELIVERY = rules(), rules("delivery")
LABELS: tuple[Label, ...] = (
    ForwardReturn(horizon=3),
    Direction(horizon=1, dead_zone=0),
    Direction(horizon=12, dead_zone=2.5),
    TripleBarrier(horizon=8, profit=1.5, stop=1, volatility_window=5),
    TripleBarrier(horizon=30, profit=3, stop=4, volatility_window=2),
)
labels = st.sampled_from(LABELS)
products = st.sampled_from([INTRADAY, DELIVERY])
seeds = st.integers(0, 2**31)


def _session_is_whole(bars: Bars, bar: int) -> bool:
    """Whether the data hold a bar's session to its end: a later one has begun, or its last bar ends with it."""
    if bars.session_days[bar] < bars.session_days[-1]:
        return True
    session = nse_calendar().session(day_date(bars.session_days[-1]), derivatives=bars.derivatives)
    assert session is not None
    return int(bars.time_ns[-1]) + bars.interval_ns >= session.close_ns


def _slow_volatility(bars: Bars, bar: int, window: int, *, intraday: bool) -> float:
    if bar < window:
        return 0.0
    returns = []
    for place in range(bar - window + 1, bar + 1):
        opens = bars.session_days[place] != bars.session_days[place - 1]
        before = bars.open[place] if intraday and opens else bars.close[place - 1]
        returns.append(math.log(bars.close[place] / before))
    return statistics.stdev(returns)


def _slow_barrier(bars: Bars, bar: int, end: tuple[int, bool], upper: float, lower: float) -> tuple[int, int, float]:
    exit_bar, at_close = end
    for place in range(bar + 1, exit_bar + 1):
        if place > bar + 1 and bars.open[place] <= lower:
            return DOWN, place, bars.open[place]
        if place > bar + 1 and bars.open[place] >= upper:
            return UP, place, bars.open[place]
        if place == exit_bar and not at_close:
            return FLAT, place, bars.open[place]
        if bars.low[place] <= lower:
            return DOWN, place, lower
        if bars.high[place] >= upper:
            return UP, place, upper
    return FLAT, exit_bar, bars.close[exit_bar]


def slow_label(
    bars: Bars, bar: int, label: Label, account: AccountRules, costs: NDArray[np.float64]
) -> tuple[int, float, int] | None:
    """Class, forward return and last bar of one bar, as the docstrings of `label_bars` and `first_touches` tell it.

    `costs` are the round trips at the open of every bar.
    """
    intraday = account.product == "intraday"
    exit_bar, at_close = bar + 1 + label.horizon, False
    if intraday:
        last = bar
        while last + 1 < len(bars) and bars.session_days[last + 1] == bars.session_days[bar]:
            last += 1
        if last == bar or (exit_bar > last and not _session_is_whole(bars, bar)):
            return None
        if exit_bar > last:
            exit_bar, at_close = last, True
    if exit_bar >= len(bars):
        return None
    entry = bars.open[bar + 1]
    if isinstance(label, TripleBarrier):
        volatility = _slow_volatility(bars, bar, label.volatility_window, intraday=intraday)
        if volatility <= 0:
            return None
        upper, lower = entry * (1 + label.profit * volatility), entry * (1 - label.stop * volatility)
        target, exit_bar, price = _slow_barrier(bars, bar, (exit_bar, at_close), upper, lower)
        return target, math.log(price / entry), exit_bar
    forward = math.log((bars.close if at_close else bars.open)[exit_bar] / entry)
    dead_zone = costs[bar + 1] * (label.dead_zone if isinstance(label, Direction) else 1.0)
    return (UP if forward > dead_zone else DOWN if forward < -dead_zone else FLAT), forward, exit_bar


def check_against_the_slow_reading(
    bars: Bars, label: Label, account: AccountRules, costs: ChargeRules, every: int = 1
) -> Labels:
    found = label_bars(bars, label, account, costs)
    round_trip = round_trips(bars, np.arange(len(bars)), account, costs)
    place = {bar: row for row, bar in enumerate(found.bar.tolist())}
    for bar in range(0, len(bars), every):
        expected = slow_label(bars, bar, label, account, round_trip)
        if expected is None:
            assert bar not in place
            continue
        row = place[bar]
        assert (found.target[row], found.last_bar[row]) == (expected[0], expected[2])
        assert found.forward[row] == pytest.approx(expected[1], rel=1e-9, abs=1e-12)
    assert found.start_ns.tolist() == bars.time_ns[found.bar].tolist()
    assert found.end_ns.tolist() == bars.time_ns[found.last_bar].tolist()
    assert found.round_trip.tolist() == round_trip[found.bar + 1].tolist()
    return found


@given(seed=seeds, label=labels, account=products, span=st.sampled_from([SPLIT, MUHURAT]), cut=st.integers(0, 30))
@settings(max_examples=60)
def test_labels_are_what_a_slow_reading_of_their_definition_gives(
    seed: int, label: Label, account: AccountRules, span: tuple[dt.date, dt.date], cut: int
) -> None:
    """Over gaps, circuits, silent bars, a split session and the Muhurat hour; data may end within a session."""
    bars = rough_bars(seed, *span)
    check_against_the_slow_reading(bars.take(0, len(bars) - cut), label, account, CHARGED)


def _rows(found: Labels, kept: Any) -> list[Any]:
    return [getattr(found, field.name)[kept].tolist() for field in fields(found)]


@given(seed=seeds, other=seeds, label=labels, account=products, share=st.floats(0.1, 0.9))
def test_a_label_knows_nothing_after_its_last_bar(
    seed: int, other: int, label: Label, account: AccountRules, share: float
) -> None:
    bars = rough_bars(seed, *SPLIT)
    last = int(share * len(bars))
    one = label_bars(bars, label, account, CHARGED)
    two = label_bars(changed_after(bars, last, other), label, account, CHARGED)
    assert _rows(one, one.last_bar <= last) == _rows(two, two.last_bar <= last)


@given(seed=seeds, other=seeds, label=labels, account=products, share=st.floats(0.1, 0.8))
def test_a_label_knows_nothing_up_to_its_bar_but_the_volatility(
    seed: int, other: int, label: Label, account: AccountRules, share: float
) -> None:
    """What lies at and before bar t is not in its label: a model that sees it cannot find its own answer there."""
    bars = rough_bars(seed, *SPLIT)
    last = int(share * len(bars))
    changed = spliced(rough_bars(other, *SPLIT, price=40.0).take(0, last + 1), bars.take(last + 1, len(bars)))
    window = label.volatility_window if isinstance(label, TripleBarrier) else 0
    one, two = (label_bars(which, label, account, CHARGED) for which in (bars, changed))
    assert _rows(one, one.bar >= last + window + (window > 0)) == _rows(two, two.bar >= last + window + (window > 0))


def _with_bar(bars: Bars, bar: int, open_: float, price: float) -> Bars:
    """The bars with one of them opening and then staying at these prices."""
    changed = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close")}
    for name, value in (("open", open_), ("high", max(open_, price)), ("low", min(open_, price)), ("close", price)):
        changed[name][bar] = value
    return replace(bars, **changed)


@given(seed=seeds, label=labels, account=products)
@settings(max_examples=25)
def test_the_last_bar_is_one_that_can_change_the_label(seed: int, label: Label, account: AccountRules) -> None:
    """So the look-ahead span is no longer than it must be."""
    bars = rough_bars(seed, *SPLIT)
    found = label_bars(bars, label, account, CHARGED)
    for row in np.random.default_rng(seed).choice(len(found), 5):
        bar, last = int(found.bar[row]), int(found.last_bar[row])
        entry = bars.open[bar + 1]
        answers = {(int(found.target[row]), float(found.forward[row]), last)}
        for price in (entry, entry * 1.0001):
            changed = _with_bar(bars, last, entry if last == bar + 1 else price, price)
            costs = round_trips(changed, np.arange(len(bars)), account, CHARGED)
            answer = slow_label(changed, bar, label, account, costs)
            assert answer is not None
            answers.add(answer)
        assert len(answers) > 1


@given(seed=seeds, label=labels, account=products, share=st.floats(0.3, 1))
def test_shorter_data_give_the_same_labels_and_fewer(
    seed: int, label: Label, account: AccountRules, share: float
) -> None:
    bars = rough_bars(seed, *SPLIT)
    whole = label_bars(bars, label, account, CHARGED)
    found = label_bars(bars.take(0, max(int(share * len(bars)), 40)), label, account, CHARGED)
    assert np.isin(found.bar, whole.bar).all()
    assert _rows(found, slice(None)) == _rows(whole, np.isin(whole.bar, found.bar))
    # Which labels are missing depends on the clock alone, never on how soon a barrier was touched.
    if account is DELIVERY and not isinstance(label, TripleBarrier):
        assert len(found) == max(int(share * len(bars)), 40) - 1 - label.horizon


def _barrier_case(path: list[tuple[float, float, float, float]], horizon: int) -> tuple[int, float, int]:
    """Class, exit price and bars after the entry of bar 3, whose volatility is 1 %: the entry is at 100."""
    step = math.exp(0.01 / math.sqrt(2))  # returns of + and - 0.01 / sqrt(2) deviate by 0.01
    before = [(100.0, 100.0, 100.0, 100.0)] * 2 + [(100.0, 100 * step, 100.0, 100 * step)]
    before.append((100 * step, 100 * step, 100.0, 100.0))
    tail = [(100.0, 100.0, 100.0, 100.0)] * 9
    opens, high, low, close = (np.array(column) for column in zip(*before, *path, *tail, strict=True))
    times = session_times(dt.date(2024, 1, 1), dt.date(2024, 1, 1), "15m")[: len(opens)]
    bars = Bars("SIM", "15m", times, opens, high, low, close, np.full(len(opens), 1000), False)
    label = TripleBarrier(horizon=horizon, profit=2, stop=1, volatility_window=2)
    found = label_bars(bars, label, DELIVERY, CHARGED)
    (row,) = np.flatnonzero(found.bar == 3)
    return int(found.target[row]), 100 * math.exp(found.forward[row]), int(found.last_bar[row]) - 4


@pytest.mark.parametrize(
    ("path", "horizon", "expected"),
    [
        # The stop lies at 99, the profit at 102.
        ([(100, 101.9, 99.1, 101)], 1, (FLAT, 100, 1)),  # neither is reached, the next open ends it
        ([(100, 102.5, 99.5, 101)], 1, (UP, 102, 0)),  # the entry's own bar counts
        ([(100, 101, 98.5, 100)], 1, (DOWN, 99, 0)),
        ([(100, 103, 98, 102)], 1, (DOWN, 99, 0)),  # both in one bar: the stop
        ([(100, 101, 99.5, 101), (104, 105, 98, 104)], 2, (UP, 104, 1)),  # a gap exits at the open, whatever comes then
        ([(100, 101, 99.5, 100), (95, 105, 94, 95)], 2, (DOWN, 95, 1)),
        ([(100, 101, 99.5, 101), (101, 105, 90, 101)], 1, (FLAT, 101, 1)),  # the exit's open comes before its range
        ([(100, 101, 99.5, 101), (103, 105, 90, 101)], 1, (UP, 103, 1)),  # a gap at the exit's open
        ([(100, 101, 99.5, 100)] * 3 + [(100.5, 103, 99.5, 100)], 4, (UP, 102, 3)),
    ],
)
def test_barriers_by_hand(
    path: list[tuple[float, float, float, float]], horizon: int, expected: tuple[int, float, int]
) -> None:
    assert _barrier_case(path, horizon) == pytest.approx(expected)


def test_an_intraday_exit_is_the_sessions_close() -> None:
    """Twenty-five bars of 15 minutes a session; the second one is cut after its tenth bar."""
    times = session_times(dt.date(2024, 1, 1), dt.date(2024, 1, 2), "15m")[:35]
    close = 100 * np.exp(np.random.default_rng(1).normal(0, 0.01, 35))
    bars = bars_of(times, close)
    found = label_bars(bars, ForwardReturn(horizon=4), INTRADAY, CHARGED)
    # The session's last bar has none; from the cut session only those whose horizon fits.
    assert found.bar.tolist() == [*range(24), *range(25, 30)]
    assert found.last_bar.tolist() == [*range(5, 25), 24, 24, 24, 24, *range(30, 35)]
    assert found.forward[20] == pytest.approx(math.log(bars.close[24] / bars.open[21]))
    assert found.forward[19] == pytest.approx(math.log(bars.open[24] / bars.open[20]))
    carried = label_bars(bars, ForwardReturn(horizon=4), DELIVERY, CHARGED)
    assert carried.bar.tolist() == list(range(30))
    assert carried.last_bar.tolist() == list(range(5, 35))


@pytest.mark.parametrize("name", ACCOUNTS)
@pytest.mark.parametrize("price", [7.35, 312.4, 2950.05])
@pytest.mark.parametrize("charges", [CHARGED, FREE, ChargeRules(scale=3)])
def test_a_round_trip_costs_what_the_exchange_takes(name: str, price: float, charges: ChargeRules) -> None:
    """The account's own session orders, the simulated exchange fills; volume does not bind."""
    account = ACCOUNTS[name].model_copy(update={"participation": None, "balance": Decimal(100_000)})
    bars = steady_bars(dt.date(2024, 3, 4), dt.date(2024, 3, 12), price=price)
    stock = instrument("SIM")
    session = Session(stock, "15m", small_spec(), account, charges)
    exchange = SimulatedExchange(stock, "15m", account, charges)
    targets = account.actions.targets if isinstance(account.actions, TargetActions) else ()
    action = targets.index(-1 if -1 in targets else 1) if targets else account.action_names.index("buy")
    waiting, quantity = None, 0
    for bar in bars:
        fills = exchange.fills(bar)
        quantity += sum(abs(fill.quantity) for fill in fills) if not quantity else 0
        if fills and exchange.account["position"][0] == 0:
            break
        session.settle(fills)
        if session.observe(bar) is None:
            continue
        if waiting is None:
            waiting = session.order(action)
            assert waiting is not None
            exchange.submit(waiting)
        elif fills:
            exchange.submit(Order(bar.time_ns, -fills[0].quantity))
    paid = account.balance_paise - int(exchange.account["cash_paise"][0])
    (cost,) = round_trips(bars, np.array([30]), account, charges)
    assert quantity > 0
    assert round(cost * quantity * round(price * 100)) == paid
    assert paid > 0 or account.slippage_bps == 0


def test_an_order_that_the_balance_does_not_pay_for_is_priced_all_the_same() -> None:
    """A fixed number of shares as it stands, any other size as one share."""
    bars, bar = steady_bars(dt.date(2024, 3, 4), dt.date(2024, 3, 4), price=90_000.0), np.array([3])
    ten, rich = rules("delivery"), rules("delivery", balance=10**7)
    one = rules("delivery", balance=10**7, actions=orders_of("shares", shares=1))
    assert round_trips(bars, bar, ten, CHARGED) == round_trips(bars, bar, rich, CHARGED)
    assert round_trips(bars, bar, one, CHARGED) > round_trips(bars, bar, ten, CHARGED)
    for size in (orders_of("all_in"), orders_of("fraction", fraction=0.1)):
        assert round_trips(bars, bar, rules("delivery", size), CHARGED) == round_trips(bars, bar, one, CHARGED)


def test_a_round_trip_has_the_charges_of_its_date() -> None:
    """The exchange's charge fell on 1 October 2024."""
    before, after = dt.date(2024, 9, 30), dt.date(2024, 10, 1)
    bars = steady_bars(before, after)
    account = rules(actions=orders_of("shares", shares=400))
    found = label_bars(bars, Direction(horizon=1), account, CHARGED)
    for date, cost in ((before, found.round_trip[0]), (after, found.round_trip[-1])):
        fixed = label_bars(bars, Direction(horizon=1), account, ChargeRules(as_of=date))
        assert set(fixed.round_trip.tolist()) == {cost}
    assert found.round_trip[0] > found.round_trip[-1]


@given(seed=seeds, account=products, zones=st.tuples(st.floats(0, 5), st.floats(0, 5)))
@settings(max_examples=25)
def test_a_wider_dead_zone_has_more_flat_labels(seed: int, account: AccountRules, zones: tuple[float, float]) -> None:
    bars = rough_bars(seed, *SPLIT)
    narrow, wide = (label_bars(bars, Direction(horizon=5, dead_zone=zone), account, CHARGED) for zone in sorted(zones))
    assert (wide.target[narrow.target == FLAT] == FLAT).all()
    assert np.isin(wide.target - narrow.target, [0, 1, -1]).all()
    none = label_bars(bars, Direction(horizon=5, dead_zone=0), account, CHARGED)
    assert (none.target == 1 + np.sign(none.forward)).all()
    by_return = label_bars(bars, ForwardReturn(horizon=5), account, CHARGED)
    assert by_return.target.tolist() == label_bars(bars, Direction(horizon=5), account, CHARGED).target.tolist()


def _spanning(spans: list[tuple[int, int]]) -> Labels:
    """Labels of these bars and last bars; the rest is of no account."""
    bar, last = np.array(spans, np.int64).reshape(-1, 2).T
    zeros = np.zeros(len(bar))
    return Labels(bar, bar * 0 + FLAT, zeros, last, bar * 60, last * 60, zeros)


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(1, 30)), min_size=1, max_size=40, unique_by=lambda it: it[0]))
def test_uniqueness_is_the_mean_share_of_the_bars(drawn: list[tuple[int, int]]) -> None:
    spans = sorted((bar, bar + length) for bar, length in drawn)
    shares = []
    for bar, last in spans:
        readers = [sum(first < place <= end for first, end in spans) for place in range(bar + 1, last + 1)]
        shares.append(sum(1 / count for count in readers) / len(readers))
    found = uniqueness(_spanning(spans))
    assert found.tolist() == pytest.approx([share / (sum(shares) / len(shares)) for share in shares])
    assert found.mean() == pytest.approx(1)
    # Each bar that any label reads is shared out whole.
    read = {place for bar, last in spans for place in range(bar + 1, last + 1)}
    whole = sum(share * (last - bar) for share, (bar, last) in zip(shares, spans, strict=True))
    assert whole == pytest.approx(len(read))


def test_labels_that_share_nothing_weigh_the_same() -> None:
    assert uniqueness(_spanning([(0, 2), (2, 3), (3, 9)])).tolist() == [1, 1, 1]
    # Bar 1 belongs to the first label alone, bar 2 to two, bars 6 to 9 to the last.
    assert uniqueness(_spanning([(0, 2), (1, 2), (5, 9)])).tolist() == pytest.approx([1.0, 2 / 3, 4 / 3])
    assert len(uniqueness(_spanning([]))) == 0


@pytest.mark.parametrize(
    ("name", "costs", "accounts"),
    [
        ("intraday/nse_5min.parquet", CHARGED, (INTRADAY, DELIVERY)),
        ("daily/nse_daily_unadjusted.parquet", ChargeRules(as_of=dt.date(2021, 1, 1)), (DELIVERY,)),
    ],
)
@pytest.mark.parametrize("symbol", ["RELIANCE", "MARUTI"])
def test_real_bars_have_the_labels_of_a_slow_reading(
    shared_nse: Path, name: str, costs: ChargeRules, accounts: tuple[AccountRules, ...], symbol: str
) -> None:
    bars = load_bars(shared_nse / name, symbol)
    for account in accounts:
        for label in (Direction(horizon=12), TripleBarrier(horizon=24, profit=3, stop=3, volatility_window=50)):
            found = check_against_the_slow_reading(bars, label, account, costs, every=7)
            assert len(found) > 0.9 * len(bars)
            assert (np.bincount(found.target, minlength=3) > 0).all()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            ForwardReturn(horizon=200),
            r"no bar has a label \(forward_return\), found 75 bars in 3 sessions; .* 200 bars",
        ),
        (TripleBarrier(horizon=5, profit=1, stop=1, volatility_window=100), "after 100 bars for the volatility"),
    ],
)
def test_a_horizon_longer_than_the_data_is_refused(label: Label, message: str) -> None:
    bars = rough_bars(1, dt.date(2024, 1, 1), dt.date(2024, 1, 3))
    with pytest.raises(LabelError, match=message):
        label_bars(bars, label, DELIVERY, CHARGED)


def test_bars_that_cannot_be_labelled_are_refused() -> None:
    steady = steady_bars(dt.date(2024, 1, 1), dt.date(2024, 1, 5))
    with pytest.raises(LabelError, match="volatility, which must not be 0"):
        label_bars(steady, TripleBarrier(horizon=2, profit=1, stop=1, volatility_window=5), INTRADAY, CHARGED)
    with pytest.raises(LabelError, match="must be in the data to its last bar"):
        label_bars(steady.take(0, 3), ForwardReturn(horizon=9), INTRADAY, CHARGED)
    daily = steady_bars(dt.date(2024, 1, 1), dt.date(2024, 1, 31), "1d")
    with pytest.raises(ValueError, match="product intraday needs bars within the day"):
        label_bars(daily, ForwardReturn(horizon=2), INTRADAY, CHARGED)
    early = steady_bars(dt.date(2019, 1, 1), dt.date(2019, 1, 31), "1d")
    with pytest.raises(CostError, match="no charges are known for 2019-01-01"):
        label_bars(early, ForwardReturn(horizon=2), DELIVERY, CHARGED)


def test_labels_that_are_no_labels_are_refused() -> None:
    good = _spanning([(0, 2), (1, 3), (4, 6), (5, 8)])
    forward = np.array([0.1, np.nan, np.inf, 0.2])
    with pytest.raises(LabelError, match=r"2 of 4 labels have a forward return that .*: bar 1: nan, bar 4: inf"):
        replace(good, forward=forward)
    with pytest.raises(LabelError, match="2 of 4 labels have a round trip that is not a finite number"):
        replace(good, round_trip=forward)
    with pytest.raises(LabelError, match="1 of 4 labels have a target that is no class"):
        replace(good, target=np.array([0, 1, 2, 3]))
    with pytest.raises(LabelError, match="1 of 4 labels have a bar that does not follow the one before: bar 1: 1"):
        replace(good, bar=np.array([1, 1, 4, 5]))
    with pytest.raises(LabelError, match="1 of 4 labels have a last bar that does not lie after"):
        replace(good, last_bar=np.array([2, 3, 4, 8]))
    with pytest.raises(LabelError, match="one value per label, found lengths"):
        replace(good, target=np.ones(3, np.int64))


def test_a_label_in_a_config_is_one_of_three() -> None:
    one_of: TypeAdapter[Label] = TypeAdapter(Label)
    assert one_of.validate_python({"kind": "direction", "horizon": 5}) == Direction(horizon=5, dead_zone=1.0)
    for wrong in (
        {"kind": "direction", "horizon": 0},
        {"kind": "direction", "horizon": 5, "dead_zone": -1},
        {"kind": "direction", "horizon": 5, "dead_zone": math.nan},
        {"kind": "forward_return", "horizon": 5, "dead_zone": 1},
        {"kind": "triple_barrier", "horizon": 5, "profit": 0, "stop": 1, "volatility_window": 9},
        {"kind": "triple_barrier", "horizon": 5, "profit": 1, "stop": 1, "volatility_window": 1},
        {"kind": "triple_barrier", "horizon": 5, "profit": 1, "stop": 1},
        {"horizon": 5},
    ):
        with pytest.raises(ValidationError):
            one_of.validate_python(wrong)
