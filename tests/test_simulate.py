"""Simulated markets obey their stated laws, keep to the calendar, and are the same bits for the same seed.

Statistical bounds are five standard errors of the estimate under the stated law.
"""

import datetime as dt
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from finsense.market.bars import Bars
from finsense.market.calendar import CalendarError, nse_calendar
from finsense.market.simulate import Regime, SimulatedMarket, SimulationError

Floats = NDArray[np.float64]

PLAIN: dict[str, Any] = {
    "volatility_shape": 0,
    "clustering_reaction": 0,
    "clustering_memory": 0,
    "overnight_gap": 0,
}
SPAN: dict[str, Any] = {"first": dt.date(2022, 1, 1), "last": dt.date(2023, 12, 31), "seed": 7}
SHORT: dict[str, Any] = {"first": dt.date(2023, 11, 1), "last": dt.date(2023, 11, 30), "seed": 3}
MODELS = ("random_walk", "mean_reversion", "regime_switching")


def market(model: str, **settings: Any) -> SimulatedMarket:
    return SimulatedMarket.model_validate({"model": model, **SPAN, **settings})


def plain(model: str, **settings: Any) -> SimulatedMarket:
    return market(model, **{**PLAIN, **settings})


def only(chosen: SimulatedMarket) -> Bars:
    (bars,) = chosen.load().values()
    return bars


def log_returns(bars: Bars) -> Floats:
    return np.diff(np.log(bars.close))


def autocorrelation(values: Floats) -> float:
    return float(np.corrcoef(values[:-1], values[1:])[0, 1])


def by_place(values: Floats, bars: Bars) -> Floats:
    """The full 75-bar sessions of a column, one row each."""
    offsets = bars.session_offsets
    return np.stack([values[a:b] for a, b in itertools.pairwise(offsets) if b - a == 75])


class TestRandomWalk:
    def test_returns_have_the_stated_volatility_and_no_memory(self) -> None:
        returns = log_returns(only(plain("random_walk", volatility=0.002)))
        count, lag = len(returns), 10
        assert abs(returns.std() / 0.002 - 1) < 5 / math.sqrt(2 * count)
        sums = np.convolve(returns, np.ones(lag), mode="valid")
        ratio = sums.var() / (lag * returns.var())
        # Lo and MacKinlay (1988): asymptotic variance of the overlapping variance ratio.
        assert abs(ratio - 1) < 5 * math.sqrt(2 * (2 * lag - 1) * (lag - 1) / (3 * lag * count))
        assert abs(autocorrelation(returns)) < 5 / math.sqrt(count)

    def test_price_and_gap_are_martingales(self) -> None:
        # Moves so large that the log's mean of -s^2/2 would show at eleven standard errors if it were missing.
        symbols = tuple(f"S{number}" for number in range(100))
        span = {"first": dt.date(2023, 1, 1), "last": dt.date(2023, 3, 31), "interval": "1d", "start_price": 20_000}
        drawn = plain("random_walk", volatility=0.2, overnight_gap=0.2, symbols=symbols, **span).load().values()
        moves = np.concatenate([bars.close[1:] / bars.close[:-1] - 1 for bars in drawn])
        assert abs(moves.mean()) < 5 * math.sqrt(math.expm1(0.08) / len(moves))

    def test_high_and_low_are_the_extremes_of_a_brownian_motion(self) -> None:
        bars = only(plain("random_walk", volatility=0.002, open_noise=0))
        expected, spread = 0.002 * math.sqrt(2 / math.pi), 0.002 * math.sqrt(1 - 2 / math.pi)
        for reach in (np.log(bars.high / bars.open), np.log(bars.open / bars.low)):
            # The bar's mean of -s^2/2 moves the extreme by less than s^2/2.
            assert abs(reach.mean() - expected) < 5 * spread / math.sqrt(len(bars)) + 0.002**2 / 2

    def test_high_and_low_are_drawn_on_their_own(self) -> None:
        bars = only(plain("random_walk", volatility=0.002))
        opening, closing = np.log(bars.open), np.log(bars.close)
        # The exponential behind each extreme, recovered from the bridge's law.
        above, below = (
            ((2 * np.log(extreme) - opening - closing) ** 2 - (closing - opening) ** 2) / (2 * 0.002**2)
            for extreme in (bars.high, bars.low)
        )
        for drawn in (above, below):
            assert abs(drawn.mean() - 1) < 5 / math.sqrt(len(drawn))
        assert abs(np.corrcoef(above, below)[0, 1]) < 5 / math.sqrt(len(bars))

    def test_signal_is_empty(self) -> None:
        bars, signal = market("random_walk").simulate_with_signal()
        assert signal.dtype == np.float64
        np.testing.assert_array_equal(signal, np.zeros(len(bars)))


