"""The terms under which a day is rehearsed."""

from collections.abc import Mapping
from typing import Required, TypedDict

from finsense.live.brokers.rate_limits import Limit
from finsense.live.rehearsal.faults import Faults
from finsense.live.rehearsal.hours import Span
from finsense.live.rehearsal.purse import Holding


class Terms(TypedDict, total=False):
    """Under which a day is rehearsed.

    balance_paise: cash of the account.
    faults: what goes wrong.
    holdings: symbol -> shares of earlier days.
    halts: half-open spans, ns UTC, in which the whole market stands still; what was traded in them is left out.
    outages: the same in which the exchange cannot be reached.
    limits: of requests, in real time; {} for none. Left out, they are the vendor's where the day plays by its clock,
        and those of orders alone where it is played by hand.
    redirect_url: where the login page sends the user; None for a page that shows the request token.
    square_off_before_ns: how long before the end of continuous trading the broker closes MIS positions.
    start_ns: play to this instant before anyone can connect, ns UTC; None begins where the clock stands.
    waits: the clock begins to run only when somebody listens to the ticks, so that nobody who logs in misses a bar.
    port: of loopback; 0 takes a free one.
    """

    balance_paise: Required[int]
    faults: Faults | None
    holdings: Mapping[str, Holding]
    halts: tuple[Span, ...]
    outages: tuple[Span, ...]
    limits: Mapping[str, tuple[Limit, ...]]
    redirect_url: str | None
    square_off_before_ns: int
    start_ns: int | None
    waits: bool
    port: int
