"""Measure whether a warm-up is long enough: how much each column still changes when the warm-up is doubled."""

import numpy as np

from finsense.market.bars import Bars
from finsense.market.instruments import Instrument
from finsense.market.timeline import Timeline, timeline
from finsense.state.builder import build_states
from finsense.state.spec import Feature, StateSpec

# A change that is smaller, in standard deviations of its column, says that the warm-up is long enough.
SUFFICIENT_CHANGE = 1e-3


def warmup_changes(bars: Bars, instrument: Instrument, spec: StateSpec) -> list[tuple[str, float]]:
    """How much every column changes when the warm-up is doubled.

    Args:
        bars: the bars, with at least twice the warm-up before their last session.
        instrument: the instrument that was traded.
        spec: the state; its `history` does not matter here.

    Returns:
        (column, change) in column order. The change is the largest absolute one at any bar of the sessions that have
        both warm-ups before them, in standard deviations of the column over those bars: 0 for a constant that stays as
        it is, infinite for one that does not.

    Raises:
        HistoryError: no session has the doubled warm-up before it.
        ValueError: the doubled warm-up is longer than a state may have.
    """
    described = timeline(bars, instrument, None)
    return [change for feature in spec.features for change in _feature_changes(described, feature, spec.warmup)]


def _feature_changes(described: Timeline, feature: Feature, warmup: int) -> list[tuple[str, float]]:
    """The changes of one feature's columns: built alone, so that a long history needs little memory."""
    once = build_states(described, StateSpec(features=(feature,), warmup=warmup))
    twice = build_states(described, StateSpec(features=(feature,), warmup=2 * warmup))
    found = once.rows[once.row_of_bar[twice.first_bar :]].astype(np.float64)
    expected = twice.rows[twice.row_of_bar[twice.first_bar :]].astype(np.float64)
    largest, deviation = np.abs(found - expected).max(axis=0), expected.std(axis=0)
    # A change of nothing is none, also of a column that is constant.
    changes = np.divide(largest, deviation, out=np.where(largest > 0, np.inf, 0.0), where=deviation > 0)
    return list(zip(feature.columns, changes.tolist(), strict=True))
