"""Secrets: what is kept comes back, and whoever may not read it learns nothing and breaks nothing."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.backends import SecretService, chainer, fail, null
from keyring.errors import PasswordDeleteError

from finsense.live.encrypted_file import EncryptedFile
from finsense.live.keyring_store import KeyringStore, NoKeyring, protecting_keyring
from finsense.live.secrets import FILE_NAME, SecretError, SecretMissing, open_store

PASSPHRASE = "correct horse battery"
SECRET = "k1te-api-s3cret-0123456789"
NAME = "main.kite.api_secret"
# 2**17 is what a user gets; what is proven here does not depend on it, and hundreds of keys are made.
CHEAP = 4


def a_file(folder: Path, passphrase: str = PASSPHRASE) -> EncryptedFile:
    return EncryptedFile(folder / FILE_NAME, lambda: passphrase, log2_cost=CHEAP, now_ns=lambda: 1_700_000_000)


def made(kind: Any) -> KeyringBackend:
    """One of keyring's own backends, whose constructors have no types."""
    backend: KeyringBackend = kind()
    return backend


class Memory(KeyringBackend):
    """A keyring in memory, in the shape of keyring's own backends."""

    priority = 1

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if (service, username) not in self.kept:
            raise PasswordDeleteError(username)
        del self.kept[service, username]


