"""Several symbols on one account: who is served first, what waits, what is refused, and the joint backtest."""

import copy
import datetime as dt
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, market, setting
from joint_markets import joint_env, joint_tape, kept, random_choices, rough_markets, stocks_of, walk_joint
from markets import ACCOUNTS, CHARGED, FREE, orders_of, rules, small_spec, spec_of, steady_bars
from numpy.typing import NDArray

from finsense.account.joint import Choice, JointError, JointSession
from finsense.account.joint_exchange import JointExchange
from finsense.account.ranking import Ranking
from finsense.account.rules import AccountRules
from finsense.account.session import Fill, IllegalAction, Order
from finsense.cli.environments import drive_joint
from finsense.envs.core import EpisodeRules
from finsense.envs.joint import JointTradingVecEnv
from finsense.envs.joint_core import JointCore, build_joint_tape
from finsense.evaluation.backtest import backtest
from finsense.evaluation.joint import backtest_joint, judge_joint
from finsense.evaluation.metrics import MetricsError
from finsense.live.paper_session import trade_on_paper
from finsense.market.bars import Bars, BarsError
from finsense.market.moments import Moment, moments
from finsense.market.sources.files import load_bars
from finsense.state.span import split_history

BUY, HOLD, SELL = 0, 1, 2
WEEK = (dt.date(2024, 1, 8), dt.date(2024, 1, 12))
SHARED_SYMBOLS = (
    "RELIANCE", "TCS", "INFY", "HDFCBANK", "ICICIBANK", "SBIN", "ITC", "HINDUNILVR", "MARUTI", "TATASTEEL",
)  # fmt: skip


def steady(symbol: str, price: float = 100.0) -> Bars:
    """A symbol that never moves, 25 bars a day for a week."""
    return replace(steady_bars(*WEEK, price=price), symbol=symbol)


def without(bars: Bars, *places: int) -> Bars:
    """The bars without some."""
    chosen = np.ones(len(bars), np.bool_)
    chosen[list(places)] = False
    return kept(bars, chosen)


class Desk:
    """A session and its exchange over steady markets, moved one moment at a time; all warmed for a day."""

    def __init__(self, markets: list[Bars], account: AccountRules) -> None:
        stocks, spec = stocks_of(markets), small_spec(warmup=25)
        self.session = JointSession(stocks, "15m", spec, account, FREE)
        self.exchange = JointExchange(stocks, "15m", account, FREE)
        trading = []
        for bars in markets:
            history, span = split_history(bars, spec)
            trading.append(span)
            for bar in history:
                self.session.warm(bars.symbol, bar)
                self.exchange.warm(bars.symbol, bar)
        self._moments = moments(trading)
        self.fills: dict[str, list[Fill]] = {}
        self.masks: dict[str, NDArray[np.bool_]] = {}
        self.observe()

    def observe(self) -> Moment:
        """Take the next moment."""
        moment = next(self._moments)
        self.fills = self.exchange.fills(moment)
        self.session.settle(self.fills)
        self.masks = {symbol: one.mask[0] for symbol, one in self.session.observe(moment).items()}
        return moment

    def order(self, **choices: Choice) -> dict[str, Order]:
        """Choose, holding where nothing is said, and go on to the next moment."""
        every = {symbol: choices.get(symbol, Choice(HOLD)) for symbol in self.masks}
        orders = self.session.order(every)
        self.exchange.submit(orders)
        self.observe()
        return orders


def account_of(product: str = "delivery", **changes: object) -> AccountRules:
    """Rules of 50,000 rupees without slippage and buffer: 60 % of the equity per order."""
    size = orders_of("fraction", fraction=0.6)
    return rules(product, **{"actions": size, "participation": None, "slippage_bps": 0, "price_buffer": 0, **changes})


