"""The command line as a user meets it: documented JSON, exit codes, and clear words for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bundles import make_bundle, market, setting
from test_law_parity import _write
from typer.testing import CliRunner, Result

from finsense.account.rules import TargetActions
from finsense.cli.main import app
from finsense.evaluation.joint_baselines import equal_weight_rules, run_joint_baselines

_HASHES = {"states", "masks", "actions", "fills", "equity"}


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and the bars of two symbols' worth of files."""
    path = tmp_path_factory.mktemp("cli")
    make_bundle(path / "policy", setting())
    _write(market(sessions=8), path / "bars.parquet")
    return path


@pytest.fixture
def on_bars(folder: Path) -> list[str]:
    return ["--data", str(folder / "bars.parquet"), "--symbol", "SIM"]


def test_backtest_json_has_the_documented_shape(folder: Path, on_bars: list[str]) -> None:
    answer = _run("backtest", str(folder / "policy"), *on_bars, "--from", "2025-01-06", "--to", "2025-01-08", "--json")
    assert answer.exit_code == 0, answer.output
    document = json.loads(answer.stdout)
    for key in ("bars", "decisions", "orders", "fills", "trades", "final_equity", "metrics", "sha256", "baselines"):
        assert key in document
    assert document["bars"] == document["decisions"] == 225
    assert set(document["sha256"]) == _HASHES
    assert isinstance(document["final_equity"], str)
    assert document["metrics"]["sessions"] == 3
    assert document["baselines"]["always flat"]["final_equity"] == "100000.00"


def test_paper_equals_the_backtest_and_goes_on_from_its_journal(
    folder: Path, on_bars: list[str], tmp_path: Path
) -> None:
    span = ["--from", "2025-01-06", "--to", "2025-01-08"]
    judged = json.loads(_run("backtest", str(folder / "policy"), *on_bars, *span, "--json").stdout)
    words = ["--bundle", str(folder / "policy"), "--replay", on_bars[1], "--symbol", "SIM", *span]
    words += ["--journal", str(tmp_path / "j.db"), "--json"]
    first = json.loads(_run("paper", *words).stdout)
    assert first["sha256"] == judged["sha256"]
    assert first["final_equity"] == judged["final_equity"]
    assert (first["recovered"], first["complete"]) == (0, True)
    again = json.loads(_run("paper", *words).stdout)
    assert again["recovered"] == again["bars"] == first["bars"]
    assert again["sha256"] == first["sha256"]


