"""Builds the market part of the state, anchored at each trading session: all bars at once, or one by one."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import ist_text
from finsense.market.extra_fields import BOOK_FIELDS, EXTRA_FIELDS, FLOW_FIELDS, REFERENCE_FIELDS
from finsense.market.timeline import BAR_FIELDS, INDEX_CLOSE, Timeline
from finsense.state.kernels import Plan, fold_sessions, stream
from finsense.state.spec import StateSpec

# Bars whose fields are held in memory at once: 224 bytes each, against some 500 for a row of the widest preset.
_CHUNK_BARS = 50_000


class HistoryError(ValueError):
    """Too little history before the first session for the warm-up."""


class MissingFieldsError(ValueError):
    """Bars that lack what an indicator reads: an index, ticks."""


@dataclass(frozen=True)
class StateMatrix:
    """The market states of all bars of one symbol.

    Attributes:
        spec: what the columns are.
        rows: (m, columns) float32; each session's history - 1 warm-up rows stand before its own.
        row_of_bar: (n,) int64, the row of each bar; -1 where the warm-up is missing and there is no state.
        first_bar: the first bar that has a state; every later bar has one.
    """

    spec: StateSpec
    rows: NDArray[np.float32]
    row_of_bar: NDArray[np.int64]
    first_bar: int

    def window(self, bar: int) -> NDArray[np.float32]:
        """The stacked market state of a bar: a copy, (history x columns,) float32, oldest row first."""
        row = int(self.row_of_bar[bar])
        if row < 0:
            raise HistoryError(f"bar {bar} has no state: the warm-up needs {self.spec.warmup} bars before its session")
        return self.rows[row - self.spec.history + 1 : row + 1].reshape(-1).copy()


def build_states(timeline: Timeline, spec: StateSpec) -> StateMatrix:
    """The states of every bar whose session has its warm-up, in one compiled pass.

    Raises:
        HistoryError: no session has `spec.warmup` bars before it.
        MissingFieldsError: a feature reads what these bars do not know.
    """
    missing = [name for name in _needs(spec) if name not in timeline.bars.extra]
    if missing:
        raise MissingFieldsError(_lacking(timeline.bars.symbol, spec, missing))
    offsets = timeline.session_offsets
    folded = offsets[:-1] >= spec.warmup
    if not folded.any():
        raise HistoryError(_too_short(timeline, spec))
    lengths = np.diff(offsets)
    first_bar = int(offsets[:-1][folded][0])
    lead = spec.history - 1
    blocks = np.cumsum(np.where(folded, lengths + lead, 0))
    row_of_bar = np.full(len(timeline.bars), -1, np.int64)
    within = np.arange(len(timeline.bars)) - np.repeat(offsets[:-1], lengths)
    last_rows = np.repeat(blocks - lengths, lengths) + within
    row_of_bar[first_bar:] = last_rows[first_bar:]
    rows = np.empty((int(blocks[-1]), len(spec.columns)), np.float32)
    _fold_chunks(timeline, spec, int(np.flatnonzero(folded)[0]), rows)
    return StateMatrix(spec, rows, row_of_bar, first_bar)


def _fold_chunks(timeline: Timeline, spec: StateSpec, session: int, rows: NDArray[np.float32]) -> None:
    """Fold the sessions from `session` on into `rows`, so many at a time that their fields need little memory."""
    plan = Plan(spec)
    memory, values = np.zeros(plan.memory_cells), np.zeros(plan.columns)
    offsets, lead, written = timeline.session_offsets, spec.history - 1, 0
    while session < len(offsets) - 1:
        last = max(int(np.searchsorted(offsets, offsets[session] + _CHUNK_BARS)), session + 1)
        last = min(last, len(offsets) - 1)
        begin = int(offsets[session]) - spec.warmup
        bars = timeline.rows_between(begin, int(offsets[last]))
        chunk = offsets[session : last + 1] - begin
        stop = written + int(chunk[-1] - chunk[0]) + lead * (last - session)
        fold_sessions(
            plan.table,
            plan.parameters,
            memory,
            values,
            bars,
            chunk,
            spec.warmup,
            spec.history,
            rows[written:stop],
        )
        session, written = last, stop


def _needs(spec: StateSpec) -> tuple[str, ...]:
    """The fields of EXTRA_FIELDS that the features read."""
    wanted = {name for feature in spec.features for name in feature.indicator.needs}
    return tuple(name for name in EXTRA_FIELDS if name in wanted)


def _lacking(symbol: str, spec: StateSpec, missing: list[str]) -> str:
    features = [feature.name for feature in spec.features if set(feature.indicator.needs) & set(missing)]
    ways = [
        f"name it under `data.references.{name.removesuffix('_close')}`" for name in missing if name in REFERENCE_FIELDS
    ]
    if set(missing) & set(FLOW_FIELDS):
        book = " that carry their order book" if set(missing) & set(BOOK_FIELDS) else ""
        ways.append(f"make the bars of ticks{book} (docs/ticks.md)")
    names = ", ".join(f"`{name}`" for name in dict.fromkeys(features))
    return (
        f"{symbol}: {names} read {', '.join(missing)}, which these bars do not have; "
        f"{', '.join(ways)}, or leave the features out"
    )


def _too_short(timeline: Timeline, spec: StateSpec) -> str:
    bars = timeline.bars
    return (
        f"{bars.symbol} {bars.interval}: the warm-up needs {spec.warmup} bars before a session, "
        f"found {int(timeline.session_offsets[-2])} before the last one ({ist_text(int(bars.time_ns[0]))} to "
        f"{ist_text(int(bars.time_ns[-1]))}); give more history or lower state.warmup"
    )


class StateBuilder:
    """Builds the states of one symbol bar by bar: the live form, bit for bit the rows of `build_states`."""

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self._plan = Plan(spec)
        self._memory = np.zeros(self._plan.memory_cells)
        self._values = np.zeros(self._plan.columns)
        self._ring = np.zeros((spec.warmup, BAR_FIELDS))
        self._cursor = np.zeros(3, np.int64)
        self._window = np.zeros((spec.history, self._plan.columns), np.float32)
        self._needs = _needs(spec)
        # Those that are never zero where they are known, so that a bar which lacks them is seen.
        witnesses = {"ticks" if name in FLOW_FIELDS else name for name in self._needs}
        self._witnesses = [INDEX_CLOSE + EXTRA_FIELDS.index(name) for name in sorted(witnesses)]
        self.market_state: NDArray[np.float32] = self._window.reshape(-1)

    def update(self, row: NDArray[np.float64], opens: bool) -> bool:
        """Take the next bar; true when `market_state`, (history x columns,) float32, holds its state.

        Args:
            row: (BAR_FIELDS,) float64, the bar's fields.
            opens: whether the bar opens a trading session.

        Raises:
            MissingFieldsError: a feature reads what this bar does not know.
        """
        if self._witnesses and not row[self._witnesses].all():
            raise MissingFieldsError(_lacking("the bar", self.spec, list(self._needs)))
        return bool(
            stream(
                self._plan.table,
                self._plan.parameters,
                self._memory,
                self._values,
                row,
                opens,
                self._ring,
                self._cursor,
                self._window,
            )
        )
