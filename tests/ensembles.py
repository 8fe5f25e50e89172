"""Small real ensembles for tests: members of random networks, trained (they say) on the year before the bars."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bundles import make_bundle, random_graph
from onnx import helper, numpy_helper

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.ensemble import Recipe, build_ensemble
from finsense.agents.ensemble_members import load_members
from finsense.evaluation.backtest import Setting
from finsense.market.bars import Bars
from finsense.model.bundle import Bundle, write_bundle
from finsense.model.golden import record_golden
from finsense.model.onnx_policy import OnnxPolicy
from finsense.state.spec import StateSpec

SPANS = {
    "train": ("2024-01-01", "2024-12-31"),
    "validation": ("2025-01-01", "2025-01-20"),
    "test": ("2025-01-21", "2025-03-31"),
}
# A drawdown (fraction) that the small ensembles come to after a session or two.
_MUCH = 0.006


def with_history(terms: Setting, history: int) -> Setting:
    """The terms with another history."""
    state = StateSpec.model_validate({**terms.state.model_dump(), "history": history})
    return Setting(state, terms.account, terms.costs, terms.sessions_per_year)


def member(
    folder: Path,
    terms: Setting,
    seed: int,
    graph: bytes | None = None,
    interval: str = "5m",
    spans: dict[str, tuple[str, str]] = SPANS,
) -> Path:
    """A bundle of a random policy that says when it was trained; with a graph, of that one, golden at states of zero.

    Args:
        folder: of the bundle, which takes its name from it.
        terms: of the policy.
        seed: of the network.
        graph: instead of the random one.
        interval: of its bars.
        spans: what it says of its training.
    """
    plain = make_bundle(folder, terms, interval, seed)
    origin = plain.manifest.provenance.model_copy(update={"spans": spans})
    manifest = plain.manifest.model_copy(update={"name": folder.name, "provenance": origin})
    golden, count = plain.golden, len(manifest.actions)
    if graph is not None:
        states, masks = np.zeros((1, manifest.state_width), np.float32), np.ones((1, count), np.bool_)
        bars = Bars("SIMGOLDEN", interval, golden.time_ns, golden.open, golden.high, golden.low, golden.close,
                    golden.volume)  # fmt: skip
        golden = record_golden(OnnxPolicy(graph, manifest.state_width, count), states, masks, bars, terms.state)
    else:
        graph = random_graph(manifest.state_width, count, seed)
    return write_bundle(folder, graph, manifest, golden, "name: random\n", "# A random policy\n").path


def members(folder: Path, terms: Setting, count: int = 5, interval: str = "5m") -> list[Path]:
    """So many of them, `m0`, `m1` and on."""
    return [member(folder / f"m{seed}", terms, seed, interval=interval) for seed in range(count)]


def ensemble(out: Path, paths: Sequence[Path], bars: Bars, recipe: Recipe, sessions: int = 5) -> Bundle:
    """Build one on the first sessions of the bars that have their warm-up."""
    loaded = load_members(paths)
    warmup = max(bundle.manifest.state.warmup for bundle in loaded.values())
    offsets = bars.session_offsets[:-1]
    ready = bars.session_days[offsets[offsets >= warmup]][:sessions]
    first, last = (dt.date(1970, 1, 1) + dt.timedelta(days=int(day)) for day in (ready[0], ready[-1]))
    return build_ensemble(loaded, out, recipe, {bars.symbol: bars}, first, last).bundle


def quick_recipe(**changes: Any) -> Recipe:
    """Two of five suffice and outcomes are soon known, so that much happens."""
    return Recipe(**{"consensus": 2, "horizon": 3, "forgetting": 0.9, "dead_zone": 0.2, **changes})


def turning_graph(state_width: int, action_count: int, seed: int, *, into: str) -> bytes:
    """A random policy that answers nonsense while the account has lost so much.

    Args:
        state_width: of the state.
        action_count: of the mask.
        seed: of the network.
        into: `nan`, probabilities that are no numbers; or `masked`, whatever is forbidden.
    """
    model = onnx.load_model_from_string(random_graph(state_width, action_count, seed))
    drawdown = state_width - len(ACCOUNT_FEATURES) + ACCOUNT_FEATURES.index("drawdown")
    wrong = {"nan": np.full((1, action_count), np.nan, np.float32), "masked": np.full((1, action_count), 1e6)}[into]
    (where,) = [node for node in model.graph.node if node.op_type == "Where"]
    where.output[0] = "sound"
    nodes = [
        helper.make_node("Gather", ["state", "drawdown_place"], ["lost"], axis=1),
        helper.make_node("Greater", ["lost", "much"], ["turned"]),
        helper.make_node("Where", ["mask", "low", "wrong"], ["forbidden_first"]),
        helper.make_node("Where", ["turned", "forbidden_first" if into == "masked" else "wrong", "sound"], ["logits"]),
    ]
    place = list(model.graph.node).index(where) + 1
    for offset, node in enumerate(nodes):
        model.graph.node.insert(place + offset, node)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([drawdown], np.int64), "drawdown_place"),
            numpy_helper.from_array(np.array(_MUCH, np.float32), "much"),
            numpy_helper.from_array(np.array(-1e6, np.float32), "low"),
            numpy_helper.from_array(wrong.astype(np.float32), "wrong"),
        ]
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
