"""What every store of secrets gives, whatever keeps them: names, values, and the instant each was taken."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

from finsense.config.live import default_home
from finsense.live.redaction import register_secret

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LONGEST = 4096


class SecretError(ValueError):
    """A secret that cannot be read or kept; the message names what mends it."""


class SecretMissing(SecretError):
    """No secret of this name was kept yet."""


class Secret(NamedTuple):
    """A secret.

    Attributes:
        value: what nobody else may see.
        taken_ns: when it was kept, ns UTC.
    """

    value: str
    taken_ns: int

    def __repr__(self) -> str:
        """Without the value: a secret is printed by mistake only."""
        return f"Secret(taken_ns={self.taken_ns})"


class SecretStore(ABC):
    """Keeps secrets by name, such as `ACCOUNT.kite.api_secret`.

    What is given or taken is registered with `redaction`, so that no log line of this process shows it.

    Args:
        home: folder whose secrets they are.
        place: where they lie, for a person.
        now_ns: the clock, ns UTC.
    """

    def __init__(self, home: Path, place: str, now_ns: Callable[[], int]) -> None:
        self.home, self.place = home, place
        self._now_ns = now_ns

    def get(self, name: str) -> str:
        """The value of a secret.

        Raises:
            SecretMissing: there is none of this name.
            SecretError: the store cannot be read.
        """
        return self.entry(name).value

    def entry(self, name: str) -> Secret:
        """A secret with the instant it was taken.

        Raises:
            SecretMissing: there is none of this name.
            SecretError: the store cannot be read.
        """
        found = self._read(_checked_name(name))
        if found is None:
            raise SecretMissing(f"{self.place} holds no {name!r}; keep it with `{self.command('set', name)}`")
        register_secret(found.value)
        return found

    def set(self, name: str, value: str) -> None:
        """Keep a secret in place of the one of this name.

        Raises:
            SecretError: the name or the value cannot be one, or the store cannot be written; nothing is changed then.
        """
        _checked_name(name)
        register_secret(value)
        if not value or len(value) > _LONGEST:
            raise SecretError(f"expected a value of 1 to {_LONGEST} characters for {name}, found {len(value)}")
        if value != value.strip() or not value.isprintable():
            raise SecretError(
                f"the value for {name} begins or ends with white space, or holds characters that do not print; "
                "nothing was kept: copy it again"
            )
        self._write(name, Secret(value, self._now_ns()))

    def delete(self, name: str) -> None:
        """Forget a secret.

        Raises:
            SecretMissing: there is none of this name.
            SecretError: the store cannot be read or written.
        """
        self.entry(name)
        self._write(name, None)

    def command(self, verb: str, name: str = "") -> str:
        """The command that does something with these secrets, for a message that says what mends it."""
        usual = bool(name) and self.home.resolve() == default_home(name.partition(".")[0]).resolve()
        return " ".join(
            ["finsense secrets", verb, *([name] if name else []), *([] if usual else [f"--home {self.home}"])]
        )

    def test(self) -> None:
        """Keep, read and forget a value of no worth.

        Raises:
            SecretError: something of it did not work.
        """
        name, value = "finsense.test", token_hex(16)
        self.set(name, value)
        kept = self.get(name)
        self.delete(name)
        if kept != value or name in self.names():
            raise SecretError(f"{self.place} does not keep what it is given; do not use it")

    @abstractmethod
    def names(self) -> dict[str, int]:
        """Name of each secret -> when it was taken, ns UTC; in alphabetic order.

        Raises:
            SecretError: the store cannot be read.
        """

    @abstractmethod
    def _read(self, name: str) -> Secret | None:
        """The secret, or None where there is none."""

    @abstractmethod
    def _write(self, name: str, secret: Secret | None) -> None:
        """Keep the secret, or forget it."""


def pack(secret: Secret) -> str:
    """A secret as one text."""
    return json.dumps({"value": secret.value, "taken_ns": secret.taken_ns})


def unpack(text: str, name: str, store: SecretStore) -> Secret:
    """The secret of a text.

    Raises:
        SecretError: it is not one of ours.
    """
    try:
        found = json.loads(text)
        secret = Secret(found["value"], found["taken_ns"])
        if isinstance(secret.value, str) and type(secret.taken_ns) is int:
            return secret
    except (ValueError, TypeError, KeyError):
        # The text is not shown: it may be the secret itself.
        pass
    raise SecretError(
        f"{store.place} holds a {name!r} that finsense did not write; keep it anew with `{store.command('set', name)}`"
    ) from None


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SecretError(
            f"expected the name of a secret, like ACCOUNT.kite.api_secret (letters, digits, dots), found {name!r}"
        )
    return name
