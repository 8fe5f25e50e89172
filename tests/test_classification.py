"""Forecasts are judged as scikit-learn judges them, with intervals that hold where labels overlap."""

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    matthews_corrcoef,
    precision_recall_fscore_support,
    roc_auc_score,
)

from finsense.agents import labels
from finsense.evaluation.block_bootstrap import block_counts, block_rows, error_estimate, percentile_estimate
from finsense.evaluation.classification import CLASSES, DOWN, FLAT, UP, ForecastError, Forecasts, classify
from finsense.evaluation.reliability import (
    BINS,
    Curve,
    calibration_noise,
    expected_calibration_error,
    reliability_figure,
)


def forecasts(seed: int, rows: int = 400, span: int = 1, *, levels: int | None = None) -> Forecasts:
    """Random forecasts that know something; with few levels many are equal."""
    rng = np.random.default_rng(seed)
    stated = rng.dirichlet([2, 3, 2], rows)
    if levels is not None:
        stated = np.maximum(np.round(stated * levels), 1)
        stated /= stated.sum(axis=1, keepdims=True)
    target = np.array([rng.choice(3, p=row) for row in stated], np.int64)
    return Forecasts(stated.astype(np.float32), rng.integers(0, 3, rows), target, span)


def test_the_classes_are_those_of_the_labels() -> None:
    assert CLASSES == labels.CLASSES
    assert (DOWN, FLAT, UP) == (labels.DOWN, labels.FLAT, labels.UP)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 300), levels=st.sampled_from([None, 4]))
@settings(max_examples=40, deadline=None)
def test_figures_are_those_of_scikit_learn(seed: int, rows: int, levels: int | None) -> None:
    given_ = forecasts(seed, rows, levels=levels)
    found = {name: one.value for name, one in classify(given_, resamples=5).figures.items()}
    stated, target = given_.probabilities.astype(np.float64), given_.target
    stated /= stated.sum(axis=1, keepdims=True)
    named = stated.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", "A single label was found")
        expected: dict[str, Any] = {
            "accuracy": accuracy_score(target, named),
            "balanced_accuracy": balanced_accuracy_score(target, named),
            "log_loss": log_loss(target, stated, labels=[0, 1, 2]),
            "brier": np.square(stated - np.eye(3)[target]).sum(axis=1).mean(),
        }
        parts = precision_recall_fscore_support(target, named, labels=[0, 1, 2], zero_division=np.nan)
        correlation = matthews_corrcoef(target, named)
    for place, name in enumerate(CLASSES):
        expected |= {f"{figure}_{name}": parts[at][place] for at, figure in enumerate(("precision", "recall", "f1"))}
    if len(set(target.tolist())) > 1 and len(set(named.tolist())) > 1:
        expected["mcc"] = correlation
    else:
        assert math.isnan(found["mcc"])
    if 0 < (target == UP).sum() < rows:
        expected["auc_up"] = roc_auc_score(target == UP, given_.probabilities[:, UP])
    else:
        assert math.isnan(found["auc_up"])
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_confusions_and_hits_are_counted() -> None:
    given_ = forecasts(3)
    found = classify(given_)
    acted, target = given_.acted, given_.target
    assert np.array_equal(found.acted, confusion_matrix(target, acted, labels=[0, 1, 2]))
    assert np.array_equal(found.confusion, confusion_matrix(target, given_.probabilities.argmax(axis=1)))
    hits = (acted == target) & (acted != FLAT)
    assert found.figures["hit_rate"].value == pytest.approx(hits.sum() / (acted != FLAT).sum())
    assert found.counts == {name: int((target == place).sum()) for place, name in enumerate(CLASSES)}


def test_references_are_what_the_constant_forecasts_reach() -> None:
    """The majority's figures are those of the forecast that states the frequencies; chance's those of thirds."""
    given_ = forecasts(4)
    share = np.bincount(given_.target, minlength=3) / len(given_.target)
    known = classify(given_).reference
    for reference, constant in ((known.majority, share), (known.chance, np.full(3, 1 / 3))):
        stated = np.tile(constant, (len(given_.target), 1))
        found = classify(Forecasts(stated, given_.acted, given_.target, 1)).figures
        for name in ("log_loss", "brier", "auc_up"):
            assert reference[name] == pytest.approx(found[name].value, abs=1e-6), name
    assert known.majority["accuracy"] == share.max()
    assert known.majority["hit_rate"] == max(share[DOWN], share[UP])


def test_one_who_never_acts_has_no_hit_rate() -> None:
    given_ = forecasts(5)
    held = Forecasts(given_.probabilities, np.full(400, FLAT), given_.target, 1)
    found = classify(held)
    assert math.isnan(found.figures["hit_rate"].value)
    assert found.as_dict()["figures"]["hit_rate"]["value"] is None


def test_a_probability_of_nothing_costs_much_but_not_everything() -> None:
    stated = np.tile([0.0, 0.0, 1.0], (50, 1))
    loss = classify(Forecasts(stated, np.full(50, UP), np.full(50, DOWN), 1)).figures["log_loss"].value
    assert loss == pytest.approx(24 * math.log(2))


def test_what_is_no_forecast_is_refused() -> None:
    thirds = np.full((4, 3), 1 / 3)
    zeros = np.zeros(4, np.int64)
    with pytest.raises(ForecastError, match="at least one"):
        Forecasts(thirds[:0], zeros[:0], zeros[:0], 1)
    with pytest.raises(ForecastError, match="as many bars"):
        Forecasts(thirds, zeros[:3], zeros, 1)
    for bad in (thirds * 2, np.full((4, 3), np.nan), thirds - np.array([0.5, -0.5, 0])):
        with pytest.raises(ForecastError, match=r"4 rows that do not \(rows \[0, 1, 2\]"):
            Forecasts(bad, zeros, zeros, 1)


