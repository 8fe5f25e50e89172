"""`finsense lookahead` finds every leak that is planted here, by name, and nothing where there is nothing."""

import datetime as dt
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import rough_bars
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_experiment import SETTINGS
from small_experiment import experiment as small_experiment
from typer.testing import CliRunner, Result

from finsense.account.exchange import SimulatedExchange
from finsense.account.session import Fill
from finsense.account.trace import Trace
from finsense.agents.golden_bars import golden_bars
from finsense.cli.lookahead import subject_of
from finsense.cli.main import app
from finsense.config import Experiment
from finsense.evaluation import backtest as backtest_module
from finsense.evaluation import lookahead_spans
from finsense.evaluation.backtest import Setting
from finsense.evaluation.lookahead import EXPERIMENT_CHECKS, MARKET_CHECKS, Finished, leaks_of, search
from finsense.evaluation.lookahead_graph import GraphError, float_tensors, graph_scaler
from finsense.evaluation.lookahead_labels import check_labels
from finsense.evaluation.lookahead_market import Leak, Market, Span, Subject, drive_session, other_future
from finsense.evaluation.lookahead_references import check_references
from finsense.evaluation.lookahead_scaler import fitted_on
from finsense.market.bars import Bar, Bars
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.references import with_references
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import load_bars
from finsense.market.timeline import BAR_FIELDS, CLOSE
from finsense.model.bundle import write_bundle
from finsense.model.golden import record_golden
from finsense.model.manifest import Manifest, Provenance
from finsense.model.onnx_policy import OnnxPolicy
from finsense.model.policy import Policy
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import INDICATORS, indicator, registering_into
from finsense.state.scaler import CLIP, Scaler
from finsense.state.spec import StateSpec

_SPLIT = SETTINGS["split"]


def looked(experiment: Experiment, **changes: Any) -> list[Finished]:
    """A search with few cuts, for each of them drives the bars nine times."""
    return search(replace(subject_of(experiment, cuts=2), **changes))


def found_by(finished: list[Finished], check: str) -> list[Leak]:
    return [leak for leak in leaks_of(finished) if leak.check == check]


def market_of(bars: Bars, *features: Any, warmup: int = 100) -> Market:
    spec = StateSpec.model_validate({"features": features, "warmup": warmup})
    terms = small_experiment()
    return Market(bars, Setting(spec, terms.account, terms.costs, 248), {"session": drive_session}, 2, 0)


def simulated(seed: int, model: str = "random_walk", **values: Any) -> Bars:
    """Three months of 5-minute bars with an index beside them."""
    given = {"symbols": ("SIM",), "interval": "5m", "first": "2024-01-01", "last": "2024-03-28"}
    index = {"beta": 1.0, "correlation": 0.6}
    return SimulatedMarket.model_validate({"model": model, **given, "index": index, "seed": seed, **values}).load()[
        "SIM"
    ]


# ---- clean


def test_a_clean_experiment_has_no_finding_and_every_check_was_made() -> None:
    finished = looked(small_experiment())
    assert not leaks_of(finished)
    assert [one.name for one in finished] == [*MARKET_CHECKS, *EXPERIMENT_CHECKS]
    assert {one.name for one in finished if one.verdict != "clean"} == {"shifted data"}  # there is no such data


def test_real_bars_are_clean(shared_nse: Path) -> None:
    """Half a year of two symbols, with a demerger, a Muhurat hour and adjusted prices among them."""
    path = shared_nse / "intraday" / "nse_5min.parquet"
    values = {**SETTINGS, "data": {"kind": "file", "path": str(path), "symbols": ["RELIANCE", "TCS"], "interval": "5m"}}
    values["split"] = {
        "train": {"from": "2023-07-03", "to": "2023-10-31"},
        "validation": {"from": "2023-11-01", "to": "2023-11-30"},
        "test": {"from": "2023-12-01", "to": "2023-12-29"},
    }
    values["state"] = {"features": ["core"], "warmup": 150}
    experiment = Experiment.model_validate_json(json.dumps(values))
    assert not leaks_of(looked(experiment))


