"""A GPU is taken where it is asked for, or worth it; where there is none, that is said before anything is written."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_experiment import DQN_AGENT, experiment
from torch import nn

from finsense.agents.device import WORTH_A_GPU, DeviceError, device_for, on_cpu, training_device
from finsense.agents.learners import LEARNERS
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.config import load_experiment
from finsense.model.bundle import load_bundle

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@given(weights=st.integers(1, 10**9), batch=st.integers(1, 10**5), sees=st.booleans())
def test_what_is_asked_for_is_taken_and_auto_weighs(weights: int, batch: int, sees: bool) -> None:
    assert device_for("cpu", weights, batch, sees) == "cpu"
    assert device_for("auto", weights, batch, sees) == ("cuda" if sees and weights * batch > WORTH_A_GPU else "cpu")
    if sees:
        assert device_for("cuda", weights, batch, sees) == "cuda"


@pytest.mark.parametrize("agent", [{}, {"agent": DQN_AGENT}])
def test_a_gpu_that_is_not_there_is_refused_before_the_run_begins(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = experiment(**agent, agent__device="cuda")
    with pytest.raises(DeviceError, match=r"but torch \d.* sees none; set agent.device: auto or cpu"):
        LEARNERS[chosen.agent.kind](chosen, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "sets", "device"),
    [
        ("ppo_demo.yaml", [], "cpu"),
        ("dqn_oracle.yaml", [], "cpu"),
        ("ppo_demo.yaml", ["agent.net_arch=[512, 512]"], "cuda"),
        ("ppo_demo.yaml", ["agent.net_arch=[512, 512]", "agent.device=cpu"], "cpu"),
        # The rows of a minibatch count as much as the weights.
        ("ppo_demo.yaml", ["agent.net_arch=[512, 512]", "agent.batch_size=64"], "cpu"),
        # One network is trained here, and two there.
        ("dqn_oracle.yaml", ["agent.net_arch=[512, 512]"], "cpu"),
        ("dqn_oracle.yaml", ["agent.net_arch=[1024, 1024]"], "cuda"),
        ("ppo_demo.yaml", ["agent.device=cuda"], "cuda"),
    ],
)
def test_only_large_networks_go_to_a_gpu(
    config: str, sets: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device(load_experiment(CONFIGS / config, sets)) == device


def test_a_module_on_the_cpu_is_not_copied() -> None:
    module = nn.Linear(2, 2)
    assert on_cpu(module) is module


def test_a_module_elsewhere_is_copied_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for the other device: nothing can be copied from it, so only the call is looked at."""
    moved = []

    def cpu(module: nn.Module) -> nn.Module:
        moved.append(module)
        return module

    monkeypatch.setattr(nn.Module, "cpu", cpu)
    module = nn.Linear(2, 2, device="meta")
    assert on_cpu(module) is moved[0]
    assert moved[0] is not module


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.filterwarnings("ignore:.*primarily intended to run on the CPU")
@pytest.mark.parametrize("agent", [{}, {"agent": DQN_AGENT}])
def test_a_training_on_a_gpu_is_exported_and_resumed(
    agent: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finsense.config.agents._REPORT_STEPS", 256)
    chosen = experiment(**agent, agent__device="cuda")
    train = LEARNERS[chosen.agent.kind]

    def stop(progress: Progress) -> None:
        if progress.steps == 1024:
            signal.raise_signal(signal.SIGINT)

    whole = train(chosen, tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        train(chosen, tmp_path / "parts", report=stop)
    resumed = train(chosen, tmp_path / "parts", resume=True)
    assert resumed.weights_hash == whole.weights_hash
    assert load_bundle(whole.bundle).manifest.validation["export_states"] > 0
