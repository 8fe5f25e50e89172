"""Which columns a model lives on, fold by fold: the planted one is found by every method, and noise is not stable."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xgboost as xgb
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import log_loss
from small_experiment import SETTINGS, experiment
from torch import nn
from typer.testing import CliRunner

from finsense.agents import gru, xgboost
from finsense.agents.attribution import (
    AttributionError,
    _block_order,
    gain_importance,
    gradient_importance,
    integrated_gradients,
    losses,
    permutation_importance,
)
from finsense.agents.feature_analysis import (
    IMPORTANCE,
    AnalysisError,
    FeatureAnalysis,
    analyse_features,
    selected_columns,
)
from finsense.agents.fitted_trees import FittedTrees
from finsense.agents.supervised.dataset import Dataset, Windows
from finsense.agents.supervised.network import WindowNetwork
from finsense.agents.training import one_thread
from finsense.cli.main import app
from finsense.config import Experiment
from finsense.evaluation.dependence import agreement
from finsense.evaluation.forecast_sections import importance_section
from finsense.evaluation.persistence import as_svg_file, persistence
from finsense.model.bundle import load_bundle
from finsense.state.scaler import Scaler

BAR_NS = 300_000_000_000
PLANTED, HORIZON = 2, 3
FITS: dict[str, Any] = {"xgboost": xgboost.fit, "gru": gru.fit}
QUICK: dict[str, dict[str, Any]] = {
    "xgboost": {"rounds": 15, "learning_rate": 0.1},
    "gru": {"epochs": 3, "hidden": 8, "learning_rate": 0.02},
}
FEATURES = ["rsi", "bollinger", "trend", "atr", "session_left", "volume_ratio", "weekday"]


def examples(columns: int, history: int = 1, *, rows: int = 2000, planted: float = 0.0, seed: int = 0) -> Dataset:
    """Slow columns of noise and the direction of the next three steps; one column moves each step that follows it."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows + history, columns))
    for row in range(1, len(values)):
        values[row] = 0.8 * values[row - 1] + 0.6 * values[row]
    steps = rng.normal(size=rows + HORIZON)
    if planted:
        steps[:rows] += planted * values[history - 1 : history - 1 + rows, PLANTED]
    level = np.append(0.0, np.cumsum(steps))
    forward = level[HORIZON : HORIZON + rows] - level[:rows]
    start_ns = 1_700_000_100_000_000_000 + np.arange(rows) * BAR_NS
    return Dataset(
        windows=Windows(values.astype(np.float32), np.arange(rows), history),
        target=1 + (forward > 1).astype(np.int64) - (forward < -1),
        forward=forward / 1000,
        round_trip=np.full(rows, 1e-4),
        weight=np.ones(rows, np.float32),
        start_ns=start_ns,
        end_ns=start_ns + HORIZON * BAR_NS,
        symbol=np.zeros(rows, np.int64),
    )


def settings_of(kind: str, method: str = "permutation", **changes: Any) -> Experiment:
    """An experiment with a quick model of a kind."""
    agent = {"kind": kind, "label": {"kind": "direction", "horizon": HORIZON}, **QUICK[kind], **changes}
    agent = {"select": {"method": method, "top": 3, "at_least": 1}, **agent}
    return experiment(agent=agent, state={"features": FEATURES, "warmup": 60, "history": 1 if kind == "xgboost" else 2})


def analysis(kind: str, method: str, *, planted: float, seed: int = 0, **changes: Any) -> FeatureAnalysis:
    chosen = settings_of(kind, method, **changes)
    data = examples(len(chosen.state.columns), chosen.state.history, planted=planted, seed=seed)
    with one_thread():
        return analyse_features(FITS[kind], chosen, data, threading.Event())


WAYS = [("xgboost", "gain"), ("xgboost", "permutation"), ("gru", "gradients"), ("gru", "permutation")]


