"""The made-up bars whose states a bundle carries as golden values of its kernels."""

from dataclasses import replace
from datetime import date

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import INTERVAL_NS, Bars
from finsense.market.calendar import DAY_NS, MINUTE_NS, nse_calendar
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.simulate import SimulatedMarket
from finsense.model.golden import GOLDEN_SYMBOL
from finsense.state.spec import StateSpec

# A fixed date with a known calendar before it: every version draws the same golden bars.
_GOLDEN_LAST = date(2025, 12, 31)
_GOLDEN_ROWS = 20
_SESSION_NS = 375 * MINUTE_NS


def golden_bars(spec: StateSpec, interval: str) -> Bars:
    """A simulated random walk that is long enough for a session with its warm-up, and not much longer."""
    calendar, daily = nse_calendar(), INTERVAL_NS[interval] == DAY_NS
    per_session = 1 if daily else _SESSION_NS // INTERVAL_NS[interval]
    needed = -(-spec.warmup // per_session) + max(2, -(-_GOLDEN_ROWS // per_session))
    chosen = calendar.sessions(calendar.first_date, _GOLDEN_LAST, derivatives=False)[-needed:]
    market = SimulatedMarket.model_validate(
        {
            "model": "random_walk",
            "symbols": (GOLDEN_SYMBOL,),
            "interval": interval,
            "first": chosen[0].date,
            "last": chosen[-1].date,
            "seed": len(spec.columns),
        }
    )
    bars = market.load()[GOLDEN_SYMBOL]
    return replace(bars, extra=_golden_extra(bars))


def _golden_extra(bars: Bars) -> dict[str, NDArray[np.float64]]:
    """Made-up values of every further field, so that whatever a feature reads has a golden value."""
    rng = np.random.default_rng(len(bars))
    moves = np.exp(np.cumsum(rng.normal(0.0, 1e-3, (3, len(bars))), axis=1))
    ticks = rng.integers(1, 200, len(bars)).astype(np.float64)
    fields = {
        "index_close": 20_000.0 * moves[0] * (bars.close / bars.close[0]),
        "sector_close": 30_000.0 * moves[1],
        "vix_close": 15.0 * moves[2],
        "ticks": ticks,
        "trades": np.floor(0.8 * ticks),
        "signed_volume": np.rint(rng.uniform(-1.0, 1.0, len(bars)) * bars.volume),
        "realised_variance": rng.uniform(1e-7, 1e-5, len(bars)),
        "tick_vwap": rng.uniform(bars.low, bars.high),
        "book_imbalance": rng.uniform(-1.0, 1.0, len(bars)),
        "spread": rng.uniform(1e-5, 1e-3, len(bars)),
        "microprice_offset": rng.uniform(-1e-4, 1e-4, len(bars)),
    }
    return {name: fields[name] for name in EXTRA_FIELDS}
