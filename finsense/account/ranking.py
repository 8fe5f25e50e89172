"""How signals that compete for cash are ranked: by the policy's confidence and by what it has earned on the symbol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

from numba import njit
from pydantic import BaseModel, ConfigDict, Field, model_validator


class CapitalError(ValueError):
    """Positions, signals or terms that contradict each other."""


class Signal(NamedTuple):
    """What speaks for a symbol.

    Attributes:
        symbol: trading symbol.
        price_paise: last price.
        confidence: the policy's, in being long: its probability of that action, 0 to 1.
        momentum: what the policy itself earned on the symbol over the last three months out of sample, fraction; None
            where it is not known, which counts as none.
    """

    symbol: str
    price_paise: int
    confidence: float
    momentum: float | None


@dataclass(frozen=True)
class Weights:
    """How a signal's score is made: confidence x its weight + performance x its weight, over the sum of both.

    Attributes:
        confidence: weight of the policy's confidence.
        performance: weight of its own performance on the symbol.
        full_performance: the three-month gain that counts as 1, fraction; a higher one counts no more.
    """

    confidence: float = 0.5
    performance: float = 0.5
    full_performance: float = 0.10

    def __post_init__(self) -> None:
        parts = (self.confidence, self.performance, self.full_performance)
        if not all(math.isfinite(part) and part >= 0 for part in parts) or not self.full_performance:
            raise CapitalError(f"expected weights of 0 or more and a full performance above 0, found {parts}")
        if self.confidence + self.performance == 0:
            raise CapitalError("expected a weight above 0, found none")


class Ranking(BaseModel):
    """Who is served first where several symbols of one account compete for cash and places: the higher score.

    Attributes:
        confidence: weight of the probability that the policy gives its choice.
        performance: weight of what it gained on that symbol in the same session over its last three months.
        full_performance: the three-month gain, over the equity of the whole account, that counts as 1; fraction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    confidence: Annotated[float, Field(ge=0, le=1)] = 1.0
    performance: Annotated[float, Field(ge=0, le=1)] = 0.0
    full_performance: Annotated[float, Field(gt=0, le=1)] = 0.10

    @model_validator(mode="after")
    def _something_counts(self) -> Self:
        if self.confidence == 0 and self.performance == 0:
            raise ValueError("confidence and performance are both 0, so nothing would rank the symbols: raise one")
        return self

    @property
    def weights(self) -> "Weights":
        """The same, for a score."""
        return Weights(self.confidence, self.performance, self.full_performance)


class Ranked(NamedTuple):
    """A signal and its score.

    Attributes:
        symbol: trading symbol.
        score: 0 to 1.
        refused: why it may not take cash; empty where it may.
    """

    symbol: str
    score: float
    refused: str = ""


@njit(cache=True)
def blend(
    confidence: float, gained: float, confidence_weight: float, performance_weight: float, full_performance: float
) -> float:
    """The score of a signal: its weights as in `Weights`; `gained`: in three months, fraction, which counts above 0."""
    performance = min(max(gained, 0.0) / full_performance, 1.0)
    parts = confidence_weight * confidence + performance_weight * performance
    return float(parts / (confidence_weight + performance_weight))


def score(signal: Signal, weights: Weights) -> float:
    """Of one signal alone, 0 to 1: no other signal changes it.

    Raises:
        CapitalError: a figure is out of its range.
    """
    momentum = signal.momentum or 0.0
    if not (0.0 <= signal.confidence <= 1.0 and math.isfinite(momentum)) or signal.price_paise <= 0:
        raise CapitalError(f"expected a confidence from 0 to 1, a finite momentum and a price above 0, found {signal}")
    weighing = weights.confidence, weights.performance, weights.full_performance
    return min(blend(signal.confidence, momentum, *weighing), 1.0)


def rank(signals: Sequence[Signal], weights: Weights | None = None) -> list[Ranked]:
    """The signals by score, the best first, equals by name; those that may take no cash last.

    Only a symbol on which the policy earned something out of sample may take cash.

    Raises:
        CapitalError: a symbol comes twice, or a figure is out of its range.
    """
    if len({signal.symbol for signal in signals}) < len(signals):
        raise CapitalError(f"expected one signal per symbol, found {[signal.symbol for signal in signals]}")
    ranked = [Ranked(one.symbol, score(one, weights or Weights()), _refused(one)) for one in signals]
    return sorted(ranked, key=lambda one: (bool(one.refused), -one.score, one.symbol))


def _refused(signal: Signal) -> str:
    if signal.momentum is None:
        return "nothing is known of the policy's own performance on it out of sample"
    return "" if signal.momentum > 0 else f"the policy earned {signal.momentum:.2%} on it in three months out of sample"
