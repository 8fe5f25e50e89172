"""XGBoost: the same trees after a resume, the same margins out of the graph, constraints and weights that hold."""

import json
import math
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from pydantic import ValidationError
from small_experiment import SETTINGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.checkpoint import CheckpointError
from finsense.agents.fitted_trees import FittedTrees, state_places
from finsense.agents.graph import verify_graph
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.supervised.dataset import Dataset, Windows
from finsense.agents.supervised.decision import fit_decider
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.source import WarmStartError, source_of
from finsense.agents.tree_graph import TreeGraphError, tree_node, with_trees
from finsense.agents.xgboost import feature_names, fit
from finsense.config import Experiment
from finsense.config.xgboost import XgboostModel, unknown_columns
from finsense.model.onnx_policy import OnnxPolicy, OnnxPolicyError
from finsense.state.scaler import Scaler

_DIRECTION = {"kind": "direction", "horizon": 3}
_RETURN = {"kind": "forward_return", "horizon": 3}
_LABELS = pytest.mark.parametrize("label", [_DIRECTION, _RETURN], ids=["classes", "returns"])
_UNUSED = Scaler(np.zeros(0, np.float32), np.ones(0, np.float32))


def _experiment(label: dict[str, Any], history: int = 1, seed: int = 3, **agent: Any) -> Experiment:
    """The small experiment, whose state has three columns, with trees."""
    values = json.loads(json.dumps(SETTINGS))
    values["state"]["history"] = history
    values["seed"] = seed
    values["agent"] = {"kind": "xgboost", "label": label, "rounds": 40, "patience": 8, "max_depth": 3, **agent}
    return Experiment.model_validate_json(json.dumps(values))


def _examples(seed: int = 0, rows: int = 1500, history: int = 1) -> Dataset:
    """A forward return that hangs on the first column and on the product of the others, of the newest row."""
    random = np.random.default_rng(seed)
    market = random.normal(size=(rows + history - 1, 3)).astype(np.float32)
    newest = market[history - 1 :].astype(np.float64)
    forward = 0.003 * newest[:, 0] + 0.002 * newest[:, 1] * newest[:, 2] + random.normal(0, 0.003, rows)
    start_ns = np.arange(rows) * 300_000_000_000
    return Dataset(
        windows=Windows(market, np.arange(rows), history),
        target=np.digitize(forward, [-0.001, 0.001]),
        forward=forward,
        round_trip=np.full(rows, 0.001),
        weight=random.uniform(0.5, 1.5, rows).astype(np.float32),
        start_ns=start_ns,
        end_ns=start_ns,
        symbol=np.zeros(rows, np.int64),
    )


def _fit(experiment: Experiment, folder: Path, train: Dataset | None = None, **changes: Any) -> FittedTrees:
    history = experiment.state.history
    with SummaryWriter(str(folder / "tb")) as writer:
        desk: dict[str, Any] = {
            "checkpoints": folder / "checkpoints",
            "resume": False,
            "writer": writer,
            "asked_to_stop": threading.Event(),
            "report": None,
            "columns": np.arange(3),
            **changes,
        }
        train = _examples(0, history=history) if train is None else train
        return fit(experiment, train, _examples(1, 600, history), _UNUSED, FittingDesk(**desk))


