"""Where a session gets its world from: the contract of a vendor that gives history, bars and, if asked, a broker."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from finsense.account.rules import AccountRules
from finsense.live.brokers import Broker
from finsense.live.clock import WallClock
from finsense.live.day_end import DayEnd
from finsense.live.feeds import Feed
from finsense.live.gate import LastTick
from finsense.live.journal import Journal
from finsense.market.bars import Bar


class Source(Protocol):
    """One vendor, for the symbols of one account."""

    @property
    def clock(self) -> WallClock:
        """The time of the market."""
        ...

    def history(self) -> Mapping[str, Sequence[Bar]]:
        """The bars before the session in progress, or before the next one, as many as the state needs."""
        ...

    def feed(self, after_ns: int) -> Feed:
        """The bars after the one that starts at this instant, ns UTC."""
        ...

    def broker(
        self,
        journal: Journal,
        identity: str,
        rules: AccountRules,
        alarm: Callable[..., None],
        look: Callable[[], Any],
    ) -> Broker:
        """The real broker.

        Args:
            journal: of the session.
            identity: of the session; tags are made from it.
            rules: of the account.
            alarm: tells people.
            look: called while the broker is waited for; raises to give up.

        Raises:
            HaltTrading: this vendor has none.
        """
        ...

    def last_tick(self, symbol: str) -> LastTick | None:
        """The last trade that the feed heard of; None where it hears of none."""
        ...

    def renew(self, look: Callable[[], Any]) -> None:
        """Wait until there is a login again; `look` is called meanwhile, and may raise to give up."""
        ...

    def end_day(self, journal: Journal, rules: AccountRules, alarm: Callable[..., None]) -> DayEnd | None:
        """Compare the day with the broker's own records; None where there is no broker."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...
