"""Records of a run on disk, JSON: how it ended, with which weights, or why it failed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finsense.agents.run_folder import BUNDLE, RunError

RESULT = "result.json"
FINISHED, FAILED, PRUNED = "finished", "failed", "pruned"


def read_result(folder: Path) -> dict[str, Any]:
    """What result.json of a folder holds; empty where there is none yet.

    Raises:
        RunError: it cannot be read.
    """
    return read_json(folder / RESULT) if (folder / RESULT).exists() else {}


def finished_result(run_dir: Path) -> dict[str, Any] | None:
    """What result.json of a run holds that has finished and still has its bundle; None of any other.

    Raises:
        RunError: it cannot be read.
    """
    result = read_result(run_dir)
    return result if result.get("state") == FINISHED and (run_dir / BUNDLE).is_dir() else None


def read_json(path: Path) -> dict[str, Any]:
    """A record of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path.parent} holds no run: {path.name} is missing") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); restore it, or remove the run") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} is damaged: expected a mapping, found {type(found).__name__}")
    return found


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a record whole or not at all."""
    fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
    fresh.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    fresh.replace(path)
