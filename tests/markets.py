"""Small markets, rules and walks that the laws of the state, the account and the environments are tested on."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from finsense.account.exchange import SimulatedExchange
from finsense.account.rules import AccountRules
from finsense.account.session import Session
from finsense.envs.core import EpisodeRules
from finsense.envs.tape import Tape, build_tape
from finsense.envs.trading import TradingEnv
from finsense.market.bars import INTERVAL_NS, IST_OFFSET_NS, Bars
from finsense.market.calendar import DAY_NS, nse_calendar
from finsense.market.costs import ChargeRules
from finsense.market.extra_fields import EXTRA_FIELDS
from finsense.market.instruments import Instrument, instrument
from finsense.market.timeline import CLOSE, HIGH, INDEX_CLOSE, LOW, OPEN, VOLUME
from finsense.state.spec import StateSpec

Choose = Callable[[NDArray[np.bool_]], int]

# Around the split session of Saturday 2 March 2024 and the Muhurat hour of Sunday 12 November 2023.
SPLIT = (dt.date(2024, 2, 29), dt.date(2024, 3, 5))
MUHURAT = (dt.date(2023, 11, 9), dt.date(2023, 11, 15))
SPLIT_DATE, MUHURAT_DATE = dt.date(2024, 3, 2), dt.date(2023, 11, 12)

FREE = ChargeRules(scale=0.0)
CHARGED = ChargeRules()

# Cheap to build and of every kind: a window, an average, the clock, the volume.
SMALL_FEATURES: tuple[Any, ...] = ({"rsi": {"window": 5}}, {"trend": {"window": 4}}, "session_left", "volume_ratio")


def spec_of(*features: Any, **rest: Any) -> StateSpec:
    """A state from features as YAML writes them."""
    return StateSpec.model_validate({"features": features, **rest})


def small_spec(history: int = 1, warmup: int = 30) -> StateSpec:
    """A narrow state with a short warm-up."""
    return spec_of(*SMALL_FEATURES, warmup=warmup, history=history)


def session_times(
    first: dt.date, last: dt.date, interval: str = "15m", *, derivatives: bool = False
) -> NDArray[np.int64]:
    """Start of every bar of the sessions between two dates, (n,) int64, ns UTC."""
    sessions = nse_calendar().sessions(first, last, derivatives=derivatives)
    if interval == "1d":
        return np.array([session.open_ns for session in sessions], np.int64)
    windows = [window for session in sessions for window in session.windows]
    return np.concatenate([np.arange(*window, INTERVAL_NS[interval], dtype=np.int64) for window in windows])


def plausible_extra(prices: Any, volume: Any, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """All of EXTRA_FIELDS beside made-up bars, (n,) float64 each, from a bar's own prices and draws of its own.

    `prices` are open, high, low and close, (n,) each.

    The series and the flow move when the stock moves, so a market at rest has none (but one tick a bar); where a bar
    has one price the book has one side and no spread; one bar in ten the series stand still. A longer market, or other
    later prices, leave what was there.
    """
    draws = {name: np.random.default_rng([seed, place]) for place, name in enumerate(EXTRA_FIELDS)}
    opens, high, low, closes = prices
    count = len(closes)
    move = np.clip(np.log(closes / np.append(opens[:1], closes[:-1])), -0.05, 0.05)
    extra: dict[str, NDArray[np.float64]] = {}
    for name, start, share in (("index_close", 20_000, 0.4), ("sector_close", 40_000, 0.7), ("vix_close", 20, -1.0)):
        step = share * move + 0.5 * np.abs(move) * draws[name].standard_normal(count)
        extra[name] = start * np.exp(np.cumsum(np.where(draws[name].random(count) < 0.1, 0.0, step)))
    busy = np.minimum(volume, 200)
    width = np.log(high / low)
    extra["ticks"] = 1.0 + np.floor(busy * draws["ticks"].random(count))
    extra["trades"] = np.ceil(busy * draws["trades"].random(count))
    extra["signed_volume"] = np.rint(volume * draws["signed_volume"].uniform(-1, 1, count))
    extra["realised_variance"] = width**2 * draws["realised_variance"].uniform(0.3, 3, count)
    extra["tick_vwap"] = np.clip(low + draws["tick_vwap"].random(count) * (high - low), low, high)
    extra["book_imbalance"] = np.sign(move) * draws["book_imbalance"].uniform(-0.3, 1, count)
    extra["spread"] = np.where(width > 0, draws["spread"].uniform(1e-4, 1e-3, count), 0.0)
    extra["microprice_offset"] = extra["spread"] * draws["microprice_offset"].uniform(-0.5, 0.5, count)
    return extra


def with_extra(rows: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """The rows of a made-up market, (n, BAR_FIELDS) float64, with the fields of EXTRA_FIELDS as `plausible_extra`."""
    extra = plausible_extra(rows[:, [OPEN, HIGH, LOW, CLOSE]].T, rows[:, VOLUME], seed)
    found = rows.copy()
    for name, values in extra.items():
        found[:, INDEX_CLOSE + EXTRA_FIELDS.index(name)] = values
    return found


def bars_of(
    time_ns: NDArray[np.int64],
    close: Sequence[float] | NDArray[np.float64],
    *,
    open_: Sequence[float] | NDArray[np.float64] | None = None,
    volume: Sequence[int] | NDArray[np.int64] | int = 100_000,
    interval: str = "15m",
    symbol: str = "SIM",
    derivatives: bool = False,
) -> Bars:
    """Bars from closes; each opens at the close before unless told, its range is just that; with `plausible_extra`."""
    closes = np.asarray(close, np.float64)
    opens = np.append(closes[:1], closes[:-1]) if open_ is None else np.asarray(open_, np.float64)
    volumes = np.broadcast_to(np.asarray(volume, np.int64), closes.shape)
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    extra = plausible_extra((opens, high, low, closes), volumes)
    return Bars(symbol, interval, time_ns, opens, high, low, closes, volumes, derivatives, extra)


def steady_bars(first: dt.date, last: dt.date, interval: str = "15m", price: float = 100.0) -> Bars:
    """Bars that never move."""
    time_ns = session_times(first, last, interval)
    return bars_of(time_ns, np.full(len(time_ns), price), interval=interval)


def spliced(first: Bars, second: Bars) -> Bars:
    """The bars of one market, then those of another, under the first one's name."""
    names = ("time_ns", "open", "high", "low", "close", "volume")
    time_ns, opens, high, low, closes, volume = (
        np.append(getattr(first, name), getattr(second, name)) for name in names
    )
    extra = {name: np.append(values, second.extra[name]) for name, values in first.extra.items()}
    return Bars(first.symbol, first.interval, time_ns, opens, high, low, closes, volume, first.derivatives, extra)