class TestMeanReversion:
    @pytest.mark.parametrize("reversion", [0.8, 0.95])
    def test_deviation_follows_the_stated_law(self, reversion: float) -> None:
        chosen = plain("mean_reversion", reversion=reversion, shock=0.003)
        bars, signal = chosen.simulate_with_signal()
        count = len(bars)
        slope = (signal[:-1] @ signal[1:]) / (signal[:-1] @ signal[:-1])
        assert abs(slope - reversion) < 5 * math.sqrt((1 - reversion**2) / count)
        error = math.sqrt((1 + reversion**2) / (1 - reversion**2) / (2 * count))
        assert abs(math.sqrt(np.mean(signal**2)) / chosen.stationary_deviation - 1) < 5 * error
        np.testing.assert_allclose(np.log(bars.close / 1000.0), signal, rtol=0, atol=0.00501 / bars.close.min())

    def test_facts(self) -> None:
        chosen = market("mean_reversion", reversion=0.9, shock=0.002)
        assert chosen.stationary_deviation == pytest.approx(0.00458831, rel=1e-5)
        assert 0.9**chosen.half_life_bars == pytest.approx(0.5)
        assert chosen.expected_return(-0.01) == pytest.approx(math.exp(0.001 + 0.000002) - 1)

    def test_expected_return_of_deviated_bars(self) -> None:
        chosen = plain("mean_reversion", reversion=0.9, shock=0.003)
        bars, signal = chosen.simulate_with_signal()
        earned = bars.close[1:] / bars.close[:-1] - 1
        expected = np.array([chosen.expected_return(deviation) for deviation in signal[:-1]])
        for side in (signal[:-1] > chosen.stationary_deviation, signal[:-1] < -chosen.stationary_deviation):
            assert abs(np.mean(earned[side] - expected[side])) < 5 * 0.0031 / math.sqrt(side.sum())

    def test_buying_below_the_level_earns_the_known_amount_from_open_to_open(self) -> None:
        chosen = plain("mean_reversion", reversion=0.95, shock=0.003)
        bars = only(chosen)
        decided = bars.close[:-2] < 1000.0
        earned = np.where(decided, np.diff(np.log(bars.open))[1:], 0.0)
        known = (1 - 0.95) * chosen.stationary_deviation / math.sqrt(2 * math.pi)
        assert abs(earned.mean() - known) < 5 * earned.std() / math.sqrt(len(earned))
        assert known > 10 * earned.std() / math.sqrt(len(earned))

    def test_deviation_lives_on_over_night_and_takes_the_gap(self) -> None:
        chosen = plain("mean_reversion", reversion=0.95, shock=0.003, overnight_gap=0.01)
        bars, signal = chosen.simulate_with_signal()
        starts = bars.session_offsets[1:-1]
        gap = np.log(bars.open[starts] / bars.close[starts - 1])
        surprise = signal[starts] - 0.95 * (signal[starts - 1] + gap)
        assert abs(surprise.std() / 0.003 - 1) < 5 / math.sqrt(2 * len(starts)) + 0.001
        sessions = len(starts) + 1
        plain_part = chosen.stationary_deviation**2
        gap_part = 0.95**2 * 0.01**2 / (len(bars) / sessions * (1 - 0.95**2))
        error = math.hypot(
            plain_part * math.sqrt(2 * (1 + 0.95**2) / (1 - 0.95**2) / len(bars)), gap_part * math.sqrt(2 / sessions)
        )
        assert abs(np.mean(signal**2) - plain_part - gap_part) < 5 * error

    @pytest.mark.parametrize("model", ["random_walk", "regime_switching"])
    def test_facts_are_refused_for_other_models(self, model: str) -> None:
        with pytest.raises(SimulationError, match="belongs to model mean_reversion"):
            _ = market(model).stationary_deviation


