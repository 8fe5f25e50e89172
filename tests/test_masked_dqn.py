"""The masked DQN solves a masked problem, trains and resumes to the bit, and refuses what cannot work."""

import io
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from small_experiment import DQN_AGENT, experiment
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor, VecNormalize
from structlog.testing import capture_logs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from typer.testing import CliRunner

from finsense.agents.checkpoint import CheckpointError
from finsense.agents.dqn import masked_dqn, train
from finsense.agents.kernels.faults import NotFinite
from finsense.agents.learners import LEARNERS
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.masked_dqn.algorithm import MaskedDQN
from finsense.agents.masked_dqn.policies import DuelingPolicy
from finsense.agents.network import MaskedGreedy, weights_hash
from finsense.agents.progress import Progress, TrainingInterrupted
from finsense.agents.run_folder import RunError
from finsense.agents.training import Trained
from finsense.agents.validation import Judge, actor_choice
from finsense.agents.watch import TrainingError
from finsense.cli.main import app
from finsense.config import Experiment
from finsense.config.agents import Agent
from finsense.envs.vector import TradingVecEnv
from finsense.model.bundle import load_bundle


def small(**changes: Any) -> Experiment:
    """The small experiment under a DQN; `agent__steps=5` changes one value."""
    return experiment(**{"agent": {**DQN_AGENT}, **changes})


# --- a masked problem with a known solution -------------------------------------------------------------------------


class Errands(gym.Env[NDArray[np.float32], int]):
    """Six places, four ways to go on, some of them closed; every open way costs, and a closed one leads nowhere, free.

    What is best is known: value iteration over the open ways. Whoever does not know the mask learns to stand still.
    """

    PLACES, WAYS, LENGTH, GAMMA = 6, 4, 15, 0.8

    def __init__(self) -> None:
        random = np.random.default_rng(8)
        self.observation_space = spaces.Box(0, 1, (self.PLACES,), np.float32)
        self.action_space: Any = spaces.Discrete(self.WAYS)
        self.open = random.random((self.PLACES, self.WAYS)) < 0.5
        self.open[:, 1] |= ~self.open.any(axis=1)
        self.leads = random.integers(0, self.PLACES, (self.PLACES, self.WAYS))
        self.costs = random.uniform(0.2, 1.5, (self.PLACES, self.WAYS))

    def solution(self) -> NDArray[np.float64]:
        """Q of every open way, (places, ways), by value iteration; minus infinity for the closed ones."""
        q = np.where(self.open, 0.0, -np.inf)
        for _ in range(200):
            q = np.where(self.open, -self.costs + self.GAMMA * q.max(axis=1)[self.leads], -np.inf)
        return q

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._place, self._steps = int(self.np_random.integers(self.PLACES)), 0
        return self._seen(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        reward = 0.0
        if self.open[self._place, action]:
            reward = -float(self.costs[self._place, action])
            self._place = int(self.leads[self._place, action])
        self._steps += 1
        truncated = self._steps == self.LENGTH
        info = {"terminal_action_mask": self.action_masks()} if truncated else {}
        return self._seen(), reward, False, truncated, info

    def action_masks(self) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self.open[self._place].copy()
        return mask

    def _seen(self) -> NDArray[np.float32]:
        seen: NDArray[np.float32] = np.eye(self.PLACES, dtype=np.float32)[self._place]
        return seen


def errands(count: int = 4) -> VecEnv:
    return VecMonitor(DummyVecEnv([Errands] * count))


def make(kind: type[DQN] = MaskedDQN, policy: Any = "MlpPolicy", env: Any = None, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "learning_rate": 2e-3,
        "buffer_size": 5000,
        "learning_starts": 100,
        "batch_size": 32,
        "gamma": Errands.GAMMA,
        "train_freq": 1,
        "target_update_interval": 200,
        "exploration_fraction": 0.5,
        "exploration_final_eps": 0.2,
        "policy_kwargs": {"net_arch": [32]},
        "seed": 0,
        "device": "cpu",
    }
    return kind(policy, env or errands(), **{**arguments, **changes})


def q_of(model: DQN) -> NDArray[np.float64]:
    with torch.no_grad():
        return np.asarray(model.q_net(torch.eye(Errands.PLACES)).numpy(), np.float64)


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        ("MlpPolicy", {}),
        ("DuelingMlpPolicy", {"priority_exponent": 0.6}),
        ("MlpPolicy", {"double": False, "tau": 0.02, "target_update_interval": 4}),
    ],
)
def test_a_masked_problem_is_solved_where_sb3_fails(policy: str, changes: dict[str, Any]) -> None:
    world = Errands()
    solution = world.solution()
    model = make(policy=policy, **changes).learn(10_000)
    found = q_of(model)
    assert found[world.open] == pytest.approx(solution[world.open], abs=0.1)
    states = np.eye(Errands.PLACES, dtype=np.float32)
    chosen, _ = model.predict(states, deterministic=True, action_masks=world.open)
    assert np.array_equal(chosen, solution.argmax(axis=1))


