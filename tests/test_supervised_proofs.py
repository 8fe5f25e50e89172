"""Proofs: every supervised model finds a planted signal as well as can be, and nothing where there is nothing."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_markets import bayes_accuracy, planted, random_walk
from supervised_fits import FITS, Data, directional_accuracy, fit, settings_of

from finsense.market.simulate import SimulatedMarket

_WITHIN = 0.02
_REVERSION = 0.5
_SEEDS = range(10)
# The signal in one column of the newest row, beside one that means nothing; or spread over the last eight rows, of
# which each tells only how far the price moved.
_STATES: dict[str, dict[str, Any]] = {
    "level": {"features": [{"level_distance": {"level": 1000}}, "weekday"], "warmup": 40, "history": 1},
    "moves": {"features": [{"log_return": {"window": 1}}], "warmup": 40, "history": 8},
}
_SEEN = {"level": None, "moves": 8}


def _shortfall(kind: str, signal: str, folder: Path, **changes: Any) -> float:
    """How much less often than the best forecaster a model is right on the unseen test span."""
    data = Data.of(planted(settings_of(kind), state=_STATES[signal], **changes))
    accuracy, _ = directional_accuracy(fit(data, folder), data.test())
    return bayes_accuracy(_REVERSION, _SEEN[signal]) - accuracy


def _excess_on_walks(kind: str, folder: Path, **changes: Any) -> tuple[float, float]:
    """How much more often than a coin models are right on random walks, and the standard error of that."""
    right, count = 0.0, 0
    for seed in _SEEDS:
        data = Data.of(random_walk(settings_of(kind), seed, state=_STATES["moves"], **changes))
        accuracy, moved = directional_accuracy(fit(data, folder / str(seed)), data.test())
        right, count = right + accuracy * moved, count + moved
    return right / count - 0.5, 0.5 / math.sqrt(count)


def test_the_accuracy_of_the_best_forecaster_is_what_its_law_says() -> None:
    """The closed forms against the market itself: the sign of the hidden deviation, and a regression on eight moves."""
    settings = planted(settings_of("lstm")).data
    assert isinstance(settings, SimulatedMarket)
    bars, deviation = settings.simulate_with_signal()
    close = np.log(bars.close)
    moves = np.diff(close)
    error = 0.5 / math.sqrt(len(moves))
    informed = np.mean(np.sign(-deviation[:-1]) == np.sign(moves))
    assert informed == pytest.approx(bayes_accuracy(_REVERSION), abs=3 * error)
    windows = np.lib.stride_tricks.sliding_window_view(moves, 9)
    slopes, *_ = np.linalg.lstsq(windows[:, :8], windows[:, 8], rcond=None)
    told = np.mean(np.sign(windows[:, :8] @ slopes) == np.sign(windows[:, 8]))
    assert told == pytest.approx(bayes_accuracy(_REVERSION, 8), abs=3 * error)
    assert bayes_accuracy(_REVERSION) == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", FITS)
def test_a_small_model_sees_a_planted_signal(kind: str, tmp_path: Path) -> None:
    """The quick one of the gate: most of what can be seen, after a few passes over a third of a year."""
    split = {
        "train": {"from": "2022-01-03", "to": "2022-04-29"},
        "validation": {"from": "2022-05-02", "to": "2022-06-30"},
        "test": {"from": "2022-07-01", "to": "2022-12-30"},
    }
    assert _shortfall(kind, "level", tmp_path, split=split, data__last="2022-12-30") < 2 * _WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("signal", _STATES)
@pytest.mark.parametrize("kind", FITS)
def test_a_planted_signal_is_recovered(kind: str, signal: str, tmp_path: Path) -> None:
    assert abs(_shortfall(kind, signal, tmp_path)) < _WITHIN


@pytest.mark.slow
@pytest.mark.parametrize("kind", FITS)
def test_nothing_is_found_on_a_random_walk(kind: str, tmp_path: Path) -> None:
    """Ten markets, ten seeds; every example is one independent throw of a coin."""
    excess, error = _excess_on_walks(kind, tmp_path)
    assert abs(excess) < 2 * error
