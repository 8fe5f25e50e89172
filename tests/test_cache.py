"""The cache of state matrices gives the bits that are built, whatever happened to its files."""

import datetime as dt
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import rough_bars, small_spec, spec_of
from structlog.testing import capture_logs

from finsense.market.bars import Bars
from finsense.market.costs import ChargeRules
from finsense.market.instruments import instrument
from finsense.market.timeline import Timeline, timeline
from finsense.state import cache as cache_module
from finsense.state.builder import HistoryError, StateMatrix, build_states
from finsense.state.cache import CacheError, StateCache, cached_states
from finsense.state.registry import INDICATORS, indicator
from finsense.state.spec import StateSpec

_BARS = rough_bars(3)
_SPEC = small_spec()


def _described(bars: Bars, charges: ChargeRules | None = None) -> Timeline:
    return timeline(bars, instrument(bars.symbol, derivatives=bars.derivatives), charges)


_LINE = _described(_BARS)
_BUILT = build_states(_LINE, _SPEC)


def _cache(folder: Path, **options: Any) -> StateCache:
    return StateCache(folder, **{"smallest_bytes": 0, **options})


def _same(found: StateMatrix, expected: StateMatrix) -> bool:
    """Whether two matrices are equal to the bit."""
    return (
        found.spec == expected.spec
        and found.first_bar == expected.first_bar
        and (found.rows.shape, found.rows.dtype) == (expected.rows.shape, expected.rows.dtype)
        and found.rows.tobytes() == expected.rows.tobytes()
        and found.row_of_bar.dtype == expected.row_of_bar.dtype
        and found.row_of_bar.tobytes() == expected.row_of_bar.tobytes()
    )


