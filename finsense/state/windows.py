"""Windows over the last values that a kernel keeps in its memory: exact sums, highest values, delays, deviations.

Each function takes the kernel's `memory`, the cell where its window begins, and the window's length; it is plain Python
for an interpreted kernel and is compiled into a compiled one.

The place in a ring is counted in float64, as it is stored: from one bar to the next a processor waits for it, and a
conversion there and back would take longer than all the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numba.extending import register_jitable

# Cells that a window needs besides one per value (a path: two per value).
SUM_CELLS = 4
SQUARES_CELLS = 7
RANGE_CELLS = 3
AGE_CELLS = 3
DELAY_CELLS = 1
PATH_CELLS = 1

# A sum of squares of which less than this share is left over after the mean's part has lost four digits.
_WELL_KEPT = 1e-4


@dataclass(frozen=True)
class Windowed:
    """The lookback of an indicator whose value hangs on so many bars and on nothing before them.

    Such an indicator is folded over those bars before a session, not over the whole warm-up: more would change nothing
    but the last bits. As in `@indicator(..., lookback=Windowed(lambda p: int(p["window"])))`.
    """

    bars: Callable[[Mapping[str, float]], int]

    def __call__(self, parameters: Mapping[str, float]) -> int:
        """Bars up to and with the first value that has its full window."""
        return self.bars(parameters)


@register_jitable
def exchange(memory: Any, cell: int, value: float, leaving: float) -> float:
    """Take `value` into the sum that two cells keep, and `leaving` out of it; the sum.

    By Knuth's exact addition what has left leaves no trace: prices between a paisa and a crore sum to the last bit, and
    zeros sum to 0 after any jump.
    """
    change = value - leaving
    change_part = change - value
    change_rest = (value - (change - change_part)) - (leaving + change_part)
    old = memory[cell]
    total = old + change
    total_part = total - old
    rest = memory[cell + 1] + (((old - (total - total_part)) + (change - total_part)) + change_rest)
    memory[cell] = total
    memory[cell + 1] = rest
    return total + rest  # type: ignore[no-any-return]


@register_jitable
def slide_sum(memory: Any, first: int, window: int, value: float) -> float:
    """Take `value` in; the exact sum of the last `window` values, of those seen so far while there are fewer. O(1).

    Cells: next slot, values seen (at most `window`), the sum and what its rounding left over, then the ring.
    """
    place = memory[first]
    slot = first + SUM_CELLS + int(place)
    memory[first] = place + 1.0 if place + 1.0 < window else 0.0
    if memory[first + 1] < window:
        memory[first + 1] += 1.0
    leaving = memory[slot]
    memory[slot] = value
    return exchange(memory, first + 2, value, leaving)


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
def slide_squares(memory: Any, first: int, window: int, value: float) -> tuple[float, float]:
    """Take `value` in; how far it lies above the mean of the last `window` values, and their squares about it.

    The second is the sum of their squared deviations from the mean; both are exactly 0 when all are equal. Values and
    squares are summed exactly as deviations from a reference; when the mean has moved so far from it that the
    difference of the sums loses digits, this value becomes the reference and the window is summed again. O(1) but then.

    Cells: next slot, values seen (at most `window`), the reference, the sums (two cells each), then the ring.
    """
    place = memory[first]
    slot = first + SQUARES_CELLS + int(place)
    memory[first] = place + 1.0 if place + 1.0 < window else 0.0
    reference = memory[first + 2]
    leaving = memory[slot] - reference
    if memory[first + 1] < window:
        memory[first + 1] += 1.0
        leaving = 0.0
    memory[slot] = value
    seen = memory[first + 1]
    deviation = value - reference
    total = exchange(memory, first + 3, deviation, leaving)
    raw = exchange(memory, first + 5, deviation * deviation, leaving * leaving)
    squares = raw - total * total / seen
    if squares < _WELL_KEPT * raw:
        memory[first + 2] = value
        for cell in range(first + 3, first + SQUARES_CELLS):
            memory[cell] = 0.0
        for cell in range(first + SQUARES_CELLS, first + SQUARES_CELLS + int(seen)):
            total = exchange(memory, first + 3, memory[cell] - value, 0.0)
            raw = exchange(memory, first + 5, (memory[cell] - value) * (memory[cell] - value), 0.0)
        deviation = 0.0
        squares = max(raw - total * total / seen, 0.0)
    return (seen * deviation - total) / seen, squares


@register_jitable
def slide_range(memory: Any, first: int, window: int, high: float, low: float) -> tuple[float, float]:
    """Take `high` and `low` in; the highest of the last `window` highs and the lowest of the last lows.

    Values come in blocks of `window`. The highest of a window is the higher of two: the highest so far of the block
    under way, and the highest of what the window still holds of the block before, of which each place keeps the
    highest from there to its end (van Herk 1992). O(1) but for a block's last value, and without a search.

    Cells: 1 + next slot (0 at the anchor), highest and lowest of the block under way, then the rings of highs and lows.
    """
    place = memory[first]
    if place == 0.0:
        # The first values stand in for the block before: they are in every window that reaches back there.
        place = 1.0
        for index in range(first + RANGE_CELLS, first + RANGE_CELLS + window):
            memory[index] = high
            memory[index + window] = low
    slot = first + RANGE_CELLS - 1 + int(place)
    memory[slot] = high
    memory[slot + window] = low
    highest, lowest = high, low
    if place > 1.0:
        highest = max(memory[first + 1], high)
        lowest = min(memory[first + 2], low)
    memory[first + 1] = highest
    memory[first + 2] = lowest
    if place < window:
        memory[first] = place + 1.0
        return max(memory[slot + 1], highest), min(memory[slot + 1 + window], lowest)
    memory[first] = 1.0
    for index in range(slot - 1, first + RANGE_CELLS - 1, -1):
        high = max(memory[index], high)
        low = min(memory[index + window], low)
        memory[index] = high
        memory[index + window] = low
    return highest, lowest


@register_jitable
def slide_highest_age(memory: Any, first: int, window: int, value: float) -> float:
    """Take `value` in; how many values ago the highest of the last `window` came, the newest of equals: 0 is this one.

    O(1) but for the bars at which the highest leaves the window. The highest itself is in the second cell.

    Cells: 1 + next slot (0 at the anchor), the highest, its age, then the ring.
    """
    place = memory[first]
    if place == 0.0:
        place = 1.0
        memory[first + 1] = value
    slot = first + 2 + int(place)
    memory[slot] = value
    memory[first] = place + 1.0 if place < window else 1.0
    highest = memory[first + 1]
    age = memory[first + 2] + 1.0
    if value >= highest:
        highest = value
        age = 0.0
    elif age == window:
        # It has left the window, which is full: look for the next from the newest on.
        highest = value
        age = 0.0
        behind = slot - first - AGE_CELLS
        for passed in range(1, window):
            earlier = memory[slot - passed] if passed <= behind else memory[slot - passed + window]
            if earlier > highest:
                highest = earlier
                age = float(passed)
    memory[first + 1] = highest
    memory[first + 2] = age
    return age  # type: ignore[no-any-return]


@register_jitable
def slide_delay(memory: Any, first: int, window: int, price: float) -> float:
    """Take `price` (above 0) in; the one taken `window` values earlier, the first of all while there are fewer. O(1).

    Cells: next slot, then the ring.
    """
    place = memory[first]
    slot = first + 1 + int(place)
    memory[first] = place + 1.0 if place + 1.0 < window else 0.0
    earlier = memory[slot]
    memory[slot] = price
    return earlier if earlier > 0.0 else memory[first + 1]  # type: ignore[no-any-return]


@register_jitable
def slide_path(memory: Any, first: int, window: int, value: float) -> int:
    """Take `value` in; the cell behind the values before it, the oldest of the window - 1 first. O(1).

    Each value is written twice, a window apart, so that the values before it lie side by side wherever the ring turns
    around. They are read without `value` itself: a processor that has to read a cell that it is about to write waits.
    Before the window is full, the first value stands in for those missing.

    Cells: 1 + next slot (0 at the anchor), then the ring twice.
    """
    place = memory[first]
    if place == 0.0:
        place = 1.0
        for index in range(first + 1, first + 1 + 2 * window):
            memory[index] = value
    slot = first + int(place)
    memory[slot] = value
    memory[slot + window] = value
    memory[first] = place + 1.0 if place < window else 1.0
    return slot + window


@register_jitable
def distances_about(memory: Any, first: int, stop: int, centre: float) -> float:
    """The sum of the absolute deviations of the cells from `first` to before `stop` from `centre`, in four parts."""
    one = two = three = four = 0.0
    odd = first + (stop - first) % 4
    for index in range(first, odd):
        one += abs(memory[index] - centre)
    for index in range(odd, stop, 4):
        one += abs(memory[index] - centre)
        two += abs(memory[index + 1] - centre)
        three += abs(memory[index + 2] - centre)
        four += abs(memory[index + 3] - centre)
    return (one + two) + (three + four)


@register_jitable
def weighted_about(memory: Any, first: int, stop: int, centre: float, weight: float) -> float:
    """The weighted sum of the deviations of the cells from `first` to before `stop` from `centre`, in four parts.

    The first deviation weighs `weight`, each one after it 1 more.
    """
    one = two = three = four = 0.0
    odd = first + (stop - first) % 4
    for index in range(first, odd):
        one += weight * (memory[index] - centre)
        weight += 1.0
    for index in range(odd, stop, 4):
        one += weight * (memory[index] - centre)
        two += (weight + 1.0) * (memory[index + 1] - centre)
        three += (weight + 2.0) * (memory[index + 2] - centre)
        four += (weight + 3.0) * (memory[index + 3] - centre)
        weight += 4.0
    return (one + two) + (three + four)