def _margins_graph(booster: xgboost.Booster, places: NDArray[np.int64], width: int, unit: float = 1.0) -> bytes:
    """The trees before a graph that gives their margins back."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in ("outputs", "margins")]
    state = helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", width])
    node = helper.make_node("Identity", ["outputs"], ["margins"])
    graph = helper.make_graph([node], "margins", [values[0], state], [values[1]])
    head = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return with_trees(head.SerializeToString(), booster, places, unit)


def _run(graph: bytes, states: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(None, {"state": states})[0]
    return answer


def _hard_rows(booster: xgboost.Booster, columns: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Rows of thresholds, their neighbours, zeros of both signs, denormals, huge values and gaps."""
    trees = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    on = np.array([value for tree in trees for value in tree["split_conditions"]], np.float32)
    limits = np.finfo(np.float32)
    below, above = np.nextafter(on, np.float32(-np.inf)), np.nextafter(on, np.float32(np.inf))
    fixed = [0.0, -0.0, limits.smallest_subnormal, -limits.smallest_subnormal, limits.max, limits.min, 1e-30, np.nan]
    pool = np.concatenate([on, below, above, np.array(fixed, np.float32)])
    return random.choice(pool, (400, columns))


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["multi:softprob", "reg:squarederror", "reg:pseudohubererror"]),
    st.integers(1, 6),
    st.integers(0, 12),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 2.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_graph_gives_the_margins_of_any_booster_to_the_bit(
    seed: int, objective: str, depth: int, rounds: int, gaps: bool, pruned_below: float
) -> None:
    random = np.random.default_rng(seed)
    columns, rows = int(random.integers(1, 8)), int(random.integers(20, 300))
    # Whole numbers repeat, so that rows of the training lie on thresholds too.
    data = (random.normal(size=(rows, columns)) * 3).round(int(random.integers(0, 4))).astype(np.float32)
    if gaps:
        data[random.random(data.shape) < 0.2] = np.nan
    classes = objective == "multi:softprob"
    label = random.integers(0, 3, rows) if classes else random.normal(0, 0.01, rows)
    parameters = {"objective": objective, "max_depth": depth, "gamma": pruned_below, "nthread": 1, "seed": seed}
    matrix = xgboost.DMatrix(data, label, nthread=1)
    booster = xgboost.train({**parameters, **({"num_class": 3} if classes else {})}, matrix, rounds)
    # The columns lie anywhere in the state, and other values between them.
    width = columns + 3
    places = random.permutation(width)[:columns].astype(np.int64)
    asked = np.concatenate([data, _hard_rows(booster, columns, random)])
    states = random.normal(size=(len(asked), width)).astype(np.float32)
    states[:, places] = asked
    graph = _margins_graph(booster, places, width, 0.25)
    expected = booster.predict(xgboost.DMatrix(asked, nthread=1), output_margin=True).reshape(len(asked), -1)
    np.testing.assert_array_equal(_run(graph, states), expected * np.float32(0.25))
    np.testing.assert_array_equal(_run(graph, states[-1:]), expected[-1:] * np.float32(0.25))


def test_a_booster_of_other_things_is_refused() -> None:
    data, label = np.eye(8, dtype=np.float32), np.arange(8)
    linear = xgboost.train({"booster": "gblinear", "nthread": 1}, xgboost.DMatrix(data, label), 1)
    with pytest.raises(TreeGraphError, match="found gblinear"):
        tree_node(linear, np.arange(8))
    several = {"multi_strategy": "multi_output_tree", "tree_method": "hist", "nthread": 1}
    together = xgboost.train(several, xgboost.DMatrix(data, np.stack([label, -label], axis=1)), 1)
    with pytest.raises(TreeGraphError, match="expected"):
        tree_node(together, np.arange(8))


@pytest.mark.parametrize(("label", "history"), [(_DIRECTION, 1), (_RETURN, 3)], ids=["classes", "returns"])
def test_the_exported_graph_decides_as_the_trees_do(tmp_path: Path, label: dict[str, Any], history: int) -> None:
    experiment = _experiment(label, history)
    train, validation = _examples(0, history=history), _examples(1, 600, history)
    trees = _fit(experiment, tmp_path)
    decision = fit_decider(trees.outputs(validation.windows), train, validation, experiment)
    market = np.concatenate(
        [validation.windows.flat(np.arange(600)), _hard_rows(trees.booster, 3 * history, _random())]
    )
    states = np.concatenate([market, np.zeros((len(market), len(ACCOUNT_FEATURES)), np.float32)], axis=1)
    states = states[np.isfinite(states).all(axis=1)]
    masks = _random().random((len(states), 3)) < 0.7
    masks[:, 1] = True
    graph = trees.graph(decision.decider, states.shape[1], 3)
    proof = verify_graph(graph, lambda *asked: trees.decide(decision.decider, *asked), states, masks, 1e-6)
    assert proof.states == len(states) > 600
    assert len(np.unique(trees.decide(decision.decider, states, masks)[0])) == 3, "it always decides alike"
    assert source_of(graph) == trees.source()
    policy = OnnxPolicy(graph, states.shape[1], 3)
    forecast = policy.forecast(states)
    assert forecast is not None
    np.testing.assert_allclose(forecast.sum(axis=1), 1, atol=1e-5)
    # A tree sends a gap one way or the other; no runner may take the answer.
    for fault in (np.nan, np.inf, -np.inf):
        broken = states[:1].copy()
        broken[0, 0] = fault
        with pytest.raises(OnnxPolicyError, match="probability nan"):
            policy.act(broken, np.ones((1, 3), np.bool_))