def rough_bars(
    seed: int,
    first: dt.date = SPLIT[0],
    last: dt.date = SPLIT[1],
    interval: str = "15m",
    *,
    symbol: str = "SIM",
    price: float = 300.0,
    volatility: float = 0.01,
    volume: int = 2000,
    derivatives: bool = False,
) -> Bars:
    """A random market with all that disturbs an account: gaps, thin and silent bars, flat bars, circuit locks.

    It knows all of EXTRA_FIELDS, see `plausible_extra`.
    """
    rng = np.random.default_rng(seed)
    time_ns = session_times(first, last, interval, derivatives=derivatives)
    count = len(time_ns)
    closes = np.round(price * np.exp(np.cumsum(rng.normal(0, volatility, count))), 2)
    opens = np.round(np.append(price, closes[:-1]) * np.exp(rng.normal(0, volatility / 3, count)), 2)
    still = rng.random(count) < 0.1
    closes[still] = opens[still]
    spread = 1 + np.abs(rng.normal(0, volatility / 3, (2, count)))
    spread[:, still] = 1.0
    high = np.round(np.maximum(opens, closes) * spread[0], 2)
    low = np.round(np.minimum(opens, closes) / spread[1], 2)
    prices = np.stack([opens, high, low, closes])
    _lock(prices, time_ns, rng, instrument(symbol, derivatives=derivatives))
    volumes = rng.integers(0, volume, count)
    volumes[rng.random(count) < 0.15] = 0
    opens, high, low, closes = prices
    extra = plausible_extra(prices, volumes, seed)
    return Bars(symbol, interval, time_ns, opens, high, low, closes, volumes, derivatives, extra)