class TestRegimeSwitching:
    def test_two_regimes_stay_and_fill_time_as_stated(self) -> None:
        states = (
            Regime(drift=0.001, volatility=0.001, persistence=0.98),
            Regime(drift=-0.002, volatility=0.003, persistence=0.95),
        )
        bars, signal = plain("regime_switching", regimes=states).simulate_with_signal()
        stays = signal[1:] == signal[:-1]
        returns = log_returns(bars)
        for index, state in enumerate(states):
            here = signal[:-1] == index
            error = math.sqrt(state.persistence * (1 - state.persistence) / here.sum())
            assert abs(stays[here].mean() - state.persistence) < 5 * error
            during = returns[signal[1:] == index]
            assert abs(during.std() / state.volatility - 1) < 5 / math.sqrt(2 * len(during))
            mean = state.drift - state.volatility**2 / 2
            assert abs(during.mean() - mean) < 5 * state.volatility / math.sqrt(len(during))
        share, memory = 0.05 / 0.07, 0.98 + 0.95 - 1
        error = math.sqrt(share * (1 - share) / len(bars) * (1 + memory) / (1 - memory))
        assert abs((signal == 0).mean() - share) < 5 * error

    def test_three_regimes_are_left_for_each_other_alike(self) -> None:
        stays = (0.9, 0.8, 0.7)
        states = tuple(Regime(drift=0, volatility=0.001, persistence=stay) for stay in stays)
        _, signal = plain("regime_switching", regimes=states).simulate_with_signal()
        assert set(np.unique(signal)) == {0.0, 1.0, 2.0}
        for index in range(3):
            left = signal[1:][(signal[:-1] == index) & (signal[1:] != index)]
            lower = min({0, 1, 2} - {index})
            assert abs(np.mean(left == lower) - 0.5) < 5 * 0.5 / math.sqrt(len(left))
            expected = (1 / (1 - stays[index])) / sum(1 / (1 - stay) for stay in stays)
            # The slowest mode of this chain decays with 0.9, which widens the binomial error by sqrt(1.9 / 0.1).
            error = math.sqrt(expected * (1 - expected) / len(signal) * 1.9 / 0.1)
            assert abs(np.mean(signal == index) - expected) < 5 * error