def test_without_masks_the_same_problem_is_not_solved() -> None:
    world = Errands()
    plain = make(DQN).learn(6_000)
    chosen, _ = plain.predict(np.eye(Errands.PLACES, dtype=np.float32), deterministic=True)
    closed = ~world.open.all(axis=1)
    assert closed.sum() > 3
    assert not world.open[closed, chosen[closed]].any()
    # Nor does a mask save it afterwards: what it knows of the open ways supposes that it may stand still.
    masked = np.where(world.open, q_of(plain), -np.inf).argmax(axis=1)
    assert not np.array_equal(masked, world.solution().argmax(axis=1))


def test_an_environment_that_tells_no_masks_is_refused_unless_asked_for() -> None:
    env = gym.make("CartPole-v1")
    model = make(env=env, policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="tells its `action_masks`"):
        model.learn(200)
    model.learn(300, use_masking=False)
    assert model._n_updates > 0


def test_an_environment_with_nothing_legal_is_refused() -> None:
    env = errands()
    env.get_attr("open")[2][:] = False
    with pytest.raises(ValueError, match="found none in environment 2"):
        make(env=env).learn(1000)


# --- SB3's surface ---------------------------------------------------------------------------------------------------


def test_a_saved_model_loads_and_goes_on() -> None:
    model = make(policy="DuelingMlpPolicy", n_steps=3).learn(600)
    zipped = io.BytesIO()
    model.save(zipped)
    loaded = MaskedDQN.load(io.BytesIO(zipped.getvalue()), env=errands(), device="cpu")
    assert weights_hash(loaded.policy) == weights_hash(model.policy)
    assert (loaded.n_steps, loaded.double, loaded.num_timesteps) == (3, True, 600)
    before = weights_hash(loaded.policy)
    # Its buffer is empty: it collects before it goes on.
    loaded.learn(400, reset_num_timesteps=False)
    assert weights_hash(loaded.policy) != before


def test_a_saved_zip_loads_in_plain_sb3() -> None:
    model = make().learn(400)
    zipped = io.BytesIO()
    model.save(zipped)
    loaded = DQN.load(io.BytesIO(zipped.getvalue()), device="cpu")
    assert weights_hash(loaded.policy) == weights_hash(model.policy)
    states = np.eye(Errands.PLACES, dtype=np.float32)
    assert np.array_equal(loaded.predict(states, deterministic=True)[0], model.predict(states, deterministic=True)[0])


def test_the_replay_buffer_is_saved_as_sb3_saves_it(tmp_path: Path) -> None:
    model = make(priority_exponent=0.6).learn(400)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    other = make(priority_exponent=0.6, learning_starts=0)
    other.load_replay_buffer(tmp_path / "buffer.pkl")
    saved, loaded = model.replay_buffer.arrays(), other.replay_buffer.arrays()
    assert all(np.array_equal(saved[name], loaded[name]) for name in saved)
    other.learn(4, reset_num_timesteps=False)
    assert other.replay_buffer.pos == model.replay_buffer.pos + 1


def test_a_single_observation_is_answered_with_a_single_action() -> None:
    model = make()
    action, _ = model.predict(np.eye(6, dtype=np.float32)[0], deterministic=True, action_masks=np.eye(4)[3])
    assert action == 3
    with pytest.raises(ValueError, match="found none"):
        model.predict(np.eye(6, dtype=np.float32)[0], action_masks=np.zeros(4))