def _lock(prices: NDArray[np.float64], time_ns: NDArray[np.int64], rng: np.random.Generator, stock: Instrument) -> None:
    """Lock short runs of bars at the circuit limit of their session, now up, now down."""
    assert stock.price_band is not None
    days = (time_ns + IST_OFFSET_NS) // DAY_NS
    for start in (np.flatnonzero(np.diff(days)) + 1).tolist():
        if rng.random() < 0.5:
            side = 1 if rng.random() < 0.5 else -1
            length = int(np.count_nonzero(days == days[start]))
            first = start + int(rng.integers(0, length))
            stop = min(first + int(rng.integers(1, 4)), start + length)
            prices[:, first:stop] = np.round(prices[3, start - 1] * (1 + side * stock.price_band), 2)


def changed_after(bars: Bars, last: int, seed: int) -> Bars:
    """The same bars of `rough_bars` up to and with `last`, and another market after it."""
    other = rough_bars(seed, bars.first_date, bars.last_date, bars.interval, price=40.0, volume=500)
    return spliced(bars.take(0, last + 1), other.take(last + 1, len(other))) if last + 1 < len(bars) else bars


def rules(product: str = "intraday", actions: Any = None, **changes: Any) -> AccountRules:
    """Rules of 50,000 rupees and orders of ten shares, changed as told."""
    size = {"scheme": "orders", "size": {"kind": "shares", "shares": 10}}
    return AccountRules.model_validate({"balance": 50_000, "product": product, "actions": actions or size, **changes})


def orders_of(kind: str, **size: Any) -> dict[str, Any]:
    """The action scheme `orders` with a size."""
    return {"scheme": "orders", "size": {"kind": kind, **size}}


# One account of every kind: each size, each scheme, each product, long only and short.
ACCOUNTS: dict[str, AccountRules] = {
    "intraday shares": rules(max_position=40),
    "intraday short": rules(allow_short=True, actions=orders_of("shares", shares=25), max_position=60),
    "intraday short all in": rules(allow_short=True, actions=orders_of("all_in"), slippage_bps=5),
    "intraday risk": rules(actions=orders_of("risk", risk=0.01, stop=0.02), participation=0.02),
    "intraday targets": rules(allow_short=True, actions={"scheme": "targets", "targets": [-1, -0.5, 0, 0.5, 1]}),
    "delivery shares": rules("delivery", max_position=40),
    "delivery fraction": rules("delivery", actions=orders_of("fraction", fraction=0.3), participation=None),
    "delivery all in": rules("delivery", actions=orders_of("all_in"), participation=0.05, slippage_bps=20),
    "delivery targets": rules("delivery", actions={"scheme": "targets", "targets": [0, 0.5, 1]}),
}


def tape_of(
    *bars: Bars,
    spec: StateSpec | None = None,
    charges: ChargeRules = CHARGED,
    first: dt.date | None = None,
    last: dt.date | None = None,
) -> Tape:
    """The tape of one or more symbols."""
    markets = [(one, instrument(one.symbol, derivatives=one.derivatives)) for one in bars]
    return build_tape(markets, spec or small_spec(), charges, first, last)


