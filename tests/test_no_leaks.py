"""Planted secrets are nowhere: not in logs, errors, tracebacks, files, reports, or the list of processes."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
import traceback
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from bundles import make_bundle, market, setting
from rehearsals import INFY, buy, rehearsal
from small_experiment import SETTINGS
from test_law_parity import _write
from typer.testing import CliRunner

from finsense.cli.main import app
from finsense.cli.secrets import secrets_app
from finsense.live.brokers.errors import BrokerError
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.encrypted_file import EncryptedFile
from finsense.live.feeds.kite_stream import Connected, KiteStream, Patience
from finsense.live.journal import Journal
from finsense.live.kite_login import log_in
from finsense.live.redaction import REDACTED, redact, register_secret, scrub, scrubbed, shielded
from finsense.live.rehearsal.faults import AFTER, BEFORE, Fault
from finsense.live.rehearsal.server import API_KEY, API_SECRET, Rehearsal
from finsense.live.secrets import FILE_NAME, SecretStore

PASSPHRASE = "planted passphrase 7f3a"
PLANTED = "planted-secret-91c2"
# As a developer who looks for a fault would run it: every library says everything.
TALKATIVE = "import logging; logging.basicConfig(level=logging.DEBUG)\nfrom finsense.cli.main import main; main()"


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal() as stage:
        yield stage


@pytest.fixture
def store(tmp_path: Path) -> SecretStore:
    store = EncryptedFile(tmp_path / "home" / FILE_NAME, lambda: PASSPHRASE, log2_cost=4, now_ns=time.time_ns)
    store.set("main.kite.api_secret", API_SECRET)
    return store


@pytest.fixture
def heard() -> Iterator[io.StringIO]:
    """Everything that libraries say at the level DEBUG while secrets are shielded."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    with shielded():
        yield text
    root.removeHandler(handler)
    root.setLevel(level)


def said(error: BaseException) -> str:
    """All that an exception shows, and all that the ones behind it show."""
    shown = "".join(traceback.format_exception(error))
    behind: BaseException | None = error
    while behind is not None and not behind.__suppress_context__:
        shown += str(behind)
        behind = behind.__cause__ or behind.__context__
    return shown


def assert_absent(text: str | bytes, *secrets: str) -> None:
    plain = text if isinstance(text, bytes) else text.encode()
    for secret in secrets:
        assert secret.encode() not in plain


# --------------------------------------------------------------------------------------------------------- words


def test_every_spelling_of_a_secret_is_cut_out() -> None:
    secret = 'pass "word"/with\\all + sorts: ü?&='
    register_secret(secret)
    for line in (
        f"raw {secret} and {secret}",
        f"repr {secret!r}",
        f"json {json.dumps({'a': secret})} {json.dumps(secret, ensure_ascii=False)}",
        f"url {urllib.parse.quote(secret)} {urllib.parse.quote_plus(secret)} {urllib.parse.quote(secret, safe='')}",
    ):
        cut = scrub(line)
        assert REDACTED in cut
        for part in ("word", "sorts"):
            assert part not in cut
    assert scrub("an honest line") == "an honest line"
    # A secret that begins as another does is cut out whole.
    register_secret("abcdef123")
    register_secret("abcdef123456")
    assert scrub("abcdef123456 abcdef123") == f"{REDACTED} {REDACTED}"
    register_secret("buy")
    assert scrub("buy") == "buy"


def test_a_value_is_scrubbed_in_depth() -> None:
    register_secret(PLANTED)

    class Request:
        def __repr__(self) -> str:
            return f"Request({PLANTED})"

    value = {"url": f"ws://x?t={PLANTED}", PLANTED: [1, (PLANTED, None)], "request": Request(), "count": 3}
    assert scrubbed(value) == {
        "url": f"ws://x?t={REDACTED}",
        REDACTED: [1, [REDACTED, None]],
        "request": f"Request({REDACTED})",
        "count": 3,
    }


@pytest.mark.parametrize("renderer", [structlog.dev.ConsoleRenderer(colors=False), structlog.processors.JSONRenderer()])
@pytest.mark.parametrize("last", [True, False])
def test_no_log_line_shows_a_secret(renderer: Any, last: bool) -> None:
    register_secret(PLANTED)
    before = [structlog.processors.add_log_level, structlog.processors.format_exc_info]
    processors = [*before, renderer, redact] if last else [*before, redact, renderer]
    text = io.StringIO()
    log = structlog.wrap_logger(structlog.PrintLogger(text), processors=processors)
    try:
        raise KeyError(f"token {PLANTED}")
    except KeyError:
        log.exception(f"failed with {PLANTED}", url=f"ws://127.0.0.1/?access_token={PLANTED}", rows=[{"t": PLANTED}])
    assert REDACTED in text.getvalue()
    assert "KeyError" in text.getvalue()
    assert_absent(text.getvalue(), PLANTED)


