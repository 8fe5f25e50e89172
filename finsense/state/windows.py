"""Windows over the last values that a kernel keeps in its memory: exact sums, highest values, delays.

Each function takes the kernel's `memory`, the cell where its window begins, and the window's length; it is plain Python
for an interpreted kernel and is compiled into a compiled one.

"""

from typing import Any

from numba.extending import register_jitable

# Cells that a window needs besides one per value.
SUM_CELLS = 4
HIGHEST_CELLS = 2
DELAY_CELLS = 1


@register_jitable
def slide_sum(memory: Any, first: int, window: int, value: float) -> float:
    """Take `value` in; the sum of the last `window` values, of those seen so far while there are fewer.

    The sum is kept in two float64 (Knuth's exact addition), so that what has left leaves no trace: prices between
    a paisa and a crore sum to the last bit, and a window of zeros sums to 0 after any jump. O(1).

    Cells: next slot, values seen (at most `window`), the sum, what its rounding left over, then the ring.
    """
    slot = int(memory[first])
    leaving = memory[first + 4 + slot]
    memory[first + 4 + slot] = value
    memory[first] = slot + 1 if slot + 1 < window else 0
    if memory[first + 1] < window:
        memory[first + 1] += 1.0
    change = value - leaving
    change_part = change - value
    change_rest = (value - (change - change_part)) - (leaving + change_part)
    old = memory[first + 2]
    total = old + change
    total_part = total - old
    rest = memory[first + 3] + (((old - (total - total_part)) + (change - total_part)) + change_rest)
    memory[first + 2] = total + rest
    memory[first + 3] = rest - (memory[first + 2] - total)
    return memory[first + 2]  # type: ignore[no-any-return]


@register_jitable
def slide_mean(memory: Any, first: int, window: int, value: float) -> float:
    """Take `value` in; the mean of the last `window` values, of those seen so far while there are fewer. O(1).

    Cells: as `slide_sum`.
    """
    return slide_sum(memory, first, window, value) / memory[first + 1]  # type: ignore[no-any-return]


@register_jitable
def slide_lead(memory: Any, first: int, window: int, value: float) -> float:
    """Take `value` in; how far it lies above the mean of the last `window` values: exactly 0 when all are equal. O(1).

    Cells: as `slide_sum`.
    """
    total = slide_sum(memory, first, window, value)
    return (memory[first + 1] * value - total) / memory[first + 1]  # type: ignore[no-any-return]


@register_jitable
def slide_highest(memory: Any, first: int, window: int, value: float) -> float:
    """Take `value` in; the highest of the last `window` values. For the lowest, give and take the negative.

    Values come in blocks of `window`. The highest of a window is the higher of two: the highest so far of the block
    under way, and the highest of what the window still holds of the block before, of which each place keeps the
    highest from there to its end (van Herk 1992). O(1) but for a block's last value, and without a search.

    Cells: 1 + next slot (0 at the anchor), the highest of the block under way, then the ring.
    """
    slot = int(memory[first]) - 1
    if slot < 0:
        # The first value stands in for the block before: it is in every window that reaches back there.
        slot = 0
        for index in range(window):
            memory[first + 2 + index] = value
    highest = value
    if slot > 0:
        so_far = memory[first + 1]
        highest = so_far if so_far > value else value
    memory[first + 1] = highest
    memory[first + 2 + slot] = value
    if slot + 1 < window:
        memory[first] = slot + 2
        earlier = memory[first + 3 + slot]
        return earlier if earlier > highest else highest
    memory[first] = 1.0
    later = value
    for index in range(window - 2, -1, -1):
        here = memory[first + 2 + index]
        later = later if later > here else here
        memory[first + 2 + index] = later
    return highest


@register_jitable
def slide_since_highest(memory: Any, first: int, window: int, value: float) -> int:
    """Take `value` in; how many values ago the highest of the last `window` came, the newest of equals: 0 is this one.

    O(1) but for the bars at which the highest leaves the window.

    Cells: next slot, 1 + the slot of the highest (0 at the anchor), then the ring.
    """
    slot = int(memory[first])
    highest = int(memory[first + 1]) - 1
    unbeaten = highest >= 0 and value < memory[first + 2 + highest]
    memory[first + 2 + slot] = value
    following = slot + 1 if slot + 1 < window else 0
    memory[first] = following
    if not unbeaten:
        highest = slot
    elif highest == slot:
        # The highest was overwritten, so the ring is full: search it from the oldest on.
        highest = following
        for index in range(following, window):
            if memory[first + 2 + index] >= memory[first + 2 + highest]:
                highest = index
        for index in range(following):
            if memory[first + 2 + index] >= memory[first + 2 + highest]:
                highest = index
    memory[first + 1] = highest + 1
    return slot - highest if slot >= highest else slot - highest + window


@register_jitable
def slide_delay(memory: Any, first: int, window: int, price: float) -> float:
    """Take `price` (above 0) in; the one taken `window` values earlier, the first of all while there are fewer. O(1).

    Cells: next slot, then the ring.
    """
    slot = int(memory[first])
    earlier = memory[first + 1 + slot]
    memory[first + 1 + slot] = price
    memory[first] = slot + 1 if slot + 1 < window else 0
    return earlier if earlier > 0.0 else memory[first + 1]  # type: ignore[no-any-return]
