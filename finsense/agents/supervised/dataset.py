"""What a supervised model learns from: windows of states where they lie, and the label of each."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from finsense.agents.labels import CLASSES, LabelError, Labels, label_bars, uniqueness
from finsense.agents.markets import Markets, span_tape
from finsense.config import Experiment
from finsense.config.labels import ForwardReturn
from finsense.config.supervised import SupervisedModel
from finsense.envs.tape import Tape
from finsense.market.bars import Bars


class DatasetError(LabelError):
    """Data from which no supervised model can learn."""


@dataclass(frozen=True)
class Windows:
    """The last `history` market rows of each example, which lie in the tape and are not copied.

    Neighbouring bars share all rows but one: a matrix of all windows would hold each row `history` times.

    Attributes:
        rows: (m, C) float32, C-contiguous, the tape's own.
        first_row: (n,) int64, where each example's oldest row lies.
        history: T, rows of a window.
    """

    rows: NDArray[np.float32]
    first_row: NDArray[np.int64]
    history: int

    def __len__(self) -> int:
        return len(self.first_row)

    @property
    def columns(self) -> int:
        """C."""
        return int(self.rows.shape[1])

    @cached_property
    def every(self) -> NDArray[np.float32]:
        """A view of the window that begins at every row, (m - T + 1, T x C) float32; no value of it is stored twice."""
        count, row_bytes = len(self.rows) - self.history + 1, self.rows.strides[0]
        shape = (max(count, 0), self.history * self.columns)
        return as_strided(self.rows, shape, (row_bytes, self.rows.itemsize), writeable=False)

    def gather(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of some windows, (k, T, C) float32, oldest row first."""
        return self.flat(index).reshape(-1, self.history, self.columns)

    def flat(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """A copy of some windows as states hold them, (k, T x C) float32."""
        return self.every[self.first_row[index]]

    def take(self, index: NDArray[np.int64]) -> "Windows":
        """Some of the windows, in the order of `index`; no row is copied."""
        return Windows(self.rows, self.first_row[index], self.history)


@dataclass(frozen=True)
class Dataset:
    """Examples: n bars at whose close a decision can be taken, and what then came.

    They lie in the order of time within a symbol, symbol after symbol.

    Attributes:
        windows: n windows.
        target: (n,) int64, class of the label: 0 down, 1 flat, 2 up.
        forward: (n,) float64, forward return: log of the exit price over the fill's price.
        round_trip: (n,) float64, charges and slippage of a purchase and its sale, fraction.
        weight: (n,) float32, in the loss: the uniqueness of the label's bars times the weight of its class, both 1
            where they are not asked for. The mean of the training examples is 1; a class weighs the same in all spans.
        start_ns: (n,) int64, start of the bar, ns UTC.
        end_ns: (n,) int64, start of the last bar that the label looks at, ns UTC.
        symbol: (n,) int32, place of the symbol in the tape.
    """

    windows: Windows
    target: NDArray[np.int64]
    forward: NDArray[np.float64]
    round_trip: NDArray[np.float64]
    weight: NDArray[np.float32]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]
    symbol: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.target)

    def take(self, index: NDArray[np.int64]) -> "Dataset":
        """Some of the examples, in the order of `index`; no window is copied."""
        return replace(self, windows=self.windows.take(index), **_rows_of(self, index))


