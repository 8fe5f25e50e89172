"""From probability to action: honest calibration, abstention that keeps its rate, nothing done below the charges."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import ACCOUNTS
from numpy.typing import NDArray
from small_experiment import experiment
from torch import nn

from finsense.agents.graph import export_module
from finsense.agents.labels import CLASSES, DOWN, FLAT, UP
from finsense.agents.supervised.calibration import (
    CalibrationError,
    Evidence,
    Isotonic,
    StudentReturn,
    class_shares,
    fit_evidence,
    fit_isotonic,
    fit_student_return,
    log_loss,
    probabilities_of,
)
from finsense.agents.supervised.conformal import (
    NEVER_EXCLUDED,
    ConformalError,
    check_counts,
    conformal_limit,
    conformal_limits,
)
from finsense.agents.supervised.dataset import Dataset, Windows
from finsense.agents.supervised.decision import (
    Decider,
    FittedDecider,
    Rule,
    calibration_halves,
    class_moves,
    fit_decider,
    trading_actions,
)
from finsense.agents.supervised.skill import calibration_errors
from finsense.config import Experiment

Floats = NDArray[np.float64]
BAR_NS = 300_000_000_000
HORIZON = 3


def softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    found: Floats = raised / raised.sum(axis=1, keepdims=True)
    return found


def drawn(probabilities: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """A class from each row of probabilities (n, 3)."""
    edges = probabilities.cumsum(axis=1)
    return np.asarray((rng.random((len(edges), 1)) > edges[:, :2]).sum(axis=1), np.int64)


def examples(target: NDArray[np.int64], forward: Floats, round_trip: float = 1e-3, **changes: Any) -> Dataset:
    """Examples of one symbol, a bar after the other, whose states nobody looks at."""
    count = len(target)
    start_ns = np.arange(count) * BAR_NS
    whole = Dataset(
        windows=Windows(np.zeros((count, 1), np.float32), np.arange(count), 1),
        target=target,
        forward=forward,
        round_trip=np.full(count, round_trip),
        weight=np.ones(count, np.float32),
        start_ns=start_ns,
        end_ns=start_ns + HORIZON * BAR_NS,
        symbol=np.zeros(count, np.int64),
    )
    return replace(whole, **changes)


def market(count: int, seed: int, strength: float = 1.0) -> tuple[NDArray[np.float32], Dataset]:
    """Logits that tell the true probabilities, and examples drawn from them; half of the bars are flat."""
    rng = np.random.default_rng(seed)
    signal = strength * rng.normal(size=count)
    logits = np.stack([-signal, np.full(count, 1.0), signal], axis=1)
    target = drawn(softmax(logits), rng)
    forward = (target - 1) * 4e-3 + rng.normal(0, 1e-3, count)
    return logits.astype(np.float32), examples(target, forward)


def model(label: dict[str, Any] | None = None, **changes: Any) -> Experiment:
    agent = {"kind": "gru", "label": label or {"kind": "direction", "horizon": HORIZON}, **changes}
    return experiment(agent=agent)


def fitted(seed: int = 0, count: int = 4000, sharp: float = 1.0, **changes: Any) -> FittedDecider:
    outputs, seen = market(count, seed)
    train = market(count, seed + 1)[1]
    prior = np.log(class_shares(train.target)).astype(np.float32)
    return fit_decider((outputs - prior) * np.float32(sharp) + prior, train, seen, model(**changes))


# Calibration.


@settings(max_examples=10)
@given(st.floats(0.2, 5.0), st.integers(0, 50))
def test_the_temperature_finds_how_much_too_sure_a_model_is(factor: float, seed: int) -> None:
    outputs, seen = market(3000, seed)
    shares = class_shares(seen.target)
    prior = np.log(shares).astype(np.float32)
    too_sure = (outputs - prior) * np.float32(factor) + prior
    found = fit_evidence(too_sure, seen.target, shares, shares)
    assert 1.0 / float(found.sharpness) == pytest.approx(factor, rel=0.2)


def test_a_model_that_tells_nothing_ends_at_the_shares_of_the_classes() -> None:
    outputs, _ = market(4000, seed=1, strength=3.0)
    _, unrelated = market(4000, seed=2)
    shares = class_shares(unrelated.target)
    found = probabilities_of(fit_evidence(outputs, unrelated.target, shares, shares), outputs)
    assert np.abs(found - shares).max() < 0.03
    # Thirds, where a temperature on whole logits would end, are worse.
    assert log_loss(found, unrelated.target) < log_loss(np.full_like(found, 1 / 3), unrelated.target)


def test_weights_of_the_classes_are_taken_out_of_the_probabilities() -> None:
    outputs, seen = market(20_000, seed=3)
    counts = np.bincount(seen.target)
    balanced = len(seen) / (3 * counts)
    # The least weighted loss is reached by weight x probability, normalised.
    trained = outputs + np.log(balanced).astype(np.float32)
    module = Evidence(class_shares(seen.target), class_shares(seen.target, balanced[seen.target]))
    assert np.abs(probabilities_of(module, trained) - softmax(outputs.astype(np.float64))).max() < 1e-3


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_mends_a_model_that_is_too_sure_on_labels_it_was_not_fitted_on(method: str) -> None:
    found = fitted(sharp=4.0, calibration=method, count=12_000).calibration["measured"]
    before, after = found["before"], found["after"]
    assert after["log_loss"] < 0.8 * before["log_loss"]
    for curve, error in after["calibration_error"].items():
        assert error < 0.03 < before["calibration_error"][curve]


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_calibration_harms_a_calibrated_model_little(method: str) -> None:
    found = fitted(calibration=method, count=12_000).calibration["measured"]
    assert found["after"]["log_loss"] < found["before"]["log_loss"] + 0.01
    assert max(found["after"]["calibration_error"].values()) < 0.03


@settings(max_examples=40)
@given(st.integers(0, 300), st.integers(60, 2000), st.floats(0.05, 6.0))
def test_isotonic_probabilities_sum_to_one_and_rise_gently(seed: int, count: int, strength: float) -> None:
    outputs, seen = market(count, seed, strength)
    shares = class_shares(seen.target)
    module = fit_isotonic(Evidence(shares, shares), outputs, seen.target)
    found = probabilities_of(module, outputs)
    assert np.abs(found.sum(axis=1) - 1.0).max() < 1e-5
    assert found.min() > 0.0
    slopes = module.slope.numpy()
    assert (slopes >= 0).all()
    # Steeper, and the last bits of a float32 would be seen in the decisions.
    assert slopes.max() <= 5.01


def test_isotonic_lines_pass_through_their_knots() -> None:
    class Given(nn.Module):
        def forward(self, outputs: torch.Tensor) -> torch.Tensor:
            return outputs

    x, y = np.array([0.1, 0.3, 0.6]), np.array([0.2, 0.25, 0.7])
    module = Isotonic(Given(), [(x, y), (np.array([0.5]), np.array([0.4])), (x, y)])
    places = np.array([0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 1.0], np.float32)
    raw = np.repeat(places[:, None], 3, axis=1)
    rising = np.interp(places, x, y)
    expected = np.stack([rising, np.full(len(places), 0.4), rising], axis=1)
    expected /= expected.sum(axis=1, keepdims=True)
    assert np.allclose(probabilities_of(module, raw), expected, atol=1e-6)


def test_the_spread_of_a_return_is_the_distribution_of_student() -> None:
    places = np.linspace(-8, 8, 101)
    found = probabilities_of(StudentReturn(1.0, 0.5, 0.25), places[:, None].astype(np.float32))
    for one, edge in ((DOWN, -places), (UP, places)):
        assert np.allclose(found[:, one], scipy.stats.t(4).cdf((edge - 0.25) / 0.5), atol=1e-6)


@pytest.mark.parametrize("slope", [0.0, 0.4, 1.0, 3.0])
def test_a_forecast_return_is_scaled_and_its_classes_are_calibrated(slope: float) -> None:
    rng = np.random.default_rng(5)
    forecast = rng.normal(0, 1e-3, 20_000).astype(np.float32)
    forward = slope * forecast + 2e-3 * rng.standard_t(4, len(forecast))
    target = 1 + (forward > 1e-3).astype(np.int64) - (forward < -1e-3)
    module = fit_student_return(forecast[:, None], forward, target, 1e-3)
    assert float(module.slope) == pytest.approx(slope, abs=0.05)
    assert float(module.scale) == pytest.approx(2e-3, rel=0.03)
    assert max(calibration_errors(probabilities_of(module, forecast[:, None]), target).values()) < 0.02


def test_a_forecast_return_that_points_the_wrong_way_is_worth_nothing() -> None:
    rng = np.random.default_rng(6)
    forecast = rng.normal(0, 5e-3, 4000).astype(np.float32)
    forward = -forecast + rng.normal(0, 1e-3, len(forecast))
    seen = examples(1 + np.sign(forward).astype(np.int64) * (np.abs(forward) > 1e-3), forward)
    label = {"kind": "forward_return", "horizon": HORIZON}
    found = fit_decider(forecast[:, None], seen, seen, model(label))
    assert found.decision["slope"] == 0.0
    assert found.decision["share_long"] == found.decision["share_short"] == 0.0


# Conformal abstention.


@given(
    st.lists(st.integers(0, 12), min_size=5, max_size=60),
    st.floats(0.02, 0.98),
)
def test_no_more_than_the_error_rate_is_excluded_whichever_sample_is_the_new_one(
    sizes: list[int], error_rate: float
) -> None:
    # Exchangeable samples: each is as likely the new one. The law of conformal prediction holds exactly, ties and all.
    values = np.array(sizes, np.float64) / 12
    excluded = [values[new] < conformal_limit(np.delete(values, new), error_rate) for new in range(len(values))]
    assert np.mean(excluded) <= error_rate + 1e-9


def test_the_rate_holds_on_fresh_samples_and_is_not_wasted() -> None:
    outputs, seen = market(40_000, seed=8)
    probabilities = softmax(outputs.astype(np.float64))
    first, rest = slice(0, 20_000), slice(20_000, None)
    limits = conformal_limits(probabilities[first], seen.target[first], 0.2)
    for one, limit in zip((DOWN, UP), limits, strict=True):
        of_class = probabilities[rest][seen.target[rest] == one, one]
        assert (of_class < limit).mean() == pytest.approx(0.2, abs=0.02)


def test_too_few_labels_for_the_rate_are_refused() -> None:
    of_both = np.repeat([DOWN, UP], [99, 98])
    with pytest.raises(ConformalError, match=r"at least 99 labels of class up .*, found 98.*longer split.validation"):
        check_counts(of_both, 0.01)
    check_counts(np.append(of_both, UP), 0.01)
    assert conformal_limit(np.linspace(0, 1, 98), 0.01) == NEVER_EXCLUDED
    assert conformal_limit(np.linspace(0, 1, 99), 0.01) == 0.0


def test_a_smaller_error_rate_never_acts_more_and_none_at_all_never_acts() -> None:
    outputs, seen = market(8000, seed=9, strength=2.0)
    probabilities = softmax(outputs.astype(np.float64))
    account, moves = ACCOUNTS["intraday short"], np.array([-4e-3, 0.0, 4e-3])
    shares = class_shares(seen.target)
    acted: list[NDArray[np.bool_]] = []
    for rate in (0.0, 0.001, 0.01, 0.05, 0.2, 0.5):
        limits = conformal_limits(probabilities, seen.target, rate)
        decider = Decider(Evidence(shares, shares), Rule(moves, 0.0, 1e-4, 1e-3, limits), account)
        action, _, _ = run(decider, outputs)
        acted.append(action != account.hold_action)
    assert conformal_limits(probabilities, seen.target, 0.0) == (NEVER_EXCLUDED, NEVER_EXCLUDED)
    assert not acted[0].any()
    assert all((less <= more).all() for less, more in itertools.pairwise(acted))
    assert acted[-1].mean() > 0.3


# The rule.


def run(
    decider: nn.Module, outputs: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    account_actions = len(decider.rest)  # type: ignore[arg-type]
    masks = np.ones((len(outputs), account_actions), np.bool_) if mask is None else mask
    with torch.inference_mode():
        found = decider(torch.from_numpy(outputs), torch.zeros(len(outputs), 2), torch.from_numpy(masks))
    action, probabilities, forecast = (tensor.numpy() for tensor in found)
    return action, probabilities, forecast


EQUAL = np.full(3, 1 / 3)


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(ACCOUNTS)),
    st.floats(0.0, 5e-3),
    st.one_of(st.none(), st.tuples(st.floats(0.01, 0.6), st.floats(0.01, 0.6))),
)
def test_an_action_is_taken_where_the_expected_move_beats_the_round_trip(
    seed: int, name: str, round_trip: float, limits: tuple[float, float] | None
) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.normal(0, 2, (200, 3)).astype(np.float32)
    moves = np.array([-rng.uniform(0, 1e-2), rng.normal(0, 1e-3), rng.uniform(0, 1e-2)])
    account, unit = ACCOUNTS[name], max(round_trip, 2e-3)
    decider = Decider(Evidence(EQUAL, EQUAL), Rule(moves, 0.0, round_trip, unit, limits), account)
    action, probabilities, forecast = run(decider, outputs)
    # The same rule in plain words.
    p = softmax(outputs.astype(np.float64))
    move = p @ moves
    long, short = move > round_trip, move < -round_trip
    if limits is not None:
        long, short = long & (p[:, DOWN] < limits[0]), short & (p[:, UP] < limits[1])
    buy, hold, sell = trading_actions(account)
    expected = np.where(long, buy, np.where(short, sell, hold))
    margins = [np.abs(np.abs(move) - round_trip) / unit]
    if limits is not None:
        margins += [3 * np.abs(p[:, DOWN] - limits[0]), 3 * np.abs(p[:, UP] - limits[1])]
    clear = np.min(margins, axis=0) > 0.011
    assert (action[clear] == expected[clear]).all()
    assert (probabilities.argmax(axis=1) == action).all()
    assert np.allclose(forecast, p, atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from(sorted(ACCOUNTS)))
def test_a_masked_action_is_never_chosen_and_has_no_probability(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    account = ACCOUNTS[name]
    count = len(account.action_names)
    masks = rng.random((100, count)) < 0.4
    masks[:, account.hold_action] = True
    rule = Rule(np.array([-5e-3, 0.0, 5e-3]), 0.0, 1e-3, 1e-3, None)
    outputs = rng.normal(0, 3, (100, 3)).astype(np.float32)
    action, probabilities, _ = run(Decider(Evidence(EQUAL, EQUAL), rule, account), outputs, masks)
    assert masks[np.arange(100), action].all()
    assert (probabilities[~masks] == 0).all()
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("intraday shares", ("buy", "hold", "sell")),
        ("intraday targets", ("target 1", "hold", "target -1")),
        ("delivery targets", ("target 1", "hold", "target 0")),
    ],
)
def test_a_direction_is_an_action_of_every_scheme(name: str, expected: tuple[str, ...]) -> None:
    account = ACCOUNTS[name]
    assert tuple(account.action_names[action] for action in trading_actions(account)) == expected


def test_a_target_between_is_never_chosen_even_where_it_alone_is_legal_beside_holding() -> None:
    account = ACCOUNTS["delivery targets"]
    rule = Rule(np.array([-5e-3, 0.0, 5e-3]), 0.0, 1e-3, 1e-3, None)
    masks = np.tile(np.array([False, True, False, True]), (50, 1))
    outputs = np.random.default_rng(0).normal(0, 3, (50, 3)).astype(np.float32)
    action, _, _ = run(Decider(Evidence(EQUAL, EQUAL), rule, account), outputs, masks)
    assert (action == account.hold_action).all()


def test_where_nothing_is_expected_and_nothing_costs_it_holds() -> None:
    account = ACCOUNTS["intraday short"]
    decider = Decider(Evidence(EQUAL, EQUAL), Rule(np.array([-1e-3, 0.0, 1e-3]), 0.0, 0.0, 1.0, None), account)
    action, probabilities, _ = run(decider, np.zeros((3, 3), np.float32))
    assert (action == account.hold_action).all()
    # Clearly, as golden vectors need it.
    best = np.sort(probabilities, axis=1)
    assert (best[:, -1] - best[:, -2] > 1e-3).all()


def test_higher_costs_never_act_more() -> None:
    outputs, seen = market(3000, seed=11)
    acted: list[NDArray[np.bool_]] = []
    for round_trip in (0.0, 5e-4, 1e-3, 2e-3, 1e-2):
        dear = replace(seen, round_trip=np.full(len(seen), round_trip))
        decider = fit_decider(outputs, market(3000, seed=12)[1], dear, model()).decider
        acted.append(run(decider, outputs)[0] != decider.rest.argmax().item())
    assert all((more <= less).all() for less, more in itertools.pairwise(acted))
    assert acted[0].mean() > 0.9
    assert not acted[-1].any()


@pytest.mark.parametrize("kind", ["classes", "returns"])
def test_the_exported_rule_is_the_rule_and_a_broken_state_gives_nan(kind: str) -> None:
    outputs, seen = market(3000, seed=13)
    train = market(3000, seed=14)[1]
    if kind == "returns":
        outputs = (seen.forward[:, None] / 2).astype(np.float32)
        chosen = model({"kind": "forward_return", "horizon": HORIZON})
    else:
        chosen = model(calibration="isotonic", abstain_error_rate=0.1)
    decider = fit_decider(outputs, train, seen, chosen).decider
    assert isinstance(decider.calibration, StudentReturn if kind == "returns" else Isotonic)
    rows = torch.export.Dim("N")
    example = {
        "outputs": torch.zeros(2, outputs.shape[1]),
        "state": torch.zeros(2, 4),
        "mask": torch.ones(2, 3, dtype=torch.bool),
    }
    names = ("action", "probabilities", "forecast")
    session = ort.InferenceSession(export_module(decider, example, names, {name: {0: rows} for name in example}))
    rng = np.random.default_rng(15)
    state = rng.normal(size=(len(outputs), 4)).astype(np.float32)
    mask = rng.random((len(outputs), 3)) < 0.7
    mask[:, 1] = True
    broken = np.array([np.nan, np.inf, -np.inf], np.float32)
    state[[3, 4, 5], [0, 1, 2]] = broken
    found = session.run(names, {"outputs": outputs, "state": state, "mask": mask})
    with torch.inference_mode():
        expected = decider(*(torch.from_numpy(array) for array in (outputs, state, mask)))
    whole = np.setdiff1d(np.arange(len(outputs)), [3, 4, 5])
    assert (found[0] == expected[0].numpy())[whole].all()
    for graph, source in zip(found[1:], expected[1:], strict=True):
        assert np.abs(graph - source.numpy())[whole].max() < 1e-6
        assert np.isnan(graph[[3, 4, 5]]).all()
        assert np.isnan(source.numpy()[[3, 4, 5]]).all()
    assert mask[np.arange(len(mask)), found[0]].all()


# What is fitted on what.


def test_nothing_is_fitted_and_measured_on_the_same_labels() -> None:
    outputs, seen = market(2000, seed=16)
    train = market(2000, seed=17)[1]
    first, second = calibration_halves(seen)
    assert len(first) + len(second) == len(seen) - HORIZON
    assert seen.end_ns[first].max() < seen.start_ns[second].min()
    chosen = model(calibration="isotonic")
    changed = seen.target.copy()
    changed[second] = np.roll(changed[second], 7)
    one = fit_decider(outputs, train, seen, chosen)
    other = fit_decider(outputs, train, replace(seen, target=changed), chosen)
    for a, b in zip(one.decider.state_dict().values(), other.decider.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    mine, its = (found.calibration["measured"]["after"]["log_loss"] for found in (one, other))
    assert mine < its


def test_a_rise_of_the_validation_span_is_not_in_the_rule() -> None:
    outputs, seen = market(2000, seed=18)
    train = market(2000, seed=19)[1]
    risen = replace(seen, forward=seen.forward + 5e-3)
    one, other = (fit_decider(outputs, train, validation, model()) for validation in (seen, risen))
    assert one.decision == other.decision
    assert list(one.decision["moves"].values()) == pytest.approx(class_moves(train).tolist())


def test_the_accuracy_stands_beside_that_of_the_most_frequent_class_of_training() -> None:
    found = fitted(count=8000).calibration["measured"]
    above = found["above_majority"]
    assert found["majority"] == CLASSES[FLAT]
    assert found["accuracy"]["value"] - found["accuracy_of_majority"] == pytest.approx(above["value"])
    assert 0 < above["low"] < above["value"] < above["high"]


def test_too_few_labels_or_a_single_class_are_refused() -> None:
    outputs, seen = market(90, seed=20)
    with pytest.raises(CalibrationError, match=r"at least 50 labels in each half.*found 42 .* and 45"):
        fit_decider(outputs, seen, seen, model())
    outputs, seen = market(400, seed=21)
    flat = replace(seen, target=np.full(400, FLAT))
    with pytest.raises(
        CalibrationError, match=r"at least two classes in the first half.*found 197 of class flat alone"
    ):
        fit_decider(outputs, seen, flat, model())
    with pytest.raises(ConformalError, match=r"abstain_error_rate 0\.001 needs at least 999 labels"):
        fit_decider(outputs, seen, seen, model(abstain_error_rate=0.001))
