"""What runs on paper or live: a bundle on symbols of one account, with its feed, broker, limits and alarms."""

import hashlib
import json
import os
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from finsense.account.limits import Limits, loosened
from finsense.account.rules import AccountRules
from finsense.config.loading import load
from finsense.config.rendering import to_plain, to_yaml

_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
# An address, or a text that names the secret which holds it: addresses of alarm services are secrets themselves.
SECRET = "secret:"
# Of these limits the larger one is the tighter.
_FLOORS = ("min_position_fraction", "cash_buffer", "no_entry_before_close_minutes")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _server(text: str) -> str:
    """An address that a token may be sent to: encrypted, or on this machine, and without a path that would be lost."""
    parts = urlsplit(text)
    safe = parts.scheme in ("https", "wss") or parts.hostname in _LOOPBACK
    if not safe or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(
            "expected an address without a path: https://host or wss://host, or http:// or ws:// on this machine "
            f"(such as a rehearsal's http://127.0.0.1:8765), found {text!r}"
        )
    return text.rstrip("/")


def _channel(text: str) -> str:
    if text.startswith(SECRET) and text != SECRET:
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected an address (https://...) or `{SECRET}NAME`, found {text!r}")
    return text


_Server = Annotated[str, AfterValidator(_server)]
Channel = Annotated[str, AfterValidator(_channel)]
Symbol = Annotated[str, Field(min_length=1, max_length=50)]


class KiteFeed(_Section):
    """Zerodha's tick stream, made into bars; what a lost connection missed comes from the historical endpoint."""

    kind: Literal["kite"]
    silence_s: float = Field(default=10.0, gt=0, description="without any frame before the connection counts as dead")
    bars: Literal["ticks", "candles"] = Field(
        default="ticks",
        description="candles: every bar as the vendor's history will have it, some seconds later, a request each",
    )
    late_s: float = Field(default=2.0, ge=0, le=60, description="how long after its end a bar waits for late ticks")


class YahooFeed(_Section):
    """Bars of Yahoo Finance, asked for again and again; for paper alone, it promises nothing."""

    kind: Literal["yahoo"]
    poll_s: float = Field(default=30.0, ge=1, le=3600, description="between two requests")


class ReplayFeed(_Section):
    """Recorded bars."""

    kind: Literal["replay"]
    path: Path = Field(description="bars: .parquet, .csv or .csv.gz")
    first: date | None = Field(default=None, alias="from")
    last: date | None = Field(default=None, alias="to")
    timezone: str | None = Field(default=None, description="of stamps that carry none")
    speed: Annotated[float, Field(gt=0)] | None = Field(default=None, description="times real time; null: at once")


LiveFeed = Annotated[KiteFeed | YahooFeed | ReplayFeed, Field(discriminator="kind")]


class PaperBroker(_Section):
    """The simulated exchange; it has no network client."""

    kind: Literal["paper"] = "paper"


class KiteBroker(_Section):
    """Zerodha Kite Connect. Its secrets are in the secret store: ACCOUNT.kite.api_secret, ACCOUNT.kite.access_token."""

    kind: Literal["kite"]
    api_key: str = Field(min_length=1, max_length=100, description="of the application; no secret")
    root: _Server | None = Field(default=None, description="of a rehearsal; null for Zerodha's")
    stream_root: _Server | None = Field(default=None, description="of a rehearsal; null for Zerodha's")
    static_ip: IPv4Address | None = Field(default=None, description="as registered; orders leave from it alone")
    address_service: str | None = Field(
        default=None, pattern=r"^https?://", description="answers the IPv4 address it was asked from, as plain text"
    )
    timeout_s: float = Field(default=7.0, gt=0, le=60, description="after which an answer counts as lost")
    fate_s: float = Field(default=30.0, gt=0, le=600, description="how long an order of unknown fate is looked for")
    market_protection: float = Field(default=-1, ge=-1, le=100, description="percent; -1: the exchange's own")
    algo_id: str | None = Field(default=None, max_length=50, description="where the exchange has given one")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if (self.root is None) != (self.stream_root is None):
            raise ValueError("root and stream_root must be given together: a rehearsal has both, Zerodha needs neither")
        if self.market_protection == 0 or -1 < self.market_protection < 0:
            raise ValueError(
                f"market_protection must be above 0 or -1, found {self.market_protection:g}: orders without protection "
                "are refused since 1 April 2026"
            )
        return self


LiveBroker = Annotated[PaperBroker | KiteBroker, Field(discriminator="kind")]


class GateSettings(_Section):
    """When an order must not leave, for reasons that only a live market knows.

    What only reduces a position passes where the data is in doubt: staying in would be the greater risk.
    """

    orders_per_second: int = Field(default=8, ge=1, le=10, description="the exchange's threshold is 10")
    orders_per_minute: int = Field(default=200, ge=1, le=400, description="the broker's limit is 400")
    orders_per_day: int = Field(default=2000, ge=1, le=5000, description="the broker's limit is 5000")
    stale_s: float = Field(default=60.0, gt=0, le=3600, description="a bar that ended longer ago sends no order")
    gap_bars: int = Field(default=0, ge=0, le=75, description="so many bars of a symbol may be missing in a row")
    gap_pause_bars: int = Field(default=3, ge=1, le=75, description="after more, none of its orders for so many bars")
    tick_distance: float = Field(
        default=0.03, gt=0, lt=1, description="fraction: the last trade may lie so far from the close decided on"
    )
    skew_s: float = Field(default=5.0, gt=0, le=60, description="the feed's stamps may differ so much from our clock")

    @model_validator(mode="after")
    def _rates_rise(self) -> Self:
        if not self.orders_per_second <= self.orders_per_minute <= self.orders_per_day:
            raise ValueError(
                "orders_per_second, orders_per_minute and orders_per_day must not fall, found "
                f"{self.orders_per_second}, {self.orders_per_minute} and {self.orders_per_day}"
            )
        return self


class KillSettings(_Section):
    """How `finsense kill` stops what trades."""

    answer_s: float = Field(default=5.0, gt=0, le=60, description="so long the running loop may take to answer")
    confirm_s: float = Field(default=30.0, gt=0, le=600, description="so long cancels and closing orders are followed")
    chunk_shares: int = Field(default=500, ge=1, le=100_000, description="largest closing order of --flatten")


class Alarm(_Section):
    """Where alarms go beside the log and the journal."""

    webhooks: tuple[Channel, ...] = Field(default=(), description="each is sent JSON by POST")
    timeout_s: float = Field(default=10.0, gt=0, le=120)


class HeartbeatSettings(_Section):
    """A sign of life to a service that raises an alarm of its own when it stays away."""

    url: Channel
    every_s: float = Field(default=60.0, ge=0.05, le=3600)
    timeout_s: float = Field(default=10.0, gt=0, le=120)
    silence_s: float = Field(default=60.0, gt=0, le=3600, description="a loop silent for longer counts as dead")
    method: Literal["GET", "POST"] = "GET"


def default_home(account: str) -> Path:
    """The folder of an account's state where the file names none: `$XDG_STATE_HOME/finsense/ACCOUNT`."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.path.abspath(os.path.expanduser(state))) / "finsense" / account


class LiveSetupError(ValueError):
    """A setup that does not go together with its bundle."""


def tightest(trained: Limits, live: Limits) -> Limits:
    """Of each limit the tighter one; a live setup can tighten what a policy was trained under, and loosen nothing.

    Raises:
        ValueError: the result contradicts itself.
    """
    chosen: dict[str, Any] = {"preset": trained.preset}
    for name in Limits.model_fields:
        theirs, ours = getattr(trained, name), getattr(live, name)
        known = [value for value in (theirs, ours) if value is not None]
        if name in _FLOORS:
            chosen[name] = max(known, default=None)
        elif name in ("on_daily_loss", "on_drawdown"):
            chosen[name] = "flatten" if "flatten" in known else "no_entries"
        elif name == "volatility_bars":
            chosen[name] = theirs if trained.max_volatility_spike is not None else ours
        elif name == "correlation_bars":
            chosen[name] = theirs if trained.max_correlation is not None else ours
        elif name == "sectors":
            chosen[name] = {**ours, **theirs}
        elif name != "preset":
            chosen[name] = min(known, default=None)
    return Limits(**chosen)


class LiveSetup(_Section):
    """Everything that decides what runs on paper or live."""

    name: str = Field(pattern=_NAME, max_length=50)
    account: str = Field(pattern=_NAME, max_length=50, description="names the secrets, the journal and the lock")
    bundle: Path = Field(description="folder of the exported policy")
    symbols: tuple[Symbol, ...] = Field(min_length=1, description="what is traded; their order changes nothing")
    home: Path = Field(default=Path(), description="folder of everything that must survive; see `default_home`")
    balance: Annotated[Decimal, Field(gt=0, le=Decimal(10) ** 9)] | None = Field(
        default=None, description="rupees that the account begins with; null for the bundle's"
    )
    feed: LiveFeed
    broker: LiveBroker = PaperBroker()
    limits: Limits = Field(default=Limits(), description="tighten those that the policy was trained under")
    gate: GateSettings = GateSettings()
    kill: KillSettings = KillSettings()
    alarms: Alarm = Alarm()
    heartbeat: HeartbeatSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_a_home(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("account"), str) and values.get("home") is None:
            return {**values, "home": str(default_home(values["account"]))}
        return values

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        twice = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
        if twice:
            raise ValueError(f"symbols must differ from each other, found {', '.join(twice)} more than once")
        if self.feed.kind == "kite" and self.broker.kind != "kite":
            raise ValueError("feed kite needs broker kite: its ticks come with that login, on paper too")
        if self.balance is not None and (self.balance * 100) % 1 != 0:
            raise ValueError(f"balance must be whole paise, found {self.balance}")
        return self

    def account_rules(self, trained: AccountRules) -> AccountRules:
        """The rules that the account runs under: those of the bundle with this setup's balance, and the tighter limits.

        Raises:
            LiveSetupError: together they leave no room, or contradict each other.
        """
        try:
            limits = tightest(trained.limits, self.limits)
            changed = {"limits": limits, "balance": trained.balance if self.balance is None else self.balance}
            return AccountRules.model_validate({**dict(trained), **changed})
        except ValueError as error:
            raise LiveSetupError(
                f"the limits of {self.name} and those of its bundle do not go together: {error}"
            ) from error

    def remarks(self) -> list[str]:
        """What is allowed and should be known: limits that are looser than their preset."""
        return [f"limits.{line}" for line in loosened(self.limits)]

    @property
    def ordered_symbols(self) -> tuple[str, ...]:
        """The symbols in alphabetic order, as everything that runs takes them."""
        return tuple(sorted(self.symbols))

    def journal(self, mode: Literal["paper", "live"]) -> Path:
        """The journal of a mode; paper and live never share one."""
        return self.home / f"{self.name}.{mode}.db"

    @property
    def rates(self) -> Path:
        """The file of the account's request rates, shared by all its processes."""
        return self.home / "rates.db"

    @property
    def is_rehearsal(self) -> bool:
        """Whether the broker is a server of our own, with money of our own."""
        return isinstance(self.broker, KiteBroker) and self.broker.root is not None

    def resolved(self) -> dict[str, Any]:
        """Every value with its default, as JSON values; paths are absolute."""
        values: dict[str, Any] = to_plain(self.model_dump(by_alias=True, mode="json"))
        return values

    def resolved_yaml(self) -> str:
        """The resolved values as YAML that loads to an equal setup from any place."""
        return to_yaml(self.resolved())

    def hash(self) -> str:
        """SHA-256 (hex) of the canonical JSON of the resolved values; it names the setup in journal and armed token."""
        text = json.dumps(self.resolved(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def load_live(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> LiveSetup:
    """The setup that a YAML file and overrides such as `gate.stale_s=30` describe.

    Raises:
        ConfigError: Something is wrong with it; lists everything that is.
        OSError: The file cannot be read.
    """
    return load(path, overrides, LiveSetup)