def test_the_more_confident_choice_is_served_first_and_the_other_takes_what_is_left() -> None:
    desk = Desk([steady("SIMA"), steady("SIMB")], account_of())
    orders = desk.order(SIMA=Choice(BUY, 0.4), SIMB=Choice(BUY, 0.9))
    # 60 % of 50,000 at 100 rupees (a paisa of it held back as the worst price), then what remains.
    assert orders["SIMB"].quantity == 300
    assert orders["SIMA"].quantity == 199
    assert desk.session.books().positions == {"SIMA": 199, "SIMB": 300}
    assert list(orders) == ["SIMA", "SIMB"]


def test_equal_confidence_is_settled_by_name() -> None:
    desk = Desk([steady("SIMB"), steady("SIMA")], account_of())
    orders = desk.order(SIMA=Choice(BUY, 0.5), SIMB=Choice(BUY, 0.5))
    assert (orders["SIMA"].quantity, orders["SIMB"].quantity) == (300, 199)


def test_a_choice_without_cash_holds_and_tells_why() -> None:
    shares = orders_of("shares", shares=300)
    desk = Desk([steady("SIMA"), steady("SIMB")], account_of(actions=shares))
    assert desk.masks["SIMA"][BUY]
    assert desk.masks["SIMB"][BUY]
    orders = desk.order(SIMA=Choice(BUY, 0.1), SIMB=Choice(BUY, 0.2))
    assert list(orders) == ["SIMB"]
    assert desk.session.dropped == {"SIMA": "not enough cash"}
    # At the next bar the mask knows.
    assert not desk.masks["SIMA"][BUY]
    desk.order()
    assert desk.session.dropped == {}


def test_a_choice_without_a_place_holds_and_tells_why() -> None:
    account = account_of(actions=orders_of("fraction", fraction=0.1), limits={"max_positions": 1})
    desk = Desk([steady("SIMA"), steady("SIMB"), steady("SIMC")], account)
    orders = desk.order(SIMA=Choice(BUY, 0.3), SIMB=Choice(BUY, 0.9), SIMC=Choice(BUY, 0.6))
    assert list(orders) == ["SIMB"]
    assert desk.session.dropped == {"SIMA": "number of positions", "SIMC": "number of positions"}


def test_an_exit_comes_before_every_entry_but_its_cash_is_there_only_when_it_fills() -> None:
    desk = Desk([steady("SIMA"), steady("SIMB")], account_of(limits={"max_orders_per_bar": 1}))
    desk.order(SIMA=Choice(BUY, 1.0))
    orders = desk.order(SIMA=Choice(SELL, 0.0), SIMB=Choice(BUY, 1.0))
    assert {symbol: order.quantity for symbol, order in orders.items()} == {"SIMA": -300}
    assert desk.session.dropped == {"SIMB": "orders of the bar"}
    other = Desk([steady("SIMA"), steady("SIMB")], account_of())
    other.order(SIMA=Choice(BUY, 1.0))
    orders = other.order(SIMA=Choice(SELL, 0.0), SIMB=Choice(BUY, 1.0))
    assert {symbol: order.quantity for symbol, order in orders.items()} == {"SIMA": -300, "SIMB": 199}


def test_what_is_owed_short_is_reserved_twice() -> None:
    account = account_of("intraday", allow_short=True)
    desk = Desk([steady("SIMA"), steady("SIMB")], account)
    desk.order(SIMA=Choice(SELL, 1.0))
    books = desk.session.books()
    assert (books.positions["SIMA"], books.cash_paise) == (-300, 8_000_000)
    # 80,000 of cash less twice the 30,000 owed.
    assert desk.session.accounts["reserved_paise"].tolist() == [0, 6_000_000]
    assert desk.order(SIMB=Choice(BUY, 1.0))["SIMB"].quantity == 199


