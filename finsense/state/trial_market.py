"""Short random markets with everything that disturbs an indicator: what the laws try it on when it is registered."""

import datetime as dt
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from finsense.market.bars import INTERVAL_NS, PRICE_LIMIT, PRICE_MIN, Bars
from finsense.market.calendar import nse_calendar
from finsense.market.extra_fields import EXTRA_FIELDS, FLOW_FIELDS, REFERENCE_FIELDS
from finsense.market.instruments import Instrument
from finsense.market.timeline import Timeline, timeline

Floats = NDArray[np.float64]

_INTERVAL = "15m"
_BARS_PER_SESSION = 25
# The last sessions hold the Saturday of 2 March 2024, whose session has a pause.
_LAST = dt.date(2024, 3, 5)
_START_PRICE = 300.0
_HIGHEST = PRICE_LIMIT - 0.01

# Length and generator -> the closes of a phase relative to its base price (or absolute rupees), and its volumes.
_Phase = Callable[[int, np.random.Generator], tuple[Floats, NDArray[np.int64]]]


def _walk(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    closes = _START_PRICE * np.exp(np.cumsum(rng.normal(0, 0.01, count)))
    return closes, rng.integers(0, 100_000, count)


def _still(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    return np.full(count, _START_PRICE), np.zeros(count, np.int64)


def _silent_walk(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    return _walk(count, rng)[0], np.zeros(count, np.int64)


def _flat_with_volume(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    return np.full(count, 1.2 * _START_PRICE), np.ones(count, np.int64)


def _paisa(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    return rng.choice([PRICE_MIN, 2 * PRICE_MIN], count), rng.choice(np.array([0, 1, 10**12]), count)


def _crore(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    return np.full(count, _HIGHEST), np.full(count, 10**12, np.int64)


def _alternating(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    return np.resize([100.0, 101.0], count), np.resize(np.array([1, 1_000_000]), count)


# A still market comes first: its bars are the first that an indicator sees.
_PHASES: tuple[_Phase, ...] = (_still, _walk, _silent_walk, _flat_with_volume, _walk, _paisa, _crore, _alternating)


def wild_market(least_bars: int, needs: Iterable[str] = (), seed: int = 0) -> Timeline:
    """A market of changing temper: still, silent, jumping between a paisa and a crore, locked, and ordinary.

    Args:
        least_bars: at least so many bars.
        needs: the names of EXTRA_FIELDS that its bars know.
        seed: of everything random in it.
    """
    rng = np.random.default_rng(seed)
    time_ns = _times(least_bars)
    closes, volumes = _phases(len(time_ns), rng)
    moving = rng.random(len(closes)) < 0.8
    opens = np.where(moving, np.append(closes[:1], closes[:-1]), closes)
    reach = np.where(moving, 1.0 + np.abs(rng.normal(0, 0.003, len(closes))), 1.0)
    high = np.minimum(np.round(np.maximum(opens, closes) * reach, 2), _HIGHEST)
    low = np.maximum(np.round(np.minimum(opens, closes) / reach, 2), PRICE_MIN)
    bars = Bars("SIM", _INTERVAL, time_ns, opens, high, low, closes, volumes, False, _extra(needs, low, volumes, rng))
    return timeline(bars, Instrument("SIM", False), None)


def still_market(least_bars: int, needs: Iterable[str] = ()) -> Timeline:
    """A market at rest: one price, no volume, no price band, an index that stands still, a book that is empty."""
    time_ns = _times(least_bars)
    price = np.full(len(time_ns), _START_PRICE)
    nothing = np.zeros(len(time_ns))
    resting = {name: price if name in (*REFERENCE_FIELDS, "tick_vwap") else nothing for name in _known(needs)}
    if "ticks" in resting:
        resting["ticks"] = nothing + 1.0
    bars = Bars("SIM", _INTERVAL, time_ns, price, price, price, price, np.zeros(len(time_ns), np.int64), False, resting)
    return timeline(bars, Instrument("SIM", False, price_band=None), None)


def _times(least_bars: int) -> NDArray[np.int64]:
    """(n,) int64 ns UTC, the bars of the last sessions that hold so many."""
    days = least_bars // _BARS_PER_SESSION * 2 + 15
    sessions = nse_calendar().sessions(_LAST - dt.timedelta(days=days), _LAST, derivatives=False)
    step = INTERVAL_NS[_INTERVAL]
    starts = [np.arange(*window, step, dtype=np.int64) for session in sessions for window in session.windows]
    kept, found = len(starts), 0
    while found < least_bars:
        kept -= 1
        found += len(starts[kept])
    return np.concatenate(starts[kept:])


def _phases(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    closes: list[Floats] = []
    volumes: list[NDArray[np.int64]] = []
    made = turn = 0
    while made < count:
        length = int(rng.integers(4, 24))
        close, volume = _PHASES[turn % len(_PHASES)](length, rng)
        closes.append(close)
        volumes.append(volume)
        made, turn = made + length, turn + 1
    rounded: Floats = np.round(np.concatenate(closes)[:count], 2)
    return np.clip(rounded, PRICE_MIN, _HIGHEST), np.concatenate(volumes)[:count]


def _extra(
    needs: Iterable[str], price: Floats, volume: NDArray[np.int64], rng: np.random.Generator
) -> dict[str, Floats]:
    """What the bars know beyond their prices, with the zeros that each of them can have."""
    count = len(price)
    sometimes = (rng.random(count) < 0.7).astype(np.float64)
    index = np.where(sometimes > 0, 20_000 * np.exp(np.cumsum(rng.normal(0, 0.003, count))), 20_000)
    traded = volume.astype(np.float64)
    made = {
        "index_close": index,
        "sector_close": index * 1.5,
        "vix_close": 10.0 + 20.0 * rng.random(count),
        "ticks": 1.0 + rng.integers(0, 300, count),
        "trades": sometimes * rng.integers(0, 300, count),
        "signed_volume": traded * rng.choice([-1.0, 0.0, 0.3, 1.0], count),
        "realised_variance": sometimes * rng.random(count) * 1e-4,
        "tick_vwap": price,
        "book_imbalance": rng.choice([-1.0, 0.0, 0.25, 1.0], count),
        "spread": sometimes * rng.random(count) * 0.01,
        "microprice_offset": sometimes * rng.normal(0, 1e-4, count),
    }
    return {name: made[name] for name in _known(needs)}


def _known(needs: Iterable[str]) -> list[str]:
    """The fields that bars with these needs know: what is made of ticks comes with their number."""
    wanted = set(needs)
    return [name for name in EXTRA_FIELDS if name in wanted or (name == "ticks" and wanted & set(FLOW_FIELDS))]
