"""Carries out a pulled kill switch from outside: through the loop while it answers, in its place when it does not."""

import os
import signal
import time
from collections.abc import Callable, Collection

from finsense.config.live import KillSettings
from finsense.live.account_lock import holder
from finsense.live.brokers.errors import BrokerError
from finsense.live.kill_switch import KillSwitch, Latch, Outcome
from finsense.live.secret_store import SecretError
from finsense.live.stop_orders import Desk, Stopped, Timing, close_positions, stop_orders

_POLL_S = 0.02
# How long the kernel may take to end a process and release its lock.
_END_S = 10.0


class KillRun:
    """One run of `finsense kill`.

    Args:
        switch: latched already.
        latch: what was pulled.
        symbols: what the account trades; every open order of these is ours.
        settings: how long is waited for what.
        open_desk: connects to the broker; None where the loop traded on paper and no order can be at a broker.
        protection: percent that a closing order may go beyond the last price, or -1.
        products: what the account's sessions trade in; shares in others are their owner's own. None: nobody knows, so
            all are closed.
        tell: is told what happens, line by line.
    """

    def __init__(
        self,
        switch: KillSwitch,
        latch: Latch,
        symbols: tuple[str, ...],
        settings: KillSettings,
        open_desk: Callable[[], Desk] | None,
        *,
        protection: float = -1.0,
        products: Collection[str] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._switch, self._latch, self._symbols, self._settings = switch, latch, symbols, settings
        self._open_desk, self._protection, self._tell = open_desk, protection, tell
        self._products = products
        self._timing = Timing(time.monotonic, time.sleep)

    def carry_out(self) -> Outcome:
        """Stop everything; returns what was done and what is left, which is also written beside the latch."""
        answer = self._by_the_loop()
        if answer is not None and self._is_whole(answer):
            return answer
        problems = self._end_loop()
        if self._open_desk is None:
            outcome = Outcome("the command; the loop traded on paper", (), (), {}, tuple(problems))
        else:
            outcome = self._in_its_place(self._open_desk, problems)
        try:
            self._switch.answer(self._latch, outcome)
        except OSError as error:
            # A full disk must not hide what was done.
            self._tell(f"the outcome cannot be written down: {error}")
        return outcome

    def _is_whole(self, answer: Outcome) -> bool:
        """Whether nothing is left to do; on paper nothing can be done from outside."""
        left = answer.open_orders or answer.problems or (self._latch.flatten and answer.positions)
        return self._open_desk is None or not left

    def _by_the_loop(self) -> Outcome | None:
        pid = holder(self._switch.home)
        if pid is None:
            self._tell("no loop is running on this account")
            return None
        self._tell(f"process {pid} runs the loop; it has {self._settings.answer_s:g} s to answer")
        began_s = time.monotonic()
        while holder(self._switch.home) is not None:
            answer = self._switch.answered(self._latch)
            if answer is not None:
                return answer
            patience_s = self._settings.answer_s
            if self._switch.taken(self._latch):
                patience_s += self._settings.confirm_s * (2 if self._latch.flatten else 1)
            if time.monotonic() - began_s > patience_s:
                self._tell("the loop does not answer")
                return None
            time.sleep(_POLL_S)
        # It may have answered with its last breath.
        return self._switch.answered(self._latch)

    def _end_loop(self) -> list[str]:
        """End a loop that did not answer: once the orders are cancelled it could send the one it was about to send.

        It can be ended at any instant without losing an order: that is what its journal is for.
        """
        pid = holder(self._switch.home)
        if pid is None:
            return []
        if pid <= 0:
            # So the kernel names one that it cannot see, as in another container; 0 and -1 would end many others.
            return ["the loop runs where it cannot be ended from here: it may send an order when it goes on"]
        self._tell(f"ending process {pid}, so that it sends nothing more")
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return []
        except PermissionError:
            return [f"process {pid} belongs to another user and was not ended: it may send an order when it goes on"]
        until_s = time.monotonic() + _END_S
        while holder(self._switch.home) is not None:
            if time.monotonic() > until_s:
                return [f"process {pid} did not end: it may send an order when it goes on"]
            time.sleep(_POLL_S)
        return []

    def _in_its_place(self, open_desk: Callable[[], Desk], problems: list[str]) -> Outcome:
        try:
            desk = open_desk()
        except (BrokerError, SecretError, OSError) as error:
            problems = [*problems, f"the broker cannot be reached: {error}"]
            return Outcome("nobody", (), ("unknown: the book was not read",), {}, tuple(problems))
        stopped = stop_orders(
            desk,
            self._symbols,
            spare_stops=not self._latch.flatten,
            at_most_s=self._settings.confirm_s,
            timing=self._timing,
        )
        if stopped.confirmed_s is not None:
            self._tell(f"{len(stopped.cancelled)} orders cancelled, seen in the book after {stopped.confirmed_s:.2f} s")
        if not self._latch.flatten:
            return self._outcome(stopped, problems)
        closed = close_positions(
            desk,
            self._symbols,
            tag=kill_tag(self._latch),
            chunk_shares=self._settings.chunk_shares,
            at_most_s=self._settings.confirm_s,
            timing=self._timing,
            protection=self._protection,
            products=self._products,
        )
        stopped.positions = closed.positions
        held = closed.positions
        if held is None:
            problems = [*problems, "what is still held is unknown: look at the broker's own page"]
        elif held:
            problems = [*problems, f"still held: {', '.join(f'{shares} {name[0]}' for name, shares in held.items())}"]
        return self._outcome(stopped, [*problems, *closed.problems])

    def _outcome(self, stopped: Stopped, problems: list[str]) -> Outcome:
        positions: dict[str, int] = {}
        for (symbol, _), shares in (stopped.positions or {}).items():
            positions[symbol] = positions.get(symbol, 0) + shares
        # A cancellation that met a fill is refused, and that is no trouble where the book shows nothing open.
        asked = stopped.problems if not stopped.done else []
        return Outcome("the command", tuple(stopped.cancelled), tuple(stopped.left), positions, (*problems, *asked))


def kill_tag(latch: Latch) -> str:
    """The tag that the closing orders of a pull begin with: at most 17 letters and digits, unique per millisecond."""
    return f"kill{latch.time_ns // 1_000_000:x}"
