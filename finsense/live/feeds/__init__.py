"""Where bars come from while the loop runs."""

from collections.abc import Iterator
from typing import Protocol

from finsense.market.bars import Bar


class Feed(Protocol):
    """Whole bars in time order, each given once it is complete."""

    def __iter__(self) -> Iterator[Bar]:
        """The bars; iterating again starts anew."""
        ...
