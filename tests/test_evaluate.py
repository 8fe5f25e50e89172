"""`finsense evaluate`: the forecast against labels of the span, refused where the policy has seen it, then trading."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bundles import make_bundle, market, setting
from onnx import TensorProto, helper, numpy_helper
from test_law_parity import _write
from typer.testing import CliRunner, Result

from finsense.account.portfolio import ACCOUNT_FEATURES
from finsense.agents.forecast_trial import hold_trial, seen_spans
from finsense.agents.labels import label_bars
from finsense.cli.main import app
from finsense.config.labels import Direction, TripleBarrier
from finsense.evaluation.backtest import backtest
from finsense.evaluation.classification import DOWN, FLAT, UP
from finsense.evaluation.stance import Overheard, stance_probabilities, stances
from finsense.model.bundle import GRAPH, load_bundle, write_bundle
from finsense.model.manifest import Forecast
from finsense.model.onnx_policy import OnnxPolicy

SPANS = {
    "train": ("2025-01-01", "2025-01-07"),
    "validation": ("2025-01-08", "2025-01-09"),
    "test": ("2025-01-10", "2025-01-16"),
}
LABEL = {"kind": "direction", "horizon": 4, "dead_zone": 1.0}
IMPORTANCE: dict[str, Any] = {
    "method": "permutation",
    "top": 2,
    "share": 0.8,
    "tau": 0.31,
    "tau_chance": 0.2,
    "stable_share": 0.5,
    "steady_rank_share": 0.5,
    "steady_rank_chance": 0.1,
    "judged_folds": [{"first": f"2025-01-0{day}", "loss": 1.0, "loss_without": 1.1} for day in range(1, 6)],
    "columns": [
        {
            "column": name,
            "value": value,
            "low": value - 0.01,
            "high": value + 0.01,
            "chance": 0.01,
            "ranks": ranks,
            "in_front": 1.0,
            "stable": value > 0.02,
            "chosen": True,
            "gain_share": None,
        }
        for name, value, ranks in (("rsi_14", 0.03, [1.0, 1, 1, 1, 2]), ("<b>atr", 0.001, [2.0, 2, 2, 2, 1]))
    ],
}


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _with_forecast(graph: bytes, state_width: int) -> bytes:
    """The graph with a third output: random probabilities of down, flat and up."""
    model = onnx.load_from_string(graph)
    weights = np.random.default_rng(9).normal(size=(state_width, 3)).astype(np.float32)
    weights[: -len(ACCOUNT_FEATURES)] *= 20.0
    model.graph.initializer.append(numpy_helper.from_array(weights, "third"))
    model.graph.node.append(helper.make_node("MatMul", ["state", "third"], ["opinion"]))
    model.graph.node.append(helper.make_node("Softmax", ["opinion"], ["forecast"], axis=-1))
    model.graph.output.append(helper.make_tensor_value_info("forecast", TensorProto.FLOAT, ["N", 3]))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An agent's bundle, one with a forecast, and the bars of twelve sessions."""
    path = tmp_path_factory.mktemp("evaluate")
    agent = make_bundle(path / "agent", setting())
    provenance = agent.manifest.provenance.model_copy(update={"spans": SPANS})
    forecast = Forecast(
        label=LABEL,
        classes=("down", "flat", "up"),
        columns=agent.manifest.columns,
        calibration={},
        decision={},
        importance=IMPORTANCE,
    )
    graph = _with_forecast((path / "agent" / GRAPH).read_bytes(), agent.manifest.state_width)
    manifest = agent.manifest.model_copy(update={"provenance": provenance, "forecast": forecast, "name": "oracle"})
    write_bundle(path / "forecaster", graph, manifest, agent.golden, agent.config, "# A forecaster\n")
    _write(market(sessions=12), path / "bars.parquet")
    return path


@pytest.fixture
def on_bars(folder: Path) -> list[str]:
    return ["--data", str(folder / "bars.parquet"), "--symbol", "SIM"]