@pytest.mark.parametrize(("kind", "method"), WAYS)
def test_the_planted_column_is_first_and_stable(kind: str, method: str) -> None:
    found = analysis(kind, method, planted=0.8)
    assert found.order[0] == PLANTED
    assert found.lasting.stable.nonzero()[0].tolist() == [PLANTED]
    assert found.lasting.in_front[PLANTED] == 1.0
    assert found.chosen.tolist() == [PLANTED]
    assert all(fold.loss < fold.loss_without for fold in found.folds)
    assert (found.gain_shares is not None) == (kind == "xgboost")


@pytest.mark.parametrize(("kind", "method"), WAYS)
def test_noise_is_not_stable(kind: str, method: str) -> None:
    found = analysis(kind, method, planted=0.0)
    assert not found.lasting.stable.any()
    assert abs(found.lasting.tau) < 0.25
    # One column is wanted at least: the best of what there is.
    assert found.chosen.tolist() == [found.order[0]]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), WAYS)
def test_noise_is_stable_as_rarely_as_promised(kind: str, method: str) -> None:
    """Of 20 random walks at most 3 have a stable column (5 % are promised), and no order lasts on average."""
    walks = [analysis(kind, method, planted=0.0, seed=seed).lasting for seed in range(20)]
    assert sum(one.stable.any() for one in walks) <= 3
    assert abs(np.mean([one.tau for one in walks])) < 0.06


def test_the_librarys_own_gain_looks_stable_on_noise() -> None:
    """Why `gain` is taken on unseen rows: on those it was fitted on, folds agree because they share their rows."""
    walks = [analysis("xgboost", "gain", planted=0.0, seed=seed) for seed in range(3)]
    own = [agreement(one.gain_shares) for one in walks if one.gain_shares is not None]
    assert np.mean(own) > 0.2
    assert abs(np.mean([one.lasting.tau for one in walks])) < 0.12


def test_no_rows_are_judged_that_were_fitted_on() -> None:
    """Neither fitting nor stopping nor scaling sees a row of the judged fold, nor a label that reaches into it."""
    chosen = settings_of("xgboost", "gain")
    data = examples(len(chosen.state.columns))
    seen: list[tuple[Dataset, Dataset]] = []

    def noting(given_: Experiment, train: Dataset, stopping: Dataset, scaler: Scaler, desk: Any) -> Any:
        assert given_.agent.select is None  # type: ignore[union-attr]
        assert given_.agent.warm_start is None  # type: ignore[union-attr]
        newest = train.windows.rows[train.windows.first_row + train.windows.history - 1]
        assert np.allclose(scaler.mean[: data.windows.columns], newest.mean(axis=0), atol=1e-5)
        assert train.end_ns.max() < stopping.start_ns.min()
        seen.append((train, stopping))
        return xgboost.fit(given_, train, stopping, scaler, desk)

    found = analyse_features(noting, chosen, data, threading.Event())
    parts = np.array_split(np.arange(len(data)), 8)
    for (train, stopping), judged, fold in zip(seen, parts, found.folds, strict=True):
        first, last = data.start_ns[judged].min(), data.end_ns[judged].max()
        for one in (train, stopping):
            assert not ((one.end_ns >= first) & (one.start_ns <= last)).any()
        assert (fold.judged, fold.trained) == (len(judged), len(train))


@pytest.mark.parametrize(("kind", "method"), [("gru", "gain"), ("xgboost", "gradients")])
def test_a_method_of_another_kind_is_refused(kind: str, method: str) -> None:
    with pytest.raises(AnalysisError, match=f"kind {kind} has, found agent.select.method {method}: choose permutation"):
        analysis(kind, method, planted=0.0)


def test_a_span_too_short_for_its_labels_is_refused() -> None:
    chosen = settings_of("xgboost", select={"folds": 8})
    data = examples(len(chosen.state.columns), rows=200)
    with pytest.raises(AttributionError, match=r"expected at least 5 blocks of 4 rows .* found 25 rows|found 1\d rows"):
        analyse_features(xgboost.fit, chosen, data.take(np.arange(120)), threading.Event())