def test_a_symbol_without_a_bar_keeps_its_order_and_its_cash() -> None:
    """Bar 26 is missing: the order of bar 25 fills at bar 27, and nobody else spends its cash meanwhile."""
    desk = Desk([without(steady("SIMA"), 26, 27), steady("SIMB")], account_of())
    desk.order(SIMA=Choice(BUY, 1.0))
    assert list(desk.masks) == ["SIMB"]
    assert desk.fills == {}
    assert desk.order(SIMB=Choice(BUY, 1.0))["SIMB"].quantity == 199
    assert list(desk.fills) == ["SIMB"]
    desk.order()
    assert [fill.quantity for fill in desk.fills["SIMA"]] == [300]
    assert desk.session.books().cash_paise == 10_000


@pytest.mark.parametrize(("product", "position"), [("intraday", 0), ("delivery", 300)])
def test_an_intraday_order_never_waits_into_another_session(product: str, position: int) -> None:
    """The rest of the day is missing after the bar at which the order was given."""
    bars = without(steady("SIMA"), *range(36, 50))
    desk = Desk([bars, steady("SIMB")], account_of(product))
    for _ in range(10):
        desk.order()
    assert desk.order(SIMA=Choice(BUY, 1.0))["SIMA"].quantity == 300
    while "SIMA" not in desk.masks:
        desk.order()
    assert desk.session.books().positions["SIMA"] == position


def test_numbered_orders_and_stops_of_two_symbols_do_not_mix() -> None:
    """A broker's fills in parts: brokerage is due once per order, though both orders bear one number."""
    account = rules(allow_short=True)
    stocks = stocks_of([steady("SIMA"), steady("SIMB")])
    together = JointSession(stocks, "15m", small_spec(), account, CHARGED)
    time_ns = int(steady("SIMA").time_ns[30])
    parts = [Fill(time_ns, 100, 400_000, 7), Fill(time_ns, 50, 400_000, 7)]
    together.settle({"SIMB": parts, "SIMA": parts})
    assert together.accounts["charges_paise"][0] == together.accounts["charges_paise"][1]
    assert (together.accounts["cash_paise"] == 5_000_000 - 2 * int(together.accounts["charges_paise"][0])
            - 300 * 400_000).all()  # fmt: skip
    alone = JointSession(stocks[:1], "15m", small_spec(), account, CHARGED)
    alone.settle({"SIMA": parts})
    assert alone.accounts["charges_paise"][0] == together.accounts["charges_paise"][1]


def test_choices_that_cannot_be_are_refused_and_nothing_is_ordered() -> None:
    desk = Desk([steady("SIMA"), steady("SIMB")], account_of())
    hold = Choice(HOLD)
    refusals = [
        ({"SIMA": hold}, JointError, "a choice for each symbol"),
        ({"SIMA": hold, "SIMB": hold, "SIMX": hold}, JointError, "a choice for each symbol"),
        ({"SIMA": hold, "SIMB": Choice(HOLD, math.nan)}, JointError, "SIMB: expected a finite confidence"),
        ({"SIMA": hold, "SIMB": Choice(SELL, 0.5)}, IllegalAction, "SIMB: action 2 is not legal"),
        ({"SIMA": hold, "SIMB": Choice(7, 0.5)}, IllegalAction, "SIMB: action 7 is not legal"),
    ]
    for choices, kind, words in refusals:
        with pytest.raises(kind, match=words):
            desk.session.order(choices)
    assert not desk.session.accounts["order"].any()
    moment = Moment(0, {"SIMX": next(iter(steady("SIMX")))})
    for refuse in (
        lambda: desk.session.observe(moment),
        lambda: desk.exchange.fills(moment),
        lambda: desk.session.settle({"SIMX": []}),
        lambda: desk.exchange.submit({"SIMX": Order(0, 1)}),
    ):
        with pytest.raises(JointError, match="this account trades SIMA, SIMB, found SIMX"):
            refuse()


