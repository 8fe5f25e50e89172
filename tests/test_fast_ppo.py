"""The fast PPO is sb3-contrib's: same gradients, same update, same files, same tags; and it hides no NaN."""

import copy
import io
import itertools
import re
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from small_experiment import experiment
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from structlog.testing import capture_logs
from torch import Tensor, nn

from finsense.agents.fast_ppo.acting import generalised_advantages
from finsense.agents.fast_ppo.algorithm import FastMaskablePPO
from finsense.agents.fast_ppo.eligibility import network_of
from finsense.agents.fast_ppo.loss import Samples, Terms
from finsense.agents.fast_ppo.shared import SharedLayers
from finsense.agents.fast_ppo.training import gathered_state
from finsense.agents.fast_ppo.update import minibatch_gradient
from finsense.agents.kernels.elementary import tanh
from finsense.agents.kernels.faults import NotFinite
from finsense.agents.kernels.products import LANES, ROWS, multiply, multiply_transposed, padded
from finsense.agents.markets import episode_rules, load_markets
from finsense.agents.network import ScaledState, weights_hash
from finsense.envs.tape import Tape
from finsense.envs.vector import TradingVecEnv

Arrays = dict[str, NDArray[np.float32]]


class Walk(gym.Env[NDArray[Any], Any]):
    """A small game: the state is a random walk, the reward the move along it, some actions are forbidden at random."""

    action_space: Any

    def __init__(
        self,
        shape: tuple[int, ...] = (3,),
        actions: Any = 4,
        dtype: Any = np.float32,
        length: int = 7,
        forbidden: float = 0.5,
    ) -> None:
        self.observation_space = spaces.Box(-1e9, 1e9, shape, dtype)
        self.action_space = spaces.Discrete(actions) if isinstance(actions, int) else actions
        self._length, self._forbidden = length, forbidden

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[Any], Any]:
        super().reset(seed=seed)
        self._steps, self._place = 0, np.zeros(self.observation_space.shape or ())
        return self._seen(), {}

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._place += self.np_random.normal(size=self._place.shape)
        reward = float(np.sum(action) * self._place.mean() + 0.1)
        return self._seen(), reward, bool(self._place.max() > 4), self._steps == self._length, {}

    def action_masks(self) -> NDArray[np.bool_]:
        if not isinstance(self.action_space, spaces.Discrete):
            return np.ones(int(self.action_space.nvec.sum()), np.bool_)
        legal: NDArray[np.bool_] = self.np_random.random(int(self.action_space.n)) >= self._forbidden
        if self._forbidden < 1:
            legal[self._steps % self.action_space.n] = True
        return legal

    def _seen(self) -> NDArray[Any]:
        return self._place.astype(self.observation_space.dtype)


def walks(count: int = 4, **changes: Any) -> VecEnv:
    return VecMonitor(DummyVecEnv([lambda: Walk(**changes)] * count))


def make(kind: type[MaskablePPO] = FastMaskablePPO, env: VecEnv | None = None, **changes: Any) -> MaskablePPO:
    arguments: dict[str, Any] = {"n_steps": 16, "batch_size": 32, "n_epochs": 3, "seed": 0, "device": "cpu"}
    return kind("MlpPolicy", env or walks(), **{**arguments, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As `train` has it; for networks so small torch only waits for its threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tape() -> Tape:
    return load_markets(experiment()).train


def trading(tape: Tape, count: int = 8) -> TradingVecEnv:
    chosen = experiment(episode__bars=10)
    return TradingVecEnv(tape, chosen.account, count, episode_rules(chosen))


def adam(model: MaskablePPO) -> list[dict[str, Tensor]]:
    return [model.policy.optimizer.state[one] for one in model.policy.parameters()]


def scaling(width: int) -> Arrays:
    random = np.random.default_rng(width)
    return {
        "mean": random.normal(size=width).astype(np.float32),
        "factor": random.uniform(0.5, 2.0, size=width).astype(np.float32),
    }


# --- the arithmetic -------------------------------------------------------------------------------------------------


def test_tanh_is_exact_to_a_millionth() -> None:
    found = np.concatenate([np.geomspace(1e-30, 20.0, 20_000), [0.0, 1e30, np.inf]]).astype(np.float32)
    for sign in (1, -1):
        values = np.array([tanh(np.float32(sign * one)) for one in found])
        expected = np.tanh(sign * found.astype(np.float64))
        assert np.abs(values - expected).max() < 1e-6
        assert (np.abs(values - expected) <= 1e-6 * np.abs(expected)).all()
        assert (np.abs(values) <= 1.0).all()
    assert np.isnan(tanh(np.float32(np.nan)))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 70), inner=st.integers(1, 70), columns=st.integers(1, 150), seed=st.integers(0, 2**32 - 1))
