"""Opens the store of secrets of a home folder: the OS keyring where one answers, else one encrypted file."""

import os
from collections.abc import Callable
from pathlib import Path
from time import time_ns

import structlog

from finsense.live.encrypted_file import EncryptedFile, read_private
from finsense.live.keyring_store import KeyringStore, NoKeyring, protecting_keyring
from finsense.live.secret_store import SecretError, SecretMissing, SecretStore

__all__ = ["SecretError", "SecretMissing", "SecretStore", "open_store"]

FILE_NAME = "secrets.enc"
# Which store to take: `keyring`, `file`, or nothing for the rule of `open_store`.
_WHICH = "FINSENSE_SECRETS"
_PASSPHRASE_FILE, _PASSPHRASE = "FINSENSE_PASSPHRASE_FILE", "FINSENSE_PASSPHRASE"

log = structlog.get_logger()


def open_store(home: Path, passphrase: Callable[[], str] | None = None) -> SecretStore:
    """The secrets of a home folder.

    An encrypted file that is there is used. Else the OS keyring is asked, and where none answers that protects what it
    keeps, a new encrypted file is made at the first writing. `FINSENSE_SECRETS=keyring` or `file` decides it otherwise.

    The passphrase of the file is looked for in the file that FINSENSE_PASSPHRASE_FILE names, then in
    FINSENSE_PASSPHRASE (weaker: every program of the same user can read it), and at last asked for.

    Args:
        home: the folder.
        passphrase: asks a person; None where nobody can be asked, as in a service.

    Raises:
        SecretError: what FINSENSE_SECRETS wants is not there.
    """
    path, which = home / FILE_NAME, os.environ.get(_WHICH, "")
    if which not in ("", "keyring", "file"):
        raise SecretError(f"expected {_WHICH} to be keyring or file, found {which!r}")
    if which == "keyring" or (not which and not path.exists()):
        try:
            return KeyringStore(protecting_keyring(), home, time_ns)
        except NoKeyring as error:
            if which:
                raise SecretError(f"{error}; unset {_WHICH} to use the encrypted file {path}") from error
            log.info("no OS keyring, so secrets are kept in an encrypted file", reason=str(error), file=str(path))
    return EncryptedFile(path, lambda: _passphrase(path, passphrase), now_ns=time_ns)


def _passphrase(path: Path, ask: Callable[[], str] | None) -> str:
    named = os.environ.get(_PASSPHRASE_FILE)
    if named:
        try:
            return read_private(Path(named)).decode().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretError(f"{_PASSPHRASE_FILE} names {named}, which cannot be read: {error}") from None
    given = os.environ.get(_PASSPHRASE)
    if given:
        return given
    if ask is None:
        raise SecretError(
            f"{path} needs its passphrase and nobody can be asked: set {_PASSPHRASE_FILE} to a file that only you "
            "may read (chmod 600) and that holds it"
        )
    return ask()
