"""XGBoost: a decision through ONNX and by the booster itself, a fitting beside the bare library, and its memory."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from torch.utils.tensorboard import SummaryWriter

from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate, remark
from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.fitted_trees import FittedTrees
from finsense.agents.markets import load_markets
from finsense.agents.supervised.dataset import Dataset, Windows, datasets
from finsense.agents.supervised.decision import fit_decider
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.xgboost import fit
from finsense.config import Experiment, load_experiment
from finsense.config.xgboost import XgboostModel
from finsense.model.onnx_policy import OnnxPolicy
from finsense.state.scaler import fit_scaler

_ROOT = Path(__file__).resolve().parents[1]
_CONFIG = _ROOT / "configs" / "xgboost_demo.yaml"
# As many rounds as the demo keeps.
_ROUNDS = 100
# Of a try that measures nothing.
_SHORT = ("data.first=2025-06-02", "split.train.from=2025-07-01", "data.last=2026-01-30", "split.test.to=2026-01-30")
_ROWS = 5_000
# Windows of random rows through a fitting of three rounds. What the process holds before it is subtracted.
_PROGRAM = """
import json, sys
from pathlib import Path
from benchmarks.trees import random_fitting, peak_bytes

rows, history = map(int, sys.argv[1:])
random_fitting(2_000, history)[0]()
work, windows = random_fitting(rows, history)
# Linux forgets the peak so far.
Path("/proc/self/clear_refs").write_text("5")
before = peak_bytes()
work()
print(json.dumps([max(peak_bytes() - before, 1), windows]))
"""


@dataclass(frozen=True)
class _Case:
    """The demo, fitted."""

    experiment: Experiment
    train: Dataset
    validation: Dataset
    trees: FittedTrees


def decision(effort: Effort) -> list[Measurement]:
    """State -> trees -> calibration -> rule -> mask -> action in ONNX, row by row; the booster gives margins alone."""
    case = _fitted(effort.count(_ROUNDS))
    validation = case.validation
    ruling = fit_decider(case.trees.outputs(validation.windows), case.train, validation, case.experiment)
    width, actions = case.experiment.state.width + len(ACCOUNT_FEATURES), len(case.experiment.account.action_names)
    policy = OnnxPolicy(case.trees.graph(ruling.decider, width, actions), width, actions)
    count = min(effort.count(_ROWS, 2), len(validation))
    market = validation.windows.flat(np.arange(count))
    states = np.concatenate([market, np.zeros((count, len(ACCOUNT_FEATURES)), np.float32)], axis=1)
    mask = np.ones((1, actions), np.bool_)
    booster = case.trees.booster

    def decide() -> None:
        for row in range(count):
            policy.act(states[row : row + 1], mask)

    def predict() -> None:
        for row in range(count):
            booster.predict(
                xgboost.DMatrix(market[row : row + 1], nthread=1), output_margin=True, validate_features=False
            )

    def predict_in_place() -> None:
        for row in range(count):
            booster.inplace_predict(market[row : row + 1], predict_type="margin", validate_features=False)

    peers = [
        Peer("Booster.predict of a DMatrix", Contender(predict, count)),
        Peer("Booster.inplace_predict", Contender(predict_in_place, count)),
    ]
    return measure_rate("xgboost_decision", "rows", Contender(decide, count), effort, peers)


def fitting(effort: Effort) -> list[Measurement]:
    """A whole fitting with its curves and checkpoints, beside `xgboost.train` on windows that lie in memory."""
    case = _fitted(effort.count(_ROUNDS))
    rounds = case.experiment.agent.steps
    windows, validation = case.train.windows.flat(np.arange(len(case.train))), case.validation
    held_out = validation.windows.flat(np.arange(len(validation)))

    def bare() -> None:
        train = xgboost.QuantileDMatrix(windows, case.train.target, weight=case.train.weight, nthread=1)
        judged = xgboost.QuantileDMatrix(held_out, validation.target, weight=validation.weight, ref=train, nthread=1)
        watched = [(train, "train"), (judged, "val")]
        xgboost.train(_bare_parameters(case.experiment), train, rounds, evals=watched, verbose_eval=False)

    ours = Contender(lambda: _fit(case.experiment, case.train, validation), rounds)
    return measure_rate("xgboost_fit", "rounds", ours, effort, [Peer("xgboost.train", Contender(bare, rounds))])


def memory(effort: Effort) -> list[Measurement]:
    """What a fitting takes at its peak besides the state matrix, for one row of history and for 20."""
    lines = []
    for name, rows, history in (("", 1_000_000, 1), ("_history", 100_000, 20)):
        count = effort.count(rows, 2_000)
        result = subprocess.run(
            [sys.executable, "-c", _PROGRAM, str(count), str(history)],
            env=os.environ,
            cwd=_ROOT,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        taken, windows = json.loads(result.stdout.splitlines()[-1])
        remark(
            f"xgboost_memory{name}: windows of {windows / 2**20:,.0f} MiB, {taken / 2**20:,.0f} MiB besides the rows"
        )
        label = "the windows side by side"
        lines.append(Measurement(f"xgboost_memory{name}", taken, "bytes", label, windows, windows / taken))
    return lines


def random_fitting(rows: int, history: int) -> tuple[Callable[[], object], int]:
    """Three rounds on random rows as wide as the demo's, and the bytes of all windows side by side."""
    experiment = load_experiment(_CONFIG, ["agent.rounds=3", f"state.history={history}", "state.warmup=400"])
    columns = len(experiment.state.columns)
    found = [_random_examples(seed, count, columns, history) for seed, count in enumerate((rows, 2_000))]
    return lambda: _fit(experiment, *found), rows * history * columns * 4