def _rows_of(examples: Dataset | Labels, index: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The arrays among the fields, each at some of its rows."""
    values = {field.name: getattr(examples, field.name) for field in fields(examples)}
    return {name: value[index] for name, value in values.items() if isinstance(value, np.ndarray)}


_COLUMNS: dict[str, type[np.generic]] = {
    "first_row": np.int64,
    "target": np.int64,
    "forward": np.float64,
    "round_trip": np.float64,
    "weight": np.float32,
    "start_ns": np.int64,
    "end_ns": np.int64,
    "symbol": np.int32,
}


def datasets(experiment: Experiment, markets: Markets) -> tuple[Dataset, Dataset]:
    """Training and validation examples of an experiment with a supervised model.

    The labels of the training span are made of bars that end with it, so none of them looks into the validation span:
    an example whose label would is left out. Likewise at the end of the validation span.

    Raises:
        DatasetError: a span has no label, or only one class, or a value is not finite.
        LabelError: the label cannot be made of these bars.
    """
    train = _of_tape(experiment, markets.train, markets.bars, experiment.split.train.last, "training")
    validation = _of_tape(experiment, markets.validation, markets.bars, experiment.split.validation.last, "validation")
    agent = supervised(experiment)
    _check_variety(agent, train)
    if agent.class_weights == "balanced" and not isinstance(agent.label, ForwardReturn):
        factors = _balancing(train)
        return _weighted(train, factors), _weighted(validation, factors)
    return train, validation


def _balancing(train: Dataset) -> NDArray[np.float64]:
    """Weight of each class, (3,) float64, with which all weigh the same: n / (classes x n of the class)."""
    share = np.bincount(train.target, train.weight, minlength=len(CLASSES)) / train.weight.sum()
    present = share > 0
    return np.where(present, 1.0 / np.where(present, share * present.sum(), 1.0), 1.0)


def _weighted(examples: Dataset, factors: NDArray[np.float64]) -> Dataset:
    return replace(examples, weight=(examples.weight * factors[examples.target]).astype(np.float32))


def span_dataset(experiment: Experiment, bars: Mapping[str, Bars], first: dt.date, last: dt.date) -> Dataset:
    """The examples of every symbol between two IST dates, both inclusive; no label looks beyond the last one.

    Raises:
        DatasetError: there is no label, or a value is not finite.
        BarsError, HistoryError, CostError: as in `span_tape`.
    """
    return _of_tape(experiment, span_tape(experiment, bars, first, last), bars, last, f"{first} to {last}")


def supervised(experiment: Experiment) -> SupervisedModel:
    """The settings of the experiment's supervised model.

    Raises:
        DatasetError: it trains an agent.
    """
    if not isinstance(experiment.agent, SupervisedModel):
        raise DatasetError(
            f"expected an experiment with a supervised model, found agent.kind {experiment.agent.kind}, "
            "which learns from rewards and has no labels"
        )
    return experiment.agent


def _of_tape(experiment: Experiment, tape: Tape, bars: Mapping[str, Bars], last: dt.date, span: str) -> Dataset:
    """The examples of a tape that was built of the bars up to a date."""
    agent = supervised(experiment)
    # One room for all symbols: joining the arrays of each would hold every example twice.
    room = int((tape.spans[:, 1] - tape.spans[:, 0] + 1).sum())
    columns = {name: np.empty(room, dtype) for name, dtype in _COLUMNS.items()}
    found = offset = 0
    for place, symbol in enumerate(tape.symbols):
        # No label can look at a bar that is not there.
        known = bars[symbol].between(None, last)
        part = _of_symbol(experiment, known, tape, place, offset)
        stop = found + len(part["target"])
        for name, values in part.items():
            columns[name][found:stop] = values
        columns["symbol"][found:stop] = place
        found, offset = stop, offset + len(known)
    filled = {name: values[:found] for name, values in columns.items()}
    windows = Windows(tape.states, filled.pop("first_row"), tape.spec.history)
    examples = Dataset(windows=windows, **filled)
    _check(examples, span, agent)
    return examples


def _of_symbol(experiment: Experiment, known: Bars, tape: Tape, place: int, offset: int) -> dict[str, NDArray[Any]]:
    """One symbol's examples by name; its bars stand in the tape from `offset` on."""
    agent = supervised(experiment)
    labels = label_bars(known, agent.label, experiment.account, experiment.costs)
    begin, end = tape.spans[place] - offset
    labels = replace(labels, **_rows_of(labels, (labels.bar >= begin) & (labels.bar <= end)))
    weigh = agent.uniqueness_weights and len(labels.bar) > 0
    return {
        "first_row": tape.state_of_bar[labels.bar + offset] - (tape.spec.history - 1),
        "weight": uniqueness(labels) if weigh else np.ones(len(labels.bar)),
        **{name: getattr(labels, name) for name in ("target", "forward", "round_trip", "start_ns", "end_ns")},
    }


def _check(found: Dataset, span: str, agent: SupervisedModel) -> None:
    if not len(found):
        raise DatasetError(
            f"no bar of the {span} span has a label: expected one whose label ({agent.label.kind}, horizon "
            f"{agent.label.horizon} bars) ends within the span, found none; lower agent.label.horizon or widen the span"
        )
    for name, values in (("forward return", found.forward), ("round trip", found.round_trip), ("weight", found.weight)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise DatasetError(
                f"{len(wrong)} of {len(found)} examples of the {span} span have a {name} that is not finite, the "
                f"first at rows {wrong[:3].tolist()}: look at the prices of these bars"
            )
    wrong = _rows_not_finite(found.windows)
    if len(wrong):
        raise DatasetError(
            f"{len(wrong)} market rows that the {span} span reads hold a value that is not finite, the first at rows "
            f"{wrong[:3].tolist()} of the state matrix: look at the bars that they are made of"
        )


def _rows_not_finite(windows: Windows) -> NDArray[np.int64]:
    """Rows that a window reads and that hold NaN or infinity."""
    # A sum is finite where all its values are, and needs no mask as large as the matrix.
    with np.errstate(invalid="ignore", over="ignore"):
        suspects = np.flatnonzero(~np.isfinite(windows.rows.sum(axis=1, dtype=np.float64)))
    if not len(suspects):
        return suspects
    first = np.sort(windows.first_row)
    # The newest window that begins at or before the row; it reaches the row if any does.
    newest = first[np.maximum(np.searchsorted(first, suspects, side="right") - 1, 0)]
    return suspects[(newest <= suspects) & (suspects < newest + windows.history)]


def _check_variety(agent: SupervisedModel, train: Dataset) -> None:
    """Whether there is anything to tell apart."""
    if isinstance(agent.label, ForwardReturn):
        if np.ptp(train.forward) == 0:
            raise DatasetError(
                f"all {len(train)} training examples have the forward return {train.forward[0]:g}: there is nothing "
                "to learn; look at the prices"
            )
        return
    found = np.bincount(train.target, minlength=len(CLASSES))
    if np.count_nonzero(found) < 2:
        only = CLASSES[int(found.argmax())]
        raise DatasetError(
            f"expected training labels of at least two classes, found {len(train)} of class {only} alone: change "
            f"agent.label ({agent.label.kind}), such as a lower dead_zone or a longer horizon, or widen split.train"
        )