@pytest.fixture(autouse=True)
def _own_keyring(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("FINSENSE_SECRETS", "FINSENSE_PASSPHRASE", "FINSENSE_PASSPHRASE_FILE", "PYTHON_KEYRING_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    before = keyring.get_keyring()
    keyring.set_keyring(made(fail.Keyring))
    yield
    keyring.set_keyring(before)


@pytest.mark.parametrize("kind", ["file", "keyring"])
def test_what_is_kept_comes_back(tmp_path: Path, kind: str) -> None:
    memory = Memory()

    def again() -> EncryptedFile | KeyringStore:
        return a_file(tmp_path) if kind == "file" else KeyringStore(memory, tmp_path, lambda: 1_700_000_000)

    again().set(NAME, SECRET)
    again().set("main.kite.access_token", "another value")
    again().set(NAME, SECRET + "2")
    store = again()
    assert store.entry(NAME) == (SECRET + "2", 1_700_000_000)
    assert store.names() == dict.fromkeys(["main.kite.access_token", NAME], 1_700_000_000)
    assert list(store.names()) == ["main.kite.access_token", NAME]
    store.test()
    again().delete("main.kite.access_token")
    assert list(store.names()) == [NAME]
    with pytest.raises(SecretMissing, match=r"holds no 'main\.kite\.access_token'; keep it with `finsense secrets set"):
        store.get("main.kite.access_token")
    with pytest.raises(SecretMissing):
        store.delete("main.kite.access_token")
    for name in ("", "a b", "../x", "-x", "x" * 101):
        with pytest.raises(SecretError, match="expected the name of a secret"):
            store.set(name, SECRET)
    for value in ("", " padded", "two\nlines", "nul\0", "x" * 4097):
        with pytest.raises(SecretError, match=NAME):
            store.set(NAME, value)
    assert again().get(NAME) == SECRET + "2"


def test_names_and_values_are_not_in_the_file(tmp_path: Path) -> None:
    store = a_file(tmp_path)
    store.set(NAME, SECRET)
    content = store.path.read_bytes()
    for text in (SECRET, NAME, "kite", PASSPHRASE):
        assert text.encode() not in content
    assert store.path.stat().st_mode & 0o777 == 0o600
    # The same secrets are other bytes at each writing and in each install.
    store.set(NAME, SECRET)
    assert store.path.read_bytes() != content
    assert store.path.read_bytes()[12:28] == content[12:28]
    other = a_file(tmp_path / "other")
    other.set(NAME, SECRET)
    assert other.path.read_bytes()[12:28] != content[12:28]


def test_the_cost_of_a_guess_is_the_documented_one(tmp_path: Path) -> None:
    store = EncryptedFile(tmp_path / FILE_NAME, lambda: PASSPHRASE, now_ns=lambda: 0)
    store.set(NAME, SECRET)
    content = store.path.read_bytes()
    assert content[:12] == b"FSSECRET" + bytes([1, 17, 8, 1])
    assert EncryptedFile(store.path, lambda: PASSPHRASE, now_ns=lambda: 0).get(NAME) == SECRET


def test_a_wrong_passphrase_opens_and_loses_nothing(tmp_path: Path) -> None:
    a_file(tmp_path).set(NAME, SECRET)
    before = (tmp_path / FILE_NAME).read_bytes()
    wrong = a_file(tmp_path, "wrong horse battery")
    acts: list[Callable[[], object]] = [
        lambda: wrong.get(NAME),
        lambda: wrong.set("main.other", "value of another"),
        lambda: wrong.delete(NAME),
        wrong.names,
        wrong.test,
        lambda: wrong.rotate("a new passphrase"),
    ]
    for act in acts:
        with pytest.raises(SecretError, match="wrong passphrase") as caught:
            act()
        assert "horse" not in str(caught.value)
        assert SECRET not in str(caught.value)
    assert (tmp_path / FILE_NAME).read_bytes() == before


def test_every_flipped_bit_and_every_cut_is_told(tmp_path: Path) -> None:
    a_file(tmp_path).set(NAME, SECRET)
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0, 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            with pytest.raises(SecretError, match="damaged"):
                a_file(tmp_path).get(NAME)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SecretError, match="damaged"):
            a_file(tmp_path).set("main.other", "value of another")
        assert path.read_bytes() == whole[:length]
    path.write_bytes(whole + b"\0")
    with pytest.raises(SecretError, match="damaged"):
        a_file(tmp_path).get(NAME)
    path.write_bytes(whole)
    assert a_file(tmp_path).get(NAME) == SECRET


def test_a_changed_file_with_a_right_checksum_does_not_open(tmp_path: Path) -> None:
    """The checksum tells damage; what tells a forger is the seal, over the head of the file as well."""
    import hashlib

    a_file(tmp_path).set(NAME, SECRET)
    path = tmp_path / FILE_NAME
    body = path.read_bytes()[:-32]
    for place in range(8, len(body)):
        forged = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        path.write_bytes(forged + hashlib.sha256(forged).digest())
        expected = {8: "pip install -U finsense", 10: "never makes", 11: "never makes"}.get(place, "wrong passphrase")
        with pytest.raises(SecretError, match=expected):
            a_file(tmp_path).get(NAME)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    store = a_file(tmp_path)
    store.set(NAME, SECRET)
    for mode in (0o640, 0o604, 0o660, 0o620, 0o777):
        store.path.chmod(mode)
        with pytest.raises(SecretError, match=f"mode {mode:o}.*chmod 600 {store.path}"):
            a_file(tmp_path).get(NAME)
        with pytest.raises(SecretError, match="chmod 600"):
            a_file(tmp_path).set(NAME, "value of another")
    store.path.chmod(0o600)
    assert a_file(tmp_path).get(NAME) == SECRET


def test_the_passphrase_can_be_changed(tmp_path: Path) -> None:
    open_before = a_file(tmp_path)
    open_before.set(NAME, SECRET)
    salt = open_before.path.read_bytes()[12:28]
    with pytest.raises(SecretError, match="at least 8 characters, found 5"):
        a_file(tmp_path).rotate("short")
    assert a_file(tmp_path).get(NAME) == SECRET
    a_file(tmp_path).rotate("another passphrase")
    assert open_before.path.read_bytes()[12:28] != salt
    assert a_file(tmp_path, "another passphrase").entry(NAME) == (SECRET, 1_700_000_000)
    with pytest.raises(SecretError, match="wrong passphrase"):
        a_file(tmp_path).get(NAME)
    # A program that runs on with the old one neither reads nor writes.
    with pytest.raises(SecretError, match="was changed since this program started"):
        open_before.set("main.other", "value of another")
    assert list(a_file(tmp_path, "another passphrase").names()) == [NAME]


def test_one_key_serves_many_readings(tmp_path: Path) -> None:
    """A loop that waits for a token reads every second; each key would cost half a second."""
    a_file(tmp_path).set(NAME, SECRET)
    asked = []
    store = EncryptedFile(tmp_path / FILE_NAME, lambda: asked.append(1) or PASSPHRASE, now_ns=lambda: 0)  # type: ignore[func-returns-value]
    for value in ("first value", "second value"):
        a_file(tmp_path).set(NAME, value)
        assert store.get(NAME) == value
    assert asked == [1]


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    a_file(tmp_path).set("main.first", "value of the first")
    stores = [a_file(tmp_path) for _ in range(4)]

    def write(number: int) -> None:
        for turn in range(20):
            stores[number].set(f"main.name{number}_{turn}", "some value")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(a_file(tmp_path).names()) == 81


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_file(tmp_path).set(NAME, SECRET)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        a_file(tmp_path).set(NAME, "value of another")
    assert a_file(tmp_path).get(NAME) == SECRET
    assert sorted(one.name for one in tmp_path.iterdir()) == [FILE_NAME, FILE_NAME + ".lock"]


_WRITER = """
import sys
from pathlib import Path
from finsense.live.encrypted_file import EncryptedFile
store = EncryptedFile(Path(sys.argv[1]), lambda: "correct horse battery", log2_cost=4, now_ns=lambda: 0)
turn = 0
while True:
    store.set("main.kite.access_token", f"token number {turn}")
    turn += 1
    print(turn, flush=True)
"""


def test_a_writer_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    a_file(tmp_path).set(NAME, SECRET)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            writer.kill()
        assert a_file(tmp_path).get(NAME) == SECRET
        assert a_file(tmp_path).get("main.kite.access_token").startswith("token number ")
        # A file half written by the dead is no obstacle.
        a_file(tmp_path).set("main.after", "some value")


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        st.text(min_size=1).filter(lambda text: text == text.strip() and text.isprintable()),
    ),
    st.text(min_size=8),
)
def test_any_secrets_under_any_passphrase(secrets: dict[str, str], passphrase: str) -> None:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        for name, value in secrets.items():
            a_file(Path(folder), passphrase).set(name, value)
        store = a_file(Path(folder), passphrase)
        assert {name: store.get(name) for name in store.names()} == secrets


