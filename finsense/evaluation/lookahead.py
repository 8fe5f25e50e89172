"""Searches an experiment, and the bundle trained on it, for everything that knows what it cannot know live."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from finsense.evaluation.lookahead_fills import FILLS, check_fills
from finsense.evaluation.lookahead_futures import (
    KERNELS,
    REPLACED,
    STATES,
    TRUNCATED,
    check_kernels,
    check_replaced,
    check_states,
    check_truncated,
)
from finsense.evaluation.lookahead_labels import LABELS, check_labels
from finsense.evaluation.lookahead_market import Leak, Market, Outcome, Subject
from finsense.evaluation.lookahead_references import REFERENCES, check_references
from finsense.evaluation.lookahead_spans import DUPLICATES, SCALER, SPANS, check_duplicates, check_scaler, check_spans
from finsense.market.bars import Bars

# Name -> what is asked, and the check, of each symbol alone or of the experiment as a whole.
MARKET_CHECKS: dict[str, tuple[str, Callable[[Market], Outcome]]] = {
    KERNELS: ("an indicator reads its own bar and no other", check_kernels),
    STATES: ("states of bars that end, or go on otherwise, or come one by one", check_states),
    TRUNCATED: ("state, mask, fill, charges, equity without the bars after", check_truncated),
    REPLACED: ("state, mask, fill, charges, equity with other bars after", check_replaced),
    FILLS: ("a fill at the open after the decision, slippage against it", check_fills),
    LABELS: ("no column tells the next return better than the last ones", check_labels),
    REFERENCES: ("index, sector, VIX and flow belong to their own bar", check_references),
}
EXPERIMENT_CHECKS: dict[str, tuple[str, Callable[[Subject], Outcome]]] = {
    SPANS: ("no day is trained or chosen on and judged on", check_spans),
    SCALER: ("the scaler was fitted on the training rows alone", check_scaler),
    DUPLICATES: ("no session is seen twice under two dates or names", check_duplicates),
}

# Prices of NSE stocks were multiples of this many paise until 2024, so prices in between were adjusted or averaged.
_TICK_PAISE = 5
_OFF_TICK_SHARE = 0.2


@dataclass(frozen=True)
class Finished:
    """A check that was made.

    Attributes:
        name: of the check.
        asks: what it asks.
        outcome: what it came to.
    """

    name: str
    asks: str
    outcome: Outcome

    @property
    def verdict(self) -> str:
        """`clean`, `found` or `not checked`."""
        if self.outcome.leaks:
            return "found"
        return "clean" if self.outcome.count else "not checked"


def search(subject: Subject, begun: Callable[[str], None] = lambda name: None) -> list[Finished]:
    """Make every check; errors as loading the bars' states and driving them.

    Args:
        subject: what to search.
        begun: called with the symbol (or the check) that is looked at next.
    """
    found: dict[str, list[Outcome]] = {name: [] for name in MARKET_CHECKS}
    for market in subject.each():
        begun(market.bars.symbol)
        for name, (_, check) in MARKET_CHECKS.items():
            found[name].append(check(market))
    finished = [Finished(name, MARKET_CHECKS[name][0], _together(outcomes)) for name, outcomes in found.items()]
    for name, (asks, look) in EXPERIMENT_CHECKS.items():
        begun(name)
        finished.append(Finished(name, asks, look(subject)))
    return finished


def leaks_of(finished: Iterable[Finished]) -> list[Leak]:
    """Everything that was found, check after check."""
    return [leak for one in finished for leak in one.outcome.leaks]


def beyond_checking(markets: Mapping[str, Bars]) -> list[str]:
    """What no computation on the bars of a vendor can tell, said openly.

    Args:
        markets: symbol -> all its bars.
    """
    adjusted = [symbol for symbol, bars in markets.items() if _off_tick(bars) > _OFF_TICK_SHARE]
    shown = f" ({', '.join(adjusted)}: many closes lie off the 5-paise tick, so they were)" if adjusted else ""
    return [
        "whether the symbols were chosen because of what became of them later (survivorship)",
        "whether the vendor corrected the bars after the day",
        f"whether prices were adjusted with splits and dividends of later days{shown}",
    ]


def _off_tick(bars: Bars) -> float:
    """The share of closes between the ticks."""
    return float((np.round(bars.close * 100).astype(np.int64) % _TICK_PAISE != 0).mean())


def _together(outcomes: list[Outcome]) -> Outcome:
    """The outcomes of all symbols as one."""
    reasons = dict.fromkeys(one.unchecked for one in outcomes if one.unchecked)
    return Outcome(
        sum(one.count for one in outcomes),
        outcomes[0].unit,
        tuple(leak for one in outcomes for leak in one.leaks),
        "; ".join(reasons),
    )