def test_a_real_index_is_clean_and_a_shifted_one_is_found(shared_nse: Path) -> None:
    """NIFTY 50 beside a stock's minutes of 2021, made of ticks: two sources that know nothing of each other."""
    files = {"SBIN": "ticks/bars_1min_from_ticks.parquet", "NIFTY 50": "intraday/index_1min_2021.parquet"}
    stock, index = (
        load_bars(shared_nse / file, name, "1m", volume_missing=0, drop_outside_session=True)
        for name, file in files.items()
    )
    bars = with_references(stock, index=index, missing_sessions=5)
    assert not check_references(market_of(bars, "index_return")).leaks
    close = bars.extra["index_close"]
    for shift, says in ((-1, "the bar after, so it shows what comes"), (1, "the bar before, so it comes a bar late")):
        (leak,) = check_references(market_of(replace(bars, extra={"index_close": np.roll(close, shift)}), "rsi")).leaks
        assert (leak.column, says in leak.detail) == ("index_close", True), leak.detail


@pytest.mark.parametrize(
    "market",
    [
        {"model": "random_walk"},
        {"model": "random_walk", "clustering_reaction": 0.15, "clustering_memory": 0.8},
        {"model": "mean_reversion", "reversion": 0.02},
        {"model": "mean_reversion", "reversion": 0.9},
        {"model": "regime_switching"},
        {"model": "random_walk", "interval": "1d", "first": "2022-01-03", "last": "2024-12-31"},
    ],
)
def test_markets_that_hide_nothing_raise_no_alarm(market: dict[str, Any]) -> None:
    """Even the most predictable ones that can be simulated; docs/lookahead.md has the rate over many seeds."""
    for seed in range(2):
        bars = simulated(seed, **market)
        looked_at = market_of(bars, "core", "index_return", "index_beta", "index_relative_strength", warmup=150)
        assert not check_labels(looked_at).leaks + check_references(looked_at).leaks


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.floats(0, 1))
def test_another_future_is_valid_and_another_one(seed: int, cut: float) -> None:
    bars = rough_bars(seed)
    bars = replace(bars, extra={name: np.random.default_rng(seed).uniform(1, 2, len(bars)) for name in EXTRA_FIELDS})
    kept = 1 + round(cut * (len(bars) - 2))
    other = other_future(bars, kept, seed)
    assert other.take(0, kept).data_hash == bars.take(0, kept).data_hash
    assert (other.close[kept:] != bars.close[kept:]).any()
    assert (other.volume[kept:] % 2 == 1).all()
    for name in EXTRA_FIELDS:
        assert (other.extra[name][kept:] != bars.extra[name][kept:]).all()


# ---- planted leaks


def _peek(bar: Any, parameters: Any, memory: Any, out: Any) -> None:
    """The return of the next bar, which in a batch lies behind this one in memory."""
    out[0] = bar[BAR_FIELDS + CLOSE] / bar[CLOSE] - 1.0


@pytest.fixture
def peeking(monkeypatch: pytest.MonkeyPatch) -> str:
    """An indicator that reads beyond its own bar, among the registered ones."""
    _peek.__name__ = "next_return"
    with registering_into({}):
        leaking = indicator(
            defaults={}, columns=columns_named("next_return"), memory=lambda _: 0, lookback=lambda _: 1
        )(_peek)
    monkeypatch.setitem(INDICATORS, "next_return", leaking)
    return "next_return"