def test_products_are_products_and_rows_do_not_meet(rows: int, inner: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = padded(rows, ROWS), padded(columns, LANES)
    a = random.normal(size=(rows, inner)).astype(np.float32)
    b = random.normal(size=(inner, columns)).astype(np.float32)
    start = random.normal(size=(rows, columns)).astype(np.float32)
    expected = a.astype(np.float64) @ b
    room = 1e-6 * (np.abs(a.astype(np.float64)) @ np.abs(b) + np.abs(start))
    fresh, added, turned = np.full((rows, columns), np.nan, np.float32), start.copy(), start.copy()
    multiply(a, b, fresh, inner, False)
    multiply(a, b, added, inner, True)
    multiply_transposed(np.ascontiguousarray(a.T), b, turned, inner, True)
    assert (np.abs(fresh - expected) <= room).all()
    assert (np.abs(added - start - expected) <= 2 * room).all()
    assert np.array_equal(added, turned)
    # The bits of a row are its own: the first tile alone gives them too.
    alone = np.empty((ROWS, columns), np.float32)
    multiply(a[:ROWS].copy(), b, alone, inner, False)
    assert np.array_equal(alone, fresh[:ROWS])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 20), count=st.integers(1, 5), gamma=st.floats(0, 1))
def test_advantages_are_those_of_the_buffer_to_the_bit(seed: int, steps: int, count: int, gamma: float) -> None:
    random = np.random.default_rng(seed)
    space, actions = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    buffer = MaskableRolloutBuffer(steps, space, actions, "cpu", random.random(), gamma, count)
    for name in ("rewards", "values"):
        setattr(buffer, name, random.normal(size=(steps, count)).astype(np.float32))
    buffer.episode_starts = (random.random((steps, count)) < 0.3).astype(np.float32)
    last, dones = random.normal(size=count).astype(np.float32), random.random(count) < 0.5
    buffer.compute_returns_and_advantage(torch.from_numpy(last), dones)
    advantages, returns = np.empty_like(buffer.rewards), np.empty_like(buffer.rewards)
    decay = buffer.gamma * buffer.gae_lambda
    generalised_advantages(
        buffer.rewards, buffer.values, buffer.episode_starts, last, dones, gamma, decay, advantages, returns
    )
    assert np.array_equal(advantages, buffer.advantages)
    assert np.array_equal(returns, buffer.returns)


# --- gradients ------------------------------------------------------------------------------------------------------


def autograd(
    policy: Any, samples: Samples, chosen: NDArray[np.int64], terms: Terms, states: Tensor, dtype: torch.dtype
) -> list[NDArray[np.float64]]:
    """The gradient of sb3-contrib's loss by torch, in the order of the parameters."""
    exact = copy.deepcopy(policy).to(dtype)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values[chosen]).to(dtype)

    features = exact.features_extractor(states[chosen].to(dtype))
    law = exact._get_action_dist_from_latent(exact.mlp_extractor.forward_actor(features))
    law.apply_masking(torch.from_numpy(samples.legal[chosen]))
    values = exact.value_net(exact.mlp_extractor.forward_critic(features)).flatten()
    advantages, old = tensor(samples.advantages), tensor(samples.values)
    if terms.normalize_advantage:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = torch.exp(law.log_prob(torch.from_numpy(samples.actions[chosen])) - tensor(samples.log_shares))
    clipped = torch.clamp(ratio, 1 - terms.clip_range, 1 + terms.clip_range)
    reach = terms.clip_range_value
    moved = values if reach < 0 else old + torch.clamp(values - old, -reach, reach)
    loss = -torch.min(advantages * ratio, advantages * clipped).mean()
    loss = loss - terms.entropy_weight * law.entropy().mean()
    loss = loss + terms.value_weight * nn.functional.mse_loss(tensor(samples.returns), moved)
    loss.backward()
    return [one.grad.numpy().astype(np.float64) for one in exact.parameters()]


