"""Laws of the masked DQN: no masked action is chosen, targets are as defined, draws follow the weights."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from finsense.agents.kernels.adam import Adam
from finsense.agents.masked_dqn.choosing import choose_in_kernels, explored
from finsense.agents.masked_dqn.memory import SharedMemory
from finsense.agents.masked_dqn.policies import DuelingPolicy, DuelingQNetwork
from finsense.agents.masked_dqn.replay import MaskedReplayBuffer
from finsense.agents.masked_dqn.ring import Batch, fill_batch, look_ahead, new_batch
from finsense.agents.masked_dqn.sum_tree import draw, find, new_tree, rebuild, reweigh, set_weight
from finsense.agents.masked_dqn.torch_update import masked_loss
from finsense.agents.masked_dqn.update import FIGURES, Target, batch_gradient, run_updates, write_targets
from finsense.agents.network import MaskedGreedy

SEEDS = st.integers(0, 2**32 - 1)
WIDTH, ACTIONS = 3, 4
OBSERVATIONS = spaces.Box(-1e9, 1e9, (WIDTH,), np.float32)


def legal_masks(random: np.random.Generator, *shape: int) -> NDArray[np.bool_]:
    """Random masks with at least one legal action each."""
    masks = random.random((*shape, ACTIONS)) < 0.5
    masks[..., 0] |= ~masks.any(axis=-1)
    return masks


# --- choices --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, epsilon=st.sampled_from([0.0, 0.3, 1.0]), rows=st.integers(1, 20), ties=st.booleans())
def test_no_masked_action_is_chosen(seed: int, epsilon: float, rows: int, ties: bool) -> None:
    random = np.random.default_rng(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (SB3's generator)
    scores = np.zeros((rows, ACTIONS), np.float32) if ties else random.normal(0, 1e3, (rows, ACTIONS)).astype("f4")
    masks = legal_masks(random, rows)
    actions = explored(scores, masks, epsilon)
    assert masks[np.arange(rows), actions].all()
    if epsilon == 0.0:
        assert np.array_equal(actions, np.where(masks, scores, -np.inf).argmax(axis=1))


def test_exploring_is_fair_among_the_legal_and_each_row_explores_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    masks = np.tile([True, False, True, True], (60_000, 1))
    scores = np.tile(np.array([0, 9, 5, 1], np.float32), (60_000, 1))
    shares = np.bincount(explored(scores, masks, 0.6), minlength=4) / 60_000
    assert shares == pytest.approx([0.2, 0.0, 0.6, 0.2], abs=0.01)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_the_exported_decision_is_legal_whatever_the_network_says(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks, scores = legal_masks(random, 16), random.normal(0, 10 ** random.uniform(-3, 6), (16, ACTIONS))
    actor = MaskedGreedy(nn.Identity(), temperature=0.5)
    action, shares = actor(torch.from_numpy(scores.astype(np.float32)), torch.from_numpy(masks))
    assert masks[np.arange(16), action.numpy()].all()
    assert (shares.numpy()[~masks] == 0.0).all()
    assert np.array_equal(action.numpy(), np.where(masks, scores.astype(np.float32), -np.inf).argmax(axis=1))


# --- the replay -----------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One environment's step as a plain list would remember it."""

    observation: NDArray[np.float32]
    mask: NDArray[np.bool_]
    action: int
    reward: float
    done: bool
    truncated: bool
    following: NDArray[np.float32]
    following_mask: NDArray[np.bool_]


