"""The folder of one run: what was trained on which data with which versions; nothing else can be resumed in it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
import yaml

from finsense.agents.markets import Markets
from finsense.agents.provenance import git_commit, versions
from finsense.config import Experiment

CONFIG, MANIFEST, CHECKPOINTS, TENSORBOARD, BUNDLE = (
    "config.resolved.yaml",
    "manifest.json",
    "checkpoints",
    "tb",
    "bundle",
)

log = structlog.get_logger()


class RunError(ValueError):
    """A run folder that cannot take this training."""


def open_run(run_dir: Path, experiment: Experiment, markets: Markets, resume: bool) -> dict[str, Any]:
    """Start or continue a run; gives its manifest.

    Raises:
        RunError: a new run in a folder that holds one, or a run to resume that is missing or was another experiment.
        OSError: the folder cannot be written.
    """
    if resume:
        return _continued(run_dir, experiment, markets)
    if (run_dir / CONFIG).exists():
        raise RunError(f"{run_dir} holds a run already; resume it, or train into another folder")
    manifest = {
        "name": experiment.name,
        "config_hash": experiment.hash(),
        "data_hash": markets.data_hash,
        "trained": [day.isoformat() for day in markets.trained],
        "git_commit": git_commit(),
        "versions": versions(),
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    (run_dir / CONFIG).write_text(experiment.resolved_yaml(), encoding="utf-8")
    return manifest


def _continued(run_dir: Path, experiment: Experiment, markets: Markets) -> dict[str, Any]:
    try:
        before = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
        manifest: dict[str, Any] = json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{run_dir} holds no run to resume: {Path(error.filename).name} is missing") from error
    if manifest["config_hash"] != experiment.hash():
        changes = "\n".join(f"  {line}" for line in differences(before, experiment.resolved(), ""))
        raise RunError(
            f"{run_dir} was another experiment; resume it with its own configuration ({run_dir / CONFIG}), "
            f"or start a new run. Changed since:\n{changes}"
        )
    if manifest["data_hash"] != markets.data_hash:
        changes = ", ".join(
            symbol for symbol in markets.data_hash if markets.data_hash[symbol] != manifest["data_hash"].get(symbol)
        )
        raise RunError(f"{run_dir} was trained on other bars of {changes}; restore the data, or start a new run")
    if manifest["versions"] != versions():
        changes = "; ".join(differences(manifest["versions"], versions(), ""))
        log.warning("the run goes on with other versions, so its result may differ", changes=changes)
    return manifest


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line per value that differs, `key: before -> after`."""
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, "nothing"), after.get(key, "nothing")
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif str(old) != str(new):
            yield f"{prefix}{key}: {old} -> {new}"
