"""Reinforcement learning for Indian equities: one state builder and one account from training to the live loop."""

import contextlib
import hashlib
import os
import shutil
import time
from pathlib import Path

__version__ = "0.1.0"

_COMPILED_FLOORS = ("market", "state", "account", "envs", "agents")
# A folder of another source goes when nothing has used it for so long; a process of before an update may still run.
_KEPT_S = 7 * 86_400


def _place_kernel_cache() -> None:
    """Give numba's compiled kernels a folder of their own for this exact source.

    numba keys a cached kernel by its own file alone: after an update it would go on with a caller into which the old
    code of another file is compiled. So the folder's name is the hash of every file that can hold compiled code.
    """
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for floor in _COMPILED_FLOORS:
        for source in sorted((package / floor).rglob("*.py")):
            digest.update(source.read_bytes())
    caches = package / "__pycache__"
    chosen = caches / f"kernels-{digest.hexdigest()[:16]}"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
        os.utime(chosen)
    except OSError:
        return  # A read-only installation has one source for ever; numba finds a place for its cache by itself.
    for stale in caches.glob("kernels-*"):
        # Another process may take it away first.
        with contextlib.suppress(OSError):
            if time.time() - stale.stat().st_mtime > _KEPT_S:
                shutil.rmtree(stale)
    os.environ["NUMBA_CACHE_DIR"] = str(chosen)


_place_kernel_cache()