def test_the_test_span_is_judged_against_the_models_own_labels(folder: Path, on_bars: list[str]) -> None:
    answer = _run("evaluate", str(folder / "forecaster"), *on_bars, "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert (found["from"], found["to"], found["in_sample"]) == (*SPANS["test"], [])
    assert found["label"] == LABEL
    assert found["forecast_source"] == "forecast"
    loaded = load_bundle(folder / "forecaster")
    bars = market(sessions=12)
    terms = setting()
    report = backtest(
        "oracle", loaded.policy, bars, terms, bars.last_date.replace(day=10), bars.last_date.replace(day=16)
    )
    assert found["sha256"] == report.trace.hashes()
    assert found["baselines"]["always flat"]["final_equity"] == "100000.00"
    # Here nothing is left of the command: labels, rows and probabilities are found again by hand.
    labels = label_bars(bars, Direction.model_validate(LABEL), terms.account, terms.costs)
    met = np.isin(labels.start_ns, report.trace.time_ns)
    states = report.trace.states[np.isin(report.trace.time_ns, labels.start_ns)]
    stated = loaded.policy.forecast(states)
    assert stated is not None
    assert found["forecast"]["rows"] == met.sum() > 300
    assert found["unlabelled_decisions"] == len(report.trace.time_ns) - met.sum()
    accuracy = (stated.argmax(axis=1) == labels.target[met]).mean()
    assert found["forecast"]["figures"]["accuracy"]["value"] == pytest.approx(accuracy)
    actions = report.trace.actions[np.isin(report.trace.time_ns, labels.start_ns)]
    did = np.array([UP, FLAT, DOWN])[actions]
    expected = [[int(((labels.target[met] == came) & (did == done)).sum()) for done in range(3)] for came in range(3)]
    assert found["forecast"]["confusion"]["acted"] == expected


def test_labels_do_not_look_beyond_the_span(folder: Path) -> None:
    """The last bars of a delivery account's span have no label, though the bars behind it are in the file."""
    terms, bars = setting(product="delivery", max_position=None), market(sessions=12)
    policy = load_bundle(folder / "agent").policy
    last = bars.last_date.replace(day=16)
    trial = hold_trial(
        "x", policy, bars, terms, Direction(horizon=7), (bars.last_date.replace(day=10), last), baselines=False
    )
    assert trial.unlabelled == 8
    assert trial.classification.span_bars == 8
    assert trial.baselines == ()


def test_an_agent_is_judged_by_its_actions(folder: Path, on_bars: list[str]) -> None:
    """The probabilities are those it decided with, under the masks that it met."""
    words = ["evaluate", str(folder / "agent"), *on_bars, "--from", "2025-01-10", "--to", "2025-01-14"]
    found = json.loads(_run(*words, "--horizon", "6", "--no-baselines", "--json").stdout)
    assert found["forecast_source"] == "actions"
    assert found["label"] == {"kind": "direction", "horizon": 6, "dead_zone": 1.0}
    assert found["baselines"] == {}
    assert found["forecast"]["confusion"]["acted"] == found["forecast"]["confusion"]["forecast"]
    assert sum(found["forecast"]["classes"].values()) == found["forecast"]["rows"]


@pytest.mark.parametrize(
    ("first", "last", "seen"),
    [
        ("2025-01-07", "2025-01-14", ["train", "validation"]),
        ("2025-01-09", "2025-01-14", ["validation"]),
        ("2025-01-06", "2025-01-06", ["train"]),
    ],
)
def test_a_span_that_it_was_made_of_is_refused_unless_asked_for(
    folder: Path, on_bars: list[str], tmp_path: Path, first: str, last: str, seen: list[str]
) -> None:
    words = ["evaluate", str(folder / "forecaster"), *on_bars, "--from", first, "--to", last]
    refused = _run(*words)
    assert refused.exit_code == 5
    for text in (f"{first} to {last} overlaps", seen[0], SPANS[seen[0]][0], "2025-01-10", "--in-sample"):
        assert text in refused.stderr
    page = tmp_path / "report.html"
    shown = _run(*words, "--in-sample", "--report", str(page))
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("IN SAMPLE") >= 2
    assert page.read_text().count("IN SAMPLE") >= 3
    found = json.loads(_run(*words, "--in-sample", "--json").stdout)
    assert found["in_sample"] == seen


def test_the_first_day_after_the_validation_span_was_not_seen(folder: Path) -> None:
    manifest, bars = load_bundle(folder / "forecaster").manifest, market(sessions=12)
    assert seen_spans(manifest, bars, bars.last_date.replace(day=10), None) == ()
    assert seen_spans(manifest, bars, None, None) == ("train", "validation")


def test_what_cannot_be_judged_is_said(folder: Path, on_bars: list[str]) -> None:
    agent, forecaster = str(folder / "agent"), str(folder / "forecaster")
    for words, code, text in (
        ([agent], 2, "trained without labels: say with --horizon"),
        ([forecaster, "--horizon", "5"], 2, "forecasts over 4 bars, found --horizon 5"),
        ([agent, "--horizon", "5000"], 0, ""),
        ([agent, "--horizon", "0"], 2, ""),
        ([agent, "--horizon", "5", "--from", "2030-01-01"], 4, "2030-01-01"),
        ([str(folder / "nowhere"), "--horizon", "5"], 5, "nowhere"),
    ):
        answer = _run("evaluate", *words, *on_bars)
        assert answer.exit_code == code, answer.output
        assert text in answer.stderr


def test_no_label_at_all_is_said(folder: Path) -> None:
    terms, bars = setting(product="delivery", max_position=None), market(sessions=12)
    words = ["evaluate", str(folder / "slow"), "--data", str(folder / "bars.parquet"), "--symbol", "SIM"]
    make_bundle(folder / "slow", terms)
    answer = _run(*words, "--horizon", str(len(bars)))
    assert answer.exit_code == 4
    assert "no bar has a label" in answer.stderr
    answer = _run(*words, "--horizon", "100", "--from", "2025-01-10", "--to", "2025-01-10")
    assert answer.exit_code == 4
    assert "widen the span" in answer.stderr


def test_the_report_holds_every_section(folder: Path, on_bars: list[str], tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    answer = _run("evaluate", str(folder / "forecaster"), *on_bars, "--report", str(page))
    assert answer.exit_code == 0, answer.output
    text = page.read_text()
    places = [
        text.index(f"<h2>{title}</h2>")
        for title in (
            "Forecast of the direction",
            "Calibration",
            "Reliability",
            "What was done about it",
            "Importance of the columns over time",
            "Rank over the folds",
            "Key figures",
        )
    ]
    assert places == sorted(places)
    assert "&lt;b&gt;atr" in text
    assert "<b>atr" not in text
    for words in ("balanced accuracy", "expected calibration error", "rsi_14", "always flat", "share no bar"):
        assert words in text
        assert words in answer.stdout.replace("\n", " ")


def test_triple_barriers_are_judged_too(folder: Path) -> None:
    bars, policy = market(sessions=12), load_bundle(folder / "agent").policy
    label = TripleBarrier(horizon=12, profit=3, stop=3, volatility_window=20)
    span = bars.last_date.replace(day=10), None
    trial = hold_trial("x", policy, bars, setting(), label, span, baselines=False)
    assert trial.classification.span_bars <= 13
    assert json.loads(json.dumps(trial.as_dict(), allow_nan=False))["label"]["kind"] == "triple_barrier"


def test_overhearing_changes_nothing(folder: Path) -> None:
    """The same session to the bit, and one row of probabilities per decision, each run anew."""
    bars, policy = market(sessions=6), load_bundle(folder / "agent").policy
    overheard = Overheard(policy)
    for _ in range(2):
        alone, listened = (backtest("x", one, bars, setting()).trace for one in (policy, overheard))
        assert alone.digest() == listened.digest()
        assert overheard.probabilities.shape == (len(alone.actions), 3)
        assert (overheard.probabilities.argmax(axis=1) == alone.actions).all()


def test_targets_say_up_above_the_present_exposure() -> None:
    rules = setting(actions={"scheme": "targets", "targets": [0.5, 0.0, 1.0]}, max_position=None).account
    states = np.zeros((3, 7 + len(ACCOUNT_FEATURES)), np.float32)
    states[:, 7] = 0.0, 0.5, 0.7
    found = stances(rules, states)
    assert found.tolist() == [[UP, FLAT, UP, FLAT], [FLAT, DOWN, UP, FLAT], [DOWN, DOWN, UP, FLAT]]
    shares = stance_probabilities(np.tile([0.1, 0.2, 0.3, 0.4], (3, 1)), found)
    assert shares == pytest.approx(np.array([[0, 0.6, 0.4], [0.2, 0.5, 0.3], [0.3, 0.4, 0.3]]))
    assert stances(setting().account, states)[0].tolist() == [UP, FLAT, DOWN]


def test_a_box_without_torch_can_evaluate() -> None:
    code = (
        "import sys, finsense.cli.main, finsense.cli.evaluate\n"
        "print([name for name in ('torch', 'sklearn', 'xgboost', 'gymnasium') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_bundle_of_this_test_forecasts(folder: Path) -> None:
    policy = load_bundle(folder / "forecaster").policy
    assert isinstance(policy, OnnxPolicy)
    assert (
        policy.forecast(np.zeros((2, load_bundle(folder / "forecaster").manifest.state_width), np.float32)) is not None
    )