def filled(
    random: np.random.Generator, steps: int, envs: int, rows: int, n_steps: int, alpha: float = 0.0
) -> tuple[MaskedReplayBuffer, list[list[Step]]]:
    """A buffer after so many steps of a made-up world, and what happened in each environment."""
    buffer = MaskedReplayBuffer(
        rows * envs, OBSERVATIONS, spaces.Discrete(ACTIONS), "cpu", envs, n_steps=n_steps, gamma=0.9,
        priority_exponent=alpha,
    )  # fmt: skip
    history: list[list[Step]] = [[] for _ in range(envs)]
    ends = random.uniform(0.05, 0.9)
    seen, masks = random.normal(size=(envs, WIDTH)).astype(np.float32), legal_masks(random, envs)
    for _ in range(steps):
        following, following_masks = random.normal(size=(envs, WIDTH)).astype(np.float32), legal_masks(random, envs)
        dones, truncated = random.random(envs) < ends, random.random(envs) < 0.6
        actions, rewards = random.integers(0, ACTIONS, envs), random.normal(size=envs).astype(np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(envs)]
        for env in range(envs):
            after = following[env], following_masks[env]
            if dones[env]:
                after = random.normal(size=WIDTH).astype(np.float32), legal_masks(random, 1)[0]
                infos[env] = {
                    "terminal_observation": after[0],
                    "terminal_action_mask": after[1],
                    "TimeLimit.truncated": bool(truncated[env]),
                }
            cut = bool(dones[env] and truncated[env])
            history[env].append(
                Step(seen[env], masks[env], int(actions[env]), float(rewards[env]), bool(dones[env]), cut, *after)
            )
        buffer.add(seen, following, actions, rewards, dones, infos, masks, following_masks)
        seen, masks = following, following_masks
    return buffer, history


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    steps=st.integers(1, 60),
    envs=st.integers(1, 4),
    rows=st.integers(1, 12),
    n_steps=st.integers(1, 6),
)
def test_n_step_targets_are_what_happened(seed: int, steps: int, envs: int, rows: int, n_steps: int) -> None:
    buffer, history = filled(np.random.default_rng(seed), steps, envs, rows, n_steps)
    assert buffer.size() == min(steps, rows)
    ring, law = buffer.ring, buffer.law(1.0)
    for age in range(buffer.size()):
        row = (buffer.pos - 1 - age) % buffer.buffer_size
        for env in range(envs):
            path = history[env][steps - 1 - age :][:n_steps]
            expected, factor = 0.0, 1.0
            for last in path:
                expected += factor * last.reward
                factor *= 0.9
                if last.done:
                    break
            total, discount, place, final = look_ahead(ring, buffer.pos, law, row, env)
            assert total == pytest.approx(expected, rel=1e-12, abs=1e-12)
            assert np.array_equal(ring.observations[row, env], path[0].observation)
            assert np.array_equal(ring.masks[row, env], path[0].mask)
            assert ring.actions[row, env] == path[0].action
            if last.done and not last.truncated:
                assert discount == 0.0
                continue
            assert discount == pytest.approx(factor, rel=1e-12)
            assert final == last.truncated
            observations, masks = (ring.finals, ring.final_masks) if final else (ring.observations[:, env], ring.masks)
            assert np.array_equal(observations[place], last.following)
            assert np.array_equal(masks[place] if final else masks[place, env], last.following_mask)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, steps=st.integers(1, 40), envs=st.integers(1, 3), alpha=st.sampled_from([0.0, 0.6]))
def test_a_drawn_minibatch_is_made_of_transitions(seed: int, steps: int, envs: int, alpha: float) -> None:
    buffer, history = filled(np.random.default_rng(seed), steps, envs, 10, 1, alpha)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    batch = buffer.draw(32, beta=0.5)
    kept = [one for path in history for one in path[-10:]]
    for index in range(32):
        found = [one for one in kept if np.array_equal(one.observation, batch.observations[index])]
        assert len(found) == 1
        assert batch.actions[index] == found[0].action
        assert batch.returns[index] == np.float32(found[0].reward)
        if found[0].done and not found[0].truncated:
            assert batch.discounts[index] == 0.0
        else:
            assert np.array_equal(batch.next_observations[index], found[0].following)
            assert np.array_equal(batch.next_masks[index], found[0].following_mask)
    assert batch.weights == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, steps=st.integers(0, 40), alpha=st.sampled_from([0.0, 0.7]))
