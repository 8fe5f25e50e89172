"""How long a broker is waited for, and how a reading that fails is repeated."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, TypeVar

from finsense.live.brokers.errors import (
    AuthExpired,
    BrokerError,
    HaltTrading,
    ProtocolError,
    RateLimited,
    Rejected,
    TransientRead,
)
from finsense.live.desk_records import Alarm

Answer = TypeVar("Answer")
# An answer that cannot be what it claims to be is asked for so often before it ends trading.
PROTOCOL_TRIES = 3


class Patience(NamedTuple):
    """How long the desk waits, in real seconds.

    Attributes:
        young_s: a refused attempt may be repeated for so long after the first one.
        fate_s: an order of unknown fate is looked for so long.
        arrival_s: after a restart, an order whose answer nobody heard is looked for so long; at least the timeout of a
            request.
        settle_s: cancelled orders must be over, and trades and book must agree, after so long.
        lag_s: the broker's positions may lag its trades for so long.
        read_s: a reading that fails is repeated for so long.
        first_s: first pause between two attempts; each is twice as long as the one before.
        longest_s: longest pause.
        fresh_s: what was read between two bars, so short a time ago, is not read again at the bar's close, unless the
            stream told of an order since; 0: it is read always.
    """

    young_s: float = 20.0
    fate_s: float = 30.0
    arrival_s: float = 8.0
    settle_s: float = 30.0
    lag_s: float = 5.0
    read_s: float = 60.0
    first_s: float = 0.05
    longest_s: float = 2.0
    fresh_s: float = 0.0


def no_new_token() -> NoReturn:
    """What a session does that nobody can log in to."""
    raise HaltTrading("the access token is dead and nobody waits for a new one: log in with `finsense broker login`")


class Waiter:
    """Waits for a broker: between attempts, for a new token, for an answer.

    Args:
        alarm: tells people.
        renew: waits until the requests have a new access token; raises HaltTrading to give up.
        patience: how long it waits.
        pause: waits between two attempts, in real seconds; may raise HaltTrading.
        now_s: a monotonic clock, real seconds.
    """

    def __init__(
        self,
        alarm: Alarm,
        renew: Callable[[], None] = no_new_token,
        patience: Patience | None = None,
        *,
        pause: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience = patience or Patience()
        self.alarm, self.pause, self.now_s = alarm, pause, now_s
        self._renew = renew

    def pauses(self) -> Iterator[float]:
        """Growing seconds between attempts."""
        seconds = self.patience.first_s
        while True:
            yield seconds
            seconds = min(2 * seconds, self.patience.longest_s)

    def after(self, error: BrokerError, seconds: float) -> None:
        """Wait for a new token where that is what lacks, else so many seconds."""
        if isinstance(error, AuthExpired):
            self.alarm("token", f"the broker refuses the access token: {error}")
            self._renew()
        else:
            self.pause(seconds)

    def patiently(self, read: Callable[[], Answer]) -> Answer:
        """A reading, repeated while it fails; no answer is an exception in the end, never an empty one.

        Raises:
            TransientRead: it failed for too long.
            HaltTrading: the answers make no sense, it is refused for good, or nobody gives a new token.
        """
        until_s, broken = self.now_s() + self.patience.read_s, 0
        for seconds in self.pauses():
            try:
                return read()
            except (AuthExpired, RateLimited, TransientRead) as error:
                if not isinstance(error, AuthExpired) and self.now_s() > until_s:
                    raise
                self.after(error, seconds)
            except (ProtocolError, Rejected) as error:
                broken += 1
                if broken == PROTOCOL_TRIES:
                    self.halt("protocol", f"the broker's answer makes no sense: {error}")
                self.pause(seconds)
        raise AssertionError("pauses never end")

    def halt(self, kind: str, text: str) -> NoReturn:
        """Raise the alarm and end trading."""
        self.alarm(kind, text)
        raise HaltTrading(text)
