"""Serves an application on one port of loopback, in a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from aiohttp import web

_START_S = 10.0
# How long the server is away when it restarts, real seconds.
_AWAY_S = 0.2

log = structlog.get_logger()

Answer = TypeVar("Answer")


class RehearsalError(RuntimeError):
    """A rehearsal that did not start, or failed by a fault of its own."""


class Host:
    """The thread, the loop and the listener.

    Args:
        application: makes what is served, in the loop.
        work: what runs beside it from the moment that it is open; its failure ends the host.
        closing: is awaited before the end, and called at a restart without being awaited for.
        port: 0 takes a free one.

    Attributes:
        port: where it listens.
    """

    def __init__(
        self,
        application: Callable[[], web.Application],
        work: Callable[[], Coroutine[Any, Any, None]],
        closing: Callable[[], Coroutine[Any, Any, None]],
        port: int,
    ) -> None:
        self.port = port
        self._application, self._work, self._closing = application, work, closing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._started, self._stop = threading.Event(), asyncio.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="rehearsal", daemon=True)

    @property
    def running(self) -> bool:
        """Whether it is up; false after a fault of its own."""
        return self._thread.is_alive()

    def open(self) -> None:
        """Start the thread; returns when it listens.

        Raises:
            RehearsalError: it cannot listen, or the work failed at once.
        """
        self._thread.start()
        if not self._started.wait(_START_S) or self._failed is not None:
            raise RehearsalError(f"the rehearsal did not start: {self._failed}") from self._failed

    def close(self) -> None:
        """End the thread.

        Raises:
            RehearsalError: it had failed by itself.
        """
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._failed is not None:
            raise RehearsalError(f"the rehearsal failed: {self._failed!r}") from self._failed

    def call(self, act: Callable[[], Answer]) -> Answer:
        """Do something in the loop, between two requests."""

        async def acted() -> Answer:
            return act()

        return self.wait_for(acted(), _START_S)

    def wait_for(self, work: Coroutine[Any, Any, Answer], timeout_s: float | None = None) -> Answer:
        """Let a coroutine run in the loop, and wait for its answer in another thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def restart_soon(self) -> None:
        """Restart without waiting for it; to be called in the loop."""
        assert self._loop is not None
        if self._restarting is None or self._restarting.done():
            self._restarting = self._loop.create_task(self.restart())

    async def restart(self) -> None:
        """The listener and all connections close, and after a moment it opens again on the same port."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()
        server = self._runner.server
        assert server is not None
        for connection in list(server.connections):
            connection.force_close()
        await asyncio.sleep(_AWAY_S)
        await self._listen()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            # Told by whoever waits for it, not by the thread.
            self._failed = error
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        stopping = asyncio.create_task(self._stop.wait())
        working: asyncio.Task[None] | None = None
        # A client that gives up must end its handler, which may be one that hangs on purpose.
        self._runner = web.AppRunner(
            self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        try:
            await self._runner.setup()
            await self._listen()
            working = asyncio.create_task(self._work())
            self._started.set()
            log.info("the rehearsal is open", port=self.port)
            await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                # A market that died must not look like one that is quiet.
                working.result()
        finally:
            for task in (stopping, working, self._restarting):
                if task is not None:
                    task.cancel()
            await self._closing()
            await self._runner.cleanup()

    async def _listen(self) -> None:
        assert self._runner is not None
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
