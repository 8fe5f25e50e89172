"""Checkpoints: everything that an exact resume needs, written whole or not at all."""

import hashlib
import io
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from finsense.agents.learner import Learner
from finsense.agents.validation import Verdict
from finsense.envs.vector import TradingVecEnv

MODEL, BEST, ARRAYS, MEMORY, PROGRESS = "model.zip", "best.zip", "arrays.npz", "memory.npz", "progress.json"
_KEPT = 2
# The state of the GPU's generator, which draws the actions there; in the arrays of a model that lies on one.
_GPU_RANDOM = "gpu_random"
# Writes one file. A replay buffer is written from where it lies, not copied first.
Write = Callable[[BinaryIO], object]


class CheckpointError(ValueError):
    """A checkpoint that is missing or damaged."""


@dataclass
class Best:
    """The best weights so far.

    Attributes:
        steps: environment steps after which they were reached.
        verdict: what they did on the validation span.
        weights: Stable-Baselines3's zip of them.
    """

    steps: int
    verdict: Verdict
    weights: bytes


def saved_weights(model: BaseAlgorithm) -> bytes:
    """Stable-Baselines3's zip of a model; it loads in plain sb3-contrib."""
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def save_checkpoint(
    folder: Path, learner: Learner, model: BaseAlgorithm, envs: TradingVecEnv, best: Best | None, evaluated: int
) -> Path:
    """Write a checkpoint between two rollouts; only the last ones are kept.

    Args:
        folder: of all checkpoints.
        learner: the kind of the model.
        model: what is trained.
        envs: what it trains on.
        best: the best weights so far.
        evaluated: environment steps at the last evaluation.

    Raises:
        OSError: it cannot be written; the checkpoints before it are untouched.
    """
    weights = saved_weights(model)
    files: dict[str, Write] = {
        MODEL: lambda file: file.write(weights),
        ARRAYS: partial(write_arrays, arrays=_arrays(model, envs)),
        MEMORY: partial(write_arrays, arrays=learner.memory(model)),
    }
    if best is not None:
        files[BEST] = lambda file: file.write(best.weights)
    progress = {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "evaluated": evaluated,
        "best": None if best is None else {"steps": best.steps, "verdict": best.verdict.as_dict()},
        "episodes": [{name: info[name] for name in ("r", "l", "t")} for info in model.ep_info_buffer or ()],
    }
    return keep_checkpoint(folder, model.num_timesteps, files, progress)


def restore_checkpoint(
    folder: Path, learner: Learner, model: BaseAlgorithm, envs: TradingVecEnv
) -> tuple[Best | None, int]:
    """Put a fresh model and fresh environments where the newest checkpoint left them.

    Returns:
        The best weights so far, and the environment steps at the last evaluation.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path, progress = newest_checkpoint(folder)
    model.set_parameters(io.BytesIO((path / MODEL).read_bytes()), device="cpu")  # type: ignore[arg-type]
    with np.load(path / ARRAYS, allow_pickle=False) as arrays:
        _restore_arrays(arrays, model, envs)
    with np.load(path / MEMORY, allow_pickle=False) as memory:
        learner.restore_memory(model, memory)
    model.num_timesteps = progress["steps"]
    model._n_updates = progress["updates"]
    model.ep_info_buffer = deque(progress["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
    best = progress["best"]
    if best is None:
        return None, progress["evaluated"]
    verdict = Verdict.from_dict(best["verdict"])
    return Best(best["steps"], verdict, (path / BEST).read_bytes()), progress["evaluated"]


def _arrays(model: BaseAlgorithm, envs: TradingVecEnv) -> dict[str, Any]:
    # SB3 draws its minibatches from numpy's global generator.
    _, keys, position, has_gauss, cached_gauss = np.random.get_state()  # noqa: NPY002
    on_gpu = model.device.type == "cuda"
    return {
        **({_GPU_RANDOM: torch.cuda.get_rng_state(model.device).numpy()} if on_gpu else {}),
        **envs.state_arrays(),
        "last_observations": np.asarray(model._last_obs),
        "last_episode_starts": np.asarray(model._last_episode_starts),
        "torch_random": torch.get_rng_state().numpy(),
        "numpy_random_keys": np.asarray(keys),
        "numpy_random_rest": np.array([position, has_gauss, cached_gauss], np.float64),
    }


def _restore_arrays(arrays: Any, model: BaseAlgorithm, envs: TradingVecEnv) -> None:
    for name, array in envs.state_arrays().items():
        array[...] = arrays[name]
    model._last_obs = arrays["last_observations"]
    model._last_episode_starts = arrays["last_episode_starts"]
    torch.set_rng_state(torch.from_numpy(arrays["torch_random"]))
    if model.device.type == "cuda" and _GPU_RANDOM in arrays:
        torch.cuda.set_rng_state(torch.from_numpy(arrays[_GPU_RANDOM]), model.device)
    position, has_gauss, cached_gauss = arrays["numpy_random_rest"].tolist()
    keys = arrays["numpy_random_keys"]
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached_gauss))  # noqa: NPY002


def keep_checkpoint(folder: Path, steps: int, files: Mapping[str, Write], progress: dict[str, Any]) -> Path:
    """Write a checkpoint, all of it or nothing; only the last ones are kept.

    Args:
        folder: of all checkpoints.
        steps: done so far; it names the checkpoint.
        files: name -> what writes it.
        progress: JSON values that `newest_checkpoint` gives back.

    Raises:
        OSError: it cannot be written; the checkpoints before it are untouched.
    """
    path = folder / f"step_{steps:012d}"
    _write_whole(path, files, progress)
    for old in _found(folder)[:-_KEPT]:
        shutil.rmtree(old)
    return path


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint and its progress, once every file of it is known to be what was written.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    found = _found(folder)
    if not found:
        raise CheckpointError(f"expected a checkpoint in {folder}, found none; start the run anew")
    return found[-1], _verified(found[-1])


def _found(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted(folder.glob("step_*"))


def _verified(path: Path) -> dict[str, Any]:
    """The progress that a checkpoint tells, once every file of it is known to be what was written."""
    advice = f"remove {path} to go on from the checkpoint before it, or start the run anew"
    try:
        progress: dict[str, Any] = json.loads((path / PROGRESS).read_bytes())
        found = {name: _digest(path / name) for name in progress["sha256"]}
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read ({error}); {advice}") from error
    for name, expected in progress["sha256"].items():
        if found[name] != expected:
            raise CheckpointError(
                f"{path / name} was changed after it was saved: expected SHA-256 {expected}, found {found[name]}; "
                f"{advice}"
            )
    return progress


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(file: BinaryIO, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, as numpy does."""
    np.savez(file, **arrays)  # type: ignore[arg-type]


def _write_whole(path: Path, files: Mapping[str, Write], progress: dict[str, Any]) -> None:
    """Write the files and, last, the progress with the hash of each; all of it or nothing."""
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        for name, write in files.items():
            _write_file(fresh / name, write)
        told = {**progress, "sha256": {name: _digest(fresh / name) for name in files}}
        text = json.dumps(told, indent=2).encode()
        _write_file(fresh / PROGRESS, lambda file: file.write(text))
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_file(path: Path, write: Write) -> None:
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
