"""`finsense features build|verify|importance`: documented JSON, exit codes, planted faults and planted columns."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from config_files import SIMULATED, write_file
from markets import rough_bars
from typer.testing import CliRunner, Result

from finsense.cli.features_build import timelines_of
from finsense.cli.main import app
from finsense.config import load_experiment
from finsense.market.bars import Bars
from finsense.market.timeline import BAR_FIELDS, CLOSE, OPEN
from finsense.state.builder import build_states
from finsense.state.registry import INDICATORS, indicator

_SMALL = (
    SIMULATED.replace("first: 2023-01-02", "first: 2023-01-02\n  interval: 15m")
    .replace("features: [classic29]", "features: [{rsi: {window: 5}}, session_left, volume_ratio]\n  warmup: 60")
    .replace("AAA, BBB", "SIMA, SIMB")
)
# Wide enough to be worth keeping.
_WIDE = SIMULATED.replace("first: 2023-01-02", "first: 2023-01-02\n  interval: 15m").replace("AAA, BBB", "SIMA, SIMB")


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINSENSE_CACHE", str(tmp_path / "cache"))


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, ["features", *words])


def _json(*words: str, exit_code: int = 0) -> dict[str, Any]:
    answer = _run(*words, "--json")
    assert answer.exit_code == exit_code, answer.output
    document: dict[str, Any] = json.loads(answer.stdout)
    return document


def _write_bars(bars: Bars, name: str = "bars.parquet") -> str:
    frame = pd.DataFrame({"ts": pd.to_datetime(bars.time_ns, unit="ns", utc=True), "symbol": bars.symbol})
    for column in ("open", "high", "low", "close", "volume"):
        frame[column] = getattr(bars, column)
    frame.to_parquet(name)
    return name


def test_build_shows_and_reads_the_second_time() -> None:
    write_file(_WIDE)
    first, second = (_json("build", "ppo.yaml") for _ in range(2))
    assert [one["cache"] for one in first["symbols"]] == ["built", "built"]
    assert [one["cache"] for one in second["symbols"]] == ["read", "read"]
    experiment = load_experiment(Path("ppo.yaml"))
    assert first["state_hash"] == experiment.state.hash()
    assert first["columns"] == list(experiment.state.columns)
    assert first["file"] is None
    for shown, line in zip(second["symbols"], timelines_of(experiment), strict=True):
        matrix = build_states(line, experiment.state)
        assert (shown["symbol"], shown["bars"]) == (line.bars.symbol, len(line.bars))
        assert shown["states"] == len(line.bars) - matrix.first_bar
        assert shown["data_hash"] == line.bars.data_hash
        assert dt.datetime.fromisoformat(shown["first"]).timestamp() * 1e9 == line.bars.time_ns[matrix.first_bar]
        assert shown["first"].endswith("+05:30")
        assert shown["seconds"] > 0
    assert [one["cache"] for one in _json("build", "ppo.yaml", "--no-cache")["symbols"]] == ["built", "built"]
    assert [one["cache"] for one in _json("build", "ppo.yaml", "--set", "state.warmup=151")["symbols"]] == ["built"] * 2
    text = _run("build", "ppo.yaml", "--columns").stdout
    for word in ("SIMA", "SIMB", "read", "rsi_14", "price_change_18", "std"):
        assert word in text


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("name", ["states.parquet", "states.csv", "states.csv.gz"])
def test_build_writes_time_symbol_and_columns(name: str, history: int) -> None:
    write_file(_SMALL)
    words = ["build", "ppo.yaml", "--out", name, "--columns", "--set", f"state.history={history}"]
    document = _json(*words)
    assert document["file"] == name
    table = pd.read_parquet(name) if name.endswith("parquet") else pd.read_csv(name, parse_dates=["time"])
    experiment = load_experiment(Path("ppo.yaml"), [f"state.history={history}"])
    columns = list(experiment.state.columns)
    assert list(table.columns) == ["time", "symbol", *columns]
    start = 0
    for shown, line in zip(document["symbols"], timelines_of(experiment), strict=True):
        matrix = build_states(line, experiment.state)
        rows = matrix.rows[matrix.row_of_bar[matrix.first_bar :]]
        part = table.iloc[start : start + len(rows)]
        start += len(rows)
        assert set(part["symbol"]) == {line.bars.symbol}
        times = part["time"].dt.tz_convert("UTC").dt.as_unit("ns").astype("int64").to_numpy()
        assert times.tolist() == line.bars.time_ns[matrix.first_bar :].tolist()
        assert str(part["time"].iloc[0]).endswith("+05:30")
        assert part[columns].to_numpy(np.float32).tobytes() == rows.tobytes(), "every bit of every value"
        for column, values in zip(columns, rows.astype(np.float64).T, strict=True):
            figures = shown["figures"][column]
            assert (figures["min"], figures["max"]) == (values.min(), values.max())
            assert figures["mean"] == pytest.approx(values.mean(), abs=1e-9)
            assert figures["std"] == pytest.approx(values.std())
    assert start == len(table)


def test_build_refuses_what_it_cannot_do() -> None:
    write_file(_SMALL)
    answer = _run("build", "ppo.yaml", "--out", "states.xlsx")
    assert answer.exit_code == 2
    assert ".parquet" in answer.output
    assert _run("build", "ppo.yaml", "--set", "state.warmup=90000").exit_code == 4
    assert _run("build", "missing.yaml").exit_code == 2
    assert _run("build", "ppo.yaml", "--set", "state.warmup=many").exit_code == 3
    nowhere = _run("build", "ppo.yaml", "--out", "nowhere/states.csv")
    assert nowhere.exit_code == 2
    assert "there is no folder nowhere; make it first" in nowhere.output
    assert not list(Path().glob(".new-*"))


def test_build_names_a_column_that_never_changes() -> None:
    bars = rough_bars(2, dt.date(2024, 1, 1), dt.date(2024, 1, 31))
    _write_bars(bars)
    still = "data: {kind: file, path: bars.parquet, symbols: [SIM], interval: 15m, derivatives: false}\n"
    text = _SMALL[: _SMALL.index("data:")] + still + _SMALL[_SMALL.index("split:") :]
    write_file(text.replace("session_left", "still_of_test"))

    @indicator(defaults={}, columns=lambda p: ("still_of_test",), memory=lambda p: 0, lookback=lambda p: 1)
    def still_of_test(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        out[0] = 0.25

    try:
        answer = _run("build", "ppo.yaml", "--columns")
        assert answer.exit_code == 0, answer.output
        assert "these never change" in answer.stdout.replace("\n", " ")
    finally:
        del INDICATORS["still_of_test"]


def _kernel_peeking(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """The open of the next bar, which lies behind this one in memory."""
    out[0] = bar[BAR_FIELDS + OPEN] / bar[CLOSE] - 1.0


def _kernel_undefined(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Nothing over nothing on a bar that opens as it closes."""
    change = bar[CLOSE] - bar[OPEN]
    out[0] = change / change if change != 0.0 else np.nan