def test_learning_again_cuts_the_episodes_that_were_running() -> None:
    model = make(learning_starts=20).learn(44)
    ring, newest = model.replay_buffer.ring, model.replay_buffer.pos - 1
    seen = ring.observations[newest + 1].copy()
    assert not ring.dones[newest].any()
    model.learn(44)
    assert ring.timeouts[newest].all()
    for env in range(4):
        place = ring.final_places[newest, env] % len(model.replay_buffer.ring.finals)
        assert np.array_equal(model.replay_buffer.ring.finals[place], seen[env])


def test_a_callback_may_stop_and_the_training_goes_on_where_it_was() -> None:
    class StopAfter(BaseCallback):
        def _on_step(self) -> bool:
            return self.num_timesteps < 80

    model = make()
    model.learn(1000, callback=StopAfter())
    assert model.num_timesteps == 80
    assert model.replay_buffer.pos == 20
    model.learn(120, reset_num_timesteps=False)
    assert model.replay_buffer.pos == 50
    assert not model.replay_buffer.timeouts[19].any()


def test_other_networks_are_trained_by_torch_and_one_line_says_why() -> None:
    with capture_logs() as logs:
        model = make(policy_kwargs={"net_arch": [16], "activation_fn": nn.ELU}).learn(600)
    told = [one for one in logs if "torch trains it" in one["event"]]
    assert [one["reason"] for one in told] == ["the activation is ELU, not Tanh or ReLU"]
    assert model._n_updates > 0
    taken = make()
    with capture_logs() as logs:
        taken.learn(400)
    assert not logs


