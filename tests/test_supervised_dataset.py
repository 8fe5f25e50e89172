"""What supervised models learn from: windows that are not copied, labels that do not look ahead, clear refusals."""

import json
import tracemalloc
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import small_experiment
from hypothesis import given
from hypothesis import strategies as st
from planted_markets import planted
from supervised_fits import settings_of

from finsense.agents.labels import LabelError
from finsense.agents.markets import Markets, load_markets
from finsense.agents.supervised.dataset import (
    Dataset,
    DatasetError,
    Windows,
    _check,
    datasets,
    span_dataset,
    supervised,
)
from finsense.config import Experiment
from finsense.market.bars import Bars
from finsense.market.instruments import instrument
from finsense.market.timeline import timeline
from finsense.state.builder import StateBuilder
from finsense.state.spec import StateSpec

_LABEL = {"kind": "direction", "horizon": 3, "dead_zone": 0.2}


def _small(**changes: Any) -> Experiment:
    """Two symbols, intraday, two months; windows of four rows."""
    agent = {"kind": "lstm", "label": _LABEL}
    return small_experiment.experiment(agent=agent, **{"state__history": 4, **changes})


@pytest.fixture(scope="module")
def small() -> tuple[Experiment, Markets]:
    experiment = _small()
    return experiment, load_markets(experiment)


@pytest.fixture(scope="module")
def train(small: tuple[Experiment, Markets]) -> Dataset:
    return datasets(*small)[0]


# Windows.


def test_a_window_is_what_the_live_builder_shows(small: tuple[Experiment, Markets], train: Dataset) -> None:
    """Also where it reaches back beyond the session's first bar, into the warm-up that is folded before it."""
    experiment, markets = small
    spec, symbol = experiment.state, markets.train.symbols[1]
    bars = markets.bars[symbol].between(None, experiment.split.train.last)
    session = int(np.searchsorted(bars.session_offsets, spec.warmup))
    opens = int(bars.session_offsets[session])
    builder, live = StateBuilder(spec), []
    rows = _live_rows(experiment, bars, opens - spec.warmup, opens + 5)
    for place, row in enumerate(rows):
        builder.update(row, place == spec.warmup)
        live.append(builder.market_state.copy())
    for bar in range(opens, opens + 5):
        (example,) = np.flatnonzero((train.symbol == 1) & (train.start_ns == bars.time_ns[bar]))
        window = train.windows.gather(np.array([example]))[0]
        np.testing.assert_array_equal(window.reshape(-1), live[bar - opens + spec.warmup])


def _live_rows(experiment: Experiment, bars: Bars, first: int, stop: int) -> Any:
    described = timeline(bars, instrument(bars.symbol, derivatives=bars.derivatives), experiment.costs)
    return described.rows_between(first, stop)


def test_windows_lie_in_the_tape(small: tuple[Experiment, Markets], train: Dataset) -> None:
    tape = small[1].train
    assert train.windows.rows is tape.states
    assert np.shares_memory(train.windows.every, tape.states)
    assert train.take(np.arange(5)).windows.rows is tape.states


@given(st.data())
def test_a_gathered_window_is_the_rows_in_their_order(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 5))
    history = data.draw(st.integers(1, rows))
    matrix = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    first = np.array(data.draw(st.lists(st.integers(0, rows - history), min_size=1, max_size=20)), np.int64)
    windows = Windows(matrix, first, history)
    index = np.array(data.draw(st.lists(st.integers(0, len(first) - 1), max_size=20)), np.int64)
    expected = np.array([matrix[first[one] : first[one] + history] for one in index], np.float32)
    np.testing.assert_array_equal(windows.gather(index), expected.reshape(-1, history, columns))
    np.testing.assert_array_equal(windows.flat(index), expected.reshape(len(index), history * columns))
    np.testing.assert_array_equal(windows.take(index).gather(np.arange(len(index))), windows.gather(index))