def _random() -> np.random.Generator:
    return np.random.default_rng(5)


@_LABELS
def test_one_seed_one_set_of_trees(tmp_path: Path, label: dict[str, Any]) -> None:
    first, again = (_fit(_experiment(label), tmp_path / name) for name in "ab")
    other = _fit(_experiment(label, seed=4), tmp_path / "c")
    assert first.weights_hash() == again.weights_hash() != other.weights_hash()
    assert first.best_epoch > 3, "so that there is something to repeat"


@_LABELS
@pytest.mark.parametrize("stopped_after", [1, 5, 20])
def test_a_resumed_training_ends_with_the_same_trees(tmp_path: Path, label: dict[str, Any], stopped_after: int) -> None:
    """Ctrl-C at a round; rows and columns are drawn in every round."""
    experiment = _experiment(label, patience=100, checkpoint_every=7)
    whole = _fit(experiment, tmp_path / "whole")
    asked, told = threading.Event(), []

    def stop(progress: Progress) -> None:
        assert progress.fit is not None
        told.append(progress.fit.epoch)
        if progress.fit.epoch == stopped_after:
            asked.set()

    with pytest.raises(TrainingInterrupted, match=f"after round {stopped_after}"):
        _fit(experiment, tmp_path / "run", asked_to_stop=asked, report=stop)
    resumed = _fit(experiment, tmp_path / "run", resume=True, report=stop)
    assert told == list(range(1, 41)), "no round twice, none left out"
    assert resumed.weights_hash() == whole.weights_hash()
    assert (resumed.steps, resumed.best_steps, resumed.best_epoch) == (whole.steps, whole.best_steps, whole.best_epoch)


def test_a_training_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    experiment = _experiment(_DIRECTION, patience=100, checkpoint_every=4)
    whole = _fit(experiment, tmp_path / "whole")

    def die(progress: Progress) -> None:
        if progress.steps == 10 * 1500:
            raise MemoryError

    with pytest.raises(MemoryError):
        _fit(experiment, tmp_path / "run", report=die)
    (newest,) = sorted((tmp_path / "run" / "checkpoints").glob(f"step_{8 * 1500:012d}"))
    assert _fit(experiment, tmp_path / "run", resume=True).weights_hash() == whole.weights_hash()
    trees = newest / "trees.ubj"
    for later in (tmp_path / "run" / "checkpoints").glob("step_*"):
        damaged = later / trees.name
        damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="was changed after it was saved"):
        _fit(experiment, tmp_path / "run", resume=True)
    with pytest.raises(CheckpointError, match="found none"):
        _fit(experiment, tmp_path / "nothing", resume=True)


@_LABELS
def test_the_best_round_is_kept_and_the_curves_tell_it(tmp_path: Path, label: dict[str, Any]) -> None:
    told: list[Progress] = []
    trees = _fit(_experiment(label, rounds=200, learning_rate=0.3), tmp_path, report=told.append)
    losses = [progress.fit.validation_loss for progress in told if progress.fit is not None]
    assert trees.best_epoch == int(np.argmin(losses)) + 1 == trees.booster.num_boosted_rounds()
    assert len(losses) == trees.best_epoch + 8, "it waits for eight rounds without a better one"
    assert (trees.steps, trees.best_steps) == (len(losses) * 1500, trees.best_epoch * 1500)
    assert all(progress.steps <= progress.total == 200 * 1500 for progress in told)
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    for tag in ("train/loss", "val/loss", "val/accuracy"):
        assert [event.step for event in events.Scalars(tag)] == list(range(1, len(losses) + 1))
    np.testing.assert_allclose([event.value for event in events.Scalars("val/loss")], losses, rtol=1e-6)