# ---------------------------------------------------------------------------------------------------- which store


def test_without_a_keyring_the_encrypted_file_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINSENSE_PASSPHRASE", PASSPHRASE)
    store = open_store(tmp_path)
    store.set(NAME, SECRET)
    assert store.place == f"the encrypted file {tmp_path / FILE_NAME}"
    assert open_store(tmp_path).get(NAME) == SECRET
    monkeypatch.setenv("FINSENSE_SECRETS", "keyring")
    with pytest.raises(SecretError, match="no keyring daemon answers on this machine; unset FINSENSE_SECRETS"):
        open_store(tmp_path)
    monkeypatch.setenv("FINSENSE_SECRETS", "clay tablet")
    with pytest.raises(SecretError, match="expected FINSENSE_SECRETS to be keyring or file, found 'clay tablet'"):
        open_store(tmp_path)


def test_a_keyring_that_keeps_plain_text_or_nothing_is_never_used() -> None:
    for backend, words in (
        (made(null.Keyring), "keyring.backends.null.Keyring, which does not protect"),
        (Memory(), "Memory, which does not protect"),
        (made(fail.Keyring), "no keyring daemon answers"),
    ):
        keyring.set_keyring(backend)
        with pytest.raises(NoKeyring, match=words):
            protecting_keyring()


def test_of_several_keyrings_the_protecting_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    protecting = Memory()
    monkeypatch.setattr(Memory, "__module__", "keyring.backends.SecretService")
    monkeypatch.setattr(chainer.ChainerBackend, "backends", [made(null.Keyring), protecting])
    keyring.set_keyring(made(chainer.ChainerBackend))
    assert protecting_keyring() is protecting


