"""The networks: equal to their oracles, repeatable and resumable to the bit, exported as they are, refused clearly."""

import io
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from planted_markets import planted
from rich.console import Console
from supervised_fits import NETWORKS, Data, fit, settings_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.checkpoint import CheckpointError
from finsense.agents.graph import verify_graph
from finsense.agents.learners import LEARNERS
from finsense.agents.lstm import Lstm
from finsense.agents.progress import FitFigures, Progress, TrainingInterrupted
from finsense.agents.supervised.decision import fit_decider
from finsense.agents.supervised.fitting import Sizes
from finsense.agents.supervised.network import FittedNetwork, WindowNetwork, start_from, weights_to_bytes
from finsense.agents.supervised.source import WarmStartError, source_of, warm_start
from finsense.agents.transformer import EncoderLayer, SelfAttention, sinusoids
from finsense.agents.watch import TrainingError
from finsense.cli.progress import TrainingProgress
from finsense.config import Experiment, LstmModel, TransformerModel
from finsense.model.onnx_policy import OnnxPolicy

_SPLIT = {
    "train": {"from": "2022-01-03", "to": "2022-02-28"},
    "validation": {"from": "2022-03-01", "to": "2022-03-31"},
    "test": {"from": "2022-04-01", "to": "2022-04-29"},
}
_STATE = {"features": [{"level_distance": {"level": 1000}}, {"log_return": {"window": 1}}], "warmup": 40, "history": 4}
_RETURNS = {"kind": "forward_return", "horizon": 2}
_DIRECTION = {"kind": "direction", "horizon": 2, "dead_zone": 0.1}


def _experiment(kind: str, seed: int = 1, **changes: Any) -> Experiment:
    """Two months of bars, four epochs; dropout, so that a lost generator would show."""
    settings = {"label": _DIRECTION, "epochs": 4, "dropout": 0.2, **changes}
    agent = settings_of(kind, **settings)
    return planted(agent, seed=seed, split=_SPLIT, data__last="2022-04-29", state=_STATE)


@pytest.fixture(scope="module")
def data() -> dict[str, Data]:
    """One experiment of each network."""
    return {kind: Data.of(_experiment(kind)) for kind in NETWORKS}


def _other(data: Data, **changes: Any) -> Data:
    """The same examples under other settings of the agent."""
    agent = data.experiment.agent.model_copy(update=changes)
    return replace(data, experiment=data.experiment.model_copy(update={"agent": agent}))