def _kernel_counting(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Never forgets how many bars it has seen."""
    memory[0] += 1.0
    out[0] = memory[0]


def _kernel_slow(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """An average that forgets one part in twenty a bar: the warm-up must be some two hundred bars."""
    memory[0] = bar[CLOSE] if memory[0] == 0.0 else memory[0] + 0.05 * (bar[CLOSE] - memory[0])
    out[0] = bar[CLOSE] / memory[0] - 1.0


@pytest.fixture
def registered() -> Iterator[Callable[[Callable[..., None]], str]]:
    """Registers a kernel, of one column and one cell of memory, under its own name."""
    names = []

    def register(kernel: Callable[..., None]) -> str:
        name = kernel.__name__
        names.append(name)
        indicator(defaults={}, columns=lambda p: (f"{name}_column",), memory=lambda p: 1, lookback=lambda p: 1)(kernel)
        return name

    yield register
    for name in names:
        del INDICATORS[name]


def _on_bars(features: str, *more: str, warmup: int = 60) -> list[str]:
    words = ["--data", "bars.parquet", "--symbol", "SIM", "--interval", "15m"]
    return [*words, "--features", features, "--warmup", str(warmup), *more]


def test_verify_finds_every_law_kept() -> None:
    write_file(_SMALL)
    document = _json("verify", "ppo.yaml")
    assert document["ok"]
    assert document["findings"] == []
    assert {"later_bars", "restart", "definedness", "warm_up", "causal", "streaming"} <= set(document["laws"])
    assert [one["symbol"] for one in document["symbols"]] == ["SIMA", "SIMB"]
    assert all(one["warmup_checked"] and one["sufficient_warmup"] is None for one in document["symbols"])
    text = _run("verify", "ppo.yaml").stdout
    assert "every law is kept" in text
    assert "SIMB: a warm-up of 60 bars is enough" in text


@pytest.mark.parametrize(
    ("kernel", "laws"),
    [
        (_kernel_peeking, {"later_bars", "cells"}),
        (_kernel_undefined, {"definedness"}),
        (_kernel_counting, {"warm_up"}),
    ],
)
def test_verify_finds_a_planted_fault(
    registered: Callable[[Callable[..., None]], str], kernel: Callable[..., None], laws: set[str]
) -> None:
    bars = rough_bars(2, dt.date(2024, 1, 1), dt.date(2024, 1, 31))
    _write_bars(bars)
    name = registered(kernel)
    document = _json("verify", *_on_bars(f"session_left, {name}"), exit_code=5)
    assert not document["ok"]
    assert {one["feature"] for one in document["findings"]} == {name}
    assert laws <= {one["law"] for one in document["findings"]}
    for one in document["findings"]:
        assert one["symbol"] == "SIM"
        if one["bar"] >= 0:
            assert one["time"].endswith("IST")
        assert document["laws"][one["law"]]["findings"] >= 1
    answer = _run("verify", *_on_bars(name))
    assert answer.exit_code == 5
    assert f"{name}_column" in answer.stdout.replace("\n", "").replace(" ", "")


def test_verify_advises_the_least_sufficient_warm_up(registered: Callable[[Callable[..., None]], str]) -> None:
    bars = rough_bars(2, dt.date(2023, 10, 2), dt.date(2024, 1, 31), volatility=0.002)
    _write_bars(bars)
    name = registered(_kernel_slow)
    short = _json("verify", *_on_bars(name), exit_code=5)
    assert {one["law"] for one in short["findings"]} == {"warm_up"}
    (symbol,) = short["symbols"]
    advised = symbol["sufficient_warmup"]
    assert 100 < advised < 300
    assert f"set state.warmup to {advised}" in _run("verify", *_on_bars(name)).stdout
    assert _json("verify", *_on_bars(name, warmup=advised))["ok"]
    assert not _json("verify", *_on_bars(name, warmup=advised - 40), exit_code=5)["ok"]
    never = registered(_kernel_counting)
    (symbol,) = _json("verify", *_on_bars(f"{name},{never}"), exit_code=5)["symbols"]
    assert symbol["sufficient_warmup"] is None
    assert "is enough" in _run("verify", *_on_bars(never)).stdout.replace("\n", " ")


def test_verify_says_when_the_warm_up_cannot_be_judged() -> None:
    _write_bars(rough_bars(2, dt.date(2024, 1, 1), dt.date(2024, 1, 12)))
    words = _on_bars("session_left", warmup=150)
    (symbol,) = _json("verify", *words)["symbols"]
    assert not symbol["warmup_checked"]
    text = _run("verify", *words).stdout
    assert "not checked" in text
    assert "cannot be judged" in text


def test_verify_takes_the_state_and_the_bars_from_where_it_is_told() -> None:
    write_file(_SMALL)
    bars = rough_bars(2, dt.date(2024, 1, 1), dt.date(2024, 1, 31))
    _write_bars(bars)
    document = _json("verify", "ppo.yaml", "--data", "bars.parquet", "--symbol", "SIM")
    assert [one["data_hash"] for one in document["symbols"]] == [replace(bars, extra={}).data_hash]
    assert document["state_hash"] == load_experiment(Path("ppo.yaml")).state.hash()
    for words, exit_code, says in (
        ([], 2, "give an experiment, or --data"),
        (["ppo.yaml", "--features", "core"], 2, "the state stands in CONFIG"),
        (["--data", "bars.parquet"], 2, "belong together"),
        (["--data", "bars.parquet", "--symbol", "SIM", "--set", "state.warmup=3"], 2, "--set changes a CONFIG"),
        (["ppo.yaml", "--interval", "5m"], 2, "--interval and --timezone belong to --data"),
        (_on_bars("rsy"), 2, "did you mean `rsi`"),
        (_on_bars(""), 2, "features must name at least one"),
        (_on_bars("core", warmup=3), 2, "warmup must be at least"),
        (_on_bars("core", warmup=5000), 4, "the warm-up needs 5000 bars"),
    ):
        answer = _run("verify", *words)
        assert answer.exit_code == exit_code, answer.output
        assert says in answer.output


_JUDGED = (
    SIMULATED.replace("first: 2023-01-02", "first: 2023-01-02\n  interval: 15m\n  start_price: 1000")
    .replace("features: [classic29]", "features: [sma, rsi, volume_ratio, session_left, {log_return: {window: 1}}]")
    .replace("AAA, BBB", "SIMA")
)


def test_importance_finds_what_a_reverting_market_is_made_of() -> None:
    """The law of the market is that a price far above its level falls, so the distance from averages tells the way."""
    write_file(_JUDGED)
    document = _json("importance", "ppo.yaml", "--span", "all", "--shuffles", "80")
    judged = {one["column"]: one for one in document["columns"]}
    assert {one["column"] for one in document["columns"][:2]} == {"rsi_14", "sma_20"}
    assert {name for name, one in judged.items() if one["tells_direction"]} == {"rsi_14", "sma_20"}
    # A high strength index says that the price is high, a high average (over the close) that it is low.
    assert judged["rsi_14"]["correlation"]["high"] < 0 < judged["sma_20"]["correlation"]["low"]
    assert judged["rsi_14"]["same_sign"] == 1
    assert document["model"]["chance"] <= 0.05
    document = _json("importance", "ppo.yaml", "--folds", "3", "--shuffles", "80")
    assert document["span"] == "train"
    assert document["folds"][-1][1] <= "2023-06-30", "validation and test stay unseen"
    for name in ("correlation", "direction_bits", "size_bits", "permutation"):
        assert document["shuffled"][name] > 0
        assert -1 <= document["stability"][name] <= 1
    text = _run("importance", "ppo.yaml", "--folds", "3", "--shuffles", "80", "--top", "2").stdout
    assert "which way the price goes, beyond chance" in text.replace("\n", " ")
    assert "shuffled, the best" in text
    assert "volume_ratio" not in text


def test_importance_finds_nothing_in_a_random_walk() -> None:
    write_file(_JUDGED.replace("mean_reversion", "random_walk"))
    words = ["importance", "ppo.yaml", "--folds", "3", "--shuffles", "80", "--horizon", "3", "--span", "all"]
    document = _json(*words)
    assert not any(one["tells_direction"] for one in document["columns"])
    assert document["model"]["chance"] > 0.05
    text = _run(*words).stdout.replace("\n", " ")
    assert "No column tells which way the price goes" in text
    assert "no better than chance" in text


def test_importance_refuses_too_little() -> None:
    write_file(_JUDGED)
    answer = _run("importance", "ppo.yaml", "--folds", "16", "--set", "state.warmup=2000")
    assert answer.exit_code == 4
    assert "expected at least 100 states" in answer.output
    assert _run("importance", "ppo.yaml", "--folds", "1").exit_code == 2
    assert _run("importance", "ppo.yaml", "--shuffles", "10").exit_code == 2


def test_an_impossible_size_of_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(_SMALL)
    monkeypatch.setenv("FINSENSE_CACHE_GIB", "plenty")
    answer = _run("build", "ppo.yaml")
    assert answer.exit_code == 2
    assert "FINSENSE_CACHE_GIB" in answer.output


def test_every_command_says_what_it_is() -> None:
    for name in ("build", "verify", "importance"):
        text = _run(name, "--help").stdout
        assert f"Example: finsense features {name}" in text.replace("\n", " ")
        assert "--json" in text
