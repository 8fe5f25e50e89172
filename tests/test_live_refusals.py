"""`finsense live` and `finsense paper` before a rehearsal where something is wrong: a clear message, no order sent."""

import datetime as dt
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from bundles import make_bundle, setting
from crash_law import write_setup
from rehearsals import DAY, at, simulated
from typer.testing import CliRunner, Result

from finsense.cli.errors import BROKER, DATA, INTERRUPTED, PREFLIGHT, RUNTIME
from finsense.cli.main import app
from finsense.config.live import load_live
from finsense.live.arming import Arming, phrase
from finsense.live.encrypted_file import EncryptedFile
from finsense.live.journal import Journal, identity_text
from finsense.live.journal_format import JournalError
from finsense.live.journal_reader import JournalReader
from finsense.live.rehearsal.faults import Fault, Faults
from finsense.live.rehearsal.server import Rehearsal
from finsense.live.rehearsal.stage import stage
from finsense.live.secrets import FILE_NAME
from finsense.live.start import Mode
from finsense.model.bundle import Bundle, write_bundle

_PASSPHRASE = "correct horse battery"
_COMMAND = [sys.executable, "-c", "from finsense.cli.main import main; main()"]
_SYMBOLS = ("SIMA", "SIMB")
_MODES: tuple[Mode, ...] = ("live", "paper")
_FAR_NS = 10**15
# At 30 times the speed, what was missed since the opening is no reason to stop trading.
_PATIENT = {"stale_s": 3600.0, "gap_bars": 75, "skew_s": 60.0, "tick_distance": 0.5}
_HUNG_S = 60.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle]:
    """Two proven policies that trade often."""
    folder, found = tmp_path_factory.mktemp("bundles"), []
    for seed in (0, 1):
        made = make_bundle(folder / f"drawn{seed}", setting(), interval="1m", seed=seed)
        manifest = made.manifest.model_copy(update={"validation": {"sharpe": 1.0}, "symbols": _SYMBOLS})
        graph = (made.path / "policy.onnx").read_bytes()
        found.append(write_bundle(folder / f"proven{seed}", graph, manifest, made.golden, made.config, "# card\n"))
    return found[0], found[1]


@pytest.fixture(autouse=True)
def _encrypted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSENSE_SECRETS", "file")
    monkeypatch.setenv("FINSENSE_PASSPHRASE", _PASSPHRASE)


