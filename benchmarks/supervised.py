"""The supervised networks: training on windows that are not copied, and one decision of the exported graph."""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from benchmarks.measurement import Contender, Effort, Measurement, Peer, measure_rate, remark
from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import AccountRules
from finsense.agents.labels import DOWN, UP
from finsense.agents.lstm import Lstm
from finsense.agents.supervised.calibration import Evidence
from finsense.agents.supervised.dataset import Dataset, Windows
from finsense.agents.supervised.decision import Decider, Rule
from finsense.agents.supervised.desk import FittingDesk
from finsense.agents.supervised.fitting import Fitting
from finsense.agents.supervised.network import FittedNetwork
from finsense.agents.training import one_thread
from finsense.config import Experiment
from finsense.model.onnx_policy import OnnxPolicy
from finsense.state.scaler import Scaler

_WINDOWS, _HISTORY, _COLUMNS, _HIDDEN, _BATCH = 1_000_000, 20, 32, 64, 256
# Of a pass, so many windows are timed; they lie all over the million.
_TIMED = 25_600
_DECISIONS = 20_000
_BARE = "bare torch loop on preloaded tensors"
_EAGER = "torch eager"
_ACCOUNT = {"balance": 100_000, "product": "delivery"}
_SETTINGS: dict[str, Any] = {
    "name": "benchmark",
    "data": {"kind": "simulated", "model": "random_walk", "first": "2024-01-01", "last": "2024-12-31", "seed": 1},
    "split": {
        "train": {"from": "2024-01-01", "to": "2024-06-28"},
        "validation": {"from": "2024-07-01", "to": "2024-09-30"},
        "test": {"from": "2024-10-01", "to": "2024-12-31"},
    },
    "state": {"features": ["classic29"], "history": _HISTORY, "warmup": 150},
    "account": {**_ACCOUNT, "actions": {"scheme": "orders", "size": {"kind": "all_in"}}},
    "agent": {
        "kind": "lstm",
        "label": {"kind": "direction", "horizon": 6},
        "hidden": _HIDDEN,
        "batch_size": _BATCH,
    },
}


def lstm_training(effort: Effort) -> list[Measurement]:
    """An LSTM of 64 on windows of 20 x 32: a pass of the fitting, its scaler and clipping included, one thread.

    The windows are gathered out of a matrix of a million rows; the peer's minibatches lie ready, one after the other.
    """
    rows = _rows(effort.count(_WINDOWS, 100))
    timed = effort.count(_TIMED, 8)
    first = np.random.default_rng(1).choice(len(rows) - _HISTORY + 1, timed, replace=timed > len(rows) - _HISTORY)
    with one_thread(), tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        fitting = _fitting(rows, first, Path(folder), writer)
        bare = _bare_loop(rows, first)
        lines = measure_rate(
            "lstm_training", "windows", Contender(fitting.epoch, timed), effort, [Peer(_BARE, Contender(bare, timed))]
        )
    return lines


def lstm_decision(effort: Effort) -> list[Measurement]:
    """State and mask to action through the exported graph (scaler, LSTM, calibration, rule, mask), one at a time."""
    rows = _rows(2000)
    with one_thread(), tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        fitted: FittedNetwork = _fitting(rows, np.arange(500), Path(folder), writer).fitted()
    account = AccountRules.model_validate(_SETTINGS["account"])
    shares = np.full(3, 1 / 3)
    moves = np.array([-0.002, 0.0, 0.002])
    decider = Decider(Evidence(shares, shares), Rule(moves, 0.0, 0.001, 0.001, None), account).eval()
    width = _HISTORY * _COLUMNS + len(ACCOUNT_FEATURES)
    policy = OnnxPolicy(fitted.graph(decider, width, 3), width, 3)
    states = np.random.default_rng(2).normal(size=(256, width)).astype(np.float32)
    mask = np.ones((1, 3), bool)
    count = effort.count(_DECISIONS, 20)
    with one_thread():
        ours = _times(lambda state: policy.act(state, mask), states, count)
        theirs = _times(lambda state: fitted.decide(decider, state, mask), states, max(count // 10, 10))
    lines = []
    for label, share in (("lstm_decision_p50", 50), ("lstm_decision_p99", 99)):
        mine, its = float(np.percentile(ours, share)), float(np.percentile(theirs, share))
        remark(f"{label}: {mine:.1f} us; {_EAGER}: {its:.1f} us")
        lines.append(Measurement(label, mine, "us", _EAGER, its, its / mine))
    return lines


def _times(decide: Callable[[NDArray[np.float32]], Any], states: NDArray[np.float32], count: int) -> list[float]:
    """Microseconds of each decision, after some that are not counted."""
    found = []
    for state in itertools.islice(itertools.cycle(states), count + 200):
        started_ns = time.perf_counter_ns()
        decide(state[None])
        found.append((time.perf_counter_ns() - started_ns) / 1000)
    return found[200:]


def _rows(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((count + _HISTORY - 1, _COLUMNS), np.float32)


def _examples(rows: NDArray[np.float32], first: NDArray[np.int64]) -> Dataset:
    count = len(first)
    target = np.random.default_rng(3).choice([DOWN, UP], count)
    zeros, times = np.zeros(count), np.arange(count, dtype=np.int64)
    return Dataset(
        windows=Windows(rows, first, _HISTORY),
        target=target,
        forward=zeros,
        round_trip=zeros,
        weight=np.ones(count, np.float32),
        start_ns=times,
        end_ns=times,
        symbol=np.zeros(count, np.int32),
    )


def _fitting(rows: NDArray[np.float32], first: NDArray[np.int64], folder: Path, writer: SummaryWriter) -> Fitting:
    experiment = Experiment.model_validate(_SETTINGS)
    width = _HISTORY * _COLUMNS + len(ACCOUNT_FEATURES)
    scaler = Scaler(np.zeros(width, np.float32), np.ones(width, np.float32))
    desk = FittingDesk(folder, False, writer, threading.Event(), None, np.arange(_COLUMNS))
    examples = _examples(rows, first)
    return Fitting(Lstm, experiment, examples, examples.take(np.arange(min(len(first), 8))), scaler, desk)


def _bare_loop(rows: NDArray[np.float32], first: NDArray[np.int64]) -> Callable[[], None]:
    """The same network by torch's own modules, and nothing that a minibatch does not need."""
    examples = _examples(rows, first)
    windows = torch.from_numpy(examples.windows.gather(np.arange(len(first))))
    targets = torch.from_numpy(examples.target)
    torch.manual_seed(0)
    lstm, head = nn.LSTM(_COLUMNS, _HIDDEN, batch_first=True), nn.Linear(_HIDDEN, 3)
    optimiser = torch.optim.AdamW([*lstm.parameters(), *head.parameters()], 1e-3)

    def loop() -> None:
        for batch, target in zip(torch.split(windows, _BATCH), torch.split(targets, _BATCH), strict=True):
            shown: Tensor = lstm(batch)[0]
            loss = nn.functional.cross_entropy(head(shown[:, -1]), target)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    return loop
