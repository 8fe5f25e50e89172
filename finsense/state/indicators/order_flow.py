"""Indicators of order flow, from what the ticks and the book of a bar showed; `market.tick_bar` makes those fields.

Bars of other sources know none of it and are refused (`needs`). A field that is not known for a bar is 0 there.

"""

import math

from finsense.market.timeline import (
    BOOK_IMBALANCE,
    CLOSE,
    MICROPRICE_OFFSET,
    OPEN,
    REALISED_VARIANCE,
    SIGNED_VOLUME,
    SPREAD,
    TICK_VWAP,
    TRADES,
    VOLUME,
)
from finsense.state.indicators.columns import columns_named
from finsense.state.registry import indicator
from finsense.state.windows import SUM_CELLS, Windowed, slide_lead, slide_mean, slide_sum

# One paisa on the dearest share is a log return of 1e-9; what is below this is the rounding of one.
_NO_DEVIATION = 1e-12


@indicator(
    defaults={"window": 20},
    columns=columns_named("signed_volume"),
    memory=lambda p: 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("signed_volume",),
)
def signed_volume(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Signed volume (order imbalance of Lee and Ready 1991, Chordia 2002) against the volume: who took whose price.

    Formula: sum of signed volume / sum of volume over the last `window` bars, a share counting 1 when the buyer took
    the seller's price and -1 when the seller took the buyer's. Unit: fraction in [-1, 1]; 0 without volume. Before the
    window is full the bars seen stand for it.
    """
    window = int(parameters[0])
    # memory: the window of signed volume, the window of volume
    net = slide_sum(memory, 0, window, bar[SIGNED_VOLUME])
    total = slide_sum(memory, SUM_CELLS + window, window, bar[VOLUME])
    out[0] = min(max(net / total, -1.0), 1.0) if total > 0.0 else 0.0


@indicator(
    defaults={"window": 20},
    columns=columns_named("trade_count"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("trades",),
)
def trade_count(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Number of trades seen in the bar against its mean over the window, as a log ratio.

    Formula: ln((1 + trades) / (1 + mean of the last `window` counts, this bar included)). Unit: log ratio; 0 when every
    count is equal, also when all are zero. Before the window is full the bars seen stand for it.
    """
    mean = slide_mean(memory, 0, int(parameters[0]), bar[TRADES])
    out[0] = math.log((1.0 + bar[TRADES]) / (1.0 + mean))


@indicator(
    defaults={"window": 20},
    columns=columns_named("intrabar_volatility", "intrabar_burst"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("realised_variance",),
)
def intrabar_volatility(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Realised volatility from the ticks inside the bars (Andersen and Bollerslev 1998), and this bar's against it.

    Formula: long = sqrt(mean realised variance of the last `window` bars); (now - long) / (now + long), now =
    sqrt(realised variance of the bar). Units: log return of one bar; fraction in [-1, 1]. Both 0 where no tick moved.
    Before the window is full the bars seen stand for it.
    """
    now = math.sqrt(max(bar[REALISED_VARIANCE], 0.0))
    long = math.sqrt(max(slide_mean(memory, 0, int(parameters[0]), now * now), 0.0))
    out[0] = long
    out[1] = (now - long) / (now + long) if now + long > _NO_DEVIATION else 0.0


@indicator(
    defaults={"window": 20},
    columns=columns_named("intrabar_noise"),
    memory=lambda p: 2 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("realised_variance",),
)
def intrabar_noise(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """How much the ticks moved inside the bars against how far the bars got: the variance ratio of tick and bar.

    Formula: (ticks - bars) / (ticks + bars), ticks = sqrt(mean realised variance), bars = sqrt(mean of ln(close /
    open)^2), both over the last `window` bars. Near 0 the ticks are a random walk, above it they bounce and come back,
    below it they go one way. Unit: fraction in [-1, 1]; 0 where nothing moved. Before the window is full the bars seen
    stand for it.
    """
    window = int(parameters[0])
    move = math.log(bar[CLOSE] / bar[OPEN])
    # memory: the window of realised variance, the window of squared moves
    ticks = math.sqrt(max(slide_mean(memory, 0, window, max(bar[REALISED_VARIANCE], 0.0)), 0.0))
    bars = math.sqrt(max(slide_mean(memory, SUM_CELLS + window, window, move * move), 0.0))
    out[0] = (ticks - bars) / (ticks + bars) if ticks + bars > _NO_DEVIATION else 0.0


@indicator(
    defaults={},
    columns=columns_named("tick_vwap"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
    needs=("tick_vwap",),
)
def tick_vwap(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """How far the close lies from the volume-weighted average price of the bar's own trades.

    Formula: close / VWAP of the bar's ticks - 1; `vwap` and `session_vwap` make one of typical prices instead. Unit:
    fraction; 0 where nothing was traded.
    """
    out[0] = (bar[CLOSE] - bar[TICK_VWAP]) / bar[TICK_VWAP] if bar[TICK_VWAP] > 0.0 else 0.0


@indicator(
    defaults={"window": 20},
    columns=columns_named("book_imbalance", "book_imbalance_lead"),
    memory=lambda p: SUM_CELLS + int(p["window"]),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("book_imbalance",),
)
def book_imbalance(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Order book imbalance over five levels (Cont, Kukanov and Stoikov 2014), and how far it leads its mean.

    Formula: (bid - ask) / (bid + ask) quantities, mean of the bar's snapshots; that less its mean over the last
    `window` bars. Units: fraction in [-1, 1], 1 when only buyers are left; fraction in [-2, 2]. Both 0 without a book.
    Before the window is full the bars seen stand for it.
    """
    out[0] = bar[BOOK_IMBALANCE]
    out[1] = slide_lead(memory, 0, int(parameters[0]), bar[BOOK_IMBALANCE])


@indicator(
    defaults={"window": 20},
    columns=columns_named("spread", "spread_cost"),
    memory=lambda p: 3 * (SUM_CELLS + int(p["window"])),
    lookback=Windowed(lambda p: int(p["window"])),
    needs=("spread",),
)
def spread(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Quoted spread against its own mean, and against how far the bars move.

    Formula: (spread - mean) / (spread + mean), mean over those of the last `window` bars that know a spread; spread /
    (spread + move), move = sqrt(mean of ln(close / open)^2 over the last `window` bars): 1/2 where a bar moves by one
    spread, near 1 where trading costs more than a bar can earn. Units: fraction in [-1, 1]; fraction in [0, 1]. Both 0
    where the spread is not known (no book, or a locked circuit). Before the window is full the bars seen stand for it.
    """
    window = int(parameters[0])
    cells = SUM_CELLS + window
    now = max(bar[SPREAD], 0.0)
    move = math.log(bar[CLOSE] / bar[OPEN])
    # memory: the windows of spreads, of whether there was one, of squared moves
    total = slide_sum(memory, 0, window, now)
    known = slide_sum(memory, cells, window, 1.0 if now > 0.0 else 0.0)
    moves = math.sqrt(max(slide_mean(memory, 2 * cells, window, move * move), 0.0))
    out[0] = 0.0
    out[1] = 0.0
    if now > 0.0:
        mean = total / known
        out[0] = (now - mean) / (now + mean)
        out[1] = now / (now + moves)


@indicator(
    defaults={},
    columns=columns_named("microprice"),
    memory=lambda p: 0,
    lookback=Windowed(lambda p: 1),
    needs=("microprice_offset", "spread"),
)
def microprice(bar, parameters, memory, out):  # type: ignore[no-untyped-def]
    """Where the microprice (Gatheral and Oomen 2010) stands between the quotes at the close of the bar.

    Formula: (microprice / mid - 1) of the last snapshot / half the bar's mean spread, cut to [-1, 1]. Unit: fraction: 1
    at the best ask, -1 at the best bid; 0 at the mid and where the spread is not known (no book, or a locked circuit).
    """
    half = 0.5 * bar[SPREAD]
    out[0] = min(max(bar[MICROPRICE_OFFSET] / half, -1.0), 1.0) if half > 0.0 else 0.0