def by_kernels(
    model: MaskablePPO, samples: Samples, chosen: NDArray[np.int64], terms: Terms
) -> list[NDArray[np.float64]]:
    network = network_of(model)
    layout = network.layout
    state = gathered_state(layout, model.policy.optimizer)  # type: ignore[arg-type]
    sums = minibatch_gradient(layout.table, samples, chosen, terms, state, layout.scratch())
    assert np.isfinite(sums).all()
    found = {id(one): torch.zeros_like(one) for one in model.policy.parameters()}
    layout.scatter(state.gradient, lambda parameter: found[id(parameter)])
    return [found[id(one)].numpy().astype(np.float64) for one in model.policy.parameters()]


WIDTHS = st.lists(st.integers(1, 70), max_size=3)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_gradients_are_those_of_autograd(data: st.DataObject) -> None:
    """Any architecture, any mask: within 1e-5 of what is shared, of the actor's part and of the critic's."""
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    width, actions, count = (data.draw(st.integers(*limits)) for limits in ((1, 40), (1, 20), (2, 150)))
    activation, shared = data.draw(st.sampled_from([nn.Tanh, nn.ReLU])), data.draw(WIDTHS)
    kwargs: dict[str, Any] = {
        "net_arch": {"pi": data.draw(WIDTHS), "vf": data.draw(WIDTHS)},
        "activation_fn": activation,
    }
    kind = data.draw(st.sampled_from(["plain", "scaled", "shared"] if shared else ["plain", "scaled"]))
    if kind != "plain":
        kwargs |= {"features_extractor_class": ScaledState, "features_extractor_kwargs": scaling(width)}
    if kind == "shared":
        more = {"widths": shared, "activation": activation}
        kwargs |= {"features_extractor_class": SharedLayers, "features_extractor_kwargs": scaling(width) | more}
    model = make(env=walks(1, shape=(width,), actions=actions), batch_size=16, policy_kwargs=kwargs)
    with torch.no_grad():
        for one in model.policy.parameters():
            one.mul_(random.uniform(0.5, 1.5)).add_(torch.from_numpy(random.normal(size=one.shape) * 0.1))
    # From all actions legal to one alone.
    legal = random.random((count, actions)) < data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    legal[np.arange(count), random.integers(actions, size=count)] = True
    taken = np.array([random.choice(np.flatnonzero(row)) for row in legal])
    states = torch.from_numpy(random.normal(size=(count, width)).astype(np.float32))
    with torch.no_grad():
        values, shares, _ = model.policy.evaluate_actions(states, torch.from_numpy(taken), torch.from_numpy(legal))
        scaled = states
        if kind != "plain":
            scaled = ScaledState.forward(model.policy.features_extractor, states)  # type: ignore[arg-type]

    def near(tensor: Tensor, spread: float) -> NDArray[np.float32]:
        return (tensor.numpy().ravel() + random.normal(size=count) * spread).astype(np.float32)

    samples = Samples(
        scaled.numpy(), legal, taken, near(shares, 0.2), near(values, 1.0), near(values * 0, 3.0), near(values, 1.0)
    )
    terms = Terms(0.2, data.draw(st.sampled_from([-1.0, 0.5])), 0.01, 0.5, data.draw(st.booleans()))
    chosen = random.permutation(count)
    found, names = by_kernels(model, samples, chosen, terms), [name for name, _ in model.policy.named_parameters()]
    for dtype in (torch.float64, torch.float32):
        expected = autograd(model.policy, samples, chosen, terms, states, dtype)
        whole = np.linalg.norm(np.concatenate([one.ravel() for one in expected]))
        for part in ("features", "policy_net|action_net", "value_net"):
            pairs = [
                (mine, its) for name, mine, its in zip(names, found, expected, strict=True) if re.search(part, name)
            ]
            error = np.linalg.norm([np.linalg.norm(mine - its) for mine, its in pairs])
            size = np.linalg.norm([np.linalg.norm(its) for _, its in pairs])
            # Where the parts of a sum cancel, what is left is dust of float32: a part may be as wrong as the whole is.
            assert error <= 1e-5 * size + 2e-6 * whole + 1e-9
        assert (
            np.linalg.norm([np.linalg.norm(a - b) for a, b in zip(found, expected, strict=True)]) <= 1e-5 * whole + 1e-9
        )