def _kept(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the one matrix of `_LINE`."""
    folder = tmp_path_factory.mktemp("cache") / "states"
    _cache(folder).states(_LINE, _SPEC)
    return folder


@pytest.mark.parametrize("history", [1, 4])
@pytest.mark.parametrize("interval", ["15m", "1d"])
def test_what_is_read_is_what_is_built(tmp_path: Path, history: int, interval: str) -> None:
    bars = rough_bars(1, dt.date(2023, 1, 2), dt.date(2023, 6, 30), interval)
    spec = small_spec(history, warmup=30)
    first, was_read = _cache(tmp_path).states(_described(bars), spec)
    again, was_read_again = _cache(tmp_path).states(_described(bars), spec)
    assert (was_read, was_read_again) == (False, True)
    assert _same(first, build_states(_described(bars), spec))
    assert _same(again, first)
    for bar in (again.first_bar, len(bars) - 1):
        assert again.window(bar).tobytes() == first.window(bar).tobytes()
    with pytest.raises(ValueError, match="read-only"):
        again.rows[0] = 0


def test_another_market_spec_session_or_kernel_is_another_matrix(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that decides a bit is left out of the key, and what decides none is."""
    cache = _cache(filled)

    def was_read(line: Timeline, spec: StateSpec = _SPEC) -> bool:
        return cache._entry(line, spec) in _kept(filled)

    assert was_read(_described(_BARS))
    assert was_read(_described(_BARS, ChargeRules())), "the charges decide no state"
    close = _BARS.close.copy()
    close[-1] = np.nextafter(close[-1], _BARS.low[-1])
    assert not was_read(_described(replace(_BARS, close=close)))
    assert not was_read(_described(_BARS.take(0, len(_BARS) - 1)))
    assert not was_read(_described(replace(_BARS, extra={"index_close": _BARS.close})))
    assert not was_read(timeline(_BARS, instrument("SIM", derivatives=False, price_band=0.05), None))
    assert not was_read(_LINE, small_spec(warmup=31))
    assert not was_read(_LINE, small_spec(history=2))
    sessions = _LINE.sessions.copy()
    sessions["context"][3, 1] += 1  # the calendar learned of a holiday
    assert not was_read(replace(_LINE, sessions=sessions))
    monkeypatch.setattr(cache_module, "_engine", lambda: "another kernel")
    assert not was_read(_LINE)


def test_a_changed_source_changes_the_key(tmp_path: Path) -> None:
    for floor in ("market", "state"):
        shutil.copytree(cache_module._PACKAGE / floor, tmp_path / floor, ignore=shutil.ignore_patterns("__pycache__"))
    found = [cache_module._sources_hash(tmp_path)]
    assert found[0] in cache_module._engine()
    for changed in ("state/indicators/momentum.py", "market/timeline.py", "market/data/nse_sessions.csv"):
        with (tmp_path / changed).open("a") as file:
            file.write("#\n")
        found.append(cache_module._sources_hash(tmp_path))
    assert len(set(found)) == 4


_OWN_KERNEL = """
from finsense.state.registry import indicator

@indicator(defaults={{}}, columns=lambda p: ("own",), memory=lambda p: 0, lookback=lambda p: 1)
def own(bar, parameters, memory, out):
    out[0] = bar[3] / bar[0] - {shift}
"""


def test_a_users_own_kernel_is_kept_by_its_source(filled: Path, tmp_path: Path) -> None:
    cache, entries = _cache(filled), []
    for place, shift in enumerate((1.0, 2.0, 1.0)):
        file = tmp_path / f"copy{place}" / "mine.py"
        file.parent.mkdir()
        file.write_text(_OWN_KERNEL.format(shift=shift))
        entries.append(cache._entry(_LINE, spec_of(f"{file}:own", warmup=30)))
    assert entries[0] == entries[2] != entries[1]
    assert None not in entries


def test_a_kernel_that_a_program_defines_is_not_kept(filled: Path) -> None:
    """Nothing says when it changes."""

    @indicator(defaults={}, columns=lambda p: ("of_test",), memory=lambda p: 0, lookback=lambda p: 1)
    def of_test(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
        out[0] = bar[3] / bar[0] - 1.0

    try:
        assert _cache(filled)._entry(_LINE, spec_of("of_test", warmup=30)) is None
    finally:
        del INDICATORS["of_test"]


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_anywhere_never_reaches_a_state(
    filled: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    (entry,) = _kept(folder)
    file = data.draw(st.sampled_from(sorted(entry.iterdir())))
    content = bytearray(file.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    with capture_logs() as logs:
        found, was_read = _cache(folder).states(_LINE, _SPEC)
    assert _same(found, _BUILT)
    assert was_read == (not logs)
    assert len(logs) <= 1
    if file.suffix == ".npy":
        assert "damaged" in logs[0]["event"]
        assert _cache(folder).states(_LINE, _SPEC)[1], "it was mended"


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_truncated_longer_or_foreign_file_is_built_anew(
    filled: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    (entry,) = _kept(folder)
    file = data.draw(st.sampled_from(sorted(entry.iterdir())))
    content = file.read_bytes()
    other = data.draw(
        st.one_of(
            st.integers(0, len(content) - 1).map(lambda length: content[:length]),
            st.binary(min_size=1, max_size=20).map(lambda more: content + b"}" + more),
            st.sampled_from([b"", b"{}", b"[]", b"[" * 100_000, b"null", b'{"key": 1, "files": 2}', b"\xff\xfe"]),
        )
    )
    file.write_bytes(other)
    with capture_logs() as logs:
        found, was_read = _cache(folder).states(_LINE, _SPEC)
    assert _same(found, _BUILT)
    assert not was_read
    assert ["damaged" in log["event"] for log in logs] == [True]
    assert _cache(folder).states(_LINE, _SPEC)[1]


def test_a_missing_file_and_another_entry_are_not_trusted(filled: Path, tmp_path: Path) -> None:
    for name in ("rows.npy", "row_of_bar.npy", "entry.json"):
        shutil.copytree(filled, tmp_path / name)
        (entry,) = _kept(tmp_path / name)
        (entry / name).unlink()
        found, was_read = _cache(tmp_path / name).states(_LINE, _SPEC)
        assert not was_read
        assert _same(found, _BUILT)
    other = small_spec(warmup=40)
    folder = tmp_path / "swapped"
    place = _cache(folder)._entry(_LINE, other)
    assert place is not None
    shutil.copytree(_kept(filled)[0], place)
    with capture_logs() as logs:
        found, was_read = _cache(folder).states(_LINE, other)
    assert not was_read
    assert _same(found, build_states(_LINE, other))
    assert len(logs) == 1


def _start(work: Callable[[], bool]) -> int:
    """Fork a process that does the work and ends with status 0 when it was true; returns its id."""
    with warnings.catch_warnings():
        # Newer Pythons warn of threads (numpy's) that the child does not have; it needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process:
        return process
    status = 1
    try:
        status = 0 if work() else 2
    finally:
        os._exit(status)


def _end_of(process: int) -> int:
    """The wait status of a process that was started."""
    return os.waitpid(process, 0)[1]


def test_killed_at_any_byte_of_writing(tmp_path: Path, filled: Path) -> None:
    """The kernel ends the writer without notice when one of its files reaches a length."""
    (entry,) = _kept(filled)
    for file in sorted(entry.iterdir()):
        size = file.stat().st_size
        for length in (0, 1, 100, size // 2, size - 1):

            def write_until(length: int = length) -> bool:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (length, length))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                _cache(tmp_path).states(_LINE, _SPEC)
                return True

            assert os.WTERMSIG(_end_of(_start(write_until))) == signal.SIGXFSZ
            found, was_read = _cache(tmp_path).states(_LINE, _SPEC)
            assert not was_read
            assert _same(found, _BUILT)
            assert _cache(tmp_path).states(_LINE, _SPEC)[1]
            shutil.rmtree(tmp_path)


def test_a_sigkill_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    code = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        import test_cache as t
        cache = t._cache(Path(sys.argv[1]))
        print("writing", flush=True)
        while True:
            t.shutil.rmtree(cache.folder, ignore_errors=True)
            cache.states(t._LINE, t._SPEC)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "states"), str(Path(__file__).parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        time.sleep(0.05)
        writer.kill()
    assert writer.returncode == -signal.SIGKILL
    assert _same(_cache(tmp_path / "states").states(_LINE, _SPEC)[0], _BUILT)
    assert _cache(tmp_path / "states").states(_LINE, _SPEC)[1]


def test_many_processes_at_once(tmp_path: Path) -> None:
    """Readers, writers, evicting and destructive processes on one folder; every state is right."""

    def work(seed: int) -> Callable[[], bool]:
        def run() -> bool:
            rng = np.random.default_rng(seed)
            for _ in range(40):
                cache = _cache(tmp_path, limit_bytes=int(rng.choice([30_000, 10**9])))
                spec = small_spec(warmup=int(rng.choice([30, 31])))
                if not _same(cache.states(_LINE, spec)[0], expected[spec.warmup]):
                    return False
                if rng.random() < 0.2:
                    for entry in _kept(tmp_path):
                        (entry / "entry.json").unlink(missing_ok=True)
            return True

        return run

    expected = {warmup: build_states(_LINE, small_spec(warmup=warmup)) for warmup in (30, 31)}
    children = [_start(work(seed)) for seed in range(4)]
    assert [_end_of(child) for child in children] == [0, 0, 0, 0]
    assert not list(tmp_path.rglob(".*")), "no unfinished file stays behind"


def test_the_least_recently_used_leave_first(tmp_path: Path) -> None:
    specs = [small_spec(warmup=warmup) for warmup in (30, 31, 32)]
    entries = [_cache(tmp_path)._entry(_LINE, spec) for spec in specs]
    for place, (spec, entry) in enumerate(zip(specs, entries, strict=True)):
        _cache(tmp_path).states(_LINE, spec)
        assert entry is not None
        for file in entry.iterdir():
            os.utime(file, (1000 + place, 1000 + place))
    assert _cache(tmp_path).states(_LINE, specs[0])[1], "used: it is now the newest of the three"
    mine = tmp_path / "notes"
    mine.mkdir()
    (mine / "of_the_user.txt").write_text("x" * 10**6)
    size = sum(file.stat().st_size for entry in entries if entry for file in entry.iterdir()) // 3
    _cache(tmp_path, limit_bytes=int(3.5 * size)).states(_LINE, small_spec(warmup=33))
    kept = set(_kept(tmp_path))
    assert entries[0] in kept
    assert entries[1] not in kept
    assert entries[2] in kept
    assert (mine / "of_the_user.txt").exists(), "only what the cache wrote is removed"
    _cache(tmp_path, limit_bytes=int(1.5 * size)).states(_LINE, small_spec(warmup=34))
    assert _kept(tmp_path) == sorted([mine, _cache(tmp_path)._entry(_LINE, small_spec(warmup=34))])  # type: ignore[type-var]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    entry = _cache(tmp_path)._entry(_LINE, _SPEC)
    assert entry is not None
    entry.mkdir()
    for name, age_s in ((".rows.npy.old", 7200), (".rows.npy.new", 60)):
        (entry / name).write_bytes(b"half")
        now = (entry / name).stat().st_mtime
        os.utime(entry / name, (now - age_s, now - age_s))
    _cache(tmp_path).states(_LINE, _SPEC)
    assert [file.name for file in entry.glob(".*")] == [".rows.npy.new"]


def test_a_disk_that_is_full_or_not_writable_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with capture_logs() as logs:
        found, was_read = _cache(tmp_path / "file").states(_LINE, _SPEC)
    assert _same(found, _BUILT)
    assert not was_read
    assert ["cannot be kept" in log["event"] for log in logs] == [True]

    def on_a_full_disk() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # Python turns the signal into an OSError
        with capture_logs() as logs:
            found, was_read = _cache(tmp_path / "full").states(_LINE, _SPEC)
        return _same(found, _BUILT) and not was_read and ["cannot be kept" in log["event"] for log in logs] == [True]

    assert _end_of(_start(on_a_full_disk)) == 0
    assert not [file for file in (tmp_path / "full").rglob("*") if file.is_file()], "no half file is left"


def test_small_large_and_no_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not StateCache(tmp_path).states(_LINE, _SPEC)[1]
    assert not _cache(tmp_path, limit_bytes=0).states(_LINE, _SPEC)[1]
    with capture_logs() as logs:
        assert not _cache(tmp_path, limit_bytes=100).states(_LINE, _SPEC)[1]
    assert ["larger than the cache" in log["event"] for log in logs] == [True]
    assert not _kept(tmp_path)
    with pytest.raises(HistoryError):
        _cache(tmp_path).states(_LINE, small_spec(warmup=5000))
    assert not _kept(tmp_path)


def test_the_environment_names_folder_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINSENSE_CACHE", raising=False)
    monkeypatch.delenv("FINSENSE_CACHE_GIB", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert StateCache.from_environment() == StateCache(tmp_path / ".cache" / "finsense" / "states")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert StateCache.from_environment().folder == tmp_path / "xdg" / "finsense" / "states"
    monkeypatch.setenv("FINSENSE_CACHE", "~/mine")
    monkeypatch.setenv("FINSENSE_CACHE_GIB", "0.5")
    assert StateCache.from_environment() == StateCache(tmp_path / "mine" / "states", 2**29)
    for wrong in ("big", "-1", "nan", "inf", ""):
        monkeypatch.setenv("FINSENSE_CACHE_GIB", wrong)
        with pytest.raises(CacheError, match="FINSENSE_CACHE_GIB"):
            cached_states(_LINE, _SPEC)
    monkeypatch.setenv("FINSENSE_CACHE_GIB", "1")
    bars = rough_bars(1, dt.date(2023, 1, 2), dt.date(2023, 12, 29))
    spec = small_spec(warmup=200, history=20)
    wide = spec_of("classic29", warmup=200)
    assert _same(cached_states(_described(bars), wide), build_states(_described(bars), wide))
    assert len(_kept(tmp_path / "mine" / "states")) == 1
    assert _same(cached_states(_described(bars), wide), build_states(_described(bars), wide))
    assert _same(cached_states(_described(bars), spec), build_states(_described(bars), spec))