def test_an_indicator_that_reads_the_next_bar_is_found(peeking: str) -> None:
    experiment = small_experiment(state__features=["rsi", peeking, "bollinger"])
    finished = looked(experiment)
    assert {leak.feature for leak in leaks_of(finished)} <= {peeking, "mask", "fill", "equity", "position", "account"}
    subject = subject_of(experiment, cuts=2)
    by_kernel = found_by(finished, "kernels")
    assert [(leak.symbol, leak.column) for leak in by_kernel] == [("SIMA", peeking), ("SIMB", peeking)]
    for leak in by_kernel:
        # Every bar knows the next one; the first that is looked at is the first of the last 400.
        assert leak.bar == len(subject.markets[leak.symbol]) - 400
        assert leak.time_ns == subject.markets[leak.symbol].time_ns[leak.bar]
    assert peeking in {leak.column for leak in found_by(finished, "states")}
    # A cut shows it at the bar of the cut; the live driver has one row only, behind which lies whatever memory holds.
    cuts = {market.bars.symbol: {run.cut for run in market.runs} for market in subject.each()}
    replaced = [leak for leak in found_by(finished, "replaced future") if leak.column == peeking]
    assert {leak.symbol for leak in replaced} == {"SIMA", "SIMB"}
    assert any(leak.bar in cuts[leak.symbol] for leak in replaced)
    assert all(leak.bar <= max(cuts[leak.symbol]) for leak in replaced)
    # The batch has the next bar; seen alone it is the label itself.
    labels = found_by(finished, "label leak")
    assert {leak.column for leak in labels} == {peeking}
    assert all("a rank correlation of 1.0000 with the return of the next bar" in leak.detail for leak in labels)


def _table(bars: Bars) -> pd.DataFrame:
    frame = pd.DataFrame({name: getattr(bars, name) for name in ("open", "high", "low", "close", "volume")})
    frame.insert(0, "ts", pd.to_datetime(bars.time_ns, unit="ns", utc=True))
    return frame.assign(symbol=bars.symbol, **bars.extra)


def _config(folder: Path, bars: Bars, *features: str) -> Path:
    """An experiment on a data file that knows its index."""
    _table(bars).to_parquet(folder / "bars.parquet", index=False)
    values = json.loads(json.dumps(SETTINGS))
    values["data"] = {"kind": "file", "path": "bars.parquet", "symbols": [bars.symbol], "interval": "5m"}
    values["split"] = {
        "train": {"from": "2024-01-01", "to": "2024-02-15"},
        "validation": {"from": "2024-02-16", "to": "2024-03-01"},
        "test": {"from": "2024-03-02", "to": "2024-03-28"},
    }
    values["state"] = {"features": list(features), "warmup": 100}
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(values))
    return path


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, ["lookahead", *words])


def test_an_index_of_the_next_bar_in_the_data_file_is_found(tmp_path: Path) -> None:
    bars = simulated(1)
    config = _config(tmp_path, bars, "rsi", "index_return", "index_beta")
    assert _run(str(config), "--cuts", "1").exit_code == 0
    close = np.append(bars.extra["index_close"][1:], bars.extra["index_close"][-1])
    config = _config(tmp_path, replace(bars, extra={"index_close": close}), "rsi", "index_return", "index_beta")
    answer = _run(str(config), "--cuts", "1", "--json")
    assert answer.exit_code == 5, answer.output
    document = json.loads(answer.stdout)
    findings = {(one["check"], one["feature"], one["column"]): one for one in document["findings"]}
    assert set(findings) == {("shifted data", "data", "index_close"), ("label leak", "index_return", "index_return_20")}
    shifted = findings["shifted data", "data", "index_close"]
    assert "read by index_return, index_beta" in shifted["detail"]
    # The bar that is named moves as the stock does in the bar after it.
    bar = shifted["bar"]
    moved = np.log(close[bar] / close[bar - 1])
    assert abs(moved) > 2 * np.abs(np.diff(np.log(close))).mean()
    assert moved * np.log(bars.close[bar + 1] / bars.close[bar]) > 0
    assert dt.datetime.fromisoformat(shifted["time"]).timestamp() * 1e9 == bars.time_ns[bar]


