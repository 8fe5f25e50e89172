"""Keeps secrets in one encrypted file: scrypt makes the key of a passphrase, AES-GCM seals names and values alike.

The file, version 1, numbers big-endian::

    8 bytes   FSSECRET
    1         version, 1
    1, 1, 1   log2 of scrypt's N, its r, its p
    16        salt, drawn when the file is made and at each rotation
    12        nonce, drawn at each writing
    n + 16    AES-256-GCM over the JSON of all secrets, authenticated together with the 40 bytes before it
    32        SHA-256 of everything before it: tells a damaged file from a wrong passphrase

scrypt (RFC 7914) with N = 2**17, r = 8, p = 1 takes 128 MiB and about half a second, as the OWASP password storage
sheet recommends (2023).
"""

import fcntl
import hashlib
import json
import os
import struct
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from finsense.live.durable import write_durably
from finsense.live.redaction import register_secret
from finsense.live.secret_store import Secret, SecretError, SecretStore, pack, unpack

_MAGIC, _VERSION = b"FSSECRET", 1
_HEADER = struct.Struct(">8sBBBB16s12s")
_DIGEST_BYTES, _TAG_BYTES = 32, 16
_LOG2_COST, _BLOCK, _LANES = 17, 8, 1
# What a file may ask of this machine before anybody knows whether its maker is to be trusted: 1 GiB.
_LOG2_COSTS = range(1, 21)
_SHORTEST_PASSPHRASE = 8
_OTHERS = 0o077


class _Terms(NamedTuple):
    """How the key is made."""

    log2_cost: int
    block: int
    lanes: int
    salt: bytes


class EncryptedFile(SecretStore):
    """One file of secrets. It is made at the first writing; several processes may use it at once.

    Args:
        path: the file.
        passphrase: gives it; called once, and only when it is needed.
        log2_cost: log2 of scrypt's N for a new file.
        now_ns: the clock, ns UTC.
    """

    def __init__(
        self, path: Path, passphrase: Callable[[], str], *, log2_cost: int = _LOG2_COST, now_ns: Callable[[], int]
    ) -> None:
        super().__init__(path.parent, f"the encrypted file {path}", now_ns)
        self.path = path
        self._ask, self._log2_cost = passphrase, log2_cost
        self._key: tuple[_Terms, bytes] | None = None

    def names(self) -> dict[str, int]:
        """Name of each secret -> when it was taken."""
        return {name: secret.taken_ns for name, secret in sorted(self._load().items())}

    def rotate(self, passphrase: str) -> None:
        """Seal everything anew under another passphrase, with a new salt.

        Raises:
            SecretError: the file cannot be opened, or the passphrase is too short; nothing is changed then.
        """
        with self._alone():
            secrets = self._load()
            self._save(secrets, self._new_key(passphrase))

    def _read(self, name: str) -> Secret | None:
        return self._load().get(name)

    def _write(self, name: str, secret: Secret | None) -> None:
        with self._alone():
            secrets = self._load()
            secrets.pop(name, None)
            if secret is not None:
                secrets[name] = secret
            self._save(secrets, self._key or self._new_key(self._ask()))

    def _load(self) -> dict[str, Secret]:
        try:
            content = read_private(self.path)
        except FileNotFoundError:
            return {}
        terms, nonce, sealed = self._parts(content)
        if self._key is None:
            self._key = terms, _derive(terms, self._ask())
        elif self._key[0] != terms:
            raise SecretError(f"the passphrase of {self.path} was changed since this program started; start it again")
        try:
            opened = AESGCM(self._key[1]).decrypt(nonce, sealed, content[: _HEADER.size])
        except InvalidTag:
            self._key = None
            raise SecretError(
                f"wrong passphrase for {self.path} (or somebody wrote into it); nothing was changed, try again"
            ) from None
        return {name: unpack(text, name, self) for name, text in json.loads(opened).items()}

    def _parts(self, content: bytes) -> tuple[_Terms, bytes, bytes]:
        """The terms of the key, the nonce and what is sealed."""
        body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        whole = len(body) >= _HEADER.size + _TAG_BYTES and hashlib.sha256(body).digest() == digest
        if not whole or not body.startswith(_MAGIC):
            kind = "damaged or cut off" if content.startswith(_MAGIC) else "no file of secrets, or its head is damaged"
            raise SecretError(
                f"{self.path} is {kind}; nothing was changed. Put a copy of it back, or move it away and keep the "
                f"secrets anew with `{self.command('set', 'NAME')}`"
            )
        _, version, log2_cost, block, lanes, salt, nonce = _HEADER.unpack_from(body)
        if version != _VERSION:
            raise SecretError(
                f"{self.path} has the format {version}, this finsense reads {_VERSION}: pip install -U finsense"
            )
        if log2_cost not in _LOG2_COSTS or (block, lanes) != (_BLOCK, _LANES):
            raise SecretError(f"{self.path} asks for a key that finsense never makes; somebody wrote into it")
        return _Terms(log2_cost, block, lanes, salt), nonce, body[_HEADER.size :]

    def _new_key(self, passphrase: str) -> tuple[_Terms, bytes]:
        register_secret(passphrase)
        if len(passphrase) < _SHORTEST_PASSPHRASE:
            raise SecretError(
                f"expected a passphrase of at least {_SHORTEST_PASSPHRASE} characters, found {len(passphrase)}; "
                "nothing was kept"
            )
        terms = _Terms(self._log2_cost, _BLOCK, _LANES, os.urandom(16))
        return terms, _derive(terms, passphrase)

    def _save(self, secrets: dict[str, Secret], key: tuple[_Terms, bytes]) -> None:
        terms, secret_key = key
        nonce = os.urandom(12)
        header = _HEADER.pack(_MAGIC, _VERSION, terms.log2_cost, terms.block, terms.lanes, terms.salt, nonce)
        text = json.dumps({name: pack(secret) for name, secret in sorted(secrets.items())})
        body = header + AESGCM(secret_key).encrypt(nonce, text.encode(), header)
        write_durably(self.path, body + hashlib.sha256(body).digest())
        self._key = key

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time: of two processes that keep a secret at once, neither loses the other's."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def read_private(path: Path) -> bytes:
    """The bytes of a file that only its owner may read.

    Raises:
        FileNotFoundError: there is none.
        SecretError: others may read or write it.
    """
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if mode & _OTHERS:
            raise SecretError(
                f"others may read or write {path} (mode {mode:o}), so it was not used; mend it with: chmod 600 {path}"
            )
        return file.read()


def _derive(terms: _Terms, passphrase: str) -> bytes:
    register_secret(passphrase)
    # The same letters typed on another keyboard may arrive in another spelling.
    spelled = unicodedata.normalize("NFC", passphrase).encode(errors="surrogatepass")
    return Scrypt(salt=terms.salt, length=32, n=1 << terms.log2_cost, r=terms.block, p=terms.lanes).derive(spelled)
