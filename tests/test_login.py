"""The daily login: from a pasted address to a token that works, and a loop that outlives the death of its token."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("kiteconnect")
from rehearsals import rehearsal
from typer.testing import CliRunner, Result

from finsense.cli.broker import broker_app
from finsense.cli.secrets import secrets_app
from finsense.config.live import LiveSetup, load_live
from finsense.live.brokers.errors import AuthExpired
from finsense.live.brokers.kite_rest import KiteRest
from finsense.live.brokers.rate_limits import RateLimits
from finsense.live.clock import FastClock
from finsense.live.encrypted_file import EncryptedFile
from finsense.live.kite_login import LoginError, RedirectListener, log_in, request_token_of, wait_for_token
from finsense.live.rehearsal.faults import Fault
from finsense.live.rehearsal.server import API_SECRET, Rehearsal
from finsense.live.secrets import FILE_NAME, SecretStore, open_store

PASSPHRASE = "correct horse battery"
COMMAND = [sys.executable, "-c", "from finsense.cli.main import main; main()"]


@pytest.fixture(autouse=True)
def _encrypted_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSENSE_SECRETS", "file")
    monkeypatch.setenv("FINSENSE_PASSPHRASE", PASSPHRASE)


@pytest.fixture
def stage() -> Iterator[Rehearsal]:
    with rehearsal() as stage:
        yield stage


@pytest.fixture
def setup(stage: Rehearsal, tmp_path: Path) -> Path:
    # A file whose key is made in no time, and stays so: the cost is the file's own.
    a_file = EncryptedFile(tmp_path / "home" / FILE_NAME, lambda: PASSPHRASE, log2_cost=4, now_ns=time.time_ns)
    a_file.set("main.other", "some value")
    path = tmp_path / "live.yaml"
    path.write_text(
        f"""
name: rehearsal
account: main
bundle: nowhere
symbols: [INFY, TCS]
home: home
feed: {{kind: kite}}
broker: {{kind: kite, api_key: rehearsalkey, root: "{stage.root}", stream_root: "{stage.stream_root}", timeout_s: 1}}
"""
    )
    return path


def broker(*words: str, given: str = "") -> Result:
    return CliRunner().invoke(broker_app, list(words), input=given)


def page(stage: Rehearsal) -> str:
    """Where the browser stands after a login on the rehearsal's own page."""
    with urllib.request.urlopen(f"{stage.root}/connect/grant?api_key=rehearsalkey", timeout=10) as answer:
        return str(answer.url)


def store_of(setup: Path) -> SecretStore:
    return open_store(load_live(setup).home)


@contextmanager
def rest_of(found: LiveSetup, token: str | None) -> Iterator[KiteRest]:
    assert found.broker.kind == "kite"
    with (
        closing(RateLimits(found.rates)) as limits,
        closing(KiteRest(found.broker.api_key, token, limits, root=found.broker.root)) as rest,
    ):
        yield rest


def test_a_login_from_first_to_status(stage: Rehearsal, setup: Path) -> None:
    before = broker("status", str(setup))
    assert before.exit_code == 7
    assert f"there is no access token of main yet: log in with `finsense broker login {setup}`" in before.stderr
    done = broker("login", str(setup), given=f"{API_SECRET}\n{page(stage)}\n")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == f"{stage.root}/connect/login?api_key=rehearsalkey&v=3"
    with urllib.request.urlopen(done.stdout.strip(), timeout=10) as answer:
        assert "Log in" in answer.read().decode()
    token = store_of(setup).get("main.kite.access_token")
    assert stage.rest.access_tokens == {token}
    assert store_of(setup).get("main.kite.api_secret") == API_SECRET
    said = json.loads(broker("status", str(setup), "--json").stdout)
    assert said["user_id"] == "AB1234"
    assert said["cash_paise"] == 10**9
    assert said["token_age_s"] >= 0
    assert "alive" in broker("status", str(setup)).stdout
    # The api secret is asked once: the next morning the pasted address is enough, or the token alone.
    again = broker("login", str(setup), given=page(stage).partition("request_token=")[2].partition("&")[0])
    assert again.exit_code == 0, again.stderr
    assert stage.rest.access_tokens == {store_of(setup).get("main.kite.access_token")} != {token}


