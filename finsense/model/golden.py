"""Golden vectors: what a policy saw and did when it was exported, replayed at every load."""

import io
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import Bars
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.instruments import instrument
from finsense.market.timeline import Clock
from finsense.model.policy import Policy
from finsense.state.builder import StateBuilder
from finsense.state.spec import StateSpec

# onnxruntime picks its arithmetic by processor, so the last bits of a probability may differ between machines.
PROBABILITY_TOLERANCE = 1e-5
GOLDEN_SYMBOL = "SIMGOLDEN"


class GoldenError(ValueError):
    """A golden vector that this version or machine does not reproduce."""


@dataclass(frozen=True)
class Golden:
    """Inputs and the answers they must give.

    Attributes:
        states: (K, F) float32.
        masks: (K, A) bool.
        actions: (K,) int64.
        probabilities: (K, A) float32.
        time_ns: (B,) int64, bars of a simulated market; the five below are its prices (rupees) and volumes.
        open: (B,) float64.
        high: (B,) float64.
        low: (B,) float64.
        close: (B,) float64.
        volume: (B,) int64.
        extra: (B, fields) float64, the columns of EXTRA_FIELDS; no field where the bars have none.
        market_states: (S, history x columns) float32, the states of its last S bars.
    """

    states: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    time_ns: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.int64]
    extra: NDArray[np.float64]
    market_states: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """The npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{field.name: getattr(self, field.name) for field in fields(self)})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Golden":
        """Read the npz file.

        Raises:
            GoldenError: an array is missing.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            missing = [field.name for field in fields(cls) if field.name not in arrays]
            if missing:
                raise GoldenError(f"golden.npz lacks {', '.join(missing)}")
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def record_golden(
    policy: Policy,
    states: NDArray[np.float32],
    masks: NDArray[np.bool_],
    bars: Bars,
    spec: StateSpec,
) -> Golden:
    """Record what the policy answers to the given states and what the kernels make of the given bars.

    The bars have either every field of EXTRA_FIELDS or none.
    """
    decisions = [policy.act(states[i : i + 1], masks[i : i + 1]) for i in range(len(states))]
    return Golden(
        states=states,
        masks=masks,
        actions=np.array([decision.action for decision in decisions], np.int64),
        probabilities=np.array([decision.probabilities for decision in decisions], np.float32),
        time_ns=bars.time_ns,
        open=bars.open,
        high=bars.high,
        low=bars.low,
        close=bars.close,
        volume=bars.volume,
        extra=np.stack([bars.extra[name] for name in EXTRA_FIELDS], 1) if bars.extra else np.empty((len(bars), 0)),
        market_states=_market_states(bars, spec),
    )


def verify_golden(golden: Golden, policy: Policy, interval: str, spec: StateSpec) -> None:
    """Replay everything.

    Raises:
        GoldenError: a state differs by a bit, or an action differs.
    """
    columns = {name: getattr(golden, name) for name in ("time_ns", "open", "high", "low", "close", "volume")}
    # Later versions only add fields behind the last, so the first ones keep their places.
    extra = dict(zip(EXTRA_FIELDS, golden.extra.T, strict=False))
    found = _market_states(Bars(GOLDEN_SYMBOL, interval, **columns, extra=extra), spec)
    if found.shape != golden.market_states.shape or found.tobytes() != golden.market_states.tobytes():
        raise GoldenError(
            f"the kernels of this version give other states than those the policy was trained on "
            f"({_first_difference(found, golden.market_states)}); retrain, or use the version that exported the bundle"
        )
    for index in range(len(golden.states)):
        decision = policy.act(golden.states[index : index + 1], golden.masks[index : index + 1])
        expected = golden.probabilities[index]
        if decision.action != golden.actions[index] or not np.allclose(
            decision.probabilities, expected, rtol=0, atol=PROBABILITY_TOLERANCE
        ):
            raise GoldenError(
                f"golden vector {index}: expected action {golden.actions[index]} with probabilities "
                f"{expected.tolist()}, found {decision.action} with {decision.probabilities.tolist()}"
            )


def _market_states(bars: Bars, spec: StateSpec) -> NDArray[np.float32]:
    clock = Clock(instrument(bars.symbol), bars.interval, charges=None)
    builder = StateBuilder(spec)
    rows = []
    for bar in bars:
        opens = clock.advance(bar)
        if builder.update(clock.row, opens):
            rows.append(builder.market_state.copy())
    return np.array(rows, np.float32).reshape(-1, spec.width)


def _first_difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> str:
    if found.shape != expected.shape:
        return f"{found.shape} values instead of {expected.shape}"
    row, column = np.argwhere(found.view(np.uint32) != expected.view(np.uint32))[0]
    return f"row {row}, value {column}: {found[row, column]!r} instead of {expected[row, column]!r}"
