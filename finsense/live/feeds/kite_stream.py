"""Kite's tick stream over one WebSocket that watches itself: silence, drops and refusals are events, never a hang."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import structlog
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from finsense.live.brokers.errors import AuthExpired
from finsense.live.feeds.kite_packets import FrameDecoder, PacketError, ticks_of
from finsense.market.ticks import Tick

KITE_STREAM = "wss://ws.kite.trade"
_REFUSED = (401, 403)
# Longer than a frame of 3,000 full packets.
_MAX_FRAME_BYTES = 1 << 20

log = structlog.get_logger()


@dataclass(frozen=True)
class Ticks:
    """What one frame told, in its order: instrument token and tick."""

    ticks: list[tuple[int, Tick]]


@dataclass(frozen=True)
class OrderUpdate:
    """What the broker says of an order, as it says it. Its checksum is empty: take it as a hint to read the book."""

    fields: dict[str, Any]


@dataclass(frozen=True)
class Idle:
    """Nothing came within the polling time; the caller may look at the clock."""


@dataclass(frozen=True)
class Connected:
    """The stream is open and subscribed; `again` where it had been open before, so that ticks may be missing."""

    again: bool


@dataclass(frozen=True)
class Lost:
    """The connection is gone; it is opened again after a pause."""

    reason: str


Event = Ticks | OrderUpdate | Idle | Connected | Lost


@dataclass(frozen=True)
class Patience:
    """How long the stream waits for what, seconds.

    Attributes:
        poll_s: between two Idle events.
        silence_s: without any frame, heartbeats included, before the connection counts as dead.
        open_s: for the handshake.
        first_retry_s: pause after the first loss; it doubles with every try that fails, up to `longest_retry_s`.
        longest_retry_s: see above. Each pause is drawn between its half and its whole, so that many clients do not
            come back at once.
    """

    poll_s: float = 0.25
    silence_s: float = 10.0
    open_s: float = 7.0
    first_retry_s: float = 1.0
    longest_retry_s: float = 30.0


class KiteStream:
    """One connection to Kite's stream, opened again whenever it is lost.

    Kite's own client never notices a silent connection, retries a refused token to its limit, and subscribes twice
    after a reconnection; this one does none of these.

    Args:
        api_key: of the application.
        access_token: of the day; it stands in the address, which is therefore never shown.
        tokens: instruments, all in full mode: stamped, with the order book.
        root: of another server, such as the rehearsal's.
        patience: see there.
        generator: draws the pauses.
        clock_s: a monotonic clock.

    Attributes:
        unknown_packets: packets of a length that no mode has.
        heard_s: when the last frame came, heartbeats included, by `clock_s`; 0 before the first.
    """

    def __init__(
        self,
        api_key: str,
        access_token: str,
        tokens: Sequence[int],
        *,
        root: str = KITE_STREAM,
        patience: Patience | None = None,
        generator: random.Random | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = f"{root}?api_key={api_key}&access_token={access_token}"
        self._secret = access_token
        self._tokens = list(tokens)
        self._patience = patience or Patience()
        self._generator = generator or random.Random()
        self._clock_s = clock_s
        self._decoder = FrameDecoder()
        self.heard_s = 0.0
        self._closing = threading.Event()

    @property
    def unknown_packets(self) -> int:
        """See the class."""
        return self._decoder.unknown

    def close(self) -> None:
        """End `events` at its next event; any thread may call this."""
        self._closing.set()

    def events(self) -> Iterator[Event]:
        """What happens on the stream, until `close`.

        Raises:
            AuthExpired: the server refuses the token; opening again would be refused too.
        """
        failures, opened = 0, False
        while not self._closing.is_set():
            try:
                with self._connect() as connection:
                    self._subscribe(connection)
                    yield Connected(again=opened)
                    opened = True
                    for event in self._receive(connection):
                        # A server that accepts and closes at once has not worked yet.
                        failures = 0
                        yield event
                    return
            except InvalidStatus as error:
                code = error.response.status_code
                if code in _REFUSED:
                    raise AuthExpired(f"the tick stream refuses the access token (HTTP {code}): log in again") from None
                reason = f"the server answered the handshake with HTTP {code}"
            except (OSError, WebSocketException, PacketError) as error:
                reason = self._scrubbed(error)
            failures += 1
            pause_s = self._pause_s(failures)
            log.warning("the tick stream is lost", reason=reason, failures=failures, pause_s=round(pause_s, 2))
            yield Lost(reason)
            self._closing.wait(pause_s)

    def _connect(self) -> AbstractContextManager[ClientConnection]:
        return connect(
            self._address,
            open_timeout=self._patience.open_s,
            close_timeout=1.0,
            # The watch below sees more than a pong: whether anything arrives.
            ping_interval=None,
            compression=None,
            max_size=_MAX_FRAME_BYTES,
            additional_headers={"X-Kite-Version": "3"},
            proxy=None,
        )

    def _subscribe(self, connection: ClientConnection) -> None:
        connection.send(json.dumps({"a": "subscribe", "v": self._tokens}))
        connection.send(json.dumps({"a": "mode", "v": ["full", self._tokens]}))

    def _receive(self, connection: ClientConnection) -> Iterator[Event]:
        self.heard_s = self._clock_s()
        while not self._closing.is_set():
            try:
                frame = connection.recv(timeout=self._patience.poll_s)
            except TimeoutError:
                silent_s = self._clock_s() - self.heard_s
                if silent_s > self._patience.silence_s:
                    raise OSError(f"no frame for {silent_s:.1f} s, not even a heartbeat") from None
                yield Idle()
                continue
            self.heard_s = self._clock_s()
            if isinstance(frame, bytes):
                packets = self._decoder.decode(frame)
                if len(packets):
                    yield Ticks(ticks_of(packets))
            else:
                yield from self._told(frame)

    def _told(self, text: str) -> Iterator[Event]:
        """A text frame: an update of an order, an error of the server, or something that we leave alone."""
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        kind = said.get("type") if isinstance(said, dict) else None
        data = said.get("data") if isinstance(said, dict) else None
        if kind == "order" and isinstance(data, dict):
            yield OrderUpdate(data)
        elif kind == "error":
            log.warning("the tick stream tells of an error", says=str(data).replace(self._secret, "<access token>"))

    def _pause_s(self, failures: int) -> float:
        longest = min(self._patience.first_retry_s * 2.0 ** min(failures - 1, 30), self._patience.longest_retry_s)
        return longest * self._generator.uniform(0.5, 1.0)

    def _scrubbed(self, error: Exception) -> str:
        if isinstance(error, ConnectionClosed):
            return f"closed ({error})".replace(self._secret, "<access token>")
        return f"{type(error).__name__}: {error}".replace(self._secret, "<access token>")