def test_a_dead_token_is_told_with_what_mends_it(stage: Rehearsal, setup: Path) -> None:
    assert broker("login", str(setup), given=f"{API_SECRET}\n{page(stage)}\n").exit_code == 0
    token = store_of(setup).get("main.kite.access_token")
    stage.call(stage.rest.access_tokens.clear)
    dead = broker("status", str(setup))
    assert dead.exit_code == 7
    assert re.search(r"the access token of main, taken \S+ \S+ IST, is dead \(TokenException.*\): log in", dead.stderr)
    assert token not in dead.output + dead.stderr


def test_a_wrong_api_secret_is_not_kept(stage: Rehearsal, setup: Path) -> None:
    refused = broker("login", str(setup), given=f"not the secret\n{page(stage)}\n")
    assert refused.exit_code == 7
    home = load_live(setup).home
    assert f"finsense secrets set main.kite.api_secret --home {home}" in refused.stderr
    assert list(store_of(setup).names()) == ["main.other"]
    # One that is kept and wrong is replaced with that command.
    kept = CliRunner().invoke(secrets_app, ["set", "main.kite.api_secret", "--setup", str(setup)], input=API_SECRET)
    assert kept.exit_code == 0, kept.stderr
    assert broker("login", str(setup), given=f"{page(stage)}\n").exit_code == 0


def test_a_request_token_serves_once(stage: Rehearsal, setup: Path) -> None:
    address = page(stage)
    assert broker("login", str(setup), given=f"{API_SECRET}\n{address}\n").exit_code == 0
    again = broker("login", str(setup), given=f"{address}\n")
    assert again.exit_code == 7
    assert "A request token serves once" in again.stderr


@pytest.mark.parametrize(
    "fault",
    [Fault.TOO_MANY_JSON, Fault.TOO_MANY_HTML, Fault.GATEWAY_PAGE, Fault.ANSWER_IS_GATEWAY_PAGE, Fault.ANSWER_LOST],
)
def test_a_login_that_fails_keeps_what_was_there(stage: Rehearsal, setup: Path, fault: Fault) -> None:
    assert broker("login", str(setup), given=f"{API_SECRET}\n{page(stage)}\n").exit_code == 0
    token = store_of(setup).get("main.kite.access_token")
    address = page(stage)
    stage.faults.order(fault)
    failed = broker("login", str(setup), given=f"{address}\n")
    assert failed.exit_code == 7
    assert store_of(setup).get("main.kite.access_token") == token


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("aBcDeF0123456789aBcDeF0123456789", "aBcDeF0123456789aBcDeF0123456789"),
        ("  request0001\n", "request0001"),
        ("http://127.0.0.1:5000/?request_token=request0001&action=login&status=success", "request0001"),
        ("https://example.org/back/to?type=login&status=success&request_token=request0001", "request0001"),
        ("/?action=login&request_token=request0001", "request0001"),
    ],
)
def test_what_a_user_may_paste(text: str, token: str) -> None:
    assert request_token_of(text) == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        "two words",
        "http://127.0.0.1:5000/",
        "http://127.0.0.1:5000/?action=login&status=success",
        "https://kite.zerodha.com/connect/login?api_key=rehearsalkey&v=3",
        "https://127.0.0.1/?status=success&request_token=a%0Ab%20cdefgh",
    ],
)
def test_what_is_no_request_token_is_refused_unread(text: str) -> None:
    with pytest.raises(LoginError, match="expected the address") as caught:
        request_token_of(text)
    assert not text or text not in str(caught.value)


def test_a_login_that_the_user_broke_off_is_told() -> None:
    with pytest.raises(LoginError, match="was not completed"):
        request_token_of("https://127.0.0.1/?action=login&status=error&request_token=request0001")


