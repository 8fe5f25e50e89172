"""What may go wrong in a rehearsal: faults by name, on order or drawn at random, each at a place of its own."""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np


class Fault(StrEnum):
    """A fault, named by what the client meets.

    The first group strikes a request before it is carried out, the second after, the third an order that was taken, the
    fourth the tick stream.
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


BEFORE = (
    Fault.TOO_MANY_JSON,
    Fault.TOO_MANY_HTML,
    Fault.GATEWAY_PAGE,
    Fault.TOKEN_EXPIRED,
    Fault.ADDRESS_REFUSED,
)
AFTER = (Fault.HANG_AFTER_ACCEPTING, Fault.ANSWER_LOST, Fault.ANSWER_IS_GATEWAY_PAGE)
ORDER = (Fault.LATE_REJECTION, Fault.PARTIAL_THEN_CANCEL)
CANCEL = (Fault.CANCEL_LOSES_TO_FILL,)
STREAM = (
    Fault.STREAM_SILENT,
    Fault.STREAM_DROPPED,
    Fault.TICKS_REPEATED,
    Fault.TICKS_OUT_OF_ORDER,
    Fault.ODD_PACKET,
)
HANDSHAKE = (Fault.STREAM_REFUSED,)


@dataclass
class Faults:
    """Which fault strikes next.

    Attributes:
        rates: fault -> chance at each occasion, of those drawn at random.
        generator: draws them.
        struck: how often each has struck.
    """

    rates: dict[Fault, float] = field(default_factory=dict)
    generator: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    struck: Counter[Fault] = field(default_factory=Counter)
    _ordered: deque[Fault] = field(default_factory=deque)

    def order(self, *faults: Fault) -> None:
        """Strike with these, in this order, each at the next occasion that suits it."""
        self._ordered.extend(faults)

    def strike(self, *suitable: Fault) -> Fault | None:
        """The fault at an occasion where any of `suitable` may strike; None: all goes well."""
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