def test_no_record_and_no_traceback_shows_a_secret(heard: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    register_secret(PLANTED)
    library = logging.getLogger("a.library")
    library.debug("GET %s of %d", f"/?access_token={PLANTED}", 7)
    try:
        raise ValueError(PLANTED)
    except ValueError:
        library.exception("it failed with %r", {"Authorization": f"token key:{PLANTED}"})

    def fail() -> None:
        raise RuntimeError(f"in a thread: {PLANTED}")

    thread = threading.Thread(target=fail, name="worker")
    thread.start()
    thread.join()
    with pytest.raises(SystemExit) as ended, shielded():
        raise RuntimeError(f"at last: {PLANTED}")
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert "in a thread" in shown
    assert "at last" in shown
    assert f"GET /?access_token={REDACTED} of 7" in heard.getvalue()
    assert "ValueError" in heard.getvalue()
    assert_absent(heard.getvalue() + shown, PLANTED)


# ------------------------------------------------------------------------------------- requests that go wrong


@contextmanager
def client(root: str, folder: Path, token: str | None) -> Iterator[KiteRest]:
    with (
        closing(RateLimits(folder / "rates.db")) as limits,
        closing(KiteRest(API_KEY, token, limits, root=root, timeout_s=0.3)) as rest,
    ):
        yield rest


_CALLS: list[Callable[[KiteRest], object]] = [
    KiteRest.profile,
    KiteRest.cash_paise,
    KiteRest.orders,
    KiteRest.positions,
    KiteRest.instruments,
    lambda rest: rest.place(buy()),
    lambda rest: rest.cancel("1"),
]


def test_no_fault_of_the_broker_shows_a_secret(
    stage: Rehearsal, store: SecretStore, tmp_path: Path, heard: io.StringIO
) -> None:
    """Every fault at the login and at every request, into the error, the log and the journal."""
    failures, secrets = [], [API_SECRET, PASSPHRASE]
    with Journal(tmp_path / "home" / "session.db", {"mode": "test"}) as journal:

        def tried(act: Callable[[], object]) -> None:
            try:
                act()
            except BrokerError as error:
                failures.append(error)
                journal.note("", "alarm", {"error": str(error), "text": repr(error)}, time.time_ns())

        for fault in (*BEFORE, *AFTER):
            stage.faults.rates = {fault: 1.0}
            secrets.append(request_token := stage.call(stage.rest.new_login))
            with client(stage.root, tmp_path, None) as rest:
                tried(partial(log_in, rest, store, "main", request_token, API_SECRET))
            secrets.append(token := stage.log_in())
            with client(stage.root, tmp_path, token) as rest:
                for call in _CALLS:
                    tried(partial(call, rest))
    kinds = {type(error).__name__ for error in failures}
    assert kinds >= {"AuthExpired", "RateLimited", "TransientRead", "UnknownFate", "Rejected"}
    files = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    assert b"alarm" in files
    assert_absent(files, *secrets)
    assert_absent("".join(map(said, failures)), *secrets)
    assert_absent(heard.getvalue(), API_SECRET, PASSPHRASE)


_SHAPES = {
    "refused": (403, "application/json", '{{"status": "error", "message": "{0}", "error_type": "TokenException"}}'),
    "rejected": (400, "application/json", '{{"status": "error", "message": "{0}", "error_type": "InputException"}}'),
    "failed": (500, "application/json", '{{"status": "error", "message": "{0}", "error_type": "GeneralException"}}'),
    "page": (502, "text/html", "<html>{0}</html>"),
    "no token": (200, "application/json", '{{"status": "success", "data": {{"user": "{0}"}}}}'),
    "no data": (200, "application/json", '{{"status": "success", "answer": "{0}"}}'),
    "cut": (200, "application/json", '{{"status": "success", "data": {{"access_token": "{0}'),
    "list": (200, "application/json", '["{0}"]'),
    "row": (200, "application/json", '{{"status": "success", "data": [{{"order_id": "{0}", "quantity": "{0}"}}]}}'),
}


@pytest.mark.parametrize("shape", _SHAPES)
def test_a_broker_that_repeats_what_it_was_sent_shows_no_secret(store: SecretStore, tmp_path: Path, shape: str) -> None:
    """A server whose every answer holds the request: address, headers and form."""
    status, kind, body = _SHAPES[shape]

    class Echo(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            form = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            heard = f"{self.path} {self.headers['Authorization']} {form} {API_SECRET}".replace('"', "'")
            content = body.format(heard).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815  (names of http.server)

        def log_message(self, format: str, *args: object) -> None:
            pass

    request_token, token = "request91c2", "access91c2access91c2"
    failures = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        root = f"http://127.0.0.1:{server.server_address[1]}"
        with client(root, tmp_path, None) as rest, pytest.raises(BrokerError) as caught:
            log_in(rest, store, "main", request_token, API_SECRET)
        failures.append(caught.value)
        with client(root, tmp_path, token) as rest:
            for call in _CALLS:
                try:
                    call(rest)
                except BrokerError as error:
                    failures.append(error)
        server.shutdown()
        serving.join()
    assert len(failures) >= 3
    assert_absent(said(failures[0]), API_SECRET, request_token)
    assert_absent("".join(map(said, failures)), token)


def test_the_stream_shows_its_address_to_nobody(stage: Rehearsal, heard: io.StringIO) -> None:
    token = stage.log_in()
    register_secret(token)
    stream = KiteStream(API_KEY, token, [INFY], root=stage.stream_root, patience=Patience(poll_s=0.02))
    for event in stream.events():
        if isinstance(event, Connected):
            stream.close()
    stage.faults.order(Fault.STREAM_REFUSED)
    refused = KiteStream(API_KEY, token, [INFY], root=stage.stream_root, patience=Patience(poll_s=0.02))
    with pytest.raises(BrokerError) as caught:
        list(refused.events())
    # websockets says the whole handshake, so there was something to hide.
    assert "GET /" in heard.getvalue()
    assert REDACTED in heard.getvalue()
    assert_absent(heard.getvalue() + said(caught.value), token)


# -------------------------------------------------------------------------------------- commands as users run them


@pytest.fixture
def setup(stage: Rehearsal, store: SecretStore, tmp_path: Path) -> Path:
    path = tmp_path / "live.yaml"
    path.write_text(
        f"""
name: rehearsal
account: main
bundle: nowhere
symbols: [INFY]
home: {store.home}
feed: {{kind: kite}}
broker: {{kind: kite, api_key: rehearsalkey, root: "{stage.root}", stream_root: "{stage.stream_root}", timeout_s: 1}}
"""
    )
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    held = tmp_path / "private" / "passphrase"
    held.parent.mkdir()
    held.write_text(PASSPHRASE)
    held.chmod(0o600)
    return {**os.environ, "FINSENSE_SECRETS": "file", "FINSENSE_PASSPHRASE_FILE": str(held)}


def test_a_talkative_login_shows_no_secret(
    stage: Rehearsal, store: SecretStore, setup: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    request_token = stage.call(stage.rest.new_login)
    command = [sys.executable, "-c", TALKATIVE, "broker", "login", str(setup), "--listen", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as login:
        assert login.stderr is not None
        assert login.stdout is not None
        lines = []
        for line in login.stderr:
            lines.append(line)
            if "waiting on" in line:
                break
        listed = b"".join(path.read_bytes() for path in Path("/proc").glob(f"{login.pid}/task/*/children")).split()
        for pid in [str(login.pid), *(one.decode() for one in listed)]:
            assert_absent(Path(f"/proc/{pid}/cmdline").read_bytes(), PASSPHRASE, API_SECRET, request_token)
            # The passphrase is in a file, so it is not in the environment that other programs of the user can read.
            assert_absent(Path(f"/proc/{pid}/environ").read_bytes(), PASSPHRASE, API_SECRET, request_token)
        (port,) = re.findall(r"127\.0\.0\.1:(\d+)", lines[-1])
        address = f"http://127.0.0.1:{port}/?status=success&request_token={request_token}"
        urllib.request.urlopen(address, timeout=10).close()
        output = login.stdout.read() + "".join(lines) + login.stderr.read()
        assert login.wait(30) == 0, output
    secrets = (PASSPHRASE, API_SECRET, request_token, store.get("main.kite.access_token"))
    assert "urllib3" in output
    assert_absent(output, *secrets)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "passphrase":
            assert_absent(path.read_bytes(), *secrets)


def test_a_command_that_breaks_shows_no_secret(
    stage: Rehearsal, setup: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """A failure that nobody foresaw, with the token in its words, in the middle of a login."""
    breaks = (
        "from finsense.live.encrypted_file import EncryptedFile\n"
        "def broken(self, name, secret): raise RuntimeError(f'cannot keep {name} {secret.value}')\n"
        "EncryptedFile._write = broken\n"
    )
    request_token = stage.call(stage.rest.new_login)
    done = subprocess.run(
        [sys.executable, "-c", breaks + TALKATIVE, "broker", "login", str(setup)],
        input=f"{request_token}\n",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "RuntimeError: cannot keep main.kite.access_token" in done.stderr
    (token,) = stage.rest.access_tokens
    assert_absent(done.stdout + done.stderr, PASSPHRASE, API_SECRET, request_token, token)


def test_what_is_typed_is_not_shown(tmp_path: Path) -> None:
    """On a terminal: the value, and the new passphrase twice."""
    command = [sys.executable, "-c", TALKATIVE, "secrets", "set", "main.planted", "--home", str(tmp_path)]
    environment = {**os.environ, "FINSENSE_SECRETS": "file"}
    ours, theirs = os.openpty()
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    ) as running:
        os.close(theirs)
        shown = b""
        for prompt, typed in ((b"value of", PLANTED), (b"passphrase of", PASSPHRASE), (b"same again", PASSPHRASE)):
            while prompt not in shown:
                shown += os.read(ours, 1000)
            os.write(ours, f"{typed}\n".encode())
        with suppress(OSError):
            # The terminal ends with the process.
            while more := os.read(ours, 1000):
                shown += more
        assert running.wait(30) == 0, shown
    os.close(ours)
    assert b"main.planted is kept in" in shown
    assert_absent(shown, PLANTED, PASSPHRASE)
    assert EncryptedFile(tmp_path / FILE_NAME, lambda: PASSPHRASE, now_ns=time.time_ns).get("main.planted") == PLANTED


def test_a_value_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path) -> None:
    done = CliRunner().invoke(secrets_app, ["set", "main.kite.api_secret", PLANTED, "--home", str(tmp_path)])
    assert done.exit_code == 2
    assert "stands on the command line" in done.stderr
    assert_absent(done.output + done.stderr, PLANTED)
    assert list(tmp_path.iterdir()) == []


def test_no_command_shows_a_value(store: SecretStore, environment: dict[str, str]) -> None:
    store.set("main.planted", PLANTED)
    shown = ""
    for words, given in (
        (["list"], ""),
        (["list", "--json"], ""),
        (["test"], ""),
        (["set", "main.planted"], PLANTED + "2"),
        (["rotate"], "another planted passphrase"),
    ):
        done = CliRunner(env=environment).invoke(secrets_app, [*words, "--home", str(store.home)], input=given)
        assert done.exit_code == 0, done.stderr
        shown += done.output + done.stderr
    assert "main.planted" in shown
    assert_absent(shown, PLANTED, "another planted passphrase", PASSPHRASE)
    (store.home / FILE_NAME).chmod(0o600)
    again = EncryptedFile(store.home / FILE_NAME, lambda: "another planted passphrase", now_ns=time.time_ns)
    assert again.get("main.planted") == PLANTED + "2"


@pytest.mark.slow
def test_neither_a_run_nor_a_report_holds_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config, checkpoints, TensorBoard, bundle, model card and tearsheet of a small training and a backtest."""
    pytest.importorskip("torch")
    monkeypatch.setenv("FINSENSE_PASSPHRASE", PLANTED)
    monkeypatch.setenv("KITE_API_SECRET", PLANTED)
    config = tmp_path / "small.yaml"
    config.write_text(json.dumps(SETTINGS))
    run = tmp_path / "run"
    trained = CliRunner().invoke(app, ["train", str(config), "--out", str(run), "--quiet"])
    assert trained.exit_code == 0, trained.stderr
    make_bundle(tmp_path / "policy", setting())
    _write(market(sessions=8), tmp_path / "bars.parquet")
    words = ["backtest", str(tmp_path / "policy"), "--data", str(tmp_path / "bars.parquet"), "--symbol", "SIM"]
    judged = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "report.html")])
    assert judged.exit_code == 0, judged.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("tfevents" in path.name for path in files)
    assert tmp_path / "report.html" in files
    for path in files:
        assert_absent(path.read_bytes(), PLANTED)
    assert_absent(trained.output + trained.stderr + judged.output + judged.stderr, PLANTED)