def test_paper_without_a_broker_needs_no_login(setup: Path) -> None:
    setup.write_text(setup.read_text().replace("feed: {kind: kite}", "feed: {kind: yahoo}").split("broker:")[0])
    refused = broker("login", str(setup))
    assert refused.exit_code == 3
    assert "broker paper, which needs no login" in refused.stderr


# ------------------------------------------------------------------------------------------------ the browser comes


def test_the_browser_brings_the_token(stage: Rehearsal, setup: Path) -> None:
    store_of(setup).set("main.kite.api_secret", API_SECRET)
    command = [*COMMAND, "broker", "login", str(setup), "--listen", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as login:
        assert login.stderr is not None
        line = next(line for line in login.stderr if "waiting on" in line)
        port = int(re.findall(r"127\.0\.0\.1:(\d+)", line)[0])
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/favicon.ico", timeout=10)
        query = page(stage).partition("?")[2]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/?{query}", timeout=10) as answer:
            shown = answer.read().decode()
        said = login.stderr.read()
        assert login.wait(30) == 0, said
    assert "The login is complete" in shown
    token = store_of(setup).get("main.kite.access_token")
    assert stage.rest.access_tokens == {token}
    assert "request_token" not in said
    assert token not in said


def test_a_listener_gives_up(tmp_path: Path) -> None:
    with closing(RedirectListener(0)) as listener, pytest.raises(LoginError, match=r"nobody came .* within 0.05 s"):
        listener.wait(0.05)
    with closing(RedirectListener(0)) as listener:
        asked = f"http://127.0.0.1:{listener.port}/?action=login&status=error"
        asking = threading.Thread(target=lambda: urllib.request.urlopen(asked, timeout=10).close())
        asking.start()
        with pytest.raises(LoginError, match="was not completed"):
            listener.wait(10)
        asking.join()
        with pytest.raises(OSError, match="in use"):
            RedirectListener(listener.port)


# --------------------------------------------------------------------------------- a loop that outlives its token


def test_a_loop_waits_for_a_new_login_and_never_tries_the_dead_token(stage: Rehearsal, setup: Path) -> None:
    found, store = load_live(setup), store_of(setup)
    clock = FastClock(0, 1000.0)
    looks: list[str] = []

    def someone_logs_in() -> None:
        """In another shell, at the third look; before that the store holds nothing, or the dead token."""
        looks.append("look")
        if len(looks) % 3 == 0:
            given = f"{API_SECRET}\n{page(stage)}\n" if len(looks) == 3 else f"{page(stage)}\n"
            assert broker("login", str(setup), given=given).exit_code == 0

    token = wait_for_token(store, "main", clock, someone_logs_in)
    assert len(looks) == 3
    # A token that lives is given at once, whatever the hour and whatever its age.
    assert wait_for_token(store, "main", clock, someone_logs_in) == token
    assert len(looks) == 3
    for deaths in range(1, 4):
        # It dies at any hour of the market, also twice a day.
        stage.call(stage.rest.access_tokens.clear)
        with rest_of(found, token) as rest, pytest.raises(AuthExpired):
            rest.orders()
        dead, token = token, wait_for_token(store, "main", clock, someone_logs_in, dead=token)
        assert token != dead
        assert len(looks) == 3 + 3 * deaths
        with rest_of(found, token) as rest:
            assert rest.orders() == []


def test_a_wait_ends_with_the_kill_switch(setup: Path) -> None:
    class Killed(RuntimeError):
        pass

    def look() -> None:
        raise Killed

    with pytest.raises(Killed):
        wait_for_token(store_of(setup), "main", FastClock(0, 1000.0), look)


def test_another_account_keeps_its_own_token(stage: Rehearsal, setup: Path) -> None:
    store, found = store_of(setup), load_live(setup)
    for account in ("main", "second"):
        with rest_of(found, None) as rest:
            log_in(rest, store, account, stage.call(stage.rest.new_login), API_SECRET)
    assert store.get("main.kite.access_token") != store.get("second.kite.access_token")
    assert os.stat(found.home / "secrets.enc").st_mode & 0o077 == 0
