"""Hands what a stream tells from its thread to the loop's, bounded, and says so when it is too full."""

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Mailbox(Generic[Item]):
    """A queue between two threads that never makes the writer wait.

    What has no room is dropped, and the reader meets `overflow` in its place: once for all that was dropped in a row.

    Args:
        room: the most that may lie in it, in the unit of `put`'s weight.
        overflow: stands for what was dropped.

    Attributes:
        dropped: how many items had no room so far.
    """

    def __init__(self, room: int, overflow: Item) -> None:
        self.dropped = 0
        self._room, self._overflow = room, overflow
        self._items: deque[tuple[Item, int]] = deque()
        self._held = 0
        self._changed = threading.Condition()

    def put(self, item: Item, weight: int = 0) -> None:
        """Leave an item; one without weight always finds room, and so does any where nothing lies."""
        with self._changed:
            if weight and self._held and self._held + weight > self._room:
                self.dropped += 1
                if self._items[-1][0] is self._overflow:
                    return
                item, weight = self._overflow, 0
            self._items.append((item, weight))
            self._held += weight
            self._changed.notify()

    def take(self, timeout_s: float) -> Item | None:
        """The oldest item; None where none came in time."""
        with self._changed:
            if not self._items and not self._changed.wait_for(lambda: self._items, timeout_s):
                return None
            item, weight = self._items.popleft()
            self._held -= weight
            return item