@_LABELS
def test_a_warm_start_adds_trees_to_the_earlier_ones(tmp_path: Path, label: dict[str, Any]) -> None:
    short = _experiment(label, rounds=5)
    earlier = _fit(short, tmp_path / "earlier")
    later = _fit(_experiment(label, rounds=6), tmp_path / "later", warm_start=earlier.source())
    assert (earlier.best_epoch, later.best_epoch) == (5, 6)
    assert later.booster.num_boosted_rounds() == 11
    np.testing.assert_array_equal(later.booster[:5].save_raw("json"), earlier.booster.save_raw("json"))
    assert later.unit == earlier.unit


def test_a_warm_start_that_nothing_betters_stays_as_it_was(tmp_path: Path) -> None:
    experiment = _experiment(_RETURN)
    earlier = _fit(experiment, tmp_path / "earlier")
    train = _examples()
    wrong = replace(train, forward=-train.forward)
    asked: dict[str, Any] = {"warm_start": earlier.source(), "train": wrong}
    same = _fit(experiment, tmp_path / "later", **asked)
    assert (same.best_epoch, same.best_steps) == (0, 0)
    assert same.weights_hash() == earlier.weights_hash()
    # And that survives a stop: the loss before the first round is not forgotten.
    stop = threading.Event()
    with pytest.raises(TrainingInterrupted):
        _fit(experiment, tmp_path / "run", **asked, asked_to_stop=stop, report=lambda progress: stop.set())
    assert _fit(experiment, tmp_path / "run", train=wrong, resume=True).weights_hash() == earlier.weights_hash()


def test_a_warm_start_from_other_trees_is_refused(tmp_path: Path) -> None:
    experiment = _experiment(_DIRECTION, rounds=3)
    source = _fit(experiment, tmp_path / "earlier").source()
    with pytest.raises(WarmStartError, match=r"expected earlier trees of the objective reg:squarederror"):
        _fit(_experiment(_RETURN), tmp_path / "a", warm_start=source)
    with pytest.raises(WarmStartError, match="read 3 columns, these would read 2"):
        _fit(experiment, tmp_path / "b", warm_start=source, columns=np.array([0, 2]))
    with pytest.raises(WarmStartError, match="cannot be read"):
        _fit(experiment, tmp_path / "c", warm_start=source[:-10])


@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_constraint_holds_for_the_newest_row_everywhere(tmp_path: Path, history: int, sign: int) -> None:
    column = _experiment(_RETURN).state.columns[0]
    # The return rises with the newest value, and falls with the one before it.
    train = _examples(0, history=history)
    if history == 2:
        older = train.windows.rows[:-1, 0].astype(np.float64)
        train = replace(train, forward=train.forward - 0.003 * older)
    trees = _fit(_experiment(_RETURN, history, monotone={column: sign}, patience=40), tmp_path, train)
    base = train.windows.flat(np.arange(200))
    grid = np.linspace(-4, 4, 41, dtype=np.float32)

    def along(place: int) -> NDArray[np.float32]:
        swept = np.repeat(base, len(grid), axis=0)
        swept[:, place] = np.tile(grid, len(base))
        windows = Windows(swept.reshape(-1, 3), np.arange(len(swept)) * history, history)
        return np.diff(trees.outputs(windows).reshape(len(base), len(grid)), axis=1)

    newest = along(3 * (history - 1))
    assert (sign * newest >= 0).all()
    assert newest.any() or sign == -1
    assert (along(3 * (history - 1) + 1) < 0).any(), "a column without a constraint is free"
    if history == 2:
        assert (along(0) < 0).any(), "so are older rows"