class World:
    """A rehearsal at 09:40, an armed setup before it, and a login in the store."""

    def __init__(self, rehearsal: Rehearsal, folder: Path, bundle: Bundle, **sections: Any) -> None:
        self.rehearsal, self.folder, self.bundle = rehearsal, folder, bundle
        self.path = write_setup(folder, bundle.path, sections.pop("symbols", _SYMBOLS), rehearsal, **sections)
        self.setup = load_live(self.path)
        # The cost of the key is the file's own: one that is made in no time.
        file = self.setup.home / FILE_NAME
        self.store = EncryptedFile(file, lambda: _PASSPHRASE, log2_cost=4, now_ns=time.time_ns)
        self.log_in()
        self.arm()

    def log_in(self) -> None:
        self.store.set(f"{self.setup.account}.kite.access_token", self.rehearsal.log_in())

    def arm(self) -> None:
        Arming(self.setup.home).arm(self.setup, self.bundle.identity, 8.0, phrase(self.setup))

    def posted(self) -> int:
        return int(self.rehearsal.call(self.rehearsal.state)["posted"])

    def moments(self) -> int:
        try:
            with JournalReader(self.setup.journal("live")) as reader:
                return sum(1 for _ in reader.records())
        except JournalError:
            # It is being made.
            return 0

    def ask(self, *words: str) -> Result:
        """A command in this process."""
        found = CliRunner().invoke(app, [words[0], str(self.path), *words[1:]])
        assert found.exception is None or isinstance(found.exception, SystemExit), repr(found.exception)
        return found

    @contextmanager
    def live(self, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """`finsense live --armed` in a process of its own."""
        with (self.folder / "live.log").open("ab") as log:
            process = subprocess.Popen(
                [*_COMMAND, "live", str(self.path), "--armed"], stdout=log, stderr=log, **options
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def log(self) -> str:
        return (self.folder / "live.log").read_text()

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is so."""
        until_s = time.monotonic() + _HUNG_S
        while not true():
            assert time.monotonic() < until_s, self.log()
            time.sleep(0.05)


@contextmanager
def world(folder: Path, bundle: Bundle, speed: float = 0.0, **sections: Any) -> Iterator[World]:
    faults = Faults({}, np.random.default_rng(0))
    terms: dict[str, Any] = {"balance_paise": 10**9, "faults": faults, "start_ns": at("09:40"), "waits": speed > 0}
    with stage(simulated(*_SYMBOLS, days=6), DAY, speed=speed, **terms) as rehearsal:
        yield World(rehearsal, folder, bundle, **sections)


def refused(found: World, words: tuple[str, ...], code: int, message: str) -> None:
    """The command says so, ends with the code, and sends nothing."""
    said = found.ask(*words)
    assert (said.exit_code, message in said.output) == (code, True), said.output
    assert "Traceback" not in said.output
    assert found.posted() == 0


def test_a_clock_that_is_off_by_a_minute(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0], gate={"skew_s": 5.0}) as found:
        found.rehearsal.faults.begin(Fault.CLOCK_SKEW, found.rehearsal.clock.now_ns() + _FAR_NS)
        refused(found, ("live", "--armed"), PREFLIGHT, "our clock is -6")


def test_a_start_on_a_holiday(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0]) as found:
        saturday = DAY + dt.timedelta(3)
        found.rehearsal.play_until(at("10:00", saturday))
        refused(found, ("live", "--armed"), PREFLIGHT, f"{saturday} has no session")


def test_a_start_before_the_list_of_instruments_is_made(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0]) as found:
        found.rehearsal.call(lambda: found.rehearsal.clock.set(at("08:00")))
        refused(found, ("live", "--armed"), PREFLIGHT, "what the broker gives now is yesterday's")
        refused(found, ("paper",), DATA, "what the broker gives now is yesterday's")


def test_an_unknown_symbol(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0], symbols=("SIMA", "SIMC")) as found:
        refused(found, ("live", "--armed"), PREFLIGHT, "SIMC is not among the 2 shares")
        refused(found, ("paper",), DATA, "SIMC is not among the 2 shares")


def test_a_login_of_yesterday(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0]) as found:
        found.rehearsal.expire_token()
        refused(found, ("live", "--armed"), PREFLIGHT, f"finsense broker login {found.path}")
        refused(found, ("paper",), BROKER, "Incorrect `api_key` or `access_token`")


def test_an_account_that_nobody_armed(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0]) as found:
        Arming(found.setup.home).disarm()
        refused(found, ("live", "--armed"), PREFLIGHT, "is not armed")


def test_a_journal_of_another_bundle(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    with world(tmp_path, bundles[0]) as found:
        journals = {mode: found.setup.journal(mode) for mode in _MODES}
        for mode, journal in journals.items():
            with Journal(journal, identity_text(mode=mode, account=found.setup.account, bundle=bundles[1].identity)):
                pass
        before = {journal: journal.read_bytes() for journal in journals.values()}
        refused(found, ("live", "--armed"), PREFLIGHT, "is the journal of another session")
        refused(found, ("paper",), RUNTIME, "is the journal of another session; nothing was written to it")
        assert {journal: journal.read_bytes() for journal in before} == before


def test_two_loops_on_one_account(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    holding = "import sys, time; from pathlib import Path; from finsense.live.account_lock import AccountLock; "
    holding += "lock = AccountLock(Path(sys.argv[1]), 'live', {}); print('held', flush=True); time.sleep(600)"
    with world(tmp_path, bundles[0]) as found:
        command = [sys.executable, "-c", holding, str(found.setup.home)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            try:
                refused(found, ("live", "--armed"), PREFLIGHT, f"process {other.pid} runs a loop")
                refused(found, ("paper",), RUNTIME, f"process {other.pid} runs a loop on this account")
            finally:
                other.kill()


@pytest.mark.slow
def test_a_login_that_dies_while_it_trades(bundles: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    """Nothing leaves until there is a new one; then it goes on, and Ctrl-C twice ends it."""
    with world(tmp_path, bundles[0], speed=30, gate=_PATIENT) as found, found.live() as loop:
        found.until(lambda: found.moments() > 3)
        found.rehearsal.expire_token()
        found.until(lambda: "waiting for a login" in found.log())
        before, known = found.posted(), found.moments()
        time.sleep(6.0)
        assert (found.posted(), found.moments()) == (before, known)
        assert loop.poll() is None
        found.log_in()
        found.until(lambda: found.moments() > known + 5)
        for _ in range(2):
            loop.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert loop.wait(_HUNG_S) == INTERRUPTED, found.log()
    assert "start again to go on" in found.log()
    assert "Traceback" not in found.log()


@pytest.mark.slow
@pytest.mark.parametrize(("kib", "code"), [(64, PREFLIGHT), (300, RUNTIME), (900, RUNTIME)])
def test_a_full_disk(bundles: tuple[Bundle, Bundle], tmp_path: Path, kib: int, code: int) -> None:
    """Before it trades, or while: it stops and says why; no order left whose intent is not in the journal."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib << 10, kib << 10))

    with world(tmp_path, bundles[0], speed=30, gate=_PATIENT) as found:
        with found.live(preexec_fn=full) as loop:
            assert loop.wait(120) == code, found.log()
        log, posted = found.log(), found.posted()
        assert "Traceback" not in log, log
        if code == PREFLIGHT:
            assert "disk I/O error" in log
            assert posted == 0
            return
        assert "cannot be written (disk I/O error)" in log, log
        assert "alarm: journal" in log or not found.moments()
        with JournalReader(found.setup.journal("live")) as reader:
            intents = sum(event.what == "intent" for event in reader.events())
        assert posted <= intents