# --- one update -----------------------------------------------------------------------------------------------------


def twins(env: Any, **changes: Any) -> tuple[MaskablePPO, MaskablePPO]:
    """Ours and sb3-contrib's with the same weights, Adam state and rollout, before their second update."""
    ours, theirs = make(FastMaskablePPO, env, **changes), make(MaskablePPO, env, **changes)
    ours.learn(ours.n_steps * ours.n_envs)
    _, callback = ours._setup_learn(10**9, None, False)
    assert ours.collect_rollouts(ours.env, callback, ours.rollout_buffer, ours.n_steps)  # type: ignore[arg-type]
    theirs.learn(0)
    theirs.policy.load_state_dict(ours.policy.state_dict())
    theirs.policy.optimizer.load_state_dict(copy.deepcopy(ours.policy.optimizer.state_dict()))
    theirs.rollout_buffer = copy.deepcopy(ours.rollout_buffer)
    theirs._current_progress_remaining = ours._current_progress_remaining = 0.6
    theirs._n_updates = ours._n_updates
    return ours, theirs


def logged(model: MaskablePPO) -> dict[str, Any]:
    model.set_logger(Logger(None, []))
    np.random.seed(3)  # noqa: NPY002  (SB3 draws its minibatches from numpy's global generator)
    model.train()
    return {name: value for name, value in model.logger.name_to_value.items() if name.startswith("train/")}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ent_coef": 0.02, "vf_coef": 0.7, "clip_range_vf": 0.2, "max_grad_norm": 0.05},
        {"normalize_advantage": False, "batch_size": 8, "learning_rate": lambda left: 1e-3 * left},
        {"clip_range": lambda left: 0.3 * left, "clip_range_vf": lambda left: left, "batch_size": None},
        {"target_kl": 1e-4, "learning_rate": 3e-3, "n_epochs": 10},
        {"policy_kwargs": {"net_arch": [20, 20], "activation_fn": nn.ReLU, "optimizer_kwargs": {"weight_decay": 0.01}}},
        {
            "policy_kwargs": {
                "net_arch": {"pi": [], "vf": [33]},
                "optimizer_kwargs": {"betas": (0.8, 0.99), "eps": 1e-7},
            }
        },
    ],
    ids=["defaults", "coefficients", "rate", "schedules", "divergence", "relu", "uneven"],
)
def test_an_update_is_that_of_sb3(changes: dict[str, Any]) -> None:
    ours, theirs = twins(walks(), **changes)
    before = [one.detach().clone() for one in ours.policy.parameters()]
    found, expected = logged(ours), logged(theirs)
    for mine, its, start in zip(ours.policy.parameters(), theirs.policy.parameters(), before, strict=True):
        assert not torch.equal(mine, start)
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-5)
    for my_adam, its_adam in zip(adam(ours), adam(theirs), strict=True):
        assert my_adam.keys() == its_adam.keys()
        assert my_adam["step"] == its_adam["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(my_adam[name], its_adam[name], rtol=1e-3, atol=1e-5)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert ours._n_updates == theirs._n_updates
    for name, values in vars(theirs.rollout_buffer).items():
        if isinstance(values, np.ndarray):
            assert np.array_equal(getattr(ours.rollout_buffer, name), values), name


def test_the_divergence_ends_an_update_early() -> None:
    ours, theirs = twins(walks(), target_kl=1e-4, learning_rate=3e-3, n_epochs=10)
    before = ours._n_updates
    assert logged(ours)["train/n_updates"] == logged(theirs)["train/n_updates"] < before + 10


# --- a rollout ------------------------------------------------------------------------------------------------------


class Notes(BaseCallback):
    """Keeps what a callback is shown."""

    def __init__(self, stop_after: int = 10**9) -> None:
        super().__init__()
        self.steps: list[dict[str, Any]] = []
        self.buffers: list[MaskableRolloutBuffer] = []
        self._stop_after = stop_after

    def _on_step(self) -> bool:
        self.steps.append(
            {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in self.locals.items()}
        )
        return len(self.steps) < self._stop_after

    def _on_rollout_end(self) -> None:
        self.buffers.append(copy.deepcopy(self.model.rollout_buffer))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["trading", "walks", "monitored"])