def test_no_copy_of_the_windows_is_ever_in_memory() -> None:
    """From labelling to the last minibatch at most one and a half state matrices, where all windows were twenty."""
    experiment = planted(
        {"kind": "lstm"},
        state={"features": ["classic29", {"log_return": {"window": 1}}, "weekday"], "warmup": 150, "history": 20},
        data__symbols=list("ABCDEFGHIJ"),
        data__last="2022-06-30",
        split={
            "train": {"from": "2022-01-03", "to": "2022-04-29"},
            "validation": {"from": "2022-05-02", "to": "2022-06-15"},
            "test": {"from": "2022-06-16", "to": "2022-06-30"},
        },
    )
    markets = load_markets(experiment)
    assert markets.train.states.shape[1] == 32
    # They were there before.
    matrices = markets.train.states.nbytes + markets.validation.states.nbytes
    datasets(experiment, markets)
    tracemalloc.start()
    try:
        train, _ = datasets(experiment, markets)
        order = np.random.default_rng(0).permutation(len(train))
        for first in range(0, len(order), 256):
            train.windows.gather(order[first : first + 256])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.5 * matrices


# Labels in their spans.


def test_no_label_looks_beyond_its_span(small: tuple[Experiment, Markets]) -> None:
    experiment, markets = small
    train, validation = datasets(experiment, markets)
    assert train.end_ns.max() < validation.start_ns.min()
    first = int(markets.validation.times[markets.validation.spans[0, 0]])
    assert train.end_ns.max() < first
    assert (train.start_ns < train.end_ns).all()


def test_what_comes_after_the_training_span_changes_none_of_it(small: tuple[Experiment, Markets]) -> None:
    """Every later bar at another price, and the training examples are the same to the bit."""
    experiment, markets = small
    train, _ = datasets(experiment, markets)
    last = experiment.split.train.last
    changed = {}
    for symbol, bars in markets.bars.items():
        later = np.arange(len(bars)) >= len(bars.between(None, last))
        prices = {name: np.where(later, np.round(getattr(bars, name) * 1.25, 2), getattr(bars, name)) for name in _OHLC}
        changed[symbol] = replace(bars, **prices)
    other, _ = datasets(experiment, replace(markets, bars=changed))
    for field in fields(Dataset)[1:]:
        np.testing.assert_array_equal(getattr(train, field.name), getattr(other, field.name))


_OHLC = ("open", "high", "low", "close")


def test_a_label_that_would_reach_the_next_span_is_left_out() -> None:
    """With a horizon of 30 bars the last 30 and the one that fills are missing; delivery, so a night ends nothing."""
    experiment = planted({"kind": "lstm", "label": {"kind": "direction", "horizon": 30}})
    markets = load_markets(experiment)
    train, _ = datasets(experiment, markets)
    times = markets.train.times
    first, last = markets.train.spans[0]
    np.testing.assert_array_equal(train.start_ns, times[first : last - 30])
    assert train.end_ns[-1] == times[last]


def test_examples_are_of_tradable_bars_alone(small: tuple[Experiment, Markets], train: Dataset) -> None:
    tape = small[1].train
    for place, (first, last) in enumerate(tape.spans):
        own = train.start_ns[train.symbol == place]
        assert tape.times[first] <= own[0] < own[-1] <= tape.times[last]
        assert (np.diff(own) > 0).all()
    assert set(train.symbol.tolist()) == {0, 1}


def test_any_span_can_be_labelled(small: tuple[Experiment, Markets]) -> None:
    experiment, markets = small
    span = experiment.split.validation
    found = span_dataset(experiment, markets.bars, span.first, span.last)
    validation = datasets(experiment, markets)[1]
    np.testing.assert_array_equal(found.start_ns, validation.start_ns)
    np.testing.assert_array_equal(found.target, validation.target)


# Weights.


def test_balanced_classes_weigh_the_same(small: tuple[Experiment, Markets]) -> None:
    experiment, markets = small
    balanced = _small(agent__class_weights="balanced")
    plain, _ = datasets(experiment, markets)
    train, validation = datasets(balanced, markets)
    sums = np.bincount(train.target, train.weight)
    np.testing.assert_allclose(sums, sums.mean())
    assert train.weight.mean() == pytest.approx(1.0)
    # A class has one factor, wherever its example lies.
    factor = {int(one): (train.weight / plain.weight)[train.target == one][0] for one in range(3)}
    unweighted = datasets(experiment, markets)[1].weight
    np.testing.assert_allclose(validation.weight, unweighted * [factor[int(one)] for one in validation.target])