def test_symbols_that_cannot_share_an_account_are_refused() -> None:
    twice = stocks_of([steady("SIMA"), steady("SIMA")])
    with pytest.raises(JointError, match="each symbol of an account once"):
        JointSession(twice, "15m", small_spec(), account_of(), FREE)
    with pytest.raises(JointError, match="at least one"):
        JointExchange([], "15m", account_of(), FREE)
    with pytest.raises(JointError, match="at least one symbol"):
        backtest_joint("none", None, [], setting())  # type: ignore[arg-type]
    with pytest.raises(BarsError, match="each symbol of an account once"):
        build_joint_tape([(steady("SIMA"), twice[0])] * 2, small_spec(), FREE)


def test_ruin_of_the_account_ends_every_symbol(tmp_path: Path) -> None:
    terms = setting(balance=20_000, ruin_fraction=0.999)
    policy = make_bundle(tmp_path / "bundle", terms).policy
    markets = [market(f"SIM{letter}", sessions=8, seed=number) for number, letter in enumerate("ABC")]
    report = backtest_joint("random", policy, markets, terms)
    assert len({int(trace.time_ns[-1]) for trace in report.traces.values()}) == 1
    assert report.performance.final_equity_paise <= 1_998_000
    assert len(report.traces["SIMA"].time_ns) < len(split_history(markets[0], terms.state)[1])


_TERMS: dict[str, dict[str, Any]] = {
    "ranked by what was earned": {
        "product": "delivery",
        "actions": orders_of("fraction", fraction=0.3),
        "max_position": None,
        "ranking": {"confidence": 0.2, "performance": 0.8, "full_performance": 0.01},
    },
    "intraday short": {"allow_short": True, "actions": orders_of("fraction", fraction=0.4), "max_position": None},
    "delivery": {"product": "delivery", "actions": orders_of("all_in"), "max_position": None},
    "guarded": {
        "actions": orders_of("fraction", fraction=0.25),
        "max_position": None,
        "limits": {"preset": "small_account"},
        "exits": {"stop_loss": 0.01, "trailing_stop": 0.01, "time_exit_bars": 30},
    },
}


@pytest.mark.parametrize("name", _TERMS)
def test_the_joint_backtest_of_one_symbol_is_the_backtest(name: str, tmp_path: Path) -> None:
    terms = setting(**_TERMS[name])
    policy = make_bundle(tmp_path / "bundle", terms).policy
    bars = market(sessions=8)
    alone = backtest("random", policy, bars, terms)
    joint = backtest_joint("random", policy, [bars], terms)
    assert joint.traces["SIM"].digest() == alone.trace.digest()
    assert joint.performance == alone.performance
    assert joint.trades["SIM"] == alone.trades
    assert alone.performance.fills > 0


@pytest.mark.parametrize("name", _TERMS)
def test_backtest_environment_and_paper_are_one_account(name: str, tmp_path: Path) -> None:
    terms = setting(**_TERMS[name])
    bundle = make_bundle(tmp_path / "bundle", terms)
    markets = [market(f"SIM{letter}", sessions=6, seed=number) for number, letter in enumerate("DACB")]
    report = backtest_joint("random", bundle.policy, markets, terms)
    assert report.digest() == backtest_joint("random", bundle.policy, markets[::-1], terms).digest()
    driven = judge_joint("random", drive_joint(bundle.policy, markets, terms, None, None), terms)
    assert driven.digest() == report.digest()
    histories, trading = zip(*(split_history(bars, terms.state) for bars in markets), strict=True)
    run = trade_on_paper(bundle, terms, histories, trading, tmp_path / "journal.db")
    assert judge_joint("random", run.traces, terms).digest() == report.digest()
    assert report.performance.fills > 0
    assert sum(report.dropped.values()) > 0


