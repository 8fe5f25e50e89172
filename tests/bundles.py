"""Small real bundles for tests: a random network in a real graph, written and verified as an exported one is."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.account.rules import AccountRules
from finsense.evaluation.backtest import Setting
from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.simulate import SimulatedMarket
from finsense.model.bundle import Bundle, write_bundle
from finsense.model.golden import GOLDEN_SYMBOL, record_golden
from finsense.model.manifest import Manifest, Provenance
from finsense.model.onnx_policy import OnnxPolicy
from finsense.state.spec import StateSpec

WARMUP = 60


def market(symbol: str = "SIM", interval: str = "5m", sessions: int = 12, seed: int = 5) -> Bars:
    """Simulated mean-reverting bars from 2025-01-01 on."""
    first = dt.date(2025, 1, 1)
    simulated = {
        "model": "mean_reversion",
        "symbols": [symbol],
        "interval": interval,
        "first": first,
        "last": first + dt.timedelta(days=sessions * 7 // 5 + 4),
        "seed": seed,
    }
    return SimulatedMarket.model_validate(simulated).load()[symbol]


def rules(**changes: Any) -> AccountRules:
    """Intraday rules of ten-share orders; keyword arguments replace single rules."""
    plain: dict[str, Any] = {
        "balance": 100_000,
        "product": "intraday",
        "actions": {"scheme": "orders", "size": {"kind": "shares", "shares": 10}},
        "max_position": 40,
    }
    return AccountRules.model_validate({**plain, **changes})


def setting(**changes: Any) -> Setting:
    """The terms of the small bundles; keyword arguments replace single account rules."""
    return Setting(
        state=StateSpec.model_validate({"features": ["classic29"], "warmup": WARMUP}),
        account=rules(**changes),
        costs=ChargeRules(),
        sessions_per_year=248,
    )


def random_graph(state_width: int, action_count: int, seed: int = 0) -> bytes:
    """A graph of the policy's contract: one hidden layer of random weights, mask and argmax inside."""
    random = np.random.default_rng(seed)
    first = random.normal(size=(state_width, 16)).astype(np.float32)
    second = random.normal(size=(16, action_count)).astype(np.float32)
    # The market's columns are hundredths; without a scaler they would not move the network.
    first[: -len(ACCOUNT_FEATURES)] *= 50.0
    nodes = [
        helper.make_node("MatMul", ["state", "first"], ["hidden"]),
        helper.make_node("Tanh", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["scores"]),
        helper.make_node("Where", ["mask", "scores", "forbidden"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=-1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "random",
        [
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", state_width]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N", action_count]),
        ],
        [
            helper.make_tensor_value_info("action", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", action_count]),
        ],
        [
            numpy_helper.from_array(first, "first"),
            numpy_helper.from_array(second, "second"),
            numpy_helper.from_array(np.array(-1e9, np.float32), "forbidden"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_bundle(folder: Path, terms: Setting, interval: str = "5m", seed: int = 0) -> Bundle:
    """Write and verify a bundle of a random policy under the given terms."""
    actions = terms.account.action_names
    width = terms.state.width + len(ACCOUNT_FEATURES)
    graph = random_graph(width, len(actions), seed)
    policy = OnnxPolicy(graph, width, len(actions))
    random = np.random.default_rng(seed)
    states: NDArray[np.float32] = random.normal(size=(8, width)).astype(np.float32)
    masks = random.random((8, len(actions))) < 0.5
    masks[:, 1] = True
    sessions = terms.state.warmup + 20 if interval == "1d" else terms.state.warmup // 75 + 3
    golden_bars = market(GOLDEN_SYMBOL, interval, sessions)
    manifest = Manifest(
        name="random",
        kind="test",
        symbols=("SIM",),
        interval=interval,
        derivatives=None,
        state=terms.state,
        state_hash=terms.state.hash(),
        columns=terms.state.columns,
        actions=actions,
        account=terms.account,
        costs=terms.costs,
        sessions_per_year=terms.sessions_per_year,
        provenance=Provenance(
            config_hash="", data_hash={}, spans={}, seed=seed, steps=0, git_commit="", versions={}, weights_hash=""
        ),
        validation={},
    )
    golden = record_golden(policy, states, masks, golden_bars, terms.state)
    return write_bundle(folder, graph, manifest, golden, "name: random\n", "# A random policy\n")