def test_a_keyring_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    class Locked(Memory):
        def get_password(self, service: str, username: str) -> str | None:
            answer.wait()
            return None

    monkeypatch.setattr(Locked, "__module__", "keyring.backends.SecretService")
    keyring.set_keyring(Locked())
    with pytest.raises(NoKeyring, match="is it locked"):
        protecting_keyring(patience_s=0.05)
    answer.set()


def test_a_keyring_whose_daemon_is_gone_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """keyring's own backend of the desktop, over a bus that is not there."""
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/no_bus")
    keyring.set_keyring(made(SecretService.Keyring))
    with pytest.raises(NoKeyring, match="the OS keyring does not answer"):
        protecting_keyring()
    monkeypatch.setenv("FINSENSE_PASSPHRASE", PASSPHRASE)
    assert isinstance(open_store(tmp_path), EncryptedFile)


_ASK_THE_DESKTOP = """
import keyring
from keyring.backends import SecretService
from finsense.live.keyring_store import NoKeyring, protecting_keyring
keyring.set_keyring(SecretService.Keyring())
try:
    protecting_keyring()
except NoKeyring as error:
    print(error)
"""


@pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="no dbus-daemon on this machine")
def test_a_bus_without_a_keyring_says_so(tmp_path: Path) -> None:
    command = ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:path={tmp_path}/bus"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as bus:
        try:
            assert bus.stdout is not None
            environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": bus.stdout.readline().strip()}
            # In a process of its own: keyring leaves the connection to such a bus open.
            asked = [sys.executable, "-c", _ASK_THE_DESKTOP]
            said = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
        finally:
            bus.terminate()
    assert said.startswith("the OS keyring does not answer")
    assert "org.freedesktop.secrets" in said


def test_a_keyring_that_fails_later_is_told(tmp_path: Path) -> None:
    class Locks(Memory):
        def get_password(self, service: str, username: str) -> str | None:
            raise RuntimeError("the collection is locked")

    with pytest.raises(SecretError, match=r"failed \(RuntimeError: the collection is locked\)"):
        KeyringStore(Locks(), tmp_path, time.time_ns).get(NAME)


def test_an_entry_that_is_not_ours_is_told_and_not_shown(tmp_path: Path) -> None:
    memory = Memory()
    store = KeyringStore(memory, tmp_path, time.time_ns)
    for text in (SECRET, json.dumps([SECRET]), json.dumps({"value": SECRET}), json.dumps({"value": 1, "taken_ns": 1})):
        memory.set_password(f"finsense {tmp_path}", NAME, text)
        with pytest.raises(SecretError, match="finsense did not write") as caught:
            store.get(NAME)
        assert SECRET not in str(caught.value)


# ----------------------------------------------------------------------------------------------- the passphrase


def test_where_the_passphrase_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(tmp_path, lambda: PASSPHRASE).set(NAME, SECRET)
    with pytest.raises(SecretError, match=r"nobody can be asked: set FINSENSE_PASSPHRASE_FILE"):
        open_store(tmp_path).get(NAME)
    monkeypatch.setenv("FINSENSE_PASSPHRASE", PASSPHRASE)
    assert open_store(tmp_path, lambda: "not asked for").get(NAME) == SECRET
    # The file goes before the variable, and is as private as the secrets.
    held = tmp_path / "passphrase"
    monkeypatch.setenv("FINSENSE_PASSPHRASE_FILE", str(held))
    with pytest.raises(SecretError, match=r"FINSENSE_PASSPHRASE_FILE names .*No such file"):
        open_store(tmp_path).get(NAME)
    held.write_text(PASSPHRASE + "\n")
    held.chmod(0o644)
    with pytest.raises(SecretError, match=f"chmod 600 {held}"):
        open_store(tmp_path).get(NAME)
    held.chmod(0o600)
    monkeypatch.setenv("FINSENSE_PASSPHRASE", "wrong horse battery")
    assert open_store(tmp_path).get(NAME) == SECRET
    assert open_store(tmp_path).command("set", NAME) == f"finsense secrets set {NAME} --home {tmp_path}"