def test_ten_real_symbols_on_one_account(shared_nse: Path, tmp_path: Path) -> None:
    """November 2023 with its Muhurat session: backtest, environment and paper loop give the same bits."""
    source = shared_nse / "intraday" / "nse_5min.parquet"
    terms = setting(actions=orders_of("fraction", fraction=0.3), max_position=None, balance=500_000)
    bundle = make_bundle(tmp_path / "bundle", terms)
    first, last = dt.date(2023, 11, 6), dt.date(2023, 11, 13)
    markets = [load_bars(source, symbol, "5m").between(dt.date(2023, 10, 25), last) for symbol in SHARED_SYMBOLS]
    report = backtest_joint("random", bundle.policy, markets, terms, first, last)
    driven = drive_joint(bundle.policy, markets, terms, first, last)
    assert judge_joint("random", driven, terms).digest() == report.digest()
    histories, trading = zip(*(split_history(bars, terms.state, first, last) for bars in markets), strict=True)
    run = trade_on_paper(bundle, terms, histories, trading, tmp_path / "journal.db")
    assert judge_joint("random", run.traces, terms).digest() == report.digest()
    assert len(report.traces) == 10
    assert report.performance.fills > 100
    assert sum(report.dropped.values()) > 0


def test_the_summary_is_json_and_adds_up(tmp_path: Path) -> None:
    terms = setting()
    policy = make_bundle(tmp_path / "bundle", terms).policy
    markets = [market(f"SIM{letter}", sessions=6, seed=number) for number, letter in enumerate("AB")]
    report = backtest_joint("random", policy, markets, terms)
    document = json.loads(json.dumps(report.summary(), allow_nan=False))
    assert list(document["symbols"]) == ["SIMA", "SIMB"]
    nets = [float(one["net_rupees"]) for one in document["symbols"].values()]
    assert sum(nets) == pytest.approx(float(document["final_equity"]) - 100_000)
    assert document["moments"] == len(np.unique(np.concatenate([one.time_ns for one in report.traces.values()])))
    half = {symbol: trace for symbol, trace in report.traces.items() if symbol == "SIMA"}
    with pytest.raises(MetricsError, match="the trace of every symbol"):
        judge_joint("random", half, terms)
    mixed = {**half, "SIMB": backtest("random", policy, markets[1], terms).trace}
    with pytest.raises(MetricsError, match="one equity of each moment"):
        judge_joint("random", mixed, terms)


def test_the_ranking_changes_who_is_served(tmp_path: Path) -> None:
    terms = setting(product="delivery", actions=orders_of("all_in"), max_position=None)
    other = replace(terms, account=terms.account.model_copy(update={"ranking": Ranking(confidence=0, performance=1)}))
    policy = make_bundle(tmp_path / "bundle", terms).policy
    markets = [market(f"SIM{letter}", sessions=6, seed=number) for number, letter in enumerate("AB")]
    assert backtest_joint("random", policy, markets, terms).digest() != (
        backtest_joint("random", policy, markets, other).digest()
    )


def test_rows_without_a_bar_may_only_hold_and_earn_nothing() -> None:
    tape = joint_tape([without(steady("SIMA"), 31), steady("SIMB")], small_spec(warmup=25), FREE)
    env = joint_env(tape, account_of())
    states, _ = env.reset(seed=0)
    for _ in range(6):
        earlier = states
        states, rewards, *_ = env.step(np.full(2, HOLD))
    assert env.core.deciding.tolist() == [False, True]
    assert env.action_masks().tolist() == [[False, True, False], [True, True, False]]
    assert rewards.tolist() == [0.0, 0.0]
    assert states[0].tobytes() == earlier[0].tobytes()
    with pytest.raises(IllegalAction, match="row 0: action 0 is not legal here"):
        env.step(np.array([BUY, HOLD]))


