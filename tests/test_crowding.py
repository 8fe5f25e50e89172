"""What is too much alike is not bought: positions per sector, and returns that run together."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from bundles import make_bundle, market, setting
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_markets import SYMBOLS, Step, joint_tape, random_choices, rough_markets, stocks_of, walk_joint
from markets import CHARGED, orders_of, rough_bars, rules, small_spec
from pydantic import ValidationError
from typer.testing import CliRunner

from finsense.account.claims import CLAIM
from finsense.account.crowding import SectorError, correlation, crowded, follow_closes, new_pasts, sector_codes
from finsense.account.joint import JointSession
from finsense.account.limits import Limits, loosened
from finsense.account.portfolio import ACCOUNT
from finsense.account.reasons import FREE
from finsense.account.rules import AccountRules
from finsense.cli.environments import drive_joint
from finsense.cli.main import app
from finsense.config.live import tightest
from finsense.envs.core import EpisodeRules
from finsense.envs.joint_core import JointCore
from finsense.evaluation.joint import backtest_joint, judge_joint
from finsense.live.paper_session import trade_on_paper
from finsense.market.bars import Bars
from finsense.market.timeline import MARKET
from finsense.state.span import split_history

SEEDS = st.integers(0, 2**20)
SECTORS = {"SIMA": "IT", "SIMB": "BANKS", "SIMC": "IT", "SIMD": "IT"}
BUY = 0


def limited(product: str = "delivery", allow_short: bool = False, **limits: object) -> AccountRules:
    """An account whose orders are small enough for all symbols, so that nothing but the limits competes."""
    size = orders_of("fraction", fraction=0.1)
    return rules(product, actions=size, allow_short=allow_short, participation=None, limits=limits)


def opened(steps: Sequence[Step]) -> list[tuple[Step, Step, str]]:
    """Every order that opens a position where there was none: its moment, the next one, its symbol."""
    symbols = sorted({symbol for step in steps for symbol in step.moment.bars})
    return [
        (before, after, symbol)
        for before, after in pairwise(steps)
        for symbol in before.orders
        if before.accounts["position"][symbols.index(symbol)] == 0
    ]


@settings(max_examples=8, deadline=None)
@given(seed=SEEDS, most=st.integers(1, 3))
def test_no_sector_holds_more_positions_than_its_limit(seed: int, most: int) -> None:
    account = limited(max_per_sector=most, sectors=SECTORS)
    reached = 0
    steps = walk_joint(rough_markets(seed), account, random_choices(seed, hold=0.1))
    for step in steps:
        held = [SECTORS[symbol] for symbol, shares in zip(SYMBOLS, step.accounts["position"], strict=True) if shares]
        assert held.count("IT") <= most
        reached += held.count("IT") == most
    assert most > 1 or reached > 0


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS, most=st.integers(1, 2))
def test_a_full_sector_is_masked_where_nothing_is_held(seed: int, most: int) -> None:
    steps = walk_joint(rough_markets(seed), limited(max_per_sector=most, sectors=SECTORS), random_choices(seed))
    masked = 0
    for step in steps:
        held = {symbol for symbol, shares in zip(SYMBOLS, step.accounts["position"], strict=True) if shares}
        full = {name for name in ("IT", "BANKS") if [SECTORS[one] for one in held].count(name) >= most}
        for symbol in step.moment.bars:
            if symbol not in held and SECTORS[symbol] in full and step.deciding[SYMBOLS.index(symbol)]:
                assert not step.masks[SYMBOLS.index(symbol), BUY]
                masked += 1
    assert masked > 0


def returns_told(steps: Sequence[Step], symbols: Sequence[str]) -> np.ndarray:
    """(n, S) float64, the change of each log close at each moment; nan before the second bar of a symbol."""
    last: dict[str, float] = {}
    rows = np.full((len(steps), len(symbols)), np.nan)
    for number, step in enumerate(steps):
        for place, symbol in enumerate(symbols):
            before = last.get(symbol)
            if symbol in step.moment.bars:
                last[symbol] = float(np.log(np.floor(step.moment.bars[symbol].close * 100 + 0.5)))
            if before is not None:
                rows[number, place] = last[symbol] - before
    return rows


@pytest.mark.parametrize("allow_short", [False, True])
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, most=st.floats(0.02, 0.3))
def test_no_position_is_opened_in_what_runs_with_another(allow_short: bool, seed: int, most: float) -> None:
    """Told again by numpy; independent markets correlate a little by chance alone."""
    account = limited("intraday" if allow_short else "delivery", allow_short, max_correlation=most, correlation_bars=12)
    markets = rough_markets(seed)
    steps = walk_joint(markets, account, random_choices(seed, hold=0.1))
    symbols = sorted(bars.symbol for bars in markets)
    changes, numbers = returns_told(steps, symbols), {id(step): number for number, step in enumerate(steps)}
    for before, _, symbol in opened(steps):
        number, mine = numbers[id(before)], symbols.index(symbol)
        seen = changes[max(number - 11, 0) : number + 1]
        for other, shares in enumerate(before.accounts["position"].tolist()):
            if shares == 0 or other == mine or len(seen) < 12 or np.isnan(seen[:, [mine, other]]).any():
                continue
            if seen[:, mine].std() < 1e-12 or seen[:, other].std() < 1e-12:
                continue
            found = np.corrcoef(seen[:, mine], seen[:, other])[0, 1]
            assert (abs(found) if allow_short else found) <= most + 1e-4


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, moments=st.integers(12, 400), scale=st.floats(1e-4, 0.3))
def test_the_correlation_is_pearsons_however_long_it_runs(seed: int, moments: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    pasts, markets = new_pasts(1, 3, Limits(max_correlation=0.5, correlation_bars=10))[0], np.zeros(3, MARKET)
    steps = rng.normal(size=(moments, 1)) + rng.normal(size=(moments, 3)) * [0.1, 1.0, 3.0]
    closes = np.maximum(np.exp(np.log(1e7) + scale * np.cumsum(steps / 10, axis=0)), 1).astype(np.int64)
    for row in closes:
        markets["close_paise"] = row
        follow_closes(pasts, markets, np.arange(3), np.ones(3, np.bool_))
    expected = np.corrcoef(np.diff(np.log(closes[-11:]), axis=0).T)
    for one in range(3):
        for other in range(3):
            assert correlation(pasts, one, other) == pytest.approx(expected[one, other], abs=1e-3)


def twins(seed: int) -> list[Bars]:
    """Two symbols that are one, and a third."""
    bars = rough_bars(seed)
    return [replace(bars, symbol="SIMA"), replace(bars, symbol="SIMB"), rough_bars(seed + 1, symbol="SIMC")]


@settings(max_examples=6, deadline=None)
@given(seed=SEEDS)
def test_of_twins_one_is_held_once_their_returns_are_known(seed: int) -> None:
    account = limited(max_correlation=0.9, correlation_bars=20)
    steps = walk_joint(twins(seed), account, random_choices(seed, hold=0.1))
    for before, _, symbol in opened(steps[20:]):
        twin = {"SIMA": "SIMB", "SIMB": "SIMA"}.get(symbol)
        if twin is not None:
            assert before.accounts["position"][SYMBOLS.index(twin)] == 0
            assert twin not in before.orders


@pytest.mark.parametrize("product", ["delivery", "intraday"])
def test_backtest_environment_and_paper_hold_the_same(product: str, tmp_path: Path) -> None:
    limits = {"max_per_sector": 1, "sectors": {"SIMA": "IT", "SIMB": "IT", "SIMC": "BANKS", "SIMD": "CARS"}}
    limits |= {"max_correlation": 0.1, "correlation_bars": 30}
    actions = orders_of("fraction", fraction=0.2)
    terms = setting(product=product, actions=actions, max_position=None, limits=limits)
    bundle = make_bundle(tmp_path / "bundle", terms)
    markets = [market(f"SIM{letter}", sessions=6, seed=number) for number, letter in enumerate("DACB")]
    report = backtest_joint("random", bundle.policy, markets, terms)
    driven = judge_joint("random", drive_joint(bundle.policy, markets, terms, None, None), terms)
    histories, trading = zip(*(split_history(bars, terms.state) for bars in markets), strict=True)
    run = trade_on_paper(bundle, terms, histories, trading, tmp_path / "journal.db")
    assert driven.digest() == report.digest() == judge_joint("random", run.traces, terms).digest()
    assert {"positions of one sector", "correlation with a position"} <= report.dropped.keys()
    assert run.dropped == report.dropped


def test_a_symbol_without_a_sector_is_refused_before_anything_is_ordered(tmp_path: Path) -> None:
    account = limited(max_per_sector=1, sectors={"SIMA": "IT", "SIMX": "IT"})
    markets = rough_markets(0)
    with pytest.raises(SectorError, match=r"3 have none: SIMB, SIMC, SIMD\. Name them under limits\.sectors"):
        JointSession(stocks_of(markets), "15m", small_spec(), account, CHARGED)
    with pytest.raises(SectorError, match="3 have none"):
        JointCore(joint_tape(markets), account, EpisodeRules(), 1, autoreset=True)
    terms = setting(limits={"max_per_sector": 1, "sectors": {"SIMX": "IT"}})
    make_bundle(tmp_path / "bundle", terms)
    bars = _write([market("SIMA"), market("SIMB", seed=6)], tmp_path / "bars.csv")
    words = ["backtest", str(tmp_path / "bundle"), "--data", str(bars), "--symbol"]
    answer = CliRunner().invoke(app, [*words, "SIMA,SIMB"])
    assert answer.exit_code == 3
    assert "error[limits]: limits.max_per_sector needs the sector of each symbol; 2 have none" in answer.stderr
    assert CliRunner().invoke(app, [*words, "SIMA"]).exit_code == 0, "one symbol alone has nothing beside it"


def _write(markets: list[Bars], path: Path) -> Path:
    lines = ["ts,symbol,open,high,low,close,volume"]
    for bars in markets:
        for bar in bars:
            prices = f"{bar.open},{bar.high},{bar.low},{bar.close}"
            lines.append(f"{np.datetime64(bar.time_ns, 'ns')}Z,{bars.symbol},{prices},{bar.volume}")
    path.write_text("\n".join(lines) + "\n")
    return path


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, most=st.integers(1, 3), correlation=st.floats(0.05, 0.45), short=st.booleans())
def test_a_looser_limit_never_blocks_more(seed: int, most: int, correlation: float, short: bool) -> None:
    """Any books, any past; what only reduces a position or adds to one is never blocked."""
    rng = np.random.default_rng(seed)
    accounts, claims = np.zeros(4, ACCOUNT), np.zeros(5, CLAIM)
    accounts["position"] = rng.integers(0, 2, 4) * rng.integers(1, 9, 4)
    claims["open"][:4] = (accounts["position"] != 0) | (rng.random(4) < 0.3)
    changes = {"sectors": SECTORS, "correlation_bars": 10}
    product = "intraday" if short else "delivery"
    tight = limited(product, short, max_per_sector=most, max_correlation=correlation, **changes)
    loose = limited(product, short, max_per_sector=2 * most, max_correlation=2 * correlation, **changes)
    near = sector_codes(SYMBOLS, tight.limits), new_pasts(1, 4, tight.limits)[0]
    markets = np.zeros(4, MARKET)
    for _ in range(int(rng.integers(9, 30))):
        markets["close_paise"] = rng.integers(9_000, 11_000, 4)
        follow_closes(near[1], markets, np.arange(4), rng.random(4) < 0.9)
    codes = [
        [crowded(accounts, claims, near, account.record("15m")[0], place) for place in range(4)]
        for account in (tight, loose)
    ]
    for position, strict, lax in zip(accounts["position"], *codes, strict=True):
        assert lax == FREE or strict != FREE
        assert position == 0 or strict == FREE


def test_limits_that_cannot_be() -> None:
    for words, limits in (
        ("name them under sectors", {"max_per_sector": 2}),
        ("a sector is part of the account", {"max_per_sector": 5, "max_positions": 4, "sectors": SECTORS}),
        ("max_correlation", {"max_correlation": 1.0}),
        ("correlation_bars", {"max_correlation": 0.5, "correlation_bars": 9}),
        ("sectors", {"max_per_sector": 1, "sectors": {"SIMA": ""}}),
    ):
        with pytest.raises(ValidationError, match=words):
            Limits(**limits)


def test_a_live_setup_tightens_them_and_keeps_the_sectors_of_the_training() -> None:
    trained = Limits(max_per_sector=3, sectors={"INFY": "IT"}, max_correlation=0.8, correlation_bars=90)
    found = tightest(trained, Limits(max_per_sector=1, sectors={"INFY": "CARS", "TCS": "IT"}, max_correlation=0.9))
    assert (found.max_per_sector, found.max_correlation, found.correlation_bars) == (1, 0.8, 90)
    assert found.sectors == {"INFY": "IT", "TCS": "IT"}
    assert loosened(trained) == []