class TestRealism:
    def test_volatility_clusters_only_when_switched_on(self) -> None:
        calm = np.abs(log_returns(only(plain("random_walk", volatility=0.002))))
        limit = 5 / math.sqrt(len(calm))
        assert abs(autocorrelation(calm)) < limit
        returns = log_returns(
            only(plain("random_walk", volatility=0.002, clustering_reaction=0.1, clustering_memory=0.85))
        )
        assert autocorrelation(np.abs(returns)) > limit
        assert abs(autocorrelation(returns)) < 2 * limit
        # Mean of GARCH squares: long-run variance 2 E[h^2] ((1-b)/(1-a-b))^2, E[h^2] = (1-(a+b)^2)/(1-(a+b)^2-2a^2).
        error = math.sqrt(2 * 0.0975 / 0.0775 * 9 / len(returns))
        assert abs(np.mean(returns**2) / 0.002**2 - 1) < 5 * error

    def test_volatility_is_a_u_over_the_session(self) -> None:
        for amplitude in (0.0, 1.5):
            bars = only(plain("random_walk", volatility=0.002, volatility_shape=amplitude))
            moves = by_place(np.log(bars.close / bars.open), bars)
            edges, middle = moves[:, [0, 1, -2, -1]], moves[:, 35:40]
            place = (2 * np.arange(75) + 1) / 75 - 1
            shape = 1 + amplitude * place**2
            expected = math.sqrt(np.mean(shape[[0, 1, -2, -1]] ** 2) / np.mean(shape[35:40] ** 2))
            error = expected * math.sqrt(1 / (2 * edges.size) + 1 / (2 * middle.size))
            assert abs(edges.std() / middle.std() - expected) < 5 * error
            assert abs(moves.std() / 0.002 - 1) < 5 / math.sqrt(moves.size)

    def test_volume_has_its_mean_and_its_u(self) -> None:
        bars = only(plain("random_walk", volume_mean=5000, volume_shape=2, volume_noise=0.5))
        shares = by_place(bars.volume.astype(np.float64), bars)
        noise = math.sqrt(math.expm1(0.25))
        error = 5000 * noise * 1.2 / math.sqrt(len(bars))
        assert abs(bars.volume.mean() - 5000) < 5 * error
        place = (2 * np.arange(75) + 1) / 75 - 1
        shape = 1 + 2 * place**2
        expected = 5000 * shape / shape.mean()
        means = shares.mean(axis=0)
        assert np.all(np.abs(means - expected) < 5 * expected * noise / math.sqrt(len(shares)))

    def test_every_bar_traded(self) -> None:
        assert only(market("random_walk", volume_mean=1, volume_noise=3)).volume.min() == 1

    @pytest.mark.parametrize("model", ["random_walk", "mean_reversion"])
    def test_opens_are_the_last_close_but_for_small_noise_and_the_gap(self, model: str) -> None:
        bars = only(plain(model, overnight_gap=0.008, open_noise=0.0002))
        jump = np.log(bars.open[1:] / bars.close[:-1])
        starts = bars.session_offsets[1:-1] - 1
        within = np.ones(len(jump), dtype=bool)
        within[starts] = False
        gaps = jump[starts]
        expected = math.hypot(0.008, 0.0002)
        assert abs(gaps.std() / expected - 1) < 5 / math.sqrt(2 * len(gaps))
        # Rounding to the paisa adds at most 0.5 paisa to each of the two prices.
        assert abs(jump[within].std() / 0.0002 - 1) < 5 / math.sqrt(2 * within.sum()) + 0.005
        following = log_returns(bars)
        assert abs(np.corrcoef(jump[within], following[within])[0, 1]) < 5 / math.sqrt(within.sum())

    def test_first_open_is_the_start_price(self) -> None:
        for model in MODELS:
            assert only(market(model, start_price=250.5, open_noise=0.01)).open[0] == 250.5


