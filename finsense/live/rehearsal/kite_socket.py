"""Kite's tick stream on loopback: subscriptions, frames, order updates, heartbeats, and what may go wrong with them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from aiohttp import WSMsgType, web

from finsense.live.rehearsal import kite_answers as answers
from finsense.live.rehearsal.booked import BookedOrder
from finsense.live.rehearsal.faults import GAP_NS, STREAM, Fault, Faults
from finsense.live.rehearsal.kite_frames import HEARTBEAT, MODES, ODD_PACKET, frame, full_packet
from finsense.live.rehearsal.street import Street

_HEARTBEAT_S = 1.0
# Per API key, and per connection (Kite Connect's page on the WebSocket).
_MOST_CONNECTIONS, _MOST_INSTRUMENTS = 3, 3000
# What a client may leave unread before it is dropped; half of it makes a market that can wait wait.
_MOST_FRAMES = 2048
_KERNEL_BYTES = 1 << 17
# How long a client may leave everything unread before a market that can wait does so no longer, seconds.
_PATIENCE_S = 2.0
# Who is heard of for so long listens; a preflight only looks in. Seconds.
_LISTENS_S = 2.0


@dataclass(eq=False)
class _Client:
    """One open stream: instrument token -> mode, and the last packet that was sent."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    access_token: str
    modes: dict[int, str] = field(default_factory=dict)
    frames: asyncio.Queue[bytes | str] = field(default_factory=lambda: asyncio.Queue(_MOST_FRAMES))
    last: bytes = b""
    silent: bool = False

    @property
    def open(self) -> bool:
        """Whether it can still be written to."""
        return not self.socket.closed and self.transport is not None and not self.transport.is_closing()

    def send(self, data: bytes | str) -> None:
        """Put a frame into its queue; a client that has left too many unread is dropped."""
        try:
            self.frames.put_nowait(data)
        except asyncio.QueueFull:
            self.drop()

    def drop(self) -> None:
        """End it without a word."""
        if self.transport is not None:
            self.transport.abort()