def test_torch_and_the_kernels_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = make(n_steps=2).learn(400)
    monkeypatch.setattr(MaskedDQN, "_shared_memory", lambda self: None)
    its = make(n_steps=2).learn(400)
    assert mine._n_updates == its._n_updates > 50
    for one, other in zip(mine.policy.parameters(), its.policy.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buffer_size": 31}, "batch_size from 1 to the buffer_size of 31, found 32"),
        ({"buffer_size": 3, "batch_size": 2}, "at least one step of 4 environments, found 3"),
        ({"n_steps": 0}, "n_steps of at least 1"),
        ({"priority_exponent": 1.5}, "priority_exponent from 0 to 1"),
        ({"max_grad_norm": 0}, "max_grad_norm above 0"),
        ({"replay_buffer_kwargs": {"x": 1}}, "a buffer of its own"),
        ({"train_freq": (2, "episode")}, "more than one environment"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes).learn(200)


def test_a_training_without_an_update_is_refused() -> None:
    with pytest.raises(ValueError, match="learning_starts below the 100 steps of this training, found 100"):
        make().learn(100)


def test_a_moving_scale_of_the_observations_is_refused() -> None:
    with pytest.raises(ValueError, match="found a VecNormalize"):
        make(env=VecNormalize(errands()))


@pytest.mark.parametrize("kernels", [True, False])
def test_a_reward_that_is_not_finite_stops_the_update_before_it_does_harm(
    kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels:
        monkeypatch.setattr(MaskedDQN, "_shared_memory", lambda self: None)
    model = make().learn(400)
    done = model._n_updates
    model.replay_buffer.rewards[:] = np.nan
    before = weights_hash(model.policy)
    with pytest.raises(NotFinite, match=rf"in update {done + 1} \(loss nan"):
        model.train(3, 32)
    assert weights_hash(model.policy) == before


# --- training as the other learners train ----------------------------------------------------------------------------


class StopAt:
    """Presses Ctrl-C once so many steps are reported."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seen = steps, list[Progress]()

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if progress.steps == self.steps:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in a training: several threads only get into each other's way in networks so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def reported_often(one_thread: None) -> Iterator[None]:
    """A report after every 256 steps, for the small experiment ends before the first one is due."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finsense.config.agents._REPORT_STEPS", 256)
        yield


@pytest.fixture(scope="module")
def reports() -> list[Progress]:
    """What `whole` reported."""
    return []


@pytest.fixture(scope="module")
def whole(reported_often: None, reports: list[Progress], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(small(), tmp_path_factory.mktemp("whole") / "run", report=reports.append)


@pytest.fixture(scope="module")
def interrupted(reported_often: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped with Ctrl-C, in the middle between two regular checkpoints."""
    run_dir = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(TrainingInterrupted, match="1024 steps"):
        train(small(), run_dir, report=StopAt(1024))
    return run_dir


def learned(chosen: Experiment, steps: int = 400) -> MaskedDQN:
    """The experiment's model after a few steps, without a run around it."""
    markets = load_markets(chosen)
    envs = TradingVecEnv(markets.train, chosen.account, 8, episode_rules(chosen))
    return masked_dqn(chosen, markets, envs).learn(steps)


def exported(trained: Trained) -> str:
    return load_bundle(trained.bundle).manifest.provenance.weights_hash


def test_every_kind_of_agent_has_its_learner() -> None:
    kinds = {model.model_fields["kind"].annotation.__args__[0] for model in Agent.__args__[0].__args__}
    assert set(LEARNERS) == kinds


def test_one_seed_gives_one_policy(whole: Trained, tmp_path: Path) -> None:
    again = train(small(), tmp_path / "again")
    assert again.weights_hash == whole.weights_hash
    assert exported(again) == exported(whole)
    assert again.validation == whole.validation
    assert len({weights_hash(learned(small(seed=seed)).policy) for seed in (3, 4, 3)}) == 2


def test_a_resumed_run_ends_as_if_never_interrupted(whole: Trained, interrupted: Path, tmp_path: Path) -> None:
    """The buffer has gone round once by then; priorities, n-step returns and the falling rates go on."""
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    resumed = train(small(), run_dir, resume=True)
    assert resumed.weights_hash == whole.weights_hash
    assert exported(resumed) == exported(whole)
    assert resumed.validation == whole.validation


def test_a_killed_run_goes_on_from_its_last_checkpoint(whole: Trained, interrupted: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    newest = sorted((run_dir / "checkpoints").iterdir())[-1]
    shutil.rmtree(newest)
    (run_dir / "checkpoints" / ".step_000000001024.new-1").mkdir()
    assert train(small(), run_dir, resume=True).weights_hash == whole.weights_hash


@pytest.mark.parametrize("name", ["model.zip", "memory.npz"])
def test_a_damaged_checkpoint_is_refused(interrupted: Path, tmp_path: Path, name: str) -> None:
    run_dir = shutil.copytree(interrupted, tmp_path / "run")
    file = sorted((run_dir / "checkpoints").iterdir())[-1] / name
    file.write_bytes(file.read_bytes()[:-30] + b"x")
    with pytest.raises(CheckpointError, match=r"remove .* to go on from the checkpoint before it"):
        train(small(), run_dir, resume=True)


def test_another_experiment_is_not_resumed(interrupted: Path) -> None:
    changed = small(agent={**DQN_AGENT, "n_steps": 2, "prioritised_replay": None})
    with pytest.raises(RunError, match=r"(?s)agent.n_steps: 3 -> 2.*agent.prioritised_replay: .* -> None"):
        train(changed, interrupted, resume=True)
    with pytest.raises(RunError, match=r"agent.kind: dqn -> ppo"):
        train(experiment(), interrupted, resume=True)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, savez = [], np.savez

    def until_full(file: Any, **arrays: Any) -> None:
        written.append(file.name)
        if len(written) > 2:
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    monkeypatch.setattr("finsense.agents.checkpoint.np.savez", until_full)
    with pytest.raises(OSError, match="No space left"):
        train(small(), tmp_path / "run")
    monkeypatch.undo()
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 1
    assert train(small(), tmp_path / "run", resume=True).steps == 2048


def test_the_last_good_checkpoint_survives_a_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[MaskedDQN] = []

    def remembered(*arguments: Any) -> MaskedDQN:
        models.append(masked_dqn(*arguments))
        return models[-1]

    def poison(progress: Progress) -> None:
        if progress.steps == 1280:
            assert models[0].replay_buffer is not None
            models[0].replay_buffer.rewards[:] = np.nan

    monkeypatch.setattr("finsense.agents.dqn.masked_dqn", remembered)
    with pytest.raises(TrainingError, match=r"after 1280 steps.*checkpoint was kept.*in update \d+ \(loss nan"):
        train(small(), tmp_path / "run", report=poison)
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert saved[-1].name == "step_000000000704"
    loaded = MaskedDQN.load(saved[-1] / "model.zip", device="cpu")
    assert all(torch.isfinite(parameter).all() for parameter in loaded.policy.parameters())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy sees the overflow first, and only warns
def test_rewards_beyond_every_number_stop_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no longer finite"):
        train(small(reward__scale=1e43), tmp_path / "run")


def test_a_trained_policy_never_picks_a_masked_action(whole: Trained) -> None:
    """The environment refuses an illegal action, so a walk that ends well met none."""
    chosen = small()
    newest = sorted((whole.run_dir / "checkpoints").iterdir())[-1]
    model = MaskedDQN.load(newest / "best.zip", device="cpu")
    tape = load_markets(chosen).validation
    for deterministic in (True, False):
        envs = TradingVecEnv(tape, chosen.account, 16, episode_rules(chosen))
        envs.seed(5)
        states = envs.reset()
        blocked = 0
        for _ in range(200):
            masks = envs.action_masks()
            actions, _ = model.predict(states, action_masks=masks, deterministic=deterministic)
            assert masks[np.arange(16), actions].all()
            blocked += int((~masks).sum())
            states = envs.step(actions)[0]
        assert blocked > 0


def test_the_exported_graph_is_the_network(whole: Trained) -> None:
    """`train` compares them on every state of the validation span; here the bundle against the checkpoint."""
    chosen, bundle = small(), load_bundle(whole.bundle)
    assert bundle.manifest.kind == "dqn"
    assert bundle.manifest.validation["export_states"] > 100
    newest = sorted((whole.run_dir / "checkpoints").iterdir())[-1]
    model = MaskedDQN.load(newest / "best.zip", device="cpu")
    assert weights_hash(model.policy) == exported(whole)
    judge = Judge(load_markets(chosen).validation, chosen.account, episode_rules(chosen), 248)
    actor = MaskedGreedy(model.q_net, 0.01 * chosen.reward.scale)
    for path in judge.paths(actor_choice(actor)):
        actions, _ = model.predict(path.states, action_masks=path.masks, deterministic=True)
        assert np.array_equal(actions, path.actions)
        for state, mask, action in list(zip(path.states, path.masks, path.actions, strict=True))[::7]:
            decision = bundle.policy.act(state[None], mask[None])
            assert decision.action == action
            assert (decision.probabilities[~mask] == 0.0).all()


def test_tensorboard_and_progress_tell_of_the_training(whole: Trained, reports: list[Progress]) -> None:
    events = EventAccumulator(str(whole.run_dir / "tb"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {
        "rollout/ep_rew_mean",
        "rollout/exploration_rate",
        "time/fps",
        "train/loss",
        "train/learning_rate",
        "portfolio/net_return",
        "portfolio/exposure",
        "trades/per_day",
        "actions/hold_share",
        "mask/valid_mean",
        "eval/log_return",
    }
    assert [progress.steps for progress in reports] == list(range(256, 2049, 256))
    assert {progress.total for progress in reports} == {2048}
    assert 0 < reports[-1].hold_share < 1


def test_the_command_line_trains_it(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text(small(agent={**DQN_AGENT, "steps": 400}).resolved_yaml())
    answer = CliRunner().invoke(app, ["train", str(path), "--out", str(tmp_path / "run"), "--quiet", "--json"])
    assert answer.exit_code == 0, answer.output
    assert load_bundle(tmp_path / "run" / "bundle").manifest.provenance.steps == 400


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buffer_size": 20}, r"batch_size must be at most buffer_size \(20\), found 32"),
        ({"buffer_size": 4, "batch_size": 2}, "buffer_size must hold a step of all 8 envs, found 4"),
        ({"learning_starts": 2048}, r"learning_starts must lie below steps \(2048\).*found 2048"),
        ({"net_arch": [0]}, "greater than or equal to 1"),
        ({"n_steps": 0}, "greater than or equal to 1"),
        ({"prioritised_replay": {"alpha": 0}}, "greater than 0"),
        ({"clip_range": 0.2}, "Extra inputs"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(agent={**DQN_AGENT, **changes})


def test_the_settings_reach_the_learner() -> None:
    model = learned(small())
    assert (model.n_steps, model.priority_exponent, model.importance_exponent) == (3, 0.6, 0.4)
    assert model.lr_schedule(0.5) == pytest.approx(5.5e-4)
    assert (model.target_update_interval, model.gradient_steps, model.buffer_size) == (100, 2, 1200)
    assert isinstance(model.policy, DuelingPolicy)