def test_a_rollout_holds_what_happened(tape: Tape, kind: str) -> None:
    """The buffer against the steps as the callback saw them, and against torch's own view of the policy."""

    def env() -> VecEnv:
        if kind == "walks":
            return DummyVecEnv([Walk] * 4)
        return trading(tape, 4) if kind == "trading" else walks()

    model, notes = make(env=env(), n_steps=64, gamma=0.9), Notes()
    weights = copy.deepcopy(model.policy)
    model.learn(256, callback=notes)
    (buffer,), steps = notes.buffers, notes.steps
    assert buffer.full
    again = env()
    again.seed(0)
    states: Any = again.reset()
    starts = np.ones(4)
    ended: list[float] = []
    for step, seen in enumerate(steps):
        masks = np.stack(again.env_method("action_masks"))
        assert np.array_equal(seen["action_masks"], masks)
        assert np.array_equal(buffer.action_masks[step], masks)
        assert np.array_equal(buffer.observations[step], states)
        assert np.array_equal(buffer.episode_starts[step], starts)
        actions = buffer.actions[step, :, 0]
        assert masks[np.arange(4), actions].all()
        with torch.no_grad():
            values, shares, _ = weights.evaluate_actions(
                torch.as_tensor(states), torch.from_numpy(actions), torch.from_numpy(masks)
            )
        np.testing.assert_allclose(buffer.values[step], values.ravel(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(buffer.log_probs[step], shares, rtol=1e-5, atol=1e-6)
        states, rewards, dones, infos = again.step(actions)
        expected = rewards.copy()
        for index in np.flatnonzero(dones):
            ended.append(infos[index].get("episode", {}).get("r"))
            if infos[index]["TimeLimit.truncated"]:
                last = torch.as_tensor(infos[index]["terminal_observation"])[None]
                expected[index] += 0.9 * float(weights.predict_values(last).detach())
        np.testing.assert_allclose(buffer.rewards[step], expected, rtol=1e-5, atol=1e-6)
        assert np.array_equal(seen["rewards"], rewards)
        assert np.array_equal(seen["new_obs"], states)
        starts = dones
    assert len(ended) > 4
    episodes = [info["r"] for info in model.ep_info_buffer or ()]
    assert episodes == ([] if kind == "walks" else ended[-100:])


class TagLogger(Logger):
    """Keeps the tags of every dump."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.dumped: list[set[str]] = []

    def dump(self, step: int = 0) -> None:
        self.dumped.append(set(self.name_to_value))
        super().dump(step)


def test_callbacks_and_tags_are_those_of_sb3() -> None:
    seen: dict[str, tuple[Any, ...]] = {}
    for kind in (FastMaskablePPO, MaskablePPO):
        notes = Notes()
        model = make(kind, target_kl=0.1, clip_range_vf=0.2)
        logger = TagLogger(None, [])
        model.set_logger(logger)
        model.learn(192, callback=notes)
        shapes = {
            name: (type(value), tuple(value.shape), value.dtype)
            for name, value in notes.steps[0].items()
            if hasattr(value, "shape")
        }
        seen[kind.__name__] = (set(notes.steps[0]), shapes, logger.dumped, len(notes.steps), model.num_timesteps)
    ours, theirs = seen.values()
    assert ours[0] >= theirs[0]
    assert {name: ours[1][name] for name in theirs[1]} == theirs[1]
    assert ours[2:] == theirs[2:]


def test_a_callback_ends_the_training() -> None:
    model = make()
    before = weights_hash(model.policy)
    model.learn(640, callback=Notes(stop_after=5))
    assert model.num_timesteps == 20
    assert weights_hash(model.policy) == before


def test_samples_follow_the_probabilities() -> None:
    model = make(env=walks(64, forbidden=0.3), n_steps=256, batch_size=64 * 256, n_epochs=1)
    with torch.no_grad():
        model.policy.get_parameter("action_net.weight").mul_(250.0)
    policy: Any = copy.deepcopy(model.policy)
    notes = Notes()
    model.learn(1, callback=notes)
    (buffer,) = notes.buffers
    states, masks = (torch.from_numpy(one.reshape(64 * 256, -1)) for one in (buffer.observations, buffer.action_masks))
    with torch.no_grad():
        shares = policy.get_distribution(states, masks.bool()).distribution.probs.numpy()
    taken = np.eye(4)[buffer.actions.ravel()]
    # Within every band of probability, an action is taken as often as it should be.
    for low, high in itertools.pairwise([1e-9, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99]):
        band = (shares > low) & (shares <= high)
        deviation = np.sqrt((shares * (1 - shares))[band].sum())
        assert band.sum() > 100
        assert abs((taken - shares)[band].sum()) < 4.5 * deviation


@pytest.mark.parametrize(("shape", "dtype"), [((2, 3), np.float64), ((5,), np.int64)])
def test_other_boxes_are_taken(shape: tuple[int, ...], dtype: Any) -> None:
    with capture_logs() as lines:
        ours = make(env=walks(shape=shape, dtype=dtype)).learn(128)
    assert lines == []
    assert weights_hash(ours.policy) != weights_hash(make(env=walks(shape=shape, dtype=dtype)).policy)


def test_without_masks_every_action_counts() -> None:
    model, notes = make(), Notes()
    model.learn(64, callback=notes, use_masking=False)
    assert notes.steps[0]["action_masks"] is None
    assert notes.buffers[0].action_masks.all()


# --- files and seeds ------------------------------------------------------------------------------------------------


def test_a_saved_zip_is_one_of_sb3(tape: Tape) -> None:
    chosen = scaling(trading(tape).observation_space.shape[0])  # type: ignore[index]
    layer = {"features_extractor_class": ScaledState, "features_extractor_kwargs": chosen}
    model = make(env=trading(tape), policy_kwargs=layer).learn(256)
    file = io.BytesIO()
    model.save(file)
    for kind in (MaskablePPO, FastMaskablePPO):
        file.seek(0)
        loaded = kind.load(file, env=trading(tape), device="cpu")
        assert type(loaded) is kind
        assert weights_hash(loaded.policy) == weights_hash(model.policy)
        for mine, its in zip(adam(model), adam(loaded), strict=True):
            assert all(torch.equal(mine[name], its[name]) for name in mine)
        envs: Any = loaded.env
        states, masks = envs.reset(), envs.action_masks()
        for deterministic in (True, False):
            torch.manual_seed(1)
            expected = model.predict(states, action_masks=masks, deterministic=deterministic)[0]
            torch.manual_seed(1)
            assert np.array_equal(loaded.predict(states, action_masks=masks, deterministic=deterministic)[0], expected)
        loaded.learn(256)


def test_adam_goes_on_after_a_load() -> None:
    model, _ = twins(walks())
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = FastMaskablePPO.load(file, env=walks(), device="cpu")
    loaded.rollout_buffer = copy.deepcopy(model.rollout_buffer)
    loaded._current_progress_remaining = model._current_progress_remaining
    fresh = copy.deepcopy(loaded.rollout_buffer)
    logged(model)
    logged(loaded)
    assert weights_hash(loaded.policy) == weights_hash(model.policy)
    # Without Adam's state the same update ends elsewhere.
    file.seek(0)
    forgetful = FastMaskablePPO.load(file, env=walks(), device="cpu")
    forgetful.policy.optimizer.state.clear()
    forgetful.rollout_buffer = fresh
    forgetful._current_progress_remaining = model._current_progress_remaining
    logged(forgetful)
    assert weights_hash(forgetful.policy) != weights_hash(model.policy)


def test_a_seed_fixes_the_weights(tape: Tape) -> None:
    hashes = [weights_hash(make(env=trading(tape), seed=seed).learn(512).policy) for seed in (5, 5, 6)]
    assert hashes[0] == hashes[1] != hashes[2]


# --- what the kernels do not take -----------------------------------------------------------------------------------


class OwnPolicy(MaskableActorCriticPolicy):
    """A user's own."""


@pytest.mark.parametrize(
    ("env", "changes", "reason"),
    [
        ({}, {"policy_kwargs": {"activation_fn": nn.ELU}}, "the activation is ELU"),
        ({}, {"policy_kwargs": {"optimizer_class": torch.optim.AdamW}}, "the optimiser is AdamW"),
        ({}, {"policy_kwargs": {"optimizer_kwargs": {"amsgrad": True}}}, "amsgrad=True"),
        ({"actions": spaces.MultiDiscrete([2, 3])}, {}, "the actions are MultiDiscrete"),
        ({}, {"policy": OwnPolicy}, "the policy is a OwnPolicy"),
    ],
)
def test_what_the_kernels_do_not_take_trains_on_sb3(env: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    settings_of = {"policy": "MlpPolicy", "n_steps": 16, "batch_size": 32, "seed": 0, "device": "cpu", **changes}
    with capture_logs() as lines:
        ours = FastMaskablePPO(env=walks(**env), **settings_of).learn(192)
    assert len(lines) == 1
    assert lines[0]["log_level"] == "warning"
    assert reason in lines[0]["reason"]
    assert weights_hash(ours.policy) == weights_hash(MaskablePPO(env=walks(**env), **settings_of).learn(192).policy)


def test_a_frozen_weight_is_not_trained() -> None:
    model = make()
    model.policy.value_net.bias.requires_grad_(False)
    with capture_logs() as lines:
        model.learn(64)
    assert "value_net.bias is frozen" in lines[0]["reason"]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 30},
            r"divides the rollout of 16 steps x 4 environments = 64, found 30; the nearest below is 16",
        ),
        ({"batch_size": 128}, r"found 128; the nearest below is 64"),
        ({"batch_size": 0}, r"found 0; the nearest below is 1"),
        ({"batch_size": 1}, r"raise batch_size above 1, or set normalize_advantage=False"),
        ({"n_epochs": 0}, r"n_epochs of at least 1, found 0"),
        ({"n_steps": 0}, r"n_steps of at least 1, found 0"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm above 0, found 0"),
    ],
)
def test_numbers_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("name", ["advantages", "returns", "log_probs", "observations"])
def test_a_nan_in_the_rollout_stops_before_anything_is_written(name: str) -> None:
    model, _ = twins(walks())
    getattr(model.rollout_buffer, name)[3, 2] = np.nan
    before, state = weights_hash(model.policy), copy.deepcopy(adam(model))
    with pytest.raises(NotFinite, match=r"in minibatch [12] of 2, epoch 1 of this update \(.*nan"):
        model.train()
    assert weights_hash(model.policy) == before
    for mine, its in zip(adam(model), state, strict=True):
        assert all(torch.equal(mine[one], its[one]) for one in mine)


def test_a_nan_of_a_later_epoch_takes_the_whole_update_back() -> None:
    model, _ = twins(walks(), n_epochs=5, max_grad_norm=1e30)
    model.lr_schedule = lambda left: 1e18
    before = weights_hash(model.policy)
    with pytest.raises(NotFinite, match=r"minibatch 2 of 2, epoch 1|epoch [2-5] of this update"):
        model.train()
    assert weights_hash(model.policy) == before


def test_a_weight_that_is_nan_is_not_hidden_by_a_mask_or_a_relu() -> None:
    for name in ("action_net.weight", "mlp_extractor.policy_net.0.weight", "mlp_extractor.value_net.2.bias"):
        model = make(policy_kwargs={"activation_fn": nn.ReLU})
        with torch.no_grad():
            model.policy.get_parameter(name)[0] = np.nan
        with pytest.raises(NotFinite, match="environment 0 is not finite; look at its weights"):
            model.learn(64)


def test_an_environment_without_a_legal_action_is_named() -> None:
    with pytest.raises(ValueError, match="at least one legal action in every environment, found none in environment 0"):
        make(env=walks(forbidden=1.5)).learn(64)