def test_a_restored_buffer_goes_on_alike(seed: int, steps: int, alpha: float) -> None:
    random = np.random.default_rng(seed)
    buffer, _ = filled(random, steps, 3, 8, 2, alpha)
    if steps and alpha:
        batch = buffer.draw(16)
        buffer.reweigh(batch.leaves, random.exponential(size=16))
    fresh, _ = filled(random, 0, 3, 8, 2, alpha)
    fresh.restore({name: array.copy() for name, array in buffer.arrays().items()})
    for one in (buffer, fresh):
        again = np.random.default_rng(seed)
        for _ in range(15):
            seen = again.normal(size=(3, WIDTH)).astype(np.float32)
            dones = again.random(3) < 0.4
            info = {"TimeLimit.truncated": True, "terminal_observation": seen[0], "terminal_action_mask": [1, 0, 0, 1]}
            masks = legal_masks(again, 3)
            one.add(seen, seen + 1, np.zeros(3), np.ones(3), dones, [info] * 3, masks, masks)
    assert buffer.arrays().keys() == fresh.arrays().keys()
    for name, array in buffer.arrays().items():
        if name != "final_places":
            assert np.array_equal(array, fresh.arrays()[name]), name
    assert np.array_equal(buffer._tree, fresh._tree)
    for n_row in range(buffer.buffer_size):
        for env in range(3):
            if buffer.timeouts[n_row, env]:
                places = [int(one.ring.final_places[n_row, env] % len(one.ring.finals)) for one in (buffer, fresh)]
                assert np.array_equal(buffer.ring.finals[places[0]], fresh.ring.finals[places[1]])


def test_a_cut_episode_without_the_mask_of_its_end_is_refused() -> None:
    buffer, _ = filled(np.random.default_rng(0), 0, 1, 8, 1)
    seen, masks = np.zeros((1, WIDTH), np.float32), np.ones((1, ACTIONS), np.bool_)
    info = {"TimeLimit.truncated": True, "terminal_observation": seen[0]}
    with pytest.raises(ValueError, match="its info lacks terminal_action_mask"):
        buffer.add(seen, seen, np.zeros(1), np.zeros(1), np.ones(1, np.bool_), [info], masks, masks)


