"""Keeps state matrices on disk, so that the same bars and features are folded only once on a machine.

A matrix has a folder of its own, named by the SHA-256 of all that decides its bits: the data hash of the bars, their
sessions, the spec, the sources of the kernels, and what compiles them. In it lie two plain numpy files and `entry.json`
with their SHA-256, which is written last and checked at every reading. What does not agree is built anew.

Environment: FINSENSE_CACHE moves the folder (else `$XDG_CACHE_HOME/finsense`, else `~/.cache/finsense`);
FINSENSE_CACHE_GIB sets its size (4; 0 turns the cache off).
"""

import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Self

import llvmlite.binding as llvm
import numba
import numpy as np
import structlog
from numpy.typing import NDArray

import finsense
from finsense.market.bars import ist_text
from finsense.market.timeline import Timeline
from finsense.state.builder import StateMatrix, build_states
from finsense.state.spec import Feature, StateSpec

_LOG = structlog.get_logger(__name__)
_PACKAGE = Path(finsense.__file__).parent
# Only sources of these floors decide a state. Data files count too: the calendar stands in one.
_FLOORS = ("market", "state")
_INDICATORS = "finsense.state.indicators."
_GIB = 1024**3
_FORMAT = "states-1"
_ROWS, _ROW_OF_BAR, _ENTRY = "rows.npy", "row_of_bar.npy", "entry.json"
_NAME = re.compile("[0-9a-f]{64}")  # nothing else in the folder is ours to remove
_ABANDONED_NS = 3600 * 10**9


class CacheError(ValueError):
    """A setting of the cache that cannot be read."""


def cached_states(timeline: Timeline, spec: StateSpec) -> StateMatrix:
    """The states of `build_states`, to the bit, read from the cache where it has them; errors as `build_states`.

    Raises:
        CacheError: FINSENSE_CACHE_GIB is not a size.
    """
    return StateCache.from_environment().states(timeline, spec)[0]


@dataclass(frozen=True)
class StateCache:
    """A folder of state matrices.

    Any number of processes may use it at once. A folder that cannot be written or read costs a warning and the time to
    build, never the run.

    Attributes:
        folder: where the matrices lie; made when the first one is kept.
        limit_bytes: the least recently used matrices are removed until no more is kept; 0 neither reads nor keeps.
        smallest_bytes: a smaller matrix is built about as soon as it is read: either takes about a millisecond.
    """

    folder: Path
    limit_bytes: int = 4 * _GIB
    smallest_bytes: int = 256 * 1024

    @classmethod
    def from_environment(cls) -> Self:
        """The cache that the environment names.

        Raises:
            CacheError: FINSENSE_CACHE_GIB is not a size.
        """
        text = os.environ.get("FINSENSE_CACHE_GIB", "4")
        try:
            limit_bytes = int(float(text) * _GIB)
        except (ValueError, OverflowError):
            limit_bytes = -1
        if limit_bytes < 0:
            raise CacheError(f"FINSENSE_CACHE_GIB must be a size in GiB, 0 to turn the cache off; found {text!r}")
        try:
            return cls(_default_folder(), limit_bytes)
        except RuntimeError as error:  # no home directory, as under a bare user id in a container
            _LOG.warning("state matrices are not kept; FINSENSE_CACHE can name a folder", reason=str(error))
            return cls(Path(), 0)

    def states(self, timeline: Timeline, spec: StateSpec) -> tuple[StateMatrix, bool]:
        """The states of `build_states`, to the bit, and whether they were read; errors as `build_states`.

        The arrays of a matrix that was read are read-only and mapped from its files.
        """
        entry = self._entry(timeline, spec)
        found = _read(entry, spec) if entry else None
        if found:
            return found, True
        matrix = build_states(timeline, spec)
        if entry:
            self._keep(entry, timeline, matrix)
        return matrix, False

    def _entry(self, timeline: Timeline, spec: StateSpec) -> Path | None:
        """The folder of a matrix; None where it is not worth keeping, or a kernel was defined by a program."""
        estimated_bytes = len(timeline.bars) * len(spec.columns) * np.float32().nbytes
        if not self.limit_bytes or estimated_bytes < self.smallest_bytes or not all(map(_known, spec.features)):
            return None
        sessions = timeline.sessions.copy()
        sessions["schedule"] = 0  # which charges are in force decides no state
        digest = hashlib.sha256(f"{_engine()}\n{timeline.bars.data_hash}\n{spec.canonical()}\n".encode())
        digest.update(sessions.tobytes())
        return self.folder / digest.hexdigest()

    def _keep(self, entry: Path, timeline: Timeline, matrix: StateMatrix) -> None:
        size = matrix.rows.nbytes + matrix.row_of_bar.nbytes
        if size > self.limit_bytes:
            _LOG.warning(
                "a state matrix is larger than the cache and is not kept; FINSENSE_CACHE_GIB sets its size",
                matrix_gib=round(size / _GIB, 3),
                cache_gib=round(self.limit_bytes / _GIB, 3),
            )
            return
        try:
            entry.mkdir(parents=True, exist_ok=True)
            files = {name: _write(entry / name, array) for name, array in _arrays(matrix).items()}
            with _whole(entry / _ENTRY) as file:
                file.write(json.dumps(_description(entry, timeline, matrix) | {"files": files}, indent=2).encode())
            _remove_abandoned(entry)
            self._evict(entry)
        except OSError as error:
            _LOG.warning("a state matrix cannot be kept; the run goes on", folder=str(self.folder), reason=str(error))

    def _evict(self, newest: Path) -> None:
        """Remove the least recently used matrices, but not the newest, until the rest is within the limit."""
        entries = []
        for folder in self.folder.iterdir():
            if _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                # Other processes remove and replace files meanwhile.
                with suppress(FileNotFoundError):
                    files = [file.stat() for file in folder.iterdir()]
                    used_ns = max([file.st_mtime_ns for file in files], default=0)
                    entries.append((folder != newest, used_ns, sum(file.st_size for file in files), folder))
        excess = sum(size for _, _, size, _ in entries) - self.limit_bytes
        for older, _, size, folder in sorted(entries, key=lambda entry: entry[1]):
            if excess > 0 and older:
                shutil.rmtree(folder, ignore_errors=True)
                excess -= size


