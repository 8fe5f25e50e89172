"""Experiment files: what they accept, how they are merged and what their hash depends on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from config_files import FROM_FILE, SIMULATED, Write, write_file
from hypothesis import given, settings
from hypothesis import strategies as st

from finsense.config import PpoAgent, load_experiment, read_experiment
from finsense.config.rendering import to_yaml
from finsense.market.simulate import SimulatedMarket
from finsense.market.sources.files import FileSource


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes into an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return write_file


# --- what is accepted -------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_frozen_experiment_with_defaults(write: Write) -> None:
    experiment = load_experiment(write(SIMULATED))
    assert isinstance(experiment.data, SimulatedMarket)
    assert experiment.agent.learning_rate == 3e-4
    assert experiment.agent.steps == 100_000
    assert experiment.reward.kind == "log_equity"
    assert experiment.episode.bars is None
    assert experiment.evaluation.sessions_per_year == 248
    assert experiment.evaluation.sma.slow == 30
    with pytest.raises(ValueError, match="frozen"):
        setattr(experiment, "name", "other")  # noqa: B010  (written out, mypy refuses it before pydantic can)


@pytest.mark.parametrize("text", ["3e-4", "3.0E-4", "0.0003", "0.000_3", "+.0003"])
def test_every_spelling_of_a_number_is_a_number(write: Write, text: str) -> None:
    assert load_experiment(write(SIMULATED), [f"agent.learning_rate={text}"]).agent.learning_rate == 3e-4


@pytest.mark.parametrize("symbol", ["NO", "ON", "Y", "15:15", "0x1F", "1_0e", "2023-01-02"])
def test_a_text_stays_the_text_that_was_written(write: Write, symbol: str) -> None:
    experiment = load_experiment(write(SIMULATED), [f"data.symbols=[{symbol}]"])
    assert experiment.data.symbols == (symbol,)
    assert load_experiment(write(experiment.resolved_yaml(), "again.yaml")).data.symbols == (symbol,)


@pytest.mark.parametrize(
    "symbol", ["1e5", "12", "true", "null", "~", ".5", "1_000", "1e-3", "", " padded ", "a: b", "#x"]
)
def test_a_text_that_looks_like_another_type_survives_the_round_trip(write: Write, symbol: str) -> None:
    experiment = load_experiment(write(FROM_FILE), [f"data.symbols={json.dumps([symbol])}"])
    assert load_experiment(write(experiment.resolved_yaml(), "again.yaml")).data.symbols == (symbol,)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_file_extends_others_key_by_key(write: Write) -> None:
    write(SIMULATED, "shared/market.yaml")
    write("extends: shared/market.yaml\nagent: {gamma: 0.9, net_arch: [8]}\n", "middle.yaml")
    experiment = load_experiment(
        write("extends: ../middle.yaml\nname: leaf\nagent: {gamma: 0.8}\n", "leaves/leaf.yaml")
    )
    assert isinstance(experiment.agent, PpoAgent)
    assert (experiment.name, experiment.agent.gamma, experiment.agent.net_arch) == ("leaf", 0.8, (8,))
    assert experiment.agent.steps == 100_000


def test_another_kind_replaces_the_section_below_it(write: Write) -> None:
    write(SIMULATED, "base.yaml")
    leaf = write("extends: base.yaml\ndata: {kind: file, path: x.csv, symbols: [A]}\n")
    assert isinstance(load_experiment(leaf).data, FileSource)


def test_a_path_is_relative_to_the_text_that_states_it(write: Write, tmp_path: Path) -> None:
    write(FROM_FILE, "shared/base.yaml")
    leaf = write("extends: ../shared/base.yaml\n", "runs/leaf.yaml")

    def path(*overrides: str) -> Path:
        data = load_experiment(leaf, overrides).data
        assert isinstance(data, FileSource)
        return data.path

    assert path() == tmp_path / "shared" / "bars" / "reliance.parquet"
    assert path("data.path=other.csv") == tmp_path / "other.csv"
    assert path("data.path=/data/x.csv") == Path("/data/x.csv")


def test_origins_name_the_line_the_override_or_the_default(write: Write) -> None:
    write(SIMULATED, "base.yaml")
    leaf = write("extends: base.yaml\n\nagent:\n  gamma: 0.9\n", "leaf.yaml")
    loaded = read_experiment(leaf, ["agent.envs=4", "data.symbols.1=TCS"])
    origins = loaded.origins()
    assert origins["agent.gamma"] == "leaf.yaml:4"
    assert origins["agent.kind"] == "base.yaml:20"
    assert origins["agent.envs"] == "override agent.envs=4"
    assert origins["agent.n_epochs"] == "default"
    assert origins["data.symbols"] == "base.yaml:5, override data.symbols.1=TCS"
    assert origins["split.test.to"] == "base.yaml:12"
    assert origins["costs.scale"] == "default"
    annotated = loaded.annotated_yaml()
    assert "  gamma: 0.9  # leaf.yaml:4\n" in annotated
    assert load_experiment(write(annotated, "annotated.yaml")) == loaded.experiment
    assert "n_epochs" not in loaded.annotated_yaml(resolved=False)


# --- hash and round trip ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [SIMULATED, FROM_FILE])
def test_the_resolved_yaml_loads_to_the_same_experiment_and_hash(write: Write, text: str) -> None:
    overrides = ["account.balance=12345.67", "reward={kind: drawdown, penalty: 0}", "agent.target_kl=0.01"]
    experiment = load_experiment(write(text), overrides)
    again = load_experiment(write(experiment.resolved_yaml(), "elsewhere/resolved.yaml"))
    assert again == experiment
    assert again.hash() == experiment.hash()
    assert re.fullmatch("[0-9a-f]{64}", again.hash())


def test_the_hash_ignores_order_comments_spelling_and_place(write: Write) -> None:
    expected = load_experiment(write(FROM_FILE)).hash()
    values = yaml.safe_load(FROM_FILE)
    values["agent"]["learning_rate"], values["agent"]["steps"] = 0.0003, 100_000
    values["account"]["balance"] = 50_000.0
    values["split"] = {
        name: {"to": str(span["to"]), "from": str(span["from"])} for name, span in reversed(values["split"].items())
    }
    text = "# another author\n" + yaml.safe_dump(dict(reversed(values.items())), sort_keys=False)
    assert load_experiment(write(text, "far/away/other_name.yaml")).hash() == expected


@pytest.mark.parametrize(
    "override",
    ["seed=1", "agent.gamma=0.98", "costs.scale=2", "data.symbols=[TCS]", "data.path=bars/tcs.parquet", "name=other"],
)
def test_the_hash_changes_with_every_value(write: Write, override: str) -> None:
    path = write(FROM_FILE)
    assert load_experiment(path, [override]).hash() != load_experiment(path).hash()


@settings(max_examples=40, deadline=None)
@given(
    gamma=st.floats(0, 1),
    steps=st.integers(1, 10**12),
    layers=st.lists(st.integers(1, 512), max_size=4),
    relu=st.booleans(),
    target=st.none() | st.floats(1e-6, 1),
)
def test_an_override_equals_editing_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    gamma: float,
    steps: int,
    layers: list[int],
    relu: bool,
    target: float | None,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    values: dict[str, Any] = {
        "gamma": gamma,
        "steps": steps,
        "net_arch": layers,
        "activation": "relu" if relu else "tanh",
        "target_kl": target,
    }
    plain, edited = folder / "plain.yaml", folder / "edited.yaml"
    plain.write_text(SIMULATED)
    document = yaml.safe_load(SIMULATED)
    document["agent"] |= {**values, "learning_rate": 3e-4, "steps": steps}
    edited.write_text(to_yaml(json.loads(json.dumps(document, default=str))))
    overrides = [f"agent.{key}={json.dumps(value)}" for key, value in values.items()]
    assert load_experiment(plain, overrides) == load_experiment(edited)


def test_an_override_reaches_into_lists(write: Write) -> None:
    path = write(SIMULATED)
    assert load_experiment(path, ["data.symbols.0=TCS"]).data.symbols == ("TCS", "BBB")
    assert load_experiment(path, ["data.symbols.2=TCS"]).data.symbols == ("AAA", "BBB", "TCS")
    agent = load_experiment(path, ["agent.net_arch=[8]", "agent.net_arch.1=4"]).agent
    assert isinstance(agent, PpoAgent)
    assert agent.net_arch == (8, 4)
    assert load_experiment(path, ["seed=1", "seed=2"]).seed == 2