# --- priorities -----------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 1e9]), min_size=1, max_size=40).filter(any),
    places=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30),
)
def test_a_leaf_is_found_at_its_place_and_never_one_without_weight(weights: list[float], places: list[float]) -> None:
    tree = new_tree(len(weights))
    for leaf, weight in enumerate(weights):
        set_weight(tree, leaf, weight)
    again = new_tree(len(weights))
    again[len(again) // 2 :][: len(weights)] = weights
    rebuild(again)
    assert np.array_equal(tree, again)
    for place in places:
        leaf = find(tree, place * tree[1])
        assert weights[leaf] > 0.0
        begin = sum(weights[:leaf])
        room = 1e-9 * tree[1]
        assert begin - room <= place * tree[1] <= begin + weights[leaf] + room


def test_draws_follow_the_priorities_and_the_loss_undoes_them() -> None:
    random = np.random.default_rng(1)
    buffer, _ = filled(random, 30, 2, 20, 1, alpha=0.5)
    rows = (buffer.pos - 1 - np.arange(20)) % buffer.buffer_size
    leaves = (rows[:, None] * 2 + np.arange(2)).ravel()
    errors = random.exponential(size=40)
    buffer.reweigh(leaves, errors)
    expected = np.sqrt(errors + 1e-6)
    expected /= expected.sum()
    np.random.seed(2)  # noqa: NPY002
    counts = np.zeros(buffer.buffer_size * 2)
    for _ in range(400):
        batch = buffer.draw(100, beta=0.7)
        np.add.at(counts, batch.leaves, 1)
    shares = counts[leaves] / counts.sum()
    assert counts[leaves].sum() == counts.sum()
    # Drawn in slices, the spread is below the binomial one.
    assert np.abs(shares - expected).max() < 5 * np.sqrt(expected.max() / 40_000)
    chances = dict(zip(leaves.tolist(), expected.tolist(), strict=True))
    raw = np.array([(40 * chances[leaf]) ** -0.7 for leaf in batch.leaves.tolist()])
    assert batch.weights == pytest.approx(raw / raw.max(), rel=1e-5)


def test_reweighing_knows_the_largest_weight() -> None:
    tree = new_tree(4)
    assert reweigh(tree, np.array([1, 3, 1]), np.array([3.0, 8.0, 1.0]), 1.0, 2.0) == pytest.approx(8.0 + 1e-6)
    assert tree[len(tree) // 2 :][:4] == pytest.approx([0.0, 1.0 + 1e-6, 0.0, 8.0 + 1e-6])
    drawn = np.empty(2, np.int64)
    draw(tree, np.array([0.0, 0.999]), drawn)
    assert drawn.tolist() == [1, 3]


# --- the update -----------------------------------------------------------------------------------------------------


class Nets(NamedTuple):
    """Networks of one policy, with their twin in the kernels' memory."""

    online: QNetwork
    target: QNetwork
    memory: SharedMemory


def nets(seed: int, dueling: bool, widths: tuple[int, ...], activation: type[nn.Module] = nn.Tanh) -> Nets:
    torch.manual_seed(seed)
    kind = DuelingPolicy if dueling else DQNPolicy
    policy = kind(OBSERVATIONS, spaces.Discrete(ACTIONS), lambda _: 1e-3, list(widths), activation)
    with torch.no_grad():
        for parameter in policy.q_net_target.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return Nets(policy.q_net, policy.q_net_target, SharedMemory(policy.q_net, policy.q_net_target, policy.optimizer))


def random_batch(seed: int, size: int, empty: bool = False) -> Batch:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(2, size, WIDTH)).astype(np.float32)
    masks = legal_masks(random, size)
    if empty:
        masks[::3] = False
    return Batch(
        np.arange(size),
        rows[0],
        random.integers(0, ACTIONS, size),
        random.normal(0, 2, size).astype(np.float32),
        (random.random(size) * (random.random(size) < 0.7)).astype(np.float32),
        rows[1],
        masks,
        random.uniform(0.1, 1.0, size).astype(np.float32),
    )


def _promise(network: Any, promise: float) -> None:
    """Raise the Q value of action 2 everywhere."""
    with torch.no_grad():
        if isinstance(network, DuelingQNetwork):
            # Q = V + A - mean(A): the promise must not sink the others.
            network.value[-1].bias[0] += promise / ACTIONS  # type: ignore[operator, index]
            network.advantages[-1].bias[2] += promise  # type: ignore[operator, index]
        else:
            network.q_net[-1].bias[2] += promise


SHAPES = st.sampled_from([(True, (8,)), (True, (8, 5)), (True, ()), (False, (8,)), (False, (7, 9, 3))])


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, shape=SHAPES, size=st.sampled_from([1, 5, 64, 100]), double=st.booleans(), relu=st.booleans())
def test_the_gradient_is_that_of_autograd(
    seed: int, shape: tuple[bool, tuple[int, ...]], size: int, double: bool, relu: bool
) -> None:
    dueling, widths = shape
    online, target, memory = nets(seed, dueling, widths, nn.ReLU if relu else nn.Tanh)
    batch = random_batch(seed, size, empty=True)
    buffer, _ = filled(np.random.default_rng(0), 0, 1, 4, 1)
    expected = masked_loss(online, target, buffer.tensors(batch), double)
    expected.loss.backward()  # type: ignore[no-untyped-call]
    targets, errors, figures = np.zeros(size), np.zeros(size), np.zeros(FIGURES)
    table, scaling, scratch = memory.layout.table, memory.scaling, memory.scratch
    write_targets(
        table, dueling, batch, Target(memory.target, double), memory.state.weights, scaling, scratch, targets
    )  # fmt: skip
    batch_gradient(table, dueling, batch, targets, scaling, memory.state, scratch, errors, figures)
    assert figures[0] == pytest.approx(float(expected.loss.detach()), rel=1e-5, abs=1e-6)
    assert errors == pytest.approx(expected.errors, rel=1e-4, abs=1e-5)
    found = np.concatenate([one.ravel() for one in gradients(memory)])
    wanted = torch.cat([one.grad.flatten() for one in memory.layout.parameters() if one.grad is not None]).numpy()
    assert np.linalg.norm(found - wanted) <= 1e-5 * np.linalg.norm(wanted) + 1e-7


