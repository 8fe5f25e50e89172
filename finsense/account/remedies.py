"""What could be closed for a choice that came too late at its bar, as the decision record tells it."""

from collections.abc import Mapping

from finsense.account.capital import Terms, weakness
from finsense.account.ranking import Ranked
from finsense.account.reasons import CASH, CASH_BUFFER, GROSS_EXPOSURE, POSITION_TOO_SMALL, POSITIONS, REASONS

# A position is too small where the cash that is left pays for no larger one.
_CASH = frozenset(REASONS[code] for code in (CASH, CASH_BUFFER, POSITION_TOO_SMALL, GROSS_EXPOSURE))
_PLACE = REASONS[POSITIONS]


def explain_drops(
    dropped: Mapping[str, str], scores: Mapping[str, float], worth_paise: Mapping[str, int]
) -> dict[str, str]:
    """Why each choice ordered nothing, and which position would make room for it.

    It is the one that `liquidation_order` names first, where `suggest` would close it: the score of the choice is
    higher by `better_by`. Nothing is closed.

    Args:
        dropped: symbol -> reason, of choices that were legal until an earlier order of the same bar was placed.
        scores: symbol -> score of its choice at this bar.
        worth_paise: symbol -> value without its sign, of each position that has a score and is not being closed.
    """
    held = [Ranked(symbol, scores[symbol]) for symbol in worth_paise]
    weakest = min(held, key=lambda one: weakness(one, worth_paise[one.symbol]), default=None)
    told = {}
    for symbol, reason in dropped.items():
        told[symbol] = f"{reason}: an earlier order of this bar came first"
        if reason not in _CASH and reason != _PLACE:
            continue
        if weakest is None or weakest.score + Terms.better_by >= scores[symbol]:
            told[symbol] += f"; nothing held is weaker by {Terms.better_by:g}"
            continue
        freed = "a place" if reason == _PLACE else f"about {worth_paise[weakest.symbol] // 100} rupees"
        told[symbol] += (
            f"; closing {weakest.symbol} (score {weakest.score:.3f}) would free {freed} for {scores[symbol]:.3f}"
        )
    return told