@pytest.fixture(scope="module", params=NETWORKS)
def whole(request: pytest.FixtureRequest, data: dict[str, Data], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A fitting that nothing disturbed."""
    kind = str(request.param)
    folder, said = tmp_path_factory.mktemp(kind), list[Progress]()
    return data[kind], fit(data[kind], folder, report=said.append), folder, said


Whole = tuple[Data, FittedNetwork, Path, list[Progress]]


# What they are.


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    ours, oracle = SelfAttention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 5, 8)
    with torch.inference_mode():
        oracle.in_proj_weight.copy_(ours.queries_keys_values.weight)
        oracle.in_proj_bias.copy_(ours.queries_keys_values.bias)
        oracle.out_proj.load_state_dict(ours.output.state_dict())
        torch.testing.assert_close(ours(x), oracle(x, x, x)[0])


def test_an_encoder_layer_is_torchs() -> None:
    torch.manual_seed(0)
    settings = TransformerModel.model_validate(
        {"kind": "transformer", "label": _DIRECTION, "width": 8, "heads": 4, "feedforward": 16, "dropout": 0.0}
    )
    ours = EncoderLayer(settings)
    oracle = nn.TransformerEncoderLayer(8, 4, 16, 0.0, norm_first=True, batch_first=True)
    names = {
        "attention.queries_keys_values.weight": "self_attn.in_proj_weight",
        "attention.queries_keys_values.bias": "self_attn.in_proj_bias",
        "attention.output.weight": "self_attn.out_proj.weight",
        "attention.output.bias": "self_attn.out_proj.bias",
        "attention_norm.weight": "norm1.weight",
        "attention_norm.bias": "norm1.bias",
        "feedforward.0.weight": "linear1.weight",
        "feedforward.0.bias": "linear1.bias",
        "feedforward.2.weight": "linear2.weight",
        "feedforward.2.bias": "linear2.bias",
        "feedforward_norm.weight": "norm2.weight",
        "feedforward_norm.bias": "norm2.bias",
    }
    oracle.load_state_dict({names[name]: tensor for name, tensor in ours.state_dict().items()})
    x = torch.randn(3, 5, 8)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), oracle.eval()(x))


def test_positions_are_those_of_the_paper() -> None:
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos of the same (Vaswani et al. 2017, section 3.5)."""
    found = sinusoids(7, 6).numpy()
    for place in range(7):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            assert found[place, 2 * pair] == pytest.approx(np.sin(angle), abs=1e-6)
            assert found[place, 2 * pair + 1] == pytest.approx(np.cos(angle), abs=1e-6)


def test_the_lstm_is_its_equations() -> None:
    """Cell by cell in float64, and its cells begin by remembering."""
    settings = LstmModel.model_validate({"kind": "lstm", "label": _DIRECTION, "hidden": 3})
    torch.manual_seed(0)
    body = Lstm(Sizes(2, 5, 3), settings).eval()
    rows = np.random.default_rng(0).normal(size=(5, 2))
    given = {name: tensor.detach().double().numpy() for name, tensor in body.named_parameters()}
    shown = cell = np.zeros(3)
    bias = given["lstm.bias_ih_l0"] + given["lstm.bias_hh_l0"]
    assert (given["lstm.bias_ih_l0"][3:6] == 1).all()
    for row in rows:
        gates = given["lstm.weight_ih_l0"] @ row + given["lstm.weight_hh_l0"] @ shown + bias
        taken, kept, out = (1 / (1 + np.exp(-gates[place : place + 3])) for place in (0, 3, 9))
        cell = kept * cell + taken * np.tanh(gates[6:9])
        shown = out * np.tanh(cell)
    expected = given["head.weight"] @ shown + given["head.bias"]
    with torch.inference_mode():
        found = body(torch.from_numpy(rows[None].astype(np.float32)))[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_order_of_the_rows_matters(whole: Whole) -> None:
    """Each network sees the sequence, not a bag of rows."""
    data, model, _, _ = whole
    windows = torch.from_numpy(data.validation.windows.gather(np.arange(50)))
    with torch.inference_mode():
        assert not torch.allclose(model.network(windows), model.network(windows.flip(1)), atol=1e-3)


# Determinism and resuming.


def test_one_seed_gives_one_model(whole: Whole, tmp_path: Path) -> None:
    data, model, _, _ = whole
    generator = torch.random.get_rng_state()
    assert fit(data, tmp_path).weights_hash() == model.weights_hash()
    assert torch.equal(torch.random.get_rng_state(), generator), "a fitting leaves the global generator alone"


def test_another_seed_gives_another_model(whole: Whole, tmp_path: Path) -> None:
    data, model, _, _ = whole
    other = replace(data, experiment=data.experiment.model_copy(update={"seed": 2}))
    assert fit(other, tmp_path).weights_hash() != model.weights_hash()


class _Killed(BaseException):
    """Ends a fitting at once, as a kill would."""


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_killed_run_goes_on_as_if_nothing_had_been(whole: Whole, tmp_path: Path, epoch: int) -> None:
    data, model, _, _ = whole

    def kill(progress: Progress) -> None:
        if progress.fit is not None and progress.fit.epoch == epoch:
            raise _Killed

    with pytest.raises(_Killed):
        fit(data, tmp_path, report=kill)
    resumed = fit(data, tmp_path, resume=True)
    assert resumed.weights_hash() == model.weights_hash()
    assert replace(resumed, network=model.network) == model


def test_ctrl_c_stops_within_an_epoch_and_nothing_is_lost(whole: Whole, tmp_path: Path) -> None:
    data, model, _, _ = whole
    stop = threading.Event()
    stop.set()
    with pytest.raises(TrainingInterrupted, match="interrupted in epoch 1; the run can be resumed"):
        fit(data, tmp_path, stop=stop)
    assert fit(data, tmp_path, resume=True).weights_hash() == model.weights_hash()


_VICTIM = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import os, signal
from test_supervised_networks import _experiment
from supervised_fits import Data, fit
def kill(progress):
    if progress.fit is not None and progress.fit.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
fit(Data.of(_experiment("gru")), Path({folder!r}), report=kill)
"""


@pytest.mark.slow
def test_a_process_that_was_killed_can_be_taken_up(data: dict[str, Data], tmp_path: Path) -> None:
    """SIGKILL in another process, resumed in this one."""
    root = str(Path(__file__).resolve().parents[1])
    script = _VICTIM.format(root=root, folder=str(tmp_path / "killed"))
    ended = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    resumed = fit(data["gru"], tmp_path / "killed", resume=True)
    assert resumed.weights_hash() == fit(data["gru"], tmp_path / "whole").weights_hash()


def test_there_must_be_something_to_resume(data: dict[str, Data], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a checkpoint"):
        fit(data["gru"], tmp_path, resume=True)


def test_a_damaged_checkpoint_is_refused(whole: Whole) -> None:
    data, _, folder, _ = whole
    newest = sorted((folder / "checkpoints").iterdir())[-1] / "weights.npz"
    content = newest.read_bytes()
    try:
        newest.write_bytes(content[:-7])
        with pytest.raises(CheckpointError, match=r"weights\.npz was changed after it was saved"):
            fit(data, folder, resume=True)
    finally:
        newest.write_bytes(content)


# Stopping.


def test_the_best_weights_are_kept_and_patience_ends_it(data: dict[str, Data], tmp_path: Path) -> None:
    """At a learning rate that only does harm after a while."""
    wild = _other(data["gru"], learning_rate=0.3, epochs=60, patience=3)
    said = list[Progress]()
    model = fit(wild, tmp_path, report=said.append)
    figures = {one.fit.epoch: one.fit for one in said if one.fit is not None}
    losses = [figures[epoch].validation_loss for epoch in sorted(figures)]
    assert len(losses) == model.best_epoch + 3 < 60
    assert losses[model.best_epoch - 1] == min(losses)
    assert model.steps == len(losses) * len(wild.train)
    assert model.best_steps == model.best_epoch * len(wild.train)
    scores = torch.from_numpy(model.outputs(wild.validation.windows))
    target, weight = torch.from_numpy(wild.validation.target), torch.from_numpy(wild.validation.weight)
    rows = nn.functional.cross_entropy(scores, target, reduction="none")
    assert float((rows * weight).sum() / weight.sum()) == pytest.approx(min(losses), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_it_with_the_batch_named(whole: Whole, tmp_path: Path) -> None:
    data, model, _, _ = whole
    rows = data.train.windows.rows.copy()
    poisoned = replace(data, train=replace(data.train, windows=replace(data.train.windows, rows=rows)))

    def poison(progress: Progress) -> None:
        if progress.fit is not None and progress.fit.epoch == 2:
            rows[int(data.train.windows.first_row[7])] = np.nan

    with pytest.raises(TrainingError, match=r"batch \d+ of epoch 3 .*checkpoint of epoch 2 was kept.*learning_rate"):
        fit(poisoned, tmp_path, report=poison)
    assert fit(data, tmp_path, resume=True).weights_hash() == model.weights_hash()


def test_the_learning_rate_falls_to_the_last(data: dict[str, Data], tmp_path: Path) -> None:
    fit(_other(data["gru"], final_learning_rate=1e-4, patience=10), tmp_path)
    rates = [event.value for event in _events(tmp_path).Scalars("train/learning_rate")]
    np.testing.assert_allclose(rates, [1e-3, 7e-4, 4e-4, 1e-4], rtol=1e-6)


# What is told.


def _events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tb"))
    found.Reload()
    return found


def test_tensorboard_has_the_curves(whole: Whole) -> None:
    _, model, folder, said = whole
    found = _events(folder)
    tags = {"train/loss", "train/gradient_norm", "train/learning_rate", "val/loss", "val/accuracy"}
    assert tags <= set(found.Tags()["scalars"])
    losses = found.Scalars("val/loss")
    assert [event.step for event in losses] == list(range(1, len(losses) + 1))
    best = min(range(len(losses)), key=lambda place: losses[place].value)
    assert best + 1 == model.best_epoch
    assert said[-1].fit is not None
    assert losses[-1].value == pytest.approx(said[-1].fit.validation_loss)


def test_progress_counts_rows_and_epochs(whole: Whole) -> None:
    data, _, _, said = whole
    ends = [one for one in said if one.fit is not None and one.steps == one.fit.epoch * len(data.train)]
    assert [one.fit.epoch for one in ends if one.fit] == [1, 2, 3, 4]
    assert {one.total for one in said} == {4 * len(data.train)}
    assert ends[-1].seconds_left == 0
    assert all(one.steps_per_s > 0 and one.last_eval is None for one in said)


def test_the_terminal_shows_what_a_model_has_instead_of_episodes() -> None:
    told = Progress(5000, 10_000, 2500.0, 2.0, fit=FitFigures(3, 50, 0.61, 0.6021, 0.671, 0.6008))
    buffer = io.StringIO()
    with TrainingProgress(Console(file=buffer, force_terminal=True, width=110)) as shown:
        shown(Progress(100, 10_000, 2500.0, 3.0))
        shown(told)
    text = buffer.getvalue()
    assert "2,500 rows/s epoch 3/50 loss 0.6021 (best 0.6008) right 67.1%" in text
    assert "nan" not in text


# From a graph.


def _states(data: Data, count: int = 400) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Whole states of the validation span with made-up accounts, and masks in which something is legal."""
    generator = np.random.default_rng(0)
    examples = generator.integers(0, len(data.validation), count)
    account = generator.random((count, len(ACCOUNT_FEATURES))).astype(np.float32)
    states = np.concatenate([data.validation.windows.flat(examples), account], axis=1)
    masks = generator.random((count, 3)) < 0.7
    masks[:, 1] = True
    return states, masks


@pytest.mark.parametrize(
    ("kind", "label", "change"),
    [
        ("lstm", _DIRECTION, {"layers": 2}),
        ("gru", _RETURNS, {}),
        ("transformer", _DIRECTION, {"positions": "learned"}),
        pytest.param("lstm", _RETURNS, {}, marks=pytest.mark.slow),
        pytest.param("gru", _DIRECTION, {"layers": 2}, marks=pytest.mark.slow),
        pytest.param("transformer", _RETURNS, {"layers": 2, "heads": 1}, marks=pytest.mark.slow),
    ],
)
def test_the_graph_is_the_network(kind: str, label: dict[str, Any], change: dict[str, Any], tmp_path: Path) -> None:
    """Row by row and all at once, with a choice of columns, for classes and for returns; its source is inside it."""
    data = Data.of(_experiment(kind, label=label, epochs=2, **change))
    model = fit(data, tmp_path, columns=np.array([1]) if label is _DIRECTION else None)
    outputs = model.outputs(data.validation.windows)
    assert outputs.shape == (len(data.validation), 1 if label is _RETURNS else 3)
    decider = fit_decider(outputs, data.train, data.validation, data.experiment).decider
    states, masks = _states(data)
    graph = model.graph(decider, states.shape[1], 3)
    proof = verify_graph(graph, lambda seen, allowed: model.decide(decider, seen, allowed), states, masks)
    assert proof.probability_difference < 1e-5
    forecast = OnnxPolicy(graph, states.shape[1], 3).forecast(states[:50])
    assert forecast is not None
    np.testing.assert_allclose(forecast.sum(axis=1), 1.0, atol=1e-5)
    assert source_of(graph) == weights_to_bytes(model.network)
    # The exporter keeps recurrent layers whole; unrolled, a window would take many times as long.
    found = [node.op_type for node in onnx.load_from_string(graph).graph.node]
    assert found.count(kind.upper()) == (0 if kind == "transformer" else change.get("layers", 1))


def test_a_column_that_was_not_chosen_is_not_read(data: dict[str, Data], tmp_path: Path) -> None:
    model = fit(data["gru"], tmp_path, columns=np.array([0]))
    windows = data["gru"].validation.windows
    changed = windows.rows.copy()
    changed[:, 1] = 5.0
    np.testing.assert_array_equal(model.outputs(windows), model.outputs(replace(windows, rows=changed)))
    read = windows.rows.copy()
    read[:, 0] += 0.01
    assert not np.array_equal(model.outputs(windows), model.outputs(replace(windows, rows=read)))


def test_forward_returns_are_forecast_in_their_own_unit(tmp_path: Path) -> None:
    """The level is pulled back by 1 - 0.5^2 of itself over two bars: what is forecast must not be the unit's choice."""
    data = Data.of(_experiment("gru", label=_RETURNS, epochs=12, dropout=0.0))
    told = fit(data, tmp_path).outputs(data.validation.windows)[:, 0]
    slope = np.cov(told, data.validation.forward)[0, 1] / told.var(ddof=1)
    assert slope == pytest.approx(1.0, abs=0.2)
    assert np.corrcoef(told, data.validation.forward)[0, 1] > 0.4


# Warm start.


def test_an_earlier_network_is_taken_up_where_it_was(whole: Whole, tmp_path: Path) -> None:
    """Its answers are the first, and epochs that only do harm (they are taught the opposite) do not replace them."""
    data, model, _, _ = whole
    opposite = replace(data.train, target=2 - data.train.target)
    harmful = replace(_other(data, epochs=1), train=opposite)
    again = fit(harmful, tmp_path, warm_start=weights_to_bytes(model.network))
    assert again.best_epoch == again.best_steps == 0
    assert again.steps == len(opposite)
    np.testing.assert_array_equal(again.outputs(data.validation.windows), model.outputs(data.validation.windows))


def test_an_earlier_network_of_another_shape_is_refused(data: dict[str, Data], tmp_path: Path) -> None:
    source = weights_to_bytes(fit(_other(data["gru"], epochs=1), tmp_path / "a").network)
    wider = _other(data["gru"], hidden=8)
    with pytest.raises(WarmStartError, match=r"other weights .*gru\.weight_ih_l0 \(48, 2\) against \(24, 2\)"):
        fit(wider, tmp_path / "b", warm_start=source)
    with pytest.raises(WarmStartError, match=r"reads the columns \[0, 1\], this one \[1\]"):
        fit(data["gru"], tmp_path / "c", columns=np.array([1]), warm_start=source)


def test_only_a_bundle_of_the_same_kind_and_state_is_taken_up(tmp_path: Path) -> None:
    """Of a whole run, without charges: so small a model would find nothing that pays for them."""
    experiment = _experiment("gru", label={**_DIRECTION, "dead_zone": 0.0})
    free = experiment.model_copy(update={"costs": experiment.costs.model_copy(update={"scale": 0.0})})
    bundle = LEARNERS["gru"](free, tmp_path / "run").bundle
    started = fit(Data.of(free), tmp_path / "next", warm_start=warm_start(free, bundle))
    assert started.best_epoch >= 0
    with pytest.raises(WarmStartError, match=r"expected a bundle of kind lstm at .*, found kind gru"):
        warm_start(_experiment("lstm"), bundle)
    other = free.model_copy(update={"state": free.state.model_copy(update={"history": 3})})
    with pytest.raises(WarmStartError, match=r"another state .*history 3, 2 columns.*history 4, 2 columns"):
        warm_start(other, bundle)


def test_a_network_of_its_own_scaler_starts_from_the_weights_alone(data: dict[str, Data], tmp_path: Path) -> None:
    model = fit(_other(data["gru"], epochs=1), tmp_path)
    scaler = replace(data["gru"].scaler, mean=data["gru"].scaler.mean + 1)
    fresh = WindowNetwork(type(model.network.body)(Sizes(2, 4, 3), data["gru"].experiment.agent), scaler, np.arange(2))
    start_from(fresh, weights_to_bytes(model.network))
    for name, tensor in fresh.body.state_dict().items():
        assert torch.equal(tensor, model.network.body.state_dict()[name])
    assert not torch.equal(fresh.mean, model.network.mean)


# Settings.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"heads": 3}, r"heads must divide width \(16\), found 3"),
        ({"width": 15, "heads": 3}, "width must be even"),
        ({"dropout": 1.0}, "less than 1"),
        ({"abstain_error_rate": 0.0}, "greater than 0"),
        ({"hidden": 5}, "hidden"),
    ],
)
def test_settings_that_make_no_network_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        _experiment("transformer", **change)
