"""Where a run comes from: the code's commit and the versions of what it ran on."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    "finsense",
    "gymnasium",
    "numba",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "sb3-contrib",
    "scikit-learn",
    "stable-baselines3",
    "torch",
)
# One of them carries the library; the second is the build with CUDA.
_TREES = ("xgboost-cpu", "xgboost")


def versions() -> dict[str, str]:
    """Name -> version of Python and of each library that decides the result."""
    known = {name: version(name) for name in _PACKAGES}
    for name in _TREES:
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **known}


def git_commit() -> str:
    """The commit of this code, with `+changes` when the checkout differs from it; empty outside a checkout."""
    folder, name = Path(__file__).parent, Path(__file__).name
    # An installed package may lie inside another project's checkout: only a checkout that tracks this file counts.
    if _git(folder, "ls-files", "--error-unmatch", name) is None:
        return ""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return ""
    return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None where it refuses or is not installed."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