def test_a_constraint_on_a_column_that_is_not_there_names_the_nearest() -> None:
    state = _experiment(_RETURN).state
    agent = XgboostModel(kind="xgboost", label=_RETURN, monotone={"rsi": 1})
    told = unknown_columns(agent, state)
    assert told is not None
    assert "no column of the state is named rsi; did you mean `rsi_14`?" in told
    assert unknown_columns(XgboostModel(kind="xgboost", label=_RETURN, monotone={state.columns[0]: 1}), state) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": _DIRECTION, "monotone": {"rsi": 1}}, "monotone needs label.kind forward_return"),
        ({"monotone": {"rsi": 2}}, "monotone"),
        ({"rounds": 0}, "rounds"),
        ({"subsample": 0}, "subsample"),
        ({"max_depth": 17}, "max_depth"),
        ({"max_bin": 257}, "max_bin"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        XgboostModel.model_validate({"kind": "xgboost", "label": _RETURN, **changes})


@_LABELS
def test_weights_count(tmp_path: Path, label: dict[str, Any]) -> None:
    """Examples of no weight might as well not be there; with a weight they spoil the answer."""
    experiment = _experiment(label, subsample=1, colsample=1)
    clean, junk = _examples(0), _examples(2)
    rows = np.concatenate([clean.windows.rows, junk.windows.rows])
    wrong = {name: np.concatenate([getattr(clean, name), -getattr(junk, name)]) for name in ("forward",)}
    wrong["target"] = np.concatenate([clean.target, 2 - junk.target])
    rest = {
        name: np.concatenate([getattr(clean, name), getattr(junk, name)])
        for name in ("round_trip", "start_ns", "end_ns", "symbol")
    }
    both = Dataset(
        windows=Windows(rows, np.arange(3000), 1), weight=np.repeat(np.array([1, 0], np.float32), 1500), **wrong, **rest
    )
    alone = replace(clean, weight=np.ones(1500, np.float32))
    windows = _examples(3).windows
    given = (alone, both, replace(both, weight=np.ones(3000, np.float32)))
    right, ignored, spoiled = (
        _fit(experiment, tmp_path / str(number), train).outputs(windows) for number, train in enumerate(given)
    )
    # The borders of the bins are not quite the same.
    assert (ignored - right).std() < 0.2 * (spoiled - right).std()
    assert (spoiled - right).std() > 0.5 * right.std()


def test_only_the_chosen_columns_are_read(tmp_path: Path) -> None:
    experiment = _experiment(_RETURN, 2)
    trees = _fit(experiment, tmp_path, columns=np.array([0, 2]))
    assert trees.booster.feature_names == feature_names([experiment.state.columns[place] for place in (0, 2)], 2)
    gains = trees.gains()
    assert gains[1] == 0 < 0.5 < gains[0]
    assert math.isclose(gains.sum(), 1)
    windows = _examples(4, history=2).windows
    changed = windows.rows.copy()
    changed[:, 1] = 99
    np.testing.assert_array_equal(trees.outputs(Windows(changed, windows.first_row, 2)), trees.outputs(windows))
    changed[:, 2] = 99
    assert (trees.outputs(Windows(changed, windows.first_row, 2)) != trees.outputs(windows)).any()


def test_windows_never_lie_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 20 rows of history they would be 20 times the rows; XGBoost is handed a little at a time."""
    monkeypatch.setattr("finsense.agents.fitted_trees._VALUES_AT_ONCE", 10_000)
    experiment, train = _experiment(_DIRECTION, 20, rounds=1, max_bin=8), _examples(0, 8_000, 20)
    side_by_side = 8_000 * 20 * 3 * 4
    tracemalloc.start()
    trees = _fit(experiment, tmp_path, train)
    fitted = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    trees.outputs(train.windows)
    answered = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()
    assert fitted < 0.5 * side_by_side
    assert answered < 0.25 * side_by_side


def test_places_and_names_agree_with_a_state() -> None:
    assert state_places(np.array([0, 2]), 3, 4).tolist() == [0, 2, 4, 6, 8, 10]
    assert feature_names(["rsi", "trend"], 3) == ["rsi@-2", "trend@-2", "rsi@-1", "trend@-1", "rsi", "trend"]


def test_an_unknown_column_is_refused_with_the_experiment() -> None:
    with pytest.raises(ValidationError, match="did you mean `rsi_14`"):
        _experiment(_RETURN, monotone={"rsi": 1})