def _random_examples(seed: int, rows: int, columns: int, history: int) -> Dataset:
    random = np.random.default_rng(seed)
    order = np.arange(rows)
    return Dataset(
        windows=Windows(random.standard_normal((rows + history - 1, columns), np.float32), order, history),
        target=random.integers(0, 3, rows),
        forward=np.zeros(rows),
        round_trip=np.zeros(rows),
        weight=np.ones(rows, np.float32),
        start_ns=order,
        end_ns=order,
        symbol=np.zeros(rows, np.int64),
    )


def peak_bytes() -> int:
    """The most that this process has held in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024


@cache
def _fitted(rounds: int) -> _Case:
    """The demo, every round of it."""
    spans = () if rounds >= _ROUNDS else _SHORT
    experiment = load_experiment(_CONFIG, [*spans, f"agent.rounds={rounds}", f"agent.patience={rounds}"])
    train, validation = datasets(experiment, load_markets(experiment))
    return _Case(experiment, train, validation, _fit(experiment, train, validation))


def _fit(experiment: Experiment, train: Dataset, validation: Dataset) -> FittedTrees:
    columns, history = len(experiment.state.columns), experiment.state.history
    scaler = fit_scaler(train.windows.rows[:1000], history, len(ACCOUNT_FEATURES))
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        desk = FittingDesk(Path(folder), False, writer, threading.Event(), None, np.arange(columns))
        return fit(experiment, train, validation, scaler, desk)


def _bare_parameters(experiment: Experiment) -> dict[str, Any]:
    """The same trees, in the library's words."""
    agent = experiment.agent
    assert isinstance(agent, XgboostModel)
    return {
        "objective": "multi:softprob",
        "num_class": 3,
        "eval_metric": "mlogloss",
        "nthread": 1,
        "seed": experiment.seed,
        "max_depth": agent.max_depth,
        "max_bin": agent.max_bin,
        "learning_rate": agent.learning_rate,
        "subsample": agent.subsample,
        "colsample_bytree": agent.colsample,
        "min_child_weight": agent.min_child_weight,
        "reg_lambda": agent.reg_lambda,
    }
