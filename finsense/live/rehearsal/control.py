"""Hands on a rehearsal from outside its process: its clock, its state, faults by name, and the day by hand."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from finsense.live.rehearsal.faults import Fault, Faults

_LOOPBACK = ("127.0.0.1", "::1")
_MOST_AT_ONCE = 1000

Play = Callable[[int | None, int | None], Awaitable[int]]


class Control:
    """The routes below /rehearsal/; none asks for a token, and all but the clock answer this machine alone.

    Args:
        clock: tells {"now_ns", "speed"}.
        state: tells what `finsense rehearse` and the tests want to know.
        faults: what goes wrong.
        play: plays so many trades, or to an instant; returns how many trades there were.
        expire: lets every access token die.
        restart: closes all connections and opens the server again, a moment later.
    """

    def __init__(
        self,
        clock: Callable[[], dict[str, Any]],
        state: Callable[[], dict[str, Any]],
        faults: Faults,
        *,
        play: Play,
        expire: Callable[[], None],
        restart: Callable[[], None],
    ) -> None:
        self._clock, self._state, self._faults = clock, state, faults
        self._play, self._expire, self._restart = play, expire, restart

    def routes(self) -> list[web.RouteDef]:
        """Where it is reached."""
        return [
            web.get("/rehearsal/clock", self._tell_clock),
            web.get("/rehearsal/state", self._tell_state),
            web.post("/rehearsal/faults", self._order_fault),
            web.post("/rehearsal/play", self._play_on),
        ]

    async def _tell_clock(self, _: web.Request) -> web.Response:
        return web.json_response(self._clock())

    async def _tell_state(self, request: web.Request) -> web.Response:
        return _refusal(request) or web.json_response(self._state())

    async def _order_fault(self, request: web.Request) -> web.Response:
        """{"name": ...} strikes at the next occasion, with "count" so often; with "rate" it is drawn from now on.

        With "now" a dead token and a restart do not wait for an occasion.
        """
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        try:
            asked = await request.json()
            fault = Fault(asked["name"])
            count, rate = int(asked.get("count", 1)), asked.get("rate")
            chance = None if rate is None else float(rate)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            names = ", ".join(fault.value for fault in Fault)
            return _wrong(f"expected {{'name': NAME}} with one of {names}, found {error!r}")
        if not 0 < count <= _MOST_AT_ONCE or (chance is not None and not 0.0 <= chance <= 1.0):
            return _wrong(f"expected a count from 1 to {_MOST_AT_ONCE} and a rate from 0 to 1, found {asked}")
        now = {Fault.TOKEN_EXPIRED: self._expire, Fault.SERVER_RESTART: self._restart}
        if asked.get("now") and fault in now:
            now[fault]()
            self._faults.struck[fault] += 1
        elif chance is not None:
            self._faults.rates[fault] = chance
        else:
            self._faults.order(*[fault] * count)
        return web.json_response({"struck": dict(self._faults.struck)})

    async def _play_on(self, request: web.Request) -> web.Response:
        """{"trades": n} or {"until_ns": t}: only where the clock stands still."""
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        try:
            asked = await request.json()
            trades, until_ns = (
                None if asked.get(name) is None else int(asked[name]) for name in ("trades", "until_ns")
            )
            if (trades is None) == (until_ns is None):
                raise ValueError("one of trades and until_ns")
            played = await self._play(trades, until_ns)
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            return _wrong(f"expected {{'trades': n}} or {{'until_ns': t}}, found {error}")
        return web.json_response({"trades": played, **self._clock()})


def _refusal(request: web.Request) -> web.Response | None:
    """What is no business of another machine."""
    if request.remote in _LOOPBACK:
        return None
    return web.json_response({"error": "this answers the machine of the rehearsal alone"}, status=403)


def _wrong(text: str) -> web.Response:
    return web.json_response({"error": text}, status=400)
