"""What a feed from Kite waits for and how long, and what became of its bars."""

from dataclasses import dataclass

from finsense.market.ticks import GRACE_NS, TickReport


@dataclass(frozen=True)
class FeedPatience:
    """How long a feed waits for what: ns of the market, and real seconds.

    Attributes:
        grace_ns: for the last ticks of a bar after its end.
        ahead_ns: a tick stamped further ahead of our clock is dropped.
        room: ticks that may lie between the stream and the loop.
        give_up_s: real seconds for the candles of a bar that ticks did not see whole, while every request for them
            fails but the stream lives; the bar is then missing for good. While the stream is lost too, nothing is.
        sign_s: real seconds between two signs to a loop for which nothing is new.
    """

    grace_ns: int = GRACE_NS
    ahead_ns: int = 10_000_000_000
    room: int = 60_000
    give_up_s: float = 60.0
    sign_s: float = 1.0


@dataclass
class FeedReport:
    """What became of the bars and of the stream in the last iteration.

    Attributes:
        by_ticks: bars made of ticks.
        untraded: of shares whose book moved but which did not trade; no bars are given for them.
        by_candles: bars taken from the vendor's candles.
        lost: bars that were not given though the share may have traded: neither ticks nor candles told of them whole.
        contradicted: candles that were taken though ticks had gone beyond them.
        ahead: ticks stamped too far ahead of our clock.
        unknown: ticks of instruments that nobody asked for.
        losses: how often the stream was lost.
        overflowed: frames that had no room because the loop was too slow.
        ticks: what became of all others, all symbols together.
    """

    by_ticks: int = 0
    untraded: int = 0
    by_candles: int = 0
    lost: int = 0
    contradicted: int = 0
    ahead: int = 0
    unknown: int = 0
    losses: int = 0
    overflowed: int = 0
    ticks: TickReport | None = None
