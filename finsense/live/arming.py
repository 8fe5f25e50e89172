"""What lets `finsense live` send real orders: a typed phrase, or a token with a lifetime that a phrase has given."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from finsense.config.live import LiveSetup
from finsense.live.durable import sync_folder, write_durably
from finsense.market.bars import ist_text

_TOKEN = "armed.json"
_HOUR_NS = 3_600_000_000_000
LONGEST_HOURS = 24.0


class NotArmed(RuntimeError):
    """Nobody confirmed that this setup may trade with real money now."""


class Armed(NamedTuple):
    """A token.

    Attributes:
        setup: hash of the setup that was confirmed.
        bundle: identity of its bundle.
        from_ns: when it was given, ns UTC.
        until_ns: when it ends, ns UTC.
    """

    setup: str
    bundle: str
    from_ns: int
    until_ns: int


def phrase(setup: LiveSetup) -> str:
    """What must be typed, to the letter, before a setup may trade."""
    money = "rehearsal money" if setup.is_rehearsal else "real money"
    return f"trade {money} with {setup.account}"


def confirm(setup: LiveSetup, typed: str) -> None:
    """Check a typed phrase.

    Raises:
        NotArmed: it is another.
    """
    if typed.strip() != phrase(setup):
        raise NotArmed(f"expected the phrase {phrase(setup)!r}, found {typed.strip()!r}; nothing was armed")


class Arming:
    """The token of one account, on disk.

    Args:
        home: folder of the account.
        now_ns: the clock, ns UTC.
    """

    def __init__(self, home: Path, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._path, self._now_ns = home / _TOKEN, now_ns

    def arm(self, setup: LiveSetup, bundle: str, hours: float, typed: str) -> Armed:
        """Give a token to a setup and a bundle, in place of an older one.

        Raises:
            NotArmed: the typed phrase is another, or the lifetime is not between 0 and 24 hours.
            OSError: it cannot be written.
        """
        confirm(setup, typed)
        if not 0 < hours <= LONGEST_HOURS:
            raise NotArmed(f"expected a lifetime above 0 and up to {LONGEST_HOURS:g} hours, found {hours:g}")
        now_ns = self._now_ns()
        token = Armed(setup.hash(), bundle, now_ns, now_ns + int(hours * _HOUR_NS))
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, json.dumps(token._asdict()).encode())
        return token

    def check(self, setup: LiveSetup, bundle: str) -> Armed:
        """The token, if it is of this setup and bundle and lives.

        Raises:
            NotArmed: it is not; says why.
        """
        mend = "arm it with `finsense arm CONFIG --for 8h`"
        try:
            token = Armed(**json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            raise NotArmed(f"the account {setup.account} is not armed; {mend}") from None
        except (OSError, ValueError, TypeError) as error:
            raise NotArmed(f"{self._path} cannot be read ({error}); {mend}") from None
        now_ns = self._now_ns()
        if token.setup != setup.hash():
            raise NotArmed(f"the setup was changed since it was armed; read it again and {mend}")
        if token.bundle != bundle:
            raise NotArmed(f"the bundle was changed since it was armed; {mend}")
        # A clock that was set back must not lengthen it.
        if not token.from_ns <= now_ns < token.until_ns:
            raise NotArmed(f"it was armed from {ist_text(token.from_ns)} to {ist_text(token.until_ns)}; {mend}")
        return token

    def disarm(self) -> bool:
        """Take the token away; whether there was one."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        sync_folder(self._path.parent)
        return True


def hours_of(text: str) -> float:
    """The hours of a lifetime such as `8h` or `30m`.

    Raises:
        NotArmed: it is none.
    """
    units = {"h": 1.0, "m": 1 / 60}
    try:
        return float(text[:-1]) * units[text[-1:]]
    except (ValueError, KeyError):
        raise NotArmed(f"expected a lifetime like 8h or 30m, found {text!r}") from None
