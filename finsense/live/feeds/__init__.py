"""Where bars come from while the loop runs."""

from collections.abc import Iterator
from typing import Protocol

from finsense.market.moments import Moment


class Feed(Protocol):
    """Whole bars in time order, those of one start together, each given once it is complete."""

    def __iter__(self) -> Iterator[Moment | None]:
        """The moments; iterating again starts anew.

        None says that nothing is new: a live feed gives it about once a second while it waits, so that the loop can
        look after its orders.
        """
        ...