def _default_folder() -> Path:
    """The folder that the environment names (XDG Base Directory Specification: a relative path there is ignored)."""
    moved = os.environ.get("FINSENSE_CACHE")
    if moved:
        return Path(moved).expanduser() / "states"
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(caches) if os.path.isabs(caches) else Path.home() / ".cache") / "finsense" / "states"


def _sources_hash(package: Path) -> str:
    """SHA-256 (hex) of the sources and data files of the floors that decide a state."""
    digest = hashlib.sha256()
    for floor in _FLOORS:
        for source in sorted([*(package / floor).rglob("*.py"), *(package / floor).rglob("*.csv")]):
            digest.update(source.read_bytes())
    return digest.hexdigest()


# Taken when the package is imported: a source that is edited while the program runs is not the one that runs.
_SOURCES = _sources_hash(_PACKAGE)


@cache
def _engine() -> str:
    """What turns a spec and bars into bits: our sources, the compiler, the processor and its mathematics."""
    processor = f"{platform.machine()} {llvm.get_host_cpu_name()} {' '.join(platform.libc_ver())}"
    return f"{_FORMAT} {_SOURCES} numba {numba.__version__} {processor}"


def _known(feature: Feature) -> bool:
    """Whether the kernel is told by the spec: one of ours, or from a user's file whose hash the spec holds."""
    return feature.source is not None or feature.indicator.kernel.__module__.startswith(_INDICATORS)


def _arrays(matrix: StateMatrix) -> dict[str, NDArray[Any]]:
    return {_ROWS: matrix.rows, _ROW_OF_BAR: matrix.row_of_bar}


def _description(entry: Path, timeline: Timeline, matrix: StateMatrix) -> dict[str, Any]:
    """What an entry holds, for a person; only `key` is read again."""
    bars = timeline.bars
    return {
        "key": entry.name,
        "symbol": bars.symbol,
        "interval": bars.interval,
        "bars": len(bars),
        "first": ist_text(int(bars.time_ns[0])),
        "last": ist_text(int(bars.time_ns[-1])),
        "data_hash": bars.data_hash,
        "state_hash": matrix.spec.hash(),
        "engine": _engine(),
        "columns": list(matrix.spec.columns),
    }


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place only when it is complete.

    It is not forced to the disk: what a loss of power leaves of it does not agree with its SHA-256.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with fresh.open("xb") as file:
            yield file
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _write(path: Path, array: NDArray[Any]) -> dict[str, int | str]:
    """Write an array as a numpy file; returns its size and SHA-256, told from the array and not from the disk."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    digest = hashlib.sha256(header.getvalue())
    digest.update(array.data)
    with _whole(path) as file:
        file.write(header.getvalue())
        file.write(array.data)
    return {"bytes": len(header.getvalue()) + array.nbytes, "sha256": digest.hexdigest()}


def _read(entry: Path, spec: StateSpec) -> StateMatrix | None:
    """The matrix of an entry, checked; None where it is not complete, and with a warning where it is damaged."""
    try:
        description = json.loads((entry / _ENTRY).read_bytes())
        if description["key"] != entry.name:
            raise ValueError(f"it is the entry {description['key']}")
        rows, row_of_bar = (_map(entry / name, description["files"][name]) for name in (_ROWS, _ROW_OF_BAR))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        # Without its last file an entry is not damaged: it is not there, or another process writes it just now.
        if (entry / _ENTRY).exists():
            _LOG.warning("a cached state matrix is damaged and is built anew", folder=str(entry), reason=str(error))
        return None
    with suppress(OSError):  # A cache that cannot be written forgets what was used last, and no more.
        os.utime(entry / _ENTRY)
    return StateMatrix(spec, rows, row_of_bar, int(np.argmax(row_of_bar >= 0)))


def _map(path: Path, expected: dict[str, Any]) -> NDArray[Any]:
    """An array mapped from its file, whose bytes are checked before any of them is believed."""
    content = np.memmap(path, np.uint8, "r")
    found = {"bytes": len(content), "sha256": hashlib.sha256(content.data).hexdigest()}
    if found != expected:
        raise ValueError(f"{path.name}: expected {expected}, found {found}")
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _remove_abandoned(entry: Path) -> None:
    """Remove what writers that were killed an hour ago or more left in an entry."""
    now_ns = (entry / _ENTRY).stat().st_mtime_ns
    for file in entry.glob(".*"):
        with suppress(FileNotFoundError):
            if now_ns - file.stat().st_mtime_ns > _ABANDONED_NS:
                file.unlink()