def test_the_choice_is_written_once_and_read_again(tmp_path: Path) -> None:
    chosen = settings_of("xgboost", "gain")
    data = examples(len(chosen.state.columns), planted=0.8)
    columns, found = selected_columns(xgboost.fit, chosen, data, tmp_path, threading.Event())
    assert found == json.loads((tmp_path / IMPORTANCE).read_text())
    assert columns.tolist() == [PLANTED]

    def never(*_: Any) -> Any:
        raise AssertionError("fitted again")

    again = selected_columns(never, chosen, data, tmp_path, threading.Event())
    assert (again[0].tolist(), again[1]) == ([PLANTED], found)
    plain = settings_of("xgboost", select=None)
    everything = selected_columns(never, plain, data, tmp_path / "none", threading.Event())
    assert (everything[0].tolist(), everything[1]) == (list(range(len(chosen.state.columns))), None)


def test_two_analyses_are_the_same_to_the_bit() -> None:
    assert (
        analysis("gru", "permutation", planted=0.3).as_dict() == analysis("gru", "permutation", planted=0.3).as_dict()
    )


def _network(columns: int, history: int, outputs: int, seed: int = 0) -> WindowNetwork:
    torch.manual_seed(seed)

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 8, batch_first=True)
            self.head = nn.Linear(8, outputs)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.head(self.lstm(rows)[0][:, -1]) * 3
            return scores

    scaler = Scaler(np.full(columns * history, 0.3, np.float32), np.full(columns * history, 1.5, np.float32))
    return WindowNetwork(Body(), scaler, np.array([0, PLANTED])).eval()


@pytest.mark.parametrize("outputs", [3, 1])
def test_gradients_are_complete(outputs: int) -> None:
    """The columns' parts sum to the loss at the mean less the loss at the rows; an unread column has none."""
    data = examples(4, 3, rows=500)
    network = _network(4, 3, outputs)
    found = gradient_importance(network, data)
    index = np.arange(500)
    windows = data.windows.gather(index)
    baseline = windows.copy()
    baseline[:, :, [0, PLANTED]] = 0.3
    with torch.inference_mode():
        at_rows, at_mean = (network(torch.from_numpy(one)).numpy() for one in (windows, baseline))
    variance = float(data.forward.var())
    saved = (losses(at_mean, data, variance) - losses(at_rows, data, variance)).mean()
    # For a return these are squared errors over a tiny variance, so the scale is that of the loss itself.
    assert found.sum() == pytest.approx(saved, rel=1e-3, abs=1e-4)
    assert found[[1, 3]].tolist() == [0.0, 0.0]
    assert (found[[0, PLANTED]] != 0).all()


def test_integrated_gradients_of_known_functions() -> None:
    inputs, baseline = torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[0.5, 0.0, 1.0]])
    weights = torch.tensor([2.0, -1.0, 0.0])
    assert integrated_gradients(lambda x: x @ weights, inputs, baseline).tolist() == [[1.0, -2.0, 0.0]]
    # x0^2 x1 from the origin: two thirds of the product for the square, one third for the other.
    found = integrated_gradients(lambda x: x[:, 0] ** 2 * x[:, 1], inputs, torch.zeros(1, 3))
    assert found[0].tolist() == pytest.approx([4 / 3, 2 / 3, 0.0], abs=1e-6)