def test_a_daily_close_on_the_bars_of_its_own_day_is_found() -> None:
    bars = simulated(2, last="2024-12-31")
    offsets = bars.session_offsets
    closes = bars.extra["index_close"][offsets[1:] - 1]
    today = np.repeat(closes, np.diff(offsets))
    before = np.repeat(np.append(closes[0], closes[:-1]), np.diff(offsets))
    assert not check_references(market_of(replace(bars, extra={"index_close": before}), "rsi")).leaks
    (leak,) = check_references(market_of(replace(bars, extra={"index_close": today}), "rsi")).leaks
    assert leak.column == "index_close"
    assert leak.bar in offsets
    assert "before it is known" in leak.detail


def test_order_flow_of_the_next_bar_is_found() -> None:
    bars = simulated(3)
    moves = np.diff(np.log(bars.close), prepend=np.log(bars.close[0]))
    noise = np.random.default_rng(0).normal(size=(2, len(bars)))
    flow = {
        "ticks": np.rint(bars.volume / 100 * np.exp(0.3 * noise[1])) + 1,
        "signed_volume": np.rint(bars.volume * np.tanh(moves / moves.std() + noise[0])),
        "realised_variance": moves**2 * np.exp(0.3 * noise[1]) + 1e-9,
        "tick_vwap": bars.close * np.exp(-moves / 2),
    }
    assert not check_references(market_of(replace(bars, extra=flow), "rsi")).leaks
    for name in flow:
        early = {**flow, name: np.append(flow[name][1:], flow[name][-1])}
        (leak,) = check_references(market_of(replace(bars, extra=early), "rsi")).leaks
        assert (leak.column, "shows what comes" in leak.detail) == (name, True)


def test_a_column_that_knows_how_large_the_next_move_is_is_found() -> None:
    """No correlation shows it, for it does not know the direction."""
    bars = simulated(4)
    moves = np.abs(np.diff(np.log(bars.close), append=np.log(bars.close[-1])))
    leaking = replace(bars, extra={"vix_close": 10 + 1000 * moves})
    (leak,) = check_labels(market_of(leaking, "rsi", "vix_level", "bollinger")).leaks
    assert (leak.feature, "nats" in leak.detail) == ("vix_level", True)


class _SameClose(SimulatedExchange):
    """Fills at the close at which the order was decided."""

    _close = 0.0

    def fills(self, bar: Bar) -> list[Fill]:
        filled = [Fill(fill.time_ns, fill.quantity, round(self._close * 100)) for fill in super().fills(bar)]
        self._close = bar.close
        return filled


class _OwnClose(SimulatedExchange):
    """Fills at the close of the bar at whose open the order arrives."""

    def fills(self, bar: Bar) -> list[Fill]:
        return [Fill(fill.time_ns, fill.quantity, round(bar.close * 100)) for fill in super().fills(bar)]


@pytest.mark.parametrize(
    ("exchange", "says"), [(_SameClose, "at which it was decided"), (_OwnClose, "the close of its own bar")]
)
def test_an_exchange_that_fills_at_a_close_is_found(
    exchange: type[SimulatedExchange], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backtest_module, "SimulatedExchange", exchange)
    finished = looked(small_experiment(state__features=["session_left"]))
    leaks = found_by(finished, "fills")
    assert {leak.symbol for leak in leaks} == {"SIMA", "SIMB"}
    markets = small_experiment().data.load()
    for leak in leaks:
        assert leak.detail.startswith("session: ")
        assert says in leak.detail
        parts = re.search(r"([+-]\d+) shares fill at ([\d.]+), expected .*?, ([\d.]+);", leak.detail)
        assert parts is not None
        quantity, price, expected = map(float, parts.groups())
        bars = markets[leak.symbol]
        assert price == pytest.approx(bars.close[leak.bar if exchange is _OwnClose else leak.bar - 1])
        # Two basis points against the order, and at most a paisa of rounding.
        open_ = bars.open[leak.bar]
        against = (expected - open_) * np.sign(quantity)
        assert 0.0002 * open_ - 1e-6 <= against <= 0.0002 * open_ + 0.01 + 1e-6