def test_the_face_of_sb3_ends_all_rows_of_an_account_together() -> None:
    tape = joint_tape(rough_markets(2))
    env = JointTradingVecEnv(tape, ACCOUNTS["delivery fraction"], 3, EpisodeRules(bars=9, random_start=True))
    env.seed(5)
    states = np.asarray(env.reset())
    assert states.shape == (12, small_spec().width + 5)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(40):
        scores = rng.random(env.action_masks().shape)
        scores[~env.action_masks()] = -1
        env.step_async(scores.argmax(axis=1))
        seen, rewards, dones, infos = env.step_wait()
        assert np.isfinite(np.asarray(seen)).all()
        assert np.isfinite(rewards).all()
        for index in np.flatnonzero(dones).tolist():
            assert dones[index // 4 * 4 : index // 4 * 4 + 4].all()
            assert infos[index]["episode"]["l"] == 9
            assert infos[index]["account"]["cash_paise"] == infos[index // 4 * 4]["account"]["cash_paise"]
            ends += 1
    assert ends == 4 * 12
    assert env.env_method("action_masks", indices=[3]).shape == (1, 3)


def test_a_seed_fixes_every_episode_and_each_account_has_its_own() -> None:
    tape = joint_tape(rough_markets(4))

    def starts(seed: int) -> list[list[int]]:
        env = joint_env(tape, ACCOUNTS["intraday shares"], accounts=3, bars=5, random_start=True)
        env.reset(seed=seed)
        found = [env.core.envs["first_bar"].tolist()]
        for _ in range(15):
            env.step(np.full(env.num_envs, HOLD))
            found.append(env.core.envs["first_bar"].tolist())
        return found

    assert starts(1) == starts(1)
    assert starts(1) != starts(2)
    assert any(len(set(row)) > 1 for row in starts(1))


def test_a_core_refuses_what_it_cannot_play() -> None:
    tape = joint_tape([steady("SIMA"), steady("SIMB")], small_spec(warmup=25), FREE)
    with pytest.raises(ValueError, match="an episode of 1000 bars does not fit the span, which has 99 steps"):
        JointCore(tape, account_of(), EpisodeRules(bars=1000), 1, autoreset=True)
    with pytest.raises(ValueError, match="at least one account, found 0"):
        JointCore(tape, account_of(), EpisodeRules(), 0, autoreset=True)
    core = JointCore(tape, account_of(), EpisodeRules(), 2, autoreset=True)
    core.seed(0)
    core.reset()
    with pytest.raises(ValueError, match="one action for each of 4 rows"):
        core.step(np.full(2, HOLD))
    core.confidences[1] = math.nan
    with pytest.raises(ValueError, match="finite confidences"):
        core.step(np.full(4, HOLD))


def test_the_charges_of_a_curriculum_reach_the_masks() -> None:
    """With 100 rupees left of 50,000, one share of 100 rupees is payable without charges alone."""
    account = account_of(actions=orders_of("shares", shares=1))
    tape = joint_tape([steady("SIMA", 49_999.98), steady("SIMB", 49_999.98)], small_spec(warmup=25), CHARGED)
    core = JointCore(tape, account, EpisodeRules(random_start=False), 1, autoreset=True)
    core.seed(0)
    core.reset()
    assert core.masks[:, BUY].tolist() == [False, False]
    core.charge(0.0)
    assert core.masks[:, BUY].tolist() == [True, True]
    core.charge(1.0)
    assert core.masks[:, BUY].tolist() == [False, False]


def test_a_deep_copy_of_a_tape_is_the_tape() -> None:
    """Nothing writes to it, and `gym.make` copies its arguments."""
    tape = joint_tape([steady("SIMA")], spec_of("session_left", warmup=25), FREE)
    assert copy.deepcopy(tape) is tape


def test_walks_with_another_seed_differ() -> None:
    """The choices of the laws depend on their seed, or the laws would try one walk alone."""
    markets = rough_markets(6)
    first, second = (walk_joint(markets, ACCOUNTS["delivery fraction"], random_choices(seed)) for seed in (1, 2))
    assert any(mine.orders != its.orders for mine, its in zip(first, second, strict=True))