@pytest.fixture(scope="module")
def on_three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three symbols in one file."""
    path = tmp_path_factory.mktemp("three")
    parts = [_write(market(f"SIM{one}", sessions=8, seed=place), path / one) for place, one in enumerate("CAB")]
    pd.concat([pd.read_parquet(part) for part in parts]).to_parquet(path / "three.parquet", index=False)
    return path / "three.parquet"


def test_several_symbols_are_judged_on_one_account(folder: Path, on_three: Path, tmp_path: Path) -> None:
    """The backtest, the paper session and the three drivers of parity; the order of the symbols changes nothing."""
    words = ["backtest", str(folder / "policy"), "--data", str(on_three), "--to", "2025-01-08", "--symbol"]
    judged = json.loads(_run(*words, "SIMA,SIMB,SIMC", "--json").stdout)
    assert json.loads(_run(*words, "SIMC, SIMA,SIMB", "--json").stdout) == judged
    assert list(judged["symbols"]) == ["SIMA", "SIMB", "SIMC"]
    nets = [float(one["net_rupees"]) for one in judged["symbols"].values()]
    assert sum(nets) == pytest.approx(float(judged["final_equity"]) - 100_000)
    assert list(judged["baselines"]) == ["always flat", "equal-weight buy and hold", "random legal"]
    assert judged["baselines"]["always flat"]["final_equity"] == "100000.00"
    shown = _run(*words, "SIMA,SIMB,SIMC").output
    for expected in ("SIMA, SIMB, SIMC on one account", "equal-weight", "random by symbol", "moments"):
        assert expected in shown
    drivers = json.loads(_run("parity", *words[1:], "SIMB,SIMA,SIMC", "--json").stdout)
    assert drivers == {"drivers": dict.fromkeys(("vector", "backtest", "paper"), judged["sha256"]), "equal": True}
    paper = [
        "paper",
        "--bundle",
        words[1],
        "--replay",
        str(on_three),
        "--to",
        "2025-01-08",
        "--symbol",
        "SIMA,SIMC,SIMB",
    ]
    paper += ["--journal", str(tmp_path / "j.db")]
    traded = json.loads(_run(*paper, "--json").stdout)
    again = json.loads(_run(*paper, "--json").stdout)
    for one in (traded, again):
        assert {name: one[name] for name in judged if name in one} == {
            name: figures for name, figures in judged.items() if name in one
        }
    assert (traded["recovered"], again["recovered"]) == (0, judged["moments"])
    assert "SIMA, SIMB, SIMC on one" in _run(*paper).output


def test_the_equal_weights_are_those_that_the_limits_let_an_account_hold() -> None:
    for symbols, limits, share in (
        (3, {}, 1 / 3),
        (10, {"preset": "small_account"}, 0.25),
        (10, {"min_position_fraction": 0.2}, 0.25),
        (3, {"min_position_fraction": 0.2}, 1 / 3),
    ):
        account = setting(max_position=None, limits=limits).account
        assert equal_weight_rules(account, symbols).actions == TargetActions(targets=(0.0, share))


def test_equal_weights_buy_every_symbol_once_and_hold_it() -> None:
    terms = setting(product="delivery", max_position=None)
    markets = [market(f"SIM{one}", sessions=8, seed=place) for place, one in enumerate("AB")]
    report = {one.name: one for one in run_joint_baselines(markets, terms)}["equal-weight buy and hold"]
    for trace in report.traces.values():
        assert np.count_nonzero(trace.fills[:, 0]) == 1
        bought = int(np.argmax(trace.fills[:, 0] > 0))
        assert trace.fills[bought, 0] * trace.fills[bought, 1] == pytest.approx(5_000_000, rel=0.02)


def test_state_writes_time_names_and_matrix(folder: Path, on_bars: list[str], tmp_path: Path) -> None:
    out = tmp_path / "states.npz"
    answer = _run("state", str(folder / "policy"), *on_bars, "--out", str(out), "--json")
    assert answer.exit_code == 0, answer.output
    with np.load(out) as arrays:
        assert set(arrays.files) == {"time", "names", "matrix"}
        assert arrays["matrix"].shape == (len(arrays["time"]), 29)
        assert arrays["matrix"].dtype == np.float32
        assert arrays["names"][0] == "price_change_0"
        assert np.isfinite(arrays["matrix"]).all()


def test_backtest_writes_a_report(folder: Path, on_bars: list[str], tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    answer = _run("backtest", str(folder / "policy"), *on_bars, "--report", str(report))
    assert answer.exit_code == 0, answer.output
    text = report.read_text()
    assert "buy and hold" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text


@pytest.mark.parametrize(
    ("words", "exit_code", "says"),
    [
        (["backtest", "{policy}", "--data", "{absent}", "--symbol", "SIM"], 2, "does not exist"),
        (["backtest", "{policy}", "--data", "{bars}", "--symbol", "SIMM"], 4, "SIM"),
        (["backtest", "{policy}", "--data", "{bars}", "--symbol", "SIM", "--from", "soon"], 2, "expected a date"),
        (["backtest", "{policy}", "--data", "{bars}", "--symbol", "SIM", "--from", "2025-06-02"], 4, "data cover"),
        (["backtest", "{policy}", "--data", "{bars}", "--symbol", "SIM", "--from", "2025-01-01"], 4, "warm-up"),
        (["backtest", "{absent}", "--data", "{bars}", "--symbol", "SIM"], 5, "expected a bundle folder"),
        (["paper", "--bundle", "{policy}", "--replay", "{bars}", "--symbol", "SIM", "--speed", "fast"], 2, "--speed"),
        (["backtest", "{policy}", "--data", "{bars}", "--symbol", "A,B", "--report", "r.html"], 2, "one symbol"),
        (["backtest", "{policy}", "--data", "{bars}", "--symbol", "SIM,SIM"], 2, "several different ones"),
        (["parity", "{policy}", "--data", "{bars}", "--symbol", ","], 2, "--symbol with one symbol"),
        (["paper", "--bundle", "{policy}", "--replay", "{bars}", "--symbol", "SIM,,SIM"], 2, "several different ones"),
        (["parity", "{absent}", "--data", "{bars}", "--symbol", "SIM"], 5, "expected a bundle folder"),
        (["state", "{absent}", "--data", "{bars}", "--symbol", "SIM", "--out", "x.npz"], 2, "does not exist"),
        (["train", "{absent}"], 2, "does not exist"),
        (["calendar", "2027-01-04"], 4, "2026-12-31"),
        (["costs", "--side", "buy", "--qty", "-1", "--price", "10", "--date", "2026-11-20"], 2, ""),
        (["config", "validate", "{config}"], 3, "did you mean"),
        (["train", "{config}"], 3, "did you mean"),
        (["backtset"], 2, ""),
    ],
)
def test_every_mistake_has_its_words_and_its_exit_code(
    folder: Path, words: list[str], exit_code: int, says: str
) -> None:
    config = folder / "wrong.yaml"
    config.write_text("name: wrong\nsplitt: 3\n")
    places = {
        "policy": folder / "policy",
        "bars": folder / "bars.parquet",
        "absent": folder / "absent",
        "config": config,
    }
    answer = _run(*(word.format(**places) for word in words))
    assert answer.exit_code == exit_code, answer.output
    assert says in " ".join(answer.stderr.replace("│", " ").split()), answer.stderr
    assert "Traceback" not in answer.output


def test_a_changed_bundle_is_refused_with_exit_5(folder: Path, on_bars: list[str], tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "policy", setting()).path
    content = bytearray((path / "policy.onnx").read_bytes())
    content[100] ^= 1
    (path / "policy.onnx").write_bytes(content)
    answer = _run("backtest", str(path), *on_bars)
    assert answer.exit_code == 5
    assert "was changed after the export" in answer.stderr


def test_another_sessions_journal_is_refused(folder: Path, on_bars: list[str], tmp_path: Path) -> None:
    words = ["--bundle", str(folder / "policy"), "--replay", on_bars[1], "--symbol", "SIM"]
    journal = ["--journal", str(tmp_path / "j.db")]
    assert _run("paper", *words, "--to", "2025-01-08", *journal).exit_code == 0
    answer = _run("paper", *words, "--from", "2025-01-07", *journal)
    assert answer.exit_code == 1
    assert "first_bar" in answer.stderr


def test_a_ruined_account_halts_with_exit_8(on_bars: list[str], tmp_path: Path) -> None:
    """It says where it stopped, and started again it stays stopped."""
    make_bundle(tmp_path / "policy", setting(balance=20_000, ruin_fraction=0.999))
    words = ["--bundle", str(tmp_path / "policy"), "--replay", on_bars[1], "--symbol", "SIM"]
    for _ in range(2):
        answer = _run("paper", *words, "--journal", str(tmp_path / "j.db"), "--json")
        assert answer.exit_code == 8, answer.output
        assert "the account was ruined at" in answer.stderr
        assert json.loads(answer.stdout)["complete"] is False


@pytest.mark.parametrize("command", ["demo", "train", "backtest", "paper", "parity", "state", "costs", "calendar"])
def test_every_command_has_help_with_an_example_and_json(command: str) -> None:
    answer = _run(command, "--help")
    assert answer.exit_code == 0
    text = " ".join(answer.stdout.split())
    assert f"finsense {command}" in text
    assert "--json" in text


def test_doctor_finds_this_machine_ready() -> None:
    answer = _run("doctor", "--json")
    document = json.loads(answer.stdout)
    assert answer.exit_code == 0, document
    assert document["ok"] is True
    assert {check["name"] for check in document["checks"]} >= {"python", "training", "calendar", "charges"}


def test_json_stays_alone_on_stdout_while_logs_go_to_stderr(folder: Path) -> None:
    """In a real process: a frame with repeated rows makes the reader log, and stdout is one JSON document."""
    import pandas as pd

    frame = pd.read_parquet(folder / "bars.parquet")
    pd.concat([frame, frame.tail(1)]).to_parquet(folder / "repeated.parquet", index=False)
    command = [sys.executable, "-c", "from finsense.cli.main import main; main()"]
    words = [
        "backtest",
        str(folder / "policy"),
        "--data",
        str(folder / "repeated.parquet"),
        "--symbol",
        "SIM",
        "--json",
    ]
    answer = subprocess.run([*command, *words], capture_output=True, text=True, check=True, env={**os.environ})
    assert json.loads(answer.stdout)["bars"] > 0
    assert answer.stderr.strip()
