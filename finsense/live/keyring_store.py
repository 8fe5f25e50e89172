"""Keeps secrets in the keyring of the operating system, where one answers that protects what it keeps."""

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import keyring
from keyring.backend import KeyringBackend
from keyring.backends.chainer import ChainerBackend
from keyring.backends.fail import Keyring as NoBackend

from finsense.live.secret_store import Secret, SecretError, SecretStore, pack, unpack

# By name, not by what they say of themselves: the rest of keyring's backends keep plain text, or nothing.
_PROTECTING = (
    "keyring.backends.SecretService",
    "keyring.backends.libsecret",
    "keyring.backends.kwallet",
    "keyring.backends.macOS",
    "keyring.backends.Windows",
)
_INDEX = "names of secrets"
# A locked keyring asks a person; where nobody sits, it waits for ever.
_PATIENCE_S = 20.0

Answer = TypeVar("Answer")


class NoKeyring(SecretError):
    """No keyring that protects what it keeps answers on this machine."""


def protecting_keyring(patience_s: float = _PATIENCE_S) -> KeyringBackend:
    """The operating system's keyring.

    Raises:
        NoKeyring: there is none, it does not answer, or it keeps plain text.
    """
    try:
        found = keyring.get_keyring()
        candidates = found.backends if isinstance(found, ChainerBackend) else [found]
    except Exception as error:
        # keyring raises what its configuration and its backends raise, of any type.
        raise NoKeyring(f"the OS keyring cannot be opened ({type(error).__name__}: {error})") from error
    for candidate in candidates:
        if type(candidate).__module__ in _PROTECTING:
            _probe(candidate, patience_s)
            return candidate
    if not candidates or isinstance(candidates[0], NoBackend):
        raise NoKeyring("no keyring daemon answers on this machine")
    kind = type(candidates[0])
    raise NoKeyring(f"keyring is set to {kind.__module__}.{kind.__qualname__}, which does not protect what it keeps")


def _probe(backend: KeyringBackend, patience_s: float) -> None:
    failures: list[Exception] = []

    def read() -> None:
        try:
            backend.get_password("finsense", _INDEX)
        except Exception as error:
            failures.append(error)

    asking = threading.Thread(target=read, name="keyring", daemon=True)
    asking.start()
    asking.join(patience_s)
    if asking.is_alive():
        raise NoKeyring(f"the OS keyring did not answer within {patience_s:g} s; is it locked?")
    if failures:
        raise NoKeyring(f"the OS keyring does not answer ({type(failures[0]).__name__}: {failures[0]})")


class KeyringStore(SecretStore):
    """The secrets of one home folder in a keyring, one entry each, beside one that lists their names.

    Args:
        backend: the keyring.
        home: folder whose secrets they are.
        now_ns: the clock, ns UTC.
    """

    def __init__(self, backend: KeyringBackend, home: Path, now_ns: Callable[[], int]) -> None:
        super().__init__(home, f"the OS keyring ({backend.name})", now_ns)
        self._backend, self._service = backend, f"finsense {home.resolve()}"
        self._lock = home / "secrets.lock"

    def names(self) -> dict[str, int]:
        """Name of each secret -> when it was taken."""
        kept = ((name, self._read(name)) for name in self._listed())
        return {name: secret.taken_ns for name, secret in kept if secret is not None}

    def _read(self, name: str) -> Secret | None:
        text = self._ask(self._backend.get_password, self._service, name)
        return None if text is None else unpack(text, name, self)

    def _write(self, name: str, secret: Secret | None) -> None:
        with self._alone():
            listed = self._listed()
            if secret is not None:
                # Listed first: a secret that is kept is always one that `list` shows.
                self._list({*listed, name})
                self._ask(self._backend.set_password, self._service, name, pack(secret))
            else:
                self._ask(self._backend.delete_password, self._service, name)
                self._list(set(listed) - {name})

    def _listed(self) -> list[str]:
        text = self._ask(self._backend.get_password, self._service, _INDEX)
        return [] if text is None else sorted(json.loads(text))

    def _list(self, names: set[str]) -> None:
        self._ask(self._backend.set_password, self._service, _INDEX, json.dumps(sorted(names)))

    def _ask(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        try:
            return call(*arguments)
        except Exception as error:
            # Besides KeyringError, whatever the bus or the wallet behind it raises.
            raise SecretError(f"{self.place} failed ({type(error).__name__}: {error}); is it locked?") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time, so that no name is lost from the list."""
        self._lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