@given(rows=st.integers(2, 120), block=st.integers(1, 40), seed=st.integers(0, 1000))
def test_blocks_are_whole(rows: int, block: int, seed: int) -> None:
    """Every resample is made of runs of `block` neighbours, as many as fill the rows; all rows can be drawn."""
    drawn = list(block_counts(rows, block, np.random.default_rng(seed), resamples=50))
    if rows < 2 * block:
        assert not drawn
        return
    counts = np.concatenate(drawn)
    assert counts.shape == (50, rows)
    assert (counts.sum(axis=1) == block * math.ceil(rows / block)).all()
    for one in counts:
        left = one.copy()
        for start in range(rows):
            taken = left[start]
            assert taken >= 0
            left[start : start + block] -= taken
            assert taken == 0 or start + block <= rows
        assert not left.any()


@given(rows=st.integers(1, 100_000), span=st.integers(1, 2_000))
def test_a_block_is_never_shorter_than_a_label(rows: int, span: int) -> None:
    block = block_rows(rows, span)
    assert block >= span
    assert block == span or block * 10 <= rows


def test_the_same_rows_give_the_same_intervals() -> None:
    assert classify(forecasts(1)).as_dict() == classify(forecasts(1)).as_dict()


@pytest.mark.parametrize("span", [1, 12])
def test_intervals_cover_where_labels_overlap(span: int) -> None:
    """Of 120 forecasts whose hits hang together over a label's span, the interval of the accuracy holds about 19 of 20.

    Drawn anew row by row they would hold about half of them at a span of 12.
    """
    held, rows = 0, 1200
    block = block_rows(rows, span)
    for seed in range(120):
        noise = np.random.default_rng(seed).normal(size=rows + span)
        moved = np.convolve(noise, np.ones(span), "valid")[:rows] / math.sqrt(span)
        right = (moved > 0).astype(np.float64)
        counts = np.concatenate(list(block_counts(rows, block, np.random.default_rng(seed), 200)))
        found = percentile_estimate(right.mean(), counts @ right / counts.sum(axis=1))
        held += found.low <= 0.5 <= found.high
    assert 0.89 <= held / 120 <= 1.0


def test_too_few_rows_have_no_interval() -> None:
    found = classify(forecasts(2, rows=30, span=20))
    assert all(math.isnan(one.low) and math.isnan(one.high) for one in found.figures.values())


@given(
    values=st.lists(st.floats(0, 1) | st.sampled_from([0.2, 0.5]), min_size=1, max_size=200),
    seed=st.integers(0, 100),
)
def test_bins_are_even_and_equal_values_share_one(values: list[float], seed: int) -> None:
    stated = np.array(values)
    happened = np.random.default_rng(seed).random(len(stated)) < stated
    curve = Curve(stated, happened)
    ((*bins,),) = curve.sums(np.ones((1, len(stated))))
    rows, total, came = np.array(bins).T
    assert 1 <= curve.bins <= BINS
    assert (rows >= 1).all()
    assert rows.sum() == len(stated)
    assert came.sum() == happened.sum()
    assert (np.diff(total / rows) > -1e-12).all()
    if len(set(values)) == len(values):
        assert curve.bins == min(BINS, len(values))
        assert rows.max() - rows.min() <= 1
    else:
        assert curve.bins <= len(set(values))


def test_the_calibration_error_is_the_distance_in_the_diagram() -> None:
    """Where no probabilities are equal the bins are scikit-learn's quantile bins."""
    rng = np.random.default_rng(0)
    stated = rng.random(1000)
    happened = rng.random(1000) < stated**2
    curve = Curve(stated, happened)
    came, said = calibration_curve(happened, stated, n_bins=BINS, strategy="quantile")
    (error,) = expected_calibration_error(curve.sums(np.ones((1, 1000))))
    assert error == pytest.approx(np.abs(came - said).mean(), abs=2e-3)
    # The integral of p - p^2 over equal probabilities.
    assert error == pytest.approx(1 / 6, abs=0.03)


def _calibrated(seed: int, power: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0.2, 0.8, 800)
    return stated, rng.random(800) < stated**power


@pytest.mark.parametrize(("power", "least", "most"), [(1.0, 0.0, 0.05), (1.5, 0.95, 1.0)])
def test_an_error_that_chance_explains_is_told_from_one_that_is_real(power: float, least: float, most: float) -> None:
    """The interval of a calibrated forecast's error holds 0 nearly always; that of a wrong one never."""
    grid = np.linspace(0.2, 0.8, 10_001)
    true, beyond, held = float(np.abs(grid - grid**power).mean()), 0, 0
    for seed in range(40):
        curve = Curve(*_calibrated(seed, power))
        counts = np.concatenate(list(block_counts(800, 10, np.random.default_rng(seed), 300)))
        sums = curve.sums(np.concatenate([np.ones((1, 800)), counts]))
        error = error_estimate(float(expected_calibration_error(sums)[0]), calibration_noise(sums))
        beyond += error.low > 0
        held += error.low <= true <= error.high
    assert least <= beyond / 40 <= most
    assert held >= 38


def test_an_interval_of_what_is_mostly_undefined_is_none() -> None:
    drawn = np.append(np.ones(5), np.full(95, np.nan))
    assert math.isnan(percentile_estimate(1.0, drawn).low)
    assert percentile_estimate(1.0, np.append(np.ones(95), np.full(5, np.nan))).low == 1.0


def test_the_diagram_shows_every_bin() -> None:
    found = classify(forecasts(7)).reliability
    figure = reliability_figure({name: found.bins[name] for name in ("up", "down")})
    assert figure.svg.count("m-3 0a3 3") == 2 * BINS
    assert "up" in figure.svg