@pytest.mark.parametrize("label", ["direction", "forward_return"])
def test_gain_is_complete(label: str) -> None:
    """The columns' parts sum to what the trees save against their mean; what they read is what they answer with."""
    chosen = settings_of("xgboost", label={"kind": label, "horizon": HORIZON}, select=None)
    data = examples(len(chosen.state.columns), planted=0.5)
    trees = _trees(chosen, data)
    found = gain_importance(trees, data)
    names = np.arange(len(chosen.state.columns))
    moves = trees.booster.predict(
        xgb.DMatrix(data.windows.flat(np.arange(len(data)))[:, names]),
        pred_contribs=True,
        approx_contribs=True,
        validate_features=False,
    ).reshape(len(data), -1, len(names) + 1)
    outputs = trees.outputs(data.windows)
    assert moves.sum(axis=2) * trees.unit == pytest.approx(outputs, abs=1e-5)
    variance = float(data.forward.var())
    saved = losses(moves[:, :, -1] * trees.unit, data, variance) - losses(outputs, data, variance)
    rows = np.linspace(0, len(data) - 1, min(len(data), 8192)).astype(np.int64)
    assert found.sum() == pytest.approx(saved[rows].mean(), rel=1e-3)
    assert found.argmax() == PLANTED


def _trees(chosen: Experiment, data: Dataset) -> FittedTrees:
    kept: list[Any] = []

    def keeping(*given_: Any) -> Any:
        kept.append(xgboost.fit(*given_))
        return kept[-1]

    analyse_features(keeping, chosen, data, threading.Event())
    return kept[-1]  # type: ignore[no-any-return]


class _Linear:
    """Scores that read one column of the newest row."""

    def outputs(self, windows: Windows) -> NDArray[np.float32]:
        newest = windows.gather(np.arange(len(windows)))[:, -1, PLANTED]
        return np.stack([-newest, np.zeros_like(newest), newest], axis=1)


def test_permutation_costs_what_is_read_and_nothing_else() -> None:
    data = examples(4, 3, rows=2500, planted=0.8)
    found = permutation_importance(_Linear(), data, np.random.default_rng(0))
    assert found[PLANTED] > 0.1
    assert found[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]


