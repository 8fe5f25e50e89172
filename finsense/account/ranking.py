"""How signals that compete for cash are ranked: by the policy's confidence and by what it has earned on the symbol."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


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


def score(signal: Signal, weights: Weights) -> float:
    """Of one signal alone, 0 to 1: no other signal changes it.

    Raises:
        CapitalError: a figure is out of its range.
    """
    momentum = signal.momentum or 0.0
    if not (0.0 <= signal.confidence <= 1.0 and math.isfinite(momentum)) or signal.price_paise <= 0:
        raise CapitalError(f"expected a confidence from 0 to 1, a finite momentum and a price above 0, found {signal}")
    performance = min(max(momentum, 0.0) / weights.full_performance, 1.0)
    parts = weights.confidence * signal.confidence + weights.performance * performance
    return min(parts / (weights.confidence + weights.performance), 1.0)


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
