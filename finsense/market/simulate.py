"""Simulated NSE markets: seeded bars on the real session calendar whose law, and so whose best policy, is known.

Timing is that of the house: a policy sees the close of bar t and fills at the open of bar t+1, so every open is the
close before it times a small independent noise (times the overnight gap at a session's first bar). All noise is drawn
in time order from one stream per (seed, symbol, purpose): a longer span, a further symbol or another switch leaves
the draws that were there before.
"""

import datetime
import math
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from finsense.market.bars import INTERVAL_NS, PRICE_LIMIT, PRICE_MIN, Bars
from finsense.market.calendar import MINUTE_NS, nse_calendar
from finsense.market.simulated_index import SimulatedIndex, index_points
from finsense.market.simulated_paths import bar_prices, clustering, reverting_path, session_shape, switching_path

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# An ordinary year, for annual figures.
_SESSIONS_PER_YEAR, _SESSION_MINUTES = 248, 375

# The place in this tuple is part of the seed: append, never reorder.
_STREAMS = ("return", "gap", "open", "high", "low", "volume", "regime", "index", "index_gap")


class SimulationError(ValueError):
    """A simulated market cannot be drawn as asked."""


class Regime(BaseModel):
    """One state of a regime-switching market; all values are per bar."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    drift: float = Field(gt=-1, lt=1, description="log of the expected price ratio over a bar (fraction)")
    volatility: float = Field(gt=0, lt=1, description="standard deviation of a bar's log return (fraction)")
    persistence: float = Field(gt=0, lt=1, description="chance to stay for the next bar; mean stay 1/(1-it) bars")


# What each model needs, with its default; the same names are refused on the other models.
_MODEL_PARAMETERS: dict[str, dict[str, Any]] = {
    "random_walk": {"volatility": 0.0015},
    "mean_reversion": {"reversion": 0.95, "shock": 0.003},
    "regime_switching": {
        "regimes": (
            Regime(drift=0.00005, volatility=0.001, persistence=0.998),
            Regime(drift=-0.0001, volatility=0.0025, persistence=0.995),
        )
    },
}


class SimulatedMarket(BaseModel):
    """A seeded market on NSE sessions (stocks without derivatives); `load` draws its bars.

    Models, with s the bar's standard deviation (see below) and e standard normal:

    * `random_walk`: close_{t+1} = close_t exp(s e - s^2/2). Price, gap and open noise are martingales: no policy has a
      positive expected gain, and after charges every trade is expected to lose.
    * `mean_reversion`: close_t = start_price exp(x_t) with x_{t+1} = reversion x_t + s e, x = 0 at the start. The
      expected log return of the next bar is -(1-reversion) x. The deviation lives on over night; before a session's
      first bar the gap is added to it. Facts: `stationary_deviation`, `half_life_bars`, `expected_return`.
    * `regime_switching`: a Markov chain, started in the first regime, sets the drift and volatility of each bar's log
      return; a regime is left for each of the others with the same chance.

    The bar's standard deviation s is `volatility` (or `shock`) times a U over the session and a GARCH(1,1) factor; both
    have a mean square of one, so the parameter stays the root mean square over time. High and low are drawn from the
    exact law of the extremes of a Brownian bridge from open to close (each on its own). Prices are rounded to the
    paisa. A missing model parameter gets its default; a parameter of another model is refused. With daily bars every
    bar is a session of its own: the U is flat and every open has a gap.

    With `index` each stock knows an `index_close` of its own (symbols move independently, so they share no index); its
    bars stay the same bits. See `SimulatedIndex` for its law.

    With `vix` each stock knows a `vix_close`, 100 times the annualised volatility that was in force during the bar: its
    regime's (or the model's own) times the GARCH factor, without the session's U. With unlike volatilities it tells the
    regime, which is what `finsense oracle` decides by.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["simulated"] = "simulated"
    model: Literal["random_walk", "mean_reversion", "regime_switching"]
    symbols: tuple[str, ...] = Field(default=("SIM",), min_length=1)
    interval: Literal["1m", "3m", "5m", "10m", "15m", "30m", "60m", "1d"] = "5m"
    first: datetime.date = Field(description="first day (IST); only NSE sessions get bars")
    last: datetime.date = Field(description="last day (IST), inclusive")
    seed: int = Field(ge=0, lt=2**64)
    start_price: float = Field(1000.0, ge=1, le=1e6, description="first open, and mean_reversion's level (rupees)")
    volatility: float | None = Field(None, gt=0, lt=1, description="random_walk: std of a bar's log return (fraction)")
    reversion: float | None = Field(None, gt=0, lt=1, description="mean_reversion: AR(1) coefficient of x per bar")
    shock: float | None = Field(None, gt=0, lt=1, description="mean_reversion: std of a bar's shock to x (fraction)")
    regimes: tuple[Regime, ...] | None = Field(None, min_length=2, description="regime_switching: its states")
    volatility_shape: float = Field(0.5, ge=0, le=10, description="U over the session: its edges are 1 + this")
    clustering_reaction: float = Field(0.05, ge=0, lt=1, description="GARCH alpha, weight of the last squared noise")
    clustering_memory: float = Field(0.9, ge=0, lt=1, description="GARCH beta, weight of the last variance")
    overnight_gap: float = Field(0.005, ge=0, lt=1, description="std of the gap before a session (fraction)")
    open_noise: float = Field(0.00005, ge=0, lt=0.1, description="std of open against the last close (fraction)")
    volume_mean: float = Field(20_000.0, ge=1, le=1e12, description="mean volume of a bar (shares)")
    volume_shape: float = Field(1.0, ge=0, le=100, description="U over the session: its edges are 1 + this")
    volume_noise: float = Field(0.5, ge=0, le=3, description="std of the volume's natural logarithm")
    index: SimulatedIndex | None = Field(None, description="the index beside each stock; null for none")
    vix: bool = Field(False, description="whether each stock knows the annual volatility in force, as `vix_close`")

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        defaults = _MODEL_PARAMETERS.get(str(values.get("model")), {})
        return {**values, **{name: value for name, value in defaults.items() if values.get(name) is None}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        for model, parameters in _MODEL_PARAMETERS.items():
            foreign = [name for name in parameters if model != self.model and getattr(self, name) is not None]
            if foreign:
                raise ValueError(f"{foreign[0]} belongs to model {model}, but the model is {self.model}: remove it")
        if self.first > self.last:
            raise ValueError(f"first must not lie after last, found {self.first} > {self.last}: swap them")
        if len(set(self.symbols)) < len(self.symbols) or not all(self.symbols):
            raise ValueError(f"symbols must be distinct and not empty, found {self.symbols}")
        if self.clustering_reaction + self.clustering_memory >= 1:
            raise ValueError(
                "clustering_reaction + clustering_memory must be below 1, else the variance has no mean; found "
                f"{self.clustering_reaction} + {self.clustering_memory}: lower one"
            )
        return self

    @property
    def stationary_deviation(self) -> float:
        """Standard deviation of x, shock / sqrt(1 - reversion^2) (fraction): the AR(1) law (Hamilton 1994, 3.4).

        Exact over time with volatility shape and clustering too. An overnight gap g adds
        reversion^2 g^2 / (n (1 - reversion^2)) to the variance, the mean over sessions of n bars.

        Raises:
            SimulationError: If the model is not mean_reversion.
        """
        reversion, shock = self._reverting()
        return shock / math.sqrt(1 - reversion**2)

    @property
    def half_life_bars(self) -> float:
        """Bars after which half of a deviation is expected to be gone, log(1/2) / log(reversion).

        Raises:
            SimulationError: If the model is not mean_reversion.
        """
        return math.log(0.5) / math.log(self._reverting()[0])

    def expected_return(self, deviation: float) -> float:
        """Expected simple return to the next close of the session, given x: exp(-(1-reversion) x + shock^2/2) - 1.

        Exact without volatility shape and clustering, which only move the shock^2/2.

        Raises:
            SimulationError: If the model is not mean_reversion.
        """
        reversion, shock = self._reverting()
        return math.expm1(-(1 - reversion) * deviation + shock**2 / 2)

    def _reverting(self) -> tuple[float, float]:
        if self.reversion is None or self.shock is None:
            raise SimulationError(f"this fact belongs to model mean_reversion, but the model is {self.model}")
        return self.reversion, self.shock

    def load(self) -> dict[str, Bars]:
        """Draw the bars of every symbol.

        Raises:
            SimulationError: If the span holds no session, or a price leaves the range that Bars accepts.
            CalendarError: If the span leaves the known calendar.
        """
        time_ns, offsets = self._grid()
        return {symbol: self._simulate(symbol, time_ns, offsets)[0] for symbol in self.symbols}

    def simulate_with_signal(self, symbol: str | None = None) -> tuple[Bars, Floats]:
        """Draw one symbol (the first by default) with what its law hides from a trader.

        Returns:
            The bars, and the signal (n,) float64: the log deviation x at each close (mean_reversion), the regime's
            index during each bar (regime_switching) or zeros (random_walk).

        Raises:
            SimulationError: As `load`, and if the symbol is not one of this market's.
            CalendarError: As `load`.
        """
        chosen = self.symbols[0] if symbol is None else symbol
        if chosen not in self.symbols:
            raise SimulationError(f"symbol {chosen} is not in this market, which has {', '.join(self.symbols)}")
        return self._simulate(chosen, *self._grid())

    def _grid(self) -> tuple[Integers, Integers]:
        """Bar starts (n,) int64 ns UTC, and the first bar of each session with n at the end (sessions+1,) int64."""
        sessions = nse_calendar().sessions(self.first, self.last, derivatives=False)
        if not sessions:
            raise SimulationError(f"no NSE session between {self.first} and {self.last}: widen the span")
        # A daily bar is longer than any window, so it starts once, at the opening, if the later windows are left out.
        windows = [session.windows[:1] if self.interval == "1d" else session.windows for session in sessions]
        step_ns = INTERVAL_NS[self.interval]
        starts = [[np.arange(*window, step_ns, dtype=np.int64) for window in session] for session in windows]
        counts = [sum(map(len, session)) for session in starts]
        time_ns = np.concatenate([window for session in starts for window in session])
        return time_ns, np.cumsum([0, *counts], dtype=np.int64)

    def _simulate(self, symbol: str, time_ns: Integers, offsets: Integers) -> tuple[Bars, Floats]:
        key = tuple(symbol.encode())
        seeds = [np.random.SeedSequence(self.seed, spawn_key=(place, *key)) for place in range(len(_STREAMS))]
        streams = {name: np.random.Generator(np.random.PCG64(seed)) for name, seed in zip(_STREAMS, seeds, strict=True)}
        count = len(time_ns)
        noise = streams["return"].standard_normal(count)
        shape = session_shape(offsets, self.volatility_shape, 2)
        scale = shape * clustering(noise, self.clustering_reaction, self.clustering_memory)
        gap_noise = streams["gap"].standard_normal(len(offsets) - 1)[1:]
        gap = np.zeros(count)
        gap[offsets[1:-1]] = self.overnight_gap * gap_noise
        if self.model == "mean_reversion":
            path, signal = reverting_path(noise, scale, gap, *self._reverting())
        else:
            gap[offsets[1:-1]] -= self.overnight_gap**2 / 2
            path, signal = switching_path(noise, scale, gap, streams["regime"].random(count), self._regime_table())
        open_noise = self.open_noise * streams["open"].standard_normal(count) - self.open_noise**2 / 2
        above, below = streams["high"].standard_exponential(count), streams["low"].standard_exponential(count)
        prices = bar_prices(path, open_noise, above, below, self.start_price)
        self._check_range(symbol, prices)
        opening, highest, lowest, closing = prices
        volume = self._volume(streams["volume"].standard_normal(count), offsets)
        bars = Bars(symbol, self.interval, time_ns, opening, highest, lowest, closing, volume, derivatives=False)
        extra = {}
        if self.index is not None:
            moves = self.index.moves(noise, path[2], streams["index"].standard_normal(count))
            own_gap = streams["index_gap"].standard_normal(len(offsets) - 1)[1:]
            moves[offsets[1:-1]] += self.index.moves(gap_noise, self.overnight_gap, own_gap)
            extra["index_close"] = index_points(moves)
        if self.vix:
            extra["vix_close"] = 100.0 * path[2] / shape * math.sqrt(self._bars_per_year())
        return (replace(bars, extra=extra) if extra else bars), signal

    def _bars_per_year(self) -> float:
        """Of an ordinary year of 248 sessions of 375 minutes; a daily bar is a session."""
        bars = 1.0 if self.interval == "1d" else _SESSION_MINUTES * MINUTE_NS / INTERVAL_NS[self.interval]
        return _SESSIONS_PER_YEAR * bars

    def _regime_table(self) -> Floats:
        """(k, 3) float64: drift, volatility, persistence of each regime; a random walk is one regime without drift."""
        if self.volatility is not None:
            return np.array([(0.0, self.volatility, 0.5)])
        return np.array([(regime.drift, regime.volatility, regime.persistence) for regime in self.regimes or ()])

    def _volume(self, noise: Floats, offsets: Integers) -> Integers:
        mean = self.volume_mean * session_shape(offsets, self.volume_shape, 1)
        shares = mean * np.exp(self.volume_noise * noise - self.volume_noise**2 / 2)
        # A bar exists because something traded.
        return np.maximum(np.rint(shares), 1).astype(np.int64)

    def _check_range(self, symbol: str, prices: Floats) -> None:
        outside = np.flatnonzero(~((prices >= PRICE_MIN) & (prices < PRICE_LIMIT)).all(axis=0))
        if len(outside):
            raise SimulationError(
                f"prices of {symbol} leave {PRICE_MIN} to {PRICE_LIMIT:.0f} rupees at bar {outside[0]} of "
                f"{prices.shape[1]}: lower the volatility, drift or gap, or shorten the span"
            )
