"""Gathers the ticks of many symbols into their bars, one aggregator each."""

from collections.abc import Iterable, Mapping
from dataclasses import fields

from finsense.live.feeds.slots import Slot
from finsense.market.bars import Bar
from finsense.market.ticks import Tick, TickAggregator, TickReport


class TickGatherer:
    """Bars of many symbols from one stream.

    Args:
        tokens: symbol -> its token in the stream.
        interval: a key of `INTERVAL_NS`.
        derivatives: symbol -> whether it has derivatives.
        grace_ns: how long after a bar's end its ticks are waited for.
        ahead_ns: a stamp that lies further ahead of our clock is not believed: it would close bars that still trade.

    Attributes:
        ahead: ticks with such a stamp; they are in no bar, and `latest` tells of them.
        unknown: ticks of instruments that nobody asked for.
    """

    def __init__(
        self,
        tokens: Mapping[str, int],
        interval: str,
        derivatives: Mapping[str, bool | None],
        *,
        grace_ns: int,
        ahead_ns: int,
    ) -> None:
        self.ahead = self.unknown = 0
        self._grace_ns, self._ahead_ns = grace_ns, ahead_ns
        self._tokens = dict(tokens)
        self._aggregators = {
            token: TickAggregator(symbol, interval, derivatives=derivatives[symbol], grace_ns=grace_ns)
            for symbol, token in tokens.items()
        }
        self._newest_ns = dict.fromkeys(self._aggregators, 0)
        self._latest: dict[int, tuple[Tick, int]] = {}
        # Tokens whose next tick is the first after a gap.
        self._unseen: set[int] = set()
        # Until here the bars were made of something else; what was traded before is in none of ours.
        self._elsewhere_ns = 0
        # Token and start of the bars that later ticks have closed, until their slot is settled.
        self._made: dict[tuple[int, int], Bar] = {}

    def take(self, ticks: Iterable[tuple[int, Tick]], now_ns: int) -> None:
        """Take the ticks of one frame, in its order.

        Raises:
            CalendarError: the hours of a symbol depend on unknown derivatives.
        """
        latest_ns, elsewhere_ns = now_ns + self._ahead_ns, self._elsewhere_ns
        aggregators, newest_ns, made, unseen = self._aggregators, self._newest_ns, self._made, self._unseen
        latest = self._latest
        for token, tick in ticks:
            aggregator = aggregators.get(token)
            if aggregator is None:
                self.unknown += 1
                continue
            time_ns = tick.time_ns
            if time_ns > latest_ns:
                self.ahead += 1
                # In no bar, but whoever compares stamps with our clock must see it.
                latest[token] = tick, now_ns
                continue
            if token in unseen and time_ns > 0:
                # The first one shows how things stand, with the stamp of a trade that may be long ago.
                unseen.discard(token)
                aggregator.rebase(tick)
            elif time_ns < elsewhere_ns:
                aggregator.rebase(tick)
            elif time_ns > newest_ns[token]:
                latest[token] = tick, now_ns
            bar = aggregator.add(tick)
            if bar is not None:
                made[token, bar.time_ns] = bar
            if time_ns > newest_ns[token]:
                newest_ns[token] = time_ns

    def begin(self, time_ns: int) -> None:
        """Everything before an instant is late from now on, and counts for no bar."""
        self._elsewhere_ns = time_ns
        for aggregator in self._aggregators.values():
            aggregator.advance(time_ns + self._grace_ns)

    def resume(self) -> None:
        """Ticks may be missing until now: what was traded meanwhile is in no bar that begins after the next tick."""
        self._unseen = set(self._aggregators)

    def latest(self, symbol: str) -> tuple[Tick, int] | None:
        """The newest tick of a symbol and when it came, ns UTC; None before its first.

        What a stream shows when it is opened is left out: its stamp says nothing of when it came.
        """
        return self._latest.get(self._tokens[symbol])

    def passed(self, slot: Slot) -> bool:
        """Whether every symbol of a slot has had a tick after its end."""
        return all(self._newest_ns[self._tokens[symbol]] >= slot.end_ns for symbol in slot.symbols)

    def settle(self, slot: Slot, *, whole: bool) -> dict[str, Bar]:
        """The bars of a slot as far as ticks told of it; from now on its ticks are late.

        Args:
            slot: it has ended.
            whole: whether these are its bars; otherwise they come from elsewhere, with all shares of its late ticks.
        """
        if not whole:
            self._elsewhere_ns = slot.end_ns
        found: dict[str, Bar] = {}
        for symbol in slot.symbols:
            token = self._tokens[symbol]
            bar = self._aggregators[token].advance(slot.end_ns + self._grace_ns)
            if bar is not None:
                self._made[token, bar.time_ns] = bar
            made = self._made.pop((token, slot.start_ns), None)
            if made is not None:
                found[symbol] = made
        return found

    def report(self) -> TickReport:
        """What became of the ticks of all symbols."""
        total = TickReport()
        for aggregator in self._aggregators.values():
            for field in fields(TickReport):
                before = getattr(total, field.name)
                setattr(total, field.name, before + getattr(aggregator.report, field.name))
        return total