class Walk(NamedTuple):
    """An episode of n decisions: n + 1 bars.

    Attributes:
        states: (n + 1, F) float32.
        masks: (n + 1, A) bool.
        actions: (n,) int64.
        rewards: (n,) float64; empty for a session, which pays none.
        books: (n + 1,) of dtype ACCOUNT, marked at each bar's close.
        first_bar: the bar of the first decision.
    """

    states: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    books: NDArray[Any]
    first_bar: int

    def same_as(self, other: "Walk") -> bool:
        """Whether both saw, were allowed, chose and booked the same, to the bit."""
        pairs = zip(self._compared(), other._compared(), strict=True)
        return all(mine.shape == its.shape and mine.tobytes() == its.tobytes() for mine, its in pairs)

    def _compared(self) -> tuple[NDArray[Any], ...]:
        return self.states, self.masks, self.actions, self.books


def random_legal(seed: int) -> Choose:
    """Chooses any legal action."""
    rng = np.random.default_rng(seed)
    return lambda mask: int(rng.choice(np.flatnonzero(mask)))


def replay(actions: Sequence[int] | NDArray[np.int64]) -> Choose:
    """Chooses the given actions one after the other."""
    waiting = iter(actions)
    return lambda mask: int(next(waiting))


def make_env(tape: Tape, account: AccountRules, **episode: Any) -> TradingEnv:
    """An environment that plays the whole span from its first bar unless told otherwise."""
    return TradingEnv(tape, account, EpisodeRules(**{"random_start": False, **episode}))


def walk_env(env: TradingEnv, choose: Choose, seed: int | None = None, steps: int | None = None) -> Walk:
    """Play one episode, or its first `steps` decisions."""
    state, _ = env.reset(seed=seed)
    first_bar = int(env.core.envs["bar"][0])
    states, masks, books = [state], [env.action_masks()], [env.core.accounts.copy()]
    actions: list[int] = []
    rewards: list[float] = []
    over = False
    while not over and (steps is None or len(actions) < steps):
        actions.append(choose(masks[-1]))
        state, reward, terminated, truncated, _ = env.step(np.int64(actions[-1]))
        over = terminated or truncated
        states.append(state)
        rewards.append(reward)
        masks.append(env.action_masks())
        books.append(env.core.accounts.copy())
    return _walk(states, masks, actions, rewards, books, first_bar)


def walk_session(
    bars: Bars, account: AccountRules, actions: NDArray[np.int64], first_bar: int, spec: StateSpec, charges: ChargeRules
) -> Walk:
    """Drive a session and the simulated exchange by given actions, bar by bar, with the least history that serves."""
    stock = instrument(bars.symbol, derivatives=bars.derivatives)
    session = Session(stock, bars.interval, spec, account, charges)
    exchange = SimulatedExchange(stock, bars.interval, account, charges)
    opening = int(bars.session_offsets[bars.session_offsets <= first_bar][-1])
    states, masks, books = [], [], []
    for index, bar in enumerate(bars.take(opening - spec.warmup, first_bar + len(actions) + 1)):
        place = index - (first_bar - opening + spec.warmup)
        if place < 0:
            session.warm(bar)
            exchange.warm(bar)
            continue
        session.settle(exchange.fills(bar))
        seen = session.observe(bar)
        assert seen is not None
        for name in ("cash_paise", "position", "charges_paise"):
            assert session.account[name] == exchange.account[name]
        states.append(seen.state[0])
        masks.append(seen.mask[0])
        books.append(session.account.copy())
        if place < len(actions):
            order = session.order(int(actions[place]))
            if order is not None:
                exchange.submit(order)
    return _walk(states, masks, actions.tolist(), [], books, first_bar)


def _walk(
    states: list[NDArray[np.float32]],
    masks: list[NDArray[np.bool_]],
    actions: list[int],
    rewards: list[float],
    books: list[NDArray[Any]],
    first_bar: int,
) -> Walk:
    decided, paid = np.array(actions, np.int64), np.array(rewards, np.float64)
    return Walk(np.stack(states), np.stack(masks), decided, paid, np.concatenate(books), first_bar)