class TestCalendar:
    @pytest.mark.parametrize("interval", ["1m", "3m", "5m", "10m", "15m", "30m", "60m", "1d"])
    def test_every_bar_of_every_kind_of_session_is_there(self, interval: str) -> None:
        span = {"first": dt.date(2023, 11, 6), "last": dt.date(2024, 3, 8)}
        bars = only(market("mean_reversion", interval=interval, **span))
        sessions = nse_calendar().sessions(span["first"], span["last"], derivatives=False)
        assert {"muhurat", "split", "weekend"} <= {session.kind for session in sessions}
        assert list(bars.sessions) == sessions
        if interval == "1d":
            assert bars.time_ns.tolist() == [session.open_ns for session in sessions]
            return
        minutes = [sum((end - start) // 60_000_000_000 for start, end in session.windows) for session in sessions]
        step = int(interval[:-1])
        if 45 % step == 0:
            assert np.diff(bars.session_offsets).tolist() == [length // step for length in minutes]
        for session in sessions:
            inside = bars.between(session.date, session.date)
            for start, end in session.windows:
                assert start in inside.time_ns
                assert ((inside.time_ns >= start) & (inside.time_ns < end)).sum() == math.ceil(
                    (end - start) / bars.interval_ns
                )

    def test_outage_day_and_closing_auction_era(self) -> None:
        outage = only(market("random_walk", first=dt.date(2021, 2, 24), last=dt.date(2021, 2, 24)))
        assert [session.kind for session in outage.sessions] == ["outage"]
        late = only(market("random_walk", first=dt.date(2026, 8, 3), last=dt.date(2026, 8, 3)))
        assert len(late) == 75
        assert late.derivatives is False

    @pytest.mark.parametrize("model", MODELS)
    def test_prices_are_positive_whole_paise(self, model: str) -> None:
        bars = only(market(model, start_price=40))
        for price in (bars.open, bars.high, bars.low, bars.close):
            assert price.min() > 0
            np.testing.assert_array_equal(np.rint(price * 100) / 100, price)

    def test_days_without_a_session_are_refused(self) -> None:
        with pytest.raises(SimulationError, match="no NSE session between 2023-01-26"):
            market("random_walk", first=dt.date(2023, 1, 26), last=dt.date(2023, 1, 26)).load()

    def test_days_beyond_the_calendar_are_refused(self) -> None:
        with pytest.raises(CalendarError, match="2027"):
            market("random_walk", first=dt.date(2026, 12, 1), last=dt.date(2027, 1, 5)).load()


class TestSeeds:
    @pytest.mark.parametrize("model", MODELS)
    def test_same_seed_same_bits(self, model: str) -> None:
        first, second = market(model, **SHORT), market(model, **SHORT)
        assert only(first).data_hash == only(second).data_hash
        bars, signal = first.simulate_with_signal("SIM")
        assert bars.data_hash == only(second).data_hash
        np.testing.assert_array_equal(signal, second.simulate_with_signal()[1])

    @pytest.mark.parametrize("model", MODELS)
    def test_seeds_and_symbols_have_streams_of_their_own(self, model: str) -> None:
        both = market(model, **SHORT, symbols=("A", "B")).load()
        assert list(both) == ["A", "B"]
        other = market(model, **{**SHORT, "seed": 4}, symbols=("A",)).load()
        moves = [log_returns(bars) for bars in (both["A"], both["B"], other["A"])]
        assert np.all(np.abs(np.asarray(np.corrcoef(moves))[np.triu_indices(3, 1)]) < 5 / math.sqrt(len(moves[0])))

    @pytest.mark.parametrize("model", MODELS)
    def test_a_further_symbol_changes_no_other(self, model: str) -> None:
        alone = market(model, **SHORT, symbols=("B",)).load()
        crowd = market(model, **SHORT, symbols=("A", "B", "C")).load()
        assert crowd["B"].data_hash == alone["B"].data_hash

    @settings(max_examples=25, deadline=None)
    @given(
        model=st.sampled_from(MODELS),
        interval=st.sampled_from(["5m", "15m", "1d"]),
        seed=st.integers(0, 2**64 - 1),
        days=st.integers(0, 60),
        further=st.integers(1, 60),
    )
    def test_a_longer_span_keeps_the_earlier_bars(
        self, model: str, interval: str, seed: int, days: int, further: int
    ) -> None:
        first = dt.date(2023, 10, 16)
        last = first + dt.timedelta(days=days)
        span = {"first": first, "seed": seed, "interval": interval}
        short, short_signal = market(model, **span, last=last).simulate_with_signal()
        long, long_signal = market(model, **span, last=last + dt.timedelta(days=further)).simulate_with_signal()
        assert long.between(first, last).data_hash == short.data_hash
        np.testing.assert_array_equal(long_signal[: len(short)], short_signal)

    def test_a_switch_moves_only_what_it_is_about(self) -> None:
        noisy, quiet = only(market("mean_reversion", volume_noise=1)), only(market("mean_reversion", volume_noise=0))
        np.testing.assert_array_equal(noisy.close, quiet.close)
        np.testing.assert_array_equal(noisy.high, quiet.high)


class TestSettings:
    @pytest.mark.parametrize("model", MODELS)
    def test_defaults_are_filled_and_survive_a_round_trip(self, model: str) -> None:
        chosen = market(model)
        assert SimulatedMarket.model_validate(chosen.model_dump()) == chosen
        assert SimulatedMarket.model_validate_json(chosen.model_dump_json()) == chosen
        filled = {name for name in ("volatility", "reversion", "shock", "regimes") if getattr(chosen, name) is not None}
        wanted = {"random_walk": {"volatility"}, "mean_reversion": {"reversion", "shock"}}
        assert filled == wanted.get(model, {"regimes"})

    @pytest.mark.parametrize(
        ("model", "wrong", "message"),
        [
            (
                "random_walk",
                {"reversion": 0.9},
                "reversion belongs to model mean_reversion, but the model is random_walk",
            ),
            ("mean_reversion", {"volatility": 0.01}, "volatility belongs to model random_walk"),
            ("mean_reversion", {"reversion": 1.0}, "less than 1"),
            ("mean_reversion", {"shock": float("nan")}, "finite number"),
            ("random_walk", {"volatility": 0}, "greater than 0"),
            ("random_walk", {"volatilty": 0.1}, "Extra inputs are not permitted"),
            ("random_walk", {"clustering_reaction": 0.2, "clustering_memory": 0.8}, "must be below 1"),
            ("random_walk", {"symbols": ("A", "A")}, "distinct"),
            ("random_walk", {"symbols": ("",)}, "not empty"),
            ("random_walk", {"last": dt.date(2021, 1, 1)}, "first must not lie after last"),
            ("random_walk", {"seed": -1}, "greater than or equal to 0"),
            ("random_walk", {"interval": "7m"}, "Input should be '1m'"),
            (
                "regime_switching",
                {"regimes": [{"drift": 0, "volatility": 0.1, "persistence": 0.5}]},
                "at least 2 items",
            ),
            ("brownian", {}, "Input should be 'random_walk'"),
        ],
    )
    def test_wrong_settings_are_refused(self, model: str, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            market(model, **wrong)

    def test_unknown_symbol_is_refused(self) -> None:
        with pytest.raises(SimulationError, match="symbol X is not in this market, which has SIM"):
            market("random_walk").simulate_with_signal("X")

    def test_prices_out_of_range_are_refused(self) -> None:
        with pytest.raises(SimulationError, match=r"prices of SIM leave .* lower the volatility"):
            market("random_walk", volatility=0.5).load()


class TestVix:
    def test_it_tells_the_regime_in_annual_percent(self) -> None:
        regimes = [
            {"drift": 0, "volatility": 0.001, "persistence": 0.9},
            {"drift": 0, "volatility": 0.003, "persistence": 0.9},
        ]
        bars, regime = plain("regime_switching", vix=True, regimes=regimes).simulate_with_signal()
        # 75 bars of 5 minutes in each of 248 sessions.
        expected = 100 * np.where(regime == 0, 0.001, 0.003) * math.sqrt(75 * 248)
        np.testing.assert_allclose(bars.extra["vix_close"], expected, rtol=1e-12)

    @pytest.mark.parametrize(("model", "volatility"), [("random_walk", 0.0015), ("mean_reversion", 0.003)])
    def test_it_is_the_volatility_of_the_clusters_without_the_sessions_u(self, model: str, volatility: float) -> None:
        calm = only(market(model, vix=True, clustering_reaction=0, clustering_memory=0))
        np.testing.assert_allclose(calm.extra["vix_close"], 100 * volatility * math.sqrt(75 * 248), rtol=1e-12)
        bars = only(market(model, vix=True))
        level = bars.extra["vix_close"] / (100 * math.sqrt(75 * 248))
        assert math.sqrt(np.mean(level**2)) == pytest.approx(volatility, rel=0.02)
        # A large move is followed by a higher one.
        after = level[1:][np.abs(log_returns(bars)) > 2 * volatility]
        assert after.mean() > 1.02 * level.mean()

    def test_it_leaves_the_bars_as_they_are(self) -> None:
        without, with_it = only(market("random_walk")), only(market("random_walk", vix=True))
        assert dict(without.extra) == {}
        for name in ("open", "high", "low", "close", "volume"):
            np.testing.assert_array_equal(getattr(without, name), getattr(with_it, name))
        daily = only(market("random_walk", vix=True, interval="1d", clustering_reaction=0, clustering_memory=0))
        np.testing.assert_allclose(daily.extra["vix_close"], 100 * 0.0015 * math.sqrt(248), rtol=1e-12)
