"""What may go wrong in a rehearsal: faults by name, on order or drawn at random, each at a place of its own."""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

# A clock that is wrong, and how long a fault that lasts does so, by the rehearsal's clock.
SKEW_NS = 60_000_000_000
GAP_NS = 60_000_000_000
SKEWED_FOR_NS = 300_000_000_000


class Fault(StrEnum):
    """A fault, named by what the client meets.

    The first group strikes a request before it is carried out, the second after, the third an order that was taken, the
    fourth the stream, the last the whole server.
    """

    TOO_MANY_JSON = "too_many_json"
    TOO_MANY_HTML = "too_many_html"
    GATEWAY_PAGE = "gateway_page"
    TOKEN_EXPIRED = "token_expired"
    ADDRESS_REFUSED = "address_refused"

    HANG_AFTER_ACCEPTING = "hang_after_accepting"
    ANSWER_LOST = "answer_lost"
    ANSWER_IS_GATEWAY_PAGE = "answer_is_gateway_page"

    LATE_REJECTION = "late_rejection"
    PARTIAL_THEN_CANCEL = "partial_then_cancel"
    CANCEL_LOSES_TO_FILL = "cancel_loses_to_fill"

    STREAM_SILENT = "stream_silent"
    STREAM_DROPPED = "stream_dropped"
    STREAM_REFUSED = "stream_refused"
    TICKS_REPEATED = "ticks_repeated"
    TICKS_OUT_OF_ORDER = "ticks_out_of_order"
    ODD_PACKET = "odd_packet"
    UPDATE_LOST = "update_lost"
    TICK_GAP = "tick_gap"

    CLOCK_SKEW = "clock_skew"
    SERVER_RESTART = "server_restart"


BEFORE = (
    Fault.TOO_MANY_JSON,
    Fault.TOO_MANY_HTML,
    Fault.GATEWAY_PAGE,
    Fault.TOKEN_EXPIRED,
    Fault.ADDRESS_REFUSED,
    Fault.SERVER_RESTART,
)
AFTER = (Fault.HANG_AFTER_ACCEPTING, Fault.ANSWER_LOST, Fault.ANSWER_IS_GATEWAY_PAGE)
STREAM = (
    Fault.STREAM_SILENT,
    Fault.STREAM_DROPPED,
    Fault.TICKS_REPEATED,
    Fault.TICKS_OUT_OF_ORDER,
    Fault.ODD_PACKET,
)


@dataclass
class Faults:
    """Which fault strikes next.

    Attributes:
        rates: fault -> chance at each occasion, of those drawn at random.
        generator: draws them.
        struck: how often each has struck; one that could have no effect has not.
    """

    rates: dict[Fault, float] = field(default_factory=dict)
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    struck: Counter[Fault] = field(default_factory=Counter)
    _ordered: deque[Fault] = field(default_factory=deque)
    _until_ns: dict[Fault, int] = field(default_factory=dict)

    def order(self, *faults: Fault) -> None:
        """Strike with these, in this order, each at the next occasion that suits it."""
        self._ordered.extend(faults)

    def strike(self, *suitable: Fault) -> Fault | None:
        """The fault at an occasion where any of `suitable` would have an effect; None: all goes well."""
        for fault in self._ordered:
            if fault in suitable:
                self._ordered.remove(fault)
                self.struck[fault] += 1
                return fault
        for fault in suitable:
            rate = self.rates.get(fault, 0.0)
            if rate and self.generator.random() < rate:
                self.struck[fault] += 1
                return fault
        return None

    def begin(self, fault: Fault, until_ns: int) -> None:
        """Let a fault that lasts go on until an instant of the rehearsal, ns UTC; one that has passed ends it."""
        self._until_ns[fault] = until_ns

    def lasts(self, fault: Fault, now_ns: int) -> bool:
        """Whether it goes on."""
        return now_ns < self._until_ns.get(fault, 0)

    def skew_ns(self, now_ns: int) -> int:
        """How far the server's clocks are off."""
        return SKEW_NS if self.lasts(Fault.CLOCK_SKEW, now_ns) else 0

    def maybe_skew(self, now_ns: int) -> None:
        """An occasion at which the server's clocks may go wrong: whenever they are shown."""
        if not self.lasts(Fault.CLOCK_SKEW, now_ns) and self.strike(Fault.CLOCK_SKEW):
            self.begin(Fault.CLOCK_SKEW, now_ns + SKEWED_FOR_NS)