def gradients(memory: SharedMemory) -> list[NDArray[np.float32]]:
    """The gradient in the shapes of torch's parameters."""
    copies: list[NDArray[np.float32]] = []

    def keep(parameter: torch.Tensor) -> torch.Tensor:
        copies.append(np.zeros(parameter.shape, np.float32))
        return torch.from_numpy(copies[-1])

    memory.layout.scatter(memory.state.gradient, keep)
    return copies


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, dueling=st.booleans(), double=st.booleans())
def test_what_is_not_legal_never_enters_a_target(seed: int, dueling: bool, double: bool) -> None:
    """The networks promise everything for one action; where it is masked, nobody believes them."""
    online, target, memory = nets(seed, dueling, (6,))
    batch = random_batch(seed, 30)
    batch.next_masks[:, 2] = False
    batch.next_masks[:, 0] = True
    found = []
    for promise in (0.0, 1e6):
        for network in (online, target):
            _promise(network, promise)
        targets = np.zeros(30)
        write_targets(
            memory.layout.table, dueling, batch, Target(memory.target, double), memory.state.weights, memory.scaling,
            memory.scratch, targets,
        )  # fmt: skip
        found.append(targets)
    # A million leaves float32 a few hundredths.
    assert found[1] == pytest.approx(found[0], abs=0.3)
    assert np.abs(found[1]).max() < 1e3


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("dueling", [False, True])
def test_an_update_is_that_of_torch(dueling: bool, alpha: float) -> None:
    """Draws, targets, clipping and Adam: the weights after each of five updates."""
    mine, its = nets(3, dueling, (16, 8)), nets(3, dueling, (16, 8))
    buffers = [filled(np.random.default_rng(4), 40, 4, 30, 3, alpha)[0] for _ in range(2)]
    optimiser = torch.optim.Adam(its.online.parameters(), lr=1e-2)
    uniforms = np.random.default_rng(5).random((5, 48))
    for update in range(5):
        ring = buffers[0].ring
        done, buffers[0].largest_weight = run_updates(
            mine.memory.layout.table, dueling, ring, buffers[0].pos, buffers[0].size(), buffers[0].law(0.5), alpha,
            uniforms[update : update + 1], new_batch(48, ring), Target(mine.memory.target, True), mine.memory.scaling,
            Adam(0.5, 1e-2, 0.9, 0.999, 1e-8, 0.0), mine.memory.state, mine.memory.scratch, update,
            buffers[0].largest_weight, np.zeros((1, FIGURES)),
        )  # fmt: skip
        assert done == 1
        ring = buffers[1].ring
        batch = new_batch(48, ring)
        fill_batch(ring, buffers[1].pos, buffers[1].size(), buffers[1].law(0.5), uniforms[update], batch)
        found = masked_loss(its.online, its.target, buffers[1].tensors(batch), True)
        optimiser.zero_grad()
        found.loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(its.online.parameters(), 0.5)
        optimiser.step()
        buffers[1].reweigh(batch.leaves, found.errors)
        for one, other in zip(mine.online.parameters(), its.online.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-5)
    assert np.allclose(buffers[0]._tree, buffers[1]._tree, rtol=1e-3)


def test_the_kernels_decide_as_the_network() -> None:
    for dueling in (False, True):
        online, _, memory = nets(1, dueling, (16, 16))
        random = np.random.default_rng(2)
        states, masks = random.normal(size=(150, WIDTH)).astype(np.float32), legal_masks(random, 150)
        with torch.no_grad():
            scores = online(torch.from_numpy(states)).numpy()
        assert np.array_equal(
            choose_in_kernels(memory)(states, masks, 0.0), np.where(masks, scores, -np.inf).argmax(axis=1)
        )