def test_an_order_that_was_never_given_is_found() -> None:
    """A fill on the first bar, and one before the order."""

    def early(policy: Policy, bars: Bars, terms: Setting, first: dt.date | None, last: dt.date | None) -> Trace:
        trace = drive_session(policy, bars, terms, first, last)
        return replace(trace, fills=np.roll(trace.fills, -int(np.flatnonzero(trace.fills[:, 0])[0]), axis=0))

    finished = looked(small_experiment(state__features=["session_left"]), drivers={"early": early})
    assert all("before anything was decided" in leak.detail for leak in found_by(finished, "fills"))
    assert found_by(finished, "fills")


def test_a_driver_that_knows_the_next_volume_is_found_at_the_cut() -> None:
    """It decides what may be traded by tomorrow's volume: the mask, and what follows from it."""

    def knowing(policy: Policy, bars: Bars, terms: Setting, first: dt.date | None, last: dt.date | None) -> Trace:
        volume = np.append(np.where(bars.volume[1:] % 2, bars.volume[1:], 0), bars.volume[-1])
        return drive_session(policy, replace(bars, volume=volume), terms, first, last)

    subject = replace(
        subject_of(small_experiment(state__features=["session_left"]), cuts=8), drivers={"knows": knowing}
    )
    leaks = found_by(search(subject), "replaced future")
    assert "mask" in {leak.feature for leak in leaks}
    cuts = {run.cut for market in subject.each() for run in market.runs}
    assert {leak.bar for leak in leaks} <= cuts
    assert all(leak.detail.startswith("knows: ") for leak in leaks)


# ---- the scaler and the spans