def test_overlapping_labels_weigh_less_only_where_asked(small: tuple[Experiment, Markets]) -> None:
    _, markets = small
    plain, _ = datasets(_small(agent__uniqueness_weights=False), markets)
    assert (plain.weight == 1.0).all()
    weighed, _ = datasets(_small(), markets)
    assert weighed.weight.mean() == pytest.approx(1.0)
    assert weighed.weight.std() > 0.01


# Refusals.


def test_one_class_alone_is_refused(small: tuple[Experiment, Markets]) -> None:
    lazy = _small(agent__label={"kind": "direction", "horizon": 3, "dead_zone": 1000})
    with pytest.raises(DatasetError, match=r"at least two classes, found .* of class flat alone.*dead_zone"):
        datasets(lazy, small[1])


def test_a_horizon_beyond_the_data_is_refused() -> None:
    far = planted({"kind": "lstm", "label": {"kind": "direction", "horizon": 500_000}})
    with pytest.raises((DatasetError, LabelError), match="horizon"):
        datasets(far, load_markets(far))


def test_a_span_that_is_shorter_than_the_horizon_is_refused() -> None:
    """The data before it would do, but no bar of the validation span has a label."""
    short = planted(
        {"kind": "lstm", "label": {"kind": "direction", "horizon": 200}},
        split__validation={"from": "2023-01-02", "to": "2023-01-03"},
    )
    with pytest.raises(DatasetError, match=r"no bar of the validation span has a label.*horizon 200.*lower"):
        datasets(short, load_markets(short))


@pytest.fixture
def poisoned(small: tuple[Experiment, Markets]) -> Markets:
    """A NaN in one market row that windows read."""
    tape = small[1].train
    states = tape.states.copy()
    states[int(tape.state_of_bar[tape.spans[0, 0] + 7]), 1] = np.nan
    return replace(small[1], train=replace(tape, states=states))


def test_a_state_that_is_not_finite_is_refused(small: tuple[Experiment, Markets], poisoned: Markets) -> None:
    row = int(small[1].train.state_of_bar[small[1].train.spans[0, 0] + 7])
    with pytest.raises(DatasetError, match=rf"1 market rows that the training span reads .* rows \[{row}\]"):
        datasets(small[0], poisoned)


def test_a_price_that_is_not_finite_never_becomes_a_target(small: tuple[Experiment, Markets], train: Dataset) -> None:
    """Bars refuse it at the door, labels refuse it, and so does the dataset."""
    assert np.isfinite(train.forward).all()
    broken = replace(train, forward=np.where(np.arange(len(train)) == 4, np.nan, train.forward))
    with pytest.raises(DatasetError, match=r"1 of \d+ examples .* forward return that is not finite.* rows \[4\]"):
        _check(broken, "training", supervised(small[0]))


def test_an_agent_has_no_labels() -> None:
    with pytest.raises(DatasetError, match=r"found agent\.kind ppo"):
        supervised(small_experiment.experiment())


def test_a_history_longer_than_the_warm_up_is_refused_by_the_state() -> None:
    """Windows at a session's first bar reach into the bars folded before it: they must be there."""
    values = {"features": [{"rsi": {"window": 14}}], "warmup": 20, "history": 30}
    with pytest.raises(ValueError, match=r"warmup must be at least \d+ bars.*history is 30; found warmup 20"):
        StateSpec.model_validate(values)


def test_every_setting_loads_again() -> None:
    """Of each kind: resolved to YAML's values and back, the experiment has the same hash."""
    for kind in ("lstm", "gru", "transformer", "xgboost"):
        experiment = planted(settings_of(kind))
        again = Experiment.model_validate_json(json.dumps(experiment.resolved()))
        assert again == experiment
        assert again.hash() == experiment.hash()
