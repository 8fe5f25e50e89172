"""`finsense config`: what goes to stdout, what to stderr, and the exit codes."""

import json
from pathlib import Path

import pytest
from config_files import SIMULATED, Write, errors, write_file
from typer.testing import CliRunner

from finsense.cli.config import config_app
from finsense.config import Experiment, experiment_schema, load_experiment


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return write_file


def finsense(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(config_app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_validate_exits_3_and_prints_every_problem_to_stderr(write: Write) -> None:
    path = write(SIMULATED + "  gama: 0.9\n  envs: 0\n")
    code, out, err = finsense("validate", str(path))
    assert (code, out) == (3, "")
    assert err == str(errors(path)) + "\n"
    code, out, err = finsense("validate", str(path), "--set", "agent.n_epochs=0", "--json")
    assert (code, err) == (3, "")
    document = json.loads(out)
    assert document["valid"] is False
    assert [(one["file"], one["line"], one["column"]) for one in document["problems"]] == [
        ("ppo.yaml", 23, 3),
        ("ppo.yaml", 24, 9),
        ("--set agent.n_epochs=0", None, 16),
    ]
    assert document["problems"][0]["message"] == "unknown key `gama` under `agent`"
    assert document["problems"][0]["hint"].startswith("did you mean `gamma`?; allowed: kind, steps")
    assert set(document["problems"][0]) == {"message", "file", "line", "column", "hint"}


def test_validate_accepts_a_good_file(write: Write) -> None:
    path = write(SIMULATED)
    assert finsense("validate", str(path)) == (0, f"ppo.yaml: valid, hash {load_experiment(path).hash()}\n", "")
    assert json.loads(finsense("validate", str(path), "--json")[1]) == {"valid": True, "problems": []}


def test_show_prints_what_loads_again(write: Write) -> None:
    path = write(SIMULATED)
    experiment = load_experiment(path, ["agent.gamma=0.9"])
    code, out, _ = finsense("show", str(path), "--set", "agent.gamma=0.9")
    assert (code, out) == (0, experiment.resolved_yaml())
    written = finsense("show", str(path), "--set", "agent.gamma=0.9", "--no-resolved")[1]
    assert "gamma: 0.9" in written
    assert "n_epochs" not in written
    assert load_experiment(write(written, "written.yaml")) == experiment
    assert (
        "gamma: 0.9  # override agent.gamma=0.9\n"
        in finsense("show", str(path), "--set", "agent.gamma=0.9", "--origin")[1]
    )
    document = json.loads(finsense("show", str(path), "--json", "--origin")[1])
    assert document["hash"] == load_experiment(path).hash()
    assert document["experiment"]["agent"]["gamma"] == 0.99
    assert document["origins"]["agent.gamma"] == "default"
    assert finsense("show", str(path), "--set", "seed=x")[0] == 3


@pytest.mark.parametrize("command", ["show", "validate"])
def test_a_missing_file_is_a_usage_error(write: Write, command: str) -> None:
    write(SIMULATED)
    code, out, err = finsense(command, "nowhere.yaml")
    assert (code, out) == (2, "")
    assert "nowhere.yaml" in err


def test_the_schema_covers_every_section() -> None:
    code, out, _ = finsense("schema")
    document = json.loads(out)
    assert code == 0
    assert document == experiment_schema()
    assert set(document["properties"]) == {"extends", *Experiment.model_fields}
    assert document["additionalProperties"] is False


@pytest.mark.parametrize("command", ["show", "validate", "schema"])
def test_every_command_shows_an_example(command: str) -> None:
    code, out, _ = finsense(command, "--help")
    assert code == 0
    assert f"Example: finsense config {command}" in " ".join(out.split())