def _graph(scaler: Scaler, actions: int) -> bytes:
    """A policy with its scaler inside, as the exporter writes it."""
    width = len(scaler.mean)
    nodes = [
        helper.make_node("Sub", ["state", "scaled_state.mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "scaled_state.factor"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "low", "high"], ["clipped"]),
        helper.make_node("MatMul", ["clipped", "weights"], ["scores"]),
        helper.make_node("Where", ["mask", "scores", "forbidden"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        helper.make_node("ArgMax", ["logits"], ["action"], axis=-1, keepdims=0),
    ]
    tensors: dict[str, NDArray[np.float32]] = {
        "scaled_state.mean": scaler.mean,
        "scaled_state.factor": scaler.factor,
        "low": np.array(-CLIP, np.float32),
        "high": np.array(CLIP, np.float32),
        "weights": np.random.default_rng(0).normal(size=(width, actions)).astype(np.float32),
        "forbidden": np.array(-1e9, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "scaled",
        [
            helper.make_tensor_value_info("state", TensorProto.FLOAT, ["N", width]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["N", actions]),
        ],
        [
            helper.make_tensor_value_info("action", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", actions]),
        ],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _bundle(folder: Path, experiment: Experiment, span: Span, trained: Span) -> Path:
    """A bundle whose scaler was fitted on one span and which says that it was trained on another."""
    markets = experiment.data.load()
    scaler = fitted_on(markets, experiment.state, span, until=None)
    actions = experiment.account.action_names
    graph = _graph(scaler, len(actions))
    random = np.random.default_rng(0)
    states = random.normal(size=(4, len(scaler.mean))).astype(np.float32)
    masks = np.ones((4, len(actions)), np.bool_)
    golden = record_golden(
        OnnxPolicy(graph, len(scaler.mean), len(actions)),
        states,
        masks,
        golden_bars(experiment.state, "5m"),
        experiment.state,
    )
    split = experiment.split
    spans: dict[str, Any] = {"train": trained, "validation": split.validation, "test": split.test}
    manifest = Manifest(
        name=experiment.name,
        kind="test",
        symbols=tuple(markets),
        interval="5m",
        derivatives=None,
        state=experiment.state,
        state_hash=experiment.state.hash(),
        columns=experiment.state.columns,
        actions=actions,
        account=experiment.account,
        costs=experiment.costs,
        sessions_per_year=248,
        provenance=Provenance(
            config_hash=experiment.hash(),
            data_hash={symbol: bars.data_hash for symbol, bars in markets.items()},
            spans={name: (span.first.isoformat(), span.last.isoformat()) for name, span in spans.items()},
            seed=0,
            steps=0,
            git_commit="",
            versions={},
            weights_hash="",
        ),
        validation={},
    )
    return write_bundle(folder, graph, manifest, golden, experiment.resolved_yaml(), "# A scaled policy\n").path


def _span(first: str, last: str) -> Span:
    return Span(dt.date.fromisoformat(first), dt.date.fromisoformat(last))


# The first session with a warm-up of 40 bars behind it is the second one.
_TRAINED = _span("2023-01-03", _SPLIT["train"]["to"])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(SETTINGS))
    return path


def test_a_scaler_of_the_training_rows_is_clean(config: Path, tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", small_experiment(), _TRAINED, _TRAINED)
    answer = _run(str(config), "--bundle", str(bundle), "--cuts", "1")
    assert answer.exit_code == 0, answer.output
    assert "nothing knows its future" in answer.stdout
    assert "3 scalers" in answer.stdout


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [
        ("2023-01-03", "2023-02-28", "it is the scaler of train, validation and test"),
        ("2023-01-03", "2023-02-08", "it is the scaler of train and validation"),
        ("2023-01-03", "2023-01-30", "not the scaler of any span"),
    ],
)
def test_a_scaler_of_other_rows_is_found(first: str, last: str, says: str, tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", small_experiment(), _span(first, last), _TRAINED)
    subject = subject_of(small_experiment(), bundle)
    (leak,) = lookahead_spans.check_scaler(subject).leaks
    assert leak.detail.startswith("the bundle: mean ")
    assert says in leak.detail
    assert leak.column in small_experiment().state.columns
    # The first bar that a scaler may not have seen.
    days = subject.markets[leak.symbol].session_days
    assert leak.bar == np.flatnonzero(days > days[leak.bar - 1])[0]
    assert leak.time_ns == subject.markets[leak.symbol].time_ns[leak.bar]


def test_the_command_finds_a_scaler_of_all_rows(config: Path, tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", small_experiment(), _span("2023-01-03", "2023-02-28"), _TRAINED)
    answer = _run(str(config), "--bundle", str(bundle), "--cuts", "1", "--json")
    assert answer.exit_code == 5, answer.output
    (finding,) = json.loads(answer.stdout)["findings"]
    assert (finding["check"], finding["symbol"]) == ("scaler", "SIMA")
    assert finding["time"] == "2023-02-01T09:15:00+05:30"


def test_a_learner_that_fits_on_more_rows_is_found() -> None:
    experiment = small_experiment()
    subject = subject_of(experiment, cuts=1)
    assert subject.learner_rows is not None
    honest = subject.learner_rows
    more = replace(subject, learner_rows=lambda span: honest(Span(span.first, span.last + dt.timedelta(days=3))))
    (leak,) = lookahead_spans.check_scaler(more).leaks
    assert leak.detail.startswith("the learner's environment: mean ")
    assert leak.symbol == "SIMA"


def test_other_bars_or_another_state_are_not_judged(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", small_experiment(), _TRAINED, _TRAINED)
    for change, says in (({"data__seed": 2}, "other bars of SIMA, SIMB"), ({"state__warmup": 41}, "another state")):
        outcome = lookahead_spans.check_scaler(subject_of(small_experiment(**change), bundle))
        assert not outcome.leaks
        assert says in outcome.unchecked


def test_a_bundle_that_was_trained_on_the_test_is_found(config: Path, tmp_path: Path) -> None:
    bundle = _bundle(tmp_path / "bundle", small_experiment(), _TRAINED, _TRAINED)
    moved = ["--set", "split.validation={from: 2023-01-20, to: 2023-01-24}", "--set", "split.train.to=2023-01-19"]
    moved += ["--set", "split.test={from: 2023-01-25, to: 2023-02-10}"]
    answer = _run(str(config), "--bundle", str(bundle), "--cuts", "1", *moved, "--json")
    assert answer.exit_code == 5, answer.output
    details = [one["detail"] for one in json.loads(answer.stdout)["findings"] if one["check"] == "spans"]
    assert len(details) == 2
    assert "the bundle's train is 2023-01-03 to 2023-01-31" in details[0]
    assert "the bundle's validation" in details[1]


def _copied(bars: Bars, source: int, target: int, factor: float) -> Bars:
    """The bars with one session in the place of another, its prices rescaled."""
    offsets = bars.session_offsets
    places = np.arange(offsets[source], offsets[source + 1])
    columns = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close", "volume")}
    for name, values in columns.items():
        taken = values[places] if name == "volume" else np.round(values[places] * factor, 2)
        values[offsets[target] : offsets[target + 1]] = taken
    return replace(bars, **columns)


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_a_session_of_the_training_that_comes_again_in_the_test_is_found(factor: float) -> None:
    subject = subject_of(small_experiment())
    assert not lookahead_spans.check_duplicates(subject).leaks
    bars = subject.markets["SIMA"]
    twice = replace(subject, markets={**subject.markets, "SIMA": _copied(bars, 4, -4, factor)})
    (leak,) = lookahead_spans.check_duplicates(twice).leaks
    assert (leak.symbol, leak.bar) == ("SIMA", bars.session_offsets[-4])
    assert f"those of SIMA on {bars.sessions[4].date}" in leak.detail


# ---- the graph, the command


def test_the_graph_is_read_as_onnx_reads_it() -> None:
    random = np.random.default_rng(1)
    scaler = Scaler(random.normal(size=7).astype(np.float32), random.normal(size=7).astype(np.float32))
    content = _graph(scaler, 3)
    expected = {one.name: numpy_helper.to_array(one) for one in onnx.load_from_string(content).graph.initializer}
    found = float_tensors(content)
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].tobytes() == values.tobytes()
    read = graph_scaler(content, 7)
    assert read is not None
    assert (read.mean.tobytes(), read.factor.tobytes()) == (scaler.mean.tobytes(), scaler.factor.tobytes())
    assert graph_scaler(content, 8) is None


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_graph_are_refused_or_hold_nothing(content: bytes) -> None:
    try:
        float_tensors(content)
    except GraphError:
        return


def test_the_table_names_check_feature_and_bar(tmp_path: Path) -> None:
    bars = simulated(1)
    close = np.append(bars.extra["index_close"][1:], bars.extra["index_close"][-1])
    config = _config(tmp_path, replace(bars, extra={"index_close": close}), "rsi")
    answer = _run(str(config), "--cuts", "1")
    assert answer.exit_code == 5
    bar = json.loads(_run(str(config), "--cuts", "1", "--json").stdout)["findings"][0]["bar"]
    for says in ("shifted", "`index_close`", rf"bar {bar}\b", "1 found: what this experiment shows", "survivorship"):
        assert re.search(says, answer.stdout), says


@pytest.mark.parametrize(
    ("change", "exit_code", "says"),
    [
        (lambda text: text.replace('"rsi"', '"rsy"'), 3, "did you mean `rsi`"),
        (lambda text: text.replace("2023-01-02", "2023-01-27").replace('"warmup": 40', '"warmup": 2000'), 4, "warm-up"),
    ],
)
def test_what_is_wrong_is_said(change: Callable[[str], str], exit_code: int, says: str, config: Path) -> None:
    config.write_text(change(config.read_text()))
    answer = _run(str(config))
    assert answer.exit_code == exit_code, answer.output
    assert says in answer.stderr


def test_it_works_without_the_environments() -> None:
    """The base install has no gymnasium: states and the session are looked at, and it says what is not."""
    subject = Subject(
        small_experiment().data.load(),
        subject_of(small_experiment()).setting,
        subject_of(small_experiment()).spans,
        {"session": drive_session},
        cuts=1,
    )
    assert not leaks_of(search(subject))
