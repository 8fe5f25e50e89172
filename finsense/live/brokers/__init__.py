"""Where orders go while the loop runs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from finsense.account.session import Fill, Order
from finsense.market.moments import Moment


class BrokerAccount(NamedTuple):
    """What the broker says the account owns.

    Attributes:
        cash_paise: cash after charges; None where the broker tells it only at the end of the day.
        positions: symbol -> signed shares; a symbol without any may be absent.
    """

    cash_paise: int | None
    positions: Mapping[str, int]


class Stopped(NamedTuple):
    """What became of the orders when all were stopped.

    Attributes:
        cancelled: names of those that were seen cancelled.
        still_open: names of those that may still fill; protective stops that were spared are not among them.
        positions: symbol -> shares that are held after it; those without any are absent.
    """

    cancelled: tuple[str, ...]
    still_open: tuple[str, ...]
    positions: Mapping[str, int]


class Broker(Protocol):
    """Takes orders and tells what became of them. All of it is called from one thread.

    Attributes:
        flushes_intents: whether it writes each intent into the journal, flushed (fsync), before anything of it leaves:
            the record of the moment reaches the disk with the first of them and needs no flush of its own.
    """

    flushes_intents: bool

    def submit(self, orders: Mapping[str, Order]) -> None:
        """Send at most one order per symbol; they are in the journal, and on disk unless `flushes_intents`."""
        ...

    def protect(self, stops: Mapping[str, int]) -> None:
        """Let these protective stops rest, and no others: symbol -> trigger, paise."""
        ...

    def fills(self, moment: Moment) -> Mapping[str, Sequence[Fill]]:
        """The fills since the last call, by symbol, as of this moment.

        What is still open of an order that was submitted before is cancelled first, so that nothing fills later that
        was decided earlier; protective stops go on resting.
        """
        ...

    def account(self) -> BrokerAccount:
        """The broker's own books."""
        ...

    def look(self) -> None:
        """Look after the orders between two bars."""
        ...

    def replay(
        self,
        moment: Moment,
        fills: Mapping[str, Sequence[Fill]],
        orders: Mapping[str, Order],
        stops: Mapping[str, int],
    ) -> Mapping[str, Sequence[Fill]]:
        """Go through a journalled moment: its fills, then what was sent and what rested after it.

        Returns:
            What filled, as this broker has it: a simulated one computes it again, a real one believes the journal.
        """
        ...

    def resume(self) -> None:
        """Begin, after the replay: compare what the journal says with the broker's orders, trades and positions.

        Raises:
            BooksDiffer: they disagree.
        """
        ...

    def stop_all(self, flatten: bool) -> Stopped:
        """Cancel every order of ours and see it done, but for the protective stops of open positions.

        With `flatten` those are cancelled too, and what is held is closed.
        """
        ...
