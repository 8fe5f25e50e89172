"""Finds the runs under a folder and reads what they left: settings, state, score, and the curve of evaluations."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finsense.agents.occupancy import is_occupied
from finsense.agents.run_folder import BUNDLE, CHECKPOINTS, CONFIG, MANIFEST, TENSORBOARD, RunError
from finsense.agents.run_record import read_json, read_result

# Of a group of seeds, whose own folder is no run.
_GROUP = "group.json"
_PROGRESS = "progress.json"
METRIC = "log_return"

State = Literal["running", "stopped", "finished", "failed", "pruned", "damaged"]


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        path: its folder.
        label: the folder as seen from where the runs lie, such as `20261121-072323_small_243e09/seed_3`.
        name: of the experiment; empty where it is damaged, as are the next two.
        kind: of the agent.
        seed: of the training; None where it is damaged.
        state: `stopped` is what can be resumed, also after a crash; `pruned` is a trial that a search stopped early;
            `damaged` is what cannot be read.
        steps: environment steps of the newest checkpoint.
        total: environment steps asked for.
        validation: figures of the best weights; empty before the first evaluation that was saved.
        started_ns: when it was begun, by the file system.
        bundle: its folder, if it is there.
        error: why it failed, or what is damaged.
    """

    path: Path
    label: str
    name: str
    kind: str
    seed: int | None
    state: State
    steps: int
    total: int
    validation: Mapping[str, Any]
    started_ns: int
    bundle: Path | None
    error: str = ""

    @property
    def score(self) -> float | None:
        """The figure by which weights, seeds and trials are compared."""
        return self.validation.get(METRIC)


def find_runs(root: Path) -> list[RunRecord]:
    """Every run under a folder, the newest first; one that cannot be read is `damaged`."""
    return sorted((_record(path, root) for path in _folders(root)), key=lambda run: (-run.started_ns, run.label))


def named_run(root: Path, name: str) -> RunRecord:
    """The run that a user names: by its path, its label, or the beginning of one label alone.

    Raises:
        RunError: there is none or more than one, or it cannot be read.
    """
    for path in (Path(name), root / name):
        if path.is_dir() and path.resolve() != root.resolve():
            if (path / _GROUP).exists():
                raise RunError(f"{path} is a group of seeds; name one of them, such as {_first_label(path, name)}")
            return read_run(path, root)
    labels = [label for path in _folders(root) if (label := _label(path, root)).startswith(name)]
    if len(labels) != 1:
        found = "none" if not labels else f"{len(labels)}: {', '.join(labels[:3])}"
        raise RunError(f"expected one run under {root} that is called or begins with {name!r}, found {found}")
    return read_run(root / labels[0], root)


def read_run(path: Path, root: Path) -> RunRecord:
    """One run.

    Raises:
        RunError: the folder holds none, or it is damaged.
    """
    read_json(path / MANIFEST)
    run = _record(path, root)
    if run.state == "damaged":
        raise RunError(f"{path} is damaged: {run.error}")
    return run


def settings_of(run: RunRecord) -> dict[str, Any]:
    """Dotted key -> value of the run's experiment."""
    return dict(_flat(_config(run.path), ""))


def evaluations(run: RunRecord) -> list[tuple[int, float]]:
    """(environment steps, log return) of each evaluation on the validation span, in order; from TensorBoard's files.

    The steps are those at which it was logged, up to a rollout after it was made.
    """
    events = EventAccumulator(str(run.path / TENSORBOARD), size_guidance={"scalars": 0})
    events.Reload()
    tag = f"eval/{METRIC}"
    if tag not in events.Tags()["scalars"]:
        return []
    # What was trained after the last checkpoint of a crash is in the files twice, and the same.
    return sorted({event.step: event.value for event in events.Scalars(tag)}.items())


def _folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        found = MANIFEST in files or CONFIG in files
        if found and _GROUP not in files:
            below.clear()
            yield Path(folder)
        below.sort()


def _record(path: Path, root: Path) -> RunRecord:
    started_ns = min(file.stat().st_mtime_ns for name in (MANIFEST, CONFIG) if (file := path / name).exists())
    bundle = path / BUNDLE if (path / BUNDLE).is_dir() else None
    try:
        read_json(path / MANIFEST)
        config, result = _config(path), read_result(path)
        name, kind = str(config["name"]), str(config["agent"]["kind"])
        # An agent is asked for steps, a network for epochs, trees for rounds.
        asked = {key: config["agent"][key] for key in ("steps", "epochs", "rounds") if key in config["agent"]}
        seed, total = int(config["seed"]), int(next(iter(asked.values()), 0))
        steps, validation = _reached(path, result, bundle)
    except (RunError, OSError, KeyError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        return RunRecord(path, _label(path, root), "", "", None, "damaged", 0, 0, {}, started_ns, bundle, text)
    state: State = result.get("state", "stopped" if bundle is None else "finished")
    if is_occupied(path):
        state = "running"
    error_text = str(result.get("error", "")) if state == "failed" else ""
    return RunRecord(
        path, _label(path, root), name, kind, seed, state, steps, total, validation, started_ns, bundle, error_text
    )


def _reached(path: Path, result: Mapping[str, Any], bundle: Path | None) -> tuple[int, Mapping[str, Any]]:
    """Steps and figures, from the newest of what the run left."""
    if "validation" in result:
        return result["steps"], result["validation"]
    if bundle is not None:
        manifest = read_json(bundle / "bundle.json")
        return manifest["provenance"]["steps"], manifest["validation"]
    checkpoints = sorted((path / CHECKPOINTS).glob("step_*"))
    if not checkpoints:
        return 0, {}
    progress = read_json(checkpoints[-1] / _PROGRESS)
    return progress["steps"], (progress["best"] or {}).get("verdict", {})


def _config(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} holds no run: {CONFIG} is missing") from error
    except yaml.YAMLError as error:
        raise RunError(f"{path / CONFIG} is damaged: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path / CONFIG} is damaged: expected a mapping, found {type(found).__name__}")
    return found


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _label(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _first_label(group: Path, name: str) -> str:
    seeds = sorted(path.name for path in _folders(group))
    return f"{name.rstrip('/')}/{seeds[0]}" if seeds else "(none was begun)"