class KiteSocket:
    """The streaming half of a rehearsal.

    Args:
        streets: symbol -> its street.
        faults: what goes wrong.
        knows: tells whether an API key and an access token belong together and are alive.
        now_ns: the clock of the rehearsal, ns UTC.
        restart: closes all connections and opens the server again, a moment later.

    Attributes:
        opened: how many streams were opened so far.
    """

    def __init__(
        self,
        streets: dict[str, Street],
        faults: Faults,
        knows: Callable[[str, str], bool],
        *,
        now_ns: Callable[[], int],
        restart: Callable[[], None],
    ) -> None:
        self.opened = 0
        self._streets = {street.listing.token: street for street in streets.values()}
        self._faults, self._knows, self._now_ns, self._restart = faults, knows, now_ns, restart
        # In the order of their coming, so that faults are drawn in the same order every time.
        self._clients: dict[_Client, None] = {}

    @property
    def clients(self) -> int:
        """How many streams are open."""
        return len(self._clients)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /: open a stream and serve it to its end."""
        key, token = request.query.get("api_key", ""), request.query.get("access_token", "")
        if not self._knows(key, token) or self._faults.strike(Fault.STREAM_REFUSED):
            return web.Response(status=403, text="Forbidden")
        if len(self._clients) >= _MOST_CONNECTIONS:
            return web.Response(status=429, text="Too many connections")
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        client = _Client(socket, request.transport, token)
        if request.transport is not None:
            # Else the kernel alone would keep some megabytes for a client that reads nothing.
            request.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, _KERNEL_BYTES)
        self._clients[client] = None
        self.opened += 1
        tasks = [asyncio.create_task(self._beat(client)), asyncio.create_task(self._write(client))]
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._asked(client, message.data)
        finally:
            for task in tasks:
                task.cancel()
            self._clients.pop(client)
        return socket

    def publish(self, street: Street) -> None:
        """Tell everyone who asked for a share what it looks like now."""
        token, now_ns = street.listing.token, self._now_ns()
        wanting = [client for client in self._clients if token in client.modes and client.open]
        if not wanting or self._swallowed(now_ns):
            return
        self._faults.maybe_skew(now_ns)
        packet = full_packet(street, now_ns, self._faults.skew_ns(now_ns))
        for client in wanting:
            self._send_packet(client, packet[: MODES[client.modes[token]]])

    def tell(self, order: BookedOrder) -> None:
        """Tell everyone of an order that changed; nothing is told of its being placed."""
        hearing = [client for client in self._clients if client.open and not client.silent]
        if not hearing or self._faults.strike(Fault.UPDATE_LOST):
            return
        text = json.dumps({"type": "order", "data": {**answers.order_row(order), "checksum": ""}})
        for client in hearing:
            client.send(text)

    async def listened(self) -> None:
        """Wait until somebody listens."""
        now_s = asyncio.get_running_loop().time
        since_s = now_s()
        while now_s() - since_s < _LISTENS_S:
            await asyncio.sleep(_LISTENS_S / 20)
            if not any(client.open and client.modes for client in self._clients):
                since_s = now_s()

    async def room(self) -> None:
        """Wait until every client has read half of what it was told, or is dropped for reading nothing."""
        now_s = asyncio.get_running_loop().time
        for client in list(self._clients):
            left, since_s = client.frames.qsize(), now_s()
            while client.open and left > _MOST_FRAMES // 2:
                await asyncio.sleep(0.001)
                if client.frames.qsize() < left:
                    left, since_s = client.frames.qsize(), now_s()
                elif now_s() - since_s > _PATIENCE_S:
                    client.drop()

    def drop_the_dead(self, key: str) -> None:
        """End the streams whose access token has died."""
        for client in list(self._clients):
            if not self._knows(key, client.access_token):
                client.drop()

    def drop_all(self) -> None:
        """End every stream without a word, as a server that falls over does."""
        for client in list(self._clients):
            client.drop()

    async def close(self) -> None:
        """Close every stream, as a server that stops does."""
        for client in list(self._clients):
            await client.socket.close(code=1001)

    def _swallowed(self, now_ns: int) -> bool:
        """Whether a gap in the ticks takes what is told now."""
        if self._faults.lasts(Fault.TICK_GAP, now_ns):
            return True
        begins = self._faults.strike(Fault.TICK_GAP) is not None
        if begins:
            self._faults.begin(Fault.TICK_GAP, now_ns + GAP_NS)
        return begins

    def _asked(self, client: _Client, text: str) -> None:
        try:
            said: dict[str, Any] = json.loads(text)
            action, value = said.get("a"), said.get("v")
            mode, tokens = (value or ("quote", [])) if action == "mode" else ("quote", value or [])
            asked = [int(token) for token in tokens]
        except (ValueError, TypeError, AttributeError):
            # The vendor leaves alone what it does not understand.
            return
        if mode not in MODES:
            return
        if action == "unsubscribe":
            for token in asked:
                client.modes.pop(token, None)
        elif action in ("subscribe", "mode"):
            free = _MOST_INSTRUMENTS - len(client.modes)
            new = [token for token in dict.fromkeys(asked) if token not in client.modes]
            if len(new) > free:
                client.send(json.dumps({"type": "error", "data": f"At most {_MOST_INSTRUMENTS} instruments."}))
            beyond = set(new[free:])
            taken = [token for token in asked if token not in beyond]
            client.modes |= dict.fromkeys(taken, mode)
            self._show(client, taken)

    def _show(self, client: _Client, tokens: list[int]) -> None:
        """A picture of what is; later messages come only with changes."""
        now_ns = self._now_ns()
        if client.silent or self._faults.lasts(Fault.TICK_GAP, now_ns):
            return
        skew_ns = self._faults.skew_ns(now_ns)
        known = [token for token in dict.fromkeys(tokens) if token in self._streets]
        packets = [full_packet(self._streets[one], now_ns, skew_ns)[: MODES[client.modes[one]]] for one in known]
        if packets:
            client.send(frame(packets))

    def _send_packet(self, client: _Client, packet: bytes) -> None:
        if client.silent:
            return
        suitable = [fault for fault in STREAM if fault is not Fault.TICKS_OUT_OF_ORDER or client.last]
        fault = self._faults.strike(*suitable, Fault.SERVER_RESTART)
        if fault is Fault.SERVER_RESTART:
            self._restart()
        elif fault is Fault.STREAM_DROPPED:
            client.drop()
        elif fault is Fault.STREAM_SILENT:
            client.silent = True
        else:
            around = {
                Fault.TICKS_REPEATED: [packet, packet],
                Fault.TICKS_OUT_OF_ORDER: [packet, client.last],
                Fault.ODD_PACKET: [ODD_PACKET, packet],
            }
            client.send(frame([packet] if fault is None else around[fault]))
            client.last = packet

    async def _beat(self, client: _Client) -> None:
        while client.open:
            await asyncio.sleep(_HEARTBEAT_S)
            if not client.silent:
                client.send(HEARTBEAT)

    async def _write(self, client: _Client) -> None:
        """Write what waits, as fast as the client reads."""
        try:
            while True:
                data = await client.frames.get()
                await (client.socket.send_str(data) if isinstance(data, str) else client.socket.send_bytes(data))
        except (ConnectionError, RuntimeError):
            # It is gone; its reader ends the rest.
            client.drop()
