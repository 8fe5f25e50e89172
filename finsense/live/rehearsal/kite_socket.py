"""Kite's tick stream on loopback: subscriptions, frames, order updates, heartbeats, and what may go wrong with them."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from finsense.live.rehearsal import kite_answers as answers
from finsense.live.rehearsal.booked import BookedOrder
from finsense.live.rehearsal.faults import HANDSHAKE, STREAM, Fault, Faults
from finsense.live.rehearsal.kite_frames import HEARTBEAT, ODD_PACKET, PACKETS, frame
from finsense.live.rehearsal.street import Street

_HEARTBEAT_S = 1.0


@dataclass(eq=False)
class _Client:
    """One open stream: instrument token -> mode, and the last packet that was sent."""

    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    modes: dict[int, str] = field(default_factory=dict)
    last: bytes = b""
    silent: bool = False

    @property
    def open(self) -> bool:
        """Whether it can still be written to."""
        return not self.socket.closed and self.transport is not None and not self.transport.is_closing()


class KiteSocket:
    """The streaming half of a rehearsal.

    Args:
        streets: symbol -> its street.
        faults: what goes wrong.
        knows: tells whether an API key and an access token belong together and are alive.

    Attributes:
        opened: how many streams were opened so far.
    """

    def __init__(self, streets: dict[str, Street], faults: Faults, knows: Callable[[str, str], bool]) -> None:
        self.opened = 0
        self._streets = {street.listing.token: street for street in streets.values()}
        self._faults, self._knows = faults, knows
        self._clients: set[_Client] = set()
        self._sending: set[asyncio.Task[None]] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """GET /: open a stream and serve it to its end."""
        key, token = request.query.get("api_key", ""), request.query.get("access_token", "")
        if not self._knows(key, token) or self._faults.strike(*HANDSHAKE):
            return web.Response(status=403, text="Forbidden")
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        client = _Client(socket, request.transport)
        self._clients.add(client)
        self.opened += 1
        heart = asyncio.create_task(self._beat(client))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await self._asked(client, message.data)
        finally:
            heart.cancel()
            self._clients.discard(client)
        return socket

    async def publish(self, street: Street) -> None:
        """Tell everyone who asked for a share what it looks like now."""
        for client in list(self._clients):
            mode = client.modes.get(street.listing.token)
            if mode is not None:
                await self._send_packet(client, PACKETS[mode](street))

    def tell(self, order: BookedOrder) -> None:
        """Tell everyone of an order that changed; nothing is told of its being placed."""
        text = json.dumps({"type": "order", "data": {**answers.order_row(order), "checksum": ""}})
        task = asyncio.get_running_loop().create_task(self._tell_all(text))
        # The loop keeps no reference of its own.
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Close every stream, as a server that stops does."""
        for client in list(self._clients):
            await client.socket.close(code=1001)

    async def _tell_all(self, text: str) -> None:
        for client in list(self._clients):
            if not client.silent and client.open:
                await client.socket.send_str(text)

    async def _asked(self, client: _Client, text: str) -> None:
        try:
            said: dict[str, Any] = json.loads(text)
            action, value = said.get("a"), said.get("v")
            mode, tokens = (value or ("quote", [])) if action == "mode" else ("quote", value or [])
            asked = [int(token) for token in tokens]
        except (ValueError, TypeError, AttributeError):
            # The vendor leaves alone what it does not understand.
            return
        if mode not in PACKETS:
            return
        if action == "subscribe":
            client.modes |= dict.fromkeys(asked, "quote")
        elif action == "unsubscribe":
            for token in asked:
                client.modes.pop(token, None)
        elif action == "mode":
            client.modes |= dict.fromkeys(asked, mode)
            # The first message is a picture of what is; later ones come only with changes.
            shown = [self._streets[token] for token in client.modes if token in self._streets]
            packets = [PACKETS[client.modes[one.listing.token]](one) for one in shown if one.last_paise]
            if packets and not client.silent:
                await self._send(client, frame(packets))

    async def _send_packet(self, client: _Client, packet: bytes) -> None:
        fault = self._faults.strike(*STREAM)
        if fault is Fault.STREAM_SILENT:
            client.silent = True
        if fault is Fault.STREAM_DROPPED and client.transport is not None:
            client.transport.abort()
            return
        if client.silent:
            return
        sent = [packet]
        if fault is Fault.TICKS_REPEATED:
            sent = [packet, packet]
        elif fault is Fault.TICKS_OUT_OF_ORDER and client.last:
            sent = [packet, client.last]
        elif fault is Fault.ODD_PACKET:
            sent = [ODD_PACKET, packet]
        client.last = packet
        await self._send(client, frame(sent))

    async def _beat(self, client: _Client) -> None:
        while not client.socket.closed:
            await asyncio.sleep(_HEARTBEAT_S)
            if not client.silent:
                await self._send(client, HEARTBEAT)

    async def _send(self, client: _Client, data: bytes) -> None:
        if client.open:
            await client.socket.send_bytes(data)