@given(rows=st.lists(st.integers(40, 90), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_blocks_change_places_within_their_symbol(rows: list[int], seed: int) -> None:
    parts = [examples(1, rows=count) for count in rows]
    names = ("target", "forward", "round_trip", "weight", "start_ns", "end_ns")
    pooled = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    data = Dataset(windows=parts[0].windows, symbol=np.repeat(np.arange(len(rows)), rows), **pooled)
    order = _block_order(data, np.random.default_rng(seed))
    assert np.sort(order).tolist() == list(range(len(data)))
    assert np.array_equal(data.symbol[order], data.symbol)
    # Neighbours stay neighbours but at the ends of blocks, of at least four rows each, and where the series is turned.
    broken = np.count_nonzero(np.diff(order) != 1)
    assert broken <= sum(2 * (count // 4) + 2 for count in rows)


def test_losses_are_those_of_scikit_learn() -> None:
    data = examples(1, rows=300)
    scores = np.random.default_rng(1).normal(size=(300, 3)) * 5
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    assert losses(scores, data, 1.0).mean() == pytest.approx(log_loss(data.target, shares, labels=[0, 1, 2]), rel=1e-6)
    assert losses(data.forward[:, None], data, 1.0).tolist() == [0.0] * 300
    assert losses(np.full((300, 1), data.forward.mean()), data, data.forward.var()).mean() == pytest.approx(1.0)


def test_ranks_over_folds() -> None:
    by_fold = np.array(
        [[3.0, 2.0, 0.0, -1.0], [4.0, 0.5, 0.0, -1.0], [3.5, -1.0, 0.0, -2.0], *[[3.0, 1.0, 0, -1.0]] * 3]
    )
    found = persistence(by_fold, top=2, share=0.8)
    assert found.ranks[2].tolist() == [1, 3, 2, 4]
    assert found.in_front.tolist() == [1.0, 5 / 6, 0.0, 0.0]
    assert found.spread.tolist() == [0, 1, 1, 0]
    assert found.steady == 0.5
    assert found.stable.tolist() == [True, False, False, False]
    assert found.tau == pytest.approx(agreement(by_fold))
    assert (found.low <= found.mean).all()
    assert found.chance[3] == found.chance[2] == 1.0
    same = persistence(
        np.tile([3.0, 2.0, 1.0], (5, 1)) + np.random.default_rng(0).normal(size=(5, 3)) / 100, top=1, share=1
    )
    assert same.tau == 1.0
    assert same.steady == 1.0
    assert same.stable.tolist() == [True, False, False]


def test_chance_makes_nothing_stable() -> None:
    """Columns worth their luck here times their luck elsewhere: one table of twenty has a stable one, tau is within."""
    rng = np.random.default_rng(0)
    stable, beyond = 0, 0
    for _ in range(200):
        luck = rng.normal(size=(8, 20)) * np.exp(rng.normal(size=20))
        found = persistence(luck * (luck.sum(axis=0) - luck), top=10, share=0.8)
        stable += int(found.stable.any())
    for _ in range(200):
        found = persistence(rng.normal(size=(8, 20)), top=10, share=0.8)
        beyond += abs(found.tau) > found.tau_chance
    assert stable <= 20
    assert 1 <= beyond <= 22


def test_the_section_and_the_picture_tell_the_findings() -> None:
    found = analysis("xgboost", "gain", planted=0.8).as_dict()
    section = importance_section(json.loads(json.dumps(found, allow_nan=False)), 3)
    assert len(section.tables[0].rows) == 3
    first = found["columns"][0]["column"]
    assert section.tables[0].rows[0][0] == first
    assert section.tables[0].rows[0][-1] == "stable, used"
    assert f"Stable: {first}" in section.notes[-1]
    assert all(len(row) == len(section.tables[0].header) for row in section.tables[0].rows)
    drawn = as_svg_file(section.figures[0])
    assert drawn.count("<path") == len(found["columns"])
    assert first in drawn


def _config(path: Path, agent: dict[str, Any]) -> Path:
    settings = {**SETTINGS, "agent": agent}
    settings["data"] = {**SETTINGS["data"], "symbols": ["SIMA"]}
    path.write_text(json.dumps(settings))
    return path


TREES = {"kind": "xgboost", "rounds": 8, "label": {"kind": "direction", "horizon": 4}}


def test_the_command_judges_the_model_of_a_config(tmp_path: Path) -> None:
    config, plot = _config(tmp_path / "trees.yaml", TREES), tmp_path / "ranks.svg"
    words = ["features", "importance", str(config), "--model", "--folds", "5"]
    answer = CliRunner().invoke(app, [*words, "--plot", str(plot), "--json"])
    assert answer.exit_code == 0, answer.output
    # Without the entry point, which sends the log to stderr, it stands before the document.
    found = json.loads(answer.stdout[answer.stdout.index("{\n") :])
    assert len(found["judged_folds"]) == 5
    assert len(found["columns"]) == len(experiment().state.columns)
    assert plot.read_text().startswith("<svg xmlns")
    for bad, text in (([*words[:-1], "2"], "--folds with --model"), (["features", "importance", "ppo", "--model"], "")):
        ppo = _config(tmp_path / "ppo.yaml", SETTINGS["agent"])
        answer = CliRunner().invoke(app, [str(ppo) if word == "ppo" else word for word in bad])
        assert answer.exit_code == 2
        assert text in answer.stderr


def test_a_training_that_selects_uses_the_chosen_columns_and_says_so(tmp_path: Path) -> None:
    """Columns of the manifest are those of importance.json; the state of the bundle stays whole."""
    select = {"method": "gain", "folds": 5, "at_least": 2, "top": 2}
    settings = {**SETTINGS, "agent": {**TREES, "select": select}}
    chosen = Experiment.model_validate_json(json.dumps(settings))
    trained = xgboost.train(chosen, tmp_path / "run")
    manifest = load_bundle(trained.bundle).manifest
    found = json.loads((tmp_path / "run" / IMPORTANCE).read_text())
    names = {one["column"] for one in found["columns"] if one["chosen"]}
    assert manifest.forecast is not None
    assert set(manifest.forecast.columns) == names
    assert 2 <= len(names) < len(chosen.state.columns)
    assert manifest.forecast.importance == found
    assert manifest.columns == chosen.state.columns
