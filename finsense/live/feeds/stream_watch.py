"""Listens to a tick stream in a thread of its own, and knows since when nothing of it was missed."""

import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import structlog

from finsense.live.clock import WallClock
from finsense.live.feeds.kite_stream import Connected, Event, Idle, Lost, Ticks
from finsense.live.feeds.mailbox import Mailbox

_END_S = 1.0
# Real seconds after which a subscription is in force, where nothing has traded yet that would show it.
_SUBSCRIBED_S = 0.5

log = structlog.get_logger()


class Stream(Protocol):
    """What of `KiteStream` is listened to."""

    heard_s: float

    def events(self) -> Iterator[Event]:
        """What happens on the stream, until `close`."""
        ...

    def close(self) -> None:
        """End `events`."""
        ...


class Heard(NamedTuple):
    """Something from the stream's thread.

    Attributes:
        event: what the stream told; an exception where it ended with one; None where ticks had no room.
        now_ns: when, ns UTC.
        read_ns: all that the vendor had sent until this instant has been read, ns UTC; 0 unknown.
        at_s: when, by a monotonic clock.
    """

    event: Event | BaseException | None
    now_ns: int
    read_ns: int
    at_s: float


_OVERFLOW = Heard(None, 0, 0, 0.0)


class StreamWatch:
    """A stream between its thread and the loop's.

    Args:
        stream: a new one.
        clock: of the market.
        room: ticks that may wait between the two threads.
        margin_ns: after the vendor has begun to send, until nothing is missed any more.

    Attributes:
        covered_ns: nothing was missed since then, ns UTC; None while the stream is lost.
        read_ns: all that the vendor had sent until then has been read, ns UTC. A stream that stalls gives old frames
            late: the stamps of its ticks tell their age. Where there are none, the last frame (a heartbeat) before a
            pause does, for nothing waited behind it.
        losses: how often the stream was lost.
        gaps: how often ticks may have been missed so far: the stream was opened, frames had no room, or see `doubt`.
    """

    def __init__(self, stream: Stream, clock: WallClock, *, room: int, margin_ns: int) -> None:
        self.covered_ns: int | None = None
        self.read_ns = self.losses = self.gaps = 0
        self._stream, self._clock, self._margin_ns = stream, clock, margin_ns
        # When the stream was opened, by a monotonic clock, until it is known that what was asked for is sent.
        self._opened_s: float | None = None
        self._mail: Mailbox[Heard] = Mailbox(room, _OVERFLOW)
        self._thread = threading.Thread(target=self._listen, name="kite-stream", daemon=True)

    @property
    def overflowed(self) -> int:
        """Frames that had no room."""
        return self._mail.dropped

    def open(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def close(self) -> None:
        """End the stream; its thread follows at its next look."""
        self._stream.close()
        self._thread.join(_END_S)

    def doubt(self) -> None:
        """Something came that cannot be believed: until now ticks may have been missed."""
        self.covered_ns = self._clock.now_ns() + self._margin_ns
        self.gaps += 1

    def take(self, timeout_s: float) -> Heard | None:
        """The next thing that came; None where nothing did in time.

        Raises:
            AuthExpired: the server refuses the token.
            Exception: whatever else ended the stream.
        """
        heard = self._mail.take(timeout_s)
        if heard is None:
            return None
        self.read_ns = max(self.read_ns, heard.read_ns)
        if isinstance(heard.event, BaseException):
            raise heard.event
        if isinstance(heard.event, Lost):
            self.covered_ns = self._opened_s = None
            self.losses += 1
        elif isinstance(heard.event, Connected):
            self.covered_ns, self._opened_s = None, heard.at_s
            self.gaps += 1
        elif heard is _OVERFLOW:
            log.error("ticks were dropped: the loop is too slow for them", frames=self._mail.dropped)
            self.covered_ns = self._clock.now_ns() + self._margin_ns
            self.gaps += 1
        elif self._opened_s is not None and _subscribed(heard, self._opened_s):
            # A clock of ours that is a little behind must not make a bar whole whose first ticks are missing.
            self.covered_ns, self._opened_s = heard.now_ns + self._margin_ns, None
        return heard

    def _listen(self) -> None:
        # The last frame of any kind came at this instant or later.
        frame_ns = before_ns = 0
        stream, seen_s = self._stream, self._stream.heard_s
        try:
            for event in stream.events():
                now_ns, heard_s = self._clock.now_ns(), stream.heard_s
                read_ns = weight = 0
                if isinstance(event, Ticks):
                    frame_ns, weight = now_ns, len(event.ticks)
                    read_ns = min(now_ns, max(tick.time_ns for _, tick in event.ticks))
                elif heard_s != seen_s:
                    frame_ns = before_ns
                if isinstance(event, Idle):
                    read_ns = frame_ns
                self._mail.put(Heard(event, now_ns, read_ns, time.monotonic()), weight)
                before_ns, seen_s = now_ns, heard_s
        except BaseException as error:
            # Told by whoever waits for the stream, not by its thread.
            self._mail.put(Heard(error, self._clock.now_ns(), 0, time.monotonic()))


def _subscribed(heard: Heard, opened_s: float) -> bool:
    """Whether the vendor has surely begun to send what was asked for: it shows it at once where there is any."""
    if isinstance(heard.event, Ticks):
        return any(tick.time_ns > 0 for _, tick in heard.event.ticks)
    return isinstance(heard.event, Idle) and heard.at_s - opened_s >= _SUBSCRIBED_S
