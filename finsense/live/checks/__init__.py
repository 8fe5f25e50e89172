"""What a check is, and what it may look at; each check is a plain function from a Scene to a Check."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from finsense.account.rules import AccountRules
from finsense.config.live import SECRET, KiteBroker, LiveSetup
from finsense.live.brokers.errors import AuthExpired, BrokerError
from finsense.live.clock import WallClock
from finsense.live.secret_store import SecretError
from finsense.market.calendar import TradingSession, nse_calendar, session_date
from finsense.market.instruments import instrument
from finsense.model.bundle import Bundle, BundleError, load_bundle

Mode = Literal["paper", "live"]


class State(StrEnum):
    """How a check stands."""

    OK = "ok"
    WARNING = "warning"
    CROSS = "cross"


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: what was looked at.
        state: how it stands.
        text: what was found.
        mend: the command, or what to do; empty where nothing is wrong.
    """

    name: str
    state: State
    text: str
    mend: str = ""


class Finding(NamedTuple):
    """What a check function gives; the name is added by who calls it."""

    state: State
    text: str
    mend: str = ""


def ok(text: str) -> Finding:
    """A tick."""
    return Finding(State.OK, text)


def warning(text: str, mend: str) -> Finding:
    """Something to know before starting."""
    return Finding(State.WARNING, text, mend)


def cross(text: str, mend: str) -> Finding:
    """Nothing may start before this is mended."""
    return Finding(State.CROSS, text, mend)


@dataclass
class Scene:
    """What checks look at.

    Attributes:
        setup: what is to run.
        path: its file, for the commands that mend.
        mode: paper or live.
        clock: of the market: the machine's own, or a rehearsal's.
        secret: name -> value of a secret; raises SecretError.
        rest: Kite's requests with the account's token; None where there is no token, or no broker.
        no_rest: why there is none.
        token: the access token; empty where there is none.
    """

    setup: LiveSetup
    path: Path
    mode: Mode
    clock: WallClock
    secret: Callable[[str], str]
    rest: Any = None
    no_rest: str = "the setup names no broker"
    token: str = ""

    @property
    def live(self) -> bool:
        """Whether real orders are to leave."""
        return self.mode == "live"

    @cached_property
    def bundle(self) -> Bundle:
        """The bundle, its golden vectors replayed.

        Raises:
            BundleError: it does not verify.
            OSError: it cannot be read.
        """
        return load_bundle(self.setup.bundle)

    @cached_property
    def rules(self) -> AccountRules:
        """The rules that the account will run under.

        Raises:
            LiveSetupError: setup and bundle do not go together.
        """
        return self.setup.account_rules(self.bundle.manifest.account)

    @property
    def kite(self) -> KiteBroker:
        """The broker's section.

        Raises:
            BrokerError: there is none.
        """
        if not isinstance(self.setup.broker, KiteBroker):
            raise BrokerError(self.no_rest)
        return self.setup.broker

    @property
    def asked(self) -> Any:
        """Kite's requests.

        Raises:
            AuthExpired: there is no token.
        """
        if self.rest is None:
            raise AuthExpired("not known: there is no login")
        return self.rest

    @property
    def today(self) -> dt.date:
        """The day in India, by the clock of the market."""
        return session_date(self.clock.now_ns())

    def derivatives(self, symbol: str) -> bool | None:
        """Whether a symbol has derivatives, as the bundle took it to be, or as is known."""
        try:
            given = self.bundle.manifest.derivatives
        except (BundleError, OSError):
            # Another check says so.
            given = None
        return instrument(symbol, derivatives=given).derivatives

    @property
    def daily(self) -> bool:
        """Whether the bundle decides on daily bars; no where it cannot be read."""
        try:
            return self.bundle.manifest.interval == "1d"
        except (BundleError, OSError):
            return False

    def session(self, symbol: str) -> TradingSession | None:
        """Today's session of a symbol; None on a day without.

        Raises:
            CalendarError: the calendar cannot tell.
        """
        return nse_calendar().session(self.today, derivatives=self.derivatives(symbol))

    def address(self, channel: str) -> str:
        """The address of an alarm channel, which may be kept as a secret.

        Raises:
            SecretError: it is not kept.
        """
        return self.secret(channel.removeprefix(SECRET)) if channel.startswith(SECRET) else channel

    def login(self) -> str:
        """The command that logs in."""
        return f"finsense broker login {self.path}"


Checking = Callable[[Scene], Finding]


def carry_out(scene: Scene, checks: Mapping[str, Checking]) -> list[Check]:
    """Every check, in order. One that fails to look is a cross: what was not seen is not good."""
    return [Check(name, *_looked(scene, look)) for name, look in checks.items()]


def _looked(scene: Scene, look: Checking) -> Finding:
    try:
        return look(scene)
    except (AuthExpired, SecretError) as error:
        return cross(str(error), scene.login())
    except BundleError:
        return cross("not known: the bundle cannot be read", "mend `bundle` first")
    except Exception as error:
        return cross(f"it could not be looked at: {type(error).__name__}: {error}", "mend what the message names")
